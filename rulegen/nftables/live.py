"""The tables that the kernel holds, read back into entries.

In: a netlink connection. Out: `Live`: entries as the compiler makes them, and what is needed to change chains. A chain
counts as what its fingerprint says it was loaded from, as long as the kernel still holds what it made of that text
then; so neither the version of nft that wrote a rule nor the one that would list it matters. Where a fingerprint does
not say what the kernel made of a text, as in a table that `nft -f` loaded, `unproven` and `prove` do. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from struct import calcsize

from rulegen.errors import HostError
from rulegen.netlink.messages import attribute, attributes, text_attribute
from rulegen.netlink.nf_tables import (
    EXPRESSION_NAME,
    LIST_ITEM,
    SET_ANONYMOUS,
    SET_CONCATENATION,
    SET_DYNAMIC,
    SET_INTERVAL,
    SET_MAP,
    SET_OBJECT_MAP,
    SET_TIMEOUT,
)
from rulegen.nftables import messages
from rulegen.nftables.elements import EntryKey, Field, SetSpec, Value
from rulegen.nftables.messages import (
    Connection,
    Element,
    InterruptedDumpError,
    KernelError,
    entries_in,
    plain_data_in,
)
from rulegen.nftables.plain_elements import PlainElements, in_parts
from rulegen.nftables.tables import AllEntries, Entries, TableSpec

ALTERED = Value(b"altered")
# Among the fingerprints, which are of chains, that of the declarations of the sets.
SETS = "(sets)"
_SCHEMA_COMMENT = "rulegen schema "
_ATTEMPTS = 20
# From so many elements on, looking up each costs less than a listing.
_LARGE = 150_000
_VERDICT_LENGTH = 2 * calcsize("P")  # the kernel's own structure: a code, and a pointer to the chain
# ENOENT, ENOBUFS: a table that another program just removed; a listing that outran its reader.
_GONE_MEANWHILE = {2, 105}


@dataclass
class Fingerprint:
    """What a chain was loaded from, and as what the kernel listed it afterwards ("": not known)."""

    loaded_from: str
    loaded_as: str


@dataclass
class LiveTable:
    """A feature's table in one family. `schema`: the digest of its set declarations, "" when they are not rulegen's.

    `declared_as`: the digest of what the kernel lists of them, `noted_as` the same as it was when they were loaded ("":
    not known). `foreign`: by kind and name, with the kernel's number of the kind, what is none of rulegen's. `sizes`:
    how many elements a set had, None on a kernel that does not say. By chain: `fingerprints`, `rules` and
    `declarations` (its hook, empty without one) as the kernel holds them, and `listed_as`, the digest of these two.
    """

    schema: str
    declared_as: str = ""
    noted_as: str = ""
    foreign: dict[str, int] = field(default_factory=dict)
    sizes: Mapping[str, int | None] = field(default_factory=dict)
    fingerprints: dict[str, Fingerprint] = field(default_factory=dict)
    rules: dict[str, list[bytes]] = field(default_factory=dict)
    listed_as: dict[str, str] = field(default_factory=dict)
    declarations: dict[str, bytes] = field(default_factory=dict)

    def note(self, name: str, loaded_from: str, declaration: bytes, rules: list[bytes]) -> None:
        """Follows a chain that was written."""
        listed_as = listing_digest(declaration, rules)
        self.fingerprints[name] = Fingerprint(loaded_from, listed_as)
        self.listed_as[name] = listed_as
        self.declarations[name] = declaration
        self.rules[name] = rules

    @property
    def is_declared(self) -> bool:
        """Whether it is known what the kernel made of the declarations of the sets."""
        return bool(self.noted_as)

    def forget(self, name: str) -> None:
        """Follows a chain that was deleted."""
        for mapping in (self.fingerprints, self.listed_as, self.declarations, self.rules):
            mapping.pop(name, None)


@dataclass
class Live:
    """What the kernel holds of ours. A table with a foreign schema has no entries: it can only be replaced.

    `large`: the entries of large maps, by map; `small`: all others.
    """

    tables: dict[TableSpec, LiveTable] = field(default_factory=dict)
    small: Entries = field(default_factory=dict)
    large: dict[SetSpec, AllEntries] = field(default_factory=dict)

    @property
    def entries(self) -> AllEntries:
        """All of them."""
        return in_parts(self.small, self.large.items())


def read(connection: Connection, specs: Sequence[TableSpec]) -> Live:
    """Reads those of the tables that are there. Raises HostError when the ruleset keeps changing or may not be read."""
    for _ in range(_ATTEMPTS):
        try:
            return _read(connection, specs)
        except InterruptedDumpError:
            continue
        except KernelError as error:
            if error.number not in _GONE_MEANWHILE:
                raise HostError(f"cannot read the nftables ruleset: {error}") from error
    raise HostError(f"the ruleset changed during each of {_ATTEMPTS} attempts to read it")


def _read(connection: Connection, specs: Sequence[TableSpec]) -> Live:
    live = Live()
    for spec in specs:
        table = read_table(connection, spec)
        if table is None:
            continue
        live.tables[spec] = table
        if table.schema:
            _read_entries(connection, spec, live)
    return live


def read_table(connection: Connection, spec: TableSpec) -> LiveTable | None:
    """The table's chains, without its elements. Raises InterruptedDumpError, KernelError."""
    family, name = spec.family, spec.name
    try:
        info = connection.table(family, name)
    except KernelError as error:
        if error.number in _NO_SUCH_FAMILY:
            return None
        raise
    if info is None:
        return None
    sets = {found.name: found for found in connection.sets(family, name)}
    if info.is_dormant or not info.comment.startswith(_SCHEMA_COMMENT) or not _has_sets(spec, sets):
        return LiveTable("")
    declared_as = declarations_digest(sets[set_spec.name].declaration for set_spec in spec.sets)
    table = LiveTable(info.comment.removeprefix(_SCHEMA_COMMENT), declared_as)
    table.foreign = _foreign(connection, spec, sets)
    table.sizes = {name: found.elements for name, found in sets.items()}
    table.fingerprints = dict(_fingerprints(connection.elements(family, name, spec.fingerprints.name)))
    table.noted_as = table.fingerprints.pop(SETS, Fingerprint("", "")).loaded_as
    if table.is_declared and table.noted_as != declared_as:
        return LiveTable("")
    for rule in connection.rules(family, name):
        table.rules.setdefault(rule.chain, []).append(rule.expressions)
    for chain in connection.chains(family, name):
        table.declarations[chain.name] = chain.declaration
        table.listed_as[chain.name] = listing_digest(chain.declaration, table.rules.get(chain.name, []))
    return table


# EAFNOSUPPORT, EOPNOTSUPP: a kernel without IPv6.
_NO_SUCH_FAMILY = {97, 95}


def listing_digest(declaration: bytes, rules: Iterable[bytes]) -> str:
    """Names a chain as the kernel lists it."""
    state = sha256(declaration)
    for rule in map(without_counts, rules):
        state.update(len(rule).to_bytes(4, "big") + rule)
    return state.hexdigest()[:16]


_COUNTER = text_attribute(EXPRESSION_NAME, "counter")


def without_counts(rule: bytes) -> bytes:
    """A rule's expressions without what its counter has counted."""
    if _COUNTER not in rule:
        return rule
    expressions = (expression for _, expression in attributes(rule))
    return b"".join(_COUNTER if item.startswith(_COUNTER) else attribute(LIST_ITEM, item) for item in expressions)


def declarations_digest(declarations: Iterable[bytes]) -> str:
    """Names sets as the kernel lists their declarations, in whatever order."""
    return listing_digest(b"", sorted(declarations))


def _has_sets(spec: TableSpec, sets: Mapping[str, messages.SetInfo]) -> bool:
    """Whether all that the fixed text declares is there, and what comes and goes is as its name says."""
    if any(set_spec.name not in sets for set_spec in spec.sets):
        return False
    return all(
        info[1:5] == _set_info(set_spec)
        for name, info in sets.items()
        if (set_spec := spec.set_named(name)) is not None
    )


# linux/netfilter/nf_tables.h, NFT_OBJECT_*.
_OBJECT_WORDS = {
    1: "counter",
    2: "quota",
    3: "ct helper",
    4: "limit",
    5: "connlimit",
    6: "tunnel",
    7: "ct timeout",
    8: "secmark",
    9: "ct expectation",
    10: "synproxy",
}
SET_WORDS = ("set", "map")
FLOWTABLE_WORD = "flowtable"


def _foreign(connection: Connection, spec: TableSpec, sets: Mapping[str, messages.SetInfo]) -> dict[str, int]:
    """Sets without a name belong to a rule, and go with it."""
    found = {
        f"{SET_WORDS[bool(info.flags & (SET_MAP | SET_OBJECT_MAP))]} {name}": 0
        for name, info in sets.items()
        if not info.flags & SET_ANONYMOUS and spec.set_named(name) is None
    }
    for kind, name in connection.objects(spec.family, spec.name):
        found[f"{_OBJECT_WORDS.get(kind, f'object-{kind}')} {name}"] = kind
    return found | {f"{FLOWTABLE_WORD} {name}": 0 for name in connection.flowtables(spec.family, spec.name)}


def _set_info(set_spec: SetSpec) -> tuple[int, int, int, int]:
    """What the kernel says of a set or map that nft declared as the text has it: flags, lengths, size."""
    flags = SET_MAP if set_spec.data else 0
    if set_spec.interval:
        flags |= SET_INTERVAL | (SET_CONCATENATION if len(set_spec.key) > 1 else 0)
    if set_spec.size:
        flags |= SET_TIMEOUT | SET_DYNAMIC
    if set_spec.brief:
        flags |= SET_TIMEOUT
    data_length = _VERDICT_LENGTH if set_spec.is_verdict_map else set_spec.data_length
    return flags, set_spec.key_length, data_length, set_spec.size or 2 * len(set_spec.fixed)


def _fingerprints(elements: Iterable[Element]) -> Iterator[tuple[str, Fingerprint]]:
    for element in elements:
        words = element.value.comment.split(" ")
        if len(words) in {2, 3}:
            yield words[0], Fingerprint(words[1], words[2] if len(words) == 3 else "")


def _read_entries(connection: Connection, spec: TableSpec, live: Live) -> None:
    table = live.tables[spec]
    entries: Entries = {}
    for name, listed_as in table.listed_as.items():
        known = table.fingerprints.get(name)
        intact = known is not None and known.loaded_as in {"", listed_as}
        entries[spec.chains, name.encode()] = Value(known.loaded_from.encode()) if known and intact else ALTERED
    for name in table.foreign:
        entries[spec.foreign, name.encode()] = Value()
    coming_and_going = [
        set_spec for name in table.sizes if name not in spec.by_name and (set_spec := spec.set_named(name)) is not None
    ]
    for set_spec in coming_and_going:
        entries[spec.declared, set_spec.name.encode()] = Value()
    for set_spec in (*spec.set_specs, *coming_and_going):
        if set_spec.is_large:
            size = table.sizes.get(set_spec.name) or 0
            likely_keys = spec.likely_keys(set_spec, entries) if size >= _LARGE else []
            live.large[set_spec] = _large(connection, set_spec, likely_keys, size)
        else:
            entries.update(((set_spec, key), value) for key, value in _keyed(connection, set_spec))
    live.small |= entries


def _large(connection: Connection, set_spec: SetSpec, likely_keys: list[bytes], size: int) -> AllEntries:
    """The entries of a map that may have hundreds of thousands: key by key if all are found so, else as listed."""
    if likely_keys:
        entries = _large_entries(set_spec, _by_key(connection, set_spec, likely_keys))
        if len(entries) == size:
            return entries
    return _large_entries(set_spec, connection.listed(set_spec))


def _large_entries(set_spec: SetSpec, lists: list[bytes]) -> AllEntries:
    plain = plain_data_in(set_spec, lists)
    if plain is not None:
        return PlainElements(set_spec, plain)
    # Somebody has given one a comment.
    return {(set_spec, key): value for key, value in entries_in(set_spec, lists)}


def _by_key(connection: Connection, set_spec: SetSpec, keys: list[bytes]) -> list[bytes]:
    """The elements of `keys` that are there; none when the ruleset changed meanwhile."""
    generation = connection.generation()
    found = connection.found(set_spec, keys)
    return found if connection.generation() == generation else []


def unproven(live: Live, spec: TableSpec, desired: Mapping[EntryKey, Value]) -> list[str]:
    """The chains that count as what is wanted, though nobody has noted what the kernel made of their text."""
    table, chains = live.tables[spec], spec.chains
    return [
        name
        for name, known in table.fingerprints.items()
        if not known.loaded_as
        and (value := live.small.get((chains, name.encode()))) is not None
        and value == desired.get((chains, name.encode()))
    ]


def prove(live: Live, spec: TableSpec, declared_as: str, listed_as: Mapping[str, str]) -> None:
    """Corrects what counted as wanted and is something else: the whole table, or chains.

    `declared_as` and `listed_as`: what the kernel makes of the set declarations, and of the chains that are unproven.
    """
    table, chains = live.tables[spec], spec.chains
    if not table.is_declared and table.declared_as != declared_as:
        live.tables[spec] = LiveTable("")
        live.small = {entry: value for entry, value in live.small.items() if entry[0].spec is not spec}
        live.large = {set_spec: entries for set_spec, entries in live.large.items() if set_spec.spec is not spec}
        return
    for name, digest in listed_as.items():
        if table.listed_as[name] != digest:
            live.small[chains, name.encode()] = ALTERED


def _keyed(connection: Connection, set_spec: SetSpec) -> Iterable[tuple[bytes, Value]]:
    if not set_spec.interval:
        return connection.entries(set_spec)
    elements = connection.elements(set_spec.family, set_spec.table, set_spec.name)
    if len(set_spec.key) > 1:
        return ((element.key + (element.key_end or element.key), element.value) for element in elements)
    return _ranges(set_spec.key[0], elements)


def _ranges(address: Field, elements: Iterator[Element]) -> Iterator[tuple[bytes, Value]]:
    """An interval set of one field lists where ranges start and the first address after each, in no useful order."""
    bounds = sorted(elements, key=lambda element: (element.key, not element.interval_end))
    start: Element | None = None
    for bound in bounds:
        if start is not None:
            before = int.from_bytes(bound.key, "big") - 1
            yield start.key + before.to_bytes(address.length, "big"), start.value
        start = None if bound.interval_end else bound
    if start is not None:
        yield start.key + b"\xff" * address.length, start.value
