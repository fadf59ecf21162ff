"""`rulegen verify`: the questions that `rulegen/verify` answers, and its reports as text or as a document."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from rulegen.commands.command import Command
from rulegen.commands.options import OUTPUT, Input, input_options, pack, target_options
from rulegen.commands.output import colour, echo, fail, print_document, say_warning, terminal
from rulegen.commands.reading import read_input, read_settings, services_of
from rulegen.commands.targets import driver_of, rendered_rules, variant_named

if TYPE_CHECKING:
    from rulegen.services.store import Store
    from rulegen.verify.report import Report
    from rulegen.verify.rulesets import Source


@click.command(cls=Command)
@input_options
@target_options
@click.option("--rendered", metavar="FILE", help="Verify a file with rules, instead of what is in the kernel.")
@click.option("--against", metavar="FILE", help="Compare with another file with rules, and not with what objects mean.")
@click.option(
    "--replaces",
    type=click.Choice(["kube-proxy"]),
    help="Compare kube-proxy's rules, in the kernel or in --rendered, with those that rulegen would put there.",
)
@OUTPUT
def verify(rendered: str | None, against: str | None, replaces: str | None, output: str, **options: Any) -> None:
    """Prove, for every packet, that rules do what the objects mean. Applies nothing.

    Exit status 0: equal, 1: different, 2: it cannot be told, or an error.

    \b
    Examples:
      rulegen verify -f cluster.yaml --node worker-1
      rulegen verify -f cluster.yaml --node worker-1 --rendered rules.nft
      rulegen verify -f cluster.yaml --config kube-proxy.conf --replaces kube-proxy
      rulegen verify --rendered old.nft --against new.nft
    """
    from rulegen.verify import report, rulesets

    if against and (replaces or not rendered):
        fail("--against compares two files: name the other one with --rendered, and no --replaces")
    source = pack(options)
    has_objects = bool(source.files or source.kubeconfig)
    if against and source.features and not has_objects:
        fail(
            "--feature says what is read of objects: with --against, two files are compared whole; name objects with -f"
        )
    with _counting() as progress:
        if against is not None and rendered is not None:
            found = _verify_files(source, (rendered, against), progress, has_objects=has_objects)
        elif replaces:
            theirs = rulesets.read_file(rendered) if rendered else rulesets.live_kube_proxy()
            found = _verify_replacement(options, theirs, progress, is_live=not rendered)
        else:
            found = _verify_objects(source, rendered, options["iptables_variant"], progress)
    if output == "json":
        import msgspec

        from rulegen.commands.documents import VERSION, VerifyDocument

        print_document(msgspec.convert({"version": VERSION, **report.document(found)}, VerifyDocument))
    else:
        for line in report.lines(found):
            echo(line)
    sys.exit(found.status)


def _verify_objects(source: Input, rendered: str | None, variant: str, progress: Callable[[int], None]) -> Report:
    from rulegen.config import Target as Kind
    from rulegen.features import REGISTRY
    from rulegen.verify import questions, rulesets

    wanted, configuration = read_input(source)
    store = services_of(wanted.features).store
    if rendered is not None:
        rules, addresses = rulesets.read_file(rendered), _stated_addresses(store)
    else:
        own = rulesets.Program.RULEGEN
        is_nftables = configuration.target is Kind.NFTABLES
        rules = (
            rulesets.live_nftables(own, REGISTRY)
            if is_nftables
            else rulesets.live_iptables(own, variant_named(variant))
        )
        addresses = _host_addresses()
    return questions.against_objects(rules, store, configuration.node, addresses, progress, wanted.features)


def _verify_replacement(
    options: Mapping[str, Any], theirs: Source, progress: Callable[[int], None], *, is_live: bool
) -> Report:
    """Of rulegen's rules those of the Services. `is_live`: `theirs` are this host's, so that its addresses count."""
    from rulegen.verify import questions, rulesets

    wanted, configuration = read_input(pack(options))
    services, node = services_of(wanted.features), configuration.node
    text = "".join(rendered_rules(wanted.only(services), node, driver_of(configuration, options)))
    ours = rulesets.read_text(text, f"rulegen's on {configuration.target.value}")
    ours = ours._replace(uncovered=questions.beyond_kube_proxy(wanted.features))
    store = services.store
    addresses = _host_addresses() if is_live else _stated_addresses(store)
    return questions.replacing_kube_proxy(theirs, ours, store, node, addresses, progress)


def _verify_files(
    source: Input, paths: tuple[str, str], progress: Callable[[int], None], *, has_objects: bool
) -> Report:
    """`has_objects`: they say which addresses are the node's, and which its pods'."""
    from rulegen.verify import questions, rulesets

    known = questions.KnownAddresses()
    if has_objects:
        wanted, configuration = read_input(source)
        store = services_of(wanted.features).store
        known = questions.known_addresses(store, configuration.node, _stated_addresses(store), wanted.features)
    else:
        configuration = read_settings(source, say_warning)
    left, right = (rulesets.read_file(path) for path in paths)
    return questions.against_rules(left, right, 1 << configuration.node.masquerade_bit, known, progress)


def _stated_addresses(store: Store) -> Sequence[str]:
    """The node's own, as its Node object states them; others are tried as well."""
    from rulegen.services.node import host_addresses

    return host_addresses(store.node)


def _host_addresses() -> Sequence[str]:
    from rulegen.interfaces import host_families, own_addresses

    return [address for family in host_families() for address in own_addresses(family)]


@contextmanager
def _counting() -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, which counts the classes of packets."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,}"), TimeElapsedColumn())
    with Progress(*columns, console=terminal(colour()), transient=True) as bar:
        task = bar.add_task("classes of packets", total=None)
        yield lambda classes: bar.update(task, completed=classes)
