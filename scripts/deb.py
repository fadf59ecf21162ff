#!/usr/bin/env python3
"""Builds the Debian package with Debian's own tools: what `make deb` does.

    scripts/deb.py                    # for this host's release, into dist/
    scripts/deb.py bookworm trixie    # for each of these, in a Debian of its own that debootstrap makes

There is one package for each release, as the Python packages inside are for its Python. They come from PyPI, in the
versions of constraints.txt, as wheels; debian/rules then builds without the network. The same commit and the same
release give the same bytes. Needs debhelper, dh-python and python3-venv; for other releases root and debootstrap.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from debian_root import install, make_root, run_in

REPOSITORY = Path(__file__).resolve().parents[1]
BUILD = REPOSITORY / "build" / "deb"
BUILD_ROOTS = REPOSITORY / "build" / "roots"
DIST = REPOSITORY / "dist"
_MAINTAINER = re.compile(r"^Maintainer: (.*)$", re.MULTILINE)
# What a release's version ends in: a host that goes to the next release gets that one's package.
_SHORT_NAMES = {"debian": "deb"}
# What nobody could add to a private environment later. Without `legacy`: Debian 12 has python3-iptables, which the
# environment sees, and no python-iptables understands the iptables of Debian 13.
_EXTRAS = "dns,pictures"


def main() -> None:
    """As the command line says."""
    releases = sys.argv[1:]
    DIST.mkdir(exist_ok=True)
    for release in releases:
        print(build_in_root(release))  # noqa: T201 - what was asked for
    if not releases:
        print(build_here())  # noqa: T201 - what was asked for


# ---- for this host's release ----


def build_here() -> Path:
    """The package, in dist/. Raises CalledProcessError."""
    version = f"{source_version()}+{_release_suffix()}"
    source = BUILD / f"rulegen-{version}"
    shutil.rmtree(BUILD, ignore_errors=True)
    copy_checkout(source)
    _fetch_wheels(source)
    (source / "debian/changelog").write_text(_changelog(version))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    words = ["dpkg-buildpackage", "--build=binary", "--no-sign"]
    subprocess.run(words, cwd=source, check=True, env={**environment, "LC_ALL": "C.UTF-8"})
    (built,) = BUILD.glob("rulegen_*.deb")
    DIST.mkdir(exist_ok=True)
    return Path(shutil.copy(built, DIST))


def source_version() -> str:
    """The one of rulegen/__init__.py."""
    (version,) = re.findall(r'^__version__ = "(.*)"$', (REPOSITORY / "rulegen/__init__.py").read_text(), re.MULTILINE)
    return str(version)


def _release_suffix() -> str:
    release = platform.freedesktop_os_release()
    return _SHORT_NAMES.get(release["ID"], release["ID"]) + release["VERSION_ID"]


def copy_checkout(folder: Path) -> None:
    """What git knows or would know, as it is now; without git, which a build in another Debian does not have, all."""
    if not (REPOSITORY / ".git").exists():
        shutil.copytree(REPOSITORY, folder, symlinks=True, ignore=shutil.ignore_patterns("build", "dist"))
        return
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE).stdout
    for name in filter(None, os.fsdecode(names).split("\0")):
        if (REPOSITORY / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)


def _fetch_wheels(source: Path) -> None:
    """Its own wheel and all that it needs, for this Python."""
    installer = BUILD / "installer"
    subprocess.run(["/usr/bin/python3", "-m", "venv", installer], check=True)
    pip = [str(installer / "bin/python"), "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    # PyYAML's wheel has a libyaml inside; Debian's gets security updates. With -g it would name the build's folder.
    words = [*pip, "--no-binary", "PyYAML", "--wheel-dir", str(source / "debian/wheels"), f"{source}[{_EXTRAS}]"]
    environment = {**os.environ, "PIP_CONSTRAINT": str(source / "constraints.txt"), "RULEGEN_COMMIT": _commit()}
    environment |= {"PYYAML_FORCE_LIBYAML": "1", "CFLAGS": "-O2 -g0"}
    subprocess.run(words, check=True, env=environment)
    (source / "debian/wheels/extras").write_text(_EXTRAS)


def _commit() -> str:
    return os.environ.get("RULEGEN_COMMIT") or _git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def _changelog(version: str) -> str:
    """debian/changelog, of what CHANGELOG.md says of this version."""
    text = (REPOSITORY / "CHANGELOG.md").read_text()
    section = re.split(r"^## .*\n", text, flags=re.MULTILINE)[1]
    text = section.replace("**", "").replace("`", "").replace("\n  ", " ").replace("\n- ", "\n\n- ")
    paragraphs = [
        " ".join(paragraph.removeprefix("- ").split()) for paragraph in text.split("\n\n") if paragraph.strip()
    ]
    entries = [
        textwrap.fill(paragraph, 76, initial_indent="  * ", subsequent_indent="    ") for paragraph in paragraphs
    ]
    (maintainer,) = _MAINTAINER.findall((REPOSITORY / "debian/control").read_text())
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct"))
    date = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(seconds))
    return "\n".join([f"rulegen ({version}) stable; urgency=medium\n", *entries, f"\n -- {maintainer}  {date}\n"])


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.strip()


# ---- for others ----


def build_in_root(release: str) -> Path:
    """The package of another release, in dist/. Raises CalledProcessError."""
    root = BUILD_ROOTS / f"build-{release}"
    if not (root / "usr/bin/dpkg-buildpackage").exists():
        shutil.rmtree(root, ignore_errors=True)
        make_root(root, release)
        install(root, ("build-essential", "ca-certificates"))
    inside = root / "src"
    shutil.rmtree(inside, ignore_errors=True)
    copy_checkout(inside)
    run_in(root, "apt-get", "build-dep", "-q", "-y", "--no-install-recommends", "/src")
    variables = [f"SOURCE_DATE_EPOCH={_git('log', '-1', '--format=%ct')}", f"RULEGEN_COMMIT={_commit()}"]
    run_in(root, "env", *variables, "python3", "/src/scripts/deb.py")
    (built,) = (inside / "dist").glob("*.deb")
    DIST.mkdir(exist_ok=True)
    return Path(shutil.copy(built, DIST))


if __name__ == "__main__":
    main()
