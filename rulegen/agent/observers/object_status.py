"""What features want said in the status of objects comes in; the API server is told, from a thread of its own.

Nobody waits for it. Each status is written once for each time that it is not as it should be; what fails is tried
again, and the words of a failure are said once. Of several replicas only one writes: `may_write` says which.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from rulegen.errors import RulegenError
from rulegen.kube.api import Api, ApiError
from rulegen.kube.backoff import Retries
from rulegen.kube.follow import FollowEvent, Upsert
from rulegen.kube.kinds import REGISTRY
from rulegen.reconcile.feature import WithStatus
from rulegen.reconcile.observer import Observer
from rulegen.reconcile.reconciler import Sync
from rulegen.reference import ObjectReference

_LOG = logging.getLogger("rulegen.agent")

_ANSWER_SECONDS = 10.0
_FIRST_RETRY, _LONGEST_RETRY = 0.5, 60.0
# Until who leads is asked again.
_LEAD_SECONDS = 1.0
_STOP_SECONDS = 1.0
# The object has gone meanwhile; it, or its kind, cannot have what is to be written.
_NOT_FOUND, _INVALID = 404, 422


class StatusWriter(Observer):
    """`api` belongs to it from `start` on. `may_write` is asked by its thread, before each request."""

    def __init__(self, api: Api, features: Sequence[WithStatus], may_write: Callable[[], bool]) -> None:
        self._api = api
        self._features = tuple(features)
        self._may_write = may_write
        self._kinds = tuple(kind for feature in self._features for kind in feature.tells)
        # Objects that have come since the last sync.
        self._came: dict[ObjectReference, None] = {}
        self._changed = threading.Condition()
        self._pending: dict[ObjectReference, Mapping[str, Any]] = {}
        self._retries = Retries(_FIRST_RETRY, _LONGEST_RETRY)
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)

    def start(self) -> None:
        """Begins; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Ends within a second; what waits is not written."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._api.close()
        self._thread.join(_STOP_SECONDS)

    def took(self, events: Sequence[FollowEvent]) -> None:
        """Of what comes while nothing differs, somebody else may have written the same as before."""
        items = (event.item for event in events if isinstance(event, Upsert))
        self._came |= dict.fromkeys(ObjectReference.of(item) for item in items if isinstance(item, self._kinds))

    def synced(self, sync: Sync) -> None:
        """What is in force now may be said."""
        came, self._came = self._came, {}
        with self._changed:
            for feature in self._features:
                wanted = {reference: change.after for reference, change in feature.statuses.take().items()}
                if sync.is_full:
                    wanted |= feature.statuses.items()
                else:
                    wanted |= {about: found for about in came if (found := feature.statuses.get(about)) is not None}
                for reference, document in wanted.items():
                    if document is None:
                        self._pending.pop(reference, None)
                    else:
                        self._pending[reference] = document
            self._changed.notify_all()

    def _run(self) -> None:
        while (found := self._next()) is not None:
            self._write(*found)

    def _next(self) -> tuple[ObjectReference, Mapping[str, Any]] | None:
        """What is to be written next, as soon as it may be; None when it is time to stop."""
        while True:
            with self._changed:
                while not self._is_stopping and (not self._pending or self._retries.not_before > time.monotonic()):
                    late = self._retries.not_before - time.monotonic()
                    self._changed.wait(max(0.0, late) if self._pending else None)
                if self._is_stopping:
                    return None
            if self._may_write():
                with self._changed:
                    if self._pending:
                        return next(iter(self._pending.items()))
            else:
                with self._changed:
                    self._changed.wait_for(lambda: self._is_stopping, _LEAD_SECONDS)

    def _write(self, about: ObjectReference, document: Mapping[str, Any]) -> None:
        try:
            self._api.patch(_path(about), {"status": document}, _ANSWER_SECONDS)
        except RulegenError as error:
            status = error.status if isinstance(error, ApiError) else 0
            if status == _NOT_FOUND:
                self._done(about, document)
                return
            if self._retries.failed(error, time.monotonic()) and not self._is_stopping:
                _LOG.warning("the status of %s cannot be written, tried again until it can: %s", about, error)
            # The others need not wait behind it.
            self._put_off(about, document, is_over=status == _INVALID)
            return
        self._retries.succeeded()
        self._done(about, document)
        _LOG.debug("the status of %s is written", about)

    def _done(self, about: ObjectReference, document: Mapping[str, Any]) -> None:
        with self._changed:
            if self._pending.get(about) is document:
                del self._pending[about]

    def _put_off(self, about: ObjectReference, document: Mapping[str, Any], *, is_over: bool) -> None:
        with self._changed:
            if self._pending.get(about) is document:
                del self._pending[about]
                if not is_over:
                    self._pending[about] = document


def _path(about: ObjectReference) -> str:
    kind = next(kind for kind in REGISTRY.values() if kind.name == about.kind)
    place = f"namespaces/{quote(about.namespace, safe='')}/" if about.namespace else ""
    version = kind.api_versions[0]
    root = "apis" if "/" in version else "api"
    return f"/{root}/{version}/{place}{kind.plural}/{quote(about.name, safe='')}/status"
