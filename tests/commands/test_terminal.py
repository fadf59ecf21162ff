"""Colours, the bar, completion, and kubectl's plugin, as terminals, shells and kubectl meet them."""

from __future__ import annotations

import os
import pty
import select
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from rulegen.cli import main
from rulegen.commands import progress
from rulegen.commands.completing import names_in_yaml, remember
from rulegen.kube.manifests import load
from tests.commands.running import CART, OTHER_CART, WEB, error, rulegen, written
from tests.patience import patience

BIN = Path(sys.executable).parent


def on_terminal(*words: str, **environment: str) -> tuple[str, str]:
    """Runs a program whose standard output and standard error are terminals of their own."""
    pairs = [pty.openpty(), pty.openpty()]
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=pairs[0][1], stderr=pairs[1][1], env=os.environ | environment
    )
    for _, theirs in pairs:
        os.close(theirs)
    texts = [b"", b""]
    for number, (ours, _) in enumerate(pairs):
        while part := _read(ours):
            texts[number] += part
        os.close(ours)
    process.wait(patience(60))
    return texts[0].decode(), texts[1].decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # all who could write are gone
        return b""


# ---- colours ----


def test_colours(tmp_path: Path) -> None:
    after, before = written(tmp_path / "b.yaml", WEB), written(tmp_path / "a.yaml", CART)
    words = ("diff", "-f", after, "--node", "node-a", "--against", before)

    def has_colours(*more: str, first: tuple[str, ...] = (), **environment: str) -> bool:
        return "\x1b[" in rulegen(*first, *words, *more, status=1, env=environment).stdout

    assert not has_colours()
    assert has_colours("--color", "always")
    assert has_colours("--color=always", NO_COLOR="1")
    assert has_colours(first=("--color", "always"))
    assert not has_colours("--color", "never", first=("--color", "always"))
    plain, coloured = ("never", "always")
    assert rulegen("diff", *words[1:], "--stat", "--color", coloured, status=1).stdout.count("\x1b[31m") == 2
    assert "\x1b[" not in rulegen("golden", "check", "golden/clusterip", "--color", plain).stdout


def test_a_terminal_has_colours_unless_it_is_told_otherwise(tmp_path: Path) -> None:
    after, before = written(tmp_path / "b.yaml", WEB), written(tmp_path / "a.yaml", CART)
    words = [str(BIN / "rulegen"), "diff", "-f", str(after), "--node", "node-a", "--against", str(before)]
    assert "\x1b[32m" in on_terminal(*words, NO_COLOR="")[0]
    assert "\x1b[" not in on_terminal(*words, NO_COLOR="1")[0]


# ---- the bar ----


def test_a_bar_when_it_takes_long(tmp_path: Path) -> None:
    """Manifests come through a pipe that gives nothing before the bar is there."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    ours, theirs = pty.openpty()
    words = [str(BIN / "rulegen"), "render", "-f", str(pipe), "--node", "node-a"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=theirs, env=os.environ | {"TERM": "xterm"}) as process:
        os.close(theirs)
        with pipe.open("w") as manifests:
            said = b""
            while b"reading manifests" not in said:
                readable, _, _ = select.select([ours], [], [], patience(60))
                assert readable, said
                said += _read(ours)
            manifests.write(WEB)
        assert process.stdout is not None
        output = process.stdout.read()
        assert process.wait(patience(60)) == 0
    os.close(ours)
    assert b"reading manifests" not in output
    assert b"end of rulegen's ruleset" in output


def test_no_bar_without_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "_SECONDS", -1e9)
    assert list(progress.each("working", [1, 2], 2)) == [1, 2]
    assert not any(capsys.readouterr())


# ---- completion ----


def complete(*words: str) -> list[str]:
    """What a shell is offered for the last word."""
    *before, incomplete = words
    return [item.value for item in ShellComplete(main, {}, "rulegen", "").get_completions(before, incomplete)]


def test_bash_is_told_and_nobody_else(tmp_path: Path) -> None:
    cluster = str(written(tmp_path / "a.yaml", WEB, CART))
    for words, expected in ((["explain", "-f", cluster, "shop/"], "plain,shop/cart\nplain,shop/web\n"), (["-x"], "\n")):
        asked = {"_RULEGEN_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(("rulegen", *words))}
        asked["COMP_CWORD"] = str(len(words))
        done = subprocess.run([BIN / "rulegen"], env=os.environ | asked, capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == (expected, "")


# What each shell is asked, once it has started as docs/cli.md says; CLUSTER is a word of it.
_SHELLS = {
    "bash": """
        COMP_WORDS=(rulegen explain -f "$CLUSTER" shop/) COMP_CWORD=4
        _rulegen_completion rulegen
        printf '%s\\n' "${COMPREPLY[@]}"
    """,
    "zsh": """
        words=(rulegen explain -f "$CLUSTER" shop/) CURRENT=5
        _describe() { print -l -- $completions_with_descriptions }
        compadd() { print -l -- $completions }
        [ "$_comps[rulegen]" = _rulegen_completion ] && _rulegen_completion
    """,
    "fish": """complete -C "rulegen explain -f $CLUSTER shop/" """,
}
# How it is started, and what it has read before that line.
_STARTS = {
    "bash": (["bash", "--norc", "-c"], ""),
    "zsh": (["zsh", "-f", "-c"], "autoload -Uz compinit; compinit -u -D"),
    "fish": (["fish", "--no-config", "-c"], ""),
}


@pytest.mark.parametrize("shell", [name for name in _SHELLS if name == "bash" or shutil.which(name)])
def test_shells_complete_after_the_line_of_the_page(shell: str, tmp_path: Path) -> None:
    """bash is everywhere; zsh and fish where this host has them."""
    lines = (Path(__file__).parents[2] / "docs/cli.md").read_text().splitlines()
    (line,) = [line.strip() for line in lines if f"_RULEGEN_COMPLETE={shell}_source" in line]
    words, first = _STARTS[shell]
    variables = {"CLUSTER": str(written(tmp_path / "a.yaml", WEB, CART)), "HOME": str(tmp_path)}
    environment = {**os.environ, **variables, "PATH": f"{BIN}:/usr/bin:/bin"}
    script = "\n".join((first, line, _SHELLS[shell]))
    done = subprocess.run([*words, script], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["shop/cart", "shop/web"], done.stderr


def test_names_come_from_the_files_on_the_line(tmp_path: Path) -> None:
    cluster = str(written(tmp_path / "a.yaml", WEB, CART, OTHER_CART))
    assert complete("explain", "-f", cluster, "shop/") == ["shop/cart", "shop/web"]
    assert complete("diff", "-f", cluster, "shop/web", "te") == ["test/cart"]
    assert complete("diff", "-f", cluster, "-n", "s") == ["shop"]
    assert complete("render", "-f", cluster, "--node", "n") == ["node-a"]
    assert complete("render", "--feature", "net") == ["network-policies"]
    assert complete("render", "-f", "x") == ["x"]
    assert complete("pl") == ["plan"]
    as_list = tmp_path / "list.json"
    as_list.write_text(
        '{"apiVersion": "v1", "kind": "ServiceList", "items": [{"metadata": {"name": "one", "namespace": "a"}}]}'
    )
    assert complete("explain", "-f", str(as_list), "a") == ["a/one"]


def test_whatever_is_wrong_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pipe, broken, hostile = tmp_path / "pipe", tmp_path / "broken.yaml", tmp_path / "hostile.yaml"
    os.mkfifo(pipe)
    broken.write_text("kind: [\n---\n" + WEB)
    hostile.write_text(WEB.replace("name: web,", 'name: "$(touch x)",') + CART)
    assert complete("explain", "-f", str(pipe), "s") == []
    assert complete("explain", "-f", str(tmp_path / "missing"), "s") == []
    assert complete("explain", "-f", "-", "s") == []
    assert complete("explain", "-f", str(broken), "s") == ["shop/web"]
    assert complete("explain", "-f", str(hostile), "s") == ["shop/cart"]
    broken.write_text('{"kind": "List", "items": [' + "[" * 100_000)
    assert complete("explain", "-f", str(broken), "s") == []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = tmp_path / "rulegen" / "names.json"
    cache.parent.mkdir()
    for content in ("", "[", '[["Service", 1, 2]]', '[["Service", "a", "$(x)"]]'):
        cache.write_text(content)
        assert complete("explain", "a") == []
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/nonexistent")
    assert complete("explain", "a") == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (
            # As `kubectl get svc,node -o yaml` prints it.
            """apiVersion: v1
items:
- apiVersion: v1
  kind: Service
  metadata:
    annotations:
      name: no
    labels:
      app: web
    name: web
    namespace: shop
    ownerReferences:
    - apiVersion: v1
      kind: Node
      name: no
  spec:
    ports:
    - name: no
- apiVersion: v1
  kind: Node
  metadata:
    name: worker-1
kind: List
metadata:
  resourceVersion: ""
""",
            {("Service", "shop", "web"), ("Node", "", "worker-1")},
        ),
        (WEB + CART, {("Service", "shop", "web"), ("Service", "shop", "cart")}),
        ("kind: Service\nmetadata:\n  name: 'web'\nspec: {}\n", {("Service", "default", "web")}),
        ("kind: Pod\nmetadata:\n  name: web\n---\nmetadata:\n  name: a\n", set()),
        ("\0:\n: :\nkind:\nmetadata: [\n  name: {", set()),
    ],
)
def test_lines_of_yaml_that_name_objects(text: str, names: set[tuple[str, str, str]]) -> None:
    assert set(names_in_yaml(text)) == names


def test_names_of_the_last_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    remember(load([str(written(tmp_path / "a.yaml", WEB, CART))], None))
    assert complete("explain", "shop/w") == ["shop/web"]
    assert complete("render", "--node", "") == ["node-a"]
    cache = tmp_path / "rulegen" / "names.json"
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    # One that cannot be kept is no reason to fail.
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc")
    remember(load([str(tmp_path / "a.yaml")], None))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shells_get_a_script(shell: str) -> None:
    done = subprocess.run(
        [BIN / "rulegen"], env=os.environ | {"_RULEGEN_COMPLETE": f"{shell}_source"}, capture_output=True, check=True
    )
    assert b"_RULEGEN_COMPLETE" in done.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=done.stdout, check=True)


# ---- kubectl ----


def test_as_a_plugin_of_kubectl(tmp_path: Path) -> None:
    cluster = str(written(tmp_path / "a.yaml", WEB))

    def run(program: str, *words: str, status: int = 0) -> str:
        done = subprocess.run([BIN / program, *words], capture_output=True, text=True, check=False)
        assert done.returncode == status, done
        return done.stdout + done.stderr

    usage = run("kubectl-rulegen", "explain", "--help")
    assert "Usage: kubectl rulegen explain" in usage
    assert "    kubectl rulegen explain default/web -f cluster.yaml" in usage
    assert "kubectl rulegen render -f" in run("kubectl-rulegen", "--help")
    assert "    rulegen explain default/web" in run("rulegen", "explain", "--help")
    assert "Try 'kubectl rulegen explain" in run("kubectl-rulegen", "explain", "--nonsense", status=2)
    assert "shop/web" in run("kubectl-rulegen", "explain", "shop/web", "-f", cluster)
    assert run("kubectl_complete-rulegen", "explain", "-f", cluster, "sh") == "shop/web\n:4\n"
    assert run("kubectl_complete-rulegen", "explain", "-f", "") == ":0\n"


def _run_closed(redirections: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The program, with streams as a shell closes them."""
    program = "import sys; from rulegen.cli import main; sys.argv[0] = 'rulegen'; main()"
    line = f'exec "$@" {redirections}'
    command = ["sh", "-c", line, "sh", sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("redirections", [">&-", "<&-", "<&- >&-"])
def test_streams_that_are_closed_are_no_reason_to_fail(redirections: str, tmp_path: Path) -> None:
    file = written(tmp_path / "cluster.yaml", WEB)
    done = _run_closed(redirections, "env", "shop", "-f", str(file))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert ("WEB_SERVICE_HOST" in done.stdout) is (">&-" not in redirections)


def test_standard_input_that_is_closed_holds_nothing() -> None:
    done = _run_closed("<&-", "env", "shop", "-f", "-")
    assert (done.returncode, done.stderr) == (2, "rulegen: standard input: holds no object\n")


def test_help_that_cannot_be_written_is_one_line() -> None:
    done = _run_closed(">/dev/full", "env", "--help")
    assert (done.returncode, done.stderr) == (2, "rulegen: cannot write the output: No space left on device\n")


@pytest.mark.parametrize(
    "arguments", [("env", "shop", "-f", "/missing"), ("diff", "--unknown")], ids=["error", "usage"]
)
def test_an_error_that_cannot_be_written_is_told_by_the_status(arguments: tuple[str, ...]) -> None:
    """Status 1 would say that something differs."""
    assert _run_closed("2>/dev/full", *arguments).returncode == 2


@pytest.mark.parametrize("option", ["-f", "--against", "--config"])
def test_a_name_that_no_file_can_have_is_no_fault_of_the_output(option: str, tmp_path: Path) -> None:
    file = written(tmp_path / "cluster.yaml", WEB)
    said = error("diff", "-f", file, "--against", file, option, "a" * 5000)
    assert said.startswith('"aaaa')
    assert said.endswith(": File name too long")
