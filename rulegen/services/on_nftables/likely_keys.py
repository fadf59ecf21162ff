"""Which keys a large map probably has, from what smaller ones say, so that it can be read key by key.

The kernel lists a map in portions and finds the start of each by counting from the map's beginning, so a listing costs
the square of its length; a key costs the same at any length. Nothing depends on a guess: the kernel says how many
elements there are, and whoever has not found so many lists the map. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rulegen.nftables.elements import EntryKey, Field, SetSpec, Value
from rulegen.nftables.elements import pack_register as pack
from rulegen.nftables.elements import unpack_register as unpack
from rulegen.services.on_nftables.registers import LOCAL_LIST, SPECIAL, id_of

if TYPE_CHECKING:
    from rulegen.services.on_nftables.layout import Layout

_COUNT = LOCAL_LIST - 1


def likely_keys(layout: Layout, set_spec: SetSpec, entries: Mapping[EntryKey, Value]) -> list[bytes]:
    """The keys of the endpoints' slots; `entries`: what was read already. None of any other map."""
    return _slot_keys(layout, entries) if set_spec is layout.endpoints else []


def _slot_keys(layout: Layout, entries: Mapping[EntryKey, Value]) -> list[bytes]:
    """A list of N slots has the slots 0 to N-1, each for the protocol of the frontends that lead to its id."""
    counts: dict[int, int] = {}
    protocols: dict[int, dict[bytes, None]] = {}
    for (set_spec, key), value in entries.items():
        if set_spec.data != (Field.CLASSID,):
            continue
        register = unpack(value.data)
        is_frontend = set_spec.key[-1] is Field.PORT
        if is_frontend:
            protocols.setdefault(id_of(value.data), {})[key[-8:-4]] = None
        if set_spec is layout.slots or (is_frontend and not register & SPECIAL):
            counts[register & ~_COUNT] = register & _COUNT
    return [
        pack(register) + protocol + pack(slot)
        for register, count in counts.items()
        for protocol in protocols.get(id_of(pack(register)), ())
        for slot in range(count)
    ]
