"""Entries as a file that an administrator can read and `nft -f` can load, and such a file back as entries.

Canonical: the same entries give the same bytes. Pure.
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple, TypeVar

from rulegen.errors import InputError, shown
from rulegen.nftables.elements import EntryKey, SetSpec, Value, element_text, pack_register, parse_element
from rulegen.nftables.plain_elements import PlainElements
from rulegen.nftables.tables import BaseChains, Chain, Entries, TableSpec
from rulegen.reconcile.parts import parts_of
from rulegen.rendered import END, RenderedLines

Content = TypeVar("Content")

_ELEMENTS_LINE = re.compile(r"^add element (ip6? \S+) (\S+) \{$")
_REPLACED_LINE = re.compile(r"^delete table (\S+ \S+)$")
_TABLE_LINE = re.compile(r"^table (\S+ \S+) \{")
_SET_LINE = re.compile(r"^\t(?:set|map) (\S+) \{$")
_CHAIN_LINE = re.compile(r"^\tchain (\S+) \{$")


def render(base_chains: Mapping[TableSpec, BaseChains], entries: Mapping[EntryKey, Value]) -> Iterator[str]:
    """The whole ruleset as lines with their ends: loading it replaces rulegen's tables, and touches nothing else."""
    groups = group(entries)
    for chains in base_chains.values():
        yield from render_table(chains, groups)
    yield END


def render_table(base_chains: BaseChains, groups: Mapping[SetSpec, Mapping[bytes, Value]]) -> Iterator[str]:
    """One table; the first two lines make the file replace what is there, in the same transaction.

    Elements come after the fixed part: a rule that is added while its map is full costs the kernel a walk over the map.
    """
    spec, generated = base_chains.spec, base_chains.generated
    loaded = groups.get(spec.chains, {})
    chains = base_chains.generated_among(map(bytes.decode, loaded))
    sets = sorted(map(bytes.decode, groups.get(spec.declared, {})))
    yield f"add table {spec}\n"
    yield f"delete table {spec}\n"
    for line in base_chains.text.splitlines(keepends=True):
        if line == "}\n":
            for block in (*map(generated.set_text, sets), *map(generated.chain_text, chains)):
                yield "\n"
                yield from block.splitlines(keepends=True)
        yield line
    for set_spec in sets_of(spec, sets):
        if not set_spec.fixed:
            yield from _render_elements(set_spec, groups.get(set_spec, {}))
    notes = (fingerprint(spec, name, loaded[name.encode()].data.decode()) for name in (*base_chains.chains, *chains))
    yield from _render_elements(spec.fingerprints, dict(notes))


def sets_of(spec: TableSpec, names: Iterable[str]) -> list[SetSpec]:
    """The sets with entries: the fixed ones, and those of the others that have these names."""
    return [*spec.set_specs, *(found for name in names if (found := spec.set_named(name)) is not None)]


def group(entries: Mapping[EntryKey, Content]) -> dict[SetSpec, dict[bytes, Content]]:
    """Entries by set, or whatever has an entry's key."""
    groups: defaultdict[SetSpec, dict[bytes, Content]] = defaultdict(dict)
    for part in parts_of(entries).values():
        if isinstance(part, PlainElements):
            groups[part.set_spec].update(part.elements())  # type: ignore[arg-type] # what these have is values
            continue
        for (set_spec, key), value in part.items():
            groups[set_spec][key] = value
    return groups


def in_order(set_spec: SetSpec, elements: Mapping[bytes, Value]) -> list[tuple[bytes, Value]]:
    """The elements of a set in the order of their text."""
    keys = sorted(elements, key=set_spec.sort_key)
    return [(key, elements[key]) for key in keys]


def _render_elements(set_spec: SetSpec, elements: Mapping[bytes, Value]) -> Iterator[str]:
    if elements:
        yield f"add element {set_spec.ip} {set_spec.table} {set_spec.name} {{\n"
        for key, value in in_order(set_spec, elements):
            yield f"\t{element_text(set_spec, key, value)},\n"
        yield "}\n"


def fingerprint(spec: TableSpec, chain: str, loaded_from: str, loaded_as: str = "") -> tuple[bytes, Value]:
    """The element that says what a chain was loaded from (its text's digest) and, once known, as what it is listed."""
    if len(spec.fingerprints.key) == 1:
        key = pack_register(zlib.crc32(chain.encode()))
    else:
        key = sha256(chain.encode()).digest()[: spec.fingerprints.key_length]
    return key, Value(comment=f"{chain} {loaded_from} {loaded_as}".rstrip())


# ---- the other way ----


class Parsed(NamedTuple):
    """What is in a rendered file; `chains`: the text of those among the entries."""

    entries: Entries
    chains: Mapping[EntryKey, Chain]


def parse(lines: Iterable[str], source: str, specs: Sequence[TableSpec]) -> Parsed:
    """All of a file that `render` wrote. Raises InputError with the file's name and line."""
    reader = _Reader(specs)
    rendered = RenderedLines(lines, source)
    for number, line in enumerate(rendered, 1):
        try:
            reader.take(line.rstrip("\n"))
        except InputError as error:
            raise InputError(f"{source}:{number}: {error}") from error
    if reader.spec is None:
        raise InputError(f"{source}: expected a ruleset that `rulegen render` wrote, found no table of rulegen")
    rendered.check()
    return Parsed(reader.entries, reader.chains)


class _Reader:
    """Takes a rendered file line by line. `specs`: the tables that may be in it."""

    def __init__(self, specs: Sequence[TableSpec]) -> None:
        self.entries: Entries = {}
        self.chains: dict[EntryKey, Chain] = {}
        self.spec: TableSpec | None = None
        self._specs = {str(spec): spec for spec in specs}
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
        elif declared := _SET_LINE.match(line):
            self._take_set(declared[1])
        elif table := _TABLE_LINE.match(line):
            self._take_table(table[1])
        elif replaced := _REPLACED_LINE.match(line):
            self._replaced = replaced[1]
        elif started := _ELEMENTS_LINE.match(line):
            spec = self._specs.get(started[1])
            self._set_spec = None if spec is None else spec.set_named(started[2])
            if self._set_spec is None:
                raise InputError(f"expected a set or map that rulegen renders, got {started[2]!r}")

    def _take_table(self, table: str) -> None:
        """A listing begins with this line too; a rendered file says before that it replaces the table."""
        if table not in self._specs or self._replaced != table:
            raise InputError(
                f"expected what `rulegen render` writes, got table {shown(table)}: this looks like a listing of "
                "`nft list`, which does not say what the rules were made from"
            )
        self.spec = self._specs[table]
        for set_spec in self.spec.set_specs:
            self.entries.update(((set_spec, key), Value()) for key in set_spec.fixed)

    def _take_set(self, name: str) -> None:
        """Those of the fixed part are known."""
        if self.spec is not None and name not in self.spec.by_name:
            self.entries[self.spec.declared, name.encode()] = Value()

    def _take_element(self, set_spec: SetSpec, text: str) -> None:
        key, value = parse_element(set_spec, text)
        if self.spec is None or set_spec is not self.spec.fingerprints:
            self.entries[set_spec, key] = value

    def _take_rule(self, line: str) -> None:
        self._chain.append(line)
        if line == "\t}" and self.spec is not None:
            name = self._chain[0].split()[1]
            chain = Chain(name, "\n".join(self._chain))
            self.entries[self.spec.chains, name.encode()] = Value(chain.digest.encode())
            self.chains[self.spec.chains, name.encode()] = chain
            self._chain = []
