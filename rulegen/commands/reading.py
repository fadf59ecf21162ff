"""From an `Input` to what is wanted: settings, manifests or a cluster's objects, features that have read them.

Says on standard error what is wrong with them; faults end the program unless they may be skipped. Never looks at the
kernel.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from rulegen.commands.options import Input
from rulegen.commands.output import EXIT_ERROR, fail, say, say_warning
from rulegen.commands.progress import progress

if TYPE_CHECKING:
    from rulegen.config import Configuration, NodeConfiguration
    from rulegen.kube.manifests import Inspect, Manifests
    from rulegen.policies.feature import NetworkPolicies
    from rulegen.reconcile.feature import Feature
    from rulegen.reconcile.once import TakenItems
    from rulegen.reference import Finding
    from rulegen.services.feature import ServicesFeature


class Wanted(NamedTuple):
    """The features that are on, and all that they hand on."""

    features: list[Feature]
    taken: TakenItems


def read_input(source: Input) -> tuple[Wanted, Configuration]:
    """What the input means for the node; faults end the program unless they may be skipped."""
    configuration = read_settings(source, say_warning)
    return compile_objects(load_manifests(source, configuration), configuration), configuration


def compile_objects(manifests: Manifests, configuration: Configuration) -> Wanted:
    """What they mean for the node; says what is probably wrong with it. Afterwards `manifests` hold no objects."""
    from rulegen.reconcile.once import take_all

    say_mistakes(manifests)
    with progress("working out what it means"):
        features = make_features(manifests.release(), configuration, configuration.node)
        wanted = Wanted(features, take_all(features))
    for finding in findings_of(features):
        say(f"warning: {finding.subject}: {finding.message}")
    return wanted


def make_features(objects: Iterable[Any], configuration: Configuration, node: NodeConfiguration) -> list[Feature]:
    """The features that are on, which have read the objects."""
    from rulegen.features import feed, make

    features = make(configuration.features, node)
    feed(features, objects)
    return features


def policies_of(features: Iterable[Feature]) -> NetworkPolicies | None:
    """The feature, where it is on; then it is imported already."""
    found: Any = next((feature for feature in features if feature.name == "network-policies"), None)
    return found  # type: ignore[no-any-return]


def findings_of(features: Sequence[Feature]) -> list[Finding]:
    """What features find from which all was taken; of Services, also what is found in slices that none of them has."""
    from rulegen.services.feature import ServicesFeature

    found: list[Finding] = []
    for feature in features:
        if isinstance(feature, ServicesFeature):
            found += feature.store.findings()
        else:
            found += sorted(finding for _, findings in feature.findings.items() for finding in findings)
    return found


def services_of(features: Iterable[Feature]) -> ServicesFeature:
    """The feature that is always there on a node; ends the program where the question is none of a node's."""
    from rulegen.services.feature import ServicesFeature

    found = next((feature for feature in features if isinstance(feature, ServicesFeature)), None)
    if found is None:
        fail(f"this command is about a node's rules, which the feature {next(iter(features)).name} has none of")
    return found


def say_mistakes(manifests: Manifests) -> None:
    """One warning for each kind of mistake in how the objects are written."""
    from rulegen.kube.mistakes import summary

    for line in summary(manifests.mistakes()):
        say_warning(line)


def load_manifests(
    source: Input,
    configuration: Configuration,
    inspect: Inspect | None = None,
    kinds: Collection[type] | None = None,
    stdin: BinaryIO | None = None,
) -> Manifests:
    """`inspect`: what else is looked at in each object of a file as it was written.

    `kinds`: those that are read; None: what the features that are on read. `stdin`: what `-` is read from.
    """
    from rulegen.features import kinds_of, passed_over

    read = kinds or kinds_of(configuration.features)
    manifests = _read_manifests(source, configuration, inspect, read, stdin or sys.stdin.buffer)
    for problem in manifests.problems:
        say(str(problem))
    if manifests.problems and not source.skip_invalid:
        sys.exit(EXIT_ERROR)
    if manifests.skipped:
        words = ", ".join(f"{count} {kind}" for kind, count in sorted(manifests.skipped.items()))
        say(f"skipped objects of kinds that are not read: {words}")
        for warning in _features_that_are_off(manifests.skipped, configuration):
            say_warning(warning)
    for kind, field, name in passed_over(configuration.features, manifests.objects()):
        say_warning(f"{field} of {kind}: without --feature {name}, it means nothing")
    return manifests


def _features_that_are_off(skipped: Iterable[str], configuration: Configuration) -> Iterator[str]:
    """Of each feature that is off and would read what was skipped, that it is off."""
    from rulegen.features import chosen, cluster_driver, kinds_of, of_a_node

    if cluster_driver(configuration.features):
        return
    read = kinds_of(configuration.features)
    on = chosen(configuration.features)
    for name in (name for name in of_a_node() if name not in on):
        kinds = sorted({kind.__name__ for kind in kinds_of([name]) if kind not in read} & set(skipped))
        if kinds:
            yield f"{', '.join(kinds)}: without --feature {name}, these mean nothing"


def _read_manifests(
    source: Input,
    configuration: Configuration,
    inspect: Inspect | None,
    kinds: Collection[type],
    stdin: BinaryIO,
) -> Manifests:
    if source.files:
        from rulegen.kube.manifests import load

        with progress("reading manifests"):
            return load(source.files, stdin, inspect, kinds)
    from rulegen.kube.api import connect
    from rulegen.kube.snapshot import read_cluster

    api = connect(source.kubeconfig or configuration.agent.kubeconfig, warn=say_warning)
    with progress("reading the cluster"):
        return read_cluster(api, kinds)


def read_settings(source: Input, warn: Callable[[str], None]) -> Configuration:
    """What the file says, or the defaults, where the options say nothing else; `warn` gets what has no effect."""
    from msgspec.structs import replace

    from rulegen.configuration_file import node_configuration

    configuration = read_written_settings(source, warn)
    return replace(configuration, node=node_configuration(configuration, source.node, os.uname().nodename))


def read_written_settings(source: Input, warn: Callable[[str], None]) -> Configuration:
    """The same, whichever node it is for."""
    from msgspec.structs import replace

    from rulegen.config import Conntrack, IptablesLoader
    from rulegen.config import Target as Kind
    from rulegen.configuration_file import load_configuration, read_configuration

    target = Kind(source.target) if source.target else None
    if source.config:
        configuration, warnings = load_configuration(source.config, target)
    else:
        configuration, warnings = read_configuration({}, "", target)
        # Only a file makes it kube-proxy's successor, which sets what the file does not say, too (D11).
        configuration = replace(configuration, agent=replace(configuration.agent, conntrack=Conntrack()))
    for warning in warnings:
        warn(warning)
    if source.iptables_driver:
        configuration = replace(configuration, iptables_driver=IptablesLoader(source.iptables_driver))
    return replace(configuration, features=(*configuration.features, *source.features))
