"""The records of features in a server's zones, kept equal to what compilers want; see `reconcile.driver.LiveRules`.

What somebody else has is never touched: a record set of ours that cannot be where it should is left out, which is said
once, and comes when the place is free.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from rulegen.config import Family
from rulegen.dns.diff_text import count, shown_changes
from rulegen.dns.record_sets import Entries, RecordKey, RecordSet, Zones
from rulegen.dns.sending import Sender
from rulegen.dns.server import Server, ZoneError
from rulegen.dns.updates import Consequence, Message, Ownership, UpdateWriter, messages
from rulegen.dns.versions import Versions
from rulegen.dns.zone_data import Found, sorted_out
from rulegen.errors import ApplyError, HostError, RulegenError
from rulegen.reconcile.compilers import CompilerSet, Items
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


class Manner(NamedTuple):
    """How records are kept. `registry_ttl`: seconds. `told`: what a person should know, a line for each call.

    `may_write`: see `Guarded`. `is_patient`: a zone that the server lacks, or does not give, keeps the others from
    nothing; what it should have waits until it is there.
    """

    registry_ttl: int
    told: Callable[[str], None] = _LOG.warning
    may_write: Callable[[], bool] = lambda: True
    is_patient: bool = False


class LiveRecords:
    """See `reconcile.driver.LiveRules`."""

    def __init__(self, server: Server, versions: Versions, compilers: CompilerSet, manner: Manner) -> None:
        self._registry_ttl, self._told, self._may_write, self._is_patient = manner
        # Zones that cannot be read, and why.
        self._away: Mapping[str, str] = {}
        self._server = server
        self._versions = versions
        self._compilers = compilers
        self._live: Entries = {}
        self._found = Found({}, {}, Ownership())
        self._unreadable: Mapping[str, Collection[ObjectReference]] = {}
        self._blocked: set[RecordKey] = set()
        # What the server did not take the last time that something was sent, and its words.
        self._refused: Mapping[RecordKey, str] = {}

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
        known, before = self._live, self._found
        live, others, ownership = Entries(), dict[str, set[str]](), Ownership()
        away: dict[str, ZoneError] = {}
        for zone in self.zones:
            try:
                transfer = list(self._server.transfer(zone))
            except ZoneError as error:
                if not self._is_patient:
                    raise
                away[zone] = error
                continue
            # The first record of a transfer is the zone's SOA (RFC 5936, 2.2).
            self._versions.read(zone, int(transfer[0].data.split()[2]))
            found = sorted_out(zone, transfer, known, self._is_ours)
            live |= found.ours
            others |= found.others
            ownership.add(found.ownership)
        if len(away) == len(self.zones):
            raise next(iter(away.values()))
        for zone in away:
            self._versions.away(zone)
            live |= {key: value for key, value in before.ours.items() if key.zone == zone}
            ownership.add(before.ownership.of_zone(zone))
        self._tell_away({zone: str(error) for zone, error in away.items()})
        self._live, self._found = live, Found(live, others, ownership)
        # A place that was free meanwhile is told of again.
        self._blocked = {key for key in self._blocked if self._found.blocks(key)}
        self._compilers.adopt(self._live, self._unreadable)

    def _tell_away(self, away: Mapping[str, str]) -> None:
        for zone, words in away.items():
            if self._away.get(zone) != words:
                self._told(f"{words}; the other zones are kept, this one when it is back")
        self._away = away

    def update(self, items: Items, contexts: Mapping[str, Any]) -> tuple[Delta[RecordKey, RecordSet], ItemErrors]:
        """See `LiveRules`."""
        delta, errors = self._compilers.update(items, contexts)
        if self._found.others or self._away or self._unreadable:
            # What was wanted before need not be there.
            delta = self._possible(self._compilers.spare(delta.onto(self._live)))
        return delta, errors

    def difference(self) -> Delta[RecordKey, RecordSet]:
        """See `LiveRules`."""
        wanted = self._compilers.entries()
        delta = diff(self._live, wanted)
        # What is only written down would make somebody else's record ours, who puts one there.
        only_written = {
            key: RecordSet(0, (), holder)
            for key, holder in self._found.ownership.written_down()
            if key not in self._live and key not in wanted
        }
        return self._possible(self._compilers.spare(delta.merged(Delta(removed=only_written))))

    def state(self) -> RulesState:
        """See `LiveRules`."""
        return RulesState(*(digest_of(sorted(entries.items())) for entries in (self._live, self._compilers.entries())))

    def check(self, delta: Delta[RecordKey, RecordSet]) -> None:
        """Has all messages made; no server can be asked whether it would take them."""
        writer, ownership = UpdateWriter(), Ownership(self._found.ownership)
        for message in messages(delta):
            consequence = ownership.consequence(message, self._registry_ttl)
            writer.update_of(message, consequence)
            ownership.took(consequence)

    def apply(self, delta: Delta[RecordKey, RecordSet]) -> None:
        """See `LiveRules`; message by message, of which those before a failed one stay in force."""
        self._refused = {}
        sender = Sender(self._server, self._found.ownership, self._registry_ttl, self._took)
        try:
            for message in messages(delta):
                if not self._may_write():
                    raise HostError("nothing is written any more: another replica may be at work")
                sender.send(message)
            sender.finish()
            for zone, updates in sender.sent.items():
                self._versions.sent(zone, updates)
            self._refused = sender.refused
            if sender.refused:
                key, words = next(iter(sender.refused.items()))
                more = f", and {len(sender.refused) - 1} more" if len(sender.refused) > 1 else ""
                raise ApplyError(f"{words} ({key.owner} {key.type}{more})")
        except RulegenError:
            # What has come true is known, and what else there is must be read.
            self._server.close()
            raise

    def accepts(self, pending: Mapping[ItemKey, Change[Any]], suspects: Collection[ItemKey]) -> None:
        """See `LiveRules`; nothing is sent: what the server refuses it has said when all was sent."""
        del pending
        for feature, item_id in suspects:
            for key in self._compilers.by_feature[feature].entries_of(item_id):
                if key in self._refused:
                    raise ApplyError(self._refused[key])

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
        """Without what somebody else's records are in the way of, and what is in a zone that is away."""
        if self._away:
            delta = Delta(
                {key: value for key, value in delta.added.items() if key.zone not in self._away},
                {key: change for key, change in delta.changed.items() if key.zone not in self._away},
                {key: value for key, value in delta.removed.items() if key.zone not in self._away},
            )
        blocked = {key for key in (*delta.added, *delta.changed) if self._found.blocks(key)}
        self._tell_blocked(blocked)
        if not blocked:
            return delta
        return Delta(
            {key: value for key, value in delta.added.items() if key not in blocked},
            {key: change for key, change in delta.changed.items() if key not in blocked},
            delta.removed,
        )

    def _tell_blocked(self, blocked: set[RecordKey]) -> None:
        new = sorted(blocked - self._blocked)
        for key in new[:_SHOWN_BLOCKED]:
            self._told(f"{key.owner} {key.type}: somebody else's record is there, and is left alone")
        if len(new) > _SHOWN_BLOCKED:
            self._told(f"{len(new) - _SHOWN_BLOCKED} more records of others are where ours should be")
        self._blocked |= blocked

    def _took(self, message: Message, consequence: Consequence) -> None:
        self._found.ownership.took(consequence)
        for step in message.steps:
            if step.after is not None:
                self._live[step.key] = step.after
            else:
                self._live.pop(step.key, None)
