"""One browser for all tests of a process, and what they write a page with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from rulegen.cli import main
from tests.pictures.browser import Browser

WritePage = Callable[..., Path]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@pytest.fixture
def write_page(tmp_path: Path) -> WritePage:
    """The report of some manifests, with options."""

    def write(*words: str) -> Path:
        path = tmp_path / "report.html"
        done = CliRunner().invoke(main, ["report", "-o", str(path), *words], catch_exceptions=False)
        assert done.exit_code == 0, done.stderr
        return path

    return write
