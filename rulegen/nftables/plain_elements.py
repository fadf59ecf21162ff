"""Entries of one large map without an object for each: what is compared and sent by the hundred thousand. Pure."""

from __future__ import annotations

from collections.abc import Hashable, ItemsView, Iterable, Iterator, Mapping
from itertools import repeat

from rulegen.nftables.elements import EntryKey, SetSpec, Value
from rulegen.reconcile.delta import Delta, diff
from rulegen.reconcile.parts import InParts, parts_of


class PlainElements(Mapping[EntryKey, Value]):
    """`data`: by key. None of the elements has a comment."""

    def __init__(self, set_spec: SetSpec, data: Mapping[bytes, bytes]) -> None:
        self.set_spec = set_spec
        self.data = data

    def __getitem__(self, entry: EntryKey) -> Value:
        set_spec, key = entry
        if set_spec is not self.set_spec:
            raise KeyError(entry)
        return Value(self.data[key])

    def __iter__(self) -> Iterator[EntryKey]:
        return zip(repeat(self.set_spec), self.data, strict=False)

    def __len__(self) -> int:
        return len(self.data)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PlainElements):
            return self.set_spec is other.set_spec and (self.data is other.data or self.data == other.data)
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment] # as of any mapping

    def items(self) -> ItemsView[EntryKey, Value]:
        """As of any mapping; not by way of a look-up for each."""
        return _Items(self)

    def unlike(self, other: PlainElements) -> PlainElements:
        """Those that another one of the same map has not, or not so."""
        return PlainElements(
            self.set_spec, {key: data for key, data in self.data.items() if other.data.get(key) != data}
        )

    def elements(self) -> dict[bytes, Value]:
        """By key alone."""
        return dict(zip(self.data, map(Value, self.data.values()), strict=True))


class _Items(ItemsView[EntryKey, Value]):
    _mapping: PlainElements

    def __iter__(self) -> Iterator[tuple[EntryKey, Value]]:
        return zip(self._mapping, map(Value, self._mapping.data.values()), strict=True)


def in_parts(
    small: Mapping[EntryKey, Value], large: Iterable[tuple[SetSpec, Mapping[EntryKey, Value]]]
) -> Mapping[EntryKey, Value]:
    """All as one mapping, the entries of each large map a part; `small` has none of these."""
    return InParts({None: small, **dict(large)})


def split(
    entries: Mapping[EntryKey, Value],
) -> tuple[Mapping[SetSpec, Mapping[bytes, bytes]], Mapping[EntryKey, Value]]:
    """The data by key of those large maps that are a part, and all other entries."""
    plain: dict[SetSpec, Mapping[bytes, bytes]] = {}
    others: dict[Hashable, Mapping[EntryKey, Value]] = {}
    for name, part in parts_of(entries).items():
        if isinstance(part, PlainElements):
            plain[part.set_spec] = part.data
        else:
            others[name] = part
    return plain, InParts(others)


def difference(live: Mapping[EntryKey, Value], desired: Mapping[EntryKey, Value]) -> Delta[EntryKey, Value]:
    """As `diff`; of large maps only what differs becomes entries."""
    if not isinstance(live, InParts) or not isinstance(desired, InParts):
        return diff(live, desired)
    before, after = dict(live.parts), dict(desired.parts)
    for name, one in live.parts.items():
        other = after.get(name)
        if isinstance(one, PlainElements) and isinstance(other, PlainElements) and one != other:
            before[name], after[name] = one.unlike(other), other.unlike(one)
    return diff(InParts(before), InParts(after))
