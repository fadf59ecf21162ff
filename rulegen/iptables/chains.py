"""What a feature says of its chains: the text of the fixed ones, and who compiles the others. Only declarations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from rulegen.config import Family
from rulegen.iptables.base_chains import BaseChains, Entries
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.feature import Compiler


class ChainCompiler(Compiler[Entries], Protocol):
    """A Compiler for this driver. `base_chains`: each family's fixed part, as the last update made it."""

    @property
    def base_chains(self) -> Mapping[Family, BaseChains]:
        """By family."""
        ...


def base_chains_of_all(compilers: CompilerSet) -> Mapping[Family, BaseChains]:
    """The texts of the fixed parts."""
    found: dict[Family, BaseChains] = {}
    for compiler in compilers.by_feature.values():
        found |= compiler.base_chains  # type: ignore[attr-defined]
    return found
