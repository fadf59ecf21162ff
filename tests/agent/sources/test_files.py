"""What a folder of manifests tells an agent, reading by reading."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from rulegen.agent.sources.files import FileSource
from rulegen.errors import InputError
from rulegen.features import kinds_of
from rulegen.kube.follow import Delete, FileUnusable, FileUsable, FollowEvent, Invalid, Synced, Upsert
from rulegen.kube.objects import Service
from tests.agent.running import save, web

BROKEN = "apiVersion: v1\nkind: Service\nmetadata: [\n"
ODD = "apiVersion: apps/v1\nkind: Deployment\nspec: {a: 1, a: !!int x, b: !thing c, d: *nobody}\n"


def service_text(name: str, address: str) -> str:
    return (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n"
        f"spec: {{clusterIP: {address}, ports: [{{port: 80}}]}}\n"
    )


class Told:
    """A source whose readings are asked for; `read` says what one told: names of Services, `-name` of removed ones."""

    def __init__(self, *paths: Path) -> None:
        self._events: list[FollowEvent] = []
        self._source = FileSource([str(path) for path in paths], tuple(kinds_of(())), self._events.extend)

    def read(self) -> list[str]:
        self._source.read()
        told = []
        for event in self._events:
            if isinstance(event, Upsert) and isinstance(event.item, Service):
                told.append(event.item.metadata.name)
            elif isinstance(event, Delete) and event.kind is Service:
                told.append(f"-{event.name}")
            elif isinstance(event, Synced) and event.kind is Service:
                told.append("synced")
        self._events.clear()
        return told


def test_a_broken_file_keeps_what_it_meant_and_holds_nobody_up(tmp_path: Path) -> None:
    first, second = tmp_path / "1.yaml", tmp_path / "2.yaml"
    first.write_text("---\n".join([service_text("a", "10.96.0.1"), service_text("b", "10.96.0.2")]))
    second.write_text(service_text("c", "10.96.0.3"))
    told = Told(tmp_path)
    assert told.read() == ["a", "b", "c", "synced"]
    first.write_text("---\n".join([service_text("a", "10.96.0.9"), BROKEN]))
    second.write_text(service_text("d", "10.96.0.4"))
    assert told.read() == ["d", "-c"]
    # Cut off in the middle of what is nobody's business: what was behind it is not known.
    first.write_text("---\n".join([service_text("a", "10.96.0.9"), "apiVersion: apps/v1\nkind: Deployment\nspec: 'a"]))
    assert told.read() == []
    first.write_text("---\n".join([service_text("a", "10.96.0.9"), ODD, service_text("b", "10.96.0.2")]))
    assert told.read() == ["a"]
    first.write_text("---\n".join([BROKEN.replace("Service", "Deployment"), service_text("b", "10.96.0.2")]))
    assert told.read() == ["-a"]


def test_a_file_that_is_broken_at_the_start_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "1.yaml"
    file.write_text("---\n".join([service_text("a", "10.96.0.1"), BROKEN]))
    told = Told(tmp_path)
    assert "synced" not in told.read()
    file.write_text("---\n".join([service_text("a", "10.96.0.1"), ODD]))
    assert told.read() == ["a", "synced"]


def test_mistakes_are_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "all.json"
    save(file, *web(1, 1))
    told = Told(file)
    with caplog.at_level(logging.WARNING):
        assert told.read() == ["web-1", "synced"]
        assert caplog.messages == []
        file.write_text('{"apiVersion": "v1", "kind": "List", "items": []}')
        assert told.read() == ["-web-1"]
        assert told.read() == []
        (message,) = caplog.messages
        assert "probably a mistake: input: holds no Service" in message
        save(file, *web(1, 1))
        told.read()
        save(file)
        told.read()
        assert len(caplog.messages) == 2


def test_what_can_be_read_once_only_is_not_followed(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(InputError, match="neither a file nor a folder"):
            Told(path)


def test_a_pipe_that_takes_a_files_place_holds_nobody_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, folder = tmp_path / "a.yaml", tmp_path / "folder"
    folder.mkdir()
    file.write_text(service_text("a", "10.96.0.1"))
    (folder / "b.yaml").write_text(service_text("b", "10.96.0.2"))
    told, told_of_folder = Told(file), Told(folder)
    assert told.read() == ["a", "synced"]
    assert told_of_folder.read() == ["b", "synced"]
    for path in (file, folder / "b.yaml"):
        path.unlink()
        os.mkfifo(path)
    assert told.read() == []
    assert told_of_folder.read() == []
    unused = [message for message in caplog.messages if message.startswith("file not used: ")]
    assert "neither a file nor a folder" in unused[0]
    assert "b.yaml: a named pipe, not a file" in unused[1]


def test_a_file_that_is_broken_at_the_start_is_said_to_hold_up_everything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.yaml").write_text(service_text("a", "10.96.0.1"))
    (tmp_path / "b.yaml").write_text("kind: [")
    told = Told(tmp_path)
    told.read()
    assert "synced" not in told.read()
    said = "nothing is programmed before every file has been read once, so that no rule goes by mistake"
    assert caplog.messages.count(said) == 1
    (tmp_path / "b.yaml").write_text(service_text("b", "10.96.0.2"))
    assert told.read() == ["b", "synced"]


def test_files_and_objects_that_are_mended_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever was wrong, and also where the file is then as it was before."""
    events: list[FollowEvent] = []

    def read() -> list[FollowEvent]:
        events.clear()
        source.read()
        return [event for event in events if not isinstance(event, Synced)]

    file, other = tmp_path / "a.yaml", tmp_path / "b.yaml"
    good = service_text("a", "10.96.0.1")
    file.write_text(good)
    other.write_text(service_text("b", "10.96.0.2"))
    source = FileSource([str(tmp_path)], tuple(kinds_of(())), events.extend)
    (first, _) = read()
    assert read() == []
    for text in (BROKEN, "", "\0", good.encode("utf-16").decode("latin-1")):
        file.write_text(text)
        (told,) = read()
        assert isinstance(told, FileUnusable)
        assert told.file == str(file)
        assert told.problem.startswith(str(file))
        assert read() == []
        file.write_text(good)
        with caplog.at_level(logging.INFO):
            assert read() == [FileUsable(str(file))]
        assert caplog.messages[-1] == f"file in use again: {file}"
    # One that goes, and a folder that does.
    file.write_text(BROKEN)
    assert [type(event) for event in read()] == [FileUnusable]
    file.unlink()
    with caplog.at_level(logging.INFO):
        assert read() == [Delete(Service, "default", "a"), FileUsable(str(file))]
    assert caplog.messages[-1] == f"file gone, which could not be used: {file}"
    away = tmp_path.with_name("away")
    tmp_path.rename(away)
    (told,) = read()
    assert told == FileUnusable(str(tmp_path), f"{tmp_path}: No such file or directory")
    away.rename(tmp_path)
    assert read() == [FileUsable(str(tmp_path))]
    # An object alone, beside a file that is broken, too.
    file.write_text(good)
    assert read() == [first]
    file.write_text(good.replace("80", "80000"))
    (told,) = read()
    assert isinstance(told, Invalid)
    other.write_text(BROKEN)
    assert [type(event) for event in read()] == [FileUnusable]
    file.write_text(good)
    assert read() == [first]
    assert read() == []


def test_a_reading_that_ends_after_the_source_was_stopped_tells_nothing(tmp_path: Path) -> None:
    """It would come between those of the source that follows, with what may be older."""
    (tmp_path / "a.yaml").write_text(service_text("a", "10.96.0.1"))
    events: list[FollowEvent] = []
    source = FileSource([str(tmp_path)], tuple(kinds_of(())), events.extend)
    source.start()
    source.stop()
    events.clear()
    (tmp_path / "a.yaml").write_text(service_text("a", "10.96.0.2"))
    source.read()
    assert events == []
