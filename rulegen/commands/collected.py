"""What a support bundle holds: each part is collected by itself, and what fails is told in its place.

In: an `Input`, where the agent answers. Out: parts, and why others are missing. Changes nothing. Nothing secret is
read on purpose: of settings only those that rulegen knows, of objects only the fields and annotations that it reads;
and what looks like a credential in a text of others is left out.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from io import StringIO
from typing import TYPE_CHECKING, NamedTuple

from rulegen.bundle import CONFIGURATION, EGRESS, FACTS, LIVE_RULES, OBJECTS, Part
from rulegen.commands.asking import ask
from rulegen.commands.options import Input
from rulegen.errors import HostError, RulegenError, lines, one_line

if TYPE_CHECKING:
    from rulegen.config import Configuration
    from rulegen.kube.manifests import Manifests
    from rulegen.reconcile.driver import Driver

_CONTENTS = "MANIFEST"
# Of each part, so much is kept; of logs the end.
_LARGEST = 256 << 20
_LARGEST_LOG = 8 << 20
_PROGRAM_SECONDS = 60.0
_UNITS = ("rulegen.service", "rulegen-cluster.service")
_LOG_LINES = 5000
# Whose annotations may mean something to rulegen; all others may hold anything.
_ANNOTATIONS = (
    "rulegen.io/",
    "service.cilium.io/",
    "service.kubernetes.io/",
    "endpoints.kubernetes.io/",
    "ingressclass.kubernetes.io/",
    "kubernetes.io/ingress.class",
)
_LEFT_OUT = b"(left out)"
# What each begins with or has in it, in lower case: most of what is large has nothing of the kind.
_SECRETS = (
    (
        (b"private key",),
        re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    ),
    # A JSON web token, as service accounts have.
    ((b"eyj",), re.compile(rb"\beyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*")),
    ((b"://",), re.compile(rb"(?<=://)[^\s/@\"']+(?=@)")),
    ((b"bearer ",), re.compile(rb"(?i)(?<=\bbearer )[^\s\"']+")),
    ((b"authorization: ",), re.compile(rb"(?i)(?<=\bauthorization: )[^\r\n]+")),
    ((b"token=", b"token:"), re.compile(rb"(?i)(?<=token[=:])[^\s\"']+")),
    ((b"password=", b"password:"), re.compile(rb"(?i)(?<=password[=:])[^\s\"']+")),
)


class Wanted(NamedTuple):
    """What is collected, and from where. `problem`: why the settings are not those of --config, "" if they are.

    `configuration`: for whichever node.
    """

    source: Input
    configuration: Configuration
    driver: Driver
    problem: str = ""


class Missing(NamedTuple):
    """A part that there is not, and why."""

    name: str
    why: str


class _Step(NamedTuple):
    """A part: what it is, and what makes it. `is_log`: the end counts more than the beginning."""

    name: str
    title: str
    make: Callable[[], bytes]
    is_log: bool = False


class Collected(NamedTuple):
    """All parts in their order, the listing first; those that are missing."""

    parts: list[Part]
    missing: list[Missing]
    listing: list[str]


def collect(wanted: Wanted) -> Collected:
    """All that can be had. Raises InputError for a node's name that cannot be one."""
    objects = _Objects(wanted)
    wanted = wanted._replace(configuration=objects.for_their_node())
    parts: list[Part] = []
    missing: list[Missing] = []
    rows: list[str] = []
    for step in _steps(wanted, objects):
        try:
            data = _bounded(step, step.make())
        except (RulegenError, OSError, subprocess.SubprocessError) as error:
            why = " / ".join(map(_text, lines(str(error), 20))) or type(error).__name__
            missing.append(Missing(step.name, why))
            rows.append(f"{step.name:<26} {'-':>10}  {step.title}: missing: {why}")
        else:
            parts.append(Part(step.name, data))
            rows.append(f"{step.name:<26} {len(data):>10}  {step.title}")
    listing = ["file                            bytes  what it is", *rows]
    contents = Part(_CONTENTS, "".join(f"{line}\n" for line in listing).encode(errors="backslashreplace"))
    return Collected([contents, *parts], missing, listing)


def scrubbed(data: bytes) -> bytes:
    """Without what looks like a credential."""
    lower = data.lower()
    for hints, secret in _SECRETS:
        if any(hint in lower for hint in hints):
            data = secret.sub(_LEFT_OUT, data)
    return data


def _text(text: str) -> str:
    return one_line(scrubbed(text.encode(errors="backslashreplace")).decode(errors="replace"))


def _lines(text: str) -> bytes:
    """Each line of a text so that it is safe to print; `none` where there is none."""
    return "".join(f"{one_line(line, None)}\n" for line in (text or "none").split("\n")).encode()


def _bounded(step: _Step, data: bytes) -> bytes:
    data = scrubbed(data)
    if step.is_log:
        return data[-_LARGEST_LOG:]
    if len(data) <= _LARGEST:
        return data
    if step.name in (OBJECTS, LIVE_RULES):
        raise HostError(f"{len(data)} bytes, and at most {_LARGEST} are kept")
    return data[:_LARGEST] + b"\n(cut off here)\n"


def _steps(wanted: Wanted, objects: _Objects) -> Iterator[_Step]:
    """In their order: those that other commands read come first."""
    rules = _Rules(wanted, objects)
    agent = wanted.configuration.agent
    health, metrics = agent.healthz_bind_address, agent.metrics_bind_address
    yield _Step(FACTS, "of which node and when", lambda: _facts(wanted))
    yield _Step(CONFIGURATION, "the settings", lambda: _configuration(wanted.configuration))
    yield _Step(EGRESS, "the settings that egress masquerading has", lambda: _egress(wanted.configuration))
    yield _Step("configuration-problems.txt", "why they are not those of --config", lambda: _lines(wanted.problem))
    yield _Step(LIVE_RULES, "rulegen's rules in the kernel, for diff and explain -f", rules.live)
    yield _Step(OBJECTS, "the objects, as rulegen snapshot writes them", objects.text)
    yield _Step("objects-problems.txt", "objects and files that cannot be used", objects.problems)
    yield _Step("diff.txt", "what rulegen apply would change", rules.difference)
    yield _Step("nft-tables.txt", "rulegen's tables as nft lists them", _nft_tables)
    yield _Step("nft-hooks.txt", "all chains of nf_tables with a hook, others' too", _nft_hooks)
    yield _Step("obstacles.txt", "chains of others that may drop traffic of Services", lambda: _obstacles(wanted))
    for variant in ("nft", "legacy"):
        for family in ("IPv4", "IPv6"):
            program = ("iptables" if family == "IPv4" else "ip6tables") + f"-{variant}-save"
            yield _Step(f"{program}.txt", f"what {program} prints", _saver(variant, family))
    yield _Step("status.json", "the agent's status", lambda: ask(health, "/status", "application/json"))
    yield _Step("status.html", "the same as a page", lambda: ask(health, "/status", "text/html"))
    yield _Step("metrics.txt", "the agent's metrics", lambda: ask(metrics, "/metrics"))
    yield _Step("agent-configuration.json", "the settings that the agent has", lambda: ask(metrics, "/configz"))
    yield _Step("agent-log.txt", "the last lines of the agent's log", lambda: ask(metrics, "/log"), is_log=True)
    yield _Step("journal.txt", "what systemd has of the agent's log", _journal, is_log=True)
    yield _Step("versions.txt", "versions", lambda: _versions().encode())


# -- what it is of --


def _facts(wanted: Wanted) -> bytes:
    import msgspec

    from rulegen import __version__
    from rulegen.commands.bundled_parts import Facts
    from rulegen.interfaces import host_families

    node = wanted.configuration.node
    try:
        families = host_families()
    except HostError:
        families = node.families
    made = datetime.now(UTC).isoformat(timespec="seconds")
    named = [family.value for family in families]
    facts = Facts(__version__, made, node.node_name, wanted.configuration.target.value, named)
    return msgspec.json.encode(facts) + b"\n"


def _configuration(configuration: Configuration) -> bytes:
    """Of the kubeconfig only the path."""
    import msgspec

    from rulegen.agent.http.configz import configuration_document, own_document

    documents = (configuration_document(configuration), own_document(configuration))
    return b"".join(b"---\n" + msgspec.json.format(msgspec.json.encode(one), indent=2) + b"\n" for one in documents)


def _egress(configuration: Configuration) -> bytes:
    import msgspec

    from rulegen.commands.bundled_parts import EgressFile
    from rulegen.egress.configuration import written_egress_settings

    egress = configuration.node.egress
    said = EgressFile(written_egress_settings(egress)["ipMasqAgent"], egress.unusable)
    return msgspec.json.encode(said) + b"\n"


class _Objects:
    """The objects, read once for all parts that need them."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._manifests: Manifests | None = None
        self._error: RulegenError | None = None

    def read(self) -> Manifests:
        """Raises RulegenError, each time the same."""
        if self._error is not None:
            raise self._error
        if self._manifests is None:
            from rulegen.commands.reading import read_manifests
            from rulegen.features import kinds_of

            source, configuration = self._wanted.source, self._wanted.configuration
            kinds = kinds_of(configuration.features)
            try:
                self._manifests = read_manifests(source, configuration, None, kinds, sys.stdin.buffer)
            except RulegenError as error:
                self._error = error
                raise
        return self._manifests

    def for_their_node(self) -> Configuration:
        """The settings, with the node that is meant: by name, or which of those that there are can only be meant."""
        from msgspec.structs import replace

        from rulegen.configuration_file import default_node, node_configuration

        configuration, here = self._wanted.configuration, os.uname().nodename
        try:
            nodes = {node.metadata.name for node in self.read().nodes}
        except RulegenError:
            nodes = set()
        name = self._wanted.source.node or configuration.node.node_name or default_node(here, nodes)
        return replace(configuration, node=node_configuration(configuration, name, here))

    def text(self) -> bytes:
        from rulegen.kube.snapshot import write_manifests

        written = StringIO()
        write_manifests(_without_annotations(self.read()), written)
        return written.getvalue().encode(errors="backslashreplace")

    def problems(self) -> bytes:
        from rulegen.kube.snapshot import left_out

        manifests = self.read()
        told = [str(problem) for problem in manifests.problems]
        told += [f"skipped: {count} {kind}" for kind, count in sorted(manifests.skipped.items())]
        if what := left_out(manifests):
            told.append(f"left out, as they hold private keys: {what}")
        return _lines("\n".join(told))


def _without_annotations(manifests: Manifests) -> Manifests:
    """Without those that mean nothing to rulegen, which may hold anything."""
    from msgspec.structs import replace

    def kept(item: object) -> object:
        metadata = item.metadata  # type: ignore[attr-defined]
        annotations = getattr(metadata, "annotations", None)
        if not annotations:
            return item
        chosen = {name: text for name, text in annotations.items() if name.startswith(_ANNOTATIONS)}
        return replace(item, metadata=replace(metadata, annotations=chosen or None))  # type: ignore[type-var]

    by_kind = {kind: [kept(item) for item in items] for kind, items in manifests.by_kind.items()}
    return replace(manifests, by_kind=by_kind, unselected=[kept(item) for item in manifests.unselected])


class _Rules:
    """The rules in the kernel, read once, and compared with the objects where these can be read."""

    def __init__(self, wanted: Wanted, objects: _Objects) -> None:
        self._wanted = wanted
        self._objects = objects
        self._difference: bytes | RulegenError = HostError("the rules in the kernel cannot be read")

    def live(self) -> bytes:
        """Raises RulegenError. What differs is found out on the way."""
        from rulegen.commands.bundled import pack_live_rules
        from rulegen.commands.reading import make_features
        from rulegen.configuration_file import for_families
        from rulegen.interfaces import host_families
        from rulegen.reconcile.compilers import CompilerSet
        from rulegen.reconcile.once import compare_once, take_all

        driver, configuration = self._wanted.driver, self._wanted.configuration
        failure: RulegenError | None = None
        objects: Sequence[object] = ()
        try:
            objects = list(self._objects.read().objects())
        except RulegenError as error:
            failure = error
        features = make_features(objects, configuration, configuration.node)
        with driver.open() as opened:
            node = for_families(configuration.node, host_families())
            rules = opened.rules(CompilerSet.of(features, driver.name, node))
            if failure is not None:
                rules.read()
                self._difference = failure
                return pack_live_rules(driver, rules.live)
            try:
                difference = compare_once(rules, take_all(features))[1]
                shown = [one_line(line, None) for change in difference.changes() for line in change.text.split("\n")]
                text = "".join(f"{line}\n" for line in (*shown, str(difference)))
                self._difference = text.encode(errors="backslashreplace")
            except RulegenError as error:
                self._difference = error
            return pack_live_rules(driver, rules.live)

    def difference(self) -> bytes:
        """What `live` has found. Raises RulegenError."""
        if isinstance(self._difference, RulegenError):
            raise self._difference
        return self._difference


# -- the kernel, as others show it --


def _run(*words: str) -> bytes:
    """What a program prints. Raises HostError, OSError, SubprocessError."""
    from rulegen import children

    if shutil.which(words[0]) is None:
        raise HostError(f"{words[0]} is not installed")
    ended = children.run(words, timeout=_PROGRAM_SECONDS)
    if ended.returncode:
        raise HostError(f"{words[0]} {children.how(ended)}: {ended.stderr.decode(errors='replace').strip()}")
    return ended.stdout


def _nft_tables() -> bytes:
    words = [line.split() for line in _run("nft", "list", "tables").decode(errors="replace").splitlines()]
    ours = [tuple(table) for _, *table in words if table[-1].startswith("rulegen")]
    return b"".join(_run("nft", "list", "table", *table) for table in ours) or b"none\n"


def _nft_hooks() -> bytes:
    from contextlib import closing

    from rulegen.firewalls.find import hooked_chains
    from rulegen.nftables.messages import open_connection

    with closing(open_connection()) as connection:
        found = hooked_chains(connection)
    return _lines("\n".join(found))


def _obstacles(wanted: Wanted) -> bytes:
    from rulegen.firewalls.find import obstacles_beside

    return _lines("\n".join(map(str, obstacles_beside(wanted.configuration.target))))


def _saver(variant: str, family: str) -> Callable[[], bytes]:
    def save() -> bytes:
        from rulegen.config import Family
        from rulegen.iptables import binaries
        from rulegen.iptables.binaries import Variant

        return binaries.save(Variant(variant), Family(family)).encode("utf-8", "surrogateescape") or b"no tables\n"

    return save


def _journal() -> bytes:
    units = [word for unit in _UNITS for word in ("-u", unit)]
    data = _run("journalctl", "--no-pager", "--quiet", "-o", "short-iso", "-n", str(_LOG_LINES), *units)
    if not data:
        raise HostError(f"the journal has no lines of {' or '.join(_UNITS)}")
    return data


# -- versions --


def _versions() -> str:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from rulegen import __version__
    from rulegen.resources import commit

    system = os.uname()
    found = [
        f"rulegen {__version__} {commit()}".rstrip(),
        f"kernel {system.sysname} {system.release} {system.version} {system.machine}",
        f"python {platform.python_version()}",
    ]
    for package in ("click", "jinja2", "kubernetes", "msgspec", "prometheus-client", "python-iptables", "watchfiles"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} is not installed")
    for program in ("nft", "iptables", "iptables-nft", "iptables-legacy", "systemctl"):
        try:
            said = _run(program, "--version").decode(errors="replace").split("\n", 1)[0]
        except (HostError, OSError, subprocess.SubprocessError) as error:
            said = str(error)
        found.append(f"{program}: {one_line(said)}")
    return "".join(f"{line}\n" for line in found)
