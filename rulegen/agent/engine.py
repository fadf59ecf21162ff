"""Objects come in one by one; the target is made equal to what they mean, changing only what differs.

Mostly a sync applies what the changed Services make different, and looks at nothing else. At the start, after a failure
and when others interfered it reads the target back and applies the difference to that. Knows no time and no thread:
when to sync, and when again after an error, is the caller's to decide.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

from rulegen import ruleset
from rulegen.agent.inbox import object_key
from rulegen.agent.keeping import Kept
from rulegen.agent.target import Target
from rulegen.config import Family, NodeConfiguration
from rulegen.errors import ApplyError, TargetError
from rulegen.kube.follow import Delete, Invalid, Upsert
from rulegen.kube.objects import EndpointSlice, Service, ServiceCIDR
from rulegen.nftables.compiler import Compiler, Entries
from rulegen.nftables.kernel import StaleError
from rulegen.nftables.layout import EntryKey, Value
from rulegen.nftables.live import Live
from rulegen.routing.cluster import Cluster
from rulegen.routing.model import Route, RouteKey
from rulegen.ruleset import Delta

# Entries that several Routes may need; whoever is held back, the others keep them.
_SHARED = frozenset({"chains", "balancers", "hairpin", "cluster-ips"})


class Refusal(NamedTuple):
    """Something that is left as it was: what the target cannot express, or the kernel refuses."""

    message: str


class Sync(NamedTuple):
    """What a sync did. `seconds`: how long each step took. `refused`: Routes that are not in force, and why."""

    is_full: bool
    delta: Delta[EntryKey, Value]
    routes: list[RouteKey]
    seconds: dict[str, float]
    refused: list[Refusal]


class _Steps:
    """Takes the time of each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def done(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


class Engine:
    """Keeps one target equal to one cluster. `configuration` is that of a host with its families."""

    def __init__(self, configuration: NodeConfiguration, target: Target) -> None:
        self._configuration = configuration
        self._target = target
        self._cluster = Cluster(configuration)
        self._compiler: Compiler | None = None
        self._live = Live()
        # Routes as they are in force, and those that are compiled and not in force yet.
        self._applied: dict[RouteKey, Route] = {}
        self._pending: dict[RouteKey, Route | None] = {}
        self._must_read = True
        self._kept = Kept()
        # The Services that were taken before the first sync.
        self._early: set[tuple[str, str]] = set()

    def take(self, event: Upsert | Delete) -> None:
        """An object changed, or is gone; nothing else happens before `sync`."""
        self._note_usable(event)
        if isinstance(event, Upsert):
            self._cluster.set_objects([event.item])
        elif event.kind is Service:
            self._cluster.remove_service(event.namespace, event.name)
        elif event.kind is EndpointSlice:
            self._cluster.remove_slice(event.namespace, event.name)
        elif event.kind is ServiceCIDR:
            self._cluster.remove_service_cidr(event.name)

    def take_invalid(self, event: Invalid) -> None:
        """An object cannot be used as it is now: it keeps what it last meant.

        Of a Service that could not be used since the start, that is what the target holds of it.
        """
        kind, namespace, name = object_key(event)
        if kind is Service and self._compiler is None and (namespace, name) not in self._early:
            self._kept.add(namespace, name)

    def _note_usable(self, event: Upsert | Delete) -> None:
        kind, namespace, name = object_key(event)
        if kind is not Service:
            return
        if self._kept.discard(namespace, name):
            self._must_read = True
        if self._compiler is None and isinstance(event, Upsert):
            self._early.add((namespace, name))

    def distrust(self) -> None:
        """The target may hold something else than was put there: the next sync reads it."""
        self._must_read = True

    def names(self) -> dict[tuple[Family, int], str]:
        """The service-ports by family and id, as text."""
        return self._compiler.names() if self._compiler else {}

    def sync(self) -> Sync:
        """Makes the target equal to all that was taken.

        A Route that cannot be expressed or is refused keeps the state it had, and the others are applied; it is tried
        again when it changes.

        Raises:
            ApplyError: nothing was applied, nothing is forgotten; the next sync reads the target.
            HostError: the target cannot be read.
        """
        steps = _Steps()
        is_full, self._must_read = self._must_read, True
        desired: Entries | None = None
        if is_full:
            self._live = self._target.read()
            self._kept.look_at(self._live.entries)
            steps.done("read")
        compiler, compiled, errors = self._compile(steps)
        delta = compiled
        if is_full:
            desired = compiler.entries()
            delta = ruleset.diff(self._live.entries, desired)
            steps.done("compare")
        delta = self._kept.spare(delta)
        refused = [Refusal(str(error)) for error in errors]
        if delta:
            try:
                self._target.apply(delta, self._live, compiler, desired)
            except StaleError:
                raise
            except ApplyError as error:
                if not is_full:
                    raise
                found, delta = self._apply_without_refused(compiler, error)
                refused += found
            steps.done("apply")
        return self._finish(Sync(is_full, delta, list(self._pending), steps.seconds, refused))

    def _compile(self, steps: _Steps) -> tuple[Compiler, Delta[EntryKey, Value], list[TargetError]]:
        changes = self._cluster.take_changes()
        steps.done("route")
        if self._compiler is None:
            configuration = self._configuration
            self._compiler = Compiler(configuration.families, configuration.masquerade_bit, self._live.entries)
        self._pending |= changes.routes
        delta, errors = self._compiler.update(changes.routes, changes.node)
        steps.done("compile")
        return self._compiler, delta, errors

    def _finish(self, sync: Sync) -> Sync:
        for key, route in self._pending.items():
            if route is None:
                self._applied.pop(key, None)
            else:
                self._applied[key] = route
        self._pending = {}
        self._early.clear()
        # Plans need the tables; the entries are the compiler's from now on.
        self._live = Live(self._live.tables)
        self._must_read = False
        return sync

    # -- refused Routes --

    def _apply_without_refused(
        self, compiler: Compiler, error: ApplyError
    ) -> tuple[list[Refusal], Delta[EntryKey, Value]]:
        """Finds the Routes to blame among those that are not in force yet, and applies the others."""
        others = self._without_routes(compiler, self._pending)
        suspects = [key for key, route in self._pending.items() if route is not None]
        culprits = self._culprits(compiler, others, suspects)
        if not culprits:
            raise error
        compiler.update({key: self._applied.get(key) for key in culprits})
        for key in culprits:
            del self._pending[key]
        desired = compiler.entries()
        delta = self._kept.spare(ruleset.diff(self._live.entries, desired))
        if delta:
            self._target.apply(delta, self._live, compiler, desired)
        messages = [f"Service {key[0]} ({key[1].value}): {words}" for key, words in culprits.items()]
        return [Refusal(message) for message in messages], delta

    @staticmethod
    def _without_routes(compiler: Compiler, routes: Iterable[RouteKey]) -> Entries:
        entries = compiler.entries()
        for key in routes:
            for entry in compiler.route_entries(key):
                if entry[0].name not in _SHARED and not entry[0].is_chains:
                    entries.pop(entry, None)
        return entries

    def _culprits(self, compiler: Compiler, others: Entries, suspects: list[RouteKey]) -> dict[RouteKey, str]:
        """The Routes that the kernel refuses, and its words; found by halving, as they are few."""
        wanted: Entries = {}
        for key in suspects:
            wanted |= compiler.route_entries(key)
        there = {entry: value for entry in wanted if (value := self._live.entries.get(entry)) is not None}
        try:
            self._target.accepts(ruleset.diff(there, wanted), self._live, compiler, others | wanted)
        except StaleError:
            raise
        except ApplyError as error:
            if len(suspects) <= 1:
                return {key: str(error) for key in suspects}
            middle = len(suspects) // 2
            return self._culprits(compiler, others, suspects[:middle]) | self._culprits(
                compiler, others, suspects[middle:]
            )
        return {}
