"""Two features on iptables: each has chains of its own, the order of their jumps holds, a table is restored once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from rulegen.config import Family
from rulegen.iptables.chains import FILTER, NAT, EntryKey, by_rank, prefixes_of
from rulegen.iptables.live_rules import LiveChains
from rulegen.iptables.text import parse, render
from rulegen.iptables.transaction import Step, plan
from rulegen.kube.objects import Service
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.delta import Delta, diff
from rulegen.reconcile.feature import Feature
from rulegen.reconcile.once import TakenItems, compare_once, take_all
from rulegen.services.feature import ServicesFeature
from tests.agent.running import save, wait_until
from tests.agent.test_on_iptables import IptablesGround
from tests.builders import CONFIGURATION, Item, endpoint_slice, node, port, service
from tests.iptables.host import ACCESSES, Host
from tests.patience import patience
from tests.second_feature.feature import LABEL, BlockingFeature
from tests.second_feature.on_iptables import CHAIN, PREFIX

JUMP = f"-A FORWARD -j {CHAIN}"
KEY = EntryKey(Family.IPV4, FILTER, CHAIN, PREFIX)


def blocked(item: Service) -> Service:
    return replace(item, metadata=replace(item.metadata, labels={LABEL: ""}))


def cluster(*, is_blocked: bool = True) -> list[Item]:
    """Two Services, one of which may be blocked."""
    web = service("web", ["10.96.0.10", "fd00:10:96::10"], [port(80, node_port=30080)])
    shop = service("shop", ["10.96.0.11"])
    return [node(), blocked(web) if is_blocked else web, endpoint_slice(["10.244.0.5"]), shop]


class Both:
    """Services and the second feature, with their compilers. `taken`: all that they want of some objects."""

    def __init__(self, *items: Item, features: tuple[type[Feature], ...] = (ServicesFeature, BlockingFeature)) -> None:
        self.features = [feature(CONFIGURATION) for feature in features]  # type: ignore[call-arg]
        self.compilers = CompilerSet.of(self.features, "iptables", CONFIGURATION)
        self.put(*items)

    def put(self, *items: Item) -> None:
        for feature in self.features:
            for item in items:
                if type(item) in feature.kinds:
                    feature.put(item)

    def take(self) -> TakenItems:
        return take_all(self.features)

    def compiled(self) -> Both:
        self.compilers.update(*self.take())
        return self


class Recorded:
    """Loads steps as another loader does, and keeps them."""

    def __init__(self, host: Host) -> None:
        self._loader = host.kernel._loader
        self.steps: list[Step] = []
        host.kernel._loader = self

    def take(self, step: Step, *, test: bool) -> None:
        self.steps.append(step)
        self._loader.take(step, test=test)

    def close(self) -> None:
        self._loader.close()


def apply(host: Host, both: Both, items: TakenItems) -> Delta[EntryKey, tuple[str, ...]]:
    with host.namespace.entered():
        rules = LiveChains(host.kernel, both.compilers)
        delta, _ = compare_once(rules, items)
        if delta:
            rules.apply(delta)
    return delta


def jumps(host: Host) -> list[str]:
    """rulegen's rules in FORWARD, by what they lead to."""
    return [line.rsplit(" ", 1)[1] for line in host.run("-S FORWARD").splitlines() if "RULEGEN" in line]


IN_ORDER = [CHAIN, "ACCEPT", "RULEGEN-FORWARD", "RULEGEN-ACCEPT"]


@pytest.fixture(params=ACCESSES.values(), ids=list(ACCESSES))
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    with Host(*request.param) as host:
        yield host


@pytest.mark.kernel
def test_both_stand_in_their_order_beside_others_and_nothing_is_left_to_do(host: Host) -> None:
    host.run("-A FORWARD -p udp -j ACCEPT")
    both = Both(*cluster())
    items = both.take()
    assert apply(host, both, items)
    assert jumps(host) == IN_ORDER
    assert host.read_of(both.compilers) == both.compilers.entries()
    assert not apply(host, both, items)
    assert "-A FORWARD -p udp -j ACCEPT" in host.run("-S FORWARD")


@pytest.mark.kernel
@pytest.mark.parametrize(
    "damage",
    [
        # Its jump comes later than the Services', goes, or stands there twice.
        [f"-D FORWARD -j {CHAIN}", f"-A FORWARD -j {CHAIN}"],
        [f"-D FORWARD -j {CHAIN}", f"-I FORWARD 2 -j {CHAIN}"],
        [f"-D FORWARD -j {CHAIN}"],
        [f"-A FORWARD -j {CHAIN}"],
        # The Services' come earlier, go.
        ["-I FORWARD -m conntrack --ctstate NEW -j RULEGEN-FORWARD"],
        ["-D FORWARD -m conntrack --ctstate NEW -j RULEGEN-FORWARD"],
        # Both are behind what lets everything through.
        ["-I FORWARD -j ACCEPT"],
        ["-F FORWARD"],
    ],
    ids=" ".join,
)
def test_repair_keeps_the_order(host: Host, damage: list[str]) -> None:
    both = Both(*cluster())
    items = both.take()
    apply(host, both, items)
    for command in damage:
        host.run(command)
    assert apply(host, both, items)
    assert jumps(host) == IN_ORDER
    assert not apply(host, both, items)


@pytest.mark.kernel
def test_a_feature_that_is_off_leaves_nothing_and_takes_nothing_along(host: Host) -> None:
    both = Both(*cluster())
    apply(host, both, both.take())
    services = Both(*cluster(), features=(ServicesFeature,))
    items = services.take()
    delta = apply(host, services, items)
    assert {key.chain for key in delta.removed} == {CHAIN}
    assert jumps(host) == IN_ORDER[1:]
    assert not apply(host, services, items)


@pytest.mark.kernel
def test_what_both_change_in_a_table_is_one_restore(host: Host) -> None:
    both = Both(*cluster())
    items = both.take()
    apply(host, both, items)
    loaded = Recorded(host)
    # A ClusterIP's reject rule, and what is blocked, both in filter.
    host.run("-F RULEGEN-NO-ENDPOINTS")
    host.run(f"-F {CHAIN}")
    apply(host, both, items)
    assert [str(step) for step in loaded.steps] == ["ip filter"]


@pytest.mark.kernel
def test_a_rendered_file_loads_both_in_their_order(host: Host) -> None:
    both = Both(*cluster()).compiled()
    text = "".join(render(by_rank(both.compilers)))
    tables = [line for line in text.splitlines() if line.startswith("*")]
    assert tables == ["*nat", "*filter"] * 2
    assert parse(text.splitlines(keepends=True), "x", prefixes_of(by_rank(both.compilers))) == both.compilers.entries()
    ipv4, ipv6 = text.split("# ip6tables-restore --noflush\n")
    host.run("restore --noflush", ipv4)
    host.run("restore --noflush", ipv6, Family.IPV6)
    assert host.read_of(both.compilers) == both.compilers.entries()
    assert jumps(host) == IN_ORDER


def test_chains_of_a_feature_that_changes_nothing_in_nat_are_replaced_at_once() -> None:
    vips = EntryKey(Family.IPV4, NAT, "RULEGEN-VIPS")
    closed = EntryKey(Family.IPV4, FILTER, "RULEGEN-NO-ENDPOINTS")
    live = {vips: ("-j OLD",), closed: ("-d 10.0.0.1/32 -j DROP",), KEY: ("-d 10.0.0.1/32 -j DROP",)}
    desired = {vips: ("-j NEW",), closed: ("-d 10.0.0.2/32 -j DROP",), KEY: ("-d 10.0.0.2/32 -j DROP",)}
    first, nat, last = plan(diff(live, desired), live, (PREFIX, "RULEGEN-"))
    assert [step.table for step in (first, nat, last)] == [FILTER, NAT, FILTER]
    assert f"-A {CHAIN} -d 10.0.0.1/32 -j DROP" not in first.lines
    assert "-A RULEGEN-NO-ENDPOINTS -d 10.0.0.1/32 -j DROP" in first.lines
    assert not any(CHAIN in line for line in last.lines)


# ---- as a person uses it ----


def command(host: Host, *words: str, status: int = 0) -> str:
    options = ["--target", "iptables", *host.options]
    with host.namespace.entered():
        done = subprocess.run(
            [sys.executable, "-m", "tests.second_feature", *words, *(options if words[0] != "cleanup" else [])],
            capture_output=True,
            text=True,
            check=False,
            timeout=patience(60),
        )
    assert done.returncode == status, done.stderr
    return done.stdout


@pytest.mark.kernel
def test_it_goes_through_diff_apply_and_cleanup(host: Host, tmp_path: Path) -> None:
    file = tmp_path / "all.json"
    save(file, *cluster())
    source = ("-f", str(file), "--node", "node-1", "--feature", "blocking")
    rendered = tmp_path / "rules"
    rendered.write_text(command(host, "render", *source))
    assert CHAIN in rendered.read_text()
    assert command(host, "diff", *source, "--against", str(rendered)).endswith("0 added, 0 changed, 0 removed\n")
    assert f"+ ip filter {CHAIN}  # default/web" in command(host, "diff", *source, status=1)
    assert command(host, "apply", *source).endswith("applied\n")
    assert command(host, "apply", *source) == "nothing to change\n"
    assert jumps(host) == IN_ORDER
    assert command(host, "apply", *source[:-2]).endswith("applied\n")
    assert jumps(host) == IN_ORDER[1:]
    command(host, "apply", *source)
    assert f"removed iptables-{host.variant.value} ip filter\n" in command(host, "cleanup")
    assert "RULEGEN" not in host.run("save")


class GroundOfBoth(IptablesGround):
    """With the second feature on."""

    program = (sys.executable, "-m", "tests.second_feature")


@pytest.mark.kernel
def test_an_agent_keeps_both_and_repairs_their_order(host: Host, tmp_path: Path) -> None:
    ground = GroundOfBoth(host, tmp_path)
    file = ground.manifests / "all.json"
    save(file, *cluster())
    with ground.agent("-f", str(ground.manifests), "--feature", "blocking"):
        wait_until(lambda: jumps(host) == IN_ORDER, 45.0)
        for command in (f"-D FORWARD -j {CHAIN}", f"-A FORWARD -j {CHAIN}", f"-F {CHAIN}"):
            host.run(command)
        wait_until(lambda: jumps(host) == IN_ORDER and "10.96.0.10" in host.run(f"-S {CHAIN}"), 45.0)
        save(file, *cluster(is_blocked=False))
        wait_until(lambda: jumps(host) == IN_ORDER[1:], 45.0)
        save(file, *cluster())
        wait_until(lambda: jumps(host) == IN_ORDER, 45.0)
