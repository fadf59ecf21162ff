"""What stays in the kernel though no pod is known that it is about: of pods that cannot be read since the start. Pure.

Nobody can tell which address such a pod has. So what the kernel held of addresses that no known pod has stays, and the
chains and sets that it leads to, until all pods can be read.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from rulegen.nftables.elements import EntryKey, Value
from rulegen.nftables.tables import AllEntries
from rulegen.policies.on_nftables.layout import PolicyTable
from rulegen.reconcile.delta import Delta
from rulegen.reference import ObjectReference

# A policy's chain, or one whose name ends with a digest.
_GENERATED = re.compile(rb"/|-[a-z2-7]{15}$")


class Preserved:
    """What the rules of the program before this one held, as far as this one has not meant it itself at any time."""

    def __init__(self) -> None:
        self._keys: set[EntryKey] = set()
        self._has_begun = False

    def __bool__(self) -> bool:
        return bool(self._keys)

    def adopt(self, live: AllEntries, unreadable: Collection[ObjectReference]) -> None:
        """Takes what was read. What is there later and is not meant is what this program has removed since."""
        if not any(reference.kind == "Pod" for reference in unreadable):
            self._keys = set()
        elif self._has_begun:
            self._keys &= live.keys()
        else:
            self._keys = {key for key in live if _comes_and_goes(key)}

    def mean(self, keys: Iterable[EntryKey]) -> None:
        """These are wanted now, so that they go when they are not."""
        self._has_begun = True
        if self._keys:
            self._keys.difference_update(keys)

    def spare(self, delta: Delta[EntryKey, Value], known: Collection[bytes]) -> Delta[EntryKey, Value]:
        """The Delta without what stays. `known`: the addresses of pods that are known."""
        if not self._keys:
            return delta
        stays = {key for key in delta.removed if key in self._keys and not _is_of(key, known)}
        removed = {key: value for key, value in delta.removed.items() if key not in stays}
        return Delta(delta.added, delta.changed, removed)


def _comes_and_goes(key: EntryKey) -> bool:
    """Whether an entry depends on pods and policies: no chain of the fixed part, nothing of another program's."""
    set_spec, data = key
    spec = set_spec.spec
    if not isinstance(spec, PolicyTable) or set_spec is spec.foreign:
        return False
    return set_spec is not spec.chains or bool(_GENERATED.search(data))


def _is_of(key: EntryKey, known: Collection[bytes]) -> bool:
    """Whether an entry is about a pod that is known; chains, and what is no pod's, are about none."""
    set_spec, data = key
    if set_spec.is_chains or set_spec.interval:
        return False
    return data[: set_spec.key[0].length] in known
