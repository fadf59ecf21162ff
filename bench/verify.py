"""How long a proof takes: of rulegen's rules on nftables, and of kube-proxy's iptables layout against rulegen's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench import kube_proxy_iptables
from bench.clock import Numbers, measured
from bench.clusters import NODE_ADDRESS, Shape, manifest
from bench.product import configuration
from rulegen.config import NodeConfiguration, Target
from rulegen.drivers import make_driver
from rulegen.features import feed, make
from rulegen.kube.manifests import load
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.driver import compile_all
from rulegen.reconcile.once import take_all
from rulegen.services.feature import ServicesFeature
from rulegen.services.store import Store
from rulegen.verify import questions, rulesets


def compiled(objects: Iterable[Any], node: NodeConfiguration, target: Target) -> tuple[Store, str]:
    """What is known of Services, and the rules as `rulegen render` would write them."""
    features = make((), node)
    feed(features, objects)
    driver = make_driver(target)
    compilers = CompilerSet.of(features, driver.name, node)
    compile_all(compilers, *take_all(features))
    (store,) = (feature.store for feature in features if isinstance(feature, ServicesFeature))
    return store, "".join(driver.render(compilers))


def of_shape(shape: Shape, folder: Path) -> tuple[Store, str]:
    """The same of a cluster, on nftables."""
    manifests = load([str(manifest(shape, folder))], None)
    return compiled(manifests.release(), configuration(shape.families), Target.NFTABLES)


def objects(shape: Shape, folder: Path) -> Numbers:
    """Rules on nftables against what the objects mean: seconds, and how many classes of packets there are."""
    numbers: Numbers = {}
    (store, text), node = of_shape(shape, folder), configuration(shape.families)
    source = rulesets.read_text(text, "rules")
    with measured(numbers, "proof"):
        report = questions.against_objects(source, store, node, [NODE_ADDRESS])
    assert not report.status
    numbers["classes"] = float(sum(one.proof.classes for one in report.proofs))
    return numbers


def replaced(shape: Shape, folder: Path) -> Numbers:
    """kube-proxy's iptables layout against rulegen's rules on nftables."""
    numbers: Numbers = {}
    (store, text), node = of_shape(shape, folder), configuration(shape.families)
    theirs = rulesets.read_text("\n".join(kube_proxy_iptables.rules(shape)), "kube-proxy's")
    ours = rulesets.read_text(text, "rules")
    with measured(numbers, "proof"):
        report = questions.replacing_kube_proxy(theirs, ours, store, node, [NODE_ADDRESS])
    assert not any(one.proof.unknown for one in report.proofs)
    numbers["classes"] = float(sum(one.proof.classes for one in report.proofs))
    return numbers
