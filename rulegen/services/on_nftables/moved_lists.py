"""Which entries of a Delta packets may still be led to: of lists that end, or are balanced in another way. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rulegen.nftables.elements import EntryKey, Value, pack_register
from rulegen.nftables.tables import NOTHING_DRAINED, Drained
from rulegen.reconcile.delta import Delta
from rulegen.services.on_nftables.registers import id_of, service_port_of

if TYPE_CHECKING:
    from rulegen.services.on_nftables.layout import Layout

# A list that there is has it.
_FIRST_SLOT = pack_register(0)


def drained(layout: Layout, delta: Delta[EntryKey, Value]) -> Drained:
    """The removals that concern lists which end or move; a handover where frontends that are answered get another."""
    moved = _moved_lists(layout, delta)
    if not moved:
        return NOTHING_DRAINED
    left = frozenset(
        (set_spec, key)
        for set_spec, key in delta.removed
        if set_spec.table == layout.name
        and set_spec.family is layout.family
        and service_port_of(set_spec, key) in moved
    )
    is_handover = bool(left) and not _handed_over(layout, delta).isdisjoint(_service_ports(layout, left))
    return Drained(left, is_handover)


def _handed_over(layout: Layout, delta: Delta[EntryKey, Value]) -> set[int]:
    """The service-ports whose lists get something, and those that a frontend was led to which has another one now."""
    led_on = {
        id_of(change.before.data)
        for (set_spec, _), change in delta.changed.items()
        if (set_spec is layout.frontends or set_spec is layout.nodeports) and id_of(change.after.data)
    }
    return _service_ports(layout, (*delta.added, *delta.changed)) | led_on


def _service_ports(layout: Layout, keys: Iterable[EntryKey]) -> set[int]:
    return {
        service_port_of(set_spec, key)
        for set_spec, key in keys
        if set_spec.family is layout.family and set_spec.table == layout.name
    }


def _moved_lists(layout: Layout, delta: Delta[EntryKey, Value]) -> set[int]:
    """The service-ports, by id, of which a list ends, or is balanced in another way from now on.

    Not those of which a list gets longer or shorter: for these the chains fall back to the first slot.
    """
    ended = {
        id_of(key) for set_spec, key in delta.removed if set_spec is layout.endpoints and key.endswith(_FIRST_SLOT)
    }
    moved = {id_of(key) for set_spec, key in (*delta.removed, *delta.changed) if set_spec is layout.lists}
    return ended | moved
