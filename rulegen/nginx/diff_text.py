"""A Delta of sections in words, for people and for `-o json`. Of a certificate only its digest is ever said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rulegen.nginx.configuration import Key, Pem, Value, lines_of
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.delta import Delta, differing
from rulegen.reconcile.driver import Owned, ShownChange, shown_change


def shown_changes(delta: Delta[Key, Value], compilers: CompilerSet) -> Iterator[ShownChange]:
    """`~ nginx server shop.example.org  # shop/web`, and below it the lines that differ."""
    rows: list[tuple[Key, str, Value | None, Value | None]] = []
    rows += ((key, "-", value, None) for key, value in delta.removed.items())
    rows += ((key, "~", change.before, change.after) for key, change in delta.changed.items())
    rows += ((key, "+", None, value) for key, value in delta.added.items())
    owners = {name: compiler.owners({}) for name, compiler in compilers.by_feature.items()}
    for key, sign, before, after in sorted(rows, key=lambda row: row[:2]):
        value = before if after is None else after
        owned = next(
            (Owned(name, owner, (owner,)) for name, ask in owners.items() if (owner := ask(key, value))), Owned()
        )
        lines = ([], []) if isinstance(value, Pem) else _lines(before, after)
        head = f"{sign} nginx {key.kind}{' ' if key.name else ''}{key.name}"
        head += f"  # {owned.owner}" if owned.owner else ""
        shown = lines if sign == "~" else ()
        below = [f"    {mark} {line}" for mark, part in zip("-+", shown, strict=False) for line in part]
        place = {"family": "", "name": key.kind, "key": key.name}
        yield shown_change(sign, "\n".join([head, *below]), place, lines, owned)


def count(delta: Delta[Key, Value]) -> Iterator[str]:
    """`nginx server: 3 added, 1 changed`."""
    counted: dict[str, Counter[str]] = {}
    for word, keys in (("added", delta.added), ("changed", delta.changed), ("removed", delta.removed)):
        for key in keys:
            counted.setdefault(key.kind, Counter())[word] += 1
    for kind, numbers in sorted(counted.items()):
        yield f"nginx {kind}: " + ", ".join(f"{number} {word}" for word, number in numbers.items())


def _lines(before: Value | None, after: Value | None) -> tuple[list[str], list[str]]:
    """The lines of either that the other has not."""
    old, new = ([line.strip() for line in lines_of(str(one or ""))] for one in (before, after))
    only_old, only_new = differing(old, new)
    return [old[place] for place in only_old], [new[place] for place in only_new]
