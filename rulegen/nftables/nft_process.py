"""libnftables, reached through the distribution's module `nftables`, in a process of its own.

In: commands as text. Out: nothing, or why they were refused; and a netlink connection to the namespace in which they
were carried out. Whatever becomes of nft, crashed, hung or missing, is one line here, and nothing of it is left.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rulegen import children
from rulegen.errors import ApplyError, HostError, RulegenError, printable
from rulegen.nftables.messages import SIZE_HINT, Connection
from rulegen.nftables.nft_worker import ALONE, ANSWER, HERE, REQUEST
from rulegen.nftables.refusals import kind_of_words

MINIMUM_NFT = (1, 0, 6)
_START_SECONDS = 30.0
_END_SECONDS = 5.0
_SECONDS = 60.0
_LONGEST_ANSWER = 1 << 20
_LONGEST_OUTPUT = 1 << 16


class NoNamespaceError(Exception):
    """The process may not have a network namespace of its own; `str()` says why."""


class NftDiedError(Exception):
    """libnftables crashed, hung or answered nonsense; `str()` says which, after the word nft."""


class NftProcess:
    """A process that carries out nft's commands, until it is closed.

    `alone`: in a network namespace of its own, where it meets nobody else's tables; else in that of the calling thread.
    `connection` is a netlink socket there.

    Raises:
        NoNamespaceError: it cannot have one.
        NftDiedError: libnftables does not work.
        HostError: the module `nftables` is missing, or nft is too old.
    """

    def __init__(self, *, alone: bool) -> None:
        _check_version()
        self._channel, theirs = socket.socketpair()
        with theirs:
            words = [sys.executable, "-P", "-m", "rulegen.nftables.nft_worker"]
            words += [str(theirs.fileno()), str(os.getpid()), ALONE if alone else HERE]
            try:
                self._process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=[theirs.fileno()],
                )
            except OSError as error:
                self._channel.close()
                raise HostError(f"cannot start {sys.executable}: {error.strerror}") from error
        try:
            self.connection = self._take_connection()
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()
        self._end()

    def run(self, commands: str, *, check: bool = False) -> None:
        """Carries out commands as one transaction; `check`: asks whether they would be. Raises the class's errors.

        ApplyError, HostError and StaleError say what was refused, in nft's words and with the command.
        """
        data = commands.encode()
        self._channel.settimeout(_SECONDS)
        try:
            self._channel.sendall(REQUEST.pack(len(data), check) + data)
            length, is_done = ANSWER.unpack(self._received(ANSWER.size))
            if length > _LONGEST_ANSWER or (is_done and length):
                raise NftDiedError("answered what makes no sense")
            message = self._received(length).decode("utf-8", "replace")
        except TimeoutError as error:
            raise NftDiedError(f"has not answered for {_SECONDS:.0f} s") from error
        except OSError as error:
            raise self._ended() from error
        if not is_done:
            raise refusal(message, commands)

    def _take_connection(self) -> Connection:
        self._channel.settimeout(_START_SECONDS)
        try:
            data, descriptors, _, _ = socket.recv_fds(self._channel, 256, 1)
        except TimeoutError as error:
            raise NftDiedError(f"has not started within {_START_SECONDS:.0f} s") from error
        except OSError as error:
            raise self._ended() from error
        if not data:
            raise self._ended()
        if not descriptors:
            raise NoNamespaceError(printable(data.decode("ascii", "replace")))
        return Connection(socket.socket(fileno=descriptors[0]))

    def _received(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = self._channel.recv(size - len(data))
            if not part:
                raise self._ended()
            data += part
        return bytes(data)

    def _ended(self) -> Exception:
        """Why the process has closed its end of the channel."""
        try:
            status = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return NftDiedError("answered what makes no sense")
        if status < 0:
            return NftDiedError(f"crashed ({children.signal_name(-status)})")
        output = self._process.stderr.read(_LONGEST_OUTPUT) if self._process.stderr else b""
        last = output.decode("utf-8", "replace").strip().rpartition("\n")[2]
        if last.startswith("ModuleNotFoundError: No module named 'nftables'"):
            return HostError(
                "the Python module nftables is missing: install python3-nftables (Debian, Ubuntu) or nftables "
                "(Fedora), and rulegen for the distribution's Python with --system-site-packages: docs/install.md"
            )
        return NftDiedError(f"ended with status {status}{f': {printable(last)}' if last else ''}")

    def _end(self) -> None:
        self._channel.close()
        self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()


def _check_version() -> None:
    """Raises HostError for an nft that is too old, or none; NftDiedError for one that does not work."""
    try:
        done = children.run(["nft", "--version"], timeout=_START_SECONDS)
    except FileNotFoundError as error:
        raise HostError("cannot run nft: install the package nftables") from error
    except OSError as error:
        raise HostError(f"cannot run nft: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise NftDiedError(f"has not said its version within {_START_SECONDS:.0f} s") from error
    if status := done.returncode:
        how = f"crashed ({children.signal_name(-status)})" if status < 0 else f"ended with status {status}"
        raise NftDiedError(f"{how} when asked for its version")
    found = re.match(rb"nftables v(\d+)\.(\d+)\.(\d+)", done.stdout)
    if found is None:
        words = printable(done.stdout[:200].decode("utf-8", "replace").strip())
        raise HostError(f"`nft --version` says {words or 'nothing'}, expected the version of nftables")
    version = tuple(map(int, found.groups()))
    if version < MINIMUM_NFT:
        raise HostError(f"rulegen needs nft {_dotted(MINIMUM_NFT)} or newer, this is {_dotted(version)}")


def _dotted(version: Iterable[int]) -> str:
    return ".".join(map(str, version))


_NFT_ERROR = re.compile(
    r"^(?:\S+?:(?P<line>\d+):[\d-]+: |netlink: )?Error: (?P<message>.*)$",
    re.MULTILINE,
)
_TOO_LARGE = "Message too long"


def refusal(output: str, commands: str) -> RulegenError:
    """Nft's words as one line, with the command that it names."""
    match = _NFT_ERROR.search(output)
    if match is not None and _TOO_LARGE in match["message"]:
        return ApplyError(f"the kernel refused a transaction: {_TOO_LARGE} ({SIZE_HINT})")
    if match is None:
        return ApplyError(f"nft failed: {' '.join(output.split())[:300] or 'without a message'}")
    command = ""
    if match["line"]:
        lines = commands.splitlines()
        number = int(match["line"])
        command = lines[number - 1].strip() if number <= len(lines) else ""
    else:
        following = output[match.end() :].lstrip("\n").partition("\n")[0].strip()
        command = "" if set(following) <= {"^", " "} else following
    kind = kind_of_words(match["message"])
    return kind(f"the kernel refused a transaction: {match['message']}{f': {command[:300]}' if command else ''}")
