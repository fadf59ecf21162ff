"""A whole Debian for tests of packages: a folder of its own, systemd as its first process, a network without a way out.

The folder is a copy of what debootstrap makes once for each release, below build/roots. Nothing of this host is in it
but its way to the archives of Debian, and nothing of it stays.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from debian_root import install, make_root

from rulegen.demo.namespaces import NetworkNamespace
from tests.patience import patience

REPOSITORY = Path(__file__).parents[2]
ROOTS = REPOSITORY / "build" / "roots"
_BOOT = Path(__file__).parent / "boot"
# What a Debian has that somebody installed; the package under test must name all else that it needs.
_SYSTEM = ("bash", "ca-certificates", "dbus", "iproute2", "systemd", "systemd-sysv")
_POD = "10.128.0.5"
_PORT = 8080


def fresh_root(release: str, folder: Path) -> None:
    """A Debian in `folder`, which is not there yet."""
    made = ROOTS / f"test-{release}"
    if not (made / "complete").exists():
        shutil.rmtree(made, ignore_errors=True)
        make_root(made, release)
        install(made, _SYSTEM)
        (made / "complete").touch()
    subprocess.run(["cp", "--archive", "--reflink=auto", str(made), str(folder)], check=True)


class System:
    """A Debian that runs. Its first process is `process`; commands run beside it."""

    def __init__(self, root: Path, namespace: NetworkNamespace, process: int) -> None:
        self.root = root
        self.namespace = namespace
        self._process = process

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command of root's there."""
        words = ["nsenter", "--target", str(self._process), "--all", "env", "-i", *_ENVIRONMENT, *command]
        done = subprocess.run(words, capture_output=True, text=True, timeout=patience(60), check=False)
        assert not (check and done.returncode), f"{command}: {done.stdout}{done.stderr}"
        return done

    def out(self, *command: str) -> str:
        """What it prints."""
        return self.run(*command).stdout

    def wait_for_line(self, unit: str, text: str) -> None:
        """In the journal of a unit."""
        end = time.monotonic() + patience(20)
        while text not in (journal := self.out("journalctl", "--no-pager", "--unit", unit)):
            assert time.monotonic() < end, journal
            time.sleep(0.1)


_ENVIRONMENT = ("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root", "DEBIAN_FRONTEND=noninteractive")


@contextmanager
def booted(root: Path) -> Iterator[System]:
    """A System that ends with the block."""
    log = root.with_suffix(".log")
    with NetworkNamespace() as namespace:
        with namespace.entered(), log.open("wb") as output:
            boot = subprocess.Popen(["sh", str(_BOOT), str(root)], stdout=output, stderr=output)
        group = _group_of(boot)
        try:
            yield System(root, namespace, _first_process(boot, log))
        finally:
            boot.kill()
            boot.wait()
            if group is not None:
                _remove_groups(group)


def _first_process(boot: subprocess.Popen[bytes], log: Path) -> int:
    """The number of systemd, here, as soon as it answers."""
    end = time.monotonic() + patience(30)
    while time.monotonic() < end and boot.poll() is None:
        children = Path(f"/proc/{boot.pid}/task/{boot.pid}/children").read_text().split()
        words = ["nsenter", "--target", *children, "--all", "systemctl", "is-system-running"]
        if len(children) == 1:
            done = subprocess.run(words, capture_output=True, text=True, timeout=patience(20), check=False)
            if done.stdout.strip() in {"running", "degraded"}:
                return int(children[0])
        time.sleep(0.2)
    boot.kill()
    raise AssertionError(log.read_text(errors="replace"))


def _group_of(boot: subprocess.Popen[bytes]) -> Path | None:
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    unified = next((Path(words[1]) for words in mounts if words[2] == "cgroup2"), None)
    return unified / f"rulegen-tests-{boot.pid}" if unified else None


def _remove_groups(group: Path) -> None:
    end = time.monotonic() + patience(10)
    while group.exists() and time.monotonic() < end:
        for path in sorted((path for path in [group, *group.rglob("*")] if path.is_dir()), reverse=True):
            try:
                path.rmdir()
            except OSError:  # a process is about to end
                time.sleep(0.05)


class Client:
    """Somebody who opens a connection after the other to an address, from the node; `failures` of `tried`."""

    def __init__(self, namespace: NetworkNamespace, url: str) -> None:
        self.tried = 0
        self.failures: list[str] = []
        self._namespace = namespace
        self._url = url
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with self._namespace.entered():
            while not self._ended.wait(0.02):
                self.tried += 1
                try:
                    assert ask(self._url) == "pod"
                except (OSError, AssertionError) as error:
                    self.failures.append(f"{time.time():.2f}: {error}")

    def __enter__(self) -> Client:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def ask(url: str) -> str:
    """What is answered. Raises OSError."""
    try:
        with urlopen(url, timeout=2) as answer:  # noqa: S310 - an address of the test's own
            return str(answer.read().decode())
    except URLError as error:
        raise OSError(str(error.reason)) from error


@contextmanager
def pod(node: NetworkNamespace) -> Iterator[str]:
    """A pod with a server behind a node's interface, 10.128.0.5:8080; its address."""
    with NetworkNamespace() as inside:
        with node.entered():
            _ip("link", "add", "pod0", "type", "veth", "peer", "name", "eth0")
            _ip("link", "set", "eth0", "netns", f"/proc/self/fd/{inside.fd}", descriptors=[inside.fd])
            _ip("address", "add", "10.128.0.1/24", "dev", "pod0")
            _ip("link", "set", "pod0", "up")
            _ip("route", "add", "default", "dev", "pod0", "src", "10.128.0.1")
        with inside.entered():
            _ip("address", "add", f"{_POD}/24", "dev", "eth0")
            _ip("link", "set", "eth0", "up")
            server = ThreadingHTTPServer((_POD, _PORT), _Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield _POD
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"pod")

    def log_message(self, *_: object) -> None:
        pass


def _ip(*words: str, descriptors: Sequence[int] = ()) -> None:
    subprocess.run(["ip", *words], check=True, pass_fds=descriptors)
