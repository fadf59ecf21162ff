"""What netlink refuses, at any message of any command: one line, never a traceback, never a rule by half."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rulegen.cli import main
from rulegen.conntrack.connections import EventListener
from rulegen.errors import HostError, RulegenError
from rulegen.netlink.listening import Listening
from rulegen.netlink.messages import open_socket
from rulegen.nftables import messages
from rulegen.nftables.messages import Connection, InterruptedDumpError, KernelError
from rulegen.nftables.monitor import Monitor
from rulegen.trace.messages import Listener
from tests.nftables.host import Host, host_or_skip

pytestmark = pytest.mark.kernel

SCENARIO = str(Path(__file__).parents[2] / "golden" / "host-ports" / "cluster.yaml")
INPUT = ("-f", SCENARIO, "--node", "node-a")
COMMANDS = {
    "diff": ["diff", *INPUT],
    "apply": ["apply", *INPUT],
    "explain --live": ["explain", *INPUT, "--live", "--from", "10.0.0.1", "--to", "10.96.0.1:80"],
    "verify": ["verify", *INPUT],
    "cleanup": ["cleanup"],
    "cleanup --kube-proxy": ["cleanup", "--kube-proxy", "--force"],
    "cleanup --portmap": ["cleanup", "--portmap", "--force"],
    "trace": ["trace", "--seconds", "1"],
    "top": ["top", "--once", "--seconds", "1"],
    "plan": ["plan", *INPUT, "-o", "/dev/null"],
}


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with host_or_skip() as made:
        yield made


def run(host: Host, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "argv", ["rulegen", *arguments])
    with host.namespace.entered(), pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.parametrize(
    ("way", "number"),
    [("listing", 0), ("listing", errno.EINTR), ("sending", errno.ENOBUFS), ("answer", errno.EPERM)],
)
def test_no_command_ends_in_a_traceback(
    host: Host, way: str, number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`number` 0: the listing is interrupted each time."""

    def refuse(self: Connection, *_: object) -> bytes:
        raise KernelError(number, -1) if number else InterruptedDumpError

    before = host.nft("list ruleset")
    for name, arguments in COMMANDS.items():
        with monkeypatch.context() as broken:
            if way == "listing":
                broken.setattr(Connection, "dump", refuse)
            elif way == "answer":
                broken.setattr(Connection, "_receive", refuse)
            else:
                broken.setattr(f"{messages.__name__}.open_socket", lambda: _Sends(open_socket(), number))
            code = run(host, arguments, broken)
        said = capsys.readouterr().err
        assert code in {0, 1, 2}, name
        assert "Traceback" not in said, name
        assert host.nft("list ruleset") == before, name


class _Sends:
    """A socket that takes the first message, which asks whether there is nf_tables, and refuses all others."""

    def __init__(self, opened: object, number: int) -> None:
        self._opened, self._number, self._sent = opened, number, 0

    def send(self, data: bytes) -> int:
        self._sent += 1
        if self._sent > 1:
            raise OSError(self._number, "refused")
        return int(self._opened.send(data))  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> object:
        return getattr(self._opened, name)


def test_a_refusal_is_an_error_that_a_person_meets() -> None:
    assert issubclass(KernelError, RulegenError)
    assert str(KernelError(errno.EPERM, -1)) == "Operation not permitted"


def test_what_a_listener_is_refused_is_an_error_of_the_host(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Listening, *_: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with (
        host.namespace.entered(),
        closing(EventListener()) as events,
        closing(Listener()) as traces,
        closing(Monitor(0, lambda: 1, ["rulegen"])) as monitor,
    ):
        monkeypatch.setattr(Listening, "resize", refuse)
        monkeypatch.setattr(Listening, "read", refuse)
        monkeypatch.setattr(Listening, "join", refuse)
        for listener in (events, traces):
            with pytest.raises(HostError, match="Cannot allocate memory"):
                listener.resize(1)
            with pytest.raises(HostError, match="Cannot allocate memory"):
                list(listener.read())
        with pytest.raises(HostError, match="Cannot allocate memory"):
            monitor.read()
        with pytest.raises(HostError, match="Cannot allocate memory"), monitor.own_load():
            pass
