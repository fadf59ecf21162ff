"""Scenarios in the CI of others: how deep they are checked, how failures are told, and what runs the check."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest
import yaml

from rulegen.errors import InputError
from rulegen.golden import BASE_FOLDER, FLOWS_FILE, NFTABLES_FILE, Depth, check, files, read_scenario, update
from rulegen.golden_recording import accept_flows
from tests.patience import patience

REPOSITORY = Path(__file__).parents[1]
RULEGEN = str(Path(sys.executable).parent / "rulegen")
PAGE = (REPOSITORY / "docs/ci.md").read_text()


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    """Beside the rules that all have; it is the only one of its configuration here."""
    folder = Path(shutil.copytree(REPOSITORY / "golden/weights", tmp_path / "scenarios" / "weights"))
    for path in files(read_scenario(folder)):
        if path.parent.name == BASE_FOLDER:
            path.parent.mkdir(exist_ok=True)
            shutil.copy(REPOSITORY / "golden" / BASE_FOLDER / path.name, path)
    return folder


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def _spoil(scenario: Path) -> int:
    """Makes an expectation wrong; the line of its flow."""
    path = scenario / FLOWS_FILE
    _edit(path, '"10.128.0.5:8080": 5', '"10.128.0.5:8080": 6')
    lines = path.read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if "the first glob that matches" in line)


def _run(*arguments: str, folder: Path = REPOSITORY, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [RULEGEN, "golden", *arguments]
    return subprocess.run(
        words,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
        timeout=patience(60),
    )


# ---- how deep ----


def test_a_scenario_that_says_nothing_is_checked_for_its_flows_alone(scenario: Path) -> None:
    _edit(scenario / FLOWS_FILE, "check: ruleset\n", "")
    (scenario / NFTABLES_FILE).write_text("not what is rendered\n")
    read = read_scenario(scenario)
    assert read.depth is Depth.FLOWS
    assert not check(read)
    assert update(read) == []
    assert check(read, Depth.RULESET)
    _spoil(scenario)
    assert check(read_scenario(scenario))


def test_entries_are_compared_whatever_the_fixed_rules_look_like(scenario: Path) -> None:
    base = next(path for path in files(read_scenario(scenario)) if path.suffix == ".nft")
    _edit(base, "\tchain prerouting {", "\tchain before-routing {")
    read = read_scenario(scenario)
    assert check(read, Depth.RULESET)
    assert not check(read, Depth.ENTRIES)
    assert not check(read, Depth.FLOWS)
    _edit(scenario / NFTABLES_FILE, "10.128.1.8 . 8080", "10.128.1.99 . 8080")
    (failure,) = check(read, Depth.ENTRIES).failures
    assert failure.name == NFTABLES_FILE
    assert not check(read, Depth.FLOWS)


@pytest.mark.parametrize("target", ["nftables.diff", "iptables.diff"])
def test_a_ruleset_that_is_missing_says_how_it_is_made(scenario: Path, target: str) -> None:
    (scenario / target).unlink()
    done = _run("check", str(scenario))
    assert done.returncode == 1
    assert f"{target}:1: {target}: expected a file of rules, found none" in done.stdout
    command = done.stdout.partition("to accept it: rulegen golden ")[2].splitlines()[0]
    assert _run(*command.split()).returncode == 0
    assert _run("check", str(scenario)).returncode == 0


# ---- what a failure says ----


def test_a_failure_names_scenario_line_flow_and_the_command_that_accepts_it(scenario: Path) -> None:
    line = _spoil(scenario)
    done = _run("check", str(scenario.parent))
    assert done.returncode == 1
    (told,) = [one for one in done.stdout.splitlines() if FLOWS_FILE in one]
    assert told.startswith(f"{scenario}/{FLOWS_FILE}:{line}: the first glob that matches gives the weight;")
    assert "expected 10.128.0.5:8080 66.7%, " in told
    assert "found 10.128.0.5:8080 62.5%, " in told
    command = told.partition("to accept it: rulegen golden ")[2]
    assert _run(*command.split()).returncode == 0
    assert _run("check", str(scenario.parent)).returncode == 0


def test_what_is_accepted_is_all_that_changes(scenario: Path) -> None:
    _spoil(scenario)
    before = (scenario / FLOWS_FILE).read_text()
    assert accept_flows(read_scenario(scenario)) == 1
    after = (scenario / FLOWS_FILE).read_text()
    changed = set(before.splitlines()) ^ set(after.splitlines())
    assert {line.split(":")[0].strip() for line in changed} <= {"expect", "endpoints"}
    assert "# D9." in after
    assert accept_flows(read_scenario(scenario)) == 0


def test_each_expectation_of_the_golden_scenarios_can_be_accepted(tmp_path: Path) -> None:
    """Every form in which people wrote one: it is spoilt, and written down as it is."""
    folder = Path(shutil.copytree(REPOSITORY / "golden", tmp_path / "golden"))
    for path in folder.glob(f"*/{FLOWS_FILE}"):
        text = path.read_text().replace("expect: rejected", "expect: dropped")
        path.write_text(
            text.replace("masqueraded: true", "masqueraded: false").replace(
                "masqueraded: [", "sticky: true, masqueraded: ["
            )
        )
    assert _run("check", "--depth", "flows", str(folder)).returncode == 1
    assert _run("update", "--flows", str(folder)).returncode == 0
    done = _run("check", "--depth", "flows", str(folder))
    assert done.returncode == 0, done.stdout


def test_packets_that_end_in_different_ways_are_not_accepted_as_one(scenario: Path) -> None:
    _edit(scenario / FLOWS_FILE, "to: 10.96.0.24:80/tcp", "to: [10.96.0.24:80/tcp, 10.96.0.23:80/tcp]")
    before = (scenario / FLOWS_FILE).read_text()
    with pytest.raises(InputError, match="its packets end in different ways now"):
        accept_flows(read_scenario(scenario))
    assert (scenario / FLOWS_FILE).read_text() == before


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    done = _run("check", str(REPOSITORY / "golden/weights"), str(tmp_path / "scenarioz"))
    assert (done.returncode, done.stderr) == (2, f"rulegen: {tmp_path}/scenarioz: no such folder\n")


def test_a_file_is_no_folder(scenario: Path) -> None:
    """As whoever gives the files that have changed."""
    done = _run("check", str(scenario / FLOWS_FILE))
    expected = f"rulegen: {scenario}/{FLOWS_FILE}: expected a folder, found a file\n"
    assert (done.returncode, done.stderr) == (2, expected)


@pytest.mark.parametrize(
    ("flows", "message"),
    [
        ("node: node-x\ncheck: ruleset\n", 'node: cluster.yaml has no node "node-x"; there is node-c, node-b, node-a'),
        ("node: node-a\n", "flows: expected at least one: without any nothing is checked"),
        ("node: node-a\nflows: []\n", "flows: expected at least one: without any nothing is checked"),
        (
            "node: node-a\nflows:\n  - {name: x, from: 10.128.0.9, to: [], expect: rejected}\n",
            "flows[0].to: expected at least one, got none",
        ),
        (
            "node: node-a\nflows:\n  - {name: x, from: [], to: 10.96.0.20:80/tcp, expect: rejected}\n",
            "flows[0].from: expected at least one, got none",
        ),
        (
            "node: node-a\nflows:\n  - {name: x, from: nodes, to: 10.96.0.20:80/tcp, expect: rejected}\n",
            'flows[0].from: expected an address, a CIDR, or node, got "nodes"',
        ),
    ],
)
def test_a_scenario_that_could_not_fail_is_an_error(scenario: Path, flows: str, message: str) -> None:
    """Of a node that there is not nothing is local, and no packet is no packet that ends otherwise."""
    (scenario / FLOWS_FILE).write_text(flows)
    done = _run("check", str(scenario))
    assert (done.returncode, done.stderr) == (2, f"rulegen: {scenario}/{FLOWS_FILE}: {message}\n")


def test_the_command_that_accepts_is_one_for_a_shell(scenario: Path) -> None:
    folder = scenario.parent / "it's $HOME (1)"
    scenario.rename(folder)
    _spoil(folder)
    done = _run("check", "--depth", "flows", str(folder))
    command = done.stdout.splitlines()[0].partition("to accept it: ")[2]
    subprocess.run(["sh", "-ec", command], env=_as_installed(), check=True, capture_output=True)
    assert _run("check", "--depth", "flows", str(folder)).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "--github", "-o", "json"), "--github and -o json: one of them, as either is what is printed"),
        (("check", "--junit", "-"), "--junit: expected the name of a file: the failures are printed as lines"),
        (("update", "--flows", "--depth", "entries"), "--depth means nothing with --flows: it is about the rulesets"),
    ],
)
def test_options_that_do_not_go_together(scenario: Path, arguments: tuple[str, ...], message: str) -> None:
    done = _run(*arguments, str(scenario), folder=scenario)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"rulegen: {message}\n")
    assert not (scenario / "-").exists()


@pytest.mark.parametrize(
    ("old", "new", "known"),
    [
        ("expect: rejected", "expect: refused", "expected rejected, dropped, passed, masqueraded, or {endpoints"),
        ("expect: rejected", "expect: 7", "expected rejected, dropped, passed, masqueraded, or {endpoints"),
        ("masqueraded: false", "masquerade: false", "known are endpoints, masqueraded, sticky"),
        ("from: 10.128.0.9", "source: 10.128.0.9", "known are name, from, to, expect, interface"),
        ("check: ruleset", "check: rules", "known are flows, entries, ruleset"),
        (
            "check: ruleset",
            "checks: ruleset",
            "known are node, check, configuration, features, ipMasqAgent, podRange, networkPolicies, ipFamilies, ",
        ),
        ("check: ruleset", "ipFamilies: [IPv5]", "known are IPv4, IPv6"),
    ],
)
def test_a_word_that_is_not_known_is_told_with_those_that_are(scenario: Path, old: str, new: str, known: str) -> None:
    _edit(scenario / FLOWS_FILE, old, new)
    done = _run("check", str(scenario))
    assert done.returncode == 2
    assert known in done.stderr
    assert done.stderr.count("\n") == 1


# ---- in which forms ----


HOSTILE = "a%0A::error::b, c: \\u0001 <&\\u202e"


def test_junit_has_a_case_for_each_flow(scenario: Path, tmp_path: Path) -> None:
    line = _spoil(scenario)
    _edit(scenario / FLOWS_FILE, "name: weights of slices", f'name: "{HOSTILE}"')
    done = _run("check", str(scenario.parent), "--junit", str(tmp_path / "report.xml"))
    assert done.returncode == 1
    root = Xml.parse(tmp_path / "report.xml").getroot()  # noqa: S314 - of our own making
    (suite,) = root
    cases = suite.findall("testcase")
    assert (int(suite.attrib["tests"]), int(suite.attrib["failures"])) == (len(cases), 1)
    assert len(cases) == len(check(read_scenario(scenario)).cases)
    (failed,) = [case for case in cases if case.find("failure") is not None]
    assert failed.attrib["line"] == str(line)
    assert failed.attrib["file"] == f"{scenario}/{FLOWS_FILE}"


def test_github_takes_nothing_of_a_name_for_a_command(scenario: Path) -> None:
    line = _spoil(scenario)
    _edit(
        scenario / FLOWS_FILE, "name: the first glob that matches", f'name: "{HOSTILE}" # the first glob that matches'
    )
    done = _run("check", str(scenario.parent), "--github")
    assert done.returncode == 1
    (told,) = done.stdout.splitlines()
    properties, _, message = told.removeprefix("::error ").partition("::")
    assert f"file={scenario}/{FLOWS_FILE},line={line},title=" in properties
    assert "::" not in properties + message
    assert properties.count(",") == 2
    assert "%0Afound 10.128.0.5:8080 62.5%25" in message


def test_json_has_what_the_text_has(scenario: Path) -> None:
    line = _spoil(scenario)
    document = json.loads(_run("check", str(scenario.parent), "-o", "json").stdout)
    assert document["summary"] == {"scenarios": 1, "different": 1}
    (failure,) = document["failures"]
    assert failure["line"] == line
    assert failure["scenario"] == str(scenario)
    assert failure["found"].startswith("10.128.0.5:8080 62.5%")
    assert failure["accept"] == f"rulegen golden update --flows {scenario}"


def test_a_folder_whose_name_is_no_utf_8_is_told_in_every_form(scenario: Path, tmp_path: Path) -> None:
    folder = scenario.rename(scenario.parent / os.fsdecode(b"\xff"))
    _spoil(folder)
    for arguments in ((), ("--github",), ("-o", "json"), ("--junit", str(tmp_path / "report.xml"))):
        done = _run("check", "--depth", "flows", str(scenario.parent), *arguments)
        assert (done.returncode, done.stderr) == (1, "")
    document = json.loads(_run("update", "--depth", "entries", "-o", "json", str(scenario.parent)).stdout)
    assert document["rewritten"][0].endswith(r"\xff/nftables.diff")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/nonexistent/new/report.xml", "No such file or directory"),
        ("/", "Is a directory"),
        ("/dev/full", "No space left on device"),
    ],
)
def test_a_report_that_cannot_be_written_is_a_line_below_what_was_found(scenario: Path, path: str, reason: str) -> None:
    line = _spoil(scenario)
    done = _run("check", str(scenario), "--junit", path)
    assert (done.returncode, done.stderr) == (2, f"rulegen: {path}: {reason}\n")
    assert f"{FLOWS_FILE}:{line}: the first glob" in done.stdout


def test_what_people_wrote_is_utf_8_whatever_the_locale(scenario: Path) -> None:
    _spoil(scenario)
    _edit(scenario / FLOWS_FILE, "name: the first glob that matches", "name: der erste, der paßt")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return _run(*arguments, str(scenario), LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")

    done = run("update", "--flows")
    assert done.returncode == 0, done.stderr
    assert "paßt" in (scenario / FLOWS_FILE).read_text(encoding="utf-8")
    assert run("check").returncode == 0


# ---- what runs it ----


def _pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "pytest", "-p", "rulegen.pytest_plugin", "-q", "-p", "no:cacheprovider", "-rA"]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        [*words, *arguments, str(folder)], cwd=folder, capture_output=True, text=True, check=False, env=environment
    )


def test_pytest_makes_a_test_of_each_flow(scenario: Path) -> None:
    count = len(check(read_scenario(scenario)).cases)
    assert f"{count} passed" in _pytest(scenario.parent).stdout
    line = _spoil(scenario)
    done = _pytest(scenario.parent)
    assert done.returncode == 1
    assert f"{count - 1} passed" in done.stdout
    assert "1 failed" in done.stdout
    assert f"{FLOWS_FILE}:{line}: the first glob" in done.stdout
    assert "2 passed" in _pytest(scenario.parent, "-k", "SCTP or malformed").stdout


def test_pytest_leaves_other_files_alone_and_names_mistakes(scenario: Path) -> None:
    _edit(scenario / FLOWS_FILE, "node: node-a", "nodes: node-a")
    done = _pytest(scenario.parent)
    assert done.returncode == 2
    assert "known are node, check" in done.stdout
    assert "Traceback" not in done.stdout
    (scenario / "cluster.yaml").unlink()
    assert "no tests ran" in _pytest(scenario.parent).stdout


def test_pytest_finds_the_plugin_by_itself() -> None:
    points = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["entry-points"]
    assert points == {"pytest11": {"rulegen": "rulegen.pytest_plugin"}}


def _as_installed() -> dict[str, str]:
    return {"PATH": f"{Path(RULEGEN).parent}:/usr/bin:/bin"}


@pytest.mark.parametrize(
    "hook", yaml.safe_load((REPOSITORY / ".pre-commit-hooks.yaml").read_text()), ids=lambda hook: hook["id"]
)
def test_pre_commit_runs_what_the_page_says(hook: dict[str, Any], scenario: Path) -> None:
    (told,) = [
        one
        for block in _blocks("yaml")
        if "repos" in block
        for one in block["repos"][0]["hooks"]
        if one["id"] == hook["id"]
    ]
    folder = scenario.parents[1]
    words = [*hook["entry"].split(), *told["args"]]
    done = subprocess.run(words, cwd=folder, env=_as_installed(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (hook["language"], hook["pass_filenames"]) == ("python", False)
    assert re.search(hook["files"], f"scenarios/weights/{FLOWS_FILE}")
    _spoil(scenario)
    done = subprocess.run(words, cwd=folder, env=_as_installed(), capture_output=True, text=True, check=False)
    assert done.returncode == 1


def _blocks(language: str) -> list[Any]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [yaml.safe_load(block) if language == "yaml" else block for block in found]


@pytest.mark.parametrize("is_right", [True, False])
def test_the_github_action_checks(scenario: Path, is_right: bool, tmp_path: Path) -> None:
    action = yaml.safe_load((REPOSITORY / "action.yml").read_text())
    install, run = action["runs"]["steps"]
    (workflow,) = [block for block in _blocks("yaml") if "jobs" in block]
    given = workflow["jobs"]["services"]["steps"][1]["with"]
    assert given.keys() <= action["inputs"].keys()
    if not is_right:
        _spoil(scenario)
    # As the first step leaves it, which needs the network: tests/packages has it run.
    assert "venv" in install["run"]
    (tmp_path / "rulegen").mkdir()
    (tmp_path / "rulegen/bin").symlink_to(Path(RULEGEN).parent)
    inputs = {name: str(one["default"]) for name, one in action["inputs"].items()} | given | {"junit": "report.xml"}
    variables = {
        name: re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda match: inputs[match[1]], value)
        for name, value in run["env"].items()
    }
    environment = {**_as_installed(), **variables, "RUNNER_TEMP": str(tmp_path)}
    folder = scenario.parents[1]
    # As GitHub runs `shell: bash`.
    words = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", run["run"]]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == (0 if is_right else 1), done.stderr
    assert done.stdout.startswith("::error ") is not is_right
    assert (folder / "report.xml").exists()


def test_the_gitlab_job_checks(scenario: Path) -> None:
    (job,) = [block["check-services"] for block in _blocks("yaml") if "check-services" in block]
    install, *script = job["script"]
    assert install.startswith("pip install")
    folder = scenario.parents[1]
    words = ["sh", "-ec", "\n".join(script)]
    for expected in (0, 1):
        done = subprocess.run(words, cwd=folder, env=_as_installed(), capture_output=True, text=True, check=False)
        assert done.returncode == expected, done.stderr
        assert (folder / job["artifacts"]["reports"]["junit"]).exists()
        if not expected:
            _spoil(scenario)


def test_the_first_scenario_is_made_as_the_page_says(tmp_path: Path) -> None:
    (block,) = _blocks("sh")
    snapshot, _, rest = block.partition("\n")
    assert snapshot == "rulegen snapshot > cluster.yaml"
    shutil.copy(REPOSITORY / "golden/weights/cluster.yaml", tmp_path)
    words = ["sh", "-ec", rest]
    done = subprocess.run(words, cwd=tmp_path, env=_as_installed(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("1 scenarios, 0 different\n")
    flows = yaml.safe_load((tmp_path / "scenarios/web" / FLOWS_FILE).read_text())["flows"]
    assert [flow["expect"]["endpoints"] for flow in flows] == [
        {"10.128.0.5:8080": 5, "10.128.0.6:8080": 1, "10.128.1.7:8080": 2},
        {"10.128.0.5:8080": 5, "10.128.0.6:8080": 1},
    ]
    # It is nobody's to overwrite.
    again = subprocess.run(words, cwd=tmp_path, env=_as_installed(), capture_output=True, text=True, check=False)
    assert again.returncode == 2


@pytest.mark.parametrize(
    ("packets", "message"),
    [
        ("10.128.0.9\n", "line 1 of the packets: expected FROM TO"),
        ("# nothing\n", "the packets: expected lines FROM TO, got none"),
        ("# nothing\nhere there\n", "expected ADDRESS:PORT/tcp"),
        ("10.128.0.9 10.96.0.20:80/tcp x\n", "line 1 of the packets: expected FROM TO"),
        ("10.128.0.9 [fd00::1]:80/tcp\n", "different IP families"),
    ],
)
def test_packets_that_cannot_be_used_leave_no_scenario(tmp_path: Path, packets: str, message: str) -> None:
    (tmp_path / "packets.txt").write_text(packets)
    source = ("-f", str(REPOSITORY / "golden/clusterip/cluster.yaml"), "--node", "node-a")
    done = _run("record", str(tmp_path / "new"), *source, "--packets", str(tmp_path / "packets.txt"))
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["packets.txt"]


def test_packets_may_come_through_a_pipe(tmp_path: Path) -> None:
    """`-` is the name of no file here, either."""
    words = [RULEGEN, "golden", "record", "new", "--node", "node-a", "--packets", "-", "-f"]

    def piped(cluster: str) -> subprocess.CompletedProcess[str]:
        packets = "10.128.0.9 10.96.0.20:80/tcp\n"
        return subprocess.run(
            [*words, cluster], input=packets, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    assert "read once" in piped("-").stderr
    assert piped(str(REPOSITORY / "golden/clusterip/cluster.yaml")).returncode == 0
    assert _run("check", str(tmp_path / "new")).returncode == 0


@pytest.mark.parametrize("name", ["cluster.yaml", FLOWS_FILE])
def test_what_is_there_is_not_overwritten(tmp_path: Path, name: str) -> None:
    """Nor is anything put beside it, and the folder stays."""
    (tmp_path / "packets.txt").write_text("10.128.0.9 10.96.0.20:80/tcp\n")
    folder = tmp_path / "scenarios/web"
    folder.mkdir(parents=True)
    (folder / name).write_text("# a person's\n")
    source = ("-f", str(REPOSITORY / "golden/clusterip/cluster.yaml"), "--node", "node-a")
    done = _run("record", str(folder), *source, "--packets", str(tmp_path / "packets.txt"))
    assert done.returncode == 2
    assert f"rulegen: {folder / name}: there already; " in done.stderr
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [(name, "# a person's\n")]


def test_a_folder_that_cannot_be_made_leaves_none(tmp_path: Path) -> None:
    (tmp_path / "packets.txt").write_text("10.128.0.9 10.96.0.20:80/tcp\n")
    (tmp_path / "file").write_text("")
    source = ("-f", str(REPOSITORY / "golden/clusterip/cluster.yaml"), "--node", "node-a")
    done = _run("record", str(tmp_path / "file/new"), *source, "--packets", str(tmp_path / "packets.txt"))
    assert (done.returncode, done.stderr) == (2, f"rulegen: {tmp_path}/file/new: Not a directory\n")


def test_a_feature_that_is_asked_for_twice_is_recorded_once(tmp_path: Path) -> None:
    (tmp_path / "packets.txt").write_text("10.128.0.9 10.96.0.20:80/tcp\n")
    source = ("-f", str(REPOSITORY / "golden/clusterip/cluster.yaml"), "--node", "node-a", "--config", "own.yaml")
    (tmp_path / "own.yaml").write_text(
        "{apiVersion: rulegen.io/v1alpha1, kind: RulegenConfiguration, features: [host-ports, host-ports]}"
    )
    features = ("--feature", "host-ports", "--feature", "network-policies")
    done = _run("record", "new", *source, *features, "--packets", "packets.txt", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    written = yaml.safe_load((tmp_path / "new" / FLOWS_FILE).read_text())
    assert written["features"] == ["host-ports", "network-policies"]


@pytest.mark.parametrize("in_config_map", [False, True])
def test_the_settings_are_recorded_wherever_the_file_has_them(tmp_path: Path, in_config_map: bool) -> None:
    policies = {"denial": "Reject", "failClosed": True, "logGroup": 3, "ipsets": False}
    own = {
        "apiVersion": "rulegen.io/v1alpha1",
        "kind": "RulegenConfiguration",
        "features": ["network-policies"],
        "networkPolicies": {**policies, "strict": False},
    }
    theirs = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clusterCIDR": "10.128.0.0/14",
    }
    text = yaml.safe_dump_all([own, theirs])
    if in_config_map:
        text = yaml.safe_dump({"apiVersion": "v1", "kind": "ConfigMap", "data": {"config.conf": text}})
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "packets.txt").write_text("10.128.0.9 10.96.0.20:80/tcp\n")
    source = ("-f", str(REPOSITORY / "golden/clusterip/cluster.yaml"), "--node", "node-a", "--config", "config.yaml")
    done = _run("record", "new", *source, "--packets", "packets.txt", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    written = yaml.safe_load((tmp_path / "new" / FLOWS_FILE).read_text())
    assert written["configuration"] == {"clusterCIDR": "10.128.0.0/14"}
    assert written["features"] == ["network-policies"]
    assert written["networkPolicies"] == policies


def test_flows_in_another_encoding_are_named(scenario: Path) -> None:
    path = scenario / FLOWS_FILE
    path.write_text(path.read_text(), encoding="utf-16")
    done = _run("check", str(scenario))
    assert (done.returncode, done.stderr) == (2, f"rulegen: {path}: is no UTF-8 text\n")
