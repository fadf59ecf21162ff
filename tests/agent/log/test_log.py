"""What is said, and that nobody ever waits for it: lines, records, and agents whose output is not read."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from rulegen.agent.log import log
from rulegen.agent.log.lines import LineStream, LineWriter
from rulegen.errors import lines, one_line, printable
from tests.agent.running import RULEGEN, Playground, save, wait_until, web
from tests.builders import Item, service
from tests.patience import patience

# Ends the line, clears the screen, writes from right to left, is half a character, rings.
HOSTILE = "a\nb\x1b[2J\u202ec\u2066\ud800\x07\x7f\u2028d"


def _kept(lost: int) -> str:
    return f"lost {lost}"


def _lost(told: list[str]) -> list[int]:
    return [int(line.removeprefix("lost ")) for line in told if line.startswith("lost ")]


# -- text --


def test_a_line_is_printable_whoever_wrote_it() -> None:
    safe = one_line(HOSTILE)
    assert safe == r"a\nb\x1b[2J\u202ec\u2066\ud800\x07\x7f\u2028d"
    assert one_line("Müller, 10.96.0.1, [fd00::1]") == "Müller, 10.96.0.1, [fd00::1]"
    assert printable(HOSTILE).isprintable()


def test_a_line_is_bounded() -> None:
    assert one_line("x" * 2000) == "x" * 2000
    assert one_line("x" * 1_000_000) == "x" * 2000 + "... (998000 more characters)"
    assert one_line("x" * 3000, None) == "x" * 3000
    assert lines("a\nb") == ["a", "b"]
    assert lines("\n".join(map(str, range(1500))))[-2:] == ["999", "500 more lines"]


# -- lines --


def test_nobody_waits_for_a_reader_and_what_was_lost_is_counted() -> None:
    reader, writer = os.pipe()
    written = LineWriter(writer, 100, _kept, lambda _: None)
    begun = time.monotonic()
    for number in range(50_000):  # more than the pipe and the queue hold
        written.write(f"line {number}")
    assert time.monotonic() - begun < patience(5.0)
    written.close(0.1)
    told: list[str] = []
    begun_line = ""
    while len(told) - len(_lost(told)) + sum(_lost(told)) < 50_000:
        *complete, begun_line = (begun_line + os.read(reader, 1 << 16).decode()).split("\n")
        told += complete
    assert told[:2] == ["line 0", "line 1"]
    assert sum(_lost(told)) > 1000
    os.close(reader)
    os.close(writer)


def test_a_file_that_takes_no_more_is_told_once() -> None:
    failures: list[OSError] = []
    with Path("/dev/full").open("wb") as full:
        written = LineWriter(full.fileno(), 100, _kept, failures.append)
        written.write("a line")
        wait_until(lambda: bool(failures))
        written.write("another")
        written.close(1.0)
    assert [failure.errno for failure in failures] == [errno.ENOSPC]


def test_a_signal_handler_may_write_in_the_middle_of_a_line(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with file.open("wb") as opened:
        written = LineWriter(opened.fileno(), 1_000_000, _kept, lambda _: None)
        before = signal.signal(signal.SIGUSR1, lambda *_: written.write("handler"))
        stop = threading.Event()

        def disturb() -> None:
            while not stop.is_set():
                os.kill(os.getpid(), signal.SIGUSR1)
                time.sleep(0.0001)

        thread = threading.Thread(target=disturb)
        thread.start()
        try:
            for _ in range(20_000):
                written.write("main")
        finally:
            stop.set()
            thread.join()
            signal.signal(signal.SIGUSR1, before)
        written.close(5.0)
    told = file.read_text().splitlines()
    assert told.count("main") == 20_000
    assert set(told) == {"main", "handler"}


def test_what_libraries_print_comes_as_lines() -> None:
    taken: list[str] = []
    stream = LineStream(taken.append)
    print("a", "b", file=stream)
    stream.write("c\nd")
    stream.write("e\n")
    assert taken == ["a b", "c", "de"]


# -- records --


def _record(message: str, *arguments: object, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("rulegen.agent", level, __file__, 1, message, arguments, None)


def test_a_record_is_one_line_of_text() -> None:
    line = log._TextFormatter().format(_record("Service %s", HOSTILE))
    assert line.endswith(rf" WARNING Service {one_line(HOSTILE)}")
    assert line.isprintable()


def test_a_record_in_json() -> None:
    entry = log._JsonFormatter().format(_record("Service %s", HOSTILE))
    assert entry.isascii()
    decoded = json.loads(entry)
    assert {key: decoded[key] for key in ("level", "logger", "msg")} == {
        "level": "warning",
        "logger": "rulegen.agent",
        "msg": f"Service {one_line(HOSTILE)}",
    }
    assert abs(decoded["ts"] / 1000 - time.time()) < 60


def test_a_traceback_is_lines_that_are_safe() -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "failed", (), (type(error), error, None))
    text = log._TextFormatter().format(record)
    assert all(line.isprintable() for line in text.split("\n"))
    assert "Traceback" in text or "ValueError" in text


def test_one_kind_of_message_does_not_fill_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    alike = log._Alike()
    passed = [alike.filter(_record("object not used: %s", number)) for number in range(500)]
    assert sum(passed) == 50
    assert alike.filter(_record("something else"))
    assert alike.filter(_record("object not used: %s", "x", level=logging.DEBUG))
    now += 10.0
    record = _record("object not used: %s", "the next")
    assert alike.filter(record)
    assert record.getMessage() == "object not used: the next (and 450 more like this)"
    record = _record("object not used: %s", "one more")
    assert alike.filter(record)
    assert record.getMessage() == "object not used: one more"


# -- agents --


def _cluster(turn: int) -> list[Item]:
    return [item for number in range(40) for item in web(number, 1 + turn, 20 + turn)]


def _full_pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writer, True)
    return reader, writer


@pytest.mark.kernel
@pytest.mark.parametrize("level", ["debug", "info"])
def test_an_unread_stderr_stops_nothing(playground: Playground, level: str) -> None:
    file = playground.manifests / "all.json"
    save(file, *_cluster(0))
    reader, writer = _full_pipe()
    command = [RULEGEN, "agent", "--node", "node-1", "--config", playground.config, "--log-level", level]
    with playground.namespace.entered():
        process = subprocess.Popen([*command, "-f", str(playground.manifests)], stderr=writer)
    with process:
        try:
            playground.wait_for(_cluster(0), 15.0)
            save(file, *_cluster(1))
            playground.wait_for(_cluster(1), 15.0)
            process.send_signal(signal.SIGTERM)
            assert process.wait(patience(5)) == 0
        finally:
            process.kill()
    os.close(reader)
    os.close(writer)


@pytest.mark.kernel
def test_an_unread_stdout_does_not_stop_a_dry_run(playground: Playground) -> None:
    file = playground.manifests / "all.json"
    save(file, *_cluster(0))
    reader, writer = _full_pipe()
    log_file = playground.manifests.parent / "dry.log"
    command = [RULEGEN, "agent", "--node", "node-1", "--config", playground.config, "--dry-run", "--log-level", "debug"]
    with playground.namespace.entered(), log_file.open("wb") as opened:
        process = subprocess.Popen([*command, "-f", str(playground.manifests)], stdout=writer, stderr=opened)
    with process:
        try:
            wait_until(lambda: "sync mode=full" in log_file.read_text(), 15.0)
            save(file, *_cluster(1))
            wait_until(lambda: "sync mode=partial" in log_file.read_text(), 15.0)
            process.send_signal(signal.SIGTERM)
            assert process.wait(patience(5)) == 0
        finally:
            process.kill()
    os.close(reader)
    os.close(writer)


@pytest.mark.kernel
def test_a_dry_run_ends_when_its_reader_has_seen_enough(playground: Playground) -> None:
    save(playground.manifests / "all.json", *_cluster(0))
    reader, writer = os.pipe()
    os.close(reader)
    command = [RULEGEN, "agent", "--node", "node-1", "--config", playground.config, "--dry-run"]
    with playground.namespace.entered():
        process = subprocess.Popen([*command, "-f", str(playground.manifests)], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    with process:
        try:
            assert process.wait(patience(15)) != -signal.SIGKILL
        finally:
            process.kill()
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()


@pytest.mark.kernel
def test_at_level_info_many_syncs_are_one_line(playground: Playground) -> None:
    file = playground.manifests / "all.json"
    save(file, *web(1, 1))
    with playground.agent("-f", str(playground.manifests), "--log-level", "info") as agent:
        playground.wait_for(web(1, 1))
        begun = time.monotonic()
        for host in range(2, 8):
            save(file, *web(1, host))
            playground.wait_for(web(1, host), 10.0)
        assert [line.split(" sync ")[1].split()[0] for line in agent.syncs()] == ["mode=full"]

        def told() -> list[int]:
            return [int(count) for count in re.findall(r" INFO syncs=(\d+) failed=0 services=1 ", agent.log)]

        # The first change is told at once, the others together: a line in ten seconds, however long they take.
        wait_until(lambda: sum(told()) == 6, 15.0)
        assert told()[0] == 1
        assert len(told()) <= 2 + (time.monotonic() - begun) / 10.0
        assert "names=default/web-1" in agent.log


@pytest.mark.kernel
def test_the_configuration_says_how_the_log_is_written(playground: Playground) -> None:
    save(playground.manifests / "all.json", *web(1, 1))
    playground.configure("logging: {format: json, verbosity: 4}")
    with playground.agent() as agent:
        agent.wait_for('"msg": "sync mode=full')
        entries = [json.loads(line) for line in agent.log.splitlines()]
        assert all(entry["level"] for entry in entries)
        # At level debug, too, libraries keep to themselves.
        assert {entry["logger"].partition(".")[0] for entry in entries} == {"rulegen"}


@pytest.mark.kernel
def test_names_of_tenants_cannot_write_to_a_terminal(playground: Playground) -> None:
    hostile = service("web", ["10.96.0.2"], annotations={"rulegen.io/weights": HOSTILE.replace("\ud800", "") * 1000})
    save(playground.manifests / "all.json", hostile)
    with playground.agent() as agent:
        agent.wait_for("annotation rulegen.io/weights: expected GLOB=WEIGHT, found ", 10.0)
        assert all(line.isprintable() and len(line) < 2100 for line in agent.log.split("\n"))
