"""Services as a driver has compiled them, as explanations speak of them; see `model.Ruleset`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from rulegen.config import Family
from rulegen.reconcile.feature import AnyCompiler, AnyEntries
from rulegen.services.explain.model import Ruleset
from rulegen.services.store import Store


def ruleset_of(
    driver: str, compiler: AnyCompiler, store: Store, families: Collection[Family], live: AnyEntries | None
) -> Ruleset:
    """`compiler`: the Services' own, which has compiled. `live`: what the kernel holds; None: it is not asked about."""
    services: Any = compiler
    if driver == "nftables":
        from rulegen.services.on_nftables.explain import NftablesRuleset

        return NftablesRuleset(services.compiler, families, live)
    from rulegen.services.on_iptables.explain import IptablesRuleset

    return IptablesRuleset(services.compiler, store.service_ports(), families, live)
