"""A mapping of several that stay as they are: what is large need not be copied to stand beside the rest."""

from __future__ import annotations

from collections.abc import Hashable, ItemsView, Iterator, Mapping
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class InParts(Mapping[Key, Value]):
    """`parts`: by name. A key says itself in which part it is, wherever it comes from, so parts are compared alone."""

    def __init__(self, parts: Mapping[Hashable, Mapping[Key, Value]]) -> None:
        self.parts = parts

    def __getitem__(self, key: Key) -> Value:
        for part in self.parts.values():
            found = part.get(key)
            if found is not None:
                return found
        raise KeyError(key)

    def __iter__(self) -> Iterator[Key]:
        for part in self.parts.values():
            yield from part

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    def items(self) -> ItemsView[Key, Value]:
        """As of any mapping; not by way of a look-up for each."""
        return _Items(self)


class _Items(ItemsView[Key, Value]):
    _mapping: InParts[Key, Value]

    def __iter__(self) -> Iterator[tuple[Key, Value]]:
        for part in self._mapping.parts.values():
            yield from part.items()


def parts_of(mapping: Mapping[Key, Value]) -> Mapping[Hashable, Mapping[Key, Value]]:
    """The parts of a mapping; one that has none is the part without a name."""
    return mapping.parts if isinstance(mapping, InParts) else {None: mapping}


def together(one: Mapping[Key, Value], other: Mapping[Key, Value]) -> Mapping[Key, Value]:
    """Both as one, where no key is in both."""
    if not one or not other:
        return one or other
    if not isinstance(one, InParts) and not isinstance(other, InParts):
        return {**one, **other}
    parts = dict(parts_of(one))
    for name, part in parts_of(other).items():
        parts[name] = {**parts[name], **part} if name in parts else part
    return InParts(parts)
