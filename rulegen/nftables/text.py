"""Entries as a file that an administrator can read and `nft -f` can load, and such a file back as entries.

Canonical: the same entries give the same bytes. Pure.
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from rulegen.config import Family
from rulegen.errors import InputError, shown
from rulegen.nftables.base_chains import BaseChains, balance_chain_text, digest, is_balance_chain
from rulegen.nftables.layout import (
    IP_KEYWORD,
    LAYOUTS,
    TABLE,
    EntryKey,
    Layout,
    SetSpec,
    Value,
    element_text,
    pack_register,
    parse_element,
)
from rulegen.rendered import END, RenderedLines

_ELEMENTS_LINE = re.compile(r"^add element (ip6?) rulegen (\S+) \{$")
_REPLACED_LINE = re.compile(r"^delete table (\S+ \S+)$")
_TABLE_LINE = re.compile(r"^table (\S+ \S+) \{")
_CHAIN_LINE = re.compile(r"^\tchain (\S+) \{$")


def render(base_chains: Mapping[Family, BaseChains], entries: Mapping[EntryKey, Value]) -> Iterator[str]:
    """The whole ruleset as lines with their ends: loading it replaces rulegen's tables, and touches nothing else."""
    groups = group(entries)
    for chains in base_chains.values():
        yield from render_table(chains, groups)
    yield END


def render_table(base_chains: BaseChains, groups: Mapping[SetSpec, Mapping[bytes, Value]]) -> Iterator[str]:
    """One family's table; the first two lines make the file replace what is there, in the same transaction.

    Elements come after the fixed part: a rule that is added while its map is full costs the kernel a walk over the map.
    """
    ip = IP_KEYWORD[base_chains.family]
    layout = LAYOUTS[base_chains.family]
    chains = balance_chains(groups.get(layout.chains, {}))
    yield f"add table {ip} {TABLE}\n"
    yield f"delete table {ip} {TABLE}\n"
    for line in base_chains.text.splitlines(keepends=True):
        if line == "}\n":
            for name in chains:
                yield "\n"
                yield from balance_chain_text(base_chains.family, name).splitlines(keepends=True)
        yield line
    for set_spec in layout.set_specs:
        if not set_spec.is_chains:
            yield from _render_elements(set_spec, groups.get(set_spec, {}))
    loaded = groups.get(layout.chains, {})
    notes = (fingerprint(name, loaded[name.encode()].data.decode()) for name in (*base_chains.chains, *chains))
    yield from _render_elements(layout.fingerprints, dict(notes))


def group(entries: Mapping[EntryKey, Value]) -> Mapping[SetSpec, dict[bytes, Value]]:
    """Entries by set."""
    groups: defaultdict[SetSpec, dict[bytes, Value]] = defaultdict(dict)
    for (set_spec, key), value in entries.items():
        groups[set_spec][key] = value
    return groups


def in_order(set_spec: SetSpec, elements: Mapping[bytes, Value]) -> list[tuple[bytes, Value]]:
    """The elements of a set in the order of their text."""
    order = set_spec.sort_key()
    keys = sorted(elements, key=order) if order else sorted(elements)
    return [(key, elements[key]) for key in keys]


def balance_chains(chains: Iterable[bytes]) -> list[str]:
    """The names of the chains that exist once for each number, in order."""
    names = [name for name in map(bytes.decode, chains) if is_balance_chain(name)]
    return sorted(names, key=lambda name: (name.rpartition("-")[0], int(name.rpartition("-")[2])))


def _render_elements(set_spec: SetSpec, elements: Mapping[bytes, Value]) -> Iterator[str]:
    if elements:
        yield f"add element {set_spec.ip} {TABLE} {set_spec.name} {{\n"
        for key, value in in_order(set_spec, elements):
            yield f"\t{element_text(set_spec, key, value)},\n"
        yield "}\n"


def fingerprint(chain: str, loaded_from: str, loaded_as: str = "") -> tuple[bytes, Value]:
    """The element that says what a chain was loaded from (its text's digest) and, once known, as what it is listed."""
    key = pack_register(zlib.crc32(chain.encode()))
    return key, Value(comment=f"{chain} {loaded_from} {loaded_as}".rstrip())


# ---- the other way ----


def parse(lines: Iterable[str], source: str) -> dict[EntryKey, Value]:
    """The entries of a file that `render` wrote, all of it. Raises InputError with the file's name and line."""
    reader = _Reader()
    rendered = RenderedLines(lines, source)
    for number, line in enumerate(rendered, 1):
        try:
            reader.take(line.rstrip("\n"))
        except InputError as error:
            raise InputError(f"{source}:{number}: {error}") from error
    if reader.layout is None:
        raise InputError(f"{source}: expected a ruleset that `rulegen render` wrote, found no table of rulegen")
    rendered.check()
    return reader.entries


class _Reader:
    """Takes a rendered file line by line."""

    def __init__(self) -> None:
        self.entries: dict[EntryKey, Value] = {}
        self.layout: Layout | None = None
        self._replaced = ""
        self._set_spec: SetSpec | None = None
        self._chain: list[str] = []

    def take(self, line: str) -> None:
        """Reads one line, without its end. Raises InputError."""
        if self._chain:
            self._take_rule(line)
        elif line == "}":
            self._set_spec = None
        elif self._set_spec is not None:
            self._take_element(self._set_spec, line.strip().removesuffix(","))
        else:
            self._begin(line)

    def _begin(self, line: str) -> None:
        """A line outside of elements and rules."""
        if _CHAIN_LINE.match(line):
            self._chain = [line]
        elif table := _TABLE_LINE.match(line):
            self._take_table(table[1])
        elif replaced := _REPLACED_LINE.match(line):
            self._replaced = replaced[1]
        elif started := _ELEMENTS_LINE.match(line):
            self._set_spec = _LAYOUT_OF[started[1]].by_name.get(started[2])
            if self._set_spec is None:
                raise InputError(f"expected a set or map that rulegen renders, got {started[2]!r}")

    def _take_table(self, table: str) -> None:
        """A listing begins with this line too; a rendered file says before that it replaces the table."""
        family, _, name = table.partition(" ")
        if name != TABLE or family not in _LAYOUT_OF or self._replaced != table:
            raise InputError(
                f"expected what `rulegen render` writes, got table {shown(table)}: this looks like a listing of "
                "`nft list`, which does not say what the rules were made from"
            )
        self.layout = _LAYOUT_OF[family]

    def _take_element(self, set_spec: SetSpec, text: str) -> None:
        key, value = parse_element(set_spec, text)
        if set_spec is not LAYOUTS[set_spec.family].fingerprints:
            self.entries[set_spec, key] = value

    def _take_rule(self, line: str) -> None:
        self._chain.append(line)
        if line == "\t}" and self.layout is not None:
            name = self._chain[0].split()[1]
            self.entries[self.layout.chains, name.encode()] = Value(digest("\n".join(self._chain)).encode())
            self._chain = []


_LAYOUT_OF = {word: LAYOUTS[family] for family, word in IP_KEYWORD.items()}
