"""The second way into legacy iptables: python-iptables, in this process, with one commit a table.

It takes the same steps as iptables-restore. A rule is built as an object, which takes 0.5 ms, so that this way suits
small changes. A process can do this for one family only: libxtables loads DNAT and MASQUERADE for the first that asks.
Imported only where it is wanted: to import python-iptables loads kernel modules, and it has to be installed apart.
"""

from __future__ import annotations

import fcntl
import shlex
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from rulegen.config import Family
from rulegen.errors import HostError
from rulegen.iptables import binaries
from rulegen.iptables.binaries import LOCK, LockedError, RestoreError
from rulegen.iptables.transaction import Step

_POLL_SECONDS = 0.05
# python-iptables 1.2.0 finds no options of some extensions of iptables 1.8.11; this one shows it.
PROBE = "-m addrtype --dst-type LOCAL"
_MATCHED = {"-s": "src", "-d": "dst", "-i": "in_interface", "-p": "protocol"}


class InProcessDriver:
    """Steps of one family to commits of legacy tables, in the network namespace of the calling thread.

    `wait`: how long another program may hold the lock, in seconds. Raises HostError without python-iptables, when it
    does not understand the host's iptables, and when the process has one for the other family.
    """

    _family: ClassVar[Family | None] = None

    def __init__(self, family: Family, wait: int) -> None:
        """Loads python-iptables."""
        if InProcessDriver._family not in {None, family}:
            raise HostError("python-iptables serves one IP family in a process; use iptables-restore for the other")
        self._wait = wait
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                import iptc
        except ImportError as error:
            raise HostError("python-iptables is not installed: `pip install rulegen[legacy]`") from error
        self._iptc: Any = iptc
        try:
            _filled(iptc.Rule() if family is Family.IPV4 else iptc.Rule6(), PROBE)
        except (iptc.IPTCError, iptc.XTablesError) as error:
            message = f"python-iptables does not understand the iptables of this host: {PROBE}: {error}"
            raise HostError(f"{message}; use iptables-restore") from error
        InProcessDriver._family = family

    def take(self, step: Step, *, test: bool) -> None:
        """Commits a step, all or nothing; `test`: without the commit. Raises RestoreError with the line refused."""
        ipv4 = step.family is Family.IPV4
        kind, rule = (self._iptc.Table, self._iptc.Rule) if ipv4 else (self._iptc.Table6, self._iptc.Rule6)
        with _locked(self._wait):
            table = kind(step.table, autocommit=False)
            # The object is one for all calls, with what it read last, and opened in whatever namespace that was.
            table.close()
            table.refresh()
            for number, line in enumerate(step.lines, 1):
                try:
                    self._take_line(table, rule, line, commit=not test)
                except (self._iptc.IPTCError, self._iptc.XTablesError, ValueError) as error:
                    message = f"python-iptables: {step}: {error}: line {number}: {line[:300]}"
                    raise RestoreError(message, number) from error

    def _take_line(self, table: Any, new_rule: Callable[[], Any], line: str, *, commit: bool) -> None:
        command, _, rest = line.partition(" ")
        chain, _, rule = rest.partition(" ")
        if command == "COMMIT":
            if commit:
                table.commit()
        elif command.startswith(":"):
            declared = self._iptc.Chain(table, command[1:])
            declared.flush() if table.is_chain(command[1:]) else table.create_chain(command[1:])
        elif command == "-X":
            table.delete_chain(chain)
        elif command == "-A":
            self._iptc.Chain(table, chain).append_rule(_filled(new_rule(), rule))
        elif command == "-D":
            self._iptc.Chain(table, chain).delete_rule(_filled(new_rule(), rule))
        elif command == "-I":
            place, _, rule = rule.partition(" ")
            self._iptc.Chain(table, chain).insert_rule(_filled(new_rule(), rule), int(place) - 1)


def _filled(rule: Any, text: str) -> Any:
    """A rule object with what `text` says, one of rulegen's rules in the words of iptables-save."""
    extension: Any = None
    for option, value in _options(text):
        if option in _MATCHED:
            setattr(rule, _MATCHED[option], value)
        elif option == "-m":
            extension = rule.create_match(value)
        elif option in {"-j", "-g"}:
            extension = rule.create_target(value, goto=option == "-g")
        else:
            extension.set_parameter(option.removeprefix("--"), value)
    return rule


def _options(text: str) -> Iterator[tuple[str, str]]:
    """`-s` with its value, `!` in front of a negated one; options without a value get an empty one."""
    words = shlex.split(text)
    negation = ""
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if word == "!":
            negation = "!"
            continue
        value = ""
        if index < len(words) and not words[index].startswith("-") and words[index] != "!":
            value = words[index]
            index += 1
        yield word, negation + value
        negation = ""


@contextmanager
def _locked(wait: int) -> Iterator[None]:
    """Holds the lock that the legacy programs take. Raises LockedError."""
    with LOCK.open("a") as lock:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    holder = binaries.lock_holder() or "another program"
                    raise LockedError(f"python-iptables: the lock {LOCK} is held by {holder}", 0) from error
                time.sleep(_POLL_SECONDS)
        yield
