"""The wheel, installed as people do: by pip, pipx and uv, with what PyPI has, on this Python."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rulegen import __version__
from tests.patience import patience

pytestmark = pytest.mark.packages

REPOSITORY = Path(__file__).parents[2]
SCENARIO = ("-f", str(REPOSITORY / "golden/clusterip/cluster.yaml"), "--node", "node-a")


def _run(*words: str | Path, **environment: str) -> str:
    done = subprocess.run(
        list(map(str, words)),
        capture_output=True,
        text=True,
        timeout=patience(120),
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an environment with pipx, uv, and what knows the schemas of CI systems."""
    folder = tmp_path_factory.mktemp("tools")
    _run("/usr/bin/python3", "-m", "venv", folder)
    _run(folder / "bin/pip", "install", "--quiet", "check-jsonschema", "pipx", "pre-commit", "uv")
    return folder / "bin"


def _try(command: Path) -> None:
    assert _run(command, "--version").startswith(f"rulegen {__version__} (")
    assert "10.96.0.20 . tcp . 80" in _run(command, "render", *SCENARIO)
    assert "0 different" in _run(command, "golden", "check", REPOSITORY / "golden/clusterip")


def test_pip_in_an_environment_without_the_distributions_packages(wheel: Path, tmp_path: Path) -> None:
    _run("/usr/bin/python3", "-m", "venv", tmp_path / "venv")
    # The newest of everything, as a person gets it, not what constraints.txt says.
    _run(tmp_path / "venv/bin/pip", "install", "--quiet", wheel)
    _try(tmp_path / "venv/bin/rulegen")


def test_pipx(wheel: Path, tools: Path, tmp_path: Path) -> None:
    places = {"PIPX_HOME": str(tmp_path / "home"), "PIPX_BIN_DIR": str(tmp_path / "bin")}
    options = ("--python", "/usr/bin/python3", "--system-site-packages")
    _run(tools / "pipx", "install", "--quiet", *options, wheel, **places)
    _try(tmp_path / "bin/rulegen")
    # Such an environment sees python3-nftables: rules are loaded.
    assert "applied" in _run("unshare", "--net", tmp_path / "bin/rulegen", "apply", *SCENARIO)


def test_uv(wheel: Path, tools: Path, tmp_path: Path) -> None:
    places = {"UV_TOOL_DIR": str(tmp_path / "tools"), "UV_TOOL_BIN_DIR": str(tmp_path / "bin")}
    _run(tools / "uv", "tool", "install", "--quiet", "--python", "/usr/bin/python3", wheel, **places)
    _try(tmp_path / "bin/rulegen")


def test_the_github_action_installs_it(tmp_path: Path) -> None:
    import yaml

    install, _ = yaml.safe_load((REPOSITORY / "action.yml").read_text())["runs"]["steps"]
    words = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", install["run"])
    _run(*words, RUNNER_TEMP=str(tmp_path), ACTION=str(REPOSITORY))
    _try(tmp_path / "rulegen/bin/rulegen")


def test_ci_systems_take_the_files(tools: Path, tmp_path: Path) -> None:
    """The action and the manifest of hooks, and what docs/ci.md shows, against the published schemas."""
    blocks = re.findall(r"^```yaml\n(.*?)^```$", (REPOSITORY / "docs/ci.md").read_text(), re.MULTILINE | re.DOTALL)
    names = {"on": "workflow", "repos": "hooks", "check-services": "gitlab"}
    for block in blocks:
        (tmp_path / f"{names[block.partition(':')[0]]}.yaml").write_text(block)
    check = tools / "check-jsonschema"
    _run(check, "--builtin-schema", "vendor.github-actions", REPOSITORY / "action.yml")
    _run(check, "--builtin-schema", "vendor.github-workflows", tmp_path / "workflow.yaml")
    _run(check, "--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci", tmp_path / "gitlab.yaml")
    _run(tools / "pre-commit", "validate-manifest", REPOSITORY / ".pre-commit-hooks.yaml")
    _run(tools / "pre-commit", "validate-config", tmp_path / "hooks.yaml")
