"""However a map is read, the same is found: listed or looked up key by key, plain elements or others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from rulegen.config import Family
from rulegen.nftables import live
from rulegen.nftables.elements import SetSpec, Value
from rulegen.nftables.messages import Connection
from rulegen.services.on_nftables.layout import LAYOUTS, TABLE
from tests.nftables.host import Host, host_or_skip, lines_of
from tests.nftables.test_repair import EVERYTHING

pytestmark = pytest.mark.kernel

V4 = LAYOUTS[Family.IPV4]
LookedUp = Callable[[], list[str]]


@pytest.fixture
def host() -> Iterator[Host]:
    with host_or_skip() as made:
        made.apply(*EVERYTHING)
        yield made


@pytest.fixture
def looked_up(host: Host, monkeypatch: pytest.MonkeyPatch) -> LookedUp:
    """Every map is large enough to be looked up; which were, and of which all was found."""
    if host.read().tables[LAYOUTS[Family.IPV4]].sizes["endpoints"] is None:
        pytest.skip("this kernel does not say how many elements a map has")
    found: list[str] = []
    look_up = Connection.found

    def noted(self: Connection, set_spec: SetSpec, keys: Sequence[bytes]) -> list[bytes]:
        lists = look_up(self, set_spec, keys)
        if any(lists):
            found.append(f"{set_spec.ip} {set_spec.name}")
        return lists

    monkeypatch.setattr(Connection, "found", noted)

    def take() -> list[str]:
        taken = found.copy()
        found.clear()
        return taken

    return take


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "add element ip rulegen endpoints { 8070:7000 . tcp . 7 : 10.0.0.1 . 80 }",
        'add element ip rulegen endpoints { 8070:7000 . tcp . 7 comment "mine" : 10.0.0.1 . 80 }',
        "add element ip rulegen hairpin { 0x1 . 0x2 }",
        'add element ip rulegen hairpin { 0xff . 0xfe comment "mine" }',
        "flush map ip rulegen endpoints",
        "flush set ip rulegen hairpin",
        "delete element ip rulegen hairpin { 0x7 . 0x7 }",
    ],
)
def test_key_by_key_the_same_is_found(
    host: Host, looked_up: LookedUp, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    if damage:
        host.nft(damage)
    listed = host.read().entries
    assert looked_up() == []
    monkeypatch.setattr(live, "_LARGE", 1)
    assert host.read().entries == listed
    assert ("ip6 endpoints" in looked_up()) is True
    host.apply(*EVERYTHING)
    assert lines_of(host.delta(*EVERYTHING)) == []


def test_a_guess_that_misses_much_costs_nothing_but_time(
    host: Host, looked_up: LookedUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = host.read().entries
    monkeypatch.setattr(live, "_LARGE", 1)
    for keys in ([b"\x01" * 12] * 200, [], [key for of, key in listed if of is V4.endpoints][1:]):
        monkeypatch.setattr(V4, "likely_keys", lambda of, _, keys=keys: keys if of is V4.endpoints else [])
        assert host.read().entries == listed


def test_those_that_are_there_are_found_among_others(host: Host) -> None:
    there = [(key, value) for (of, key), value in host.read().entries.items() if of is V4.endpoints]
    missing = [bytes(10) + bytes((number, 1)) for number in range(200)]
    keys = [key for pair in zip(missing, [key for key, _ in there] * 40, strict=False) for key in pair]
    with host.namespace.entered(), Connection() as connection:
        assert connection.lookup(V4.endpoints, keys) == (there * 40)[: len(keys) // 2]


@pytest.mark.parametrize("set_spec", [c for c in V4.sets if not c.interval], ids=repr)
def test_plain_elements_and_others_are_unpacked_alike(host: Host, set_spec: SetSpec) -> None:
    def both() -> tuple[list[tuple[bytes, Value]], list[tuple[bytes, Value]]]:
        with host.namespace.entered(), Connection() as connection:
            slowly = [(e.key, e.value) for e in connection.elements(Family.IPV4, TABLE, set_spec.name)]
            return list(connection.entries(set_spec)), slowly

    quickly, slowly = both()
    assert quickly == slowly
    if set_spec.name == "hairpin":
        host.nft('add element ip rulegen hairpin { 0x7 . 0x8 comment "mine", 0x8 . 0x7 }')
        quickly, slowly = both()
        assert quickly == slowly
        assert (bytes((7, 0, 0, 0, 8, 0, 0, 0)), Value(comment="mine")) in quickly
