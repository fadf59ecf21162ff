"""`rulegen verify` as a person uses it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

import pytest
from click.testing import CliRunner, Result

from rulegen import golden
from rulegen.cli import main
from rulegen.config import Target
from tests.lab import Lab

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "golden" / "source-ranges"
OBJECTS = ["-f", str(GOLDEN / "cluster.yaml"), "--node", "node-a"]

POLICIES = ["-f", str(ROOT / "golden" / "network-policies" / "cluster.yaml"), "--node", "node-a"]
POLICIES += ["--feature", "network-policies"]
_ASKING_FOR_PODS = """
table ip rules {
	set pods { typeof ip saddr; elements = { 10.128.0.5 }; }
	chain leaving { type nat hook postrouting priority 100; masquerade; }
	chain node { type filter hook input priority 0; ip saddr @pods drop; }
}
"""


def verify(*arguments: str, objects: Sequence[str] = OBJECTS) -> Result:
    return CliRunner().invoke(main, ["verify", *objects, *arguments], catch_exceptions=False)


@pytest.fixture
def rendered(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for target in ("nftables", "iptables"):
        found[target] = tmp_path / target
        done = CliRunner().invoke(main, ["render", *OBJECTS, "--target", target], catch_exceptions=False)
        found[target].write_text(done.stdout)
    return found


@pytest.mark.kernel
def test_a_rendered_file_of_nft(rendered: dict[str, Path]) -> None:
    done = verify("--rendered", str(rendered["nftables"]))
    assert not done.exit_code, done.output
    assert "0 differ" in done.stdout


def test_a_rendered_file_of_iptables(rendered: dict[str, Path]) -> None:
    done = verify("--rendered", str(rendered["iptables"]))
    assert not done.exit_code, done.output


@pytest.mark.kernel
def test_a_comment_that_is_no_text(rendered: dict[str, Path]) -> None:
    path = rendered["nftables"]
    path.write_bytes(b"# \xff\n" + path.read_bytes())
    done = verify("--rendered", str(path))
    assert not done.exit_code, done.output


def test_rules_come_from_a_pipe(rendered: dict[str, Path], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    Thread(target=pipe.write_bytes, args=(rendered["iptables"].read_bytes(),), daemon=True).start()
    done = verify("--rendered", str(pipe))
    assert not done.exit_code, done.output


@pytest.mark.parametrize(("path", "expected"), [("/dev/null", "a device, not a file"), ("/", "Is a directory")])
def test_rules_come_from_no_device_which_may_have_no_end(path: str, expected: str) -> None:
    assert verify("--rendered", path).stderr.endswith(f"rulegen: {path}: {expected}\n")
    assert verify("--rendered", path, "--against", path, objects=[]).stderr == f"rulegen: {path}: {expected}\n"


def test_a_difference(rendered: dict[str, Path]) -> None:
    path = rendered["iptables"]
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "-A RULEGEN-SRC-" not in line or "-j DROP" not in line))
    done = verify("--rendered", str(path))
    assert done.exit_code == 1
    assert "in none of the loadBalancerSourceRanges (SVC-51)" in done.stdout
    done = verify("--rendered", str(path), "-o", "json")
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert document["result"] == "different"
    (first, *_) = document["families"][0]["differences"]
    assert first["right"][0]["fate"] == "dropped"
    assert first["left"][0]["rules"]


def test_what_is_not_understood_is_named(rendered: dict[str, Path]) -> None:
    path = rendered["iptables"]
    text = path.read_text().replace(
        "-A RULEGEN-SERVICES -j RULEGEN-VIPS", "-A RULEGEN-SERVICES -m quota --quota 5 -j RULEGEN-VIPS"
    )
    path.write_text(text)
    done = verify("--rendered", str(path))
    assert done.exit_code == 2
    assert "iptables nat RULEGEN-SERVICES, rule 1" in done.stdout
    assert "the match quota" in done.stdout


@pytest.mark.kernel
def test_a_draw_that_is_looked_up_with_what_nobody_knows_is_named(rendered: dict[str, Path]) -> None:
    """Of packets that nobody has asked for their protocol yet."""
    path = rendered["nftables"]
    drawing = "dnat ip to meta priority . meta l4proto . numgen random mod 2 map @endpoints"
    path.write_text(path.read_text().replace("ip daddr @cluster-ips reject", drawing))
    done = verify("--rendered", str(path))
    assert done.exit_code == 1
    assert "a lookup in endpoints of what is not known" in done.stdout


@pytest.mark.kernel
def test_clients_that_are_remembered_and_never_looked_up(tmp_path: Path) -> None:
    objects = ["-f", str(ROOT / "golden" / "affinity" / "cluster.yaml"), "--node", "node-a"]
    rendered = CliRunner().invoke(main, ["render", *objects, "--target", "nftables"], catch_exceptions=False).stdout
    kept = [line for line in rendered.splitlines() if "map @affinity update" not in line]
    assert len(kept) < len(rendered.splitlines())
    path = tmp_path / "rules"
    path.write_text("".join(f"{line}\n" for line in kept))
    done = verify("--rendered", str(path), objects=objects)
    assert done.exit_code == 1
    assert "from a client remembered by 10.128.0.5:8080" in done.stdout


def test_a_file_that_was_cut_off(rendered: dict[str, Path]) -> None:
    path = rendered["iptables"]
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    done = verify("--rendered", str(path))
    assert done.exit_code == 2
    assert "cut off" in done.stderr


@pytest.mark.parametrize("text", ["", "hello", "table arp x {\n}\n"])
def test_a_file_without_rules(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rules"
    path.write_text(text)
    done = verify("--rendered", str(path))
    assert done.exit_code == 2
    assert "expected tables of nft, or of iptables-restore" in done.stderr


@pytest.mark.parametrize(
    "line", [":A", '-A PREROUTING -m comment --comment "open', "-A", "-A PREROUTING --seconds x --name y"]
)
def test_a_line_that_iptables_would_not_write(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rules"
    path.write_text(f"*nat\n:PREROUTING ACCEPT [0:0]\n{line} \nCOMMIT\n")
    done = verify("--rendered", str(path))
    assert done.exit_code == 2
    assert "iptables nat: expected a chain or a rule as iptables-save writes it, got" in done.stderr


def test_chains_that_lead_to_each_other(tmp_path: Path) -> None:
    path = tmp_path / "rules"
    path.write_text("*nat\n:PREROUTING ACCEPT [0:0]\n:A - [0:0]\n:B - [0:0]\n-A A -j B\n-A B -g A\nCOMMIT\n")
    done = verify("--rendered", str(path))
    assert done.exit_code == 2
    assert "iptables nat: chains lead to each other: " in done.stderr


def test_a_file_that_is_not_there() -> None:
    done = verify("--rendered", "/nowhere/rules.nft")
    assert done.exit_code == 2
    assert done.stderr.endswith("rulegen: /nowhere/rules.nft: No such file or directory\n")


@pytest.mark.kernel
def test_nft_refuses_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rules"
    path.write_text("table ip rules {\n\tchain a {\n\t\tip saddr nonsense accept\n\t}\n}\n")
    done = verify("--rendered", str(path))
    assert done.exit_code == 2
    assert "the rules cannot be loaded" in done.stderr


@pytest.mark.kernel
def test_two_files(rendered: dict[str, Path]) -> None:
    one, two = str(rendered["nftables"]), str(rendered["iptables"])
    assert not verify("--rendered", one, "--against", one, objects=()).exit_code
    done = verify("--rendered", one, "--against", two, objects=())
    assert done.exit_code == 1
    # Between the targets, later packets and what others have translated differ (D5, D20).
    assert ", new" not in done.stdout


def test_options_that_mean_nothing_together(rendered: dict[str, Path]) -> None:
    path = str(rendered["iptables"])
    assert verify("--against", path).exit_code == 2
    assert verify("--rendered", path, "--against", path, "--replaces", "kube-proxy").exit_code == 2


def test_a_feature_of_two_files(rendered: dict[str, Path]) -> None:
    path = str(rendered["iptables"])
    done = verify("--rendered", path, "--against", path, "--feature", "network-policies", objects=())
    assert done.exit_code == 2
    assert "name objects with -f" in done.stderr
    done = verify("--rendered", path, "--against", path, "--feature", "nonsense")
    assert done.exit_code == 2
    assert "no feature" in done.stderr


@pytest.mark.kernel
def test_addresses_of_pods_are_not_the_nodes(tmp_path: Path) -> None:
    """Without objects it cannot be told whether a packet that the node sends to itself, masqueraded, is a pod's."""
    path = tmp_path / "rules.nft"
    path.write_text(_ASKING_FOR_PODS)
    files = ["--rendered", str(path), "--against", str(path)]
    done = verify(*files, objects=())
    assert done.exit_code == 2, done.output
    assert "a source that was replaced" in done.stdout
    done = verify(*files, objects=POLICIES)
    assert not done.exit_code, done.output


@pytest.mark.kernel
def test_a_table_of_another_family(tmp_path: Path) -> None:
    path = tmp_path / "rules.nft"
    path.write_text("table ip some {\n}\ntable inet others {\n}\ntable bridge others {\n}\n")
    done = verify("--rendered", str(path), "--against", str(path), objects=())
    assert done.exit_code == 2, done.output
    assert "nothing is proved about table inet others" in done.stdout
    assert "nothing is proved about table bridge others" in done.stdout
    assert "0 differ" in done.stdout


def of_feature(name: str) -> list[str]:
    """The objects of a golden scenario."""
    return ["-f", str(ROOT / "golden" / name / "cluster.yaml"), "--node", "node-a", "--feature", name]


# By feature and target, what takes something of its rules away.
_DAMAGE = {
    ("network-policies", "nftables"): "nft delete element ip rulegen-network-policies ingress-pods { 10.128.0.5 }",
    ("network-policies", "iptables"): "iptables-nft -F RULEGEN-NP-INGRESS",
    ("host-ports", "nftables"): "nft flush chain ip rulegen host-port",
    ("host-ports", "iptables"): "iptables-nft -t nat -F RULEGEN-HOST-PORTS",
    ("egress-masquerade", "nftables"): "nft delete element ip rulegen-egress-masquerade cluster { 100.64.1.0/24 }",
    ("egress-masquerade", "iptables"): "iptables-nft -t nat -F RULEGEN-EG-EXEMPT",
}


@pytest.mark.kernel
@pytest.mark.parametrize(("feature", "target"), _DAMAGE)
def test_the_kernel_with_a_feature(lab: Lab, feature: str, target: str) -> None:
    options = [*of_feature(feature), "--target", target]
    with lab.entered():
        applied = CliRunner().invoke(main, ["apply", *options], catch_exceptions=False)
        assert not applied.exit_code, applied.output
        done = verify(objects=options)
        assert not done.exit_code, done.output
        subprocess.run(_DAMAGE[feature, target].split(), check=True)
        assert verify(objects=options).exit_code == 1


@pytest.mark.kernel
@pytest.mark.parametrize("target", ["nftables", "iptables"])
def test_the_kernel(lab: Lab, target: str) -> None:
    options = [*OBJECTS, "--target", target]
    with lab.entered():
        missing = verify(objects=options)
        assert missing.exit_code == 1, missing.output
        assert "there are no rules for IPv4" in missing.stdout
        applied = CliRunner().invoke(main, ["apply", *options], catch_exceptions=False)
        assert not applied.exit_code, applied.output
        done = verify(objects=options)
        assert not done.exit_code, done.output
        _damage(target)
        assert verify(objects=options).exit_code == 1


@pytest.mark.kernel
def test_no_packet_meets_a_dormant_table(lab: Lab) -> None:
    with lab.entered():
        applied = CliRunner().invoke(main, ["apply", *OBJECTS], catch_exceptions=False)
        assert not applied.exit_code, applied.output
        subprocess.run(["nft", "add table ip rulegen { flags dormant; }"], check=True)
        done = verify()
        assert done.exit_code == 1
        assert "no Service is concerned" in done.stdout


def _damage(target: str) -> None:
    words = {
        "nftables": ["nft", "flush", "chain", "ip", "rulegen", "special"],
        "iptables": ["iptables-nft", "-t", "mangle", "-F", "RULEGEN-FIREWALL"],
    }
    subprocess.run(words[target], check=True)


@pytest.mark.kernel
def test_there_is_no_kube_proxy(lab: Lab) -> None:
    with lab.entered():
        done = verify("--replaces", "kube-proxy")
    assert done.exit_code == 2
    assert "there are no rules of kube-proxy here" in done.stderr


@pytest.mark.kernel
def test_golden_scenarios() -> None:
    done = CliRunner().invoke(main, ["golden", "check", "--verify", str(ROOT / "golden")], catch_exceptions=False)
    assert not done.exit_code, done.output
    assert "nothing is proved about" not in done.output


@pytest.mark.kernel
def test_a_golden_scenario_whose_rules_do_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    render = golden.render

    def damaged(scenario: golden.Scenario, target: Target) -> str:
        return render(scenario, target).replace(" != @source-ranges drop", " != @source-ranges accept")

    monkeypatch.setattr(golden, "render", damaged)
    done = CliRunner().invoke(main, ["golden", "check", "--verify", str(GOLDEN)], catch_exceptions=False)
    assert done.exit_code == 1
    assert "in none of the loadBalancerSourceRanges (SVC-51)" in done.stdout
