"""What is found and refused is told in the log, in Events and as metrics, once while it holds, of any feature."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TypeAlias

import pytest

from rulegen.agent.observers.events import EventRecorder
from rulegen.agent.observers.metrics import Metrics
from rulegen.agent.observers.observers import EventObserver
from rulegen.config import Family, NodeConfiguration, Target
from rulegen.features import kinds_of
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.reconciler import Reconciler, Sync
from rulegen.reference import Finding, ObjectReference
from tests.reconcile.memory_kernel import MemoryKernel, MemoryRules
from tests.reconcile.toy import Note, Notes, note, reference

Told: TypeAlias = tuple[str, ObjectReference, str, str]


class Recorder(EventRecorder):
    """Keeps what it is told instead of sending it."""

    def __init__(self) -> None:
        self.told: list[Told] = []

    def record(self, about: ObjectReference, reason: str, note: str, *_: object) -> None:
        self.told.append(("+", about, reason, note))

    def resolve(self, about: ObjectReference, reason: str, note: str) -> None:
        self.told.append(("-", about, reason, note))

    def take(self) -> list[Told]:
        told, self.told = self.told, []
        return told


class Scene:
    """A feature that is not Services, and the observers."""

    def __init__(self) -> None:
        self.notes = Notes()
        rules = MemoryRules(MemoryKernel(), CompilerSet.of([self.notes], "memory", NodeConfiguration()))
        self.reconciler = Reconciler([self.notes], rules)
        self.recorder = Recorder()
        self.metrics = Metrics(Target.NFTABLES, (Family.IPV4,), kinds_of(()))
        self._observer = EventObserver(self.reconciler, self.recorder)

    def sync(self, **notes: str) -> Sync:
        for name, text in notes.items():
            self.reconciler.put(note(name, text))
        done = self.reconciler.sync()
        self._observer.synced(done)
        self.metrics.findings_changed(done.findings.values())
        return done

    def count(self, reason: str) -> float | None:
        return self.metrics.registry.get_sample_value("rulegen_findings", {"reason": reason})


@pytest.fixture
def scene(caplog: pytest.LogCaptureFixture) -> Iterator[Scene]:
    with caplog.at_level(logging.WARNING, "rulegen.agent"):
        yield Scene()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    said = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return said


def test_a_finding_is_told_once_and_counted_while_it_holds(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.sync(a="odd one", b="plain")
    assert lines(caplog) == ["Note default/a: odd one"]
    assert scene.count("Odd") == 1
    scene.sync(b="plain too")
    assert lines(caplog) == []
    scene.sync(a="odd two")
    assert lines(caplog) == ["Note default/a: odd two"]
    assert scene.count("Odd") == 1
    scene.reconciler.remove(Note, reference("a"))
    scene.sync()
    assert lines(caplog) == []
    assert scene.count("Odd") == 0
    # None of it is for owners.
    assert scene.recorder.take() == []


def test_owners_are_told_by_the_uid_and_of_what_else_it_is_about(scene: Scene) -> None:
    told = ObjectReference("Note", "default", "a", "uid-1")
    own = Finding(reference("a"), "Odd", "one", is_for_owner=True)
    page = Finding(ObjectReference("Page", "default", "7"), "Torn", "two", is_for_owner=True)
    scene.notes.findings.set(told, (own, page, Finding(reference("a"), "Old", "three")))
    scene.sync()
    assert scene.recorder.take() == [("+", told, "Odd", "one"), ("+", told, "Torn", "Page default/7: two")]
    scene.notes.findings.set(told, (own,))
    scene.sync()
    assert scene.recorder.take() == [("-", told, "Torn", "Page default/7: two")]
    # Made anew with the same name: the other object is told.
    anew = told._replace(uid="uid-2")
    scene.notes.findings.set(told, None)
    scene.notes.findings.set(anew, (own,))
    scene.sync()
    assert scene.recorder.take() == [("-", told, "Odd", "one"), ("+", anew, "Odd", "one")]


def test_an_item_that_is_refused_is_told_of_its_object_until_it_is_in_force(scene: Scene) -> None:
    scene.sync(a="cannot", b="fine")
    ((sign, about, reason, words),) = scene.recorder.take()
    assert (sign, about, reason) == ("+", reference("a"), "NotInForce")
    assert words
    scene.sync(a="cannot either")
    assert scene.recorder.take() == []
    scene.sync(a="fine")
    assert scene.recorder.take() == [("-", reference("a"), "NotInForce", words)]
