"""kube-proxy's rules beside rulegen's: what differs on purpose is explained, and nothing else differs."""

from __future__ import annotations

from collections import Counter

import pytest

from bench import kube_proxy, kube_proxy_iptables
from bench.clusters import NODE_ADDRESS, Shape
from bench.product import configuration
from bench.verify import of_shape
from rulegen.services.store import Store
from rulegen.verify import questions, rulesets
from rulegen.verify.report import Report, document, lines
from rulegen.verify.rulesets import Source

pytestmark = pytest.mark.kernel

SHAPE = Shape(6, special=True)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    return of_shape(SHAPE, tmp_path_factory.mktemp("cluster"))


def replaced(compiled: tuple[Store, str], theirs: Source) -> Report:
    store, text = compiled
    ours = rulesets.read_text(text, "rulegen's")
    return questions.replacing_kube_proxy(theirs, ours, store, configuration(1), [NODE_ADDRESS])


def decisions(report: Report) -> Counter[str]:
    return Counter(one.partition(":")[0] for _, proof in report.proofs for one in proof.explained)


def test_nftables_mode(compiled: tuple[Store, str]) -> None:
    text = "\n".join(kube_proxy.commands(SHAPE))
    report = replaced(compiled, rulesets.read_text(text, "kube-proxy's"))
    assert not report.proofs[0].proof.unknown
    assert report.status == 1
    assert set(decisions(report)) == {"D5", "D15", "D20"}, "\n".join(lines(report))


def test_nftables_mode_with_something_else(compiled: tuple[Store, str]) -> None:
    text = "\n".join(kube_proxy.commands(SHAPE))
    changed = text.replace(
        "numgen random mod 10 map { 0 : 10.0.0.1 . 8080", "numgen random mod 10 map { 0 : 10.0.0.2 . 8080"
    )
    assert changed != text
    report = replaced(compiled, rulesets.read_text(changed, "kube-proxy's"))
    assert set(decisions(report)) == {"", "D5", "D15", "D20"}
    unexplained = [one for one in document(report)["families"][0]["differences"] if not one["explanation"]]
    assert {one["destination"] for one in unexplained} == {"172.16.0.1"}
    assert unexplained[0]["left"][0]["shares"]["10.0.0.2:8080"] == "1/5"


def test_iptables_mode(compiled: tuple[Store, str]) -> None:
    text = "\n".join(kube_proxy_iptables.rules(SHAPE))
    report = replaced(compiled, rulesets.read_text(text, "kube-proxy's"))
    assert not report.proofs[0].proof.unknown
    assert set(decisions(report)) <= {"D1", "D5", "D15", "D20"}, "\n".join(lines(report))
