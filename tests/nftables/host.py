"""A network namespace in which rulegen's rules are loaded, damaged and read back.

Objects come in as in a manifest; what was sent to the kernel and what it then holds come out. Imported by the tests of
the nftables target; never touches the namespace of the tests.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from rulegen.config import Family, NodeConfiguration
from rulegen.demo.namespaces import NetworkNamespace
from rulegen.errors import HostError
from rulegen.nftables import text
from rulegen.nftables.elements import EntryKey, Value, data_text, key_text, unpack_register
from rulegen.nftables.kernel import Kernel
from rulegen.nftables.live import Live
from rulegen.nftables.messages import Connection
from rulegen.nftables.transaction import AddElements, DeleteElements, Transaction, plan
from rulegen.reconcile.delta import Delta, diff
from rulegen.services.on_nftables.compiler import Compiler, compile_ruleset
from rulegen.services.on_nftables.layout import SPECS
from rulegen.services.on_nftables.names import names_in
from rulegen.services.on_nftables.registers import LOCAL_LIST, id_of
from tests.builders import CONFIGURATION, Item, store

Entries = Mapping[EntryKey, Value]


def compiled(
    items: Iterable[Item], live: Entries | None = None, configuration: NodeConfiguration = CONFIGURATION
) -> Compiler:
    """The compiled objects; ids, slots and endpoint indexes are adopted from `live`."""
    made = store(*items, configuration=configuration)
    nodes = {family: node for family in configuration.families if (node := made.node_settings(family)) is not None}
    return compile_ruleset(made.service_ports(), nodes, configuration.masquerade_bit, live)


def rendered(compiler: Compiler) -> str:
    """What `rulegen render` prints."""
    return "".join(text.render(compiler.base_chains, compiler.entries()))


class Host:
    """A node's kernel. Its methods may be called from any thread, as long as it is one at a time."""

    def __init__(self, namespace: NetworkNamespace) -> None:
        self.namespace = namespace
        with self.namespace.entered():
            self.kernel = Kernel()
            self._connection = Connection()

    def close(self) -> None:
        """Lets go of the namespace."""
        self.kernel.close()
        self._connection.close()

    def nft(self, commands: str) -> str:
        """Runs nft commands; what they print."""
        run = self.run("nft", "-f", "-", input=commands)
        assert not run.returncode, f"{run.stderr}\n{commands[:2000]}"
        return run.stdout

    def run(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs a command in the namespace."""
        with self.namespace.entered():
            return subprocess.run(command, capture_output=True, text=True, check=False, **options)

    def read(self) -> Live:
        """What the kernel holds of rulegen's."""
        return self.kernel.read(SPECS)

    def generation(self) -> int:
        """How many transactions were ever committed in this namespace, by anybody."""
        return self._connection.generation()

    def delta(self, *items: Item) -> Delta[EntryKey, Value]:
        """What `rulegen diff` would print."""
        live = self.read()
        compiler = compiled(items, live.entries)
        desired = compiler.entries()
        with self.namespace.entered():
            self.kernel.prove(live, compiler.base_chains, desired)
        return diff(live.entries, desired)

    def apply(self, *items: Item) -> Transaction:
        """What `rulegen apply` does; the transaction that was committed."""
        live = self.read()
        transaction = self.plan(live, *items)
        self.commit(transaction, live)
        return transaction

    def plan(self, live: Live, *items: Item) -> Transaction:
        """What leads from `live` to the objects."""
        compiler = compiled(items, live.entries)
        desired = compiler.entries()
        with self.namespace.entered():
            self.kernel.prove(live, compiler.base_chains, desired)
        delta = diff(live.entries, desired)
        return plan(delta, live, compiler.base_chains, desired, self.kernel.retimed(delta, SPECS))

    def commit(self, transaction: Transaction, live: Live) -> None:
        """Sends a transaction."""
        with self.namespace.entered():
            self.kernel.commit(transaction, live)

    def clear(self) -> None:
        """Forgets all rules, everybody's."""
        self.nft("flush ruleset")


@contextmanager
def host_or_skip() -> Iterator[Host]:
    """A Host that ends with the block; the test is skipped where namespaces are not allowed."""
    try:
        namespace = NetworkNamespace()
    except HostError as error:
        pytest.skip(f"no namespace with rules here: {error}")
    with namespace, host_in(namespace) as host:
        yield host


@contextmanager
def host_in(namespace: NetworkNamespace) -> Iterator[Host]:
    """The Host of a namespace that is there, such as a lab's."""
    host = Host(namespace)
    try:
        yield host
    finally:
        host.close()


def elements_of(transaction: Transaction) -> list[str]:
    """The elements that a transaction adds and deletes, each as `+ ip map key`."""
    return [
        f"{'+' if isinstance(change, AddElements) else '-'} {change.set_spec.ip} {change.set_spec.name} "
        f"{key_text(change.set_spec, key)}"
        for stage in transaction.stages
        for change in stage
        if isinstance(change, AddElements | DeleteElements)
        for key, _ in change.elements
    ]


def lines_of(delta: Delta[EntryKey, Value]) -> list[str]:
    """A Delta as `+ ip map key`, `~` for what changes and `-` for what goes, sorted."""
    signed = (("+", delta.added), ("~", delta.changed), ("-", delta.removed))
    return sorted(
        f"{sign} {set_spec.ip} {set_spec.name} {key_text(set_spec, key)}"
        for sign, part in signed
        for set_spec, key in part
    )


# ---- the same, whatever the ids and slots ----

Meaning = dict[tuple[str, ...], list[str]]


def meaning(entries: Entries) -> Meaning:
    """What entries say, with names in place of ids, and without numbers of slots and endpoint indexes.

    Two rulesets that differ only in the choice of ids, in the order of slots within a list, and in endpoint indexes,
    are equal.
    """
    names = names_in(entries)
    endpoint_of = {
        (set_spec.family, unpack_register(key) & ~LOCAL_LIST): value.data
        for (set_spec, key), value in entries.items()
        if set_spec.name in {"sticky-endpoints", "sticky-local-endpoints"}
    }
    found: Meaning = {}
    for (set_spec, key), value in entries.items():
        data = data_text(set_spec, value.data) if set_spec.data or set_spec.is_chains else ""
        place = key_text(set_spec, key)
        if set_spec.name in _BY_REGISTER:
            place = _list_name(names, set_spec.family, key)
            if set_spec.name == "endpoint-indexes":
                data = endpoint_of[set_spec.family, unpack_register(value.data)].hex()
            elif set_spec.name == "slots":
                data = str(unpack_register(value.data) & (LOCAL_LIST - 1))
        elif set_spec.name in _TO_REGISTER:
            data = _frontend_name(names, set_spec.family, value.data)
        comment = "" if set_spec.name == "endpoint-indexes" else value.comment
        found.setdefault((set_spec.ip, set_spec.name, place), []).append(f"{data} {comment}")
    return {place: sorted(contents) for place, contents in found.items()}


_BY_REGISTER = {
    "slots",
    "lists",
    "endpoints",
    "sticky-lists",
    "endpoint-indexes",
    "sticky-endpoints",
    "sticky-local-endpoints",
}
_TO_REGISTER = {"frontends", "nodeports"}


def _list_name(names: Mapping[tuple[Family, int], str], family: Family, key: bytes) -> str:
    return f"{names[family, id_of(key)]} {'Local' if unpack_register(key) & LOCAL_LIST else 'Cluster'}"


def _frontend_name(names: Mapping[tuple[Family, int], str], family: Family, data: bytes) -> str:
    """Whose it is, if anybody's, and its kind or number of slots."""
    return f"{names.get((family, id_of(data)), '')} {unpack_register(data) & 0xFFF:x}"
