"""The agent and network policies: pods come and go, the agent is killed, a policy is poisonous; never open, and equal.

One of the lab's nodes has an agent, which follows an API server by TLS; the other one forwards and enforces nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rulegen.kube.objects import Pod
from tests.agent.running import Ground, wait_until
from tests.apiserver import ApiServer
from tests.builders import CONFIGURATION
from tests.policies import catalogue, checks, cluster
from tests.policies import documents as d
from tests.policies.changes import Key, key_of
from tests.policies.cluster import NAMES, NAMESPACES, NODE_1, NODE_2, PROBES
from tests.policies.decoding import decode
from tests.policies.documents import Document
from tests.policies.fixtures import lab_or_skip
from tests.policies.kept import POLICIES, Kept
from tests.policies.lab import Lab
from tests.policies.oracle import Oracle
from tests.policies.traffic import Stable, Traffic

pytestmark = pytest.mark.kernel

CHANGES_A_SECOND = 200
SECONDS = 4.0
KILLS = 3
A_START_SECONDS = 1.5
# Nobody touches these, and so nothing that may pass between them changes.
QUIET = ("x/a", "x/b", "y/b", "z/b")
# Of other nodes, in the thousands of a large cluster.
CROWD = 100


@pytest.fixture
def lab() -> Iterator[Lab]:
    with lab_or_skip() as made:
        yield made


class Scene:
    """An API server and what it holds, and agents that follow it on a node of the lab. A context manager."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.objects: dict[Key, Document] = {}
        self._ground = Ground(lab.namespaces[NODE_1], folder, ["--feature", POLICIES])
        self._server = ApiServer()
        self._running = ExitStack()
        self._resources = ExitStack()
        with lab.entered(NODE_1):
            self._server.start()
        self._resources.callback(self._server.close)
        self._resources.push(self._running)
        self._kubeconfig = str(self._server.kubeconfig(folder / "kubeconfig"))

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def put(self, *documents: Document) -> None:
        for document in documents:
            self.objects[key_of(document)] = document
            self._server.store.put(document)

    def delete_pod(self, document: Document) -> None:
        del self.objects[key_of(document)]
        metadata = document["metadata"]
        self._server.store.delete(Pod, metadata["name"], metadata["namespace"])

    def start_agent(self) -> None:
        self.agent = self._running.enter_context(self._ground.agent("--kubeconfig", self._kubeconfig))

    def kill_agent(self) -> None:
        self._running.close()

    def differences(self) -> list[str]:
        return checks.differences(self.lab, list(self.objects.values()), at=NODE_1)

    def is_equal(self) -> bool:
        """Whether the rules are what the server's objects mean."""
        cluster_ = ("--kubeconfig", self._kubeconfig, "--node", NODE_1, "--config", self._ground.config)
        return self._ground.run("diff", *cluster_, "--feature", POLICIES).returncode == 0

    def wait_until_right(self) -> None:
        try:
            wait_until(lambda: not self.differences(), 15.0)
        except AssertionError:
            raise AssertionError("\n".join([*self.differences()[:10], self.agent.log[-3000:]])) from None


def _policies(chance: random.Random) -> list[Document]:
    return [
        *(catalogue.random_policy(chance, f"p-{number}") for number in range(8)),
        *(catalogue.random_cluster_policy(chance, f"c-{number}", number) for number in range(3)),
        *(d.policy(name, "ports", {}, ingress=[d.rule([d.peer({}, {})], [d.port(80)])]) for name in NAMESPACES),
    ]


def _restless(number: int, chance: random.Random) -> Document:
    """A pod of the other node that nobody sends to: it is an element of sets alone."""
    role = chance.choice(NAMES)
    addresses = f"10.128.1.{100 + number}", f"fd00:10:128:1::{100 + number:x}"
    labels = chance.choice([*cluster.POD_LABELS.values(), {}])
    return d.pod(chance.choice(NAMESPACES), f"crowd-{number}", addresses, NODE_2, labels, cluster.POD_PORTS[role])


def _churn(scene: Scene, chance: random.Random, seconds: float) -> None:
    """Pods come, go and are relabelled, those of the table that are not quiet among them."""
    crowd: dict[int, Document] = {}
    restless = [name for name in (pod.name for pod in cluster.PODS) if name not in QUIET]
    begun = time.monotonic()
    for count in range(int(seconds * CHANGES_A_SECOND)):
        number = chance.randrange(CROWD)
        if chance.random() < 0.1:
            pod = cluster.pod_document(chance.choice(restless))
            pod["metadata"]["labels"] = dict(chance.choice([*cluster.POD_LABELS.values(), {}]))
            scene.put(pod)
        elif number in crowd and chance.random() < 0.5:
            scene.delete_pod(crowd.pop(number))
        else:
            if number in crowd:
                scene.delete_pod(crowd.pop(number))
            crowd[number] = _restless(number, chance)
            scene.put(crowd[number])
        time.sleep(max(0.0, begun + count / CHANGES_A_SECOND - time.monotonic()))


def _quiet(objects: list[Document]) -> Stable:
    """What nobody's coming and going changes."""
    oracle = Oracle(objects)
    quiet = [
        probe
        for probe in PROBES
        if all(party.name in QUIET or not party.node for party in (probe.source, probe.destination))
    ]
    denied = {probe: oracle.denials(probe.flow, NODE_1) for probe in quiet}
    allowed = [probe for probe in quiet if not denied[probe]]
    return Stable(allowed, [probe for probe in quiet if denied[probe]], [])


@pytest.mark.part(6)
@pytest.mark.parametrize("seed", range(6))
def test_never_open_and_equal_at_the_end(seed: int, lab: Lab, tmp_path: Path) -> None:
    chance = random.Random(seed)
    with Scene(lab, tmp_path) as scene:
        scene.put(*cluster.objects(), *_policies(chance))
        scene.start_agent()
        scene.wait_until_right()
        stable = _quiet(list(scene.objects.values()))
        assert len(stable.forbidden) > 50
        assert len(stable.allowed) > 50
        traffic = Traffic(lab, stable, chance)
        with traffic.going_on():
            for number in range(KILLS):
                _churn(scene, chance, chance.uniform(0.5, 1.5) * SECONDS / KILLS)
                if number == 1:
                    scene.put(_poisonous())
                scene.kill_agent()
                # One does not come far: while it imports, reads, lists, compiles or applies.
                scene.start_agent()
                time.sleep(chance.uniform(0.0, A_START_SECONDS))
                scene.kill_agent()
                scene.start_agent()
            _churn(scene, chance, SECONDS / KILLS)
        assert not traffic.wrong, "\n".join(traffic.wrong[:12])
        scene.wait_until_right()
        # What packets show of nobody's is in force a little later, when the last agent has started among the changes.
        wait_until(scene.is_equal, 20.0)
        assert "Traceback" not in scene.agent.log
        scene.kill_agent()
        kept = Kept(lambda: lab.entered(NODE_1), CONFIGURATION, POLICIES)
        delta = kept.keep(decode(scene.objects.values())).delta
        kept.close()
        assert not delta, delta


def _poisonous() -> Document:
    """It is about no pod, if anybody can tell."""
    poison = d.policy("x", "poison", d.selector({"pod": "nobody"}))
    poison["spec"] |= {
        "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/99"}}], "ports": "all of them"}],
        "egress": 7,
    }
    return poison
