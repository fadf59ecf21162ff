"""A plan, when it is made and when it is applied: what it says, and whether all is still as it was.

In: what was compared. Out: a `Plan`; or what is wanted now, from the same input, and a line that says what has moved
on.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import msgspec

from rulegen import __version__
from rulegen.commands.applying import Comparison, Ready, make_ready
from rulegen.commands.documents import ShownEntry, Summary
from rulegen.commands.options import Input
from rulegen.commands.plan_file import Plan, PlannedHost, PlannedInput
from rulegen.errors import InputError, is_text, printable

if TYPE_CHECKING:
    from collections.abc import Iterable

_STDIN = "-"
_NAMED = 4


def make_plan(ready: Ready, variant: str, compared: Comparison) -> Plan:
    """What was compared, as a plan. `variant`: of iptables, by its name, "auto" on nftables."""
    source, configuration = ready.source, ready.configuration
    planned = PlannedInput(
        files=[_absolute(path) for path in source.files],
        node=configuration.node.node_name,
        config=_absolute(source.config),
        kubeconfig=_absolute(source.kubeconfig),
        features=source.features,
        skip_invalid=source.skip_invalid,
        prune_unreadable=source.prune_unreadable,
        target=configuration.target.value,
        iptables_variant=variant,
        iptables_driver=configuration.iptables_driver.value,
    )
    difference, state = compared.difference, compared.state
    return Plan(
        kind="RulegenPlan",
        rulegen=__version__,
        host=PlannedHost.here(),
        input=planned,
        seed=configuration.node.seed or 0,
        live=state.live,
        wanted=state.wanted,
        summary=Summary.total(difference),
        changes=ShownEntry.all_of(difference.changes()),
        leftovers=compared.leftovers,
    )


def _absolute(path: str) -> str:
    if not is_text(path):
        raise InputError(f"{printable(path)}: expected a name in UTF-8, which a plan can hold")
    return path if path in {"", _STDIN} else os.path.abspath(path)  # noqa: PTH100 - links stay as they were written


def ready_for(plan: Plan, path: str) -> Ready:
    """Reads again what the plan was made from. Raises InputError for a plan of another host or version."""
    _check_host(plan, path)
    planned = plan.input
    if _STDIN in planned.files and sys.stdin.isatty():
        raise InputError(f"{printable(path)}: it was made from standard input: pipe the same in again")
    source = Input(
        tuple(planned.files),
        planned.node,
        planned.config,
        planned.skip_invalid,
        planned.prune_unreadable,
        planned.kubeconfig,
        planned.target,
        tuple(planned.features),
        planned.iptables_driver,
    )
    return make_ready(source, planned.iptables_variant, seed=plan.seed)


def _check_host(plan: Plan, path: str) -> None:
    name = printable(path)
    if plan.rulegen != __version__:
        raise InputError(f"{name}: rulegen {printable(plan.rulegen)} made this plan, and this is {__version__}")
    here = PlannedHost.here()
    if plan.host.boot != here.boot:
        raise InputError(f"{name}: made on {printable(plan.host.name)}, and this is another host, or has started anew")
    if plan.host.network_namespace != here.network_namespace:
        raise InputError(f"{name}: made in another network namespace")


def check_unmoved(path: str, plan: Plan, now: Comparison) -> None:
    """Raises InputError when the plan is not what is to be done now."""
    name, changes = printable(path), ShownEntry.all_of(now.difference.changes())
    named = _named(plan.changes, changes)
    if now.state.live != plan.live:
        raise InputError(f"{name}: the rules in the kernel are not those that it was made for{named}: plan anew")
    if now.state.wanted != plan.wanted:
        what = ", ".join(map(printable, plan.input.files)) or "the cluster"
        raise InputError(f"{name}: {what} or the settings ask for other rules than when it was made{named}: plan anew")
    if list(plan.changes) != changes:
        raise InputError(f"{name}: it was altered: it does not show what it was made for{named}")
    if list(plan.leftovers) != now.leftovers:
        raise InputError(f"{name}: what earlier runs have left elsewhere is not what it was made for: plan anew")


def _named(before: Iterable[ShownEntry], after: Iterable[ShownEntry]) -> str:
    """The objects whose changes are not the same: ` (default/web:http, shop/api and 3 more)`."""
    old, new = ({(one.service, msgspec.json.encode(one)) for one in side} for side in (before, after))
    names = sorted({service for service, _ in old ^ new if service})
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f" ({', '.join(map(printable, names[:_NAMED]))}{more})" if names else ""
