"""libnftables, reached through the distribution's module `nftables`, in a process of its own.

In: commands as text. Out: nothing, or why they were refused; and a netlink connection to the namespace in which they
were carried out. Whatever becomes of nft, crashed, hung or missing, is one line here, and nothing of it is left.
"""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rulegen import children
from rulegen.errors import ApplyError, HostError, RulegenError, printable
from rulegen.nftables.messages import SIZE_HINT, Connection
from rulegen.nftables.nft_worker import ALONE, HERE
from rulegen.nftables.refusals import kind_of_words
from rulegen.workers.process import WorkerDiedError, WorkerProcess

MINIMUM_NFT = (1, 0, 6)
_START_SECONDS = 30.0
_SECONDS = 60.0


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
        self.worker = WorkerProcess("rulegen.nftables.nft_worker", ALONE if alone else HERE)
        try:
            self.connection = self._take_connection()
        except WorkerDiedError as error:
            self.worker.end()
            raise _died(error) from error
        except BaseException:
            self.worker.end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def is_alive(self) -> bool:
        """Whether the process is still there."""
        return self.worker.process.poll() is None

    def close(self) -> None:
        self.connection.close()
        self.worker.end()

    def run(self, commands: str, *, check: bool = False) -> None:
        """Carries out commands as one transaction; `check`: asks whether they would be. Raises the class's errors.

        ApplyError, HostError and StaleError say what was refused, in nft's words and with the command.
        """
        try:
            refused = self.worker.ask(commands, check=check, seconds=_SECONDS)
        except WorkerDiedError as error:
            raise _died(error) from error
        if refused is not None:
            raise refusal(refused, commands)

    def _take_connection(self) -> Connection:
        channel = self.worker.channel
        channel.settimeout(_START_SECONDS)
        try:
            data, descriptors, _, _ = socket.recv_fds(channel, 256, 1)
        except TimeoutError as error:
            raise NftDiedError(f"has not started within {_START_SECONDS:.0f} s") from error
        except OSError as error:
            raise self.worker.ended() from error
        if not data:
            raise self.worker.ended()
        if not descriptors:
            raise NoNamespaceError(printable(data.decode("ascii", "replace")))
        return Connection(socket.socket(fileno=descriptors[0]))


def _died(error: WorkerDiedError) -> Exception:
    if error.missing == "nftables":
        return HostError(
            "the Python module nftables is missing: install python3-nftables (Debian, Ubuntu) or nftables "
            "(Fedora), and rulegen for the distribution's Python with --system-site-packages: docs/install.md"
        )
    return NftDiedError(str(error))


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
