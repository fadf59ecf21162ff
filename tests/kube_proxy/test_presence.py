"""Who runs in this network namespace: kube-proxy elsewhere does not count, and what cannot be seen is said."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from rulegen.demo.namespaces import NetworkNamespace
from rulegen.kube_proxy.presence import Presence, look
from tests.kube_proxy.stand_in import running
from tests.lab.fixtures import namespace_or_skip

pytestmark = pytest.mark.kernel


@pytest.fixture
def namespace() -> Iterator[NetworkNamespace]:
    with namespace_or_skip() as made:
        yield made


def _look(namespace: NetworkNamespace) -> Presence:
    with namespace.entered():
        return look()


@contextmanager
def _process(namespace: NetworkNamespace | None, *command: str) -> Iterator[subprocess.Popen[str]]:
    """In the namespace, or in that of the tests."""
    with ExitStack() as entered:
        if namespace is not None:
            entered.enter_context(namespace.entered())
        process = subprocess.Popen([*command], stdout=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_one_in_this_network_namespace_is_seen_and_one_elsewhere_is_not(
    namespace: NetworkNamespace, tmp_path: Path
) -> None:
    (tmp_path / "kube-proxy").symlink_to("/bin/sleep")
    with namespace_or_skip() as other, _process(other, str(tmp_path / "kube-proxy"), "60"):
        nobody = _look(namespace)
        assert nobody.running == ""
        with _process(None, str(tmp_path / "kube-proxy"), "60"):
            assert _look(namespace).running == ""
        with _process(namespace, str(tmp_path / "kube-proxy"), "60") as here:
            assert _look(namespace).running == f"process {here.pid}"
        assert _look(namespace) == nobody


def test_a_script_of_that_name_is_one_and_a_word_that_is_none_is_not(
    namespace: NetworkNamespace, tmp_path: Path
) -> None:
    script = tmp_path / "kube-proxy"
    script.write_text("import time\nprint('here', flush=True)\ntime.sleep(60)\n")
    with _process(namespace, sys.executable, str(script)) as here:
        assert here.stdout is not None
        here.stdout.readline()
        assert _look(namespace).running == f"process {here.pid}"
    with _process(namespace, "tail", "-f", str(script)):
        assert _look(namespace).running == ""


@pytest.mark.parametrize("name", ["k3s-server", "kubelite", "kube-proxy-1.36"])
def test_a_program_that_may_hold_one_inside_is_doubt(namespace: NetworkNamespace, tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/bin/sleep")
    with _process(namespace, str(tmp_path / name), "60") as here:
        assert _look(namespace) == Presence("", f"{name} (process {here.pid}) may be it, or run it inside")


def test_what_answers_at_its_ports_is_one_and_what_is_silent_there_is_doubt(
    namespace: NetworkNamespace, tmp_path: Path
) -> None:
    with running(namespace, tmp_path, "nftables", name="proxy") as proxy:
        assert "answers at http://127.0.0.1:102" in _look(namespace).running
        proxy.end()
    nobody = _look(namespace)
    code = "import socket, time; kept = socket.create_server(('127.0.0.1', 10256)); print(flush=True); time.sleep(60)"
    with _process(namespace, sys.executable, "-c", code) as silent:
        assert silent.stdout is not None
        silent.stdout.readline()
        seen = _look(namespace)
    assert (nobody.running, seen.running) == ("", "")
    # In a container there is doubt anyway.
    assert nobody.unseen or seen.unseen == "a program that is not rulegen has port 10256 of 127.0.0.1"


def test_an_agent_that_is_too_busy_to_answer_does_not_doubt_itself(namespace: NetworkNamespace) -> None:
    nobody = _look(namespace)
    with namespace.entered(), socket.create_server(("127.0.0.1", 10256)):
        assert look() == nobody


def test_without_privileges_over_others_it_is_seen_where_they_are(namespace: NetworkNamespace, tmp_path: Path) -> None:
    (tmp_path / "kube-proxy").symlink_to("/bin/sleep")
    code = "from rulegen.kube_proxy.presence import look; print(look().running)"
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", code]

    def running_here() -> str:
        with namespace.entered():
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    with namespace_or_skip() as other, _process(other, str(tmp_path / "kube-proxy"), "60"):
        assert running_here() == ""
        with _process(namespace, str(tmp_path / "kube-proxy"), "60") as here:
            assert running_here() == f"process {here.pid}"


def test_in_a_container_it_is_said_that_processes_of_others_do_not_show(
    namespace: NetworkNamespace, tmp_path: Path
) -> None:
    (tmp_path / "kube-proxy").symlink_to("/bin/sleep")
    code = "from rulegen.kube_proxy.presence import look; print(*look(), sep='|')"
    with _process(namespace, str(tmp_path / "kube-proxy"), "60"), namespace.entered():
        # In a chroot whose root is no mount, its propagation cannot be changed.
        container = ["unshare", "--propagation", "unchanged", "--pid", "--fork", "--mount-proc"]
        command = [*container, sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "|from here the processes of others cannot be seen\n"
