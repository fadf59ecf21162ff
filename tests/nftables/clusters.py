"""Small clusters nobody thought of, for hypothesis: many Services that share addresses, ports, endpoints and ids."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tests.builders import Item, draining, endpoint, endpoint_port, endpoint_slice, node, port, service, service_cidr

NAMES = ["alpha", "beta", "gamma", "delta"]
PORTS = [(80, "http", "TCP"), (53, "dns", "UDP"), (9, "signal", "SCTP")]
RANGES = [
    "0.0.0.0/0",
    "::/0",
    "203.0.113.0/25",
    "203.0.113.128/25",
    "203.0.113.0/26",
    "198.51.100.7/32",
    "255.255.255.254/31",
    "10.0.0.0/8",
    "2001:db8::/33",
    "2001:db8:8000::/33",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
]
NODES = [None, "node-1", "node-2"]


@st.composite
def _service(draw: DrawFn, index: int) -> Item:
    name = NAMES[index]
    families = draw(st.sampled_from([("IPv4",), ("IPv6",), ("IPv4", "IPv6")]))
    addresses = {"IPv4": f"10.96.0.{10 + index}", "IPv6": f"fd00:10:96::{10 + index}"}
    kind = draw(st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer"]))
    chosen = draw(st.lists(st.sampled_from(PORTS), min_size=1, max_size=3, unique=True))
    policy = st.sampled_from(["Cluster", "Local"])
    vips = draw(st.lists(st.sampled_from(["203.0.113.80", "203.0.113.81", "2001:db8::80"]), max_size=2, unique=True))
    weights = draw(st.sampled_from([None, "10.128.0.1=3", "*=7,", "10.128.0.2=0", "10.128.*=700,*=1"]))
    return service(
        name,
        [addresses[family] for family in families],
        [
            port(number, port_name, protocol, 30000 + number + index % 2 if kind != "ClusterIP" else 0)
            for number, port_name, protocol in chosen
        ],
        kind=kind,
        external_ips=draw(st.lists(st.sampled_from(["198.51.100.1", "2001:db8:1::1"]), max_size=2, unique=True)),
        vips=vips if kind == "LoadBalancer" else [],
        internal=draw(policy),
        external=draw(policy),
        ranges=draw(st.lists(st.sampled_from(RANGES), max_size=4)) if vips else [],
        affinity=draw(st.sampled_from([None, None, 60, 10800])),
        annotations={"rulegen.io/weights": weights} if weights else None,
    )


@st.composite
def _slices(draw: DrawFn, index: int) -> list[Item]:
    slices: list[Item] = []
    for family, prefix in (("IPv4", "10.128.0."), ("IPv6", "fd00:10:128::")):
        numbers = draw(st.lists(st.integers(1, 12), max_size=6, unique=True))
        made = draw(st.sampled_from([endpoint, endpoint, endpoint, draining]))
        slices.append(
            endpoint_slice(
                [made(f"{prefix}{number}", draw(st.sampled_from(NODES))) for number in numbers],
                service_name=NAMES[index],
                name=f"{NAMES[index]}-{family.lower()}",
                family=family,
                ports=[endpoint_port(8000 + number, name, protocol) for number, name, protocol in PORTS],
            )
        )
    return slices


@st.composite
def clusters(draw: DrawFn) -> list[Item]:
    """Objects in no special order."""
    chosen = draw(st.lists(st.integers(0, len(NAMES) - 1), max_size=len(NAMES), unique=True))
    items: list[Item] = [node(addresses=["192.168.1.10", "fd00:1::10"])]
    items += [draw(_service(index)) for index in chosen]
    items += [item for index in chosen for item in draw(_slices(index))]
    cidrs = draw(st.sampled_from([(), ("10.96.0.0/16",), ("10.96.0.0/16", "fd00:10:96::/112")]))
    if cidrs:
        items.append(service_cidr(*cidrs))
    return items


def shuffled(items: list[Item]) -> SearchStrategy[list[Item]]:
    """The same objects in another order."""
    return st.permutations(items)
