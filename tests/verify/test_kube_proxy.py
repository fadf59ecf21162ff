"""kube-proxy's rules beside rulegen's: what differs on purpose is explained, and nothing else differs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import kube_proxy, kube_proxy_iptables
from bench.clusters import NODE_ADDRESS, Shape, manifest
from bench.product import configuration
from bench.verify import of_shape
from rulegen.cli import main
from rulegen.config import Target
from rulegen.drivers import make_driver
from rulegen.features import feed, make
from rulegen.kube.manifests import load
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.driver import compile_all
from rulegen.reconcile.once import take_all
from rulegen.services.feature import ServicesFeature
from rulegen.services.store import Store
from rulegen.verify import questions, rulesets
from rulegen.verify.report import Report, document, lines
from rulegen.verify.rulesets import Source
from tests.services.test_host_ports import host_port, pod

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


def test_host_ports_are_explained(tmp_path: Path) -> None:
    """kube-proxy has none: each packet to one differs, by D21."""
    manifests = load([str(manifest(SHAPE, tmp_path))], None)
    web = pod("web", host_port(8888), addresses=("10.0.0.77",))
    features = make(("host-ports",), configuration(1))
    feed(features, [*manifests.release(), web])
    driver = make_driver(Target.NFTABLES)
    compilers = CompilerSet.of(features, driver.name, configuration(1))
    compile_all(compilers, *take_all(features))
    (store,) = (feature.store for feature in features if isinstance(feature, ServicesFeature))
    theirs = rulesets.read_text("\n".join(kube_proxy.commands(SHAPE)), "kube-proxy's")
    report = replaced((store, "".join(driver.render(compilers))), theirs)
    assert set(decisions(report)) == {"D5", "D15", "D20", "D21"}, "\n".join(lines(report))


def test_what_kube_proxy_does_nothing_of(tmp_path: Path) -> None:
    rules = tmp_path / "kube-proxy.nft"
    rules.write_text("\n".join(kube_proxy.commands(SHAPE)))
    objects = ["-f", str(manifest(SHAPE, tmp_path)), "--node", "node-1", "--feature", "network-policies"]
    arguments = ["verify", *objects, "--replaces", "kube-proxy", "--rendered", str(rules)]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 1, done.output
    assert "nothing is proved about network-policies: kube-proxy does nothing of it" in done.stdout
    assert "D5: kube-proxy judges later packets" in done.stdout
