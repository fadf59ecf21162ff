"""Scenarios come in, differences go out: what a ruleset and the fate of packets should be, written down and checked.

A scenario is a folder with `cluster.yaml` (manifests), `flows.yaml` (whose node it is, how that is configured, and
packets with what must become of them) and, where it is checked as deep as that, `nftables.diff` and
`iptables.diff`, which `update` writes: what its objects
add to the rules that there are without any object. Those are whole rulesets in the folder `base` beside the scenarios,
one for each distinct configuration of a node. Flows are followed through the Frontends, without privileges. Never
touches the host.
"""

from __future__ import annotations

import difflib
import hashlib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum, StrEnum
from ipaddress import ip_address, ip_network
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from rulegen.alike import there_is
from rulegen.config import Family, NodeConfiguration, PodRange, Target
from rulegen.configuration_file import for_families, node_configuration, read_configuration, read_policy_settings
from rulegen.drivers import make_driver
from rulegen.errors import InputError, one_line, printable, shown
from rulegen.features import check_conditions, cluster_driver, feed, kinds_of, make
from rulegen.kube.addresses import canonical_address
from rulegen.kube.manifests import load
from rulegen.networks import family_of, host_cidr, parse_network
from rulegen.paths import as_text, check_plain, is_folder, is_there, read_plain, refusal, walk
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.driver import compile_all
from rulegen.reconcile.feature import Feature
from rulegen.reconcile.once import TakenItems, take_all
from rulegen.services.feature import ServicesFeature
from rulegen.services.node import host_addresses
from rulegen.services.simulate import (
    Delivery,
    Destination,
    Fate,
    FrontendIndex,
    Packet,
    parse_destination,
    simulate,
    source_towards,
)
from rulegen.services.store import Store

CLUSTER_FILE = "cluster.yaml"
FLOWS_FILE = "flows.yaml"
NFTABLES_FILE = "nftables.diff"
IPTABLES_FILE = "iptables.diff"
BASE_FOLDER = "base"
NODE = "node"
# The file of a scenario, the suffix of that in the folder of bases, and the target that they are of.
_FILES = {(NFTABLES_FILE, ".nft"): Target.NFTABLES, (IPTABLES_FILE, ".rules"): Target.IPTABLES}
_SUFFIXES = frozenset(suffix for _, suffix in _FILES)
# A line that others are in: a set, a chain, a table.
_PLACE = re.compile(r"[^}]*\{$|\*")
# An element of set `fingerprints`.
_DIGEST = re.compile(r'\t\d+ comment "\S+ [0-9a-f]{16}",')
_FATES = {Fate.REJECTED: "rejected", Fate.DROPPED: "dropped", Fate.UNTOUCHED: "passed"}
# It passes, and leaves with the node's address.
_MASQUERADED = "masqueraded"


class Depth(StrEnum):
    """How much of a scenario is compared; each includes those before it."""

    # What becomes of packets: it survives every upgrade that changes no behaviour.
    FLOWS = "flows"
    # What its objects make of the rules, too, whatever the fixed rules look like.
    ENTRIES = "entries"
    # The rules without any object, too: every byte.
    RULESET = "ruleset"


class _File(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Base of what flows.yaml consists of; a field that is not known is an error."""


class Balanced(_File, frozen=True):
    """The packet reaches one of exactly these endpoints.

    `endpoints`: a list for equal chances, or each endpoint's share as a number. `masqueraded`: on the way to all, none,
    or those listed. `sticky`: a client stays with the endpoint that it got first (session affinity).
    """

    endpoints: list[str] | dict[str, int]
    masqueraded: bool | list[str]
    sticky: bool = False

    @property
    def shares(self) -> dict[str, float]:
        """The probability of each endpoint."""
        parts = self.endpoints if isinstance(self.endpoints, dict) else dict.fromkeys(self.endpoints, 1)
        total = sum(parts.values())
        return {endpoint: part / total for endpoint, part in parts.items()}

    @property
    def masqueraded_endpoints(self) -> frozenset[str]:
        """Those on the way to which the source address is replaced."""
        if isinstance(self.masqueraded, bool):
            return frozenset(self.endpoints if self.masqueraded else ())
        return frozenset(self.masqueraded)


Expectation: TypeAlias = Literal["rejected", "dropped", "passed", "masqueraded"] | Balanced


class FlowEntry(_File, frozen=True):
    """A line of `flows`: every source to every destination. `interface`: where the packets arrive, "" when unsaid."""

    name: str
    sources: str | list[str] = field(name="from")
    destinations: str | list[str] = field(name="to")
    expect: Expectation
    interface: str = ""


class FlowsFile(_File, frozen=True):
    """All of flows.yaml.

    `check`: how deep, unless a person says otherwise. `configuration`: fields of a KubeProxyConfiguration. `features`:
    those that are on besides the services. `network_policies`: the fields of that name of a RulegenConfiguration.
    `ip_masq_agent`: fields of ip-masq-agent's configuration, for egress masquerading, and `pod_range`: by which
    addresses that knows the node's pods. `ip_families`: what the host can do. `addresses`: what the node has on its
    interfaces besides its Node object's addresses.
    """

    node: str
    check: Depth = Depth.FLOWS
    configuration: dict[str, Any] = {}
    features: list[str] = []
    ip_masq_agent: dict[str, Any] = {}
    pod_range: PodRange = PodRange.NODE_CIDR
    network_policies: dict[str, Any] = {}
    ip_families: list[Family] = field(default_factory=lambda: [Family.IPV4, Family.IPV6])
    addresses: list[str] = []
    flows: list[FlowEntry] = []


class Flow(NamedTuple):
    """One packet and what must become of it.

    `source`: canonical address, NODE for whichever the node itself would choose, or a CIDR for many clients. `port` is
    0 and `protocol` ICMP for a ping. `entry`: of which item of `flows` it is, from 0; `line`: where that begins.
    """

    name: str
    source: str
    interface: str
    destination: str
    port: int
    protocol: str
    expect: Expectation
    entry: int = 0
    line: int = 1

    def __str__(self) -> str:
        """The flow's name and packet, for messages."""
        destination = Destination(self.destination, self.port, self.protocol)
        packet = f"{self.source} to {destination}"
        return packet if self.name == packet else f"{printable(self.name)}: {packet}"


class Scenario(NamedTuple):
    """A scenario as read: `addresses` are all of the node's, canonical; `wanted`: what the features make of it."""

    folder: Path
    configuration: NodeConfiguration
    addresses: tuple[str, ...]
    flows: tuple[Flow, ...]
    store: Store
    features: list[Feature]
    wanted: TakenItems
    depth: Depth

    @property
    def flows_file(self) -> Path:
        """Where the flows are written down."""
        return self.folder / FLOWS_FILE


class Failure(NamedTuple):
    """One thing that is not as written down, or not as it must be. `line` counts from 1.

    `accept`: the command that writes down what is; "" for what nobody can accept.
    """

    file: Path
    line: int
    name: str
    expected: str
    found: str
    accept: str

    def __str__(self) -> str:
        """Where, what, and what to do about it, in a line."""
        place = f"{printable(str(self.file))}:{self.line}"
        accept = f"; to accept it: {self.accept}" if self.accept else ""
        return f"{place}: {self.name}: expected {self.expected}, found {self.found}{accept}"


class Case(NamedTuple):
    """One thing that was compared: a flow, or a file of rules."""

    name: str
    file: Path
    line: int
    failures: tuple[Failure, ...]


class Difference(NamedTuple):
    """How a scenario differs from what is written down: all that was compared, and a unified diff of the files."""

    cases: tuple[Case, ...]
    ruleset: tuple[str, ...]

    @property
    def failures(self) -> tuple[Failure, ...]:
        """In the order of the cases."""
        return tuple(failure for case in self.cases for failure in case.failures)

    def with_more(self, other: Difference) -> Difference:
        """Both as one."""
        return Difference((*self.cases, *other.cases), (*self.ruleset, *other.ruleset))

    def __bool__(self) -> bool:
        """True when anything differs."""
        return bool(self.failures)


def find_scenarios(folders: Sequence[str]) -> list[Path]:
    """The scenarios in or below `folders`, sorted. Raises InputError for a folder without any, or that is not there."""
    found: dict[Path, None] = {}
    for folder in folders:
        if not is_folder(folder):
            found_there = "expected a folder, found a file" if is_there(folder) else "no such folder"
            raise InputError(f"{printable(folder)}: {found_there}")
        inside = sorted(path for path, files in walk(folder) if FLOWS_FILE in files)
        if not inside:
            raise InputError(f"{printable(folder)}: no scenario here: no folder with {FLOWS_FILE}")
        found |= dict.fromkeys(inside)
    return list(found)


def read_scenario(folder: Path) -> Scenario:
    """Raises InputError for a file that is missing or cannot be used; objects that cannot be read are all named."""
    path = folder / FLOWS_FILE
    content = _read_flows_file(path)
    configuration = _configuration(content, path)
    features = _features(content, folder / CLUSTER_FILE, configuration, path)
    store = next(feature.store for feature in features if isinstance(feature, ServicesFeature))
    stated = [_address(text, f"{path}: addresses") for text in content.addresses]
    addresses = tuple(dict.fromkeys((*host_addresses(store.node), *stated)))
    if content.check is Depth.FLOWS and not content.flows:
        raise InputError(f"{path}: flows: expected at least one: without any nothing is checked")
    lines = _lines_of_flows(path) if content.flows else []
    flows = tuple(_flows(content, path, lines))
    return Scenario(folder, configuration, addresses, flows, store, features, take_all(features), content.check)


def read_scenarios(folders: Iterable[Path]) -> list[Scenario]:
    """All of them. Raises InputError, which names what is wrong in each that cannot be used."""
    scenarios: list[Scenario] = []
    errors: list[str] = []
    for folder in folders:
        try:
            scenarios.append(read_scenario(folder))
        except InputError as error:
            errors.append(str(error))
    if errors:
        raise InputError("\n".join(errors))
    return scenarios


def check(scenario: Scenario, depth: Depth | None = None) -> Difference:
    """How `scenario` is not as written down, as deep as it says itself unless `depth` says it.

    Raises InputError for a file of rules that cannot be read.
    """
    cases = list(_flow_cases(scenario))
    rulesets: list[str] = []
    for path, rendered in compared_files(scenario, depth).items():
        written = read_text(path) if is_there(path) else None
        name = str(path.relative_to(scenario.folder if path.parent == scenario.folder else scenario.folder.parent))
        failures = () if written == rendered else (_file_failure(scenario, path, name, is_there=written is not None),)
        cases.append(Case(name, path, 1, failures))
        if written is not None:
            before, now = written.splitlines(keepends=True), rendered.splitlines(keepends=True)
            rulesets += difflib.unified_diff(before, now, str(path), "rendered now")
    return Difference(tuple(cases), tuple(rulesets))


def read_text(path: Path) -> str:
    """Raises InputError for what is no plain file, cannot be read, or is no text."""
    return text_of(read_plain(path), str(path))


def text_of(content: bytes, name: str) -> str:
    """Text whose lines end as they end here. `name`: for messages. Raises InputError."""
    try:
        return as_text(content)
    except UnicodeDecodeError as error:
        raise InputError(f"{printable(name)}: is no UTF-8 text") from error


def _file_failure(scenario: Scenario, path: Path, name: str, *, is_there: bool) -> Failure:
    deeper = "--depth ruleset " if scenario.depth is Depth.FLOWS else ""
    command = f"rulegen golden update {deeper}{_word(scenario.folder)}"
    if is_there:
        return Failure(path, 1, name, "the rules that are written down", "others", command)
    return Failure(path, 1, name, "a file of rules", "none", command)


def _word(path: Path) -> str:
    """As a shell takes it; what no terminal should get, as messages have it."""
    text = str(path)
    return shlex.quote(text) if text.isprintable() else shown(text)


def update(scenario: Scenario, depth: Depth | None = None) -> list[Path]:
    """Writes what `scenario` renders to now, as deep as it is compared.

    Returns the files that this changed. Flows are people's to write. Raises InputError for one that cannot be written.
    """
    changed = []
    for path, rendered in compared_files(scenario, depth).items():
        if not _says(path, rendered):
            _make_folder(path.parent)
            write_text(path, rendered)
            changed.append(path)
    return changed


def _says(path: Path, text: str) -> bool:
    """Raises InputError for a file that is there and cannot be read."""
    return is_there(path) and read_plain(path) == text.encode()


def _make_folder(path: Path) -> None:
    """Raises InputError."""
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise refusal(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Raises InputError for a file that cannot be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise refusal(error.filename or path, error) from error


def remove_file(path: Path) -> None:
    """Raises InputError for one that cannot be removed."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise refusal(path, error) from error


def unused(folders: Sequence[str], scenarios: Sequence[Scenario], depth: Depth | None = None) -> list[Path]:
    """The files in folders `base` below `folders` that no scenario has, sorted; `scenarios`: all that there are.

    None where no scenario is compared as deep as that.
    """
    used = {path for scenario in scenarios for path in compared_files(scenario, depth)}
    if not any(path.parent.name == BASE_FOLDER for path in used):
        return []
    bases = [inside for folder in folders for inside in walk(folder) if inside[0].name == BASE_FOLDER]
    found = {path / name for path, files in bases for name in files if (path / name).suffix in _SUFFIXES}
    return sorted(found - used)


def compared_files(scenario: Scenario, depth: Depth | None = None) -> dict[Path, str]:
    """What of `files` is compared as deep as that, or as the scenario says: nothing, its own files, or all."""
    depth = depth or scenario.depth
    if depth is Depth.FLOWS:
        return {}
    return {
        path: text for path, text in files(scenario).items() if depth is Depth.RULESET or path.parent == scenario.folder
    }


def files(scenario: Scenario) -> dict[Path, str]:
    """What there is to be written down: the rules without any object, and what the scenario adds to them."""
    base = scenario.folder.parent / BASE_FOLDER / _digest(scenario.wanted.contexts)
    without = TakenItems({name: {} for name in scenario.wanted.items}, scenario.wanted.contexts)
    written = {}
    for (name, suffix), target in _FILES.items():
        base_file = base.with_suffix(suffix)
        written[base_file] = _render(scenario, target, without)
        added = _added(_said(written[base_file]), _said(render(scenario, target)))
        names = (f"--- ../{BASE_FOLDER}/{base_file.name}", f"+++ {one_line(scenario.folder.name)}")
        written[scenario.folder / name] = "".join(f"{line}\n" for line in (*names, *added))
    return written


def render(scenario: Scenario, target: Target) -> str:
    """The whole ruleset of the scenario's node."""
    return _render(scenario, target, scenario.wanted)


def _render(scenario: Scenario, target: Target, wanted: TakenItems) -> str:
    driver = make_driver(target)
    compilers = CompilerSet.of(scenario.features, driver.name, scenario.configuration)
    compile_all(compilers, *wanted)
    return "".join(driver.render(compilers))


def _digest(contexts: Mapping[str, Any]) -> str:
    """A name for what all items depend on: scenarios whose nodes are configured alike have the same."""
    plain = msgspec.to_builtins(contexts, str_keys=True)
    return hashlib.blake2b(msgspec.json.encode(plain, order="deterministic"), digest_size=4).hexdigest()


def _added(base: Sequence[str], whole: Sequence[str]) -> Iterator[str]:
    """A unified diff without context and without numbers of lines, which say nothing about a scenario.

    In their place stands what the lines are in: a set, a chain or a table.
    """
    place = ""
    matcher = difflib.SequenceMatcher(None, base, whole, autojunk=False)
    for operation, begin, end, new_begin, new_end in matcher.get_opcodes():
        if operation == "equal":
            continue
        now = next((line for line in reversed(whole[:new_begin]) if _PLACE.match(line)), "")
        if now != place:
            place = now
            yield f"@@ {place.strip()}"
        yield from (f"-{line}" for line in base[begin:end])
        yield from (f"+{line}" for line in whole[new_begin:new_end])


def _said(text: str) -> list[str]:
    """The lines of a ruleset but for digests of what other lines say: they change with every fixed rule."""
    return [line for line in text.splitlines() if not _DIGEST.match(line)]


# -- reading --


def _read_flows_file(path: Path) -> FlowsFile:
    from rulegen.kube.yaml_documents import YamlError, parse_documents

    try:
        documents = list(parse_documents(read_plain(path)))
        if len(documents) != 1:
            raise InputError(f"{path}: expected one document, got {len(documents)}")
        (document,) = documents
        for note in (*document.faults, *document.repeated):
            raise InputError(f"{path}:{note.line}:{note.column}: {note.reason}")
        return msgspec.convert(document.value, FlowsFile)
    except YamlError as error:
        raise InputError(f"{path}:{error.line}:{error.column}: {error}") from error
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}{_known_words(str(error))}") from error


def _known_words(message: str) -> str:
    """What could have stood where msgspec found a word that is not known; "" where another thing is wrong."""
    place = message.partition(" - at `$")[2].rstrip("`")
    if place.endswith(".expect") and "unknown field" not in message:
        return f"; expected {', '.join((*_FATES.values(), _MASQUERADED))}, or {{endpoints: ..., masqueraded: ...}}"
    if "unknown field" in message:
        struct = Balanced if place.endswith(".expect") else FlowEntry if ".flows[" in f".{place}" else FlowsFile
        return f"; known are {', '.join(struct.__struct_encode_fields__)}"
    kinds: list[tuple[str, type[Enum]]] = [(".check", Depth), (".ipFamilies", Family), (".podRange", PodRange)]
    return "".join(
        f"; known are {', '.join(one.value for one in kind)}" for name, kind in kinds if place.startswith(name)
    )


def _lines_of_flows(path: Path) -> list[int]:
    """The line in which each item of `flows` begins, from 1; of a file that was read before."""
    import yaml

    root = yaml.compose(read_text(path), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    for key, value in root.value if root is not None else ():
        if key.value == "flows":
            return [item.start_mark.line + 1 for item in value.value]
    return []


def _configuration(content: FlowsFile, path: Path) -> NodeConfiguration:
    configuration, warnings = read_configuration(content.configuration, f"{path}: configuration")
    if warnings:
        # Nobody would look at a warning of a scenario.
        raise InputError("\n".join(warnings))
    policies = read_policy_settings({"networkPolicies": content.network_policies}, str(path))
    try:
        node = for_families(node_configuration(configuration, content.node, ""), content.ip_families)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return _with_ip_masq_agent(replace(node, policies=policies), content, path)


def _with_ip_masq_agent(node: NodeConfiguration, content: FlowsFile, path: Path) -> NodeConfiguration:
    """Never the host's own file: a scenario says all that it depends on."""
    egress = replace(node.egress, pod_range=content.pod_range)
    if not content.ip_masq_agent:
        return replace(node, egress=egress)
    from rulegen.egress.configuration import with_fields

    egress, warnings = with_fields(egress, content.ip_masq_agent, f"{path}: ipMasqAgent")
    if warnings:
        raise InputError("\n".join(warnings))
    return replace(node, egress=egress)


def _address(text: str, place: str) -> str:
    address = canonical_address(text)
    if address is None:
        raise InputError(f"{place}: expected an IP address, got {shown(text)}")
    return address


def _features(content: FlowsFile, cluster: Path, configuration: NodeConfiguration, path: Path) -> list[Feature]:
    try:
        features = make(content.features, configuration)
    except InputError as error:
        raise InputError(f"{path}: features: {error}") from error
    if cluster_driver(content.features):
        words = "has no flows: keep what `render` prints, and compare with `diff --against`"
        raise InputError(f"{path}: features: {content.features[0]} runs once for a cluster and {words}")
    check_plain(cluster)
    manifests = load([str(cluster)], None, kinds=kinds_of(content.features))
    if manifests.problems:
        raise InputError("\n".join(map(str, manifests.problems)))
    nodes = {node.metadata.name for node in manifests.nodes}
    if nodes and configuration.node_name not in nodes:
        near = there_is(configuration.node_name, nodes)
        raise InputError(f"{path}: node: {CLUSTER_FILE} has no node {shown(configuration.node_name)}{near}")
    feed(features, manifests.objects())
    try:
        check_conditions(features)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return features


def _flows(content: FlowsFile, path: Path, lines: Sequence[int]) -> Iterator[Flow]:
    for index, entry in enumerate(content.flows):
        place = f"{path}: flows[{index}]"
        if isinstance(entry.expect, Balanced):
            _check_shares(entry.expect, f"{place}.expect")
        pairs = list(product(_as_list(entry.sources), _as_list(entry.destinations)))
        if not pairs:
            empty = "to" if entry.sources else "from"
            raise InputError(f"{place}.{empty}: expected at least one, got none")
        for source, destination in pairs:
            flow = _flow(entry, source, destination, place)
            if flow.source != NODE and family_of(flow.source) != family_of(flow.destination):
                raise InputError(f"{place}: {shown(source)} and {shown(destination)} are of different IP families")
            yield flow._replace(entry=index, line=lines[index])


def _as_list(one_or_more: str | list[str]) -> list[str]:
    return [one_or_more] if isinstance(one_or_more, str) else one_or_more


def _check_shares(expect: Balanced, place: str) -> None:
    if not expect.endpoints:
        raise InputError(f"{place}.endpoints: expected at least one; write rejected, dropped or passed for none")
    if isinstance(expect.endpoints, dict) and min(expect.endpoints.values()) < 1:
        raise InputError(f"{place}.endpoints: every share must be at least 1")
    unknown = sorted(expect.masqueraded_endpoints.difference(expect.endpoints))
    if unknown:
        raise InputError(f"{place}.masqueraded: {shown(unknown[0])} is not among the endpoints")


def _flow(entry: FlowEntry, source: str, destination: str, place: str) -> Flow:
    try:
        address, port, protocol = parse_destination(destination)
    except ValueError as error:
        raise InputError(f"{place}.to: {error}") from error
    client = NODE if source == NODE else _client(source)
    if client is None:
        raise InputError(f"{place}.from: expected an address, a CIDR, or {NODE}, got {shown(source)}")
    return Flow(entry.name, client, entry.interface, address, port, protocol, entry.expect)


def _client(text: str) -> str | None:
    """An address, or a CIDR, canonical."""
    if "/" not in text:
        return canonical_address(text)
    network = parse_network(text)
    return str(network) if network else None


# -- following --


class Fact(NamedTuple):
    """What becomes of a packet, in a form that can be compared. `fate` is "" where there are endpoints."""

    fate: str
    shares: Mapping[str, float] = {}
    masqueraded: frozenset[str] = frozenset()
    sticky: bool = False

    def __str__(self) -> str:
        if self.fate:
            return self.fate
        endpoints = (
            f"{endpoint} {share:.1%}" + (" masqueraded" if endpoint in self.masqueraded else "")
            for endpoint, share in self.shares.items()
        )
        return ", ".join(endpoints) + (", sticky" if self.sticky else "")


def _flow_cases(scenario: Scenario) -> Iterator[Case]:
    indexes = _frontends(scenario)
    command = f"rulegen golden update --flows {_word(scenario.folder)}"
    for flow in scenario.flows:
        expected = _expected(flow.expect)
        failures = tuple(
            Failure(
                scenario.flows_file, flow.line, str(flow._replace(source=source)), str(expected), str(fact), command
            )
            for source in _clients(scenario, flow)
            if (fact := _found(scenario, indexes, flow, source)) != expected
        )
        yield Case(str(flow), scenario.flows_file, flow.line, failures)


def facts(scenario: Scenario, flow: Flow) -> list[Fact]:
    """What becomes of the flow's packets now, of each client that is tried."""
    indexes = _frontends(scenario)
    return [_found(scenario, indexes, flow, source) for source in _clients(scenario, flow)]


def _frontends(scenario: Scenario) -> dict[Family, FrontendIndex]:
    service_ports = scenario.store.service_ports()
    return {
        family: FrontendIndex(service_port for service_port in service_ports if service_port.family is family)
        for family in scenario.configuration.families
    }


def _expected(expect: Expectation) -> Fact:
    if not isinstance(expect, Balanced):
        return Fact(expect)
    return Fact("", _rounded(expect.shares), expect.masqueraded_endpoints, expect.sticky)


def _clients(scenario: Scenario, flow: Flow) -> Iterator[str]:
    """The source addresses to try: of many clients the first and the last."""
    if flow.source == NODE:
        yield source_towards(flow.destination, scenario.addresses)
    else:
        clients = ip_network(flow.source if "/" in flow.source else host_cidr(flow.source))
        yield from dict.fromkeys((str(clients[0]), str(clients[-1])))


def _found(scenario: Scenario, indexes: Mapping[Family, FrontendIndex], flow: Flow, source: str) -> Fact:
    family = family_of(flow.destination)
    settings = scenario.store.node_settings(family)
    if settings is None:
        return Fact("passed")
    packet = Packet(source, flow.destination, flow.port, flow.protocol, flow.interface)
    outcome = simulate(indexes[family], settings, scenario.addresses, packet)
    if outcome.fate is Fate.UNTOUCHED:
        leaves = _leaves_masqueraded(scenario, source, flow.destination)
        return Fact(_denied(scenario, packet) or (_MASQUERADED if leaves else _FATES[outcome.fate]))
    if outcome.fate is not Fate.BALANCED:
        return Fact(_FATES[outcome.fate])
    denied = {delivery.backend: _denied_at(scenario, packet, delivery) for delivery in outcome.deliveries}
    (fate, *others) = dict.fromkeys(denied.values())
    if fate and not others:
        return Fact(fate)
    names = {delivery.backend: _endpoint(delivery, denied[delivery.backend]) for delivery in outcome.deliveries}
    return Fact(
        "",
        _rounded({names[delivery.backend]: delivery.probability for delivery in outcome.deliveries}),
        frozenset(
            names[delivery.backend]
            for delivery in outcome.deliveries
            if not denied[delivery.backend]
            and (delivery.masquerade or _leaves_masqueraded(scenario, source, delivery.backend.address))
        ),
        outcome.matched is not None and outcome.matched.service_port.affinity_timeout is not None,
    )


def _denied(scenario: Scenario, packet: Packet) -> str:
    """What becomes of a packet on its way to where it goes now, where network policies are on and deny it; else ""."""
    policies: Any = next((feature for feature in scenario.features if feature.name == "network-policies"), None)
    if policies is None:
        return ""
    from rulegen.policies import on_node
    from rulegen.policies.simulate import Host
    from rulegen.policies.simulate import Packet as PolicyPacket

    start, end = ip_address(packet.source).packed, ip_address(packet.destination).packed
    settings = scenario.configuration.policies
    host = Host.of(scenario.addresses, settings)
    fate = on_node.fate_of(policies.store, settings, PolicyPacket(start, end, packet.protocol, packet.port), host)
    return "" if fate is on_node.Fate.PASSED else fate.value


def _denied_at(scenario: Scenario, packet: Packet, delivery: Delivery) -> str:
    """The same at one endpoint; what the Services refuse there policies are not asked about."""
    if delivery.decision.fate is not Fate.UNTOUCHED:
        return ""
    return _denied(scenario, packet._replace(destination=delivery.backend.address, port=delivery.backend.port))


def _leaves_masqueraded(scenario: Scenario, source: str, destination: str) -> bool:
    """Whether egress masquerading, where it is on, gives a packet that goes there the node's address."""
    egress: Any = next((feature for feature in scenario.features if feature.name == "egress-masquerade"), None)
    if egress is None:
        return False
    from rulegen.egress.simulate import decide

    return decide(egress.store, source, destination, scenario.addresses).is_masqueraded


def _endpoint(delivery: Delivery, denied: str) -> str:
    """The endpoint; with what becomes of the packet if it does not get there."""
    fate = delivery.decision.fate
    refused = denied if fate is Fate.UNTOUCHED else _FATES[fate]
    return str(delivery.backend) + (f" ({refused})" if refused else "")


def _rounded(shares: Mapping[str, float]) -> Mapping[str, float]:
    return {endpoint: round(share, 6) for endpoint, share in shares.items()}
