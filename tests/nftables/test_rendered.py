"""A table that was loaded from rendered text, which nobody has noted anything about, is compared in full."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rulegen.config import Family
from rulegen.services.on_nftables.layout import LAYOUTS
from tests.agent.running import RULEGEN, Ground, manifest, save, wait_until
from tests.nftables.host import Host, compiled, lines_of, rendered
from tests.nftables.test_repair import CHAINS, EVERYTHING

pytestmark = pytest.mark.kernel

DAMAGE = {
    "inserted": "insert rule ip rulegen {0} ip daddr 10.96.0.1 drop",
    "added": "add rule ip rulegen {0} counter",
    "flushed": "flush chain ip rulegen {0}",
}


@pytest.fixture
def rendered_host(host: Host) -> Host:
    host.nft(rendered(compiled(EVERYTHING)))
    return host


def test_an_intact_one_is_equal_and_nothing_is_committed_to_find_out(rendered_host: Host) -> None:
    generation = rendered_host.generation()
    assert lines_of(rendered_host.delta(*EVERYTHING)) == []
    assert rendered_host.generation() == generation


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_seen_and_repaired_and_noted(rendered_host: Host, damage: str) -> None:
    host = rendered_host
    for chain in CHAINS:
        host.nft(DAMAGE[damage].format(chain))
        assert lines_of(host.delta(*EVERYTHING)) == [f"~ ip chains {chain}"], chain
        assert host.apply(*EVERYTHING).tables == ()
        assert lines_of(host.delta(*EVERYTHING)) == []
        # From now on it is known what the kernel made of it.
        table = host.read().tables[LAYOUTS[Family.IPV4]]
        assert table.fingerprints[chain].loaded_as == table.listed_as[chain] != ""
        host.nft(DAMAGE[damage].format(chain))
        assert lines_of(host.delta(*EVERYTHING)) == [f"~ ip chains {chain}"], chain
        host.apply(*EVERYTHING)


@pytest.mark.parametrize(
    "declaration",
    [
        'set hairpin {{ {}; size 512; comment "mine"; }}',
        "set hairpin {{ typeof ip ttl . ip ttl; size 512; }}",
        "set hairpin {{ {}; policy memory; }}",
    ],
)
@pytest.mark.parametrize("by", ["nft", "rulegen"])
def test_a_set_that_is_declared_otherwise_makes_the_table_anew(host: Host, declaration: str, by: str) -> None:
    if by == "nft":
        host.nft(rendered(compiled(EVERYTHING)))
    else:
        host.apply(*EVERYTHING)
    declared = (
        declaration.format("typeof @nh,120,8 . @nh,120,8").replace("{ ", "{\n").replace("; ", "\n").replace(";", "\n")
    )
    postrouting = host.run("nft", "list", "chain", "ip", "rulegen", "translated").stdout
    elements = host.run("nft", "list", "set", "ip", "rulegen", "hairpin").stdout.partition("elements = ")[2]
    host.nft(
        "flush chain ip rulegen translated\ndelete set ip rulegen hairpin\n"
        f"table ip rulegen {{\n{declared}\n}}\n"
        f"add element ip rulegen hairpin {elements.partition('}')[0]}}}\n{postrouting}"
    )
    before = host.read()
    host.apply(*EVERYTHING)
    assert lines_of(host.delta(*EVERYTHING)) == []
    after = host.read().tables[LAYOUTS[Family.IPV4]]
    assert (after.schema, after.declared_as) != (before.tables[LAYOUTS[Family.IPV4]].schema, "")
    assert after.is_declared
    assert 'comment "mine"' not in host.nft("list set ip rulegen hairpin")


FOREIGN = """
add set ip rulegen intruder { type ipv4_addr; }
add map ip rulegen its-map { type mark : verdict; elements = { 1 : goto lb-3, 2 : drop }; }
add counter ip rulegen its-counter
add quota ip rulegen its-quota { over 25 mbytes }
add limit ip rulegen its-limit { rate 400/minute }
add map ip rulegen its-objects { type ipv4_addr : counter; elements = { 10.0.0.1 : "its-counter" }; }
add chain ip rulegen its-chain { type nat hook prerouting priority 3; policy accept; }
add chain ip rulegen its-other-chain
add rule ip rulegen its-chain ip saddr @intruder counter name "its-counter" drop
add rule ip rulegen its-chain ip saddr { 10.0.0.3, 10.0.0.4 } quota name "its-quota" jump its-other-chain
add rule ip rulegen its-chain meta mark vmap @its-map
insert rule ip rulegen frontend limit name "its-limit" ip saddr @intruder drop
add element ip rulegen intruder { 10.0.0.1 }
"""


@pytest.mark.parametrize("by", ["nft", "rulegen"])
def test_what_others_have_put_into_the_table_is_seen_and_goes(host: Host, by: str) -> None:
    if by == "nft":
        host.nft(rendered(compiled(EVERYTHING)))
    else:
        host.apply(*EVERYTHING)
    before = sorted(host.run("nft", "--terse", "list", "ruleset").stdout.splitlines())
    host.nft(FOREIGN)
    things = ["counter its-counter", "limit its-limit", "map its-map", "map its-objects", "quota its-quota"]
    assert lines_of(host.delta(*EVERYTHING)) == [
        "- ip chains its-chain",
        "- ip chains its-other-chain",
        *(f"- ip foreign {thing}" for thing in [*things, "set intruder"]),
        "~ ip chains frontend",
    ]
    assert host.apply(*EVERYTHING).tables == ()
    assert lines_of(host.delta(*EVERYTHING)) == []
    assert sorted(host.run("nft", "--terse", "list", "ruleset").stdout.splitlines()) == before


def test_the_commands_and_the_agent_see_it(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    path.write_bytes(manifest(*EVERYTHING))
    ground = Ground(host.namespace, tmp_path)
    source = ("-f", str(path), "--node", "node-1", "--config", ground.config)
    host.nft(ground.run("render", *source).stdout)
    assert ground.run("diff", *source).stdout == "0 added, 0 changed, 0 removed\n"
    assert "nothing to change" in ground.run("apply", *source).stdout
    host.nft("insert rule ip rulegen frontend drop\nadd counter ip6 rulegen its-counter")
    explained = ground.run("explain", "default/far", *source, "--live").stdout
    assert "~ ip chain frontend" in explained
    assert "its-counter" in explained
    done = ground.run("diff", *source)
    assert done.returncode == 1, done.stderr
    assert "~ ip chain frontend" in done.stdout
    assert "- ip6 foreign counter its-counter" in done.stdout
    save(ground.manifests / "cluster.json", *EVERYTHING)
    with ground.agent() as agent:
        agent.wait_for("sync mode=full", 20)
        assert ground.run("diff", *source).stdout == "0 added, 0 changed, 0 removed\n"
        for damage in ("insert rule ip rulegen postrouting drop", "add set ip rulegen intruder { type ipv4_addr; }"):
            host.nft(damage)
            wait_until(lambda: ground.run("diff", *source).returncode == 0, 10)
        agent.wait_for("repaired: - ip foreign set intruder")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text[: len(text) // 2], "was cut off"),
        (lambda text: text[: text.index("add table ip6")], "was cut off"),
        (lambda text: text[: text.rindex("add element")], "was cut off"),
        (lambda text: text[:-1], "was cut off"),
        (lambda text: text + "add rule ip rulegen frontend drop\n", "expected nothing after"),
        (lambda text: text[: text.index("\ntable ip ")], "found no table of rulegen"),
        (lambda _: "", "found no table of rulegen"),
    ],
)
def test_a_file_that_is_cut_off_is_no_ruleset(tmp_path: Path, change: Callable[[str], str], expected: str) -> None:
    path = tmp_path / "cluster.json"
    path.write_bytes(manifest(*EVERYTHING))
    file = tmp_path / "rules.nft"
    file.write_text(change(rendered(compiled(EVERYTHING))))
    done = _diff_against(path, file)
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]  # others are warnings about the cluster
    assert line.startswith(f"rulegen: {file}")
    assert expected in line


def _diff_against(path: Path, file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RULEGEN, "diff", "-f", str(path), "--node", "node-1", "--against", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", ["ruleset", "table ip rulegen", "table ip other"])
def test_a_listing_is_no_rendering(rendered_host: Host, tmp_path: Path, command: str) -> None:
    rendered_host.nft("add table ip other")
    path = tmp_path / "cluster.json"
    path.write_bytes(manifest(*EVERYTHING))
    file = tmp_path / "rules.nft"
    file.write_text(rendered_host.run("nft", "list", *command.split()).stdout)
    done = _diff_against(path, file)
    assert done.returncode == 2
    assert "looks like a listing of `nft list`" in done.stderr
