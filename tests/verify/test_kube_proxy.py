"""kube-proxy's rules beside rulegen's: what differs on purpose is explained, and nothing else differs."""

from __future__ import annotations

from collections import Counter

import pytest

from bench import kube_proxy, kube_proxy_iptables
from bench.clusters import NODE_ADDRESS, Shape, manifest
from bench.product import configuration
from rulegen.kube.manifests import load
from rulegen.services.store import Store
from rulegen.targets.on_nftables import NftablesTarget
from rulegen.verify import questions, rulesets
from rulegen.verify.report import Report, document, lines
from rulegen.verify.rulesets import Source

pytestmark = pytest.mark.kernel

SHAPE = Shape(6, special=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    manifests = load([str(manifest(SHAPE, tmp_path_factory.mktemp("cluster")))], None)
    made = Store(configuration(1))
    for objects in (manifests.nodes, manifests.service_cidrs, manifests.services, manifests.endpoint_slices):
        made.set_objects(objects)
    return made


def replaced(store: Store, theirs: Source) -> Report:
    node = configuration(1)
    ours = rulesets.read_text("".join(NftablesTarget().render(store, node)), "rulegen's")
    return questions.replacing_kube_proxy(theirs, ours, store, node, [NODE_ADDRESS])


def decisions(report: Report) -> Counter[str]:
    return Counter(one.partition(":")[0] for _, _, explanations in report.proofs for one in explanations)


def test_nftables_mode(store: Store) -> None:
    text = "\n".join(kube_proxy.commands(SHAPE))
    report = replaced(store, rulesets.read_text(text, "kube-proxy's"))
    assert not report.proofs[0].proof.unknown
    assert report.status == 1
    assert set(decisions(report)) == {"D5", "D15", "D20"}, "\n".join(lines(report))


def test_nftables_mode_with_something_else(store: Store) -> None:
    text = "\n".join(kube_proxy.commands(SHAPE))
    changed = text.replace(
        "numgen random mod 10 map { 0 : 10.0.0.1 . 8080", "numgen random mod 10 map { 0 : 10.0.0.2 . 8080"
    )
    assert changed != text
    report = replaced(store, rulesets.read_text(changed, "kube-proxy's"))
    assert set(decisions(report)) == {"", "D5", "D15", "D20"}
    unexplained = [one for one in document(report)["families"][0]["differences"] if not one["explanation"]]
    assert {one["destination"] for one in unexplained} == {"172.16.0.1"}
    assert unexplained[0]["left"][0]["shares"]["10.0.0.2:8080"] == "1/5"


def test_iptables_mode(store: Store) -> None:
    text = "\n".join(kube_proxy_iptables.rules(SHAPE))
    report = replaced(store, rulesets.read_text(text, "kube-proxy's"))
    assert not report.proofs[0].proof.unknown
    assert set(decisions(report)) <= {"D1", "D5", "D15", "D20"}, "\n".join(lines(report))
