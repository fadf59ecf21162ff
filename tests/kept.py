"""Services, and the rules that are kept equal to them, as an agent puts them together."""

from __future__ import annotations

from typing import NamedTuple

from rulegen.config import NodeConfiguration
from rulegen.nftables.kernel import Kernel
from rulegen.nftables.live_rules import LiveTables
from rulegen.reconcile.compilers import CompilerSet
from rulegen.services.feature import ServicesFeature
from tests.builders import CONFIGURATION


class Kept(NamedTuple):
    """The feature, and its compiler in a set of its own."""

    services: ServicesFeature
    compilers: CompilerSet


def services_on(driver: str, configuration: NodeConfiguration = CONFIGURATION) -> Kept:
    """Services with a compiler for a driver."""
    services = ServicesFeature(configuration)
    return Kept(services, CompilerSet.of([services], driver, configuration))


def service_tables(
    kernel: Kernel, configuration: NodeConfiguration = CONFIGURATION
) -> tuple[ServicesFeature, LiveTables]:
    """Services in a kernel's tables."""
    services, compilers = services_on("nftables", configuration)
    return services, LiveTables(kernel, compilers)
