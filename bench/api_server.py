"""An API server with a cluster of any size, as a process of its own: its work takes nothing from whoever measures.

Orders come in by standard input, a JSON value a line; an answer goes out for each. `ApiServer` is the other side's end.
"""

from __future__ import annotations

import gc
import subprocess
import sys
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

    def processor_seconds(self) -> float:
        """What it has taken so far."""
        return processor_seconds(self._process.pid)

    def _order(self, order: int | str) -> None:
        assert self._process.stdin
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()

    def _answer(self) -> Any:
        assert self._process.stdout
        return msgspec.json.decode(self._process.stdout.readline())


def with_other_endpoint(index: int) -> dict[str, Any]:
    """The IPv4 slice of the Service with this number, its first endpoint replaced."""
    changed = slice_of(index, 0)
    changed["endpoints"][0]["addresses"] = [endpoint_address(index, ENDPOINTS)]
    return changed


def _serve(path: Path, kubeconfig: Path) -> None:
    from tests.apiserver import ApiServer as Server

    with Server() as server:
        server.put(*msgspec.json.decode(path.read_bytes())["items"])
        server.kubeconfig(kubeconfig)
        # No collection while an event is on its way.
        gc.collect()
        gc.freeze()
        _say(True)
        for line in sys.stdin:
            order = msgspec.json.decode(line)
            if order == "spoke":
                _say(server.spoke)
            else:
                server.put(with_other_endpoint(order))


def _say(value: object) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), Path(sys.argv[2]))
