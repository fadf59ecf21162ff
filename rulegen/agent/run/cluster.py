"""An agent for what a cluster has once: source, feature and driver put together, several replicas beside each other.

Nothing of this host counts: no rules, no Node, no lock of a network namespace. Who works is decided by a Lease, or all
do, each for something of its own, and the Lease decides who says so in the status of objects.
"""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from rulegen.agent.log.printed import PrintedRules
from rulegen.agent.log.reporting import Reporting
from rulegen.agent.observers.observers import EventObserver
from rulegen.agent.run.beside_cluster import BesideCluster
from rulegen.agent.run.lease import Candidate, Leadership
from rulegen.agent.sources.files import FileSource
from rulegen.agent.worker.drift import NoDriftDetection
from rulegen.agent.worker.readiness import Readiness
from rulegen.agent.worker.worker import Pace, Worker
from rulegen.config import Configuration
from rulegen.drivers import driver_for
from rulegen.errors import HostError, printable
from rulegen.features import chosen, each_replica_works, kinds_of, make, resources
from rulegen.kube.follow import Follower
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.driver import Guarded, LiveRules, Watch
from rulegen.reconcile.feature import Feature, WithStatus
from rulegen.reconcile.observer import Observer
from rulegen.reconcile.reconciler import Reconciler

if TYPE_CHECKING:
    from rulegen.agent.run.assembly import Control, Options

_LOG = logging.getLogger("rulegen.agent")


def work_for_cluster(options: Options, configuration: Configuration, control: Control) -> None:
    """Keeps what the features want equal, until it is told to stop; see `assembly.work`.

    Raises:
        InputError: the files, the kubeconfig or the configuration cannot be used.
        HostError: a library or a server lacks, or another replica has taken over.
    """
    with ExitStack() as stack:
        driver = driver_for(configuration, options.variant, _LOG.warning)
        opened = stack.enter_context(driver.open())
        needs = kinds_of(configuration.features)
        beside: BesideCluster | None = None
        if options.print_line is None:
            beside = BesideCluster(options, configuration, control, needs, stack)
        is_over: Callable[[], bool] = control.is_stopping
        if not options.files and beside is not None and not each_replica_works(configuration.features):
            leadership = _leadership(options, configuration, control.work_queue.wake_up)
            stack.callback(leadership.stop)
            if not _has_lead(leadership, control, beside.waits):
                return
            is_over = _either(control.is_stopping, leadership)
            if isinstance(opened, Guarded):
                opened.only_while(lambda: not leadership.is_lost)
        agent = configuration.agent
        features = make(configuration.features, configuration.node)
        rules: LiveRules = opened.rules(CompilerSet.of(features, driver.name, configuration.node), agent.sync_period)
        watch: Watch = NoDriftDetection()
        if options.print_line is not None:
            rules = PrintedRules(rules, options.print_line)
        else:
            watch = opened.watch(agent.sync_period, time.monotonic())
        reconciler = Reconciler(features, rules)
        source, followed = _source(options, configuration, control)
        # What a source before this one has delivered is told anew.
        control.work_queue.take()
        source.start()
        stack.callback(source.stop)
        _LOG.info("following %s for the feature %s", followed, features[0].name)
        readiness = Readiness(time.monotonic(), needs, "", needs_node=False, needs_pod_cidrs=False)
        pace = Pace(agent.min_sync_period, agent.sync_period, opened.batch)
        observers: list[Observer] = [Reporting()]
        if beside is not None:
            observers += beside.leads(reconciler, opened, rules, features)
            observers += _status_writers(options, configuration, features, stack)
        else:
            observers.append(EventObserver(reconciler, None))
        Worker(reconciler, control.work_queue, watch, pace, readiness, observers).run(is_over)
        control.worked()
        if not control.is_stopping():
            raise HostError("the Lease was lost: ended, so that nobody works beside its new holder")


def _leadership(options: Options, configuration: Configuration, changed: Callable[[], None]) -> Leadership:
    (feature,) = chosen(configuration.features)
    agent = configuration.agent
    return Leadership(feature, agent.kubeconfig, options.server, changed, agent.leader_election)


def _status_writers(
    options: Options, configuration: Configuration, features: Sequence[Feature], stack: ExitStack
) -> list[Observer]:
    """Who says in the status of objects what became of them, where a feature has something to say."""
    telling = [feature for feature in features if isinstance(feature, WithStatus) and feature.says_status]
    if options.files or not telling:
        return []
    from rulegen.agent.observers.object_status import StatusWriter
    from rulegen.kube.api import connect

    candidate = Candidate(lambda: _leadership(options, configuration, _nobody_waits))
    writer = StatusWriter(connect(configuration.agent.kubeconfig, options.server), telling, candidate.is_leading)
    for one in (candidate, writer):
        one.start()
        stack.callback(one.stop)
    return [writer]


def _nobody_waits() -> None:
    """Who asks whether he leads, asks again."""


def _either(is_stopping: Callable[[], bool], leadership: Leadership) -> Callable[[], bool]:
    return lambda: is_stopping() or leadership.is_lost


def _has_lead(leadership: Leadership, control: Control, waits: Callable[[], None]) -> bool:
    """Waits for it, with calls of `waits`; False when told to stop before."""
    leadership.start()
    _LOG.info("waiting for the Lease %s", leadership.name)
    while not leadership.is_leading:
        if control.is_stopping():
            return False
        select.select([control.work_queue.fileno()], [], [], 0.5)
        control.work_queue.take()
        waits()
    _LOG.info("this replica has the Lease %s", leadership.name)
    return True


def _source(options: Options, configuration: Configuration, control: Control) -> tuple[FileSource | Follower, str]:
    if options.files:
        kinds = tuple(kinds_of(configuration.features))
        source = FileSource(options.files, kinds, control.work_queue.deliver_together)
        return source, ", ".join(map(printable, options.files))
    from rulegen.kube.api import connect

    api = connect(configuration.agent.kubeconfig, options.server, _LOG.warning)
    return Follower(api, resources(configuration.features, ""), control.work_queue.deliver), api.server
