"""Chains and ipsets of network policies as files for `ipset restore` and `iptables-restore --noflush`. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rulegen.config import Family
from rulegen.policies.on_iptables.compiler import CHAINS, IPSETS, EntryKey
from rulegen.policies.on_iptables.names import PREFIX

_FAMILY = {Family.IPV4: "inet", Family.IPV6: "inet6"}
# Sets grow on their own; the usual bound of 65,536 elements is too low for a cluster's pods.
MAX_ELEMENTS = 1 << 20


def render_ipsets(entries: Mapping[EntryKey, tuple[str, ...]], family: Family) -> Iterator[str]:
    """The lines that make all ipsets, with what is in them."""
    sets = {key: value for key, value in entries.items() if key.group == IPSETS}
    for key, value in sorted(sets.items()):
        yield f"create -exist {key.key} {value[0]} family {_FAMILY[family]} maxelem {MAX_ELEMENTS}\n"
        yield f"flush {key.key}\n"
    for name, element in sorted(key for key in entries if key.group not in {CHAINS, IPSETS}):
        yield f"add {name} {element}\n"


def render_chains(entries: Mapping[EntryKey, tuple[str, ...]]) -> Iterator[str]:
    """The lines that make all chains, and put rules in front of those of built-in ones."""
    chains = dict(sorted((key.key, rules) for key, rules in entries.items() if key.group == CHAINS))
    yield "*filter\n"
    for name in chains:
        if name.startswith(PREFIX):
            yield f":{name} - [0:0]\n"
    for name, rules in chains.items():
        command = "-A" if name.startswith(PREFIX) else "-I"
        for rule in rules:
            yield f"{command} {name} {rule}\n"
    yield "COMMIT\n"
