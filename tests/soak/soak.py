"""The soak itself: an agent, a server, churn and trouble; and whether the kernel holds what the server does.

In the first half the agent is killed now and then. The one that is started last lives through the second half, and what
it has resident must not grow.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from msgspec import Raw

from bench.clock import resident_memory
from rulegen.demo.namespaces import NetworkNamespace
from rulegen.features import resources
from rulegen.kube.decode import decode_object
from rulegen.kube.kinds import WatchedObject
from tests.agent.running import Playground, wait_until
from tests.apiserver import EVERY_KIND, ApiServer
from tests.apiserver.selectors import selector
from tests.builders import CONFIGURATION
from tests.nftables.host import compiled, host_in, lines_of, meaning
from tests.soak.agenda import Agenda
from tests.soak.churn import Churn
from tests.soak.trouble import HANG_SECONDS, Trouble

_RESOURCES = resources((), CONFIGURATION.node_name)
_SHOWN = 20


class Plan(NamedTuple):
    """How long in seconds, how many Services, the seed; then how many seconds are between two of a kind, on average.

    `patience`: how long the kernel may take to be right once it is quiet. The default is for the longest there is: a
    hang is noticed after 90 s, and then the API server may be left alone for 30 s, and so may the kernel.
    """

    seconds: float
    services: int
    seed: int
    change: float = 0.04
    fault: float = 4.0
    drift: float = 15.0
    server_stop: float = 40.0
    hang: float = 300.0
    kill: float = 25.0
    patience: float = 180.0


class Soak:
    """One run, in a namespace of its own. `folder`: for the agents' configuration and logs; `say` gets a line a minute.

    `agent` is the one that runs. Raises HostError where a namespace cannot be had. A context manager.
    """

    def __init__(self, plan: Plan, folder: Path, say: Callable[[str], object]) -> None:
        self._plan = plan
        self._say = say
        self._begun = time.monotonic()
        self._half_end = self._hang_end = 0.0
        self._may_kill = True
        with ExitStack() as opened:
            self._host = opened.enter_context(host_in(opened.enter_context(NetworkNamespace())))
            self._playground = Playground(self._host, folder)
            self._server = ApiServer()
            with self._host.namespace.entered():
                self._server.start()
            opened.callback(self._server.close)
            self._kubeconfig = self._server.kubeconfig(folder / "kubeconfig")
            self.churn = Churn(self._server, plan.services, random.Random(plan.seed))
            self._chance = random.Random(plan.seed + 1)
            self._agenda = Agenda(self._chance)
            self.trouble = Trouble(self._server, self._host, self._agenda, random.Random(plan.seed + 2))
            self._running = opened.enter_context(ExitStack())
            self.start_agent()
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._opened.close()

    def run(self) -> None:
        """All of it. Raises AssertionError with what is wrong."""
        plan, trouble = self._plan, self.trouble
        for seconds, act in (
            (plan.change, self.churn.change),
            (plan.fault, trouble.fault),
            (plan.drift, trouble.drift),
            (plan.server_stop, trouble.stop_server),
            (plan.hang, self._hang),
            (plan.kill, self._kill),
        ):
            self._agenda.often(seconds, act)
        self._go_on(plan.seconds / 2)
        self._may_kill = False
        before = self._memory()
        self._go_on(plan.seconds / 2)
        after = self._memory()
        self._say(f"memory: {before:.1f} MB after the warm-up, {after:.1f} MB at the end")
        bound = memory_bound(before)
        assert after <= bound, f"memory grew from {before:.1f} to {after:.1f} MB, more than to {bound:.1f} MB"
        self.agent.process.send_signal(signal.SIGTERM)
        assert self.agent.process.wait(30) == 0, f"ended with status {self.agent.process.returncode}"
        self._look_at_log()

    def check(self, patience: float) -> float:
        """Waits until the kernel holds what the server's objects mean, and says how many seconds that took.

        Raises AssertionError with what differs after `patience` seconds.
        """
        self.churn.mend()
        start = time.monotonic()
        items = self._items()
        while lines := lines_of(self._host.delta(*items)):
            assert self.agent.process.poll() is None, f"the agent has ended: {self.agent.log[-2000:]}"
            if time.monotonic() > start + patience:
                shown = "\n".join(lines[:_SHOWN])
                raise AssertionError(f"{len(lines)} entries of the kernel are not as the objects say:\n{shown}")
            time.sleep(0.2)
        # Not by the ids that the kernel has: by the names of Services.
        live, wanted = meaning(self._host.read().entries), meaning(compiled(items).entries())
        assert live == wanted, f"the Frontends say something else: {sorted(live.items() ^ wanted.items())[:_SHOWN]}"
        self._look_at_log()
        return time.monotonic() - start

    def start_agent(self) -> None:
        """Another agent, after the one before has ended."""
        self.agent = self._running.enter_context(self._playground.agent("--kubeconfig", self._kubeconfig))

    def kill_agent(self) -> None:
        """Nothing is said to it before."""
        self._running.close()
        self._look_at_log()
        self.trouble.counts["kills"] += 1

    def _go_on(self, seconds: float) -> None:
        self._half_end = time.monotonic() + seconds
        while (now := time.monotonic()) < self._half_end:
            self._agenda.run(min(self._half_end, now + 60.0))
            self._agenda.finish()
            if time.monotonic() < self._hang_end:
                self._report("a hang is under way")
            else:
                self._report(f"kernel right after {self.check(self._plan.patience):.1f} s")

    def _report(self, words: str) -> None:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(self.trouble.counts.items()))
        memory = resident_memory(self.agent.process.pid)
        elapsed = time.monotonic() - self._begun
        self._say(f"{elapsed:4.0f} s: {words}; {self.churn.changes} changes, {counts}; agent {memory:.1f} MB")

    def _memory(self) -> float:
        """What the agent has resident after all that is dear, in MB: everything was listed, read and loaded again."""
        wait_until(self._is_followed, self._plan.patience)
        self.trouble.everything_goes()
        self._report(f"all anew: kernel right after {self.check(self._plan.patience):.1f} s")
        return resident_memory(self.agent.process.pid)

    def _is_followed(self) -> bool:
        return all(self._server.watchers(resource.kind) for resource in _RESOURCES)

    def _hang(self) -> None:
        if time.monotonic() + HANG_SECONDS < self._half_end and self.trouble.hang():
            self._hang_end = time.monotonic() + HANG_SECONDS

    def _kill(self) -> None:
        if self._may_kill and self.agent.process.poll() is None:
            self.kill_agent()
            self._agenda.once(self._chance.choice((0.0, 0.0, 2.0)), self.start_agent)

    def _look_at_log(self) -> None:
        before, found, trace = self.agent.log.partition("Traceback")
        assert not found, f"the agent's log has a traceback:\n{before[-500:]}{found}{trace[:3000]}"

    def _items(self) -> list[WatchedObject]:
        """What the server holds and the agent asks for."""
        return [
            decode_object(resource.kind, Raw(item.text))
            for resource in _RESOURCES
            for item in self._server.store.page(EVERY_KIND[resource.kind], selector(resource.selectors), 0, "").items
        ]


def memory_bound(before: float) -> float:
    """How much may be resident at the end, in MB.

    The number of Services wanders by a few percent, and the allocator does not give back every page. In five minutes
    there are 7,500 changes; if the agent kept 2 KB of each, that would be 15 MB.
    """
    return before * 1.05 + 4.0
