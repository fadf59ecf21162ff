"""The agent as a process: one at a time in a network namespace, sources, signals, and the worker in between."""

from __future__ import annotations

import logging
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from rulegen.agent import lock
from rulegen.agent.bootstrap import Bootstrap
from rulegen.agent.dataplane import Dataplane, kube_proxy_removals, open_dataplane
from rulegen.agent.drift import Nobody
from rulegen.agent.engine import Engine
from rulegen.agent.files import FileSource
from rulegen.agent.inbox import Inbox
from rulegen.agent.observer import Observer
from rulegen.agent.printed import PrintedRules
from rulegen.agent.readiness import Readiness
from rulegen.agent.reload import ConfigurationWatch
from rulegen.agent.takeover import Takeover
from rulegen.agent.worker import Worker
from rulegen.config import Configuration, DetectLocalMode
from rulegen.errors import HostError, InputError
from rulegen.iptables.programs import Variant
from rulegen.kube.follow import Follower

if TYPE_CHECKING:
    from rulegen.agent.events import EventRecorder

_LOG = logging.getLogger("rulegen.agent")

# What is under way when a signal to stop arrives may take so many seconds; then it is left as a crash would leave it.
_GRACE = 0.6


class Options(Struct, frozen=True, kw_only=True):
    """What an agent is started with.

    `load`: reads the configuration, with the node's name, as the options and the file `config_path` ("": none) say.
    `variant`: of iptables, None for the one that the host uses. `files`: none means the API server of the
    configuration's kubeconfig, at `server` if that is named. `print_line`: each change is printed with it, and none is
    applied.
    """

    load: Callable[[], Configuration]
    config_path: str = ""
    variant: Variant | None = None
    files: tuple[str, ...] = ()
    server: str = ""
    print_line: Callable[[str], None] | None = None


class _Source(Protocol):
    def start(self) -> None: ...

    def stop(self) -> None: ...


class _StopNowError(BaseException):
    """The time to stop is over."""


class _Stop:
    """Set by the first signal."""

    def __init__(self) -> None:
        self.is_set = False

    def __call__(self) -> bool:
        return self.is_set


def run(options: Options) -> None:
    """Works until SIGTERM or SIGINT; the rules stay and serve. To be called by the main thread.

    Raises:
        InputError: the configuration, the files or the kubeconfig cannot be used.
        HostError: the kernel or the privileges do not suffice.
        SourceError: following ended because of an error in the program.
    """
    stop = _Stop()
    with closing(Inbox()) as inbox, _signals(inbox, stop), ExitStack() as stack:
        configuration = options.load()
        try:
            if options.print_line is None:
                taken = _take_lock(inbox, stop)
                if taken is None:
                    return
                stack.enter_context(closing(taken))
            _work_with_reloads(options, configuration, inbox, stop)
        except _StopNowError:
            _LOG.info("stopped in the middle of a sync; the next start goes on from there")
        else:
            _LOG.info("stopped; the rules stay and serve")


def _work_with_reloads(options: Options, configuration: Configuration, inbox: Inbox, stop: _Stop) -> None:
    """Works, and begins anew when the configuration has changed: what is live is adopted, as at any start."""
    watch = ConfigurationWatch(options.config_path, options.load, inbox.wake_up)
    watch.start(configuration)
    before: Configuration | None = None
    with closing(watch):
        while not stop.is_set:
            try:
                _work(options, configuration, inbox, lambda: stop.is_set or watch.changed is not None)
            except (InputError, HostError) as error:
                if before is None:
                    raise
                _LOG.error("the changed configuration cannot be put to work, the one before is again: %s", error)
                configuration, before = before, None
                continue
            changed = watch.take()
            if changed is not None and not stop.is_set:
                _LOG.info("the configuration has changed: starting over")
                configuration, before = changed, configuration


def _work(options: Options, configuration: Configuration, inbox: Inbox, is_stopping: Callable[[], bool]) -> None:
    with ExitStack() as stack:
        dataplane = stack.enter_context(open_dataplane(configuration, options.variant))
        if options.print_line is not None:
            rules = PrintedRules(dataplane.rules, options.print_line)
            dataplane = dataplane._replace(rules=rules, watch=Nobody())
        configuration = dataplane.configuration
        node = configuration.node
        engine = Engine(node, dataplane.rules)
        source, observers = _source(options, configuration, inbox, engine)
        if options.print_line is None:
            _set_sysctls(configuration)
            recorder = _recorder(options, configuration, stack)
            observers += _observers(dataplane, engine, recorder, stack)
        # What a source before this one has delivered is told anew.
        inbox.take()
        source.start()
        stack.callback(source.stop)
        followed = ", ".join(options.files) or "the API server"
        _LOG.info("following %s for node %s, target %s", followed, node.node_name, configuration.target.value)
        readiness = Readiness(
            time.monotonic(),
            needs_node=not options.files,
            needs_pod_cidrs=node.detect_local_mode is DetectLocalMode.NODE_CIDR,
        )
        Worker(engine, inbox, dataplane.watch, readiness, configuration.agent, observers).run(is_stopping)
        # What is left to do has its own bounds.
        signal.setitimer(signal.ITIMER_REAL, 0)


def _source(
    options: Options, configuration: Configuration, inbox: Inbox, engine: Engine
) -> tuple[_Source, list[Observer]]:
    """Where events come from, and who looks at whether that can work."""
    if options.files:
        return FileSource(options.files, inbox.deliver_together), []
    from rulegen.kube.api import connect

    api = connect(configuration.agent.kubeconfig, options.server)
    return Follower(api, configuration.node.node_name, inbox.deliver), [Bootstrap(api.server, engine)]


def _set_sysctls(configuration: Configuration) -> None:
    """Rule 71."""
    from rulegen.conntrack.sysctls import apply_sysctls

    for change in apply_sysctls(configuration.agent.conntrack):
        _LOG.info("sysctl %s", change)


def _recorder(options: Options, configuration: Configuration, stack: ExitStack) -> EventRecorder | None:
    if options.files:
        return None
    from rulegen.agent.events import EventRecorder
    from rulegen.kube.api import connect

    recorder = EventRecorder(connect(configuration.agent.kubeconfig, options.server), configuration.node.node_name)
    recorder.start()
    stack.callback(recorder.stop)
    return recorder


def _observers(
    dataplane: Dataplane, engine: Engine, recorder: EventRecorder | None, stack: ExitStack
) -> list[Observer]:
    """All that the agent does beside the rules. `recorder`: None where there is no API server."""
    from rulegen.agent.health import Health, healthz_application
    from rulegen.agent.health_checks import ServiceHealthServers
    from rulegen.agent.http import HttpServer
    from rulegen.agent.metrics import Metrics
    from rulegen.agent.observers import Cleaning, HealthKeeping, Measuring, Telling
    from rulegen.agent.pages import Page, Pages
    from rulegen.agent.status import status_application
    from rulegen.conntrack.cleaner import Cleaner

    configuration, agent = dataplane.configuration, dataplane.configuration.agent
    families = configuration.node.families
    server = stack.enter_context(closing(HttpServer()))
    metrics = Metrics(configuration.target, families)
    health = Health(families, agent.sync_period, requires_node=recorder is not None)
    telling = Telling(engine, recorder)
    servers = ServiceHealthServers(health, server, telling.health_check)
    pages = [
        Page("healthzBindAddress", agent.healthz_bind_address, healthz_application(health, metrics.health_answer)),
        Page("metricsBindAddress", agent.metrics_bind_address, status_application(configuration, metrics.registry)),
    ]
    takeover = Takeover(dataplane.replaces, kube_proxy_removals(), metrics.cleanup_failed)
    stack.callback(takeover.close)
    return [
        Measuring(metrics, engine),
        HealthKeeping(health, servers, engine, agent.sync_period),
        Cleaning(Cleaner(), metrics),
        telling,
        Pages(server, pages, must_listen=agent.bind_address_hard_fail),
        takeover,
    ]


def _take_lock(inbox: Inbox, stop: _Stop) -> socket.socket | None:
    """The lock, as soon as nobody else has it; None when told to stop before."""
    is_waiting = False
    while not stop.is_set:
        taken = lock.acquire()
        if taken is not None:
            return taken
        other = lock.connect()
        if other is None:
            continue
        with closing(other):
            if not is_waiting:
                _LOG.info("another agent runs in this network namespace (%s): waiting for it to end", lock.owner(other))
                is_waiting = True
            select.select([other.fileno(), inbox.fileno()], [], [])
    return None


@contextmanager
def _signals(inbox: Inbox, stop: _Stop) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop` and wake the inbox up; should that not end the work soon, they interrupt it."""

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        _LOG.info("stopping: %s", signal.Signals(number).name)
        stop.is_set = True
        signal.setitimer(signal.ITIMER_REAL, _GRACE)

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise _StopNowError

    handlers = {signal.SIGTERM: end, signal.SIGINT: end, signal.SIGALRM: interrupt}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    wake_up_before = signal.set_wakeup_fd(inbox.wake_up_fd)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.set_wakeup_fd(wake_up_before)
        for number, handler in before.items():
            signal.signal(number, handler)


def configure_logging() -> None:
    """One line for each record, on standard error: time, level, message."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of each change
