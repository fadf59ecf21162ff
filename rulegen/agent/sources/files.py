"""Manifests on disk come in; what differs from the last reading goes out as the events of a follower.

Half-written files are met all the time: a file that cannot be read changes nothing, and neither does an object that
cannot be used. Never stops for either; the first reading counts only when every file can be read, so that a restart
takes nothing away for a file that is broken at that moment.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence

from rulegen.agent.sources.watched_files import turns
from rulegen.agent.worker.work_queue import ObjectKey, key_of
from rulegen.errors import InputError, printable
from rulegen.kube.decode import ObjectError
from rulegen.kube.faults import Fault
from rulegen.kube.follow import Delete, Failed, FileUnusable, FileUsable, FollowEvent, Invalid, Synced, Upsert
from rulegen.kube.kinds import WatchedObject
from rulegen.kube.manifests import Manifests, Problem, load
from rulegen.kube.mistakes import summary
from rulegen.paths import mode_of

_LOG = logging.getLogger(__name__)


class FileSource:
    """Follows objects of `kinds` in manifests.

    `paths`: files and folders; `deliver` gets what each reading tells, in another thread.

    Raises:
        InputError: a path is missing, or is no file or folder.
    """

    def __init__(
        self, paths: Sequence[str], kinds: Sequence[type], deliver: Callable[[list[FollowEvent]], None]
    ) -> None:
        _check(paths)
        self._kinds = {kind.__name__: kind for kind in kinds}
        self._paths = paths
        self._deliver = deliver
        # Each object that was told, and the file that it is from ("": not known).
        self._known: dict[ObjectKey, tuple[WatchedObject, str]] = {}
        # Those that could not be used when they were read last.
        self._unusable: set[ObjectKey] = set()
        # Files that could not be read then, and why.
        self._unreadable: dict[str, str] = {}
        self._events: list[FollowEvent] = []
        self._reported: set[str] = set()
        self._mistakes: set[str] = set()
        self._is_synced = False
        self._is_waiting = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follow files", daemon=True)

    def start(self) -> None:
        """Begins; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Ends within a second; no event is delivered afterwards."""
        self._stopping.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        try:
            for _ in turns(self._paths, self._stopping):
                self.read()
        except Exception as error:
            self._events = [Failed(next(iter(self._kinds.values())), error)]
            self._hand_over()
            raise

    def read(self) -> None:
        """Reads all of it, and tells what differs."""
        try:
            _check(self._paths)
            manifests = load(self._paths, None, kinds=self._kinds.values())
        except InputError as error:
            self._report({str(error)})
            file, _, _ = str(error).rpartition(": ")
            self._tell_unreadable({**self._unreadable, file: str(error)})
            self._hand_over()
            return
        broken = set(self._broken_files(manifests))
        invalid = {key for problem in manifests.problems if (key := self._key_of(problem))}
        seen = self._tell_objects(manifests, broken, invalid)
        for key in sorted(self._known.keys() - seen - invalid, key=_sort_key):
            if not broken or self._known[key][1] not in {"", *broken}:
                del self._known[key]
                self._events.append(Delete(*key))
        if not broken:
            for key in sorted(self._unusable - invalid - seen - self._known.keys(), key=_sort_key):
                self._events.append(Delete(*key))
            self._unusable = invalid
        else:
            self._unusable |= invalid
        self._tell_problems(manifests.problems, broken)
        self._tell_mistakes(summary(manifests.mistakes()))
        if not self._is_synced:
            self._tell_whether_synced(is_whole=not broken)
        self._hand_over()

    def _hand_over(self) -> None:
        """A reading may take longer than stopping waits for it, and whoever follows tells everything anew."""
        events, self._events = self._events, []
        if not self._stopping.is_set():
            self._deliver(events)

    def _tell_whether_synced(self, *, is_whole: bool) -> None:
        """The first reading that is whole is the one from which rules are made."""
        if is_whole:
            self._is_synced = True
            for kind in self._kinds.values():
                self._events.append(Synced(kind))
        elif not self._is_waiting:
            self._is_waiting = True
            _LOG.warning("nothing is programmed before every file has been read once, so that no rule goes by mistake")

    def _tell_objects(self, manifests: Manifests, broken: set[str], invalid: set[ObjectKey]) -> set[ObjectKey]:
        """Tells those that differ, or can be used again, except from broken files; returns all that are there."""
        seen = set()
        for item in manifests.objects():
            key = key_of(item)
            place = manifests.places.get(key)
            source = place.source if place else ""
            seen.add(key)
            if source in broken:
                continue
            before = self._known.get(key)
            self._known[key] = item, source
            is_mended = key in self._unusable and key not in invalid
            if before is None or before[0] != item or is_mended:
                self._unusable.discard(key)
                self._events.append(Upsert(item))
        return seen

    def _broken_files(self, manifests: Manifests) -> Iterator[str]:
        """Files of which not all can be read, or that are empty now: they are being written, or somebody must look."""
        for problem in manifests.problems:
            if self._key_of(problem) is None:
                yield _file_of(problem)
        there = {place.source for place in manifests.places.values()}
        for source in {source for _, source in self._known.values()} - there - {""}:
            if _is_empty(source):
                yield source

    def _tell_problems(self, problems: Sequence[Problem], broken: set[str]) -> None:
        for problem in problems:
            key = self._key_of(problem)
            if key and str(problem) not in self._reported:
                self._events.append(Invalid(*key, ObjectError(problem.kind, problem.name, (_fault(problem),))))
        whole = {str(problem) for problem in problems if self._key_of(problem) is None}
        told = {_file_of(problem) for problem in problems}
        empty = {source: f"{source}: is empty" for source in broken - told}
        whole |= set(empty.values())
        self._report(whole)
        files = {_file_of(problem): str(problem) for problem in reversed(problems) if self._key_of(problem) is None}
        self._tell_unreadable(files | empty)
        self._reported |= {str(problem) for problem in problems}

    def _key_of(self, problem: Problem) -> ObjectKey | None:
        """The object that has the problem; None where that is not known."""
        kind = self._kinds.get(problem.kind)
        if kind is None or not problem.name:
            return None
        namespace, _, name = problem.name.rpartition("/")
        return kind, namespace, name

    def _tell_mistakes(self, mistakes: list[str]) -> None:
        """Each once, as long as it stays."""
        for line in mistakes:
            if line not in self._mistakes:
                _LOG.warning("probably a mistake: %s", line)
        self._mistakes = set(mistakes)

    def _tell_unreadable(self, files: dict[str, str]) -> None:
        """Files that cannot be read now, and why; those that could not before and are none of them are mended."""
        for file, problem in sorted(files.items()):
            if self._unreadable.get(file) != problem:
                self._events.append(FileUnusable(file, problem))
        for file in sorted(self._unreadable.keys() - files.keys()):
            how = "in use again" if os.path.lexists(file) else "gone, which could not be used"
            _LOG.info("file %s: %s", how, file)
            self._events.append(FileUsable(file))
        self._unreadable = files

    def _report(self, problems: set[str]) -> None:
        """Says each problem once, as long as it stays."""
        for problem in sorted(problems - self._reported):
            _LOG.warning("file not used: %s; its objects keep what they meant", problem)
        self._reported = problems


def _check(paths: Sequence[str]) -> None:
    """Raises InputError for what is missing, or could be read only once, or never ends."""
    for path in paths:
        mode = mode_of(path)
        if mode is None:
            raise InputError(f"{printable(path)}: No such file or directory")
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise InputError(f"{printable(path)}: neither a file nor a folder, so it cannot be followed")


def _file_of(problem: Problem) -> str:
    """The file, where the problem's place has a line and column after it."""
    source = problem.place.source
    if not problem.place.document:
        head, *numbers = source.rsplit(":", 2)
        if len(numbers) == 2 and all(number.isdigit() for number in numbers):
            return head
    return source


def _fault(problem: Problem) -> Fault:
    return Fault(problem.field, problem.message)


def _sort_key(key: ObjectKey) -> tuple[str, str, str]:
    return key[0].__name__, key[1], key[2]


def _is_empty(source: str) -> bool:
    try:
        return os.stat(source).st_size == 0  # noqa: PTH116 - a name as the person wrote it
    except OSError:
        return False
