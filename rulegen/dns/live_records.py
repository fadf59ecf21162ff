"""The records of features in a server's zones, kept equal to what their compilers want; see `reconcile.LiveRules`.

What somebody else has is never touched: a record set of ours that cannot be where it should is left out, which is said
once, and comes when the place is free.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from rulegen.config import Family
from rulegen.dns.diff_text import count, shown_changes
from rulegen.dns.record_sets import Entries, RecordKey, RecordSet, Zones
from rulegen.dns.server import Server, TooLargeError
from rulegen.dns.updates import Message, Ownership, UpdateWriter, messages
from rulegen.dns.versions import Versions
from rulegen.dns.zone_data import Found, sorted_out
from rulegen.errors import ApplyError, RulegenError
from rulegen.reconcile.compilers import CompilerSet, Items, by_feature
from rulegen.reconcile.delta import Change, Delta, diff
from rulegen.reconcile.driver import RuleCount, RulesState, ShownChange, digest_of
from rulegen.reconcile.feature import ItemErrors, ItemKey
from rulegen.reference import ObjectReference

_LOG = logging.getLogger("rulegen.agent")

_SHOWN_BLOCKED = 10


class ZoneCompiler(Protocol):
    """What a feature's compiler says beside what `Compiler` asks for."""

    zones: Zones

    def is_ours(self, key: RecordKey, records: Collection[str]) -> bool:
        """Whether records that no registry speaks of are ours."""
        ...


class _Sender(NamedTuple):
    """What one Delta is sent with. `sent`: how many messages have taken effect, by zone."""

    writer: UpdateWriter
    sent: Counter[str]


class LiveRecords:
    """`registry_ttl`: seconds. `told`: what a person should know, a line for each call."""

    def __init__(
        self,
        server: Server,
        versions: Versions,
        compilers: CompilerSet,
        registry_ttl: int,
        told: Callable[[str], None] = _LOG.warning,
    ) -> None:
        self._server = server
        self._versions = versions
        self._compilers = compilers
        self._registry_ttl = registry_ttl
        self._told = told
        self._live: Entries = {}
        self._found = Found({}, {}, Ownership())
        self._unreadable: Mapping[str, Collection[ObjectReference]] = {}
        self._blocked: set[RecordKey] = set()

    @property
    def live(self) -> Entries:
        """See `LiveRules`."""
        return self._live

    @property
    def zones(self) -> list[str]:
        """All zones, in their order."""
        return list(dict.fromkeys(zone for one in self._zone_compilers() for zone in one.zones.all))

    def preserve_unreadable(self, unreadable: Mapping[str, Collection[ObjectReference]]) -> None:
        """See `LiveRules`."""
        self._unreadable = unreadable

    def read(self) -> None:
        """See `LiveRules`."""
        known, live, others, ownership = self._live, Entries(), dict[str, set[str]](), Ownership()
        for zone in self.zones:
            transfer = list(self._server.transfer(zone))
            # The first record of a transfer is the zone's SOA (RFC 5936, 2.2).
            self._versions.read(zone, int(transfer[0].data.split()[2]))
            found = sorted_out(zone, transfer, known, self._is_ours)
            live |= found.ours
            others |= found.others
            ownership.add(found.ownership)
        self._live, self._found = live, Found(live, others, ownership)
        self._compilers.adopt(self._live, self._unreadable)

    def update(self, items: Items, contexts: Mapping[str, Any]) -> tuple[Delta[RecordKey, RecordSet], ItemErrors]:
        """See `LiveRules`."""
        delta, errors = self._compilers.update(items, contexts)
        return (self._possible(delta) if self._found.others else delta), errors

    def difference(self) -> Delta[RecordKey, RecordSet]:
        """See `LiveRules`."""
        return self._possible(self._compilers.spare(diff(self._live, self._compilers.entries())))

    def state(self) -> RulesState:
        """See `LiveRules`."""
        return RulesState(*(digest_of(sorted(entries.items())) for entries in (self._live, self._compilers.entries())))

    def check(self, delta: Delta[RecordKey, RecordSet]) -> None:
        """Has all messages made; no server can be asked whether it would take them."""
        writer = UpdateWriter(self._registry_ttl)
        for message in messages(delta):
            writer.update_of(message, self._found.ownership)

    def apply(self, delta: Delta[RecordKey, RecordSet]) -> None:
        """See `LiveRules`; message by message, of which those before a failed one stay in force."""
        sender = _Sender(UpdateWriter(self._registry_ttl), Counter())
        try:
            for message in messages(delta):
                self._send(message, sender)
            for zone, updates in sender.sent.items():
                self._versions.sent(zone, updates)
        except RulegenError:
            # What has come true is known, and what else there is must be read.
            self._server.close()
            raise

    def accepts(self, pending: Mapping[ItemKey, Change[Any]], suspects: Collection[ItemKey]) -> None:
        """See `LiveRules`; a server can only be asked by an update."""
        others = {key: change for key, change in pending.items() if key not in suspects}
        self._compilers.update(by_feature({key: change.before for key, change in others.items()}), {})
        try:
            if delta := self.difference():
                self.apply(delta)
        finally:
            self._compilers.update(by_feature({key: change.after for key, change in others.items()}), {})

    def settle(self) -> None:
        """See `LiveRules`; what is ours is remembered, since the registry may be lost."""

    def changes(self, delta: Delta[RecordKey, RecordSet]) -> Iterator[ShownChange]:
        """See `LiveRules`."""
        return shown_changes(delta, self._compilers)

    def changes_in_full(self, delta: Delta[RecordKey, RecordSet]) -> Iterator[ShownChange]:
        """See `LiveRules`; they are always in full."""
        return self.changes(delta)

    def counts(self, delta: Delta[RecordKey, RecordSet]) -> Iterator[str]:
        """See `LiveRules`."""
        return count(delta)

    def rule_counts(self) -> Mapping[tuple[Family, str], RuleCount]:
        """See `LiveRules`; there are no rules."""
        return {}

    def _zone_compilers(self) -> list[ZoneCompiler]:
        return list(self._compilers.by_feature.values())  # type: ignore[arg-type]

    def _is_ours(self, key: RecordKey, records: Collection[str]) -> bool:
        return any(compiler.is_ours(key, records) for compiler in self._zone_compilers())

    def _possible(self, delta: Delta[RecordKey, RecordSet]) -> Delta[RecordKey, RecordSet]:
        """Without what somebody else's records are in the way of."""
        blocked = {key for key in (*delta.added, *delta.changed) if self._found.blocks(key)}
        self._tell_blocked(blocked)
        if not blocked:
            return delta
        return Delta(
            {key: value for key, value in delta.added.items() if key not in blocked},
            {key: change for key, change in delta.changed.items() if key not in blocked},
            {key: value for key, value in delta.removed.items() if key in self._live},
        )

    def _tell_blocked(self, blocked: set[RecordKey]) -> None:
        new = sorted(blocked - self._blocked)
        for key in new[:_SHOWN_BLOCKED]:
            self._told(f"{key.owner} {key.type}: somebody else's record is there, and is left alone")
        if len(new) > _SHOWN_BLOCKED:
            self._told(f"{len(new) - _SHOWN_BLOCKED} more records of others are where ours should be")
        self._blocked |= blocked

    def _send(self, message: Message, sender: _Sender) -> None:
        """A message, or where it is too large its halves."""
        update = sender.writer.update_of(message, self._found.ownership)
        try:
            self._server.send(message.zone, update)
        except TooLargeError as error:
            halves = message.halves()
            if halves is None:
                raise ApplyError(f"{message.steps[0].key.owner}: too large for an update") from error
            for half in halves:
                self._send(half, sender)
            return
        sender.sent[message.zone] += 1
        self._found.ownership.took(message)
        for step in message.steps:
            if step.after is not None:
                self._live[step.key] = step.after
            else:
                self._live.pop(step.key, None)
