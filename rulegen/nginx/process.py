"""nginx as it is on this host: asked whether it takes a configuration, told to read it, asked what it serves.

Everything is bounded: a program that hangs is killed, a server that does not answer is one that serves nothing known.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from rulegen import children
from rulegen.config import IngressSettings, SocketAddress
from rulegen.errors import ApplyError, HostError, one_line, printable

_TEST_SECONDS = 30.0
_RELOAD_SECONDS = 15.0
_ANSWER_SECONDS = 2.0
_POLL_SECONDS = 0.005
_LONGEST_POLL_SECONDS = 0.02
_OVERLAP_SECONDS = 0.3
_LONGEST_ANSWER = 2048
# The numbers of the process and thread that say something, others each time.
_WHO = re.compile(r"^\d+#\d+: ")
_SAID = re.compile(r"([0-9a-f]{32}) ([0-9]{1,10})\n")
_MASTER = b"nginx: master process"
_PLACES = "/usr/sbin:/sbin:/usr/local/sbin"


class Nginx:
    """The nginx that `main_file` is the configuration of. Raises HostError where the program is missing."""

    def __init__(self, settings: IngressSettings) -> None:
        found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:{_PLACES}")
        if found is None:
            raise HostError("the program nginx is missing: install the package nginx-light, nginx-core or nginx-full")
        self._program = found
        self._main_file = settings.main_file
        self._address = settings.version_address

    def test(self, main_file: str = "") -> None:
        """Whether it takes a configuration, its own by default. Raises ApplyError with its words."""
        self._run(("-t", "-q"), main_file or self._main_file, _TEST_SECONDS, "refuses the configuration")

    def reload(self, version: str) -> None:
        """Has it read its configuration, and waits until all new connections are served by that.

        Its master process is told by a signal where that can be seen to be it; `nginx -s reload`, which does the same,
        reads the whole configuration once more before.
        Raises ApplyError where it does not run, or goes on with what it had.
        """
        master = _master_of(_ask(self._address).worker, self._program)
        before = _children(master)
        if not _tell(master, self._program):
            self._run(("-s", "reload"), self._main_file, _TEST_SECONDS, "cannot be told to read it: is it running?")
        start = time.monotonic()
        pause = _POLL_SECONDS
        while serving(self._address) != version or not self._have_gone(before, time.monotonic() - start):
            if time.monotonic() > start + _RELOAD_SECONDS:
                seconds = f"{_RELOAD_SECONDS:.0f} s"
                raise ApplyError(f"nginx was told to reload and does not serve the new configuration after {seconds}")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_POLL_SECONDS)

    @staticmethod
    def _have_gone(workers: Collection[int], seconds: float) -> bool:
        """Whether nobody takes a connection any more who did before; nginx has both do so for a while (0.1 s)."""
        if not workers:
            # It is in another namespace of processes, or has only just started.
            return seconds > _OVERLAP_SECONDS
        return not any(map(_takes_connections, workers))

    def _run(self, arguments: Sequence[str], main_file: str, seconds: float, failed: str) -> None:
        try:
            ended = children.run((self._program, *arguments, "-e", "stderr", "-c", main_file), timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise ApplyError(f"nginx {' '.join(arguments)} did not end within {seconds:.0f} s") from error
        except OSError as error:
            raise HostError(f"cannot run {self._program}: {error.strerror}") from error
        if ended.returncode:
            raise ApplyError(f"nginx {failed}: {_words(ended)}")


class _Served(NamedTuple):
    """What one of nginx's processes says: the version that it serves, and its number; nothing where nobody does."""

    version: str = ""
    worker: int = 0


def serving(address: SocketAddress) -> str:
    """The version of the configuration that new connections get; "" where nobody says one."""
    return _ask(address).version


def _ask(address: SocketAddress) -> _Served:
    """Whoever listens there, and however slowly he answers."""
    try:
        head, _, said = _answer(address).decode("ascii", "replace").partition("\r\n\r\n")
    except OSError:
        return _Served()
    found = _SAID.fullmatch(said) if " 200 " in head.partition("\r\n")[0] else None
    return _Served(found[1], int(found[2])) if found is not None else _Served()


def _answer(address: SocketAddress) -> bytes:
    """All that comes, or as much as there is time and room for. Raises OSError."""
    until = time.monotonic() + _ANSWER_SECONDS
    received = b""
    with socket.create_connection(address, timeout=_ANSWER_SECONDS) as connection:
        # After which nginx closes.
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        while len(received) < _LONGEST_ANSWER and (left := until - time.monotonic()) > 0:
            connection.settimeout(left)
            part = connection.recv(_LONGEST_ANSWER)
            if not part:
                break
            received += part
    return received


def _master_of(worker: int, program: str) -> int:
    """The parent of a process that says to be nginx's; 0 where it is not, or cannot be seen from here."""
    if not _runs(worker, program):
        return 0
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _runs(process: int, program: str) -> bool:
    with suppress(OSError):
        return process > 0 and Path(f"/proc/{process}/exe").samefile(program)
    return False


def _tell(master: int, program: str) -> bool:
    """Whether it was told to read its configuration, as `nginx -s reload` does."""
    if not master:
        return False
    with suppress(OSError):
        process = os.pidfd_open(master)
        try:
            # From here on it is this process that is told, or none.
            if _runs(master, program) and Path(f"/proc/{master}/cmdline").read_bytes().startswith(_MASTER):
                signal.pidfd_send_signal(process, signal.SIGHUP)
                return True
        finally:
            os.close(process)
    return False


def _children(parent: int) -> list[int]:
    """None where they cannot be seen from here."""
    with suppress(OSError, ValueError):
        if parent:
            return [int(number) for number in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    return []


def _takes_connections(worker: int) -> bool:
    try:
        return b"shutting down" not in (Path(f"/proc/{worker}/cmdline").read_bytes() or b"shutting down")
    except OSError:
        return False


def _words(ended: children.Ended) -> str:
    """What it says is wrong: the first line of that level."""
    said = ended.stderr.decode("utf-8", "replace").splitlines()
    refused = [line for line in said if "[emerg]" in line or "[alert]" in line or "[error]" in line]
    text = next(iter(refused or said), "")
    return one_line(_WHO.sub("", text.partition("] ")[2] or text, count=1)) or children.how(ended)


def missing_words(path: str, error: OSError) -> str:
    """What is wrong with a file, for a message."""
    return f"{printable(path)}: {error.strerror or error}"
