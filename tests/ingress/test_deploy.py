"""deploy/ingress: manifests that an API server takes, no more rights than are used, and pods that serve as they are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kubernetes_validate
import pytest
import yaml

from rulegen import __version__
from rulegen.config import AgentConfiguration
from rulegen.configuration_file import load_configuration
from rulegen.features import resources
from rulegen.kube.objects import Ingress
from tests.agent.asking import ask
from tests.agent.running import RULEGEN, Agent, wait_until
from tests.apiserver import ApiServer
from tests.ingress.lab import lab_in
from tests.ingress.objects import ingress, network_objects, path, rule, secret
from tests.patience import patience

REPOSITORY = Path(__file__).parents[2]
MANIFEST = REPOSITORY / "deploy/ingress/rulegen-ingress.yaml"
OBJECTS: dict[str, dict[str, Any]] = {one["kind"]: one for one in yaml.safe_load_all(MANIFEST.read_text())}
DEPLOYMENT = OBJECTS["Deployment"]["spec"]
POD: dict[str, Any] = DEPLOYMENT["template"]["spec"]
CONTAINERS: dict[str, dict[str, Any]] = {one["name"]: one for one in POD["containers"]}
CONFIG: dict[str, str] = OBJECTS["ConfigMap"]["data"]
NAME = "rulegen-ingress"
_NODE_CLASSES = ("Namespace", "ClusterRole", "ClusterRoleBinding", "IngressClass")


@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("kind", OBJECTS)
def test_manifests_follow_the_published_schemas(kind: str, version: str) -> None:
    kubernetes_validate.validate(OBJECTS[kind], version, strict=True)


def test_manifests_refer_to_each_other_and_to_nothing_else() -> None:
    assert len(OBJECTS) == len(list(yaml.safe_load_all(MANIFEST.read_text())))
    for kind, one in OBJECTS.items():
        namespace = None if kind in _NODE_CLASSES else NAME
        name = "rulegen" if kind == "IngressClass" else NAME
        assert (one["metadata"]["name"], one["metadata"].get("namespace")) == (name, namespace)
    for binding, role in (("ClusterRoleBinding", "ClusterRole"), ("RoleBinding", "Role")):
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": NAME}
        assert OBJECTS[binding]["roleRef"] == reference
        assert OBJECTS[binding]["subjects"] == [{"kind": "ServiceAccount", "name": NAME, "namespace": NAME}]
    assert POD["serviceAccountName"] == NAME
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    assert volumes["config"]["configMap"] == {"name": NAME}
    # Private keys never get onto a disk.
    assert volumes["run"]["emptyDir"] == {"medium": "Memory"}
    labels = DEPLOYMENT["template"]["metadata"]["labels"]
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert OBJECTS[kind]["spec"]["selector"]["matchLabels"] == labels
    assert OBJECTS["Service"]["spec"]["selector"] == labels
    ports = {port["name"] for container in CONTAINERS.values() for port in container["ports"]}
    assert {port["targetPort"] for port in OBJECTS["Service"]["spec"]["ports"]} <= ports
    assert DEPLOYMENT["replicas"] == 2
    for container in CONTAINERS.values():
        assert volumes.keys() == {mount["name"] for mount in container["volumeMounts"]}
        assert container["image"] == f"rulegen:{__version__}"
    kustomization = yaml.safe_load((MANIFEST.parent / "kustomization.yaml").read_text())
    assert kustomization["resources"] == [MANIFEST.name]
    assert [(image["name"], image["newTag"]) for image in kustomization["images"]] == [("rulegen", __version__)]
    assert " python3-nftables ${PACKAGES} " in (REPOSITORY / "deploy/Containerfile").read_text()


def test_the_pod_has_nothing_of_its_node() -> None:
    for container in CONTAINERS.values():
        security = container["securityContext"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert (security["privileged"], security["allowPrivilegeEscalation"]) == (False, False)
        assert security["readOnlyRootFilesystem"] is True
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert not POD.keys() & {"hostPID", "hostIPC", "hostNetwork"}
    assert not [volume for volume in POD["volumes"] if "hostPath" in volume]


def _allowed(rules: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for one in rules
        for group in one["apiGroups"]
        for resource in one["resources"]
        for verb in one["verbs"]
    }


def test_the_role_allows_what_is_asked_and_nothing_else(tmp_path: Path) -> None:
    read = set()
    for resource in resources(("ingress",), ""):
        for place in resource.paths:
            *_, group_version, plural = place.split("/")[1:]
            group = place.split("/")[2] if place.startswith("/apis/") else ""
            assert group_version == "v1"
            read |= {(group, plural, verb) for verb in ("list", "watch")}
    written = {("events.k8s.io", "events", "create"), ("networking.k8s.io", "ingresses/status", "patch")}
    assert _allowed(OBJECTS["ClusterRole"]["rules"]) == read | written
    create, own = OBJECTS["Role"]["rules"]
    assert (create["verbs"], own["verbs"], own["resourceNames"]) == (["create"], ["get", "update"], [NAME])
    # As `make role` writes it, which leaves the node's role as it is.
    for name in ("scripts/cluster_role.py", "deploy/base/rulegen.yaml", "deploy/ingress/rulegen-ingress.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    copy = tmp_path / "deploy/ingress/rulegen-ingress.yaml"
    copy.write_text(MANIFEST.read_text().replace("resources: [ingresses/status]", "resources: [nodes]"))
    subprocess.run([sys.executable, tmp_path / "scripts/cluster_role.py", "ingress"], check=True)
    assert copy.read_text() == MANIFEST.read_text()
    assert (tmp_path / "deploy/base/rulegen.yaml").read_text() == (REPOSITORY / "deploy/base/rulegen.yaml").read_text()


def test_the_configuration_is_read_without_a_word(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG["config.yaml"].replace("# publishedAddresses", "publishedAddresses"))
    configuration, warnings = load_configuration(str(file))
    assert (warnings, configuration.features) == ([], ("ingress",))
    assert configuration.node.ingress.published == ("203.0.113.9", "lb.example.org")
    ports = {port["name"]: port["containerPort"] for one in CONTAINERS.values() for port in one["ports"]}
    settings, agent = configuration.node.ingress, configuration.agent
    assert isinstance(agent, AgentConfiguration)
    assert (settings.http_port, settings.https_port) == (ports["http"], ports["https"])
    assert (agent.healthz_bind_address.port, agent.metrics_bind_address.port) == (ports["health"], ports["metrics"])


@pytest.mark.kernel
@pytest.mark.user_namespace
def test_a_pod_serves_as_the_manifests_start_it() -> None:
    """Both containers as the same user that is not root, without a capability, in one namespace of processes."""
    uid = str(POD["securityContext"]["runAsUser"])
    # Of files we are the owner, and elsewhere nobody.
    as_user = ("unshare", "--user", f"--map-user={uid}", f"--map-group={uid}", "--")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="rulegen-pod-")))
        lab = stack.enter_context(lab_in(folder / "lab"))
        run = folder / "run"
        run.mkdir()
        for name, text in CONFIG.items():
            (folder / name).write_text(_moved(text.replace("# publishedAddresses", "publishedAddresses"), folder, run))
        words = [_moved(word, folder, run) for word in CONTAINERS["nginx"]["command"]]
        program = shutil.which(words[0], path=f"{os.environ['PATH']}:/usr/sbin")
        assert program
        lab.apply_services()
        with lab.namespace.entered():
            for sysctl in POD["securityContext"]["sysctls"]:
                Path("/proc/sys", sysctl["name"].replace(".", "/")).write_text(sysctl["value"])
            api = stack.enter_context(ApiServer())
            objects = [ingress("one", rule("one.test", path("/", "s1")), tls=[([], "one-tls")])]
            api.put(*network_objects(), OBJECTS["IngressClass"], secret("one-tls", "one.test"))
            api.put({**objects[0], "spec": {**objects[0]["spec"], "ingressClassName": "rulegen"}})
            kubeconfig = api.kubeconfig(folder / "kubeconfig")
            nginx = stack.enter_context(subprocess.Popen([*as_user, program, *words[1:]]))
            stack.callback(nginx.terminate)
            arguments = [_moved(word, folder, run) for word in CONTAINERS["rulegen"]["args"]]
            log = stack.enter_context((folder / "log").open("wb"))
            command = [*as_user, RULEGEN, *arguments, "--kubeconfig", kubeconfig]
            agent = stack.enter_context(
                subprocess.Popen(command, stderr=log, env={**os.environ, "POD_NAMESPACE": NAME})
            )
            stack.callback(agent.kill)
            with suppress(AssertionError):
                wait_until(lambda: (NAME, NAME) in api.leases and (run / "rulegen.conf").exists(), 30.0)
                wait_until(lambda: lab.answers("one.test"), 30.0)
            said = Agent(agent, folder).log
            assert lab.answers("one.test"), said
            wait_until(lambda: lab.who("one.test", "/") == "s1", 20.0)
            assert lab.get("one.test", tls="one.test").service == "s1"
            wait_until(lambda: "status" in api.store.object(Ingress, "one", "shop"), 20.0)
            health = CONTAINERS["rulegen"]["livenessProbe"]["httpGet"]["path"]
            assert [ask(10256, page).status for page in (health, "/healthz")] == [200, 200]
            assert "Traceback" not in said
            # As preStop has it: nginx ends by itself.
            *_, stop = CONTAINERS["nginx"]["lifecycle"]["preStop"]["exec"]["command"]
            quitting = _moved(stop, folder, run).replace("sleep 5; exec nginx", f"exec {program}")
            subprocess.run([*as_user, "sh", "-c", quitting], check=True)
            assert nginx.wait(patience(10)) == 0


def _moved(text: str, config: Path, run: Path) -> str:
    """What the pod mounts is elsewhere here."""
    return text.replace("/etc/rulegen/config", str(config)).replace("/run/rulegen-ingress", str(run))
