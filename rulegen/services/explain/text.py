"""Explanations come in, lines for people go out. Knows no terminal: what a line is says how it may be shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from rulegen.services.explain.model import (
    Agreement,
    EndpointExplanation,
    Entry,
    FrontendExplanation,
    ListExplanation,
    PacketExplanation,
    PortExplanation,
    ServiceExplanation,
    SourceExplanation,
)
from rulegen.services.on_iptables.annotate import AnnotatedChain
from rulegen.services.on_nftables.annotate import AnnotatedEntry
from rulegen.services.on_nftables.slots import MAX_SLOTS, TOLERANCE
from rulegen.toned import TextLine, Tone


def service_lines(explanation: ServiceExplanation) -> Iterator[TextLine]:
    """A Service, one service-port and family after the other."""
    where = f" on node {explanation.node}" if explanation.node else ""
    yield TextLine(f"Service {explanation.service}, type {explanation.type}{where}", Tone.TITLE)
    for fact in explanation.facts:
        yield TextLine(f"  {fact}")
    for finding in explanation.findings:
        yield TextLine(f"  {finding.reason}: {finding.object}: {finding.message}", Tone.BAD)
    for port in explanation.ports:
        yield TextLine("")
        yield from _port(port)
    yield from _agreement(explanation.live)


def packet_lines(explanation: PacketExplanation) -> Iterator[TextLine]:
    """A packet."""
    origin = f" ({explanation.origin})" if explanation.origin else ""
    through = f" by {explanation.interface}" if explanation.interface else ""
    packet = f"{explanation.source}{origin}{through} to {explanation.destination}"
    yield TextLine(f"{packet}: {explanation.fate}", Tone.TITLE)
    for name in explanation.names:
        yield TextLine(f"  {name}")
    for reason in (*explanation.reasons, *explanation.notes):
        yield TextLine(f"  {reason}")
    if explanation.affinity_timeout is not None:
        yield TextLine(f"  {_affinity(explanation.affinity_timeout)}")
    if explanation.deliveries:
        yield TextLine("  endpoints", Tone.HEADING)
        yield from _table(
            (
                delivery.endpoint,
                _percent(delivery.probability, delivery.share),
                "masqueraded" if delivery.masquerade else "source kept",
                delivery.decision,
            )
            for delivery in explanation.deliveries
        )
    for verdict in explanation.elsewhere:
        yield TextLine(f"  {verdict}")
    if explanation.otherwise:
        yield TextLine("  the rules do something else:", Tone.BAD)
        yield from (TextLine(f"    {words}", Tone.BAD) for words in explanation.otherwise)
    if explanation.chains:
        yield TextLine("  chains", Tone.HEADING)
        yield from _chains(explanation.chains)
    yield from _entries(explanation.entries)
    yield from _agreement(explanation.live)


def reason_lines(explanation: PacketExplanation) -> Iterator[TextLine]:
    """Why it is so, and what would work; the end of what is said of a packet."""
    if explanation.why:
        yield TextLine("  why", Tone.HEADING)
    for why in explanation.why:
        yield TextLine(f"    {why.message}")
        for way in why.would_work:
            yield TextLine(f"      would work: {way}", Tone.GOOD)


# ---- a service-port ----


def _port(port: PortExplanation) -> Iterator[TextLine]:
    yield TextLine(f"{port.name}, {port.family}, {port.protocol}", Tone.TITLE)
    for note in port.notes:
        yield TextLine(f"  {note}")
    yield TextLine("  frontends", Tone.HEADING)
    yield from _table(_frontend(frontend) for frontend in port.frontends)
    yield from _sources(port.frontends)
    if port.affinity_timeout is not None:
        yield TextLine(f"  {_affinity(port.affinity_timeout)}")
    for list_ in port.lists:
        yield TextLine(f"  {list_.name} list: {_list(list_)}")
    if port.draining:
        yield TextLine(f"  draining, only for clients that have them (D9): {', '.join(port.draining)}")
    yield from _endpoints(port)
    yield from _entries(port.entries)


def _frontend(frontend: FrontendExplanation) -> tuple[str, ...]:
    where = frontend.address or "this node's addresses"
    policy = "internal" if frontend.kind == "ClusterIP" else "external"
    fate = f"belongs to {frontend.owner} (D2)" if frontend.owner else frontend.verdict
    allowed = ""
    if frontend.allowed_sources is not None:
        allowed = f"sources outside {', '.join(frontend.allowed_sources)} are dropped (SVC-51)"
    return frontend.kind, where, f"port {frontend.port}", f"{policy} policy {frontend.policy}", fate, allowed


def _sources(frontends: Sequence[FrontendExplanation]) -> Iterator[TextLine]:
    """Frontends that treat all sources alike stand together; they are ordered by kind."""
    for sources, alike in groupby(frontends, key=lambda frontend: frontend.sources):
        if sources:
            kinds = dict.fromkeys(frontend.kind for frontend in alike)
            yield TextLine(f"  sources at {', '.join(kinds)}", Tone.HEADING)
            yield from _table(_source(source) for source in sources)


def _source(source: SourceExplanation) -> tuple[str, ...]:
    if not source.endpoints:
        return source.source, source.fate, "", source.reason
    masquerade = "masqueraded" if source.masquerade else "source kept"
    return source.source, f"{source.endpoints} list", masquerade, source.reason


def _list(list_: ListExplanation) -> str:
    text = list_.reason
    if list_.members:
        text += f": {_count(len(list_.members), 'endpoint')}"
    if list_.members and isinstance(list_.slots, int):
        text += f" in {_count(list_.slots, 'slot')}"
    if isinstance(list_.slots, int) and list_.rounding_error > TOLERANCE:
        text += f"; weights rounded by up to {list_.rounding_error:.1%}, {MAX_SLOTS} slots are the most there are (D9)"
    return text


def _endpoints(port: PortExplanation) -> Iterator[TextLine]:
    used = [list_ for list_ in port.lists if not list_.reason.startswith("not used")]
    if not port.endpoints:
        yield TextLine("  endpoints: none")
        return
    yield TextLine("  endpoints", Tone.HEADING)
    header = ("endpoint", "of", "node", "weight", *(f"{list_.name} list" for list_ in used))
    shares = {
        list_.name: {member.endpoint: _percent(member.probability, member.share) for member in list_.members}
        for list_ in used
    }
    rows = [
        (
            endpoint.endpoint,
            endpoint.target or endpoint.slice,
            endpoint.node or "-",
            str(endpoint.weight),
            *(_place(endpoint, list_.name, shares[list_.name]) for list_ in used),
        )
        for endpoint in port.endpoints
    ]
    yield from _table([header, *rows])


def _place(endpoint: EndpointExplanation, list_name: str, shares: dict[str, str]) -> str:
    why_not = endpoint.cluster if list_name == "Cluster" else endpoint.local
    return why_not or shares[endpoint.endpoint]


# ---- both ----


def _affinity(timeout: int) -> str:
    return (
        f"session affinity: a client stays with its endpoint until {timeout} s after its last new connection (SVC-56)"
    )


def _chains(chains: Iterable[str]) -> Iterator[TextLine]:
    """Chains after each other; where they have tables, a line for each table."""
    for table, passed in groupby((chain.rpartition(" ") for chain in chains), key=lambda parts: parts[0]):
        start = f"{table}: " if table else ""
        yield TextLine(f"    {start}" + " > ".join(chain for _, _, chain in passed))


def _entries(entries: Iterable[Entry]) -> Iterator[TextLine]:
    elements: list[tuple[str, ...]] = []
    chains: list[AnnotatedChain] = []
    for entry in entries:
        if isinstance(entry, AnnotatedEntry):
            elements.append((f"{entry.table} {entry.name}", entry.element, entry.meaning))
        else:
            chains.append(entry)
    if elements or chains:
        yield TextLine("  entries", Tone.HEADING)
        yield from _table(elements)
        yield from _rules(chains)


def _rules(chains: Sequence[AnnotatedChain]) -> Iterator[TextLine]:
    """Each chain with its rules below it: first what they mean, since rules are long."""
    width = max((len(rule.meaning) for chain in chains for rule in chain.rules), default=0)
    for chain in chains:
        yield TextLine(f"    {chain.table} {chain.chain}: {chain.meaning}")
        for rule in chain.rules:
            yield TextLine(f"      {rule.meaning.ljust(width)}  {rule.rule}")


def _agreement(live: Agreement | None) -> Iterator[TextLine]:
    if live is None:
        return
    yield TextLine("")
    if live.agrees:
        yield TextLine("the kernel holds exactly these entries", Tone.GOOD)
        return
    yield TextLine("the kernel differs; `rulegen apply` would change:", Tone.BAD)
    for difference in live.differences:
        for line in difference.split("\n"):
            yield TextLine(f"  {line}", Tone.BAD)


def _percent(probability: float, share: float) -> str:
    asked = f" (of {share:.2%} asked)" if abs(probability - share) > share / 1000 else ""
    return f"{100 * probability:.3g} %{asked}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _table(rows: Iterable[tuple[str, ...]]) -> Iterator[TextLine]:
    """Rows of cells, in columns as wide as they need; the last one is as long as it is."""
    cells = list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True) if width)
        yield TextLine("    " + "  ".join(padded).rstrip())
