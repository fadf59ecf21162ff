"""Entries as a file that an administrator can read and `nft -f` can load, and such a file back as entries.

Canonical: the same entries give the same bytes. Pure.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping

from rulegen.config import Family
from rulegen.errors import InputError
from rulegen.nftables.layout import (
    IP_KEYWORD,
    LAYOUTS,
    TABLE,
    Container,
    EntryKey,
    Value,
    element_text,
    pack_register,
    parse_element,
)
from rulegen.nftables.program import Program, balance_chain_text, digest, is_balance_chain

_BLOCK = re.compile(r"^\t(?:map|set) (\S+) \{$")
_TABLE_LINE = re.compile(r"^table (ip6?) rulegen \{$")
_CHAIN_LINE = re.compile(r"^\tchain (\S+) \{$")


def render(programs: Mapping[Family, Program], entries: Mapping[EntryKey, Value]) -> Iterator[str]:
    """The whole ruleset as lines with their newlines: loading it replaces rulegen's tables, and touches nothing else."""
    groups = group(entries)
    for family, program in programs.items():
        yield from render_table(program, groups)


def render_table(program: Program, groups: Mapping[Container, Mapping[bytes, Value]]) -> Iterator[str]:
    """One family's table; the first two lines make the file replace what is there, in the same transaction."""
    ip = IP_KEYWORD[program.family]
    layout = LAYOUTS[program.family]
    chains = balance_chains(groups.get(layout.chains, {}))
    yield f"add table {ip} {TABLE}\n"
    yield f"delete table {ip} {TABLE}\n"
    block = ""
    for line in program.text.splitlines(keepends=True):
        started = _BLOCK.match(line)
        if started:
            block = started[1]
        elif line == "\t}\n" and block:
            yield from _render_elements(layout.by_name[block], groups, [*program.chains, *chains])
            block = ""
        elif line == "}\n":
            for name in chains:
                yield "\n"
                yield from balance_chain_text(program.family, name).splitlines(keepends=True)
        yield line


def group(entries: Mapping[EntryKey, Value]) -> dict[Container, dict[bytes, Value]]:
    """Entries by container."""
    groups: dict[Container, dict[bytes, Value]] = {}
    for (container, key), value in entries.items():
        groups.setdefault(container, {})[key] = value
    return groups


def in_order(container: Container, elements: Mapping[bytes, Value]) -> list[tuple[bytes, Value]]:
    """The elements of a container in the order of their text."""
    return sorted(elements.items(), key=lambda item: container.sort_key(item[0]))


def balance_chains(chains: Iterable[bytes]) -> list[str]:
    """The names of the chains that exist once for each number, in order."""
    names = [name for name in map(bytes.decode, chains) if is_balance_chain(name)]
    return sorted(names, key=lambda name: (name.rpartition("-")[0], int(name.rpartition("-")[2])))


def _render_elements(
    container: Container, groups: Mapping[Container, Mapping[bytes, Value]], chains: list[str]
) -> Iterator[str]:
    elements = groups.get(container, {})
    if container is LAYOUTS[container.family].fingerprints:
        loaded = groups.get(LAYOUTS[container.family].chains, {})
        elements = dict(fingerprint(name, loaded[name.encode()].data.decode()) for name in chains)
    if elements:
        yield "\t\telements = {\n"
        for key, value in in_order(container, elements):
            yield f"\t\t\t{element_text(container, key, value)},\n"
        yield "\t\t}\n"


def fingerprint(chain: str, loaded_from: str, loaded_as: str = "") -> tuple[bytes, Value]:
    """The element that says what a chain was loaded from (its text's digest) and, once known, what the kernel made of it."""
    key = pack_register(zlib.crc32(chain.encode()))
    return key, Value(comment=f"{chain} {loaded_from} {loaded_as}".rstrip())


# ---- the other way ----


def parse(lines: Iterable[str], source: str) -> dict[EntryKey, Value]:
    """The entries of a file that `render` wrote. Raises InputError with the file's name and line."""
    entries: dict[EntryKey, Value] = {}
    family: Family | None = None
    block = chain = ""
    body: list[str] = []
    for number, line in enumerate(map(str.rstrip, lines), 1):
        table = _TABLE_LINE.match(line)
        if table:
            family = next(f for f, word in IP_KEYWORD.items() if word == table[1])
        if family is None:
            continue
        layout = LAYOUTS[family]
        if chain:
            body.append(line)
            if line == "\t}":
                entries[layout.chains, chain.encode()] = Value(digest("\n".join(body)).encode())
                chain = ""
        elif started := _CHAIN_LINE.match(line):
            chain, body = started[1], [line]
        elif started := _BLOCK.match(line):
            block = started[1]
        elif line.startswith("\t\t\t"):
            container = layout.by_name.get(block)
            if container is None:
                raise InputError(f"{source}:{number}: expected a set or map that rulegen renders, got {block!r}")
            try:
                key, value = parse_element(container, line.strip().removesuffix(","))
            except InputError as error:
                raise InputError(f"{source}:{number}: {error}") from error
            if container is not layout.fingerprints:
                entries[container, key] = value
    if family is None:
        raise InputError(f"{source}: expected a ruleset that `rulegen render` wrote, found no table of rulegen")
    return entries
