"""The demo tells its story with real connections, whatever the terminal, and leaves nothing behind."""

from __future__ import annotations

import io
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from rulegen.demo import playground
from rulegen.demo.servers import REFUSED
from tests.lab.fixtures import namespace_or_skip
from tests.lab.statistics import assert_shares

pytestmark = pytest.mark.kernel


def _host_state() -> tuple[str, str, int]:
    """This namespace's rules and interfaces, and how many files this process has open."""
    rules, links = (
        subprocess.run(command, capture_output=True, text=True, check=False).stdout
        for command in (["nft", "list", "ruleset"], ["ip", "-brief", "link"])
    )
    return rules, links, len(list(Path("/proc/self/fd").iterdir()))


def _counted(text: str) -> dict[str, int]:
    """The last column of numbers, by who answered."""
    return {name: int(count) for name, count in re.findall(r"(\S+-\d|connection refused) +\d+ +(\d+)", text)}


@pytest.fixture(autouse=True)
def _host() -> Iterator[None]:
    """A namespace that nobody else changes stands for the host's."""
    with namespace_or_skip() as namespace, namespace.entered():
        yield


def test_the_story() -> None:
    before = _host_state()
    console = Console(file=io.StringIO(), width=80)
    playground.run(console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert _host_state() == before
    assert "…" not in text
    first, second = text.split("Scaling down")
    counted = _counted(first)
    assert counted.pop(REFUSED)
    for shares in (
        {"web-1": 1 / 3, "web-2": 1 / 3, "web-3": 1 / 3},
        {"names-1": 1 / 2, "names-2": 1 / 2},
        {"stable-1": 4 / 9, "stable-2": 4 / 9, "canary-1": 1 / 9},
    ):
        assert_shares({name: counted.pop(name) for name in shares}, shares)
    assert not counted
    assert_shares(_counted(second), {"web-1": 1 / 2, "web-2": 1 / 2})
    assert "still answered by web-3" in second


def test_an_interrupted_story_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _host_state()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(playground, "count_answers", interrupt)
    with pytest.raises(KeyboardInterrupt):
        playground.run(Console(file=io.StringIO()))
    assert _host_state() == before
