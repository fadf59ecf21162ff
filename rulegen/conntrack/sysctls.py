"""The sysctls of connection tracking (SVC-71): the configuration comes in, what was changed and refused goes out.

A setting that is 0, or off, is left as it is; with none, nothing is read or written. What differs is overwritten,
upward or downward, except the size of the hash table, which is only raised. What cannot be set holds up nothing else:
a node serves without it.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rulegen.config import Conntrack
from rulegen.conntrack.table import load_module
from rulegen.errors import shown
from rulegen.paths import may_be_there

_SYSCTLS = "proc/sys/net/netfilter"
_HASH_SIZE = "sys/module/nf_conntrack/parameters/hashsize"
_MAX = "nf_conntrack_max"
_MAX_AT_MOST = 1048576
_ENTRIES_PER_BUCKET = 4

_ON_HOST = "set it on the host, with sysctl or `rulegen sysctls`, or leave it out of the configuration"
_NOT_HERE = f"only the host's own network namespace may; {_ON_HOST}"
_REMEDIES = {
    errno.ENOENT: "load the kernel's module nf_conntrack",
    errno.EROFS: f"a container must be privileged, or have /proc/sys and /sys writable; else {_ON_HOST}",
    errno.EACCES: f"it needs root, and {_NOT_HERE}",
    errno.EPERM: f"it needs root, and {_NOT_HERE}",
    errno.EOPNOTSUPP: _NOT_HERE,
}


class _RefusedError(Exception):
    def __init__(self, refusal: SysctlRefusal) -> None:
        self.refusal = refusal


class SysctlChange(NamedTuple):
    """A sysctl that had another value."""

    name: str
    before: int
    after: int

    def __str__(self) -> str:
        return f"{self.name}: {self.before} -> {self.after}"


class SysctlRefusal(NamedTuple):
    """A sysctl that does not have the value `wanted`; `before`: what it has, None when that cannot be said."""

    name: str
    wanted: int
    before: int | None
    why: str

    def __str__(self) -> str:
        """Without the reason, which others may share."""
        found = "" if self.before is None else f" (it is {self.before})"
        return f"{self.name} to {self.wanted}{found}"


class Sysctls(NamedTuple):
    """What became of those that are configured and had another value, each in order."""

    changes: tuple[SysctlChange, ...] = ()
    refusals: tuple[SysctlRefusal, ...] = ()

    def problems(self) -> list[str]:
        """What was refused, in words: one line for each reason, with what would help."""
        by_reason: dict[str, list[str]] = {}
        for refusal in self.refusals:
            by_reason.setdefault(refusal.why, []).append(str(refusal))
        return [f"cannot set {', '.join(names)}: {why}" for why, names in by_reason.items()]


def set_sysctls(settings: Conntrack) -> Sysctls:
    """Sets what is configured, of the network namespace of the calling thread where a sysctl belongs to one.

    The kernel is asked to load connection tracking first where it has not: without it there are no such sysctls.
    """
    if any(_wanted(settings, 1)) and not may_be_there(Path("/", _SYSCTLS, _MAX)):
        load_module()
    return apply_sysctls(settings)


def apply_sysctls(settings: Conntrack, cpus: int | None = None, root: Path = Path("/")) -> Sysctls:
    """Sets what is configured, of what is there.

    `cpus`: how many CPUs the host has, by default as the kernel says. `root`: the folder that holds `proc` and `sys`.
    """
    changes: list[SysctlChange] = []
    refusals: list[SysctlRefusal] = []
    for name, wanted in _wanted(settings, cpus or os.cpu_count() or 1):
        try:
            changes += _set(name, root / _SYSCTLS / name, wanted)
            if name == _MAX:
                name = f"/{_HASH_SIZE}"  # noqa: PLW2901 - what is being set
                changes += _set(name, root / _HASH_SIZE, wanted // _ENTRIES_PER_BUCKET, is_least=True)
        except _RefusedError as error:
            refusals.append(error.refusal)
    return Sysctls(tuple(changes), tuple(refusals))


def connection_limit(settings: Conntrack, cpus: int) -> int:
    """The `nf_conntrack_max` of a host with so many CPUs; 0: left as it is."""
    if not settings.max_per_core:
        return 0
    scaled = settings.max_per_core * cpus
    return _MAX_AT_MOST if scaled > _MAX_AT_MOST else max(scaled, settings.minimum)


def _wanted(settings: Conntrack, cpus: int) -> Iterator[tuple[str, int]]:
    wanted = (
        (_MAX, connection_limit(settings, cpus)),
        ("nf_conntrack_tcp_be_liberal", int(settings.tcp_be_liberal)),
        ("nf_conntrack_tcp_timeout_established", _seconds(settings.tcp_established_timeout)),
        ("nf_conntrack_tcp_timeout_close_wait", _seconds(settings.tcp_close_wait_timeout)),
        ("nf_conntrack_udp_timeout", _seconds(settings.udp_timeout)),
        ("nf_conntrack_udp_timeout_stream", _seconds(settings.udp_stream_timeout)),
    )
    return ((name, value) for name, value in wanted if value)


def _seconds(timeout: float) -> int:
    """Whole seconds; what is configured never becomes 0, which would end connections at once."""
    return math.ceil(timeout)


def _set(name: str, path: Path, wanted: int, *, is_least: bool = False) -> list[SysctlChange]:
    """`is_least`: a larger value stays. Raises _RefusedError."""
    before: int | None = None
    try:
        before = _number(path.read_text())
        if before == wanted or (is_least and before > wanted):
            return []
        path.write_text(f"{wanted}\n")
    except OSError as error:
        number = error.errno or 0
        why = f"{os.strerror(number)}; {_REMEDIES.get(number, _ON_HOST)}"
        raise _RefusedError(SysctlRefusal(name, wanted, before, why)) from error
    except ValueError as error:
        raise _RefusedError(SysctlRefusal(name, wanted, before, str(error))) from error
    return [SysctlChange(name, before, wanted)]


def _number(text: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError(f"expected a number, found {shown(text.strip())}")
    return int(text)
