"""Chains of other programs that would drop what Services need: looked for at each full sync, said while they are there.

A thread of its own looks, as an iptables-legacy-save may take long or hang. What it says is one warning for all of
them, when they change, and an Event of the Node.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from rulegen.agent.observers.events import EventRecorder
from rulegen.errors import RulegenError
from rulegen.firewalls.model import Obstacle
from rulegen.kube.backoff import Retries
from rulegen.reconcile.observer import Observer
from rulegen.reconcile.reconciler import Sync
from rulegen.reference import ObjectReference
from rulegen.services.model import Reason

_LOG = logging.getLogger("rulegen.agent")

_REASON = Reason.FOREIGN_DROP.value
_SHOWN = 5
# Until what could not be read is read again.
_FIRST_RETRY, _LONGEST_RETRY = 1.0, 300.0
_HINT = 'docs/deploy.md, "Beside firewalls", says what to configure'


class FirewallObserver(Observer):
    """`find`: asks the kernel; raises RulegenError. `recorder`: None where there is no API server."""

    def __init__(self, find: Callable[[], list[Obstacle]], node_name: str, recorder: EventRecorder | None) -> None:
        self._find = find
        self._node = ObjectReference("Node", "", node_name)
        self._recorder = recorder
        self._is_due = threading.Event()
        self._is_stopping = False
        self._told = ""
        self._has_begun = False
        self._thread = threading.Thread(target=self._run, name="firewalls", daemon=True)

    def synced(self, sync: Sync) -> None:
        """Looks after a full one."""
        if not sync.is_full:
            return
        if not self._has_begun:
            self._has_begun = True
            self._thread.start()
        self._is_due.set()

    def obstacles(self) -> str:
        """In words, what was found last, "" for nothing; may be asked by any thread."""
        return self._told

    def close(self) -> None:
        """Ends soon; waits for nothing."""
        self._is_stopping = True
        self._is_due.set()

    def _run(self) -> None:
        retries = Retries(_FIRST_RETRY, _LONGEST_RETRY)
        seconds: float | None = None
        while True:
            self._is_due.wait(seconds)
            self._is_due.clear()
            if self._is_stopping:
                return
            try:
                words = _in_words(self._find())
            except RulegenError as error:
                now = time.monotonic()
                if retries.failed(error, now):
                    _LOG.debug("chains of others cannot be read: %s", error)
                seconds = retries.not_before - now
                continue
            retries.succeeded()
            seconds = None
            self._tell(words)

    def _tell(self, words: str) -> None:
        before, self._told = self._told, words
        if words == before:
            return
        if before and self._recorder is not None:
            self._recorder.resolve(self._node, _REASON, self._note(before))
        if not words:
            _LOG.info("no chain of another program may drop traffic of Services any more")
            return
        _LOG.warning("%s; %s", words, _HINT)
        if self._recorder is not None:
            self._recorder.record(self._node, _REASON, self._note(words))

    def _note(self, words: str) -> str:
        return f"on node {self._node.name}: {words}"


def _in_words(obstacles: list[Obstacle]) -> str:
    more = len(obstacles) - _SHOWN
    return "; ".join([*map(str, obstacles[:_SHOWN]), *([f"{more} more chains do"] if more > 0 else [])])
