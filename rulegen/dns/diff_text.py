"""A Delta of record sets in words, for people and for `-o json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rulegen.dns.record_sets import RecordKey, RecordSet
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.delta import Delta
from rulegen.reconcile.driver import Owned, ShownChange, shown_change


def shown_changes(delta: Delta[RecordKey, RecordSet], compilers: CompilerSet) -> Iterator[ShownChange]:
    """`+ web.shop.svc.cluster.local. 5 A 10.96.0.10  # shop/web`, by name."""
    rows: list[tuple[RecordKey, str, RecordSet | None, RecordSet | None]] = []
    rows += ((key, "-", value, None) for key, value in delta.removed.items())
    rows += ((key, "~", change.before, change.after) for key, change in delta.changed.items())
    rows += ((key, "+", None, value) for key, value in delta.added.items())
    owners = {name: compiler.owners({}) for name, compiler in compilers.by_feature.items()}
    for key, sign, before, after in sorted(rows, key=lambda row: row[:2]):
        owned = next(
            (Owned(name, owner) for name, ask in owners.items() if (owner := ask(key, after or before))), Owned()
        )
        text = f"{sign} {key.owner} {key.type} {_in_words(before, after)}"
        place = {"family": "", "name": key.zone, "key": f"{key.owner} {key.type}"}
        contents = (_plain(before), _plain(after))
        yield shown_change(sign, f"{text}  # {owned.owner}" if owned.owner else text, place, contents, owned)


def count(delta: Delta[RecordKey, RecordSet]) -> Iterator[str]:
    """`cluster.local. A: 3 added, 1 changed, 0 removed`."""
    counted: dict[tuple[str, str], Counter[str]] = {}
    for word, keys in (("added", delta.added), ("changed", delta.changed), ("removed", delta.removed)):
        for key in keys:
            counted.setdefault((key.zone, key.type), Counter())[word] += 1
    for (zone, kind), numbers in sorted(counted.items()):
        yield f"{zone} {kind}: " + ", ".join(f"{numbers[word]} {word}" for word in ("added", "changed", "removed"))


def _in_words(before: RecordSet | None, after: RecordSet | None) -> str:
    if before is None or after is None:
        one = before or after
        return _records(one) if one is not None else ""
    if before.records == after.records and before.ttl != after.ttl:
        return f"TTL {before.ttl} -> {after.ttl}"
    if before == after._replace(holder=before.holder):
        return f"{_records(after)} (not in the registry)"
    added = [f"+{text}" for text in after.records if text not in before.records]
    removed = [f"-{text}" for text in before.records if text not in after.records]
    return " ".join((*removed, *added))


def _records(one: RecordSet) -> str:
    return ", ".join(one.records) or "(only in the registry)"


def _plain(one: RecordSet | None) -> str:
    return f"{one.ttl} {_records(one)}" if one is not None else ""
