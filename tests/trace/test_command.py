"""`rulegen trace` as a person runs it: how it ends, what it leaves behind, what it prints; and its limits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rulegen.config import Family
from rulegen.errors import InputError
from rulegen.live.in_kernel import known_of_kernel
from rulegen.live.known import Known, ServiceId
from rulegen.live.naming import frontends_named, is_name
from rulegen.trace import table
from rulegen.trace.follow import Bounds, Follower
from rulegen.trace.messages import Listener
from rulegen.trace.model import VERSION, Summary
from rulegen.trace.packet import End, Wanted, parse_wanted, wanted_at
from rulegen.trace.text import warnings
from tests.lab import Lab, Packet
from tests.patience import patience
from tests.trace.scene import CLIENT, CLUSTER, NODE_ADDRESS, POD, RULEGEN

TO = "203.0.113.7"
V4, V6 = Family.IPV4, Family.IPV6
kernel = pytest.mark.kernel


@contextmanager
def tracing(lab: Lab, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command, marking packets; killed at the end if it still runs."""
    with lab.entered():
        process = subprocess.Popen(
            [RULEGEN, "trace", "--to", TO, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    with process:
        try:
            wait_until_marking(lab, is_marking=True)
            yield process
        finally:
            process.kill()


def wait_until_marking(lab: Lab, *, is_marking: bool) -> None:
    end = time.monotonic() + patience(10)
    while (table.PREFIX in lab.nft("list tables")) is not is_marking:
        assert time.monotonic() < end
        time.sleep(0.02)


@kernel
def test_killed_it_leaves_nothing_behind(nftables_node: Lab) -> None:
    before = nftables_node.nft("list ruleset")
    with tracing(nftables_node) as process:
        process.send_signal(signal.SIGKILL)
        wait_until_marking(nftables_node, is_marking=False)
    assert nftables_node.nft("list ruleset") == before


@kernel
def test_interrupted_it_ends_quietly_with_what_it_has_seen(nftables_node: Lab) -> None:
    with tracing(nftables_node, "--count", "9") as process:
        nftables_node.send([Packet(POD, TO, 80, "TCP", source_port=6000)])
        assert process.stdout is not None
        assert process.stdout.readline() == f"{POD}:6000 to {TO}:80/tcp: untouched\n"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=patience(20))
    assert (process.returncode, errors) == (0, "")
    assert output.endswith(f"{POD}:6000 to {TO}:80/tcp: 1 packet; no answer of {TO}:80 yet\n")
    assert table.PREFIX not in nftables_node.nft("list tables")


@kernel
def test_whoever_reads_no_more_ends_it_without_a_word(nftables_node: Lab) -> None:
    with tracing(nftables_node) as process:
        assert process.stdout is not None
        process.stdout.close()
        nftables_node.send([Packet(POD, TO, 80, "TCP")])
        assert process.stderr is not None
        assert process.stderr.read() == ""
        process.wait(patience(20))
    assert table.PREFIX not in nftables_node.nft("list tables")


@kernel
def test_documents_stand_on_a_line_each_and_have_a_version(nftables_node: Lab) -> None:
    with tracing(nftables_node, "--count", "2", "-o", "json") as process:
        nftables_node.send([Packet(POD, TO, port, "UDP", source_port=6001) for port in (7, 8)])
        output, _ = process.communicate(timeout=patience(20))
    *packets, end = map(json.loads, output.splitlines())
    assert [one["type"] for one in packets] == ["packet", "packet"]
    assert [one["packet"]["port"] for one in packets] == [7, 8]
    assert {one["version"] for one in (*packets, end)} == {VERSION}
    assert (end["type"], end["packets"], end["lost"], end["notFollowed"]) == ("end", 2, 0, 0)
    assert {one["source"] for one in end["connections"]} == {f"{POD}:6001"}


@kernel
def test_it_ends_after_its_seconds_and_says_that_nothing_came(nftables_node: Lab) -> None:
    with nftables_node.entered():
        done = subprocess.run(
            [RULEGEN, "trace", "--to", TO, "--seconds", "0.2"], capture_output=True, text=True, check=False
        )
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "rulegen: warning: no such packet has come by\n"


@kernel
def test_what_others_write_reaches_no_terminal_as_it_is(nftables_node: Lab) -> None:
    comment = "\x1b[2J\u202e"
    rule = f'ip daddr {TO} drop comment "{comment}"'
    nftables_node.nft(f"table inet others {{\nchain f {{ type filter hook forward priority 5; {rule}; }}\n}}")
    for arguments in ((), ("-o", "json")):
        with tracing(nftables_node, "--count", "1", *arguments) as process:
            nftables_node.send([Packet(POD, TO, 80, "TCP")])
            output, _ = process.communicate(timeout=patience(20))
        assert "[2J" in output
        assert not set(comment[0] + comment[-1]) & set(output)
    nftables_node.nft("delete table inet others")


@kernel
def test_what_is_no_utf8_is_told_all_the_same(iptables_node: Lab) -> None:
    rule: list[str | bytes] = ["FORWARD", "-d", TO, "-m", "comment", "--comment", b"\xff\xfe", "-j", "DROP"]
    with iptables_node.entered():
        subprocess.run(["iptables-nft", "-I", *rule], check=True)
    with tracing(iptables_node, "--count", "1", "-o", "json") as process:
        iptables_node.send([Packet(POD, TO, 80, "TCP")])
        output, errors = process.communicate(timeout=patience(20))
    with iptables_node.entered():
        subprocess.run(["iptables-nft", "-D", *rule], check=True)
    assert errors == ""
    assert json.loads(output.splitlines()[0])["steps"][-1]["rule"]["comment"] == r"\xff\xfe"


@kernel
def test_two_at_once_do_not_disturb_each_other(nftables_node: Lab) -> None:
    wanted, bounds = [parse_wanted("", TO)], Bounds(1, patience(10))
    with nftables_node.entered(), Follower(wanted, bounds) as one, Follower(wanted, bounds) as two:
        nftables_node.send([Packet(POD, TO, 80, "TCP", source_port=6002)])
        told = [next(iter(follower.packets())) for follower in (one, two)]
    assert told[0].packet == told[1].packet
    assert all(step.is_quiet for one_told in told for step in one_told.steps if table.PREFIX in step.table)


@kernel
def test_packets_beyond_the_rate_are_counted(nftables_node: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "PACKETS_PER_SECOND", 1)
    with nftables_node.entered(), Follower([parse_wanted("", TO)], Bounds(1, patience(10))) as follower:
        nftables_node.send([Packet(POD, TO, 80, "TCP") for _ in range(60)])
        assert len(list(follower.packets())) == 1
        assert follower.summary().not_followed > 0


@kernel
def test_reports_that_are_lost_are_noticed(nftables_node: Lab) -> None:
    with nftables_node.entered(), Follower([parse_wanted("", TO)], Bounds(60, patience(10))):
        listener = Listener()
        listener.resize(2048)
        nftables_node.send([Packet(POD, TO, 80, "TCP") for _ in range(60)])
        assert list(listener.read())
        listener.close()
    assert listener.lost > 0
    said = list(warnings(Summary(VERSION, "end", 60, 0, listener.lost, (), ())))
    assert len(said) == 1
    assert said[0].startswith("the kernel had more to tell than there was room for")


@kernel
def test_a_service_stands_for_all_its_frontends(nftables_node: Lab) -> None:
    with nftables_node.entered():
        frontends = frontends_named(known_of_kernel(), "web:http")
        wanted = wanted_at("", frontends)
        with Follower(wanted, Bounds(3, patience(20))) as follower:
            nftables_node.send(
                [
                    Packet(POD, "10.96.0.20", 80, "TCP"),
                    Packet("fd00:10:128::9", "fd00:10:96::20", 80, "TCP"),
                    Packet(CLIENT, NODE_ADDRESS, 30080, "TCP"),
                    Packet(POD, "10.96.0.20", 81, "TCP"),
                ]
            )
            told = list(follower.packets())
    assert {one.frontend for one in told} == {
        "ClusterIP 10.96.0.20 port 80/TCP of shop/web:http",
        "ClusterIP fd00:10:96::20 port 80/TCP of shop/web:http",
        "NodePort port 30080/TCP of shop/web:http",
    }


_KNOWN = Known()
for _name, _protocol, _address, _port in (
    ("shop/web:http", "tcp", "10.96.0.20", 80),
    ("shop/web:https", "tcp", "10.96.0.20", 443),
    ("shop/web:http", "tcp", "", 30080),
    ("blog/web", "tcp", "10.96.0.21", 80),
    ("shop/dns:dns", "udp", "10.96.0.22", 53),
    ("shop/dns:dns-tcp", "tcp", "10.96.0.22", 53),
):
    _KNOWN.add([(V4, _protocol, _address, _port)], ServiceId(_name, V4, _protocol))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("shop/web", [("", 30080), ("10.96.0.20", 80), ("10.96.0.20", 443)]),
        ("shop/web:http", [("", 30080), ("10.96.0.20", 80)]),
        ("shop/web:443", [("10.96.0.20", 443)]),
        ("blog/web/tcp", [("10.96.0.21", 80)]),
        ("dns/UDP", [("10.96.0.22", 53)]),
        ("svc/dns:dns-tcp", [("10.96.0.22", 53)]),
    ],
)
def test_services_are_found_by_what_people_call_them(text: str, found: list[tuple[str, int]]) -> None:
    assert is_name(text)
    assert [key[2:] for key in frontends_named(_KNOWN, text)] == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("web", "web may be blog/web, shop/web: say which, with its namespace"),
        ("shop/wep", "the rules of this node are for no Service shop/wep; there is shop/web"),
        (
            "shop/web:81",
            "shop/web has no port 81 in the rules of this node; it has 30080/tcp (http), 443/tcp (https), 80/tcp (",
        ),
        ("shop/web/udp", "shop/web has no port udp"),
    ],
)
def test_what_no_service_is_called_is_one_line(text: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        frontends_named(_KNOWN, text)
    assert words in str(refused.value)


@kernel
def test_with_objects_pods_have_names(nftables_node: Lab, tmp_path: Path) -> None:
    pod = tmp_path / "pod.yaml"
    pod.write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: client-0, namespace: shop}\n"
        "spec: {nodeName: node-a, containers: []}\n"
        f"status: {{phase: Running, podIP: {POD}, podIPs: [{{ip: {POD}}}, {{ip: 'fd00:10:128::9'}}]}}\n"
    )
    objects = ("-f", CLUSTER, "-f", str(pod), "--node", "node-a")
    with nftables_node.entered():
        command = [RULEGEN, "trace", "--from", "shop/client-0", "--to", "shop/web:http", "--count", "2", *objects]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        wait_until_marking(nftables_node, is_marking=True)
        nftables_node.send(
            [
                Packet("10.128.0.8", "10.96.0.20", 80, "TCP"),
                Packet(POD, "10.96.0.20", 80, "TCP", source_port=6100),
                Packet("fd00:10:128::9", "fd00:10:96::20", 80, "TCP", source_port=6101),
            ]
        )
        output, _ = process.communicate(timeout=patience(20))
    packets = [line for line in output.splitlines() if line.endswith(": balanced")]
    assert packets == [
        f"{POD}:6100 to 10.96.0.20:80/tcp: balanced",
        "[fd00:10:128::9]:6101 to [fd00:10:96::20]:80/tcp: balanced",
    ]


@kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="is without privileges already")
def test_without_privileges_it_is_one_line() -> None:
    command = ["setpriv", "--bounding-set=-net_admin,-net_raw", "--inh-caps=-net_admin,-net_raw"]
    done = subprocess.run([*command, RULEGEN, "trace", "--seconds", "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "needs root" in done.stderr


@pytest.mark.parametrize(
    ("source", "destination", "wanted"),
    [
        ("", "10.96.0.10", Wanted(destination=End("10.96.0.10"), family=V4)),
        ("node", "10.96.0.10:80", Wanted(destination=End("10.96.0.10", 80), only_own=True, family=V4)),
        ("10.128.0.9", "10.96.0.10:80/TCP", Wanted(End("10.128.0.9"), End("10.96.0.10", 80, "tcp"), family=V4)),
        ("fd00::0:9", "[fd00::10]:53/udp", Wanted(End("fd00::9"), End("fd00::10", 53, "udp"), family=V6)),
        ("10.128.0.9:4000", "", Wanted(End("10.128.0.9", 4000), family=V4)),
        ("", "10.96.0.10/icmp", Wanted(destination=End("10.96.0.10", 0, "icmp"), family=V4)),
    ],
)
def test_ends_are_read_as_people_write_them(source: str, destination: str, wanted: Wanted) -> None:
    assert parse_wanted(source, destination) == wanted


@pytest.mark.parametrize(
    ("source", "destination", "words"),
    [
        ("", "10.96.0.10:0", "--to: expected a port from 1 to 65535, got 0"),
        ("", "10.96.0.10:65536", "--to: expected a port from 1 to 65535, got 65536"),
        ("", "10.96.0.10:80/icmp", "--to: icmp has no ports"),
        ("", "10.96.0.10:80/gre", '--to: expected the protocol tcp, udp, sctp or icmp, got "gre"'),
        ("10.96.0", "", "--from: expected ADDRESS"),
        ("node:80", "", "--from: expected ADDRESS"),
        ("10.128.0.9", "fd00::10", "of different IP families"),
        ("10.128.0.9/udp", "10.96.0.10/tcp", "different protocols"),
        ("", "X\x1b[2J", '--to: expected ADDRESS, ADDRESS:PORT or ADDRESS:PORT/PROTOCOL, got "X\\u001b[2J"'),
    ],
)
def test_what_is_no_end_is_one_line(source: str, destination: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_wanted(source, destination)
    assert words in str(refused.value)
