"""`rulegen golden`: a repository's scenarios checked, rewritten and recorded by `golden.py` and those beside it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from rulegen.commands.command import Command, Group
from rulegen.commands.options import OUTPUT, input_options, pack
from rulegen.commands.output import EXIT_DIFFERENT, echo, fail, print_document
from rulegen.commands.progress import each
from rulegen.commands.reading import read_objects
from rulegen.errors import legible

if TYPE_CHECKING:
    from pathlib import Path

    from rulegen.config import Configuration
    from rulegen.golden_reports import Checked


# What stands for standard input, and is the name of no file.
STDIN = "-"


@click.group(cls=Group)
def golden() -> None:
    """Check a repository's scenarios against what rulegen renders, or rewrite them."""


_DEPTH = click.option(
    "--depth",
    type=click.Choice(["flows", "entries", "ruleset"]),
    help="What is compared: what becomes of packets, the entries of the rules too, or every byte of them. "
    "[default: what each scenario says, or flows]",
)


@golden.command("check", cls=Command)
@click.argument("folders", nargs=-1, required=True, metavar="DIR...")
@_DEPTH
@click.option("--verify", is_flag=True, help="Prove for every packet that the rulesets do what the objects mean.")
@click.option("--junit", metavar="FILE", help="Also write the result as JUnit XML.")
@click.option("--github", is_flag=True, help="Print the failures as annotations of a GitHub workflow.")
@OUTPUT
def golden_check(
    folders: tuple[str, ...], depth: str | None, verify: bool, junit: str | None, github: bool, output: str
) -> None:
    """Compare each scenario below DIR with what is written down. Exit status 0: equal, 1: different, 2: error.

    With --verify the rulesets are loaded in a network namespace of their own, which needs root or user namespaces.

    \b
    Examples:
      rulegen golden check golden
      rulegen golden check scenarios --junit report.xml
    """
    from pathlib import Path

    from rulegen import golden as scenarios
    from rulegen import golden_reports as reports

    if github and output == "json":
        fail("--github and -o json: one of them, as either is what is printed")
    if junit == STDIN:
        fail("--junit: expected the name of a file: the failures are printed as lines")
    paths = scenarios.find_scenarios(folders)
    wanted = scenarios.Depth(depth) if depth else None
    read = scenarios.read_scenarios(paths)
    checked = [
        reports.Checked(scenario.folder, scenarios.check(scenario, wanted))
        for scenario in each("checking scenarios", read, len(read))
    ]
    if verify:
        from rulegen.golden_proofs import prove

        checked = [
            reports.Checked(one.folder, one.difference.with_more(prove(scenario)))
            for one, scenario in each("proving scenarios", zip(checked, read, strict=True), len(read))
        ]
    strays = scenarios.unused(folders, read, wanted)
    if output == "json":
        import msgspec

        from rulegen.commands.documents import VERSION, GoldenDocument

        print_document(msgspec.convert({"version": VERSION, **reports.document(checked, strays)}, GoldenDocument))
    elif github:
        for line in reports.github_annotations(checked, strays):
            echo(line)
    else:
        _print_golden(checked, strays)
    # Where that fails, what was found is not lost.
    if junit:
        scenarios.write_text(Path(junit), reports.junit(checked))
    sys.exit(EXIT_DIFFERENT if strays or any(one.difference for one in checked) else 0)


def _print_golden(checked: Sequence[Checked], strays: Sequence[Path]) -> None:
    for one in checked:
        for failure in one.difference.failures:
            echo(str(failure))
        for line in one.difference.ruleset:
            echo(line.rstrip("\n"), fg={"+": "green", "-": "red"}.get(line[0]))
    for path in strays:
        echo(f"{path}: no scenario has this configuration any more")
    echo(f"{len(checked)} scenarios, {sum(bool(one.difference) for one in checked)} different")


@golden.command("update", cls=Command)
@click.argument("folders", nargs=-1, required=True, metavar="DIR...")
@_DEPTH
@click.option(
    "--flows", is_flag=True, help="Rewrite the expectations of flows that end otherwise now, not the rulesets."
)
@OUTPUT
def golden_update(folders: tuple[str, ...], depth: str | None, flows: bool, output: str) -> None:
    """Rewrite the rulesets of the scenarios below DIR that are checked as deep as that, or their flows' expectations.

    \b
    Examples:
      rulegen golden update golden && git diff golden
      rulegen golden update --flows scenarios && git diff scenarios
    """
    from rulegen import golden as scenarios
    from rulegen.golden_recording import accept_flows

    if flows and depth:
        fail("--depth means nothing with --flows: it is about the rulesets")
    paths = scenarios.find_scenarios(folders)
    wanted = scenarios.Depth(depth) if depth else None
    read = scenarios.read_scenarios(paths)
    say_line = echo if output == "text" else _say_nothing
    rewritten: list[list[Path]] = []
    for scenario in read:
        if flows:
            changed = [scenario.flows_file] if accept_flows(scenario) else []
        else:
            changed = scenarios.update(scenario, wanted)
        rewritten.append(changed)
        for path in changed:
            say_line(f"rewrote {path}")
    removed = [] if flows else scenarios.unused(folders, read, wanted)
    for path in removed:
        scenarios.remove_file(path)
        say_line(f"removed {path}")
    say_line(f"{len(paths)} scenarios, {sum(map(bool, rewritten))} rewritten")
    if output == "json":
        from rulegen.commands.documents import GoldenUpdateDocument

        files = [legible(str(path)) for changed in rewritten for path in changed]
        print_document(GoldenUpdateDocument(len(paths), files, [legible(str(path)) for path in removed]))


def _say_nothing(text: str) -> None:
    """A document says it all at the end."""


@golden.command("record", cls=Command)
@click.argument("folder", metavar="DIR")
@input_options
@click.option(
    "--packets",
    required=True,
    metavar="FILE",
    help="Lines FROM TO, such as `10.128.0.9 10.96.0.20:80/tcp`; - for standard input.",
)
def golden_record(folder: str, packets: str, **options: Any) -> None:
    """Make a scenario in DIR: the objects, the packets, and as expectations what becomes of them today.

    \b
    Example:
      rulegen snapshot > cluster.yaml
      rulegen golden record scenarios/web -f cluster.yaml --node worker-1 --packets packets.txt
    """
    from pathlib import Path

    from rulegen.configuration_file import kube_proxy_fields, written_policy_settings
    from rulegen.egress.configuration import written_egress_settings
    from rulegen.golden import text_of
    from rulegen.golden_recording import record
    from rulegen.paths import read_named

    source = pack(options)
    if packets == STDIN and STDIN in source.files:
        fail("standard input can be read once: name a file with -f or with --packets")
    manifests, configuration = read_objects(source)
    content = sys.stdin.buffer.read() if packets == STDIN else read_named(packets)
    lines = text_of(content, "standard input" if packets == STDIN else packets).splitlines()
    settings = kube_proxy_fields(source.config) if source.config else {}
    own = {
        "features": _optional_features(configuration),
        "networkPolicies": written_policy_settings(configuration.node.policies),
        **written_egress_settings(configuration.node.egress),
    }
    scenario = record(Path(folder), manifests, configuration.node.node_name, settings, own, lines)
    echo(f"recorded {len(scenario.flows)} flows in {folder}")


def _optional_features(configuration: Configuration) -> list[str]:
    """The features that somebody asked for."""
    from rulegen.features import ALWAYS

    return [name for name in configuration.features if name not in ALWAYS]
