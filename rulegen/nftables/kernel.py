"""The kernel behind this target: reads the live table, checks and commits transactions.

Two ways lead in. A table to be made anew goes through nft: a small one through libnftables in this process, a large one
through `nft -f -`, whose memory is given back when it ends. All changes to a table that is there, of elements, chains
and rules, go as netlink messages: their cost depends on nothing else on the host. Touches no table but rulegen's own.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from functools import partial
from itertools import chain, islice
from types import TracebackType
from typing import Any, Self

from rulegen.config import Family
from rulegen.errors import ApplyError, HostError, RulegenError, StaleError
from rulegen.interfaces import host_families
from rulegen.nftables import netlink
from rulegen.nftables.affinity import Client, changed_timeouts, read_clients
from rulegen.nftables.layout import IP_KEYWORD, EntryKey, Value
from rulegen.nftables.live import Live, read, read_table
from rulegen.nftables.monitor import Monitor
from rulegen.nftables.program import Program
from rulegen.nftables.rules import (
    CompiledChain,
    CompiledChains,
    compile_chains,
    derive_chain,
    hooks_in_front,
    workbench_text,
)
from rulegen.nftables.transaction import (
    Change,
    DeleteChains,
    DeleteTable,
    ReplaceTable,
    Transaction,
    WriteRules,
    chain_of,
    messages,
)
from rulegen.ruleset import Delta

MINIMUM_KERNEL = (5, 15)
MINIMUM_NFT = (1, 0, 6)
# Lines up to which a transaction goes through libnftables in this process, which keeps the memory of what it parsed.
_IN_PROCESS_LINES = 2000
_NFT_TIMEOUT = 300.0
_COMPILE_ATTEMPTS = 20
# Before Linux 6.2 a chain could not go in the same transaction as the last reference to it.
_JOINS = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2]) >= (6, 2)


class Kernel:
    """rulegen's tables in the network namespace of the thread that opens it; all calls must come from there.

    Raises HostError when the kernel, nft or privileges do not suffice.
    """

    def __init__(self) -> None:
        """Checks versions and opens the socket; changes nothing."""
        _check_versions()
        self._connection = netlink.Connection()
        self._namespace = _network_namespace()
        self._libnftables: Any = None
        self._compiled: dict[tuple[Family, str], CompiledChain] = {}
        self._monitor: Monitor | None = None
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
        """Closes the sockets."""
        self._connection.close()
        if self._monitor is not None:
            self._monitor.close()

    def monitor(self) -> Monitor:
        """Begins to listen for what others commit, until the Kernel is closed. Raises HostError."""
        self._monitor = Monitor(self._connection.port, self._connection.generation)
        return self._monitor

    def read(self) -> Live:
        """What the kernel holds of ours."""
        return read(self._connection)

    def clients(self, delta: Delta[EntryKey, Value]) -> list[Client]:
        """The remembered clients of service-ports whose affinity timeout the Delta changes; mostly there are none."""
        timeouts = changed_timeouts(delta)
        return list(read_clients(self._connection, timeouts)) if timeouts else []

    def check(self, transaction: Transaction, live: Live) -> None:
        """Asks the kernel whether it would take the transaction, and changes nothing. Raises ApplyError, HostError.

        Rules that are not compiled yet are only shown to nft; in the check of the transaction their chains are empty.
        """
        compiled, missing = self._known_chains(transaction, live)
        for family, names in missing.items():
            self._in_process(workbench_text(transaction.programs[family], names), check=True)
            compiled |= {(family, name): CompiledChain(b"", ()) for name in names}
        if transaction.tables:
            self._load(transaction.tables, compiled, check=True)
        # Alone, the removals could not be checked: until the changes are in force, their chains are referred to.
        to_check = [stage for stage in transaction.stages if _JOINS or stage is not transaction.removals]
        if to_check:
            self._send(chain.from_iterable(to_check), compiled, self._connection.check)

    def commit(self, transaction: Transaction, live: Live) -> None:
        """Applies the transaction, all or nothing, and brings `live.tables` up to date; its entries stay as they were.

        Raises StaleError when somebody changed what it was planned on, HostError when the kernel takes nothing from us
        (a table that another program owns, no memory), ApplyError for any other refusal.
        """
        compiled = self._compile(transaction, live)
        for table in transaction.tables:
            self._keep_in_front(table.program.family)
        if transaction.tables:
            self._load(transaction.tables, compiled, check=False)
            for table in transaction.tables:
                self._reread(table.program.family, live)
        for stage in transaction.stages:
            self._send(stage, compiled, self._connection.commit)
        _note_chains(transaction, compiled, live)

    def delete_tables(self, names: Iterable[str]) -> list[str]:
        """Removes the tables of these names in both families; says which there were. Raises ApplyError, HostError."""
        found = [
            f"{IP_KEYWORD[family]} {name}"
            for name in names
            for family in host_families()
            if self._connection.table(family, name) is not None
        ]
        if found:
            self._in_process("".join(f"delete table {table}\n" for table in found), check=False)
        return found

    # -- rules --

    def _compile(self, transaction: Transaction, live: Live) -> CompiledChains:
        """The chains that the transaction writes, in the kernel's encoding."""
        _, missing = self._known_chains(transaction, live)
        for family, names in missing.items():
            program = transaction.programs[family]
            for name, compiled in self._compile_chains(program, names).items():
                self._compiled[family, chain_of(program, name).digest] = compiled
        return self._known_chains(transaction, live)[0]

    def _known_chains(
        self, transaction: Transaction, live: Live
    ) -> tuple[dict[tuple[Family, str], CompiledChain], dict[Family, list[str]]]:
        """Those that the transaction writes and that need no nft, and the names of those that do."""
        known: dict[tuple[Family, str], CompiledChain] = {}
        missing: dict[Family, list[str]] = {}
        for family, name in transaction.chains():
            digest = chain_of(transaction.programs[family], name).digest
            found = self._compiled.get((family, digest)) or derive_chain(live.tables.get(family), family, name)
            if found is None:
                missing.setdefault(family, []).append(name)
            else:
                known[family, name] = self._compiled[family, digest] = found
        return known, missing

    def _compile_chains(self, program: Program, names: list[str]) -> dict[str, CompiledChain]:
        for _ in range(_COMPILE_ATTEMPTS):
            try:
                return compile_chains(self._connection, partial(self._in_process, check=False), program, names)
            except netlink.InterruptedDumpError:
                continue
            except netlink.KernelError as error:
                raise StaleError(f"cannot compile rules: {error}") from error
        raise StaleError(f"the ruleset changed during each of {_COMPILE_ATTEMPTS} attempts to compile rules")

    def _keep_in_front(self, family: Family) -> None:
        """Lets packets meet the table that is to be replaced before the one that replaces it.

        The kernel puts a new hook in front of others of its priority. A packet could pass it just before the new table
        is in force, and arrive at the old table's when that has gone.
        """
        try:
            copies = hooks_in_front(self._connection, family)
            if copies:
                self._connection.commit(copies)
        except netlink.InterruptedDumpError as error:
            raise StaleError("the ruleset changed while it was read") from error
        except netlink.KernelError:
            # What somebody did to the table may make it impossible; it is replaced all the same.
            return

    def _reread(self, family: Family, live: Live) -> None:
        """Takes over what nft has loaded; should the ruleset change meanwhile, the next reading tells."""
        with suppress(netlink.InterruptedDumpError):
            table = read_table(self._connection, family)
            if table is not None:
                live.tables[family] = table

    # -- the two ways in --

    @staticmethod
    def _send(changes: Iterable[Change], compiled: CompiledChains, send: Callable[[list[bytearray]], None]) -> None:
        sent = list(messages(changes, compiled))
        try:
            send([message for _, message in sent])
        except netlink.KernelError as error:
            refused = f": {sent[error.index][0]}" if 0 <= error.index < len(sent) else ""
            kind = _kind(error.number in _STALE, error.number in _OF_THE_HOST)
            raise kind(f"the kernel refused a transaction: {error}{refused}") from error

    def _load(self, tables: Iterable[ReplaceTable], compiled: CompiledChains, *, check: bool) -> None:
        self._check_namespace()
        lines = chain.from_iterable(table.lines(compiled) for table in tables)
        first = list(islice(lines, _IN_PROCESS_LINES))
        if len(first) < _IN_PROCESS_LINES:
            self._in_process("".join(first), check=check)
        else:
            with self._monitor.own_load() if self._monitor and not check else nullcontext():
                _in_subprocess(first, lines, check=check)

    def _check_namespace(self) -> None:
        """The socket stays where it was opened, but nft would work wherever its caller is."""
        if _network_namespace() != self._namespace:
            raise AssertionError("a Kernel was opened in one network namespace and is used in another")

    def _in_process(self, commands: str, *, check: bool) -> None:
        self._check_namespace()
        if self._libnftables is None:
            self._libnftables = _open_libnftables()
        self._libnftables.set_dry_run(check)
        with self._monitor.own_commit() if self._monitor and not check else nullcontext():
            status, _, message = self._libnftables.cmd(commands)
            if status:
                raise _refusal(message, commands)


def _note_chains(transaction: Transaction, compiled: CompiledChains, live: Live) -> None:
    """Follows in memory what a transaction did to the chains."""
    for change in chain.from_iterable(transaction.stages):
        if isinstance(change, DeleteTable):
            live.tables.pop(change.family, None)
        elif isinstance(change, WriteRules):
            written = compiled[change.family, change.chain.name]
            table = live.tables[change.family]
            table.note(change.chain.name, change.chain.digest, written.declaration, list(written.rules))
        elif isinstance(change, DeleteChains):
            for name in change.names:
                live.tables[change.family].forget(name)


# ENOENT, EEXIST, EBUSY, ERESTART: another program's commit came between. ENOBUFS: the answer was lost, so nobody knows.
_STALE = {2, 17, 16, 85, 105}
_STALE_WORDS = re.compile(r"No such file or directory|File exists|Device or resource busy|Interrupted system call")
# EPERM, EACCES, ENOMEM: whatever it is that the kernel was asked for. A table may be another program's own.
_OF_THE_HOST = {1, 13, 12}
_HOST_WORDS = re.compile(r"Operation not permitted|Permission denied|Cannot allocate memory")


def _kind(is_stale: bool, is_of_the_host: bool) -> type[RulegenError]:
    """Who has to do something about a refusal: we, by planning anew; the host's owner; or the owner of a Service."""
    if is_stale:
        return StaleError
    return HostError if is_of_the_host else ApplyError


def _in_subprocess(first: list[str], rest: Iterable[str], *, check: bool) -> None:
    """Streams the commands into `nft -f -`. Raises ApplyError, HostError."""
    import tempfile

    # An nft that outlived this process would take the input's early end for its end, and load a part.
    arguments = ["setpriv", "--pdeathsig", "KILL", "nft", *(["--check"] if check else []), "--file", "-"]
    with tempfile.TemporaryFile("w+") as errors:
        try:
            process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors)
        except OSError as error:
            raise HostError(f"cannot run setpriv: {error.strerror}") from error
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


_NFT_ERROR = re.compile(
    r"^(?:\S+?:(?P<line>\d+):[\d-]+: |netlink: )?Error: (?P<message>.*)$",
    re.MULTILINE,
)
_TOO_LARGE = "Message too long"


def _refusal(output: str, commands: str) -> RulegenError:
    """Nft's words as one line, with the command that it names."""
    match = _NFT_ERROR.search(output)
    if match is not None and _TOO_LARGE in match["message"]:
        return ApplyError(f"the kernel refused a transaction: {_TOO_LARGE} ({netlink.SIZE_HINT})")
    if match is None:
        return ApplyError(f"nft failed: {' '.join(output.split())[:300] or 'without a message'}")
    command = ""
    if match["line"] and commands:
        command = commands.splitlines()[int(match["line"]) - 1].strip()
    else:
        following = output[match.end() :].lstrip("\n").partition("\n")[0].strip()
        command = "" if set(following) <= {"^", " "} else following
    kind = _kind(bool(_STALE_WORDS.search(match["message"])), bool(_HOST_WORDS.search(match["message"])))
    return kind(f"the kernel refused a transaction: {match['message']}{f': {command[:300]}' if command else ''}")


def _network_namespace() -> tuple[int, int]:
    status = os.stat("/proc/thread-self/ns/net")  # noqa: PTH116 - a Path resolves the link
    return status.st_dev, status.st_ino


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
