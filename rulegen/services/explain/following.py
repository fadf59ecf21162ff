"""What rules make of a packet, beside what Services mean: where both differ, and who else decides. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction

from rulegen.follow.model import Ending, Place, Sent
from rulegen.netfilter.machine import Fate as RuleFate
from rulegen.services.explain.model import DeliveryExplanation, FollowedPacket, WayEnd
from rulegen.services.simulate import Fate, Origin, Outcome

# What the kernel and the targets round.
_TOLERANCE = 1e-6
_FATES = {RuleFate.REJECTED: Fate.REJECTED, RuleFate.DROPPED: Fate.DROPPED}


def sent(followed: FollowedPacket) -> Sent:
    """The packet as rules are asked about it."""
    packet = followed.packet
    return Sent(
        followed.family,
        packet.source,
        packet.destination,
        packet.port,
        packet.protocol,
        packet.interface,
        tuple(followed.node_addresses),
        followed.outcome.origin is Origin.NODE,
    )


def way_ends(endings: Iterable[Ending], elsewhere: Callable[[Place], str]) -> tuple[WayEnd, ...]:
    """`elsewhere`: the name of a chain of another feature, "" of the Services' own."""

    def name(place: Place | None) -> str:
        return "" if place is None else elsewhere(place)

    return tuple(WayEnd(ending, name(ending.refused), name(ending.masqueraded)) for ending in endings)


def elsewhere(ends: Iterable[WayEnd]) -> Iterator[str]:
    """What other features make of the packet, each thing once."""
    for ending, refused, masqueraded in ends:
        to = f" to {ending.endpoint}" if ending.endpoint else ""
        if refused:
            yield f"{ending.fate.value}{to}, by chain {refused}"
        elif masqueraded:
            yield f"masqueraded{to}, by chain {masqueraded}"


def otherwise(ends: Iterable[WayEnd], outcome: Outcome, deliveries: Iterable[DeliveryExplanation]) -> Iterator[str]:
    """What rules do that Services do not mean; nothing where they do what they should."""
    shares: dict[tuple[str, Fate, bool | None], Fraction] = {}
    unknown: dict[str, None] = {}
    wanted = dict(_wanted(outcome, deliveries))
    refused = {endpoint: fate for endpoint, fate, _ in wanted if fate is not Fate.UNTOUCHED}
    for end in ends:
        if end.ending.fate is RuleFate.UNKNOWN:
            unknown[end.ending.why] = None
        key = _done(end, refused)
        shares[key] = shares.get(key, Fraction(0)) + end.ending.share
    if unknown:
        yield from (f"not understood: {why}" for why in unknown)
        return
    if all(_is_near(shares, wanted, key) for key in {*map(_plain, shares), *map(_plain, wanted)}):
        return
    yield from sorted(_in_words(key, share) for key, share in shares.items())


def _done(end: WayEnd, refused: Mapping[str, Fate]) -> tuple[str, Fate, bool | None]:
    """Endpoint, what Services make of it, and whether they masquerade; None where that cannot be seen.

    `refused`: by endpoint, what Services would refuse, too: that somebody else is quicker is no difference.
    """
    ending = end.ending
    if end.refused_elsewhere:
        return ending.endpoint, refused.get(ending.endpoint, Fate.UNTOUCHED), None
    fate = _FATES.get(ending.fate, Fate.UNTOUCHED)
    is_seen = ending.endpoint and fate is Fate.UNTOUCHED and not end.masqueraded_elsewhere
    return ending.endpoint, fate, (ending.masqueraded is not None) if is_seen else None


def _wanted(
    outcome: Outcome, deliveries: Iterable[DeliveryExplanation]
) -> Iterator[tuple[tuple[str, Fate, bool | None], float]]:
    if outcome.fate is not Fate.BALANCED:
        yield ("", outcome.fate, None), 1.0
        return
    for one in deliveries:
        decided = Fate(one.decision.partition(":")[0]) if one.decision else Fate.UNTOUCHED
        yield (one.endpoint, decided, one.masquerade if decided is Fate.UNTOUCHED else None), one.probability


def _plain(key: tuple[str, Fate, bool | None]) -> tuple[str, Fate]:
    return key[0], key[1]


def _is_near(
    shares: dict[tuple[str, Fate, bool | None], Fraction],
    wanted: dict[tuple[str, Fate, bool | None], float],
    key: tuple[str, Fate],
) -> bool:
    done = {masqueraded: float(share) for (*rest, masqueraded), share in shares.items() if tuple(rest) == key}
    meant = {masqueraded: share for (*rest, masqueraded), share in wanted.items() if tuple(rest) == key}
    is_same = None in done or None in meant or done.keys() == meant.keys()
    return is_same and abs(sum(done.values()) - sum(meant.values())) < _TOLERANCE


def _in_words(key: tuple[str, Fate, bool | None], share: Fraction) -> str:
    endpoint, fate, masqueraded = key
    what = [] if fate is Fate.UNTOUCHED and endpoint else [fate.value]
    if endpoint:
        what.insert(0, f"to {endpoint}")
    if masqueraded is not None:
        what.append("masqueraded" if masqueraded else "source kept")
    return f"{100 * float(share):.3g} % {', '.join(what)}"
