"""Entries in words: what each element says, ids, slots and endpoint indexes included. Pure.

In: entries as compiled or as read from the kernel. Out: for each its text as nft writes it and its meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from msgspec import Struct

from rulegen.nftables.diff_text import entry_order
from rulegen.nftables.elements import EntryKey, FieldText, SetSpec, Value, data_text, key_text, unpack_register
from rulegen.services.on_nftables.layout import LAYOUTS
from rulegen.services.on_nftables.registers import LOCAL_LIST, MAX_ENDPOINT_INDEX, RESTRICTED, SPECIAL, Kind, id_of


class AnnotatedEntry(Struct, frozen=True, tag_field="type", tag="entry"):
    """An entry. `table`: ip or ip6; `name`: the set or map, or `chain`; `element`: key and data as nft writes them."""

    table: str
    name: str
    element: str
    meaning: str


def annotate(entries: Iterable[tuple[EntryKey, Value]]) -> tuple[AnnotatedEntry, ...]:
    """The entries in the order of the tables, each once."""
    ordered = sorted(dict(entries).items(), key=lambda entry: entry_order(entry[0]))
    return tuple(_annotate(set_spec, key, value) for (set_spec, key), value in ordered)


def _annotate(set_spec: SetSpec, key: bytes, value: Value) -> AnnotatedEntry:
    if set_spec is LAYOUTS[set_spec.family].foreign:
        return AnnotatedEntry(set_spec.ip, "foreign", key.decode(), "is none of rulegen's, and will be removed")
    if set_spec.is_chains:
        name = key.decode()
        return AnnotatedEntry(set_spec.ip, "chain", name, _chain(name))
    data = f" : {data_text(set_spec, value.data)}" if set_spec.data else ""
    return AnnotatedEntry(
        set_spec.ip, set_spec.name, key_text(set_spec, key) + data, _MEANINGS[set_spec.name](set_spec, key, value)
    )


def _chain(name: str) -> str:
    kind, _, number = name.rpartition("-")
    meaning = _CHAINS.get(kind)
    return meaning.format(number) if meaning and number.isdecimal() else "a part of the base chains"


_CHAINS: Mapping[str, str] = {
    "lb": "DNAT to the endpoint in a slot, drawn from {}",
    "pick": "draws a slot from {}",
    "sticky": "keeps clients at their endpoint for {} s after their last new connection, over the Cluster list",
    "sticky-local": "keeps clients at their endpoint for {} s after their last new connection, over the Local list",
}


# ---- the parts of keys and data ----


def _fields(parts: tuple[tuple[slice, FieldText], ...], data: bytes) -> list[str]:
    return [text(data[where]) for where, text in parts]


def _frontend(set_spec: SetSpec, key: bytes) -> str:
    """`10.96.0.10 port 80/tcp`, or `port 30080/tcp` of a NodePort."""
    *address, protocol, port = _fields(set_spec.key_parts, key)
    return " ".join([*address, f"port {port}/{protocol}"])


def _endpoint(set_spec: SetSpec, data: bytes) -> str:
    address, port = _fields(set_spec.data_parts, data)
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _list(data: bytes) -> str:
    """What a register says: `id 5, Local list`."""
    which = "Local" if unpack_register(data) & LOCAL_LIST else "Cluster"
    return f"id {id_of(data)}, {which} list"


def _id(data: bytes) -> str:
    return f"id {id_of(data)}"


def _low_bits(data: bytes) -> int:
    return unpack_register(data) & MAX_ENDPOINT_INDEX


def _slots_text(number: int) -> str:
    return f"{number} slot" if number == 1 else f"{number} slots"


def _chain_of(value: Value) -> str:
    return "chain " + value.data.decode().rpartition(" ")[2]


# ---- one sentence for each set ----

_Meaning: TypeAlias = Callable[[SetSpec, bytes, Value], str]


def _frontends(set_spec: SetSpec, key: bytes, value: Value) -> str:
    register = unpack_register(value.data)
    if not register & SPECIAL:
        slots = _slots_text(register & MAX_ENDPOINT_INDEX)
        return f"ClusterIP {_frontend(set_spec, key)} leads to {_list(value.data)}, which has {slots}"
    meaning = _KINDS[Kind(register & MAX_ENDPOINT_INDEX & ~RESTRICTED)].format(
        _frontend(set_spec, key), _id(value.data)
    )
    return f"for sources in source-ranges only: {meaning}" if register & RESTRICTED else meaning


_KINDS: Mapping[Kind, str] = {
    Kind.EXTERNAL: "external {} leads to {}, Cluster list, masqueraded",
    Kind.EXTERNAL_LOCAL: "external {} leads to {}: Cluster list for pods and this node, else Local list",
    Kind.EXTERNAL_NONE_LOCAL: "external {} leads to {}: Cluster list for pods and this node, others are dropped",
    Kind.INTERNAL_LISTED: "ClusterIP {} leads to {}, Cluster list",
    Kind.INTERNAL_LOCAL: "ClusterIP {} leads to {}, Local list",
    Kind.NO_ENDPOINTS: "{} has no endpoint: rejected",
    Kind.HOST_PORT: "hostPort {} leads to {}, on this node; masqueraded from the node itself",
    Kind.INTERNAL_NONE_LOCAL: "{} has no endpoint on this node: dropped",
}


def _kinds(_: SetSpec, key: bytes, value: Value) -> str:
    return f"frontends of kind {_low_bits(key)} are decided in {_chain_of(value)}"


def _slots(_: SetSpec, key: bytes, value: Value) -> str:
    return f"{_list(key)} has {_slots_text(_low_bits(value.data))}"


def _balancers(_: SetSpec, key: bytes, value: Value) -> str:
    return f"lists of {_slots_text(unpack_register(key))} go to {_chain_of(value)}"


def _lists(_: SetSpec, key: bytes, value: Value) -> str:
    return f"{_list(key)} goes to {_chain_of(value)}"


def _endpoints(set_spec: SetSpec, key: bytes, value: Value) -> str:
    return f"{_list(key)}, slot {unpack_register(key[-4:])} is {_endpoint(set_spec, value.data)}"


def _sticky_lists(_: SetSpec, key: bytes, value: Value) -> str:
    return f"{_list(key)}: new clients draw in {_chain_of(value)}"


def _endpoint_indexes(_: SetSpec, key: bytes, value: Value) -> str:
    return f"{_list(key)}, slot {unpack_register(key[-4:])} is endpoint index {_low_bits(value.data)}"


def _sticky_endpoints(set_spec: SetSpec, key: bytes, value: Value) -> str:
    which = "Local" if set_spec.name == "sticky-local-endpoints" else "Cluster"
    endpoint_index = f"{_id(key)}, endpoint index {_low_bits(key)}"
    return f"{endpoint_index} is {_endpoint(set_spec, value.data)}, for clients of the {which} list"


def _hairpin(set_spec: SetSpec, key: bytes, _: Value) -> str:
    return f"the byte {_fields(set_spec.key_parts, key)[0]} in source and destination is the same"


def _source_ranges(set_spec: SetSpec, key: bytes, _: Value) -> str:
    return f"a source that {key_text(set_spec, key).split(' . ')[0]} lets in"


def _cluster_ips(set_spec: SetSpec, key: bytes, _: Value) -> str:
    return f"ports of {key_text(set_spec, key)} that it does not have are rejected"


def _service_cidrs(set_spec: SetSpec, key: bytes, _: Value) -> str:
    return f"addresses of no Service in {key_text(set_spec, key)} are dropped"


def _nodeport_addresses(set_spec: SetSpec, key: bytes, _: Value) -> str:
    return f"this node's addresses in {key_text(set_spec, key)} accept NodePorts"


_MEANINGS: Mapping[str, _Meaning] = {
    "frontends": _frontends,
    "nodeports": _frontends,
    "kinds": _kinds,
    "nodeport-kinds": _kinds,
    "slots": _slots,
    "balancers": _balancers,
    "lists": _lists,
    "endpoints": _endpoints,
    "sticky-lists": _sticky_lists,
    "endpoint-indexes": _endpoint_indexes,
    "sticky-endpoints": _sticky_endpoints,
    "sticky-local-endpoints": _sticky_endpoints,
    "hairpin": _hairpin,
    "source-ranges": _source_ranges,
    "cluster-ips": _cluster_ips,
    "service-cidrs": _service_cidrs,
    "nodeport-addresses": _nodeport_addresses,
}
