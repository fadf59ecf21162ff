"""The agent where iptables does not do as it should: tables it cannot list, programs that hang, vanish, print oddly."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from rulegen.iptables.binaries import Variant
from tests.agent.running import Agent, Playground, save, wait_until, web
from tests.agent.test_on_iptables import IptablesGround
from tests.iptables.host import Host
from tests.nftables.host import host_or_skip
from tests.patience import patience
from tests.wrapped_programs import Wrap

pytestmark = pytest.mark.kernel

VMAP = ["ct", "state", "vmap", "{ established : accept, related : accept, invalid : drop }"]


@pytest.fixture
def forever() -> Iterator[str]:
    """Seconds to sleep by which the program can be told from all others; at the end there is none left."""
    seconds = f"86400.{os.getpid()}{time.monotonic_ns()}"
    yield seconds
    for process in left_over(seconds):
        os.kill(process, signal.SIGKILL)


@pytest.fixture
def ground(variant: Variant, tmp_path: Path) -> Iterator[IptablesGround]:
    with Host(variant) as host:
        yield IptablesGround(host, tmp_path)


@pytest.fixture(params=Variant, ids=lambda variant: variant.value)
def variant(request: pytest.FixtureRequest) -> Variant:
    found: Variant = request.param
    return found


def stop(agent: Agent, forever: str = "nobody sleeps") -> None:
    """Within a second, whatever hangs, and nothing of what it started is left."""
    agent.process.send_signal(signal.SIGTERM)
    assert agent.process.wait(patience(1.0)) == 0
    assert "Traceback" not in agent.log
    wait_until(lambda: not left_over(forever), 5.0)


def left_over(seconds: str) -> list[int]:
    """The processes that sleep so long, or would."""
    found = []
    # No pattern of paths: it fails when a process ends while it looks.
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if seconds.encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


def hidden_jumps(host: Host) -> int:
    with host.namespace.entered():
        text = subprocess.run(["nft", "list", "chain", "ip", "filter", "FORWARD"], capture_output=True, check=True)
    return text.stdout.count(b"jump RULEGEN-")


@pytest.mark.parametrize("variant", [Variant.NFT], indirect=True, ids=["nft"])
def test_a_table_that_iptables_cannot_list_gets_no_jump_twice_and_all_changes(ground: IptablesGround) -> None:
    with ground.namespace.entered():
        subprocess.run(["iptables-nft", "-A", "FORWARD", "-p", "udp", "-j", "ACCEPT"], check=True)
        subprocess.run(["nft", "add", "rule", "ip", "filter", "FORWARD", *VMAP], check=True)
    file = ground.manifests / "all.json"
    save(file, *web(1, 1))
    with ground.agent() as agent:
        ground.wait_for(web(1, 1), 45.0)
        placed = hidden_jumps(ground.host)
        assert placed == 2
        # At each look something is repaired, so looks can be counted.
        for number in range(1, 4):
            ground.host.run("-t nat -F RULEGEN-VIPS")
            wait_until(lambda count=number: agent.log.count(" entries that were changed by") == count, 60.0)  # type: ignore[misc]
            assert hidden_jumps(ground.host) == placed
        save(file, *web(1, 1), *web(2, 2))
        ground.wait_for([*web(1, 1), *web(2, 2)], 45.0)
        assert hidden_jumps(ground.host) == placed
        stop(agent)
    done = ground.run("cleanup")
    assert (done.returncode, done.stderr) == (0, "")
    assert "removed iptables-nft ip filter" in done.stdout
    assert hidden_jumps(ground.host) == 0
    assert ground.run("cleanup").stdout == "nothing to remove\n"


@pytest.mark.parametrize("what", ["save", "restore"])
def test_a_program_that_hangs_at_the_start_does_not_keep_the_agent(
    ground: IptablesGround, wrap: Wrap, variant: Variant, forever: str, what: str
) -> None:
    ground.host.run("-A INPUT -p udp -j ACCEPT")  # there are tables to list
    # A child of its own holds the pipes.
    wrap(f"iptables-{variant.value}-{what}", f"echo '*nat'; sleep {forever}; exit 0")
    save(ground.manifests / "all.json", *web(1, 1))
    with ground.agent() as agent:
        wait_until(lambda: bool(left_over(forever)), 30.0)
        stop(agent, forever)


@pytest.mark.parametrize("what", ["save", "restore"])
def test_one_that_hangs_later_does_not_either(
    ground: IptablesGround, wrap: Wrap, variant: Variant, forever: str, what: str
) -> None:
    file = ground.manifests / "all.json"
    save(file, *web(1, 1))
    with ground.agent() as agent:
        ground.wait_for(web(1, 1), 45.0)
        wrap(f"iptables-{variant.value}-{what}", f"trap '' TERM INT HUP; sleep {forever} & wait; wait; sleep {forever}")
        save(file, *web(1, 2))
        wait_until(lambda: bool(left_over(forever)), 60.0)
        # Somebody is told what is being waited for.
        agent.wait_for(f"iptables-{variant.value}-{what} has not ended for 10 s: it is killed after", 30.0)
        stop(agent, forever)


def test_one_that_fails_or_vanishes_is_one_line_and_tried_again(
    ground: IptablesGround, wrap: Wrap, variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, folder = ground.manifests / "all.json", tmp_path / "bin"
    save(file, *web(1, 1))
    program = f"iptables-{variant.value}-restore"
    for family in ("iptables", "ip6tables"):
        for what in ("save", "restore"):
            wrap(f"{family}-{variant.value}-{what}", 'exec $REAL "$@"')
    whole = (folder / program).read_text()
    monkeypatch.setenv("PATH", str(folder))
    with ground.agent() as agent:
        agent.wait_for("sync mode=full", 45.0)
        for number, (script, message) in enumerate(
            [
                ("kill -SEGV $$", f"{program} was killed by SIGSEGV"),
                ("printf 'bad \\033[31m\\377\\n' >&2; exit 1", r"bad \x1b[31m\xff"),
                ("", f"{program} is not installed: "),
            ],
            start=2,
        ):
            new = folder / ".new"
            new.write_text(f"#!/bin/sh\n{script}\n")
            new.chmod(0o755)
            new.rename(folder / program) if script else (folder / program).unlink()
            save(file, *web(1, number))
            wait_until(lambda text=message: text in agent.log, 30.0)  # type: ignore[misc]
            line = next(line for line in agent.log.splitlines() if message in line)
            assert "sync failed, next attempt in" in line
            assert line.isprintable()
            new.write_text(whole)
            new.chmod(0o755)
            new.rename(folder / program)
            wait_until(lambda count=number: agent.log.count(" sync mode=full") == count, 45.0)  # type: ignore[misc]
        stop(agent)


@pytest.mark.parametrize("what", ["hangs", "is cut off", "prints no UTF-8", "is killed"])
def test_what_iptables_does_is_no_matter_of_the_agent_on_nftables(
    wrap: Wrap, variant: Variant, forever: str, tmp_path: Path, what: str
) -> None:
    with host_or_skip() as host:
        ground = Playground(host, tmp_path)
        left = Host.__new__(Host)  # the same kernel, seen through iptables
        left.variant, left.namespace = variant, host.namespace
        with host.namespace.entered():
            from rulegen.iptables.kernel import Kernel

            left.kernel = Kernel(variant, wait=5)
        left.apply(*web(1, 1))
        program = f"iptables-{variant.value}"
        with host.namespace.entered():
            comment = [b"-m", b"comment", b"--comment", b"caf\xe9\xff"]
            subprocess.run([program, "-t", "nat", "-A", "PREROUTING", *comment, "-j", "ACCEPT"], check=True)
        scripts = {
            "hangs": f"sleep {forever}",
            "is cut off": "$REAL | head -c 700",
            "is killed": "kill -9 $$",
            "prints no UTF-8": "exec $REAL",
        }
        wrap(f"{program}-save", scripts[what])
        save(ground.manifests / "all.json", *web(1, 1))
        with ground.agent() as agent:
            ground.wait_for(web(1, 1), 45.0)
            if what == "hangs":
                wait_until(lambda: bool(left_over(forever)), 30.0)
            elif what == "prints no UTF-8":
                agent.wait_for(f"removed {program} ip nat", 30.0)
                assert not left.read()
            else:
                agent.wait_for("rules of an earlier program may be left: ", 30.0)
                # Those of IPv6 are gone.
                agent.wait_for(f"removed {program} ip6 nat", 30.0)
            save(ground.manifests / "all.json", *web(1, 2))
            ground.wait_for(web(1, 2), 45.0)
            stop(agent, forever)
