"""All objects of a cluster at once come in; one node's whole table goes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rulegen.config import Family, PolicySettings
from rulegen.nftables.text import render
from rulegen.policies.on_iptables.compiler import ChainCompiler
from rulegen.policies.on_nftables.compiler import PolicyCompiler
from rulegen.policies.store import PolicyObject, Store
from tests.policies.decoding import decode
from tests.policies.ipset_text import render_chains, render_ipsets


def store_of(documents: Iterable[Mapping[str, Any]], node_name: str) -> Store:
    """What a node makes of all objects."""
    return filled(Store(node_name), decode(documents))


def filled(store: Store, objects: Iterable[PolicyObject]) -> Store:
    """The store, when it has taken objects in."""
    for item in objects:
        store.put(item)
    return store


def nftables_text(
    documents: Iterable[Mapping[str, Any]], node_name: str, family: Family, settings: PolicySettings | None = None
) -> str:
    """The file that `nft -f` loads: the table of one family, in place of the one that is there."""
    store = store_of(documents, node_name)
    compiler = PolicyCompiler((family,), settings or PolicySettings())
    compiler.update(store.take(), {family: store.pod_ranges(family)})
    return "".join(render(compiler.base_chains, compiler.entries()))


def iptables_texts(
    documents: Iterable[Mapping[str, Any]],
    node_name: str,
    family: Family,
    settings: PolicySettings | None = None,
    *,
    has_ipsets: bool = True,
) -> tuple[str, str]:
    """The files that `ipset restore` and then `iptables-restore --noflush` load for one family."""
    settings = settings or PolicySettings()
    store = store_of(documents, node_name)
    compiler = ChainCompiler(family, settings, store.pod_ranges(family), has_ipsets=has_ipsets)
    compiler.update(store.take())
    return "".join(render_ipsets(compiler.entries, family)), "".join(render_chains(compiler.entries))
