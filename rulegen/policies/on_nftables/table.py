"""The fixed part of one family's table: the sets that always are there, and the chains that packets meet first."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from rulegen.claims import POLICY_HOOKS
from rulegen.config import Denial, Family, PolicySettings
from rulegen.nftables.elements import IP_KEYWORD
from rulegen.nftables.tables import BaseChains, Generated, assembled
from rulegen.policies.on_nftables.layout import LAYOUTS
from rulegen.resources import templates

if TYPE_CHECKING:
    from jinja2 import Template

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
    text = _template().render(
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


@lru_cache(maxsize=1)
def _template() -> Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates("nftables")),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - nft, not HTML; nothing that a cluster sends is filled in
    )
    return environment.get_template("policies.nft.j2")
