"""`make soak`. Exit status 1 when the kernel is not as it should be, or the agent is not."""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from pathlib import Path

import click

from tests.soak.soak import Plan, Soak


@click.command()
@click.option("--seconds", default=600, show_default=True, help="How long; waiting for quiet comes on top.")
@click.option("--services", default=1000, show_default=True, help="Of ten endpoints each, more or less.")
@click.option("--seed", type=int, help="The same seed makes the same changes [default: another one each time].")
def main(seconds: int, services: int, seed: int | None) -> None:
    """Let an agent follow a cluster that changes all the time, with trouble, and compare the kernel with it."""
    seed = random.randrange(1 << 32) if seed is None else seed
    folder = Path(tempfile.mkdtemp(prefix="rulegen-soak-"))
    click.echo(f"seed {seed}, {seconds} s, {services} Services, logs in {folder}")
    try:
        with Soak(Plan(seconds, services, seed), folder, click.echo) as soak:
            soak.run()
    except AssertionError as error:
        click.echo(f"FAILED, seed {seed}, logs in {folder}: {error}")
        sys.exit(1)
    shutil.rmtree(folder)
    click.echo(f"passed, seed {seed}")


if __name__ == "__main__":
    main()
