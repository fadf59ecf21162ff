"""From an `Input` to what is wanted: settings, manifests or a cluster's objects, features that have read them.

Says on standard error what is wrong with them; faults end the program unless they may be skipped. Never looks at the
kernel.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from rulegen.commands.bundled import find_bundle
from rulegen.commands.options import Input
from rulegen.commands.output import EXIT_ERROR, fail, say, say_warning
from rulegen.commands.progress import progress

if TYPE_CHECKING:
    from rulegen.commands.bundled import Bundle
    from rulegen.config import Configuration, NodeConfiguration
    from rulegen.egress.feature import EgressMasquerade
    from rulegen.kube.api import Api
    from rulegen.kube.manifests import Inspect, Manifests
    from rulegen.kube.objects import Pod
    from rulegen.policies.feature import NetworkPolicies
    from rulegen.reconcile.feature import Feature
    from rulegen.reconcile.once import TakenItems
    from rulegen.reference import Finding
    from rulegen.services.feature import ServicesFeature
    from rulegen.services.names import Directory


# The feature that has a configuration file of its own.
EGRESS_MASQUERADE = "egress-masquerade"


class Wanted(NamedTuple):
    """The features that are on, and all that they hand on."""

    features: list[Feature]
    taken: TakenItems

    def only(self, feature: Feature) -> Wanted:
        """What one of them wants."""
        items, contexts = ({feature.name: part[feature.name]} for part in self.taken)
        return Wanted([feature], type(self.taken)(items, contexts))

    def without_objects(self, configuration: Configuration) -> Wanted:
        """The same for whoever only makes rules of it: what the objects were read into is as large as all the rules."""
        from rulegen.features import make

        return Wanted(make(configuration.features, configuration.node), self.taken)


def read_input(source: Input) -> tuple[Wanted, Configuration]:
    """What the input means for the node; faults end the program unless they may be skipped."""
    manifests, configuration = read_objects(source)
    return compile_objects(manifests, configuration), configuration


def read_objects(
    source: Input,
    inspect: Inspect | None = None,
    named: Collection[type] = (),
    settings: Configuration | None = None,
) -> tuple[Manifests, Configuration]:
    """All objects, and the settings of the node that is meant, which is one of theirs where they have any.

    `inspect`: what else is looked at in each object of a file as it was written. `named`: kinds that are read from
    files besides those that features need, for their names alone. `settings`: those of any node, where they were read
    already, which a pipe gives only once.

    Raises:
        InputError: there is no such node among them, or nobody says which one is meant.
    """
    configuration = settings or read_settings_of_any_node(source, say_warning)
    manifests = load_manifests(source, configuration, inspect, named=named)
    return manifests, for_node_of(manifests, configuration, source.node)


def read_objects_with(
    source: Input, more: Collection[type], named: Collection[type]
) -> tuple[Manifests, Configuration]:
    """The same for a question about a node and something that the cluster has once.

    `more`: the kinds of that. The features are those of a node, whether the settings name others or not.
    """
    from msgspec.structs import replace

    from rulegen.features import kinds_of, of_a_node

    configuration = read_settings_of_any_node(source, say_warning)
    kinds_of(configuration.features)
    names = tuple(name for name in configuration.features if name in of_a_node())
    configuration = replace(configuration, features=names)
    kinds = {*kinds_of(names), *more}
    manifests = load_manifests(source, configuration, kinds=kinds, named=named)
    return manifests, for_node_of(manifests, configuration, source.node)


def for_node_of(manifests: Manifests, configuration: Configuration, name: str) -> Configuration:
    """The settings of the node that is meant. Raises InputError as `read_objects`."""
    from msgspec.structs import replace

    from rulegen.configuration_file import known_node_configuration

    node = known_node_configuration(configuration, name, os.uname().nodename, _nodes(manifests))
    return replace(configuration, node=node)


def read_objects_for_any_node(source: Input, inspect: Inspect) -> tuple[Manifests, Configuration]:
    """The same where a node that is not among theirs is no error, but a finding."""
    from msgspec.structs import replace

    from rulegen.configuration_file import default_node, node_configuration

    configuration = read_settings_of_any_node(source, say_warning)
    manifests = load_manifests(source, configuration, inspect)
    here = os.uname().nodename
    name = source.node or configuration.node.node_name or default_node(here, _nodes(manifests))
    return manifests, replace(configuration, node=node_configuration(configuration, name, here))


def _nodes(manifests: Manifests) -> set[str]:
    """The names of those that there are; one that cannot be read is there all the same."""
    unread = {problem.name for problem in manifests.problems if problem.kind == "Node" and problem.name}
    return {node.metadata.name for node in manifests.nodes} | unread


def compile_objects(manifests: Manifests, configuration: Configuration) -> Wanted:
    """What they mean for the node; says what is probably wrong with it. Afterwards `manifests` hold no objects."""
    from rulegen.features import check_conditions
    from rulegen.reconcile.once import take_all

    say_mistakes(manifests)
    with progress("working out what it means"):
        features = make_features(manifests.release(), configuration, configuration.node)
        check_conditions(features)
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


def egress_of(features: Iterable[Feature]) -> EgressMasquerade | None:
    """As `policies_of`."""
    found: Any = next((feature for feature in features if feature.name == EGRESS_MASQUERADE), None)
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
    named: Collection[type] = (),
) -> Manifests:
    """`inspect`: what else is looked at in each object of a file as it was written.

    `kinds`: those that are read; None: what the features that are on read. `stdin`: what `-` is read from. `named`: see
    `read_objects`; what cannot be read of such a kind is no reason to stop.
    """
    from rulegen.features import kinds_of, passed_over

    read = kinds or kinds_of(configuration.features)
    only_named = {kind.__name__ for kind in named if kind not in read}
    if source.files:
        read = {*read, *named}
    manifests = read_manifests(source, configuration, inspect, read, stdin or sys.stdin.buffer)
    for problem in manifests.problems:
        say(f"warning: {problem}" if problem.kind in only_named else str(problem))
    if not source.skip_invalid and any(problem.kind not in only_named for problem in manifests.problems):
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


def read_manifests(
    source: Input,
    configuration: Configuration,
    inspect: Inspect | None,
    kinds: Collection[type],
    stdin: BinaryIO,
) -> Manifests:
    """The objects of `kinds`, and what is wrong with others, of which nothing is said. Raises RulegenError."""
    if source.files:
        from rulegen.kube.manifests import load

        with progress("reading manifests"):
            return load(source.files, stdin, inspect, kinds)
    from rulegen.kube.snapshot import read_cluster

    api = api_of(source, configuration)
    with progress("reading the cluster"):
        return read_cluster(api, kinds)


def directory_of(source: Input, configuration: Configuration, manifests: Manifests) -> Directory:
    """What can be named: the objects, read with pods among those that are `named`; in a cluster pods are asked for."""
    from rulegen.kube.objects import Pod
    from rulegen.services.names import Directory

    return Directory(
        [*manifests.services, *manifests.unselected],
        [*manifests.endpoint_slices, *manifests.headless],
        manifests.by_kind.get(Pod, ()),
        manifests.nodes,
        None if source.files else partial(_find_pods, source, configuration),
    )


def _find_pods(source: Input, configuration: Configuration, namespace: str, name: str) -> list[Pod]:
    """A pod that no slice lists; where the API server refuses to say, there is none."""
    from rulegen.kube.api import ApiError
    from rulegen.kube.snapshot import find_pods

    try:
        with closing(api_of(source, configuration)) as api:
            return find_pods(api, namespace, name)
    except ApiError as error:
        say_warning(f"pods cannot be looked up by name: {error}")
        return []


def api_of(source: Input, configuration: Configuration) -> Api:
    """The API server of the cluster that is read."""
    from rulegen.kube.api import connect

    return connect(source.kubeconfig or configuration.agent.kubeconfig, warn=say_warning)


def read_settings(source: Input, warn: Callable[[str], None], *, features_wait: bool = False) -> Configuration:
    """What the file says, or the defaults, where the options say nothing else; `warn` gets what has no effect.

    `features_wait`: for their own files, where these cannot be used; else that is an error.
    """
    from msgspec.structs import replace

    from rulegen.configuration_file import node_configuration

    configuration = read_settings_of_any_node(source, warn, features_wait=features_wait)
    return replace(configuration, node=node_configuration(configuration, source.node, os.uname().nodename))


def read_settings_of_any_node(
    source: Input, warn: Callable[[str], None], *, features_wait: bool = False
) -> Configuration:
    """The same, whichever node it is for."""
    from msgspec.structs import replace

    configuration = read_written_settings(source, warn)
    if EGRESS_MASQUERADE not in configuration.features:
        return configuration
    from rulegen.egress.configuration import with_file, with_file_or_reason

    egress = configuration.node.egress
    if (bundle := _bundle_with_settings(source)) is not None:
        return replace(configuration, node=replace(configuration.node, egress=bundle.egress(egress)))
    egress, warnings = with_file_or_reason(egress) if features_wait else with_file(egress)
    for warning in warnings:
        warn(warning)
    return replace(configuration, node=replace(configuration.node, egress=egress))


def _bundle_with_settings(source: Input) -> Bundle | None:
    """The bundle whose settings count, where a file names none."""
    return None if source.config else find_bundle(source.files)


def read_written_settings(source: Input, warn: Callable[[str], None]) -> Configuration:
    """The same without what features have in files of their own."""
    from msgspec.structs import replace

    from rulegen.config import Conntrack, IptablesLoader
    from rulegen.config import Target as Kind
    from rulegen.configuration_file import load_configuration, read_configuration

    target = Kind(source.target) if source.target else None
    if source.config:
        configuration, warnings = load_configuration(source.config, target)
    elif (bundle := _bundle_with_settings(source)) is not None:
        configuration, warnings = bundle.configuration(target), []
    else:
        configuration, warnings = read_configuration({}, "", target)
        # Only a file makes it kube-proxy's successor, which sets what the file does not say, too (D11).
        configuration = replace(configuration, agent=replace(configuration.agent, conntrack=Conntrack()))
    for warning in warnings:
        warn(warning)
    if source.iptables_driver:
        configuration = replace(configuration, iptables_driver=IptablesLoader(source.iptables_driver))
    return replace(configuration, features=tuple(dict.fromkeys((*configuration.features, *source.features))))
