"""The scratch register of a packet, and what the numbers in it mean in the tables of Services. Only values."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from rulegen.claims import ID_SHIFT, MAX_ID
from rulegen.nftables.elements import Field, SetSpec, unpack_register

# The low 12 bits of the scratch register (`meta priority`, see `claims`).
# Of a frontend: the number of slots of a plain ClusterIP, or SPECIAL and a `Kind`, perhaps RESTRICTED.
SPECIAL = 0x800
RESTRICTED = 0x10
# Of a list: the Local one, and then the number of slots; of an endpoint: its index.
LOCAL_LIST = 0x800
MAX_ENDPOINT_INDEX = LOCAL_LIST - 1
# Lists of more slots than this go through `lists` instead of `balancers`.
MAX_COUNTED_SLOTS = 1023


class Kind(IntEnum):
    """Frontends that need more than their value says; the numbers stand in `kinds`, and some chains test bit 0."""

    EXTERNAL = 1
    EXTERNAL_LOCAL = 2
    # No endpoint on this node: others than pods and the node are dropped.
    EXTERNAL_NONE_LOCAL = 3
    # A ClusterIP whose Cluster list goes through `lists`, and one with a Local list.
    INTERNAL_LISTED = 4
    INTERNAL_LOCAL = 5
    NO_ENDPOINTS = 6
    INTERNAL_NONE_LOCAL = 7
    # As EXTERNAL_LOCAL, on addresses that the node has.
    HOST_PORT = 8


# The chains that decide about a kind, for frontends with an address (EXTERNAL, the usual one, is not looked up) and for
# NodePorts. They never change.
KINDS: Mapping[Kind, str] = {
    Kind.EXTERNAL_LOCAL: "external-local",
    Kind.EXTERNAL_NONE_LOCAL: "external-local",
    Kind.INTERNAL_LISTED: "internal",
    Kind.INTERNAL_LOCAL: "internal",
    Kind.NO_ENDPOINTS: "no-endpoints",
    Kind.INTERNAL_NONE_LOCAL: "no-local-endpoints",
}
# The one of HOST_PORT, which is there only with host ports.
HOST_PORT_CHAIN = "host-port"
NODEPORT_KINDS: Mapping[Kind, str] = {
    Kind.EXTERNAL: "external",
    Kind.EXTERNAL_LOCAL: "external-local",
    Kind.EXTERNAL_NONE_LOCAL: "external-local",
    Kind.NO_ENDPOINTS: "no-endpoints-nodeport",
}


def id_of(register: bytes) -> int:
    """The service-port's id in a register; 0 for none."""
    return unpack_register(register) >> ID_SHIFT & MAX_ID


# Verdict maps by the low bits of the register, whatever the id.
_BY_LOW_BITS = frozenset({"kinds", "nodeport-kinds", "balancers"})


def service_port_of(set_spec: SetSpec, key: bytes) -> int:
    """The id of the service-port that an element belongs to by its key; 0 when by its key it belongs to none."""
    if set_spec.key[:1] != (Field.CLASSID,) or set_spec.name in _BY_LOW_BITS:
        return 0
    return id_of(key)
