"""From options to what is explained or drawn: a cluster as a node sees it, what it is compiled to, the kernel.

Says on standard error what is found about the node itself; what is found about Services stays in the view. Changes
nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rulegen.commands.bundled import Bundle, find_bundle
from rulegen.commands.options import pack
from rulegen.commands.output import say
from rulegen.commands.progress import progress
from rulegen.commands.reading import (
    directory_of,
    egress_of,
    findings_of,
    make_features,
    policies_of,
    read_objects,
    read_objects_with,
    say_mistakes,
    services_of,
)
from rulegen.commands.targets import driver_of

if TYPE_CHECKING:
    from rulegen.config import Configuration, NodeConfiguration
    from rulegen.egress.feature import EgressMasquerade
    from rulegen.kube.manifests import Manifests
    from rulegen.policies.feature import NetworkPolicies
    from rulegen.reconcile.driver import Difference, Driver
    from rulegen.reconcile.feature import Feature
    from rulegen.reference import Finding
    from rulegen.services.explain.model import Ruleset, View


class Sight(NamedTuple):
    """What is explained, and for which target; `policies`, `egress`: None where they are off. `findings`: all of them.

    `difference`: what apply would change in the kernel; None where nobody asked. `is_here`: that kernel is this host's,
    not the one of which a bundle tells. `manifests`: all that was read.
    """

    services: View
    policies: NetworkPolicies | None
    egress: EgressMasquerade | None
    target: str
    findings: Sequence[Finding]
    difference: Difference | None
    is_here: bool
    manifests: Manifests


class _Compared(NamedTuple):
    """What the Services were compiled to, with what the kernel holds where somebody asked, and what differs there.

    `is_here`: the kernel is this host's, not that of a bundle's.
    """

    ruleset: Ruleset
    difference: Difference | None
    is_here: bool


def look(
    options: Mapping[str, Any], *, live: bool, more: Collection[type] = (), settings: Configuration | None = None
) -> Sight:
    """What the options of `input_options` and `target_options` say.

    `live`: the kernel is looked at, too, or what a bundle says of its own. `more`: kinds of what the cluster has once,
    where that is asked about, too. `settings`: where they were read already.
    """
    from rulegen.kube.objects import Pod
    from rulegen.services.explain.model import View

    source = pack(options)
    if more:
        manifests, configuration = read_objects_with(source, more, [Pod])
    else:
        manifests, configuration = read_objects(source, named=[Pod], settings=settings)
    node = configuration.node
    bundle = find_bundle(source.files) if live else None
    if live:
        from rulegen.configuration_file import for_families
        from rulegen.interfaces import host_families

        node = for_families(node, host_families() if bundle is None else bundle.families())
    say_mistakes(manifests)
    with progress("working out what it means"):
        features = make_features(manifests.objects(), configuration, node)
        store = services_of(features).store
        driver = driver_of(configuration, options)
        compared = _compare(driver, features, node, live=bundle or live)
    findings = findings_of(features)
    for finding in findings:
        if finding.reference.kind == "Node":
            say(f"warning: {finding.subject}: {finding.message}")
    directory = directory_of(source, configuration, manifests)
    view = View(store, node, compared.ruleset, directory.services, directory, manifests.mistakes())
    return Sight(
        view,
        policies_of(features),
        egress_of(features),
        driver.name,
        findings,
        compared.difference,
        compared.is_here,
        manifests,
    )


def _compare(driver: Driver, features: list[Feature], node: NodeConfiguration, *, live: bool | Bundle) -> _Compared:
    from rulegen.reconcile.compilers import CompilerSet
    from rulegen.reconcile.driver import compile_all
    from rulegen.reconcile.once import compare_once, take_all
    from rulegen.services.explain.rulesets import ruleset_of

    compilers = CompilerSet.of(features, driver.name, node)
    wanted, entries, difference = take_all(features), None, None
    if isinstance(live, Bundle):
        entries, difference = live.compare(driver, compilers, wanted)
    elif live:
        with driver.open() as opened:
            rules = opened.rules(compilers)
            difference = compare_once(rules, wanted)[1]
            entries = rules.live
    else:
        compile_all(compilers, *wanted)
    services = services_of(features)
    is_here = not isinstance(live, Bundle)
    ruleset = ruleset_of(driver.name, compilers, services.store, node.families, entries, is_here=is_here)
    return _Compared(ruleset, difference, is_here=is_here)
