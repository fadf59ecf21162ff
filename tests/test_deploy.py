"""What is in deploy/: manifests that an API server takes, an image with all it needs, no more rights than are used."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import click
import kubernetes_validate
import pytest
import yaml

from rulegen import __version__
from rulegen.cli import main
from rulegen.config import KUBE_PROXY_CONNTRACK, AgentConfiguration, Target
from rulegen.configuration_file import API_VERSION, KIND, load_configuration
from rulegen.features import ALWAYS, REGISTRY, resources
from rulegen.kube.api import connect
from rulegen.kube.kinds import kind_of
from rulegen.kube.kubeconfig import SERVICE_ACCOUNT
from rulegen.kube.listing import list_pages
from rulegen.kube.objects import Service
from tests.agent.asking import ask
from tests.agent.running import RULEGEN, Agent, wait_until
from tests.apiserver import ApiServer
from tests.apiserver.server import TOKEN, certificate_authority
from tests.builders import service
from tests.nftables.host import Host, host_or_skip
from tests.patience import patience

REPOSITORY = Path(__file__).parents[1]
CLUSTER = str(REPOSITORY / "golden/weights/cluster.yaml")

Document: TypeAlias = dict[str, Any]

DOCUMENTS: list[Document] = [
    document for path in (REPOSITORY / "deploy/base/rulegen.yaml",) for document in yaml.safe_load_all(path.read_text())
]
BY_KIND: dict[str, Document] = {document["kind"]: document for document in DOCUMENTS}
POD: Document = BY_KIND["DaemonSet"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
(INIT_CONTAINER,) = POD["initContainers"]
CAPABILITIES: list[str] = CONTAINER["securityContext"]["capabilities"]["add"]
CONTAINERFILE = (REPOSITORY / "deploy/Containerfile").read_text()


# -- manifests --


@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["kind"])
def test_manifests_follow_the_published_schemas(document: Document, version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


def test_manifests_refer_to_each_other_and_to_nothing_else() -> None:
    assert len(BY_KIND) == len(DOCUMENTS)
    account = BY_KIND["ServiceAccount"]["metadata"]
    role = BY_KIND["ClusterRole"]["metadata"]
    binding = BY_KIND["ClusterRoleBinding"]
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role["name"]}
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
    ]
    assert POD["serviceAccountName"] == account["name"]
    assert {BY_KIND[kind]["metadata"]["namespace"] for kind in ("ConfigMap", "DaemonSet")} == {account["namespace"]}
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    assert volumes["config"]["configMap"] == {"name": BY_KIND["ConfigMap"]["metadata"]["name"]}
    assert volumes.keys() == {mount["name"] for mount in CONTAINER["volumeMounts"]}
    labels = BY_KIND["DaemonSet"]["spec"]["template"]["metadata"]["labels"]
    assert BY_KIND["DaemonSet"]["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_the_image_is_of_this_version() -> None:
    assert CONTAINER["image"] == INIT_CONTAINER["image"] == f"rulegen:{__version__}"


def test_the_overlays_are_of_this_version_and_name_files_that_are_there() -> None:
    """tests/packages puts them together, with kubectl."""
    overlays = list((REPOSITORY / "deploy/overlays").glob("*/kustomization.yaml"))
    assert len(overlays) >= 3
    for path in overlays:
        overlay = yaml.safe_load(path.read_text())
        assert [(image["name"], image["newTag"]) for image in overlay["images"]] == [("rulegen", __version__)]
        patches = [patch["path"] for patch in overlay.get("patches", ())]
        assert {*patches, path.name} == {one.name for one in path.parent.iterdir()}
        referred = [*overlay["resources"], *overlay.get("components", ())]
        assert all((path.parent / name).exists() for name in referred)
        for patch in patches:
            target = yaml.safe_load((path.parent / patch).read_text())
            assert target["metadata"]["name"] == BY_KIND[target["kind"]]["metadata"]["name"]


# -- rights --


def test_the_role_allows_what_is_asked_and_nothing_else() -> None:
    paths = {path for resource in resources((), "node-1") for path in resource.paths}
    read = {(*_group_and_resource(path), verb) for path in paths for verb in ("list", "watch")}
    events = {("events.k8s.io", "events", "create")}
    assert _allowed(BY_KIND["ClusterRole"]["rules"]) == read | events


def test_the_role_is_what_make_role_writes(tmp_path: Path) -> None:
    manifest = (REPOSITORY / "deploy" / "base" / "rulegen.yaml").read_text()
    program = tmp_path / "scripts" / "cluster_role.py"
    program.parent.mkdir()
    shutil.copy(REPOSITORY / "scripts/cluster_role.py", program)
    (tmp_path / "deploy/base").mkdir(parents=True)
    written = tmp_path / "deploy" / "base" / "rulegen.yaml"
    written.write_text(manifest.replace("resources: [servicecidrs]", "resources: [secrets]"))
    subprocess.run([sys.executable, program], check=True)
    assert written.read_text() == manifest


@pytest.mark.parametrize(
    ("features", "added"),
    [
        (["host-ports"], {("", "pods")}),
        (
            ["network-policies"],
            {
                ("", "namespaces"),
                ("", "pods"),
                ("networking.k8s.io", "networkpolicies"),
                ("policy.networking.k8s.io", "clusternetworkpolicies"),
            },
        ),
    ],
    ids=["host-ports", "network-policies"],
)
def test_the_role_of_features(features: list[str], added: set[tuple[str, str]], tmp_path: Path) -> None:
    """What `make role FEATURES=...` writes: what these ask for, and no more; without them it is as before."""
    manifest = (REPOSITORY / "deploy" / "base" / "rulegen.yaml").read_text()
    written = _written_role(tmp_path, manifest, *features)
    allowed = _allowed(_role(written))
    paths = {path for resource in resources(features, "node-1") for path in resource.paths}
    read = {(*_group_and_resource(path), verb) for path in paths for verb in ("list", "watch")}
    assert allowed == read | {("events.k8s.io", "events", "create")}
    usual = _allowed(BY_KIND["ClusterRole"]["rules"])
    assert allowed - usual == {(*resource, verb) for resource in added for verb in ("list", "watch")}
    # Pods of the own node alone where only their host ports are wanted: that is said, as a role cannot.
    own_node = written.split("Asked for what is of the own node only.")[1:]
    assert len(own_node) == (2 if features == ["host-ports"] else 0)
    assert _written_role(tmp_path, written) == manifest


@pytest.mark.parametrize("feature", sorted(name for name in REGISTRY.keys() - set(ALWAYS) if not REGISTRY[name].driver))
def test_each_feature_of_a_node_has_a_component_that_turns_it_on_and_grants_what_it_reads(
    feature: str, tmp_path: Path
) -> None:
    folder = REPOSITORY / "deploy/components" / feature
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    files = [folder / name for name in kustomization.get("resources", ())]
    documents = [document for path in files for document in yaml.safe_load_all(path.read_text())]
    for document in documents:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    paths = {path for resource in resources([feature], "node-1") for path in resource.paths}
    read = {(*_group_and_resource(path), verb) for path in paths for verb in ("list", "watch")}
    usual = _allowed(BY_KIND["ClusterRole"]["rules"])
    granted = {one for document in documents for one in _allowed(document.get("rules", []))}
    assert granted == read - usual
    if granted:
        role, binding = documents
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
        assert binding["subjects"] == BY_KIND["ClusterRoleBinding"]["subjects"]
    (patch,) = kustomization["patches"]
    (operation,) = yaml.safe_load(patch["patch"])
    assert operation["path"] == "/spec/template/spec/containers/0/args/-"
    assert _parameters("agent", [operation["value"]])["features"] == (feature,)
    # As `make role` writes it.
    _written_role(tmp_path, (REPOSITORY / "deploy/base/rulegen.yaml").read_text())
    for path in folder.iterdir():
        assert (tmp_path / "deploy/components" / feature / path.name).read_text() == path.read_text()


def _role(manifest: str) -> list[Document]:
    documents = yaml.safe_load_all(manifest)
    return next(one["rules"] for one in documents if one["kind"] == "ClusterRole")


def _written_role(folder: Path, manifest: str, *features: str) -> str:
    program = folder / "scripts" / "cluster_role.py"
    program.parent.mkdir(exist_ok=True)
    shutil.copy(REPOSITORY / "scripts/cluster_role.py", program)
    (folder / "deploy/base").mkdir(parents=True, exist_ok=True)
    written = folder / "deploy" / "base" / "rulegen.yaml"
    written.write_text(manifest)
    subprocess.run([sys.executable, program, *features], check=True)
    return written.read_text()


def _group_and_resource(path: str) -> tuple[str, str]:
    """Of a path such as /api/v1/nodes or /apis/discovery.k8s.io/v1/endpointslices."""
    words = path.strip("/").split("/")
    return (words[1] if words[0] == "apis" else ""), words[-1]


def _allowed(rules: list[Document]) -> set[tuple[str, str, str]]:
    assert all(rule.keys() == {"apiGroups", "resources", "verbs"} for rule in rules)
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_pod_has_no_more_of_the_node_than_its_network_and_the_lock() -> None:
    security = CONTAINER["securityContext"]
    assert security["capabilities"]["drop"] == ["ALL"]
    assert (security["privileged"], security["allowPrivilegeEscalation"]) == (False, False)
    assert security["readOnlyRootFilesystem"] is True
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert POD["hostNetwork"] is True
    assert not POD.keys() & {"hostPID", "hostIPC"}
    host_paths = [volume["hostPath"]["path"] for volume in POD["volumes"] if "hostPath" in volume]
    assert host_paths == ["/run/xtables.lock"]


def test_more_rights_end_before_the_agent_starts() -> None:
    """A container that is privileged sets sysctls, sees the configuration, and nothing else of the node."""
    assert INIT_CONTAINER["securityContext"]["privileged"] is True
    # It would otherwise go on beside the agent.
    assert "restartPolicy" not in INIT_CONTAINER
    assert INIT_CONTAINER["volumeMounts"] == [mount for mount in CONTAINER["volumeMounts"] if mount["name"] == "config"]


@pytest.fixture
def host() -> Iterator[Host]:
    with host_or_skip() as made:
        yield made


def with_capabilities(names: list[str], *arguments: str) -> list[str]:
    """rulegen as root of a container that has only these capabilities, and cannot get others."""
    bounding = ",".join(["-all", *(f"+{name.lower()}" for name in names)])
    return ["setpriv", f"--bounding-set={bounding}", "--inh-caps=-all", "--no-new-privs", RULEGEN, *arguments]


def without(name: str) -> list[str]:
    return [capability for capability in CAPABILITIES if capability != name]


@pytest.mark.kernel
@pytest.mark.parametrize("target", ["nftables", "iptables"])
def test_the_capabilities_suffice_on_both_targets(host: Host, target: str) -> None:
    host.nft("add table ip kube-proxy\n")
    host.run("iptables-nft", "-t", "nat", "-N", "KUBE-SERVICES")
    source = ("-f", CLUSTER, "--node", "node-a", "--target", target)
    for arguments, expected in [
        (("apply", *source), "applied"),
        (("diff", *source), "0 added, 0 changed, 0 removed"),
        (("cleanup", "--kube-proxy"), "removed ip kube-proxy\nremoved iptables-nft nat\n"),
        (("cleanup",), "removed "),
    ]:
        done = host.run(*with_capabilities(CAPABILITIES, *arguments), timeout=patience(60))
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout


@pytest.mark.kernel
def test_the_capabilities_suffice_for_a_ruleset_that_nft_loads_by_itself(host: Host, tmp_path: Path) -> None:
    from bench.clusters import NODE, Shape, manifest

    cluster = manifest(Shape(100), tmp_path)
    done = host.run(*with_capabilities(CAPABILITIES, "apply", "-f", str(cluster), "--node", NODE), timeout=patience(60))
    assert done.returncode == 0, done.stderr
    assert "applied" in done.stdout


@pytest.mark.kernel
def test_the_capabilities_suffice_for_the_agent(host: Host, tmp_path: Path) -> None:
    command = with_capabilities(CAPABILITIES, "agent", "-f", CLUSTER, "--node", "node-a")
    with (tmp_path / "log").open("wb") as log, host.namespace.entered():
        process = subprocess.Popen(command, stderr=log)
    with process:
        try:
            agent = Agent(process, tmp_path)
            agent.wait_for("sync mode=full", 30)
            host.nft("flush map ip rulegen frontends\n")
            agent.wait_for("repaired 6 entries", 30)
            process.send_signal(signal.SIGTERM)
            assert process.wait(patience(30)) == 0
        finally:
            process.kill()


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("missing", "arguments", "message"),
    [
        (
            "NET_ADMIN",
            ("apply", "-f", CLUSTER, "--node", "node-a"),
            "nftables needs root, or the capability CAP_NET_ADMIN",
        ),
        (
            "NET_ADMIN",
            ("agent", "-f", CLUSTER, "--node", "node-a"),
            "nftables needs root, or the capability CAP_NET_ADMIN",
        ),
        ("NET_ADMIN", ("cleanup",), "nftables needs root, or the capability CAP_NET_ADMIN"),
        (
            "NET_RAW",
            ("apply", "-f", CLUSTER, "--node", "node-a", "--target", "iptables"),
            "iptables needs root, or CAP_NET_ADMIN and CAP_NET_RAW",
        ),
    ],
)
def test_each_capability_is_needed_and_named_where_it_is_missing(
    host: Host, missing: str, arguments: tuple[str, ...], message: str
) -> None:
    done = host.run(*with_capabilities(without(missing), *arguments), timeout=patience(60))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"rulegen: reading and changing {message}"


@pytest.mark.kernel
def test_a_clean_up_that_could_not_look_at_a_target_does_not_say_that_nothing_is_left(host: Host) -> None:
    assert (
        host.run(
            RULEGEN, "apply", "-f", CLUSTER, "--node", "node-a", "--target", "iptables", timeout=patience(60)
        ).returncode
        == 0
    )
    done = host.run(*with_capabilities(without("NET_RAW"), "cleanup"), timeout=patience(60))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "rulegen: rules may be left: reading and changing iptables needs root, or CAP_NET_ADMIN and CAP_NET_RAW\n"
    )


# -- names of Services --

RECORDS = REPOSITORY / "deploy/records/rulegen-records.yaml"
OF_RECORDS: dict[str, Document] = {one["kind"]: one for one in yaml.safe_load_all(RECORDS.read_text())}
RECORDS_POD: Document = OF_RECORDS["Deployment"]["spec"]["template"]["spec"]
(RECORDS_CONTAINER,) = RECORDS_POD["containers"]


@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("kind", OF_RECORDS)
def test_manifests_of_records_follow_the_published_schemas(kind: str, version: str) -> None:
    kubernetes_validate.validate(OF_RECORDS[kind], version, strict=True)


def test_manifests_of_records_refer_to_each_other_and_to_nothing_else() -> None:
    names = {(one["metadata"]["name"], one["metadata"].get("namespace", "kube-system")) for one in OF_RECORDS.values()}
    assert names == {("rulegen-records", "kube-system")}
    for binding, role in (("ClusterRoleBinding", "ClusterRole"), ("RoleBinding", "Role")):
        assert OF_RECORDS[binding]["roleRef"] == {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": role,
            "name": "rulegen-records",
        }
        account = {"kind": "ServiceAccount", "name": "rulegen-records", "namespace": "kube-system"}
        assert OF_RECORDS[binding]["subjects"] == [account]
    assert RECORDS_POD["serviceAccountName"] == "rulegen-records"
    volumes = {volume["name"]: volume for volume in RECORDS_POD["volumes"]}
    assert volumes["config"]["configMap"] == {"name": "rulegen-records"}
    assert volumes["key"]["secret"]["secretName"] == "rulegen-records"
    assert volumes.keys() == {mount["name"] for mount in RECORDS_CONTAINER["volumeMounts"]}
    labels = OF_RECORDS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert OF_RECORDS[kind]["spec"]["selector"]["matchLabels"] == labels
    assert OF_RECORDS["Deployment"]["spec"]["replicas"] == 2
    # The DaemonSet of the nodes must not take these pods for its own.
    assert labels != BY_KIND["DaemonSet"]["spec"]["selector"]["matchLabels"]


def test_the_role_of_records_allows_what_is_asked_and_nothing_else(tmp_path: Path) -> None:
    paths = {path for resource in resources(("records",), "") for path in resource.paths}
    read = {(*_group_and_resource(path), verb) for path in paths for verb in ("list", "watch")}
    assert _allowed(OF_RECORDS["ClusterRole"]["rules"]) == read | {("events.k8s.io", "events", "create")}
    # Of Leases only the own one can be read and changed; who makes one cannot be bound to a name.
    create, own = OF_RECORDS["Role"]["rules"]
    assert (create["verbs"], own["verbs"], own["resourceNames"]) == (["create"], ["get", "update"], ["rulegen-records"])
    assert {(*rule["apiGroups"], *rule["resources"]) for rule in (create, own)} == {("coordination.k8s.io", "leases")}
    # As `make role` writes it.
    written = tmp_path / "deploy/records" / RECORDS.name
    written.parent.mkdir(parents=True)
    written.write_text(RECORDS.read_text().replace("resources: [services]", "resources: [secrets]"))
    _written_role(tmp_path, (REPOSITORY / "deploy/base/rulegen.yaml").read_text())
    assert written.read_text() == RECORDS.read_text()


def test_the_pod_of_records_has_nothing_of_its_node() -> None:
    security = RECORDS_CONTAINER["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert (security["privileged"], security["allowPrivilegeEscalation"]) == (False, False)
    assert security["readOnlyRootFilesystem"] is True
    assert RECORDS_POD["securityContext"]["runAsNonRoot"] is True
    assert not RECORDS_POD.keys() & {"hostPID", "hostIPC", "hostNetwork"}
    assert not [volume for volume in RECORDS_POD["volumes"] if "hostPath" in volume]


def test_the_image_of_records_is_of_this_version_and_has_what_it_needs() -> None:
    assert RECORDS_CONTAINER["image"] == f"rulegen:{__version__}"
    kustomization = yaml.safe_load((RECORDS.parent / "kustomization.yaml").read_text())
    assert kustomization["resources"] == [RECORDS.name]
    assert [(image["name"], image["newTag"]) for image in kustomization["images"]] == [("rulegen", __version__)]
    assert "/src[dns," in CONTAINERFILE


@pytest.mark.kernel
def test_the_agent_of_records_works_as_the_manifests_start_it(tmp_path: Path) -> None:
    """Without a capability, with the settings and the key that are mounted."""
    from tests.records.servers import SECRET, serving

    texts = {
        "/etc/rulegen/config/config.yaml": OF_RECORDS["ConfigMap"]["data"]["config.yaml"],
        "/etc/rulegen/key/tsig.key": OF_RECORDS["Secret"]["stringData"]["tsig.key"].replace("REPLACE-THIS", SECRET),
    }
    name, *arguments = RECORDS_CONTAINER["args"]
    assert (name, arguments) == ("agent", [f"--config={next(iter(texts))}"])
    files = {path: tmp_path / Path(path).name for path in texts}
    for path, text in texts.items():
        written = text.replace("192.0.2.53", "127.0.0.1").replace("[10.in-addr.arpa]", "[in-addr.arpa]")
        for other, file in files.items():
            written = written.replace(other, str(file))
        files[path].write_text(written)
        files[path].chmod(0o440)
    probes = [RECORDS_CONTAINER[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")]
    with serving("bind", tmp_path) as server, server.namespace.entered(), ApiServer() as api:
        api.put(service("web", ["10.96.0.10"]))
        kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
        command = with_capabilities([], name, f"--config={files[next(iter(texts))]}", "--kubeconfig", kubeconfig)
        with (tmp_path / "agent-log").open("wb") as log:
            process = subprocess.Popen(command, stderr=log, env={**os.environ, "POD_NAMESPACE": "kube-system"})
        with process:
            try:
                wait_until(lambda: server.short("web.default.svc.cluster.local", "A") == ["10.96.0.10"], 30.0)
                assert [ask(10256, path).status for path in probes] == [200, 200]
                assert b"rulegen_leader 1.0" in ask(10249, "/metrics").body
            finally:
                process.kill()
    assert "everybody" not in (tmp_path / "agent-log").read_text()


# -- what a person calls, as docs/deploy.md has it --

GUIDE = (REPOSITORY / "docs/deploy.md").read_text()
# Says what it was called with, and fails where it is told to.
KUBECTL = """#!/bin/sh
echo "$*" >>"$LOG"
case "$*" in *"$FAILING"*) exit 1 ;; esac
echo pod/one
"""


def _block(function: str) -> str:
    """The shell text of the guide that defines and calls a function."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", GUIDE, re.MULTILINE | re.DOTALL)
    (found,) = (block for block in blocks if f"{function}() (" in block)
    return str(found)


@pytest.mark.parametrize(
    ("function", "failing"),
    [
        ("there", "label"),
        ("there", "wait --for=delete pod -l k8s-app=kube-proxy"),
        ("there", "wait --for=condition=Ready pod -l app.kubernetes.io/name=rulegen"),
        ("back", "label"),
        ("back", "wait --for=delete pod -l app.kubernetes.io/name=rulegen"),
        ("back", "wait --for=condition=Ready pod -l k8s-app=kube-proxy"),
    ],
)
def test_the_walk_of_a_node_stops_at_the_first_failure(tmp_path: Path, function: str, failing: str) -> None:
    assert failing in _walk(tmp_path, function, failing)[-1]
    (tmp_path / "log").unlink()
    assert "rulegen cleanup" in _walk(tmp_path, function, "nothing")[-1]


def _walk(folder: Path, function: str, failing: str) -> list[str]:
    """The lines that kubectl was called with; the program of a pod is an argument of several lines."""
    kubectl = folder / "kubectl"
    kubectl.write_text(KUBECTL)
    kubectl.chmod(0o755)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "LOG": str(folder / "log"), "FAILING": failing}
    done = subprocess.run(["sh", "-c", _block(function)], env=environment, timeout=patience(60), check=False)
    assert (done.returncode == 0) is (failing == "nothing")
    return (folder / "log").read_text().splitlines()


@pytest.mark.kernel
def test_the_way_back_waits_for_kube_proxys_rules(host: Host) -> None:
    script = _block("back").split("sh -c '")[1].split("until synced")[0] + "synced"

    def has_synced() -> bool:
        return host.run("sh", "-c", script).returncode == 0

    assert not has_synced()
    host.nft("add table ip kube-proxy; add chain ip kube-proxy service-endpoints-check")
    assert not has_synced()
    host.nft("add chain ip kube-proxy service-2QRHZV4L-default/kubernetes/tcp/https")
    assert has_synced()
    host.nft("flush ruleset")
    for variant in ("nft", "legacy"):
        host.run(f"iptables-{variant}", "-t", "nat", "-N", "KUBE-SERVICES")
        assert not has_synced()
        host.run(f"iptables-{variant}", "-t", "nat", "-N", "KUBE-SVC-AAAAAAAAAAAAAAAA")
        assert has_synced()
        host.run(f"iptables-{variant}", "-t", "nat", "-X")


# -- how the agent is started --


def _parameters(name: str, arguments: list[str]) -> dict[str, Any]:
    """What the command of that name makes of the arguments."""
    command = main.get_command(click.Context(main), name)
    assert command is not None
    return command.make_context(name, arguments).params


def test_the_command_line_takes_the_arguments() -> None:
    name, *arguments = _arguments()
    parameters = _parameters(name, arguments)
    assert parameters.pop("node") == "the-node"
    assert {parameters.pop("config"), parameters.pop("kubeconfig")} == set(_mounted())
    assert parameters.pop("target") == "nftables"
    assert {name: value for name, value in parameters.items() if value} == {"iptables_variant": "auto"}


def test_the_command_line_takes_those_of_the_init_container() -> None:
    name, *arguments = INIT_CONTAINER["args"]
    parameters = _parameters(name, arguments)
    # A node that refuses must not keep the agent from its start.
    assert parameters == {"config": _mounted()[0], "tolerate_refusal": True}


def test_kube_proxys_mode_does_not_choose_the_target(tmp_path: Path) -> None:
    path = tmp_path / "config.conf"
    name, *arguments = _arguments()
    target = _parameters(name, arguments)["target"]
    for mode in ("iptables", "ipvs", ""):
        path.write_text(f"apiVersion: {API_VERSION}\nkind: {KIND}\nmode: '{mode}'\n")
        assert load_configuration(str(path), Target(target))[0].target is Target.NFTABLES


def test_other_commands_in_the_pod_find_the_same_api_server() -> None:
    assert f"--kubeconfig={_environment()['KUBECONFIG']}" in _arguments()


def _environment() -> dict[str, str]:
    """The variables of the container; the downward API gives the name of the node."""
    fields = {"spec.nodeName": "the-node"}
    return {
        variable["name"]: variable.get("value") or fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        for variable in CONTAINER["env"]
    }


def _arguments() -> list[str]:
    """As the kubelet expands them."""
    return [re.sub(r"\$\((\w+)\)", lambda match: _environment()[match[1]], word) for word in CONTAINER["args"]]


def _mounted() -> list[str]:
    """Where the ConfigMap's files are in the container."""
    (folder,) = (mount["mountPath"] for mount in CONTAINER["volumeMounts"] if mount["name"] == "config")
    return [f"{folder}/{name}" for name in BY_KIND["ConfigMap"]["data"]]


def test_the_configuration_is_read_without_a_word(tmp_path: Path) -> None:
    path = tmp_path / "config.conf"
    path.write_text(BY_KIND["ConfigMap"]["data"]["config.conf"])
    configuration, warnings = load_configuration(str(path))
    assert warnings == []
    assert configuration.target is Target.NFTABLES
    assert configuration.agent == AgentConfiguration(conntrack=KUBE_PROXY_CONNTRACK)


def test_the_kubeconfig_reaches_an_api_server_with_the_pods_own_account(tmp_path: Path) -> None:
    text = BY_KIND["ConfigMap"]["data"]["kubeconfig.conf"]
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "ca.crt").write_bytes(certificate_authority().cert_pem.bytes())
    with ApiServer() as server:
        for placeholder, value in (("https://APISERVER:6443", server.url), (str(SERVICE_ACCOUNT), str(tmp_path))):
            assert placeholder in text
            text = text.replace(placeholder, value)
        path = tmp_path / "kubeconfig.conf"
        path.write_text(text)
        api = connect(str(path))
        assert [list(page.items) for page in list_pages(api, kind_of(Service).resource())] == [[]]
        api.close()


def test_ports_are_those_that_the_agent_listens_on() -> None:
    agent = AgentConfiguration()
    healthz, metrics = agent.healthz_bind_address.port, agent.metrics_bind_address.port
    exposed = re.findall(r"^EXPOSE (.*)$", CONTAINERFILE, re.MULTILINE)
    assert [set(map(int, ports.split())) for ports in exposed] == [{healthz, metrics}]
    asked = {name: CONTAINER[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {(probe["host"], probe["port"]) for probe in asked.values()} == {("127.0.0.1", healthz)}
    assert {name: probe["path"] for name, probe in asked.items()} == {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",
        "readinessProbe": "/healthz",
    }
    assert "ports" not in CONTAINER


# -- image --


def _copied() -> list[tuple[list[str], str]]:
    """What the Containerfile copies from the repository, and to where."""
    lines = re.findall(r"^COPY (?!--from)(.*)$", CONTAINERFILE, re.MULTILINE)
    return [(words[:-1], words[-1]) for words in map(str.split, lines)]


def test_nothing_that_is_copied_is_kept_from_the_builder() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    copied = sorted(f"!{name}" for names, _ in _copied() for name in names)
    assert rules == ["*", *copied, "**/__pycache__"]


def test_a_wheel_can_be_built_from_what_is_copied(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for names, target in _copied():
        for source in (REPOSITORY / name for name in names):
            if source.is_dir():
                shutil.copytree(source, root / target.lstrip("/"), ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (root / target.lstrip("/")).mkdir(parents=True, exist_ok=True)
                shutil.copy(source, root / target.lstrip("/"))
    built = tmp_path / "built"
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", built], cwd=root / "src", check=True
    )
    assert [path.name.split("-")[:2] for path in built.iterdir()] == [["rulegen", __version__]]


def test_the_last_stage_has_what_runs_and_no_compiler() -> None:
    last = CONTAINERFILE.rpartition("\nFROM ")[2]
    installed = set(re.findall(r"[a-z][a-z0-9-]+", re.findall(r"apt-get install ([^&]*)", last)[0]))
    assert installed >= {"iptables", "nftables", "python3", "python3-nftables"}
    assert not installed & {"gcc", "python3-dev", "python3-venv"}
    assert f'ENTRYPOINT ["{re.findall(r"-m venv (?:.* )?(/[a-z/]+)", CONTAINERFILE)[0]}/bin/rulegen"]' in last
