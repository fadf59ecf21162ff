"""How steps get into the kernel: through iptables-restore, unless a person chooses `python_iptables`."""

from __future__ import annotations

from typing import Protocol

from rulegen.iptables import binaries
from rulegen.iptables.binaries import Variant
from rulegen.iptables.transaction import Step


class Loader(Protocol):
    """A way into the kernel, in the network namespace of the thread that it was made in."""

    def take(self, step: Step, *, test: bool) -> None:
        """Takes a step, all or nothing; `test`: only asks whether it would be taken.

        Raises RestoreError, and HostError when what carries it out does not work.
        """
        ...

    def close(self) -> None:
        """Ends what it has started."""
        ...


class RestoreLoader:
    """The way through iptables-restore, for both variants and changes of any size."""

    def __init__(self, variant: Variant, wait: int) -> None:
        """`wait`: how long another program may hold the lock, in seconds."""
        self._variant = variant
        self._wait = wait

    def take(self, step: Step, *, test: bool) -> None:
        """See `Loader`."""
        binaries.restore(self._variant, step.family, step.text, wait=self._wait, test=test)

    def close(self) -> None:
        """Nothing: a program is started for each step."""
