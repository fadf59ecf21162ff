"""What the status of an Ingress says of how clients reach it, and what it should say. Pure.

Nobody else's word is taken away: what is not as we would have written it is removed from no Ingress that is not ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rulegen.kube.addresses import canonical_address
from rulegen.kube.objects import Ingress

_FIELD, _LIST = "loadBalancer", "ingress"


def published(addresses: Sequence[str]) -> list[dict[str, str]]:
    """As `status.loadBalancer.ingress` has it: addresses, and names."""
    return [{"ip" if canonical_address(address) else "hostname": address} for address in addresses]


def said(item: Ingress) -> list[Any]:
    """What it says now, whatever it is."""
    balancer = item.status.get(_FIELD) if isinstance(item.status, Mapping) else None
    found = balancer.get(_LIST) if isinstance(balancer, Mapping) else None
    return found if isinstance(found, list) else []


def patch(entries: list[dict[str, str]] | None) -> dict[str, Any]:
    """What is to be merged into a status so that it says this; None: nothing any more."""
    return {_FIELD: {_LIST: entries}}
