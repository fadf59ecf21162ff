"""The target that an agent keeps, as a whole: its rules, how others' changes are noticed, and whose place it takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import NamedTuple

from rulegen.agent.observers.legacy_cleanup import Removal
from rulegen.agent.worker.drift import Notifications, PeriodicResync, Watch
from rulegen.config import Configuration, Family, Target
from rulegen.configuration_file import for_families
from rulegen.interfaces import host_families
from rulegen.iptables.binaries import Variant
from rulegen.targets.model import LiveRules

# A sync costs as much as its changes: so many take some 50 ms, and whoever comes meanwhile waits for no more.
_NFTABLES_BATCH = 200
# A sync costs about the same whatever it changes, a second on large nodes: smaller ones only fall behind.
_IPTABLES_BATCH = 5000


class Dataplane(NamedTuple):
    """One target on this host. To be used by one thread, in the network namespace in which it was opened.

    `configuration`: the node's part has the host's families. `rules`: to be kept. `watch`: notices what others change.
    `batch`: how many changes a sync should work on at the most. `replaces`: what removes rulegen's rules of other
    targets.
    """

    configuration: Configuration
    rules: LiveRules
    watch: Watch
    batch: int
    replaces: tuple[Removal, ...]


def open_dataplane(configuration: Configuration, variant: Variant | None) -> AbstractContextManager[Dataplane]:
    """The target of the configuration; `variant`: of iptables, None for the one that the host uses.

    Raises:
        HostError: the kernel, its programs or privileges do not suffice.
        InputError: the host lacks a family that the configuration cannot do without.
    """
    return _nftables(configuration) if configuration.target is Target.NFTABLES else _iptables(configuration, variant)


@contextmanager
def _nftables(configuration: Configuration) -> Iterator[Dataplane]:
    from rulegen.nftables.kernel import Kernel
    from rulegen.targets.live_nftables import LiveNftables
    from rulegen.targets.on_iptables import IptablesTarget

    with Kernel() as kernel:
        configuration = _on_host(configuration, host_families())
        rules = LiveNftables(kernel, configuration.node)
        yield Dataplane(
            configuration, rules, Notifications(kernel.monitor()), _NFTABLES_BATCH, (IptablesTarget().remove,)
        )


@contextmanager
def _iptables(configuration: Configuration, variant: Variant | None) -> Iterator[Dataplane]:
    from rulegen.iptables.kernel import Kernel, remove_rules
    from rulegen.targets.live_iptables import LiveIptables
    from rulegen.targets.on_nftables import NftablesTarget

    kernel = Kernel(variant)
    configuration = _on_host(configuration, host_families())
    period = configuration.agent.sync_period
    others = set(Variant) - {kernel.variant}
    yield Dataplane(
        configuration,
        LiveIptables(kernel, configuration.node, patience=period),
        PeriodicResync(period, time.monotonic()),
        _IPTABLES_BATCH,
        (NftablesTarget().remove, partial(remove_rules, others)),
    )


def _on_host(configuration: Configuration, families: tuple[Family, ...]) -> Configuration:
    from msgspec.structs import replace

    return replace(configuration, node=for_families(configuration.node, families))
