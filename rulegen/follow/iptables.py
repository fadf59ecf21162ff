"""The chains of iptables for a packet to follow, as compiled or as the driver has read them. Asks nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rulegen.config import Family
from rulegen.follow.model import Followed, Sent
from rulegen.follow.walk import FAMILIES, walk
from rulegen.iptables.chains import IPSET, TABLES, EntryKey, Rules
from rulegen.iptables.ipsets import Element, element_of
from rulegen.netfilter.ipsets import IpSet
from rulegen.netfilter.iptables import read_chains
from rulegen.netfilter.model import Ruleset


class Chains:
    """See `model.Follow`."""

    def __init__(self, entries: Mapping[EntryKey, Rules], prefixes: Sequence[str]) -> None:
        """`prefixes`: of the features' chains, in the order in which their rules stand in built-in ones."""
        self.entries = entries
        self._ranks = {prefix: rank for rank, prefix in enumerate(prefixes)}
        self._rulesets: dict[Family, Ruleset] = {}

    def __call__(self, sent: Sent) -> Followed:
        """Reads the chains that the packet passes, no others."""
        if sent.family not in self._rulesets:
            self._rulesets[sent.family] = self._ruleset(sent.family)
        return walk(self._rulesets[sent.family], sent)

    def rules(self, family: Family, table: str, chain: str) -> tuple[EntryKey, Rules] | None:
        """A feature's chain as it was given; None where it is not there."""
        for prefix in self._ranks:
            key = EntryKey(family, table, chain, prefix)
            if key in self.entries:
                return key, self.entries[key]
        return None

    def _ruleset(self, family: Family) -> Ruleset:
        tables: dict[str, dict[str, Rules]] = {table: {} for table in TABLES}
        built_in = []
        for key, rules in self.entries.items():
            if key.family is not family or key.table == IPSET:
                continue
            if key.is_built_in:
                built_in.append(key)
            else:
                tables[key.table][key.chain] = rules
        for key in sorted(built_in, key=lambda key: self._ranks.get(key.prefix, len(self._ranks))):
            chains = tables[key.table]
            chains[key.chain] = chains.get(key.chain, ()) + self.entries[key]
        return read_chains(FAMILIES[family], tables, self._ipsets(family))

    def _ipsets(self, family: Family) -> dict[str, IpSet]:
        found: dict[str, IpSet] = {}
        elements: list[Element] = []
        for key, rules in self.entries.items():
            if key.family is not family or key.table != IPSET:
                continue
            element = element_of(key)
            if element is None:
                found[key.chain] = IpSet(key.chain, rules[0].partition(" ")[0], [])
            else:
                elements.append(element)
        for element in elements:
            if element.set_name in found:
                found[element.set_name].elements.append(element.text)
        return found
