"""Where nft compiles: the fixed part comes in, what the kernel holds of it when nft has loaded it goes out.

nft works in a process of its own and, where that is allowed, in a network namespace of its own, in which there is
nothing but what it compiles. Where it is not, it works beside everybody's tables, in a table that no packet meets
(dormant, and deleted at once). An nft that does not work is one line that says what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, closing

from rulegen.config import Family
from rulegen.errors import HostError, StaleError, printable
from rulegen.nftables import messages
from rulegen.nftables.base_chains import BaseChains
from rulegen.nftables.layout import IP_KEYWORD, TABLE
from rulegen.nftables.messages import Connection, InterruptedDumpError, KernelError
from rulegen.nftables.nft_process import NftDiedError, NftProcess, NoNamespaceError
from rulegen.nftables.rules import SCRATCH_TABLE, CompiledChain, CompiledTable, read_scratch_table, scratch_table_text

_ATTEMPTS = 20
_NAMED = 4


class ScratchTable:
    """For one network namespace, that of the thread that calls.

    `connection`: a netlink socket there. `own_commit`: what nft commits there within is ours.
    """

    def __init__(self, connection: Connection, own_commit: Callable[[], AbstractContextManager[None]]) -> None:
        self._connection = connection
        self._own_commit = own_commit
        # Why nft cannot have a namespace of its own; None while it can, as far as is known.
        self._why_beside: str | None = None

    def compile(
        self, wanted: Mapping[Family, tuple[BaseChains, Collection[str]]]
    ) -> dict[Family, tuple[CompiledTable, dict[str, CompiledChain]]]:
        """Each fixed part with its balance chains of these names. Raises HostError, ApplyError, StaleError."""
        texts = {family: scratch_table_text(base_chains, names) for family, (base_chains, names) in wanted.items()}
        with closing(self._start(wanted)) as nft:
            if self._why_beside is not None:
                return {family: self._compile_beside(nft, family, text) for family, text in texts.items()}
            self._run(nft, "".join(texts.values()), list(texts))
            return {family: _read(nft.connection, family) for family in texts}

    def can_compile_apart(self) -> bool:
        """Whether compiling changes nothing in this namespace, not even for a moment. Raises HostError."""
        if self._why_beside is None:
            self._start(()).close()
        return self._why_beside is None

    def check(self, commands: str, families: Collection[Family]) -> None:
        """Has nft check commands where nothing can be compiled apart. Raises HostError, ApplyError, StaleError."""
        with closing(self._start(families)) as nft:
            self._run(nft, commands, families, check=True)

    def _start(self, families: Collection[Family]) -> NftProcess:
        try:
            if self._why_beside is None:
                try:
                    return self._start_apart()
                except NoNamespaceError as error:
                    self._why_beside = str(error)
            return NftProcess(alone=False)
        except NftDiedError as error:
            raise HostError(self._explained(error, families)) from error

    @staticmethod
    def _start_apart() -> NftProcess:
        nft = NftProcess(alone=True)
        try:
            # In the namespaces that some hosts give to users nothing is allowed.
            nft.connection.generation()
        except KernelError as error:
            nft.close()
            raise NoNamespaceError(str(error)) from error
        return nft

    def _run(self, nft: NftProcess, commands: str, families: Collection[Family], *, check: bool = False) -> None:
        try:
            nft.run(commands, check=check)
        except NftDiedError as error:
            raise HostError(self._explained(error, families)) from error

    def _compile_beside(
        self, nft: NftProcess, family: Family, text: str
    ) -> tuple[CompiledTable, dict[str, CompiledChain]]:
        for _ in range(_ATTEMPTS):
            with self._own_commit():
                self._run(nft, text, [family])
            try:
                try:
                    return _read(self._connection, family)
                finally:
                    self._connection.commit([messages.delete_table(family, SCRATCH_TABLE)])
            except InterruptedDumpError:
                continue
            except KernelError as error:
                raise StaleError(f"cannot compile rules: {error}") from error
        raise StaleError(f"the ruleset changed during each of {_ATTEMPTS} attempts to compile rules")

    def _explained(self, error: NftDiedError, families: Collection[Family]) -> str:
        tables = ", ".join(f"{IP_KEYWORD[family]} {TABLE}" for family in families)
        what = f"nft {error}" + (f" at the rules of table {tables}" if tables else "")
        if self._why_beside is None:
            return f"{what}, alone in a network namespace: is the package nftables intact?"
        others = [table for table in self._connection.tables_with_sets() if table.split(" ")[1] not in _OWN]
        if not others:
            return f"{what}: is the package nftables intact?"
        named = ", ".join(map(printable, others[:_NAMED])) + (", ..." if len(others) > _NAMED else "")
        return (
            f"{what}; it reads everybody's sets, and is known to crash on those that a newer nft wrote: {named}. "
            "In a network namespace of its own it would not meet them; that needs root with CAP_SYS_ADMIN, or user "
            f"namespaces ({self._why_beside})"
        )


_OWN = {TABLE, SCRATCH_TABLE}


def _read(connection: Connection, family: Family) -> tuple[CompiledTable, dict[str, CompiledChain]]:
    if connection.table(family, SCRATCH_TABLE) is None:
        raise HostError(f"nft has not made the table {IP_KEYWORD[family]} {TABLE} that it says it has made")
    return read_scratch_table(connection, family)
