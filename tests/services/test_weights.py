"""Weights: D9."""

from __future__ import annotations

import random
from fnmatch import fnmatchcase

import pytest

from rulegen.kube.objects import EndpointSlice, Service
from rulegen.services.model import Reason, ServicePort, Verdict
from rulegen.services.weights import ServiceWeights, WeightRule, parse_service_weights
from tests.builders import draining, endpoint, endpoint_slice, node, port, service, store

PODS = [
    endpoint("10.0.0.1", "node-1", target="web-blue-1"),
    endpoint("10.0.0.2", "node-2", target="web-blue-2"),
    endpoint("10.0.0.3", "node-2", target="web-green-1"),
]


def weighted(text: str, *, affinity: int | None = None, external: str = "Cluster") -> Service:
    return service(
        kind="NodePort",
        annotations={"rulegen.io/weights": text},
        affinity=affinity,
        external=external,
        ports=[port(node_port=30000)],
    )


def service_port(item: Service, *slices: EndpointSlice) -> ServicePort:
    (found,) = store(node(), item, *(slices or [endpoint_slice(PODS)])).service_ports()
    return found


def weights(item: Service, *slices: EndpointSlice) -> dict[str, int]:
    return {backend.address[-1]: backend.weight for backend in service_port(item, *slices).cluster_endpoints}


def findings(*items: Service | EndpointSlice) -> list[tuple[str, str]]:
    return [(finding.subject, finding.reason) for finding in store(node(), *items).findings()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web-blue-*=5", {"1": 5, "2": 5, "3": 1}),
        ("node-2=3", {"1": 1, "2": 3, "3": 3}),
        ("10.0.0.3=9", {"1": 1, "2": 1, "3": 9}),
        ("*-1=2, node-?=4", {"1": 2, "2": 4, "3": 2}),
        (" web-[gG]* = 65535 , *=7", {"1": 7, "2": 7, "3": 65535}),
        ("WEB-*=2", {"1": 1, "2": 1, "3": 1}),
        ("*=000012", {"1": 1, "2": 1, "3": 1}),
        ("*=00012", {"1": 12, "2": 12, "3": 12}),
        ("", {"1": 1, "2": 1, "3": 1}),
    ],
)
def test_d9_globs_of_the_service_in_order(text: str, expected: dict[str, int]) -> None:
    assert weights(weighted(text)) == expected


@pytest.mark.parametrize(
    "text",
    ["web", "=5", "*=", "*=-1", "*=+1", "*=65536", "*=1.5", "*=1_0", "*=٣", "*=2,", ",", "web-blue-1=5;*=2", "a=1,b"],
)
def test_d9_a_malformed_value_is_reported_and_ignored_as_a_whole(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_service_weights({"rulegen.io/weights": text})
    assert weights(weighted(text)) == {"1": 1, "2": 1, "3": 1}
    assert findings(weighted(text)) == [("Service default/web", Reason.MALFORMED_WEIGHT)]


@pytest.mark.parametrize("annotation", ["rulegen.io/weight", "service.cilium.io/weight"])
def test_d9_a_slices_weight_is_for_all_its_endpoints(annotation: str) -> None:
    heavy = endpoint_slice(["10.0.0.1", "10.0.0.2"], annotations={annotation: "20"})
    assert weights(service(), heavy, endpoint_slice(["10.0.0.3"], name="web-2")) == {"1": 20, "2": 20, "3": 1}


def test_d9_the_services_weight_wins_for_the_endpoints_that_it_matches() -> None:
    heavy = endpoint_slice(PODS, annotations={"rulegen.io/weight": "20"})
    assert weights(weighted("web-green-*=3"), heavy) == {"1": 20, "2": 20, "3": 3}


def test_d9_the_own_annotation_of_a_slice_before_the_other() -> None:
    both = {"rulegen.io/weight": "2", "service.cilium.io/weight": "3"}
    assert weights(service(), endpoint_slice(PODS, annotations=both)) == {"1": 2, "2": 2, "3": 2}


def test_d9_a_malformed_weight_of_a_slice_is_reported_and_as_if_absent() -> None:
    bad = endpoint_slice(PODS, annotations={"rulegen.io/weight": "much", "service.cilium.io/weight": "3"})
    assert weights(service(), bad) == {"1": 3, "2": 3, "3": 3}
    assert findings(service(), bad) == [("EndpointSlice default/web-1", Reason.MALFORMED_WEIGHT)]


def test_d9_weight_0_is_as_if_absent_from_both_lists() -> None:
    found = service_port(weighted("web-blue-1=0", external="Local"))
    assert [backend.address for backend in found.cluster_endpoints] == ["10.0.0.2", "10.0.0.3"]
    assert found.local_endpoints == ()
    assert found.draining == ()
    assert [frontend.verdict for frontend in found.frontends] == [Verdict.BALANCE, Verdict.DROP]


def test_d9_all_zero_means_no_endpoints() -> None:
    found = service_port(weighted("*=0"))
    assert found.cluster_endpoints == ()
    assert {frontend.verdict for frontend in found.frontends} == {Verdict.REJECT}


def test_d9_weight_0_lets_the_terminating_fallback_in() -> None:
    item = endpoint_slice([endpoint("10.0.0.1", "node-1"), draining("10.0.0.2", "node-2")])
    assert weights(weighted("node-1=0"), item) == {"2": 1}


def test_d9_weight_0_has_no_say_in_topology() -> None:
    hinted = endpoint_slice([endpoint("10.0.0.1", nodes=["node-1"]), endpoint("10.0.0.2", "node-2")])
    assert weights(weighted("node-2=0"), hinted) == {"1": 1}
    only_other = endpoint_slice(
        [endpoint("10.0.0.1", "node-2", nodes=["node-1"]), endpoint("10.0.0.2", nodes=["node-3"])]
    )
    assert weights(weighted("node-2=0"), only_other) == {"2": 1}


def test_d9_with_affinity_what_drains_is_kept_apart() -> None:
    found = service_port(weighted("web-blue-*=0", affinity=60))
    assert [(backend.address, backend.weight, backend.local) for backend in found.draining] == [
        ("10.0.0.1", 0, True),
        ("10.0.0.2", 0, False),
    ]
    assert [backend.address for backend in found.cluster_endpoints] == ["10.0.0.3"]


def test_d9_an_endpoint_that_would_be_in_no_list_does_not_drain() -> None:
    gone = endpoint_slice(
        [endpoint("10.0.0.1", ready=False), draining("10.0.0.2"), endpoint("10.0.0.3", "node-2"), endpoint("10.0.0.4")]
    )
    found = service_port(weighted("10.0.0.[123]=0", affinity=60), gone)
    assert [backend.address for backend in found.draining] == ["10.0.0.3"]


def test_d9_all_zero_with_affinity_still_drains() -> None:
    found = service_port(weighted("*=0", affinity=60))
    assert len(found.draining) == 3
    assert {frontend.verdict for frontend in found.frontends} == {Verdict.REJECT}


# -- bounds --


def test_d9_globs_mean_what_they_mean_in_file_names() -> None:
    """Against the standard library's, all at once and in order."""
    chance = random.Random(9)
    for _ in range(3000):
        globs = ["".join(chance.choices("ab*?[]!-^z", k=chance.randint(1, 8))) for _ in range(5)]
        rules = ServiceWeights("", [WeightRule(glob, weight) for weight, glob in enumerate(globs)])
        for _ in range(4):
            name = "".join(chance.choices("abz-[]!^", k=chance.randint(0, 6)))
            matching = [weight for weight, glob in enumerate(globs) if fnmatchcase(name, glob)]
            assert rules.weight([name]) == (matching[0] if matching else None), (globs, name)
            assert sorted(rule.weight for rule in rules.matching(name)) == matching


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web-blue-1=5," * 20_000 + "a=1", "expected at most 32768 characters, found 260003"),
        (",".join(f"pod-{number}=1" for number in range(1001)), "expected at most 1000 rules, found 1001"),
        (",".join(f"pod-{number:03}*=1" for number in range(126)), "wildcards of at most 1000 characters, found 1008"),
        ("[" * 1001 + "=1", "wildcards of at most 1000 characters, found 1001"),
    ],
)
def test_d9_what_would_cost_others_their_time_is_reported_and_ignored_as_a_whole(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        parse_service_weights({"rulegen.io/weights": text})
    assert findings(weighted(text)) == [("Service default/web", Reason.MALFORMED_WEIGHT)]
    assert weights(weighted(text)) == {"1": 1, "2": 1, "3": 1}


def test_d9_a_thousand_exact_names() -> None:
    text = ",".join([*(f"pod-{number}=1" for number in range(998)), "web-blue-2=4", "web-*=3"])
    assert weights(weighted(text)) == {"1": 3, "2": 4, "3": 3}


def test_d9_the_annotation_is_parsed_once_for_each_of_its_changes() -> None:
    before = parse_service_weights({"rulegen.io/weights": "a=1"})
    assert parse_service_weights({"rulegen.io/weights": "a=1"}, before) is before
    assert parse_service_weights({"rulegen.io/weights": "a=2"}, before).weight(["a"]) == 2
    assert not parse_service_weights({}, before)
