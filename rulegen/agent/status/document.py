"""What an agent says about itself, as structs: the JSON of `/status` and of `rulegen status -o json`. Only values.

Every text in it is one line that is safe to print, whoever wrote it, and no list is longer than `MOST`; a number beside
it says how many there are. Within a version fields are only added. Nothing in it is secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, TypeAlias

from msgspec import Struct

MOST = 100

State: TypeAlias = Literal["starting", "ok", "degraded", "failing"]


class Part(Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of all parts."""


class Source(Part, frozen=True):
    """Where objects come from; `kind`: `api server` or `files`, `places`: its URL, or the paths."""

    kind: str
    places: Sequence[str]


class LastSync(Part, frozen=True):
    """The last sync that ended well.

    `full`: it read the kernel first. `steps`: seconds by step. `services`: how many Services it concerned, some of them
    in `names`. `added`, `changed`, `removed`: entries.
    """

    ended: datetime
    full: bool
    seconds: float
    steps: Mapping[str, float]
    services: int
    names: Sequence[str]
    added: int
    changed: int
    removed: int


class Failure(Part, frozen=True):
    """Syncs fail, and have since a time."""

    since: datetime
    attempts: int
    error: str


class Pending(Part, frozen=True):
    """What is not in force yet: changes that wait for their turn, those taken since the last sync that ended well."""

    waiting: int
    taken: int
    since: datetime | None


class Following(Part, frozen=True):
    """A kind of objects: whether all were told at least once, and why it is not followed at present ("": it is)."""

    kind: str
    known: bool
    problem: str


class Problem(Part, frozen=True):
    """Something that is wrong with an object, a file or an address, and stays so."""

    subject: str
    message: str


class Problems(Part, frozen=True):
    """Some of them, and how many there are."""

    total: int
    shown: Sequence[Problem] = ()


class Repair(Part, frozen=True):
    """Others changed rulegen's rules, which were put back. `lines`: what, none where it was much."""

    at: datetime
    who: str
    entries: int
    lines: Sequence[str]


class Drift(Part, frozen=True):
    """How often that happened since the start, and the last times, the newest first."""

    repairs: int
    entries: int
    last: Sequence[Repair]


class ListeningAddress(Part, frozen=True):
    """An address of the agent's own; `problem`: why nobody listens there, "" while somebody does."""

    field: str
    address: str
    problem: str


class Listeners(Part, frozen=True):
    """`health_checks`: how many listeners there are for the health checks of Services, and which there are not."""

    own: Sequence[ListeningAddress]
    health_checks: int
    failed_health_checks: Problems


class ObjectFinding(Part, frozen=True):
    """What is legal but probably wrong with an object; `reason` is a stable word."""

    reason: str
    message: str


class ObjectFindings(Part, frozen=True):
    """Those of one object: some of them, and how many there are."""

    object: str
    total: int
    shown: Sequence[ObjectFinding]


class Findings(Part, frozen=True):
    """`total` by reason; `shown`: those of some objects."""

    total: Mapping[str, int]
    objects: int
    shown: Sequence[ObjectFindings]


class Takeover(Part, frozen=True):
    """What earlier programs left in the kernel: `waiting` for the first sync, `working`, `kept` in doubt, or `done`."""

    state: Literal["waiting", "working", "kept", "done"]
    message: str


class Status(Struct, frozen=True, kw_only=True, rename="camel", tag_field="version", tag=1):
    """`rulegen status -o json`.

    `state`: `starting` before the first sync is in force, `failing` while changes do not reach the kernel, `degraded`
    while something is refused, broken or not followed, else `ok`. `healthy`: as /livez, `node_eligible`: as /healthz.
    `refused`: objects that are not in force as they are now. `started`, `now`: of this agent, of this answer.
    """

    state: State
    healthy: bool
    node_eligible: bool
    rulegen: str
    commit: str
    process: int
    started: datetime
    now: datetime
    node: str
    target: str
    variant: str
    features: Sequence[str]
    families: Sequence[str]
    source: Source
    configuration: str
    configuration_problem: str
    last_sync: LastSync | None
    failure: Failure | None
    pending: Pending
    following: Sequence[Following]
    service_ports: int
    refused: Problems
    broken_files: Problems
    broken_objects: Problems
    drift: Drift
    listeners: Listeners
    findings: Findings
    foreign_drops: str
    takeover: Takeover
