"""Whoever waits for the lock waits, whatever signals come."""

from __future__ import annotations

import os
import signal
import threading
import time
from itertools import pairwise

import pytest

from rulegen import children
from rulegen.agent.run import lock
from rulegen.agent.run.assembly import Options
from rulegen.agent.run.process import run
from rulegen.config import Configuration

# The kernel's clock and Python's may differ by a little.
SECONDS = 0.09


def test_an_agent_that_waits_for_the_lock_does_not_ask_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def is_taken() -> None:
        asked.append(time.monotonic())
        if len(asked) == 1:
            os.kill(os.getpid(), signal.SIGHUP)
        elif len(asked) == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    # An agent that has ended lets no thread start a program any more; this process goes on.
    monkeypatch.setattr(children, "_is_ending", threading.Event())
    monkeypatch.setattr(lock, "acquire", is_taken)
    monkeypatch.setattr(lock, "holder", lambda: "another")
    options = Options(
        load=Configuration,
        load_at_start=Configuration,
        configure_log=lambda _: None,
        recent_log=list,
        config_paths=lambda _: [],
    )
    run(options, lambda: None)
    _, *later = (after - before for before, after in pairwise(asked))
    assert len(later) == 2
    assert min(later) > SECONDS
