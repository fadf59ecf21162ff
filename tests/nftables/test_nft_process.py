"""An nft that crashes, hangs, answers nonsense or is missing: a line, nothing half done, and no process is left."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rulegen.config import Family
from rulegen.errors import HostError, RulegenError
from rulegen.netlink.messages import attribute
from rulegen.nftables import messages, nft_process
from rulegen.nftables.messages import Connection
from rulegen.nftables.nft_process import NftProcess
from tests.agent.running import RULEGEN, Ground, manifest, save, web
from tests.builders import node
from tests.conftest import user_namespace_gap
from tests.nftables.host import Host, host_in, host_or_skip, lines_of
from tests.patience import patience

pytestmark = pytest.mark.kernel

ITEMS = [node(), *web(1, 1, 2)]
_CRASH = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
_MODULE = """
class Nftables:
    def set_dry_run(self, dry_run):
        pass
    def cmd(self, commands):
        {}
"""
# Stand-ins for the distribution's module, and what is said of each.
STAND_INS = {
    "crashes at once": (_CRASH, r"nft crashed \(SIGSEGV\) at the rules of table ip rulegen, ip6 rulegen, alone in"),
    "crashes at work": (_MODULE.format("import os; os.kill(os.getpid(), 11)"), r"nft crashed \(SIGSEGV\) at the rules"),
    "aborts": (_MODULE.format("import os; os.abort()"), r"nft crashed \(SIGABRT\)"),
    "hangs": (_MODULE.format("import time; time.sleep(600)"), r"nft has not answered for 1 s at the rules of table"),
    "is missing": ("raise ModuleNotFoundError(\"No module named 'nftables'\")", "install python3-nftables"),
    "lacks its library": ("raise OSError('libnftables.so.1: cannot open\\x1b')", r"status 1: .*libnftables.*\\u001b"),
    "is another module": ("", "nft ended with status 1: AttributeError: module 'nftables' has no attribute"),
    "answers no text": (_MODULE.format("return 1, b'', b'\\xff'"), "nft ended with status 1: AttributeError"),
    "fails without a word": (_MODULE.format("return 1, '', ''"), "nft failed: without a message"),
    "talks all the time": (
        _MODULE.format("import os\n        while True: os.write(2, b'x' * 65536)"),
        "nft has not answered for 1 s",
    ),
    "writes into the channel": (
        _MODULE.format("import os, sys; os.write(int(sys.argv[1]), b'?' * 4096); return 0, '', ''"),
        "nft answered what makes no sense",
    ),
    "claims to have done nothing": (_MODULE.format("return 0, '', ''"), "nft has not made the table ip rulegen"),
}


@pytest.fixture
def host() -> Iterator[Host]:
    """One of its own, that has compiled nothing yet."""
    with host_or_skip() as made:
        yield made


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a module in place of the distribution's."""

    def put(text: str) -> None:
        (tmp_path / "nftables.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return put


def _children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


@pytest.mark.parametrize("how", STAND_INS)
def test_an_nft_that_does_not_work_is_one_line(
    host: Host, stand_in: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    text, expected = STAND_INS[how]
    stand_in(text)
    if "has not answered" in expected:
        monkeypatch.setattr(nft_process, "_SECONDS", 1.0)
    with pytest.raises(Exception, match=expected) as raised:
        host.apply(*ITEMS)
    assert issubclass(raised.type, RulegenError)
    assert "\n" not in str(raised.value)
    assert "\x1b" not in str(raised.value)
    assert _children() == []
    assert host.run("nft", "list", "ruleset").stdout == ""


def test_what_needs_no_nft_works_without_it(host: Host, stand_in: Callable[[str], None]) -> None:
    host.apply(*ITEMS)
    stand_in(_CRASH)
    # Elements, and a chain for another number of slots.
    more = [node(), *web(1, *range(1, 30))]
    with host_in(host.namespace) as restarted:
        restarted.apply(*more)
        assert lines_of(restarted.delta(*more)) == []
    with host.namespace.entered():
        assert host.kernel.delete_tables(["rulegen", "no-such"]) == ["ip rulegen", "ip6 rulegen"]
    assert host.run("nft", "list", "tables").stdout == ""


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("kill -SEGV $$", r"nft crashed \(SIGSEGV\) when asked for its version"),
        ("echo nonsense", r"`nft --version` says nonsense"),
        ("echo 'nftables v1.0.2 (Lester Gooch)'", r"needs nft 1\.0\.6 or newer, this is 1\.0\.2"),
        ("exit 3", "nft ended with status 3 when asked"),
    ],
)
def test_a_program_nft_that_does_not_work_is_one_line(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: str
) -> None:
    program = tmp_path / "nft"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(HostError, match=expected):
        host.apply(*ITEMS)


_HANGS = """
import sys
from rulegen.nftables.nft_process import NftProcess
process = NftProcess(alone=True)
print(process.worker.process.pid, flush=True)
process.run("add table ip x")
"""


def test_it_does_not_outlive_the_process_that_started_it(stand_in: Callable[[str], None]) -> None:
    stand_in(_MODULE.format("import time; time.sleep(600)"))
    with subprocess.Popen([sys.executable, "-c", _HANGS], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        worker = Path(f"/proc/{int(starter.stdout.readline())}")
        assert worker.exists()
        starter.kill()
        starter.wait()
        end = time.monotonic() + patience(10)
        while worker.exists() and time.monotonic() < end:
            time.sleep(0.01)
        assert not worker.exists()


def test_it_works_in_a_namespace_of_its_own(host: Host) -> None:
    host.nft("add table ip other")
    with host.namespace.entered(), NftProcess(alone=True) as nft:
        nft.run('add table ip x { comment "here"; }')
        table = nft.connection.table(Family.IPV4, "x")
        assert table is not None
        assert table.comment == "here"
        assert nft.connection.table(Family.IPV4, "other") is None
    assert host.run("nft", "list", "tables").stdout == "table ip other\n"


# ---- another program's tables, written by a newer nft ----


def _write_as_a_newer_nft(family: Family) -> None:
    """A set whose declaration has a kind of expression that older versions do not know: 1.0.6 crashes at it."""
    expression = b"\x00\x04" + struct.pack("=I", 40) + b"\x01\x04" + bytes(4)
    userdata = b"\x00\x04" + struct.pack("=I", 2) + b"\x03" + bytes([len(expression)]) + expression
    number = struct.Struct("!I").pack
    declaration = attribute(2, b"newer\0") + attribute(4, number(7)) + attribute(5, number(4)) + attribute(13, userdata)
    with Connection() as connection:
        connection.commit(
            [messages.new_table(family, "kube-proxy", b""), messages.new_set(family, "kube-proxy", 1, declaration)]
        )


@pytest.fixture
def beside_a_newer_nft(host: Host) -> Host:
    """Where the host's own nft cannot add a table any more, if it is one that crashes."""
    with host.namespace.entered():
        _write_as_a_newer_nft(Family.IPV4)
    return host


def test_beside_sets_of_a_newer_nft_everything_works(beside_a_newer_nft: Host, tmp_path: Path) -> None:
    host, path = beside_a_newer_nft, tmp_path / "cluster.json"
    path.write_bytes(manifest(*ITEMS))
    source = ("-f", str(path), "--node", "node-1")
    for arguments, expected in (
        (("apply", *source, "--dry-run"), "checked by the kernel, not applied"),
        (("apply", *source), "applied"),
        (("diff", *source), "0 added, 0 changed, 0 removed"),
    ):
        done = host.run(RULEGEN, *arguments)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
    assert host.run(RULEGEN, "cleanup").stdout == "removed ip rulegen\nremoved ip6 rulegen\n"
    ground = Ground(host.namespace, tmp_path)
    save(ground.manifests / "cluster.json", *ITEMS)
    with ground.agent() as agent:
        agent.wait_for("sync mode=full", 20)
        assert lines_of(host.delta(*ITEMS)) == []
    done = host.run(RULEGEN, "cleanup", "--kube-proxy")
    assert done.stdout == "removed ip kube-proxy\n", done.stderr
    assert host.run(RULEGEN, "cleanup").stdout == "removed ip rulegen\nremoved ip6 rulegen\n"


@pytest.mark.user_namespace
@pytest.mark.parametrize("poisoned", [False, True])
def test_without_a_namespace_nft_works_beside_the_tables_or_says_what_it_needs(tmp_path: Path, poisoned: bool) -> None:
    assert user_namespace_gap() is None
    path = tmp_path / "cluster.json"
    path.write_bytes(manifest(*ITEMS))
    code = "from tests.nftables import test_nft_process as t; t._write_as_a_newer_nft(t.Family.IPV4)"
    write = f"{sys.executable} -c '{code}'"
    script = f"""
        echo 0 > /proc/sys/user/max_net_namespaces
        echo 0 > /proc/sys/user/max_user_namespaces
        {write if poisoned else "nft add table ip other"}
        {RULEGEN} apply -f {path} --node node-1 --dry-run > /dev/null; echo $?
        {RULEGEN} apply -f {path} --node node-1 > /dev/null; echo $?
        {RULEGEN} diff -f {path} --node node-1 > /dev/null; echo $?
        {RULEGEN} cleanup > /dev/null; echo $?
        nft list ruleset > /dev/null 2>&1; echo $?
    """
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", "bash", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    *statuses, probe = done.stdout.split()
    if probe == "0":
        assert statuses == ["0", "0", "0", "0"], done.stderr
        return
    assert poisoned
    assert statuses == ["2", "2", "1", "0"]
    lines = [line for line in done.stderr.splitlines() if line.startswith("rulegen: ")]
    assert len(lines) == 2, done.stderr
    for line in lines:
        assert "nft crashed (SIGSEGV) at the rules of table ip rulegen" in line
        assert "a newer nft wrote: ip kube-proxy. " in line
        assert "needs root with CAP_SYS_ADMIN, or user namespaces (No space left on device)" in line
