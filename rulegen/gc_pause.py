"""Python's collector of cyclic garbage, kept away from work that makes many objects and no cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """Reading, compiling and applying a whole cluster: a third of the time would go into looking for cycles.

    For whoever calls these rooms, not for the rooms themselves: when to collect is the program's decision.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
