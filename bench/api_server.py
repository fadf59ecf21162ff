"""An API server with a cluster of any size, as a process of its own: its work takes nothing from whoever measures.

Orders come in by standard input, a JSON value a line; an answer goes out for each. `ApiServer` is the other side's end.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from bench.clock import processor_seconds
from bench.clusters import ENDPOINTS, Shape, endpoint_address, manifest, slice_of


class ApiServer:
    """The server, in the network namespace of whoever makes it. `kubeconfig`: how to reach it."""

    def __init__(self, shape: Shape, folder: Path) -> None:
        self.kubeconfig = folder / "kubeconfig"
        command = [sys.executable, "-m", __name__, str(manifest(shape, folder)), str(self.kubeconfig)]
        command.append(str(shape.endpoints))
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def replace_endpoint(self, index: int) -> None:
        """The Service with this number gets another first endpoint; does not wait until that is told."""
        self._order(index)

    def spoke(self) -> float:
        """When it last wrote into a watch, by `time.monotonic`."""
        self._order("spoke")
        return float(self._answer())

    def replace_quiet_endpoint(self, index: int) -> float:
        """As `replace_endpoint`; when that was about to be told, by `time.monotonic`."""
        self._order(["quiet", index])
        return float(self._answer())

    def flood(self, services: int, rate: int) -> None:
        """From now on one of the first so many Services after the other changes, `rate` in a second; 0 ends it."""
        self._order(["flood", services, rate])

    def flooded(self) -> int:
        """How many changes that were so far."""
        self._order("flooded")
        return int(self._answer())

    def processor_seconds(self) -> float:
        """What it has taken so far."""
        return processor_seconds(self._process.pid)

    def _order(self, order: int | str | list[int | str]) -> None:
        assert self._process.stdin
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()

    def _answer(self) -> Any:
        assert self._process.stdout
        return msgspec.json.decode(self._process.stdout.readline())


def with_other_endpoint(index: int, endpoints: int) -> dict[str, Any]:
    """The IPv4 slice of the Service with this number, its first of so many endpoints replaced."""
    changed = slice_of(index, 0, endpoints)
    changed["endpoints"][0]["addresses"] = [endpoint_address(index, ENDPOINTS)]
    return changed


class _Flood:
    """Changes without an end, from a thread of its own. `changes`: how many there were."""

    def __init__(self, put: Callable[[Any], object]) -> None:
        self._put = put
        self._order = (1, 0)
        self.changes = 0
        threading.Thread(target=self._run, daemon=True).start()

    def set(self, services: int, rate: int) -> None:
        self._order = (services, rate)

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            services, rate = self._order
            if not rate:
                time.sleep(0.01)
                due = time.monotonic()
                continue
            turn, index = divmod(self.changes, services)
            changed = slice_of(index, 0)
            changed["endpoints"][0]["addresses"] = [endpoint_address(index, ENDPOINTS + 1 + turn % 2)]
            self._put(changed)
            self.changes += 1
            due += 1 / rate
            time.sleep(max(0.0, due - time.monotonic()))


def _serve(path: Path, kubeconfig: Path, endpoints: int) -> None:
    from tests.apiserver import ApiServer as Server

    with Server() as server:
        server.put(*msgspec.json.decode(path.read_bytes())["items"])
        server.kubeconfig(kubeconfig)
        flood = _Flood(server.put)
        # No collection while an event is on its way.
        gc.collect()
        gc.freeze()
        _say(True)
        for line in sys.stdin:
            match msgspec.json.decode(line):
                case "spoke":
                    _say(server.spoke)
                case "flooded":
                    _say(flood.changes)
                case ["flood", int(services), int(rate)]:
                    flood.set(services, rate)
                case ["quiet", int(index)]:
                    changed = with_other_endpoint(index, endpoints)
                    _say(time.monotonic())
                    server.put(changed)
                case order:
                    server.put(with_other_endpoint(order, endpoints))


def _say(value: object) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
