"""A folder with a Debian in it, for scripts that need another one than this machine's: debootstrap and the network.

In comes the name of a release, out comes a folder to `chroot` into, with this host's way to the network: name servers,
authorities, settings of apt and pip. Needs root.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

_ARCHIVE = "http://deb.debian.org"
# It has no updates and no security suites: all goes straight in.
_UNSTABLE = "sid"
# The package ca-certificates looks for the host's own authorities in the first of these.
_NETWORK = ("usr/local/share/ca-certificates", "etc/resolv.conf", "etc/pip.conf", "etc/xdg/pip", "root/.config/pip")


def make_root(folder: Path, release: str) -> None:
    """The least that is a Debian, by the name of its release. Raises CalledProcessError."""
    subprocess.run(["debootstrap", "--variant=minbase", release, folder, f"{_ARCHIVE}/debian"], check=True)
    suites = [f"debian {release}"]
    if release != _UNSTABLE:
        suites += [f"debian {release}-updates", f"debian-security {release}-security"]
    (folder / "etc/apt/sources.list").write_text("".join(f"deb {_ARCHIVE}/{suite} main\n" for suite in suites))
    settings = [path for path in Path("/etc/apt/apt.conf.d").iterdir() if "Acquire::" in path.read_text()]
    for source in (*(Path("/", name) for name in _NETWORK), *settings):
        if source.exists():
            copy_path(source, folder / source.relative_to("/"))


def run_in(folder: Path, *command: str | Path) -> str:
    """Runs a command there, and returns what it prints. Raises CalledProcessError."""
    words = ["chroot", folder, "env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8", *command]
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout


def install(folder: Path, packages: Sequence[str]) -> None:
    """Installs packages there, and leaves nothing that only apt needs. Raises CalledProcessError."""
    run_in(folder, "apt-get", "update", "-q")
    run_in(folder, "apt-get", "install", "-q", "-y", "--no-install-recommends", *packages)


def copy_path(source: Path, target: Path) -> None:
    """Makes the target's folder first; a folder's content is copied into what is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)
