"""An agent that masquerades: Nodes and files that change, files that cannot be used, damage, SIGKILL, both targets."""

from __future__ import annotations

import re
import subprocess
import urllib.request
from pathlib import Path

import pytest

from rulegen.kube.objects import Node
from tests.agent.running import Ground, Playground, save, wait_until, web
from tests.apiserver import ApiServer
from tests.builders import node
from tests.patience import patience

pytestmark = pytest.mark.kernel

TABLE = "ip rulegen-egress-masquerade"
OWN = node("node-1", pod_cidrs=["10.244.1.0/24"])


def write(path: Path, text: str) -> None:
    """As a mounted ConfigMap changes: another file takes the name."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.rename(path)


def configure(ground: Ground, masq_file: Path, *lines: str) -> None:
    """Without a clusterCIDR, so that all depends on Nodes."""
    ground.configure(
        *lines,
        "---",
        "apiVersion: rulegen.io/v1alpha1",
        "kind: RulegenConfiguration",
        "features: [egress-masquerade]",
        f"egressMasquerade: {{configFile: {masq_file}}}",
    )
    text = Path(ground.config).read_text()
    Path(ground.config).write_text(re.sub(r"clusterCIDR: .*\n", "", text))


def elements(playground: Playground, name: str) -> set[str]:
    """What is in a set; nothing where there is no table."""
    if f"table {TABLE}" not in playground.host.nft("list tables"):
        return set()
    listing = playground.host.nft(f"list set {TABLE} {name}")
    return set(re.findall(r"[0-9.]+/[0-9]+", listing.partition("elements")[2]))


def metric(playground: Playground, side: str) -> float:
    with playground.namespace.entered():
        page = urllib.request.urlopen("http://127.0.0.1:10249/metrics", timeout=patience(5)).read().decode()
    (found,) = re.findall(rf'^rulegen_egress_ranges{{ip_family="IPv4",side="{side}"}} (\S+)$', page, re.MULTILINE)
    return float(found)


def test_nodes_and_the_file_are_followed(
    playground: Playground, api_server: ApiServer, kubeconfig: str, tmp_path: Path
) -> None:
    masq = tmp_path / "masq"
    masq.write_text("nonMasqueradeCIDRs: [10.0.0.0/8]\nresyncInterval: 60s\n")
    configure(playground, masq)
    # As a node is at its very beginning: it has no range of pods yet.
    api_server.put(node("node-1"), node("node-2", pod_cidrs=["100.64.2.0/24"]), *web(1, 1))
    with playground.agent("--kubeconfig", kubeconfig) as agent:
        agent.wait_for("Node node-1: egress-masquerade: no pod range is known", 15)
        agent.wait_for(" sync mode=full", 15)
        assert elements(playground, "pods") == set()
        # Whoever looks at the Node is told.
        wait_until(lambda: bool(api_server.events), 30)
        (event,) = api_server.events
        assert (event["regarding"]["kind"], event["regarding"]["name"]) == ("Node", "node-1")
        assert event["reason"] == "EgressNoPodRange"
        api_server.put(OWN)
        wait_until(lambda: elements(playground, "pods") == {"10.244.1.0/24"}, 10)
        assert elements(playground, "cluster") == {"10.244.1.0/24", "100.64.2.0/24"}
        assert elements(playground, "exempt") == {"10.0.0.0/8", "169.254.0.0/16"}
        # Another node, and one that goes.
        api_server.put(node("node-3", pod_cidrs=["100.64.3.0/24", "fd00:3::/64"]))
        wait_until(lambda: "100.64.3.0/24" in elements(playground, "cluster"), 10)
        api_server.delete(Node, "node-2")
        wait_until(lambda: elements(playground, "cluster") == {"10.244.1.0/24", "100.64.3.0/24"}, 10)
        wait_until(lambda: metric(playground, "cluster") == 2, 10)
        assert (metric(playground, "pods"), metric(playground, "exempt")) == (1, 2)
        # Damage of each kind is undone.
        playground.host.nft(f"delete element {TABLE} cluster {{ 100.64.3.0/24 }}")
        agent.wait_for("repaired: + ip rulegen-egress-masquerade cluster 100.64.3.0/24  # Node node-3", 10)
        playground.host.nft(f"flush chain {TABLE} postrouting")
        wait_until(lambda: "masquerade" in playground.host.nft(f"list chain {TABLE} postrouting"), 10)
        playground.host.nft(f"delete table {TABLE}")
        wait_until(lambda: elements(playground, "cluster") == {"10.244.1.0/24", "100.64.3.0/24"}, 10)
        # A file that cannot be used changes nothing, and the next one that can does.
        write(masq, "nonMasqueradeCIDRs: [10.0.0.0/8, 10.0.0.0/33]\n")
        agent.wait_for(
            f"configuration not used, the one before stays in force: {masq}: nonMasqueradeCIDRs[1]: expected a CIDR "
            'without host bits, got "10.0.0.0/33"',
            15,
        )
        assert elements(playground, "exempt") == {"10.0.0.0/8", "169.254.0.0/16"}
        write(masq, "nonMasqueradeCIDRs: [192.168.0.0/16]\nmasqLinkLocal: true\n")
        wait_until(lambda: elements(playground, "exempt") == {"192.168.0.0/16"}, 15)
        write(masq, "nonMasqueradeCIDRs: nobody\n")
        agent.process.kill()
        agent.process.wait()
    # A start with that file: Services are served, and masquerading is as it was, until the file can be used.
    api_server.put(*web(2, 2))
    with playground.agent("--kubeconfig", kubeconfig) as agent:
        agent.wait_for(f'Node node-1: {masq}: nonMasqueradeCIDRs: expected an array, got "nobody"; its rules stay', 15)
        wait_until(lambda: "default/web-2" in playground.host.nft("list map ip rulegen frontends"), 10)
        assert elements(playground, "exempt") == {"192.168.0.0/16"}
        assert elements(playground, "pods") == {"10.244.1.0/24"}
        write(masq, "{}")
        wait_until(lambda: "172.16.0.0/12" in elements(playground, "exempt"), 15)
        assert "Traceback" not in agent.log
    # Off again, nothing of it is left.
    playground.configure()
    with playground.agent("--kubeconfig", kubeconfig):
        wait_until(lambda: f"table {TABLE}" not in playground.host.nft("list tables"), 15)


def test_on_iptables(playground: Playground, tmp_path: Path) -> None:
    masq = tmp_path / "masq"
    masq.write_text("nonMasqueradeCIDRs: [10.0.0.0/8]\n")
    configure(playground, masq, "mode: iptables", "iptables: {syncPeriod: 1s, minSyncPeriod: 100ms}")
    manifests = playground.manifests / "all.json"
    save(manifests, OWN, *web(1, 1))

    def chain(name: str) -> list[str]:
        with playground.namespace.entered():
            done = subprocess.run(
                ["iptables-nft", "-t", "nat", "-S", name], capture_output=True, text=True, check=False
            )
        return re.findall(r"-[sd] (\S+)", done.stdout)

    with playground.agent("-f", str(playground.manifests), "--iptables-variant", "nft") as agent:
        wait_until(lambda: chain("RULEGEN-EG-CLUSTER") == ["10.244.1.0/24"], 20)
        save(manifests, OWN, node("node-2", pod_cidrs=["100.64.2.0/24"]), *web(1, 1))
        wait_until(lambda: chain("RULEGEN-EG-CLUSTER") == ["10.244.1.0/24", "100.64.2.0/24"], 20)
        write(masq, "nonMasqueradeCIDRs: [172.16.0.0/12]\n")
        wait_until(lambda: chain("RULEGEN-EG-EXEMPT") == ["169.254.0.0/16", "172.16.0.0/12"], 20)
        assert "Traceback" not in agent.log
