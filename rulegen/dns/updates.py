"""A Delta of record sets comes in; messages of RFC 2136 go out, each with what must be so for it to take effect.

A message is a transaction of its zone: it carries changes together with what the registry says of them, and says of
each record set how it has to be before (2.4): absent where we add one, ours where we change or remove one. So nobody
else's record is ever overwritten, and of two who send at once the second is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from rulegen.dns.record_sets import Entries, RecordKey, RecordSet
from rulegen.dns.registry import PARTS, holder_of, is_in_parts, part_of, place_of, registry
from rulegen.reconcile.delta import Delta

if TYPE_CHECKING:
    from dns.update import UpdateMessage

# About so many bytes are in a message; others' work comes between two.
_BYTES = 58_000
# Of a record beside its owner and its data; of a name beside its text.
_RECORD, _NAME = 10, 1
# How a set was is said record by record only where that is not much longer than what is changed; in bytes, too.
_STATED, _STATED_BYTES = 64, 4_000


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
        """About so many bytes, nothing being compressed."""
        old: tuple[str, ...] = self.before.records if self.before else ()
        new: tuple[str, ...] = self.after.records if self.after else ()
        texts = (*self.stated, *(set(old) ^ set(new)))
        registered = len(self.key.owner) if self.holder is not None else 0
        return (len(texts) + 1) * self._of_each + sum(map(len, texts)) + registered

    @property
    def stated(self) -> tuple[str, ...]:
        """The records that there have to be before, and no others; none: it is said only whether there are any."""
        old: tuple[str, ...] = self.before.records if self.before else ()
        is_short = len(old) <= _STATED and sum(map(len, old)) <= _STATED_BYTES
        return old if is_short and not self.is_begun else ()

    @property
    def _of_each(self) -> int:
        return len(self.key.owner) + _NAME + _RECORD + _NAME


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
    for chunk in _chunks(added, len(step.key.owner)):
        now += chunk
        new = RecordSet(ttl, tuple(sorted(now)), holder)
        yield Step(step.key, state, new, is_begun)
        state, is_begun = new, True
    for chunk in _chunks(sorted(removed), len(step.key.owner)):
        gone = set(chunk)
        now = [text for text in now if text not in gone]
        left = RecordSet(ttl, tuple(sorted(now)), holder) if now else None
        yield Step(step.key, state, left, is_begun)
        state, is_begun = left, True


def _chunks(texts: list[str], owner: int) -> Iterator[list[str]]:
    """`owner`: how long its name is."""
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text) + owner + _RECORD + 2 * _NAME
        if size > _BYTES * 3 // 4:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class Consequence(NamedTuple):
    """What a message changes in the registry: what is written down for each holder after it, and how that is told."""

    zone: str
    keys: dict[str, set[RecordKey]]
    steps: list[Step]


class Ownership:
    """What the registry says of each holder, as it is in the zones; follows the messages that were taken.

    `before`: what is so for all holders that no message was of.
    """

    def __init__(self, before: Ownership | None = None) -> None:
        self._before = before
        self._keys: dict[tuple[str, str], set[RecordKey]] = {}
        self._written: dict[tuple[str, str], Entries] = {}

    def note(self, holder: str, place: RecordKey, written: RecordSet, keys: Iterable[RecordKey]) -> None:
        """A record set of the registry was read, which speaks of these."""
        self._keys.setdefault((place.zone, holder), set()).update(keys)
        self._written.setdefault((place.zone, holder), {})[place] = written

    def add(self, other: Ownership) -> None:
        """What is written down in another zone."""
        self._keys |= other._keys
        self._written |= other._written

    def of_zone(self, zone: str) -> Ownership:
        """What is written down in one zone."""
        found = Ownership()
        found._keys = {key: one for key, one in self._keys.items() if key[0] == zone}
        found._written = {key: one for key, one in self._written.items() if key[0] == zone}
        return found

    def consequence(self, message: Message, ttl: int) -> Consequence:
        """Of a message that is to be sent next. `ttl`: of the registry."""
        after: dict[str, set[RecordKey]] = {}
        for step in message.steps:
            if (holder := step.holder) is not None:
                if (keys := after.get(holder)) is None:
                    keys = after[holder] = set(self._known(message.zone, holder))
                if step.after is not None:
                    keys.add(step.key)
                else:
                    keys.discard(step.key)
        touched = {part_of(step.key.owner) for step in message.steps}
        steps = [
            step for holder in sorted(after) for step in self._steps(message.zone, holder, after[holder], touched, ttl)
        ]
        return Consequence(message.zone, after, steps)

    def took(self, consequence: Consequence) -> None:
        """A message has taken effect, or is taken for one that has."""
        zone = consequence.zone
        for holder, keys in consequence.keys.items():
            self._written[zone, holder] = dict(self._places(zone, holder))
            self._keys[zone, holder] = keys
        for step in consequence.steps:
            holder = holder_of(step.key) or ""
            written = self._written[zone, holder]
            if step.after is not None:
                written[step.key] = step.after
            else:
                written.pop(step.key, None)

    def _known(self, zone: str, holder: str) -> Collection[RecordKey]:
        found = self._keys.get((zone, holder))
        if found is None and self._before is not None:
            return self._before._known(zone, holder)
        return found or ()

    def _places(self, zone: str, holder: str) -> Entries:
        found = self._written.get((zone, holder))
        if found is None and self._before is not None:
            return self._before._places(zone, holder)
        return found or {}

    def _steps(
        self, zone: str, holder: str, keys: Collection[RecordKey], touched: Collection[int], ttl: int
    ) -> Iterator[Step]:
        written = self._places(zone, holder)
        has_parts = bool(written) and all(place_of(place) is not None for place in written)
        parts = touched if has_parts and is_in_parts(keys) else PARTS
        wanted = registry(zone, holder, keys, ttl, parts)
        for place in sorted({*written, *wanted}):
            before, after = written.get(place), wanted.get(place)
            part = place_of(place)
            if before != after and (part is None or part in parts):
                yield Step(place, before, after)


class UpdateWriter:
    """Makes of messages what is sent; keeps the names that it has made, many of which come again."""

    def __init__(self) -> None:
        from rulegen.dns.values import Values

        self._values = Values()

    def update_of(self, message: Message, consequence: Consequence) -> UpdateMessage:
        """A message with what the registry has to say about it."""
        from dns.update import UpdateMessage

        update = UpdateMessage(message.zone)
        for step in (*message.steps, *consequence.steps):
            self._write(update, step)
        return update

    def _write(self, update: UpdateMessage, step: Step) -> None:
        # What UpdateMessage's own methods do for a record, but for a search of the message for each.
        owner, kind = step.key.owner, step.key.type
        before, after = step.before, step.after
        old: tuple[str, ...] = before.records if before is not None else ()
        new: tuple[str, ...] = after.records if after is not None else ()
        stated = step.stated
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
