"""The second feature goes through all that there is, though nothing but a line of the registry names it."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.running import Playground, save, wait_until, web
from tests.builders import Item, node, service
from tests.nftables.host import host_or_skip
from tests.patience import patience
from tests.second_feature.feature import LABEL

pytestmark = pytest.mark.kernel

FEATURE = ("--feature", "blocking")


def blocked(number: int) -> Item:
    return service(f"blocked-{number}", [f"10.96.9.{number}", f"fd00:96::9:{number}"], labels={LABEL: ""})


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Playground]:
    with host_or_skip() as host:
        made = Playground(host, tmp_path)
        made.program = (sys.executable, "-m", "tests.second_feature")
        yield made


def _input(ground: Playground, *items: Item) -> list[str]:
    save(ground.manifests / "all.json", node(), *web(1, 1, 2), *items)
    return ["-f", str(ground.manifests), "--node", "node-1"]


def _said(ground: Playground, *arguments: str, status: int = 0) -> list[str]:
    done = ground.run(*arguments)
    assert done.returncode == status, done
    return done.stdout.splitlines()


def _elements(ground: Playground, ip: str = "ip") -> set[str]:
    """What the kernel holds of it; nothing where there is no table."""
    if f"table {ip} rulegen-blocking" not in ground.host.nft("list tables"):
        return set()
    return set(re.findall(r'(\S+) comment "default/', ground.host.nft(f"list set {ip} rulegen-blocking blocked")))


def test_render_diff_and_a_file(ground: Playground, tmp_path: Path) -> None:
    source = _input(ground, blocked(1))
    without = _said(ground, "render", *source)
    assert not [line for line in without if "blocking" in line]
    rendered = _said(ground, "render", *source, *FEATURE)
    assert rendered[: len(without) - 1] == without[:-1]
    assert "table ip rulegen-blocking {" in rendered
    file = tmp_path / "rules.nft"
    file.write_text("\n".join([*rendered, ""]))
    assert _said(ground, "diff", *source, *FEATURE, "--against", str(file)) == ["0 added, 0 changed, 0 removed"]
    source = _input(ground, blocked(2))
    changes = _said(ground, "diff", *source, *FEATURE, "--against", str(file), status=1)
    assert "- ip rulegen-blocking blocked 10.96.9.1  # default/blocked-1" in changes
    assert "+ ip6 rulegen-blocking blocked fd00:96::9:2  # default/blocked-2" in changes
    ground.host.nft(file.read_text())
    assert _elements(ground) == {"10.96.9.1"}
    assert "- ip rulegen-blocking blocked 10.96.9.1  # default/blocked-1" in _said(
        ground, "diff", *source, *FEATURE, status=1
    )


def test_apply_changes_both_tables_in_one_transaction(ground: Playground) -> None:
    _said(ground, "apply", *_input(ground, blocked(1)), *FEATURE)
    assert (_elements(ground), _elements(ground, "ip6")) == ({"10.96.9.1"}, {"fd00:96::9:1"})
    generation = ground.host.generation()
    _said(ground, "apply", *_input(ground, blocked(1), blocked(2), *web(2, 3)), *FEATURE)
    assert ground.host.generation() == generation + 1
    assert _elements(ground) == {"10.96.9.1", "10.96.9.2"}
    assert _said(ground, "apply", *_input(ground, blocked(1), blocked(2), *web(2, 3)), *FEATURE) == [
        "nothing to change"
    ]


def test_a_feature_with_nothing_to_do_or_that_is_off_has_no_table(ground: Playground) -> None:
    _said(ground, "apply", *_input(ground), *FEATURE)
    assert "blocking" not in ground.host.nft("list tables")
    _said(ground, "apply", *_input(ground, blocked(1)), *FEATURE)
    assert "blocking" in ground.host.nft("list tables")
    done = _said(ground, "apply", *_input(ground, blocked(1)))
    assert done == [
        "- ip table rulegen-blocking",
        "- ip6 table rulegen-blocking",
        "0 added, 0 changed, 2 removed: applied",
    ]
    assert "blocking" not in ground.host.nft("list tables")
    _said(ground, "apply", *_input(ground, blocked(1)), *FEATURE)
    # Its last object goes: so does the table.
    _said(ground, "apply", *_input(ground), *FEATURE)
    assert "blocking" not in ground.host.nft("list tables")


def test_the_agent_follows_and_repairs(ground: Playground) -> None:
    _input(ground, blocked(1))
    with ground.agent("-f", str(ground.manifests), *FEATURE) as agent:
        wait_until(lambda: _elements(ground) == {"10.96.9.1"}, 10.0)
        agent.wait_for("sync mode=full")
        _input(ground, blocked(1), blocked(2))
        wait_until(lambda: _elements(ground) == {"10.96.9.1", "10.96.9.2"}, 10.0)
        ground.host.nft("flush set ip rulegen-blocking blocked")
        wait_until(lambda: _elements(ground) == {"10.96.9.1", "10.96.9.2"}, 10.0)
        agent.wait_for("repaired: + ip rulegen-blocking blocked 10.96.9.1  # default/blocked-1")
        ground.host.nft("add rule ip rulegen-blocking forward drop")
        agent.wait_for("repaired: ~ ip rulegen-blocking chain forward : other rules -> as compiled")
        ground.host.nft("delete table ip rulegen-blocking")
        wait_until(lambda: _elements(ground) == {"10.96.9.1", "10.96.9.2"}, 10.0)
        # The last one goes, and one comes back.
        _input(ground)
        wait_until(lambda: "blocking" not in ground.host.nft("list tables"), 10.0)
        _input(ground, blocked(3))
        wait_until(lambda: _elements(ground) == {"10.96.9.3"}, 10.0)
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(patience(15)) == 0
    assert _elements(ground) == {"10.96.9.3"}
    assert "ERROR" not in agent.log
    with ground.agent() as agent:
        wait_until(lambda: "blocking" not in ground.host.nft("list tables"), 10.0)


def test_what_it_finds_is_said_by_the_commands_and_the_agent(ground: Playground) -> None:
    source = _input(ground, service("a", ["10.96.9.1"], labels={LABEL: ""}, external_ips=["192.0.2.1"]))
    words = "Service default/a: its externalIPs are not blocked"
    assert f"rulegen: warning: {words}" in ground.run("render", *source, *FEATURE).stderr.splitlines()
    assert words not in ground.run("render", *source).stderr
    found = _said(ground, "lint", *source, *FEATURE, status=1)
    assert "Service default/a: StillReachable: its externalIPs are not blocked" in found
    with ground.agent("-f", str(ground.manifests), *FEATURE) as agent:
        agent.wait_for(f"WARNING {words}")


def test_cleanup_removes_what_it_left_whether_it_is_on_or_not(ground: Playground) -> None:
    _said(ground, "apply", *_input(ground, blocked(1)), *FEATURE)
    assert set(_said(ground, "cleanup")) == {
        "removed ip rulegen",
        "removed ip6 rulegen",
        "removed ip rulegen-blocking",
        "removed ip6 rulegen-blocking",
    }
    assert "rulegen" not in ground.host.nft("list tables")


def test_the_configuration_may_ask_for_it(ground: Playground, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("apiVersion: rulegen.io/v1alpha1\nkind: RulegenConfiguration\nfeatures: [blocking]\n")
    source = _input(ground, blocked(1))
    assert "table ip rulegen-blocking {" in _said(ground, "render", *source, "--config", str(file))
    file.write_text("apiVersion: rulegen.io/v1alpha1\nkind: RulegenConfiguration\nfeatures: [blokcing]\n")
    done = ground.run("render", *source, "--config", str(file))
    assert done.returncode == 2
    there_is = "services, host-ports, egress-masquerade, network-policies, records, ingress, blocking"
    assert done.stderr == f'rulegen: no feature "blokcing"; there is {there_is}\n'


def test_what_is_off_is_not_imported(ground: Playground) -> None:
    source = _input(ground)
    program = (
        "import sys; from rulegen.cli import main; from rulegen.features import REGISTRY, Entry;"
        "REGISTRY['blocking'] = Entry('tests.second_feature.feature', 'BlockingFeature');"
        "main(sys.argv[1:], standalone_mode=False); print(sorted(n for n in sys.modules if 'second' in n))"
    )
    ground.program = (sys.executable, "-c", program)
    assert _said(ground, "render", *source)[-1] == "[]"
    assert _said(ground, "render", *source, *FEATURE)[-1] != "[]"
