"""The agent as a process: it follows files, repairs what others break, ends cleanly, and is alone."""

from __future__ import annotations

import random
import signal
import time
from itertools import chain
from pathlib import Path

import pytest

from rulegen.kube.objects import Service
from tests.agent.running import Playground, save, wait_until, web
from tests.apiserver import ApiServer
from tests.builders import Item, node
from tests.patience import patience

pytestmark = pytest.mark.kernel


def test_a_restart_with_an_unchanged_cluster_applies_nothing(playground: Playground) -> None:
    items = [*web(1, 1, 2, 3), *web(2, 4)]
    save(playground.manifests / "all.json", *items)
    with playground.agent() as agent:
        playground.wait_for(items)
        agent.wait_for("sync mode=full services=2")
        playground.settled_generation()
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(patience(15)) == 0
    assert playground.differences(*items) == []
    generation = playground.host.generation()
    with playground.agent() as agent:
        agent.wait_for("sync mode=full")
        assert "added=0 changed=0 removed=0" in agent.log
        assert playground.host.generation() == generation + 1  # its lock


def test_saved_files_are_followed(playground: Playground) -> None:
    first, second = playground.manifests / "1.json", playground.manifests / "2.json"
    save(first, *web(1, 1, 2))
    with playground.agent() as agent:
        playground.wait_for(web(1, 1, 2))
        save(second, *web(2, 3))
        playground.wait_for([*web(1, 1, 2), *web(2, 3)], 10.0)
        save(first, *web(1, 1, 9))
        playground.wait_for([*web(1, 1, 9), *web(2, 3)], 10.0)
        second.unlink()
        playground.wait_for(web(1, 1, 9), 10.0)
        assert agent.modes(4) == ["full", *["partial"] * 3]


def test_a_single_file_that_is_replaced_is_followed(playground: Playground) -> None:
    file = playground.manifests / "cluster.json"
    save(file, *web(1, 1))
    with playground.agent("-f", str(file)):
        playground.wait_for(web(1, 1))
        for host in (2, 3):
            save(file, *web(1, host))
            playground.wait_for(web(1, host), 10.0)


def test_a_mounted_config_map_that_swaps_its_link_is_followed(playground: Playground) -> None:
    folder = playground.manifests
    for version, host in (("..2001", 1), ("..2002", 2)):
        (folder / version).mkdir()
        save(folder / version / "cluster.json", *web(1, host))
    (folder / "..data").symlink_to("..2001")
    (folder / "cluster.json").symlink_to("..data/cluster.json")
    with playground.agent():
        playground.wait_for(web(1, 1))
        (folder / "..data_tmp").symlink_to("..2002")
        (folder / "..data_tmp").rename(folder / "..data")
        playground.wait_for(web(1, 2), 10.0)


def test_what_cannot_be_used_changes_nothing_and_holds_nobody_up(playground: Playground) -> None:
    first, second = playground.manifests / "1.json", playground.manifests / "2.json"
    save(first, *web(1, 1))
    save(second, *web(2, 2))
    with playground.agent() as agent:
        playground.wait_for([*web(1, 1), *web(2, 2)])
        text = first.read_bytes()
        assert b'"port":80}' in text
        first.write_bytes(text.replace(b'"port":80}', b'"port":80000}'))
        agent.wait_for("Service default/web-1")
        first.write_bytes(text[: len(text) // 2])
        agent.wait_for("1.json")
        first.write_bytes(b"")
        agent.wait_for("is empty")
        save(second, *web(2, 3))
        playground.wait_for([*web(1, 1), *web(2, 3)], 10.0)
        save(first, *web(1, 5))
        playground.wait_for([*web(1, 5), *web(2, 3)], 10.0)


def test_a_file_that_is_broken_at_the_start_takes_nothing_away(playground: Playground) -> None:
    file = playground.manifests / "all.json"
    save(file, *web(1, 1))
    save(playground.manifests / "other.json", *web(2, 1))
    items = [*web(1, 1), *web(2, 1)]
    playground.host.apply(*items)
    text = file.read_bytes()
    file.write_bytes(text[:-10])
    with playground.agent() as agent:
        agent.wait_for("all.json")
        assert agent.syncs() == []
        assert playground.differences(*items) == []
        file.write_bytes(text)
        agent.wait_for("added=0 changed=0 removed=0")


def test_a_service_that_cannot_be_used_at_the_start_keeps_what_is_live(playground: Playground) -> None:
    good, bad = playground.manifests / "1.json", playground.manifests / "2.json"
    save(good, *web(1, 1, 2))
    save(bad, *web(2, 3, 4, 5))
    items = [*web(1, 1, 2), *web(2, 3, 4, 5)]
    playground.host.apply(*items, *web(3, 7))
    text = bad.read_bytes()
    bad.write_bytes(text.replace(b'"port":80}', b'"port":80000}'))
    with playground.agent() as agent:
        agent.wait_for("sync mode=full")
        # What else web-3 had goes; what web-2 might need as well stays until it is known.
        left = playground.differences(*items)
        assert {line.split()[2] for line in left} <= {"hairpin", "cluster-ips"}
        assert {line[0] for line in left} == {"-"}
        save(good, *web(1, 9))
        items = [*web(1, 9), *web(2, 3, 4, 5)]
        wait_until(lambda: {line[0] for line in playground.differences(*items)} == {"-"})
        bad.write_bytes(text)
        playground.wait_for(items)
        bad.unlink()
        playground.wait_for(web(1, 9))
    with playground.agent() as agent:
        agent.wait_for("added=0 changed=0 removed=0")


_DRIFT = {
    "element": "delete element ip rulegen frontends { 10.96.0.2 . tcp . 80 }",
    "stray element": "add element ip rulegen cluster-ips { 10.96.9.9 }",
    "emptied map": "flush map ip rulegen endpoints",
    "rule": "flush chain ip rulegen frontend",
    "strange rule": "insert rule ip rulegen postrouting accept",
    "table": "delete table ip rulegen",
    "everything": "flush ruleset",
}


def test_drift_is_repaired_within_a_second(playground: Playground) -> None:
    items = [*web(1, 1, 2, 3), *web(2, 4)]
    save(playground.manifests / "all.json", *items)
    with playground.agent() as agent:
        agent.wait_for("sync mode=full")
        for number, (kind, commands) in enumerate(_DRIFT.items(), start=1):
            time.sleep(0.1)
            playground.host.nft(commands)
            seconds = playground.wait_for(items, 10.0)
            assert seconds < patience(5.0), kind
            wait_until(lambda count=number: agent.log.count("changed by nft (process") == count, 10.0)  # type: ignore[misc]
        assert "repaired: + ip frontends 10.96.0.2 . tcp . 80" in agent.log


def test_other_tables_and_own_changes_are_no_drift(playground: Playground) -> None:
    file = playground.manifests / "all.json"
    save(file, *web(1, 1))
    with playground.agent() as agent:
        agent.wait_for("sync mode=full")
        for host in range(2, 6):
            playground.host.nft(f"add table ip other-{host}")
            save(file, *web(1, *range(1, host + 1)))
            playground.wait_for(web(1, *range(1, host + 1)), 10.0)
        assert agent.modes(5) == ["full", *["partial"] * 4]
        assert "repaired" not in agent.log


def test_a_first_load_by_nft_is_no_drift(playground: Playground) -> None:
    save(playground.manifests / "all.json", *chain.from_iterable(web(number, 1) for number in range(400)))
    with playground.agent() as agent:
        agent.wait_for("sync mode=full", 10.0)
        save(playground.manifests / "all.json", *chain.from_iterable(web(number, 2) for number in range(400)))
        wait_until(lambda: len(agent.syncs()) == 2, 10.0)
        assert "mode=partial" in agent.syncs()[1]


def test_there_is_no_war(playground: Playground) -> None:
    save(playground.manifests / "all.json", *web(1, 1))
    with playground.agent() as agent:
        agent.wait_for("sync mode=full")
        for _ in range(100):
            playground.host.nft("flush ruleset")
            # A load that is disturbed is a failure, after which the agent waits anyway.
            wait_until(
                lambda: "hook prerouting" in playground.host.nft("list ruleset") or "again and" in agent.log, 10.0
            )
            if "again and again" in agent.log:
                break
        for _ in range(5):
            playground.host.nft("flush ruleset")
        agent.wait_for("again and again")
        assert agent.log.count("repaired ") <= 11


def test_a_signal_ends_it_even_in_the_middle(playground: Playground) -> None:
    items = list(chain.from_iterable(web(number, 1, 2, 3, 4) for number in range(2000)))
    save(playground.manifests / "all.json", *items)
    with playground.agent() as agent:
        agent.wait_for("following")
        time.sleep(0.3)
        agent.process.send_signal(signal.SIGTERM)
        # A second on a quiet machine; this one may have other work.
        assert agent.process.wait(patience(15)) == 0
        assert "Traceback" not in agent.log


def test_killed_in_the_middle_the_next_one_makes_it_right(playground: Playground) -> None:
    file = playground.manifests / "all.json"
    chance = random.Random(5)
    items: list[Item] = []
    for round_ in range(6):
        items = list(chain.from_iterable(web(number, *range(1, 3 + (number + round_) % 5)) for number in range(300)))
        save(file, *items)
        with playground.agent() as agent:
            agent.wait_for("following")
            time.sleep(chance.uniform(0.0, 0.4))
            agent.process.kill()
    with playground.agent() as agent:
        playground.wait_for(items, 10.0)
        wait_until(lambda: len(agent.syncs()) == 1)


def test_a_second_agent_waits_and_takes_over_when_the_first_crashes(playground: Playground) -> None:
    save(playground.manifests / "all.json", *web(1, 1))
    with playground.agent() as first:
        first.wait_for("sync mode=full")
        with playground.agent() as second, playground.agent() as third:
            for waiting in (second, third):
                waiting.wait_for(f"another agent runs in this network namespace (process {first.process.pid})")
            third.process.send_signal(signal.SIGTERM)
            assert third.process.wait(patience(15)) == 0
            assert second.syncs() == []
            first.process.kill()
            second.wait_for("added=0 changed=0 removed=0")


def test_apply_and_cleanup_refuse_while_an_agent_runs(playground: Playground) -> None:
    file = playground.manifests / "all.json"
    save(file, *web(1, 1))
    with playground.agent() as agent:
        agent.wait_for("sync mode=full")
        for command in (["apply", "-f", str(file)], ["cleanup"]):
            refused = playground.run(*command)
            assert refused.returncode == 2
            assert f"an agent runs on this node (process {agent.process.pid})" in refused.stderr
        assert playground.run("cleanup", "--force").returncode == 0
        playground.wait_for(web(1, 1), 10.0)
        agent.process.send_signal(signal.SIGTERM)
        agent.process.wait(patience(15))
    assert playground.run("cleanup").returncode == 0


def test_a_burst_comes_together_and_ends_equal(playground: Playground) -> None:
    playground.configure("nftables: {minSyncPeriod: 300ms}")
    file = playground.manifests / "all.json"
    items: list[Item] = []
    save(file, *chain.from_iterable(web(number, 1) for number in range(200)))
    with playground.agent() as agent:
        agent.wait_for("sync mode=full")
        before = len(agent.syncs())
        start = time.monotonic()
        for turn in range(10):  # of 200 changes
            items = list(chain.from_iterable(web(number, 2 + turn, 20 + number % 7) for number in range(200)))
            save(file, *items)
        playground.wait_for(items)
        assert len(agent.syncs()) - before <= 2 + (time.monotonic() - start) / 0.3


def test_a_dry_run_prints_what_it_would_change(playground: Playground) -> None:
    file = playground.manifests / "all.json"
    save(file, *web(1, 1))
    playground.host.apply(*web(1, 1))
    generation = playground.host.generation()
    with playground.agent("--dry-run", "-f", str(file)) as agent:
        agent.wait_for("sync mode=full")
        assert agent.printed == ""
        save(file, *web(1, 2))
        wait_until(lambda: agent.printed.count("\n") >= 1)
        assert "~ ip endpoints" in agent.printed
        assert "10.128.0.2 . 8080  # default/web-1" in agent.printed
    assert playground.host.generation() == generation


def test_the_api_server_is_followed(playground: Playground, tmp_path: Path) -> None:
    with playground.namespace.entered():
        server = ApiServer()
        server.start()
    try:
        server.put(*web(1, 1, 2), node())
        kubeconfig = server.kubeconfig(tmp_path / "kubeconfig")
        with playground.agent("--kubeconfig", kubeconfig) as agent:
            playground.wait_for([*web(1, 1, 2), node()])
            server.put(*web(1, 1, 3), *web(2, 4))
            playground.wait_for([*web(1, 1, 3), *web(2, 4), node()], 10.0)
            server.delete(Service, "web-2", "default")
            playground.wait_for([*web(1, 1, 3), node()], 10.0)
            agent.process.send_signal(signal.SIGTERM)
            assert agent.process.wait(patience(15)) == 0
    finally:
        server.close()
