"""What a target can be asked to do, and how it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from rulegen.config import NodeConfiguration
from rulegen.errors import InputError
from rulegen.routing.cluster import Cluster

Parsed = TypeVar("Parsed")


class ShownChange(NamedTuple):
    """One entry that differs: `sign` is `+`, `~` or `-`, `text` for people, `document` for programs."""

    sign: str
    text: str
    document: dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """What apply would change. `changes` says it entry by entry, `counts` in a line for each kind of entry."""

    added: int
    changed: int
    removed: int
    changes: Callable[[], Iterable[ShownChange]]
    counts: Callable[[], Iterable[str]]

    def __bool__(self) -> bool:
        """True when there is something to change."""
        return bool(len(self))

    def __len__(self) -> int:
        """The number of entries touched."""
        return self.added + self.changed + self.removed

    def __str__(self) -> str:
        """The summary line."""
        return f"{self.added} added, {self.changed} changed, {self.removed} removed"


class Applied(NamedTuple):
    """What an apply did: the difference that there was, and what was removed elsewhere, in words."""

    difference: Difference
    removed: list[str]


Show = Callable[[Difference], None]


class Target(Protocol):
    """Rules of one kind on this host; all errors are RulegenErrors."""

    def render(self, cluster: Cluster, configuration: NodeConfiguration) -> Iterator[str]:
        """The whole ruleset as lines with their ends; never touches the host."""
        ...

    def compare(self, cluster: Cluster, configuration: NodeConfiguration) -> Difference:
        """With the kernel."""
        ...

    def compare_file(self, cluster: Cluster, configuration: NodeConfiguration, path: str) -> Difference:
        """With a file that `render` wrote; never touches the host."""
        ...

    def apply(self, cluster: Cluster, configuration: NodeConfiguration, show: Show, *, dry_run: bool) -> Applied:
        """Makes the kernel's rules equal to the compiled ones.

        `show` gets the plan before it is carried out. `dry_run`: the kernel only checks it.
        """
        ...

    def remove(self) -> list[str]:
        """Removes all of rulegen's; what there was, in words. Raises HostError where the host has no such rules."""
        ...


def read_file(path: str, parse: Callable[[Iterable[str], str], Parsed]) -> Parsed:
    """What `parse` makes of a file's lines and its name. Raises InputError."""
    try:
        with open(path, encoding="utf-8") as lines:  # noqa: PTH123 - a name as the person wrote it, in messages too
            return parse(lines, path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8 text: {error.reason} at byte {error.start}") from error
