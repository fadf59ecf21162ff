#!/usr/bin/env python3
"""Writes into deploy/base/rulegen.yaml what the agent may ask of an API server, as its features need it: `make role`.

    scripts/cluster_role.py                 # of the features that are always on
    scripts/cluster_role.py NAME ...        # and of these

What is between `rules:` of the ClusterRole and the next document is replaced; the rest of the file stays as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rulegen.features import kinds_of
from rulegen.kube.kinds import served_kinds
from rulegen.reconcile.feature import Need

MANIFEST = Path(__file__).resolve().parents[1] / "deploy" / "base" / "rulegen.yaml"

_OWN_NODE = """\
  # Asked for what is of the own node only. resourceNames cannot say so: the agents of all nodes share one
  # ServiceAccount, and a role knows fixed names alone.
"""
_BEGIN, _END = "\nrules:\n", "---\n"


def rules(features: Sequence[str]) -> str:
    """The rules of the role for these features and those that are always on, as YAML. Raises InputError."""
    return "".join(_rules(features))


def _rules(features: Sequence[str]) -> Iterator[str]:
    needs = kinds_of(features)
    for kind in served_kinds(needs):
        if needs[kind.struct] is Need.OWN_NODE:
            yield _OWN_NODE
        yield _rule(kind.group, kind.plural, "list, watch")
    yield _rule("events.k8s.io", "events", "create")


def _rule(group: str, resource: str, verbs: str) -> str:
    group = group or '""'
    return f"  - apiGroups: [{group}]\n    resources: [{resource}]\n    verbs: [{verbs}]\n"


def with_rules(manifest: str, features: Sequence[str]) -> str:
    """A manifest with one ClusterRole, and in it the rules for these features. Raises InputError."""
    begin = manifest.index(_BEGIN, manifest.index("\nkind: ClusterRole\n")) + len(_BEGIN)
    return manifest[:begin] + rules(features) + manifest[manifest.index(_END, begin) :]


if __name__ == "__main__":
    MANIFEST.write_text(with_rules(MANIFEST.read_text(), sys.argv[1:]))
