"""The configuration file of ip-masq-agent: what it may say, and one line for each thing that it may not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rulegen.config import EgressSettings, PodRange
from rulegen.configuration_file import load_configuration
from rulegen.egress import configuration
from rulegen.egress.configuration import file_of, with_file, with_file_or_reason
from rulegen.errors import InputError

DEFAULTS = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")


def read(tmp_path: Path, text: str) -> EgressSettings:
    path = tmp_path / "ip-masq-agent"
    path.write_text(text)
    os.utime(path, (1, 1))
    found, warnings = with_file(EgressSettings(config_file=str(path)))
    assert warnings == []
    return found


def refused(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(InputError) as error:
        read(tmp_path, text)
    lines = str(error.value).splitlines()
    assert all(line.startswith(f"{tmp_path / 'ip-masq-agent'}") for line in lines)
    return [line.removeprefix(f"{tmp_path / 'ip-masq-agent'}: ") for line in lines]


def test_what_is_not_said_is_as_in_ip_masq_agent(tmp_path: Path) -> None:
    for text in ("", "# nothing yet\n", "---\n", "{}", "resyncInterval: 60s\n"):
        found = read(tmp_path, text)
        assert found.non_masquerade_cidrs == DEFAULTS
        assert (found.masq_link_local, found.masq_link_local_ipv6) == (False, False)


def test_yaml_and_json(tmp_path: Path) -> None:
    said = {
        "nonMasqueradeCIDRs": ["10.40.0.0/14", "fd00::/8", "0.0.0.0/0"],
        "masqLinkLocal": True,
        "masqLinkLocalIPv6": True,
        "resyncInterval": "1h5m",
        "cidrLimit": 3,
    }
    yaml = "nonMasqueradeCIDRs:\n  - 10.40.0.0/14\n  - fd00::/8\n  - 0.0.0.0/0\nmasqLinkLocal: true\n"
    yaml += "masqLinkLocalIPv6: true\nresyncInterval: 1h5m\ncidrLimit: 3\n"
    for text in (json.dumps(said), yaml):
        found = read(tmp_path, text)
        assert found.non_masquerade_cidrs == ("10.40.0.0/14", "fd00::/8", "0.0.0.0/0")
        assert (found.masq_link_local, found.masq_link_local_ipv6) == (True, True)


@pytest.mark.parametrize("text", ["nonMasqueradeCIDRs: []", "nonMasqueradeCIDRs: null"])
def test_an_empty_list_exempts_nothing(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text).non_masquerade_cidrs == ()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "nonMasqueradeCIDRs: [10.0.0.0/8, 10.1.0.0/33, ten, 10.0.0.1/8, 7]",
            [
                'nonMasqueradeCIDRs[1]: expected a CIDR without host bits, got "10.1.0.0/33"',
                'nonMasqueradeCIDRs[2]: expected a CIDR without host bits, got "ten"',
                'nonMasqueradeCIDRs[3]: expected a CIDR without host bits such as 10.0.0.0/8, got "10.0.0.1/8"',
                "nonMasqueradeCIDRs[4]: expected str, got 7",
            ],
        ),
        ("nonMasqueradeCIDRs: 10.0.0.0/8", ['nonMasqueradeCIDRs: expected an array, got "10.0.0.0/8"']),
        ('masqLinkLocal: "true"', ['masqLinkLocal: expected bool, got "true"']),
        ("masqLinkLocalIPv6: 1", ["masqLinkLocalIPv6: expected bool, got 1"]),
        (
            "resyncInterval: 60",
            ["resyncInterval: expected str, got 60"],
        ),
        (
            "resyncInterval: soon",
            ['resyncInterval: expected a duration such as "30s" or "1h5m", not negative, got "soon"'],
        ),
        ("[10.0.0.0/8]", ["expected an object, got an array"]),
        ("masqLinkLocal: true\n---\nmasqLinkLocal: false\n", ["expected one document, got 2"]),
    ],
)
def test_what_cannot_be_used_is_a_line_each(tmp_path: Path, text: str, lines: list[str]) -> None:
    assert refused(tmp_path, text) == lines


def test_there_are_at_most_64_cidrs_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    cidrs = [f"10.{number}.0.0/16" for number in range(65)]
    assert len(read(tmp_path, json.dumps({"nonMasqueradeCIDRs": cidrs[:64]})).non_masquerade_cidrs) == 64
    assert refused(tmp_path, json.dumps({"nonMasqueradeCIDRs": cidrs})) == [
        "nonMasqueradeCIDRs: expected at most 64 CIDRs (cidrLimit), got 65"
    ]
    assert len(read(tmp_path, json.dumps({"nonMasqueradeCIDRs": cidrs, "cidrLimit": 65})).non_masquerade_cidrs) == 65


def test_what_no_one_reads_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "ip-masq-agent"
    path.write_text('nonMasqeradeCIDRs: []\n"a\\e[31mb": 1\n')
    os.utime(path, (1, 1))
    found, warnings = with_file(EgressSettings(config_file=str(path)))
    assert found.non_masquerade_cidrs == DEFAULTS
    assert warnings == [
        f"{path}: nonMasqeradeCIDRs: unknown field; has no effect",
        f'{path}: "a\\u001b[31mb": unknown field; has no effect',
    ]


@pytest.mark.parametrize("text", ["nonMasqueradeCIDRs: [", "masqLinkLocal: true\nmasqLinkLocal: false\n", "a\0b"])
def test_what_cannot_be_read_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ip-masq-agent"
    path.write_text(text)
    os.utime(path, (1, 1))
    with pytest.raises(InputError, match=f"^{path}[^\n]*$"):
        with_file(EgressSettings(config_file=str(path)))


def test_a_file_that_somebody_has_named_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "missing"
    settings = EgressSettings(config_file=str(path))
    with pytest.raises(InputError, match=f"^{path}: No such file or directory$"):
        with_file(settings)
    assert with_file_or_reason(settings)[0].unusable == f"{path}: No such file or directory"
    with pytest.raises(InputError, match=f"^{tmp_path}: expected a file, got a folder$"):
        with_file(EgressSettings(config_file=str(tmp_path)))
    os.mkfifo(path)
    with pytest.raises(InputError, match=f"^{path}: a named pipe, not a file$"):
        with_file(settings)


def test_ip_masq_agents_own_need_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert file_of(EgressSettings()) == "/etc/config/ip-masq-agent"
    path = tmp_path / "config" / "ip-masq-agent"
    monkeypatch.setattr(configuration, "DEFAULT_FILE", str(path))
    assert with_file(EgressSettings()) == (EgressSettings(), [])
    path.parent.mkdir()
    assert with_file(EgressSettings()) == (EgressSettings(), [])
    path.write_text("nonMasqueradeCIDRs: [10.0.0.0/8]")
    os.utime(path, (1, 1))
    assert with_file(EgressSettings())[0].non_masquerade_cidrs == ("10.0.0.0/8",)
    # A link that leads nowhere is a file that cannot be read, not none.
    path.unlink()
    path.symlink_to(tmp_path / "..data")
    with pytest.raises(InputError, match="No such file or directory"):
        with_file(EgressSettings())


def test_the_rulegen_configuration(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "apiVersion: rulegen.io/v1alpha1\nkind: RulegenConfiguration\nfeatures: [egress-masquerade]\n"
        "egressMasquerade: {configFile: /etc/masq.yaml, podRange: ClusterCIDR}\n"
    )
    found = load_configuration(str(path))[0]
    assert found.features == ("egress-masquerade",)
    assert found.node.egress == EgressSettings(config_file="/etc/masq.yaml", pod_range=PodRange.CLUSTER_CIDR)
    path.write_text(path.read_text().replace("ClusterCIDR", "Everything").replace("configFile", "configfile"))
    with pytest.raises(InputError) as error:
        load_configuration(str(path))
    assert str(error.value).splitlines() == [
        f'{path}: RulegenConfiguration: egressMasquerade.podRange: expected NodeCIDR or ClusterCIDR, got "Everything"',
        f"{path}: RulegenConfiguration: egressMasquerade.configfile: unknown field",
    ]
