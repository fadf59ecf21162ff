"""Golden scenarios agree with the code, and what is wrong with one is found and said in a line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from rulegen.cli import main
from rulegen.errors import InputError
from rulegen.golden import (
    BASE_FOLDER,
    FLOWS_FILE,
    IPTABLES_FILE,
    NFTABLES_FILE,
    Difference,
    check,
    files,
    find_scenarios,
    read_scenario,
    unused,
    update,
)

FOLDER = Path(__file__).parent.parent / "golden"


def _wrong_flows(difference: Difference) -> list[str]:
    return [str(failure) for failure in difference.failures if failure.file.name == FLOWS_FILE]


@pytest.mark.parametrize("folder", find_scenarios([str(FOLDER)]), ids=lambda folder: folder.name)
def test_scenario(folder: Path) -> None:
    difference = check(read_scenario(folder))
    assert not _wrong_flows(difference), "\n".join(_wrong_flows(difference))
    assert not difference.ruleset, "".join(difference.ruleset)


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    shutil.copytree(FOLDER / BASE_FOLDER, tmp_path / BASE_FOLDER)
    return Path(shutil.copytree(FOLDER / "weights", tmp_path / "weights"))


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_changed_ruleset_is_shown_as_a_diff_and_update_restores_it(scenario: Path) -> None:
    ruleset = scenario / NFTABLES_FILE
    before = ruleset.read_bytes()
    _edit(ruleset, "10.128.1.8 . 8080", "10.128.1.99 . 8080")
    lines = check(read_scenario(scenario)).ruleset
    assert [line[0] for line in lines if "10.128.1.99" in line] == ["-"]
    assert [line[0] for line in lines if "10.128.1.8 " in line and line[0] != " "] == ["+"]
    assert update(read_scenario(scenario))
    assert ruleset.read_bytes() == before
    assert not update(read_scenario(scenario))


def test_update_writes_a_ruleset_that_is_missing(scenario: Path) -> None:
    (scenario / NFTABLES_FILE).unlink()
    (failure,) = check(read_scenario(scenario)).failures
    assert str(failure) == (
        f"{scenario}/{NFTABLES_FILE}:1: {NFTABLES_FILE}: expected a file of rules, found none; "
        f"to accept it: rulegen golden update {scenario}"
    )
    assert update(read_scenario(scenario))
    assert not check(read_scenario(scenario))


def test_rules_that_every_scenario_has_are_written_once_for_each_configuration(scenario: Path) -> None:
    written = files(read_scenario(scenario))
    bases = [path for path in written if path.parent.name == BASE_FOLDER]
    assert [path.suffix for path in bases] == [".nft", ".rules"]
    names, rules = (NFTABLES_FILE, IPTABLES_FILE), ("\tchain prerouting {", "RULEGEN-SERVICES")
    for path, name, fixed in zip(bases, names, rules, strict=True):
        own = written[scenario / name]
        assert fixed in written[path]
        assert fixed not in own
        assert "default/web" in own
        assert "default/web" not in written[path]
        assert own.startswith(f"--- ../{BASE_FOLDER}/{path.name}\n")
    other = Path(shutil.copytree(FOLDER / "slices", scenario.parent / "slices"))
    assert bases == [path for path in files(read_scenario(other)) if path.parent.name == BASE_FOLDER]
    _edit(scenario / FLOWS_FILE, "clusterCIDR: 10.128.0.0/14", "clusterCIDR: 10.0.0.0/8")
    assert not set(bases) & set(files(read_scenario(scenario)))


def test_a_changed_fixed_rule_is_a_difference_of_the_base_alone(scenario: Path) -> None:
    base = next(path for path in files(read_scenario(scenario)) if path.suffix == ".nft")
    _edit(base, "\tchain prerouting {", "\tchain before-routing {")
    lines = check(read_scenario(scenario)).ruleset
    assert [line for line in lines if line.startswith("--- ")] == [f"--- {base}\n"]
    assert update(read_scenario(scenario)) == [base]


def test_a_base_that_no_scenario_has_any_more_is_told_and_removed(scenario: Path) -> None:
    stale = scenario.parent / BASE_FOLDER / "12345678.nft"
    stale.write_text("")
    read = [read_scenario(scenario)]
    assert stale in unused([str(scenario.parent)], read)
    # One scenario alone says nothing about the bases of others.
    assert unused([str(scenario)], read) == []
    run = CliRunner().invoke(main, ["golden", "check", str(scenario.parent)])
    assert f"{stale}: no scenario has this configuration any more" in run.output
    assert run.exit_code == 1
    assert CliRunner().invoke(main, ["golden", "update", str(scenario.parent)]).exit_code == 0
    assert not stale.exists()
    assert CliRunner().invoke(main, ["golden", "check", str(scenario.parent)]).exit_code == 0


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ('"10.128.0.5:8080": 5', '"10.128.0.5:8080": 6', "10.128.0.5:8080 62.5%"),
        ("masqueraded: false", "masqueraded: true", "expected 10.128.0.5:8080 62.5% masqueraded"),
        ("10.96.0.24:80/tcp", "10.96.0.23:80/tcp", "expected rejected, found 10.128.1.12:80 50.0%"),
        ("from: 10.128.0.9", "from: 203.0.113.9", "found 10.128.0.5:8080 62.5% masqueraded"),
    ],
)
def test_a_flow_that_ends_otherwise_is_named(scenario: Path, old: str, new: str, found: str) -> None:
    _edit(scenario / FLOWS_FILE, old, new)
    difference = check(read_scenario(scenario))
    assert difference
    assert any(found in line for line in _wrong_flows(difference)), _wrong_flows(difference)
    assert not difference.ruleset


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("masqueraded: false", "masquerade: false", "masquerade"),
        ("node: node-a", "nodes: node-a", "nodes"),
        ("expect: rejected", "expect: refused", "refused"),
        ("10.96.0.24:80/tcp", "10.96.0.24:80", "flows[5].to: expected ADDRESS:PORT/tcp"),
        ("10.96.0.24:80/tcp", "10.96.0.24:70000/tcp", "flows[5].to: expected a port from 1 to 65535"),
        ("10.96.0.24:80/tcp", "'[fd00::1]:80/tcp'", "different IP families"),
        ("from: 10.128.0.9", "from: pod", 'flows[0].from: expected an address, a CIDR, or node, got "pod"'),
        ("from: 10.128.0.9", "from: 10.128.0.0/40", "flows[0].from: expected an address, a CIDR, or node"),
        ('["10.128.1.10:53", "10.128.1.11:53"]', "[]", "flows[3].expect.endpoints: expected at least one"),
        ('"10.128.0.5:8080": 5', '"10.128.0.5:8080": 0', "flows[0].expect.endpoints: every share"),
        ("masqueraded: false", 'masqueraded: ["10.9.9.9:80"]', '"10.9.9.9:80" is not among the endpoints'),
        ("clusterCIDR: 10.128.0.0/14", "clusterCIDR: here", "configuration: clusterCIDR: expected one CIDR"),
        ("clusterCIDR: 10.128.0.0/14", "detectLocalMode: BridgeInterface", "detectLocal.bridgeInterface: missing"),
        ("clusterCIDR: 10.128.0.0/14", "clusterCidr: 10.128.0.0/14", "configuration: clusterCidr: unknown field"),
        ("node: node-a", "node: node_a", "name of the node: expected a node's name"),
        ("node: node-a", "node: node-a\nipFamilies: [IPv6]", "clusterCIDR: 10.128.0.0/14: this host has no"),
        ("clusterCIDR: 10.128.0.0/14", "clusterCIDR: [", f"{FLOWS_FILE}:"),
    ],
)
def test_a_mistake_in_the_flows_is_one_line(scenario: Path, old: str, new: str, message: str) -> None:
    _edit(scenario / FLOWS_FILE, old, new)
    with pytest.raises(InputError) as raised:
        read_scenario(scenario)
    text = str(raised.value)
    assert text.startswith(str(scenario / FLOWS_FILE))
    assert message in text
    assert "\n" not in text


def test_all_objects_that_cannot_be_read_are_named(scenario: Path) -> None:
    cluster = scenario / "cluster.yaml"
    cluster.write_text(cluster.read_text().replace("port: 80\n", "port: 70000\n", 2))
    with pytest.raises(InputError, match=r"70000[^$]*70000"):
        read_scenario(scenario)


@pytest.mark.parametrize("command", ["check", "update"])
def test_all_scenarios_that_cannot_be_used_are_named(scenario: Path, command: str) -> None:
    others = [Path(shutil.copytree(scenario, scenario.with_name(name))) for name in ("one", "other")]
    _edit(others[0] / FLOWS_FILE, "masqueraded: false", "masquerade: false")
    (others[1] / "cluster.yaml").unlink()
    before = (scenario / FLOWS_FILE).read_bytes()
    done = CliRunner().invoke(main, ["golden", command, str(scenario.parent)])
    assert done.exit_code == 2
    first, second = done.stderr.splitlines()
    assert first.startswith(f"rulegen: {others[0] / FLOWS_FILE}: ")
    assert second.startswith(f"rulegen: {others[1]}/cluster.yaml: ")
    assert (scenario / FLOWS_FILE).read_bytes() == before


def test_a_folder_without_scenarios(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no scenario here"):
        find_scenarios([str(tmp_path)])


def test_a_scenario_says_how_policies_are_enforced(tmp_path: Path) -> None:
    shutil.copytree(FOLDER / BASE_FOLDER, tmp_path / BASE_FOLDER)
    folder = Path(shutil.copytree(FOLDER / "network-policies", tmp_path / "network-policies"))
    _edit(folder / FLOWS_FILE, "features:", "networkPolicies: {denial: Reject, strict: true}\nfeatures:")
    lines = check(read_scenario(folder)).ruleset
    assert any("reject with icmp type admin-prohibited" in line for line in lines)
    assert any("@isolated" in line for line in lines)
    _edit(folder / FLOWS_FILE, "denial: Reject, strict: true", "denial: Refuse, strikt: true")
    with pytest.raises(InputError, match=r"networkPolicies\.denial: expected") as raised:
        read_scenario(folder)
    assert "networkPolicies.strikt: unknown field" in str(raised.value)


def test_what_policies_deny_is_recorded(tmp_path: Path) -> None:
    packets = tmp_path / "packets"
    lines = ["203.0.113.9 10.128.0.6:5432/tcp", "10.128.0.5 10.128.0.6:5432/tcp", "10.128.0.9 10.96.0.20:80/tcp"]
    packets.write_text("\n".join([*lines, "node 10.128.0.6:22/tcp"]))
    cluster = str(FOLDER / "network-policies" / "cluster.yaml")
    found = {}
    for feature in ("network-policies", "host-ports"):
        folder = tmp_path / feature
        arguments = ["-f", cluster, "--node", "node-a", "--packets", str(packets), "--feature", feature]
        done = CliRunner().invoke(main, ["golden", "record", str(folder), *arguments])
        assert done.exit_code == 0, done.output
        found[feature] = [line.strip() for line in (folder / FLOWS_FILE).read_text().splitlines() if "expect:" in line]
        assert not check(read_scenario(folder))
    dropped = "expect: dropped"
    endpoints = 'endpoints: ["10.128.0.5:8080 (dropped)", "10.128.1.7:8080"], masqueraded: false'
    assert found["network-policies"] == [dropped, "expect: passed", f"expect: {{{endpoints}}}", "expect: passed"]
    assert dropped not in found["host-ports"]
