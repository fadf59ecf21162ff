"""Where nft compiles: the fixed part comes in, what the kernel holds of it when nft has loaded it goes out.

nft works in a process of its own and, where that is allowed, in a network namespace of its own, in which there is
nothing but what it compiles. Where it is not, it works beside everybody's tables, in a table that no packet meets
(dormant, and deleted at once). An nft that does not work is one line that says what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager

from rulegen.errors import HostError, StaleError, printable
from rulegen.nftables import messages
from rulegen.nftables.messages import Connection, InterruptedDumpError, KernelError
from rulegen.nftables.nft_process import NftDiedError, NftProcess, NoNamespaceError
from rulegen.nftables.rules import Names, Scratch, read_scratch_table, scratch_name, scratch_table_text
from rulegen.nftables.tables import BaseChains, TableSpec
from rulegen.nftables.undisturbed import undisturbed

_ATTEMPTS = 20
_NAMED = 4


class ScratchTable:
    """For one network namespace, that of the thread that calls.

    `connection`: a netlink socket there. `own_commit`: what nft commits there within is ours.
    """

    def __init__(self, connection: Connection, own_commit: Callable[[], AbstractContextManager[None]]) -> None:
        self._connection = connection
        self._own_commit = own_commit
        # Kept for tables that need it often: to start it takes ten times as long as to have it compile.
        self._kept: NftProcess | None = None
        # Why nft cannot have a namespace of its own; None while it can, as far as is known.
        self._why_beside: str | None = None

    def compile(self, wanted: Mapping[TableSpec, tuple[BaseChains, Names]]) -> dict[TableSpec, Scratch]:
        """Each fixed part with what comes and goes of these names. Raises HostError, ApplyError, StaleError."""
        texts = {spec: scratch_table_text(base_chains, names) for spec, (base_chains, names) in wanted.items()}
        with self._nft(wanted) as nft:
            if self._why_beside is not None:
                return {spec: self._compile_beside(nft, spec, text) for spec, text in texts.items()}
            self._run(nft, "".join(texts.values()), list(texts))
            return {spec: _read(nft.connection, spec) for spec in texts}

    def close(self) -> None:
        """Ends what was kept."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    @contextmanager
    def _nft(self, specs: Collection[TableSpec]) -> Iterator[NftProcess]:
        """One that works at the beginning, and is kept where it is likely to be wanted again."""
        if self._kept is not None and not self._kept.is_alive():
            self.close()
        nft, self._kept = self._kept or self._start(specs), None
        try:
            yield nft
        except BaseException:
            nft.close()
            raise
        if any(spec.compiles_often for spec in specs):
            self._kept = nft
        else:
            nft.close()

    def can_compile_apart(self) -> bool:
        """Whether compiling changes nothing in this namespace, not even for a moment. Raises HostError."""
        if self._why_beside is None:
            self._start(()).close()
        return self._why_beside is None

    def check(self, commands: str, specs: Collection[TableSpec]) -> None:
        """Has nft check commands where nothing can be compiled apart. Raises HostError, ApplyError, StaleError."""
        with closing(self._start(specs)) as nft:
            self._run(nft, commands, specs, check=True)

    def _start(self, specs: Collection[TableSpec]) -> NftProcess:
        try:
            if self._why_beside is None:
                try:
                    return self._start_apart()
                except NoNamespaceError as error:
                    self._why_beside = str(error)
            return NftProcess(alone=False)
        except NftDiedError as error:
            raise HostError(self._explained(error, specs)) from error

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

    def _run(self, nft: NftProcess, commands: str, specs: Collection[TableSpec], *, check: bool = False) -> None:
        try:
            nft.run(commands, check=check)
        except NftDiedError as error:
            raise HostError(self._explained(error, specs)) from error

    def _compile_beside(self, nft: NftProcess, spec: TableSpec, text: str) -> Scratch:
        for _ in range(_ATTEMPTS):
            with self._own_commit():
                self._run(nft, text, [spec])
            try:
                try:
                    return _read(self._connection, spec)
                finally:
                    self._connection.commit([messages.delete_table(spec.family, scratch_name(spec))])
            except InterruptedDumpError:
                continue
            except KernelError as error:
                raise StaleError(f"cannot compile rules: {error}") from error
        raise StaleError(f"the ruleset changed during each of {_ATTEMPTS} attempts to compile rules")

    def _explained(self, error: NftDiedError, specs: Collection[TableSpec]) -> str:
        tables = ", ".join(map(str, specs))
        what = f"nft {error}" + (f" at the rules of table {tables}" if tables else "")
        if self._why_beside is None:
            return f"{what}, alone in a network namespace: is the package nftables intact?"
        others = [table for table in undisturbed(self._connection.tables_with_sets) if not _is_own(table)]
        if not others:
            return f"{what}: is the package nftables intact?"
        named = ", ".join(map(printable, others[:_NAMED])) + (", ..." if len(others) > _NAMED else "")
        return (
            f"{what}; it reads everybody's sets, and is known to crash on those that a newer nft wrote: {named}. "
            "In a network namespace of its own it would not meet them; that needs root with CAP_SYS_ADMIN, or user "
            f"namespaces ({self._why_beside})"
        )


def _is_own(table: str) -> bool:
    name = table.partition(" ")[2]
    return name == "rulegen" or name.startswith("rulegen-")


def _read(connection: Connection, spec: TableSpec) -> Scratch:
    if connection.table(spec.family, scratch_name(spec)) is None:
        raise HostError(f"nft has not made the table {spec} that it says it has made")
    return read_scratch_table(connection, spec)
