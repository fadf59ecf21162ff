"""A turn for each change, by whatever way a file comes to say something else."""

from __future__ import annotations

import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rulegen.agent.sources import watched_files
from rulegen.agent.sources.watched_files import turns
from tests.patience import patience


class PeriodicResync:
    """What `turns` yields, from a thread."""

    def __init__(self, *paths: Path) -> None:
        self.stopping = threading.Event()
        self._seen: queue.Queue[None] = queue.Queue()
        self.thread = threading.Thread(target=self._run, args=([str(path) for path in paths],), daemon=True)
        self.thread.start()
        self.wait()

    def _run(self, paths: list[str]) -> None:
        for _ in turns(paths, self.stopping):
            self._seen.put(None)

    def wait(self) -> None:
        """The next turn; those that follow at once belong to it."""
        self._seen.get(timeout=patience(20.0))
        self.settle()

    def settle(self) -> int:
        """How many turns there still are, until none comes for a while."""
        count = 0
        while True:
            try:
                self._seen.get(timeout=0.25)
            except queue.Empty:
                return count
            count += 1


@contextmanager
def following(*paths: Path) -> Iterator[PeriodicResync]:
    followed = PeriodicResync(*paths)
    try:
        yield followed
    finally:
        followed.stopping.set()
        followed.thread.join(patience(5))
        assert not followed.thread.is_alive()


def replace(link: Path, target: str | Path) -> Path:
    """As `ln -sfn`, and the kubelet: in one step."""
    fresh = link.with_name("..fresh")
    fresh.symlink_to(target)
    return fresh.rename(link)


def remove(folder: Path) -> Path:
    shutil.rmtree(folder)
    return folder


def remove_file(file: Path) -> Path:
    file.unlink()
    return file


def written(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


@pytest.fixture(params=["told", "looking"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the kernel's notifications, and without, as on a network file system."""
    if request.param == "looking":
        monkeypatch.setattr(watched_files, "_INTERVAL", 0.1)
        monkeypatch.setenv("WATCHFILES_FORCE_POLLING", "true")
        monkeypatch.setenv("WATCHFILES_POLL_DELAY_MS", "100000000")
    return str(request.param)


Change = Callable[[Path], object]

FOLDERS: dict[str, tuple[Change, list[Change]]] = {
    "written in place": (
        lambda root: written(root / "m/a.yaml", "1"),
        [lambda root: written(root / "m/a.yaml", "22"), lambda root: written(root / "m/a.yaml", "333")],
    ),
    "replaced by a rename": (
        lambda root: written(root / "m/a.yaml", "1"),
        [lambda root: written(root / "m/.a.yaml", "2").rename(root / "m/a.yaml")] * 2,
    ),
    "new, in a new folder, gone": (
        lambda root: written(root / "m/a.yaml", "1"),
        [
            lambda root: written(root / "m/sub/sub/b.yaml", "1"),
            lambda root: written(root / "m/sub/sub/b.yaml", "22"),
            lambda root: remove(root / "m/sub"),
        ],
    ),
    "the folder is made anew": (
        lambda root: written(root / "m/a.yaml", "1"),
        [
            lambda root: (remove(root / "m"), written(root / "m/a.yaml", "2")),
            lambda root: written(root / "m/a.yaml", "33"),
        ],
    ),
    "the folder is gone for a while": (
        lambda root: written(root / "m/a.yaml", "1"),
        [
            lambda root: remove(root / "m"),
            lambda root: written(root / "m/a.yaml", "2"),
            lambda root: written(root / "m/a.yaml", "33"),
        ],
    ),
    "another folder takes its name": (
        lambda root: (written(root / "m/a.yaml", "1"), written(root / "other/a.yaml", "2")),
        [
            lambda root: ((root / "m").rename(root / "old"), (root / "other").rename(root / "m")),
            lambda root: written(root / "m/a.yaml", "33"),
        ],
    ),
    "what is above it takes another's name": (
        lambda root: (written(root / "m/a.yaml", "1"), written(root / "m2/a.yaml", "2"), replace(root / "m3", "m")),
        [
            lambda root: (root / "m").rename(root / "m1"),
            lambda root: (root / "m2").rename(root / "m"),
            lambda root: written(root / "m/a.yaml", "33"),
        ],
    ),
    "a mounted ConfigMap": (
        lambda root: (
            written(root / "m/..1/a.yaml", "1"),
            written(root / "m/..2/a.yaml", "1"),
            replace(root / "m/..data", "..1"),
            replace(root / "m/a.yaml", "..data/a.yaml"),
        ),
        [lambda root: replace(root / "m/..data", "..2"), lambda root: replace(root / "m/..data", "..1")],
    ),
    "a link to a folder elsewhere": (
        lambda root: (
            written(root / "v1/a.yaml", "1"),
            written(root / "v2/a.yaml", "1"),
            replace(root / "current", "v1"),
            replace(root / "m", root / "current"),
        ),
        [
            lambda root: written(root / "v1/a.yaml", "22"),
            lambda root: replace(root / "current", "v2"),
            lambda root: written(root / "v2/a.yaml", "22"),
            lambda root: replace(root / "m", "v1"),
            lambda root: written(root / "v1/a.yaml", "333"),
        ],
    ),
    "a link in it to a file elsewhere": (
        lambda root: (
            written(root / "m/b.yaml", "1"),
            written(root / "far/v1/a.yaml", "1"),
            written(root / "far/v2/a.yaml", "1"),
            replace(root / "far/current", "v1"),
            replace(root / "m/a.yaml", "../far/current/a.yaml"),
        ),
        [
            lambda root: written(root / "far/v1/a.yaml", "22"),
            lambda root: replace(root / "far/current", "v2"),
            lambda root: written(root / "far/v2/a.yaml", "22"),
        ],
    ),
    "a link that leads nowhere for a while": (
        lambda root: (written(root / "m/b.yaml", "1"), replace(root / "m/a.yaml", "../a.yaml")),
        [lambda root: written(root / "a.yaml", "1"), lambda root: remove_file(root / "a.yaml")],
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.usefixtures("way")
def test_a_folder(tmp_path: Path, name: str) -> None:
    prepare, changes = FOLDERS[name]
    prepare(tmp_path)
    with following(tmp_path / "m") as followed:
        for change in changes:
            change(tmp_path)
            followed.wait()


@pytest.mark.parametrize("name", [name for name in FOLDERS if name != "new, in a new folder, gone"])
@pytest.mark.usefixtures("way")
def test_a_file(tmp_path: Path, name: str) -> None:
    prepare, changes = FOLDERS[name]
    prepare(tmp_path)
    with following(tmp_path / "m" / "a.yaml") as followed:
        for change in changes:
            change(tmp_path)
            followed.wait()


def test_what_does_not_count_is_no_turn(tmp_path: Path) -> None:
    """Beside a file there may be anything, and much of it."""
    file = written(tmp_path / "a.yaml", "1")
    with following(file) as followed:
        for number in range(20):
            written(tmp_path / f"{number}.log", "1")
            written(tmp_path / "deep/below" / f"{number}.yaml", "1")
        assert followed.settle() == 0


def test_links_that_lead_round_and_round_end(tmp_path: Path) -> None:
    """Twelve folders with a link to each: every way through them is 12! ways."""
    folders = [tmp_path / f"{number}" for number in range(12)]
    for folder in folders:
        folder.mkdir()
        for other in folders:
            (folder / f"to{other.name}").symlink_to(other)
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    with following(tmp_path, tmp_path / "loop.yaml") as followed:
        written(folders[3] / "a.yaml", "1")
        followed.wait()


def test_without_inotify_watches_there_is_looking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import watchfiles

    def used_up(*_: object, **__: object) -> Iterator[None]:
        raise OSError(28, "OS file watch limit reached.")
        yield

    monkeypatch.setattr(watchfiles, "watch", used_up)
    file = written(tmp_path / "a.yaml", "1")
    with following(file) as followed:
        written(file, "22")
        followed.wait()


def test_a_look_takes_no_more_than_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand files on a slow disk are not looked at each second."""
    costs: list[float] = []
    original = watched_files._Look

    class Slow(original):  # type: ignore[misc, valid-type]
        def __init__(self, paths: list[str]) -> None:
            super().__init__(paths)
            self.cost = 1.0
            costs.append(self.cost)

    monkeypatch.setattr(watched_files, "_Look", Slow)
    file = written(tmp_path / "a.yaml", "1")
    with following(file) as followed:
        before = len(costs)
        assert followed.settle() == 0
        assert followed.stopping.wait(1.5) is False
        assert len(costs) - before <= 1
