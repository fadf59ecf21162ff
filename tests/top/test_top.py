"""`rulegen top` in a real kernel: counts at the start, what comes and goes, and what is said when that is not all."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from rulegen.config import Family
from rulegen.conntrack.connections import ConnectionReader, EventListener, EventsMode, events_mode
from rulegen.conntrack.table import ConnectionTable
from rulegen.live.in_kernel import known_of_kernel
from rulegen.live.known import Known, ServiceId
from rulegen.top.model import VERSION, EndpointCount, Others, ServiceCount, Snapshot
from rulegen.top.snapshots import Choice
from rulegen.top.text import plain_lines, rows
from rulegen.top.watch import NO_EVENTS, Watch
from tests.kube_proxy.stand_in import running
from tests.lab import Lab, Packet
from tests.patience import patience
from tests.trace.scene import CLIENT, CLUSTER, NODE_ADDRESS, POD, POD_V6, RULEGEN, apply

pytestmark = pytest.mark.kernel

WEB, WEB_V6 = "10.96.0.20", "fd00:10:96::20"
ENDPOINT = "10.128.1.7:8080"
EVERYTHING = Choice(lambda _: True)
A_MOMENT = 0.05


@pytest.fixture
def node(nftables_node: Lab) -> Lab:
    nftables_node.forget_connections()
    return nftables_node


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has to be listed again is, however short ago it was."""
    monkeypatch.setattr("rulegen.top.watch._AGAIN_SECONDS", 0.0)
    monkeypatch.setattr("rulegen.top.watch._TIMES", 0)


@contextmanager
def watching(lab: Lab, names: Callable[[], Known] = known_of_kernel, **options: bool) -> Iterator[Watch]:
    with lab.entered(), Watch(names, names_change=options.get("names_change", True)) as watch:
        yield watch


def connect(lab: Lab, *ports: int, to: str = WEB, source: str = POD) -> None:
    """A new connection from each of these ports."""
    lab.send([Packet(source, to, 80, "TCP", source_port=port) for port in ports])


def forget(lab: Lab, port: int) -> None:
    """Ends the connection from a port."""
    with lab.entered(), ConnectionTable() as table:
        found = list(table.connections(Family.IPV4, lambda entry: port.to_bytes(2, "big") in entry))
        assert table.remove(found) == 1


def of(snapshot: Snapshot, name: str, family: str = "IPv4") -> ServiceCount:
    return next(one for one in snapshot.services if (one.service, one.family) == (name, family))


def counts(snapshot: Snapshot) -> tuple[int, int]:
    """Connections of shop/web now, and those that came."""
    one = of(snapshot, "shop/web:http")
    assert one.new_per_second == round(one.new / snapshot.seconds, 1)
    return one.connections, one.new


# ---- counts ----


def test_what_is_there_is_listed_and_what_comes_and_goes_is_told(node: Lab) -> None:
    connect(node, 7000, 7001)
    with watching(node) as watch:
        assert counts(watch.snapshot(EVERYTHING, A_MOMENT)) == (2, 0)
        connect(node, 7002, 7003, 7004)
        assert counts(watch.snapshot(EVERYTHING, A_MOMENT)) == (5, 3)
        forget(node, 7003)
        assert counts(watch.snapshot(EVERYTHING, A_MOMENT)) == (4, 0)


def test_both_families_and_node_ports_count(node: Lab) -> None:
    connect(node, 7010)
    connect(node, 7011, to=WEB_V6, source=POD_V6)
    node.send([Packet(CLIENT, NODE_ADDRESS, 30080, "TCP", source_port=7012)])
    with watching(node) as watch:
        snapshot = watch.snapshot(EVERYTHING, A_MOMENT)
    assert of(snapshot, "shop/web:http").connections == 2
    found = of(snapshot, "shop/web:http", "IPv6").endpoints
    assert [(one.endpoint, one.connections, one.share, one.weight_share) for one in found] == [
        ("[fd00:10:129::7]:8080", 1, 1.0, 1.0)
    ]


def test_connections_to_nobody_known_are_others(node: Lab) -> None:
    connect(node, 7020)
    with watching(node, Known, names_change=False) as watch:
        snapshot = watch.snapshot(EVERYTHING, A_MOMENT)
    assert (snapshot.services, snapshot.others.connections) == ((), 1)


# ---- where events are not all ----


def test_what_came_before_anybody_listened_goes_after_another_listing(node: Lab, impatient: None) -> None:
    with node.entered():
        assert events_mode() is EventsMode.AUTO, "the kernel's default"
    # The lab listens itself: without that, of these no event will ever be told.
    connect(node, 7030)
    with watching(node) as watch:
        assert counts(watch.snapshot(EVERYTHING, A_MOMENT)) == (1, 0)
        watch.events.close()
        forget(node, 7030)
        watch.events = EventListener()
        assert watch.snapshot(EVERYTHING, A_MOMENT).services == ()


def test_events_that_are_lost_lead_to_another_listing_and_are_told(node: Lab) -> None:
    with watching(node) as watch:
        watch.events.resize(2048)
        connect(node, *range(7100, 7160))
        snapshot = watch.snapshot(EVERYTHING, A_MOMENT)
    assert counts(snapshot) == (60, 60)
    (note,) = snapshot.notes
    assert note.startswith("the kernel had more to tell than there was room for")


def test_without_events_connections_are_listed_each_time_and_no_sysctl_is_changed(lab: Lab) -> None:
    apply(lab)
    lab.namespace.set_sysctl("netfilter/nf_conntrack_events", 0)
    with watching(lab) as watch:
        # What the lab sees of a packet is an event; these are seen by nobody.
        lab.send([Packet(POD, WEB, 80, "TCP", source_port=port) for port in (7040, 7041)])
        snapshot = watch.snapshot(EVERYTHING, A_MOMENT)
        assert counts(snapshot) == (2, 2)
        assert snapshot.notes == (NO_EVENTS,)
        assert counts(watch.snapshot(EVERYTHING, A_MOMENT)) == (2, 0)
        assert events_mode() is EventsMode.OFF


# ---- names ----


@pytest.mark.parametrize("place", ["nftables_node", "iptables_node"])
def test_the_live_rules_say_what_the_objects_say(request: pytest.FixtureRequest, place: str) -> None:
    lab: Lab = request.getfixturevalue(place)
    with lab.entered():
        known = known_of_kernel()
    web = ServiceId("shop/web:http", Family.IPV4, "tcp")
    assert known.shares[web] == {ENDPOINT: 1.0}


def test_kube_proxys_rules_say_it_too(lab: Lab, tmp_path: Path) -> None:
    with running(lab, tmp_path, "nftables", ports=False), lab.entered():
        lab.nft(
            """
            add map ip kube-proxy service-ips { typeof ip daddr . meta l4proto . th dport : verdict ; }
            add element ip kube-proxy service-ips { 10.96.0.10 . tcp . 80 : goto service-2QRHZV4L-default/web/tcp/ }
            add chain ip kube-proxy endpoint-5OJB2KTY-default/web/tcp/__10.128.0.5/8080
            add chain ip kube-proxy endpoint-5OJB2KTY-default/web/tcp/__10.128.0.6/8080
            """
        )
        known = known_of_kernel()
    (service,) = known.shares
    assert service.name == "default/web"
    assert known.shares[service] == {"10.128.0.5:8080": 0.5, "10.128.0.6:8080": 0.5}
    assert {(protocol, address, port) for _, protocol, address, port in known.frontends} == {("tcp", "10.96.0.10", 80)}


def test_services_that_are_new_are_met_after_another_look_at_the_rules(node: Lab, impatient: None) -> None:
    known = Known()
    with watching(node, lambda: known) as watch:
        connect(node, 7050)
        assert watch.snapshot(EVERYTHING, A_MOMENT).services == ()
        known = known_of_kernel()
        assert counts(watch.snapshot(EVERYTHING, A_MOMENT))[0] == 1


# ---- the command ----


def top(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    with lab.entered():
        command = [RULEGEN, "top", "--once", "--interval", "0.1", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)


def test_once_is_a_plain_table(node: Lab) -> None:
    connect(node, 7060, 7061)
    done = top(node, "-n", "shop", "--all")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["SERVICE", "/", "ENDPOINT", "NOW", "NEW/S", "SHARE", "WEIGHT"]
    assert lines[1].split() == ["shop/web:http", "IPv4", "tcp", "2", "0"]
    assert lines[2].split() == [ENDPOINT, "2", "0", "100.0", "%", "100.0", "%"]
    assert any(line.startswith("shop/host  IPv4 tcp") for line in lines), "those without a connection, too"


def test_objects_name_services_and_arguments_choose_among_them(node: Lab) -> None:
    connect(node, 7070)
    objects = ("-f", CLUSTER, "--node", "node-a", "-o", "json")
    document = json.loads(top(node, "shop/w*", *objects).stdout)
    assert document["version"] == VERSION
    assert [one["service"] for one in document["services"]] == ["shop/web:http"]
    assert document["services"][0]["endpoints"][0]["endpoint"] == ENDPOINT
    assert json.loads(top(node, "shop/host", *objects).stdout)["services"] == []


def test_who_is_asked_about_is_there_when_it_begins(node: Lab) -> None:
    objects = ("-f", CLUSTER, "--node", "node-a")
    for arguments, message in (
        (("shop/wep",), 'no Service is called "shop/wep"; there is shop/web'),
        (("shop/wep", "-f", CLUSTER, "--node", "node-a"), 'no Service is called "shop/wep"; there is shop/web'),
        (("shop/*", "shopp/*", *objects), 'no Service is called "shopp/*"; there is shop/'),
        (("-n", "Shop"), '-n: no Service is in namespace "Shop"; there is shop'),
    ):
        done = top(node, *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"rulegen: {message}")
        assert done.stderr.count("\n") == 1


def test_piped_one_table_follows_the_other_until_nobody_reads(node: Lab) -> None:
    connect(node, 7080)
    with node.entered():
        command = [RULEGEN, "top", "--interval", "0.1", "-o", "json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        looks = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        process.wait(patience(20))
    assert [look["services"][0]["connections"] for look in looks] == [1, 1]


def test_a_table_is_aligned_and_says_which_endpoint_is_gone() -> None:
    endpoints = (
        EndpointCount("10.128.0.5:8080", 60, 3, 1.5, 1.0, 0.5),
        EndpointCount("10.128.0.6:8080", 0, 0, 0, 0.0, None),
    )
    snapshot = Snapshot(VERSION, 1.0, (ServiceCount("a/b", "IPv4", "tcp", 60, 3, 1.5, endpoints),), Others(0, 0, 0), ())
    found = list(rows(snapshot, endpoints=True))
    assert [row.is_astray for row in found] == [False, True, False]
    assert list(plain_lines(found)) == [
        "SERVICE / ENDPOINT  NOW  NEW/S    SHARE  WEIGHT",
        "a/b  IPv4 tcp        60    1.5",
        "  10.128.0.5:8080    60    1.5  100.0 %  50.0 %",
        "  10.128.0.6:8080     0      0    0.0 %    gone",
    ]


def test_one_connection_is_found_by_its_ends(node: Lab) -> None:
    connect(node, 7090)
    with node.entered():
        reader = ConnectionReader()
        found = reader.find(Family.IPV4, "tcp", (POD, 7090, WEB, 80))
        assert found is not None
        assert (found.server, found.is_answered) == (ENDPOINT, False)
        assert reader.find(Family.IPV4, "tcp", (POD, 7091, WEB, 80)) is None
        assert reader.find(Family.IPV4, "tcp", (POD, 7090, WEB, 80)) == found
        reader.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_on_a_terminal_the_table_is_kept_up_to_date_and_the_terminal_is_given_back(
    node: Lab, number: signal.Signals
) -> None:
    connect(node, 7095)
    ours, theirs = pty.openpty()
    with node.entered(), os.fdopen(theirs, "wb") as terminal:
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "20"}
        command = [RULEGEN, "top", "--interval", "0.1"]
        process = subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment)
    with process, os.fdopen(ours, "rb", buffering=0) as screen:
        shown = b""
        while shown.count(ENDPOINT.encode()) < 2:
            assert select.select([screen], [], [], patience(20))[0], shown
            shown += screen.read(1 << 16)
        process.send_signal(number)
        # The other end of a terminal that nobody has open any more is an error.
        with suppress(OSError):
            while select.select([screen], [], [], patience(20))[0] and (more := screen.read(1 << 16)):
                shown += more
        assert process.wait(patience(20)) == 0
    assert b"Traceback" not in shown
    assert (b"\x1b[?1049h" in shown, shown.rstrip().endswith(b"\x1b[?1049l")) == (True, True)
