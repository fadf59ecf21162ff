"""Names of Services in a name server: a first load beside that of nsupdate, a change until it is answered, a restart.

The name server, the API server, the agent and whoever asks are processes of their own on loopback. A change is measured
from the moment when the API server has written it into the watch to the first answer that has it.
"""

from __future__ import annotations

import compileall
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rulegen
from bench.api_server import ApiServer
from bench.clock import measured, peak_memory, processor_seconds
from bench.clusters import ENDPOINTS, Shape, endpoint_address, manifest, service_name
from tests.records.servers import Server, serving

SERVERS = {"bind": "BIND 9", "knot": "Knot"}
_RULEGEN = str(Path(sys.executable).parent / "rulegen")
# As nsupdate's own messages are limited; the size is what it takes to be quick.
_LINES = 250
_LONGEST_START, _LONGEST_CHANGE = 600.0, 30.0
_QUIET = 0.1


def load(shape: Shape, folder: Path, kind: str) -> dict[str, float]:
    """Seconds of `rulegen apply` into empty zones and again, and of nsupdate with the same records."""
    compileall.compile_dir(Path(rulegen.__file__).parent, quiet=1)
    source, figures = str(manifest(shape, folder)), dict[str, float]()
    with _serving(kind, folder, "ours") as server:
        with measured(figures, "first load"):
            _run(server, _RULEGEN, "apply", "-f", source, "--config", str(server.config))
        figures["first load server cpu"] = processor_seconds(server.process)
        serials = [server.short(zone, "SOA") for zone in server.zones]
        with measured(figures, "again"):
            said = _run(server, _RULEGEN, "apply", "-f", source, "--config", str(server.config))
        assert said == "nothing to change\n", said
        assert [server.short(zone, "SOA") for zone in server.zones] == serials
        text = _run(server, _RULEGEN, "render", "-f", source, "--config", str(server.config))
    with _serving(kind, folder, "nsupdate") as server:
        lines = "\n".join(_orders(text))
        with measured(figures, "nsupdate"):
            _run(server, "nsupdate", "-k", str(server.folder / "key"), text=lines)
        figures["nsupdate server cpu"] = processor_seconds(server.process)
        name = f"{service_name(shape.services - 1)}.team-{(shape.services - 1) % 50}.svc.cluster.local"
        assert len(server.short(name, "A")) == shape.endpoints
    return figures


def follow(shape: Shape, folder: Path, kind: str, samples: int) -> dict[str, list[float]]:
    """Seconds of an agent's start, of changes and of a restart; how many updates the restart has sent."""
    figures: dict[str, list[float]] = {}
    with _serving(kind, folder, "agent") as server, server.namespace.entered(), ApiServer(shape, folder) as api:
        with _agent(server, api, figures, "start") as agent:
            picked = range(0, shape.services, max(1, shape.services // samples))[:samples]
            figures["change"] = [_change(api, index) for index in picked]
            figures["memory"] = [peak_memory(agent)]
        serials = [server.short(zone, "SOA") for zone in server.zones]
        with _agent(server, api, figures, "restart"):
            after = [server.short(zone, "SOA") for zone in server.zones]
            figures["updates of the restart"] = [float(serials != after)]
    return figures


@contextmanager
def _serving(kind: str, folder: Path, name: str) -> Iterator[Server]:
    own = folder / f"{kind}-{name}"
    own.mkdir(exist_ok=True)
    with serving(kind, own) as server:
        yield server


@contextmanager
def _agent(server: Server, api: ApiServer, figures: dict[str, list[float]], name: str) -> Iterator[int]:
    """Until it has synced; its process."""
    log = server.folder / "agent-log"
    command = [_RULEGEN, "agent", "--config", str(server.config), "--kubeconfig", str(api.kubeconfig)]
    with log.open("wb") as written:
        begun = time.monotonic()
        process = subprocess.Popen(command, stderr=written)
    try:
        while " sync mode=full " not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < begun + _LONGEST_START, log.read_text()
            time.sleep(0.01)
        figures[name] = [time.monotonic() - begun]
        figures[f"{name} cpu"] = [processor_seconds(process.pid)]
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _change(api: ApiServer, index: int) -> float:
    """From the event to the first answer with the endpoint's new address."""
    from dns import message, query

    time.sleep(_QUIET)
    address = endpoint_address(index, ENDPOINTS)
    asked = message.make_query(f"{service_name(index)}.team-{index % 50}.svc.cluster.local", "A")
    api.replace_endpoint(index)
    ends = time.monotonic() + _LONGEST_CHANGE
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        while time.monotonic() < ends:
            answer = query.udp(asked, "127.0.0.1", timeout=5, sock=sender)
            now = time.monotonic()
            if any(data.to_text() == address for rrset in answer.answer for data in rrset):
                return now - api.spoke()
            time.sleep(0.001)
    raise AssertionError(f"not answered within {_LONGEST_CHANGE:.0f} s")


def _orders(zone_files: str) -> Iterator[str]:
    """What nsupdate is told so that the server has the same records."""
    yield "server 127.0.0.1"
    number = 0
    for line in zone_files.splitlines():
        if line.startswith("$ORIGIN "):
            if number:
                yield "send"
            yield f"zone {line.removeprefix('$ORIGIN ')}"
        elif line and not line.startswith(";") and " IN SOA " not in line and " IN NS " not in line:
            number += 1
            yield f"update add {line}"
            if not number % _LINES:
                yield "send"
    yield "send"
    yield ""


def _run(server: Server, *command: str, text: str | None = None) -> str:
    done = server.run(*command, input=text)
    assert done.returncode == 0, (command, done.stderr[-2000:])
    return done.stdout
