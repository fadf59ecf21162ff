"""What is told of packets, as lines for people: documents come in, lines go out. Knows no terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rulegen.errors import printable
from rulegen.iptables.names import PREFIX
from rulegen.networks import with_port
from rulegen.toned import TextLine, Tone
from rulegen.trace.model import DecisiveRule, Step, Summary, TracedPacket
from rulegen.trace.table import PACKETS_PER_SECOND

_MOST_WORDS = 300
# Tables whose rules are told by what they mean.
_OF_SERVICES = ("rulegen", "kube-proxy")


def packet_lines(told: TracedPacket) -> Iterator[TextLine]:
    """A packet: what became of it, then its steps."""
    ends = told.packet
    packet = f"{with_port(ends.source, ends.source_port)} to {with_port(ends.destination, ends.port)}/{told.protocol}"
    is_lost = told.end not in {"left", "delivered"}
    yield TextLine(f"{packet}: {told.fate}", Tone.BAD if is_lost else Tone.GOOD)
    yield TextLine(f"  arrived by {told.came_by}" if told.came_by else "  sent by this node")
    for step in told.steps:
        if not step.is_quiet:
            yield TextLine(f"  {_step(step)}", Tone.BAD if step.verdict in {"drop", "reject"} else Tone.PLAIN)
    if told.end == "left":
        yield TextLine(f"  left by {told.left_by}")
    elif told.end == "delivered":
        yield TextLine("  delivered on this node")
    elif told.end != "stopped":
        yield TextLine(f"  {told.reason}", Tone.BAD)


def summary_lines(summary: Summary) -> Iterator[TextLine]:
    """What conntrack knows of the connections, and what was not followed."""
    for one in summary.connections:
        packets = "1 packet" if one.packets == 1 else f"{one.packets} packets"
        name = f"{one.source} to {one.destination}/{one.protocol}: {packets}"
        if not one.is_tracked:
            yield TextLine(f"{name}; conntrack has no connection of it", Tone.BAD)
        elif one.is_answered:
            yield TextLine(f"{name}; {one.server} answers", Tone.GOOD)
        else:
            yield TextLine(f"{name}; no answer of {one.server} yet", Tone.BAD)


def warnings(summary: Summary) -> Iterator[str]:
    """What a person has to know of packets that were not seen."""
    if not summary.packets and not summary.not_followed:
        yield "no such packet has come by"
    if summary.not_followed:
        yield f"{summary.not_followed} more packets were not followed: at most {PACKETS_PER_SECOND} in a second are"
    if summary.lost:
        yield (
            f"the kernel had more to tell than there was room for, {summary.lost} times: steps of packets are missing;"
            " narrow --from and --to"
        )


def _step(step: Step) -> str:
    chains = " > ".join(map(printable, step.chains))
    place = f"{_safe(step.table)}: {chains}" if step.table else ""
    said = [place, _rule(step.rule) if step.rule and _is_shown(step) else "", step.meaning]
    return ": ".join(filter(None, said))


def _is_shown(step: Step) -> bool:
    """What is known of Services, and of rulegen's rules, says it better."""
    table = step.table.partition(" ")[2]
    is_known = bool(step.service) or table.startswith(_OF_SERVICES)
    return step.rule is not None and not is_known and not step.rule.chain.startswith(PREFIX)


def _rule(rule: DecisiveRule) -> str:
    """`rule 3 "no web": tcp dport 8080 drop`; a comment stands in the words of most programs already."""
    words = rule.words if len(rule.words) <= _MOST_WORDS else f"{rule.words[:_MOST_WORDS]}..."
    comment = f" {printable(rule.comment)}" if rule.comment and rule.comment not in words else ""
    return f"rule {rule.position}{comment}" + (f": {words}" if words else "")


def _safe(table: str) -> str:
    family, _, name = table.partition(" ")
    return f"{family} {printable(name)}"
