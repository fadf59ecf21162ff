"""The agent as a process: one at a time in a network namespace, signals, and a configuration that changes."""

from __future__ import annotations

import logging
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from types import FrameType

from rulegen import children
from rulegen.agent.run import lock
from rulegen.agent.run.assembly import Control, Options, work
from rulegen.agent.run.descriptors import raise_limit
from rulegen.agent.run.ending import leave
from rulegen.agent.run.reload import ConfigurationWatch, Refused
from rulegen.agent.worker.work_queue import WorkQueue
from rulegen.config import Configuration
from rulegen.errors import HostError, InputError
from rulegen.features import cluster_driver
from rulegen.kube.backoff import Backoff

_LOG = logging.getLogger("rulegen.agent")

# What is under way when a signal to stop arrives may take so many seconds; then it is left as a crash would leave it.
_GRACE = 0.6
# So long may the end of the parts take that had something under way; each has shorter bounds of its own.
_END_SECONDS = 1.5
# Nobody tells when another agent gives up the lock.
_LOCK_SECONDS = 0.1
# Until a configuration that the host could not follow is tried again, if it still is what the file says.
_FIRST_RETRY, _LONGEST_RETRY = 10.0, 300.0


class _StopNowError(BaseException):
    """The time to stop is over."""


class _Orders:
    """What signals tell: to stop, and to read everything anew.

    `is_ending`: no sync is under way any more, what is left to do has bounds of its own.
    """

    def __init__(self) -> None:
        self.stop = False
        self.reread = False
        self.is_ending = False

    def begin_end(self) -> None:
        """The next alarm is the last."""
        if self.stop:
            self.is_ending = True
            signal.setitimer(signal.ITIMER_REAL, _END_SECONDS)


def run(options: Options, close_log: Callable[[], None]) -> None:
    """Works until SIGTERM or SIGINT; the rules stay and serve. To be called by the main thread.

    When something hangs while it stops, it does not return, but ends the process with exit status 0 after `close_log`.

    Raises:
        InputError: the configuration, the files or the kubeconfig cannot be used.
        HostError: the kernel or the privileges do not suffice.
        SourceError: following ended because of an error in the program.
    """
    raise_limit()
    orders = _Orders()
    with closing(WorkQueue()) as work_queue, _signals(work_queue, orders, close_log), ExitStack() as stack:
        try:
            configuration = options.load_at_start()
            options.configure_log(configuration.agent)
            if options.print_line is None and not cluster_driver(configuration.features):
                taken = _take_lock(work_queue, orders)
                if taken is None:
                    return
                stack.enter_context(closing(taken))
            _work_with_reloads(options, configuration, work_queue, orders)
        except _StopNowError:
            _LOG.info("stopped in the middle of its work; the next start goes on from there")
        else:
            _LOG.info("stopped; the rules stay and serve")
        finally:
            # Whatever thread waits for one.
            children.end_all()


def _work_with_reloads(options: Options, configuration: Configuration, work_queue: WorkQueue, orders: _Orders) -> None:
    """Works, and begins anew when the configuration has changed: what is live is adopted, as at any start."""
    before: Configuration | None = None
    refused: Refused | None = None
    backoff = Backoff(_FIRST_RETRY, _LONGEST_RETRY)
    while not orders.stop:
        watch = ConfigurationWatch(options.config_paths(configuration), options.load, work_queue.wake_up)
        watch.start(configuration, refused if before is None else None)
        with closing(watch):
            try:
                control = Control(work_queue, partial(_is_over, orders, watch), orders.begin_end, watch.problem)
                work(options, configuration, control)
            except (InputError, HostError) as error:
                if before is None:
                    raise
                seconds = backoff.next()
                refused = Refused(configuration, str(error), time.monotonic() + seconds)
                _LOG.error(
                    "the changed configuration cannot be put to work, the one before is again: %s; "
                    "tried again in %.0f s, on SIGHUP, or when it changes",
                    error,
                    seconds,
                )
                configuration, before = before, None
                continue
            changed = watch.take()
        if orders.reread and not orders.stop:
            orders.reread = False
            changed = _reread(options) or changed
            _LOG.info("the configuration, the credentials and the files are read anew")
        elif changed is not None and not orders.stop:
            _LOG.info("the configuration has changed: starting over")
        if changed is not None:
            if refused is not None and changed != refused.configuration:
                refused = None
                backoff.reset()
            configuration, before = changed, configuration


def _is_over(orders: _Orders, watch: ConfigurationWatch) -> bool:
    return orders.stop or orders.reread or watch.changed is not None


def _reread(options: Options) -> Configuration | None:
    try:
        return options.load()
    except InputError as error:
        _LOG.error("configuration not used, the one before stays in force: %s", error)
        return None


def _take_lock(work_queue: WorkQueue, orders: _Orders) -> lock.Lock | None:
    """The lock, as soon as nobody else has it; None when told to stop before."""
    is_waiting = False
    while not orders.stop:
        taken = lock.acquire()
        if taken is not None:
            return taken
        if not is_waiting:
            holder = lock.holder() or "it has just ended"
            _LOG.info("another agent runs in this network namespace (%s): waiting for it to end", holder)
            is_waiting = True
        select.select([work_queue.fileno()], [], [], _LOCK_SECONDS)
        # A signal that does not end it makes it readable, and it would stay so.
        work_queue.take()
    return None


@contextmanager
def _signals(work_queue: WorkQueue, orders: _Orders, close_log: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT order to stop and wake the work queue up; should the work not end soon, they interrupt it.

    Should even that not end it, the process ends.

    SIGHUP orders to read everything anew, when what is under way has ended.
    """

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        _LOG.info("stopping: %s", signal.Signals(number).name)
        orders.stop = True
        signal.setitimer(signal.ITIMER_REAL, _GRACE)

    def reread(number: int, frame: FrameType | None) -> None:
        del number, frame
        orders.reread = True

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        if orders.is_ending:
            _LOG.warning("something hangs while it stops: left as it is; the rules stay and serve")
            children.end_all()
            leave(0, close_log)
        orders.begin_end()
        # Python drops an exception that comes in a callback of its collector; then what is waited for ends, at least.
        children.end_all()
        raise _StopNowError

    handlers = {signal.SIGTERM: end, signal.SIGINT: end, signal.SIGALRM: interrupt, signal.SIGHUP: reread}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    wake_up_before = signal.set_wakeup_fd(work_queue.wake_up_fd)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.set_wakeup_fd(wake_up_before)
        for number, handler in before.items():
            signal.signal(number, handler)
