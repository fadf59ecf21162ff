"""A few cases of the catalogue as rules that a person wrote: they show that the lab and the oracle see what is wrong.

The rules are written for all pods of the table, so that each node may have them. Each rule stands in a line of its own.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.policies.cluster import BY_NAME, PODS


class Ruleset(NamedTuple):
    """`case`: its name in the catalogue. `rules`: of a chain at forward that lets everything pass, IPv4 and IPv6."""

    case: str
    rules: tuple[str, ...]


def _set(*names: str) -> dict[str, str]:
    addresses = [BY_NAME[name].addresses for name in names]
    return {
        "ip": "{ " + ", ".join(address.v4 for address in addresses) + " }",
        "ip6": "{ " + ", ".join(address.v6 for address in addresses) + " }",
    }


def _both(pattern: str, **sets: dict[str, str]) -> tuple[str, ...]:
    """The rule once for each family."""
    return tuple(pattern.format(ip=ip, **{name: found[ip] for name, found in sets.items()}) for ip in ("ip", "ip6"))


_PODS = _set(*(pod.name for pod in PODS))
_X, _Y = (_set(*(f"{namespace}/{name}" for name in "abc")) for namespace in "xy")
_SELF = tuple(
    f"{ip} saddr . {ip} daddr {{ {', '.join(f'{address} . {address}' for address in addresses)} }} accept"
    for ip, addresses in (
        ("ip", [pod.addresses.v4 for pod in PODS]),
        ("ip6", [pod.addresses.v6 for pod in PODS]),
    )
)

RULESETS = (
    Ruleset(
        "ingress, peers pods a of the namespace",
        (
            *_SELF,
            *_both("{ip} saddr {a} {ip} daddr {x} accept", a=_set("x/a"), x=_X),
            *_both("{ip} daddr {x} drop", x=_X),
        ),
    ),
    Ruleset(
        "egress, ports TCP 80, UDP 81",
        (
            *_SELF,
            *_both("{ip} saddr {y} tcp dport 80 accept", y=_Y),
            *_both("{ip} saddr {y} udp dport 81 accept", y=_Y),
            *_both("{ip} saddr {y} drop", y=_Y),
        ),
    ),
    Ruleset(
        "ingress, ports web-sctp or alt-tcp",
        (
            *_SELF,
            *_both("{ip} daddr {a} sctp dport 80 accept", a=_set("y/a")),
            *_both("{ip} daddr {b} sctp dport 81 accept", b=_set("y/b")),
            *_both("{ip} daddr {a} tcp dport 81 accept", a=_set("y/a")),
            *_both("{ip} daddr {b} tcp dport 80 accept", b=_set("y/b")),
            *_both("{ip} daddr {y} drop", y=_Y),
        ),
    ),
    Ruleset(
        "ingress, peers block: outside, with a hole",
        (
            *_SELF,
            *_both("{ip} saddr {one} {ip} daddr {x} accept", one=_set("outside-1"), x=_X),
            *_both("{ip} daddr {x} drop", x=_X),
        ),
    ),
    Ruleset(
        "tiers: Pass skips the rest of the tier",
        (
            *_SELF,
            *_both("{ip} saddr {a} accept", a=_set("x/a", "y/a", "z/a")),
            *_both("{ip} saddr {pods} {ip} daddr {pods} drop", pods=_PODS),
        ),
    ),
)


def text(rules: tuple[str, ...]) -> str:
    """For `nft -f`, in place of what was there."""
    lines = "\n".join(f"    {rule}" for rule in rules)
    return f"""
table inet by-hand
delete table inet by-hand
table inet by-hand {{
  chain forward {{
    type filter hook forward priority 0
    ct state established,related accept
{lines}
  }}
}}
"""
