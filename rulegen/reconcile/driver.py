"""What a driver is: the one door of a room that keeps one kind of rules, as whoever has rules made or kept comes in.

Only declarations, and how a Delta is shown. A driver has never heard of a feature: compilers come in, and what they say
of their tables or chains, in the driver's own protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from rulegen.config import Family
from rulegen.errors import TargetError
from rulegen.reconcile.compilers import CompilerSet, Items
from rulegen.reconcile.delta import Change
from rulegen.reconcile.feature import AnyDelta, AnyEntries, ItemErrors, ItemKey
from rulegen.reference import ObjectReference


class Owned(NamedTuple):
    """Whose an entry is.

    `feature`: "" where that is not known; `owner`: as `Compiler.owners` says it; `named`: all who are named in what
    differs of an entry that several share, in order.
    """

    feature: str = ""
    owner: str = ""
    named: tuple[str, ...] = ()


class ShownChange(NamedTuple):
    """One entry that differs: `sign` is `+`, `~` or `-`, `text` for people, `document` for programs."""

    sign: str
    text: str
    document: dict[str, Any]
    owned: Owned = Owned()


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
        return cls(*delta.counts, changes, counts)

    def __bool__(self) -> bool:
        return bool(len(self))

    def __len__(self) -> int:
        """The number of entries touched."""
        return self.added + self.changed + self.removed

    def __str__(self) -> str:
        return f"{self.added} added, {self.changed} changed, {self.removed} removed"


_WORDS = {"+": "added", "~": "changed", "-": "removed"}


def shown_change(
    sign: str, text: str, place: Mapping[str, str], content: tuple[object, object], owned: Owned
) -> ShownChange:
    """`place`: family, name and key of the entry; `content`: what it was and what it is wanted to be."""
    before, after = content
    document = {
        "change": _WORDS[sign],
        **place,
        **({"before": before} if sign != "+" else {}),
        **({"after": after} if sign != "-" else {}),
        "service": owned.owner,
        "feature": owned.feature,
    }
    return ShownChange(sign, text, document, owned)


class RuleCount(NamedTuple):
    """How many rules a table holds, and how many of them the last change wrote."""

    total: int
    written: int


class RulesState(NamedTuple):
    """Digests that name what a kernel holds, and what it should hold; equal ones: nothing of ours is otherwise."""

    live: str
    wanted: str


class LiveRules(Protocol):
    """Rules of one kind in this host's kernel, and what they should be: for those who keep the two equal.

    To be used by one thread, in the network namespace in which it was made.
    """

    @property
    def live(self) -> AnyEntries:
        """What was read last, as far as `settle` has not forgotten it."""
        ...

    def preserve_unreadable(self, unreadable: Mapping[str, Collection[ObjectReference]]) -> None:
        """Objects, by feature, of which nothing is known: from the next `read` on they keep what the kernel holds."""
        ...

    def read(self) -> None:
        """Reads what the kernel holds. What is compiled first adopts it as far as it can. Raises HostError."""
        ...

    def update(self, items: Items, contexts: Mapping[str, Any]) -> tuple[AnyDelta, ItemErrors]:
        """Takes what is wanted now; what that changes, and the items that cannot be expressed, or can again (None)."""
        ...

    def difference(self) -> AnyDelta:
        """What leads from what was read last to all that is wanted."""
        ...

    def state(self) -> RulesState:
        """What was read last and what is wanted, after `difference`, to know later whether both are still so."""
        ...

    def check(self, delta: AnyDelta) -> None:
        """Asks the kernel whether it would take a Delta, and changes nothing. Raises ApplyError."""
        ...

    def apply(self, delta: AnyDelta) -> None:
        """Makes what `update` or `difference` returned come true.

        Raises StaleError when the kernel was changed by others since it was read, ApplyError when it refuses.
        """
        ...

    def accepts(self, pending: Mapping[ItemKey, Change[Any]], suspects: Collection[ItemKey]) -> None:
        """Raises ApplyError if the kernel does not take `suspects` among the items that are not in force yet.

        What it does take may be in force afterwards.
        """
        ...

    def settle(self) -> None:
        """The kernel holds what is wanted: what was read need not be remembered."""
        ...

    def changes(self, delta: AnyDelta) -> Iterator[ShownChange]:
        """A Delta for people and programs, entry by entry."""
        ...

    def changes_in_full(self, delta: AnyDelta) -> Iterator[ShownChange]:
        """The same with the rules of chains before and after, where the kernel still holds what was read."""
        ...

    def counts(self, delta: AnyDelta) -> Iterator[str]:
        """How much a Delta changes, a line for each kind of entry."""
        ...

    def rule_counts(self) -> Mapping[tuple[Family, str], RuleCount]:
        """The rules of each family and table, where rules grow with the cluster; else nothing."""
        ...


class Watch(Protocol):
    """Says who may have changed our rules.

    `is_prompt`: as soon as somebody has, so that what was read before is known to be so still.
    """

    is_prompt: bool

    def files(self) -> list[int]:
        """What to `select` on: readable as soon as there may be something."""
        ...

    def wait(self, now: float) -> float | None:
        """In how many seconds there is something even if no file becomes readable; None: not by time."""
        ...

    def look(self, now: float) -> list[str]:
        """Who may have changed something since the last call, as words; does not wait."""
        ...

    def compared(self, now: float, seconds: float) -> None:
        """The kernel was compared as a whole, which took so many seconds."""
        ...


# What removes rules, and says where there were some. Raises RulegenError.
Removal = Callable[[], list[str]]


class OpenDriver(Protocol):
    """A driver in the network namespace of the thread that opened it; for that thread.

    `variant`: which one was found of a driver that has several, else "". `batch`: how many changes a sync should work
    on at the most. `leftovers`: what removes rules of the same kind that are in another place than this driver's.
    """

    variant: str
    batch: int
    leftovers: Sequence[Removal]

    def find_leftovers(self) -> list[str]:
        """Where there are rules that `leftovers` would remove, in their words. Raises HostError, UnseenError."""
        ...

    def rules(self, compilers: CompilerSet, patience: float = 0.0) -> LiveRules:
        """The rules of the compilers' features; nothing of them was read yet.

        `patience`: what others want to be otherwise again and again is mended at most once in so many seconds.
        """
        ...

    def watch(self, period: float, now: float) -> Watch:
        """Begins to look for changes by others. `period`: seconds between two looks, where nobody tells of changes."""
        ...


class Driver(Protocol):
    """Rules of one kind; all errors are RulegenErrors. `name`: as `Feature.compiler` gets it."""

    name: str

    def render(self, compilers: CompilerSet) -> Iterator[str]:
        """The whole ruleset as lines with their ends; never touches the host."""
        ...

    def compare_rendered(
        self, compilers: CompilerSet, items: Items, contexts: Mapping[str, Any], lines: Iterable[str], source: str
    ) -> Difference:
        """What leads from a file that `render` wrote to these items, which the compilers have not seen yet.

        `source`: the file's name, for messages. Never touches the host. Raises InputError for the file, TargetError for
        the items.
        """
        ...

    def compare_compiled(
        self, before: CompilerSet, compilers: CompilerSet, items: Items, contexts: Mapping[str, Any]
    ) -> Difference:
        """What leads from what other compilers have compiled to these items, which `compilers` have not seen yet.

        Never touches the host. Raises TargetError for the items.
        """
        ...

    def pack(self, live: AnyEntries) -> list[Any]:
        """What a kernel held, as values that JSON has; the same entries give the same."""
        ...

    def compare_packed(
        self, compilers: CompilerSet, items: Items, contexts: Mapping[str, Any], packed: Any, source: str
    ) -> tuple[AnyEntries, Difference]:
        """What a kernel held, as `pack` wrote it, and what leads from there to these items.

        The compilers have not seen the items yet. `source` begins messages. Never touches the host. Raises InputError
        for what nobody has packed, TargetError for the items.
        """
        ...

    def open(self) -> AbstractContextManager[OpenDriver]:
        """Raises HostError when the kernel, its programs or privileges do not suffice; changes nothing."""
        ...

    def find(self, features: Collection[str]) -> list[str]:
        """Where there are rules of these features, in the words of `remove`. Raises as `remove` does."""
        ...

    def remove(self, features: Collection[str]) -> list[str]:
        """Removes all rules of these features; what there was, in words.

        Raises HostError where the host has no such rules, UnseenError where it cannot be looked.
        """
        ...


def compile_all(compilers: CompilerSet, items: Items, contexts: Mapping[str, Any]) -> None:
    """Has everything compiled. Raises TargetError, a line for each item that has no place in the rules."""
    # The Delta is as large as the ruleset, and not what is asked for.
    errors = compilers.update(items, contexts)[1]
    if errors:
        raise TargetError("\n".join(map(str, errors.values())))


def digest_of(parts: Iterable[object]) -> str:
    """Names a sequence of values, each of which has one `repr`."""
    from hashlib import sha256

    state = sha256()
    for part in parts:
        state.update(f"{part!r}\n".encode("utf-8", "surrogatepass"))
    return state.hexdigest()
