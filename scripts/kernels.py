#!/usr/bin/env python3
"""Runs tests on kernels of Debian's, each in a machine that qemu emulates: what `make kernels` does.

    scripts/kernels.py 6.1 6.12                     # the tests of TESTS on each
    scripts/kernels.py 6.1 -- tests/nftables -k churn

A kernel comes with the Debian that has it: its nft, its iptables, its Python. That Debian, made once by debootstrap, is
the guest's whole file system, held in memory, and a second archive adds this checkout; so a guest has no disk, changes
nothing, and needs no other module to boot. What it prints is printed; the exit status is 1 when a guest's tests fail
and 2 when a guest cannot be run. Needs root, the network for the first run, qemu, debootstrap and cpio. Never run in
CI: a guest takes about half an hour where only emulation is to be had.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from debian_root import copy_path, install, make_root, run_in

REPOSITORY = Path(__file__).resolve().parents[1]
BUILD = REPOSITORY / "build" / "kernels"

# Kernel -> the release of Debian that has it.
RELEASES = {"6.1": "bookworm", "6.12": "trixie", "newest": "sid"}

# What depends on the kernel most, a part of it. On two processors, so that packets and changes meet.
TESTS = (
    *("tests/nftables/test_churn.py", "tests/nftables/test_hooks.py", "tests/nftables/test_coming_and_going.py"),
    *("tests/nftables/test_upgrade.py", "tests/nftables/test_connections.py", "tests/nftables/test_repair.py"),
    *("tests/nftables/test_acceleration.py", "tests/kube_proxy/test_ipvs.py"),
    *("tests/test_golden_kernel.py", "tests/conntrack", "tests/flows", "tests/trace", "tests/top"),
    *("tests/iptables/test_kernel.py", "tests/iptables/test_switch.py", "tests/iptables/test_flows.py"),
    *("-m", "kernel", "--one-in", "24", "--numprocesses", "2"),
)
# An emulated processor is this much slower, times what tests wait anyway.
PATIENCE = "60"

PROCESSORS = 2
MEMORY = "3G"
LONGEST_SECONDS = 3600.0

_PACKAGES = (
    *("ca-certificates", "iproute2", "ipset", "iptables", "ipvsadm", "kmod", "nftables", "procps"),
    *("python3", "python3-nftables", "python3-venv"),
)
# What tests in a guest never import, or what would have to be compiled for it.
_NOT_IN_A_GUEST = ("hatchling", "import-linter", "mypy", "python-iptables", "ruff", "types-")
# Of the kernel's modules: protocols, filters, and what they are made of.
_MODULES = ("net", "lib", "crypto", "arch", "drivers/net/*.ko*", "drivers/net/bonding", "fs/fuse")
_USELESS = ("var/cache", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "usr/share/man", "root/.cache")


class Guest(NamedTuple):
    """A kernel, and the file system that it starts with, as archives."""

    kernel: Path
    root: Path


def main() -> None:
    """Runs the tests on each kernel that the command line names."""
    # As an interrupt from the keyboard does: no guest goes on without us.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(usage="%(prog)s KERNEL... [-- arguments of pytest]")
    parser.add_argument("kernels", nargs="+", choices=[*RELEASES], metavar="KERNEL", help=", ".join(RELEASES))
    kernels = parser.parse_args(words[:split]).kernels
    tests = words[split + 1 :] or TESTS
    if any(not _run(kernel, make_guest(RELEASES[kernel]), tests) for kernel in kernels):
        sys.exit(1)


def _run(kernel: str, guest: Guest, tests: Sequence[str]) -> bool:
    started = time.monotonic()
    status = run_guest(guest, ["/venv/bin/python", "-m", "pytest", "--patience", PATIENCE, *tests])
    _say(f"kernel {kernel}: exit status {status} after {time.monotonic() - started:.0f} s")
    return status == 0


# ---- what a guest is made of ----


def make_guest(release: str) -> Guest:
    """The release's kernel and file system; made when it is not there, or what belongs in it has changed."""
    versions = (REPOSITORY / "constraints.txt").read_text()
    made_of = "\n".join([*_PACKAGES, *_MODULES, *_USELESS, *python_packages(), versions])
    digest = hashlib.sha256(made_of.encode()).hexdigest()[:12]
    guest = Guest(BUILD / f"{release}-{digest}.vmlinuz", BUILD / f"{release}-{digest}.cpio")
    if not guest.root.exists():
        for old in BUILD.glob(f"{release}-*"):
            old.unlink()
        BUILD.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILD) as folder:
            _make(guest, Path(folder), release)
    return guest


def _make(guest: Guest, folder: Path, release: str) -> None:
    root = folder / "root"
    _say(f"making a {release}")
    make_root(root, release)
    install(root, _PACKAGES)
    _add_environment(root)
    shutil.copyfile(_add_kernel(root, folder), guest.kernel)
    for name in _USELESS:
        shutil.rmtree(root / name, ignore_errors=True)
    half_made = guest.root.with_suffix(".new")
    _archive(root, half_made)
    half_made.rename(guest.root)


def _add_environment(root: Path) -> None:
    """The virtual environment /venv, in which rulegen is what will stand in /rulegen."""
    for name in ("pyproject.toml", "hatch_build.py", "constraints.txt", "README.md", "LICENSE", "rulegen", "templates"):
        copy_path(REPOSITORY / name, root / "rulegen" / name)
    pip = ("/venv/bin/python", "-m", "pip", "install", "--quiet", "--constraint", "/rulegen/constraints.txt")
    run_in(root, "python3", "-m", "venv", "--system-site-packages", "/venv")
    run_in(root, *pip, *python_packages())
    run_in(root, *pip, "--no-deps", "--editable", "/rulegen")
    shutil.rmtree(root / "rulegen")


def python_packages() -> list[str]:
    """What the project depends on, as far as a guest needs it."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    return [package for package in wanted if not package.startswith(_NOT_IN_A_GUEST)]


def _add_kernel(root: Path, folder: Path) -> Path:
    """The release's kernel, whose modules go into the root; where it is."""
    run_in(root, "sh", "-c", f"cd /tmp && apt-get download -q {shlex.join(_kernel_packages(root))}")
    unpacked = folder / "kernel"
    for downloaded in (root / "tmp").glob("linux-*.deb"):
        subprocess.run(["dpkg-deb", "--extract", downloaded, unpacked], check=True)
        downloaded.unlink()
    modules = next(path for path in unpacked.glob("**/modules/*") if (path / "kernel").is_dir())
    target = root / "usr/lib/modules" / modules.name
    for source in (*modules.glob("modules.*"), *(one for name in _MODULES for one in (modules / "kernel").glob(name))):
        copy_path(source, target / source.relative_to(modules))
    subprocess.run(["depmod", "--basedir", root, modules.name], check=True)
    return next(path for path in unpacked.glob("**/vmlinuz*") if path.is_file())


def _kernel_packages(root: Path) -> list[str]:
    """What the release's kernel comes in: one package, or, since Debian 14, one that needs others with its parts."""
    image = next(name for name in _words_about(root, "linux-image-amd64") if re.match(r"linux-image-\d", name))
    version = image.removeprefix("linux-image-")
    parts = {f"linux-{part}-{version}" for part in ("base", "binary", "modules")}
    return [image, *sorted(parts.intersection(_words_about(root, image)))]


def _words_about(root: Path, package: str) -> list[str]:
    return re.split(r"[\s,]+", run_in(root, "apt-cache", "show", "--no-all-versions", package))


def _archive(folder: Path, archive: Path) -> None:
    """A folder as the kernel unpacks it."""
    found = subprocess.run(["find", ".", "-print0"], cwd=folder, check=True, stdout=subprocess.PIPE)
    command = ["cpio", "--create", "--null", "--quiet", "--format=newc", "--owner=+0:+0"]
    with archive.open("wb") as output:
        subprocess.run(command, cwd=folder, input=found.stdout, stdout=output, check=True)


# ---- a guest at work ----


def run_guest(guest: Guest, command: Sequence[str]) -> int:
    """Runs a command in /rulegen of a guest, and prints what it prints. Returns its exit status, 2 without one."""
    with tempfile.TemporaryDirectory(dir=BUILD) as name:
        folder = Path(name)
        _add_checkout(folder / "more", command)
        _archive(folder / "more", folder / "more.cpio")
        initramfs = folder / "initramfs"
        with initramfs.open("wb") as output:
            subprocess.run(["cat", guest.root, folder / "more.cpio"], stdout=output, check=True)
        status = folder / "status"
        machine = subprocess.Popen(_machine(guest.kernel, initramfs, status), stdin=subprocess.DEVNULL)
        # A guest that hangs is ended.
        bound = threading.Timer(LONGEST_SECONDS, machine.kill)
        bound.start()
        try:
            machine.wait()
        finally:
            bound.cancel()
            machine.kill()
            machine.wait()
        said = status.read_text().strip() if status.exists() else ""
    return int(said) if said.isdecimal() else 2


def _add_checkout(folder: Path, command: Sequence[str]) -> None:
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE).stdout
    for name in filter(None, os.fsdecode(names).split("\0")):
        if (REPOSITORY / name).exists():
            copy_path(REPOSITORY / name, folder / "rulegen" / name)
    (folder / "guest").mkdir()
    (folder / "guest" / "run").write_text(f"exec {shlex.join(command)}\n")
    init = folder / "init"
    shutil.copyfile(REPOSITORY / "scripts" / "guest-init", init)
    init.chmod(0o755)


def _machine(kernel: Path, initramfs: Path, status: Path) -> list[str | Path]:
    return [
        # Emulated even where there is /dev/kvm: it need not work inside another machine.
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max"),
        *("-smp", str(PROCESSORS), "-m", MEMORY, "-display", "none", "-nodefaults", "-no-reboot"),
        *("-kernel", kernel, "-initrd", initramfs),
        *("-append", "console=ttyS0 loglevel=4 panic=-1 rdinit=/init"),
        *("-serial", "stdio", "-serial", f"file:{status}"),
    ]


def _say(text: str) -> None:
    print(f"kernels: {text}", flush=True)  # noqa: T201 - what a person watches


if __name__ == "__main__":
    main()
