"""The fixed part of one family's table: the sets that always are there, and the chains that packets meet first."""

from __future__ import annotations

from rulegen.claims import POLICY_HOOKS
from rulegen.config import Denial, Family, PolicySettings
from rulegen.nftables.elements import IP_KEYWORD
from rulegen.nftables.tables import BaseChains, Generated, assembled
from rulegen.policies.on_nftables.layout import LAYOUTS
from rulegen.resources import environment

# In a table of one family, "icmpx" is not to be had.
_REJECT = {
    Family.IPV4: "reject with icmp type admin-prohibited",
    Family.IPV6: "reject with icmpv6 type admin-prohibited",
}
_CHAINS = "\t# ---- chains ----\n"


def base_chains(
    family: Family, settings: PolicySettings, pod_ranges: tuple[str, ...], generated: Generated
) -> BaseChains:
    """The table without what depends on the cluster. `pod_ranges`: the node's own, for `fail_closed`."""
    template = environment("nftables").get_template("policies.nft.j2")
    text = template.render(
        ip=IP_KEYWORD[family],
        hook=POLICY_HOOKS,
        denial="drop" if settings.denial is Denial.DROP else _REJECT[family],
        strict=settings.strict,
        guarded=pod_ranges if settings.fail_closed else (),
        guards_input=settings.node_input,
        log=settings.log_group is not None,
    )
    sets, _, chains = text.partition(_CHAINS)
    return assembled(LAYOUTS[family], sets.rstrip("\n") + "\n", chains.lstrip("\n"), generated)
