"""What others left in the kernel goes once our rules are in force: the other target's, kube-proxy's (SVC-98, SVC-99).

A thread of its own does it, once: it may take long, and the Services that follow must not wait for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial

from rulegen.agent.status.document import Takeover
from rulegen.errors import AbsentError, RulegenError, StaleError, UnseenError, one_line
from rulegen.kube.backoff import Retries
from rulegen.kube_proxy.ipvs import leftovers
from rulegen.kube_proxy.judgement import judge
from rulegen.kube_proxy.presence import Presence, look
from rulegen.kube_proxy.removal import remove_iptables_rules, remove_nftables_tables
from rulegen.kube_proxy.rules import Found, find
from rulegen.kube_proxy.witness import Arrival, arrive, note, seconds_since_boot
from rulegen.nftables.messages import Connection, open_connection
from rulegen.nftables.undisturbed import undisturbed
from rulegen.reconcile.driver import Removal
from rulegen.reconcile.observer import Observer
from rulegen.reconcile.reconciler import Sync

_LOG = logging.getLogger("rulegen.agent")

# How long the start may wait until it is known what of kube-proxy's is there; until what failed or was disturbed is
# tried again; and between two looks at a kube-proxy that runs, or may run.
_ARRIVAL_SECONDS = 2.0
_FIRST_RETRY, _LONGEST_RETRY = 1.0, 300.0
_POLL_SECONDS = 5.0


class LegacyCleanup(Observer):
    """To be made before the first sync, and waits for it.

    `own`: what rulegen itself left elsewhere. What kube-proxy left goes on positive evidence that it has ended
    (`judgement`); in doubt it stays, and that is said once. What fails is tried again, and said once; `count_failure`
    is called whenever it is said.
    """

    def __init__(self, own: Iterable[Removal], count_failure: Callable[[], None]) -> None:
        self._own = tuple(own)
        self._count_failure = count_failure
        self._takeover = Takeover(state="waiting", message="until rulegen's own rules are in force")
        self._stopping = threading.Event()
        self._has_arrived = threading.Event()
        self._is_in_force = threading.Event()
        thread = threading.Thread(target=self._run, name="legacy cleanup", daemon=True)
        thread.start()
        # Our own rules come in after what is there was noted; but an iptables-save that hangs holds nobody up.
        self._has_arrived.wait(_ARRIVAL_SECONDS)

    def synced(self, sync: Sync) -> None:
        """Begins, after the first."""
        del sync
        self._is_in_force.set()

    def takeover(self) -> Takeover:
        """How far it is; may be asked by any thread."""
        return self._takeover

    def close(self) -> None:
        """Ends soon; a table that is being cleaned is finished."""
        self._stopping.set()
        self._is_in_force.set()

    def _run(self) -> None:
        arrival = self._arrive()
        self._has_arrived.set()
        self._is_in_force.wait()
        steps: list[Callable[[], float | None]] = [partial(_remove_own, remove) for remove in self._own]
        if arrival is None:
            kept: Callable[[], str] = lambda: "whose kube-proxy's rules are cannot be told"  # noqa: E731
        else:
            self._note(arrival)
            kube_proxy = _KubeProxy(arrival)
            steps.append(kube_proxy.step)
            kept = kube_proxy.why_kept
        self._do([_Task(step) for step in steps], kept)

    def _arrive(self) -> Arrival | None:
        try:
            with closing(open_connection()) as connection:
                return arrive(connection)
        except RulegenError as error:
            _LOG.warning("what kube-proxy may have left stays, as it cannot be told whose it is: %s", error)
            return None

    def _note(self, arrival: Arrival) -> None:
        if self._stopping.is_set():
            return
        try:
            with closing(open_connection()) as connection:
                note(connection, arrival)
        except RulegenError as error:
            _LOG.warning("an agent after this one cannot tell whose kube-proxy's rules are: %s", error)

    def _do(self, tasks: list[_Task], kept: Callable[[], str]) -> None:
        """Until nothing is left to do, or the agent ends. `kept`: why something of kube-proxy's stays, if so."""
        self._takeover = Takeover(state="working", message="")
        while tasks and not self._stopping.wait(min(task.due for task in tasks) - time.monotonic()):
            for task in tasks:
                if task.due <= time.monotonic() and not self._stopping.is_set() and not task.attempt():
                    self._count_failure()
            tasks = [task for task in tasks if not task.is_done]
            failures = [f"rules of an earlier program may be left: {task.failure}" for task in tasks if task.failure]
            self._tell_takeover(is_done=not tasks, message=one_line("; ".join(filter(None, [*failures, kept()]))))

    def _tell_takeover(self, *, is_done: bool, message: str) -> None:
        if is_done:
            self._takeover = Takeover(state="kept" if message else "done", message=message)
        else:
            self._takeover = Takeover(state="working", message=message)


class _Task:
    """Something to be removed. `step` says in how many seconds it is to be called again; None: it is done.

    `due`: the time of the monotonic clock from which on it is called. `failure`: why the last call failed, if it did.
    """

    def __init__(self, step: Callable[[], float | None]) -> None:
        self.is_done = False
        self.failure = ""
        self.due = time.monotonic()
        self._step = step
        self._retries = Retries(_FIRST_RETRY, _LONGEST_RETRY)

    def attempt(self) -> bool:
        """Calls it; whether there is no failure that was not said before."""
        try:
            seconds = self._step()
        except RulegenError as error:
            self.failure = str(error)
            is_new = self._retries.failed(error, time.monotonic())
            self.due = self._retries.not_before
            if is_new and not isinstance(error, StaleError):
                _LOG.warning("rules of an earlier program may be left: %s", error)
                return False
            return True
        self.failure = ""
        self.is_done = seconds is None
        self.due = time.monotonic() + (seconds or 0.0)
        self._retries.succeeded()
        return True


def _remove_own(remove: Removal) -> None:
    """Raises RulegenError when it is to be tried again."""
    try:
        _told(remove)
    except AbsentError as error:
        # A target that this host does not have left nothing here.
        _LOG.debug("nothing to remove: %s", error)


def _told(remove: Removal) -> None:
    """Removes, and says what. Raises RulegenError."""
    try:
        removed = remove()
    except UnseenError as error:
        _say_removed(error.removed)
        raise
    _say_removed(removed)


def _say_removed(places: Iterable[str]) -> None:
    for place in places:
        _LOG.info("removed %s", place)


class _KubeProxy:
    """What kube-proxy left, until it has gone, or is to stay."""

    def __init__(self, arrival: Arrival) -> None:
        self._arrival = arrival
        self._seen: Presence | None = None
        self._not_before = 0.0
        self._told = ""
        self._is_gone = False

    def why_kept(self) -> str:
        """Why what there is of it stays, "" when it has gone, or there was nothing."""
        return "" if self._is_gone else self._told

    def step(self) -> float | None:
        """In how many seconds to look again, None for never. Raises StaleError, HostError, UnseenError, ApplyError."""
        presence = look()
        if presence.running:
            self._seen = presence
            self._tell(f"kube-proxy runs on this node ({presence.running}): its rules stay until it ends")
            return _POLL_SECONDS
        # What makes it doubtful may last a moment only: a process that was just ending, a port that somebody had.
        if presence == self._seen and time.monotonic() < self._not_before:
            return _POLL_SECONDS
        with closing(open_connection()) as connection:
            again = self._judge(connection, presence)
        self._seen = presence
        if again is None:
            return None
        self._not_before = time.monotonic() + again
        return min(again, _POLL_SECONDS)

    def _judge(self, connection: Connection, presence: Presence) -> float | None:
        # What is written from here on is noticed when its tables are to go.
        generation = undisturbed(connection.generation)
        found = find(connection)
        judgement = judge(self._arrival, found, presence, seconds_since_boot())
        if not judgement.is_gone:
            self._tell(judgement.why)
            return judgement.again
        self._is_gone = True
        # Where there is nothing, what comes from now on is somebody's.
        if found:
            self._remove(connection, generation, found)
        if left := leftovers():
            _LOG.warning("kube-proxy's mode ipvs has left %s; rulegen cleanup --kube-proxy removes it", ", ".join(left))
        return None

    def _remove(self, connection: Connection, generation: int, found: Found) -> None:
        """Removes what was `found`, and nothing that has come or changed since."""
        _say_removed(remove_nftables_tables(connection, generation))
        if any(found.get(place) != digest for place, digest in find(connection).items()):
            raise StaleError("kube-proxy's rules changed while they were looked at")
        try:
            _told(remove_iptables_rules)
        except RulegenError:
            # What is left of them has changed by our own hand.
            self._arrival = self._arrival._replace(rules=find(connection))
            raise

    def _tell(self, words: str) -> None:
        if words != self._told:
            self._told = words
            _LOG.warning("%s", words)
