"""Sets of ipset as entries: what one is in an entry, what `ipset save` prints, what `ipset restore` reads. Pure.

A set is an entry, and each of its elements is one, so that a member that comes or goes is a change of its own. Both are
in a table `ipset` that iptables does not have: the place of a chain's name has the set's, and of an element both.
Only sets whose names begin with `rulegen-` (IPv4) or `rulegen6-` are rulegen's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import count
from typing import NamedTuple

from rulegen.config import Family
from rulegen.iptables.chains import IPSET, Entries, EntryKey, Rules
from rulegen.iptables.names import digest

# Sets grow on their own; the usual bound of 65,536 elements is too low for a cluster's pods.
MAX_ELEMENTS = 1 << 20
# The longest name that the kernel takes (IPSET_MAXNAMELEN, less the closing NUL).
MAX_NAME = 31

_PREFIXES = {Family.IPV4: "rulegen-", Family.IPV6: "rulegen6-"}
_WORDS = {Family.IPV4: "inet", Family.IPV6: "inet6"}
# What `ipset save` adds that says nothing about what a set can hold, each with one value.
_CHOSEN_BY_THE_KERNEL = frozenset({"hashsize", "bucketsize", "initval"})
_KINDS = ("hash:ip", "hash:ip,port", "hash:net")
# No feature's chains begin so: sets belong to all of them together.
_PREFIX = IPSET


class Element(NamedTuple):
    """One element of a set, as `ipset save` writes it."""

    set_name: str
    text: str

    @property
    def address(self) -> str:
        """What it is about, without the port."""
        return self.text.partition(",")[0]


def set_name(family: Family, name: str) -> str:
    """The name of a set of one family."""
    return _PREFIXES[family] + name


def twin_name(family: Family, name: str, taken: Collection[str]) -> str:
    """The name of a copy of a set, for a while; none of `taken`."""
    begin = f"{_PREFIXES[family]}twin"
    names = (f"{begin}{number}-{digest(name).lower()}"[:MAX_NAME] for number in count(1))
    return next(found for found in names if found not in taken)


def is_our_set(name: str) -> bool:
    """Whether a set is rulegen's."""
    return name.startswith(tuple(_PREFIXES.values()))


def declared_key(family: Family, name: str) -> EntryKey:
    """The entry of a set, whose value is its type."""
    return EntryKey(family, IPSET, name, _PREFIX)


def element_key(family: Family, name: str, element: str) -> EntryKey:
    """The entry of an element, whose value is `ELEMENT`."""
    return EntryKey(family, IPSET, f"{name} {element}", _PREFIX)


ELEMENT: Rules = ()


def element_of(key: EntryKey) -> Element | None:
    """The element that an entry of the table `ipset` is; None for a set itself."""
    name, space, text = key.chain.partition(" ")
    return Element(name, text) if space else None


def without_ipsets(entries: Mapping[EntryKey, Rules]) -> Entries:
    """Chains alone."""
    return {key: rules for key, rules in entries.items() if key.table != IPSET}


def declaration(family: Family, kind: str) -> Rules:
    """The value of a set's entry. `kind`: `hash:ip`, `hash:ip,port`, `hash:net`."""
    return (f"{kind} family {_WORDS[family]} maxelem {MAX_ELEMENTS}",)


_DECLARATIONS = {family: frozenset(declaration(family, kind) for kind in _KINDS) for family in Family}


# ---- `ipset save` ----


def parse_saved(lines: Iterable[str]) -> Entries:
    """Rulegen's sets and their elements. Of a set that is not as rulegen makes one, nothing is said but its type."""
    entries: Entries = {}
    families: dict[str, Family] = {}
    for line in lines:
        command, _, rest = line.partition(" ")
        name, _, text = rest.partition(" ")
        if command == "create" and is_our_set(name):
            family = next(family for family, prefix in _PREFIXES.items() if name.startswith(prefix))
            found = (" ".join(_declared(text.split())),)
            entries[declared_key(family, name)] = found
            if found in _DECLARATIONS[family]:
                families[name] = family
        elif command == "add" and name in families:
            entries[element_key(families[name], name, text)] = ELEMENT
    return entries


def _declared(words: Iterable[str]) -> Iterator[str]:
    remaining = iter(words)
    for word in remaining:
        if word in _CHOSEN_BY_THE_KERNEL:
            next(remaining, None)
        else:
            yield word


# ---- `ipset restore` ----


def create_line(name: str, text: str) -> str:
    """Makes a set; `text`: what its entry holds."""
    return f"create {name} {text}"


def add_line(element: Element) -> str:
    """Puts an element in."""
    return f"add {element.set_name} {element.text}"


def remove_line(element: Element) -> str:
    """Takes an element out."""
    return f"del {element.set_name} {element.text}"


def destroy_line(name: str) -> str:
    """Ends a set."""
    return f"destroy {name}"


def render(entries: Mapping[EntryKey, Rules]) -> Iterator[str]:
    """Lines with their ends that make all sets with what is in them, each where it is not there yet."""
    sets = sorted(
        (key.chain, rules) for key, rules in entries.items() if key.table == IPSET and element_of(key) is None
    )
    found = (element_of(key) for key in entries if key.table == IPSET)
    elements: dict[str, list[Element]] = {}
    for element in found:
        if element is not None:
            elements.setdefault(element.set_name, []).append(element)
    for name, (text,) in sets:
        yield f"{create_line(name, text)}\n"
        yield from (f"{add_line(element)}\n" for element in sorted(elements.get(name, ())))
