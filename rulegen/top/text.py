"""A snapshot comes in, the rows of a table go out, for a terminal or for a pipe. Knows no terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rulegen.top.model import EndpointCount, ServiceCount, Snapshot

HEADINGS = ("SERVICE / ENDPOINT", "NOW", "NEW/S", "SHARE", "WEIGHT")
# A share that differs from its weight's by more than this, where there are connections enough to tell.
_ASTRAY = 0.2
_ENOUGH = 50


class TableRow(NamedTuple):
    """`is_service`: the row of a whole Service. `is_astray`: an endpoint that gets far less or more than its weight."""

    cells: tuple[str, ...]
    is_service: bool
    is_astray: bool = False


def rows(snapshot: Snapshot, *, endpoints: bool) -> Iterator[TableRow]:
    """Services in their order, each with its endpoints; connections of others at the end."""
    for service in snapshot.services:
        name = f"{service.service}  {service.family} {service.protocol}"
        yield TableRow((name, str(service.connections), f"{service.new_per_second:g}", "", ""), is_service=True)
        for endpoint in service.endpoints if endpoints else ():
            yield _endpoint(service, endpoint)
    if snapshot.others.connections or snapshot.others.new_per_second:
        counts = str(snapshot.others.connections), f"{snapshot.others.new_per_second:g}"
        yield TableRow(("translated, of no Service that is known", *counts, "", ""), is_service=True)


def plain_lines(table: Sequence[TableRow]) -> Iterator[str]:
    """In columns, the first to the left and the others to the right."""
    lines = [HEADINGS, *(row.cells for row in table)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    for line in lines:
        first, *rest = line
        cells = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        yield f"{first.ljust(widths[0])}  {'  '.join(cells)}".rstrip()


def _endpoint(service: ServiceCount, endpoint: EndpointCount) -> TableRow:
    share, weight = endpoint.share, endpoint.weight_share
    is_astray = service.connections >= _ENOUGH and abs((share or 0) - (weight or 0)) > _ASTRAY
    cells = (
        f"  {endpoint.endpoint}",
        str(endpoint.connections),
        f"{endpoint.new_per_second:g}",
        _percent(share),
        "gone" if weight is None else _percent(weight),
    )
    return TableRow(cells, is_service=False, is_astray=is_astray)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
