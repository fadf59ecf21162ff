"""A plan as a file: what was shown, from what it was made, and by what it is known that nothing has moved on since.

In: a plan, or the path of one. Out: a file that only its owner reads, or a plan that was read back. A plan holds no
rules that would be loaded: whoever applies it reads the same input and the kernel again, and compares. So it is trusted
no more than any other input.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NoReturn

import msgspec

from rulegen.commands.documents import Document, Part, ShownEntry, Summary
from rulegen.commands.private_file import write_private
from rulegen.errors import UNDECODABLE, HostError, InputError, printable, shown
from rulegen.paths import status_in_proc

# A first apply of 50,000 Services has some 500,000 entries, of 250 bytes each.
_MOST_BYTES = 512 << 20
_BOOT = "/proc/sys/kernel/random/boot_id"


class PlannedHost(Part, frozen=True):
    """Where a plan is for. `boot`: the kernel's number of its start; `network_namespace`: its device and inode."""

    name: str
    boot: str
    network_namespace: str

    @classmethod
    def here(cls) -> PlannedHost:
        """This host, in the network namespace of this thread. Raises HostError."""
        namespace = status_in_proc("/proc/thread-self/ns/net")
        try:
            boot = Path(_BOOT).read_text(encoding="ascii").strip()
        except OSError as error:
            raise HostError(f"{_BOOT}: {error.strerror}; a plan is for one start of a host") from error
        return cls(os.uname().nodename, boot, f"{namespace.st_dev}:{namespace.st_ino}")


class PlannedInput(Part, frozen=True):
    """What the options said, so that the same can be read again. Paths are absolute, and `-` is standard input."""

    files: Sequence[str]
    node: str
    config: str
    kubeconfig: str
    features: Sequence[str]
    skip_invalid: bool
    prune_unreadable: bool
    target: str
    iptables_variant: str
    iptables_driver: str


class Plan(Document, frozen=True, forbid_unknown_fields=True):
    """What `rulegen plan -o` writes.

    `rulegen`: the version that made it. `live`, `wanted`: digests of all entries that the kernel held and should hold.
    `seed`: where numbers that may be any begin. `leftovers`: other targets and variants, from which all that is
    rulegen's goes.
    """

    kind: Literal["RulegenPlan"]
    rulegen: str
    host: PlannedHost
    input: PlannedInput
    seed: int
    live: str
    wanted: str
    summary: Summary
    changes: Sequence[ShownEntry]
    leftovers: Sequence[str]


def write_plan(path: str, plan: Plan) -> None:
    """Writes the whole file or none, for its owner alone. Raises InputError."""
    data = msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n"
    if len(data) > _MOST_BYTES:
        raise InputError(f"{printable(path)}: the plan has {len(data)} bytes, and at most {_MOST_BYTES} are read")
    write_private(path, data)


def read_plan(path: str) -> Plan:
    """Raises InputError, one line for whatever the file is instead of a plan."""
    data = _read(path)
    try:
        return msgspec.json.decode(data, type=Plan)
    except msgspec.ValidationError as error:
        _refuse(path, data, error)
    except UNDECODABLE as error:
        reason = "it was cut off" if "truncated" in str(error) or not data.strip() else str(error)
        raise InputError(f"{printable(path)}: expected what `rulegen plan -o` writes: {reason}") from error


def _refuse(path: str, data: bytes, error: msgspec.ValidationError) -> NoReturn:
    """Another version says so before anything else is wrong with it."""
    with suppress(*UNDECODABLE):
        header = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        version = msgspec.json.decode(header.get("version", b"null"))
        if "changes" in header and version != 1:
            raise InputError(f"{printable(path)}: expected a plan of version 1, got {shown(version)}") from error
    raise InputError(f"{printable(path)}: expected what `rulegen plan -o` writes: {error}") from error


def _read(path: str) -> bytes:
    try:
        # A pipe that nobody writes to would keep us waiting.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{printable(path)}: expected a plain file")
            if status.st_mode & stat.S_IWOTH:
                raise InputError(f"{printable(path)}: everybody may write it, so that nobody knows whose plan it is")
            if status.st_size > _MOST_BYTES:
                raise InputError(f"{printable(path)}: expected at most {_MOST_BYTES} bytes, got {status.st_size}")
            return file.read(_MOST_BYTES)
    except OSError as error:
        raise InputError(f"{printable(path)}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{printable(path)}: not a path") from error
