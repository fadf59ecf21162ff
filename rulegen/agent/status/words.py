"""A status comes in, lines for people go out, each with how it is to be looked at. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from rulegen.agent.status.document import Problems, Status
from rulegen.toned import TextLine, Tone

_LABEL = 15
_SHOWN = 10


def ago(then: datetime, now: datetime) -> str:
    """`3 s ago`, `5 min ago`, `2 h ago`, `9 d ago`."""
    seconds = max(0.0, (now - then).total_seconds())
    for unit, length, until in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < until:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds / 86_400:.0f} d ago"


def milliseconds(seconds: float) -> str:
    """`1.24 ms`."""
    return f"{seconds * 1000:.2f} ms"


def counted(number: int, one: str, many: str) -> str:
    """`1 entry`, `2 entries`."""
    return f"{number} {one if number == 1 else many}"


def status_lines(status: Status) -> Iterator[TextLine]:
    """What `rulegen status` prints: what is wrong in full, what is well in a line."""
    tones = {"ok": Tone.GOOD, "starting": Tone.TITLE}
    built = f" ({status.commit})" if status.commit else ""
    yield TextLine(f"{status.state}", tones.get(status.state, Tone.BAD))
    yield _row(
        "rulegen", f"{status.rulegen}{built}, process {status.process}, started {ago(status.started, status.now)}"
    )
    variant = f" ({status.variant})" if status.variant else ""
    yield _row("node", f"{status.node}, target {status.target}{variant}, {' and '.join(status.families)}")
    yield _row("features", ", ".join(status.features))
    yield _row("source", f"{status.source.kind}: {', '.join(status.source.places)}")
    if status.configuration:
        yield _row(
            "configuration", status.configuration_problem or status.configuration, bool(status.configuration_problem)
        )
    yield from _sync_lines(status)
    waiting = [one.kind for one in status.following if not (one.known or one.problem)]
    if waiting:
        yield _row("waiting for", ", ".join(waiting))
    for one in status.following:
        if one.problem:
            yield _row("not following", f"{one.kind}: {one.problem}", True)
    yield from _problem_lines("refused", status.refused)
    yield from _problem_lines("broken file", status.broken_files)
    yield from _problem_lines("broken object", status.broken_objects)
    yield from _drift_lines(status)
    yield from _listener_lines(status)
    yield from _finding_lines(status)
    if status.foreign_drops:
        yield _row("others", status.foreign_drops, True)
    message = f": {status.takeover.message}" if status.takeover.message else ""
    yield _row("takeover", status.takeover.state + message)


def _sync_lines(status: Status) -> Iterator[TextLine]:
    health = "healthy" if status.healthy else "changes do not reach the kernel"
    eligible = "" if status.node_eligible else ", not eligible for new connections from load balancers"
    yield _row("health", health + eligible, not status.healthy)
    last = status.last_sync
    if last is None:
        yield _row("last sync", "none yet")
    else:
        steps = ", ".join(f"{step} {milliseconds(seconds)}" for step, seconds in last.steps.items())
        kind = "full" if last.full else "partial"
        counts = f"{last.added} added, {last.changed} changed, {last.removed} removed"
        yield _row("last sync", f"{ago(last.ended, status.now)}, {kind}, {milliseconds(last.seconds)} ({steps})")
        names = ", ".join(last.names) + (", ..." if last.services > len(last.names) else "")
        yield _row("", f"{counts}, Services: {last.services}{f' ({names})' if names else ''}")
    if status.failure is not None:
        failure = status.failure
        since = ago(failure.since, status.now)
        yield _row(
            "failing", f"since {since}, {counted(failure.attempts, 'attempt', 'attempts')}: {failure.error}", True
        )
    pending = status.pending
    since = f", the oldest {ago(pending.since, status.now)}" if pending.since else ""
    yield _row("pending", f"{pending.waiting} waiting, {pending.taken} taken{since}")
    yield _row("in force", counted(status.service_ports, "service-port", "service-ports"))


def _drift_lines(status: Status) -> Iterator[TextLine]:
    drift = status.drift
    yield _row(
        "drift",
        f"{counted(drift.repairs, 'repair', 'repairs')} of {counted(drift.entries, 'entry', 'entries')}"
        if drift.repairs
        else "none",
    )
    for repair in drift.last[:_SHOWN]:
        yield _row(
            "", f"{ago(repair.at, status.now)}: {counted(repair.entries, 'entry', 'entries')} changed by {repair.who}"
        )
        for line in repair.lines:
            yield _row("", f"  {line}")


def _listener_lines(status: Status) -> Iterator[TextLine]:
    for one in status.listeners.own:
        yield _row("listening", f"{one.field} {one.problem or one.address}", bool(one.problem))
    yield _row("health checks", counted(status.listeners.health_checks, "listener", "listeners"))
    yield from _problem_lines("", status.listeners.failed_health_checks)


def _finding_lines(status: Status) -> Iterator[TextLine]:
    findings = status.findings
    total = ", ".join(f"{number} {reason}" for reason, number in findings.total.items())
    yield _row("findings", f"{total} (`rulegen lint` lists all)" if total else "none")
    for one in findings.shown[:_SHOWN]:
        for finding in one.shown:
            yield _row("", f"{one.object}: {finding.reason}: {finding.message}")
    if findings.objects > _SHOWN:
        yield _row("", f"{findings.objects - _SHOWN} more objects")


def _problem_lines(label: str, problems: Problems) -> Iterator[TextLine]:
    for one in problems.shown[:_SHOWN]:
        told = one.message if one.message.startswith(one.subject) else f"{one.subject}: {one.message}"
        yield _row(label, told, True)
    if problems.total > _SHOWN:
        yield _row(label, f"{problems.total - _SHOWN} more", True)


def _row(label: str, text: str, is_bad: bool = False) -> TextLine:
    return TextLine(f"{label:<{_LABEL}}{text}", Tone.BAD if is_bad else Tone.PLAIN)
