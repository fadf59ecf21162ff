"""`rulegen apply`: the kernel's rules made equal to the compiled ones, or a plan that was made before carried out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

from rulegen.commands.applying import make_ready, opened_host
from rulegen.commands.bundled import refuse_bundle
from rulegen.commands.command import Command
from rulegen.commands.completing import complete_files
from rulegen.commands.options import OUTPUT, PRUNE_UNREADABLE, input_options, pack, target_options
from rulegen.commands.output import echo, fail, print_changes, print_document, print_removed
from rulegen.commands.targets import is_of_a_node, refuse_beside_agent, removals, remove_each

if TYPE_CHECKING:
    from rulegen.commands.applying import OpenHost, Ready
    from rulegen.commands.documents import ApplyDocument, ShownEntry
    from rulegen.commands.plan_file import Plan
    from rulegen.reconcile.driver import Difference

_SHOWN_CHANGES = 40
# What may be said beside a plan, which says all else.
_BESIDE_PLAN = {"plan", "dry_run", "force", "output"}


@click.command(cls=Command)
@click.argument("plan", required=False, metavar="[PLAN]", shell_complete=complete_files)
@input_options
@target_options
@click.option("--dry-run", is_flag=True, help="Let the kernel check the change, and change nothing.")
@click.option("--force", is_flag=True, help="Even while an agent runs on this node.")
@PRUNE_UNREADABLE
@OUTPUT
@click.pass_context
def apply(context: click.Context, /, plan: str | None, dry_run: bool, force: bool, output: str, **options: Any) -> None:
    """Make the kernel's rules equal to the compiled ones, changing only what differs.

    In one transaction on nftables, in one for each table and family on iptables. Rules that rulegen left in the other
    target go when the new ones are in force.

    With PLAN, a file that `rulegen plan` wrote, exactly what that says, from the input that it names; or nothing, when
    that input, or the rules in the kernel, are not as they were.

    \b
    Examples:
      rulegen apply -f cluster.yaml --dry-run
      rulegen apply -f cluster.yaml --target iptables
      rulegen apply rules.plan
    """
    if plan is not None:
        _refuse_beside_plan(context)
    if plan is None:
        source = pack(options)
        refuse_bundle(source.files)
        run = _Run(make_ready(source, options["iptables_variant"]), output, dry_run=dry_run)
    else:
        from rulegen.commands.plan_file import read_plan
        from rulegen.commands.planned import ready_for

        planned = read_plan(plan)
        run = _Run(ready_for(planned, plan), output, (plan, planned), dry_run=dry_run)
    if run.is_of_a_node and not (force or dry_run):
        refuse_beside_agent()
    run.run()


def _refuse_beside_plan(context: click.Context) -> None:
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in _BESIDE_PLAN and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            fail(f"{parameter.opts[-1]}: a plan says what it was made from, and is applied as it is")


class _Run:
    """One `apply`. `planned`: the plan and its file, where there is one."""

    def __init__(self, ready: Ready, output: str, planned: tuple[str, Plan] | None = None, *, dry_run: bool) -> None:
        self._ready = ready
        self._is_text = output == "text"
        self._planned = planned
        self._dry_run = dry_run
        # For the document.
        self._changes: Sequence[ShownEntry] = ()

    @property
    def is_of_a_node(self) -> bool:
        """Whether rules of this node are to be changed, which an agent may keep."""
        return is_of_a_node(self._ready.configuration)

    def run(self) -> None:
        """Compares, shows, applies, and removes what is left elsewhere."""
        with opened_host(self._ready) as host:
            difference = host.apply(lambda found: self._show(host, found), dry_run=self._dry_run)
            if difference and self._is_text:
                echo(f"{difference}: {'checked by the kernel, not applied' if self._dry_run else 'applied'}")
            removed = [] if self._dry_run or not self._removes_leftovers else host.remove_leftovers()
        if self._is_text:
            print_removed(removed)
        if self._removes_leftovers and not self._dry_run and self._ready.may_prune:
            elsewhere = remove_each(removals(self._ready.configuration.target))
            if self._is_text:
                print_removed(elsewhere)
            removed += elsewhere
        if not self._is_text:
            print_document(self._document(difference, removed))

    @property
    def _removes_leftovers(self) -> bool:
        if not is_of_a_node(self._ready.configuration):
            return False
        return self._planned is None or bool(self._planned[1].leftovers)

    def _show(self, host: OpenHost, difference: Difference) -> None:
        """What is going to be applied; ends the program where it must not be."""
        if self._planned is not None:
            from rulegen.commands.planned import check_unmoved

            check_unmoved(*self._planned, host.compared(difference))
        if self._is_text:
            _print_plan(difference)
        else:
            from rulegen.commands.documents import ShownEntry

            self._changes = ShownEntry.all_of(difference.changes())
        self._ready.check_removals(difference)

    def _document(self, difference: Difference, removed: list[str]) -> ApplyDocument:
        from rulegen.commands.documents import ApplyDocument, Summary

        result: Literal["applied", "checked", "unchanged"] = "checked" if self._dry_run else "applied"
        return ApplyDocument(result if difference else "unchanged", Summary.total(difference), self._changes, removed)


def _print_plan(difference: Difference) -> None:
    if not difference:
        echo("nothing to change")
    elif len(difference) <= _SHOWN_CHANGES:
        print_changes(difference.changes())
    else:
        for line in difference.counts():
            echo(line)
