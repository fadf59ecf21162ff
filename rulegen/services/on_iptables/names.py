"""Names of the chains of Services and of lists of clients, from what they stand for. Pure; deterministic.

A Service's chains go on with a word for their kind and a digest behind the prefix, those of a tree with a letter and
the addresses or ports that they are for.
"""

from __future__ import annotations

import re

from rulegen.iptables import names
from rulegen.iptables.names import MAX_LENGTH, PREFIX, digest

# The comment of the Services' own rule in a built-in chain that leads to none of their chains.
ESTABLISHED = names.established(PREFIX)

_OF_SERVICE = re.compile(rf"{PREFIX}(?:SVC|SVL|EXT|SRC|LB)-")


def chain_name(kind: str, *parts: str) -> str:
    """`RULEGEN-SVC-` and a digest of what the chain is for; `kind` has at most three letters."""
    return f"{PREFIX}{kind}-{digest(*parts)}"


def tree_chain_name(letter: str, place: str) -> str:
    """`RULEGEN-V-10.96.0.0/20`; a digest of the place where that would be too long, as for most of IPv6."""
    # nft prints these names too, and reads no colon in one.
    readable = f"{PREFIX}{letter}-{place.replace(':', '_')}"
    return readable if len(readable) <= MAX_LENGTH else f"{PREFIX}{letter}-{digest(place)}"


def is_of_service(chain: str) -> bool:
    """Whether a chain is a Service's own, not the fixed part's nor a tree's."""
    return _OF_SERVICE.match(chain) is not None
