"""What policies come to, between objects and targets: both targets compile it, `simulate` follows it.

A pod is isolated by a `Combination` of policies in each direction. A policy is a list of rules, of which the first that
matches decides; a rule names its peers as selectors and address ranges. Only values; nothing here has a memory.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, TypeAlias

from msgspec import Struct

from rulegen.config import Family
from rulegen.policies.selectors import Selector

# An address in network order; its length is its family.
Address: TypeAlias = bytes
# The first and the last address of a range.
AddressRange: TypeAlias = tuple[Address, Address]

PROTOCOLS = ("TCP", "UDP", "SCTP")
ALL_PORTS = (0, 65535)


# How long addresses are.
SIZES = {Family.IPV4: 4, Family.IPV6: 16}


def family_of(address: Address) -> Family:
    """Of which family an address in network order is."""
    return Family.IPV4 if len(address) == 4 else Family.IPV6


class Direction(Enum):
    """Seen from the pod that a policy selects; the values are the API's."""

    INGRESS = "Ingress"
    EGRESS = "Egress"

    @property
    def word(self) -> str:
        """As in names of chains."""
        return self.value.lower()


class Tier(Enum):
    """In the order in which they are asked."""

    ADMIN = "Admin"
    NETWORK_POLICY = "NetworkPolicy"
    BASELINE = "Baseline"


class Action(Enum):
    """What a rule does with what it matches; NetworkPolicies know only ACCEPT."""

    ACCEPT = "Accept"
    DENY = "Deny"
    PASS = "Pass"  # noqa: S105 - the API's word


class PolicyName(NamedTuple):
    """`namespace` is "" for a ClusterNetworkPolicy."""

    namespace: str
    name: str

    @property
    def kind(self) -> str:
        """The kind of the object."""
        return "NetworkPolicy" if self.namespace else "ClusterNetworkPolicy"

    def __str__(self) -> str:
        """For people: `NetworkPolicy default/web`."""
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class PortRange(NamedTuple):
    """Ports of one protocol; `ALL_PORTS` are all of it."""

    protocol: str
    first: int
    last: int


class NamedPort(NamedTuple):
    """A port that the destination pod names; `protocol` is "" where any will do."""

    protocol: str
    name: str


class Ports(Struct, frozen=True):
    """What a rule allows to connect to. `ranges` are sorted and neither overlap nor touch."""

    ranges: tuple[PortRange, ...] = ()
    named: tuple[NamedPort, ...] = ()


class Rule(Struct, frozen=True, kw_only=True):
    """One rule: it matches where a peer and a port match.

    `anyone`: all peers match, `selectors` and `blocks` are empty then. `blocks` are collapsed and sorted, of both
    families. `ports` None: every protocol and port. `place`: `ingress[0]`, or the rule's own name behind it.
    """

    action: Action = Action.ACCEPT
    anyone: bool = False
    selectors: tuple[Selector, ...] = ()
    blocks: tuple[AddressRange, ...] = ()
    ports: Ports | None = None
    place: str = ""

    def blocks_of(self, family: Family) -> tuple[AddressRange, ...]:
        """Those of one family."""
        return tuple(block for block in self.blocks if family_of(block[0]) is family)


Rules: TypeAlias = tuple[Rule, ...]

DENY_ALL = Rule(action=Action.DENY, anyone=True)


def closed_rules(name: PolicyName) -> Rules:
    """Rules by which a policy accepts nothing and passes nothing on, so that its pods are isolated."""
    return () if name.namespace else (DENY_ALL,)


class Fault(NamedTuple):
    """Something in a policy that cannot be used: where, and what was expected and found."""

    field: str
    message: str

    def __str__(self) -> str:
        """`spec.ingress[0].from[1]: expected ...`."""
        return f"{self.field}: {self.message}"


class Policy(Struct, frozen=True, kw_only=True):
    """One policy, read.

    `rules`: of the directions that it decides about, and no other. `faults` cost no pod its isolation: a direction with
    a fault has no rule that accepts. `unsupported`: legal, and not done here. `priority`: 0 to 1000, lower first.
    """

    name: PolicyName
    tier: Tier
    subject: Selector
    rules: dict[Direction, Rules]
    priority: int = 0
    faults: tuple[Fault, ...] = ()
    unsupported: tuple[Fault, ...] = ()

    @property
    def order(self) -> tuple[int, PolicyName]:
        """Policies of one tier in their order; equal priorities by name."""
        return self.priority, self.name


class Combination(NamedTuple):
    """All policies that select a pod in one direction, in the order in which they are asked.

    Where there are NetworkPolicies they decide finally, so that nobody asks the baseline.
    """

    direction: Direction
    admin: tuple[PolicyName, ...] = ()
    network: tuple[PolicyName, ...] = ()
    baseline: tuple[PolicyName, ...] = ()

    @property
    def policies(self) -> tuple[PolicyName, ...]:
        """All of them, in order."""
        return self.admin + self.network + self.baseline


# Of ingress and of egress; None where no policy selects.
Combinations: TypeAlias = tuple[Combination | None, Combination | None]


class Isolation(NamedTuple):
    """By what a pod of this node is isolated, and how it is called; None where nothing isolates it in a direction."""

    pod: str
    ingress: Combination | None
    egress: Combination | None

    def of(self, direction: Direction) -> Combination | None:
        """In one direction."""
        return self.ingress if direction is Direction.INGRESS else self.egress


class PodPort(NamedTuple):
    """A port that a pod names."""

    name: str
    protocol: str
    port: int
