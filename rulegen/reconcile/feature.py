"""What a feature is: the protocols between features, the reconciler and the drivers. Only declarations.

A feature turns objects of some kinds into items, and, by a Compiler for one driver, items into entries. Services are
one. The reconciler takes items from features and hands them to their compilers; a driver keeps a kernel's entries equal
to what the compilers want. None of them knows how the others do it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, TypeVar, runtime_checkable

from rulegen.config import NodeConfiguration
from rulegen.errors import TargetError
from rulegen.reconcile.delta import Delta
from rulegen.reconcile.tracked import Tracked
from rulegen.reference import Finding, ObjectReference

if TYPE_CHECKING:
    from rulegen.reconcile.observer import Observer

# A driver's entries, and a Delta of them. What an entry is only the driver and its compilers know.
Entries = TypeVar("Entries")
AnyEntries: TypeAlias = Mapping[Any, Any]
AnyDelta: TypeAlias = Delta[Any, Any]

# An item among those of all features: the feature's name, and the item's id.
ItemKey: TypeAlias = tuple[str, Any]
# Why items cannot be expressed; None of those that can again.
ItemErrors: TypeAlias = Mapping[ItemKey, TargetError | None]


class Need(Enum):
    """What the first sync does about a kind whose objects are not all known yet."""

    # Waits for it, however long that takes.
    FIRST = "first"
    # Waits a bounded time: an API server may lack the kind, or deny it.
    SOON = "soon"
    # The same, and only what is of the own node is wanted.
    OWN_NODE = "own node"

    def and_for(self, other: Need) -> Need:
        """What two features need together: the more of the two."""
        return next(need for need in Need if need in (self, other))


class Taken(Protocol):
    """What differs from what was taken of a feature last. A feature's own class may carry more, for its observers."""

    @property
    def items(self) -> Mapping[Any, Any]:
        """The items that differ, by id, as they are now; None: gone."""
        ...

    @property
    def context(self) -> Any:
        """What every item depends on, as far as it differs; only the feature's compilers know what it is."""
        ...

    def followed_by(self, later: Self) -> Self:
        """Both as one; of what is in both, the later."""
        ...


class Feature(Protocol):
    """Objects come in one by one; items, and what changed among them, go out.

    `name`: as a person asks for it (`--feature`), and as its tables and messages are called. `kinds`: the structs that
    it reads. `findings`: what is probably wrong, by the object whose owner is told, with its uid where that is known.
    """

    name: str
    kinds: Mapping[type, Need]
    findings: Tracked[ObjectReference, tuple[Finding, ...]]

    def put(self, item: Any) -> None:
        """An object of one of its kinds as it is now; nothing else happens before `take`."""
        ...

    def remove(self, reference: ObjectReference) -> None:
        """An object is gone; its uid is not known. One that was never there does nothing."""
        ...

    def put_unreadable(self, reference: ObjectReference, error: str) -> bool:
        """An object cannot be used as it is now.

        Returns True when that means something to the feature, which is then among what it hands on. Else the object
        keeps what it last meant; if it has meant nothing yet, what the kernel holds of it stays.
        """
        ...

    def take(self) -> Taken:
        """What differs from what was taken last; the first time, everything."""
        ...

    def reference(self, item_id: Any) -> ObjectReference | None:
        """The object to blame when the kernel refuses an item; None: it is nobody's, and cannot be left out alone."""
        ...

    def title(self, item_id: Any) -> str:
        """How a message about an item begins, as `Service default/web:http (IPv4)`."""
        ...

    def compiler(self, driver: str, node: NodeConfiguration) -> AnyCompiler:
        """A Compiler for a driver. `node`: the configuration, with the families that get rules.

        Raises TargetError for a driver on which this feature does not exist.
        """
        ...


@runtime_checkable
class WithConditions(Protocol):
    """A feature that cannot begin without something that objects or the configuration say.

    In an agent it waits for that, as it finds it, and its rules stay as they are; a command that is run once ends.
    """

    @property
    def lacks(self) -> str:
        """What it lacks, as a line for people; "" for nothing."""
        ...


@runtime_checkable
class WithStandIns(Protocol):
    """A feature of which an item that the kernel refuses must not just stay as it was, or away.

    Others refer to such an item, so `Compiler.entries_of` one is all that the feature wants.
    """

    def stand_in(self, item_id: Any) -> Any:
        """What is in force instead; None for an item that is never to blame."""
        ...


@runtime_checkable
class WithObservers(Protocol):
    """A feature that has something to do in an agent beside its rules, and metrics of its own."""

    def observers(self, registry: Any) -> Sequence[Observer]:
        """What is told of each sync, and works between them. `registry`: prometheus_client's, for metrics."""
        ...


class Compiler(Protocol[Entries]):
    """Items become entries of one driver, a few items at a time. Never reads the kernel.

    What a driver needs to know besides is in the driver's own protocol (`nftables.tables.TableCompiler`).
    """

    def adopt(self, live: Entries, unreadable: Collection[ObjectReference]) -> None:
        """Takes what the kernel holds, which may be of other features as well; called after each time it was read.

        What can be chosen freely (ids, slots) is chosen as the first of these has it. `unreadable`: objects of which
        nothing is known; `spare` keeps what this says about them.
        """
        ...

    def update(self, items: Mapping[Any, Any], context: Any) -> tuple[AnyDelta, Mapping[Any, TargetError | None]]:
        """Takes changed items (None: gone) and context; what that changes in the entries.

        An item that cannot be expressed keeps the entries that it had, and is among the errors; the others count. So is
        one that cannot any more, or can again (None), because of others. The cost is that of these items. The first
        call takes all there are, and returns all entries.
        """
        ...

    def entries(self) -> Entries:
        """All that is wanted."""
        ...

    def entries_of(self, item_id: Any) -> Entries:
        """What an item needs: its own entries, and those that it shares. Nothing for an unknown one."""
        ...

    def entries_without(self, item_ids: Collection[Any]) -> Entries:
        """All that is wanted, but for what only these items need."""
        ...

    def spare(self, delta: AnyDelta) -> AnyDelta:
        """The Delta without what would be taken from unreadable objects; the same object when there are none."""
        ...

    def owners(self, live: Entries) -> Callable[[Any, Any], str]:
        """What tells whose an entry is, given its key and value: `default/web:http`; "" for no single one's."""
        ...


AnyCompiler: TypeAlias = Compiler[Any]
