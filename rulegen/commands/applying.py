"""What `apply` and `plan` have in common: what is wanted of this host, and the kernel's rules compared with it.

In: an `Input`. Out: what differs and by what it is known later that nothing has moved on, and that made come true. Says
on standard error what is wrong with the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from rulegen.commands.output import fail, say_warning
from rulegen.commands.progress import progress
from rulegen.commands.reading import compile_objects, read_objects
from rulegen.commands.selecting import Labels, add_labels
from rulegen.commands.targets import driver_of
from rulegen.errors import HostError, UnseenError

if TYPE_CHECKING:
    from rulegen.commands.bundled import Bundle
    from rulegen.commands.options import Input
    from rulegen.commands.reading import Wanted
    from rulegen.config import Configuration
    from rulegen.reconcile.driver import Difference, Driver, LiveRules, OpenDriver, RulesState


class Ready(NamedTuple):
    """What is wanted of this host, and the driver for it. `unreadable`: how many documents cannot be read."""

    source: Input
    configuration: Configuration
    wanted: Wanted
    driver: Driver
    unreadable: int

    @property
    def may_prune(self) -> bool:
        """Whether what is not asked for may go: not while a document may ask for it that cannot be read."""
        return self.source.prune_unreadable or not self.unreadable

    def check_removals(self, difference: Difference) -> None:
        """Ends the program where rules would go that may be wanted."""
        if difference.removed and not self.may_prune:
            _refuse_to_prune(self.unreadable)


def make_ready(source: Input, variant: str, labels: Labels | None = None, seed: int | None = None) -> Ready:
    """Reads all that is wanted. `variant`: as the option --iptables-variant says it. `labels` takes the objects'.

    `seed`: see `NodeConfiguration`; with one, the same comes out each time.
    """
    from msgspec.structs import replace

    manifests, configuration = read_objects(source)
    configuration = replace(configuration, node=replace(configuration.node, seed=seed))
    if labels is not None:
        add_labels(labels, manifests.objects())
    wanted = compile_objects(manifests, configuration).without_objects(configuration)
    driver = driver_of(configuration, {"iptables_variant": variant})
    return Ready(source, configuration, wanted, driver, manifests.unreadable)


class Comparison(NamedTuple):
    """What differs on this host; `leftovers`: where rules are that an earlier run put elsewhere."""

    difference: Difference
    state: RulesState
    leftovers: list[str]


class OpenHost:
    """This host while it is being compared and changed; see `opened_host`."""

    def __init__(self, ready: Ready, opened: OpenDriver, make: Callable[[], LiveRules]) -> None:
        self._ready = ready
        self._opened = opened
        self._make = make
        self._rules: LiveRules | None = None

    @property
    def variant(self) -> str:
        """Of iptables, which `auto` has found to be in use; "auto" on nftables."""
        return self._opened.variant or "auto"

    def compare(self) -> Difference:
        """Raises TargetError, HostError."""
        from rulegen.reconcile.once import compare_once

        with progress("comparing with the kernel"):
            return compare_once(self._make_rules(), self._ready.wanted.taken)[1]

    def apply(self, show: Callable[[Difference], None], *, dry_run: bool) -> Difference:
        """Compares, has `show` say it, and applies it; if `show` raises or ends the program, nothing is changed."""
        from rulegen.reconcile.once import apply_once

        with ExitStack() as bar:
            bar.enter_context(progress("comparing with the kernel"))

            def shown(difference: Difference) -> None:
                # What is printed and a bar do not go together.
                bar.close()
                show(difference)
                bar.enter_context(progress("having it checked" if dry_run else "applying"))

            return apply_once(self._make_rules, self._ready.wanted.taken, shown, dry_run=dry_run)

    def compared(self, difference: Difference) -> Comparison:
        """What was compared last, with all that a plan has to know."""
        assert self._rules is not None  # noqa: S101 - there is no Difference before
        return Comparison(difference, self._rules.state(), self._find_leftovers())

    def remove_leftovers(self) -> list[str]:
        """What an earlier run left in another place of the same target. Raises RulegenError."""
        return [place for remove in self._opened.leftovers for place in remove()]

    def _make_rules(self) -> LiveRules:
        self._rules = self._make()
        return self._rules

    def _find_leftovers(self) -> list[str]:
        """What cannot be looked at is told, and stays."""
        from functools import partial

        from rulegen.drivers import other_drivers
        from rulegen.features import REGISTRY

        found: list[str] = []
        finders: list[Callable[[], list[str]]] = [self._opened.find_leftovers]
        finders += (partial(one.find, tuple(REGISTRY)) for one in other_drivers(self._ready.configuration.target))
        for find in finders:
            try:
                found += find()
            except UnseenError as error:
                say_warning(f"rules may be left elsewhere: {error}")
            except HostError:
                continue
        return found


@contextmanager
def opened_host(ready: Ready) -> Iterator[OpenHost]:
    """The driver on this host; nothing was read yet. Raises HostError."""
    from rulegen.configuration_file import for_families
    from rulegen.interfaces import host_families
    from rulegen.reconcile.compilers import CompilerSet

    with ready.driver.open() as opened:
        node = for_families(ready.configuration.node, host_families())
        yield OpenHost(
            ready, opened, lambda: opened.rules(CompilerSet.of(ready.wanted.features, ready.driver.name, node))
        )


def compare_with_bundle(bundle: Bundle, ready: Ready) -> Difference:
    """With the rules of the host that the bundle is from, not of this one. Raises InputError, TargetError."""
    from rulegen.configuration_file import for_families
    from rulegen.reconcile.compilers import CompilerSet

    node = for_families(ready.configuration.node, bundle.families())
    compilers = CompilerSet.of(ready.wanted.features, ready.driver.name, node)
    return bundle.compare(ready.driver, compilers, ready.wanted.taken)[1]


def _refuse_to_prune(unreadable: int) -> NoReturn:
    documents = "a document" if unreadable == 1 else f"{unreadable} documents"
    fail(
        f"nothing was changed: {documents} that cannot be read may ask for what would be removed;"
        " mend it, or use --prune-unreadable"
    )
