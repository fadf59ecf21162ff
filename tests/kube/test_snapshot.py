"""What a cluster holds, read once: the same meaning as following it, and as the manifests that are written of it."""

from __future__ import annotations

import os
import subprocess
import sys
from io import BytesIO, StringIO
from pathlib import Path

import msgspec
import pytest

from rulegen.features import kinds_of
from rulegen.kube.api import Api
from rulegen.kube.manifests import load
from rulegen.kube.objects import Pod, Service
from rulegen.kube.snapshot import read_cluster, write_manifests
from tests.apiserver import ApiServer
from tests.apiserver.faults import Answer
from tests.builders import endpoint, endpoint_slice, node, pod, port, service, service_cidr
from tests.kube.conftest import left_threads
from tests.patience import patience

HOSTILE = 'a: "b"\n- {c}\u2028\x7f # \\ \U0001f600 yes 0x10 ~'


def fill(server: ApiServer) -> None:
    server.put(
        service("web", ["10.96.0.10", "fd00::10"], [port(80, "http", node_port=30080)], kind="NodePort"),
        service(
            "db",
            ["10.96.0.11"],
            [port(0x1F90, "no", "UDP")],
            namespace="data",
            affinity=60,
            created="2024-01-01T00:00:00Z",
        ),
        service(
            "hostile", ["10.96.0.12"], labels={"on": "null"}, annotations={"x": HOSTILE, "y": "", "z": "2024-01-01"}
        ),
        service("theirs", ["10.96.0.13"], labels={"service.kubernetes.io/service-proxy-name": "it"}),
        service("headless", ["None"]),
        endpoint_slice(
            [endpoint("10.0.0.1", "node-1", zones=["a"]), endpoint("10.0.0.2", ready=False, target="pod-2")],
            ports=[],
        ),
        endpoint_slice(["fd00::1"], name="web-6", family="IPv6"),
        endpoint_slice(["10.0.0.3"], name="db-1", service_name="db", namespace="data"),
        endpoint_slice(
            ["10.0.0.4"], service_name="headless", name="headless-1", labels={"service.kubernetes.io/headless": ""}
        ),
        node("node-1", ["192.168.1.10", "fd00::a"], zone="a", pod_cidrs=["10.244.0.0/24"]),
        node("node-2"),
        service_cidr("10.96.0.0/16", "fd00::/112"),
    )


def written(api: Api) -> str:
    output = StringIO()
    write_manifests(read_cluster(api, kinds_of(())), output)
    return output.getvalue()


def test_what_is_written_is_read_as_what_it_was(server: ApiServer, api: Api) -> None:
    fill(server)
    before = read_cluster(api, kinds_of(()))
    after = load(["-"], BytesIO(written(api).encode()))
    assert after.problems == []
    assert after.skipped == {}
    for kind in ("services", "unselected", "endpoint_slices", "nodes", "service_cidrs"):
        assert sorted(getattr(after, kind), key=str) == sorted(getattr(before, kind), key=str)
    assert [len(getattr(after, kind)) for kind in ("services", "unselected", "endpoint_slices", "nodes")] == [
        4,
        1,
        3,
        2,
    ]


def test_what_is_written_does_not_depend_on_order(server: ApiServer, api: Api, tmp_path: Path) -> None:
    fill(server)
    text = written(api)
    assert text.isascii()
    manifests = read_cluster(api, kinds_of(()))
    for objects in (manifests.services, manifests.endpoint_slices, manifests.nodes):
        objects.reverse()
    output = StringIO()
    write_manifests(manifests, output)
    assert output.getvalue() == text


def test_what_is_not_read_is_not_written(server: ApiServer, api: Api) -> None:
    metadata: dict[str, object] = {
        "name": "web",
        "namespace": "default",
        "managedFields": [{"manager": "me"}],
        "ownerReferences": [],
    }
    metadata["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "kept": "yes"}
    spec = {"clusterIP": "10.96.0.1", "selector": {"secret": "thing"}, "ports": [{"port": 80, "targetPort": "hidden"}]}
    server.put({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
    text = written(api)
    assert "kept: 'yes'" in text
    for word in ("managedFields", "ownerReferences", "last-applied", "selector", "targetPort", "resourceVersion"):
        assert word not in text


def test_an_empty_cluster_can_be_written_and_read(api: Api) -> None:
    assert load(["-"], BytesIO(written(api).encode())).services == []


def test_a_cluster_without_service_cidrs(server: ApiServer, api: Api) -> None:
    fill(server)
    server.served.pop("/apis/networking.k8s.io/v1/servicecidrs")
    assert read_cluster(api, kinds_of(())).service_cidrs == []


# On the command line.


class Host:
    """Runs the command with no other cluster in reach than the one of `kubeconfig`."""

    def __init__(self, folder: Path, kubeconfig: str) -> None:
        self._folder = folder
        self._kubeconfig = kubeconfig

    def run(self, *arguments: str, kubeconfig: bool = True) -> subprocess.CompletedProcess[str]:
        hidden = ("KUBECONFIG", "KUBERNETES_SERVICE_HOST")
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        environment |= {"HOME": str(self._folder)} | ({"KUBECONFIG": self._kubeconfig} if kubeconfig else {})
        command = [sys.executable, "-c", "from rulegen.cli import main; main()", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=patience(60), check=False, env=environment
        )


@pytest.fixture
def host(server: ApiServer, tmp_path: Path) -> Host:
    return Host(tmp_path, server.kubeconfig(tmp_path / "kubeconfig"))


def test_a_snapshot_renders_as_the_cluster_itself(server: ApiServer, host: Host, tmp_path: Path) -> None:
    fill(server)
    snapshot = host.run("snapshot", "--kubeconfig", str(tmp_path / "kubeconfig"), kubeconfig=False)
    assert snapshot.returncode == 0, snapshot.stderr
    file = tmp_path / "cluster.yaml"
    file.write_text(snapshot.stdout)
    from_cluster = host.run("render", "--node", "node-1")
    from_file = host.run("render", "--node", "node-1", "-f", str(file))
    assert from_cluster.returncode == from_file.returncode == 0, from_cluster.stderr
    assert from_cluster.stdout == from_file.stdout
    assert "10.96.0.10" in from_cluster.stdout
    explained = host.run("explain", "default/theirs", "--node", "node-1")
    assert "service-proxy-name" in explained.stdout


def test_explain_asks_for_a_pod_that_no_slice_lists(server: ApiServer, host: Host) -> None:
    """By its name alone; where that is refused there is none, and a line says why."""
    fill(server)
    server.put(pod("client", "10.0.1.9", "node-1"), pod("client", "10.0.1.8", "node-1", namespace="data"))
    server.put(pod("other", "10.0.1.7", "node-1"))

    def explain(source: str, target: str) -> subprocess.CompletedProcess[str]:
        return host.run("explain", "--node", "node-1", "--from", source, "--to", target)

    found = explain("data/client", "svc/web:http")
    assert found.stdout.startswith("10.0.1.8 (outside) to 10.96.0.10:80/tcp: rejected\n  from pod data/client, on node")
    assert [item.query["fieldSelector"] for item in server.requests if item.kind == "Pod"] == [
        "metadata.name=client,metadata.namespace=data"
    ]
    assert '"client" may be pod/data/client or pod/default/client' in explain("client", "svc/web:http").stderr
    # A slice knows the pod.
    asked = len(server.requests)
    assert explain("default/pod-2", "svc/web:http").stdout.startswith("10.0.0.2 (outside)")
    assert not [item for item in server.requests[asked:] if item.kind == "Pod"]
    server.inject(Pod, "list", Answer(403, "Forbidden"))
    refused = explain("shop/nobody", "svc/web:http")
    assert refused.returncode == 2
    assert "warning: pods cannot be looked up by name: " in refused.stderr
    assert 'got "shop/nobody", and no pod has this name' in refused.stderr
    headless = explain("node", "headless")
    assert "would work: 10.0.0.4:8080/tcp, an endpoint" in headless.stdout


def test_an_invalid_object_is_named_with_its_cluster(server: ApiServer, host: Host) -> None:
    fill(server)
    bad = {"apiVersion": "v1", "kind": "Service", **msgspec.to_builtins(service("bad"))}
    server.put({**bad, "metadata": {"name": "bad", "namespace": "default"}, "spec": {"ports": [{"port": 0}]}})
    line = f"rulegen: {server.url}: Service default/bad: spec.ports[0].port: expected a port from 1 to 65535, got 0\n"
    for command in (["render", "--node", "node-1"], ["snapshot"]):
        refused = host.run(*command)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr == line
        assert host.run(*command, "--skip-invalid").returncode == 0


def test_a_server_that_is_not_checked_is_warned_of_in_one_line(server: ApiServer, host: Host, tmp_path: Path) -> None:
    fill(server)
    cluster = {"certificate-authority-data": None, "insecure-skip-tls-verify": True}
    path = server.kubeconfig(tmp_path / "insecure", cluster=cluster)
    done = host.run("snapshot", "--kubeconfig", path)
    assert done.returncode == 0
    assert done.stderr == (
        f"rulegen: warning: {path}: cluster it: insecure-skip-tls-verify: whoever answers at {server.url} is believed, "
        "and is given the credentials\n"
    )


@pytest.mark.parametrize("what", ["nothing", "refused", "forbidden", "unauthorised"])
def test_what_is_wrong_is_one_line(server: ApiServer, host: Host, what: str) -> None:
    match what:
        case "refused":
            server.stop()
        case "forbidden":
            server.inject(Service, "list", Answer(403, "Forbidden"))
        case "unauthorised":
            server.tokens = set()
    expected = {
        "nothing": "nothing to read: no manifests (-f), no kubeconfig",
        "refused": f"{server.url}: Connection refused",
        "forbidden": f"{server.url}/api/v1/services: 403 Forbidden: this is answer 403",
        "unauthorised": f"{server.url}/api/v1/services: 401 Unauthorized: this is answer 401",
    }
    failed = host.run("diff", "--against", "/dev/null", kubeconfig=what != "nothing")
    assert failed.returncode == 2
    assert failed.stderr.startswith(f"rulegen: {expected[what]}")
    assert failed.stderr.count("\n") == 1
    assert not left_threads()
