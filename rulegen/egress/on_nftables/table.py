"""The tables: a set for each side of ranges, and one chain, both for good. No I/O but the template."""

from __future__ import annotations

from collections.abc import Mapping

from rulegen.claims import EGRESS_HOOKS
from rulegen.config import Family
from rulegen.egress.model import NAME, Side
from rulegen.nftables.elements import Field
from rulegen.nftables.tables import TableSpec, assembled, table_name
from rulegen.resources import environment

_CHAINS = "\t# ---- chains ----\n"


class EgressTable(TableSpec):
    """One family's table. `sides`: the set for each side of ranges. `text`: all of it without elements."""

    def __init__(self, family: Family) -> None:
        super().__init__(family, table_name(NAME))
        field = Field.IPV4 if family is Family.IPV4 else Field.IPV6
        self.sides = {side: self.add_set(side.value, (field,), interval=True) for side in Side}
        text = environment("nftables").get_template("egress.nft.j2").render(ip=self.ip, hook=EGRESS_HOOKS)
        sets, _, chains = text.lstrip("\n").partition(_CHAINS)
        self.text = assembled(self, sets, chains.lstrip("\n"))


TABLES: Mapping[Family, EgressTable] = {family: EgressTable(family) for family in Family}
