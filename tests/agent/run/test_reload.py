"""The configuration file is followed; what the host could not follow is left alone for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from rulegen.agent.run.reload import ConfigurationWatch, Refused
from rulegen.config import Configuration, NodeConfiguration
from rulegen.errors import InputError
from tests.agent.running import wait_until
from tests.patience import patience


def _named(name: str) -> Configuration:
    return Configuration(node=NodeConfiguration(node_name=name))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The name of a node, which is all that this configuration says; "" is a faulty one."""
    made = tmp_path / "config"
    made.write_text("new")
    return made


@contextmanager
def _watched(file: Path, refused_for: float) -> Iterator[tuple[ConfigurationWatch, Callable[[], bool]]]:
    """Of a node "old", where "new" was refused; and whether what is read next has been read."""
    told = threading.Event()
    read = threading.Event()

    def load() -> Configuration:
        read.set()
        if not (name := file.read_text()):
            raise InputError("nothing in it")
        return _named(name)

    watch = ConfigurationWatch([str(file)], load, told.set)
    refused = Refused(_named("new"), "the port is taken", time.monotonic() + refused_for)
    with closing(watch):
        watch.start(_named("old"), refused)
        assert read.wait(patience(5.0))
        yield watch, told.is_set


def test_what_was_refused_is_tried_again_later_and_is_a_problem_until_then(file: Path) -> None:
    with _watched(file, 1.0) as (watch, is_told):
        time.sleep(0.3)
        assert not is_told()
        assert watch.problem() == "the port is taken"
        wait_until(is_told)
        assert watch.take() == _named("new")
        assert not watch.problem()


def test_something_else_is_used_at_once(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with _watched(file, 600.0) as (watch, is_told):
        file.write_text("")
        wait_until(lambda: watch.problem() == "nothing in it")
        file.write_text("new")
        wait_until(lambda: watch.problem() == "the port is taken")
        file.write_text("another")
        wait_until(is_told)
        assert watch.take() == _named("another")
        assert not watch.problem()
    assert "in use again" not in caplog.text


def test_what_the_file_does_not_say_any_more_is_not_tried_again(file: Path) -> None:
    with _watched(file, 0.8) as (watch, is_told):
        file.write_text("old")
        time.sleep(1.5)
        assert not is_told()
        assert not watch.problem()
