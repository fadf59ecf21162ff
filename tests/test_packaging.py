"""The package as it is built and installed: what is in it, that it is the same each time, that it works by itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rulegen import __version__
from rulegen.resources import commit, templates
from tests.patience import patience

REPOSITORY = Path(__file__).parents[1]

# Each of these takes longer to import than the rest of a short command takes to run.
SLOW_TO_IMPORT = {"jinja2", "kubernetes", "nftables", "pyroute2", "rich", "yaml"}


COMMIT = "0123456789ab"


def _build(target: str, source: Path, folder: Path) -> Path:
    """The one archive that hatchling makes of a source tree, without the network."""
    words = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(words, cwd=source, check=True, env={**os.environ, "RULEGEN_COMMIT": COMMIT})
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build("wheel", REPOSITORY, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build("sdist", REPOSITORY, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def installed_wheel(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's files, as pip would lay them out."""
    installed = tmp_path_factory.mktemp("site-packages")
    shutil.unpack_archive(wheel, installed, "zip")
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
    written = {"commit": f"{COMMIT}\n".encode()}
    assert _files(installed_wheel / "rulegen") == _files(REPOSITORY / "rulegen") | templates_inside | written


def test_the_sdist_carries_what_the_wheel_is_built_from_and_what_people_read(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {Path(member.name).parts[1] for member in archive.getmembers()}
    read = {"CHANGELOG.md", "LICENSE", "README.md", "docs"}
    # hatchling adds the list of what git ignores, and what PyPI asks for.
    built_from = {
        "constraints.txt",
        "hatch_build.py",
        "pyproject.toml",
        "rulegen",
        "templates",
        ".gitignore",
        "PKG-INFO",
    }
    assert names == read | built_from


@pytest.mark.parametrize("target", ["wheel", "sdist"])
def test_two_builds_give_the_same_bytes(target: str, tmp_path: Path) -> None:
    """Whoever builds, wherever and whenever: the folder, the times and the modes of the files differ here."""
    builds = []
    for number, mask in enumerate((0o022, 0o077)):
        source = tmp_path / f"source-{number}"
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
        for name in filter(None, names.split("\0")):
            if (REPOSITORY / name).exists():
                path = source / name
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(REPOSITORY / name, path)
                path.chmod(0o666 & ~mask)
                os.utime(path, (1_600_000_000 + number, 1_600_000_000 + number))
        builds.append(_build(target, source, tmp_path / f"built-{number}"))
    first, second = builds
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()


def test_a_wheel_from_the_sdist_is_that_from_the_clone(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "--extract", "--file", sdist, "--directory", tmp_path], check=True)
    (source,) = tmp_path.iterdir()
    # Without the variable: an sdist says of which commit it is.
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "built")]
    subprocess.run(words, cwd=source, check=True)
    assert (tmp_path / "built" / wheel.name).read_bytes() == wheel.read_bytes()


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


# ---- as it is installed: an environment that sees no package of the distribution ----


@pytest.fixture(scope="module")
def clean(installed_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of a virtual environment with the wheel and what its metadata asks for, nothing else."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder, system_site_packages=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    shutil.copytree(installed_wheel, packages, dirs_exist_ok=True)
    for name in _needed("rulegen"):
        _lay_out(name, packages)
    command = folder / "bin" / "rulegen"
    command.write_text(f"#!{folder}/bin/python\nfrom rulegen.cli import main\nmain()\n")
    command.chmod(0o755)
    return folder / "bin"


def _needed(name: str, extra: str = "") -> set[str]:
    """What a package asks for, and what that asks for, by name."""
    found: set[str] = set()
    waiting = {(name, extra)}
    seen = set()
    while waiting:
        asked = waiting.pop()
        seen.add(asked)
        requirements = map(Requirement, distribution(asked[0]).requires or ())
        for requirement in requirements:
            if requirement.marker is None or requirement.marker.evaluate({"extra": asked[1]}):
                found.add(canonicalize_name(requirement.name))
                waiting |= {(requirement.name, one) for one in ("", *requirement.extras)} - seen
    return found


def _lay_out(name: str, packages: Path) -> None:
    """Links each file of an installed distribution but its commands."""
    for file in distribution(name).files or ():
        source = Path(str(file.locate()))
        if ".." not in file.parts and source.exists() and source.suffix != ".pyc":
            target = packages / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)


def _clean_run(clean: Path, *arguments: str, folder: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{clean}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}
    words = [str(clean / "rulegen"), *arguments]
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=patience(60), check=False
    )


SCENARIO = ("-f", "golden/clusterip/cluster.yaml", "--node", "node-a")


def test_the_version_is_said_with_the_commit(clean: Path) -> None:
    assert _clean_run(clean, "--version").stdout == f"rulegen {__version__} ({COMMIT})\n"


def test_a_clone_says_its_own_commit() -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert head.stdout.startswith(commit().removesuffix("-dirty"))
    assert len(commit().removesuffix("-dirty")) == 12


def test_the_changelog_speaks_of_this_version() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (\d+\.\d+\.\d+)\b", text, re.MULTILINE)[0] == __version__


@pytest.mark.parametrize(
    "arguments",
    [
        ("render", *SCENARIO),
        ("render", *SCENARIO, "--target", "iptables"),
        ("render", *SCENARIO, "--feature", "network-policies", "--feature", "host-ports"),
        ("explain", "default/web", *SCENARIO),
        ("explain", *SCENARIO, "--from", "10.128.0.5", "--to", "10.96.0.10:80/tcp"),
        ("lint", *SCENARIO),
        ("report", *SCENARIO, "-o", "-"),
        ("graph", "default/web", *SCENARIO, "-o", "dot"),
        ("golden", "check", "golden/clusterip"),
        ("agent", "--help"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_needs_no_kernel_works_without_the_distributions_packages(clean: Path, arguments: tuple[str, ...]) -> None:
    done = _clean_run(clean, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize(
    ("arguments", "skipped"),
    [(("env", "default"), "3 EndpointSlice, 3 Node"), (("render", "--feature", "records"), "3 Node")],
    ids=["env", "records"],
)
def test_what_is_no_rule_needs_no_package_of_the_distribution_either(
    clean: Path, arguments: tuple[str, ...], skipped: str
) -> None:
    done = _clean_run(clean, *arguments, "-f", "golden/clusterip/cluster.yaml")
    assert (done.returncode, done.stderr) == (0, f"rulegen: skipped objects of kinds that are not read: {skipped}\n")
    assert done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("diff", "-f", "golden/clusterip/cluster.yaml", "--config", "tests/packages/records.yaml"),
            "the feature records needs the Python package dnspython: pip install 'rulegen[dns]'",
        ),
        (
            ("graph", "default/web", *SCENARIO, "-o", "svg"),
            "drawing an SVG needs the Python package quickjs-ng: pip install 'rulegen[pictures]'; ",
        ),
    ],
    ids=["dns", "pictures"],
)
def test_what_an_extra_brings_is_named_where_it_is_missing(
    clean: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = _clean_run(clean, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f"rulegen: {message}")


@pytest.mark.parametrize("target", ["nftables", "iptables"])
def test_a_file_of_rules_is_compared_without_the_distributions_packages(
    clean: Path, target: str, tmp_path: Path
) -> None:
    rules = tmp_path / "rules"
    rules.write_text(_clean_run(clean, "render", *SCENARIO, "--target", target).stdout)
    same = _clean_run(clean, "diff", *SCENARIO, "--target", target, "--against", str(rules))
    assert (same.returncode, same.stdout) == (0, "0 added, 0 changed, 0 removed\n"), same.stderr
    proven = _clean_run(clean, "verify", *SCENARIO, "--target", target, "--rendered", str(rules))
    assert (proven.returncode, proven.stderr) == (0, "")
    other = ("-f", "golden/hairpin/cluster.yaml", "--node", "node-a")
    assert _clean_run(clean, "diff", *other, "--target", target, "--against", str(rules)).returncode == 1


@pytest.mark.kernel
def test_what_needs_libnftables_says_what_to_install(clean: Path) -> None:
    words = ["unshare", "--net", str(clean / "rulegen"), "apply", *SCENARIO]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=patience(60), check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "rulegen: the Python module nftables is missing: install python3-nftables (Debian, Ubuntu) or nftables "
        "(Fedora), and rulegen for the distribution's Python with --system-site-packages: docs/install.md\n"
    )


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nftables", "cannot run nft: install the package nftables"),
        ("iptables", "iptables is not installed: neither iptables-nft-save nor iptables-legacy-save is there"),
    ],
)
def test_a_program_that_is_missing_is_named(clean: Path, target: str, message: str) -> None:
    words = ["/usr/bin/unshare", "--net", str(clean / "rulegen"), "apply", *SCENARIO, "--target", target]
    done = subprocess.run(
        words,
        cwd=REPOSITORY,
        env={"PATH": str(clean)},
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, f"rulegen: {message}\n")
