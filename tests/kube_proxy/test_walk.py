"""From kube-proxy to rulegen and back, as docs/deploy.md has it: connections are made all the time, and none fails."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from rulegen.kube_proxy.presence import look
from tests.agent.running import RULEGEN, Agent, wait_until
from tests.kube_proxy.stand_in import MODES, running
from tests.lab import Fate, Lab
from tests.lab.fixtures import MakeLab
from tests.patience import patience
from tests.switching import OBJECTS, Node

pytestmark = pytest.mark.kernel

TARGETS = {
    "nftables": ("--target", "nftables"),
    "iptables-nft": ("--target", "iptables", "--iptables-variant", "nft"),
    "iptables-legacy": ("--target", "iptables", "--iptables-variant", "legacy"),
}
# The agent as the DaemonSet runs it: without a look at other processes. The propagation of a chroot's root, which is no
# mount, cannot be changed.
POD = ("unshare", "--propagation", "unchanged", "--pid", "--fork", "--mount-proc", "--kill-child")
IN_FORCE = "sync mode=full"
SECONDS = 10.0


class Place(SimpleNamespace):
    """A node, with files of a test's own."""

    node: Node
    lab: Lab
    folder: Path
    manifests: Path

    @contextmanager
    def agent(self, target: str, *wrapper: str) -> Iterator[Agent]:
        folder = self.folder / f"agent-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        command = [*wrapper, RULEGEN, "agent", "--node", "node-1", "-f", str(self.manifests), *TARGETS[target]]
        with (folder / "log").open("wb") as log, self.lab.entered():
            process = subprocess.Popen(command, stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        with process:
            try:
                yield Agent(process, folder)
            finally:
                process.kill()

    def has(self, mode: str) -> bool:
        """Whether kube-proxy's rules are there."""
        command = ["nft", "list", "tables"] if mode == "nftables" else [f"{mode}-save"]
        word = "table ip kube-proxy" if mode == "nftables" else "KUBE-SERVICES"
        with self.lab.entered():
            return word in subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def deliver_all_during(self, *steps: object) -> None:
        def work() -> None:
            for step in steps:
                assert callable(step)
                step()

        assert set(self.node.fates_during(work)) == {Fate.DELIVERED}


@pytest.fixture
def place(make_lab: MakeLab, tmp_path: Path) -> Place:
    manifests = tmp_path / "cluster.yaml"
    manifests.write_text(OBJECTS)
    lab = make_lab()
    return Place(node=Node(lab, manifests), lab=lab, folder=tmp_path, manifests=manifests)


def _stop(agent: Agent) -> None:
    agent.process.send_signal(signal.SIGTERM)
    assert agent.process.wait(patience(SECONDS)) == 0


def _wait_until_gone(place: Place, agent: Agent, mode: str) -> None:
    try:
        wait_until(lambda: not place.has(mode), SECONDS)
    except AssertionError:
        raise AssertionError(f"kube-proxy's rules are there; the log:\n{agent.log}") from None


def _sees_all(place: Place) -> bool:
    with place.lab.entered():
        return not look().unseen


@pytest.mark.parametrize(
    ("mode", "target"),
    [*((mode, "nftables") for mode in MODES), ("nftables", "iptables-legacy"), ("iptables-nft", "iptables-nft")],
)
def test_there_and_back(place: Place, mode: str, target: str) -> None:
    with ExitStack() as running_now:
        before = running_now.enter_context(running(place.lab, place.folder, mode))
        agent = running_now.enter_context(place.agent(target))

        def there() -> None:
            agent.wait_for(IN_FORCE, SECONDS)
            agent.wait_for("kube-proxy runs on this node", SECONDS)
            assert place.has(mode)
            before.end()
            if _sees_all(place):
                _wait_until_gone(place, agent, mode)
            else:
                agent.wait_for("it may still run", SECONDS)
                place.node.rulegen("cleanup", "--kube-proxy")
            assert not place.has(mode)

        def back() -> None:
            _stop(agent)
            after = running_now.enter_context(running(place.lab, place.folder, mode))
            place.node.rulegen("cleanup")
            after.sync()

        place.deliver_all_during(there, back)
        assert place.has(mode)
        assert "RULEGEN" not in _ruleset(place.lab)
        assert "rulegen" not in _ruleset(place.lab)


def test_a_doubt_that_passes_does_not_keep_the_rules(place: Place) -> None:
    """Somebody has one of kube-proxy's ports when it is looked for, and soon not any more."""
    with (
        running(place.lab, place.folder, "nftables", ports=False) as before,
        place.lab.entered(),
        socket.create_server(("127.0.0.1", 10249)) as stranger,
        place.agent("nftables") as agent,
    ):
        agent.wait_for(IN_FORCE, SECONDS)
        agent.wait_for("kube-proxy runs on this node", SECONDS)
        before.end()
        agent.wait_for("it may still run", SECONDS)
        assert place.has("nftables")
        stranger.close()
        if _sees_all(place):
            _wait_until_gone(place, agent, "nftables")


@pytest.mark.parametrize("wrapper", [(), POD], ids=["host", "pod"])
@pytest.mark.parametrize("mode", MODES)
def test_a_new_agent_that_has_its_ports_leaves_a_running_one_its_rules(
    place: Place, mode: str, wrapper: Sequence[str]
) -> None:
    """kube-proxy comes back beside an agent, and that is replaced by another one before kube-proxy gets its ports."""
    with ExitStack() as running_now:
        first = running_now.enter_context(place.agent("nftables", *wrapper))
        first.wait_for(IN_FORCE, SECONDS)
        wait_until(lambda: "rulegen-arrival" in _ruleset(place.lab), SECONDS)

        def come_back() -> None:
            running_now.enter_context(running(place.lab, place.folder, mode, ports=False))
            first.process.kill()
            first.process.wait()
            second = running_now.enter_context(place.agent("nftables", *wrapper))
            second.wait_for("rules stay", SECONDS)
            assert second.log.count("rules stay") == 1
            if wrapper:
                second.wait_for("appeared or changed after rulegen came", SECONDS)
            else:
                second.wait_for("kube-proxy runs on this node (process ", SECONDS)
            second.process.kill()
            second.process.wait()
            place.node.rulegen("cleanup")

        place.deliver_all_during(come_back)
        assert place.has(mode)


@pytest.mark.parametrize("mode", MODES)
def test_in_a_pod_rules_that_nobody_has_touched_stay_too_until_a_person_says_so(place: Place, mode: str) -> None:
    with running(place.lab, place.folder, mode) as proxy, place.agent("nftables", *POD) as agent:
        agent.wait_for("kube-proxy runs on this node (it answers at http://127.0.0.1:102", SECONDS)
        proxy.end()
        agent.wait_for("it may still run, as from here the processes of others cannot be seen", SECONDS)
        assert place.has(mode)
        place.deliver_all_during(lambda: place.node.rulegen("cleanup", "--kube-proxy"))
        assert not place.has(mode)


@pytest.mark.parametrize("mode", ["nftables", "iptables-nft"])
def test_rules_that_are_written_again_just_as_they_were_are_somebodys(place: Place, mode: str) -> None:
    with (
        running(place.lab, place.folder, mode, name="unknown", ports=False) as proxy,
        running(place.lab, place.folder, "nftables", ports=False) as known,
        place.agent("nftables") as agent,
    ):
        agent.wait_for("kube-proxy runs on this node", SECONDS)
        before = _handles(place.lab)
        proxy.sync()
        wait_until(lambda: _handles(place.lab) != before, SECONDS)
        known.end()
        agent.wait_for("appeared or changed after rulegen came", SECONDS)
        assert place.has(mode)


def test_rules_of_an_agent_that_noted_nothing_leave_the_order_unknown(place: Place) -> None:
    place.node.apply("--target", "nftables")
    with running(place.lab, place.folder, "nftables") as proxy:
        proxy.end()
    with place.agent("nftables") as agent:
        agent.wait_for("they came before or after rulegen's, nobody has noted which", SECONDS)
        assert place.has("nftables")


def _ruleset(lab: Lab) -> str:
    with lab.entered():
        commands = [["nft", "list", "ruleset"], ["iptables-legacy-save"]]
        return "".join(subprocess.run(c, capture_output=True, text=True, check=True).stdout for c in commands)


def _handles(lab: Lab) -> str:
    with lab.entered():
        return subprocess.run(["nft", "-a", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
