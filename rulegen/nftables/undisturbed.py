"""A listing of the kernel's while nobody commits. A read comes in, its result goes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from rulegen.errors import HostError, StaleError
from rulegen.nftables.messages import InterruptedDumpError, KernelError

_ATTEMPTS = 20

Read = TypeVar("Read")


def undisturbed(read: Callable[[], Read]) -> Read:
    """What a listing of the kernel's gives when nobody commits meanwhile. Raises HostError, StaleError."""
    for _ in range(_ATTEMPTS):
        try:
            return read()
        except InterruptedDumpError:
            continue
        except KernelError as error:
            raise HostError(f"cannot read the nftables ruleset: {error}") from error
    raise StaleError(f"the ruleset changed during each of {_ATTEMPTS} attempts to read it")
