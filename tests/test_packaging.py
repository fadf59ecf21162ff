"""The package as it is installed: what is in the wheel, what a clone finds, and what a start of the command loads."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rulegen import __version__
from rulegen.resources import templates

REPOSITORY = Path(__file__).parents[1]

# Each of these takes longer to import than the rest of a short command takes to run.
SLOW_TO_IMPORT = {"jinja2", "kubernetes", "nftables", "pyroute2", "rich", "yaml"}


@pytest.fixture(scope="module")
def installed_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's files, as pip would lay them out; built without the network."""
    built = tmp_path_factory.mktemp("built")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", built], cwd=REPOSITORY, check=True)
    (wheel,) = built.glob("*.whl")
    installed = tmp_path_factory.mktemp("site-packages")
    zipfile.ZipFile(wheel).extractall(installed)
    return installed


def _files(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def _run(script: str, *, path: Path) -> str:
    """What a script prints that finds rulegen in `path`."""
    script = f"import sys; sys.path.insert(0, {str(path)!r})\n{script}"
    finished = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_a_clone_finds_the_templates_at_the_top_of_the_repository() -> None:
    assert templates("nftables") == REPOSITORY / "templates" / "nftables"
    assert templates("nftables").is_dir()


def test_the_wheel_carries_the_package_with_the_templates_and_nothing_else(installed_wheel: Path) -> None:
    assert {path.name for path in installed_wheel.iterdir()} == {"rulegen", f"rulegen-{__version__}.dist-info"}
    templates_inside = {f"templates/{name}": text for name, text in _files(REPOSITORY / "templates").items()}
    assert _files(installed_wheel / "rulegen") == _files(REPOSITORY / "rulegen") | templates_inside


def test_an_installed_wheel_finds_its_own_templates(installed_wheel: Path) -> None:
    script = "from rulegen.resources import templates; print(templates('nftables'))"
    assert _run(script, path=installed_wheel).strip() == str(installed_wheel / "rulegen" / "templates" / "nftables")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["render", "--help"], ["apply", "--help"]])
def test_help_loads_nothing_slow(arguments: list[str]) -> None:
    script = f"""
from rulegen.cli import main
sys.argv = ["rulegen", *{arguments!r}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(sorted({SLOW_TO_IMPORT!r} & sys.modules.keys()))
"""
    assert _run(script, path=REPOSITORY).splitlines()[-1] == "[]"
