"""The kernel behind this target: reads the live table, checks and commits transactions.

nft compiles the fixed part, in a process of its own (`scratch_table`); all that is sent goes as netlink messages, whose
cost depends on nothing else on the host. Touches no table but rulegen's own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from itertools import chain
from types import TracebackType
from typing import NamedTuple, Self

from rulegen.config import Family
from rulegen.errors import AbsentError, RulegenError, StaleError
from rulegen.grace import let_packets_leave
from rulegen.interfaces import host_families
from rulegen.nftables import messages, text
from rulegen.nftables.elements import IP_KEYWORD, EntryKey, Value
from rulegen.nftables.live import Live, LiveTable, prove, read, unproven
from rulegen.nftables.monitor import Monitor
from rulegen.nftables.refusals import kind_of_number
from rulegen.nftables.rules import (
    Compiled,
    CompiledChain,
    CompiledTable,
    Names,
    derive_chain,
    hooks_in_front,
    live_model,
    scratch_table_text,
)
from rulegen.nftables.scratch_table import ScratchTable
from rulegen.nftables.tables import BaseChains, Retimed, TableSpec, digest
from rulegen.nftables.transaction import (
    Change,
    DeleteChains,
    DeleteTable,
    ReplaceTable,
    Transaction,
    WriteRules,
    netlink_messages,
)
from rulegen.nftables.undisturbed import undisturbed
from rulegen.paths import status_in_proc
from rulegen.reconcile.delta import Delta

# The oldest that is tested (`make kernels`).
MINIMUM_KERNEL = (6, 1)
# Before Linux 6.2 a chain could not go in the same transaction as the last reference to it.
_JOINS = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2]) >= (6, 2)
# A load that no packet meets before its end is sent in portions of so many bytes.
_PORTION = 4 << 20
# Notifications of more than that could fill the buffer of our own monitor, and cost the kernel as much as the change.
_LARGE = 256 << 10


class Message(NamedTuple):
    """A netlink message, and what it is part of."""

    change: Change
    data: bytearray


class Kernel:
    """rulegen's tables in the network namespace of the thread that opens it; all calls must come from there.

    Raises HostError when the kernel or privileges do not suffice; nft is looked at when it is needed.
    """

    def __init__(self) -> None:
        """Checks the kernel's version and opens the socket; changes nothing."""
        _check_version()
        self._connection = messages.open_connection()
        self._namespace = _network_namespace()
        self._monitor: Monitor | None = None
        self._scratch_table = ScratchTable(self._connection, self._own_commit)
        # What nft made of a chain, by the digest of its text, of the fixed sets' declarations, and of that of a set
        # which comes and goes, by those of theirs.
        self._compiled: dict[tuple[TableSpec, str], CompiledChain] = {}
        self._declared: dict[tuple[TableSpec, str], CompiledTable] = {}
        self._sets: dict[tuple[TableSpec, str], bytes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the sockets."""
        self._scratch_table.close()
        self._connection.close()
        if self._monitor is not None:
            self._monitor.close()

    def monitor(self, tables: Collection[str]) -> Monitor:
        """Begins to listen for what others commit to tables of these names, until the Kernel is closed.

        Raises HostError.
        """
        self._monitor = Monitor(self._connection.port, self._connection.generation, tables)
        return self._monitor

    def read(self, specs: Sequence[TableSpec]) -> Live:
        """What the kernel holds of these tables."""
        return read(self._connection, specs)

    def prove(self, live: Live, base_chains: Mapping[TableSpec, BaseChains], desired: Mapping[EntryKey, Value]) -> None:
        """Compares in full what no fingerprint of the kernel's says anything about, and corrects `live`.

        A table that nft loaded from rendered text has none: what nft makes of the same text now is what it should be.
        Raises HostError, ApplyError, StaleError.
        """
        wanted: dict[TableSpec, tuple[BaseChains, Names]] = {}
        for spec, fixed in base_chains.items():
            table = live.tables.get(spec)
            if table is not None and table.schema == fixed.schema:
                doubtful = unproven(live, spec, desired)
                if doubtful or not table.is_declared:
                    wanted[spec] = fixed, Names(doubtful)
        self._nft_compiles(
            {
                spec: (fixed, names)
                for spec, (fixed, names) in wanted.items()
                if (spec, fixed.schema) not in self._declared
                or any((spec, fixed.chain(name).digest) not in self._compiled for name in names.chains)
            }
        )
        for spec, (fixed, names) in wanted.items():
            digests = {name: self._compiled[spec, fixed.chain(name).digest].listed_as for name in names.chains}
            prove(live, spec, self._declared[spec, fixed.schema].listed_as, digests)

    def compiled(
        self, wanted: Mapping[TableSpec, tuple[BaseChains, Names]]
    ) -> Mapping[tuple[TableSpec, str], CompiledChain]:
        """What nft makes of these chains; nothing where it cannot say so, or not without a change to this namespace."""
        try:
            if not wanted or not self._scratch_table.can_compile_apart():
                return {}
            self._nft_compiles(wanted)
        except RulegenError:
            # It is only to be shown; whoever applies them is told why not.
            return {}
        return {
            (spec, name): self._compiled[spec, fixed.chain(name).digest]
            for spec, (fixed, names) in wanted.items()
            for name in names.chains
        }

    def retimed(self, delta: Delta[EntryKey, Value], specs: Iterable[TableSpec]) -> list[Retimed]:
        """What the kernel remembers in these tables and the Delta gives another time; mostly there is nothing."""
        return [element for spec in specs for element in undisturbed(partial(spec.retimed, self._connection, delta))]

    def check(self, transaction: Transaction, live: Live) -> None:
        """Asks the kernel whether it would take the transaction, and changes nothing. Raises ApplyError, HostError.

        Where nft cannot compile without a change to this namespace, rules are only shown to nft; in the check of the
        transaction their chains are empty.
        """
        compiled: Compiled | None
        if not self._missing(transaction, live) or self._scratch_table.can_compile_apart():
            compiled = self._compile(transaction, live)
            if transaction.tables:
                self._check_load(transaction.tables, compiled)
        else:
            compiled = self._check_text(transaction, live)
        # Alone, the removals could not be checked: until the changes are in force, their chains are referred to.
        to_check = [stage for stage in transaction.stages if _JOINS or stage is not transaction.removals]
        if to_check and compiled is not None:
            self._send(_messages(chain.from_iterable(to_check), compiled), self._connection.check)

    def commit(self, transaction: Transaction, live: Live) -> None:
        """Applies the transaction, all or nothing, and brings `live.tables` up to date; its entries stay as they were.

        Raises StaleError when somebody changed what it was planned on, HostError when the kernel takes nothing from us
        (a table that another program owns, no memory), ApplyError for any other refusal.
        """
        compiled = self._compile(transaction, live)
        if transaction.tables:
            self._load(transaction.tables, compiled)
            for table in transaction.tables:
                live.tables[table.spec] = _loaded(table, compiled)
        for stage in transaction.stages:
            if stage is transaction.removals and transaction.is_handover:
                let_packets_leave()
            to_send = _messages(stage, compiled)
            with self._own_load() if sum(len(message.data) for message in to_send) > _LARGE else nullcontext():
                self._commit(to_send)
        _note_chains(transaction, compiled, live)

    def find_tables(self, names: Iterable[str]) -> list[str]:
        """Which of the tables of these names there are, in both families. Raises HostError."""
        found = [(family, name) for name in names for family in host_families() if self._has_table(family, name)]
        return [f"{IP_KEYWORD[family]} {name}" for family, name in found]

    def delete_tables(self, names: Iterable[str]) -> list[str]:
        """Removes the tables of these names in both families; says which there were. Raises ApplyError, HostError."""
        found = [(family, name) for name in names for family in host_families() if self._has_table(family, name)]
        try:
            if found:
                self._connection.commit([messages.delete_table(family, name) for family, name in found])
        except messages.KernelError as error:
            tables = ", ".join(f"{IP_KEYWORD[family]} {name}" for family, name in found)
            raise kind_of_number(error.number)(f"the kernel refused to delete {tables}: {error}") from error
        return [f"{IP_KEYWORD[family]} {name}" for family, name in found]

    # -- what only nft can make --

    def _compile(self, transaction: Transaction, live: Live) -> Compiled:
        """All that the transaction writes, in the kernel's encoding."""
        if transaction.is_of_elements:
            return Compiled({}, {}, {})
        missing = self._missing(transaction, live)
        self._nft_compiles({spec: (transaction.base_chains[spec], names) for spec, names in missing.items()})
        return self._known(transaction)

    def _nft_compiles(self, wanted: Mapping[TableSpec, tuple[BaseChains, Names]]) -> None:
        if not wanted:
            return
        self._check_namespace()
        for spec, made in self._scratch_table.compile(wanted).items():
            base_chains, names = wanted[spec]
            self._declared[spec, base_chains.schema] = made.table
            for name in {*base_chains.chains, *base_chains.generated.required, *names.chains}:
                self._compiled[spec, base_chains.chain(name).digest] = made.chains[name]
            for name in names.sets:
                self._sets[spec, digest(base_chains.generated.set_text(name))] = made.sets[name]

    def _missing(self, transaction: Transaction, live: Live) -> dict[TableSpec, Names]:
        """What the transaction needs and only nft can make, by table; a table whose fixed sets are meant is there."""
        chains: dict[TableSpec, list[str]] = {}
        sets: dict[TableSpec, list[str]] = {}
        for spec, name in transaction.chains():
            base_chains = transaction.base_chains[spec]
            wanted = base_chains.chain(name).digest
            if (spec, wanted) in self._compiled:
                continue
            derived = self._derived(live, base_chains, name)
            if derived is None:
                chains.setdefault(spec, []).append(name)
            else:
                self._compiled[spec, wanted] = derived
        for spec, name in transaction.sets():
            if (spec, digest(transaction.base_chains[spec].generated.set_text(name))) not in self._sets:
                sets.setdefault(spec, []).append(name)
        replaced = (table.base_chains for table in transaction.tables)
        undeclared = [fixed.spec for fixed in replaced if (fixed.spec, fixed.schema) not in self._declared]
        return {
            spec: Names(chains.get(spec, ()), sets.get(spec, ()))
            for spec in dict.fromkeys((*chains, *sets, *undeclared))
        }

    def _derived(self, live: Live, base_chains: BaseChains, name: str) -> CompiledChain | None:
        """A chain that differs from another one in a number, where that is known."""
        model_name = None if name in base_chains.chains else base_chains.generated.model(name)
        if model_name is None:
            return None
        model = base_chains.chain(model_name)
        compiled = self._compiled.get((base_chains.spec, model.digest))
        compiled = compiled or live_model(live.tables.get(base_chains.spec), model)
        return derive_chain(compiled, name) if compiled else None

    def _known(self, transaction: Transaction) -> Compiled:
        """Of what the transaction writes, all that is compiled."""
        chains, tables, sets = {}, {}, {}
        for spec, name in transaction.chains():
            compiled = self._compiled.get((spec, transaction.base_chains[spec].chain(name).digest))
            if compiled is not None:
                chains[spec, name] = compiled
        for table in transaction.tables:
            declared = self._declared.get((table.spec, table.base_chains.schema))
            if declared is not None:
                tables[table.spec] = declared
        for spec, name in transaction.sets():
            declaration = self._sets.get((spec, digest(transaction.base_chains[spec].generated.set_text(name))))
            if declaration is not None:
                sets[spec, name] = declaration
        return Compiled(chains, tables, sets)

    def _check_text(self, transaction: Transaction, live: Live) -> Compiled | None:
        """Shows nft what it would have to compile; what is known anyway, and empty chains for what is not.

        None where a set is not known: then nothing more can be checked.
        """
        self._check_namespace()
        missing = self._missing(transaction, live)
        replaced = {table.spec: table for table in transaction.tables}
        commands = chain.from_iterable(
            text.render_table(replaced[spec].base_chains, replaced[spec].all_entries)
            if spec in replaced
            else scratch_table_text(transaction.base_chains[spec], missing[spec])
            for spec in dict.fromkeys((*missing, *replaced))
        )
        self._scratch_table.check("".join(commands), list(dict.fromkeys((*missing, *replaced))))
        if any(names.sets for spec, names in missing.items() if spec not in replaced):
            return None
        known = self._known(transaction)
        unknown = {(spec, name): CompiledChain(b"", ()) for spec, names in missing.items() for name in names.chains}
        return Compiled({**known.chains, **unknown}, known.tables, known.sets)

    def _keep_in_front(self, spec: TableSpec) -> None:
        """Lets packets meet the table that is to be replaced before the one that replaces it.

        The kernel puts a new hook in front of others of its priority. A packet could pass it just before the new table
        is in force, and arrive at the old table's when that has gone.
        """
        try:
            copies = hooks_in_front(self._connection, spec)
            if copies:
                self._connection.commit(copies)
        except messages.InterruptedDumpError as error:
            raise StaleError("the ruleset changed while it was read") from error
        except messages.KernelError:
            # What somebody did to the table may make it impossible; it is replaced all the same.
            return

    # -- sending --

    def _load(self, tables: Iterable[ReplaceTable], compiled: Compiled) -> None:
        """Makes tables anew. What packets can meet changes in one transaction, the last.

        A table that is there goes in that same transaction, so all of the new one is in it. One that is not there is
        filled before, in portions, without the chains that packets meet.
        """
        for table in tables:
            self._keep_in_front(table.spec)
        last: list[Change] = []
        filled: list[TableSpec] = []
        with self._own_load():
            try:
                for table in tables:
                    spec = table.spec
                    body = chain(table.frame(), table.elements())
                    if self._has_table(spec.family, spec.name):
                        last += (DeleteTable(spec), *body)
                    else:
                        filled.append(spec)
                        for portion in self._portions(body, compiled):
                            self._commit(portion)
                    last += table.hooks()
                self._commit(_messages(last, compiled))
            except BaseException:
                self._withdraw(filled)
                raise

    def _portions(self, changes: Iterable[Change], compiled: Compiled) -> Iterator[list[Message]]:
        largest = self._connection.largest_batch(_PORTION)
        portion: list[Message] = []
        size = 0
        for change, data in netlink_messages(changes, compiled):
            if size + len(data) > largest and portion:
                yield portion
                portion, size = [], 0
            portion.append(Message(change, data))
            size += len(data)
        yield portion

    def _withdraw(self, specs: Iterable[TableSpec]) -> None:
        """Removes what was filled and will not be finished."""
        for spec in specs:
            with suppress(messages.KernelError):
                self._connection.commit([messages.delete_table(spec.family, spec.name)])

    def _check_load(self, tables: Iterable[ReplaceTable], compiled: Compiled) -> None:
        """Each portion of elements together with the sets and rules; so does the last, with the hooks."""
        for table in tables:
            spec = table.spec
            there = [DeleteTable(spec)] if self._has_table(spec.family, spec.name) else []
            frame = _messages(chain(there, table.frame()), compiled)
            for portion in self._portions(table.elements(), compiled):
                self._send([*frame, *portion], self._connection.check)
            self._send([*frame, *_messages(table.hooks(), compiled)], self._connection.check)

    def _commit(self, to_send: list[Message]) -> None:
        self._send(to_send, self._connection.commit)

    @staticmethod
    def _send(to_send: list[Message], send: Callable[[list[bytearray]], None]) -> None:
        try:
            send([message.data for message in to_send])
        except messages.KernelError as error:
            refused = f": {to_send[error.index].change}" if 0 <= error.index < len(to_send) else ""
            raise kind_of_number(error.number)(f"the kernel refused a transaction: {error}{refused}") from error

    @contextmanager
    def _own_load(self) -> Iterator[None]:
        """A large change of ours that the monitor does not listen to."""
        if self._monitor is None:
            yield
            return
        with self._monitor.own_load() as load:
            before = self._connection.commits
            try:
                yield
            finally:
                load.commits = self._connection.commits - before

    @contextmanager
    def _own_commit(self) -> Iterator[None]:
        """What nft commits for us."""
        with self._monitor.own_commit() if self._monitor is not None else nullcontext():
            yield

    def _has_table(self, family: Family, name: str) -> bool:
        return undisturbed(partial(self._connection.table, family, name)) is not None

    def _check_namespace(self) -> None:
        """The socket stays where it was opened, but nft works wherever its caller is."""
        if _network_namespace() != self._namespace:
            raise AssertionError("a Kernel was opened in one network namespace and is used in another")


def _messages(changes: Iterable[Change], compiled: Compiled) -> list[Message]:
    return [Message(change, data) for change, data in netlink_messages(changes, compiled)]


def _loaded(table: ReplaceTable, compiled: Compiled) -> LiveTable:
    """What the kernel holds after a load."""
    declared_as = compiled.tables[table.spec].listed_as
    live = LiveTable(table.base_chains.schema, declared_as, declared_as)
    for name in table.chains:
        written = compiled.chains[table.spec, name]
        live.note(name, table.base_chains.chain(name).digest, written.declaration, list(written.rules))
    return live


def _note_chains(transaction: Transaction, compiled: Compiled, live: Live) -> None:
    """Follows in memory what a transaction did to the chains."""
    for change in chain.from_iterable(transaction.stages):
        if isinstance(change, DeleteTable):
            live.tables.pop(change.spec, None)
        elif isinstance(change, WriteRules):
            written = compiled.chains[change.spec, change.chain.name]
            table = live.tables[change.spec]
            table.note(change.chain.name, change.chain.digest, written.declaration, list(written.rules))
        elif isinstance(change, DeleteChains):
            for name in change.names:
                live.tables[change.spec].forget(name)


def _network_namespace() -> tuple[int, int]:
    status = status_in_proc("/proc/thread-self/ns/net")
    return status.st_dev, status.st_ino


def _check_version() -> None:
    """Raises HostError for a kernel that is too old."""
    release = os.uname().release
    if tuple(int(part) for part in re.findall(r"\d+", release)[:2]) < MINIMUM_KERNEL:
        raise AbsentError(f"rulegen needs Linux {'.'.join(map(str, MINIMUM_KERNEL))} or newer, this is {release}")
