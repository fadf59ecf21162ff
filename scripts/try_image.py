#!/usr/bin/env python3
"""Performs the steps of deploy/Containerfile in folders, for machines that have no container engine.

    scripts/try_image.py /var/tmp/rulegen-image && chroot /var/tmp/rulegen-image/2 /opt/rulegen/bin/rulegen --version

Needs root, debootstrap and the network. Each stage is a folder, 1 and 2, that begins as the Debian that debootstrap
makes. It is no builder: it knows the instructions that the Containerfile uses, and leaves the folder to be removed.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from debian_root import copy_path, make_root

REPOSITORY = Path(__file__).resolve().parents[1]
CONTAINERFILE = REPOSITORY / "deploy" / "Containerfile"

_RELEASE = re.compile(r"debian:(\w+)-slim")


def main() -> None:
    """Builds below the folder that is named on the command line."""
    folder = Path(sys.argv[1])
    text = CONTAINERFILE.read_text()
    base = folder / "base"
    make_root(base, _RELEASE.findall(text)[0])
    stages: list[Path] = []
    names: dict[str, Path] = {}
    for word, rest in instructions(text):
        print(word, rest, flush=True)  # noqa: T201 - what a person watches
        match word:
            case "FROM":
                stages.append(folder / str(len(stages) + 1))
                names[rest.partition(" AS ")[2]] = stages[-1]
                subprocess.run(["cp", "--archive", base, stages[-1]], check=True)
            case "RUN":
                subprocess.run(["chroot", stages[-1], "/bin/sh", "-c", rest], check=True)
            case "COPY":
                _copy(shlex.split(rest), stages[-1], names)
            case "ARG" | "ENV" | "USER" | "EXPOSE" | "ENTRYPOINT":
                pass  # how the image is run
            case _:
                sys.exit(f"{CONTAINERFILE}: {word}: not an instruction that is known here")
    shutil.rmtree(base)


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """The instructions of a Containerfile, each with its words as one line."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = line.partition(" ")
        yield word, " ".join(rest.split())


def _copy(words: list[str], stage: Path, names: dict[str, Path]) -> None:
    source = REPOSITORY
    if words[0].startswith("--from="):
        source = names[words.pop(0).removeprefix("--from=")]
    *files, last = (word.lstrip("/") for word in words)
    for file in files:
        copy_path(source / file, stage / last / ("" if (source / file).is_dir() else Path(file).name))


if __name__ == "__main__":
    main()
