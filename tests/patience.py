"""How long tests wait for what must come: a test's own bound, times a factor for machines that are slow or busy.

A bound is given in seconds of a machine that has nothing else to do. It is no measurement: a test that passes never
waits longer than it has to, and one that fails says so a little later.
"""

from __future__ import annotations

FACTOR = 6.0
_factor = FACTOR


def be_patient(factor: float) -> None:
    """All tests of this process wait so many times as long as they say."""
    global _factor  # noqa: PLW0603 - one machine, one patience
    _factor = factor


def patience(seconds: float) -> float:
    """How long to wait on this machine for what takes at most `seconds` elsewhere."""
    return seconds * _factor
