"""What others left in the kernel goes when our rules are in force: the other target's, and kube-proxy's (rules 98, 99).

A thread of its own does it, once: it may take long, and the Services that follow must not wait for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from rulegen.agent.engine import Sync
from rulegen.agent.observer import Observer
from rulegen.errors import HostError, RulegenError, UnseenError
from rulegen.kube_proxy import find_running

_LOG = logging.getLogger("rulegen.agent")

_POLL_SECONDS = 5.0

# What removes rules, and says where there were some. Raises RulegenError.
Removal = Callable[[], list[str]]


class Takeover(Observer):
    """Waits for the first sync.

    `own`: what rulegen itself left elsewhere. `kube_proxy`: what kube-proxy left; while it is seen to run, its rules
    stay. `count_failure`: called when a removal fails, which is not tried again before the next start.
    """

    def __init__(
        self, own: Iterable[Removal], kube_proxy: Iterable[Removal], count_failure: Callable[[], None]
    ) -> None:
        self._own = tuple(own)
        self._kube_proxy = tuple(kube_proxy)
        self._count_failure = count_failure
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="takeover", daemon=True)
        self._has_begun = False

    def synced(self, sync: Sync) -> None:
        """Begins, after the first."""
        del sync
        if not self._has_begun:
            self._has_begun = True
            self._thread.start()

    def close(self) -> None:
        """Ends soon; a table that is being cleaned is finished."""
        self._stopping.set()

    def _run(self) -> None:
        self._remove(self._own)
        is_waiting = False
        while found := find_running():
            if not is_waiting:
                _LOG.warning("kube-proxy runs on this node (%s): its rules stay until it ends", found)
                is_waiting = True
            if self._stopping.wait(_POLL_SECONDS):
                return
        self._remove(self._kube_proxy)

    def _remove(self, removals: Iterable[Removal]) -> None:
        for remove in removals:
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
