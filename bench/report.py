"""Results as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median, quantiles

from rich.console import Console
from rich.table import Table

from bench.child import Result

# Merged results of one measurement: each name with its figures, one for each repetition or sample.
Figures = Mapping[str, list[float]]

# At 10,000 Services of 10 endpoints.
TARGETS = {
    "compile": 1.5,
    "first apply": 3.0,
    "endpoint replaced": 0.005,
    "peak memory": 400.0,
}

# Ratios to one DNAT rule: first packets, later packets, first packets to addresses of no Service.
PACKET_TARGETS = (1.15, 1.03, 1.08)


def merged(results: Iterable[Result]) -> dict[str, list[float]]:
    """The figures of several runs by name."""
    figures: dict[str, list[float]] = {}
    for result in results:
        for name, value in result.items():
            figures.setdefault(name, []).extend(value if isinstance(value, list) else [value])
    return figures


def seconds(value: float) -> str:
    """In the unit that reads best."""
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1e3:.0f} ms" if value >= 0.1 else f"{value * 1e3:.2f} ms"


def typical(figures: Figures, name: str) -> str:
    """The median time, and that on the processors where it was taken."""
    text = seconds(median(figures[name]))
    return f"{text} ({seconds(median(figures[f'{name} cpu']))})" if f"{name} cpu" in figures else text


def spread(figures: Figures, name: str) -> str:
    """Median and 99th percentile of many samples."""
    return f"{seconds(median(figures[name]))} / {seconds(percentile_99(figures[name]))}"


def percentile_99(samples: Sequence[float]) -> float:
    """The 99th percentile; of fewer than 100 samples the largest."""
    return quantiles(samples, n=100)[-1] if len(samples) >= 100 else max(samples)


def megabytes(figures: Figures, name: str) -> str:
    """The median of a memory figure."""
    return f"{median(figures[name]):.0f} MB"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], note: str = "") -> None:
    """Prints one table; the first column is left-aligned."""
    found = Table()
    for number, column in enumerate(columns):
        found.add_column(column, justify="right" if number else "left", no_wrap=bool(number))
    for row in rows:
        found.add_row(*row)
    console = Console(width=120)
    console.print(title, style="bold")
    console.print(found)
    console.print(f"{note}\n" if note else "")
