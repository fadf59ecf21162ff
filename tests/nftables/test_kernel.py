"""What the kernel or nft refuses, and what others do meanwhile: errors in a line, and never half a ruleset."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing

import pytest

from rulegen.config import Family
from rulegen.errors import ApplyError, HostError, StaleError
from rulegen.nftables import kernel
from rulegen.nftables.acceleration import Acceleration
from rulegen.nftables.elements import EntryKey, Value, pack_register
from rulegen.nftables.live_rules import LiveTables
from rulegen.nftables.messages import Connection, KernelError, SetInfo
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.delta import diff
from rulegen.reconcile.driver import Difference
from rulegen.reconcile.once import apply_once, take_all
from rulegen.services.on_nftables.layout import LAYOUTS, TABLE
from rulegen.services.on_nftables.registers import service_port_of
from tests.builders import CONFIGURATION, Item, endpoint_slice, node, service
from tests.kept import services_on
from tests.nftables.host import Host, compiled, lines_of, rendered

pytestmark = pytest.mark.kernel


def _addresses(count: int) -> list[str]:
    return [f"10.128.{number // 250}.{number % 250 + 1}" for number in range(count)]


WEB: list[Item] = [node(), service(), endpoint_slice(["10.128.0.1"])]
CROWD: list[Item] = [node(), service(), endpoint_slice([f"10.128.0.{number}" for number in range(1, 21)])]
MORE: list[Item] = [node(), service(), endpoint_slice(["10.128.0.1", "10.128.0.2"])]
# Two Services with one externalIP, which belongs to the second one, the older.
OTHER: list[Item] = [node(), service(external_ips=["198.51.100.1"], created="2021-01-01T00:00:00Z"), *WEB[2:]]
SHARED: list[Item] = [
    service("other", ["10.96.0.11"], external_ips=["198.51.100.1"], created="2001-01-01T00:00:00Z"),
    endpoint_slice(["10.128.9.1"], name="other-1", service_name="other"),
]
STICKY: list[Item] = [node(), service(affinity=600), endpoint_slice(_addresses(2))]


def test_another_programs_commit_in_between_is_told_from_a_refusal(host: Host) -> None:
    host.apply(*MORE)
    live = host.read()
    transaction = host.plan(live, *WEB)
    host.nft("flush map ip rulegen endpoints")
    before = host.read().entries
    with pytest.raises(StaleError, match=r"No such file or directory.*: delete element ip rulegen endpoints \{ "):
        host.commit(transaction, live)
    assert host.read().entries == before
    host.apply(*WEB)
    assert lines_of(host.delta(*WEB)) == []


@pytest.mark.parametrize(
    ("before", "after", "commits"),
    [
        pytest.param(WEB, MORE, 1, id="endpoint-added"),
        pytest.param(MORE, WEB, 1, id="endpoint-removed"),
        pytest.param(WEB, [node(), service(), endpoint_slice(["10.128.0.3"])], 1, id="endpoint-replaced"),
        pytest.param(MORE, MORE, 0, id="nothing"),
        pytest.param([node()], WEB, 1, id="service-added"),
        # What packets may still be looking up goes afterwards; a chain that must lead somewhere comes before.
        pytest.param(WEB, [node()], 2, id="service-removed"),
        pytest.param(WEB, CROWD, 2, id="new-chain"),
        pytest.param(CROWD, WEB, 2, id="unneeded-chain"),
    ],
)
def test_a_change_is_as_few_commits_as_packets_allow(
    host: Host, before: list[Item], after: list[Item], commits: int
) -> None:
    host.apply(*before)
    generation = host.generation()
    host.apply(*after)
    assert host.generation() - generation == commits


@pytest.mark.parametrize(
    ("before", "after", "waits"),
    [
        pytest.param(MORE, STICKY, 1, id="affinity-on"),
        pytest.param(STICKY, MORE, 1, id="affinity-off"),
        pytest.param(STICKY, [node(), service(affinity=60), endpoint_slice(["10.128.0.1"])], 1, id="timeout-and-list"),
        pytest.param([node(), service(), endpoint_slice(_addresses(1024))], MORE, 1, id="no-longer-large"),
        pytest.param([*OTHER, *SHARED], OTHER, 1, id="another-owner"),
        pytest.param(CROWD, WEB, 0, id="shorter-list"),
        pytest.param(STICKY, [node(), service(affinity=600), endpoint_slice(["10.128.0.1"])], 0, id="shorter-sticky"),
        pytest.param(MORE, [node(), service()], 0, id="list-ended"),
        pytest.param(STICKY, [node()], 0, id="service-removed"),
        pytest.param([node()], STICKY, 0, id="service-added"),
    ],
)
def test_packets_leave_before_the_list_that_they_were_led_to(
    host: Host, monkeypatch: pytest.MonkeyPatch, before: list[Item], after: list[Item], waits: int
) -> None:
    host.apply(*before)
    led_to = {key for key in host.read().entries if service_port_of(*key)}
    met: list[dict[EntryKey, Value]] = []
    monkeypatch.setattr(kernel, "let_packets_leave", lambda: met.append(dict(host.read().entries)))
    host.apply(*after)
    assert len(met) == waits
    for entries in met:
        assert led_to <= entries.keys()
        # Nobody is led there any more.
        assert {line for line in lines_of(diff(entries, host.read().entries)) if not line.startswith("-")} == set()


@pytest.mark.parametrize(
    "meddling", ["flush map ip rulegen endpoints", "flush set ip6 rulegen fingerprints", "delete table ip rulegen"]
)
def test_an_apply_begins_anew_when_others_were_quicker(host: Host, meddling: str) -> None:
    host.apply(*MORE)
    shown: list[Difference] = []

    def meddle(difference: Difference) -> None:
        if not shown:
            host.nft(f"{meddling}\nflush chain ip6 rulegen frontend")
        shown.append(difference)

    with host.namespace.entered():
        services = services_on("nftables").services
        services.store.set_objects(WEB)

        def rules() -> LiveTables:
            return LiveTables(host.kernel, CompilerSet.of([services], "nftables", CONFIGURATION))

        apply_once(rules, take_all([services]), meddle, dry_run=False)
    assert len(shown) == (1 if "fingerprints" in meddling else 2)
    host.apply(*WEB)
    assert lines_of(host.delta(*WEB)) == []


def test_what_the_kernel_refuses_is_shown_with_the_command(host: Host) -> None:
    host.apply(*CROWD)
    live = host.read()
    transaction = host.plan(live, *WEB)
    host.nft("add map ip rulegen foreign { type mark : verdict; elements = { 1 : goto lb-20 }; }")
    with pytest.raises(ApplyError) as raised:
        host.commit(transaction, live)
    assert str(raised.value) == (
        "the kernel refused a transaction: Device or resource busy: delete chain ip rulegen lb-20"
    )
    # What balances is in force; the chain that nobody may delete is left.
    assert lines_of(host.delta(*WEB)) == ["- ip chains lb-20", "- ip foreign map foreign"]
    host.apply(*WEB)
    assert lines_of(host.delta(*WEB)) == []


def _hooks(host: Host) -> list[str]:
    return [line for line in host.run("nft", "list", "ruleset").stdout.splitlines() if " hook " in line]


def _refuse_commit(monkeypatch: pytest.MonkeyPatch, host: Host, number: int, look: Callable[[], None]) -> None:
    """The kernel refuses the commit of this number, counted from 1; `look` is called before it."""
    calls = iter(range(1, number + 1))
    commit = Connection.commit

    def refusing(self: Connection, messages: list[bytearray]) -> None:
        if next(calls, None) == number:
            look()
            raise KernelError(12, 0)
        commit(self, messages)

    monkeypatch.setattr(Connection, "commit", refusing)


def test_a_first_load_comes_in_portions_and_no_packet_meets_it_before_the_last(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "_PORTION", 4096)
    seen: list[list[str]] = []
    generation = host.generation()
    with monkeypatch.context() as patch:
        _refuse_commit(patch, host, 12, lambda: seen.append(_hooks(host)))
        with pytest.raises(HostError, match="Cannot allocate memory"):
            host.apply(*CROWD)
    assert seen == [[]]
    # Nothing of it is left.
    assert host.run("nft", "list", "tables").stdout == ""
    assert host.generation() - generation > 11
    host.apply(*CROWD)
    assert len(_hooks(host)) > 0
    assert lines_of(host.delta(*CROWD)) == []


def test_a_table_that_is_there_goes_in_the_transaction_that_replaces_it(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.apply(*CROWD)
    before = _without_elements(host)
    # Another schema: the tables must be made anew.
    damage = "delete set ip rulegen {0}; add set ip rulegen {0} {{ type ipv4_addr . ipv4_addr; size 7; }}"
    host.nft("flush chain ip rulegen translated\n" + damage.format("hairpin"))
    damaged = host.nft("list ruleset")
    monkeypatch.setattr(kernel, "_PORTION", 4096)
    with monkeypatch.context() as patch:
        # The first of these puts the old table's hooks in front.
        _refuse_commit(patch, host, 2, lambda: None)
        with pytest.raises(HostError, match="Cannot allocate memory"):
            host.apply(*CROWD)
    assert "size 7" in damaged
    assert "size 7" in host.nft("list ruleset")
    generation = host.generation()
    transaction = host.apply(*CROWD)
    assert [table.base_chains.family for table in transaction.tables] == [Family.IPV4]
    assert host.generation() - generation <= 2
    assert _without_elements(host) == before
    assert lines_of(host.delta(*CROWD)) == []


def test_a_load_over_netlink_declares_what_nft_declares(host: Host) -> None:
    host.apply(*CROWD)
    over_netlink = _without_elements(host)
    with host.namespace.entered():
        by_netlink = {family: _declarations(family) for family in Family}
    host.clear()
    host.nft(rendered(compiled(CROWD)))
    with host.namespace.entered():
        assert {family: _declarations(family) for family in Family} == by_netlink
    assert _without_elements(host) == over_netlink


def _without_elements(host: Host) -> list[str]:
    """Tables, sets, chains and rules; tables and chains are listed in the order in which they were made."""
    return sorted(host.run("nft", "--terse", "list", "ruleset").stdout.splitlines())


def _declarations(family: Family) -> dict[str, SetInfo]:
    with Connection() as connection:
        # There is one fingerprint more than text can hold.
        return {found.name: found._replace(elements=None) for found in connection.sets(family, TABLE)}


@pytest.mark.parametrize("items", [CROWD, [node()]], ids=["crowd", "nothing"])
@pytest.mark.parametrize("there", [False, True], ids=["first", "again"])
def test_a_check_of_a_load_changes_nothing_and_checks_all_of_it(
    host: Host, monkeypatch: pytest.MonkeyPatch, items: list[Item], there: bool
) -> None:
    monkeypatch.setattr(kernel, "_PORTION", 4096)
    if there:
        host.apply(*WEB)
        host.nft("add table ip rulegen { flags dormant; }\nadd table ip6 rulegen { flags dormant; }")
    listed, generation = host.nft("list ruleset"), host.generation()
    live = host.read()
    transaction = host.plan(live, *items)
    assert len(transaction.tables) == 2
    with host.namespace.entered():
        host.kernel.check(transaction, live)
        assert host.nft("list ruleset") == listed
        assert host.generation() == generation
        entries = transaction.tables[0].entries
        entries[LAYOUTS[Family.IPV4].balancers][pack_register(99)] = Value(b"goto nowhere")  # type: ignore[index]
        with pytest.raises(ApplyError, match="add element ip rulegen balancers"):
            host.kernel.check(transaction, live)


_COMMITS = """
import time
from rulegen.config import Family
from rulegen.nftables.messages import delete_table, new_table, open_connection
connection = open_connection()
print("begun", flush=True)
while True:
    connection.commit([new_table(Family.IPV4, "other", b"")])
    connection.commit([delete_table(Family.IPV4, "other")])
    time.sleep(0.001)
"""


def test_a_table_is_found_while_another_program_commits_all_the_time(host: Host) -> None:
    """A listing that is disturbed is made anew: without that, some of these end in an error."""
    host.apply(*WEB)
    host.nft("add table inet another")
    with (
        host.namespace.entered(),
        subprocess.Popen([sys.executable, "-c", _COMMITS], stdout=subprocess.PIPE) as other,
        kernel.Kernel() as opened,
        closing(Acceleration()) as acceleration,
    ):
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"begun\n"
            assert [acceleration.remove() for _ in range(6000)] == [[]] * 6000
            assert [opened.delete_tables(["rulegen-nothing"]) for _ in range(3000)] == [[]] * 3000
            assert opened.delete_tables([TABLE]) == ["ip rulegen", "ip6 rulegen"]
        finally:
            other.kill()
