"""Why endpoints are in the lists or not: agrees with the ServicePorts whatever comes in, and names the rule."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rulegen.config import Family
from rulegen.kube.objects import Endpoint, EndpointHints
from rulegen.services.reasons import PortReasons
from tests.builders import Item, draining, endpoint, endpoint_port, endpoint_slice, node, port, service, store

NODE = node(zone="zone-1")


def reasons(*items: Item, name: str = "web") -> PortReasons:
    (found,) = store(NODE, *items).reasons("default", name)
    return found


def why_not(*items: Item) -> dict[str, tuple[str, str]]:
    return {item.backend.address: (item.cluster, item.local) for item in reasons(*items).endpoints}


endpoints = st.builds(
    endpoint,
    st.integers(1, 6).map("10.244.0.{}".format),
    st.sampled_from([None, "node-1", "node-2"]),
    ready=st.sampled_from([None, True, False]),
    serving=st.sampled_from([None, True, False]),
    terminating=st.sampled_from([None, True, False]),
    zones=st.sampled_from([(), (), ("zone-1",), ("zone-2",), ("zone-1", "zone-2")]),
    nodes=st.sampled_from([(), (), ("node-1",), ("node-2",)]),
)
slices = st.lists(st.tuples(st.lists(endpoints, max_size=5), st.sampled_from(["0", "1", "3"])), max_size=3)


@given(slices, st.sampled_from(["Cluster", "Local"]), st.sampled_from(["Cluster", "Local"]), st.booleans())
def test_reasons_agree_with_the_service_ports(
    listed: list[tuple[list[Endpoint], str]], internal: str, external: str, reachable: bool
) -> None:
    made = store(
        NODE,
        service(
            kind="NodePort", internal=internal, external=external, ports=[port(node_port=30080 if reachable else 0)]
        ),
        *(
            endpoint_slice(items, name=f"web-{index}", annotations={"rulegen.io/weight": weight})
            for index, (items, weight) in enumerate(listed)
        ),
    )
    (service_port,) = made.service_ports()
    (found,) = made.reasons("default", "web")
    for which, backends in (("cluster", service_port.cluster_endpoints), ("local", service_port.local_endpoints)):
        kept = [item.backend for item in found.endpoints if not getattr(item, which)]
        assert sorted(kept, key=str) == list(backends)
    assert len(found.endpoints) == sum(len(items) for items, _ in listed)
    assert all(
        "SVC-" in text or "D9" in text for item in found.endpoints for text in (item.cluster, item.local) if text
    )


def test_a_list_that_is_not_used() -> None:
    found = reasons(service(), endpoint_slice(["10.244.0.1"]))
    assert found.cluster == "all ready endpoints (SVC-26)"
    assert found.local == "not used: no policy Local is in effect (SVC-16)"
    assert reasons(service(internal="Local")).cluster.startswith("not used: internal policy Local")


def test_not_ready_terminating_and_weightless() -> None:
    weightless = endpoint_slice(["10.244.0.4"], name="web-2", annotations={"rulegen.io/weight": "0"})
    found = why_not(
        service(internal="Local", kind="NodePort", ports=[port(node_port=30080)]),
        endpoint_slice(
            [
                endpoint("10.244.0.1", "node-1"),
                endpoint("10.244.0.2", "node-1", ready=False),
                draining("10.244.0.3", "node-1"),
                endpoint("10.244.0.5", "node-2", ready=False, serving=False, terminating=True),
                endpoint("10.244.0.6", "node-2"),
                endpoint("10.244.0.7"),
            ]
        ),
        weightless,
    )
    assert found == {
        "10.244.0.1": ("", ""),
        "10.244.0.2": ("not ready (SVC-28)", "not ready (SVC-28)"),
        "10.244.0.3": (
            "terminating while others are ready (SVC-26)",
            "terminating while others on this node are ready (SVC-27)",
        ),
        "10.244.0.4": ("weight 0: no new connections (D9)", "weight 0: no new connections (D9)"),
        "10.244.0.5": ("terminating and not serving (SVC-28)", "terminating and not serving (SVC-28)"),
        "10.244.0.6": ("", "not local: on node node-2 (SVC-20)"),
        "10.244.0.7": ("", "not local: no nodeName (SVC-20)"),
    }


def test_nobody_is_ready() -> None:
    found = reasons(
        service(internal="Local", kind="NodePort", ports=[port(node_port=30080)]),
        endpoint_slice([draining("10.244.0.3", "node-1")]),
    )
    assert found.cluster == "nobody is ready: those that terminate and still serve (SVC-26)"
    assert found.local == "nobody on this node is ready: those on it that terminate and still serve (SVC-27)"


def test_hints_in_force() -> None:
    ours, theirs = endpoint("10.244.0.1", zones=["zone-1"]), endpoint("10.244.0.2", zones=["zone-2"])
    found = reasons(service(), endpoint_slice([ours, theirs]))
    assert found.cluster == "ready endpoints hinted for zone zone-1 (SVC-32)"
    assert [item.cluster for item in found.endpoints] == ["", "not hinted for zone zone-1 (SVC-32)"]
    mine, others = endpoint("10.244.0.1", nodes=["node-1"]), endpoint("10.244.0.2", nodes=["node-2"])
    found = reasons(service(), endpoint_slice([mine, others]))
    assert found.cluster == "ready endpoints hinted for node node-1 (SVC-31)"
    assert [item.cluster for item in found.endpoints] == ["", "not hinted for node node-1 (SVC-31)"]


def test_hints_that_are_ignored() -> None:
    hinted = endpoint("10.244.0.2", zones=["zone-2"])

    def ignored(*items: Endpoint | str) -> str:
        return reasons(service(), endpoint_slice(items)).cluster

    assert "1 of 2 ready endpoints lack one (SVC-33)" in ignored(hinted, "10.244.0.1")
    assert "none is for zone zone-1 (SVC-33)" in ignored(hinted)
    assert "none is for node node-1 (SVC-33)" in ignored(endpoint("10.244.0.2", nodes=["node-2"]))
    assert "hints" not in ignored(Endpoint(addresses=["10.244.0.1"], hints=EndpointHints()))
    (zoneless,) = store(node(), service(), endpoint_slice([hinted])).reasons("default", "web")
    assert "this node's zone is not known (SVC-33)" in zoneless.cluster


def test_duplicates_and_slices_that_are_not_joined() -> None:
    found = reasons(
        service(),
        endpoint_slice([endpoint("10.244.0.1", target="web-a")], name="web-1"),
        endpoint_slice([endpoint("10.244.0.1", ready=False, target="web-a")], name="web-2"),
        endpoint_slice(["10.244.0.9"], name="web-3", ports=[endpoint_port(name="metrics")]),
    )
    assert [(item.slice, item.cluster) for item in found.endpoints] == [
        ("web-1", "duplicate: as EndpointSlice web-2 lists it (SVC-22)"),
        ("web-2", "not ready (SVC-28)"),
    ]
    assert found.unjoined == ("web-3",)


def test_owners_and_families() -> None:
    made = store(
        service("first", ["10.96.0.1"], external_ips=["192.0.2.9"], created="2026-01-01T00:00:00Z"),
        service("web", ["10.96.0.10", "fd00::10"], external_ips=["192.0.2.9"], created="2026-01-02T00:00:00Z"),
    )
    found = {item.intent.family: [owner.name for owner in item.owners] for item in made.reasons("default", "web")}
    assert found == {Family.IPV4: ["web", "first"], Family.IPV6: ["web"]}
    assert made.reasons("default", "other") == []
