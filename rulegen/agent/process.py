"""The agent as a process: one at a time in a network namespace, signals, and a configuration that changes."""

from __future__ import annotations

import logging
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from types import FrameType

from rulegen.agent import lock
from rulegen.agent.assembly import Control, Options, work
from rulegen.agent.inbox import Inbox
from rulegen.agent.reload import ConfigurationWatch
from rulegen.config import Configuration
from rulegen.errors import HostError, InputError

_LOG = logging.getLogger("rulegen.agent")

# What is under way when a signal to stop arrives may take so many seconds; then it is left as a crash would leave it.
_GRACE = 0.6


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
                work(options, configuration, Control(inbox, lambda: stop() or watch.changed is not None, _end_grace))
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


def _end_grace() -> None:
    """No sync is under way any more; what is left to do has bounds of its own."""
    signal.setitimer(signal.ITIMER_REAL, 0)


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
