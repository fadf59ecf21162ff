"""Names of the chains and ipsets that policies need. A chain's has at most 28 characters, an ipset's 31. Pure."""

from __future__ import annotations

from rulegen.config import Family
from rulegen.iptables.ipsets import set_name
from rulegen.policies.model import AddressRange, Combination, Direction
from rulegen.policies.names import blocks_name, combination_digest, digest, named_port_name

PREFIX = "RULEGEN-NP-"
FORWARD, NODE, DENIED, STRICT = (f"{PREFIX}{word}" for word in ("FORWARD", "NODE", "DENIED", "STRICT"))
ROOTS = {Direction.EGRESS: f"{PREFIX}EGRESS", Direction.INGRESS: f"{PREFIX}INGRESS"}
_LETTERS = {Direction.EGRESS: ("E", "S"), Direction.INGRESS: ("I", "D")}
_MAX_CHAIN = 28


def combination_chain(combination: Combination) -> str:
    """`RULEGEN-NP-I-` and a digest: by what pods are isolated."""
    return f"{PREFIX}{_LETTERS[combination.direction][0]}-{combination_digest(combination)}"


def log_chain(combination: Combination) -> str:
    """`RULEGEN-NP-L-` and a digest: tells of what a combination denies."""
    return f"{PREFIX}L-{digest((combination.direction.word, *combination[1:]))}"


def subjects_ipset(family: Family, direction: Direction, chain: str) -> str:
    """The ipset of this node's pods that are led to a chain: `rulegen-i-` and the end of its name."""
    return set_name(family, f"{_LETTERS[direction][0]}-{chain.rpartition('-')[2]}".lower())


def led_to(ipset: str) -> tuple[Direction, str] | None:
    """For which direction, and to which chain, the pods in an ipset are led; None for an ipset of another kind."""
    words = ipset.split("-")
    direction = next((found for found, letters in _LETTERS.items() if words[1:2] == [letters[0].lower()]), None)
    if direction is None or len(words) != 3:
        return None
    end = words[2]
    return direction, STRICT if end == STRICT.rpartition("-")[2].lower() else f"{PREFIX}{_LETTERS[direction][0]}-{end}"


def known_ipset(family: Family) -> str:
    """The ipset of all of this node's pods."""
    return set_name(family, "known")


def branch_chain(direction: Direction, prefix: str) -> str:
    """`RULEGEN-NP-S-10.0.0.0/28`: the pods of this node with these addresses."""
    begin = f"{PREFIX}{_LETTERS[direction][1]}-"
    # nft prints these names too, and reads no colon in one.
    readable = begin + prefix.replace(":", "_")
    return readable if len(readable) <= _MAX_CHAIN else begin + digest([prefix])


def selector_ipset(family: Family, selector_id: str) -> str:
    """The ipset of what a selector selects."""
    return set_name(family, selector_id)


def blocks_ipset(family: Family, blocks: tuple[AddressRange, ...]) -> str:
    """The ipset of a list of ranges."""
    return set_name(family, blocks_name(blocks))


def named_ipset(family: Family, name: str) -> str:
    """The ipset of the places where a port has this name."""
    return set_name(family, named_port_name(name))
