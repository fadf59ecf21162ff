"""The fixed part of one family's table, and the declarations of sets that come and go. No I/O but the template's."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256

from rulegen.claims import POLICY_HOOKS
from rulegen.config import Family
from rulegen.policies.on_nftables.rules import IP
from rulegen.policies.settings import Denial, Settings
from rulegen.resources import templates

# In a table of one family, "icmpx" is not to be had.
_REJECT = {
    Family.IPV4: "reject with icmp type admin-prohibited",
    Family.IPV6: "reject with icmpv6 type admin-prohibited",
}


@lru_cache(maxsize=16)
def program_text(family: Family, settings: Settings, pod_ranges: tuple[str, ...]) -> str:
    """The table without anything that depends on the cluster. `pod_ranges`: the node's own, for `fail_closed`."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates("nftables")),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - nft, not HTML; nothing that a cluster sends is filled in
    )
    template = environment.get_template("policies.nft.j2")
    variables = {
        "ip": IP[family],
        "hook": POLICY_HOOKS,
        "denial": "drop" if settings.denial is Denial.DROP else _REJECT[family],
        "strict": settings.strict,
        "guarded": pod_ranges if settings.fail_closed else (),
        "guards_input": settings.node_input,
        "log": settings.log_group is not None,
    }
    declarations = template.render(variables, schema="").partition("# ---- program ----")[0]
    return template.render(variables, schema=sha256(declarations.encode()).hexdigest()[:16])


def set_declaration(name: str, family: Family) -> str:
    """The block that declares a set; its name says of which type it is."""
    kind = name.partition("-")[0].partition("_")[0]
    if kind == "named":
        lines = [f"typeof {IP[family]} daddr . meta l4proto . th dport"]
    elif kind == "ports":
        lines = ["typeof meta l4proto . th dport", "flags interval"]
    else:
        lines = [f"typeof {IP[family]} daddr"] + (["flags interval"] if kind == "blocks" else [])
    return f"\tset {name} {{\n" + "".join(f"\t\t{line}\n" for line in lines) + "\t}\n"
