"""What others left in the kernel goes once our rules are in force: the other target's, kube-proxy's (SVC-98, SVC-99).

A thread of its own does it, once: it may take long, and the Services that follow must not wait for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing

from rulegen.errors import HostError, RulegenError, StaleError, UnseenError
from rulegen.kube.backoff import Backoff
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

# How long the start may wait until it is known what of kube-proxy's is there; until what was disturbed is tried again;
# and between two looks at a kube-proxy that runs.
_ARRIVAL_SECONDS = 2.0
_FIRST_RETRY, _LONGEST_RETRY = 1.0, 60.0
_POLL_SECONDS = 5.0


class LegacyCleanup(Observer):
    """To be made before the first sync, and waits for it.

    `own`: what rulegen itself left elsewhere. What kube-proxy left goes on positive evidence that it has ended
    (`judgement`); in doubt it stays, and that is said once. `count_failure`: called when a removal fails, which is not
    tried again before the next start.
    """

    def __init__(self, own: Iterable[Removal], count_failure: Callable[[], None]) -> None:
        self._own = tuple(own)
        self._count_failure = count_failure
        self._stopping = threading.Event()
        self._has_arrived = threading.Event()
        self._is_in_force = threading.Event()
        self._told = ""
        self._seen = Presence("", "")
        thread = threading.Thread(target=self._run, name="legacy cleanup", daemon=True)
        thread.start()
        # Our own rules come in after what is there was noted; but an iptables-save that hangs holds nobody up.
        self._has_arrived.wait(_ARRIVAL_SECONDS)

    def synced(self, sync: Sync) -> None:
        """Begins, after the first."""
        del sync
        self._is_in_force.set()

    def close(self) -> None:
        """Ends soon; a table that is being cleaned is finished."""
        self._stopping.set()
        self._is_in_force.set()

    def _run(self) -> None:
        arrival = self._arrive()
        self._has_arrived.set()
        self._is_in_force.wait()
        if arrival is not None:
            self._note(arrival)
        for remove in self._own:
            self._do(remove)
        if arrival is not None:
            self._follow_kube_proxy(arrival)

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

    # -- kube-proxy --

    def _follow_kube_proxy(self, arrival: Arrival) -> None:
        """Until its rules have gone, or are to stay."""
        again: float | None = 0.0
        disturbed = Backoff(_FIRST_RETRY, _LONGEST_RETRY)
        while again is not None:
            if self._rest(again):
                return
            try:
                with closing(open_connection()) as connection:
                    again = self._look_once(connection, arrival)
            except StaleError:
                again = disturbed.next()
            except RulegenError as error:
                self._tell(f"what kube-proxy may have left stays: {error}")
                self._count_failure()
                return

    def _rest(self, seconds: float) -> bool:
        """Waits, unless something else is seen of kube-proxy meanwhile; whether the agent ends.

        What makes it doubtful may last a moment only: a process that was just ending, a port that somebody had.
        """
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > _POLL_SECONDS:
            if self._stopping.wait(_POLL_SECONDS):
                return True
            if look() != self._seen:
                return False
        return self._stopping.wait(max(left, 0.0))

    def _look_once(self, connection: Connection, arrival: Arrival) -> float | None:
        """In how many seconds to look again, None for never. Raises StaleError, HostError, ApplyError."""
        presence = self._seen = look()
        if presence.running:
            self._tell(f"kube-proxy runs on this node ({presence.running}): its rules stay until it ends")
            return _POLL_SECONDS
        # What is written from here on is noticed when its tables are to go.
        generation = undisturbed(connection.generation)
        found = find(connection)
        judgement = judge(arrival, found, presence, seconds_since_boot())
        if not judgement.is_gone:
            self._tell(judgement.why)
            return judgement.again
        # Where there is nothing, what comes from now on is somebody's.
        if found:
            self._remove_judged(connection, generation, found)
        if left := leftovers():
            _LOG.warning("kube-proxy's mode ipvs has left %s; rulegen cleanup --kube-proxy removes it", ", ".join(left))
        return None

    def _remove_judged(self, connection: Connection, generation: int, found: Found) -> None:
        """Removes what was `found`, and nothing that has come or changed since. Raises StaleError, HostError."""
        for place in remove_nftables_tables(connection, generation):
            _LOG.info("removed %s", place)
        if any(found.get(place) != digest for place, digest in find(connection).items()):
            raise StaleError("kube-proxy's rules changed while they were looked at")
        self._do(remove_iptables_rules)

    def _tell(self, words: str) -> None:
        if words != self._told:
            self._told = words
            _LOG.warning("%s", words)

    def _do(self, remove: Removal) -> None:
        if self._stopping.is_set():
            return
        try:
            for place in remove():
                _LOG.info("removed %s", place)
        except UnseenError as error:
            self._tell_unseen(error)
        except HostError as error:
            # A target that this host does not have left nothing here.
            _LOG.debug("nothing to remove: %s", error)
        except RulegenError as error:
            _LOG.warning("cannot remove what an earlier program left: %s", error)
            self._count_failure()

    def _tell_unseen(self, error: UnseenError) -> None:
        for place in error.removed:
            _LOG.info("removed %s", place)
        if not self._stopping.is_set():
            _LOG.warning("rules of an earlier program may be left: %s", error)
            self._count_failure()
