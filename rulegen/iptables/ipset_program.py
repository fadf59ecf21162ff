"""The program `ipset` on this host: running it, and what it says. Knows no set but by its name.

All calls are for the network namespace of the calling thread. A host without the program, or whose kernel has no sets,
is told from one where they cannot be read.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from rulegen import children
from rulegen.children import Ended
from rulegen.errors import AbsentError, ApplyError, HostError, printable
from rulegen.grace import let_packets_leave
from rulegen.iptables.ipsets import destroy_line, is_our_set
from rulegen.iptables.names import escaped
from rulegen.paths import may_be_there

_PROGRAM = "ipset"
# A program that takes longer is killed: 100 times what the largest clusters need.
_SECONDS = 60.0
_SECONDS_PER_LINE = 0.001
_VERSION = re.compile(r"^ipset v[\d.]+: *")
_LINE = re.compile(r"Error in line (\d+): *")
# What the program says where the kernel has no sets, and cannot get them either.
_NO_SETS = "Cannot open session to kernel"
_IN_USE = "in use by a kernel component"
_MODULE = Path("/sys/module/ip_set")
_NAMES_ONLY = 0x2  # IPSET_FLAG_LIST_SETNAME of linux/netfilter/ipset/ip_set.h
# nf_tables lets go of what a rule refers to a moment after the rule has gone: so often it is waited for.
_ATTEMPTS = 40


class IpsetError(ApplyError):
    """`ipset restore` refused; `line`: which one, from 1, 0 when it names none. What stood before it is in force."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def our_sets() -> list[str]:
    """The names of rulegen's sets. Raises AbsentError where there can be none, HostError where it cannot be looked."""
    return [name for name in _output(["list", "-name"]).splitlines() if is_our_set(name)]


def saved() -> list[str]:
    """What `ipset save` prints, of all sets of the host; nothing where none is rulegen's. Raises as `our_sets`."""
    # Those of other programs may be large.
    return _output(["save"]).splitlines() if our_sets() else []


def elements(name: str) -> list[str]:
    """What is in a set, as `ipset restore` takes it. Raises HostError."""
    begin = f"add {name} "
    return [line.removeprefix(begin) for line in _output(["save", name]).splitlines() if line.startswith(begin)]


def may_hold_sets() -> bool:
    """Whether the kernel holds sets of rulegen's, where there is no program to ask; not so where it has no sets."""
    if not may_be_there(_MODULE):
        return False
    from pyroute2 import IPSet, NetlinkError

    try:
        with IPSet() as ipset:
            names = [message.get_attr("IPSET_ATTR_SETNAME") for message in ipset.list(flags=_NAMES_ONLY)]
    except (NetlinkError, OSError):
        return True
    return any(map(is_our_set, names))


def restore(lines: Sequence[str]) -> None:
    """Carries out commands one after the other; those that change nothing are none.

    Raises IpsetError, HostError.
    """
    if not lines:
        return
    text = "\n".join((*lines, "")).encode()
    done = _run(["-exist", "restore"], text, _SECONDS_PER_LINE * len(lines))
    if done.returncode < 0:
        raise HostError(f"{_PROGRAM} restore {children.how(done)}")
    if done.returncode:
        raise _refusal(done, lines)


def destroy(names: Iterable[str]) -> list[str]:
    """Ends sets; those that rules still look into after a while, as other programs' may, are returned.

    Raises HostError.
    """
    left = list(names)
    used: list[str] = []
    for _ in range(_ATTEMPTS):
        used, left = _destroy(left), []
        if not used:
            break
        let_packets_leave()
        left = used
    return used


def _destroy(names: Sequence[str]) -> list[str]:
    """Ends those sets that no rule looks into, and returns the others."""
    used = []
    waiting = list(names)
    while waiting:
        try:
            restore([destroy_line(name) for name in waiting])
        except IpsetError as error:
            if not 0 < error.line <= len(waiting):
                raise
            if _IN_USE in str(error):
                used.append(waiting[error.line - 1])
            elif "does not exist" not in str(error):
                raise
            waiting = waiting[error.line :]
        else:
            waiting = []
    return used


def _output(arguments: Sequence[str]) -> str:
    done = _run(arguments)
    said = _words(done)
    if done.returncode > 0 and _NO_SETS in said:
        raise AbsentError("this kernel has no ipset")
    if done.returncode:
        raise HostError(f"{_PROGRAM} {printable(' '.join(arguments))} {children.how(done)}{said and f': {said}'}")
    return done.stdout.decode("utf-8", "surrogateescape")


def _run(arguments: Sequence[str], text: bytes = b"", more_seconds: float = 0.0) -> Ended:
    seconds = _SECONDS + more_seconds
    try:
        return children.run([_PROGRAM, *arguments], text, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise HostError(f"{_PROGRAM} did not end within {seconds:.0f} s and was killed") from error
    except FileNotFoundError as error:
        raise AbsentError(f"{_PROGRAM} is not installed: install the package ipset") from error
    except OSError as error:
        raise HostError(f"{_PROGRAM} cannot be run: {error.strerror}") from error


def _words(done: Ended) -> str:
    lines = [line.strip() for line in done.stderr.decode("utf-8", "surrogateescape").splitlines() if line.strip()]
    return escaped(_VERSION.sub("", " ".join(lines))[:300])


def _refusal(done: Ended, lines: Sequence[str]) -> IpsetError:
    said = _words(done)
    found = _LINE.search(said)
    number = int(found[1]) if found else 0
    place = ""
    with suppress(IndexError):
        place = f": {escaped(lines[number - 1][:300])}" if number else ""
    return IpsetError(f"{_PROGRAM} restore: {_LINE.sub('', said) or 'failed without a message'}{place}", number)
