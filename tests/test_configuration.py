"""Every field of a KubeProxyConfiguration, each limit of SVC-97, what is warned of, and what is refused in a line."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rulegen.agent.log.log import level_of_verbosity
from rulegen.config import (
    KUBE_PROXY_CONNTRACK,
    AgentConfiguration,
    Configuration,
    Conntrack,
    DetectLocalMode,
    Family,
    IptablesLoader,
    LeaderElection,
    LogFormat,
    NodeConfiguration,
    SocketAddress,
    Target,
)
from rulegen.configuration_fields import Unexpected, duration
from rulegen.configuration_file import (
    API_VERSION,
    KIND,
    OWN_API_VERSION,
    OWN_KIND,
    for_families,
    load_configuration,
    node_configuration,
    read_configuration,
)
from rulegen.errors import InputError
from rulegen.services.node import node_settings

BOTH = (Family.IPV4, Family.IPV6)
KINDS = "KubeProxyConfiguration or RulegenConfiguration or ConfigMap"

# What kubeadm puts into a cluster's ConfigMap: nearly every field, none of them set.
KUBEADM = """\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: ""
mode: ""
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: ""
  rootHnsEndpointName: ""
  sourceVip: ""
"""


def _read(fields: dict[Any, Any], target: Target | None = None) -> Configuration:
    return read_configuration(fields, "kp.yaml", target)[0]


def _warnings(fields: dict[Any, Any], target: Target | None = None) -> list[str]:
    return read_configuration(fields, "kp.yaml", target)[1]


def _faults(fields: dict[Any, Any], target: Target | None = None) -> list[str]:
    with pytest.raises(InputError) as raised:
        read_configuration(fields, "kp.yaml", target)
    return str(raised.value).splitlines()


def _nested(path: str, value: object) -> dict[Any, Any]:
    for name in reversed(path.split(".")):
        value = {name: value}
    assert isinstance(value, dict)
    return value


def _load(folder: Path, text: str | bytes, name: str = "kp.yaml") -> tuple[Configuration, list[str]]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_configuration(str(path))


def _refusal(folder: Path, text: str | bytes, name: str = "kp.yaml") -> str:
    with pytest.raises(InputError) as raised:
        _load(folder, text, name)
    return str(raised.value).replace(f"{folder}/", "")


# -- files --


def test_kubeadms_file_is_the_defaults_without_a_warning(tmp_path: Path) -> None:
    configuration, warnings = _load(tmp_path, KUBEADM)
    assert warnings == []
    assert configuration == Configuration(
        node=NodeConfiguration(cluster_cidrs=("10.244.0.0/16",)),
        agent=AgentConfiguration(kubeconfig="/var/lib/kube-proxy/kubeconfig.conf", conntrack=KUBE_PROXY_CONNTRACK),
    )


def test_defaults_are_those_of_rule_97() -> None:
    agent = _read({}).agent
    assert (agent.sync_period, agent.min_sync_period) == (30, 0.02)
    assert _read({"mode": "iptables"}).agent.min_sync_period == 1
    assert agent.healthz_bind_address == ("0.0.0.0", 10256)  # noqa: S104
    assert agent.metrics_bind_address == ("127.0.0.1", 10249)
    assert agent.conntrack == KUBE_PROXY_CONNTRACK
    assert (KUBE_PROXY_CONNTRACK.max_per_core, KUBE_PROXY_CONNTRACK.minimum) == (32768, 131072)
    assert _read({}).node.masquerade_bit == 14
    assert _read({}).target is Target.NFTABLES


@pytest.mark.parametrize("nothing", [None, "", {}])
def test_conntrack_settings_of_nobody_are_kube_proxys_and_those_of_0_leave_the_hosts(nothing: object) -> None:
    """SVC-71 and D11: null is not 0."""
    assert _read({"conntrack": nothing} if nothing != "" else {}).agent.conntrack == KUBE_PROXY_CONNTRACK
    fields = {"maxPerCore": nothing or None, "tcpEstablishedTimeout": nothing or None, "tcpCloseWaitTimeout": "0s"}
    found = _read({"conntrack": fields}).agent.conntrack
    assert found == msgspec.structs.replace(KUBE_PROXY_CONNTRACK, tcp_close_wait_timeout=0.0)
    left = {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
    assert _read({"conntrack": left}).agent.conntrack == Conntrack()


def test_json_is_read_whatever_the_files_name(tmp_path: Path) -> None:
    text = json.dumps({"apiVersion": API_VERSION, "kind": KIND, "clusterCIDR": "10.0.0.0/8"})
    for name in ("kp.json", "config.conf"):
        assert _load(tmp_path, text, name)[0].node.cluster_cidrs == ("10.0.0.0/8",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "kp.yaml: holds no object"),
        ("# nothing\n", "kp.yaml: holds no object"),
        ("5", "kp.yaml: expected an object, got 5"),
        ("- a\n", "kp.yaml: expected an object, got an array"),
        ("a: [\n", "kp.yaml:2:1: invalid YAML: did not find expected node content"),
        ("a: 1\na: 2\n", 'kp.yaml:2:1: invalid YAML: the key "a" is set twice'),
        (b"a: \xff\n", "kp.yaml:1:4: not UTF-8 (invalid start byte)"),
        ("a: 1\n---\nb: 2\n", f"kp.yaml: kind: expected {KINDS}, got nothing"),
        ("kind: KubeProxyConfiguration\n", f"kp.yaml: apiVersion: expected {API_VERSION}, got nothing"),
        (f"apiVersion: {API_VERSION}\nkind: ConfigMap\n", f'kp.yaml: apiVersion: expected v1, got "{API_VERSION}"'),
        ("apiVersion: v1\nkind: List\nitems: []\n", f'kp.yaml: kind: expected {KINDS}, got "List"'),
        ("apiVersion: v1\nkind: [ConfigMap]\n", f"kp.yaml: kind: expected {KINDS}, got an array"),
        (f"apiVersion: v1\nkind: {KIND}\n", f'kp.yaml: apiVersion: expected {API_VERSION}, got "v1"'),
    ],
)
def test_what_is_no_such_file_is_one_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert _refusal(tmp_path, text) == message


# -- a RulegenConfiguration beside it --

HEAD = f"apiVersion: {API_VERSION}\nkind: {KIND}\n"
OWN = f"apiVersion: {OWN_API_VERSION}\nkind: {OWN_KIND}\n"


@pytest.mark.parametrize(
    ("field", "accelerate"), [("", False), ("accelerate: true", True), ("accelerate: null", False)]
)
def test_what_kube_proxy_has_no_field_for(tmp_path: Path, field: str, accelerate: bool) -> None:
    kube_proxy = f"{HEAD}clusterCIDR: 10.0.0.0/8\n"
    for text in (f"{kube_proxy}---\n{OWN}{field}\n", f"---\n{OWN}{field}\n---\n# nothing\n---\n{kube_proxy}"):
        configuration, warnings = _load(tmp_path, text)
        assert configuration.agent.accelerate is accelerate
        assert configuration.node.cluster_cidrs == ("10.0.0.0/8",)
        assert configuration.agent.conntrack == KUBE_PROXY_CONNTRACK
        assert warnings == []


@pytest.mark.parametrize(
    ("field", "loader"),
    [
        ("", IptablesLoader.RESTORE),
        ("iptablesDriver: python-iptables", IptablesLoader.PYTHON),
        ("iptablesDriver: iptables-restore", IptablesLoader.RESTORE),
    ],
)
def test_what_loads_rules_into_iptables(tmp_path: Path, field: str, loader: IptablesLoader) -> None:
    configuration, warnings = _load(tmp_path, f"{OWN}{field}\n")
    assert (configuration.iptables_driver, warnings) == (loader, [])


def test_when_another_replica_takes_over(tmp_path: Path) -> None:
    assert _load(tmp_path, OWN)[0].agent.leader_election == LeaderElection(
        lease_duration=15.0, renew_deadline=10.0, retry_period=2.0
    )
    text = f"{OWN}leaderElection: {{leaseDuration: 1m, renewDeadline: 40s, retryPeriod: 500ms}}\n"
    assert _load(tmp_path, text)[0].agent.leader_election == LeaderElection(
        lease_duration=60.0, renew_deadline=40.0, retry_period=0.5
    )


@pytest.mark.parametrize(
    ("text", "zones"),
    [
        ("", ("in-addr.arpa.", "ip6.arpa.")),
        ("[]", ()),
        ("[10.0.0.0/8, 2.1.in-addr.arpa]", ("10.in-addr.arpa.", "2.1.in-addr.arpa.")),
    ],
)
def test_no_reverse_zones_are_another_thing_than_none_stated(tmp_path: Path, text: str, zones: tuple[str, ...]) -> None:
    configuration, _ = _load(tmp_path, f"{OWN}records: {{{f'reverseZones: {text}' if text else ''}}}\n")
    assert configuration.node.records.reverse_zones == zones


def test_it_can_stand_alone_and_then_nobody_has_asked_for_kube_proxys_sysctls(tmp_path: Path) -> None:
    for text in (f"{OWN}accelerate: true\n", json.dumps({"apiVersion": OWN_API_VERSION, "kind": OWN_KIND})):
        configuration, warnings = _load(tmp_path, text)
        assert configuration.agent.conntrack == Conntrack()
        assert warnings == []


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (f"{OWN}acelerate: true\n", ["kp.yaml: RulegenConfiguration: acelerate: unknown field"]),
        (f"{OWN}mode: nftables\n", ["kp.yaml: RulegenConfiguration: mode: unknown field"]),
        (f"{OWN}metadata: {{name: x}}\n", ["kp.yaml: RulegenConfiguration: metadata.name: unknown field"]),
        (f"{OWN}accelerate: 'yes'\n", ['kp.yaml: RulegenConfiguration: accelerate: expected bool, got "yes"']),
        (
            f"{OWN}iptablesDriver: iptables\n",
            [
                "kp.yaml: RulegenConfiguration: iptablesDriver: expected iptables-restore or python-iptables, got "
                '"iptables"'
            ],
        ),
        (
            f"{OWN}leaderElection: {{leaseDuration: 5s}}\n",
            [
                "kp.yaml: RulegenConfiguration: leaderElection: expected leaseDuration > renewDeadline > retryPeriod > "
                "0, got 5 s, 10 s, 2 s"
            ],
        ),
        (f"{OWN}accelerate: 1\n", ["kp.yaml: RulegenConfiguration: accelerate: expected bool, got 1"]),
        (
            f"{OWN}accelerate: {{}}\nspeed: 5\n---\n{HEAD}mode: fast\n",
            [
                'kp.yaml: mode: expected nftables or iptables, got "fast"',
                "kp.yaml: RulegenConfiguration: accelerate: expected bool, got an object",
                "kp.yaml: RulegenConfiguration: speed: unknown field",
            ],
        ),
        # One fault, one line: what is in a value that is none is not told besides.
        (
            f"{OWN}features: {{a: b}}\naccelerate: {{c: d, e: f}}\nnetworkPolicies: {{denial: {{Drop: 1}}}}\n",
            [
                "kp.yaml: RulegenConfiguration: accelerate: expected bool, got an object",
                "kp.yaml: RulegenConfiguration: features: expected an array, got an object",
                "kp.yaml: RulegenConfiguration: networkPolicies.denial: expected str, got an object",
            ],
        ),
        (f"{OWN}---\n{HEAD}---\n{OWN}", ["kp.yaml: expected one RulegenConfiguration, got another one"]),
        (f"{HEAD}---\n{HEAD}", ["kp.yaml: expected one KubeProxyConfiguration, got another one"]),
        (
            f"apiVersion: rulegen.io/v1\nkind: {OWN_KIND}\n",
            [f'kp.yaml: apiVersion: expected {OWN_API_VERSION}, got "rulegen.io/v1"'],
        ),
    ],
)
def test_it_is_strict(tmp_path: Path, text: str, lines: list[str]) -> None:
    assert _refusal(tmp_path, text).splitlines() == lines


def test_a_fields_name_in_it_is_printable(tmp_path: Path) -> None:
    assert _refusal(tmp_path, f'{OWN}"\\e[31m": 1\n').isprintable()


# -- a ConfigMap around them --


def _config_map(data: object, **fields: object) -> str:
    return json.dumps(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-proxy"}, "data": data} | fields
    )


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_config_map_is_what_its_key_says(tmp_path: Path, mark: str) -> None:
    inner = f"{mark}{HEAD}clusterCIDR: 10.0.0.0/8\nfuture: 1\n---\n{OWN}accelerate: true\n"
    text = _config_map({"config.conf": inner, "kubeconfig.conf": "apiVersion: v1"})
    as_yaml = yaml.safe_dump(json.loads(text))
    for form in (text, as_yaml, f"\ufeff{as_yaml}"):
        configuration, warnings = _load(tmp_path, form)
        assert configuration.node.cluster_cidrs == ("10.0.0.0/8",)
        assert configuration.agent.accelerate
        (warning,) = warnings
        assert warning.endswith("kp.yaml: data.config.conf: future: unknown field; has no effect")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_config_map({"kubeconfig.conf": ""}), 'data: expected the key config.conf with a text, got "kubeconfig.conf"'),
        (_config_map({}), "data: expected the key config.conf with a text, got nothing"),
        (_config_map(None), "data: expected the key config.conf with a text, got nothing"),
        (_config_map({"config.conf": 5}), "data: expected the key config.conf with a text, got 5"),
        (_config_map({"config.conf": ""}), "data.config.conf: holds no object"),
        (_config_map({"config.conf": "a: 1\na: 2"}), 'data.config.conf:2:1: invalid YAML: the key "a" is set twice'),
        (
            _config_map({"config.conf": _config_map({})}),
            f'data.config.conf: kind: expected {KIND} or {OWN_KIND}, got "',
        ),
        (
            _config_map({"config.conf": f"{HEAD}mode: x"}),
            'data.config.conf: mode: expected nftables or iptables, got "x"',
        ),
        (f"{_config_map({'config.conf': HEAD})}\n---\n{OWN}", "expected nothing beside the ConfigMap, got a Rul"),
    ],
)
def test_another_config_map_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    refusal = _refusal(tmp_path, text)
    assert refusal.startswith(f"kp.yaml: {message}")
    assert refusal.isprintable()


def test_the_folder_of_a_mounted_config_map_says_which_file_is_meant(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r": expected a file, got a folder$"):
        load_configuration(str(tmp_path))
    (tmp_path / "config.conf").write_text(HEAD)
    with pytest.raises(InputError, match=r": expected a file, got a folder; it holds config\.conf: name that$"):
        load_configuration(str(tmp_path))


@pytest.mark.parametrize(("text", "message"), [("", "holds no object"), ("{", "invalid JSON"), ("[]", "an object")])
def test_what_is_no_such_json_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    refusal = _refusal(tmp_path, text, "kp.json")
    assert refusal.startswith("kp.json")
    assert message in refusal
    assert "\n" not in refusal


def test_a_path_without_a_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.yaml: No such file or directory$"):
        load_configuration(str(tmp_path / "missing.yaml"))
    with pytest.raises(InputError, match="expected a file, got a folder"):
        load_configuration(str(tmp_path))


def test_all_faults_are_reported_a_line_each(tmp_path: Path) -> None:
    fields = "clusterCIDR: pods\nnftables: {masqueradeBit: 32, syncPeriod: soon}\nbindAddress: 5\nconntrack: []\n"
    assert _refusal(tmp_path, f"apiVersion: {API_VERSION}\nkind: {KIND}\n{fields}").splitlines() == [
        "kp.yaml: bindAddress: expected str, got 5",
        "kp.yaml: nftables.masqueradeBit: expected 0 to 31, got 32",
        'kp.yaml: nftables.syncPeriod: expected a duration such as "30s" or "1h5m", not negative, got "soon"',
        'kp.yaml: clusterCIDR: expected one CIDR, or an IPv4 and an IPv6 one with a comma between, got "pods"',
        "kp.yaml: conntrack: expected an object, got an array",
    ]


# -- fields --


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"bindAddress": "192.0.02.1"}, {"bind_address": "192.0.2.1"}),
        ({"bindAddress": "2001:DB8::0:1"}, {"bind_address": "2001:db8::1"}),
        ({"bindAddress": "0.0.0.0"}, {"bind_address": ""}),  # noqa: S104
        ({"bindAddress": "::"}, {"bind_address": ""}),
        ({"hostnameOverride": "  Node-1.Example.ORG\n"}, {"node_name": "node-1.example.org"}),
        ({"clusterCIDR": "010.244.7.0/16"}, {"cluster_cidrs": ("10.244.0.0/16",)}),
        ({"clusterCIDR": "FD00::1/48, 10.244.0.0/16"}, {"cluster_cidrs": ("fd00::/48", "10.244.0.0/16")}),
        ({"clusterCIDR": "::ffff:10.244.0.0/112"}, {"cluster_cidrs": ("10.244.0.0/16",)}),
        ({"nodePortAddresses": ["::ffff:192.168.1.0/120"]}, {"nodeport_addresses": ("192.168.1.0/24",)}),
        ({"bindAddress": "::ffff:192.0.2.1"}, {"bind_address": "192.0.2.1"}),
        ({"nodePortAddresses": []}, {"nodeport_addresses": ("primary",)}),
        ({"nodePortAddresses": ["primary"]}, {"nodeport_addresses": ("primary",)}),
        (
            {"nodePortAddresses": ["192.168.001.1/24", "2001:DB8::/32"]},
            {"nodeport_addresses": ("192.168.1.0/24", "2001:db8::/32")},
        ),
        ({"nftables": {"masqueradeAll": True, "masqueradeBit": 0}}, {"masquerade_all": True, "masquerade_bit": 0}),
        ({"nftables": {"masqueradeBit": 31}}, {"masquerade_bit": 31}),
        ({"detectLocalMode": "NodeCIDR"}, {"detect_local_mode": DetectLocalMode.NODE_CIDR}),
        (
            {"detectLocalMode": "BridgeInterface", "detectLocal": {"bridgeInterface": "br-0.100_x@y=abc"[:15]}},
            {"detect_local_mode": DetectLocalMode.BRIDGE_INTERFACE, "detect_local_interface": "br-0.100_x@y=ab"},
        ),
        (
            {"detectLocalMode": "InterfaceNamePrefix", "detectLocal": {"interfaceNamePrefix": "cali"}},
            {"detect_local_mode": DetectLocalMode.INTERFACE_NAME_PREFIX, "detect_local_interface": "cali"},
        ),
        # An interface counts only in its mode.
        ({"detectLocal": {"bridgeInterface": "cni0"}}, {"detect_local_interface": ""}),
    ],
)
def test_fields_of_the_node(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert _read(fields).node == msgspec.structs.replace(NodeConfiguration(), **expected)
    assert _warnings(fields) == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"clientConnection": {"kubeconfig": "/etc/k"}}, {"kubeconfig": "/etc/k"}),
        ({"healthzBindAddress": "[::1]:80"}, {"healthz_bind_address": SocketAddress("::1", 80)}),
        ({"healthzBindAddress": "127.0.00.1"}, {"healthz_bind_address": SocketAddress("127.0.0.1", 10256)}),
        ({"metricsBindAddress": "FD00::1"}, {"metrics_bind_address": SocketAddress("fd00::1", 10249)}),
        ({"metricsBindAddress": "127.0.0.1:65535"}, {"metrics_bind_address": SocketAddress("127.0.0.1", 65535)}),
        (
            {"bindAddress": "::"},
            {
                "healthz_bind_address": SocketAddress("::", 10256),
                "metrics_bind_address": SocketAddress("::1", 10249),
            },
        ),
        ({"bindAddressHardFail": True}, {"bind_address_hard_fail": True}),
        ({"nftables": {"syncPeriod": "1h5m", "minSyncPeriod": "100ms"}}, {"sync_period": 3900, "min_sync_period": 0.1}),
        ({"nftables": {"syncPeriod": "1s"}}, {"sync_period": 1.0}),
        (
            {
                "conntrack": {
                    "maxPerCore": 1,
                    "min": 0,
                    "tcpEstablishedTimeout": "24h",
                    "tcpCloseWaitTimeout": "1h",
                    "tcpBeLiberal": True,
                    "udpTimeout": "30s",
                    "udpStreamTimeout": "2m",
                }
            },
            {
                "conntrack": Conntrack(
                    max_per_core=1,
                    minimum=0,
                    tcp_established_timeout=86400.0,
                    tcp_close_wait_timeout=3600.0,
                    tcp_be_liberal=True,
                    udp_timeout=30.0,
                    udp_stream_timeout=120.0,
                )
            },
        ),
    ],
)
def test_fields_of_the_agent(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    agent = _read(fields).agent
    for name, value in expected.items():
        assert getattr(agent, name) == value
    assert _warnings(fields) == []


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("mode", "ipvs", "nftables or iptables"),
        ("mode", "kernelspace", "nftables or iptables"),
        ("mode", 5, "str"),
        ("bindAddress", "::ffff:192.0.2", "an IP address"),
        ("bindAddress", "node-1", "an IP address"),
        ("hostnameOverride", "node_1", "a node's name (a DNS subdomain name)"),
        ("hostnameOverride", "  ", "a node's name (a DNS subdomain name)"),
        ("hostnameOverride", "a" * 254, "a node's name (a DNS subdomain name)"),
        ("detectLocalMode", "clusterCIDR", "ClusterCIDR or NodeCIDR or BridgeInterface or InterfaceNamePrefix"),
        ("detectLocal.bridgeInterface", "a" * 16, "at most 15 letters, digits or . _ - @ = of an interface's name"),
        ("detectLocal.interfaceNamePrefix", "a" * 15, "at most 14 letters, digits or . _ - @ = of an interface's name"),
        ("detectLocal", 5, "an object"),
        ("nodePortAddresses", "primary", "an array"),
        ("nftables.masqueradeBit", -1, "0 to 31"),
        ("nftables.masqueradeBit", 32, "0 to 31"),
        ("iptables.masqueradeBit", 32, "0 to 31"),
        ("nftables.masqueradeBit", "14", "int"),
        ("nftables.masqueradeBit", True, "int"),
        ("nftables.masqueradeBit", 14.0, "int"),
        ("nftables.masqueradeAll", "true", "bool"),
        ("nftables.masqueradeAll", 1, "bool"),
        ("nftables.syncPeriod", 30, "str"),
        ("configSyncPeriod", "-1s", 'a duration such as "30s" or "1h5m", not negative'),
        ("oomScoreAdj", -1001, "-1000 to 1000"),
        ("oomScoreAdj", 1001, "-1000 to 1000"),
        ("clientConnection.burst", -1, "0 to 2147483647"),
        ("clientConnection.qps", "5", "a number"),
        ("clientConnection.qps", float("inf"), "a number"),
        ("clientConnection.kubeconfig", 5, "str"),
        ("conntrack.maxPerCore", -1, "0 to 2147483647"),
        ("conntrack.min", 2**31, "0 to 2147483647"),
        ("conntrack.tcpBeLiberal", "yes", "bool"),
    ],
)
def test_a_field_that_cannot_be_used_is_one_line(path: str, value: object, expected: str) -> None:
    (line,) = _faults(_nested(path, value))
    assert line.startswith(f"kp.yaml: {path}: expected {expected}, got ")


def test_a_number_out_of_all_bounds_is_one_line() -> None:
    assert _faults({"clientConnection": {"qps": 10**400}}) == [
        "kp.yaml: clientConnection.qps: expected a number, got a number out of range"
    ]


@pytest.mark.parametrize("field", ["conntrack.tcpEstablishedTimeout", "conntrack.tcpCloseWaitTimeout"])
@pytest.mark.parametrize("value", ["-1s", "soon"])
def test_timeouts_are_not_negative(field: str, value: str) -> None:
    assert len(_faults(_nested(field, value))) == 1


@pytest.mark.parametrize("field", ["healthzBindAddress", "metricsBindAddress"])
@pytest.mark.parametrize(
    "value", [":80", "localhost:80", "127.0.0.1:0", "127.0.0.1:65536", "::1:80:x", "[::1]", "1:2:3"]
)
def test_servers_listen_on_an_address_and_a_port(field: str, value: str) -> None:
    (line,) = _faults({field: value})
    assert line.startswith(f"kp.yaml: {field}: expected IP:PORT")


@pytest.mark.parametrize("stanza", ["nftables", "iptables"])
def test_the_minimum_period_is_not_above_the_period(stanza: str) -> None:
    assert _faults({stanza: {"syncPeriod": "5s", "minSyncPeriod": "6s"}}) == [
        f"kp.yaml: {stanza}.minSyncPeriod: expected at most the syncPeriod, 5 s, got 6 s"
    ]
    assert _warnings({stanza: {"syncPeriod": "1s", "minSyncPeriod": "1s"}, "mode": stanza}) == []
    # The default counts too, as in kube-proxy.
    assert len(_faults({stanza: {"syncPeriod": "10ms"}})) == 1


@pytest.mark.parametrize(
    "value",
    ["pods", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/8,10.1.0.0/16", "10.0.0.0/8,fd00::/8,fc00::/8", "10.0.0.0/8,"],
)
def test_the_cluster_has_one_cidr_or_one_of_each_family(value: str) -> None:
    (line,) = _faults({"clusterCIDR": value})
    assert line.startswith("kp.yaml: clusterCIDR: expected one CIDR, or an IPv4 and an IPv6 one")


def test_nodeport_addresses_are_cidrs_or_primary_alone() -> None:
    for several in (["primary", "10.0.0.0/8"], ["primary", "primary"]):
        assert _faults({"nodePortAddresses": several}) == [
            'kp.yaml: nodePortAddresses: expected CIDRs or "primary" alone, got more than "primary"'
        ]
    assert _faults({"nodePortAddresses": ["10.0.0.0/8", "all", 5, ""]}) == [
        'kp.yaml: nodePortAddresses[1]: expected a CIDR or "primary", got "all"',
        "kp.yaml: nodePortAddresses[2]: expected str, got 5",
        'kp.yaml: nodePortAddresses[3]: expected a CIDR or "primary", got ""',
    ]


def test_a_family_without_an_entry_is_not_restricted() -> None:
    """SVC-60."""
    node = _read({"nodePortAddresses": ["192.0.2.0/24"]}).node
    settings = node_settings(node, None, [])
    assert settings[Family.IPV4].nodeport_addresses == ("192.0.2.0/24",)
    assert settings[Family.IPV6].nodeport_addresses == ("::/0",)


@pytest.mark.parametrize(
    ("mode", "field"), [("BridgeInterface", "bridgeInterface"), ("InterfaceNamePrefix", "interfaceNamePrefix")]
)
def test_a_mode_by_interface_needs_its_interface(mode: str, field: str) -> None:
    """SVC-49."""
    missing = f"kp.yaml: detectLocal.{field}: missing: detectLocalMode {mode} needs it"
    assert _faults({"detectLocalMode": mode}) == [missing]
    assert _faults({"detectLocalMode": mode, "detectLocal": {field: ""}}) == [missing]
    assert len(_faults({"detectLocalMode": mode, "detectLocal": {field: "a b"}})) == 1
    assert len(_faults({"detectLocalMode": mode, "detectLocal": {field: 5}})) == 1


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a*", "a b", "a/b", "a:b", "a\nb", "a+", "a'b", "ä", ".", "..", "a;b"])
def test_an_interface_name_cannot_be_anything_else_to_a_packet_filter(name: str) -> None:
    for field in ("bridgeInterface", "interfaceNamePrefix"):
        assert len(_faults({"detectLocal": {field: name}})) == 1


# -- targets --


def test_each_target_has_its_own_stanza() -> None:
    fields: dict[str, Any] = {
        "nftables": {"masqueradeAll": True, "masqueradeBit": 3, "syncPeriod": "40s", "minSyncPeriod": "2s"},
        "iptables": {"masqueradeBit": 5, "syncPeriod": "50s", "minSyncPeriod": "3s"},
    }
    for mode, bit, everything, sync, minimum in (("nftables", 3, True, 40, 2), ("iptables", 5, False, 50, 3)):
        by_mode, by_option = _read({**fields, "mode": mode}), _read({**fields, "mode": "ipvs"}, Target(mode))
        assert by_mode == by_option
        assert by_mode.target is Target(mode)
        assert (by_mode.node.masquerade_bit, by_mode.node.masquerade_all) == (bit, everything)
        assert (by_mode.agent.sync_period, by_mode.agent.min_sync_period) == (sync, minimum)


def test_a_mode_that_the_command_line_overrides_is_no_fault_and_no_warning() -> None:
    for mode in ("ipvs", "iptables", ""):
        assert _warnings({"mode": mode}, Target.NFTABLES) == []
    assert _faults({"mode": 5}, Target.NFTABLES) == ["kp.yaml: mode: expected str, got 5"]


def test_the_other_targets_stanza_is_reported_where_it_says_something_else() -> None:
    """An empty mode is iptables to kube-proxy and nftables here, so that a stanza may have lost its effect."""
    (line,) = _warnings({"iptables": {"masqueradeAll": True, "syncPeriod": "30s", "masqueradeBit": 14}})
    assert line.startswith("kp.yaml: iptables.masqueradeAll: has no effect: the target is nftables")
    same = {"masqueradeAll": True, "syncPeriod": "1m"}
    assert _warnings({"iptables": same, "nftables": same}) == []


# -- warnings --


def test_localhost_nodeports_are_refused_by_name() -> None:
    """Decision D1."""
    for mode in ("nftables", "iptables"):
        (line,) = _warnings({"mode": mode, "iptables": {"localhostNodePorts": True}})
        assert line.startswith("kp.yaml: iptables.localhostNodePorts: not supported")
        assert "CVE-2020-8558" in line
    assert _warnings({"iptables": {"localhostNodePorts": False}}) == []
    (line,) = _warnings({"nodePortAddresses": ["127.0.0.0/8", "10.0.0.0/8"]})
    assert line.startswith("kp.yaml: nodePortAddresses: 127.0.0.0/8 has no effect")
    assert "CVE-2020-8558" in line


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("clientConnection.acceptContentTypes", "application/cbor"),
        ("clientConnection.contentType", "application/json"),
        ("enableProfiling", True),
        ("featureGates.TopologyAwareHints", False),
        ("iptables.snatNodeInternalIP", True),
        ("ipvs.strictARP", True),
        ("ipvs.excludeCIDRs", ["10.0.0.0/8"]),
        ("ipvs.syncPeriod", "31s"),
        ("logging.options", {"json": {"splitStream": True}}),
        ("logging.flushFrequency", "1s"),
        ("logging.vmodule", [{"filePattern": "proxier", "verbosity": 5}]),
        ("clientConnection.qps", 50),
        ("clientConnection.burst", 100),
        ("configSyncPeriod", "5m"),
        ("oomScoreAdj", 0),
        ("portRange", "0-0"),
        ("showHiddenMetricsForVersion", "1.30"),
        ("windowsRunAsService", True),
        ("winkernel.networkName", "l2bridge"),
    ],
)
def test_what_is_not_supported_is_reported_by_name(path: str, value: object) -> None:
    (line,) = _warnings(_nested(path, value))
    assert line.startswith(f"kp.yaml: {path}: not supported: ")


@pytest.mark.parametrize("path", ["masqueradeAll", "nftables.masqueradeall", "conntrack.max", "extra.deep", "a b"])
def test_an_unknown_field_is_reported_whatever_its_value(path: str) -> None:
    values: tuple[object, ...] = (False, None, 5, {})
    for value in values:
        assert _warnings(_nested(path, value)) == [f"kp.yaml: {path}: unknown field; has no effect"]


def test_keys_that_are_no_text_are_reported_on_one_line() -> None:
    assert _warnings({5: 1, "a\nb": 2, "conntrack": {True: 3}}) == [
        "kp.yaml: 5: unknown field; has no effect",
        'kp.yaml: "a\\nb": unknown field; has no effect',
        "kp.yaml: conntrack.true: unknown field; has no effect",
    ]


def test_the_log() -> None:
    configuration, warnings = read_configuration({"logging": {"format": "json", "verbosity": 4}}, "kp.yaml")
    assert (configuration.agent.log_format, configuration.agent.log_verbosity) == (LogFormat.JSON, 4)
    assert warnings == []
    assert [level_of_verbosity(verbosity) for verbosity in (0, 2, 3, 4, 9)] == [logging.INFO] * 3 + [logging.DEBUG] * 2
    with pytest.raises(InputError) as caught:
        read_configuration({"logging": {"format": "xml", "verbosity": -1}}, "kp.yaml")
    assert str(caught.value).splitlines() == [
        'kp.yaml: logging.format: expected text or json, got "xml"',
        f"kp.yaml: logging.verbosity: expected 0 to {2**31 - 1}, got -1",
    ]


def test_what_kube_proxy_writes_by_default_is_no_warning() -> None:
    written = {
        "clientConnection": {"contentType": "application/vnd.kubernetes.protobuf", "qps": 5, "burst": 10},
        "ipvs": {"syncPeriod": "30s", "minSyncPeriod": "1s"},
        "iptables": {"masqueradeBit": 14, "syncPeriod": "30s", "minSyncPeriod": "1s"},
        "logging": {"flushFrequency": "5s", "format": "text", "verbosity": 0},
        "oomScoreAdj": -999,
    }
    assert _warnings(written) == []


# -- the command line --


def test_the_nodes_name_is_the_options_then_the_files_then_the_hosts() -> None:
    """SVC-95."""
    named, unnamed = _read({"hostnameOverride": "From-File"}), _read({})
    assert node_configuration(named, " Option ", "host").node_name == "option"
    assert node_configuration(named, "", "host").node_name == "from-file"
    assert node_configuration(unnamed, "", "Host").node_name == "host"
    for name, host in (("", ""), (" ", "host"), ("a b", "host"), ("", "my_host")):
        with pytest.raises(InputError, match=r"^name of the node: expected a node's name"):
            node_configuration(unnamed, name, host)


def test_a_host_needs_a_family_of_the_clusters_cidrs() -> None:
    """SVC-49."""
    ipv6 = _read({"clusterCIDR": "fd00::/48"}).node
    assert for_families(ipv6, BOTH).families == BOTH
    with pytest.raises(InputError, match=r"^clusterCIDR: fd00::/48: this host has no such family$"):
        for_families(ipv6, (Family.IPV4,))
    pair = _read({"clusterCIDR": "fd00::/48,10.0.0.0/8"}).node
    assert for_families(pair, (Family.IPV4,)).families == (Family.IPV4,)
    by_node = _read({"clusterCIDR": "fd00::/48", "detectLocalMode": "NodeCIDR"}).node
    assert for_families(by_node, (Family.IPV4,)).families == (Family.IPV4,)


def test_a_host_needs_the_family_of_its_address() -> None:
    with pytest.raises(InputError, match=r"^bindAddress: fd00::1: this host has no IPv6$"):
        for_families(_read({"bindAddress": "fd00::1"}).node, (Family.IPV4,))


# -- durations --


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("+5s", 5),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("1.s", 1),
        ("1h1h", 7200),
        ("2562047h", 9223369200),
        ("1ns", 1e-9),
        ("1us", 1e-6),
        ("1\u00b5s", 1e-6),
        ("1\u03bcs", 1e-6),
        ("1ms", 1e-3),
        ("1m", 60),
    ],
)
def test_durations_as_go_writes_them(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "s", "-1s", "1 s", "1s ", "1d", "1S", ".s", "+", "--1s", "1e3s", "2562048h", "\u0661s"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(Unexpected):
        duration(text)


def _written(nanoseconds: int) -> str:
    """As Go's Duration.String, with hours, minutes, and seconds with a fraction."""
    seconds, rest = divmod(nanoseconds, 10**9)
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    minutes, hours = seconds // 60 % 60, seconds // 3600
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes or hours else "") + f"{seconds % 60}{fraction}s"


@given(st.integers(0, 2**63 - 1))
def test_every_duration_is_read_to_the_nanosecond(nanoseconds: int) -> None:
    assert duration(_written(nanoseconds)) == nanoseconds / 10**9


@given(
    st.dictionaries(
        st.sampled_from(["mode", "clusterCIDR", "nodePortAddresses", "detectLocal", "nftables", "conntrack", "ipvs"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["syncPeriod", "min"]), inner),
            max_leaves=5,
        ),
    )
)
def test_any_values_are_read_or_refused_in_printable_lines(fields: dict[str, Any]) -> None:
    try:
        lines = _warnings(fields)
    except InputError as error:
        lines = str(error).split("\n")
    assert all(line.startswith("kp.yaml: ") and line.isascii() and line.isprintable() for line in lines)
