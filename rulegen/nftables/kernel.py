"""The kernel behind this target: reads the live table, checks and commits transactions.

nft compiles the fixed part, in a process of its own (`scratch_table`); all that is sent goes as netlink messages, whose
cost depends on nothing else on the host. Touches no table but rulegen's own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from itertools import chain
from types import TracebackType
from typing import NamedTuple, Self

from rulegen.config import Family
from rulegen.errors import AbsentError, StaleError
from rulegen.interfaces import host_families
from rulegen.nftables import messages, text
from rulegen.nftables.base_chains import BaseChains, balance_chain
from rulegen.nftables.grace import let_packets_leave
from rulegen.nftables.layout import IP_KEYWORD, TABLE, EntryKey, Value
from rulegen.nftables.live import Live, LiveTable, prove, read, unproven
from rulegen.nftables.monitor import Monitor
from rulegen.nftables.refusals import kind_of_number
from rulegen.nftables.rules import (
    Compiled,
    CompiledChain,
    CompiledTable,
    derive_chain,
    hooks_in_front,
    live_model,
    model_of,
    scratch_table_text,
)
from rulegen.nftables.scratch_table import ScratchTable
from rulegen.nftables.transaction import (
    Change,
    DeleteChains,
    DeleteTable,
    ReplaceTable,
    Transaction,
    WriteRules,
    chain_of,
    netlink_messages,
)
from rulegen.reconcile.delta import Delta
from rulegen.services.on_nftables.affinity import Client, changed_timeouts, read_clients

MINIMUM_KERNEL = (5, 15)
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
        # What nft made of a chain, by the digest of its text, and of set declarations, by that of theirs.
        self._compiled: dict[tuple[Family, str], CompiledChain] = {}
        self._declared: dict[tuple[Family, str], CompiledTable] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
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

    def prove(self, live: Live, base_chains: Mapping[Family, BaseChains], desired: Mapping[EntryKey, Value]) -> None:
        """Compares in full what no fingerprint of the kernel's says anything about, and corrects `live`.

        A table that nft loaded from rendered text has none: what nft makes of the same text now is what it should be.
        Raises HostError, ApplyError, StaleError.
        """
        wanted: dict[Family, tuple[BaseChains, list[str]]] = {}
        for family, fixed in base_chains.items():
            table = live.tables.get(family)
            if table is not None and table.schema == fixed.schema:
                names = unproven(live, family, desired)
                if names or not table.is_declared:
                    wanted[family] = fixed, names
        self._check_namespace()
        self._nft_compiles(
            {
                family: (fixed, names)
                for family, (fixed, names) in wanted.items()
                if (family, fixed.schema) not in self._declared
                or any((family, chain_of(fixed, name).digest) not in self._compiled for name in names)
            }
        )
        for family, (fixed, names) in wanted.items():
            digests = {name: self._compiled[family, chain_of(fixed, name).digest].listed_as for name in names}
            prove(live, family, self._declared[family, fixed.schema].listed_as, digests)

    def clients(self, delta: Delta[EntryKey, Value]) -> list[Client]:
        """The remembered clients of service-ports whose affinity timeout the Delta changes; mostly there are none."""
        timeouts = changed_timeouts(delta)
        return list(read_clients(self._connection, timeouts)) if timeouts else []

    def check(self, transaction: Transaction, live: Live) -> None:
        """Asks the kernel whether it would take the transaction, and changes nothing. Raises ApplyError, HostError.

        Where nft cannot compile without a change to this namespace, rules are only shown to nft; in the check of the
        transaction their chains are empty.
        """
        self._check_namespace()
        if not self._needs_nft(transaction, live) or self._scratch_table.can_compile_apart():
            compiled = self._compile(transaction, live)
            if transaction.tables:
                self._check_load(transaction.tables, compiled)
        else:
            compiled = self._check_text(transaction, live)
        # Alone, the removals could not be checked: until the changes are in force, their chains are referred to.
        to_check = [stage for stage in transaction.stages if _JOINS or stage is not transaction.removals]
        if to_check:
            self._send(_messages(chain.from_iterable(to_check), compiled), self._connection.check)

    def commit(self, transaction: Transaction, live: Live) -> None:
        """Applies the transaction, all or nothing, and brings `live.tables` up to date; its entries stay as they were.

        Raises StaleError when somebody changed what it was planned on, HostError when the kernel takes nothing from us
        (a table that another program owns, no memory), ApplyError for any other refusal.
        """
        self._check_namespace()
        compiled = self._compile(transaction, live)
        if transaction.tables:
            self._load(transaction.tables, compiled)
            for table in transaction.tables:
                live.tables[table.base_chains.family] = _loaded(table, compiled)
        for stage in transaction.stages:
            if stage is transaction.removals and transaction.is_handover:
                let_packets_leave()
            to_send = _messages(stage, compiled)
            with self._own_load() if sum(len(message.data) for message in to_send) > _LARGE else nullcontext():
                self._commit(to_send)
        _note_chains(transaction, compiled, live)

    def delete_tables(self, names: Iterable[str]) -> list[str]:
        """Removes the tables of these names in both families; says which there were. Raises ApplyError, HostError."""
        found = [
            (family, name)
            for name in names
            for family in host_families()
            if self._connection.table(family, name) is not None
        ]
        try:
            if found:
                self._connection.commit([messages.delete_table(family, name) for family, name in found])
        except messages.KernelError as error:
            tables = ", ".join(f"{IP_KEYWORD[family]} {name}" for family, name in found)
            raise kind_of_number(error.number)(f"the kernel refused to delete {tables}: {error}") from error
        return [f"{IP_KEYWORD[family]} {name}" for family, name in found]

    # -- what only nft can make --

    def _needs_nft(self, transaction: Transaction, live: Live) -> bool:
        chains, tables = self._missing(transaction, live)
        return bool(chains or tables)

    def _compile(self, transaction: Transaction, live: Live) -> Compiled:
        """All that the transaction writes, in the kernel's encoding."""
        chains, tables = self._missing(transaction, live)
        families = dict.fromkeys([*chains, *tables])
        wanted = {family: (transaction.base_chains[family], chains.get(family, [])) for family in families}
        self._nft_compiles(wanted)
        return self._known(transaction)

    def _nft_compiles(self, wanted: Mapping[Family, tuple[BaseChains, list[str]]]) -> None:
        for family, (declared, rules) in (self._scratch_table.compile(wanted) if wanted else {}).items():
            base_chains = wanted[family][0]
            self._declared[family, base_chains.schema] = declared
            for name, compiled in rules.items():
                self._compiled[family, chain_of(base_chains, name).digest] = compiled

    def _missing(self, transaction: Transaction, live: Live) -> tuple[dict[Family, list[str]], list[Family]]:
        """The chains, and the families whose set declarations, that the transaction needs and only nft can make."""
        chains: dict[Family, list[str]] = {}
        for family, name in transaction.chains():
            digest = chain_of(transaction.base_chains[family], name).digest
            if (family, digest) in self._compiled:
                continue
            derived = self._derived(live, family, name)
            if derived is None:
                chains.setdefault(family, []).append(name)
            else:
                self._compiled[family, digest] = derived
        replaced = (table.base_chains for table in transaction.tables)
        return chains, [
            base_chains.family
            for base_chains in replaced
            if (base_chains.family, base_chains.schema) not in self._declared
        ]

    def _derived(self, live: Live, family: Family, name: str) -> CompiledChain | None:
        """`lb-N` or `pick-N`, where the one for 1 is known."""
        model = model_of(name)
        if model is None:
            return None
        compiled = self._compiled.get((family, balance_chain(family, model).digest))
        compiled = compiled or live_model(live.tables.get(family), family, model)
        return derive_chain(compiled, name) if compiled else None

    def _known(self, transaction: Transaction) -> Compiled:
        """Of what the transaction writes, all that is compiled."""
        chains = {}
        for family, name in transaction.chains():
            compiled = self._compiled.get((family, chain_of(transaction.base_chains[family], name).digest))
            if compiled is not None:
                chains[family, name] = compiled
        tables = {}
        for table in transaction.tables:
            family = table.base_chains.family
            declared = self._declared.get((family, table.base_chains.schema))
            if declared is not None:
                tables[family] = declared
        return Compiled(chains, tables)

    def _check_text(self, transaction: Transaction, live: Live) -> Compiled:
        """Shows nft what it would have to compile; what is known anyway, and empty chains for what is not."""
        missing, _ = self._missing(transaction, live)
        families = dict.fromkeys([*missing, *(table.base_chains.family for table in transaction.tables)])
        replaced = {table.base_chains.family: table for table in transaction.tables}
        commands = chain.from_iterable(
            text.render_table(replaced[family].base_chains, replaced[family].entries)
            if family in replaced
            else scratch_table_text(transaction.base_chains[family], missing[family])
            for family in families
        )
        self._scratch_table.check("".join(commands), list(families))
        known = self._known(transaction)
        unknown = {(family, name): CompiledChain(b"", ()) for family, names in missing.items() for name in names}
        return Compiled({**known.chains, **unknown}, known.tables)

    def _keep_in_front(self, family: Family) -> None:
        """Lets packets meet the table that is to be replaced before the one that replaces it.

        The kernel puts a new hook in front of others of its priority. A packet could pass it just before the new table
        is in force, and arrive at the old table's when that has gone.
        """
        try:
            copies = hooks_in_front(self._connection, family)
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
            self._keep_in_front(table.base_chains.family)
        last: list[Change] = []
        filled: list[Family] = []
        with self._own_load():
            try:
                for table in tables:
                    family = table.base_chains.family
                    body = chain(table.frame(), table.elements())
                    if self._connection.table(family, TABLE) is not None:
                        last += (DeleteTable(family), *body)
                    else:
                        filled.append(family)
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

    def _withdraw(self, families: Iterable[Family]) -> None:
        """Removes what was filled and will not be finished."""
        for family in families:
            with suppress(messages.KernelError):
                self._connection.commit([messages.delete_table(family, TABLE)])

    def _check_load(self, tables: Iterable[ReplaceTable], compiled: Compiled) -> None:
        """Each portion of elements together with the sets and rules; so does the last, with the hooks."""
        for table in tables:
            family = table.base_chains.family
            there = [DeleteTable(family)] if self._connection.table(family, TABLE) is not None else []
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

    def _check_namespace(self) -> None:
        """The socket stays where it was opened, but nft works wherever its caller is."""
        if _network_namespace() != self._namespace:
            raise AssertionError("a Kernel was opened in one network namespace and is used in another")


def _messages(changes: Iterable[Change], compiled: Compiled) -> list[Message]:
    return [Message(change, data) for change, data in netlink_messages(changes, compiled)]


def _loaded(table: ReplaceTable, compiled: Compiled) -> LiveTable:
    """What the kernel holds after a load."""
    family, base_chains = table.base_chains.family, table.base_chains
    declared_as = compiled.tables[family].listed_as
    live = LiveTable(base_chains.schema, declared_as, declared_as)
    for name in table.chains:
        written = compiled.chains[family, name]
        live.note(name, chain_of(base_chains, name).digest, written.declaration, list(written.rules))
    return live


def _note_chains(transaction: Transaction, compiled: Compiled, live: Live) -> None:
    """Follows in memory what a transaction did to the chains."""
    for change in chain.from_iterable(transaction.stages):
        if isinstance(change, DeleteTable):
            live.tables.pop(change.family, None)
        elif isinstance(change, WriteRules):
            written = compiled.chains[change.family, change.chain.name]
            table = live.tables[change.family]
            table.note(change.chain.name, change.chain.digest, written.declaration, list(written.rules))
        elif isinstance(change, DeleteChains):
            for name in change.names:
                live.tables[change.family].forget(name)


def _network_namespace() -> tuple[int, int]:
    status = os.stat("/proc/thread-self/ns/net")  # noqa: PTH116 - a Path resolves the link
    return status.st_dev, status.st_ino


def _check_version() -> None:
    """Raises HostError for a kernel that is too old."""
    release = os.uname().release
    if tuple(int(part) for part in re.findall(r"\d+", release)[:2]) < MINIMUM_KERNEL:
        raise AbsentError(f"rulegen needs Linux {'.'.join(map(str, MINIMUM_KERNEL))} or newer, this is {release}")
