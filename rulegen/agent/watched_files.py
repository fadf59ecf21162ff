"""Folders and files come in; a turn goes out at the start and whenever something in them may have changed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

# Milliseconds: a change counts when none has followed for a step, at the latest after `_DEBOUNCE`.
_DEBOUNCE = 400
_STEP = 40
# Until a request to stop is seen.
_TIMEOUT = 40


def turns(paths: Sequence[str], stopping: threading.Event) -> Iterator[None]:
    """Until `stopping` is set; that may be another thread's to do. A folder counts with all that is below it."""
    from watchfiles import watch

    # The first turn comes when the watch is set up, so that nothing changes between reading and watching.
    changes = watch(
        *map(_watched, paths),
        watch_filter=None,
        debounce=_DEBOUNCE,
        step=_STEP,
        rust_timeout=_TIMEOUT,
        yield_on_timeout=True,
        stop_event=stopping,
    )
    is_first = True
    for changed in changes:
        if changed or is_first:
            yield
        is_first = False


def _watched(path: str) -> str:
    """A folder: a file that is saved is often a new one, and a mounted one a link that is exchanged."""
    return path if Path(path).is_dir() else str(Path(path).absolute().parent)
