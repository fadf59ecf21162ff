"""rulegen as an Enforcer: one text of a node's policies for each family, which takes the place of the one before."""

from __future__ import annotations

from collections.abc import Sequence

from rulegen.config import Family
from rulegen.policies.settings import Settings
from rulegen.policies.whole import nftables_text
from tests.policies.documents import Document
from tests.policies.lab import Lab


def texts(objects: Sequence[Document], node: str, settings: Settings | None = None) -> str:
    """What `nft -f` loads on a node."""
    return "\n".join(
        nftables_text(objects, node_name=node, family=family, settings=settings or Settings()) for family in Family
    )


class Whole:
    """The rules of a node, made anew for each state."""

    def __init__(self, lab: Lab, node: str, settings: Settings | None = None) -> None:
        self._lab = lab
        self._node = node
        self._settings = settings

    def apply(self, objects: Sequence[Document]) -> None:
        self._lab.nft(self._node, texts(objects, self._node, self._settings))

    def close(self) -> None:
        """Nothing of it runs."""
