"""When the endpoints of Services changed in the cluster comes in; how long it took until that was in force goes out.

The control plane notes in an EndpointSlice when its Pods or its Service changed last. Pure: times come in and go out,
in seconds since the epoch. Remembers of each slice the name of its Service, and the times of what is not in force yet.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime

from rulegen.config import FAMILIES, Family
from rulegen.kube.objects import SERVICE_NAME, EndpointSlice

TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"

# While syncs fail; the oldest go first.
_TIMES_OF_A_SERVICE = 100


class TriggerTimes:
    """What was changed and is not in force yet (SVC-103). `started`: changes from before that time do not count."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._services: dict[tuple[str, str], str] = {}
        self._times: dict[tuple[str, str], deque[tuple[Family, float]]] = {}

    def set_slice(self, slice_: EndpointSlice) -> None:
        """A slice as it is now; one without a Service, without a time or of no known family does not count."""
        metadata = slice_.metadata
        service = (metadata.labels or {}).get(SERVICE_NAME)
        family = FAMILIES.get(slice_.address_type)
        if not service or family is None:
            return
        self._services[metadata.namespace, metadata.name] = service
        changed = _seconds((metadata.annotations or {}).get(TRIGGER_TIME))
        if changed is None or changed <= self._started:
            return
        times = self._times.setdefault((metadata.namespace, service), deque(maxlen=_TIMES_OF_A_SERVICE))
        # Other changes of a slice leave the time as it was.
        if (family, changed) not in times:
            times.append((family, changed))

    def remove_slice(self, namespace: str, name: str) -> None:
        """A slice is gone: all that is recorded of its Service is discarded, as it no longer says what it waits for."""
        service = self._services.pop((namespace, name), None)
        if service is not None:
            self._times.pop((namespace, service), None)

    def take(self, now: float) -> list[tuple[Family, float]]:
        """All that was recorded is in force `now`: for each time, how long it took; never less than 0."""
        if not self._times:
            return []
        taken = [(family, max(0.0, now - time)) for times in self._times.values() for family, time in times]
        self._times.clear()
        return taken


def _seconds(timestamp: str | None) -> float | None:
    """RFC 3339, with up to nine digits after the point; None for anything else."""
    if not timestamp:
        return None
    try:
        moment = datetime.fromisoformat(timestamp)
        return moment.timestamp() if moment.tzinfo else None
    except (ValueError, OverflowError):
        return None
