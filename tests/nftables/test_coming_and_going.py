"""Sets and chains that come and go with the cluster, as those of selectors do, in a real kernel."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import pytest

from rulegen.config import Family
from rulegen.errors import TargetError
from rulegen.nftables.elements import EntryKey, Field, SetSpec, Value, address_bytes
from rulegen.nftables.live_rules import LiveTables
from rulegen.nftables.nft_process import NftProcess
from rulegen.nftables.tables import BaseChains, Chain, Entries, TableSpec, assembled
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.delta import Delta, diff
from rulegen.reference import ObjectReference
from tests.nftables.host import Host, host_or_skip

pytestmark = pytest.mark.kernel

_SETS = """\
	# an address and the chain of its rules
	map by-address {
		typeof ip daddr : verdict
	}
"""
_CHAINS = """\
	chain forward {
		type filter hook forward priority -5; policy accept;
		ip daddr vmap @by-address
	}
"""


class RuleTable(TableSpec):
    compiles_often = True

    def __init__(self) -> None:
        super().__init__(Family.IPV4, "rulegen-rules")
        self.by_address = self.add_set("by-address", (Field.IPV4,), (Field.VERDICT,))
        self._pods: dict[str, SetSpec] = {}

    def set_named(self, name: str) -> SetSpec | None:
        if not name.startswith("pods-"):
            return super().set_named(name)
        if name not in self._pods:
            self._pods[name] = SetSpec(self, 100, name, ((Field.IPV4,), ()))
        return self._pods[name]


class Texts:
    """The chains `rules/NAME` and the sets that they look into; see `Generated`."""

    required: Sequence[str] = ()

    def __init__(self) -> None:
        self.chains: dict[str, str] = {}

    def chain(self, name: str) -> Chain:
        return Chain(name, self.chain_text(name).partition("\n")[2])

    def chain_text(self, name: str) -> str:
        return f"\t# whose rules these are\n\tchain {name} {{\n{self.chains[name]}\t}}\n"

    def set_text(self, name: str) -> str:
        return f"\tset {name} {{\n\t\ttypeof ip saddr\n\t}}\n"

    def model(self, _: str) -> str | None:
        return None


TABLE = RuleTable()


class Rules:
    """An item is the addresses that may send to an address, and the next item, whose rules are asked first."""

    specs: Sequence[TableSpec] = (TABLE,)

    def __init__(self) -> None:
        self._texts = Texts()
        self._fixed = assembled(TABLE, _SETS, _CHAINS, self._texts)
        self._items: dict[str, tuple[Collection[str], str]] = {}

    @property
    def base_chains(self) -> Mapping[TableSpec, BaseChains]:
        return {TABLE: self._fixed} if self._items else {}

    def adopt(self, live: Entries, unreadable: Collection[ObjectReference]) -> None:
        del live, unreadable

    def update(self, items: Mapping[str, Any], context: None) -> tuple[Delta[EntryKey, Value], dict[str, TargetError]]:
        del context
        before = self.entries()
        for address, item in items.items():
            self._items.pop(address, None)
            if item is not None:
                self._items[address] = item
        return diff(before, self.entries()), {}

    def entries(self) -> Entries:
        entries: Entries = {}
        for address in self._items:
            entries |= self.entries_of(address)
        for name, chain in self._fixed.chains.items() if self._items else ():
            entries[TABLE.chains, name.encode()] = Value(chain.digest.encode())
        return entries

    def entries_of(self, item_id: str) -> Entries:
        sources, before = self._items[item_id]
        pods = TABLE.set_named(f"pods-{sha256(','.join(sorted(sources)).encode()).hexdigest()[:12]}")
        assert pods is not None
        chain = f"rules/{item_id}"
        jump = f"\t\tjump rules/{before}\n" if before else ""
        self._texts.chains[chain] = f"{jump}\t\tip saddr @{pods.name} accept\n\t\tdrop\n"
        entries: Entries = {(pods, address_bytes(Family.IPV4, source)): Value() for source in sources}
        entries[TABLE.declared, pods.name.encode()] = Value()
        entries[TABLE.chains, chain.encode()] = Value(self._texts.chain(chain).digest.encode())
        entries[TABLE.by_address, address_bytes(Family.IPV4, item_id)] = Value(f"goto {chain}".encode())
        return entries

    def entries_without(self, item_ids: Collection[str]) -> Entries:
        raise NotImplementedError

    def spare(self, delta: Delta[EntryKey, Value]) -> Delta[EntryKey, Value]:
        return delta

    def owners(self, live: Entries) -> Callable[[Any, Any], str]:
        del live
        return lambda _key, _value: ""


class Scene:
    def __init__(self, host: Host) -> None:
        self.host = host
        self.begin()

    def begin(self) -> None:
        self.rules = LiveTables(self.host.kernel, CompilerSet({"rules": Rules()}))

    def sync(self, items: Mapping[str, Any], *, whole: bool = False) -> list[str]:
        """What was changed."""
        if whole:
            self.rules.read()
        delta, _ = self.rules.update({"rules": items}, {})
        with self.host.namespace.entered():
            if whole:
                delta = self.rules.difference()
            if delta:
                self.rules.apply(delta)
        lines = [change.text for change in self.rules.changes(delta)]
        self.rules.settle()
        return lines

    def listed(self) -> str:
        return self.host.nft("list table ip rulegen-rules")


@pytest.fixture
def scene() -> Iterator[Scene]:
    with host_or_skip() as host:
        yield Scene(host)


ONE = {"10.1.0.1": (("10.2.0.1", "10.2.0.2"), "")}
TWO = {"10.1.0.2": (("10.2.0.3",), "10.1.0.1")}


def test_they_come_and_go_in_changes_and_are_found_again(scene: Scene) -> None:
    assert scene.sync(ONE, whole=True)
    listed = scene.listed()
    # Another one, with a set of its own, whose chain leads to the one that is there.
    changes = scene.sync(TWO)
    assert sorted(line.split()[3].partition("-")[0] for line in changes) == ["by", "chain", "pods", "set"]
    both = scene.listed()
    assert "jump rules/10.1.0.1" in both
    scene.begin()
    assert scene.sync({**ONE, **TWO}, whole=True) == []
    assert scene.listed() == both
    # A change of the set's members is another set, in which the chain looks.
    changes = scene.sync({"10.1.0.2": (("10.2.0.3", "10.2.0.4"), "")})
    assert sum(line.startswith("~") for line in changes) == 1
    assert "jump" not in scene.listed()
    scene.sync({"10.1.0.2": None})
    assert scene.listed() == listed
    scene.sync({"10.1.0.1": None})
    assert "rulegen-rules" not in scene.host.nft("list tables")


def test_nft_is_started_once_and_anew_when_it_has_ended(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[NftProcess] = []
    start = NftProcess.__init__

    def noted(self: NftProcess, *, alone: bool) -> None:
        started.append(self)
        start(self, alone=alone)

    monkeypatch.setattr(NftProcess, "__init__", noted)
    scene.sync(ONE, whole=True)
    for number in range(3, 8):
        scene.sync({f"10.1.0.{number}": ((f"10.2.0.{number}",), "10.1.0.1")})
    assert len(started) == 1
    started[0].worker.process.kill()
    started[0].worker.process.wait()
    scene.sync(TWO)
    assert len(started) == 2
    scene.begin()
    assert scene.sync({**ONE, **TWO}, whole=True)
    scene.host.kernel.close()
    assert not started[1].is_alive()


def test_a_rendered_file_has_them(scene: Scene) -> None:
    from rulegen.nftables import text

    compilers = CompilerSet({"rules": Rules()})
    compilers.update({"rules": {**ONE, **TWO}}, {})
    base_chains = compilers.by_feature["rules"].base_chains  # type: ignore[attr-defined]
    lines = [*text.render(base_chains, compilers.entries())]
    assert text.parse(lines, "file", [TABLE]).entries == compilers.entries()
    scene.host.nft("".join(lines))
    assert scene.sync({**ONE, **TWO}, whole=True) == []


@pytest.mark.parametrize(
    "damage",
    [
        "add set ip rulegen-rules pods-0123456789ab { type ipv4_addr; }",
        "add set ip rulegen-rules pods-0123456789ab { type ipv6_addr; }",
        "flush set ip rulegen-rules {pods}",
        "flush chain ip rulegen-rules rules/10.1.0.1",
        "flush map ip rulegen-rules by-address",
        "flush chain ip rulegen-rules forward\nflush map ip rulegen-rules by-address\n"
        "delete chain ip rulegen-rules rules/10.1.0.1\ndelete set ip rulegen-rules {pods}",
    ],
)
def test_damage_is_repaired(scene: Scene, damage: str) -> None:
    scene.sync(ONE, whole=True)
    listed = scene.listed()
    pods = next(word for word in listed.split() if word.startswith("pods-"))
    scene.host.nft(damage.replace("{pods}", pods))
    scene.begin()
    assert scene.sync(ONE, whole=True)
    assert sorted(scene.listed().splitlines()) == sorted(listed.splitlines())
