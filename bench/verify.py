"""How long a proof takes: of rulegen's rules on nftables, and of kube-proxy's iptables layout against rulegen's."""

from __future__ import annotations

from pathlib import Path

from bench import kube_proxy_iptables
from bench.clock import Numbers, measured
from bench.clusters import NODE_ADDRESS, Shape, manifest
from bench.product import configuration
from rulegen.kube.manifests import load
from rulegen.services.store import Store
from rulegen.targets.on_nftables import NftablesTarget
from rulegen.verify import questions, rulesets


def _store(shape: Shape, folder: Path) -> Store:
    manifests = load([str(manifest(shape, folder))], None)
    store = Store(configuration(shape.families))
    for objects in (manifests.nodes, manifests.service_cidrs, manifests.services, manifests.endpoint_slices):
        store.set_objects(objects)
    return store


def objects(shape: Shape, folder: Path) -> Numbers:
    """Rules on nftables against what the objects mean: seconds, and how many classes of packets there are."""
    numbers: Numbers = {}
    store, node = _store(shape, folder), configuration(shape.families)
    source = rulesets.read_text("".join(NftablesTarget().render(store, node)), "rules")
    with measured(numbers, "proof"):
        report = questions.against_objects(source, store, node, [NODE_ADDRESS])
    assert not report.status
    numbers["classes"] = float(sum(one.proof.classes for one in report.proofs))
    return numbers


def replaced(shape: Shape, folder: Path) -> Numbers:
    """kube-proxy's iptables layout against rulegen's rules on nftables."""
    numbers: Numbers = {}
    store, node = _store(shape, folder), configuration(shape.families)
    theirs = rulesets.read_text("\n".join(kube_proxy_iptables.rules(shape)), "kube-proxy's")
    ours = rulesets.read_text("".join(NftablesTarget().render(store, node)), "rules")
    with measured(numbers, "proof"):
        report = questions.replacing_kube_proxy(theirs, ours, store, node, [NODE_ADDRESS])
    assert not any(one.proof.unknown for one in report.proofs)
    numbers["classes"] = float(sum(one.proof.classes for one in report.proofs))
    return numbers
