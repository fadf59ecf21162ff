"""The story that `rulegen demo` tells: a sample cluster, the plan, real connections, an endpoint scaled away.

A console comes in, the story goes out. All happens in namespaces of its own, which end with it, however it ends.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from rulegen.demo.network import CLIENT_ADDRESS, NODE_ADDRESS, Network
from rulegen.demo.proxy import Change, Proxy, Sample
from rulegen.demo.servers import REFUSED, Servers, ask_again, connect, count_answers
from rulegen.services.model import Backend, Frontend, FrontendKind, ServicePort

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

CONNECTIONS = 300
_SCALED_SLICE, _SCALED_POD, _SCALED_SERVICE = "web-x7k2p", "web-3", "shop/web:http"
_BAR_WIDTH = 10
_SHOWN_LINES = 12
# Fewer, because a client sometimes hears of its refusal only when it has asked again, a second later.
_REFUSALS = 20
_COLOURS = {"+": "green", "~": "yellow", "-": "red"}


def run(console: Console) -> None:
    """Tells the whole story, in a few seconds. Raises HostError without the privilege or the kernel for it."""
    sample = Sample()
    with ExitStack() as opened:
        network = opened.enter_context(Network(list(sample.pods)))
        servers = opened.enter_context(Servers())
        sample.serve(servers, network.pods)
        proxy = opened.enter_context(closing(Proxy(sample.store, network.node)))
        _Story(console, sample, network, proxy).tell()
    console.print("Done: the namespaces are gone, with all the rules in them. Nothing else on this host was touched.")


class _Story:
    """Its scenes, one method each."""

    def __init__(self, console: Console, sample: Sample, network: Network, proxy: Proxy) -> None:
        self._console = console
        self._sample = sample
        self._network = network
        self._proxy = proxy

    def tell(self) -> None:
        self._show_cluster()
        self._install()
        self._title(f"{CONNECTIONS} connections to each Service")
        self._show_spread(self._sample.store.service_ports())
        with closing(self._connection_to(_SCALED_POD)) as connection:
            self._scale_away()
            self._title(f"{CONNECTIONS} connections more")
            self._show_spread(
                [
                    service_port
                    for service_port in self._sample.store.service_ports()
                    if str(service_port.name) == _SCALED_SERVICE
                ]
            )
            self._say(f"The connection opened before is still answered by [bold]{ask_again(connection)}[/].")

    def _show_cluster(self) -> None:
        self._title("The sample cluster")
        table = _table("Service", "reached by", "endpoints (weight)")
        for service_port in self._sample.store.service_ports():
            frontends = "\n".join(_frontend_text(service_port, frontend) for frontend in service_port.frontends)
            endpoints = (
                "\n".join(f"{self._pod(backend)} ({backend.weight})" for backend in service_port.cluster_endpoints)
                or "none"
            )
            table.add_row(str(service_port.name), frontends, endpoints)
        self._console.print(table)
        self._say(
            f"A client ({CLIENT_ADDRESS}), the node ({NODE_ADDRESS}) and {len(self._network.pods)} Pods have a network"
            " namespace each, joined by veth pairs."
        )

    def _install(self) -> None:
        self._title("The plan: nothing is there yet")
        change = self._proxy.plan_install()
        self._show_change(change)
        self._apply(change)

    def _scale_away(self) -> None:
        self._title(f"Scaling down: {_SCALED_POD} leaves its EndpointSlice")
        self._sample.remove_pod(_SCALED_SLICE, _SCALED_POD)
        change = self._proxy.plan_changes()
        self._show_change(change)
        self._apply(change)

    def _show_change(self, change: Change) -> None:
        delta = change.delta
        self._say(f"{len(delta.added)} entries to add, {len(delta.changed)} to change, {len(delta.removed)} to remove.")
        shown = change.lines[:_SHOWN_LINES]
        for line in shown:
            self._console.print(f"  {line}", style=_COLOURS[line[0]], markup=False, highlight=False, soft_wrap=True)
        if len(shown) < len(change.lines):
            self._say(f"  ... and {len(change.lines) - len(shown)} more")

    def _apply(self, change: Change) -> None:
        self._say(f"Applied in one transaction, [bold]{self._proxy.apply(change) * 1000:.1f} ms[/].")

    def _show_spread(self, service_ports: list[ServicePort]) -> None:
        table = _table("connecting to", "answered by", "expected", "counted", "")
        for service_port, frontend, address in _targets(service_ports):
            expected = self._expected(service_port)
            total = sum(expected.values())
            counted = count_answers(self._network.client, address, frontend.port, service_port.name.protocol, total)
            names = [*expected, *sorted(set(counted) - set(expected))]
            table.add_row(
                f"{service_port.name}\n{address}:{frontend.port}/{service_port.name.protocol.lower()}",
                "\n".join(names),
                "\n".join(str(expected[name]) for name in names),
                "\n".join(str(counted[name]) for name in names),
                "\n".join("█" * round(counted[name] * _BAR_WIDTH / total) for name in names),
            )
            table.add_section()
        self._console.print(table)

    def _expected(self, service_port: ServicePort) -> Counter[str]:
        """How many connections each Pod should get, rounded."""
        total = sum(backend.weight for backend in service_port.cluster_endpoints)
        if not total:
            return Counter({REFUSED: _REFUSALS})
        return Counter(
            {
                self._pod(backend): round(CONNECTIONS * backend.weight / total)
                for backend in service_port.cluster_endpoints
            }
        )

    def _connection_to(self, pod: str) -> socket.socket:
        """An open connection that the Pod answers."""
        service_port = next(
            service_port
            for service_port in self._sample.store.service_ports()
            if str(service_port.name) == _SCALED_SERVICE
        )
        _, frontend, address = next(_targets([service_port]))
        while True:
            connection = connect(self._network.client, address, frontend.port)
            if connection.recv(4096).decode().strip() == pod:
                return connection
            connection.close()

    def _pod(self, backend: Backend) -> str:
        return self._sample.pods[backend.address]

    def _title(self, text: str) -> None:
        self._console.print()
        self._console.rule(f"[bold]{text}", align="left")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False)


def _table(*columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for column in columns:
        numeric = column in {"expected", "counted"}
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    return table


def _frontend_text(service_port: ServicePort, frontend: Frontend) -> str:
    address = frontend.address or NODE_ADDRESS
    kind = "VIP" if frontend.kind is FrontendKind.LOAD_BALANCER else frontend.kind.value
    return f"{address}:{frontend.port}/{service_port.name.protocol.lower()}  {kind}"


def _targets(service_ports: list[ServicePort]) -> Iterator[tuple[ServicePort, Frontend, str]]:
    """For each ServicePort the Frontend that a client outside would use: the last kind there is."""
    for service_port in service_ports:
        frontend = next(
            frontend
            for kind in (FrontendKind.LOAD_BALANCER, FrontendKind.NODE_PORT, FrontendKind.CLUSTER_IP)
            for frontend in service_port.frontends
            if frontend.kind is kind
        )
        yield service_port, frontend, frontend.address or NODE_ADDRESS
