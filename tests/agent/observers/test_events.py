"""Events, as an API server gets them over TLS: what is sent, how often, and what becomes of those that it refuses."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from rulegen.agent.observers.events import EventRecorder, Pace, record_findings
from rulegen.kube.api import connect
from rulegen.reference import ObjectReference
from rulegen.services.store import Store
from tests.agent.running import wait_until
from tests.apiserver import EVENT, ApiServer
from tests.apiserver.faults import Answer, Hang
from tests.builders import endpoint_slice, node, service, store
from tests.patience import patience

WEB = ObjectReference("Service", "default", "web", "uid-1")
QUICK = Pace(period=0.001, spread=0.0, repeat=3600.0, first_delay=0.02, longest_delay=0.1, refused=0.3)

Start = Callable[..., EventRecorder]


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        yield running


@pytest.fixture
def start(server: ApiServer, tmp_path: Path) -> Iterator[Start]:
    """Starts a recorder, at a pace."""
    started: list[EventRecorder] = []

    def start(pace: Pace = QUICK, node_name: str = "node-1", kubeconfig: str = "") -> EventRecorder:
        api = connect(kubeconfig or server.kubeconfig(tmp_path / "kubeconfig"))
        recorder = EventRecorder(api, node_name, pace)
        recorder.start()
        started.append(recorder)
        return recorder

    yield start
    for recorder in started:
        recorder.stop()


def notes(server: ApiServer) -> list[str]:
    with server.store.changed:
        return [event["note"] for event in server.events]


def sent(server: ApiServer, *expected: str) -> None:
    """Waits until just these were sent."""
    wait_until(lambda: len(notes(server)) >= len(expected), 20.0)
    assert sorted(notes(server)) == sorted(expected)


def test_an_event_says_what_holds_of_which_service(server: ApiServer, start: Start) -> None:
    before = time.time()
    start().record(WEB, "MalformedWeight", "annotation rulegen.io/weights: no")
    sent(server, "annotation rulegen.io/weights: no")
    (event,) = server.events
    assert event["regarding"] == {
        "apiVersion": "v1",
        "kind": "Service",
        "namespace": "default",
        "name": "web",
        "uid": "uid-1",
    }
    assert event["metadata"]["namespace"] == "default"
    assert event["metadata"]["name"].startswith("web.")
    assert (event["reason"], event["type"], event["action"]) == ("MalformedWeight", "Warning", "Program")
    assert (event["reportingController"], event["reportingInstance"]) == ("rulegen", "rulegen-node-1")
    assert time.strftime("%Y-%m-%dT%H:%M", time.gmtime(before)) <= event["eventTime"][:16]


def test_the_same_is_not_sent_twice_while_it_holds_nor_soon_after(server: ApiServer, start: Start) -> None:
    recorder = start()
    for _ in range(3):
        recorder.record(WEB, "A", "one")
    sent(server, "one")
    recorder.resolve(WEB, "A", "one")
    recorder.record(WEB, "A", "one")
    recorder.record(WEB, "A", "two", "Listen")
    sent(server, "one", "two")
    assert (server.events[1]["type"], server.events[1]["action"]) == ("Warning", "Listen")
    assert server.count(EVENT, "create", 201) == 2


def test_what_begins_anew_is_sent_again_after_a_while(server: ApiServer, start: Start) -> None:
    recorder = start(msgspec.structs.replace(QUICK, repeat=1.0))
    recorder.record(WEB, "A", "one")
    sent(server, "one")
    server.events.clear()  # the API server keeps them for a while only
    time.sleep(1.1)
    recorder.record(WEB, "A", "one")
    recorder.record(WEB, "A", "two")
    sent(server, "two")
    recorder.resolve(WEB, "A", "one")
    recorder.record(WEB, "A", "one")
    sent(server, "one", "two")


def test_what_has_ended_before_it_was_sent_is_not(server: ApiServer, start: Start) -> None:
    recorder = start(msgspec.structs.replace(QUICK, spread=0.0, period=0.5))
    for number in range(10):
        recorder.record(WEB, "A", str(number))
    recorder.record(WEB, "A", "brief")
    recorder.resolve(WEB, "A", "brief")
    recorder.record(WEB, "A", "last")
    sent(server, *map(str, range(10)), "last")


def test_a_flood_is_held_back(server: ApiServer, start: Start) -> None:
    recorder = start(msgspec.structs.replace(QUICK, period=60.0))
    for number in range(5000):
        recorder.record(WEB, "A", str(number))
    sent(server, *map(str, range(10)))
    time.sleep(0.3)
    assert len(notes(server)) == 10


def test_all_nodes_make_one_event(server: ApiServer, start: Start) -> None:
    start(node_name="node-1").record(WEB, "A", "one")
    sent(server, "one")
    start(node_name="node-2").record(WEB, "A", "one")
    wait_until(lambda: server.count(EVENT, "create", 409) == 1)
    assert len(server.events) == 1
    # Another Service that has the name now.
    start(node_name="node-3").record(WEB._replace(uid="uid-2"), "A", "one")
    sent(server, "one", "one")


@pytest.mark.parametrize(
    "fault",
    [Answer(429, "TooManyRequests", "0"), Answer(500), Answer(503), Answer(401), Answer(408)],
    ids=lambda fault: str(fault.status),
)
def test_what_passes_is_tried_again(
    server: ApiServer, start: Start, fault: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server.inject(EVENT, "create", *[fault] * 6)
    recorder = start()
    recorder.record(WEB, "A", "one")
    recorder.record(WEB, "A", "two")
    sent(server, "one", "two")
    wait_until(lambda: "Events are sent again" in caplog.text)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith("cannot send Events (said once; Services work without): ")
    assert str(fault.status) in warnings[0]


def test_retry_after_is_kept(server: ApiServer, start: Start) -> None:
    server.inject(EVENT, "create", Answer(429, "TooManyRequests", "1"))
    began = time.monotonic()
    start().record(WEB, "A", "one")
    sent(server, "one")
    assert time.monotonic() - began >= 1.0


def test_a_server_that_is_away_or_silent(server: ApiServer, start: Start) -> None:
    server.stop()
    recorder = start(msgspec.structs.replace(QUICK, answer=0.3))
    recorder.record(WEB, "A", "one")
    time.sleep(0.3)
    server.inject(EVENT, "create", Hang())
    server.start()
    sent(server, "one")
    assert server.count(EVENT, "create", 0) == 1


def test_a_token_that_was_replaced(server: ApiServer, start: Start, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("second")
    server.tokens = {"second"}
    recorder = start(kubeconfig=server.kubeconfig(tmp_path / "k", token_file=token))
    recorder.record(WEB, "A", "one")
    sent(server, "one")
    server.tokens = {"third"}
    token.write_text("third")
    recorder.record(WEB, "A", "two")
    sent(server, "one", "two")
    assert server.count(EVENT, "create", 401) == 1


def test_events_that_are_not_permitted_are_left_alone_for_a_while(
    server: ApiServer, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    server.inject(EVENT, "create", *[Answer(403, "Forbidden")] * 2)
    recorder = start(msgspec.structs.replace(QUICK, refused=1.0))
    for number in range(20):
        recorder.record(WEB, "A", str(number))
    sent(server, *map(str, range(20)))
    first, second, third, *_ = [request.when for request in server.requests if request.verb == "create"]
    assert server.count(EVENT, "create", 403) == 2
    assert min(second - first, third - second) > 0.99
    assert caplog.text.count("cannot send Events") == 1


@pytest.mark.parametrize(
    "fault",
    [Answer(422, "Invalid"), Answer(404, "NotFound"), Answer(403, "Forbidden", causes=("NamespaceTerminating",))],
    ids=lambda fault: str(fault.status),
)
def test_what_can_never_be_stored_is_dropped(server: ApiServer, start: Start, fault: Answer) -> None:
    server.inject(EVENT, "create", fault)
    recorder = start()
    recorder.record(WEB, "A", "one")
    recorder.record(WEB, "A", "two")
    sent(server, "two")
    recorder.record(WEB, "A", "one")
    sent(server, "one", "two")


@pytest.mark.parametrize(
    "fault",
    [
        Answer(404, "NotFound", about="namespaces"),
        Answer(403, "Forbidden", causes=("NamespaceTerminating",), about="events"),
    ],
    ids=lambda fault: str(fault.status),
)
def test_a_namespace_that_is_gone_keeps_nobody_else_waiting(server: ApiServer, start: Start, fault: Answer) -> None:
    server.inject(EVENT, "create", fault)
    recorder = start(msgspec.structs.replace(QUICK, refused=600.0))
    recorder.record(WEB, "A", "one")
    recorder.record(WEB, "A", "two")
    sent(server, "two")


def test_what_could_not_be_sent_for_long_is_dropped(server: ApiServer, start: Start) -> None:
    server.stop()
    recorder = start(msgspec.structs.replace(QUICK, repeat=1.0))
    recorder.record(WEB, "A", "one")
    time.sleep(1.2)
    server.start()
    time.sleep(0.3)
    recorder.record(WEB, "A", "two")
    sent(server, "two")


def test_nobody_waits_and_it_ends_at_once(server: ApiServer, start: Start) -> None:
    server.inject(EVENT, "create", Hang())
    recorder = start(msgspec.structs.replace(QUICK, answer=60.0))
    began = time.monotonic()
    for number in range(1000):
        recorder.record(WEB, "A", str(number))
    assert time.monotonic() - began < patience(5.0)
    wait_until(lambda: server.count(EVENT, "create", 0) == 1)
    began = time.monotonic()
    recorder.stop()
    assert time.monotonic() - began < patience(5.0)


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        ("a\n\x1b[31mb\x7f\u00e9\U0001f600\ud800", "a\\n\\x1b[31mb\\x7f\\xe9\\U0001f600\\ud800"),
        ('say "no" \\', 'say "no" \\'),
        ("x" * 1024, "x" * 1024),
        ("\u00e9" * 1024, "\\xe9" * 255 + "\\..."),
    ],
)
def test_notes_are_safe_and_short(server: ApiServer, start: Start, note: str, expected: str) -> None:
    start(node_name="n" * 253).record(WEB, "A", note)
    sent(server, expected)


# Of what the store finds.


class Owners:
    """A cluster whose findings become Events."""

    def __init__(self, recorder: EventRecorder, made: Store) -> None:
        self.store = made
        self._recorder = recorder

    def take(self) -> None:
        self.store.take_changes()
        record_findings(self._recorder, self.store.findings_of.take())


def test_owners_are_told_what_they_can_do_something_about(server: ApiServer, start: Start) -> None:
    owners = Owners(
        start(),
        store(
            service("a", ["10.96.0.1"], vips=["192.0.2.1"], ranges=["fd00::/8", "bad"]),
            service("b", ["10.96.0.2"], external_ips=["192.0.2.1", "nonsense"], created="2020-01-01T00:00:00Z"),
            service("c", ["10.96.0.3"], external_ips=["2001:db8::1"]),
            endpoint_slice(["10.244.1.1"], service_name="c", annotations={"rulegen.io/weight": "many"}),
        ),
    )
    owners.take()
    wait_until(lambda: len(notes(server)) >= 5, 20.0)
    found = sorted((event["regarding"]["name"], event["reason"], event["note"][:20]) for event in server.events)
    assert found == [
        ("a", "DuplicateFrontend", "load-balancer VIP 19"),
        ("a", "SourceRangesLeaveFamilyOpen", "loadBalancerSourceRa"),
        ("a", "UnusableSourceRange", "loadBalancerSourceRa"),
        ("b", "UnusableAddress", 'spec.externalIPs: "n'),
        ("c", "MalformedWeight", "EndpointSlice defaul"),
    ]


def test_a_finding_is_told_when_it_appears_and_not_with_each_change(server: ApiServer, start: Start) -> None:
    old = service("b", ["10.96.0.2"], vips=["192.0.2.1"], created="2020-01-01T00:00:00Z")
    owners = Owners(start(), store(node(), service("a", ["10.96.0.1"], vips=["192.0.2.1"])))
    owners.take()
    owners.store.set_service(old)
    owners.take()
    sent(server, "load-balancer VIP 192.0.2.1 port 80/TCP belongs to default/b (D2)")
    owners.store.set_service(service("a", ["10.96.0.1"], vips=["192.0.2.1"], annotations={"rulegen.io/weights": "?"}))
    owners.take()
    wait_until(lambda: len(notes(server)) == 2)
    assert server.events[1]["reason"] == "MalformedWeight"
    owners.store.remove_service("default", "b")
    owners.take()
    owners.store.remove_service("default", "a")
    owners.take()
    owners.store.set_service(old)
    owners.take()
    time.sleep(0.2)
    assert server.count(EVENT, "create", 201) == 2
    assert server.count(EVENT, "create", 409) == 0


def test_the_uid_is_the_services_own(server: ApiServer, start: Start) -> None:
    item = service("a", external_ips=["?"])
    named = msgspec.structs.replace(item, metadata=msgspec.structs.replace(item.metadata, uid="of-this-one"))
    Owners(start(), store(named)).take()
    wait_until(lambda: len(notes(server)) == 1)
    assert server.events[0]["regarding"]["uid"] == "of-this-one"
