"""What rulegen itself takes, stage by stage, and for single changes."""

from __future__ import annotations

import gc
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs

from bench.clock import Numbers, measured, peak_memory, watched_children
from bench.clusters import ENDPOINTS, NODE, POD_CIDRS, Shape, endpoint_address, manifest, service, slice_of
from rulegen import gc_pause
from rulegen.config import Family, NodeConfiguration
from rulegen.kube.manifests import Manifests, load
from rulegen.kube.objects import Endpoint, EndpointSlice, Service
from rulegen.nftables import text
from rulegen.nftables.elements import EntryKey, Value
from rulegen.nftables.kernel import Kernel
from rulegen.nftables.live import Live
from rulegen.nftables.tables import BaseChains, Chain, TableSpec
from rulegen.nftables.transaction import Transaction, plan
from rulegen.reconcile.delta import diff
from rulegen.reconcile.parts import InParts, parts_of
from rulegen.services.on_nftables.compiler import Compiler
from rulegen.services.on_nftables.layout import LAYOUTS, SPECS, TABLE
from rulegen.services.store import Store

MASQUERADE_BIT = 14


@dataclass
class Proxy:
    """A cluster, compiled, and the kernel that has it."""

    store: Store
    compiler: Compiler
    kernel: Kernel
    live: Live

    def take(self, objects: Iterable[Service | EndpointSlice]) -> Transaction:
        """From changed objects to the transaction."""
        self.store.set_objects(objects)
        changes = self.store.take_changes()
        delta, errors = self.compiler.update(changes.service_ports, changes.node)
        assert not errors
        return plan(delta, self.live, self.compiler.base_chains)

    def change(self, *objects: Service | EndpointSlice) -> None:
        """From changed objects to the committed kernel."""
        self.kernel.commit(self.take(objects), self.live)


def configuration(families: int) -> NodeConfiguration:
    return NodeConfiguration(node_name=NODE, families=tuple(Family)[:families], cluster_cidrs=POD_CIDRS[:families])


def compiled(manifests: Manifests, families: int) -> tuple[Store, Compiler]:
    """From objects to entries."""
    settings = configuration(families)
    store = Store(settings)
    for objects in (manifests.nodes, manifests.service_cidrs, manifests.services, manifests.endpoint_slices):
        store.set_objects(objects)
    compiler = Compiler(settings.families, MASQUERADE_BIT)
    changes = store.take_changes()
    _, errors = compiler.update(changes.service_ports, changes.node)
    assert not errors
    return store, compiler


def started(shape: Shape, folder: Path) -> tuple[Proxy, Manifests]:
    """A cluster that the kernel has, and a process that is as it will be from then on."""
    with gc_pause.paused():
        proxy, manifests = _started(shape, folder)
    gc.collect()
    return proxy, manifests


def _started(shape: Shape, folder: Path) -> tuple[Proxy, Manifests]:
    manifests = load([str(manifest(shape, folder))], None)
    store, compiler = compiled(manifests, shape.families)
    kernel = Kernel()
    live = kernel.read(SPECS)
    desired = compiler.entries()
    kernel.commit(plan(diff(live.entries, desired), live, compiler.base_chains, desired), live)
    return Proxy(store, compiler, kernel, live), manifests


def stages(shape: Shape, folder: Path) -> Numbers:
    """The stages of a start, one after the other, and the peak memory of the process after each."""
    numbers: Numbers = {}
    with gc_pause.paused():
        _stages(shape, folder, numbers)
    return numbers


def _stages(shape: Shape, folder: Path, numbers: Numbers) -> None:
    path = str(manifest(shape, folder))
    with measured(numbers, "decode"):
        manifests = load([path], None)
    numbers["decode memory"] = peak_memory()
    with measured(numbers, "compile"):
        _, compiler = compiled(manifests, shape.families)
        desired = compiler.entries()
    numbers["compile memory"] = peak_memory()
    with Kernel() as kernel:
        live = kernel.read(SPECS)
        with watched_children(numbers, "nft memory"), measured(numbers, "first apply"):
            delta = diff(live.entries, desired)
            kernel.commit(plan(delta, live, compiler.base_chains, desired), live)
        del delta
        numbers["first apply memory"] = peak_memory()
        with measured(numbers, "read back"):
            live = kernel.read(SPECS)
        with measured(numbers, "diff"):
            delta = diff(live.entries, desired)
    assert not delta, delta
    numbers["read back memory"] = peak_memory()
    _load_text(compiler.base_chains, desired, folder, numbers)


def _load_text(
    base_chains: Mapping[TableSpec, BaseChains], entries: Mapping[EntryKey, Value], folder: Path, numbers: Numbers
) -> None:
    """The same ruleset as text, by nft alone; what it takes to write the text does not count."""
    with Kernel() as kernel:
        kernel.delete_tables([TABLE])
    path = folder / "ruleset.nft"
    with path.open("w") as file:
        file.writelines(text.render(base_chains, entries))
    with watched_children(numbers, "text nft memory"), measured(numbers, "nft -f"):
        subprocess.run(["nft", "-f", str(path)], check=True)


def command(shape: Shape, folder: Path) -> Numbers:
    """`rulegen apply` on an empty kernel, as a whole."""
    from rulegen import cli

    numbers: Numbers = {}
    arguments = ["apply", "-f", str(manifest(shape, folder)), "--node", NODE]
    with watched_children(numbers, "nft memory"), measured(numbers, "apply command"):
        cli.main(arguments, standalone_mode=False)
    numbers["apply command memory"] = peak_memory()
    return numbers


# ---- single changes ----


def changes(shape: Shape, folder: Path, repeats: int) -> dict[str, list[float]]:
    """Seconds from changed objects to the committed kernel, for each kind of change, on different Services."""
    proxy, manifests = started(shape, folder)
    picked = spread(manifests, repeats)
    with proxy.kernel:
        return {
            "endpoint replaced": timed(proxy.change, map(replaced_endpoint, picked)),
            "endpoint added": timed(proxy.change, map(added_endpoint, picked)),
            "service added": timed(lambda new: proxy.change(*new), _new_services(shape, repeats)),
        }


def new_chain(shape: Shape, folder: Path, repeats: int) -> dict[str, list[float]]:
    """Seconds for a Service that is the first with its number of endpoints, above the chains that are always there."""
    proxy, manifests = started(shape, folder)
    picked = spread(manifests, repeats)
    grown = (with_endpoints(slice_, 17 + number) for number, slice_ in enumerate(picked))
    with proxy.kernel:
        return {"first of its number": timed(proxy.change, grown)}


def timed(act: Callable[[Any], None], inputs: Iterable[Any]) -> list[float]:
    """Seconds of `act` for each input; making the input does not count."""
    samples = []
    for item in inputs:
        start = time.perf_counter()
        act(item)
        samples.append(time.perf_counter() - start)
    return samples


def spread(manifests: Manifests, repeats: int) -> list[EndpointSlice]:
    """IPv4 slices of Services from all over the cluster."""
    slices = [slice_ for slice_ in manifests.endpoint_slices if slice_.address_type == "IPv4"]
    return slices[:: len(slices) // repeats][:repeats]


def replaced_endpoint(slice_: EndpointSlice) -> EndpointSlice:
    """The slice with another first endpoint."""
    endpoints = slice_.endpoints or []
    return structs.replace(slice_, endpoints=[_other(slice_, ENDPOINTS), *endpoints[1:]])


def added_endpoint(slice_: EndpointSlice) -> EndpointSlice:
    """The slice with one more."""
    return with_endpoints(slice_, ENDPOINTS + 1)


def with_endpoints(slice_: EndpointSlice, count: int) -> EndpointSlice:
    """The slice with so many endpoints, more than it has."""
    endpoints = slice_.endpoints or []
    more = [_other(slice_, ENDPOINTS + number) for number in range(count - len(endpoints))]
    return structs.replace(slice_, endpoints=[*endpoints, *more])


def _other(slice_: EndpointSlice, number: int) -> Endpoint:
    first = (slice_.endpoints or [])[0]
    index = int(slice_.metadata.uid.rpartition("-")[2])
    return structs.replace(first, addresses=[endpoint_address(index, number)])


def _new_services(shape: Shape, count: int) -> Iterator[tuple[Service, EndpointSlice]]:
    """Services that the cluster does not have yet, each with its slice."""
    for index in range(shape.services, shape.services + count):
        yield msgspec.convert(service(Shape(0), index), Service), msgspec.convert(slice_of(index, 0), EndpointSlice)


# ---- upgrades ----


def upgrade(shape: Shape, folder: Path) -> Numbers:
    """Another version of rulegen: one chain's rules differ, all chains', and the declaration of a set."""
    numbers: Numbers = {}
    proxy, _ = started(shape, folder)
    base_chains = proxy.compiler.base_chains
    with proxy.kernel, gc_pause.paused():
        for what, names in (
            ("one chain", ["frontend"]),
            ("all chains", list(base_chains[LAYOUTS[Family.IPV4]].chains)),
        ):
            altered = {spec: _altered(base_chains, names) for spec, base_chains in base_chains.items()}
            _replace_base_chains(proxy, altered, numbers, what)
            _replace_base_chains(proxy, base_chains, {}, "")
        other_schema = {spec: replace(base_chains, schema="another") for spec, base_chains in base_chains.items()}
        _replace_base_chains(proxy, other_schema, numbers, "whole table")
    return numbers


def _altered(base_chains: BaseChains, names: list[str]) -> BaseChains:
    """The fixed part with one more rule at the end of each chain named."""
    chains = {name: Chain(name, f"{base_chains.chains[name].text[:-3]}\t\tcounter\n\t}}\n") for name in names}
    return replace(base_chains, chains={**base_chains.chains, **chains})


def _replace_base_chains(proxy: Proxy, base_chains: dict[TableSpec, BaseChains], numbers: Numbers, what: str) -> None:
    """What a start of that version does once it has compiled: read, compare, change; the last two are measured."""
    live = proxy.kernel.read(SPECS)
    chains = {
        (spec.chains, name.encode()): Value(chain.digest.encode())
        for spec, base_chains in base_chains.items()
        for name, chain in base_chains.chains.items()
    }
    parts = dict(parts_of(proxy.compiler.entries()))
    desired = InParts({**parts, None: {**parts[None], **chains}})
    with measured(numbers, what):
        transaction = plan(diff(live.entries, desired), live, base_chains, desired)
        assert transaction.changes or transaction.tables
        proxy.kernel.commit(transaction, live)
