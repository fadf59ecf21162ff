"""What the reconciler makes of objects, with features and a kernel in memory: no privilege is needed, no time lost."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import pytest

from rulegen.config import NodeConfiguration
from rulegen.errors import ApplyError, HostError, InputError, RulegenError, StaleError, TargetError
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.delta import Change
from rulegen.reconcile.driver import Difference
from rulegen.reconcile.once import apply_once, compare_once, take_all
from rulegen.reconcile.reconciler import Reconciler, Sync
from tests.reconcile.memory_kernel import MemoryKernel, MemoryRules
from tests.reconcile.toy import Note, Notes, note, reference


class Scene:
    """A reconciler of some features, and its kernel."""

    def __init__(self, *features: Notes) -> None:
        self.features: Sequence[Notes] = features or (Notes(),)
        self.kernel = MemoryKernel()
        self.begin()

    def begin(self) -> None:
        """As an agent that starts: nothing is known but what the features know."""
        compilers = CompilerSet.of(self.features, "memory", NodeConfiguration())
        self.rules = MemoryRules(self.kernel, compilers)
        self.reconciler = Reconciler(self.features, self.rules)

    def put(self, **notes: str) -> None:
        for name, text in notes.items():
            self.reconciler.put(note(name, text))

    def sync(self, **notes: str) -> Sync:
        self.put(**notes)
        return self.reconciler.sync()

    def words(self, feature: str = "notes") -> set[str]:
        """What the kernel holds, as `note:word`."""
        return {f"{name}:{word}" for of, name, word in self.kernel.entries if of == feature}


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_change_touches_its_own_item_and_reads_nothing(scene: Scene) -> None:
    first = scene.sync(a="one two", b="three")
    assert (first.is_full, first.delta.counts, scene.rules.reads) == (True, (3, 0, 0), 1)
    second = scene.sync(a="one four four")
    assert (second.is_full, second.delta.counts, scene.rules.reads) == (False, (1, 0, 1), 1)
    assert second.features["notes"].items == {"a": Change("one two", "one four four")}
    assert scene.words() == {"a:one", "a:four", "b:three"}
    scene.reconciler.remove(Note, reference("b"))
    assert scene.reconciler.sync().features["notes"].items == {"b": Change("three", None)}
    assert scene.reconciler.applied("notes") == {"a": "one four four"}
    assert not scene.sync().delta


def test_features_are_committed_together() -> None:
    scene = Scene(Notes("notes"), Notes("memos"))
    scene.sync(a="one")
    assert len(scene.kernel.commits) == 1
    assert (scene.words("notes"), scene.words("memos")) == ({"a:one"}, {"a:one"})
    scene.sync(a="two", b="three")
    assert len(scene.kernel.commits) == 2
    assert scene.kernel.commits[1].counts == (4, 0, 2)


def test_what_is_live_already_is_no_change(scene: Scene) -> None:
    scene.sync(a="one")
    scene.features = (Notes(),)
    scene.begin()
    again = scene.sync(a="one", b="two")
    assert (again.is_full, again.delta.counts) == (True, (1, 0, 0))
    assert not again.repaired


def test_what_others_change_is_repaired_and_told_apart(scene: Scene) -> None:
    scene.sync(a="one two", b="three")
    scene.kernel.meddle({("notes", "a", "one"): None, ("notes", "b", "three"): 7, ("notes", "x", "y"): 1})
    scene.reconciler.distrust()
    sync = scene.sync(b="three four")
    assert sync.repaired.counts == (1, 1, 1)
    assert [*scene.reconciler.in_words(sync.repaired)] == [
        "+ ('notes', 'a', 'one')",
        "~ ('notes', 'b', 'three')",
        "- ('notes', 'x', 'y')",
    ]
    assert scene.words() == {"a:one", "a:two", "b:three", "b:four"}


def test_a_commit_by_others_in_between_is_tried_anew(scene: Scene) -> None:
    scene.sync(a="one")
    scene.kernel.meddle({("notes", "a", "one"): None})
    with pytest.raises(StaleError):
        scene.sync(b="two")
    assert scene.reconciler.must_read
    sync = scene.sync()
    assert sync.is_full
    assert sync.features["notes"].items == {"b": Change(None, "two")}
    assert scene.words() == {"a:one", "b:two"}


def test_a_kernel_that_cannot_be_read_loses_nothing(scene: Scene) -> None:
    scene.kernel.unreadable = True
    scene.reconciler.read_ahead()
    with pytest.raises(HostError):
        scene.sync(a="one odd")
    with pytest.raises(HostError):
        scene.sync(a="two odd")
    scene.kernel.unreadable = False
    sync = scene.sync(b="three")
    assert scene.words() == {"a:two", "a:odd", "b:three"}
    assert set(sync.features["notes"].taken.items) == {"a", "b"}
    ((_, change),) = sync.findings.items()
    assert change.before is None
    assert change.after
    assert change.after[0].message == "two odd"


def test_what_was_read_ahead_is_read_once_and_not_trusted_for_ever(scene: Scene) -> None:
    scene.reconciler.read_ahead()
    scene.sync(a="one")
    assert scene.rules.reads == 1
    scene.features = (Notes(),)
    scene.begin()
    scene.reconciler.read_ahead()
    scene.kernel.meddle({("notes", "a", "one"): None})
    scene.reconciler.distrust()
    scene.sync(a="one")
    assert scene.words() == {"a:one"}


@pytest.mark.parametrize("is_loaded", [False, True])
def test_items_that_are_refused_do_not_stop_the_others_of_any_feature(is_loaded: bool) -> None:
    scene = Scene(Notes("notes"), Notes("memos"))
    if is_loaded:
        scene.sync(n7="before", good="before")
    scene.kernel.refuses = lambda key, _: key in {("notes", "n7", "bad"), ("memos", "n3", "bad")}
    texts = {f"n{number}": "bad" for number in range(12)}
    if is_loaded:
        # A change of a few is not searched; the next sync reads the kernel, and finds who is to blame.
        with pytest.raises(ApplyError):
            scene.sync(**texts)
    sync = scene.sync() if is_loaded else scene.sync(**texts)
    assert sync.refused == {
        ("notes", "n7"): "Note n7: the kernel refused ('notes', 'n7', 'bad')",
        ("memos", "n3"): "Note n3: the kernel refused ('memos', 'n3', 'bad')",
    }
    others = {f"n{number}:bad" for number in range(12)}
    kept = {"n7:before", "good:before"} if is_loaded else set()
    assert scene.words("notes") == others - {"n7:bad"} | kept
    assert scene.words("memos") == others - {"n3:bad"} | (kept - {"n7:before"})
    assert scene.reconciler.applied("notes").get("n7") == ("before" if is_loaded else None)
    assert set(scene.reconciler.refusals()) == {("notes", "n7"), ("memos", "n3")}
    # It is tried again when it changes, and only then.
    assert scene.sync(good="after").refused == {}
    sync = scene.sync(n7="better")
    assert (sync.refused, set(scene.reconciler.refusals())) == ({}, {("memos", "n3")})


class Guarded(Notes):
    """Notes of which one that the kernel refuses is `closed`."""

    def stand_in(self, item_id: str) -> str:
        del item_id
        return "closed"


@pytest.mark.parametrize("error", [StaleError("others were faster"), HostError("no memory")])
@pytest.mark.parametrize("ends_at", range(2, 12))
def test_what_stood_aside_is_meant_again_when_the_search_breaks_off(ends_at: int, error: RulegenError) -> None:
    scene = Scene(Guarded())
    asked = count(1)

    def refuses(key: Any, value: Any) -> bool:
        del value
        if next(asked) == ends_at:
            raise error
        return bool(key[1] == "d" and key[2] == "bad")

    scene.kernel.refuses = refuses
    scene.put(d="bad", a="one", b="two", c="three")
    with pytest.raises(type(error)):
        scene.sync()
    assert set(scene.sync().refused) == {("notes", "d")}
    assert scene.words() == {"a:one", "b:two", "c:three", "d:closed"}


def test_a_culprit_is_meant_again_when_what_stands_in_for_it_cannot_be_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene(Guarded())
    scene.kernel.refuses = lambda key, _: key[2] == "bad"
    compare, compared = scene.rules.difference, count(1)

    def difference() -> Any:
        if next(compared) == 2:
            raise HostError("nft crashed")
        return compare()

    monkeypatch.setattr(scene.rules, "difference", difference)
    with pytest.raises(HostError):
        scene.sync(a="bad", b="two")
    # The kernel takes it now.
    scene.kernel.refuses = lambda *_: False
    assert not scene.sync().refused
    assert scene.words() == {"a:bad", "b:two"}


def test_an_item_that_nobody_is_to_blame_for_is_never_left_out() -> None:
    scene = Scene(Notes(blameless=["node"]))
    scene.kernel.refuses = lambda key, _: key[1] == "node"
    with pytest.raises(ApplyError, match="'node'"):
        scene.sync(node="bad", a="one")
    scene.kernel.refuses = lambda *_: False
    scene.sync()
    assert scene.words() == {"node:bad", "a:one"}


def test_a_kernel_that_takes_nothing_is_no_items_fault() -> None:
    scene = Scene(Notes(blameless=["node"]))
    scene.put(node="zero")
    scene.kernel.refuses = lambda *_: True
    with pytest.raises(ApplyError):
        scene.sync(a="one", b="two")
    scene.kernel.refuses = lambda *_: False
    sync = scene.sync()
    assert sync.refused == {}
    assert scene.words() == {"node:zero", "a:one", "b:two"}


def test_an_item_that_cannot_be_expressed_keeps_what_it_had(scene: Scene) -> None:
    scene.sync(a="one")
    sync = scene.sync(a="cannot", b="two")
    assert sync.refused == {("notes", "a"): "Note a cannot be expressed"}
    assert "a" not in sync.features["notes"].items
    assert scene.words() == {"a:one", "b:two"}
    assert scene.sync(a="three").refused == {}


def test_what_was_compiled_before_a_sync_that_failed_comes_into_force_though_what_follows_cannot_be_expressed(
    scene: Scene,
) -> None:
    scene.sync(a="one", b="two")
    scene.kernel.refuses = lambda *_: True
    scene.reconciler.remove(Note, reference("b"))
    with pytest.raises(ApplyError):
        scene.sync(a="three")
    scene.kernel.refuses = lambda *_: False
    sync = scene.sync(a="cannot", b="cannot")
    assert list(sync.refused) == [("notes", "a"), ("notes", "b")]
    assert scene.words() == {"a:three"}
    assert sync.features["notes"].items == {"a": Change("one", "three"), "b": Change("two", None)}
    assert scene.reconciler.applied("notes") == {"a": "three"}


def test_an_object_that_cannot_be_read_keeps_what_the_kernel_holds(scene: Scene) -> None:
    scene.sync(a="one", b="two", c="three")
    scene.features = (Notes(),)
    scene.begin()
    scene.put(b="two")
    for name in ("a", "b"):
        scene.reconciler.put_unreadable(Note, reference(name), "no")
    sync = scene.sync()
    assert sync.delta.counts == (0, 0, 1)
    assert scene.words() == {"a:one", "b:two"}
    scene.sync(b="four")
    assert scene.words() == {"a:one", "b:four"}
    # It can be read again, or is gone: then all is compared once more.
    scene.reconciler.remove(Note, reference("a"))
    assert scene.sync().is_full
    assert scene.words() == {"b:four"}


def test_a_feature_may_say_what_an_object_means_that_cannot_be_read() -> None:
    scene = Scene(Notes(meaning="closed"))
    scene.sync(a="open")
    scene.features = (Notes(meaning="closed"),)
    scene.begin()
    scene.reconciler.put_unreadable(Note, reference("a"), "no")
    scene.sync()
    assert scene.words() == {"a:closed"}


def test_findings_are_told_once_as_they_change(scene: Scene) -> None:
    (change,) = scene.sync(a="odd").findings.values()
    assert (change.before, len(change.after or ())) == (None, 1)
    assert scene.sync(b="one").findings == {}
    (change,) = scene.sync(a="even").findings.values()
    assert (len(change.before or ()), change.after) == (1, None)


def test_a_person_compares_and_applies_once(scene: Scene) -> None:
    scene.put(a="one", b="two")
    wanted = take_all(scene.features)
    assert str(compare_once(scene.rules, wanted)[1]) == "2 added, 0 changed, 0 removed"
    shown: list[Difference] = []

    def meddle(difference: Difference) -> None:
        if not shown:
            scene.kernel.meddle({("notes", "c", "x"): 1})
        shown.append(difference)

    def rules() -> MemoryRules:
        return MemoryRules(scene.kernel, CompilerSet.of(scene.features, "memory", NodeConfiguration()))

    apply_once(rules, wanted, lambda _: None, dry_run=True)
    assert scene.kernel.commits == []
    apply_once(rules, wanted, meddle, dry_run=False)
    assert [str(one) for one in shown] == ["2 added, 0 changed, 0 removed", "2 added, 0 changed, 1 removed"]
    assert scene.words() == {"a:one", "b:two"}


def test_a_person_is_told_what_cannot_be_expressed(scene: Scene) -> None:
    scene.put(a="cannot", b="cannot")
    with pytest.raises(TargetError, match="Note a cannot be expressed\nNote b cannot be expressed"):
        compare_once(scene.rules, take_all(scene.features))


def test_a_feature_that_there_is_not() -> None:
    from rulegen.features import make

    with pytest.raises(InputError, match='no feature "policy"; there is services'):
        make(["policy"], NodeConfiguration())
