"""Whether kube-proxy is gone: only all the evidence together says so."""

from __future__ import annotations

import pytest

from rulegen.kube_proxy.judgement import SILENCE_SECONDS, judge
from rulegen.kube_proxy.presence import Presence
from rulegen.kube_proxy.rules import Found
from rulegen.kube_proxy.witness import Arrival

OLD = Found({"ip": "00000001", "nft4": "00000002"})
NOBODY, UNSEEN = Presence("", ""), Presence("", "from here the processes of others cannot be seen")
BOOT = 1000


def test_rules_that_nobody_keeps_and_nobody_has_written_since_may_go() -> None:
    assert judge(Arrival(BOOT, OLD), OLD, NOBODY, BOOT + 1).is_gone


@pytest.mark.parametrize(
    "now", [{"ip": "00000009", "nft4": "00000002"}, {"nft4": "00000009"}, {**OLD, "ip6": "00000003"}]
)
def test_what_appeared_or_changed_since_stays_for_ever_with_all_else(now: dict[str, str]) -> None:
    judgement = judge(Arrival(BOOT, OLD), Found(now), NOBODY, BOOT + 10 * SILENCE_SECONDS)
    assert (judgement.is_gone, judgement.again) == (False, None)
    assert "appeared or changed after rulegen came" in judgement.why
    assert "rulegen cleanup --kube-proxy" in judgement.why


def test_what_is_left_of_the_old_ones_may_go() -> None:
    assert judge(Arrival(BOOT, OLD), Found({"ip": "00000001"}), NOBODY, BOOT + 1).is_gone


def test_nobody_knows_whose_rules_those_are_that_nobody_noted() -> None:
    judgement = judge(Arrival(BOOT, None), OLD, NOBODY, BOOT + 10 * SILENCE_SECONDS)
    assert (judgement.is_gone, judgement.again) == (False, None)


def test_where_it_might_run_unseen_only_long_silence_tells() -> None:
    judgement = judge(Arrival(BOOT, OLD), OLD, UNSEEN, BOOT + 60)
    assert (judgement.is_gone, judgement.again) == (False, SILENCE_SECONDS - 60)
    assert "processes of others cannot be seen" in judgement.why
    assert judge(Arrival(BOOT, OLD), OLD, UNSEEN, BOOT + SILENCE_SECONDS).is_gone


def test_legacy_iptables_is_always_silent() -> None:
    legacy = Found({"legacy4": "00000001"})
    judgement = judge(Arrival(BOOT, legacy), legacy, UNSEEN, BOOT + 10 * SILENCE_SECONDS)
    assert (judgement.is_gone, judgement.again) == (False, None)
    assert judge(Arrival(BOOT, legacy), legacy, NOBODY, BOOT).is_gone


def test_nothing_is_nobodys() -> None:
    assert judge(Arrival(BOOT, None), Found(), UNSEEN, BOOT).is_gone
