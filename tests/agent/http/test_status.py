"""What the metrics port answers (SVC-88), over a socket; and that the settings it shows are those in force."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse
from wsgiref.validate import validator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from rulegen.agent.http.configz import configuration_document, own_document
from rulegen.agent.http.server import HttpServer
from rulegen.agent.http.status import status_application
from rulegen.agent.observers.metrics import Metrics
from rulegen.config import (
    AgentConfiguration,
    Configuration,
    Conntrack,
    Denial,
    DetectLocalMode,
    EgressSettings,
    IptablesLoader,
    NodeConfiguration,
    PodRange,
    PolicySettings,
    SocketAddress,
    Target,
)
from rulegen.configuration_file import parse_configuration, read_configuration
from rulegen.features import kinds_of
from tests.agent.asking import TIMEOUT, open_somewhere
from tests.builders import CONFIGURATION
from tests.patience import patience


@pytest.fixture
def port() -> Iterator[int]:
    metrics = Metrics(Target.NFTABLES, CONFIGURATION.families, kinds_of(()))
    application = status_application(Configuration(node=CONFIGURATION), metrics.registry, lambda: ["a line", "another"])
    with closing(HttpServer()) as server:
        yield open_somewhere(server, validator(application))


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=patience(TIMEOUT))
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def test_metrics_are_scraped(port: int) -> None:
    answer, body = ask(port, "/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = {family.name for family in text_string_to_metric_families(body.decode())}
    assert {"rulegen_build_info", "kubeproxy_sync_proxy_rules_duration_seconds"} <= families


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("application/openmetrics-text; version=1.0.0, text/plain;q=0.5", "application/openmetrics-text"),
        ("application/openmetrics-text; version=one", "application/openmetrics-text"),
        ("application/openmetrics-text; version=1.0.0; escaping=x", "application/openmetrics-text"),
        ("application/openmetrics-text; version=", "application/openmetrics-text"),
        (";;,=,", "text/plain"),
        ("*/*", "text/plain"),
    ],
)
def test_the_format_is_the_one_that_is_asked_for(port: int, accept: str, content_type: str) -> None:
    answer, body = ask(port, "/metrics", Accept=accept)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith(content_type)
    assert body.endswith(b"# EOF\n") is (content_type != "text/plain")


@pytest.mark.parametrize(("path", "expected"), [("/healthz", b"ok"), ("/proxyMode", b"nftables")])
def test_svc_88_words(port: int, path: str, expected: bytes) -> None:
    answer, body = ask(port, path + "?verbose")
    assert (answer.status, body) == (200, expected)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_svc_88_the_settings_in_force(port: int) -> None:
    answer, body = ask(port, "/configz")
    assert answer.headers["Content-Type"] == "application/json"
    shown = json.loads(body)["kubeproxy.config.k8s.io"]
    assert shown["hostnameOverride"] == "node-1"
    assert shown["clusterCIDR"] == "10.244.0.0/16,fd00:10:244::/56"
    assert shown["nftables"]["syncPeriod"] == "30s"
    assert shown["healthzBindAddress"] == "0.0.0.0:10256"


def test_the_last_lines_of_the_log(port: int) -> None:
    answer, body = ask(port, "/log")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert body == b"a line\nanother\n"


@pytest.mark.parametrize("path", ["/", "/metrics/slis", "/flagz", "/statusz", "/debug/pprof/", "/configz/"])
def test_what_is_not_there(port: int, path: str) -> None:
    assert ask(port, path)[0].status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_done_there(port: int, method: str) -> None:
    answer, _ = ask(port, "/configz", method)
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/configz", "/nowhere"])
def test_head_is_the_same_without_a_body(port: int, path: str) -> None:
    asked, body = ask(port, path)
    answer, nothing = ask(port, path, "HEAD")
    assert (answer.status, nothing) == (asked.status, b"")
    assert answer.headers["Content-Type"] == asked.headers["Content-Type"]
    assert int(answer.headers["Content-Length"]) > 0
    assert len(body) > 0


# The settings, and those read from what is shown.

SECONDS = st.integers(1, 10**9).map(lambda milliseconds: milliseconds / 1000)
SOCKETS = st.builds(SocketAddress, st.sampled_from(["127.0.0.1", "192.0.2.1", "::", "::1"]), st.integers(1, 65535))
INTERFACES = {DetectLocalMode.BRIDGE_INTERFACE: "cni0", DetectLocalMode.INTERFACE_NAME_PREFIX: "veth"}


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    mode = draw(st.sampled_from(DetectLocalMode))
    sync_period = draw(SECONDS)
    node = NodeConfiguration(
        node_name="node-1",
        bind_address=draw(st.sampled_from(["", "192.0.2.1", "2001:db8::1"])),
        detect_local_mode=mode,
        detect_local_interface=INTERFACES.get(mode, ""),
        cluster_cidrs=draw(st.sampled_from([(), ("10.0.0.0/8",), ("fd00::/8", "10.0.0.0/8")])),
        nodeport_addresses=draw(st.sampled_from([("primary",), ("10.0.0.0/8", "fd00::/8")])),
        masquerade_all=draw(st.booleans()),
        masquerade_bit=draw(st.integers(0, 31)),
    )
    agent = AgentConfiguration(
        kubeconfig=draw(st.sampled_from(["", "/etc/kubeconfig"])),
        healthz_bind_address=draw(SOCKETS),
        metrics_bind_address=draw(SOCKETS),
        bind_address_hard_fail=draw(st.booleans()),
        sync_period=sync_period,
        min_sync_period=draw(st.sampled_from([sync_period, 0.001])),
        conntrack=Conntrack(
            max_per_core=draw(st.integers(0, 2**31 - 1)),
            minimum=draw(st.integers(0, 2**31 - 1)),
            tcp_established_timeout=draw(SECONDS),
            tcp_be_liberal=draw(st.booleans()),
            udp_timeout=draw(st.sampled_from([0.0, 1e-9, 30.0])),
        ),
    )
    return Configuration(target=draw(st.sampled_from(Target)), node=node, agent=agent)


@st.composite
def own_configurations(draw: st.DrawFn) -> Configuration:
    """With what only a RulegenConfiguration says."""
    base = draw(configurations())
    policies = PolicySettings(
        denial=draw(st.sampled_from(Denial)),
        strict=draw(st.booleans()),
        fail_closed=draw(st.booleans()),
        node_input=draw(st.booleans()),
        log_group=draw(st.sampled_from([None, 0, 7])),
        ipsets=draw(st.booleans()),
    )
    egress = EgressSettings(config_file=draw(st.sampled_from(["", "/a"])), pod_range=draw(st.sampled_from(PodRange)))
    return replace(
        base,
        features=draw(st.sampled_from([(), ("network-policies", "host-ports")])),
        iptables_driver=draw(st.sampled_from(IptablesLoader)),
        node=replace(base.node, policies=policies, egress=egress),
        agent=replace(base.agent, accelerate=draw(st.booleans())),
    )


@given(configurations())
def test_what_is_shown_reads_back_as_the_settings_in_force(configuration: Configuration) -> None:
    document = json.loads(json.dumps(configuration_document(configuration)))
    fields = {name: value for name, value in document.items() if name not in ("apiVersion", "kind")}
    assert read_configuration(fields, "shown") == (configuration, [])


@given(own_configurations())
def test_both_documents_together_read_back_as_the_settings(configuration: Configuration) -> None:
    documents = (configuration_document(configuration), own_document(configuration))
    text = "".join(f"---\n{json.dumps(document)}\n" for document in documents)
    assert parse_configuration(text, "shown") == (configuration, [])
