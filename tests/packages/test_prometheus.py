"""Prometheus itself, with what is in deploy/monitoring: which targets it asks, and which alerts go off."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from rulegen.demo.namespaces import NetworkNamespace
from tests.agent.running import RULEGEN, manifest
from tests.builders import endpoint_slice, node, service
from tests.patience import patience

pytestmark = pytest.mark.packages

REPOSITORY = Path(__file__).parents[2]
MONITORING = REPOSITORY / "deploy/monitoring"
RULES: dict[str, Any] = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())["spec"]
PAGE = (REPOSITORY / "docs/deploy.md").read_text()


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where prometheus and promtool are, Debian's."""
    folder = tmp_path_factory.mktemp("prometheus")
    subprocess.run(["apt-get", "download", "-q", "prometheus"], cwd=folder, check=True)
    (package,) = folder.glob("prometheus_*.deb")
    subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)
    return folder / "usr/bin"


# An alert goes off when it should, and not before.
ALERTS = """
rule_files: [rules.yaml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {series: 'kubeproxy_sync_proxy_rules_service_changes_pending{node="a"}', values: '0 1 0 1 1 1 1'}
      - {series: 'rulegen_following{node="a", kind="Node"}', values: '1 0 0 0 0 0 0 0'}
      - {series: 'rulegen_drift_total{node="a"}', values: '0+1x8'}
    alert_rule_test:
      - {eval_time: 4m, alertname: RulegenChangesNotInForce, exp_alerts: []}
      - eval_time: 6m
        alertname: RulegenChangesNotInForce
        exp_alerts:
          - exp_labels: {severity: critical, node: a}
            exp_annotations:
              summary: Changes of Services are not in force on a
              description: 1 changes wait since two minutes. The agent's log says what the kernel refuses.
      - {eval_time: 5m, alertname: RulegenNotFollowing, exp_alerts: []}
      - eval_time: 6m
        alertname: RulegenNotFollowing
        exp_alerts:
          - exp_labels: {severity: critical, node: a, kind: Node}
            exp_annotations:
              summary: The API server does not answer a
              description: Node is not followed. The rules serve as they were; changes do not reach this node.
"""


def test_prometheus_takes_the_alerts(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(RULES))
    (tmp_path / "alerts.yaml").write_text(ALERTS)
    for words in (("check", "rules", "rules.yaml"), ("test", "rules", "alerts.yaml")):
        done = subprocess.run(
            [str(programs / "promtool"), *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


# ---- a Prometheus that runs ----


def _discovered() -> list[dict[str, Any]]:
    """The targets that a pod of the DaemonSet is, with what Prometheus's discovery says of each: every container that
    names no port is one, init containers too.

    Debian's Prometheus is built without that discovery; it is given what that would find.
    https://prometheus.io/docs/prometheus/latest/configuration/configuration/#pod
    """
    documents = yaml.safe_load_all((REPOSITORY / "deploy/base/rulegen.yaml").read_text())
    template = next(one for one in documents if one["kind"] == "DaemonSet")["spec"]["template"]
    prefix = "__meta_kubernetes_"
    labels = {f"{prefix}pod_label_{_as_label(key)}": value for key, value in template["metadata"]["labels"].items()}
    of_the_pod = {
        f"{prefix}namespace": "kube-system",
        f"{prefix}pod_name": "rulegen-x7k2p",
        f"{prefix}pod_ip": "127.0.0.1",
        f"{prefix}pod_phase": "Running",
        f"{prefix}pod_node_name": "node-1",
    }
    found = []
    for kind in ("containers", "initContainers"):
        for container in template["spec"][kind]:
            assert "ports" not in container
            of_the_container = {
                f"{prefix}pod_container_name": container["name"],
                f"{prefix}pod_container_init": str(kind == "initContainers").lower(),
            }
            found.append({"targets": ["127.0.0.1"], "labels": {**labels, **of_the_pod, **of_the_container}})
    return found


def _as_label(text: str) -> str:
    return re.sub("[^a-zA-Z0-9_]", "_", text)


def _of_the_monitor() -> list[dict[str, Any]]:
    """The relabelling that the operator makes of the PodMonitor: its own, then what is written there."""
    monitor = next(yaml.safe_load_all((MONITORING / "podmonitor.yaml").read_text()))["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    ((label, value),) = monitor["selector"]["matchLabels"].items()
    kept = f"__meta_kubernetes_pod_label_{_as_label(label)}"
    relabelled = [{"source_labels": [kept], "regex": value, "action": "keep"}]
    relabelled += [
        {"source_labels": [f"__meta_kubernetes_{name}"], "target_label": target}
        for name, target in (("namespace", "namespace"), ("pod_container_name", "container"), ("pod_name", "pod"))
    ]
    snake = [
        {re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", key): value for key, value in one.items()}
        for one in endpoint["relabelings"]
    ]
    return [*relabelled, *snake]


def _of_the_page() -> list[dict[str, Any]]:
    (block,) = re.findall(r"^```yaml\n(- job_name.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return list(yaml.safe_load(block)[0]["relabel_configs"])


@contextmanager
def _running(words: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdout=output, stderr=output)
    with process:
        try:
            yield process
        finally:
            process.kill()


def _asked(path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:9090/api/v1/{path}", timeout=5) as answer:
        return json.load(answer)["data"]


def _until(prometheus: subprocess.Popen[bytes], path: str, found: str) -> Any:
    """What it answers once that is in it, or when it has had its time."""
    end = time.monotonic() + patience(20)
    while True:
        assert prometheus.poll() is None
        try:
            answer = _asked(path)
        except OSError:
            answer = None
        if found in json.dumps(answer) or time.monotonic() > end:
            return answer
        time.sleep(0.2)


@pytest.mark.parametrize("relabelled", [_of_the_monitor(), _of_the_page()], ids=["PodMonitor", "docs/deploy.md"])
def test_each_agent_is_asked_once_and_its_alerts_go_off(
    programs: Path, tmp_path: Path, relabelled: list[dict[str, Any]]
) -> None:
    """A pod has a target for each container that names no port, those that have ended among them."""
    rules = json.loads(json.dumps(RULES))
    for rule in rules["groups"][0]["rules"]:
        rule.pop("for", None)
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    cluster = tmp_path / "cluster"
    cluster.mkdir()
    (cluster / "a.json").write_bytes(
        manifest(node("node-1"), service("web"), service("other"), endpoint_slice(["10.1.1.1"]))
    )
    (cluster / "b.yaml").write_text("{apiVersion: v1, kind: Service, metadata: {name: bad}, spec: {clusterIP: x}}")
    job = {"job_name": "rulegen", "static_configs": _discovered(), "relabel_configs": relabelled}
    configuration = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [job],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    words = [str(programs / "prometheus"), f"--config.file={tmp_path}/prometheus.yml"]
    words += [f"--storage.tsdb.path={tmp_path}/data", "--web.listen-address=127.0.0.1:9090"]
    agent = [RULEGEN, "agent", "-f", str(cluster), "--node", "node-1"]
    with (
        NetworkNamespace() as namespace,
        namespace.entered(),
        _running(agent, tmp_path / "agent.log"),
        _running(words, tmp_path / "prometheus.log") as prometheus,
    ):
        (target,) = _until(prometheus, "targets?state=active", '"health": "up"')["activeTargets"]
        assert (target["scrapeUrl"], target["health"]) == ("http://127.0.0.1:10249/metrics", "up")
        assert target["labels"]["node"] == "node-1"
        alerts = _until(prometheus, "alerts", "RulegenDuplicateFrontend")["alerts"]
        assert {one["labels"]["alertname"]: one["annotations"]["summary"] for one in alerts} == {
            "RulegenDuplicateFrontend": "Two Services claim one address and port",
            "RulegenInvalidObject": "An object, or a file, cannot be used on node-1",
        }
