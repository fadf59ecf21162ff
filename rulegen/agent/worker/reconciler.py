"""Objects come in one by one; the rules are made equal to what they mean, changing only what differs.

Mostly a sync applies what the changed Services make different, and looks at nothing else. At the start, after a failure
and when others interfered it reads the kernel and applies the difference to that. Knows no time and no thread: when to
sync, and when again after an error, is the caller's to decide. Knows no target either.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

from rulegen.agent.worker.work_queue import object_key
from rulegen.config import Family, NodeConfiguration
from rulegen.errors import ApplyError, RulegenError, StaleError
from rulegen.kube.follow import Delete, Invalid, Upsert
from rulegen.kube.objects import EndpointSlice, Service, ServiceCIDR
from rulegen.reconcile.delta import Delta
from rulegen.services.model import NO_CHANGES, Changes, ServiceKey, ServicePort, ServicePortKey
from rulegen.services.store import Store
from rulegen.targets.model import AnyDelta, LiveRules, RuleCount, ServicePortChange


class Sync(NamedTuple):
    """What a sync did.

    `repaired`: the part of `delta` that no object asked for. `service_ports`: those that are in force now and were not,
    or not so, before. `refused`: those that stay as they were because the target cannot express them or the kernel
    refuses them, each with a line that names it. `changes`: all that the store said since the last sync that ended
    well. `seconds`: how long each step took.
    """

    is_full: bool
    delta: AnyDelta
    repaired: AnyDelta
    service_ports: dict[ServicePortKey, ServicePortChange]
    refused: dict[ServicePortKey, str]
    changes: Changes
    seconds: dict[str, float]


class _Steps:
    """Takes the time of each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def done(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


class Reconciler:
    """Keeps `rules` equal to one cluster. `configuration` is that of a host with its families."""

    def __init__(self, configuration: NodeConfiguration, rules: LiveRules) -> None:
        self._rules = rules
        self._node_name = configuration.node_name
        self._store = Store(configuration)
        # ServicePorts as they are in force; those that are compiled and not in force yet; what else is not told yet.
        self._applied: dict[ServicePortKey, ServicePort] = {}
        self._pending: dict[ServicePortKey, ServicePort | None] = {}
        self._untold = NO_CHANGES
        # ServicePorts that stay as they were, and why: all of them, and those that are not told yet.
        self._refusals: dict[ServicePortKey, str] = {}
        self._untold_refusals: dict[ServicePortKey, str] = {}
        # The next sync reads the kernel.
        self.must_read = True
        # The kernel was read for the next sync, and holds what it did then.
        self._has_read = False
        self._has_compiled = False
        # The last sync ended well: what the kernel lacks now, others have changed.
        self._was_equal = False
        # Services that cannot be read, and of which nothing else is known than what is live.
        self._unreadable: set[ServiceKey] = set()
        # The Services that were taken before the first sync.
        self._early: set[ServiceKey] = set()

    def take(self, event: Upsert | Delete) -> None:
        """An object changed, or is gone; nothing else happens before `sync`."""
        self._note_usable(event)
        if isinstance(event, Upsert):
            self._store.set_objects([event.item])
        elif event.kind is Service:
            self._store.remove_service(event.namespace, event.name)
        elif event.kind is EndpointSlice:
            self._store.remove_slice(event.namespace, event.name)
        elif event.kind is ServiceCIDR:
            self._store.remove_service_cidr(event.name)

    def take_invalid(self, event: Invalid) -> None:
        """An object cannot be used as it is now: it keeps what it last meant.

        Of a Service that could not be used since the start, that is what the kernel holds of it.
        """
        kind, namespace, name = object_key(event)
        if kind is Service and not self._has_compiled and (namespace, name) not in self._early:
            self._unreadable.add((namespace, name))

    def _note_usable(self, event: Upsert | Delete) -> None:
        kind, namespace, name = object_key(event)
        if kind is not Service:
            return
        if (namespace, name) in self._unreadable:
            self._unreadable.discard((namespace, name))
            self.must_read = True
        if not self._has_compiled and isinstance(event, Upsert):
            self._early.add((namespace, name))

    def distrust(self) -> None:
        """The kernel may hold something else than was put there, or was read: the next sync reads it."""
        self.must_read, self._has_read = True, False

    def read_ahead(self) -> None:
        """Reads the kernel for the first sync, while that has to wait for objects.

        For those who call `distrust` as soon as others change something. Why it cannot be read, the sync will say.
        """
        with suppress(RulegenError):
            self._rules.read()
            self._has_read = True

    def in_words(self, delta: AnyDelta) -> Iterator[str]:
        """A Delta of the last sync, entry by entry, each as one line or more."""
        return (change.text for change in self._rules.changes(delta))

    def applied(self) -> Mapping[ServicePortKey, ServicePort]:
        """All ServicePorts that are in force."""
        return self._applied

    def refusals(self) -> Mapping[ServicePortKey, str]:
        """The ServicePorts that are not in force as they are wanted, and why."""
        return self._refusals

    def rule_counts(self) -> Mapping[tuple[Family, str], RuleCount]:
        return self._rules.rule_counts()

    @property
    def node_name(self) -> str:
        return self._node_name

    @property
    def store(self) -> Store:
        """What is known of the cluster, for reading."""
        return self._store

    def sync(self) -> Sync:
        """Makes the kernel equal to all that was taken.

        A ServicePort that cannot be expressed or is refused keeps the state it had, and the others are applied; it is
        tried again when it changes.

        Raises:
            ApplyError: not all was applied, nothing is forgotten; the next sync reads the kernel.
            HostError: the kernel cannot be read, or takes nothing from us; nothing is forgotten either.
        """
        steps = _Steps()
        is_full, self.must_read = self.must_read, True
        if is_full:
            self._read()
            steps.done("read")
        compiled = self._compile(steps)
        was_equal, self._was_equal = self._was_equal, False
        if is_full:
            if not was_equal:
                # Nothing can be a repair; at the first sync this is as large as the ruleset.
                compiled = Delta()
            delta = self._rules.difference()
            steps.done("compare")
        else:
            delta = compiled
        if delta:
            try:
                self._rules.apply(delta)
            except StaleError:
                raise
            except ApplyError as error:
                if not is_full:
                    raise
                delta = self._apply_without_refused(error)
            steps.done("apply")
        repaired: AnyDelta = delta.without(compiled) if is_full and was_equal else Delta()
        service_ports, refused = self._pending_changes(), self._untold_refusals
        return self._finish(Sync(is_full, delta, repaired, service_ports, refused, self._untold, steps.seconds))

    def _read(self) -> None:
        has_read, self._has_read = self._has_read, False
        if self._unreadable or not has_read:
            self._rules.preserve_unreadable(frozenset(self._unreadable))
            self._rules.read()

    def _compile(self, steps: _Steps) -> AnyDelta:
        changes = self._store.take_changes()
        steps.done("services")
        self._has_compiled = True
        self._pending |= changes.service_ports
        for key in changes.service_ports:
            self._refusals.pop(key, None)
            self._untold_refusals.pop(key, None)
        self._untold = self._untold.followed_by(changes)
        delta, errors = self._rules.update(changes.service_ports, changes.node)
        for key, error in errors.items():
            self._refuse(key, str(error))
        steps.done("compile")
        return delta

    def _refuse(self, key: ServicePortKey, words: str) -> None:
        self._pending.pop(key, None)
        self._refusals[key] = self._untold_refusals[key] = words

    def _pending_changes(self) -> dict[ServicePortKey, ServicePortChange]:
        return {
            key: ServicePortChange(self._applied.get(key), service_port) for key, service_port in self._pending.items()
        }

    def _finish(self, sync: Sync) -> Sync:
        for key, service_port in self._pending.items():
            if service_port is None:
                self._applied.pop(key, None)
            else:
                self._applied[key] = service_port
        self._pending = {}
        self._untold, self._untold_refusals = NO_CHANGES, {}
        self._was_equal = True
        self._early.clear()
        self._rules.settle()
        self.must_read = False
        return sync

    # -- refused ServicePorts --

    def _apply_without_refused(self, error: ApplyError) -> AnyDelta:
        """Finds the ServicePorts to blame among those that are not in force yet, and applies the others."""
        suspects = [key for key, service_port in self._pending.items() if service_port is not None]
        culprits = self._culprits(self._pending_changes(), suspects)
        if not culprits:
            raise error
        self._rules.update({key: self._applied.get(key) for key in culprits}, {})
        delta = self._rules.difference()
        try:
            if delta:
                self._rules.apply(delta)
        except RulegenError:
            # Then they are not to blame, or not alone.
            self._rules.update({key: self._pending[key] for key in culprits}, {})
            raise
        for key, words in culprits.items():
            self._refuse(key, f"Service {key[0]} ({key[1].value}): {words}")
        return delta

    def _culprits(
        self, pending: Mapping[ServicePortKey, ServicePortChange], suspects: list[ServicePortKey]
    ) -> dict[ServicePortKey, str]:
        """The ServicePorts that the kernel refuses, and its words; found by halving, as they are few."""
        try:
            self._rules.accepts(pending, suspects)
        except StaleError:
            raise
        except ApplyError as error:
            if len(suspects) <= 1:
                return {key: str(error) for key in suspects}
            middle = len(suspects) // 2
            return self._culprits(pending, suspects[:middle]) | self._culprits(pending, suspects[middle:])
        return {}
