"""Who of several replicas works: the one that holds a Lease, as client-go's leader election has it.

In come the API server's answers, out goes whether this replica leads. A replica that cannot renew the Lease in time has
lost it, whatever its requests wait for, and must end. Even two that think that they lead do no harm: what they do has
conditions, or is the same whoever does it.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import msgspec
from msgspec import Struct

from rulegen.config import LeaderElection
from rulegen.errors import UNDECODABLE, InputError, printable
from rulegen.kube.api import ApiError, connect
from rulegen.kube.backoff import Said

_LOG = logging.getLogger("rulegen.agent")

_PREFIX = "rulegen-"
_API_VERSION = "coordination.k8s.io/v1"
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_NAMESPACE = "kube-system"
_ANSWER_SECONDS = 5.0
_RELEASE_SECONDS = 2.0


class _Lease(Struct):
    """All of it goes back with an update, also what others have put there; its resourceVersion says who was first."""

    metadata: dict[str, object]
    spec: dict[str, object] | None = None


class Leadership:
    """Who works for a feature.

    `kubeconfig`: "" for the usual places; `server`: instead of what that says; `changed`: called on each change.
    """

    def __init__(
        self,
        feature: str,
        kubeconfig: str,
        server: str,
        changed: Callable[[], None],
        times: LeaderElection | None = None,
    ) -> None:
        """Raises InputError where the API server cannot be asked."""
        self._times = times or LeaderElection()
        self._answer_seconds = min(_ANSWER_SECONDS, self._times.renew_deadline / 2)
        namespace = os.environ.get("POD_NAMESPACE", "") or _own_namespace()
        self._lease = f"{_PREFIX}{feature}"
        self.name = printable(f"{namespace}/{self._lease}")
        self.is_leading = False
        self._is_lost = False
        self._changed = changed
        self._identity = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        self._path = f"/apis/{_API_VERSION}/namespaces/{quote(namespace, safe='')}/leases"
        self._api = connect(kubeconfig, server)
        self._good_until = 0.0
        # The last that was seen, and when for the first time, by this host's clock: those of hosts differ.
        self._seen: dict[str, object] | None = None
        self._seen_since = 0.0
        self._failures = Said()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lead", daemon=True)

    @property
    def is_lost(self) -> bool:
        """It was had, and is not any more; it does not come back."""
        return self._is_lost or (self.is_leading and time.monotonic() > self._good_until)

    def start(self) -> None:
        """Begins to try, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Gives it to whoever waits for it, if this is possible within seconds; nobody may work any more."""
        self._ended.set()
        self._thread.join(_RELEASE_SECONDS)
        self._api.close()

    def _run(self) -> None:
        while not self._ended.is_set() and not self.is_lost:
            asked = time.monotonic()
            if self._attempt(self._try_to_hold):
                self._renewed(asked)
            self._ended.wait(self._times.retry_period)
        if self.is_leading and not self.is_lost:
            self._attempt(self._release)

    def _renewed(self, asked: float) -> None:
        good_until = asked + self._times.renew_deadline
        # An answer that came too late brings nothing back.
        if self.is_lost or time.monotonic() > good_until:
            return
        self._good_until = good_until
        if not self.is_leading:
            self.is_leading = True
            threading.Thread(target=self._wait_for_deadline, name="lease", daemon=True).start()
            self._changed()

    def _wait_for_deadline(self) -> None:
        """Not by the thread that asks: an API server may be silent for longer than the Lease is good."""
        while not self.is_lost:
            self._ended.wait(max(0.01, self._good_until - time.monotonic()))
            if self._ended.is_set():
                return
        self._changed()

    def _attempt(self, request: Callable[[], bool]) -> bool:
        """Whether it succeeded. Each failure is told once until there is none, and so is that."""
        try:
            is_done = request()
        except (ApiError, InputError) as error:
            if not self._ended.is_set() and self._failures.is_new(str(error)):
                _LOG.warning("the Lease %s (said once): %s", self.name, error)
            return False
        if self._failures.over():
            _LOG.info("the Lease %s can be read and written again", self.name)
        return is_done

    def _try_to_hold(self) -> bool:
        try:
            lease = self._read()
            if lease is None:
                document = self._document({"name": self._lease}, self._spec({}))
                self._api.post(self._path, document, self._answer_seconds)
                return True
            spec = lease.spec or {}
            if not self._may_have(spec):
                return False
            document = self._document(lease.metadata, self._spec(spec))
            self._api.put(f"{self._path}/{self._lease}", document, self._answer_seconds)
        except ApiError as error:
            # Another replica was faster.
            if error.status == 409:
                return False
            raise
        return True

    def _may_have(self, spec: dict[str, object]) -> bool:
        """Whether it is ours, nobody's, or its holder has not renewed it for as long as it lasts."""
        if spec != self._seen:
            self._seen, self._seen_since = spec, time.monotonic()
        holder = spec.get("holderIdentity") or self._identity
        if self.is_leading and spec.get("holderIdentity") != self._identity:
            self._is_lost = True
            self._changed()
            return False
        return holder == self._identity or self._is_over(spec)

    def _is_over(self, spec: dict[str, object]) -> bool:
        """Whether nobody has renewed it for as long as its holder says that it lasts."""
        lasts = spec.get("leaseDurationSeconds")
        seconds = float(lasts) if isinstance(lasts, int) and lasts > 0 else self._times.lease_duration
        return time.monotonic() - self._seen_since > seconds

    def _release(self) -> bool:
        lease = self._read()
        if lease is None or not lease.spec or lease.spec.get("holderIdentity") != self._identity:
            return False
        document = self._document(lease.metadata, {**lease.spec, "holderIdentity": ""})
        self._api.put(f"{self._path}/{self._lease}", document, self._answer_seconds)
        return True

    def _read(self) -> _Lease | None:
        """None: there is none."""
        try:
            with self._api.get(f"{self._path}/{self._lease}", {}, self._answer_seconds) as answer:
                return msgspec.json.decode(answer.body(), type=_Lease)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        except UNDECODABLE as error:
            raise ApiError(f"{self._api.server}: the answer is no Lease: {printable(str(error))}") from error

    def _spec(self, before: dict[str, object]) -> dict[str, object]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {**before, "leaseDurationSeconds": math.ceil(self._times.lease_duration), "renewTime": now}
        if before.get("holderIdentity") != self._identity:
            transitions = before.get("leaseTransitions")
            spec["leaseTransitions"] = transitions + 1 if isinstance(transitions, int) else 0
            spec |= {"holderIdentity": self._identity, "acquireTime": now}
        return spec

    @staticmethod
    def _document(metadata: dict[str, object], spec: dict[str, object]) -> dict[str, object]:
        return {"apiVersion": _API_VERSION, "kind": "Lease", "metadata": metadata, "spec": spec}


class Candidate:
    """Of replicas that all work, the one that also does what only one may: it goes on trying after it has lost.

    `make`: a Leadership that has not begun.
    """

    def __init__(self, make: Callable[[], Leadership]) -> None:
        """Raises what `make` raises."""
        self._make = make
        self._current = make()

    def start(self) -> None:
        """Begins to try."""
        self._current.start()

    def stop(self) -> None:
        """As that of a Leadership."""
        self._current.stop()

    def is_leading(self) -> bool:
        """To be asked by one thread."""
        if self._current.is_lost:
            self._current.stop()
            # Without credentials that can be used: next time.
            with suppress(InputError):
                self._current = self._make()
                self._current.start()
        return self._current.is_leading and not self._current.is_lost


def _own_namespace() -> str:
    try:
        return _NAMESPACE_FILE.read_text().strip() or _NAMESPACE
    except (OSError, ValueError):
        return _NAMESPACE
