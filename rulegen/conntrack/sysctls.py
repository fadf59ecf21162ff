"""The sysctls of connection tracking (rule 71): the configuration comes in, what was changed goes out.

A setting that is 0, or off, is left as it is; with none, nothing is read or written. What differs is overwritten,
upward or downward, except the size of the hash table, which is only raised.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rulegen.config import Conntrack
from rulegen.errors import HostError, shown

_SYSCTLS = "proc/sys/net/netfilter"
_HASH_SIZE = "sys/module/nf_conntrack/parameters/hashsize"
_MAX = "nf_conntrack_max"
_MAX_AT_MOST = 1048576
_ENTRIES_PER_BUCKET = 4

_ON_HOST = "set it on the host, or leave it out of the configuration"
_NOT_HERE = f"only the host's own network namespace may; {_ON_HOST}"
_REMEDIES = {
    errno.EROFS: f"a container must be privileged, or have /proc/sys and /sys writable; else {_ON_HOST}",
    errno.EACCES: f"it needs root, and {_NOT_HERE}",
    errno.EPERM: f"it needs root, and {_NOT_HERE}",
    errno.EOPNOTSUPP: _NOT_HERE,
}


class SysctlChange(NamedTuple):
    """A sysctl that had another value."""

    name: str
    before: int
    after: int

    def __str__(self) -> str:
        """For the log."""
        return f"{self.name}: {self.before} -> {self.after}"


def apply_sysctls(settings: Conntrack, cpus: int | None = None, root: Path = Path("/")) -> list[SysctlChange]:
    """Sets what is configured, of the network namespace of the calling thread where a sysctl belongs to one.

    `cpus`: how many CPUs the host has, by default as the kernel says. `root`: the folder that holds `proc` and `sys`.
    Returns what was changed, in order. Raises HostError that names the first sysctl that cannot be set; those before
    it are set.
    """
    changes = []
    for name, wanted in _wanted(settings, cpus or os.cpu_count() or 1):
        path = root / _SYSCTLS / name
        before = _read(path, name)
        if before != wanted:
            _write(path, name, before, wanted)
            changes.append(SysctlChange(name, before, wanted))
        if name == _MAX:
            changes += _raise_hash_size(root / _HASH_SIZE, wanted // _ENTRIES_PER_BUCKET)
    return changes


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


def _raise_hash_size(path: Path, wanted: int) -> list[SysctlChange]:
    name = f"/{_HASH_SIZE}"
    before = _read(path, name)
    if before >= wanted:
        return []
    _write(path, name, before, wanted)
    return [SysctlChange(name, before, wanted)]


def _read(path: Path, name: str) -> int:
    try:
        text = path.read_text().strip()
    except FileNotFoundError as error:
        raise HostError(f"{name}: not there; load the kernel's module nf_conntrack") from error
    except OSError as error:
        raise HostError(f"{name}: cannot be read: {error.strerror}") from error
    if not text.isdecimal():
        raise HostError(f"{name}: expected a number, found {shown(text)}")
    return int(text)


def _write(path: Path, name: str, before: int, wanted: int) -> None:
    try:
        path.write_text(f"{wanted}\n")
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, _ON_HOST)
        raise HostError(f"{name}: cannot be set to {wanted} (it is {before}): {error.strerror}; {remedy}") from error
