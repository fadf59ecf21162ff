"""Services as a driver has compiled them, as explanations speak of them; see `model.Ruleset`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from rulegen.config import Family
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.feature import AnyEntries
from rulegen.services.explain.model import Agreement, Entry, FollowedPacket, Ruleset
from rulegen.services.feature import NAME
from rulegen.services.model import ServicePortKey
from rulegen.services.store import Store


def ruleset_of(
    driver: str,
    compilers: CompilerSet,
    store: Store,
    families: Collection[Family],
    live: AnyEntries | None,
    *,
    is_here: bool = True,
) -> Ruleset:
    """`compilers`: of all features, which have compiled. `live`: what the kernel holds; None: it is not asked about.

    `is_here`: whether that is this host's. Where the kernel is asked about, packets follow its rules; on nftables only
    here, as entries of another host do not say what its chains were.
    """
    by_feature: Mapping[str, Any] = compilers.by_feature
    services = by_feature[NAME]
    if driver == "nftables":
        from rulegen.follow.nftables import CompiledTables, LiveTables
        from rulegen.services.on_nftables.explain import NftablesRuleset

        specs = [spec for compiler in by_feature.values() for spec in compiler.specs]
        follow_live = LiveTables(specs, live) if live is not None and is_here else None
        compiled = CompiledTables(by_feature.values())
        return NftablesRuleset(services.compiler, families, compiled, live, follow_live)
    from rulegen.follow.iptables import Chains
    from rulegen.iptables.chains import by_rank, prefixes_of
    from rulegen.services.on_iptables.explain import IptablesRuleset, OtherChains

    prefixes = prefixes_of(by_rank(compilers))
    follow = Chains(compilers.entries(), prefixes)
    kernel = None if live is None else Chains(live, prefixes)
    features = {name: one for name, one in by_feature.items() if name != NAME}
    others = OtherChains(
        {one.prefix: name for name, one in features.items()},
        frozenset(key.chain for one in features.values() for base in one.base_chains.values() for key in base.entries),
    )
    return IptablesRuleset(services.compiler, store.service_ports(), families, follow, kernel, others)


class WithoutEntries:
    """A `Ruleset` that tells of lists alone, not of entries nor of the kernel's: for all Services at once."""

    def __init__(self, whole: Ruleset) -> None:
        self.weigh = whole.weigh
        self.notes = whole.notes
        self.on_the_way = whole.on_the_way
        self.way = whole.way

    def service_port_entries(self, _: ServicePortKey) -> tuple[Entry, ...]:
        return ()

    def service_ports_agree(self, _: Collection[ServicePortKey]) -> Agreement | None:
        return None

    def packet_agrees(self, _: FollowedPacket | None) -> Agreement | None:
        return None
