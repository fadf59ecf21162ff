"""What the status of an Ingress says of how clients reach it, as an API server has it; and who says so."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import Queue
from typing import Any, cast

import msgspec
import pytest
import yaml

from rulegen.agent.observers.object_status import StatusWriter
from rulegen.config import IngressSettings, NodeConfiguration
from rulegen.ingress.feature import IngressFeature
from rulegen.kube.api import Api
from rulegen.kube.follow import Upsert
from rulegen.kube.objects import Ingress, IngressClass
from rulegen.reconcile.delta import Delta
from rulegen.reconcile.feature import WithStatus
from rulegen.reconcile.reconciler import Sync
from rulegen.reference import ObjectReference
from tests.agent.running import RULEGEN, Agent, wait_until
from tests.apiserver import ApiServer
from tests.apiserver.faults import Answer
from tests.ingress.lab import Lab, lab_in, main_file, nginx
from tests.ingress.objects import Document, ingress, ingress_class, network_objects, path, rule
from tests.patience import patience

LEASE = ("kube-system", "rulegen-ingress")
OURS = [{"ip": "203.0.113.9"}, {"ip": "2001:db8::9"}, {"hostname": "lb.example.org"}]
THEIRS = [{"ip": "198.51.100.1"}]


# -- what is to be written --


def _feature(*published: str) -> IngressFeature:
    made = IngressFeature(NodeConfiguration(node_name="", ingress=IngressSettings(published=published)))
    made.put(msgspec.convert(ingress_class(default=False), IngressClass))
    made.put(msgspec.convert(ingress_class("other", "example.org/other", default=False), IngressClass))
    return made


def _item(class_name: str | None, entries: list[dict[str, str]] | None, *rules: Document) -> Ingress:
    document = ingress("web", *(rules or (rule("a.test", path("/")),)), class_name=class_name)
    if entries is not None:
        document["status"] = {"loadBalancer": {"ingress": entries}}
    return msgspec.convert(document, Ingress)


def _wanted(feature: IngressFeature) -> list[Any]:
    feature.take()
    return [dict(document)["loadBalancer"]["ingress"] for _, document in feature.statuses.items()]


@pytest.mark.parametrize(
    ("class_name", "entries", "wanted"),
    [
        ("rulegen", None, [OURS[:1]]),
        ("rulegen", [], [OURS[:1]]),
        ("rulegen", OURS[:1], []),
        ("rulegen", THEIRS, [OURS[:1]]),
        ("rulegen", [*OURS[:1], *THEIRS], [OURS[:1]]),
        # Not ours (any more): what is ours goes, what is not stays.
        (None, OURS[:1], [None]),
        (None, THEIRS, []),
        (None, None, []),
        ("gone", OURS[:1], [None]),
        # It may be another's word that says the same.
        ("other", OURS[:1], []),
        ("other", THEIRS, []),
    ],
)
def test_what_is_written(class_name: str | None, entries: list[dict[str, str]] | None, wanted: list[Any]) -> None:
    feature = _feature("203.0.113.9")
    feature.put(_item(class_name, entries))
    assert _wanted(feature) == wanted


def test_what_was_ours_is_told_apart_from_what_was_anothers() -> None:
    feature = _feature("203.0.113.9")
    feature.put(_item("rulegen", OURS[:1]))
    assert _wanted(feature) == []
    # It was ours, and is another's now, who may not say anything.
    feature.put(_item("other", OURS[:1]))
    assert _wanted(feature) == [None]
    feature.put(_item("other", None))
    assert _wanted(feature) == []
    # Now it is the other who says so.
    feature.put(_item("other", OURS[:1]))
    assert _wanted(feature) == []
    # A class that comes and goes, a fault, and an Ingress that goes.
    feature.put(_item("rulegen", None))
    assert _wanted(feature) == [OURS[:1]]
    feature.remove(ObjectReference("IngressClass", "", "rulegen"))
    assert _wanted(feature) == []
    feature.put(msgspec.convert(ingress_class(default=False), IngressClass))
    assert _wanted(feature) == [OURS[:1]]
    feature.put(_item("rulegen", OURS[:1], rule("a_b.test", path("/"))))
    assert _wanted(feature) == [None]
    feature.remove(ObjectReference("Ingress", "shop", "web"))
    assert _wanted(feature) == []


def test_what_another_controller_serves_is_no_fault_and_keeps_its_status() -> None:
    feature = _feature("203.0.113.9")
    for class_name, found in (("rulegen", 1), ("gone", 1), ("other", 0)):
        # A regular expression, as some controllers take it.
        feature.put(_item(class_name, OURS[:1], rule("a.test", path("/api/?(.*)", kind="ImplementationSpecific"))))
        assert _wanted(feature) == ([None] if found else [])
        assert len(feature.findings) == found
        feature.remove(ObjectReference("Ingress", "shop", "web"))
        feature.take()


class _Api:
    """Takes what is written."""

    def __init__(self) -> None:
        self.written: Queue[str] = Queue()

    def patch(self, path: str, document: Any, seconds: float) -> None:
        del document, seconds
        self.written.put(path)

    def close(self) -> None:
        pass


def test_the_same_that_somebody_writes_again_is_replaced_again() -> None:
    feature, api = _feature("203.0.113.9"), _Api()
    writer = StatusWriter(cast(Api, api), [cast(WithStatus, feature)], lambda: True)
    writer.start()

    def comes(entries: list[dict[str, str]]) -> None:
        item = _item("rulegen", entries)
        feature.put(item)
        writer.took([Upsert(item)])

    def sync() -> None:
        feature.take()
        writer.synced(Sync(is_full=False, delta=Delta(), repaired=Delta(), features={}, findings={}, seconds={}))

    try:
        for _ in range(2):
            comes(THEIRS)
            sync()
            assert api.written.get(timeout=patience(5)).endswith("/namespaces/shop/ingresses/web/status")
            # What was written is replaced before anybody has seen it.
            comes(OURS[:1])
    finally:
        writer.stop()
    assert api.written.empty()


def test_without_the_option_nothing_is_written() -> None:
    feature = _feature()
    feature.put(_item("rulegen", THEIRS))
    assert (_wanted(feature), feature.says_status) == ([], False)


# -- by whom --


@contextmanager
def _replica(lab: Lab, kubeconfig: str, number: int) -> Iterator[Agent]:
    """An agent with an nginx of its own, on ports of its own."""
    folder = lab.folder / f"replica-{number}"
    main = main_file(folder)
    settings = {
        "mainFile": str(main),
        "file": str(folder / "conf.d/rulegen.conf"),
        "certificates": str(folder / "certificates"),
        "httpPort": 8000 + number,
        "httpsPort": 8443 + number,
        "versionAddress": f"127.0.0.1:{10250 + number}",
        "publishedAddresses": ["203.0.113.9", "2001:DB8:0::9", "lb.example.org"],
    }
    document = {"apiVersion": "rulegen.io/v1alpha1", "kind": "RulegenConfiguration", "features": ["ingress"]}
    config = folder / "own.yaml"
    config.write_text(yaml.safe_dump({**document, "ingress": settings}))
    command = [RULEGEN, "agent", "--kubeconfig", kubeconfig, "--config", str(config), "--log-level", "debug"]
    with (folder / "log").open("wb") as log, lab.namespace.entered():
        serving = nginx(main)
        agent = subprocess.Popen(command, stderr=log)
    with serving, agent:
        try:
            yield Agent(agent, folder)
        finally:
            agent.kill()
            serving.terminate()


def _entries(api: ApiServer, name: str) -> Any:
    found = api.store.object(Ingress, name, "shop").get("status", {})
    return found.get("loadBalancer", {}).get("ingress")


@pytest.mark.kernel
def test_the_leader_alone_writes_and_the_next_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POD_NAMESPACE", raising=False)
    with ExitStack() as stack:
        lab = stack.enter_context(lab_in(tmp_path))
        with lab.namespace.entered():
            api = stack.enter_context(ApiServer())
        api.put(*network_objects(), ingress_class(), ingress("one", rule("one.test", path("/"))))
        api.put({**ingress("two", class_name="other"), "status": {"loadBalancer": {"ingress": THEIRS}}})
        # What fails is tried again.
        api.inject(Ingress, "patch", Answer(503, "ServiceUnavailable"))
        kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
        first = stack.enter_context(_replica(lab, kubeconfig, 1))
        wait_until(lambda: _entries(api, "one") == OURS, 20.0)
        first.wait_for("the status of Ingress shop/one cannot be written, tried again until it can", 5.0)
        second = stack.enter_context(_replica(lab, kubeconfig, 2))
        second.wait_for("sync mode=full", 20.0)
        api.put(ingress("three", rule("three.test", path("/"))))
        wait_until(lambda: _entries(api, "three") == OURS, 10.0)
        # Each has it, and one has said so, once.
        files = [lab.folder / f"replica-{number}/conf.d/rulegen.conf" for number in (1, 2)]
        wait_until(lambda: all("three.test" in file.read_text() for file in files), 10.0)
        assert "the status of" not in second.log
        wait_until(lambda: api.count(Ingress, "patch") == 2)
        assert _entries(api, "two") == THEIRS

        holder = api.leases[LEASE]["spec"]["holderIdentity"]
        first.process.send_signal(signal.SIGTERM)
        assert first.process.wait(patience(5)) == 0
        # Not ours any more: what was said goes, by the next leader.
        api.put({**ingress("three", class_name="gone"), "status": {"loadBalancer": {"ingress": OURS}}})
        wait_until(lambda: not _entries(api, "three"), 20.0)
        assert api.leases[LEASE]["spec"]["holderIdentity"] not in {"", holder}
        assert (_entries(api, "one"), _entries(api, "two")) == (OURS, THEIRS)
        wait_until(lambda: api.count(Ingress, "patch") == 3)
        # Whose Ingress is wrong is told so, by whichever replica is first.
        wait_until(lambda: any(event["reason"] == "UnusableIngress" for event in api.events), 10.0)
        assert "Traceback" not in first.log + second.log
