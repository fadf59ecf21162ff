"""Leases as replicas keep them: a request's namespace, name and body come in, the Lease as it is stored goes out.

What the real server refuses is refused: a name that is taken, an update of a state that is not the last, times that are
no MicroTime.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tests.apiserver.events import Refused
from tests.apiserver.store import Kind

# rulegen reads and writes one, and follows none.
LEASE = Kind("Lease", "coordination.k8s.io/v1", "leases")
_PATH = re.compile(r"/apis/coordination\.k8s\.io/v1/namespaces/([a-z0-9-]+)/leases(?:/([a-z0-9.-]+))?")
_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


class LeaseStore(dict[tuple[str, str], dict[str, Any]]):
    """The Leases by namespace and name."""

    def __init__(self) -> None:
        self._version = 0

    @staticmethod
    def key_of(path: str) -> tuple[str, str] | None:
        """Namespace and name (of a collection "") in a request's path; None where it is of no Lease."""
        match = _PATH.fullmatch(path)
        return (match[1], match[2] or "") if match else None

    def read(self, key: tuple[str, str]) -> bytes:
        """Raises Refused."""
        if key not in self:
            raise Refused(404, "NotFound")
        return json.dumps(self[key]).encode()

    def write(self, key: tuple[str, str], verb: str, body: bytes) -> bytes:
        """Creates or updates; the Lease as it is then. Raises Refused."""
        lease = json.loads(body)
        metadata, spec = lease["metadata"], lease["spec"]
        if (lease["kind"], lease["apiVersion"]) != (LEASE.name, LEASE.api_version):
            raise Refused(400, "BadRequest")
        key = (key[0], key[1] or metadata["name"])
        if (metadata["name"], metadata.get("namespace", key[0])) != (key[1], key[0]):
            raise Refused(400, "BadRequest")
        if not all(_MICRO_TIME.fullmatch(spec[field]) for field in ("acquireTime", "renewTime")):
            raise Refused(400, "BadRequest")
        if spec["leaseDurationSeconds"] <= 0 or spec["leaseTransitions"] < 0:
            raise Refused(422, "Invalid")
        self._check_state(key, verb, metadata.get("resourceVersion"))
        self._version += 1
        self[key] = {**lease, "metadata": {**metadata, "namespace": key[0], "resourceVersion": str(self._version)}}
        return self.read(key)

    def _check_state(self, key: tuple[str, str], verb: str, version: str | None) -> None:
        if verb == "create":
            if key in self:
                raise Refused(409, "AlreadyExists")
        elif key not in self:
            raise Refused(404, "NotFound")
        elif version not in (None, self[key]["metadata"]["resourceVersion"]):
            raise Refused(409, "Conflict")
