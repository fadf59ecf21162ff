"""An API server of the test's own, and followers of it that end with the test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from rulegen.agent.worker.work_queue import key_of
from rulegen.errors import InputError
from rulegen.features import resources
from rulegen.kube.api import Api, ApiError, connect
from rulegen.kube.follow import Delete, Follower, FollowEvent, Synced, Timing, Upsert
from rulegen.kube.kinds import WatchedKind, WatchedObject, kind_of
from rulegen.kube.listing import Item, list_pages
from rulegen.kube.objects import Service
from tests.apiserver import ApiServer
from tests.patience import patience

QUICK = Timing(steady=0.2, first_delay=0.02, longest_delay=0.1, silence=30.0)

Event = TypeVar("Event", bound=FollowEvent)


class Followed:
    """A follower and what it has told."""

    def __init__(self, api: Api, timing: Timing) -> None:
        self.events: list[FollowEvent] = []
        self._changed = threading.Condition()
        followed = resources((), "node-1")
        self.kinds = {resource.kind for resource in followed}
        self.follower = Follower(api, followed, self._deliver, timing)

    def _deliver(self, event: FollowEvent) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in list(self.events) if isinstance(event, kind)]

    def has(self, kind: type[Event], count: int) -> bool:
        return len(self.of(kind)) == count

    def until(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        """Waits until `condition` holds; asked again whenever an event comes."""
        end = time.monotonic() + patience(seconds)
        with self._changed:
            while not condition():
                assert time.monotonic() < end, f"nothing came of it; the last events are {self.events[-5:]}"
                self._changed.wait(0.02)

    def synced(self, kind: WatchedKind | None = None) -> None:
        """Waits until a kind was listed, or all."""
        kinds = {kind} if kind else self.kinds
        self.until(lambda: kinds <= {event.kind for event in self.of(Synced)})

    def state(self, kind: WatchedKind) -> dict[str, WatchedObject]:
        """What a reader of the events knows, by name."""
        objects: dict[str, WatchedObject] = {}
        for event in list(self.events):
            if isinstance(event, Upsert) and key_of(event.item)[0] is kind:
                objects[event.item.metadata.name] = event.item
            elif isinstance(event, Delete) and event.kind is kind:
                del objects[event.name]
        return objects


def left_threads() -> list[str]:
    """Those of followers that are still there although a busy host has had time to end them."""
    end = time.monotonic() + patience(5)
    while names := [thread.name for thread in threading.enumerate() if thread.name.startswith("follow ")]:
        if time.monotonic() > end:
            break
        time.sleep(0.01)
    return names


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        yield running


@pytest.fixture
def api(server: ApiServer, tmp_path: Path) -> Iterator[Api]:
    connected = connect(server.kubeconfig(tmp_path / "kubeconfig"))
    yield connected
    connected.close()


@pytest.fixture
def follow(server: ApiServer, tmp_path: Path) -> Iterator[Callable[..., Followed]]:
    """Starts a follower; with a kubeconfig of the server unless another one is given."""
    started: list[Followed] = []

    def start(timing: Timing = QUICK, kubeconfig: str = "") -> Followed:
        followed = Followed(connect(kubeconfig or server.kubeconfig(tmp_path / "kubeconfig")), timing)
        started.append(followed)
        followed.follower.start()
        return followed

    yield start
    for followed in started:
        followed.follower.stop()
    assert not left_threads()


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A host that knows of no cluster and of no proxy."""
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def listed(api: Api, limit: int = 500) -> list[Item]:
    """The Services."""
    return [item for page in list_pages(api, kind_of(Service).resource(), limit) for item in page.items]


def refusal(call: Callable[[], object], kind: type[ApiError] | type[InputError] = ApiError) -> str:
    """The one line with which it fails."""
    with pytest.raises(kind) as raised:
        call()
    assert str(raised.value).isprintable()
    return str(raised.value)
