"""What the kinds of a cluster say about not being followed comes in; lines for the log go out, each fact once.

An API server that is away is one fact, though four kinds find it out and each tries again and again. Holds texts only;
writes nothing.
"""

from __future__ import annotations

from msgspec import Struct

from rulegen.kube.follow import Interrupted, Resumed

# An error that says something else each time is not told each time.
_MOST_TOLD = 20


class _Outage(Struct):
    """`kinds`: all that it has met; `open`: those that are still not followed."""

    kinds: dict[str, None]
    open: set[str]


class Outages:
    """Which kinds are not followed, and what was said about it."""

    def __init__(self) -> None:
        self._outages: dict[str, _Outage] = {}

    def take(self, event: Interrupted | Resumed) -> list[str]:
        """What is new in it: nothing, or one line."""
        if isinstance(event, Interrupted):
            return self._interrupted(event.kind.__name__, str(event.error))
        return self._resumed(event.kind.__name__)

    def _interrupted(self, kind: str, error: str) -> list[str]:
        outage = self._outages.get(error)
        if outage is not None:
            outage.kinds[kind] = None
            outage.open.add(kind)
            return []
        if len(self._outages) >= _MOST_TOLD:
            return []
        self._outages[error] = _Outage({kind: None}, {kind})
        return [f"not following {kind}, trying again until it works (said once for all kinds): {error}"]

    def _resumed(self, kind: str) -> list[str]:
        """Another kind that still waits for the same is waited for."""
        over: dict[str, None] = {}
        for error, outage in list(self._outages.items()):
            outage.open.discard(kind)
            if not outage.open:
                over |= outage.kinds
                del self._outages[error]
        return [f"following {', '.join(sorted(over))} again"] if over else []
