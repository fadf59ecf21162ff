"""rulegen as an Enforcer: one text of a node's policies for each family, which takes the place of the one before."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from rulegen.config import Family
from rulegen.config import PolicySettings as Settings
from rulegen.iptables.binaries import Variant
from rulegen.nftables.text import render
from rulegen.policies.model import PolicyName
from rulegen.policies.on_nftables.compiler import PolicyCompiler
from rulegen.policies.on_nftables.layout import LAYOUTS
from rulegen.policies.store import Store
from rulegen.rendered import END
from tests.policies.changes import Key, key_of
from tests.policies.decoding import decode
from tests.policies.documents import Document
from tests.policies.lab import Lab
from tests.policies.whole import filled, iptables_texts, nftables_text


def texts(objects: Sequence[Document], node: str, settings: Settings | None = None) -> str:
    """What `nft -f` loads on a node."""
    return "".join(
        _or_none(nftables_text(objects, node_name=node, family=family, settings=settings or Settings()), family)
        for family in Family
    )


def _or_none(text: str, family: Family) -> str:
    """The text of a table; where nothing is to be enforced there is none, and one that is there goes."""
    table = LAYOUTS[family]
    return f"add table {table}\ndelete table {table}\n" if text == END else text


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


class Iptables:
    """The rules of a node as chains of iptables, in place of all that were there."""

    def __init__(
        self, lab: Lab, node: str, variant: Variant, settings: Settings | None = None, *, has_ipsets: bool = True
    ) -> None:
        self._lab = lab
        self._node = node
        self._variant = variant
        self._settings = settings or Settings()
        self._has_ipsets = has_ipsets

    def apply(self, objects: Sequence[Document]) -> None:
        self.clear()
        with self._lab.entered(self._node):
            for family, program in zip(Family, self._restores(), strict=True):
                ipsets, chains = iptables_texts(
                    objects, self._node, family, self._settings, has_ipsets=self._has_ipsets
                )
                _run(["ipset", "restore"], ipsets)
                _run([program, "--noflush"], chains)

    def clear(self) -> None:
        """No chain and no set is left on the node, whoever's they are."""
        with self._lab.entered(self._node):
            for program in self._restores():
                _run([program], "*filter\nCOMMIT\n")
            _run(["ipset", "destroy"], "")

    def close(self) -> None:
        """Nothing of it runs."""

    def _restores(self) -> list[str]:
        """For IPv4 and IPv6."""
        return [f"{program}-{self._variant.value}-restore" for program in ("iptables", "ip6tables")]


def _run(command: list[str], text: str) -> None:
    run = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert not run.returncode, f"{' '.join(command)}: {run.stderr}"


class Running:
    """The same text by a program that goes on: it is told of what has changed, and of nothing else."""

    def __init__(self, node: str) -> None:
        self._store = Store(node)
        self._compiler = PolicyCompiler(tuple(Family), Settings())
        self._known: dict[Key, Document] = {}

    def text(self, objects: Sequence[Document]) -> str:
        """What is in force when the cluster is exactly these objects."""
        wanted = {key_of(one): one for one in objects}
        for key in self._known.keys() - wanted.keys():
            self._remove(*key)
        filled(self._store, decode(one for key, one in wanted.items() if self._known.get(key) != one))
        self._known = wanted
        self._compiler.update(self._store.take(), {family: self._store.pod_ranges(family) for family in Family})
        tables, entries = self._compiler.base_chains, self._compiler.entries()
        rendered = {spec.family: "".join(render({spec: chains}, entries)) for spec, chains in tables.items()}
        return "".join(_or_none(rendered.get(family, END), family) for family in Family)

    def _remove(self, kind: str, namespace: str, name: str) -> None:
        if kind == "Pod":
            self._store.remove_pod(namespace, name)
        elif kind == "Namespace":
            self._store.remove_namespace(name)
        elif kind == "Node":
            self._store.remove_node(name)
        else:
            self._store.remove_policy(PolicyName(namespace if kind == "NetworkPolicy" else "", name))
