"""Entries without an object for each are the same entries."""

from __future__ import annotations

import pytest

from rulegen.config import Family
from rulegen.nftables.elements import EntryKey, Value
from rulegen.nftables.live import Live
from rulegen.nftables.plain_elements import PlainElements, difference, in_parts
from rulegen.nftables.rules import Compiled
from rulegen.nftables.tables import TableSpec
from rulegen.nftables.text import group
from rulegen.nftables.transaction import netlink_messages, plan
from rulegen.reconcile.delta import Change, Delta, diff
from rulegen.services.model import NodeSettings
from rulegen.services.on_nftables.base_chains import render_base_chains
from rulegen.services.on_nftables.layout import LAYOUTS

V4, V6 = LAYOUTS[Family.IPV4].endpoints, LAYOUTS[Family.IPV6].endpoints
DATA = {bytes((number,)) * 12: bytes((number,)) * 8 for number in range(5)}
ENTRIES: dict[EntryKey, Value] = {(V4, key): Value(data) for key, data in DATA.items()}


def test_they_are_the_same_entries() -> None:
    plain = PlainElements(V4, DATA)
    assert plain == ENTRIES
    assert list(plain.items()) == list(ENTRIES.items())
    assert plain == PlainElements(V4, dict(reversed(DATA.items())))
    assert plain != PlainElements(V6, DATA)
    assert plain != PlainElements(V4, {})
    assert plain.get((V6, bytes(12))) is None
    assert plain.get((V4, b"\xff" * 12)) is None
    assert group(in_parts({}, [(V4, plain)])) == group(ENTRIES)
    with pytest.raises(TypeError):
        hash(plain)


def test_what_differs_is_found_whichever_way_they_are_held() -> None:
    key, other, third = list(DATA)[:3]
    after = {**DATA, key: b"replaced"}
    del after[other]
    wanted = {(V4, key): Change(Value(DATA[key]), Value(b"replaced"))}, {(V4, other): Value(DATA[other])}
    for live in (in_parts({}, [(V4, PlainElements(V4, DATA))]), in_parts({}, [(V4, ENTRIES)]), ENTRIES):
        for compare in (diff, difference):
            delta = compare(live, in_parts({}, [(V4, PlainElements(V4, after))]))
            assert (delta.added, delta.changed, delta.removed) == ({}, *wanted)
    commented = {**ENTRIES, (V4, third): Value(DATA[third], "mine")}
    delta = difference(in_parts({}, [(V4, commented)]), in_parts({}, [(V4, PlainElements(V4, DATA))]))
    assert delta.changed == {(V4, third): Change(Value(DATA[third], "mine"), Value(DATA[third]))}


def test_a_load_sends_them_as_it_sends_the_same_entries_one_by_one() -> None:
    spec: TableSpec = LAYOUTS[Family.IPV4]
    node = NodeSettings(Family.IPV4, None, False, (), ())
    fixed = {spec: render_base_chains(node, 14, (), "")}
    chains: dict[EntryKey, Value] = {
        (spec.chains, name.encode()): Value(chain.digest.encode()) for name, chain in fixed[spec].chains.items()
    }
    plans = [
        plan(Delta(added), Live(), fixed)
        for added in (chains | ENTRIES, in_parts(chains, [(V4, PlainElements(V4, DATA))]))
    ]
    one_by_one, as_compiled = ([*once.tables[0].elements()] for once in plans)
    compiled = Compiled({}, {}, {})
    sent, sent_plain = (
        [bytes(data) for _, data in netlink_messages(changes, compiled)] for changes in (one_by_one, as_compiled)
    )
    assert sent == sent_plain
    assert len(sent) == 1
    assert list(map(str, one_by_one)) == list(map(str, as_compiled))
    # What nft is shown where it cannot compile apart has all of them, too.
    assert plans[0].tables[0].all_entries[V4] == plans[1].tables[0].all_entries[V4]
