"""The work queue between two threads: whatever is delivered, and whenever, whoever waits for it hears of it."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from rulegen.agent.worker import work_queue as module
from rulegen.agent.worker.work_queue import WorkQueue
from rulegen.kube.follow import Synced
from rulegen.kube.objects import EndpointSlice, Service
from tests.patience import patience


class _Lock:
    """A lock; `released` is called when it has been, by the thread that had it."""

    def __init__(self, released: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._released = released

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        self._released()


class _Reader:
    """A socket; `asked` is called before each `recv`."""

    def __init__(self, real: socket.socket, asked: Callable[[], None]) -> None:
        self._real = real
        self._asked = asked

    def recv(self, size: int) -> bytes:
        self._asked()
        return self._real.recv(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def test_a_delivery_in_the_middle_of_a_take_silences_none_that_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deliverer loses the processor behind the lock, and goes on while the taker empties the socket."""
    has_put, is_emptying = threading.Event(), threading.Event()
    deliverer = threading.Thread(target=lambda: queue.deliver(Synced(Service)), daemon=True)

    def released() -> None:
        if threading.current_thread() is deliverer:
            has_put.set()
            assert is_emptying.wait(patience(10))

    def asked() -> None:
        is_emptying.set()
        deliverer.join(patience(10))

    reader, writer = socket.socketpair()
    monkeypatch.setattr(module, "threading", SimpleNamespace(Lock=lambda: _Lock(released)))
    monkeypatch.setattr(module, "socket", SimpleNamespace(socketpair=lambda: (_Reader(reader, asked), writer)))
    with closing(WorkQueue()) as queue:
        deliverer.start()
        assert has_put.wait(patience(10))
        assert queue.take() == [Synced(Service)]
        assert not deliverer.is_alive()
        queue.deliver(Synced(EndpointSlice))
        assert select.select([queue.fileno()], [], [], 0)[0]
