#!/usr/bin/env python3
"""Writes into deploy/ what the agent may ask of an API server, as its features need it: `make role`.

    scripts/cluster_role.py                 # of the features that are always on
    scripts/cluster_role.py NAME ...        # and of these

In deploy/base/rulegen.yaml, what is between `rules:` of the ClusterRole and the next document is replaced; the rest of
the file stays as it is. For each feature that is off by default deploy/components has a folder, which is written whole:
a component for Kustomize that turns the feature on and grants what it reads beside those that are always on. One that
runs once for a cluster has a folder in deploy/ with an agent of its own; of that, too, the ClusterRole is replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rulegen.features import ALWAYS, REGISTRY, kinds_of, written_kinds_of
from rulegen.kube.kinds import served_kinds
from rulegen.reconcile.feature import Need

_DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
MANIFEST = _DEPLOY / "base" / "rulegen.yaml"
COMPONENTS = _DEPLOY / "components"

_OWN_NODE = """\
  # Asked for what is of the own node only. resourceNames cannot say so: the agents of all nodes share one
  # ServiceAccount, and a role knows fixed names alone.
"""
_STATUS = """\
  # Only where the settings want it written.
"""
_COMPONENT = """\
# The feature {name}, for any overlay: `components: [../../components/{name}]`. Written by `make role`.
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
{resources}patches:
  - target:
      kind: DaemonSet
      name: rulegen
    patch: |
      - op: add
        path: /spec/template/spec/containers/0/args/-
        value: --feature={name}
"""
# Beside the role of the base, so that several features add up.
_ROLE = """\
# What the feature {name} reads beside what the base may. Written by `make role`.
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: rulegen-{name}
  labels:
    app.kubernetes.io/name: rulegen
rules:
{rules}---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: rulegen-{name}
  labels:
    app.kubernetes.io/name: rulegen
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: rulegen-{name}
subjects:
  - kind: ServiceAccount
    name: rulegen
    namespace: kube-system
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
    for kind in served_kinds(written_kinds_of(features)):
        yield _STATUS
        yield _rule(kind.group, f"{kind.plural}/status", "patch")
    yield _rule("events.k8s.io", "events", "create")


def _rule(group: str, resource: str, verbs: str) -> str:
    group = group or '""'
    return f"  - apiGroups: [{group}]\n    resources: [{resource}]\n    verbs: [{verbs}]\n"


def with_rules(manifest: str, features: Sequence[str]) -> str:
    """A manifest with one ClusterRole, and in it the rules for these features. Raises InputError."""
    begin = manifest.index(_BEGIN, manifest.index("\nkind: ClusterRole\n")) + len(_BEGIN)
    return manifest[:begin] + rules(features) + manifest[manifest.index(_END, begin) :]


def component(feature: str) -> dict[str, str]:
    """The files of a feature's component, by name. Raises InputError."""
    usual = kinds_of(())
    more = [kind for kind in served_kinds(kinds_of([feature])) if kind.struct not in usual]
    granted = "".join(_rule(kind.group, kind.plural, "list, watch") for kind in more)
    role = {"role.yaml": _ROLE.format(name=feature, rules=granted)} if granted else {}
    resources = "".join(f"resources:\n  - {name}\n" for name in role)
    return {"kustomization.yaml": _COMPONENT.format(name=feature, resources=resources), **role}


def write_components() -> None:
    """Those of all features of a node that are off by default; what has a driver of its own runs once for a cluster."""
    for feature in (name for name in REGISTRY.keys() - set(ALWAYS) if not REGISTRY[name].driver):
        folder = COMPONENTS / feature
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in component(feature).items():
            (folder / name).write_text(text)


def write_agents_for_the_cluster() -> None:
    """Their roles, where there are manifests for them."""
    for feature in (name for name in REGISTRY if REGISTRY[name].driver):
        manifest = _DEPLOY / feature / f"rulegen-{feature}.yaml"
        if manifest.exists():
            manifest.write_text(with_rules(manifest.read_text(), [feature]))


if __name__ == "__main__":
    # What runs once for a cluster has an account of its own.
    of_node = [name for name in sys.argv[1:] if name not in REGISTRY or not REGISTRY[name].driver]
    MANIFEST.write_text(with_rules(MANIFEST.read_text(), of_node))
    write_components()
    write_agents_for_the_cluster()
