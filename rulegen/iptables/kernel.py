"""The kernel behind this target: reads the live chains, checks and commits changes. Touches no chain but rulegen's.

All calls are for the network namespace of the calling thread.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Self

from rulegen.config import Family
from rulegen.errors import (
    NEEDED_FOR_IPTABLES,
    AbsentError,
    ApplyError,
    HostError,
    RulegenError,
    StaleError,
    UnseenError,
)
from rulegen.grace import let_packets_leave
from rulegen.interfaces import host_families
from rulegen.iptables import binaries, ipset_program, nf_tables
from rulegen.iptables.binaries import RestoreError, Variant
from rulegen.iptables.chains import Entries, EntryKey, Rules
from rulegen.iptables.ipset_program import IpsetError
from rulegen.iptables.ipset_transaction import AnyStep, EndStep, SetStep
from rulegen.iptables.ipsets import Element, add_line, create_line, declaration, set_name, without_ipsets
from rulegen.iptables.ipsets import parse_saved as parse_saved_ipsets
from rulegen.iptables.listing import Table, detect, in_place, in_words, is_jump, list_tables
from rulegen.iptables.live import parse_saved
from rulegen.iptables.loader import Loader, RestoreLoader
from rulegen.iptables.names import PREFIX, is_ours
from rulegen.iptables.nf_tables import HiddenRule
from rulegen.iptables.probe import check_needs
from rulegen.iptables.text import adopt_wording
from rulegen.iptables.transaction import Step, removal, without_remarks

# How long another program may hold the lock.
WAIT_SECONDS = 30


class Kernel:
    """rulegen's chains in one variant of iptables. A context manager.

    `variant` None: the one in use. `make_loader`: the way in, given the variant and the wait. `wait`: how long another
    program may hold the lock, in seconds. Raises HostError when iptables or privileges are missing.
    """

    def __init__(
        self,
        variant: Variant | None = None,
        wait: int = WAIT_SECONDS,
        make_loader: Callable[[Variant, int], Loader] = RestoreLoader,
    ) -> None:
        """Finds the variant; changes nothing."""
        _check_privileges()
        self.variant = variant or detect()
        self._wait = wait
        self._loader = make_loader(self.variant, wait)
        self._prefixes: Sequence[str] = (PREFIX,)
        self._guards: Sequence[str] = ()
        self._yielding: Sequence[str] = ()
        # By family and table: the chains that iptables did not list when that was read last.
        self._hidden: dict[tuple[Family, str], frozenset[str]] = {}
        # Whether the host had sets of ipset when they were read last; None: nobody has asked.
        self.has_ipsets: bool | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loader.close()

    def read(
        self,
        prefixes: Sequence[str] = (PREFIX,),
        guards: Sequence[str] = (),
        yielding: Sequence[str] = (),
        *,
        with_ipsets: bool = False,
    ) -> Entries:
        """What the kernel holds of ours. Raises HostError.

        `prefixes`: those of the features' chains, in the order in which their rules stand in a built-in chain.
        `guards`: those of them before which nothing may accept a packet; `yielding`: those before which others may do
        anything. `with_ipsets`: sets are wanted; where rules look into some they are read all the same.
        """
        self._prefixes, self._guards, self._yielding = prefixes, guards, yielding
        entries: Entries = {}
        hidden = {}
        for family in host_families():
            for table in list_tables(self.variant, family):
                lines = (*table.lines, *in_words(table))
                entries |= parse_saved(family, table.name, lines, prefixes, guards, yielding)
                hidden[family, table.name] = frozenset(rule.chain for rule in table.hidden)
        self._hidden = hidden
        if with_ipsets or any("--match-set rulegen" in rule for rules in entries.values() for rule in rules):
            entries |= self._read_ipsets()
        return entries

    def _read_ipsets(self) -> Entries:
        """Rulegen's sets; none where the host has no way to make or see some."""
        try:
            found = parse_saved_ipsets(ipset_program.saved())
        except AbsentError:
            self.has_ipsets = False
            return {}
        self.has_ipsets = True
        return found

    def probe(self, needs: Callable[[Family], Mapping[str, tuple[str, str]]]) -> None:
        """Tries what rules need of the kernel (`ChainCompiler.needs`). Raises HostError that names what it lacks."""
        for family in host_families():
            check_needs(self.variant, family, self._wait, needs(family))

    def probe_ipsets(self) -> None:
        """Tries whether a rule can look into a set, where the host has sets. Raises HostError where it cannot."""
        if not self.has_ipsets:
            return
        for family in host_families():
            name = set_name(family, "probe")
            (text,) = declaration(family, "hash:ip")
            ipset_program.restore([create_line(name, text)])
            try:
                check_needs(
                    self.variant, family, self._wait, {"match set": ("filter", f"-m set --match-set {name} src")}
                )
            finally:
                ipset_program.destroy([name])

    def check(self, steps: Sequence[AnyStep]) -> None:
        """Asks whether each step would be taken, and changes nothing. Raises ApplyError.

        A rule that looks into a set is left out: the set may not be there yet.
        """
        for step in steps:
            if isinstance(step, Step):
                asked = step._replace(lines=tuple(line for line in step.lines if "--match-set rulegen" not in line))
                for part in self._parts(asked)[:1]:
                    self._loader.take(part.step, test=True)

    def commit(self, steps: Sequence[AnyStep], live: Mapping[EntryKey, Rules]) -> None:
        """Takes the steps, each all or nothing.

        `live`: what they were planned on. Raises StaleError when somebody changed that, else ApplyError.
        Steps before the one that was refused stay in force: each leaves a state in which all features work.
        """
        for number, step in enumerate(steps):
            try:
                self._take(step)
            except (RestoreError, IpsetError) as error:
                is_first = not any(isinstance(done, Step) for done in steps[:number])
                if isinstance(error, RestoreError) and is_first and self._is_stale(live):
                    raise StaleError(str(error)) from error
                done = ", ".join(dict.fromkeys(map(str, steps[:number])))
                raise ApplyError(f"{error}; {_state(done)}") from error

    def _take(self, step: AnyStep) -> None:
        match step:
            case EndStep(names):
                ipset_program.destroy(names)
            case SetStep(lines, waits, copies):
                if waits:
                    let_packets_leave()
                ipset_program.restore(lines)
                for name, copy in copies:
                    ipset_program.restore([add_line(Element(copy, text)) for text in ipset_program.elements(name)])
            case _:
                for part in self._parts(step):
                    self._loader.take(part.step, test=False)
                    _delete(part)

    def _is_stale(self, live: Mapping[EntryKey, Rules]) -> bool:
        chains = _rules_alone(live)
        found = _rules_alone(self.read(self._prefixes, self._guards, self._yielding))
        return adopt_wording(found, chains) != chains

    def _parts(self, step: Step) -> list[_Part]:
        """A step as iptables-restore can take it: it finds no rule to delete in a chain that it cannot list."""
        hidden = self._hidden.get((step.family, step.table), frozenset())
        doomed = [line for line in step.lines if line.startswith("-D ") and line.split(" ", 2)[1] in hidden]
        if not doomed:
            return [_Part(step)]
        gone = tuple(line for line in step.lines if line.startswith("-X "))
        first = step._replace(lines=tuple(line for line in step.lines if line not in {*doomed, *gone}))
        # The new rules come before the old ones go, and these before the chains that they lead to.
        last = step._replace(lines=(f"*{step.table}", *gone, "COMMIT"))
        return [_Part(first, tuple(doomed)), *([_Part(last)] if gone else [])]


def _rules_alone(entries: Mapping[EntryKey, Rules]) -> Entries:
    """The rules alone: what stands ahead of them is no part of a plan, and is not always looked at."""
    return {key: without_remarks(rules) for key, rules in without_ipsets(entries).items()}


class _Part(NamedTuple):
    """A restore, and what is deleted in another way behind it: `-D CHAIN ...`."""

    step: Step
    doomed: tuple[str, ...] = ()


def _delete(part: _Part) -> None:
    """Deletes the last rules that are as each line says. Raises HostError."""
    if not part.doomed:
        return
    family, table = part.step.family, part.step.table
    wanted = Counter(part.doomed)
    doomed = []
    # The new ones were put in front.
    for rule in reversed(list(nf_tables.rules(family, table))):
        line = f"-D {rule.chain} {in_place(rule)}"
        if is_jump(rule) and wanted[line]:
            wanted[line] -= 1
            doomed.append(rule)
    nf_tables.delete_rules(family, table, doomed)


def remove_rules(variants: Iterable[Variant], wait: int = WAIT_SECONDS) -> list[str]:
    """Removes rulegen's chains from these variants; says from where.

    Raises as `do_everywhere` does.
    """

    def remove(variant: Variant, family: Family) -> Iterator[str]:
        tables = list_tables(variant, family, _is_none)
        remove_hidden(family, tables, is_jump)
        for step in _removal(family, tables):
            binaries.restore(variant, step.family, step.text, wait=wait)
            yield f"iptables-{variant.value} {step}"

    return do_everywhere(variants, is_ours, remove)


def remove_ipsets() -> list[str]:
    """Ends rulegen's sets, when the chains that look into them are gone; says which.

    Raises HostError when it cannot be looked, UnseenError, after all the rest was done, when rules of others use some.
    """
    names = _our_ipsets()
    used = ipset_program.destroy(names)
    removed = [f"ipset {name}" for name in names if name not in used]
    if used:
        raise UnseenError(f"rules of other programs look into the sets {', '.join(used)}", removed)
    return removed


def find_ipsets() -> list[str]:
    """The sets that `remove_ipsets` would end; changes nothing. Raises HostError, UnseenError."""
    return [f"ipset {name}" for name in _our_ipsets()]


def _our_ipsets() -> list[str]:
    try:
        return ipset_program.our_sets()
    except AbsentError as error:
        if ipset_program.may_hold_sets():
            raise UnseenError(f"{error}: sets rulegen-*, if there are any, stay") from error
        return []


def find_rules(variants: Iterable[Variant]) -> list[str]:
    """From where `remove_rules` would remove chains; changes nothing. Raises as `do_everywhere` does."""

    def find(variant: Variant, family: Family) -> Iterator[str]:
        for step in _removal(family, list_tables(variant, family, _is_none)):
            yield f"iptables-{variant.value} {step}"

    return do_everywhere(variants, is_ours, find)


def _removal(family: Family, tables: Iterable[Table]) -> list[Step]:
    entries: Entries = {}
    for table in tables:
        entries |= parse_saved(family, table.name, table.lines)
    return removal(entries)


def do_everywhere(
    variants: Iterable[Variant],
    is_doomed: Callable[[str], bool],
    do: Callable[[Variant, Family], Iterable[str]],
) -> list[str]:
    """Has `do` find or remove the chains of each variant and family of this host that are doomed; says where.

    Raises HostError without privileges, else UnseenError, after all the rest was done, when tables cannot be looked at,
    or not all could be removed.
    """
    _check_privileges()
    removed: list[str] = []
    unseen: list[str] = []
    for variant in variants:
        for family in host_families():
            try:
                if binaries.installed(variant, family):
                    removed += do(variant, family)
                elif found := _without_programs(variant, family, is_doomed):
                    unseen.append(found)
            except RulegenError as error:
                unseen.append(str(error))
    if unseen:
        raise UnseenError("; ".join(unseen), removed)
    return removed


def remove_hidden(family: Family, tables: Iterable[Table], is_doomed: Callable[[HiddenRule], bool]) -> None:
    """Deletes rules of chains that iptables does not list. Raises HostError."""
    for table in tables:
        if doomed := [rule for rule in table.hidden if is_doomed(rule)]:
            nf_tables.delete_rules(family, table.name, doomed)


def _without_programs(variant: Variant, family: Family, is_doomed: Callable[[str], bool]) -> str:
    """What is there, or may be, though nobody can list it; "" when there is nothing."""
    program = f"{binaries.NAME[family]}-{variant.value}-save"
    if variant is Variant.LEGACY:
        names = binaries.legacy_tables(family)
        return f"{program} is not installed: what is in {', '.join(sorted(names))} cannot be seen" if names else ""
    tables = [name for name in sorted(nf_tables.tables(family)) if any(map(is_doomed, nf_tables.chains(family, name)))]
    return f"{program} is not installed: chains stay in {', '.join(tables)}" if tables else ""


def _is_none(_: str) -> bool:
    return False


def _state(done: str) -> str:
    return f"in force already: {done}; apply again for the rest" if done else "nothing was changed"


def _check_privileges() -> None:
    """Without them iptables-save prints nothing, as if there were no rules."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW):
            pass
    except PermissionError as error:
        raise HostError(NEEDED_FOR_IPTABLES) from error
    except OSError as error:
        raise AbsentError(f"no IPv4 on this host: {os.strerror(error.errno or 0)}") from error
    # The kernel asks for CAP_NET_ADMIN before it looks whether it has nf_tables.
    nf_tables.tables(Family.IPV4)
