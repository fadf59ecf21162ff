"""docs/replace-kube-proxy.md, command by command: first kube-proxy's rules, then rulegen's, then the former again.

kubectl is a program that does what a cluster with one node would: labels start and end the agent, and what is executed
in a pod is executed here.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bench import kube_proxy
from bench.clusters import NODE_ADDRESS, POD_CIDRS, SERVICE_CIDR, Shape, manifest, service_name
from rulegen.demo.namespaces import NetworkNamespace
from rulegen.kube.manifests import load
from tests.agent.running import RULEGEN
from tests.apiserver import ApiServer
from tests.builders import service_cidr
from tests.patience import patience

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs/replace-kube-proxy.md").read_text()
_BLOCK = re.compile(r"^ *```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
BLOCKS = _BLOCK.findall(PAGE)

SETTINGS = f"""\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: {POD_CIDRS[0]}
conntrack: {{maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
"""

# State is in files of $STATE: `affinity` and `label` say which of the two runs on the node, `agent` is a process.
KUBECTL = r"""
import json, os, signal, subprocess, sys, time
from pathlib import Path

state = Path(os.environ["STATE"])
words = [word for word in sys.argv[1:] if word not in ("-n", "kube-system", "--overwrite", "-it")]
OURS, THEIRS = "app.kubernetes.io/name=rulegen", "k8s-app=kube-proxy"

def fail(message):
    sys.exit(f"kubectl: {message}: {sys.argv[1:]}")

def load_kube_proxy():
    subprocess.run(["nft", "destroy table ip kube-proxy"], stderr=subprocess.DEVNULL)
    subprocess.run(["nft", "-f", str(state / "kube-proxy.nft")], check=True)

def start_agent():
    words = ["agent", "--node", "worker-1", "--config", str(state / "config.conf")]
    with (state / "agent.log").open("wb") as log:
        process = subprocess.Popen([os.environ["RULEGEN"], *words], stderr=log, stdout=log, start_new_session=True)
    (state / "agent").write_text(str(process.pid))

def end_agent():
    number = int((state / "agent").read_text())
    os.kill(number, signal.SIGTERM)
    while Path(f"/proc/{number}").exists() and "Z (zombie)" not in Path(f"/proc/{number}/status").read_text():
        time.sleep(0.05)
    (state / "agent").unlink()

def runs(selector):
    return (state / "agent").exists() if selector == OURS else not (state / "label").exists()

def inside(command):
    command = [word.replace("/etc/rulegen", str(state)) for word in command]
    sys.exit(subprocess.run(command).returncode)

def tables():
    return subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout

with (state / "calls").open("a") as calls:
    calls.write(json.dumps([words[0], tables()]) + "\n")
match words:
    case ["get", "configmap", "kube-proxy", "-o", r"jsonpath={.data.config\.conf}"]:
        print((state / "config.conf").read_text(), end="")
    case ["patch", "daemonset", "kube-proxy", "--type=strategic", "-p", patch]:
        terms = json.loads(patch)["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
        ((expression,),) = [term["matchExpressions"] for term in terms.popitem()[1]["nodeSelectorTerms"]]
        (state / "affinity").write_text(f"{expression['key']} {expression['operator']}")
    case ["rollout", "status", "daemonset/kube-proxy"]:
        pass
    case ["label", "node", "worker-1", "rulegen.io/service-proxy=rulegen"]:
        if (state / "affinity").read_text() != "rulegen.io/service-proxy DoesNotExist":
            fail("both would run")
        (state / "label").touch()
        start_agent()
    case ["label", "node", "worker-1", "rulegen.io/service-proxy-"]:
        (state / "label").unlink()
        end_agent()
        load_kube_proxy()
    case ["wait", "--for=delete", "pod", "-l", selector, "--field-selector", "spec.nodeName=worker-1"]:
        if runs(selector):
            fail("still there")
    case ["get", "pod", "-l", selector, "--field-selector", "spec.nodeName=worker-1", "-o", "name"]:
        # A pod comes some time after what asks for it.
        if runs(selector) and (state / "asked").exists():
            print("pod/" + selector.rpartition("=")[2])
        (state / "asked").touch()
    case ["wait", "--for=condition=Ready", "pod/rulegen"]:
        while "sync mode=full" not in (state / "agent.log").read_text():
            time.sleep(0.05)
    case ["wait", "--for=condition=Ready", "pod", "-l", "k8s-app=kube-proxy", *_]:
        pass
    case ["exec", "pod/rulegen", "--", *command]:
        inside(command)
    case ["debug", "node/worker-1", "--profile=netadmin", image, "--", *command]:
        inside(command)
    case _:
        fail("not known here")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cluster of one Service, the rules that kube-proxy has for it, and kubectl."""
    state = tmp_path / "state"
    state.mkdir()
    objects = manifest(Shape(1), tmp_path).read_text()
    for old, new in (("team-0", "default"), (service_name(0), "web"), ('"node-1"', '"worker-1"')):
        assert old in objects
        objects = objects.replace(old, new)
    (tmp_path / "objects.json").write_text(objects)
    rules = "\n".join(kube_proxy.commands(Shape(1))).replace(f"team-0/{service_name(0)}", "default/web")
    (state / "kube-proxy.nft").write_text(f"{rules}\n")
    (state / "config.conf").write_text(SETTINGS)
    (tmp_path / "bin").mkdir()
    kubectl = tmp_path / "bin/kubectl"
    kubectl.write_text(f"#!{sys.executable}\n{KUBECTL}")
    kubectl.chmod(0o755)
    # 1 says that something differs or was found, which a person reads.
    command = tmp_path / "bin/rulegen"
    command.write_text('#!/bin/sh\n"$RULEGEN" "$@" || [ $? = 1 ]\n')
    command.chmod(0o755)
    return tmp_path


@pytest.fixture
def ended(folder: Path) -> Iterator[None]:
    yield
    if (folder / "state/agent").exists():
        with suppress(ProcessLookupError):
            os.kill(int((folder / "state/agent").read_text()), signal.SIGKILL)


@pytest.mark.kernel
def test_there_and_back(folder: Path, ended: None) -> None:
    """No step leaves the node without rules; at the end it has kube-proxy's, and nothing else."""
    with NetworkNamespace() as namespace, namespace.entered(), ApiServer() as server:
        subprocess.run(["ip", "address", "add", f"{NODE_ADDRESS}/32", "dev", "lo"], check=True)
        subprocess.run(["nft", "-f", str(folder / "state/kube-proxy.nft")], check=True)
        server.put(service_cidr(SERVICE_CIDR), *load([str(folder / "objects.json")], None).objects())
        server.kubeconfig(folder / "kubeconfig")
        environment = {
            "PATH": f"{folder}/bin:{Path(RULEGEN).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(folder),
            "STATE": str(folder / "state"),
            "RULEGEN": RULEGEN,
            "KUBECONFIG": str(folder / "kubeconfig"),
            "LC_ALL": "C.UTF-8",
        }
        # One shell, as a person has; before each block, which one it is.
        script = "\n".join(f"echo '=== {number}'\n{block}" for number, block in enumerate(BLOCKS))
        done = subprocess.run(
            ["sh", "-ec", script],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=patience(60),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    assert tables == "table ip kube-proxy\n"
    printed = re.split(r"^=== \d+\n", done.stdout, flags=re.MULTILINE)[1:]
    proof, look = printed[1], printed[4]
    differences = re.findall(r"^  \d+ class(?:es)?, such as .*\n(.*)", proof, re.MULTILINE)
    assert [one for one in differences if not re.match(r"    explained by D(5|20): ", one)] == []
    assert differences
    assert look.startswith("ok")
    assert look.endswith("\n0 added, 0 changed, 0 removed\n")
    calls = (folder / "state/calls").read_text().splitlines()
    assert len(calls) > 15
    assert all("table ip rulegen\\n" in call or "table ip kube-proxy\\n" in call for call in calls)
    # In between there were only the new ones.
    assert any("table ip rulegen\\n" in call and "kube-proxy\\n" not in call for call in calls)


def test_the_way_of_a_node_is_that_of_all_nodes() -> None:
    """What docs/deploy.md does with every node is here in single steps: the same program in the node's namespace."""
    pattern = re.compile(r"-- sh -c '\n(.*?)'", re.DOTALL)
    pages = (PAGE, (REPOSITORY / "docs/deploy.md").read_text())
    ours, theirs = ([" ".join(text.split()) for text in pattern.findall(page)] for page in pages)
    assert len(ours) == 1
    assert ours == theirs
    patches = [re.findall(r"--type=strategic -p '(.*?)'", page, re.DOTALL) for page in pages]
    assert patches[0] == patches[1] != []
