"""Events as clients make them: a request's path and body come in, the Event as the real server would store it stays.

What the real server refuses is refused: fields that events.k8s.io/v1 needs, their lengths, a name that is taken.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

from tests.apiserver.faults import Answer
from tests.apiserver.store import EVENT

_PATH = re.compile(r"/apis/events\.k8s\.io/v1/namespaces/([a-z0-9-]+)/events")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_QUALIFIED = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_LENGTHS = {"action": 128, "reason": 128, "reportingInstance": 128}
_NOTE_BYTES = 1024


class Refused(Exception):  # noqa: N818 - an answer, not an error
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.answer = Answer(status, reason)


class EventStore(list[dict[str, Any]]):
    """The Events that were made, in order."""

    @staticmethod
    def namespace_of(path: str) -> str | None:
        """The namespace that a request's path makes Events in; None where none can be made."""
        match = _PATH.fullmatch(path)
        return match[1] if match else None

    def add(self, namespace: str, body: bytes, content_type: str) -> bytes:
        """Stores an Event; what the server answers. Raises Refused."""
        if content_type != "application/json":
            raise Refused(415, "UnsupportedMediaType")
        event = json.loads(body)
        if (event.get("kind"), event.get("apiVersion")) != (EVENT.name, EVENT.api_version):
            raise Refused(400, "BadRequest")
        if event["metadata"].get("namespace", namespace) != namespace:
            raise Refused(400, "BadRequest")
        if not _is_valid(event, namespace):
            raise Refused(422, "Invalid")
        key = (namespace, event["metadata"]["name"])
        if any((other["metadata"]["namespace"], other["metadata"]["name"]) == key for other in self):
            raise Refused(409, "AlreadyExists")
        event["metadata"]["namespace"] = namespace
        self.append(event)
        return json.dumps(event).encode()


def _is_valid(event: dict[str, Any], namespace: str) -> bool:
    return (
        all(0 < len(event.get(field, "")) <= length for field, length in _LENGTHS.items())
        and _QUALIFIED.fullmatch(event.get("reportingController", "")) is not None
        and event.get("type") in ("Normal", "Warning")
        and len(event.get("note", "").encode()) <= _NOTE_BYTES
        and event.get("regarding", {}).get("namespace", "default") == namespace
        and _NAME.fullmatch(event["metadata"].get("name", "")) is not None
        and datetime.fromisoformat(event["eventTime"]).tzinfo is not None
        and re.fullmatch(r".*T.*\.\d{6}Z", event["eventTime"]) is not None
    )
