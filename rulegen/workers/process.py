"""rulegen's side: a worker is started, requests go out, answers come in.

Whatever becomes of a worker, crashed, hung or missing, is an error here, and nothing of it is left.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from rulegen import children
from rulegen.errors import HostError, printable
from rulegen.workers.serving import ANSWER, REQUEST

_END_SECONDS = 5.0
_LONGEST_ANSWER = 1 << 20
_LONGEST_OUTPUT = 1 << 16


class WorkerDiedError(Exception):
    """A worker crashed, hung or answered nonsense; `str()` says which, in words that follow its name.

    `missing`: the Python module that it did not find, "" for none.
    """

    def __init__(self, message: str, missing: str = "") -> None:
        super().__init__(message)
        self.missing = missing


class WorkerProcess:
    """A worker, until it is ended. `module`: what it runs; `words`: what that is told. `channel`: to it.

    Raises HostError when no process can be started.
    """

    def __init__(self, module: str, *words: str) -> None:
        self.channel, theirs = socket.socketpair()
        with theirs:
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-m", module, str(theirs.fileno()), str(os.getpid()), *words],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=[theirs.fileno()],
                )
            except OSError as error:
                self.channel.close()
                raise HostError(f"cannot start {sys.executable}: {error.strerror}") from error

    def ask(self, request: str, *, check: bool, seconds: float) -> str | None:
        """Has a request carried out; `check`: only asks whether it would be. Returns None, or why not.

        Raises WorkerDiedError.
        """
        data = request.encode("utf-8", "surrogateescape")
        self.channel.settimeout(seconds)
        try:
            self.channel.sendall(REQUEST.pack(len(data), check) + data)
            length, is_done = ANSWER.unpack(self._received(ANSWER.size))
            if length > _LONGEST_ANSWER or (is_done and length):
                raise WorkerDiedError("answered what makes no sense")
            message = self._received(length).decode("utf-8", "replace")
        except TimeoutError as error:
            raise WorkerDiedError(f"has not answered for {seconds:.0f} s") from error
        except OSError as error:
            raise self.ended() from error
        return None if is_done else message

    def ended(self) -> WorkerDiedError:
        """Why the worker has closed its end of the channel."""
        try:
            status = self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return WorkerDiedError("answered what makes no sense")
        if status < 0:
            return WorkerDiedError(f"crashed ({children.signal_name(-status)})")
        output = self.process.stderr.read(_LONGEST_OUTPUT) if self.process.stderr else b""
        last = output.decode("utf-8", "replace").strip().rpartition("\n")[2]
        missing = last.removeprefix("ModuleNotFoundError: No module named ")
        return WorkerDiedError(
            f"ended with status {status}{f': {printable(last)}' if last else ''}",
            missing.strip("'") if missing != last else "",
        )

    def end(self) -> None:
        """Ends it at once."""
        self.channel.close()
        self.process.kill()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()

    def _received(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self.channel.recv(size - len(data))
            if not part:
                raise self.ended()
            data += part
        return bytes(data)
