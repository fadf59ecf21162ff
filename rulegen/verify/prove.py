"""Two answers to all packets of a family come in - rules, and what is meant, or other rules -, a Proof goes out.

Packets are taken for each state of their connection, sent by the node or arriving at it, from clients that nobody has
seen and from clients that are remembered by each endpoint that the rules themselves remember, and by one that has gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from ipaddress import ip_address
from typing import NamedTuple, Protocol

from rulegen.netfilter.intervals import EMPTY, Intervals
from rulegen.netfilter.machine import Ending, Endpoint, Machine, Memory, Outcome, Probe, Run, Stale, everything
from rulegen.netfilter.model import Family
from rulegen.netfilter.regions import DPORT, DST, IIF, MARK, PRIO, PROTO, SPORT, SRC, Region, Undecided, simplest
from rulegen.netfilter.state import Connection
from rulegen.verify.compare import Atom, Bound, Compared, Deviation, Sides, compare, is_unsaid, only, rounding

# So many differences are kept with their packets, of those without an explanation and of each explanation; of more only
# the number.
MOST_DIFFERENCES = 1000
_MOST_EXPLAINED = 100
# A list's rules draw at most so often; see `compare.ROUNDING`.
_DRAWS = 64
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp", 132: "sctp"}


class Answers(Protocol):
    """Whoever says what becomes of packets."""

    def follow(
        self, region: Region, connection: Connection, memory: Memory = None, *, is_sent: bool
    ) -> Iterable[list[Ending]]:
        """As `machine.Run.follow`."""
        ...

    def remembered(self, region: Region, asked: frozenset[tuple[str, Hashable]], *, is_sent: bool) -> set[Endpoint]:
        """The endpoints that some dynamic sets may remember a client by, who sends packets of a Region."""
        ...


class RulesAnswer:
    """What rules do."""

    def __init__(self, machine: Machine) -> None:
        """`machine`: the rules."""
        self.machine = machine

    def follow(
        self, region: Region, connection: Connection, memory: Memory = None, *, is_sent: bool
    ) -> Iterable[list[Ending]]:
        """See `Answers`."""
        return Run(self.machine, connection, is_sent=is_sent, memory=memory).follow(region)

    def remembered(self, region: Region, asked: frozenset[tuple[str, Hashable]], *, is_sent: bool) -> set[Endpoint]:
        """See `Answers`; what no rule writes any more is tried."""
        learned = self.machine.learned
        for key in asked:
            for data in self.machine.unlearned(key):
                endpoint = self._probed(region, Probe(*key, data), is_sent=is_sent)
                if endpoint is not None:
                    learned.setdefault(key, {})[data] = {endpoint}
        return {endpoint for key in asked for found in learned.get(key, {}).values() for endpoint in found}

    def _probed(self, region: Region, probe: Probe, *, is_sent: bool) -> Endpoint | None:
        """Where every client goes that is remembered so; None where the rules draw an endpoint all the same."""
        run = Run(self.machine, Connection.NEW, is_sent=is_sent, memory=probe)
        endings = [ending for cell in run.follow(region) for ending in cell]
        found = {endpoint for ending in endings for endpoint in ending.endpoints.endpoints}
        whole = all(ending.endpoints.total == 1 for ending in endings)
        return found.pop() if len(found) == 1 and whole else None


class ExamplePacket(NamedTuple):
    """One packet, as numbers; `mark` and `priority` as it has them before any rule."""

    family: Family
    source: int
    destination: int
    protocol: int
    source_port: int
    port: int
    interface: int
    mark: int
    priority: int

    def __str__(self) -> str:
        """`10.0.0.1 to 10.96.0.10:80/tcp`."""
        protocol = _PROTOCOLS.get(self.protocol, f"protocol {self.protocol}")
        marked = f", mark {self.mark:#x}" if self.mark else ""
        name = self.interface.to_bytes(16, "big").rstrip(b"\0").decode(errors="replace") if self.interface else ""
        by = f", in by {name}" if name.isascii() and name.isprintable() and name else ""
        source, destination = (address_text(self.family, one) for one in (self.source, self.destination))
        bracketed = f"[{destination}]" if self.family is Family.IPV6 else destination
        return f"{source} to {bracketed}:{self.port}/{protocol}{by}{marked}"


def address_text(family: Family, number: int) -> str:
    """An address as people write it."""
    return str(ip_address(number.to_bytes(family.bits // 8, "big")))


@dataclass(frozen=True, slots=True)
class Difference:
    """A class of packets that both sides treat differently, with its simplest packet.

    `explanation`: the decision behind it, "" for none.
    """

    family: Family
    connection: Connection
    is_sent: bool
    memory: Memory
    packet: ExamplePacket
    deviations: tuple[Deviation, ...]
    left: list[Ending]
    right: list[Ending]
    explanation: str = ""


@dataclass(slots=True)
class Proof:
    """`classes`: how many were compared, `unsaid`: of how many nothing is meant. `unknown`: rules not understood.

    `undecided`: classes that differ and may be empty.
    """

    classes: int = 0
    unsaid: int = 0
    different: int = 0
    undecided: int = 0
    differences: list[Difference] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    # How many differences have which explanation; `differences` has some of each.
    explained: Counter[str] = field(default_factory=Counter)

    def add(self, other: Proof) -> None:
        """Both as one."""
        self.classes += other.classes
        self.unsaid += other.unsaid
        self.different += other.different
        self.undecided += other.undecided
        self.differences += other.differences
        self.explained += other.explained
        self.unknown += other.unknown


class Question(NamedTuple):
    """What is proved. `ignored`: what of an outcome does not count. `bound`: of shares, beyond rounding; None for none.

    `local_addresses`, `foreign_addresses`: what is known to be the node's, and what is known not to be.
    `preferred`: ports and addresses that are good to read in examples, by variable. `explain`: the decision behind a
    difference.
    """

    family: Family
    local_addresses: Intervals
    mark: int
    left: Answers
    right: Answers
    ignored: frozenset[str] = frozenset()
    bound: Bound | None = None
    preferred: dict[int, tuple[int, ...]] = {}  # noqa: RUF012 - never changed
    explain: Callable[[Difference], str] | None = None
    foreign_addresses: Intervals = EMPTY


Progress = Callable[[int], None]


def prove(question: Question, progress: Progress | None = None) -> Proof:
    """Compares every class. `progress` gets the number of classes so far, now and then."""
    proof = Proof()
    for connection in Connection:
        asked: list[tuple[bool, Region, frozenset[tuple[str, Hashable]]]] = []
        for is_sent in (True, False):
            whole = [_packets(question, connection, is_sent=is_sent)]
            for compared in _compared(question, connection, None, whole, is_sent=is_sent):
                keys = frozenset().union(*(ending.asked for ending in (*compared.left, *compared.right)))
                if keys:
                    asked.append((is_sent, compared.region, keys))
                _count(question, proof, compared, (connection, is_sent, None), progress)
        for is_sent, region, keys in asked:
            for memory in _memories(question, region, keys, is_sent=is_sent):
                for compared in _compared(question, connection, memory, [region], is_sent=is_sent):
                    _count(question, proof, compared, (connection, is_sent, memory), progress)
    # Regions are split in the order of sets, which is another one in each process.
    proof.differences.sort(key=lambda difference: (difference.connection.value, str(difference.packet)))
    return proof


def _packets(question: Question, connection: Connection, *, is_sent: bool) -> Region:
    """All of them, but for those that another program's DNAT has sent back to where they are from."""
    region = everything(question.family)
    if is_sent and question.foreign_addresses:
        region = region.narrowed(SRC, region.numbers(SRC) - question.foreign_addresses)
    if connection is Connection.TRANSLATED:
        return Region(region.domains, linked=False)
    return region


def _memories(
    question: Question, region: Region, keys: frozenset[tuple[str, Hashable]], *, is_sent: bool
) -> list[Memory]:
    sides = (question.left, question.right)
    found = {endpoint for side in sides for endpoint in side.remembered(region, keys, is_sent=is_sent)}
    return [*sorted(found), Stale.STALE]


def _compared(
    question: Question, connection: Connection, memory: Memory, regions: Iterable[Region], *, is_sent: bool
) -> Iterator[Compared]:
    sides = Sides(question.local_addresses, is_sent, question.mark, question.foreign_addresses)
    bound = question.bound or rounding(_DRAWS)

    def other(region: Region) -> Iterable[list[Ending]]:
        return _without(question, question.right.follow(region, connection, memory, is_sent=is_sent))

    for region in regions:
        cells = _without(question, question.left.follow(region, connection, memory, is_sent=is_sent))
        yield from compare(sides, cells, other, bound)


def _without(question: Question, cells: Iterable[list[Ending]]) -> Iterable[list[Ending]]:
    """The same without what does not count, and without the bit that is there to be touched."""
    nothing = {name: Outcome._field_defaults[name] for name in question.ignored}
    mark = question.mark
    for endings in cells:
        yield [
            ending._replace(outcome=ending.outcome._replace(touched=ending.outcome.touched & ~mark, **nothing))
            if nothing or ending.outcome.touched & mark
            else ending
            for ending in endings
        ]


def _is_impossible(region: Region, *, is_sent: bool) -> bool:
    """Whether source and destination are one address, which would be the node's and somebody else's."""
    only = region.numbers(SRC).only
    is_itself = region.linked or (only is not None and only == region.numbers(DST).only)
    is_local = region.fact(("local", DST))
    return bool(is_itself and is_local is not None and bool(is_local) is not is_sent)


_REPORT_EVERY = 256


def _count(
    question: Question,
    proof: Proof,
    compared: Compared,
    way: tuple[Connection, bool, Memory],
    progress: Progress | None,
) -> None:
    if _is_impossible(compared.region, is_sent=way[1]):
        return
    proof.classes += 1
    if progress is not None and not proof.classes % _REPORT_EVERY:
        progress(proof.classes)
    if is_unsaid(compared):
        proof.unsaid += 1
    elif compared.unknown:
        try:
            if simplest(compared.region, {}) is not None:
                proof.unknown[compared.unknown] += 1
        except Undecided:
            proof.unknown[compared.unknown] += 1
    elif compared.deviations:
        _count_difference(question, proof, compared, way)


def _count_difference(
    question: Question, proof: Proof, compared: Compared, way: tuple[Connection, bool, Memory]
) -> None:
    connection, is_sent, memory = way
    sides = Sides(question.local_addresses, is_sent, question.mark, question.foreign_addresses)
    for deviation in sorted(compared.deviations, key=_rank):
        region = only(sides, compared.region, deviation.atom)
        if region is None:
            continue
        try:
            values = simplest(region, _preferred(question, is_sent=is_sent))
        except Undecided:
            proof.undecided += 1
            return
        if values is None:
            continue
        packet = ExamplePacket(
            question.family,
            *(values[one] for one in (SRC, DST, PROTO, SPORT, DPORT, IIF, MARK, PRIO)),
        )
        left, right = (_of_packet(side, deviation.atom) for side in (compared.left, compared.right))
        found = Difference(question.family, connection, is_sent, memory, packet, compared.deviations, left, right)
        _keep(question, proof, found)
        return


def _keep(question: Question, proof: Proof, found: Difference) -> None:
    explanation = question.explain(found) if question.explain is not None else ""
    proof.different += 1
    proof.explained[explanation] += 1
    if proof.explained[explanation] <= (_MOST_EXPLAINED if explanation else MOST_DIFFERENCES):
        proof.differences.append(replace(found, explanation=explanation))


def _of_packet(endings: list[Ending], atom: Atom) -> list[Ending]:
    """Of the Endings of a class those that the packets of an atom meet; all when none says more."""
    _, equal, is_local, _ = atom
    found = [
        ending
        for ending in endings
        if (equal is None or ending.relation is None or ending.relation is equal)
        and (is_local is None or ending.is_local is None or ending.is_local is is_local)
    ]
    return found or endings


def _rank(deviation: Deviation) -> tuple[bool, bool, Fraction]:
    """The plainest first: not a client that is its own endpoint, not marked before."""
    _, equal, _, mark = deviation.atom
    return bool(equal), bool(mark), -abs(deviation.left - deviation.right)


def _preferred(question: Question, *, is_sent: bool) -> dict[int, tuple[int, ...]]:
    """Values that are good to read: of a node's packet the node's own address."""
    family = question.family
    readable = ("10.0.0.1", "192.0.2.1", "203.0.113.1") if family is Family.IPV4 else ("fd00::1", "2001:db8::1")
    outside = tuple(int(ip_address(text)) for text in readable)
    loopback = (int(ip_address("127.0.0.1" if family is Family.IPV4 else "::1")),)
    own = tuple(low for low, _ in question.local_addresses.ranges() if low not in loopback and low >> 24 != 127)
    sources = (*own, *loopback) if is_sent else outside
    return {
        SRC: sources,
        DST: (*question.preferred.get(DST, ()), *outside),
        PROTO: (6, 17, 132),
        DPORT: (80, *question.preferred.get(DPORT, ())),
        SPORT: (40000,),
        IIF: (0, int.from_bytes(b"eth0".ljust(16, b"\0"), "big")),
    }
