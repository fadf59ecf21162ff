"""Whether kube-proxy runs in this network namespace: processes as /proc shows them, and answers at its ports.

Neither can say for certain that it does not run. In a container the processes of others do not show, and a port is
free for a while when kube-proxy starts anew. So a `Presence` also says what could not be seen.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePath
from typing import NamedTuple

from rulegen.errors import printable

_PROC = Path("/proc")
_NAME = "kube-proxy"
# Distributions that run kube-proxy's code in a process of another name, or do not: it cannot be told from outside. So
# it is with names that only begin as its own does.
_MAY_HOLD_ONE = frozenset({"k3s", "k3s-server", "k3s-agent", "kubelite", "hyperkube"})
_INTERPRETERS = ("python", "sh", "bash", "dash", "busybox")
# PROC_PID_INIT_INO of linux/proc_ns.h: the namespace in which every process of the machine has a number.
_FIRST_PID_NAMESPACE = 0xEFFFFFFC

_STATUS_PORT, _HEALTH_PORT = 10249, 10256
_HOSTS = (("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"))
_ANSWER_SECONDS = 1.0
_MODES = ("iptables", "ipvs", "nftables")
_HEALTH_WORDS = ('"lastUpdated"', '"currentTime"')
_LONGEST_ANSWER = 8192
_LISTENING = "0A"
_LONGEST_ARGUMENTS = 4096
_OWN_HEADER = "Server: rulegen"


class Presence(NamedTuple):
    """What is seen of kube-proxy, as words; "" for nothing.

    `running`: where it runs. `unseen`: why it might run though it is not seen.
    """

    running: str
    unseen: str


class _Process(NamedTuple):
    number: str
    name: str
    arguments: tuple[str, ...]

    @property
    def is_kube_proxy(self) -> bool:
        """By its name, which is the file's that was executed; or by the file that an interpreter was given."""
        words = [PurePath(word).name for word in self.arguments[:2]]
        if self.name == _NAME or words[:1] == [_NAME]:
            return True
        return words[1:] == [_NAME] and words[0].startswith(_INTERPRETERS)


def look() -> Presence:
    """What can be seen in the network namespace of the calling thread."""
    try:
        running, unseen = _processes()
    except OSError as error:
        running, unseen = "", f"processes of this host cannot be seen: {error.strerror}"
    if running:
        return Presence(running, "")
    if answering := _answering():
        return Presence(answering, "")
    return Presence("", unseen or _stranger())


def _processes() -> tuple[str, str]:
    """Where kube-proxy runs here, and why it might run all the same."""
    unseen = "" if _sees_all() else "from here the processes of others cannot be seen"
    here = _namespace(Path("/proc/thread-self"))
    for process in _list():
        is_one = process.is_kube_proxy
        if not (is_one or process.name in _MAY_HOLD_ONE or process.name.startswith(_NAME)):
            continue
        shown = f"process {process.number}"
        try:
            if _namespace(_PROC / process.number) != here:
                continue
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            continue
        except OSError:
            shown = f"{shown}, of which it cannot be told whether it is in this network namespace"
        if is_one:
            return shown, ""
        unseen = f"{printable(process.name)} ({shown}) may be it, or run it inside"
    return "", unseen


def _sees_all() -> bool:
    """Every process of the machine has a number in the first PID namespace, and /proc hides none of them (hidepid)."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino == _FIRST_PID_NAMESPACE and Path("/proc/1/stat").exists()  # noqa: PTH116 - a Path resolves the link
    except OSError:
        return False


def _list() -> Iterator[_Process]:
    # No pattern such as */stat: looking for it fails when a process ends meanwhile.
    for folder in _PROC.iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            # `4711 (kube-proxy) S ...`
            name, _, rest = (folder / "stat").read_text(errors="replace").partition(" (")[2].rpartition(") ")
            with (folder / "cmdline").open("rb") as file:
                arguments = file.read(_LONGEST_ARGUMENTS).split(b"\0", 2)[:2]
        except OSError:  # ended meanwhile
            continue
        if not rest.startswith(("Z", "X")):
            yield _Process(folder.name, name, tuple(os.fsdecode(argument) for argument in arguments))


def _namespace(process: Path) -> int:
    """Names a process's network namespace, whatever the privileges: each has a file `dev` of its own.

    `ns/net` says the same only to those who might trace the process. Raises OSError.
    """
    return (process / "net/dev").stat().st_ino


def _answering() -> str:
    """SVC-88 and SVC-87; an agent of rulegen answers there too, and says who it is."""
    for host, shown in _HOSTS:
        answer = _ask(host, _STATUS_PORT, "/proxyMode")
        if answer is not None and answer.is_ok and answer.text.strip() in _MODES:
            return f"it answers at http://{shown}:{_STATUS_PORT}/proxyMode"
        answer = _ask(host, _HEALTH_PORT, "/healthz")
        if answer is not None and all(word in answer.text for word in _HEALTH_WORDS):
            return f"it answers at http://{shown}:{_HEALTH_PORT}/healthz"
    return ""


def _stranger() -> str:
    """Whoever else has one of the two ports, whether or not it answers."""
    for host, shown in _HOSTS:
        for port in (_STATUS_PORT, _HEALTH_PORT):
            if _ask(host, port, "/healthz") is not None and not _is_own(port):
                return f"a program that is not rulegen has port {port} of {shown}"
    return ""


def _is_own(port: int) -> bool:
    """Whether this process listens there, and only was too busy to answer."""
    own = set()
    # Where it cannot be seen, it is another one's.
    with suppress(OSError):
        for path in Path("/proc/self/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                own.add(str(path.readlink()))
    for name in ("tcp", "tcp6"):
        with suppress(OSError), Path("/proc/thread-self/net", name).open() as lines:  # no IPv6
            for line in lines:
                # `0: 0100007F:2809 00000000:0000 0A ... 4711 1 ...`
                fields = line.split()
                if fields[3] == _LISTENING and fields[1].endswith(f":{port:04X}") and f"socket:[{fields[9]}]" in own:
                    return True
    return False


class _Answer(NamedTuple):
    is_ok: bool
    text: str


def _ask(host: str, port: int, path: str) -> _Answer | None:
    """What is answered within a second, however slowly; None when nobody has the port, or rulegen has."""
    data = b""
    end = time.monotonic() + _ANSWER_SECONDS
    try:
        with socket.create_connection((host, port), _ANSWER_SECONDS) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            while len(data) < _LONGEST_ANSWER and (left := end - time.monotonic()) > 0:
                connection.settimeout(left)
                if not (part := connection.recv(_LONGEST_ANSWER)):
                    break
                data += part
    except TimeoutError:
        pass
    except OSError as error:
        if not data and error.errno != errno.ECONNRESET:
            return None
    head, _, body = data.decode("ascii", "replace").partition("\r\n\r\n")
    status, *headers = head.split("\r\n")
    if _OWN_HEADER in headers:
        return None
    return _Answer(f"{status} ".split(" ")[1] == "200", body)
