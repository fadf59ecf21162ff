"""A Delta of record sets comes in; messages of RFC 2136 go out, each with what must be so for it to take effect.

A message is a transaction of its zone: it carries changes together with what the registry says of them, and says of
each record set how it has to be before (2.4): absent where we add one, ours where we change or remove one. So nobody
else's record is ever overwritten, and of two who send at once the second is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from rulegen.dns.record_sets import RecordKey, RecordSet
from rulegen.dns.registry import part_of, registry_key, registry_records
from rulegen.reconcile.delta import Delta

if TYPE_CHECKING:
    from dns.update import UpdateMessage

# About so many bytes of changes are in a message; the server does other work between two.
_BYTES = 24_000
# How a set was is said record by record only where that is not much longer than what is changed.
_STATED = 64


class Step(NamedTuple):
    """One record set changed, or a part of it. None: there is, or will be, none; `is_begun`: not its first part."""

    key: RecordKey
    before: RecordSet | None
    after: RecordSet | None
    is_begun: bool = False

    @property
    def holder(self) -> str | None:
        """Whose registry speaks of it."""
        return (self.after or self.before or RecordSet(0, (), None)).holder

    @property
    def size(self) -> int:
        """About so many bytes."""
        before, after = self.before, self.after
        texts = set(before.records if before else ()) ^ set(after.records if after else ())
        return 2 * len(self.key.owner) + sum(len(text) + 12 for text in texts)


class Message(NamedTuple):
    """What goes together, all of one zone."""

    zone: str
    steps: list[Step]

    def halves(self) -> tuple[Message, Message] | None:
        """Two smaller ones; None for one that cannot be smaller."""
        middle = len(self.steps) // 2
        return (self._replace(steps=self.steps[:middle]), self._replace(steps=self.steps[middle:])) if middle else None


def messages(delta: Delta[RecordKey, RecordSet]) -> Iterator[Message]:
    """In the order in which they have to be sent: what goes is gone before what cannot be beside it comes (a CNAME)."""
    steps = [Step(key, before, None) for key, before in delta.removed.items()]
    steps += (Step(key, change.before, change.after) for key, change in delta.changed.items())
    steps += (Step(key, None, after) for key, after in delta.added.items())
    # A stable sort, so that of one holder and part the order stays.
    steps.sort(key=lambda step: (step.key.zone, step.holder or "", part_of(step.key.owner)))
    collected: list[Step] = []
    size = 0
    for step in (part for whole in steps for part in _parts(whole)):
        # What a message asks for has to be so before all of it.
        is_next = step.is_begun or size + step.size > _BYTES
        if collected and (is_next or step.key.zone != collected[0].key.zone):
            yield Message(collected[0].key.zone, collected)
            collected, size = [], 0
        collected.append(step)
        size += step.size
    if collected:
        yield Message(collected[0].key.zone, collected)


def _parts(step: Step) -> Iterator[Step]:
    """A step that does not fit into a message is made in several, new records first: there is an answer at any time."""
    if step.size <= _BYTES:
        yield step
        return
    before, after = step.before, step.after
    ttl, holder = (after or before or RecordSet(0, (), None)).ttl, step.holder
    now = list(before.records) if before else []
    old = set(now)
    added = [text for text in (after.records if after else ()) if text not in old]
    removed = old - set(after.records if after else ())
    state, is_begun = before, False
    for chunk in _chunks(added):
        now += chunk
        new = RecordSet(ttl, tuple(sorted(now)), holder)
        yield Step(step.key, state, new, is_begun)
        state, is_begun = new, True
    for chunk in _chunks(sorted(removed)):
        gone = set(chunk)
        now = [text for text in now if text not in gone]
        left = RecordSet(ttl, tuple(sorted(now)), holder) if now else None
        yield Step(step.key, state, left, is_begun)
        state, is_begun = left, True


def _chunks(texts: list[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text) + 12
        if size > _BYTES // 2:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class Ownership:
    """What the registry of each holder says; follows the messages that were taken."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, str], set[RecordKey]] = {}

    def note(self, holder: str, keys: Iterable[RecordKey]) -> None:
        """These are written down for a holder."""
        for key in keys:
            self._keys.setdefault((key.zone, holder), set()).add(key)

    def add(self, other: Ownership) -> None:
        """What is written down in another zone."""
        self._keys |= other._keys

    def of(self, zone: str, holder: str) -> Collection[RecordKey]:
        """What is written down for a holder."""
        return self._keys.get((zone, holder), ())

    def after(self, message: Message) -> dict[str, set[RecordKey]]:
        """What has to be written down for the holders of a message when it has taken effect."""
        found: dict[str, set[RecordKey]] = {}
        for step in message.steps:
            if (holder := step.holder) is not None:
                keys = found.setdefault(holder, set(self.of(message.zone, holder)))
                if step.after is not None:
                    keys.add(step.key)
                else:
                    keys.discard(step.key)
        return found

    def took(self, message: Message) -> None:
        """A message has taken effect."""
        for holder, keys in self.after(message).items():
            if keys:
                self._keys[message.zone, holder] = keys
            else:
                self._keys.pop((message.zone, holder), None)


class UpdateWriter:
    """Makes of messages what is sent; keeps the names that it has made, many of which come again."""

    def __init__(self, registry_ttl: int) -> None:
        from rulegen.dns.values import Values

        self._registry_ttl = registry_ttl
        self._values = Values()

    def update_of(self, message: Message, ownership: Ownership) -> UpdateMessage:
        """A message with what the registry has to say about it."""
        from dns.update import UpdateMessage

        update = UpdateMessage(message.zone)
        for step in message.steps:
            self._write(update, step)
        for holder, keys in sorted(ownership.after(message).items()):
            old = registry_records(ownership.of(message.zone, holder))
            new = registry_records(keys)
            if old != new:
                before, after = (RecordSet(self._registry_ttl, one, None) if one else None for one in (old, new))
                self._write(update, Step(registry_key(message.zone, holder), before, after))
        return update

    def _write(self, update: UpdateMessage, step: Step) -> None:
        # What UpdateMessage's own methods do for a record, but for a search of the message for each.
        owner, kind = step.key.owner, step.key.type
        before, after = step.before, step.after
        old: tuple[str, ...] = before.records if before is not None else ()
        new: tuple[str, ...] = after.records if after is not None else ()
        stated = old if not step.is_begun and len(old) <= _STATED else ()
        rrset = self._values.rrset
        update.prerequisite.append(
            rrset(owner, kind, 0, stated) if stated else self._values.marker(owner, kind, is_there=bool(old))
        )
        if before is not None and after is not None and before.ttl != after.ttl:
            # A TTL is that of all of the set.
            update.update.append(self._values.deletion(owner, kind))
            old = ()
        wanted, had = set(new), set(old)
        gone = [text for text in old if text not in wanted]
        if gone:
            whole = self._values.deletion(owner, kind)
            update.update.append(rrset(owner, kind, 0, gone, self._values.NONE) if wanted else whole)
        if after is not None and (added := [text for text in new if text not in had]):
            update.update.append(rrset(owner, kind, after.ttl, added))
