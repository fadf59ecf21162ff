"""What the kernel does beside what the oracle says; differences come out as sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from tests.policies.cluster import PROBES, Probe
from tests.policies.documents import Document
from tests.policies.lab import Lab
from tests.policies.oracle import Oracle

_SHOWN = 12


class Enforcer(Protocol):
    """A program that makes a node's rules from objects, in the network namespace of the node."""

    def apply(self, objects: Sequence[Document]) -> None:
        """The cluster is exactly these objects now, and the rules say so when this returns."""

    def close(self) -> None:
        """The program ends. Its rules may stay: the namespace goes."""


def expected(objects: Iterable[Document], probes: Sequence[Probe] = PROBES) -> list[bool]:
    """Which of the probes may pass, by the oracle."""
    oracle = Oracle(objects)
    return [oracle.judge(probe.flow).allowed for probe in probes]


def differences(
    lab: Lab, objects: Sequence[Document], probes: Sequence[Probe] = PROBES, at: str | None = None
) -> list[str]:
    """A sentence for each probe whose fate is not what the documentation says of this cluster.

    `at`: the only node that enforces it.
    """
    oracle = Oracle(objects)
    found = []
    for probe, passed in zip(probes, lab.arrived(probes), strict=True):
        verdict = oracle.judge(probe.flow, at)
        if passed is not verdict.allowed:
            found.append(f"{probe} {'passed' if passed else 'was dropped'}, but: {verdict.why}")
    return found


def assert_same(lab: Lab, objects: Sequence[Document], what: str, probes: Sequence[Probe] = PROBES) -> None:
    """Fails with the first differences."""
    found = differences(lab, objects, probes)
    assert not found, f"{what}: {len(found)} of {len(probes)} differ:\n" + "\n".join(found[:_SHOWN])
