"""What was there when rulegen came is noted once, for all who come after; and nothing that changed meanwhile goes."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import closing

import pytest

from rulegen.errors import StaleError
from rulegen.kube_proxy.removal import remove_nftables_tables
from rulegen.kube_proxy.rules import Found, find, serving
from rulegen.kube_proxy.witness import Arrival, arrive, forget, note
from rulegen.nftables.messages import open_connection
from tests.agent.running import Playground, save, wait_until, web
from tests.nftables.host import Host, host_or_skip
from tests.patience import patience

pytestmark = pytest.mark.kernel

TABLE = """
add table ip kube-proxy
add chain ip kube-proxy service-2QRHZV4L-default/web/tcp/
flush table ip kube-proxy
add rule ip kube-proxy service-2QRHZV4L-default/web/tcp/ accept
"""
CHAINS = "*nat\n:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]\n-A KUBE-SVC-AAAAAAAAAAAAAAAA -j ACCEPT\nCOMMIT\n"


@pytest.fixture
def host() -> Iterator[Host]:
    with host_or_skip() as made:
        yield made


def _find(host: Host) -> Found:
    with host.namespace.entered(), closing(open_connection()) as connection:
        return find(connection)


@pytest.mark.parametrize(
    ("place", "command", "rules"),
    [
        ("ip", ["nft", "-f", "-"], TABLE),
        ("nft4", ["iptables-nft-restore", "--noflush"], CHAINS),
        ("nft6", ["ip6tables-nft-restore", "--noflush"], CHAINS),
    ],
)
def test_the_same_rules_written_again_differ(host: Host, place: str, command: list[str], rules: str) -> None:
    seen = set()
    for _ in range(3):
        assert host.run(*command, input=rules).returncode == 0
        found = _find(host)
        assert list(found) == [place]
        assert found == _find(host)
        seen.add(found[place])
    assert len(seen) == 3


def test_a_table_that_is_made_again_differs(host: Host) -> None:
    host.nft(TABLE)
    before = _find(host)
    host.nft(f"delete table ip kube-proxy{TABLE}")
    assert _find(host) != before


def test_elements_count_unless_packets_make_them(host: Host) -> None:
    host.nft(TABLE)
    host.nft("add set ip kube-proxy ips { type ipv4_addr ; }")
    host.nft("add set ip kube-proxy clients { type ipv4_addr ; flags dynamic,timeout ; timeout 1h ; }")
    before = _find(host)
    host.nft("add element ip kube-proxy clients { 192.0.2.1 }")
    assert _find(host) == before
    host.nft("add element ip kube-proxy ips { 192.0.2.1 }")
    assert _find(host) != before


@pytest.mark.parametrize("program", ["iptables-legacy", "ip6tables-legacy"])
def test_legacy_iptables_is_told_by_its_text(host: Host, program: str) -> None:
    place = "legacy4" if program == "iptables-legacy" else "legacy6"
    host.run(f"{program}-restore", "--noflush", input=CHAINS)
    before = _find(host)
    assert list(before) == [place]
    # Rules of others, and counters, are not its.
    host.run(program, "-t", "nat", "-A", "PREROUTING", "-j", "ACCEPT")
    assert _find(host) == before
    host.run(program, "-t", "nat", "-A", "KUBE-SVC-AAAAAAAAAAAAAAAA", "-j", "RETURN")
    assert _find(host) != before


def test_which_families_it_serves(host: Host) -> None:
    host.nft(f"{TABLE}add table ip6 kube-proxy\nadd chain ip6 kube-proxy services\n")
    with host.namespace.entered(), closing(open_connection()) as connection:
        assert {family.value: serves for family, serves in serving(connection).items()} == {"IPv4": True, "IPv6": False}


def test_the_first_one_notes_it_and_the_next_one_finds_that(host: Host) -> None:
    host.nft(TABLE)
    host.run("iptables-nft-restore", "--noflush", input=CHAINS)
    with host.namespace.entered(), closing(open_connection()) as connection:
        first = arrive(connection)
        assert first.rules == find(connection)
        note(connection, first)
        host.nft(TABLE)
        note(connection, Arrival(first.boot + 1, Found()))
        assert arrive(connection) == first
        forget()
        assert arrive(connection) != first


def test_a_note_that_somebody_has_written_over_is_none(host: Host) -> None:
    host.nft('add table ip rulegen-arrival { comment "found yesterday" ; }')
    with host.namespace.entered(), closing(open_connection()) as connection:
        arrival = arrive(connection)
        assert arrival.rules == {}
        note(connection, arrival)
        assert arrive(connection) == arrival


def test_a_table_that_was_written_since_is_not_removed(host: Host) -> None:
    host.nft(TABLE)
    with host.namespace.entered(), closing(open_connection()) as connection:
        generation = connection.generation()
        host.nft(TABLE)
        with pytest.raises(StaleError):
            remove_nftables_tables(connection, generation)
        assert list(find(connection)) == ["ip"]
        assert remove_nftables_tables(connection, connection.generation()) == ["ip kube-proxy"]
        assert find(connection) == {}


def _note(playground: Playground) -> str:
    found = re.search(r"table ip rulegen-arrival \{\s+comment \"(.*)\"", playground.host.nft("list ruleset"))
    return found[1] if found else ""


def test_it_outlives_agents_and_a_change_of_the_target_and_goes_with_the_rules(playground: Playground) -> None:
    playground.host.nft(TABLE)
    save(playground.manifests / "all.json", *web(1, 1))
    notes = []
    for target in ("nftables", "iptables", "nftables"):
        with playground.agent("--target", target, "-f", str(playground.manifests)) as agent:
            agent.wait_for("sync mode=full", 10.0)
            wait_until(lambda: _note(playground) != "", 10.0)
            agent.wait_for("removed ", 10.0)
            agent.process.send_signal(signal.SIGTERM)
            assert agent.process.wait(patience(10.0)) == 0
        notes.append(_note(playground))
    assert len(set(notes)) == 1
    assert re.fullmatch(r"found \d+ s after boot: ip=[0-9a-f]{8}", notes[0])
    assert playground.run("cleanup").returncode == 0
    assert "rulegen" not in playground.host.nft("list ruleset")
