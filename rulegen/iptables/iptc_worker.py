"""A process with python-iptables in it, for one IP family: `python -m rulegen.iptables.iptc_worker`.

In: steps as text for iptables-restore, over a socket that it was started with. Out: what was refused. Each step is one
commit of one legacy table, in the network namespace in which the process was started. `python_iptables` is the other
side.

python-iptables commits each rule for itself unless it is told not to, and its module `easy` commits even when it only
reads; so tables are made here without `autocommit`, and nothing of `easy` is used. A rule is built as an object, which
takes 0.5 ms.
"""

from __future__ import annotations

import fcntl
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rulegen.config import Family
from rulegen.iptables import binaries
from rulegen.iptables.binaries import LOCK
from rulegen.workers.serving import serve, start

# Begins an answer: nothing of the host's iptables is understood, the lock was held, or the number of a refused line.
NOT_UNDERSTOOD, LOCKED = "iptables", "lock"

_POLL_SECONDS = 0.05
# python-iptables 1.2.0 finds no options of some extensions of iptables 1.8.11; this one shows it.
_PROBE = "-m addrtype --dst-type LOCAL"
_MATCHED = {"-s": "src", "-d": "dst"}
# Those that python-iptables calls otherwise than iptables-save.
_PROTOCOLS = {"ipv6-icmp": "icmpv6", "!ipv6-icmp": "!icmpv6"}
_INTERFACES = {
    "-i": ("in_interface", "iniface", "iniface_mask"),
    "-o": ("out_interface", "outiface", "outiface_mask"),
}


class _Steps:
    """Carries out steps. `wait`: how long another program may hold the lock, in seconds."""

    def __init__(self, iptc: Any, family: Family, wait: int) -> None:
        self._iptc = iptc
        ipv4 = family is Family.IPV4
        self._table, self._rule = (iptc.Table, iptc.Rule) if ipv4 else (iptc.Table6, iptc.Rule6)
        self._wait = wait
        self._errors = (iptc.IPTCError, iptc.XTablesError, ValueError)

    def take(self, text: str, only_check: bool) -> str | None:
        """Commits a step, all or nothing; an empty one only asks whether the host's iptables is understood."""
        if not text:
            return self._try()
        try:
            with _locked(self._wait):
                return self._take(text.splitlines(), commit=not only_check)
        except _LockedError as error:
            return f"{LOCKED} {error}"

    def _try(self) -> str | None:
        try:
            _fill(self._rule(), _PROBE)
        except self._errors as error:
            return f"{NOT_UNDERSTOOD} {_PROBE}: {error}"
        return None

    def _take(self, lines: list[str], *, commit: bool) -> str | None:
        table = self._table(lines[0].removeprefix("*"), autocommit=False)
        # The object is one for all calls, with what it read last.
        table.close()
        table.refresh()
        for number, line in enumerate(lines[1:], 2):
            try:
                self._take_line(table, line, commit=commit)
            except self._errors as error:
                return f"{number} {error}"
        return None

    def _take_line(self, table: Any, line: str, *, commit: bool) -> None:
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
        else:
            self._take_rule(self._iptc.Chain(table, chain), command, rule)

    def _take_rule(self, chain: Any, command: str, rule: str) -> None:
        if command == "-A":
            chain.append_rule(_fill(self._rule(), rule))
        elif command == "-D":
            chain.delete_rule(_fill(self._rule(), rule))
        elif command == "-I":
            place, _, rule = rule.partition(" ")
            chain.insert_rule(_fill(self._rule(), rule), int(place) - 1)
        else:
            raise ValueError(f"no command {command}")


def _fill(rule: Any, text: str) -> Any:
    """A rule object with what `text` says, one of rulegen's rules in the words of iptables-save."""
    extension: Any = None
    for option, values in _options(text):
        value = values[0]
        if option == "-p":
            rule.protocol = _protocol(value)
        elif option in _MATCHED:
            setattr(rule, _MATCHED[option], value)
        elif option in _INTERFACES:
            _set_interface(rule, option, value)
        elif option == "-m":
            extension = rule.create_match(value)
        elif option in {"-j", "-g"}:
            extension = rule.create_target(value, goto=option == "-g")
        elif extension is None:
            raise ValueError(f"no option {option}")
        else:
            _set_parameter(extension, option.removeprefix("--"), values)
    return rule


def _protocol(value: str) -> str:
    """As python-iptables calls it, which takes numbers that are none. Raises ValueError for these."""
    number = value.removeprefix("!")
    if number.isdecimal() and int(number) > 255:
        raise ValueError(f"invalid protocol {number}")
    return _PROTOCOLS.get(value, value)


def _set_parameter(extension: Any, name: str, values: list[str]) -> None:
    negation = "!" if values[0].startswith("!") else ""
    several = [*filter(None, [negation]), values[0].removeprefix("!"), *values[1:]]
    extension.set_parameter(name, values[0] if len(values) == 1 else several)


def _set_interface(rule: Any, option: str, value: str) -> None:
    """As iptables writes it: python-iptables 1.2.0 has the kernel compare one bit of each letter in IPv6."""
    attribute, name, mask = _INTERFACES[option]
    # With the `!`, which it gets right.
    setattr(rule, attribute, value)
    interface = value.removeprefix("!")
    length = len(interface) - 1 if interface.endswith("+") else len(interface) + 1
    entry = rule.entry.ipv6 if hasattr(rule.entry, "ipv6") else rule.entry.ip
    setattr(entry, name, interface.encode())
    setattr(entry, mask, b"\xff" * length)


def _options(text: str) -> Iterator[tuple[str, list[str]]]:
    """`-s` with its values, `!` in front of those of a negated one; options without a value get an empty one."""
    words = shlex.split(text)
    negation = ""
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if word == "!":
            negation = "!"
            continue
        values = []
        while index < len(words) and not words[index].startswith("-") and words[index] != "!":
            values.append(words[index])
            index += 1
        yield word, [negation + "".join(values[:1]), *values[1:]]
        negation = ""


class _LockedError(Exception):
    """Another program held the lock all the time; `str()` says which."""


@contextmanager
def _locked(wait: int) -> Iterator[None]:
    """Holds the lock that the legacy programs take."""
    with LOCK.open("a") as lock:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise _LockedError(binaries.lock_holder() or "another program") from None
                time.sleep(_POLL_SECONDS)
        yield


def _taker(family: Family, wait: int) -> Callable[[str, bool], str | None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        # Loads kernel modules.
        import iptc
    return _Steps(iptc, family, wait).take


def _main() -> None:
    descriptor, parent, family, wait = sys.argv[1:]
    channel = start(descriptor, parent)
    serve(channel, _taker(Family(family), int(wait)))


if __name__ == "__main__":
    _main()
