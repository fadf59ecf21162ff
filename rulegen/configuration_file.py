"""A configuration file comes in; a Configuration goes out, with warnings, or every fault of the file.

It holds a KubeProxyConfiguration, a RulegenConfiguration, or one of each; or a ConfigMap that holds these, as
`kubectl get configmap -o yaml` prints it.

The fields, their defaults and their ranges are those of `kubeproxy.config.k8s.io/v1alpha1` (SVC-95 to SVC-97); what
kube-proxy reads and rulegen does not is a warning, and so is a field that neither knows. A RulegenConfiguration has
what kube-proxy has no field for, and is ours: an unknown field is a fault. Reads the file and nothing else: what the
host has is the caller's to say.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from rulegen.config import (
    KUBE_PROXY_CONNTRACK,
    PRIMARY_ADDRESSES,
    AgentConfiguration,
    Cidr,
    Configuration,
    Conntrack,
    Denial,
    DetectLocalMode,
    EgressSettings,
    Family,
    IngressSettings,
    IptablesLoader,
    LeaderElection,
    LogFormat,
    NodeConfiguration,
    PodRange,
    PolicySettings,
    RecordSettings,
    SocketAddress,
    Target,
)
from rulegen.configuration_fields import (
    INT32_MAX,
    Fields,
    Unexpected,
    absolute_path,
    address,
    cidr,
    controller_name,
    duration,
    interface_name,
    interface_prefix,
    node_name,
    one_cidr_per_family,
    one_of,
    published_address,
    reverse_zone,
    socket_address,
    zone_name,
)
from rulegen.errors import UNDECODABLE, InputError, printable, shown
from rulegen.kube.decode import plain_value
from rulegen.kube.document_text import Document, Unreadable
from rulegen.kube.documents import STDIN, read_documents
from rulegen.kube.faults import Fault
from rulegen.networks import family_of, is_loopback
from rulegen.paths import is_folder, is_plain_file

API_VERSION = "kubeproxy.config.k8s.io/v1alpha1"
KIND = "KubeProxyConfiguration"
OWN_API_VERSION = "rulegen.io/v1alpha1"
OWN_KIND = "RulegenConfiguration"
_CONFIG_MAP = "ConfigMap"
# Kind -> its version.
_VERSIONS = {KIND: API_VERSION, OWN_KIND: OWN_API_VERSION, _CONFIG_MAP: "v1"}
# The key that kubeadm gives it.
_KEY = "config.conf"

_UNSPECIFIED = ("0.0.0.0", "::")  # noqa: S104 - what a file may say, not what is bound
_HEALTHZ_PORT = 10256
_DNS_PORT = 53
_VERSION_PORT = 10246
_METRICS_PORT = 10249
_OOM_SCORE = -999
# Of the nodes that there are, so many are named.
_MOST_NODES = 10
_QPS, _BURST = 5.0, 10
_CONFIG_SYNC_SECONDS = 900.0

_LOCALHOST_NODEPORTS = (
    "not supported: it needs route_localnet, by which neighbours of the node reach services on its loopback addresses "
    "(CVE-2020-8558)"
)
_LOOPBACK_NODEPORTS = "has no effect: NodePorts are never served on loopback addresses (CVE-2020-8558)"
_CONFIG_SYNC_PERIOD = (
    "not supported: objects are followed, and listed anew only where the API server has lost its place"
)
_PACE = "not supported: the agent asks for four lists and watches, and paces Events by itself"
_OOM_SCORE_ADJ = "not supported: set it where the process is started (systemd: OOMScoreAdjust)"

# Why a field, or all fields of a stanza, are not supported.
_UNSUPPORTED = {
    "clientConnection.acceptContentTypes": "the API is read as JSON",
    "clientConnection.contentType": "the API is read as JSON",
    "enableProfiling": "there is no Go profile to serve",
    "featureGates": "there are no feature gates",
    "iptables.snatNodeInternalIP": "the source address is that of the interface by which a packet leaves",
    "ipvs": "there is no ipvs target",
    "logging.flushFrequency": "each line is written at once",
    "logging.options": "each line is written at once, to standard error",
    "logging.vmodule": "there is one level for the whole program",
    "portRange": "kube-proxy does not use it either",
    "showHiddenMetricsForVersion": "no metric is hidden",
    "windowsRunAsService": "it is for Windows",
    "winkernel": "it is for Windows",
}
# Here false says as much as true.
_FEATURE_GATE = "featureGates."
# What kube-proxy itself writes for a field that nobody has set, besides what is empty.
_UNSET: dict[str, Sequence[object]] = {
    "clientConnection.contentType": ("application/vnd.kubernetes.protobuf",),
    "ipvs.minSyncPeriod": ("1s",),
    "ipvs.syncPeriod": ("30s",),
    "logging.flushFrequency": ("5s", 5 * 10**9),
}


class _TargetStanza(NamedTuple):
    """The fields that each target has in a stanza of its own; periods in seconds."""

    masqueradeAll: bool = False  # noqa: N815 - the field's own name, for messages
    masqueradeBit: int = 14  # noqa: N815
    syncPeriod: float = 30.0  # noqa: N815
    minSyncPeriod: float = 0.0  # noqa: N815


# The least time between two syncs is chosen for latency; on iptables each starts programs that may run for a second.
_DEFAULTS = {
    Target.NFTABLES: _TargetStanza(minSyncPeriod=0.02),
    Target.IPTABLES: _TargetStanza(minSyncPeriod=1.0),
}


def load_configuration(path: str, target: Target | None = None) -> tuple[Configuration, list[str]]:
    """What the file says, and a line for each thing in it that has no effect.

    `target`: from the command line; wins over the file's `mode`.

    Without a KubeProxyConfiguration nobody has asked for what kube-proxy does to the host (D11).

    Raises:
        InputError: the file is missing, empty, or not such a configuration, or fields are unusable: a line for each.
    """
    return _combined(*_documents(path), target)


def parse_configuration(text: str, source: str, target: Target | None = None) -> tuple[Configuration, list[str]]:
    """As `load_configuration`, from text that stands in another file; `source` begins each line."""
    return _combined(_by_kind(_parse(text, source), source, (KIND, OWN_KIND)), source, target)


def kube_proxy_fields(path: str) -> Mapping[str, Any]:
    """The fields of the KubeProxyConfiguration in the file, as they are written; none where it holds none.

    Raises InputError as `load_configuration` does, but for the fields, which are not looked at.
    """
    return _documents(path)[0].get(KIND, {})


def _documents(path: str) -> tuple[dict[str, Mapping[Any, Any]], str]:
    """The fields of each configuration in the file by its kind, and what to call the file in messages."""
    source = printable(path)
    if is_folder(path):
        inside = f"; it holds {_KEY}: name that" if is_plain_file(Path(path) / _KEY) else ""
        raise InputError(f"{source}: expected a file, got a folder{inside}")
    documents = _by_kind(_read(path), source)
    config_map = documents.pop(_CONFIG_MAP, None)
    if config_map is not None:
        if documents:
            raise InputError(f"{source}: expected nothing beside the {_CONFIG_MAP}, got a {next(iter(documents))}")
        text, source = _inner_text(config_map, source)
        documents = _by_kind(_parse(text, source), source, (KIND, OWN_KIND))
    return documents, source


def _combined(
    documents: Mapping[str, Mapping[Any, Any]], source: str, target: Target | None
) -> tuple[Configuration, list[str]]:
    faults: list[str] = []
    warnings: list[str] = []
    configuration, own = Configuration(), _Own()
    try:
        configuration, warnings = read_configuration(documents.get(KIND, {}), source, target)
    except InputError as error:
        faults.append(str(error))
    if KIND not in documents:
        configuration = _with_agent(configuration, conntrack=Conntrack())
    try:
        own = _read_own(documents.get(OWN_KIND, {}), source)
    except InputError as error:
        faults.append(str(error))
    if faults:
        raise InputError("\n".join(faults))
    node = msgspec.structs.replace(
        configuration.node, policies=own.policies, egress=own.egress, records=own.records, ingress=own.ingress
    )
    configuration = msgspec.structs.replace(
        configuration, features=own.features, iptables_driver=own.iptables_driver, node=node
    )
    return _with_agent(configuration, accelerate=own.accelerate, leader_election=own.leader_election), warnings


def _with_agent(configuration: Configuration, **settings: Any) -> Configuration:
    return msgspec.structs.replace(configuration, agent=msgspec.structs.replace(configuration.agent, **settings))


class _Own(NamedTuple):
    """What a RulegenConfiguration says."""

    accelerate: bool = False
    features: tuple[str, ...] = ()
    iptables_driver: IptablesLoader = IptablesLoader.RESTORE
    policies: PolicySettings = PolicySettings()
    egress: EgressSettings = EgressSettings()
    records: RecordSettings = RecordSettings()
    ingress: IngressSettings = IngressSettings()
    leader_election: LeaderElection = LeaderElection()


def _read_own(document: Mapping[Any, Any], source: str) -> _Own:
    """Raises InputError with a line for each fault. Which features there are is not known here."""
    fields = Fields(document)
    own = _Own(
        fields.flag("accelerate"),
        tuple(fields.texts("features", str)),
        fields.text("iptablesDriver", one_of(IptablesLoader), IptablesLoader.RESTORE),
        _policy_settings(fields),
        EgressSettings(
            config_file=fields.text("egressMasquerade.configFile", str, ""),
            pod_range=fields.text("egressMasquerade.podRange", one_of(PodRange), PodRange.NODE_CIDR),
        ),
        _record_settings(fields),
        _ingress_settings(fields),
        _leader_election(fields),
    )
    faults = [*fields.faults, *(Fault(path, "unknown field") for path, _ in fields.unread())]
    if faults:
        raise InputError("\n".join(f"{source}: {OWN_KIND}: {fault}" for fault in faults))
    return own


def read_policy_settings(document: Mapping[Any, Any], source: str) -> PolicySettings:
    """What `networkPolicies` of a document says, which has no other field. Raises InputError."""
    fields = Fields(document)
    settings = _policy_settings(fields)
    faults = [*fields.faults, *(Fault(path, "unknown field") for path, _ in fields.unread())]
    if faults:
        raise InputError("\n".join(f"{source}: {fault}" for fault in faults))
    return settings


def written_policy_settings(settings: PolicySettings) -> dict[str, Any]:
    """The fields of `networkPolicies` that say more than the defaults."""
    fields = {
        "denial": settings.denial.value,
        "strict": settings.strict,
        "failClosed": settings.fail_closed,
        "nodeInput": settings.node_input,
        "logGroup": settings.log_group,
        "ipsets": settings.ipsets,
    }
    usual = {"denial": Denial.DROP.value, "logGroup": None, "ipsets": True}
    return {name: value for name, value in fields.items() if value != usual.get(name, False)}


_NO_LOG = -1


def _policy_settings(fields: Fields) -> PolicySettings:
    group = fields.integer("networkPolicies.logGroup", 0, 65535, _NO_LOG)
    return PolicySettings(
        denial=fields.text("networkPolicies.denial", one_of(Denial), Denial.DROP),
        strict=fields.flag("networkPolicies.strict"),
        fail_closed=fields.flag("networkPolicies.failClosed"),
        node_input=fields.flag("networkPolicies.nodeInput"),
        log_group=None if group == _NO_LOG else group,
        ipsets=fields.flag("networkPolicies.ipsets", default=True),
    )


def _leader_election(fields: Fields) -> LeaderElection:
    usual = LeaderElection()
    found = LeaderElection(
        lease_duration=fields.text("leaderElection.leaseDuration", duration, usual.lease_duration),
        renew_deadline=fields.text("leaderElection.renewDeadline", duration, usual.renew_deadline),
        retry_period=fields.text("leaderElection.retryPeriod", duration, usual.retry_period),
    )
    if not found.lease_duration > found.renew_deadline > found.retry_period > 0:
        message = (
            "expected leaseDuration > renewDeadline > retryPeriod > 0, got "
            f"{found.lease_duration:g} s, {found.renew_deadline:g} s, {found.retry_period:g} s"
        )
        fields.faults.append(Fault("leaderElection", message))
    return found


def _record_settings(fields: Fields) -> RecordSettings:
    usual = RecordSettings()
    reverse_zones = tuple(dict.fromkeys(fields.texts("records.reverseZones", reverse_zone)))
    server = fields.text("records.server", lambda text: socket_address(text, _DNS_PORT), None)
    return RecordSettings(
        zone=fields.text("records.zone", zone_name, usual.zone),
        reverse_zones=reverse_zones if fields.is_stated("records.reverseZones") else usual.reverse_zones,
        ttl=fields.integer("records.ttl", 0, INT32_MAX, usual.ttl),
        server=server,
        key_file=fields.text("records.keyFile", str, ""),
    )


def _ingress_settings(fields: Fields) -> IngressSettings:
    usual = IngressSettings()
    return IngressSettings(
        controller=fields.text("ingress.controller", controller_name, usual.controller),
        main_file=fields.text("ingress.mainFile", absolute_path, usual.main_file),
        file=fields.text("ingress.file", absolute_path, usual.file),
        certificates=fields.text("ingress.certificates", absolute_path, usual.certificates),
        http_port=fields.integer("ingress.httpPort", 1, 65535, usual.http_port),
        https_port=fields.integer("ingress.httpsPort", 1, 65535, usual.https_port),
        version_address=fields.text("ingress.versionAddress", _loopback_address, usual.version_address),
        published=tuple(dict.fromkeys(fields.texts("ingress.publishedAddresses", published_address))),
    )


def _loopback_address(text: str) -> SocketAddress:
    found = socket_address(text, _VERSION_PORT)
    if not is_loopback(found.address):
        raise Unexpected("a loopback address: what is said there is nobody else's business")
    return found


def read_configuration(
    document: Mapping[Any, Any], source: str, target: Target | None = None
) -> tuple[Configuration, list[str]]:
    """As `load_configuration`, from the plain values of the fields; `source` begins each line."""
    fields = Fields(document)
    chosen = _target(fields, target)
    bind_address = fields.text("bindAddress", address, _UNSPECIFIED[0])
    stanzas = {each: _target_stanza(fields, each) for each in Target}
    configuration = Configuration(
        target=chosen,
        node=_node(fields, stanzas[chosen], bind_address),
        agent=_agent(fields, stanzas[chosen], bind_address),
    )
    warnings = [*_without_effect(fields, configuration), *_other_target(stanzas, chosen), *_unread(fields)]
    if fields.faults:
        raise InputError("\n".join(f"{source}: {fault}" for fault in fields.faults))
    return configuration, [f"{source}: {warning}" for warning in warnings]


def known_node_configuration(
    configuration: Configuration, name: str, host_name: str, known: Collection[str]
) -> NodeConfiguration:
    """`node_configuration` where the nodes are known; where `known` is empty nobody knows of any.

    Raises:
        InputError: the node is not among them, or nothing says which of them it is. They are named.
    """
    stated = name or configuration.node.node_name or default_node(host_name, known)
    if known and not stated:
        raise InputError(f"which node? Name it with --node; this host, {shown(host_name)}, is none of {_some(known)}")
    found = node_configuration(configuration, stated, host_name)
    if known and found.node_name not in known:
        option = "--node" if name else "hostnameOverride"
        raise InputError(f"{option}: there is no node {shown(found.node_name)}; there is {_some(known)}")
    return found


def default_node(host_name: str, known: Collection[str]) -> str:
    """Of nodes: this host where it is one of them, else the only one; "" where there are others."""
    here = host_name.strip().lower()
    if here in known:
        return here
    return next(iter(known)) if len(known) == 1 else ""


def _some(names: Collection[str]) -> str:
    """The first of them by name, and how many more there are."""
    first = sorted(names)[:_MOST_NODES]
    more = len(names) - len(first)
    return ", ".join(first) + (f", and {more} more" if more else "")


def node_configuration(configuration: Configuration, name: str, host_name: str) -> NodeConfiguration:
    """The node's settings with its name: the command line's `name`, else the file's, else `host_name` (SVC-95).

    Raises:
        InputError: all are empty, or the first that is not cannot be a Node's name.
    """
    stated = name or configuration.node.node_name or host_name
    try:
        chosen = node_name(stated)
    except Unexpected as error:
        raise InputError(f"name of the node: expected {error}, got {shown(stated)}") from error
    return msgspec.structs.replace(configuration.node, node_name=chosen)


def for_families(node: NodeConfiguration, families: Sequence[Family]) -> NodeConfiguration:
    """The node's settings on a host that has these families.

    Raises:
        InputError: a family that the settings cannot do without is not among them (SVC-49 and SVC-96).
    """
    # Of two CIDRs, one without its family only means one detector less.
    by_cidr = node.detect_local_mode is DetectLocalMode.CLUSTER_CIDR and node.cluster_cidrs
    if by_cidr and not {family_of(item) for item in node.cluster_cidrs}.intersection(families):
        raise InputError(f"clusterCIDR: {', '.join(node.cluster_cidrs)}: this host has no such family")
    if node.bind_address and family_of(node.bind_address) not in families:
        raise InputError(f"bindAddress: {node.bind_address}: this host has no {family_of(node.bind_address).value}")
    return msgspec.structs.replace(node, families=tuple(families))


def _read(path: str) -> list[Document]:
    return readable(read_documents([path], None))


def _parse(text: str, source: str) -> list[Document]:
    """As `_read`, from text that stands in another document."""
    stream = BytesIO(text.encode(errors="surrogatepass"))
    try:
        documents = readable(read_documents([STDIN], stream))
    except InputError as error:
        raise InputError(str(error).replace("standard input", source, 1)) from error
    return [document._replace(source=source) for document in documents]


def readable(documents: Iterable[Document | Unreadable]) -> list[Document]:
    """All documents. Raises InputError where one cannot be read, or a key is set twice."""
    found = []
    for document in documents:
        if isinstance(document, Unreadable):
            raise InputError(f"{document.source}: {document.reason}")
        for note in (*document.faults, *document.repeated):
            raise InputError(f"{document.source}:{note.line}:{note.column}: invalid YAML: {note.reason}")
        found.append(document)
    return found


def _by_kind(
    documents: Sequence[Document], source: str, kinds: Sequence[str] = tuple(_VERSIONS)
) -> dict[str, Mapping[Any, Any]]:
    """Each kind's fields, without those that every object has."""
    found: dict[str, Mapping[Any, Any]] = {}
    for document in documents:
        value = plain_document(document, source)
        if not isinstance(value, Mapping):
            raise InputError(f"{source}: expected an object, got {shown(value)}")
        kind = value.get("kind")
        if not isinstance(kind, str) or kind not in kinds:
            raise InputError(f"{source}: kind: expected {' or '.join(kinds)}, got {_shown_field(value, 'kind')}")
        if value.get("apiVersion") != _VERSIONS[kind]:
            found_version = _shown_field(value, "apiVersion")
            raise InputError(f"{source}: apiVersion: expected {_VERSIONS[kind]}, got {found_version}")
        if kind in found:
            raise InputError(f"{source}: expected one {kind}, got another one")
        found[kind] = {name: item for name, item in value.items() if name not in ("apiVersion", "kind")}
    return found


def _shown_field(value: Mapping[Any, Any], name: str) -> str:
    return shown(value[name]) if name in value else "nothing"


def _inner_text(config_map: Mapping[Any, Any], source: str) -> tuple[str, str]:
    """The text of a ConfigMap's key `config.conf`, and what to call it in messages."""
    data = config_map.get("data")
    text = data.get(_KEY) if isinstance(data, Mapping) else None
    if not isinstance(text, str):
        keys = ", ".join(shown(key) for key in data) if isinstance(data, Mapping) and data else "nothing"
        found = shown(text) if text is not None else keys
        raise InputError(f"{source}: data: expected the key {_KEY} with a text, got {found}")
    return text, f"{source}: data.{_KEY}"


def plain_document(document: Document, source: str) -> object:
    """The plain value of a document. Raises InputError."""
    if not isinstance(document.value, Raw):
        return document.value
    try:
        return plain_value(document.value)
    except UNDECODABLE as error:
        raise InputError(f"{source}: invalid JSON: {error}") from error


def _target(fields: Fields, option: Target | None) -> Target:
    if option is None:
        return fields.text("mode", one_of(Target), Target.NFTABLES)
    # A mode that is overridden may be one that there is not here.
    fields.text("mode", str, "")
    return option


def _target_stanza(fields: Fields, target: Target) -> _TargetStanza:
    default = _DEFAULTS[target]
    stanza = _TargetStanza(
        fields.flag(f"{target.value}.masqueradeAll"),
        fields.integer(f"{target.value}.masqueradeBit", 0, 31, default.masqueradeBit),
        # To kube-proxy, 0 means that nobody has set it.
        fields.text(f"{target.value}.syncPeriod", duration, 0.0) or default.syncPeriod,
        fields.text(f"{target.value}.minSyncPeriod", duration, 0.0) or default.minSyncPeriod,
    )
    if stanza.minSyncPeriod > stanza.syncPeriod:
        message = f"expected at most the syncPeriod, {stanza.syncPeriod:g} s, got {stanza.minSyncPeriod:g} s"
        fields.faults.append(Fault(f"{target.value}.minSyncPeriod", message))
    return stanza


def _node(fields: Fields, stanza: _TargetStanza, bind_address: str) -> NodeConfiguration:
    mode = fields.text("detectLocalMode", one_of(DetectLocalMode), DetectLocalMode.CLUSTER_CIDR)
    return NodeConfiguration(
        node_name=fields.text("hostnameOverride", node_name, ""),
        bind_address="" if bind_address in _UNSPECIFIED else bind_address,
        detect_local_mode=mode,
        detect_local_interface=_detect_local_interface(fields, mode),
        cluster_cidrs=fields.text("clusterCIDR", one_cidr_per_family, ()),
        nodeport_addresses=_nodeport_addresses(fields),
        masquerade_all=stanza.masqueradeAll,
        masquerade_bit=stanza.masqueradeBit,
    )


def _detect_local_interface(fields: Fields, mode: DetectLocalMode) -> str:
    """What the mode needs, "" for a mode that needs none; what the other modes need is only checked."""
    interfaces = {
        DetectLocalMode.BRIDGE_INTERFACE: ("detectLocal.bridgeInterface", interface_name),
        DetectLocalMode.INTERFACE_NAME_PREFIX: ("detectLocal.interfaceNamePrefix", interface_prefix),
    }
    found = {each: fields.text(path, parse, "") for each, (path, parse) in interfaces.items()}
    if mode not in interfaces:
        return ""
    path = interfaces[mode][0]
    if not found[mode] and not any(fault.path == path for fault in fields.faults):
        fields.faults.append(Fault(path, f"missing: detectLocalMode {mode.value} needs it"))
    return found[mode]


def _nodeport_addresses(fields: Fields) -> tuple[Cidr, ...]:
    """SVC-60 and SVC-62."""
    entries = tuple(fields.texts("nodePortAddresses", _nodeport_entry))
    if PRIMARY_ADDRESSES[0] in entries and len(entries) > 1:
        fields.faults.append(Fault("nodePortAddresses", 'expected CIDRs or "primary" alone, got more than "primary"'))
    return entries or PRIMARY_ADDRESSES


def _nodeport_entry(text: str) -> Cidr:
    try:
        return text if text == PRIMARY_ADDRESSES[0] else cidr(text)
    except Unexpected as error:
        raise Unexpected('a CIDR or "primary"') from error


def _agent(fields: Fields, stanza: _TargetStanza, bind_address: str) -> AgentConfiguration:
    is_ipv6 = family_of(bind_address) is Family.IPV6
    return AgentConfiguration(
        kubeconfig=fields.text("clientConnection.kubeconfig", str, ""),
        healthz_bind_address=fields.text(
            "healthzBindAddress",
            lambda text: socket_address(text, _HEALTHZ_PORT),
            SocketAddress(_UNSPECIFIED[is_ipv6], _HEALTHZ_PORT),
        ),
        metrics_bind_address=fields.text(
            "metricsBindAddress",
            lambda text: socket_address(text, _METRICS_PORT),
            SocketAddress("::1" if is_ipv6 else "127.0.0.1", _METRICS_PORT),
        ),
        bind_address_hard_fail=fields.flag("bindAddressHardFail"),
        sync_period=stanza.syncPeriod,
        min_sync_period=stanza.minSyncPeriod,
        conntrack=_conntrack(fields),
        log_format=fields.text("logging.format", one_of(LogFormat), LogFormat.TEXT),
        log_verbosity=fields.integer("logging.verbosity", 0, INT32_MAX, 0),
    )


def _conntrack(fields: Fields) -> Conntrack:
    """Here 0 says something, and nothing is kube-proxy's default (SVC-71, D11)."""
    default = KUBE_PROXY_CONNTRACK
    established = fields.text("conntrack.tcpEstablishedTimeout", duration, default.tcp_established_timeout)
    close_wait = fields.text("conntrack.tcpCloseWaitTimeout", duration, default.tcp_close_wait_timeout)
    return Conntrack(
        max_per_core=fields.integer("conntrack.maxPerCore", 0, INT32_MAX, default.max_per_core),
        minimum=fields.integer("conntrack.min", 0, INT32_MAX, default.minimum),
        tcp_established_timeout=established,
        tcp_close_wait_timeout=close_wait,
        tcp_be_liberal=fields.flag("conntrack.tcpBeLiberal"),
        udp_timeout=fields.text("conntrack.udpTimeout", duration, 0.0),
        udp_stream_timeout=fields.text("conntrack.udpStreamTimeout", duration, 0.0),
    )


# -- warnings --


def _without_effect(fields: Fields, configuration: Configuration) -> Iterator[Fault]:
    """Fields whose value is checked, and then has no effect."""
    if fields.flag("iptables.localhostNodePorts"):
        yield Fault("iptables.localhostNodePorts", _LOCALHOST_NODEPORTS)
    if (fields.number("clientConnection.qps") or _QPS) != _QPS:
        yield Fault("clientConnection.qps", _PACE)
    if (fields.integer("clientConnection.burst", 0, INT32_MAX, 0) or _BURST) != _BURST:
        yield Fault("clientConnection.burst", _PACE)
    if (fields.text("configSyncPeriod", duration, 0.0) or _CONFIG_SYNC_SECONDS) != _CONFIG_SYNC_SECONDS:
        yield Fault("configSyncPeriod", _CONFIG_SYNC_PERIOD)
    if fields.integer("oomScoreAdj", -1000, 1000, _OOM_SCORE) != _OOM_SCORE:
        yield Fault("oomScoreAdj", _OOM_SCORE_ADJ)
    for entry in configuration.node.nodeport_addresses:
        if entry != PRIMARY_ADDRESSES[0] and is_loopback(entry.partition("/")[0]):
            yield Fault("nodePortAddresses", f"{entry} {_LOOPBACK_NODEPORTS}")


def _other_target(stanzas: Mapping[Target, _TargetStanza], chosen: Target) -> Iterator[Fault]:
    """What the stanza of the target that is not in use would have changed."""
    used = stanzas[chosen]
    for target, stanza in stanzas.items():
        for name, value, in_force in zip(_TargetStanza._fields, stanza, used, strict=True):
            if value not in (in_force, getattr(_DEFAULTS[target], name)):
                message = f"has no effect: the target is {chosen.value}, for which {chosen.value}.{name} counts"
                yield Fault(f"{target.value}.{name}", message)


def _unread(fields: Fields) -> Iterator[Fault]:
    for path, value in fields.unread():
        reason = _UNSUPPORTED.get(path) or _UNSUPPORTED.get(path.partition(".")[0])
        if reason is None:
            yield Fault(path, "unknown field; has no effect")
        elif path.startswith(_FEATURE_GATE) or not (_is_empty(value) or value in _UNSET.get(path, ())):
            yield Fault(path, f"not supported: {reason}")


def _is_empty(value: object) -> bool:
    """Whether a value is what kube-proxy writes for a field that nobody has set."""
    if isinstance(value, Mapping):
        return all(_is_empty(item) for item in value.values())
    return value in (None, False, 0, "", "0", "0s", [])
