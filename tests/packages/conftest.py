"""The Debian package of each release, built once for all tests, and a Debian in which it is installed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from deb import build_in_root
from debian_root import run_in

from tests.packages.system import fresh_root

RELEASES = ("bookworm", "trixie")


@pytest.fixture(scope="session", params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def package(release: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, as `make deb` builds it."""
    return Path(shutil.copy(build_in_root(release), tmp_path_factory.mktemp(f"package-{release}")))


@pytest.fixture(scope="session")
def next_package(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a higher version, and with other settings than it had."""
    folder = tmp_path_factory.mktemp("next")
    unpacked = folder / "unpacked"
    subprocess.run(["dpkg-deb", "--raw-extract", package, unpacked], check=True)
    control = unpacked / "DEBIAN/control"
    control.write_text(control.read_text().replace("Version: 0.", "Version: 99.", 1))
    for name in ("etc/default/rulegen", "etc/rulegen/config.conf"):
        with (unpacked / name).open("a") as settings:
            settings.write("# Of the next version.\n")
    subprocess.run(["dpkg-deb", "--build", unpacked, folder / "next.deb"], check=True)
    return folder / "next.deb"


@pytest.fixture(scope="session")
def installed_root(
    release: str, package: Path, next_package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A fresh Debian in which apt has installed the package with what it depends on; it does not run."""
    root = tmp_path_factory.mktemp(f"root-{release}") / "root"
    fresh_root(release, root)
    shutil.copy(package, root / "rulegen.deb")
    shutil.copy(next_package, root / "next.deb")
    run_in(root, "apt-get", "update", "-q")
    run_in(root, "apt-get", "install", "-q", "-y", "/rulegen.deb")
    yield root
    shutil.rmtree(root)


@pytest.fixture
def installed(installed_root: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of it for one test."""
    copy = tmp_path / "root"
    subprocess.run(["cp", "--archive", "--reflink=auto", str(installed_root), str(copy)], check=True)
    yield copy
    shutil.rmtree(copy)
