"""Entries as bytes, as text, and as a file: each way back leads to the same entries."""

from __future__ import annotations

import re
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject, DrawFn

from rulegen.config import Family
from rulegen.errors import InputError
from rulegen.nftables import text
from rulegen.nftables.elements import MAX_COMMENT, Field, SetSpec, Value, element_text, parse_element, safe_comment
from rulegen.nftables.messages import Connection
from rulegen.services.on_nftables.layout import LAYOUTS, SPECS
from tests.builders import Item, endpoint_slice, service
from tests.nftables.clusters import clusters
from tests.nftables.host import Host, compiled, rendered

SET_SPECS = [c for layout in LAYOUTS.values() for c in layout.sets]
PROTOCOLS = [6, 17, 132, 41]
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=()), max_size=300)


@st.composite
def _field(draw: DrawFn, field: Field) -> bytes:
    match field:
        case Field.PROTOCOL:
            return bytes((draw(st.sampled_from(PROTOCOLS)), 0, 0, 0))
        case Field.BYTE:
            return bytes((draw(st.integers(0, 255)), 0, 0, 0))
        case Field.PORT:
            return draw(st.integers(0, 65535)).to_bytes(2, "big") + bytes(2)
        case _:
            return draw(st.binary(min_size=field.length, max_size=field.length))


@st.composite
def _fields(draw: DrawFn, fields: tuple[Field, ...]) -> bytes:
    return b"".join(draw(_field(field)) for field in fields)


@st.composite
def _entry(draw: DrawFn, set_spec: SetSpec) -> tuple[bytes, Value]:
    key = draw(_fields(set_spec.key))
    if set_spec.interval:
        exact, ranged = key[: -set_spec.key[-1].length], set_spec.key[-1].length
        first, last = sorted(draw(st.binary(min_size=ranged, max_size=ranged)) for _ in range(2))
        key = exact + first + exact + last
    if set_spec.is_verdict_map:
        data = b"%s %s-%d" % (
            draw(st.sampled_from([b"goto", b"jump"])),
            draw(st.sampled_from([b"lb", b"sticky-local"])),
            draw(st.integers(1, 86400)),
        )
    else:
        data = draw(_fields(set_spec.data))
    return key, Value(data, safe_comment(draw(NAMES)))


@pytest.mark.parametrize("set_spec", SET_SPECS, ids=repr)
@given(data=st.data())
@settings(max_examples=25)
def test_an_element_is_read_back_from_its_text(set_spec: SetSpec, data: DataObject) -> None:
    key, value = data.draw(_entry(set_spec))
    assert parse_element(set_spec, element_text(set_spec, key, value)) == (key, value)


@pytest.mark.parametrize(
    ("set_spec", "line"),
    [
        ("frontends", "10.96.0.1 . tcp . 80"),
        ("frontends", "10.96.0.1 . tcp . 80 : nonsense"),
        ("frontends", "10.96.0.1 . tcp : 8000:1000"),
        ("frontends", "10.96.0.1 . tcp . 70000 : 8000:1000"),
        ("frontends", "10.96.0.999 . tcp . 80 : 8000:1000"),
        ("frontends", "10.96.0.1 . icmp6 . 80 : 8000:1000"),
        ("frontends", "10.96.0.1 . 300 . 80 : 8000:1000"),
        ("frontends", '10.96.0.1 . tcp . 80 comment "a" b" : 8000:1000'),
        ("frontends", "10.96.0.1 . tcp . 80 : 18000:1000"),
        ("endpoints", "8000:1000 . tcp . -1 : 10.0.0.1 . 80"),
        ("hairpin", "0x1 . 0x1 : 1"),
        ("hairpin", "0x100 . 0x100"),
        ("hairpin", "1 . 1 . 1"),
        ("cluster-ips", ""),
        ("cluster-ips", "fd00::1"),
        ("service-cidrs", "10.0.0.0/33"),
        ("service-cidrs", "10.0.0.9-"),
        ("service-cidrs", "fd00::/64"),
        ("source-ranges", "10.0.0.1 . tcp . 80"),
        ("balancers", "0:3 : explode lb-3"),
    ],
)
def test_what_is_no_element_is_refused_in_a_line(set_spec: str, line: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_element(LAYOUTS[Family.IPV4].by_name[set_spec], line)
    assert "\n" not in str(raised.value)


@given(name=NAMES)
def test_a_comment_cannot_end_its_string(name: str) -> None:
    comment = safe_comment(name)
    assert re.fullmatch(r"[A-Za-z0-9._:/?~ -]*", comment)
    assert len(comment.encode()) <= MAX_COMMENT


def test_hostile_names_stay_apart() -> None:
    names = [
        'a"b',
        "a'b",
        "a\nb",
        "a\\b",
        "a}b",
        "a{b",
        "a;b",
        "a#b",
        "a$b",
        "a\x00b",
        "aüb",
        "a\x7fb",
        "a?b",
        "\ud800",
    ]
    names += ["x" * 127, "x" * 128, "x" * 129, "x" * 5000]
    assert len({safe_comment(name) for name in names}) == len(names)


def test_chains_are_noted_under_keys_of_their_own() -> None:
    numbers = [f"{kind}-{number}" for kind in ("lb", "pick") for number in range(1, 4097)]
    timeouts = [f"{kind}-{number}" for kind in ("sticky", "sticky-local") for number in range(1, 86401)]
    base_chains = list(compiled([]).base_chains[LAYOUTS[Family.IPV4]].chains)
    names = (*base_chains, *numbers, *timeouts)
    assert len({zlib.crc32(name.encode()) for name in names}) == len(names)


# ---- files ----


@given(items=clusters())
@settings(max_examples=40, deadline=None)
def test_a_rendered_file_is_read_back(items: list[Item]) -> None:
    compiler = compiled(items)
    lines = rendered(compiler).splitlines(keepends=True)
    assert text.parse(lines, "rules.nft", SPECS).entries == compiler.entries()


@given(items=clusters(), data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_input_does_not_show(items: list[Item], data: DataObject) -> None:
    assert rendered(compiled(data.draw(st.permutations(items)))) == rendered(compiled(items))


@given(items=clusters())
@settings(max_examples=40, deadline=None)
def test_no_two_elements_have_one_key(items: list[Item]) -> None:
    lines = rendered(compiled(items)).splitlines()
    set_spec, keys = "", set()
    for line in lines:
        if line.startswith("add element"):
            set_spec = line
        elif line.startswith("\t") and line.endswith(",") and set_spec:
            key = (set_spec, re.split(r" comment | : ", line)[0])
            assert key not in keys
            keys.add(key)
    assert len(keys) > 40


@given(items=clusters())
@settings(max_examples=40, deadline=None)
def test_a_restart_adopts_what_is_live(items: list[Item]) -> None:
    live = compiled(items).entries()
    assert compiled(items, live).entries() == live


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("add element ip rulegen frontends {", "add element ip rulegen frontend {"),
        ("10.96.0.10 . tcp . 80", "10.96.0.10 . tcp"),
        ("table ip rulegen {", "table ip other {"),
    ],
)
def test_a_file_that_was_changed_by_hand_is_refused_with_its_line(old: str, new: str) -> None:
    content = rendered(compiled([service(), endpoint_slice(["10.128.0.1"])]))
    assert old in content
    broken = content.replace(old, new)
    if new.startswith("table"):
        broken = broken.replace("table ip6 rulegen {", "table ip6 other {")
    with pytest.raises(InputError, match=r"^rules\.nft:"):
        text.parse(broken.splitlines(keepends=True), "rules.nft", SPECS)


@pytest.mark.kernel
@pytest.mark.parametrize("family", Family)
def test_the_template_declares_what_the_layout_says(host: Host, family: Family) -> None:
    host.nft(rendered(compiled([])))
    with host.namespace.entered(), Connection() as connection:
        sets = {info.name: info for info in connection.sets(family, "rulegen")}
        chains = {info.name for info in connection.chains(family, "rulegen")}
    assert sets.keys() == LAYOUTS[family].by_name.keys()
    for set_spec in LAYOUTS[family].sets:
        info = sets[set_spec.name]
        assert info.key_length == set_spec.key_length, set_spec
        assert set_spec.is_verdict_map or info.data_length == set_spec.data_length, set_spec
        assert bool(info.flags & 0x4) == set_spec.interval, set_spec
    assert chains == {key.decode() for of, key in compiled([]).entries() if of is LAYOUTS[family].chains}


@given(number=st.integers(0, 2**128 - 1), other=st.integers(0, 2**128 - 1))
def test_a_range_of_addresses_is_read_back(number: int, other: int) -> None:
    set_spec = LAYOUTS[Family.IPV6].service_cidrs
    first, last = sorted((number, other))
    key = first.to_bytes(16, "big") + last.to_bytes(16, "big")
    assert parse_element(set_spec, element_text(set_spec, key, Value())) == (key, Value())
