"""The agent's end, when threads of it hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agent.running import RULEGEN, Playground, save, wait_until, web
from tests.patience import patience

# Longer than any test waits.
_HANGS = "lambda: time.sleep(3600)"
_EXECUTED = f"""
import atexit, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from rulegen.agent.run.ending import EndsProcess
threading.Thread(target={_HANGS}).start()
ThreadPoolExecutor(1).submit({_HANGS})
atexit.register({_HANGS})
def close_log():
    sys.stderr.write("log closed\\n")
with EndsProcess(close_log):
    STATEMENT
"""


@pytest.mark.parametrize(
    ("statement", "status", "said"),
    [
        ("pass", 0, ""),
        ("sys.exit(0)", 0, ""),
        ("sys.exit(2)", 2, ""),
        ("raise BrokenPipeError", 1, ""),
        ("raise ZeroDivisionError", 1, "ZeroDivisionError"),
    ],
)
def test_no_thread_holds_up_the_end(statement: str, status: int, said: str) -> None:
    code = _EXECUTED.replace("STATEMENT", statement)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=patience(20)
    )
    assert done.returncode == status
    assert done.stderr.endswith("log closed\n")
    assert ("Traceback" in done.stderr) is bool(said)
    assert said in done.stderr


_BEFORE = {
    "a thread that is no daemon": f"threading.Thread(target={_HANGS}).start()",
    "a worker of a pool": f"from concurrent.futures import ThreadPoolExecutor as P; P(1).submit({_HANGS})",
    "at exit": f"import atexit; atexit.register({_HANGS})",
    "a part while it stops": """
from rulegen.agent.sources.files import FileSource
FileSource.stop = lambda self: threading.Event().wait()
""",
    "a signal's exception that is lost": """
from rulegen.agent.worker.worker import Worker
class Loses:
    def __del__(self):
        threading.Event().wait()
run = Worker.run
def run_and_lose(self, is_stopping):
    run(self, is_stopping)
    Loses()
    threading.Event().wait()
Worker.run = run_and_lose
""",
}


@pytest.mark.kernel
def test_sigterm_ends_an_agent_that_waits_for_its_configuration(playground: Playground, tmp_path: Path) -> None:
    """Whoever should write into the pipe does not."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = [RULEGEN, "agent", "--node", "node-1", "--config", str(pipe), "-f", str(playground.manifests)]
    with playground.namespace.entered():
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            wait_until(lambda: _catches(process.pid, signal.SIGTERM), 15.0)
            process.send_signal(signal.SIGTERM)
            assert process.wait(patience(5)) == 0
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


def _catches(process: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{process}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


@pytest.mark.kernel
@pytest.mark.parametrize("what", _BEFORE)
def test_sigterm_ends_the_agent_whatever_hangs(playground: Playground, what: str) -> None:
    save(playground.manifests / "all.json", *web(1, 1))
    code = (
        f"import sys, threading, time\nsys.argv[0] = 'rulegen'\n{_BEFORE[what]}\nfrom rulegen.cli import main\nmain()"
    )
    command = [sys.executable, "-c", code, "agent", "--node", "node-1", "--config", playground.config]
    with playground.namespace.entered():
        process = subprocess.Popen([*command, "-f", str(playground.manifests)], stderr=subprocess.PIPE, text=True)
    with process:
        try:
            playground.wait_for(web(1, 1), 15.0)
            process.send_signal(signal.SIGTERM)
            assert process.wait(patience(5)) == 0
            assert process.stderr is not None
            said = process.stderr.read()
            assert "stopping: SIGTERM" in said
            assert "the rules stay and serve" in said
        finally:
            process.kill()
    assert playground.differences(*web(1, 1)) == []
    # The lock is free.
    assert playground.run("cleanup").returncode == 0
