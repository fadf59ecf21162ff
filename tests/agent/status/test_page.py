"""The status as a page, as JSON and as lines: what is asked for is answered, and nobody's text gets out unescaped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any
from wsgiref.validate import validator

import msgspec
import pytest

from rulegen.agent.http.server import HttpServer
from rulegen.agent.status.document import MOST, ListeningAddress, Source, Status, Takeover
from rulegen.agent.status.observer import Asked, Settings, StatusObserver
from rulegen.agent.status.page import as_html, prefers_json, status_page
from rulegen.agent.status.words import status_lines
from rulegen.errors import ApplyError, HostError
from rulegen.features import kinds_of
from rulegen.kube.decode import ObjectError
from rulegen.kube.faults import Fault
from rulegen.kube.follow import FileUnusable, FileUsable, Interrupted, Invalid, Resumed, Synced, Upsert
from rulegen.kube.objects import EndpointSlice, Service
from rulegen.reconcile.reconciler import Reconciler
from rulegen.reference import Finding, ObjectReference
from tests.agent.asking import TIMEOUT, open_somewhere
from tests.builders import endpoint_slice, service
from tests.kept import services_on
from tests.patience import patience
from tests.reconcile.memory_kernel import MemoryKernel, MemoryRules

EVIL = "<script>alert('x')</script>\x1b[31m\n\u202e&\""


class Agent:
    """What an agent would tell the observer of; the kernel is in memory."""

    def __init__(self, text: str = "plain") -> None:
        services, compilers = services_on("nftables")
        self.kernel = MemoryKernel()
        self.reconciler = Reconciler([services], MemoryRules(self.kernel, compilers))
        self.healthy = True
        self.configuration_problem = ""
        settings = Settings(
            node="node-1",
            target="nftables",
            variant="",
            features=("services",),
            families=("IPv4", "IPv6"),
            source=Source(kind="files", places=(text,)),
            configuration=text,
            kinds=tuple(kinds_of(())),
        )
        asked = Asked(
            waiting=lambda: 3,
            health=lambda: (self.healthy, True),
            health_checks=lambda: 2,
            takeover=lambda: Takeover(state="kept", message=text),
            foreign_drops=lambda: text,
            configuration_problem=lambda: self.configuration_problem,
        )
        self.observer = StatusObserver(settings, asked, self.reconciler)
        self.observer.ask_listening(lambda: [ListeningAddress(field="f", address=text, problem=text)])

    def sync(self, *items: Any) -> None:
        for item in items:
            self.reconciler.put(item)
        self.observer.took([Upsert(item) for item in items])
        self.observer.synced(self.reconciler.sync())

    def status(self) -> Status:
        return self.observer.status()


def web(name: str, address: str) -> list[Any]:
    return [service(name, [address]), endpoint_slice(["10.128.0.1"], service_name=name, name=f"{name}-a")]


def hostile() -> Status:
    """A status in which every text that is anybody's is not to be trusted."""
    agent = Agent(EVIL)
    agent.configuration_problem = EVIL
    error = ObjectError("Service", EVIL, (Fault("spec", EVIL),))
    agent.sync(*web("web", "10.96.0.1"))
    agent.observer.took(
        [
            FileUnusable(EVIL, EVIL),
            Invalid(Service, "default", EVIL, error),
            Interrupted(EndpointSlice, HostError(EVIL), 1.0),
        ]
    )
    agent.observer.found_at_the_start([Finding(ObjectReference("Node", "", EVIL), "SysctlNotSet", EVIL)])
    agent.observer.repaired(EVIL, 2, [EVIL])
    agent.observer.health_check(("default", EVIL), EVIL, True)
    agent.observer.failed(ApplyError(EVIL), 0.1, is_full=True)
    return agent.status()


def test_nobodys_text_gets_out_unescaped() -> None:
    status = hostile()
    page = as_html(status)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    texts = [page, *(line.text for line in status_lines(status))]
    for text in texts:
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", text)
    assert all("\n" not in line.text for line in status_lines(status))


def test_the_page_needs_nothing_from_elsewhere() -> None:
    page = as_html(hostile())
    assert not re.search(r"<script|<link|<img|src=|href=|url\(|@import| on\w+=", page)
    assert len(page) < 20_000


def test_states() -> None:
    agent = Agent("")
    agent.observer.ask_listening(tuple)
    assert agent.status().state == "starting"
    agent.observer.took([Synced(Service)])
    agent.sync(*web("web", "10.96.0.1"))
    status = agent.status()
    assert status.state == "ok"
    assert status.last_sync is not None
    assert status.last_sync.names == ("default/web",)
    assert set(status.last_sync.steps) >= {"take", "compile", "apply"}
    assert (status.service_ports, status.pending.taken, status.pending.waiting) == (1, 0, 3)
    agent.observer.failed(ApplyError("first"), 0.1, is_full=False)
    agent.observer.failed(ApplyError("second"), 0.1, is_full=False)
    status = agent.status()
    assert status.state == "failing"
    assert status.failure is not None
    assert (status.failure.attempts, status.failure.error) == (2, "second")
    agent.sync()
    assert agent.status().state == "ok"
    agent.healthy = False
    assert agent.status().state == "failing"
    agent.healthy = True
    error = ObjectError("Service", "default/web", (Fault("spec", "no"),))
    for broken, mended in (
        (FileUnusable("a.yaml", "a.yaml: no"), FileUsable("a.yaml")),
        (Invalid(Service, "default", "web", error), Upsert(web("web", "10.96.0.1")[0])),
        (Interrupted(Service, HostError("no"), 1.0), Resumed(Service)),
    ):
        agent.observer.took([broken])
        assert agent.status().state == "degraded"
        agent.observer.took([mended])
        assert agent.status().state == "ok"
    agent.observer.health_check(("default", "web"), "no", True)
    assert agent.status().listeners.failed_health_checks.total == 1
    agent.observer.health_check(("default", "web"), "no", False)
    agent.configuration_problem = "no"
    assert agent.status().state == "degraded"


def test_what_is_refused_is_named_until_it_is_in_force() -> None:
    agent = Agent("")
    agent.observer.ask_listening(tuple)
    agent.sync(*web("web", "10.96.0.1"))
    agent.kernel.refuses = lambda _key, value: "default/bad" in str(value)
    agent.reconciler.distrust()
    agent.sync(*web("bad", "10.96.0.2"))
    status = agent.status()
    assert status.state == "degraded"
    assert [problem.subject for problem in status.refused.shown] == ["Service default/bad"]
    assert "refused" in status.refused.shown[0].message
    agent.kernel.refuses = lambda _key, _value: False
    agent.sync(*web("bad", "10.96.0.3"))
    assert agent.status().refused.total == 0


def test_lists_are_bounded() -> None:
    """However much there is, and however long it is."""
    agent = Agent()
    agent.sync(*(one for number in range(300) for one in web(f"web-{number:03}", "10.96.0.1")))
    agent.observer.took([FileUnusable(f"{number:04}.yaml", "x" * 10_000) for number in range(5000)])
    for _ in range(1000):
        agent.observer.repaired("x" * 10_000, 1, ["x" * 10_000] * 100)
    status = agent.status()
    assert (status.broken_files.total, len(status.broken_files.shown)) == (5000, MOST)
    assert [one.subject for one in status.broken_files.shown[:2]] == ["0000.yaml", "0001.yaml"]
    assert status.findings.total == {"DuplicateFrontend": 299, "UnknownNode": 1}
    assert len(status.findings.shown) == MOST
    assert [one.object for one in status.findings.shown[:2]] == ["Node node-1", "Service default/web-001"]
    assert status.drift.repairs == 1000
    assert len(msgspec.json.encode(status)) < 2_000_000
    assert len(list(status_lines(status))) < 1000
    # They are counted down again.
    agent.sync(*(service(f"web-{number:03}", [f"10.96.1.{number % 250}"]) for number in range(200)))
    assert agent.status().findings.total["DuplicateFrontend"] < 299


@pytest.mark.parametrize(
    ("accept", "is_json"),
    [
        ("", False),
        ("*/*", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
        ("application/json", True),
        ("application/*", True),
        ("APPLICATION/JSON", True),
        ("application/json;q=0.5, text/html;q=0.4", True),
        ("application/json;q=0.4, text/html;q=0.5", False),
        ("text/html;q=0, */*", True),
        ("application/json;q=0, */*", False),
        ("application/json;q=x", False),
        ("application/json;q=nan, text/html", False),
        (";;,=,", False),
        ("text/plain", False),
    ],
)
def test_the_format_is_the_one_that_is_asked_for(accept: str, is_json: bool) -> None:
    assert prefers_json(accept) is is_json


@pytest.fixture
def port() -> Iterator[int]:
    with closing(HttpServer()) as server:
        yield open_somewhere(server, validator(status_page(hostile)))


def test_over_a_socket(port: int) -> None:
    answers = {}
    for method, accept in (("GET", "application/json"), ("GET", "*/*"), ("HEAD", "*/*"), ("POST", "*/*")):
        connection = HTTPConnection("127.0.0.1", port, timeout=patience(TIMEOUT))
        connection.request(method, "/status", headers={"Accept": accept})
        answer = connection.getresponse()
        answers[method, accept] = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
    status, headers, body = answers["GET", "application/json"]
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert msgspec.json.decode(body, type=Status).state == "failing"
    status, headers, body = answers["GET", "*/*"]
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "script" not in headers["Content-Security-Policy"]
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert headers["Vary"] == "Accept"
    assert body.startswith(b"<!DOCTYPE html>")
    assert answers["HEAD", "*/*"][0] == 200
    assert answers["HEAD", "*/*"][2] == b""
    assert answers["POST", "*/*"][0] == 405
