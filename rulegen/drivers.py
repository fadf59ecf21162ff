"""The drivers by the targets that a person names; what is not used is not imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rulegen.config import Configuration, IptablesLoader, Target
from rulegen.features import cluster_driver, of_a_node

if TYPE_CHECKING:
    from collections.abc import Callable

    from rulegen.iptables.binaries import Variant
    from rulegen.reconcile.driver import Driver


def driver_for(configuration: Configuration, variant: Variant | None, warn: Callable[[str], None]) -> Driver:
    """That of the features that are on. `warn` gets what a person should know. Raises InputError."""
    driver = cluster_driver(configuration.features)
    if driver == "dns":
        from rulegen.dns.driver import DnsDriver

        return DnsDriver(configuration.node.records, warn)
    if driver == "nginx":
        from rulegen.nginx.driver import NginxDriver

        return NginxDriver(configuration.node.ingress)
    return make_driver(configuration.target, variant, configuration.iptables_driver)


def make_driver(
    target: Target, variant: Variant | None = None, loader: IptablesLoader = IptablesLoader.RESTORE
) -> Driver:
    """The driver of a target; `variant`: of iptables, None for the one that the host uses."""
    if target is Target.NFTABLES:
        from rulegen.nftables.driver import NftablesDriver

        return NftablesDriver(of_a_node())
    from rulegen.iptables.driver import IptablesDriver

    return IptablesDriver(variant, loader)


def other_drivers(target: Target) -> list[Driver]:
    """Those of the other targets, in which an earlier run may have left rules."""
    return [make_driver(one) for one in Target if one is not target]
