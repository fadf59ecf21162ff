"""Small parts of a support bundle that other commands read, as structs. Only values."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class Facts(Struct, frozen=True, tag_field="version", tag=1):
    """What a bundle says of itself. `families`: those that the host has."""

    rulegen: str
    created: str
    node: str
    target: str
    families: list[str]


class EgressFile(Struct, frozen=True):
    """What a host has in a file of ip-masq-agent, or why that cannot be used."""

    fields: dict[str, Any]
    unusable: str
