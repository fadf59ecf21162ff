"""The kernel behind this target: reads the live chains, checks and commits changes. Touches no chain but rulegen's.

All calls are for the network namespace of the calling thread.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from rulegen.config import Family
from rulegen.errors import ApplyError, HostError, StaleError
from rulegen.interfaces import host_families
from rulegen.iptables import programs
from rulegen.iptables.live import parse_saved
from rulegen.iptables.probe import check_features
from rulegen.iptables.program import Entries, EntryKey, Rules
from rulegen.iptables.programs import RestoreError, Variant
from rulegen.iptables.text import adopt_wording
from rulegen.iptables.transaction import Step, removal

# How long another program may hold the lock.
WAIT_SECONDS = 30


class Driver(Protocol):
    """A way into the kernel."""

    def take(self, step: Step, *, test: bool) -> None:
        """Takes a step, all or nothing; `test`: only asks whether it would be taken. Raises RestoreError."""
        ...


class RestoreDriver:
    """The way through iptables-restore, for both variants and changes of any size."""

    def __init__(self, variant: Variant, wait: int) -> None:
        """`wait`: how long another program may hold the lock, in seconds."""
        self._variant = variant
        self._wait = wait

    def take(self, step: Step, *, test: bool) -> None:
        """See `Driver`."""
        programs.restore(self._variant, step.family, step.text, wait=self._wait, test=test)


class Kernel:
    """rulegen's chains in one variant of iptables.

    `variant` None: the one in use. `drivers`: the way for a family, where it is not iptables-restore. `wait`: how long
    another program may hold the lock, in seconds. Raises HostError when iptables or privileges are missing.
    """

    def __init__(
        self, variant: Variant | None = None, wait: int = WAIT_SECONDS, drivers: Mapping[Family, Driver] | None = None
    ) -> None:
        """Finds the variant; changes nothing."""
        _check_privileges()
        self.variant = variant or programs.detect()
        self._wait = wait
        self._drivers = dict.fromkeys(Family, RestoreDriver(self.variant, wait)) | dict(drivers or {})

    def read(self) -> Entries:
        """What the kernel holds of ours."""
        return _read(self.variant)

    def prepare(self, live: Mapping[EntryKey, Rules]) -> None:
        """Before a first apply, when `live` is empty: raises HostError that names what the kernel lacks."""
        if not live:
            for family in host_families():
                check_features(self.variant, family, self._wait)

    def check(self, steps: Sequence[Step]) -> None:
        """Asks whether each step would be taken, and changes nothing. Raises ApplyError."""
        for step in steps:
            self._drivers[step.family].take(step, test=True)

    def commit(self, steps: Sequence[Step], live: Mapping[EntryKey, Rules]) -> None:
        """Takes the steps, each all or nothing.

        `live`: what they were planned on. Raises StaleError when somebody changed that, else ApplyError.
        Steps before the one that was refused stay in force: each leaves a state in which all Services work.
        """
        for number, step in enumerate(steps):
            try:
                self._drivers[step.family].take(step, test=False)
            except RestoreError as error:
                if number == 0 and adopt_wording(self.read(), live) != live:
                    raise StaleError(str(error)) from error
                done = ", ".join(dict.fromkeys(map(str, steps[:number])))
                raise ApplyError(f"{error}; {_state(done)}") from error


def remove_rules(variants: Iterable[Variant], wait: int = WAIT_SECONDS) -> list[str]:
    """Removes rulegen's chains from these variants, where they are installed; says from where. Raises ApplyError."""
    _check_privileges()
    removed = []
    for variant in filter(programs.installed, variants):
        for step in removal(_read(variant)):
            programs.restore(variant, step.family, step.text, wait=wait)
            removed.append(f"iptables-{variant.value} {step}")
    return removed


def _state(done: str) -> str:
    return f"in force already: {done}; apply again for the rest" if done else "nothing was changed"


def _read(variant: Variant) -> Entries:
    entries: Entries = {}
    for family in host_families():
        entries |= parse_saved(family, programs.save(variant, family).splitlines())
    return entries


def _check_privileges() -> None:
    """Without them iptables-save prints nothing, as if there were no rules."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW):
            pass
    except PermissionError as error:
        raise HostError("reading and changing iptables needs root, or CAP_NET_ADMIN and CAP_NET_RAW") from error
    except OSError as error:
        raise HostError(f"no IPv4 on this host: {os.strerror(error.errno or 0)}") from error
