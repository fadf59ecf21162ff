"""Chains in a real kernel, in both variants: loaded, read back, changed, damaged and repaired, beside others' rules."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings

from rulegen.config import Family
from rulegen.errors import ApplyError, HostError, StaleError
from rulegen.iptables.binaries import LOCK, Variant
from rulegen.iptables.chains import FILTER, MANGLE, NAT, EntryKey
from rulegen.iptables.kernel import Kernel, remove_rules
from rulegen.iptables.listing import detect
from rulegen.iptables.probe import check_needs
from rulegen.iptables.text import render
from rulegen.iptables.transaction import Step, plan
from rulegen.reconcile.delta import Delta
from rulegen.services.on_iptables.needs import needs
from tests.builders import Item, endpoint_slice, node, port, service, service_cidr
from tests.iptables.host import ACCESSES, COMMANDS, Host, compiled
from tests.nftables.clusters import clusters
from tests.selection import examples

pytestmark = pytest.mark.kernel

_in_the_kernel = settings(
    max_examples=examples(12),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

CLUSTER: list[Item] = [
    node(),
    service_cidr("10.96.0.0/16", "fd00:10:96::/112"),
    service("web", ["10.96.0.10", "fd00:10:96::10"], [port(80, node_port=30080)], affinity=600),
    endpoint_slice(["10.244.0.5", "10.244.0.6"]),
    service("shut", ["10.96.0.11"], kind="LoadBalancer", vips=["203.0.113.80"], ranges=["198.51.100.0/24"]),
]
FOREIGN = {
    NAT: [
        ":OTHER - [0:0]",
        "-A PREROUTING -p tcp -m tcp --dport 8080 -j OTHER",
        "-A OTHER -j DNAT --to-destination 192.0.2.99",
        "-A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE",
    ],
    FILTER: ["-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT", "-A FORWARD -i docker0 -j DROP"],
    MANGLE: ["-A PREROUTING -i eth9 -j MARK --set-xmark 0x1/0xffffffff"],
}


@pytest.fixture(scope="module", params=ACCESSES.values(), ids=list(ACCESSES))
def _module_host(request: pytest.FixtureRequest) -> Iterator[Host]:
    with Host(*request.param) as host:
        yield host


@pytest.fixture
def host(_module_host: Host) -> Host:
    """A kernel without rules."""
    _module_host.clear()
    return _module_host


def restore(host: Host, table: str, lines: list[str], family: Family = Family.IPV4) -> None:
    host.run("restore --noflush", "\n".join([f"*{table}", *lines, "COMMIT", ""]), family)


def load_foreign(host: Host) -> list[tuple[str, str]]:
    for table, lines in FOREIGN.items():
        restore(host, table, lines)
    return host.foreign()


# ---- what holds for every cluster ----


@given(items=clusters())
@_in_the_kernel
def test_after_an_apply_there_is_nothing_to_change(host: Host, items: list[Item]) -> None:
    host.clear()
    host.apply(*items)
    # As text, without the help of other wordings.
    assert host.read() == compiled(items).entries()
    assert not host.apply(*items)


@given(items=clusters())
@_in_the_kernel
def test_a_rendered_file_is_what_apply_would_load(host: Host, items: list[Item]) -> None:
    host.clear()
    compiler = compiled(items)
    _, *parts = "".join(render([compiler])).split("# ip6tables-restore")
    first = "".join(render([compiler])).split("# ip6tables-restore")[0]
    host.run("restore --noflush", first)
    for part in parts:
        host.run("restore --noflush", part.split("\n", 1)[1], Family.IPV6)
    assert host.read() == compiler.entries()


@given(before=clusters(), after=clusters())
@_in_the_kernel
def test_a_delta_leads_to_the_same_rules_as_a_load(host: Host, before: list[Item], after: list[Item]) -> None:
    host.clear()
    foreign = load_foreign(host)
    host.apply(*before)
    host.apply(*after)
    assert host.read() == compiled(after).entries()
    assert host.foreign() == foreign


def test_cleanup_leaves_what_is_others_as_it_was(host: Host) -> None:
    foreign = load_foreign(host)
    host.apply(*CLUSTER)
    with host.namespace.entered():
        assert remove_rules([host.variant])
        assert not remove_rules([host.variant])
    assert not host.read()
    assert host.foreign() == foreign


# ---- damage ----


# In words -> commands; `{svc}` is the chain of a Service.
DAMAGE = {
    "a rule gone": ["-t nat -D {svc} 1"],
    "a rule changed": ["-t nat -R RULEGEN-SERVICES 2 -j ACCEPT"],
    "a rule added": ["-t nat -I {svc} -j RETURN"],
    "a chain emptied": ["-t nat -F RULEGEN-VIPS"],
    "a jump gone": ["-t nat -D PREROUTING -j RULEGEN-SERVICES"],
    "a jump twice": ["-t nat -I PREROUTING -j RULEGEN-SERVICES"],
    "a chain gone": [
        "-t filter -D FORWARD -m conntrack --ctstate NEW -j RULEGEN-FORWARD",
        "-t filter -D OUTPUT -m conntrack --ctstate NEW -j RULEGEN-FORWARD",
        "-t filter -F RULEGEN-FORWARD",
        "-t filter -X RULEGEN-FORWARD",
    ],
    "a chain of nobody": ["-t nat -N RULEGEN-SVC-LEFTOVER", "-t nat -A RULEGEN-SVC-LEFTOVER -j RETURN"],
    "a jump behind a verdict": ["-t filter -I FORWARD -j ACCEPT"],
    "a jump behind a verdict of nat": ["-t nat -I OUTPUT -p tcp -j RETURN"],
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_repaired_by_changing_only_that(host: Host, name: str) -> None:
    load_foreign(host)
    host.apply(*CLUSTER)
    whole = host.read()
    svc = next(key.chain for key in whole if key.chain.startswith("RULEGEN-SVC-"))
    for command in DAMAGE[name]:
        host.run(command.format(svc=svc))
    foreign = host.foreign()
    delta = host.delta(*CLUSTER)
    assert 1 <= len(delta) <= 3
    steps = host.apply(*CLUSTER)
    assert {step.family for step in steps} == {Family.IPV4}
    assert len(steps) == 1
    assert host.read() == whole
    assert host.foreign() == foreign


def test_everything_flushed_comes_back(host: Host) -> None:
    host.apply(*CLUSTER)
    whole = host.read()
    host.clear()
    host.apply(*CLUSTER)
    assert host.read() == whole


def test_half_of_a_previous_run_is_made_whole(host: Host) -> None:
    host.apply(*CLUSTER)
    whole = host.read()
    host.clear()
    steps = plan(Delta(added=compiled(CLUSTER).entries()), {})
    host.commit(steps[:2], {})
    host.apply(*CLUSTER)
    assert host.read() == whole


def test_a_rule_ahead_that_lets_packets_on_is_no_damage(host: Host) -> None:
    host.apply(*CLUSTER)
    for command in ("-t nat -N CALICO", "-t nat -I PREROUTING -j CALICO", "-t filter -I FORWARD -p tcp -j ACCEPT"):
        host.run(command)
    assert not host.delta(*CLUSTER)


def test_what_stands_ahead_is_told(host: Host) -> None:
    host.apply(*CLUSTER)
    host.run("-t filter -I FORWARD -j ACCEPT")
    change = host.delta(*CLUSTER).changed[EntryKey(Family.IPV4, FILTER, "FORWARD")]
    assert change.before[0] == "# behind: -j ACCEPT"


# ---- refusals ----


def test_a_refused_line_is_shown(host: Host) -> None:
    bad = Step(Family.IPV4, NAT, ("*nat", ":RULEGEN-X - [0:0]", "-A RULEGEN-X -m nosuchmatch", "COMMIT"))
    with pytest.raises(ApplyError, match=r"nosuchmatch.*nothing was changed"):
        host.commit([bad], {})
    worse = Step(Family.IPV4, NAT, ("*nat", ":RULEGEN-X - [0:0]", "-A RULEGEN-X -p 300 -j DROP", "COMMIT"))
    with pytest.raises(ApplyError, match=r"300.*line 3: -A RULEGEN-X -p 300 -j DROP; nothing was changed"):
        host.commit([worse], {})
    assert not host.read()


def test_a_table_that_fails_after_another_was_changed_is_told_and_the_next_apply_finishes(host: Host) -> None:
    live = host.read()
    steps = plan(host.delta(*CLUSTER), live)
    index = next(number for number, step in enumerate(steps) if step.table == NAT)
    broken = Step(Family.IPV4, NAT, (*steps[index].lines[:-1], "-A RULEGEN-VIPS -j NOWHERE", "COMMIT"))
    with pytest.raises(ApplyError, match="in force already: ip mangle, ip filter; apply again for the rest"):
        host.commit([*steps[:index], broken, *steps[index + 1 :]], live)
    host.apply(*CLUSTER)
    assert host.read() == compiled(CLUSTER).entries()


def test_what_another_changed_meanwhile_is_read_again(host: Host) -> None:
    host.apply(*CLUSTER)
    live = host.read()
    host.run("-t nat -D PREROUTING -j RULEGEN-SERVICES")
    steps = plan(Delta(removed={key: rules for key, rules in live.items() if key.chain == "PREROUTING"}), live)
    with pytest.raises(StaleError):
        host.commit([step for step in steps if step.table == NAT], live)


def test_a_refusal_is_none_of_the_rules_that_stand_ahead(host: Host) -> None:
    """Whoever moves a jump to the front only now and then plans as if there were none."""
    host.apply(*CLUSTER)
    live = host.read()
    host.run("-t filter -I FORWARD -j ACCEPT")
    bad = Step(Family.IPV4, NAT, ("*nat", ":RULEGEN-X - [0:0]", "-A RULEGEN-X -m nosuchmatch", "COMMIT"))
    with pytest.raises(ApplyError, match="nosuchmatch") as refused:
        host.commit([bad], live)
    assert not isinstance(refused.value, StaleError)


def test_a_jump_to_a_chain_that_is_not_there_is_refused_before_anything_is_sent(host: Host) -> None:
    key = EntryKey(Family.IPV4, NAT, "RULEGEN-VIPS")
    with pytest.raises(ApplyError, match="RULEGEN-VIPS would lead to RULEGEN-SVC-NONE, which is not there"):
        plan(Delta(added={key: ("-j RULEGEN-SVC-NONE",)}), {})


def test_a_dry_run_changes_nothing(host: Host) -> None:
    live = host.read()
    with host.namespace.entered():
        host.kernel.check(plan(host.delta(*CLUSTER), live))
    assert host.read() == live


def test_what_the_kernel_lacks_is_named_before_anything_is_changed(host: Host) -> None:
    lacking = {"match nosuch": (NAT, "-m nosuch"), "match mark": needs(Family.IPV4)["match mark"]}
    lacking["target NOSUCH"] = (FILTER, "-j NOSUCH")
    with host.namespace.entered(), pytest.raises(HostError, match=r"lacks match nosuch, target NOSUCH$"):
        check_needs(host.variant, Family.IPV4, 5, lacking)
    assert not host.read()
    for family in Family:
        with host.namespace.entered():
            check_needs(host.variant, family, 5, needs(family))
    assert not host.read()


def test_a_lock_is_waited_for_and_its_holder_named(host: Host) -> None:
    if host.variant is Variant.NFT:
        return  # it takes no lock
    script = (
        f"import fcntl, time; lock = open('{LOCK}', 'a'); fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            with host.namespace.entered():
                kernel = Kernel(host.variant, wait=1)
                steps = plan(host.delta(*CLUSTER), {})
                with pytest.raises(
                    ApplyError, match=rf"held by python.* \(process {holder.pid}\).*nothing was changed"
                ):
                    kernel.commit(steps, {})
        finally:
            holder.kill()
    host.apply(*CLUSTER)


# ---- which variant ----


@pytest.mark.parametrize("used", Variant, ids=lambda variant: variant.value)
def test_the_variant_that_the_host_uses_is_found(used: Variant) -> None:
    for hint in (":KUBE-IPTABLES-HINT - [0:0]", "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT"):
        with Host(used) as host, host.namespace.entered():
            table = "mangle" if hint.startswith(":") else "filter"
            restore(host, table, [hint])
            assert detect() is used


def test_without_rules_it_is_nft() -> None:
    with Host(Variant.LEGACY) as host, host.namespace.entered():
        assert detect() is Variant.NFT


def test_a_hint_outweighs_rules() -> None:
    with Host(Variant.LEGACY) as host, host.namespace.entered():
        restore(host, "filter", ["-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT"] * 5)
        subprocess.run(
            [f"{COMMANDS[Family.IPV4]}-nft-restore", "--noflush"],
            input="*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n",
            text=True,
            check=True,
        )
        assert detect() is Variant.NFT


def test_rulegens_own_rules_say_nothing_about_the_host() -> None:
    with Host(Variant.LEGACY) as host, host.namespace.entered():
        host.apply(*CLUSTER)
        assert detect() is Variant.NFT
