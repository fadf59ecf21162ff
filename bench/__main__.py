"""`make bench`: how long rulegen takes and how much memory, beside the targets and beside other ways to do it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import click
import msgspec

from bench import policy_clusters, report
from bench.child import Order, run
from bench.clusters import ENDPOINTS, Shape, manifest
from bench.iptables import usable_drivers
from bench.report import PACKET_TARGETS, TARGETS, Figures, megabytes, seconds, spread, table, typical

_TARGET_SHAPE = Shape(10_000)
_STAGES = ("decode", "compile", "first apply", "nft -f", "read back", "diff")
# As many Services as a cluster may have, which are applied once.
_LARGEST_SHAPE = Shape(100_000, endpoints=5)
# Packets sent for one figure.
_CHUNK = 2_000
# Seconds in which the agent has nothing to do.
_IDLE_SECONDS = 10
# Changes in a second.
_FLOOD = 2000
_WHEN = ("after start", "after changes")
_CHANGES = ("endpoint replaced", "endpoint added", "service added")


class Bench:
    """Runs measurements, `repeats` times each, and keeps the figures."""

    def __init__(self, folder: Path, repeats: int, samples: int) -> None:
        self.folder = folder
        self.samples = samples
        self.figures: dict[str, dict[str, list[float]]] = {}
        self._repeats = repeats

    def measure(self, measurement: str, shape: Shape, *arguments: int | str, once: bool = False) -> Figures:
        """The figures of all repetitions."""
        manifest(shape, self.folder)
        return self._run(Order(measurement, shape, arguments), f"{shape} Services", once)

    def measure_policies(
        self, measurement: str, shape: policy_clusters.Shape, *arguments: int | str, once: bool = False
    ) -> Figures:
        """The same for network policies."""
        return self._run(Order(measurement, arguments=(*shape, *arguments)), str(shape), once)

    def measure_nodes(self, measurement: str, nodes: int, *arguments: int, once: bool = False) -> Figures:
        """The same for egress masquerading."""
        return self._run(Order(measurement, arguments=(nodes, *arguments)), f"{nodes} nodes", once)

    def measure_ingresses(self, measurement: str, ingresses: int, *arguments: int, once: bool = False) -> Figures:
        """The same for Ingresses."""
        return self._run(Order(measurement, arguments=(ingresses, *arguments)), f"{ingresses} Ingresses", once)

    def measure_policy_memory(self, pods: int, namespaces: int, policies: int) -> Figures:
        """Once: what is held does not depend on the machine."""
        cluster = f"{pods:,} pods, {namespaces:,} namespaces, {policies:,} policies"
        return self._run(Order("policy memory", arguments=(pods, namespaces, policies)), cluster, once=True)

    def _run(self, order: Order, cluster: str, once: bool) -> Figures:
        results = []
        for number in range(1 if once else self._repeats):
            click.echo(f"{order.measurement}, {cluster}, {number + 1} ...", err=True)
            results.append(run(order, self.folder))
        figures = report.merged(results)
        name = " ".join((f"{order.measurement}, {cluster}", *map(str, order.arguments)))
        self.figures.setdefault(name, {}).update(figures)
        return figures


@click.command()
@click.option("--quick", is_flag=True, help="Each measurement once, up to 10,000 Services.")
@click.option("--repeats", default=3, show_default=True, help="How often each measurement is made; medians are shown.")
@click.option("--samples", default=50, show_default=True, help="Single changes of each kind in one measurement.")
@click.option("--large", is_flag=True, help="kube-proxy's layout at 10,000 Services as well, which takes minutes.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="All figures as JSON, in a file.")
def main(quick: bool, repeats: int, samples: int, large: bool, output: Path | None) -> None:
    """Measure rulegen. Rules are loaded in network namespaces that last as long as the measurement."""
    with TemporaryDirectory(prefix="rulegen-bench-") as folder:
        bench = Bench(Path(folder), 1 if quick else repeats, samples)
        sizes = [Shape(1_000), _TARGET_SHAPE, *([] if quick else [Shape(30_000)]), Shape(10_000, mixed=True)]
        click.echo(_environment(), err=True)
        _stages(bench, sizes)
        if not quick:
            _largest(bench, _LARGEST_SHAPE)
        _single_changes(bench, sizes)
        _new_chain(bench)
        _beside(bench, _TARGET_SHAPE)
        _upgrade(bench, _TARGET_SHAPE if quick else Shape(30_000))
        layouts = (Shape(1_000), *([_TARGET_SHAPE] if large else []))
        theirs = {shape: _kube_proxy(bench, shape) for shape in layouts}
        _agent(bench, (Shape(1_000), _TARGET_SHAPE), theirs)
        if not quick:
            _large_changes(bench, (Shape(30_000), _LARGEST_SHAPE))
        _flood(bench, _TARGET_SHAPE)
        _proofs(bench, (Shape(10, special=True), Shape(1_000, special=True), Shape(10_000, special=True)))
        _reports(bench, (Shape(1_000), _TARGET_SHAPE, Shape(10_000, mixed=True)))
        for shape in (Shape(1_000), _TARGET_SHAPE):
            _iptables(bench, shape)
        _beside_kube_proxy_iptables(bench, Shape(1_000))
        for shape in (Shape(1_000, special=True), *([] if quick else [Shape(10_000, special=True)])):
            _packets(bench, shape, 20 if quick else 60)
        _policies(bench, quick)
        _egress(bench, quick)
        _ingress(bench, quick)
        _records(bench)
        if output is not None:
            document = {"environment": _environment(), "seconds and megabytes": bench.figures}
            output.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2))


def _environment() -> str:
    nft = subprocess.run(["nft", "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"v[\d.]+", nft)
    python = ".".join(map(str, sys.version_info[:3]))
    return f"Linux {os.uname().release}, nft {version[0] if version else '?'}, Python {python}, {os.cpu_count()} cores"


def _target(name: str) -> str:
    target = TARGETS.get(name)
    if target is None:
        return ""
    return f"<= {target:.0f} MB" if name == "peak memory" else f"<= {seconds(target)}"


def _stages(bench: Bench, sizes: list[Shape]) -> None:
    stages = {shape: bench.measure("stages", shape) for shape in sizes}
    commands = {shape: bench.measure("command", shape) for shape in sizes}
    names = {"nft -f": "nft -f of the same text"}
    rows = [
        [names.get(stage, stage), *(typical(stages[shape], stage) for shape in sizes), _target(stage)]
        for stage in _STAGES
    ]
    rows.append(["rulegen apply, whole", *(typical(commands[shape], "apply command") for shape in sizes), ""])
    for what, figures, target in (("first apply", stages, 0.7), ("apply command", commands, 1.7)):
        ratios = (median(figures[shape][f"{what} cpu"]) / median(stages[shape]["nft -f cpu"]) for shape in sizes)
        rows.append([f"{what} by nft -f, processors", *(f"{ratio:.2f}" for ratio in ratios), f"<= {target}"])
    title = f"A start: time on the clock (on the processors); Services of {ENDPOINTS} endpoints"
    table(title, ["", *map(str, sizes), "target at 10,000"], rows)
    rows = [
        [f"after {stage}", *(megabytes(stages[shape], f"{stage} memory") for shape in sizes), ""]
        for stage in ("decode", "compile", "first apply")
    ]
    peak = [megabytes(stages[shape], "read back memory") for shape in sizes]
    rows.append(["after read back: peak memory", *peak, _target("peak memory")])
    rows.append(["rulegen apply, whole", *(megabytes(commands[shape], "apply command memory") for shape in sizes), ""])
    rows.append(["nft, which compiles", *(megabytes(commands[shape], "nft memory") for shape in sizes), ""])
    rows.append(["nft -f of the same text", *(megabytes(stages[shape], "text nft memory") for shape in sizes), ""])
    table("Memory, the most that was resident so far", ["", *map(str, sizes), "target at 10,000"], rows)


def _largest(bench: Bench, shape: Shape) -> None:
    figures = bench.measure("command", shape, once=True)
    time = typical(figures, "apply command")
    rows = [["rulegen apply, whole", time, megabytes(figures, "apply command memory"), "<= 10.00 s, < 1,000 MB"]]
    table(f"{shape} Services", ["", "time (on the processors)", "peak memory", "target"], rows)


def _large_changes(bench: Bench, shapes: Sequence[Shape]) -> None:
    figures = {shape: bench.measure("agent", shape, bench.samples * 4, _IDLE_SECONDS, once=True) for shape in shapes}
    rows = [
        ["one endpoint replaced, event to commit", *(spread(figures[shape], "change") for shape in shapes)],
        ["start: first sync done", *(typical(figures[shape], "start") for shape in shapes)],
        ["restart, nothing has changed", *(typical(figures[shape], "restart") for shape in shapes)],
        ["memory with children", *(megabytes(figures[shape], "peak memory with children") for shape in shapes)],
    ]
    table("rulegen agent in large clusters", ["", *map(str, shapes)], rows)


def _single_changes(bench: Bench, sizes: list[Shape]) -> None:
    figures = {shape: bench.measure("changes", shape, bench.samples) for shape in sizes}
    rows = [[name, *(spread(figures[shape], name) for shape in sizes), _target(name)] for name in _CHANGES]
    largest = sizes[-2]
    ratio = median(figures[largest]["endpoint replaced"]) / median(figures[sizes[0]]["endpoint replaced"])
    note = f"one endpoint replaced: {ratio:.2f} times as long at {largest} as at {sizes[0]} Services"
    title = "One change, from changed objects to the committed kernel: median / 99th percentile"
    table(title, ["", *map(str, sizes), "target at 10,000"], rows, note)


def _new_chain(bench: Bench) -> None:
    shape = _TARGET_SHAPE
    figures = bench.measure("new chain", shape, 10)
    rows = [["a Service is the first with more than 16 endpoints", spread(figures, "first of its number")]]
    table(f"A change that needs a new chain lb-N, at {shape} Services: median / 99th percentile", ["", "time"], rows)


def _beside(bench: Bench, shape: Shape) -> None:
    figures = bench.measure("beside", shape, bench.samples)
    rows = [
        [way, *(spread(figures, f"{way} {where}") for where in ("alone", "beside"))]
        for way in ("netlink", "libnftables")
    ]
    title = f"One endpoint replaced at {shape} Services, beside another program's table: median / 99th percentile"
    note = "netlink is what rulegen does; libnftables, in the process, gets the same change as text"
    table(title, ["", "alone", "beside 5,000 sets"], rows, note)


def _upgrade(bench: Bench, shape: Shape) -> None:
    figures = bench.measure("upgrade", shape)
    rows = [[what, typical(figures, what)] for what in ("one chain", "all chains", "whole table")]
    title = f"Another version of the fixed program at {shape} Services, once the live table is read: compare, replace"
    table(title, ["what differs", "time (on the processors)"], rows, "whole table: a set is declared differently")


def _kube_proxy(bench: Bench, shape: Shape) -> float:
    """Returns how many seconds nft and the kernel take for one change in kube-proxy's layout."""
    load = bench.measure("kube-proxy load", shape)
    change = bench.measure("kube-proxy change", shape, 10)
    ours = bench.measure("stages", shape)
    our_change = bench.measure("changes", shape, bench.samples)
    pairs = (
        ("first load", median(load["load"]), median(ours["first apply"])),
        ("one endpoint replaced", median(change["endpoint replaced"]), median(our_change["endpoint replaced"])),
    )
    rows = [[what, seconds(theirs), seconds(mine), f"{theirs / mine:.1f}"] for what, theirs, mine in pairs]
    note = "what nft and the kernel take for the layout; what kube-proxy itself computes and lists comes on top"
    title = f"Beside the layout of kube-proxy's nftables mode, {shape} Services"
    table(title, ["", "kube-proxy's layout", "rulegen", "ratio"], rows, note)
    return median(change["endpoint replaced"])


def _proofs(bench: Bench, shapes: Sequence[Shape]) -> None:
    rows = []
    for shape in shapes:
        figures = bench.measure("proof", shape, once=True)
        rows.append(
            [f"nftables, {shape}", typical(figures, "proof"), f"{median(figures['classes']):,.0f}", "<= 60.00 s"]
        )
    shape = Shape(1_000, special=True)
    figures = bench.measure("proof of kube-proxy iptables", shape, once=True)
    classes = f"{median(figures['classes']):,.0f}"
    rows.append(
        [f"kube-proxy's iptables layout and rulegen's, {shape}", typical(figures, "proof"), classes, "<= 60.00 s"]
    )
    title = "rulegen verify, once the rules are read: time (on the processors)"
    table(title, ["", "time", "classes of packets", "target"], rows)


def _reports(bench: Bench, shapes: Sequence[Shape]) -> None:
    rows = []
    for shape in shapes:
        figures = bench.measure("report", shape, once=True)
        size = f"{median(figures['megabytes']):.1f} MB"
        shown = [seconds(median(figures[name])) for name in ("painted", "usable")]
        rows.append([str(shape), typical(figures, "report"), size, *shown])
    rows.append(["target, 10,000", "<= 10.00 s", "<= 15 MB", "<= 1.00 s", ""])
    title = "rulegen report: time (on the processors), and its page in Chromium"
    table(title, ["", "time", "size", "first paint", "can be used"], rows)


def _agent(bench: Bench, shapes: Sequence[Shape], theirs: Mapping[Shape, float]) -> None:
    """`theirs`: seconds for the same change in kube-proxy's layout, where that was measured."""
    figures = {shape: bench.measure("agent", shape, bench.samples * 4, _IDLE_SECONDS) for shape in shapes}
    rows = [
        ["one endpoint replaced, event to commit", *(spread(figures[shape], "change") for shape in shapes)],
        ["kube-proxy's layout, nft alone", *(seconds(theirs[shape]) if shape in theirs else "" for shape in shapes)],
        [
            "start, the kernel is empty: rules in force",
            *(seconds(median(figures[shape]["in force"])) for shape in shapes),
        ],
        ["start: first sync done", *(typical(figures[shape], "start") for shape in shapes)],
        ["restart, nothing has changed", *(typical(figures[shape], "restart") for shape in shapes)],
        ["commits of that", *(f"{max(figures[shape]['commits of the restart']):.0f}" for shape in shapes)],
        *([f"memory {when}", *(megabytes(figures[shape], f"memory {when}") for shape in shapes)] for when in _WHEN),
        ["peak memory", *(megabytes(figures[shape], "peak memory of the agent") for shape in shapes)],
        ["the same, with nft", *(megabytes(figures[shape], "peak memory with children") for shape in shapes)],
        ["repair: an element was deleted", *(seconds(median(figures[s]["repair of one element"])) for s in shapes)],
        ["repair: nft flush ruleset", *(seconds(median(figures[s]["repair of all"])) for s in shapes)],
        ["a processor, idle", *(f"{median(figures[shape]['idle cpu']):.1%}" for shape in shapes)],
    ]
    targets = (
        "<= 10 ms / 50 ms",
        "",
        "",
        "<= 2.20 s",
        "<= 1.50 s",
        "0",
        *["<= 350 MB"] * len(_WHEN),
        "",
        "<= 250 MB",
        *[""] * 2,
        "< 1.0%",
    )
    rows = [[*row, target] for row, target in zip(rows, targets, strict=True)]
    known = [
        f"{theirs[shape] / median(figures[shape]['change']):.0f} at {shape}" for shape in shapes if shape in theirs
    ]
    title = (
        "rulegen agent, a process that follows an API server by TLS: median / 99th percentile, time (on the processors)"
    )
    note = f"kube-proxy's layout by the agent's whole time: {', '.join(known)}; kube-proxy's own work comes on top"
    table(title, ["", *map(str, shapes), "target at 10,000"], rows, note)


def _flood(bench: Bench, shape: Shape) -> None:
    figures = bench.measure("flood", shape, bench.samples, _FLOOD)
    rows = [[when, spread(figures, when)] for when in ("alone", "in the flood")]
    rate = median(figures["changes in a second"])
    title = f"One endpoint of a quiet Service replaced, {shape} Services: median / 99th percentile"
    table(title, ["", "event to commit"], rows, f"in the flood: {rate:,.0f} changes of other Services in a second")


def _iptables(bench: Bench, shape: Shape) -> None:
    """Both variants, and for legacy both drivers."""
    figures = {variant: bench.measure("iptables stages", shape, variant) for variant in ("nft", "legacy")}
    rows = [
        [stage, *(typical(figures[variant], stage) for variant in figures), target if shape is _TARGET_SHAPE else ""]
        for stage, target in (("compile", ""), ("first apply", "<= 15 s, <= 3 s"), ("read back", ""))
    ]
    ways = (("nft", "iptables-restore"), ("legacy", "iptables-restore"), ("legacy", "python-iptables"))
    for driver in usable_drivers():
        found = {
            variant: spread(bench.measure("iptables changes", shape, variant, 10, driver), "endpoint replaced")
            for variant, way in ways
            if way == driver
        }
        target = "<= 150 ms, <= 600 ms" if shape is _TARGET_SHAPE else ""
        rows.append([f"one endpoint replaced, {driver}", found.get("nft", ""), found["legacy"], target])
    passed = median(figures["nft"]["rules passed"])
    note = f"a first packet to the last Service passes {passed:.0f} rules before the Service's own"
    table(f"iptables, {shape} Services of {ENDPOINTS} endpoints", ["", "nft", "legacy", "target"], rows, note)


def _beside_kube_proxy_iptables(bench: Bench, shape: Shape) -> None:
    rows = []
    for variant in ("nft", "legacy"):
        theirs = median(bench.measure("kube-proxy iptables load", shape, variant)["load"])
        mine = median(bench.measure("iptables stages", shape, variant)["first apply"])
        rows.append([f"first load, {variant}", seconds(theirs), seconds(mine), f"{theirs / mine:.1f}"])
    title = f"Beside the layout of kube-proxy's iptables mode, {shape} Services, by the same iptables-restore"
    table(title, ["", "kube-proxy's layout", "rulegen", "ratio"], rows)


def _packets(bench: Bench, shape: Shape, rounds: int) -> None:
    """A table for nftables and for each variant of iptables; the layouts of one table are measured in one run."""
    from bench.packets import FLOOR, NOTHING, common_packets, interval, special_packets

    targets = {kind: f"<= {target}" for kind, target in zip(common_packets(shape), PACKET_TARGETS, strict=True)}
    for where, suffix in (
        ("nftables", ""),
        ("iptables-nft", ", iptables-nft"),
        ("iptables-legacy", ", iptables-legacy"),
    ):
        layouts = (f"{FLOOR}{suffix}" if suffix else NOTHING, f"rulegen{suffix}", f"kube-proxy's layout{suffix}")
        figures = bench.measure("packets", shape, rounds, _CHUNK, *layouts, once=True)
        rows = []
        # kube-proxy's layout has ClusterIPs only where it is one of iptables.
        for kind in common_packets(shape) | ({} if suffix else special_packets(shape)):
            ratios = [interval(figures[f"{kind}, {name}"]) for name in layouts]
            cells = [f"{middle:.2f} ({low:.2f}-{high:.2f})" for middle, low, high in ratios]
            floor = f"{median(figures[f'{kind}, {FLOOR}']) * 1e6:.2f} us"
            rows.append([kind, floor, *cells, "" if suffix else targets.get(kind, "")])
        title = f"What a packet costs on {where} at {shape} Services, beside one DNAT rule: {rounds} rounds, 95 %"
        columns = [name if name.startswith(FLOOR) else name.removesuffix(suffix) for name in layouts]
        table(title, ["", FLOOR, *columns, "target"], rows, _instructions(figures))


# A change takes a restore where there are no sets.
_IPTABLES_SAMPLES = 20


def _policies(bench: Bench, quick: bool) -> None:
    """Network policies: one table of times, one of packets."""
    from bench.packets import interval
    from bench.policies import CHANGES, FIRST, FOREIGN, LATER, LINEAR, NONE, OURS, PLAIN, WITH_IPSET

    sizes = [policy_clusters.Shape(pods) for pods in (1_000, 10_000, *([] if quick else [100_000]))]
    stages = {shape: bench.measure_policies("policy stages", shape) for shape in sizes}
    changes = {shape: bench.measure_policies("policy changes", shape, bench.samples) for shape in sizes}
    start = "compile and first apply"
    rows = [
        [start, *(typical(stages[shape], start) for shape in sizes), "<= 2.00 s"],
        ["peak memory", *(megabytes(stages[shape], "peak memory") for shape in sizes), ""],
        *([name, *(spread(changes[shape], name) for shape in sizes), target] for name, target in CHANGES.items()),
    ]
    title = "Network policies: a start, time (on the processors); a change, event to commit: median / 99th percentile"
    table(title, ["", *map(str, sizes), "target at 10,000"], rows)
    _policies_on_iptables(bench, sizes[:2], start)
    pods, namespaces, policies = (10_000, 100, 200) if quick else (100_000, 1_000, 2_000)
    held = bench.measure_policy_memory(pods, namespaces, policies)
    rows = [[name, megabytes(held, name), target] for name, target in (("resident", "<= 500 MB"), ("peak memory", ""))]
    cluster = f"{pods:,} pods, {namespaces:,} namespaces, {policies:,} policies"
    table(f"Network policies: memory with {cluster}", ["", "", "target"], rows)
    shape, rounds = policy_clusters.Shape(10_000), 20 if quick else 60
    figures = bench.measure_policies("policy packets", shape, rounds, _CHUNK, once=True)
    rows = []
    for kind in (FIRST, LATER, FOREIGN):
        ratios = [interval(figures[f"{kind}, {name}"]) for name in (OURS, LINEAR, WITH_IPSET, PLAIN)]
        cells = [f"{middle:.2f} ({low:.2f}-{high:.2f})" for middle, low, high in ratios]
        rows.append([kind, f"{median(figures[f'{kind}, {NONE}']) * 1e6:.2f} us", *cells])
    title = f"What a packet costs with {shape}, beside none: {rounds} rounds, 95 %"
    table(title, ["", NONE, OURS, LINEAR, WITH_IPSET, PLAIN], rows, _instructions(figures))


def _policies_on_iptables(bench: Bench, sizes: list[policy_clusters.Shape], start: str) -> None:
    """The same times with ipset beside plain chains."""
    from bench.policies import CHANGES, PLAIN, WITH_IPSET

    cases = [(shape, layout) for shape in sizes for layout in (WITH_IPSET, PLAIN)]
    stages = [bench.measure_policies("policy stages", shape, layout) for shape, layout in cases]
    changes = [
        bench.measure_policies("policy changes", shape, min(bench.samples, _IPTABLES_SAMPLES), layout)
        for shape, layout in cases
    ]
    rows = [
        [start, *(typical(one, start) for one in stages)],
        *([name, *(spread(one, name) for one in changes)] for name in CHANGES),
    ]
    table("Network policies on iptables (nft)", ["", *(f"{shape}, {layout}" for shape, layout in cases)], rows)


def _egress(bench: Bench, quick: bool) -> None:
    """Egress masquerading: one table of changes, one of packets."""
    from bench.egress import AGENT, FOREIGN, INSIDE, LATER, NONE, OURS, OURS_IPTABLES, OUTSIDE
    from bench.packets import interval

    sizes = (100, 1_000, 10_000)
    changes = {nodes: bench.measure_nodes("egress changes", nodes, bench.samples) for nodes in sizes}
    rows = [[name, *(spread(changes[nodes], name) for nodes in sizes)] for name in ("node added", "node removed")]
    title = "Egress masquerade: a change, event to commit: median / 99th percentile"
    table(title, ["", *(f"{nodes:,} nodes" for nodes in sizes)], rows)
    nodes, rounds = 1_000, 20 if quick else 60
    figures = bench.measure_nodes("egress packets", nodes, rounds, _CHUNK, once=True)
    layouts = (OURS, OURS_IPTABLES, AGENT)
    rows = []
    for kind in (OUTSIDE, INSIDE, LATER, FOREIGN):
        ratios = [interval(figures[f"{kind}, {name}"]) for name in layouts]
        cells = [f"{middle:.2f} ({low:.2f}-{high:.2f})" for middle, low, high in ratios]
        rows.append([kind, f"{median(figures[f'{kind}, {NONE}']) * 1e6:.2f} us", *cells])
    title = f"What a packet costs with egress masquerade and {nodes:,} nodes, beside none: {rounds} rounds, 95 %"
    table(title, ["", NONE, *layouts], rows, _instructions(figures))


def _ingress(bench: Bench, quick: bool) -> None:
    """Ingresses with TLS: all rendered, one that changes, and what a handshake takes."""
    from bench.ingress import CHANGE, HANDSHAKE, OURS, OWN, THEIRS

    # With a Secret for every ten.
    sizes = (1_000, 5_000)
    rendered = {size: bench.measure_ingresses("ingress render", size, size // 10) for size in sizes}
    changed = {
        size: bench.measure_ingresses("ingress changes", size, size // 10, 5 if quick else 20, 2, once=True)
        for size in sizes
    }
    rows = [
        ["rulegen render, whole", *(typical(rendered[size], "render") for size in sizes), "<= 2.00 s"],
        [
            "one changed, until it is served",
            *(spread(changed[size], f"{CHANGE}, {OURS}") for size in sizes),
            "<= 1.00 s",
        ],
        ["of it rulegen's, on the processors", *(spread(changed[size], OWN) for size in sizes), ""],
        ["the same, all written anew", *(spread(changed[size], f"{CHANGE}, {THEIRS}") for size in sizes), ""],
        *(
            [
                f"TLS handshake, {way}, on the processors",
                *(seconds(median(changed[size][f"{HANDSHAKE}, {way}"])) for size in sizes),
                "",
            ]
            for way in (OURS, THEIRS)
        ),
    ]
    title = "Ingresses with TLS, a Secret for every ten: time (on the processors), median / 99th percentile"
    note = "all written anew: a server with its certificate for each host, nginx -t, nginx -s reload"
    table(title, ["", *(f"{size:,}" for size in sizes), "target at 5,000"], rows, note)


def _records(bench: Bench) -> None:
    """Names of Services: a load beside nsupdate's, and an agent's changes."""
    from bench.records import SERVERS

    shape = Shape(10_000, endpoints=3, headless=True)
    loads = {kind: bench.measure("records load", shape, kind, once=True) for kind in SERVERS}
    agents = {kind: bench.measure("records agent", shape, kind, bench.samples, once=True) for kind in SERVERS}
    rows = [
        ["rulegen apply, empty zones", *(typical(loads[kind], "first load") for kind in SERVERS), "<= 20.00 s"],
        ["nsupdate with the same records", *(typical(loads[kind], "nsupdate") for kind in SERVERS), ""],
        ["rulegen apply again", *(typical(loads[kind], "again") for kind in SERVERS), ""],
        ["agent: first load", *(typical(agents[kind], "start") for kind in SERVERS), "<= 20.00 s"],
        ["agent: restart", *(typical(agents[kind], "restart") for kind in SERVERS), ""],
        ["updates of that", *(f"{max(agents[kind]['updates of the restart']):.0f}" for kind in SERVERS), "0"],
        ["one endpoint replaced, event to answer", *(spread(agents[kind], "change") for kind in SERVERS), "<= 100 ms"],
        ["peak memory", *(megabytes(agents[kind], "memory") for kind in SERVERS), ""],
        [
            "the name server's processors, first load",
            *(seconds(median(loads[kind]["first load server cpu"])) for kind in SERVERS),
            "",
        ],
    ]
    title = f"Records of {shape} Services with {shape.services * shape.endpoints:,} endpoints: time (on the processors)"
    table(title, ["", *SERVERS.values(), "target"], rows)


def _instructions(figures: Figures) -> str:
    counted = {name: median(figures[name]) for name in figures if name.endswith(", instructions")}
    if not counted:
        return "this processor counts no instructions for this machine"
    return "\n".join(f"{name}: {value:,.0f} of the kernel" for name, value in counted.items())


if __name__ == "__main__":
    main()
