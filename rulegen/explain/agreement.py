"""Whether the kernel's entries of some Routes or a packet are as compiled: a View and a Scope in, an Agreement out."""

from __future__ import annotations

from rulegen.explain.model import Agreement, View
from rulegen.nftables.describe import describe, names_in
from rulegen.nftables.scope import Scope, difference


def agreement(view: View, scope: Scope) -> Agreement | None:
    """None when the live entries were not asked about."""
    if view.live is None:
        return None
    delta = difference(view.live, view.compiler, scope)
    names = names_in(view.live) | view.compiler.names()
    return Agreement(not delta, tuple(str(line) for line in describe(delta, names)))
