"""An agent that enforces policies: pods that come and go, restarts, a policy that cannot be read, SIGKILL."""

from __future__ import annotations

import random
import subprocess

import pytest

from rulegen.kube.kinds import kind_of
from rulegen.kube.objects import ClusterNetworkPolicy, Namespace, NetworkPolicy, Pod
from tests.agent.running import Playground, wait_until
from tests.apiserver import ApiServer
from tests.apiserver.faults import Answer, ErrorEvent
from tests.policies.objects import Document, cluster_policy, namespace, node, pod, policy

pytestmark = pytest.mark.kernel

FEATURE = ("--feature", "network-policies")
TABLE = "ip rulegen-network-policies"
CLOSED = policy("shop/web", {"app": "web"}, ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}])


def web(number: int, **more: str) -> Document:
    return pod(f"shop/web-{number}", f"10.0.{number // 200}.{number % 200 + 1}", labels={"app": "web"}, **more)


def equal(playground: Playground, kubeconfig: str) -> bool:
    """Whether the kernel holds what the cluster means."""
    with_node = ("--node", "node-1", "--config", playground.config, *FEATURE)
    return playground.run("diff", "--kubeconfig", kubeconfig, *with_node).returncode == 0


def fill(api_server: ApiServer, pods: int = 5) -> None:
    for document in (node("node-1", "192.168.0.1"), namespace("shop"), CLOSED, *map(web, range(pods))):
        api_server.put(document)


def test_what_comes_and_goes_is_followed(playground: Playground, api_server: ApiServer, kubeconfig: str) -> None:
    fill(api_server)
    with playground.agent("--kubeconfig", kubeconfig, *FEATURE) as agent:
        wait_until(lambda: equal(playground, kubeconfig), 20)
        # Those that have finished, or have the node's addresses, are not even asked for.
        api_server.put(pod("shop/job", "10.0.0.99", labels={"app": "web"}, phase="Succeeded"))
        api_server.put(pod("shop/host", "192.168.0.1", labels={"app": "web"}, host_network=True))
        drawn = random.Random(1)
        for number in range(200):
            chosen = drawn.randrange(60)
            api_server.put(web(chosen, node=drawn.choice(("node-1", "node-2"))))
            if number % 3 == 0 and chosen >= 5:
                api_server.delete(Pod, f"web-{chosen}", "shop")
        wait_until(lambda: equal(playground, kubeconfig), 20)
        listing = playground.host.nft(f"list table {TABLE}")
        assert "10.0.0.99" not in listing
        assert "192.168.0.1" not in listing
        api_server.delete(NetworkPolicy, "web", "shop")
        wait_until(lambda: "network-policies" not in playground.host.nft("list tables"), 10)
        assert agent.process.poll() is None


def test_a_poisonous_policy_isolates_and_stops_nobody(
    playground: Playground, api_server: ApiServer, kubeconfig: str
) -> None:
    fill(api_server)
    with playground.agent("--kubeconfig", kubeconfig, *FEATURE):
        wait_until(lambda: equal(playground, kubeconfig), 20)
        poison = policy("shop/poison", {"app": "db"})
        poison["spec"] = {"podSelector": {"matchLabels": {"app": 7}}, "ingress": [{"from": "everybody"}]}
        api_server.put(poison)
        api_server.put(pod("shop/db", "10.0.5.5", labels={"app": "db"}))
        wait_until(lambda: "10.0.5.5" in playground.host.nft(f"list map {TABLE} ingress-pods"), 10)
        api_server.put(web(7))
        wait_until(lambda: "10.0.0.8" in playground.host.nft(f"list map {TABLE} ingress-pods"), 10)


def test_a_policy_that_cannot_be_read_any_more_closes_while_nothing_else_happens(
    playground: Playground, api_server: ApiServer, kubeconfig: str
) -> None:
    opening = policy("shop/db", {"app": "db"}, ingress=[{}])
    api_server.put(opening, pod("shop/db", "10.0.5.5", labels={"app": "db"}))
    fill(api_server)

    def accepting() -> int:
        return playground.host.nft(f"list table {TABLE}").count(" accept\n")

    with playground.agent("--kubeconfig", kubeconfig, *FEATURE):
        wait_until(lambda: equal(playground, kubeconfig), 20)
        # So that no sync is to come for another reason.
        playground.settled_generation()
        before = accepting()
        api_server.put({**opening, "metadata": {**opening["metadata"], "labels": {"version": 7}}})
        wait_until(lambda: accepting() == before - 1, 10)


def test_an_agent_that_was_killed_goes_on(playground: Playground, api_server: ApiServer, kubeconfig: str) -> None:
    fill(api_server)
    drawn = random.Random(2)
    for _ in range(3):
        with playground.agent("--kubeconfig", kubeconfig, *FEATURE) as agent:
            wait_until(lambda: equal(playground, kubeconfig), 20)
            for _ in range(drawn.randrange(10, 60)):
                api_server.put(web(drawn.randrange(100)))
            agent.process.kill()
            agent.process.wait()
            # What it has left closes what it closed.
            assert "10.0.0.1" in playground.host.nft(f"list map {TABLE} ingress-pods")
        api_server.put(web(drawn.randrange(100)))


def test_on_iptables_sets_follow_and_outlive_a_killed_agent(
    playground: Playground, api_server: ApiServer, kubeconfig: str
) -> None:
    fill(api_server)
    drawn = random.Random(3)
    on_iptables = (*FEATURE, "--target", "iptables", "--iptables-variant", "nft")

    def is_equal() -> bool:
        with_node = ("--node", "node-1", "--config", playground.config, *on_iptables)
        return playground.run("diff", "--kubeconfig", kubeconfig, *with_node).returncode == 0

    def members() -> str:
        with playground.namespace.entered():
            return subprocess.run(["ipset", "save"], capture_output=True, text=True, check=True).stdout

    for _ in range(2):
        with playground.agent("--kubeconfig", kubeconfig, *on_iptables) as agent:
            wait_until(is_equal, 20)
            for number in range(60):
                chosen = drawn.randrange(5, 60)
                api_server.put(web(chosen, node=drawn.choice(("node-1", "node-2"))))
                if number % 3 == 0:
                    api_server.delete(Pod, f"web-{chosen}", "shop")
            wait_until(is_equal, 20)
            api_server.put(web(drawn.randrange(5, 60)))
            agent.process.kill()
            agent.process.wait()
            assert " 10.0.0.1\n" in members()
        api_server.put(web(drawn.randrange(100)))


def test_switched_off_nothing_of_it_is_asked_for(
    playground: Playground, api_server: ApiServer, kubeconfig: str
) -> None:
    fill(api_server)
    with playground.agent("--kubeconfig", kubeconfig) as agent:
        agent.wait_for(" sync mode=")
        assert api_server.count(Pod, "list") == 0
        assert "network-policies" not in playground.host.nft("list tables")


def test_what_cannot_be_asked_or_read_at_a_start_opens_nothing(
    playground: Playground, api_server: ApiServer, kubeconfig: str
) -> None:
    """Rules of the agent before stay until everything is known, and of what cannot be read as long as that lasts."""
    crd = kind_of(ClusterNetworkPolicy).paths[0]
    absent = api_server.served.pop(crd)
    out = policy("shop/out", {"app": "db"}, egress=[], policyTypes=["Egress"])
    api_server.put(out, pod("shop/db", "10.0.5.5", labels={"app": "db"}))
    fill(api_server)
    isolated = ("10.0.0.1", "10.0.0.4", "10.0.5.5")

    def is_closed(*addresses: str) -> bool:
        maps = [playground.host.nft(f"list map {TABLE} {name}") for name in ("ingress-pods", "egress-pods")]
        return all(f"{address} " in "".join(maps) for address in addresses)

    with playground.agent("--kubeconfig", kubeconfig, *FEATURE):
        wait_until(lambda: equal(playground, kubeconfig), 20)
    # What is wrong with these: a label that is a number, rules that are none. An address that is nobody's any more.
    broken = web(3)
    broken["metadata"]["labels"] = {"app": 7}
    api_server.put(broken, {**out, "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "egress": "none"}})
    refused = Answer(403, "Forbidden")
    for kind in (Pod, NetworkPolicy, Namespace):
        api_server.inject(kind, "list", refused, refused)
    with playground.agent("--kubeconfig", kubeconfig, *FEATURE) as agent:
        agent.wait_for("not following ", 20)
        assert is_closed(*isolated)
        agent.wait_for(" sync mode=", 40)
        assert is_closed(*isolated)
        # Watches that end, with a server that has forgotten what came before.
        api_server.served[crd] = absent
        for kind in (Pod, NetworkPolicy):
            api_server.disturb(kind, ErrorEvent(410, "Expired"))
        api_server.delete(Pod, "web-1", "shop")
        api_server.put(web(8), web(3))
        api_server.store.compact()
        wait_until(lambda: is_closed("10.0.0.9") and not is_closed("10.0.0.2"), 20)
        # That of the policy that is still broken, too: it isolates whom it may be about.
        assert is_closed(*isolated)
        api_server.put(out)
        wait_until(lambda: equal(playground, kubeconfig), 20)
        assert "Traceback" not in agent.log


def test_cluster_policies_that_are_denied_at_a_start_stay_in_force(
    playground: Playground, api_server: ApiServer, kubeconfig: str
) -> None:
    """As by a server that is new and does not know its roles yet."""
    fill(api_server)
    api_server.put(cluster_policy("closed", ingress=[{"action": "Deny", "from": [{"namespaces": {}}]}]))
    api_server.put(pod("shop/db", "10.0.5.5", labels={"app": "db"}))

    def is_closed() -> bool:
        return "10.0.5.5 " in playground.host.nft(f"list map {TABLE} ingress-pods")

    with playground.agent("--kubeconfig", kubeconfig, *FEATURE):
        wait_until(lambda: equal(playground, kubeconfig), 20)
    assert is_closed()
    api_server.inject(ClusterNetworkPolicy, "list", Answer(403, "Forbidden"), Answer(403, "Forbidden"))
    with playground.agent("--kubeconfig", kubeconfig, *FEATURE) as agent:
        agent.wait_for(" sync mode=", 20)
        assert "not following " in agent.log
        assert is_closed()
        wait_until(lambda: equal(playground, kubeconfig), 20)
