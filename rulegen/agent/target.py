"""Where the engine's Deltas go: into the kernel, or, in a dry run, into a text. Decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rulegen.nftables.compiler import Compiler, Entries
from rulegen.nftables.describe import describe
from rulegen.nftables.kernel import Kernel
from rulegen.nftables.layout import EntryKey, Value
from rulegen.nftables.live import Live
from rulegen.nftables.transaction import Transaction, plan
from rulegen.ruleset import Delta


class Target(Protocol):
    """What is kept equal to the cluster."""

    def read(self) -> Live:
        """What it holds."""

    def apply(
        self, delta: Delta[EntryKey, Value], live: Live, compiler: Compiler, desired: Entries | None = None
    ) -> None:
        """Makes the Delta come true, all or nothing. `desired` as for `plan`. Raises ApplyError."""

    def accepts(self, delta: Delta[EntryKey, Value], live: Live, compiler: Compiler, desired: Entries) -> None:
        """Changes nothing. Raises ApplyError if `apply` would."""


class KernelTarget:
    """The kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def read(self) -> Live:
        """What the kernel holds."""
        return self._kernel.read()

    def apply(
        self, delta: Delta[EntryKey, Value], live: Live, compiler: Compiler, desired: Entries | None = None
    ) -> None:
        """Commits. Raises ApplyError."""
        self._kernel.commit(self._plan(delta, live, compiler, desired), live)

    def accepts(self, delta: Delta[EntryKey, Value], live: Live, compiler: Compiler, desired: Entries) -> None:
        """Asks the kernel. Raises ApplyError."""
        self._kernel.check(self._plan(delta, live, compiler, desired), live)

    def _plan(
        self, delta: Delta[EntryKey, Value], live: Live, compiler: Compiler, desired: Entries | None
    ) -> Transaction:
        return plan(delta, live, compiler.programs, desired, self._kernel.clients(delta))


class PrintingTarget:
    """Prints each change, as if it came true."""

    def __init__(self, kernel: Kernel, print_line: Callable[[str], None]) -> None:
        self._kernel = kernel
        self._print_line = print_line

    def read(self) -> Live:
        """What the kernel holds."""
        return self._kernel.read()

    def apply(
        self, delta: Delta[EntryKey, Value], live: Live, compiler: Compiler, desired: Entries | None = None
    ) -> None:
        """Prints."""
        del live, desired
        for line in describe(delta, compiler.names()):
            self._print_line(str(line))

    def accepts(self, delta: Delta[EntryKey, Value], live: Live, compiler: Compiler, desired: Entries) -> None:
        """Never raises."""
