"""Which tests are chosen, and what `--fail-on-skip` does, side by side as well: in runs of pytest with other tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

MATRIX = """
import pytest
pytestmark = pytest.mark.part(3)
@pytest.mark.parametrize("number", range(7))
def test_of_many(number): pass
@pytest.mark.part(2)
@pytest.mark.parametrize("number", range(2))
def test_of_two(number): pass
@pytest.mark.part(0)
@pytest.mark.parametrize("number", range(2))
def test_of_few(number): pass
def test_alone(extent): print("exhaustive" if extent.exhaustive else f"seed {extent.seed}")
"""
SKIPS = """
import pytest
@pytest.mark.kernel
def test_skipped(): pytest.skip("no reason")
def test_passes(): pass
"""
SKIPPED_WHOLE = 'import pytest; pytest.skip("not here", allow_module_level=True)'
PROCESSES = pytest.mark.parametrize("processes", ["0", "2"])


def run(tmp_path: Path, text: str, *arguments: str) -> str:
    """What pytest prints, with the project's options and hooks."""
    tests = tmp_path / "test_it.py"
    tests.write_text(text)
    command = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "--rootdir", str(tmp_path)]
    command += ["-p", "no:cacheprovider", "-p", "tests.conftest", *arguments, str(tests)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False).stdout


def chosen(text: str) -> set[str]:
    return {line.split("::")[1] for line in text.splitlines() if "::" in line}


@PROCESSES
def test_one_case_in_n_of_each_test(tmp_path: Path, processes: str) -> None:
    printed = run(tmp_path, MATRIX, "-n", processes)
    assert "tried: a part of the matrices, chosen by seed 0" in printed
    # Three of seven, one of two, both of few, and the one that is no case.
    assert printed.splitlines()[-1].split(" in ")[0].strip("= ").startswith("7 passed")


def test_the_seed_chooses_and_exhaustive_means_all(tmp_path: Path) -> None:
    parts = [chosen(run(tmp_path, MATRIX, "--collect-only", "-q", "--part-seed", str(seed))) for seed in (0, 0, 1, 2)]
    assert parts[0] == parts[1]
    assert len(set(map(frozenset, parts))) > 1
    assert {len(part) for part in parts} == {7}
    assert len(chosen(run(tmp_path, MATRIX, "--collect-only", "-q", "--exhaustive"))) == 12


def test_a_slow_machine_gets_less_of_the_rest(tmp_path: Path) -> None:
    # One of seven, one of two, both of few, and the one that is no case.
    assert len(chosen(run(tmp_path, MATRIX, "--collect-only", "-q", "--one-in", "4"))) == 5


def test_a_test_learns_the_extent(tmp_path: Path) -> None:
    assert "seed 7" in run(tmp_path, MATRIX, "-s", "--part-seed", "7")
    assert "exhaustive" in run(tmp_path, MATRIX, "-s", "--exhaustive")


@pytest.mark.kernel
@PROCESSES
def test_a_skip_is_a_failure_where_it_is_refused(tmp_path: Path, processes: str) -> None:
    assert " 1 passed, 1 skipped in " in run(tmp_path, SKIPS, "-n", processes)
    printed = run(tmp_path, SKIPS, "-n", processes, "--fail-on-skip")
    assert "no reason (refused by --fail-on-skip)" in printed
    assert " 1 failed, 1 passed in " in printed.splitlines()[-1]


@pytest.mark.kernel
@PROCESSES
def test_so_is_a_whole_module(tmp_path: Path, processes: str) -> None:
    assert "1 skipped in " in run(tmp_path, SKIPPED_WHOLE, "-n", processes)
    assert " 1 error in " in run(tmp_path, SKIPPED_WHOLE, "-n", processes, "--fail-on-skip").splitlines()[-1]
