"""Objects come in one by one; the rules are made equal to what they mean, changing only what differs.

Mostly a sync applies what the changed items make different, and looks at nothing else. At the start, after a failure
and when others interfered it reads the kernel and applies the difference to that. Knows no time and no thread: when to
sync, and when again after an error, is the caller's to decide. Knows no feature and no driver either: what an item is,
and how it becomes rules, is theirs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from rulegen.config import Family
from rulegen.errors import ApplyError, RulegenError, StaleError
from rulegen.reconcile.compilers import by_feature
from rulegen.reconcile.delta import Change, Delta
from rulegen.reconcile.driver import LiveRules, RuleCount
from rulegen.reconcile.feature import AnyDelta, Feature, ItemKey, Taken, WithStandIns
from rulegen.reference import Finding, ObjectReference


class FeatureSync(NamedTuple):
    """What a sync did for one feature.

    `items`: those that are in force now and were not, or not so, before. `refused`: those that stay as they were, or
    have a stand-in, because the driver cannot express them or the kernel refuses them, each with a line that names it.
    `taken`: all that the feature handed on since the last sync that ended well.
    """

    items: dict[Any, Change[Any]]
    refused: dict[Any, str]
    taken: Any


class Sync(NamedTuple):
    """What a sync did.

    `repaired`: the part of `delta` that no object asked for. `features`: by name. `findings`: what is found otherwise
    than at the last sync that ended well, by the object. `seconds`: how long each step took.
    """

    is_full: bool
    delta: AnyDelta
    repaired: AnyDelta
    features: Mapping[str, FeatureSync]
    findings: Mapping[ObjectReference, Change[tuple[Finding, ...] | None]]
    seconds: dict[str, float]

    @property
    def refused(self) -> dict[ItemKey, str]:
        """The items of all features that stay as they were, and why."""
        return {(name, key): words for name, part in self.features.items() for key, words in part.refused.items()}


class _Steps:
    """Takes the time of each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def done(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


class _Progress:
    """How far the items of one feature have come."""

    def __init__(self, feature: Feature) -> None:
        self.feature = feature
        # Items as they are in force; those that are compiled and not in force yet; what else is not told yet.
        self.applied: dict[Any, Any] = {}
        self.pending: dict[Any, Any] = {}
        self.untold: Taken | None = None
        # Items that stay as they were, and why: all of them, and those that are not told yet.
        self.refusals: dict[Any, str] = {}
        self.untold_refusals: dict[Any, str] = {}
        # Of these, the items that are wanted, as far as they were to come into force.
        self._refused_items: dict[Any, Any] = {}
        # Of the items that were taken last, those that were pending, as they were.
        self._overtaken: dict[Any, Any] = {}
        # Objects that cannot be read, and of which nothing else is known than what is live.
        self.unreadable: set[ObjectReference] = set()
        # The objects that were taken before the first sync, without their uids.
        self.early: set[ObjectReference] = set()

    def take(self) -> Taken:
        taken = self.feature.take()
        pending = self.pending
        self._overtaken = {key: pending[key] for key in taken.items if key in pending} if pending else {}
        self.pending |= taken.items
        if self.refusals:
            for key in taken.items:
                self._forget(key)
        self.untold = self.untold.followed_by(taken) if self.untold is not None else taken
        return taken

    def _forget(self, key: Any) -> None:
        self.refusals.pop(key, None)
        self.untold_refusals.pop(key, None)
        self._refused_items.pop(key, None)

    def refuse(self, key: Any, words: str) -> None:
        """An item cannot be expressed: what was compiled of it before a sync that failed is still to come into force.

        Not so where there are stand-ins, as these are what is compiled then.
        """
        self._set_aside(key, words)
        if key in self._overtaken and not isinstance(self.feature, WithStandIns):
            self.pending[key] = self._overtaken[key]

    def _set_aside(self, key: Any, words: str) -> None:
        if key in self.pending:
            self._refused_items.setdefault(key, self.pending.pop(key))
        self.refusals[key] = self.untold_refusals[key] = words

    def lift(self, key: Any) -> None:
        """An item that was refused can be expressed again, without being taken anew."""
        if key in self._refused_items:
            self.pending[key] = self._refused_items[key]
        self._forget(key)

    def replace(self, key: Any, words: str) -> None:
        """The kernel refuses an item; where the feature has something for that, it comes into force instead."""
        stand_in = self.stand_in(key)
        self._set_aside(key, words)
        if stand_in is not None:
            self.pending[key] = stand_in

    def stand_in(self, key: Any) -> Any:
        """None: what was."""
        return self.feature.stand_in(key) if isinstance(self.feature, WithStandIns) else None

    def changes(self) -> dict[Any, Change[Any]]:
        applied = self.applied
        # To look for an item's id takes longer than anything else here, and at a start there is nothing to find.
        return {key: Change(applied.get(key) if applied else None, item) for key, item in self.pending.items()}

    def finish(self) -> FeatureSync:
        """What is to be told; everything is in force."""
        done = FeatureSync(self.changes(), self.untold_refusals, self.untold)
        # All at once: at a start these are as many as there are service-ports.
        self.applied.update(self.pending)
        for key in [key for key, item in self.pending.items() if item is None]:
            del self.applied[key]
        self.pending = {}
        self.untold, self.untold_refusals = None, {}
        self.early.clear()
        return done


def _together(findings: Iterable[tuple[Finding, ...] | None]) -> tuple[Finding, ...] | None:
    return tuple(finding for found in findings for finding in found or ()) or None


class Reconciler:
    """Keeps `rules` equal to what the features want; `rules` has their compilers."""

    def __init__(self, features: Sequence[Feature], rules: LiveRules) -> None:
        self._rules = rules
        self._features = {feature.name: _Progress(feature) for feature in features}
        # The next sync reads the kernel.
        self.must_read = True
        # The kernel was read for the next sync, and holds what it did then.
        self._has_read = False
        self._has_compiled = False
        # The last sync ended well: what the kernel lacks now, others have changed.
        self._was_equal = False
        self._untold_findings: dict[ObjectReference, Change[tuple[Finding, ...] | None]] = {}

    # -- objects --

    def put(self, item: Any) -> None:
        """An object as it is now; nothing else happens before `sync`."""
        for progress in self._concerned(type(item)):
            if progress.unreadable or not self._has_compiled:
                reference = ObjectReference.unidentified(item)
                self._note_readable(progress, reference)
                if not self._has_compiled:
                    progress.early.add(reference)
            progress.feature.put(item)

    def remove(self, kind: type, reference: ObjectReference) -> None:
        """An object is gone."""
        for progress in self._concerned(kind):
            self._note_readable(progress, reference.without_uid)
            progress.feature.remove(reference)

    def put_unreadable(self, kind: type, reference: ObjectReference, error: str) -> None:
        """An object cannot be used as it is now: it keeps what it last meant, or means what its feature says.

        Of one that could not be used since the start, that is what the kernel holds of it.
        """
        for progress in self._concerned(kind):
            has_meaning = progress.feature.put_unreadable(reference, error)
            name = reference.without_uid
            if not has_meaning and not self._has_compiled and name not in progress.early:
                progress.unreadable.add(name)

    def _concerned(self, kind: type) -> Iterator[_Progress]:
        return (progress for progress in self._features.values() if kind in progress.feature.kinds)

    def _note_readable(self, progress: _Progress, reference: ObjectReference) -> None:
        if reference in progress.unreadable:
            progress.unreadable.discard(reference)
            self.must_read = True

    # -- the kernel --

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

    # -- what there is to know --

    def in_words(self, delta: AnyDelta) -> Iterator[str]:
        """A Delta of the last sync, entry by entry, each as one line or more."""
        return (change.text for change in self._rules.changes(delta))

    def applied(self, feature: str) -> Mapping[Any, Any]:
        """All items of a feature that are in force, by id."""
        return self._features[feature].applied

    def refusals(self) -> dict[ItemKey, str]:
        """The items that are not in force as they are wanted, and why."""
        return {
            (name, key): words for name, progress in self._features.items() for key, words in progress.refusals.items()
        }

    def reference(self, key: ItemKey) -> ObjectReference | None:
        """The object to blame for an item; see `Feature.reference`."""
        return self._features[key[0]].feature.reference(key[1])

    def rule_counts(self) -> Mapping[tuple[Family, str], RuleCount]:
        """See `LiveRules`."""
        return self._rules.rule_counts()

    # -- syncs --

    def sync(self) -> Sync:
        """Makes the kernel equal to all that was taken.

        An item that cannot be expressed or is refused keeps the state it had, and the others are applied; it is tried
        again when it changes.

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
        return self._finish(is_full, delta, repaired, steps)

    def _read(self) -> None:
        has_read, self._has_read = self._has_read, False
        unreadable = {
            name: frozenset(progress.unreadable) for name, progress in self._features.items() if progress.unreadable
        }
        if unreadable or not has_read:
            self._rules.preserve_unreadable(unreadable)
            self._rules.read()

    def _compile(self, steps: _Steps) -> AnyDelta:
        taken = {name: progress.take() for name, progress in self._features.items()}
        self._take_findings()
        steps.done("take")
        self._has_compiled = True
        delta, errors = self._rules.update(
            {name: one.items for name, one in taken.items()}, {name: one.context for name, one in taken.items()}
        )
        for (name, key), error in errors.items():
            if error is None:
                self._features[name].lift(key)
            else:
                self._features[name].refuse(key, str(error))
        steps.done("compile")
        return delta

    def _take_findings(self) -> None:
        """Several features may find something about one object: what is told of it is what all of them find."""
        features = [progress.feature for progress in self._features.values()]
        taken = [feature.findings.take() for feature in features]
        for reference in dict.fromkeys(reference for changes in taken for reference in changes):
            after = [feature.findings.get(reference) for feature in features]
            told = self._untold_findings.get(reference)
            before = [
                changes[reference].before if reference in changes else found
                for changes, found in zip(taken, after, strict=True)
            ]
            self._untold_findings[reference] = Change(
                _together(before) if told is None else told.before, _together(after)
            )

    def _finish(self, is_full: bool, delta: AnyDelta, repaired: AnyDelta, steps: _Steps) -> Sync:
        done = {name: progress.finish() for name, progress in self._features.items()}
        findings, self._untold_findings = self._untold_findings, {}
        self._was_equal = True
        self._rules.settle()
        self.must_read = False
        return Sync(is_full, delta, repaired, done, findings, steps.seconds)

    # -- refused items --

    def _apply_without_refused(self, error: ApplyError) -> AnyDelta:
        """Finds the items to blame among those that are not in force yet, and applies the others."""
        pending = {
            (name, key): change
            for name, progress in self._features.items()
            for key, change in progress.changes().items()
        }
        suspects = [key for key, change in pending.items() if change.after is not None and self._can_be_blamed(key)]
        try:
            culprits = self._culprits(pending, suspects)
        finally:
            # Those that have stood aside are meant again, also where it could not be found out who is to blame.
            self._update({key: pending[key].after for key in suspects if self._stand_in(key) is not None})
        if not culprits:
            raise error
        self._update({key: self._instead(key, pending) for key in culprits})
        try:
            delta = self._rules.difference()
            if delta:
                self._rules.apply(delta)
        except RulegenError:
            # Then they are not to blame, or not alone.
            self._update({key: pending[key].after for key in culprits})
            raise
        for (name, key), words in culprits.items():
            progress = self._features[name]
            progress.replace(key, f"{progress.feature.title(key)}: {words}")
        return delta

    def _stand_in(self, key: ItemKey) -> Any:
        return self._features[key[0]].stand_in(key[1])

    def _instead(self, key: ItemKey, pending: Mapping[ItemKey, Change[Any]]) -> Any:
        stand_in = self._stand_in(key)
        return pending[key].before if stand_in is None else stand_in

    def _has_stand_ins(self, key: ItemKey) -> bool:
        return isinstance(self._features[key[0]].feature, WithStandIns)

    def _can_be_blamed(self, key: ItemKey) -> bool:
        return self.reference(key) is not None

    def _update(self, items: Mapping[ItemKey, Any]) -> None:
        self._rules.update(by_feature(items), {})

    def _culprits(self, pending: Mapping[ItemKey, Change[Any]], suspects: Sequence[ItemKey]) -> dict[ItemKey, str]:
        """The items that the kernel refuses, and its words; found by halving, as they are few.

        Of a feature with stand-ins all is asked about, with those in place of the items that are not suspected.
        """
        standing_in = {
            key: stand_in
            for key, change in pending.items()
            if change.after is not None and (stand_in := self._stand_in(key)) is not None
        }
        self._update(standing_in | {key: pending[key].after for key in suspects if key in standing_in})
        alone = {key: change for key, change in pending.items() if not self._has_stand_ins(key)}
        try:
            self._rules.accepts(alone, suspects)
        except StaleError:
            raise
        except ApplyError as error:
            if len(suspects) <= 1:
                return {key: str(error) for key in suspects}
            middle = len(suspects) // 2
            return self._culprits(pending, suspects[:middle]) | self._culprits(pending, suspects[middle:])
        return {}
