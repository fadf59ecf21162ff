"""What differs in the rules of chains, as text for people.

In: a Delta, and the chains before and after, from templates, from a rendered file, or as nft lists what is in the
kernel. Out: the rules that are only in one of both. Two rules are the same where the kernel's encoding of them is;
where that is not known, where their text is. Changes nothing.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias, cast

from rulegen import children
from rulegen.nftables.diff_text import ChainRules
from rulegen.nftables.elements import EntryKey, SetSpec, Value
from rulegen.nftables.live import LiveTable, without_counts
from rulegen.nftables.rules import CompiledChain
from rulegen.nftables.tables import BaseChains, Chain, TableSpec, chains_in
from rulegen.reconcile.delta import Delta, differing

# Of an nft that lists a large table: with thousands of chains of policies that takes a second or two.
_LIST_SECONDS = 30.0

# The chain of an entry, None where it is not known.
ChainOf: TypeAlias = Callable[[EntryKey], Chain | None]


class Written(NamedTuple):
    """A chain line by line: its declaration, if it has one, and its rules. `same`: what tells whether two are one."""

    texts: tuple[str, ...]
    same: tuple[Hashable, ...]


# The lines of the chain of an entry, None where they are not known.
WrittenOf: TypeAlias = Callable[[EntryKey], Written | None]


def rules_of(delta: Delta[EntryKey, Value], before: WrittenOf, after: WrittenOf) -> dict[EntryKey, ChainRules]:
    """The rules of all chains that the Delta touches and both sides know."""
    found: dict[EntryKey, ChainRules] = {}
    for key in chains_of(delta):
        old = Written((), ()) if key in delta.added else before(key)
        new = Written((), ()) if key in delta.removed else after(key)
        if old is not None and new is not None:
            found[key] = _rules(old, new)
    return found


def _rules(old: Written, new: Written) -> ChainRules:
    # Told apart by the kernel's encoding only where both have it.
    is_encoded = old.same != old.texts and new.same != new.texts
    gone, come = differing(old.same, new.same) if is_encoded else differing(old.texts, new.texts)
    return ChainRules(tuple(old.texts[place] for place in gone), tuple(new.texts[place] for place in come))


def chains_of(delta: Delta[EntryKey, Value]) -> Iterator[EntryKey]:
    """The entries of a Delta that are chains."""
    for part in (delta.added, delta.changed, delta.removed):
        yield from (key for key in part if key[0] is spec_of(key[0]).chains)


def as_text(chain: Chain | None) -> Written | None:
    """A chain of which only the text is known."""
    if chain is None:
        return None
    lines = tuple(filter(None, (chain.declaration, *chain.rules)))
    return Written(lines, lines)


def as_compiled(chain: Chain, compiled: CompiledChain) -> Written | None:
    """A chain with what the kernel makes of it."""
    return _encoded(chain, compiled.declaration, compiled.rules)


def as_live(table: LiveTable, chain: Chain) -> Written | None:
    """A chain that the kernel holds, as nft lists it."""
    return _encoded(chain, table.declarations.get(chain.name, b""), table.rules.get(chain.name, ()))


def _encoded(chain: Chain, declaration: bytes, rules: Sequence[bytes]) -> Written | None:
    """None where the text is of another state than the encoding: somebody changed the chain in between."""
    written = as_text(chain)
    encoded = tuple(filter(None, (declaration, *map(without_counts, rules))))
    return Written(written.texts, encoded) if written and len(encoded) == len(written.texts) else written


def chain_texts(tables: Mapping[TableSpec, BaseChains]) -> ChainOf:
    """The chains of fixed texts, and those that come and go with them."""

    def chain(key: EntryKey) -> Chain | None:
        fixed = tables.get(spec_of(key[0]))
        return fixed.chain(key[1].decode()) if fixed is not None else None

    return chain


def listed_chains(spec: TableSpec) -> Mapping[str, Chain]:
    """The chains of a table of this network namespace as nft lists them; none where nft cannot."""
    try:
        done = children.run(["nft", "-y", "-t", "list", "table", spec.ip, spec.name], timeout=_LIST_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return chains_in(done.stdout.decode("utf-8", "replace")) if not done.returncode else {}


def spec_of(set_spec: SetSpec) -> TableSpec:
    """The table of a set: elements know less of it than there is."""
    return cast("TableSpec", set_spec.spec)
