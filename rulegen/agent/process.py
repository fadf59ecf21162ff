"""The agent as a process: one at a time in a network namespace, sources, signals, and the worker in between."""

from __future__ import annotations

import logging
import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from types import FrameType
from typing import Protocol

from msgspec import Struct

from rulegen.agent import lock
from rulegen.agent.engine import Engine
from rulegen.agent.files import FileSource
from rulegen.agent.inbox import Inbox
from rulegen.agent.target import KernelTarget, PrintingTarget
from rulegen.agent.worker import Worker
from rulegen.config import AgentConfiguration, NodeConfiguration
from rulegen.configuration_file import for_families
from rulegen.kube.follow import Follower
from rulegen.nftables.kernel import Kernel
from rulegen.nftables.monitor import Monitor

_LOG = logging.getLogger("rulegen.agent")

# What is under way when a signal to stop arrives may take so many seconds; then it is left as a crash would leave it.
_GRACE = 0.6


class Options(Struct, frozen=True, kw_only=True):
    """What an agent is started with. `files`: none means the API server of `kubeconfig`, at `server` if that is named.

    `print_line`: each change is printed with it, and none is applied.
    """

    node: NodeConfiguration
    agent: AgentConfiguration
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
        InputError: the files or the kubeconfig cannot be used.
        HostError: the kernel or the privileges do not suffice.
        SourceError: following ended because of an error in the program.
    """
    stop = _Stop()
    with closing(Inbox()) as inbox, _signals(inbox, stop), ExitStack() as stack:
        try:
            if options.print_line is None:
                taken = _take_lock(inbox, stop)
                if taken is None:
                    return
                stack.enter_context(closing(taken))
            _work(options, inbox, stop, stack)
        except _StopNowError:
            _LOG.info("stopped in the middle of a sync; the next start goes on from there")
        else:
            _LOG.info("stopped; the rules stay and serve")


def _work(options: Options, inbox: Inbox, stop: _Stop, stack: ExitStack) -> None:
    kernel = stack.enter_context(Kernel())
    node = for_families(options.node, kernel.families())
    monitor = None
    if options.print_line is None:
        monitor = stack.enter_context(closing(Monitor(kernel.port)))
        engine = Engine(node, KernelTarget(kernel))
    else:
        engine = Engine(node, PrintingTarget(kernel, options.print_line))
    source = _source(options, inbox)
    source.start()
    stack.callback(source.stop)
    _LOG.info("following %s for node %s", ", ".join(options.files) or "the API server", node.node_name)
    Worker(engine, inbox, monitor, options.agent).run(stop)


def _source(options: Options, inbox: Inbox) -> _Source:
    if options.files:
        return FileSource(options.files, inbox.deliver_together)
    from rulegen.kube.api import connect

    return Follower(connect(options.agent.kubeconfig, options.server), options.node.node_name, inbox.deliver)


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
