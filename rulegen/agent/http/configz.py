"""The settings in force come in; the KubeProxyConfiguration that says the same goes out, as plain values.

The reverse of `configuration_file`: what goes out can be read again there, and gives the same settings. Every field is
written, defaults too, but for the stanza of the target that is not in use. Nothing in it is secret.
"""

from __future__ import annotations

from typing import Any

from rulegen.config import (
    PRIMARY_ADDRESSES,
    AgentConfiguration,
    Configuration,
    Conntrack,
    DetectLocalMode,
    IngressSettings,
    NodeConfiguration,
)
from rulegen.configuration_file import API_VERSION, KIND, OWN_API_VERSION, OWN_KIND

_UNSPECIFIED = "0.0.0.0"  # noqa: S104 - what a file would say, not what is bound


def configuration_document(configuration: Configuration) -> dict[str, Any]:
    """The fields at their paths of `kubeproxy.config.k8s.io/v1alpha1`; durations as Go writes them."""
    node, agent = configuration.node, configuration.agent
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "mode": configuration.target.value,
        configuration.target.value: {
            "masqueradeAll": node.masquerade_all,
            "masqueradeBit": node.masquerade_bit,
            "syncPeriod": _duration(agent.sync_period),
            "minSyncPeriod": _duration(agent.min_sync_period),
        },
        **_node_fields(node),
        **_agent_fields(agent),
        "conntrack": _conntrack(agent.conntrack),
    }


def own_document(configuration: Configuration) -> dict[str, Any]:
    """The fields of `rulegen.io/v1alpha1`, for which the other has no place."""
    policies, egress = configuration.node.policies, configuration.node.egress
    return {
        "apiVersion": OWN_API_VERSION,
        "kind": OWN_KIND,
        "accelerate": configuration.agent.accelerate,
        "features": list(configuration.features),
        "iptablesDriver": configuration.iptables_driver.value,
        "networkPolicies": {
            "denial": policies.denial.value,
            "strict": policies.strict,
            "failClosed": policies.fail_closed,
            "nodeInput": policies.node_input,
            "ipsets": policies.ipsets,
            **({} if policies.log_group is None else {"logGroup": policies.log_group}),
        },
        "egressMasquerade": {"configFile": egress.config_file, "podRange": egress.pod_range.value},
        **({"ingress": _ingress_fields(configuration.node.ingress)} if "ingress" in configuration.features else {}),
    }


def _ingress_fields(ingress: IngressSettings) -> dict[str, Any]:
    return {
        "controller": ingress.controller,
        "mainFile": ingress.main_file,
        "file": ingress.file,
        "certificates": ingress.certificates,
        "httpPort": ingress.http_port,
        "httpsPort": ingress.https_port,
        "versionAddress": str(ingress.version_address),
        "publishedAddresses": list(ingress.published),
    }


def _node_fields(node: NodeConfiguration) -> dict[str, Any]:
    interface = node.detect_local_interface
    return {
        "hostnameOverride": node.node_name,
        "bindAddress": node.bind_address or _UNSPECIFIED,
        "clusterCIDR": ",".join(node.cluster_cidrs),
        "detectLocalMode": node.detect_local_mode.value,
        "detectLocal": {
            "bridgeInterface": interface if node.detect_local_mode is DetectLocalMode.BRIDGE_INTERFACE else "",
            "interfaceNamePrefix": (
                interface if node.detect_local_mode is DetectLocalMode.INTERFACE_NAME_PREFIX else ""
            ),
        },
        "nodePortAddresses": list(node.nodeport_addresses or PRIMARY_ADDRESSES),
    }


def _agent_fields(agent: AgentConfiguration) -> dict[str, Any]:
    return {
        "clientConnection": {"kubeconfig": agent.kubeconfig},
        "healthzBindAddress": str(agent.healthz_bind_address),
        "metricsBindAddress": str(agent.metrics_bind_address),
        "bindAddressHardFail": agent.bind_address_hard_fail,
        "logging": {"format": agent.log_format.value, "verbosity": agent.log_verbosity},
    }


def _conntrack(conntrack: Conntrack) -> dict[str, Any]:
    return {
        "maxPerCore": conntrack.max_per_core,
        "min": conntrack.minimum,
        "tcpEstablishedTimeout": _duration(conntrack.tcp_established_timeout),
        "tcpCloseWaitTimeout": _duration(conntrack.tcp_close_wait_timeout),
        "tcpBeLiberal": conntrack.tcp_be_liberal,
        "udpTimeout": _duration(conntrack.udp_timeout),
        "udpStreamTimeout": _duration(conntrack.udp_stream_timeout),
    }


def _duration(seconds: float) -> str:
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"
