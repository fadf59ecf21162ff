"""`rulegen ... --target iptables`, as a person runs it, in a network namespace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rulegen.cli import main
from rulegen.demo.namespaces import NetworkNamespace
from tests.iptables.host import Access, each_access, kernel

SCENARIO = Path(__file__).parents[2] / "golden" / "dual-stack"
INPUT = ("-f", str(SCENARIO / "cluster.yaml"), "--node", "node-a", "--target", "iptables")


@pytest.fixture
def namespace() -> Iterator[NetworkNamespace]:
    with NetworkNamespace() as namespace, namespace.entered():
        yield namespace


def rulegen(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_render_prints_both_families_or_one() -> None:
    both = rulegen("render", *INPUT).stdout
    parts = [rulegen("render", *INPUT, "--family", family).stdout for family in ("ipv4", "ipv6")]
    *lines, end = both.splitlines()
    assert all(part.splitlines()[-1] == end for part in parts)
    assert [line for part in parts for line in part.splitlines()[:-1]] == lines
    assert [part.splitlines()[0] for part in parts] == ["# iptables-restore --noflush", "# ip6tables-restore --noflush"]


def test_the_configuration_names_the_target(tmp_path: Path) -> None:
    configuration = tmp_path / "config.yaml"
    configuration.write_text(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: iptables\n"
    )
    result = rulegen("render", *INPUT[:4], "--config", str(configuration))
    assert result.stdout.startswith("# iptables-restore --noflush\n")
    overridden = rulegen("render", *INPUT[:4], "--config", str(configuration), "--target", "nftables")
    assert overridden.stdout.startswith("add table ip rulegen\n")


def test_diff_against_a_rendered_file(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text(rulegen("render", *INPUT).stdout)
    assert rulegen("diff", *INPUT, "--against", str(rules)).exit_code == 0
    lines = rules.read_text().splitlines(keepends=True)
    changed = next(number for number, line in enumerate(lines) if "-j DNAT" in line)
    rules.write_text("".join(lines[:changed] + lines[changed + 1 :]))
    result = rulegen("diff", *INPUT, "--against", str(rules), "-o", "json")
    assert result.exit_code == 1
    (change,) = json.loads(result.stdout)["changes"]
    assert change["change"] == "changed"
    assert change["name"] == "nat"
    assert "DNAT" in " ".join(change["after"])
    rules.write_text("nothing\n")
    result = rulegen("diff", *INPUT, "--against", str(rules))
    assert result.exit_code == 2
    assert "render --target iptables" in result.stderr


@pytest.mark.kernel
@each_access
def test_apply_diff_cleanup(namespace: NetworkNamespace, access: Access) -> None:
    variant = access.variant.value
    target = (*INPUT, "--iptables-variant", variant, "--iptables-driver", access.loader.value)
    kernel(access).__exit__()
    checked = rulegen("apply", *target, "--dry-run")
    assert checked.stdout.endswith("checked by the kernel, not applied\n")
    assert rulegen("diff", *target).exit_code == 1
    assert rulegen("apply", *target).stdout.endswith("applied\n")
    assert rulegen("apply", *target).stdout == "nothing to change\n"
    assert rulegen("diff", *target).exit_code == 0
    assert f"removed iptables-{variant} ip nat\n" in rulegen("cleanup").stdout
    assert rulegen("cleanup").stdout == "nothing to remove\n"


@pytest.mark.kernel
def test_what_was_in_the_other_variant_goes(namespace: NetworkNamespace) -> None:
    rulegen("apply", *INPUT, "--iptables-variant", "legacy")
    result = rulegen("apply", *INPUT, "--iptables-variant", "nft")
    assert "removed iptables-legacy ip nat\n" in result.stdout


@pytest.mark.kernel
def test_the_configuration_names_the_loader_and_the_option_overrides_it(
    namespace: NetworkNamespace, tmp_path: Path
) -> None:
    configuration = tmp_path / "config.yaml"
    configuration.write_text(
        "apiVersion: rulegen.io/v1alpha1\nkind: RulegenConfiguration\niptablesDriver: python-iptables\n"
    )
    target = ("apply", *INPUT, "--config", str(configuration), "--iptables-variant", "nft")
    refused = rulegen(*target)
    assert refused.exit_code == 2
    assert refused.stderr.splitlines()[-1] == (
        "rulegen: python-iptables writes legacy iptables only, and this host's is the variant nft; "
        "use --iptables-driver iptables-restore"
    )
    assert rulegen(*target, "--iptables-driver", "iptables-restore").stdout.endswith("applied\n")
