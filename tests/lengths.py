"""Whether work grows with the length of its input, or with its square.

Comes in: what does the work on an input of a given size. Goes out: nothing, or a failed assertion. It never says how
long anything takes: only the ratio of two runs on the same machine counts, and of several attempts the best, since what
else the machine does (a collection of garbage in the middle, another process on the processor) only ever adds.
"""

import gc
import time
from collections.abc import Callable

_ATTEMPTS = 5
_SHORTEST = 0.005  # seconds; what takes less is all overhead


def assert_linear(work: Callable[[int], object], size: int) -> None:
    """Ten times as much takes some ten times as long; what is quadratic takes a hundred times as long.

    Args:
        work: Does the work on an input of that many units; making the input may be a part of it.
        size: The number of units of the smaller run.
    """
    seconds = [float("inf"), float("inf")]
    for _ in range(_ATTEMPTS):
        seconds = [min(seconds[0], _measure(work, size)), min(seconds[1], _measure(work, 10 * size))]
        if seconds[1] < 40 * max(seconds[0], _SHORTEST):
            return
    raise AssertionError(f"{seconds[0]:.3f} s for {size} units, {seconds[1]:.3f} s for ten times as many")


def _measure(work: Callable[[int], object], size: int) -> float:
    gc.collect()
    gc.disable()
    try:
        began = time.thread_time()
        work(size)
        return time.thread_time() - began
    finally:
        gc.enable()
