"""A support bundle among the files of `-f`: its settings, and the rules that its host held, in place of this host's.

In: paths, or an open driver's entries. Out: settings, or what differs. Never looks at the kernel.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rulegen.bundle import CONFIGURATION, EGRESS, FACTS, LIVE_RULES, OBJECTS, is_compressed, read_member
from rulegen.errors import UNDECODABLE, InputError, printable

if TYPE_CHECKING:
    from rulegen.commands.bundled_parts import Facts
    from rulegen.config import Configuration, EgressSettings, Family, Target
    from rulegen.reconcile.compilers import CompilerSet
    from rulegen.reconcile.driver import Difference, Driver
    from rulegen.reconcile.feature import AnyEntries
    from rulegen.reconcile.once import TakenItems


class Bundle(NamedTuple):
    """One that was read: `source` is its name as safe text."""

    source: str
    data: bytes

    def facts(self) -> Facts:
        """Raises InputError, also for one of another version."""
        import msgspec

        from rulegen.commands.bundled_parts import Facts

        try:
            return msgspec.json.decode(read_member(self.source, self.data, FACTS), type=Facts)
        except UNDECODABLE as error:
            raise InputError(f"{self.source}: {FACTS}: {error}") from error

    def families(self) -> tuple[Family, ...]:
        """Those of the host that it is from."""
        from rulegen.config import Family

        named = self.facts().families
        return tuple(family for family in Family if family.value in named)

    def configuration(self, target: Target | None) -> Configuration:
        """The settings that held there. Raises InputError."""
        from rulegen.configuration_file import parse_configuration

        self.facts()
        text = read_member(self.source, self.data, CONFIGURATION).decode(errors="replace")
        return parse_configuration(text, f"{self.source}: {CONFIGURATION}", target)[0]

    def egress(self, settings: EgressSettings) -> EgressSettings:
        """The settings with what a file of ip-masq-agent said there. Raises InputError."""
        import msgspec
        from msgspec.structs import replace

        from rulegen.commands.bundled_parts import EgressFile
        from rulegen.egress.configuration import with_fields

        source = f"{self.source}: {EGRESS}"
        try:
            said = msgspec.json.decode(read_member(self.source, self.data, EGRESS), type=EgressFile)
        except UNDECODABLE as error:
            raise InputError(f"{source}: {error}") from error
        return replace(with_fields(settings, said.fields, source)[0], unusable=said.unusable)

    def compare(self, driver: Driver, compilers: CompilerSet, wanted: TakenItems) -> tuple[AnyEntries, Difference]:
        """The rules that the host held, and what leads from there to what is wanted. Raises InputError, TargetError."""
        source = f"{self.source}: {LIVE_RULES}"
        live = _live_rules(read_member(self.source, self.data, LIVE_RULES), source)
        if live.driver != driver.name:
            raise InputError(f"{source}: has rules of {printable(live.driver)}, not of {driver.name}")
        return driver.compare_packed(compilers, *wanted, live.entries, source)


class _LiveRules(NamedTuple):
    driver: str
    entries: Any


def pack_live_rules(driver: Driver, entries: AnyEntries) -> bytes:
    """The part of a bundle that `Bundle.compare` reads; a line for each entry."""
    # Not every rule that a kernel holds is UTF-8.
    rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in driver.pack(entries))
    return f'{{"driver": {json.dumps(driver.name)}, "entries": [\n{rows}\n]}}\n'.encode()


def _live_rules(data: bytes, source: str) -> _LiveRules:
    try:
        found = json.loads(data)
        return _LiveRules(str(found["driver"]), found["entries"])
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise InputError(f"{source}: cannot be read") from error


def find_bundle(paths: Iterable[str]) -> Bundle | None:
    """The bundle among them, if one is. Raises InputError for several, and for one that cannot be read."""
    found = [bundle for path in paths if (bundle := _bundle_at(path))]
    if len(found) > 1:
        raise InputError(f"{found[1].source}: one support bundle at a time; {found[0].source} is another")
    return found[0] if found else None


def refuse_bundle(paths: Iterable[str]) -> None:
    """For those who change this host: what another one was like at some time is not wanted here. Raises InputError."""
    if (bundle := find_bundle(paths)) is not None:
        raise InputError(
            f"{bundle.source}: a support bundle says what a host was like; to apply what is in it, take out {OBJECTS}"
        )


def _bundle_at(path: str) -> Bundle | None:
    """Whatever else there is, those who read manifests will say what is wrong with it."""
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            return None
        with Path(path).open("rb") as file:
            begin = file.read(2)
            return Bundle(printable(path), begin + file.read()) if is_compressed(begin) else None
    except (OSError, ValueError):
        return None
