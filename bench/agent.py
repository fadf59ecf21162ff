"""The agent as a process that follows an API server, seen from outside: what it takes until the kernel has a change.

The API server speaks TLS on loopback and is a third process. When the kernel has what the agent sent it, the kernel
itself tells: by the notification that follows each commit, and by the number of the ruleset's generation.
"""

from __future__ import annotations

import compileall
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from socket import inet_aton
from types import TracebackType
from typing import Self

import rulegen
from bench.api_server import ApiServer
from bench.clock import peak_memory, processor_seconds, resident_memory, tree_memory
from bench.clusters import ENDPOINTS, NODE, POD_CIDRS, Shape, endpoint_address
from rulegen.config import Family
from rulegen.netlink.messages import NETLINK_NETFILTER
from rulegen.nftables.elements import parse_element
from rulegen.nftables.messages import Connection
from rulegen.nftables.monitor import Monitor
from rulegen.nftables.undisturbed import undisturbed
from rulegen.services.on_nftables.layout import LAYOUTS

_RULEGEN = Path(sys.executable).parent / "rulegen"
_CONFIGURATION = """\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: {target}
clusterCIDR: {cidrs}
{target}: {{minSyncPeriod: 20ms}}
"""
_STEP = 0.002
_LONGEST_START = 300.0
_LONGEST_CHANGE = 10.0
# More than minSyncPeriod, and whatever else follows a change is over too.
_QUIET = 0.08
# Until nothing goes on any more after a start or a change, and until a flood is what the agent is used to: seconds.
_SETTLED = 2.0
_FLOODED = 8.0
_LONGEST_FLOODED = 60.0
_GROUP_NFTABLES = 1 << 6
_SO_RCVBUFFORCE = 33
# The first slot of the Service that was compiled first.
_SLOT = "8000:1000 . tcp . 0"


class Agent:
    """A running agent, from the moment of its start; `said` is what is known of its log."""

    def __init__(self, server: ApiServer, target: str, folder: Path) -> None:
        configuration = folder / "agent.yaml"
        configuration.write_text(_CONFIGURATION.format(target=target, cidrs=",".join(POD_CIDRS)))
        log = folder / "agent.log"
        command = [str(_RULEGEN), "agent", "--node", NODE]
        command += ["--config", str(configuration), "--kubeconfig", str(server.kubeconfig)]
        with log.open("wb") as written:
            self.begun = time.monotonic()
            self._process = subprocess.Popen(command, stderr=written)
        self._log = log.open()
        self.said = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()
        self._log.close()

    @property
    def process(self) -> int:
        return self._process.pid

    def first_sync(self) -> str:
        """What the log says of the first sync; "" before it is done."""
        assert self._process.poll() is None, self.said
        self.said += self._log.read()
        return next((line for line in self.said.splitlines(keepends=True) if " sync mode=full " in line), "")


def follow(
    shape: Shape, folder: Path, samples: int, idle: int, target: str = "nftables", settled: float = _SETTLED
) -> dict[str, list[float]]:
    """Seconds of a start, of changes and of a restart; memory; and what is taken in `idle` seconds without a change.

    `settled`: for how many seconds nothing happens before what is measured next.
    """
    # As it is where rulegen was installed; in a checkout, Python may have been told to write none.
    compileall.compile_dir(Path(rulegen.__file__).parent, quiet=1)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    figures: dict[str, list[float]] = {}
    with ApiServer(shape, folder) as server:
        with Agent(server, target, folder) as agent:
            _start(agent, server, figures)
            time.sleep(settled)
            figures["memory after start"] = [resident_memory(agent.process)]
            picked = range(0, shape.services, max(1, shape.services // samples))[:samples]
            with closing(_listen_to_rules()) as monitor:
                figures["change"] = [_change(server, monitor, index) for index in picked]
            figures["memory after changes"] = [resident_memory(agent.process)]
            figures["peak memory of the agent"] = [peak_memory(agent.process)]
            time.sleep(settled)
            figures["idle cpu"] = [_idle(agent, idle)]
        with closing(_listen_to_rules()) as monitor, Agent(server, target, folder) as agent:
            _, synced, _ = _until_synced(agent, figures)
            figures["restart"] = [synced - agent.begun]
            figures["restart cpu"] = [processor_seconds(agent.process)]
            time.sleep(settled)
            figures["commits of the restart"] = [len(monitor.read())]
        with Agent(server, target, folder) as agent:
            _until_synced(agent, {})
            for name, (damage, is_whole) in _DAMAGE.items():
                time.sleep(settled)
                figures[name] = [_repair(damage, is_whole)]
    return figures


def flood(
    shape: Shape, folder: Path, samples: int, rate: int, settled: float = _SETTLED, flooded: float = _FLOODED
) -> dict[str, list[float]]:
    """Seconds that a change of a Service takes while others change, `rate` times in a second, and while none does.

    `settled`, `flooded`: for how many seconds none does before that, and all do.
    """
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    figures: dict[str, list[float]] = {}
    busy = shape.services - 2 * samples
    with ApiServer(shape, folder) as server, Agent(server, "nftables", folder) as agent, closing(_listen()) as kernel:
        _until_synced(agent, {})
        time.sleep(settled)
        quiet = iter(range(busy, shape.services))
        figures["alone"] = [_quiet_change(server, kernel, next(quiet)) for _ in range(samples)]
        server.flood(busy, rate)
        # Until all of them are known to change all the time, and the queue is as long as it gets.
        time.sleep(flooded)
        before, begun = server.flooded(), time.monotonic()
        figures["in the flood"] = [_quiet_change(server, kernel, next(quiet)) for _ in range(samples)]
        figures["changes in a second"] = [(server.flooded() - before) / (time.monotonic() - begun)]
        server.flood(busy, 0)
    return figures


def _listen_to_rules() -> Monitor:
    """What anybody commits to the tables of Services."""
    return Monitor(own_port=0, generation=lambda: 0, tables=["rulegen"])


def _listen() -> socket.socket:
    """Every commit, with the elements that it adds."""
    kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    kernel.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
    kernel.bind((0, _GROUP_NFTABLES))
    return kernel


def _quiet_change(server: ApiServer, kernel: socket.socket, index: int) -> float:
    """Seconds from the moment when the server has a change to the commit that has its endpoint."""
    time.sleep(_QUIET)
    address = inet_aton(endpoint_address(index, ENDPOINTS))
    begun = server.replace_quiet_endpoint(index)
    kernel.settimeout(_LONGEST_FLOODED)
    while address not in kernel.recv(1 << 17):
        assert time.monotonic() < begun + _LONGEST_FLOODED, f"not within {_LONGEST_FLOODED:.0f} s"
    return time.monotonic() - begun


def _start(agent: Agent, server: ApiServer, figures: dict[str, list[float]]) -> None:
    """From the start of the process until the rules are in force, and until the first sync is done.

    In between the kernel tells all listeners on the host what was committed; nothing else can be committed meanwhile.
    """
    server_before = server.processor_seconds()
    line, synced, last_commit = _until_synced(agent, figures)
    assert " added=0 " not in line, line
    figures["in force"] = [last_commit - agent.begun]
    figures["start"] = [synced - agent.begun]
    figures["start cpu"] = [processor_seconds(agent.process)]
    figures["API server at the start cpu"] = [server.processor_seconds() - server_before]


def _until_synced(agent: Agent, figures: dict[str, list[float]]) -> tuple[str, float, float]:
    """The log's line of the first sync, when it came, and when the last commit was; that is the start without any.

    Meanwhile the most that the agent and its children have resident together.
    """
    last_commit = agent.begun
    peak = figures.setdefault("peak memory with children", [0.0])
    with closing(Connection()) as connection:
        generation = connection.generation()
        while time.monotonic() < agent.begun + _LONGEST_START:
            line = agent.first_sync()
            peak[0] = max(peak[0], tree_memory(agent.process))
            synced, before = time.monotonic(), generation
            generation = connection.generation()
            last_commit = last_commit if generation == before else time.monotonic()
            if line:
                return line, synced, last_commit
            time.sleep(_STEP)
    raise AssertionError(f"no sync within {_LONGEST_START:.0f} s:\n{agent.said}")


def _change(server: ApiServer, monitor: Monitor, index: int) -> float:
    """Seconds from the event that the server writes to the notification of the commit."""
    time.sleep(_QUIET)
    assert not monitor.read(), "somebody else changes the table"
    server.replace_endpoint(index)
    while select.select([monitor.fileno()], [], [], _LONGEST_CHANGE)[0]:
        now = time.monotonic()
        if monitor.read():
            return now - server.spoke()
    raise AssertionError(f"no commit within {_LONGEST_CHANGE:.0f} s")


def _repair(damage: str, is_whole: Callable[[Connection], bool]) -> float:
    """Seconds from the moment when what another program did to the rules is in force until it is undone."""
    with closing(Connection()) as connection:
        assert is_whole(connection), damage
        before = connection.generation()
        with subprocess.Popen(["nft", damage]) as nft:
            # When nft has ended, the agent has long begun.
            while connection.generation() == before:
                assert not nft.poll(), damage
            begun = time.monotonic()
        while time.monotonic() < begun + _LONGEST_START:
            if is_whole(connection):
                return time.monotonic() - begun
            time.sleep(_STEP)
    raise AssertionError(f"not repaired within {_LONGEST_START:.0f} s: {damage}")


def _has_slot(connection: Connection) -> bool:
    endpoints = LAYOUTS[Family.IPV4].endpoints
    return bool(connection.lookup(endpoints, [parse_element(endpoints, f"{_SLOT} : 0.0.0.0 . 0")[0]]))


def _has_hooks(connection: Connection) -> bool:
    """Chains that packets meet are what a table is given last, when all else is there."""
    chains = undisturbed(lambda: connection.chains(Family.IPV4, "rulegen"))
    return any(chain.declaration for chain in chains)


def _idle(agent: Agent, seconds: int) -> float:
    """The share of a processor that is taken when nothing happens."""
    before = processor_seconds(agent.process)
    time.sleep(seconds)
    return (processor_seconds(agent.process) - before) / seconds


# What another program does to the rules, and what tells that it is undone.
_DAMAGE: Mapping[str, tuple[str, Callable[[Connection], bool]]] = {
    "repair of one element": (f"delete element ip rulegen endpoints {{ {_SLOT} }}", _has_slot),
    "repair of all": ("flush ruleset", _has_hooks),
}
