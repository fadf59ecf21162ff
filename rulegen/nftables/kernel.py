"""The kernel behind this target: reads the live table, checks and commits transactions.

Two ways lead in. Elements, and chains made like one that is there, go as netlink messages: their cost depends on
nothing else on the host. Everything with rules to compile goes through nft: small transactions through libnftables in
this process, large ones through `nft -f -`, whose memory is given back when it ends. Touches no table but rulegen's.
"""

from __future__ import annotations

import io
import os
import re
import socket
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from types import TracebackType
from typing import Any, Self

from rulegen.config import Family
from rulegen.errors import ApplyError, HostError
from rulegen.nftables import netlink, text
from rulegen.nftables.affinity import Client, changed_timeouts, read_clients
from rulegen.nftables.layout import IP_KEYWORD, LAYOUTS, TABLE, EntryKey, Value
from rulegen.nftables.live import Fingerprint, Live, LiveTable, listing_digest, read, read_table
from rulegen.nftables.transaction import AddChain, Command, ReplaceTable, RewriteChain, Transaction
from rulegen.ruleset import Delta

MINIMUM_KERNEL = (5, 15)
MINIMUM_NFT = (1, 0, 6)
# Lines up to which a transaction goes through libnftables in this process, which keeps the memory of what it parsed.
_IN_PROCESS_LINES = 2000
_NFT_TIMEOUT = 300.0


class StaleError(ApplyError):
    """The kernel no longer holds what the transaction was planned on: read it again and plan anew."""


class Kernel:
    """rulegen's tables in the network namespace of the thread that opens it.

    Raises HostError when the kernel, nft or privileges do not suffice.
    """

    def __init__(self) -> None:
        """Checks versions and opens the socket; changes nothing."""
        _check_versions()
        self._connection = netlink.Connection()
        self._libnftables: Any = None
        try:
            self._connection.generation()
        except netlink.KernelError as error:
            self.close()
            if error.number in {1, 13}:  # EPERM, EACCES
                raise HostError("reading and changing nftables needs root, or the capability CAP_NET_ADMIN") from error
            raise HostError(f"this kernel has no usable nf_tables: {error}") from error

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the socket."""
        self.close()

    def close(self) -> None:
        """Closes the socket."""
        self._connection.close()

    def read(self) -> Live:
        """What the kernel holds of ours."""
        return read(self._connection)

    def clients(self, delta: Delta[EntryKey, Value]) -> list[Client]:
        """The remembered clients of service-ports whose affinity timeout the Delta changes; mostly there are none."""
        timeouts = changed_timeouts(delta)
        return list(read_clients(self._connection, timeouts)) if timeouts else []

    def check(self, transaction: Transaction) -> None:
        """Asks the kernel whether it would take the transaction. Raises ApplyError."""
        self._run_nft(transaction, check=True)

    def commit(self, transaction: Transaction, live: Live) -> None:
        """Applies the transaction, all or nothing, and brings `live.tables` up to date; its entries stay as they were.

        Raises StaleError when somebody changed what it was planned on, ApplyError for any other refusal.
        """
        messages = transaction.messages()
        if messages is not None:
            self._commit_messages(messages)
            _note_chains(transaction, live)
            return
        before = self._connection.generation()
        self._run_nft(transaction, check=False)
        self._remember_chains(transaction, live, before)

    @staticmethod
    def families() -> tuple[Family, ...]:
        """The IP families that this host has."""
        found = []
        for family, number in ((Family.IPV4, socket.AF_INET), (Family.IPV6, socket.AF_INET6)):
            with suppress(OSError), socket.socket(number, socket.SOCK_DGRAM):
                found.append(family)
        return tuple(found)

    def delete_tables(self, names: Iterable[str]) -> list[str]:
        """Removes the tables of these names in both families; says which there were. Raises ApplyError."""
        found = [
            f"{IP_KEYWORD[family]} {name}"
            for name in names
            for family in self.families()
            if self._connection.table(family, name) is not None
        ]
        if found:
            self._in_process("".join(f"delete table {table}\n" for table in found), check=False)
        return found

    # -- the two ways --

    def _commit_messages(self, messages: list[tuple[Command, bytearray]]) -> None:
        try:
            self._connection.commit([message for _, message in messages])
        except netlink.KernelError as error:
            command = ""
            if 0 <= error.index < len(messages):
                command = " ".join(line.strip() for line in islice(messages[error.index][0].lines(), 1))
            kind = StaleError if error.number in _STALE else ApplyError
            raise kind(f"the kernel refused a transaction: {error}{f': {command}' if command else ''}") from error

    def _run_nft(self, transaction: Transaction, *, check: bool) -> None:
        lines = transaction.lines()
        first = list(islice(lines, _IN_PROCESS_LINES))
        if len(first) < _IN_PROCESS_LINES:
            self._in_process("".join(first), check=check)
        else:
            _in_subprocess(first, lines, check=check)

    def _in_process(self, commands: str, *, check: bool) -> None:
        if self._libnftables is None:
            self._libnftables = _open_libnftables()
        self._libnftables.set_dry_run(check)
        status, _, message = self._libnftables.cmd(commands)
        if status:
            raise _refusal(message, commands)

    # -- fingerprints --

    def _remember_chains(self, transaction: Transaction, live: Live, before: int) -> None:
        """Writes down how the kernel lists the chains that nft compiled, unless somebody else was at work meanwhile."""
        families = {command.program.family for command in transaction.commands if isinstance(command, ReplaceTable)}
        written = {
            (command.family, command.chain.name)
            for command in transaction.commands
            if isinstance(command, AddChain | RewriteChain)
        }
        families |= {family for family, _ in written}
        live.tables = {family: table for family in Family if (table := read_table(self._connection, family))}
        if self._connection.generation() != before + 1:
            return
        messages = []
        for family in families & live.tables.keys():
            messages += _record(family, live.tables[family])
        if messages:
            self._connection.commit(messages)


def _record(family: Family, table: LiveTable) -> list[bytearray]:
    """Completes the fingerprints of a table that was just loaded."""
    container = LAYOUTS[family].fingerprints
    old, new = [], []
    for name, known in table.fingerprints.items():
        listed_as = table.listed_as.get(name)
        if known.loaded_as or listed_as is None:
            continue
        old.append(text.fingerprint(name, known.loaded_from))
        new.append(text.fingerprint(name, known.loaded_from, listed_as))
        known.loaded_as = listed_as
    deletes = [netlink.delete_elements(container, TABLE, part) for part in netlink.chunks(old)]
    return deletes + [netlink.add_elements(container, TABLE, part) for part in netlink.chunks(new)]


def _note_chains(transaction: Transaction, live: Live) -> None:
    """Follows in memory what a netlink transaction did to the chains."""
    from rulegen.nftables.transaction import DeleteChains

    for command in transaction.commands:
        if isinstance(command, AddChain):
            table = live.tables[command.family]
            listed_as = listing_digest(b"", command.rules)
            table.fingerprints[command.chain.name] = Fingerprint(command.chain.digest, listed_as)
            table.rules[command.chain.name] = command.rules
            table.listed_as[command.chain.name] = listed_as
        elif isinstance(command, DeleteChains):
            table = live.tables[command.family]
            for name in command.names:
                for mapping in (table.fingerprints, table.rules, table.listed_as):
                    mapping.pop(name, None)


# ENOENT, EEXIST, EBUSY, ERESTART: another program's commit came between.
_STALE = {2, 17, 16, 85}
_STALE_WORDS = re.compile(r"No such file or directory|File exists|Device or resource busy|Interrupted system call")


def _in_subprocess(first: list[str], rest: Iterable[str], *, check: bool) -> None:
    """Streams the commands into `nft -f -`. Raises ApplyError."""
    import tempfile

    arguments = ["nft", *(["--check"] if check else []), "--file", "-"]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            # An nft that stops reading says why on standard error.
            with suppress(BrokenPipeError), io.TextIOWrapper(process.stdin or io.BytesIO(), "utf-8") as pipe:
                pipe.writelines(first)
                pipe.writelines(rest)
            status = process.wait(_NFT_TIMEOUT)
        except BaseException:
            process.kill()  # before its input ended nft has sent nothing to the kernel
            process.wait()
            raise
        if status:
            errors.seek(0)
            raise _refusal(errors.read(), "")


_NFT_ERROR = re.compile(r"^(?:\S+?:(?P<line>\d+):[\d-]+: )?(?:Error: )(?P<message>.*)$", re.MULTILINE)


def _refusal(output: str, commands: str) -> ApplyError:
    """Nft's words as one line, with the command that it names."""
    match = _NFT_ERROR.search(output)
    if match is None:
        return ApplyError(f"nft failed: {' '.join(output.split())[:300] or 'without a message'}")
    command = ""
    if match["line"] and commands:
        command = commands.splitlines()[int(match["line"]) - 1].strip()
    else:
        following = output[match.end() :].lstrip("\n").partition("\n")[0].strip()
        command = "" if set(following) <= {"^", " "} else following
    kind = StaleError if _STALE_WORDS.search(match["message"]) else ApplyError
    return kind(f"the kernel refused a transaction: {match['message']}{f': {command[:300]}' if command else ''}")


def _open_libnftables() -> Any:
    try:
        import nftables
    except ImportError as error:
        raise HostError(
            "the Python module nftables is missing: install the distribution's python3-nftables "
            "and use its Python (/usr/bin/python3)"
        ) from error
    return nftables.Nftables()


def _check_versions() -> None:
    """Raises HostError for a kernel or an nft that is too old, or no nft."""
    release = os.uname().release
    kernel = tuple(int(part) for part in re.findall(r"\d+", release)[:2])
    if kernel < MINIMUM_KERNEL:
        raise HostError(f"rulegen needs Linux {_dotted(MINIMUM_KERNEL)} or newer, this is {release}")
    try:
        output = subprocess.run(["nft", "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise HostError("cannot run nft: install the package nftables") from error
    version = tuple(int(part) for part in re.findall(r"\d+", output)[:3])
    if version < MINIMUM_NFT:
        raise HostError(f"rulegen needs nft {_dotted(MINIMUM_NFT)} or newer, this is {_dotted(version)}")


def _dotted(version: Iterable[int]) -> str:
    return ".".join(map(str, version))
