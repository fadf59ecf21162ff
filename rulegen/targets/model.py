"""What a target can be asked to do, and how it answers: by a person, once, and by an agent, again and again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from rulegen.config import Family, NodeConfiguration
from rulegen.errors import InputError, TargetError
from rulegen.reconcile.delta import Delta
from rulegen.services.model import NodeSettings, ServiceKey, ServicePort, ServicePortKey
from rulegen.services.store import Store

# What an entry is only its target knows.
AnyDelta: TypeAlias = Delta[Any, Any]

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

    @classmethod
    def of(
        cls, delta: AnyDelta, changes: Callable[[], Iterable[ShownChange]], counts: Callable[[], Iterable[str]]
    ) -> Difference:
        """A Delta, in words when somebody asks for them."""
        return cls(len(delta.added), len(delta.changed), len(delta.removed), changes, counts)

    def __bool__(self) -> bool:
        return bool(len(self))

    def __len__(self) -> int:
        """The number of entries touched."""
        return self.added + self.changed + self.removed

    def __str__(self) -> str:
        return f"{self.added} added, {self.changed} changed, {self.removed} removed"


_WORDS = {"+": "added", "~": "changed", "-": "removed"}


def shown_change(
    sign: str, text: str, place: Mapping[str, str], content: tuple[object, object], service: str
) -> ShownChange:
    """`place`: family, name and key of the entry; `content`: what it was and what it is wanted to be."""
    before, after = content
    document = {
        "change": _WORDS[sign],
        **place,
        **({"before": before} if sign != "+" else {}),
        **({"after": after} if sign != "-" else {}),
        "service": service,
    }
    return ShownChange(sign, text, document)


class Applied(NamedTuple):
    """What an apply did: the difference that there was, and what was removed elsewhere, in words."""

    difference: Difference
    removed: list[str]


Show = Callable[[Difference], None]


class ServicePortChange(NamedTuple):
    """A ServicePort as it is in force and as it is wanted; None: there is none."""

    before: ServicePort | None
    after: ServicePort | None


class RuleCount(NamedTuple):
    """How many rules a table holds, and how many of them the last change wrote."""

    total: int
    written: int


class LiveRules(Protocol):
    """Rules of one kind in this host's kernel, and what they should be: for those who keep the two equal.

    To be used by one thread, in the network namespace in which it was made.
    """

    def preserve_unreadable(self, services: Collection[ServiceKey]) -> None:
        """Services of which nothing is known: from the next `read` on they keep what they have in the kernel."""
        ...

    def read(self) -> None:
        """Reads what the kernel holds. What is compiled first adopts it as far as it can. Raises HostError."""
        ...

    def update(
        self, service_ports: Mapping[ServicePortKey, ServicePort | None], nodes: Mapping[Family, NodeSettings]
    ) -> tuple[AnyDelta, dict[ServicePortKey, TargetError]]:
        """Takes what is wanted now; what that changes, and the ServicePorts that cannot be expressed."""
        ...

    def difference(self) -> AnyDelta:
        """What leads from what was read last to all that is wanted."""
        ...

    def check(self, delta: AnyDelta) -> None:
        """Asks the kernel whether it would take a Delta, and changes nothing. Raises ApplyError."""
        ...

    def apply(self, delta: AnyDelta) -> None:
        """Makes what `update` or `difference` returned come true.

        Raises StaleError when the kernel was changed by others since it was read, ApplyError when it refuses.
        """
        ...

    def accepts(
        self, pending: Mapping[ServicePortKey, ServicePortChange], suspects: Collection[ServicePortKey]
    ) -> None:
        """Raises ApplyError if the kernel does not take `suspects` among the ServicePorts that are not in force yet.

        What it does take may be in force afterwards.
        """
        ...

    def settle(self) -> None:
        """The kernel holds what is wanted: what was read need not be remembered."""
        ...

    def changes(self, delta: AnyDelta) -> Iterator[ShownChange]:
        """A Delta for people and programs, entry by entry."""
        ...

    def counts(self, delta: AnyDelta) -> Iterator[str]:
        """How much a Delta changes, a line for each kind of entry."""
        ...

    def rule_counts(self) -> Mapping[tuple[Family, str], RuleCount]:
        """The rules of each family and table, where rules grow with the cluster; else nothing."""
        ...


class Target(Protocol):
    """Rules of one kind on this host; all errors are RulegenErrors."""

    def render(self, store: Store, configuration: NodeConfiguration) -> Iterator[str]:
        """The whole ruleset as lines with their ends; never touches the host."""
        ...

    def compare(self, store: Store, configuration: NodeConfiguration) -> Difference: ...

    def compare_file(self, store: Store, configuration: NodeConfiguration, path: str) -> Difference:
        """With a file that `render` wrote; never touches the host."""
        ...

    def apply(self, store: Store, configuration: NodeConfiguration, show: Show, *, dry_run: bool) -> Applied:
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
