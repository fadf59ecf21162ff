"""Whether kube-proxy is gone, so that its rules may be removed without a person's word. Pure.

In: what was there when rulegen came, what is there now, what is seen of kube-proxy. Out: a `Judgement`. A port that is
free proves nothing, and neither does a process that does not show. What counts, all of it together:

- its rules are those that were there when rulegen came, and nobody has written them since, were they the same again;
- no process of it is in this network namespace, and nobody answers at its ports;
- either every process of the machine can be seen, or its rules have been left alone for longer than kube-proxy, which
  writes them at least every two hours, ever leaves them alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from rulegen.kube_proxy.presence import Presence
from rulegen.kube_proxy.rules import Found
from rulegen.kube_proxy.witness import Arrival

# kube-proxy compares with one hour when it runs, and runs at least each hour (SVC-90 and SVC-91).
SILENCE_SECONDS = 3 * 3600.0
_BY_HAND = "when none runs here: rulegen cleanup --kube-proxy"


class Judgement(NamedTuple):
    """`is_gone`: the rules may go. Else `why` they stay, and in how many seconds to look again; None: never."""

    is_gone: bool
    why: str = ""
    again: float | None = None


def judge(arrival: Arrival, found: Found, presence: Presence, boot: float) -> Judgement:
    """`found`: what is there now; `presence`: nothing runs that is seen; `boot`: seconds since the machine started."""
    if not found:
        return Judgement(is_gone=True)
    if arrival.rules is None:
        why = f"came before or after rulegen's, nobody has noted which, and a kube-proxy may keep them; {_BY_HAND}"
        return Judgement(False, f"kube-proxy's rules stay ({found.in_words}): they {why}")
    if changed := _changed(arrival.rules, found):
        why = f"appeared or changed after rulegen came, so a kube-proxy keeps them; {_BY_HAND}"
        return Judgement(False, f"kube-proxy's rules stay ({changed.in_words}): they {why}")
    return _judge_unchanged(arrival, found, presence, boot)


def _judge_unchanged(arrival: Arrival, found: Found, presence: Presence, boot: float) -> Judgement:
    silence = boot - arrival.boot
    if not presence.unseen or (found.tells_writes and silence >= SILENCE_SECONDS):
        return Judgement(is_gone=True)
    stay = f"kube-proxy's rules stay ({found.in_words}): it may still run, as {presence.unseen}"
    if not found.tells_writes:
        return Judgement(False, f"{stay}; {_BY_HAND}")
    hours = SILENCE_SECONDS / 3600
    why = f"{stay}; they go when nobody has written them for {hours:.0f} hours, or at once, {_BY_HAND}"
    return Judgement(False, why, SILENCE_SECONDS - silence)


def _changed(before: Mapping[str, str], now: Found) -> Found:
    return Found({place: digest for place, digest in now.items() if before.get(place) != digest})
