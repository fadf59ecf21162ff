"""One agent for one configuration: source, features, driver and all that it does beside, put together and started.

Holds no lock and handles no signal; when this ends, nothing of it is left but the rules.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from msgspec import Struct
from msgspec.structs import replace

from rulegen.agent.log.printed import PrintedRules
from rulegen.agent.log.reporting import Reporting
from rulegen.agent.observers.bootstrap import Bootstrap
from rulegen.agent.observers.legacy_cleanup import LegacyCleanup
from rulegen.agent.observers.observers import EventObserver
from rulegen.agent.sources.files import FileSource
from rulegen.agent.worker.drift import NoDriftDetection
from rulegen.agent.worker.readiness import Readiness
from rulegen.agent.worker.work_queue import WorkQueue
from rulegen.agent.worker.worker import Pace, Worker
from rulegen.config import AgentConfiguration, Configuration, Conntrack, DetectLocalMode, Target
from rulegen.configuration_file import for_families
from rulegen.drivers import make_driver, other_drivers
from rulegen.errors import printable
from rulegen.features import REGISTRY, chosen, cluster_driver, kinds_of, make, resources
from rulegen.interfaces import host_families
from rulegen.iptables.binaries import Variant
from rulegen.kube.follow import Follower
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.driver import LiveRules, OpenDriver, Removal, Watch
from rulegen.reconcile.feature import Feature, Need, WithObservers
from rulegen.reconcile.observer import Observer
from rulegen.reconcile.reconciler import Reconciler
from rulegen.reference import Finding, ObjectReference
from rulegen.services.feature import ServicesFeature
from rulegen.services.model import Reason, ServiceKey

if TYPE_CHECKING:
    from rulegen.agent.observers.events import EventRecorder
    from rulegen.agent.status.observer import Settings

_LOG = logging.getLogger("rulegen.agent")


class Options(Struct, frozen=True, kw_only=True):
    """What an agent is started with.

    `load`: reads the configuration, with the node's name, as the options and the files `config_paths` say, which need
    not be there; `load_at_start` the same when there is none yet, and goes on without what a start does not need.
    `variant`: of iptables, None for the one that the host uses. `files`: none means the API server of the
    configuration's kubeconfig, at `server` if that is named. `print_line`: each change is printed with it, and none is
    applied. `configure_log` is told what each configuration that is put to work says of the log; `recent_log`: the last
    lines of it.
    """

    load: Callable[[], Configuration]
    configure_log: Callable[[AgentConfiguration], None]
    recent_log: Callable[[], list[str]]
    load_at_start: Callable[[], Configuration]
    config_paths: Callable[[Configuration], Sequence[str]]
    variant: Variant | None = None
    files: tuple[str, ...] = ()
    server: str = ""
    print_line: Callable[[str], None] | None = None


class Control(NamedTuple):
    """How an agent hears from the process that it is in.

    `work_queue`: whoever makes `is_stopping` true wakes it up. `worked` is called when the last sync has ended.
    `configuration_problem`: why the configuration file is not used as it is now, "" while it is; for any thread.
    """

    work_queue: WorkQueue
    is_stopping: Callable[[], bool]
    worked: Callable[[], None]
    configuration_problem: Callable[[], str]


class _Source(Protocol):
    def start(self) -> None: ...

    def stop(self) -> None: ...


def work(options: Options, configuration: Configuration, control: Control) -> None:
    """Keeps the target of the configuration equal to the source, until it is told to stop.

    Raises:
        InputError: the files or the kubeconfig cannot be used, or the host cannot do as the configuration says.
        HostError: the kernel or the privileges do not suffice.
        SourceError: following ended because of an error in the program.
    """
    work_queue = control.work_queue
    options.configure_log(configuration.agent)
    if cluster_driver(configuration.features):
        from rulegen.agent.run.cluster import work_for_cluster

        work_for_cluster(options, configuration, control)
        return
    with ExitStack() as stack:
        driver = make_driver(configuration.target, options.variant, configuration.iptables_driver)
        opened = stack.enter_context(driver.open())
        configuration = replace(configuration, node=for_families(configuration.node, host_families()))
        node, agent = configuration.node, configuration.agent
        features = make(configuration.features, node)
        services = next(feature for feature in features if isinstance(feature, ServicesFeature))
        rules: LiveRules = opened.rules(CompilerSet.of(features, driver.name, node), agent.sync_period)
        watch: Watch = NoDriftDetection()
        if options.print_line is not None:
            rules = PrintedRules(rules, options.print_line)
        else:
            watch = opened.watch(agent.sync_period, time.monotonic())
        reconciler = Reconciler(features, rules)
        needs = kinds_of(configuration.features)
        source, followed, observers = _source(options, configuration, needs, work_queue, reconciler)
        observers.append(Reporting())
        if options.print_line is None:
            recorder = _recorder(options, configuration, stack)
            observers += _observers(
                _Kept(configuration, reconciler, features, services, needs, _replaces(configuration.target, opened)),
                _Origin(options, control, followed, opened.variant),
                recorder,
                stack,
            )
        else:
            observers.append(EventObserver(reconciler, None))
        work_queue.weigh(services.store.large)
        # What a source before this one has delivered is told anew.
        work_queue.take()
        source.start()
        stack.callback(source.stop)
        _LOG.info("following %s for node %s, target %s", followed, node.node_name, configuration.target.value)
        readiness = Readiness(
            time.monotonic(),
            needs,
            node.node_name,
            needs_node=not options.files,
            needs_pod_cidrs=node.detect_local_mode is DetectLocalMode.NODE_CIDR,
        )
        pace = Pace(agent.min_sync_period, agent.sync_period, opened.batch)
        Worker(reconciler, work_queue, watch, pace, readiness, observers).run(control.is_stopping)
        control.worked()


class _Origin(NamedTuple):
    """Where an agent comes from, and where its objects do. `variant`: of iptables, "" on nftables."""

    options: Options
    control: Control
    followed: str
    variant: str


class _Kept(NamedTuple):
    """What an agent keeps; `replaces`: what removes rulegen's rules of other targets."""

    configuration: Configuration
    reconciler: Reconciler
    features: list[Feature]
    services: ServicesFeature
    needs: Mapping[type, Need]
    replaces: tuple[Removal, ...]


def _replaces(target: Target, opened: OpenDriver) -> tuple[Removal, ...]:
    others = tuple(partial(driver.remove, tuple(REGISTRY)) for driver in other_drivers(target))
    return (*others, *opened.leftovers)


def _source(
    options: Options,
    configuration: Configuration,
    needs: Mapping[type, Need],
    work_queue: WorkQueue,
    reconciler: Reconciler,
) -> tuple[_Source, str, list[Observer]]:
    """Where events come from, the same in words, and who looks at whether that can work."""
    if options.files:
        source = FileSource(options.files, tuple(needs), work_queue.deliver_together)
        return source, ", ".join(map(printable, options.files)), []
    from rulegen.kube.api import connect

    api = connect(configuration.agent.kubeconfig, options.server, _LOG.warning)
    return (
        Follower(api, resources(configuration.features, configuration.node.node_name), work_queue.deliver),
        api.server,
        [Bootstrap(api.server, reconciler)],
    )


def _set_sysctls(settings: Conntrack, node_name: str, recorder: EventRecorder | None) -> list[Finding]:
    """SVC-71. What the host refuses is said, in the log and in an Event, and the node does without (D11)."""
    from rulegen.conntrack.sysctls import set_sysctls

    done = set_sysctls(settings)
    for change in done.changes:
        _LOG.info("sysctl %s", change)
    node = ObjectReference("Node", "", node_name)
    findings = [Finding(node, Reason.SYSCTL_NOT_SET, problem) for problem in done.problems()]
    for finding in findings:
        _LOG.warning("%s", finding.message)
        if recorder is not None:
            recorder.record(node, str(finding.reason), finding.message, action="Start")
    return findings


def _recorder(options: Options, configuration: Configuration, stack: ExitStack) -> EventRecorder | None:
    if options.files:
        return None
    from rulegen.agent.observers.events import EventRecorder
    from rulegen.kube.api import connect

    recorder = EventRecorder(connect(configuration.agent.kubeconfig, options.server), configuration.node.node_name)
    recorder.start()
    stack.callback(recorder.stop)
    return recorder


def _observers(kept: _Kept, origin: _Origin, recorder: EventRecorder | None, stack: ExitStack) -> list[Observer]:
    """All that the agent does beside the rules. `recorder`: None where there is no API server."""
    from rulegen.agent.http.health import Health, healthz_application
    from rulegen.agent.http.health_checks import ServiceHealthServers
    from rulegen.agent.http.pages import Page, Pages
    from rulegen.agent.http.server import HttpServer
    from rulegen.agent.http.status import status_application
    from rulegen.agent.observers.acceleration import AccelerationObserver
    from rulegen.agent.observers.metrics import Metrics
    from rulegen.agent.observers.neighbours import FirewallObserver
    from rulegen.agent.observers.observers import (
        ConntrackObserver,
        HealthCheckEvents,
        HealthObserver,
        MetricsObserver,
    )
    from rulegen.agent.run.descriptors import shares
    from rulegen.agent.status.observer import Asked, StatusObserver
    from rulegen.agent.status.page import status_page
    from rulegen.conntrack.cleaner import Cleaner
    from rulegen.firewalls.find import obstacles_beside
    from rulegen.nftables.acceleration import Acceleration

    configuration, agent = kept.configuration, kept.configuration.agent
    node_name = configuration.node.node_name
    families = configuration.node.families
    limits = shares()
    server = stack.enter_context(closing(HttpServer(limits.connections)))
    metrics = Metrics(configuration.target, families, kept.needs)
    metrics.count_waiting(origin.control.work_queue.waiting)
    metrics.count_files(lambda: bool(origin.control.configuration_problem()))
    of_host = _set_sysctls(agent.conntrack, node_name, recorder)
    metrics.found_at_the_start(of_host)
    health = Health(families, agent.sync_period, requires_node=recorder is not None)
    telling = EventObserver(kept.reconciler, recorder)
    failures = HealthCheckEvents(kept.services.store.reference, node_name, recorder)

    def tell_health_check(service: ServiceKey, message: str, holds: bool) -> None:
        failures.tell(service, message, holds)
        status.health_check(service, message, holds)

    servers = ServiceHealthServers(health, server, limits.listeners, tell_health_check)
    legacy_cleanup = LegacyCleanup(kept.replaces, metrics.cleanup_failed)
    stack.callback(legacy_cleanup.close)
    firewalls = FirewallObserver(partial(obstacles_beside, configuration.target), node_name, recorder)
    stack.callback(firewalls.close)
    asked = Asked(
        waiting=origin.control.work_queue.waiting,
        health=health.summary,
        health_checks=servers.count,
        takeover=legacy_cleanup.takeover,
        foreign_drops=firewalls.obstacles,
        configuration_problem=origin.control.configuration_problem,
    )
    status = StatusObserver(_status_settings(kept, origin), asked, kept.reconciler)
    status.found_at_the_start(of_host)
    about_itself = status_application(configuration, metrics.registry, origin.options.recent_log)
    about_health = healthz_application(health, metrics.health_answer, status_page(status.status))
    pages = Pages(
        server,
        [
            Page("healthzBindAddress", agent.healthz_bind_address, about_health),
            Page("metricsBindAddress", agent.metrics_bind_address, about_itself),
        ],
        must_listen=agent.bind_address_hard_fail,
    )
    status.ask_listening(pages.listening)
    acceleration = stack.enter_context(closing(Acceleration()))
    return [
        MetricsObserver(metrics, kept.reconciler),
        status,
        HealthObserver(health, servers, node_name, agent.sync_period),
        ConntrackObserver(Cleaner(), metrics),
        telling,
        pages,
        legacy_cleanup,
        firewalls,
        AccelerationObserver(acceleration, is_wanted=agent.accelerate),
        *(
            observer
            for feature in kept.features
            if isinstance(feature, WithObservers)
            for observer in feature.observers(metrics.registry)
        ),
    ]


def _status_settings(kept: _Kept, origin: _Origin) -> Settings:
    from rulegen.agent.status.document import Source
    from rulegen.agent.status.observer import Settings

    configuration, options = kept.configuration, origin.options
    source = Source(kind="api server", places=(origin.followed,))
    if options.files:
        source = Source(kind="files", places=tuple(map(printable, options.files)))
    return Settings(
        node=configuration.node.node_name,
        target=configuration.target.value,
        variant=origin.variant,
        features=chosen(configuration.features),
        families=tuple(family.value for family in configuration.node.families),
        source=source,
        configuration=", ".join(map(printable, options.config_paths(configuration))),
        kinds=tuple(kept.needs),
    )
