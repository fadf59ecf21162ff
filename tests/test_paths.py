"""Paths that cannot be looked at: too long, in a circle, through a file, without permission, from where nothing is.

Each is one line of whoever asks, and never "nothing there".
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import click
import pytest

from rulegen import golden, paths
from rulegen.agent.sources.files import FileSource
from rulegen.commands import completing
from rulegen.commands.private_file import write_private
from rulegen.configuration_file import load_configuration
from rulegen.dns.keys import read_key, readable_by_all
from rulegen.errors import HostError, InputError
from rulegen.features import kinds_of
from rulegen.kube.kubeconfig import from_kubeconfig
from rulegen.kube.manifests import load
from rulegen.portmap.configuration import files_with_portmap
from tests.agent.running import RULEGEN
from tests.patience import patience

SCENARIO = Path(__file__).parents[1] / "golden" / "host-ports"
LONG = "x" * 300

READERS: dict[str, Callable[[str], object]] = {
    "configuration": load_configuration,
    "kubeconfig": from_kubeconfig,
    "manifests": lambda path: load([path], None),
    "files that are followed": lambda path: FileSource([path], list(kinds_of(())), print),
    "scenarios": lambda path: golden.find_scenarios([path]),
    "key": read_key,
    "CNI configuration": files_with_portmap,
    "private file": lambda path: write_private(f"{path}/x", b""),
}


def unusable(folder: Path) -> dict[str, str]:
    """Paths at which nobody can look."""
    (folder / "circle").symlink_to("circle")
    (folder / "file").write_text("")
    return {"too long": str(folder / LONG), "circle": str(folder / "circle"), "no name": f"{folder}/a\0b"}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["too long", "circle", "no name"])
def test_what_cannot_be_looked_at_is_one_line(tmp_path: Path, name: str, kind: str) -> None:
    path = unusable(tmp_path)[kind]
    if (name, kind) == ("CNI configuration", "no name"):
        return  # it comes from the command line, where there is no such byte
    with pytest.raises(InputError) as raised:
        READERS[name](path)
    assert "\n" not in str(raised.value)
    assert "\0" not in str(raised.value)


def test_what_is_there_is_told_from_what_cannot_be_seen(tmp_path: Path) -> None:
    bad = unusable(tmp_path)
    file = tmp_path / "file"
    assert (paths.is_there(file), paths.is_folder(file), paths.is_plain_file(file)) == (True, False, True)
    assert (paths.is_there(tmp_path / "none"), paths.is_there(file / "below")) == (False, False)
    assert (paths.is_folder(tmp_path), paths.is_plain_file(tmp_path)) == (True, False)
    for path in bad.values():
        with pytest.raises(InputError):
            paths.is_there(path)
    assert [paths.may_be_there(tmp_path / name) for name in ("none", LONG, "file/below")] == [False, True, False]
    assert not readable_by_all(bad["no name"])
    with pytest.raises(HostError, match="rulegen needs /proc"):
        paths.status_in_proc(str(tmp_path / "none"))


def test_a_folder_that_goes_while_it_is_walked_is_gone_and_another_fault_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "flows.yaml").write_text("")
    original = os.scandir

    def failing(number: int) -> Callable[[str], object]:
        def scandir(path: str) -> object:
            if str(path).endswith("/a"):
                raise OSError(number, os.strerror(number), str(path))
            return original(path)

        return scandir

    monkeypatch.setattr(os, "scandir", failing(errno.ENOENT))
    assert golden.find_scenarios([str(tmp_path)]) == [tmp_path / "b"]
    monkeypatch.setattr(os, "scandir", failing(errno.EIO))
    with pytest.raises(InputError, match=r"/a: Input/output error$"):
        golden.find_scenarios([str(tmp_path)])


def test_a_folder_of_rules_that_is_a_file_or_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    for name in ("flows.yaml", "cluster.yaml"):
        (folder / name).write_bytes((SCENARIO / name).read_bytes())
    (tmp_path / "base").write_text("")
    assert _run("golden", "check", "--depth", "ruleset", str(folder)).returncode == 1
    done = _run("golden", "update", "--depth", "ruleset", str(folder))
    assert done.returncode == 2
    assert done.stderr == f"rulegen: {tmp_path}/base: File exists\n"
    (tmp_path / "base").unlink()
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "x.nft").mkdir()
    assert "Traceback" not in _run("golden", "update", "--depth", "ruleset", str(folder)).stderr


@pytest.mark.parametrize("name", ["flows.yaml", "cluster.yaml", "nftables.diff"])
def test_in_a_folder_of_scenarios_nobody_waits_for_a_pipe(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "one"
    shutil.copytree(SCENARIO, folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    for action in ("check", "update"):
        done = _run("golden", action, "--depth", "ruleset", str(folder))
        assert (done.returncode, done.stderr) == (2, f"rulegen: {folder}/{name}: expected a plain file\n")


def test_packets_come_from_a_pipe(tmp_path: Path) -> None:
    packets = tmp_path / "packets"
    os.mkfifo(packets)
    writer = Thread(target=packets.write_text, args=("10.128.0.9 10.96.0.20:80/tcp\n",), daemon=True)
    writer.start()
    words = ("golden", "record", str(tmp_path / "made"), "-f", str(SCENARIO / "cluster.yaml"), "--node", "node-a")
    done = _run(*words, "--packets", str(packets))
    assert not done.returncode, done.stderr
    assert _run(*words, "--packets", "/dev/zero").stderr.endswith("rulegen: /dev/zero: a device, not a file\n")


@pytest.mark.parametrize("locale", [{"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_what_is_written_is_utf_8_in_every_locale(tmp_path: Path, locale: dict[str, str]) -> None:
    environment = {**os.environ, "PYTHONCOERCECLOCALE": "0", **locale}
    folder = tmp_path / "\u6f22"
    shutil.copytree(SCENARIO, folder)
    (folder / "nftables.diff").unlink()
    node = ("-f", str(folder / "cluster.yaml"), "--node", "node-a")
    for words in (("golden", "check"), ("golden", "update"), ("report", *node, "-o", "-", "--title")):
        command = [RULEGEN, *words, str(folder)]
        done = subprocess.run(command, capture_output=True, check=False, timeout=patience(60), env=environment)
        assert (done.returncode in {0, 1}, b"Traceback" in done.stderr) == (True, False), done.stderr
        assert done.stdout.decode()


def test_from_a_working_directory_that_is_gone(tmp_path: Path) -> None:
    code = "import os, sys; os.chdir(sys.argv[1]); os.rmdir(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"
    for arguments in (["render", "-f", "a.yaml"], ["render", "-f", ".", "--node", "n"], ["golden", "check", "."]):
        (tmp_path / "gone").mkdir()
        command = [sys.executable, "-c", code, str(tmp_path / "gone"), RULEGEN, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=patience(60))
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody without rights")
def test_without_permission(tmp_path: Path) -> None:
    """Of pytest's own folders others may not even look at what is inside."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    file = closed / "a.yaml"
    file.write_text("")
    asked = [
        ["golden", "check", str(closed)],
        ["render", "-f", str(file)],
        ["render", "-f", str(SCENARIO / "cluster.yaml"), "--config", str(file)],
        ["diff", "--kubeconfig", str(file)],
    ]
    for arguments in asked:
        done = _run(*arguments, before=("setpriv", "--reuid=65534", "--clear-groups"))
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert done.stderr.splitlines()[-1].endswith("Permission denied"), done.stderr
        assert "Traceback" not in done.stderr


def test_completion_says_nothing_whatever_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    context = click.Context(click.Command("x"))
    context.params = {"files": ()}
    parameter = click.Argument(["x"])
    assert completing.complete_services(context, parameter, "") == []
    completing.remember(load([str(SCENARIO)], None))
    for path in unusable(tmp_path).values():
        context.params = {"files": (path,)}
        assert completing.complete_services(context, parameter, "") == []
    # A large tree is left when the time is up, though nothing was found in it.
    monkeypatch.setattr(completing, "_SECONDS", 0.0)
    looked_at = itertools.count()
    monkeypatch.setattr(os, "walk", lambda _: ((str(next(looked_at)), [], []) for _ in range(1_000_000)))
    context.params = {"files": (str(tmp_path),)}
    assert completing.complete_services(context, parameter, "") == []
    assert next(looked_at) == 1


def _run(*arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, RULEGEN, *arguments], capture_output=True, text=True, check=False, timeout=patience(60)
    )


def test_a_recording_that_fails_leaves_no_folder_whatever_it_is_called(tmp_path: Path) -> None:
    packets = tmp_path / "packets"
    packets.write_text("10.0.0.1 nowhere\n")
    folder = tmp_path / "v1.2" / "scenario.d"
    words = ("-f", str(SCENARIO / "cluster.yaml"), "--node", "node-a", "--packets", str(packets))
    done = _run("golden", "record", str(folder), *words)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert not folder.parent.exists()
    # What lies there already stays, and so does its folder.
    folder.mkdir(parents=True)
    (folder / "cluster.yaml").write_text("mine")
    done = _run("golden", "record", str(folder), *words)
    assert done.returncode == 2
    assert [path.name for path in folder.iterdir()] == ["cluster.yaml"]
    assert (folder / "cluster.yaml").read_text() == "mine"
