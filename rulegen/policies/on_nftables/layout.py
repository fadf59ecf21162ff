"""The tables as data: which sets there always are, and which come and go with selectors, blocks and ports. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from rulegen.config import Family
from rulegen.nftables.elements import ETHERTYPES, EntryKey, Field, SetSpec, Value
from rulegen.nftables.tables import Brief, Drained, TableSpec, table_name
from rulegen.policies.model import Direction, Tier
from rulegen.reconcile.delta import Delta

FEATURE = "network-policies"
# Behind the fixed sets.
_RANK = 1000
_MEMBERSHIP = ("pods-", "nodes-", "named-", "named_")
_TIERS = tuple(f"{tier.value.lower()}-" for tier in Tier)
# A packet is through a node's rules in some microseconds; its processor may be taken away meanwhile, as in grace.py.
_LATELY_MILLISECONDS = 200


class PolicyTable(TableSpec):
    """One family's table.

    `pods`: by direction, the map from a pod's address to the chain of what isolates it; `notes`: to that of a denial.
    """

    compiles_often = True

    def __init__(self, family: Family) -> None:
        super().__init__(family, table_name(FEATURE))
        self._address = Field.IPV4 if family is Family.IPV4 else Field.IPV6
        address = (self._address,)
        self.pods = {
            Direction.EGRESS: self.add_set("egress-pods", address, (Field.VERDICT,)),
            Direction.INGRESS: self.add_set("ingress-pods", address, (Field.VERDICT,)),
        }
        self.self = self.add_set("self", (self._address, self._address))
        self.isolated = self.add_set("isolated", address)
        self.known = self.add_set("known", address)
        self.notes = {
            Direction.EGRESS: self.add_set("egress-notes", address, (Field.VERDICT,)),
            Direction.INGRESS: self.add_set("ingress-notes", address, (Field.VERDICT,)),
        }
        self.changed_lately = self.add_brief_set("changed-lately", Field.ETHERTYPE)
        self._generated: dict[str, SetSpec] = {}

    def set_named(self, name: str) -> SetSpec | None:
        """A fixed set, or one of which the name says of which type it is."""
        found = self.by_name.get(name) or self._generated.get(name)
        if found is None and (fields := self._fields(name)):
            is_interval = name.startswith(("blocks-", "ports-"))
            found = SetSpec(self, _RANK, name, (fields, ()), interval=is_interval)
            self._generated[name] = found
        return found

    def drained(self, delta: Delta[EntryKey, Value]) -> Drained:
        """What is in a set that goes stays until no packet is in a chain that looked into it.

        A packet that has met a chain as it was would find the set empty and be denied, though it is allowed before and
        after. No chain of the new ones looks there, so that it lets nobody through either.
        """
        going = {self.set_named(name.decode()) for set_spec, name in delta.removed if set_spec is self.declared}
        keys = frozenset(key for key in delta.removed if key[0] in going) if going else frozenset()
        return Drained(keys, is_handover=bool(keys))

    def meaning(self, set_spec: SetSpec, value: Value) -> str:
        """Of whom or of what the policies' chains ask."""
        kind = set_spec.name.partition("-")[0].partition("_")[0]
        meaning = _MEANINGS.get(set_spec.name) or _MEANINGS.get(kind, "")
        return meaning.format(value.comment)

    def announced(self, delta: Delta[EntryKey, Value], chains: Collection[str]) -> Brief | None:
        """Nearly every Delta: of a packet that meets a part of it the second chains ask again.

        Members that only come, or only leave, make each step of a packet's way agree with the rules before or after it,
        as long as a rule accepts its members; those of ClusterNetworkPolicies may deny them, and members come before
        it is asked who is one.
        """
        mine = [key for part in (delta.added, delta.changed, delta.removed) for key in part if key[0].spec is self]
        if not mine:
            return None
        is_one_way = not delta.changed and not (delta.added and delta.removed)
        are_members = all(key[0].name.startswith(_MEMBERSHIP) for key in mine)
        if is_one_way and are_members and not any(name.startswith(_TIERS) for name in chains):
            return None
        return Brief(self.changed_lately, ETHERTYPES[self.family], _LATELY_MILLISECONDS)

    def declaration(self, name: str) -> str:
        """The block that declares a set that comes and goes. KeyError for a name that is none of theirs."""
        found = self.set_named(name)
        if found is None:
            raise KeyError(name)
        lines = [f"typeof {' . '.join(field.value for field in found.key)}"]
        if found.interval:
            lines.append("flags interval")
        return f"\tset {name} {{\n" + "".join(f"\t\t{line}\n" for line in lines) + "\t}\n"

    def _fields(self, name: str) -> tuple[Field, ...]:
        if name.startswith(("pods-", "nodes-", "blocks-")):
            return (self._address,)
        if name.startswith("ports-"):
            return (Field.PROTOCOL, Field.PORT)
        if name.startswith(("named-", "named_")):
            return (self._address, Field.PROTOCOL, Field.PORT)
        return ()


_MEANINGS: Mapping[str, str] = {
    "egress-pods": "what pod {} sends is up to the policies of this chain",
    "ingress-pods": "what pod {} receives is up to the policies of this chain",
    "egress-notes": "what pod {} is denied to send is logged",
    "ingress-notes": "what pod {} is denied to receive is logged",
    "self": "a pod that reaches itself",
    "isolated": "a pod that policies isolate",
    "known": "a pod of this node",
    "pods": "a pod that a selector matches",
    "nodes": "a node that a selector matches",
    "blocks": "in a list of ranges",
    "ports": "in a list of ports",
    "named": "a port of this name",
}

LAYOUTS: Mapping[Family, PolicyTable] = {family: PolicyTable(family) for family in Family}
