"""The commands as a person runs them: exit statuses, one line for each error, and never a traceback."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.patience import patience

RULEGEN = [str(Path(sys.executable).parent / "rulegen")]
CLUSTER = "golden/clusterip/cluster.yaml"
ISOLATED = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  clusterIP: 10.96.0.10
  ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.244.0.5]}]
"""


def run(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RULEGEN, *arguments], input=stdin, capture_output=True, text=True, check=False, env=os.environ | environment
    )


def in_namespace(script: str) -> subprocess.CompletedProcess[str]:
    """Runs a shell script in a namespace of its own; `$R` is rulegen."""
    script = f"R={RULEGEN[0]}\n{script}"
    return subprocess.run([*ISOLATED, "bash", "-c", script], capture_output=True, text=True, check=False)


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that is no warning, after which nothing more was said."""
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if ": warning: " not in line]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("rulegen: ")
    return lines[0].removeprefix("rulegen: ")


# ---- without privileges ----


@pytest.mark.parametrize(("target", "mark"), [("nftables", "0x00000008"), ("iptables", "0x20/0x20")])
def test_the_stanza_of_the_target_that_is_asked_for_counts(tmp_path: Path, target: str, mark: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: ipvs\n"
        "nftables: {masqueradeBit: 3}\niptables: {masqueradeBit: 5}\n"
    )
    done = run("render", "-f", CLUSTER, "--node", "node-a", "--config", str(config), "--target", target)
    assert done.returncode == 0, done.stderr
    assert mark in done.stdout


def test_a_configuration_may_come_through_a_pipe() -> None:
    """What is read twice is empty the second time."""
    config = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: iptables\n"
    for command in (["render"], ["explain", "default/web"]):
        done = run(*command, "-f", CLUSTER, "--node", "node-a", "--config", "/dev/stdin", stdin=config)
        assert done.returncode == 0, done.stderr
        assert "RULEGEN-SERVICES" in done.stdout


def test_render_diff_against_and_back(tmp_path: Path) -> None:
    rules = tmp_path / "rules.nft"
    rendered = run("render", "-f", CLUSTER, "--node", "node-a")
    assert rendered.returncode == 0
    rules.write_text(rendered.stdout)
    same = run("diff", "-f", CLUSTER, "--node", "node-a", "--against", str(rules))
    assert (same.returncode, same.stdout) == (0, "0 added, 0 changed, 0 removed\n")
    lines = rendered.stdout.splitlines(keepends=True)
    rules.write_text("".join(line for line in lines if not line.startswith("\t10.96.0.10 . tcp . 9153 ")))
    other = run("diff", "-f", CLUSTER, "--node", "node-a", "--against", str(rules))
    assert other.returncode == 1
    assert other.stdout.splitlines()[-1] == "1 added, 0 changed, 0 removed"


def test_standard_input_and_json(tmp_path: Path) -> None:
    rules = tmp_path / "rules.nft"
    rules.write_text(run("render", "-f", CLUSTER, "--node", "node-a").stdout)
    done = run("diff", "-f", "-", "--node", "n", "--against", str(rules), "-o", "json", stdin=SERVICE)
    assert done.returncode == 1
    assert '"summary"' in done.stdout


def test_every_command_has_help_with_an_example() -> None:
    for command in ("render", "diff", "apply", "cleanup", "explain", "lint"):
        done = run(command, "--help")
        assert done.returncode == 0
        assert "Example" in done.stdout, command
        assert f"rulegen {command}" in done.stdout


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("kind: [", "invalid YAML"),
        ("", "no object"),
        (
            SERVICE.replace("port: 80}", "port: http}"),
            'Service default/web: spec.ports[0].port: expected int, got "http"',
        ),
        (SERVICE.replace("port: 80}", "port: 70000}"), "Service default/web: spec.ports[0].port: "),
        (
            SERVICE.replace("10.244.0.5", "'::ffff:10.244.0'"),
            "EndpointSlice default/web-1: endpoints[0].addresses[0]",
        ),
        (SERVICE.replace("{name: web,", r'{name: "web\"; flush ruleset #",'), "metadata.name"),
        (SERVICE.replace("{name: web,", r'{name: "web\nx",'), "metadata.name"),
    ],
)
def test_a_bad_file_is_one_line_and_status_2(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(content)
    done = run("render", "-f", str(path), "--node", "n")
    assert done.returncode == 2
    assert done.stdout == ""
    assert expected in error_of(done)
    assert str(path) in done.stderr


def test_zero_padded_addresses_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(SERVICE.replace("10.244.0.5", "10.244.000.005"))
    assert "10.244.0.5 . 8080" in run("render", "-f", str(path), "--node", "n").stdout


def test_skip_invalid_goes_on_without_the_bad_object(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(f"{SERVICE}---" + SERVICE.replace("name: web", "name: bad").replace("port: 80}", "port: 0}"))
    done = run("render", "-f", str(path), "--node", "n", "--skip-invalid")
    assert done.returncode == 0
    assert "default/web:http" in done.stdout
    assert "default/bad" in done.stderr


def test_what_is_probably_a_mistake_is_one_warning(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    written = "apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {ports: [{port: 80}]}\n"
    path.write_text("---\n".join([written % "a", written % "b", written.replace("Service", "service") % "c"]))
    done = run("render", "-f", str(path), "--node", "n")
    assert done.returncode == 0
    warnings = [line for line in done.stderr.splitlines() if ": warning: " in line and "Node n" not in line]
    assert warnings == [
        f"rulegen: warning: {path}, document 3: service of v1 is not read; Service of v1 is (SVC-1, SVC-17)",
        "rulegen: warning: Service default/a: has no clusterIP, as before it is created: no rules for it (SVC-4);"
        " 1 more like it, which rulegen lint names",
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("render", "-f", "/nonexistent"), "/nonexistent"),
        (("diff", "-f", CLUSTER, "--node", "node-a", "--against", "/nonexistent"), "/nonexistent"),
        (("diff", "-f", CLUSTER, "--node", "node-a", "--against", "LICENSE"), "found no table of rulegen"),
        (("render", "-f", CLUSTER, "--config", "/nonexistent"), "/nonexistent"),
        (("golden", "check", "/nonexistent"), "/nonexistent"),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(arguments: tuple[str, ...], expected: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert expected in error_of(done)


def test_a_folder_without_manifests(tmp_path: Path) -> None:
    done = run("render", "-f", str(tmp_path))
    assert done.returncode == 2
    assert str(tmp_path) in error_of(done)


def test_a_reader_that_stops_reading_is_no_error() -> None:
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {RULEGEN[0]} render -f {CLUSTER} --node node-a | head -1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "add table ip rulegen\n"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [("trace", "--seconds"), ("top", "--once", "--interval")])
@pytest.mark.parametrize("seconds", ["nan", "-nan", "inf"])
def test_a_number_of_seconds_is_a_number(command: tuple[str, ...], seconds: str) -> None:
    done = run(*command, seconds)
    assert done.returncode == 2
    assert "is not in the range" in done.stderr


def test_a_full_device_is_one_line() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{RULEGEN[0]} render -f {CLUSTER} --node node-a > /dev/full"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "No space left on device" in error_of(done)


# ---- with a kernel ----


@pytest.mark.kernel
def test_apply_again_changes_nothing_and_cleanup_removes_all() -> None:
    done = in_namespace(f"""
        $R diff -f {CLUSTER} --node node-a > /dev/null; echo diff $?
        $R apply -f {CLUSTER} --node node-a --dry-run | tail -1; echo dry-run $?; nft list tables
        $R apply -f {CLUSTER} --node node-a | tail -1; echo apply $?
        $R apply -f {CLUSTER} --node node-a; echo again $?
        $R diff -f {CLUSTER} --node node-a; echo diff $?
        $R cleanup; echo cleanup $?; nft list tables
        $R cleanup; echo again $?
    """)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "diff 1"
    assert lines[1].endswith("checked by the kernel, not applied")
    assert lines[2] == "dry-run 0"
    assert lines[3].endswith(": applied")
    assert lines[4:] == [
        "apply 0",
        "nothing to change",
        "again 0",
        "0 added, 0 changed, 0 removed",
        "diff 0",
        "removed ip rulegen",
        "removed ip6 rulegen",
        "cleanup 0",
        "nothing to remove",
        "again 0",
    ]


@pytest.mark.kernel
def test_what_render_prints_loads_and_is_no_difference() -> None:
    done = in_namespace(f"""
        $R render -f {CLUSTER} --node node-a | nft -f -
        $R diff -f {CLUSTER} --node node-a; echo $?
    """)
    assert (done.stdout, done.stderr) == ("0 added, 0 changed, 0 removed\n0\n", "")


@pytest.mark.kernel
def test_bad_input_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(SERVICE.replace("port: 80}", "port: -1}"))
    done = in_namespace(f"$R apply -f {CLUSTER} -f {path} --node node-a; echo $?; nft list tables")
    assert done.stdout == "2\n"
    assert "spec.ports[0].port" in error_of(done)


@pytest.mark.kernel
@pytest.mark.parametrize("target", ["nftables", "iptables"])
def test_what_cannot_be_read_removes_nothing(tmp_path: Path, target: str) -> None:
    """It is the document of a live Service: to go on without it takes more than --skip-invalid."""
    both, broken = tmp_path / "both.yaml", tmp_path / "broken.yaml"
    other = SERVICE.replace("web", "db").replace("10.96.0.10", "10.96.0.11").replace("10.244.0.5", "10.244.0.6")
    both.write_text(f"{SERVICE}---{other}")
    broken.write_text(f"{SERVICE}---{other}".replace("{name: db, namespace: default}", "{name: db, namespace: default"))
    apply = f"$R apply --target {target} --node n -f"
    done = in_namespace(f"""
        {apply} {broken} --skip-invalid > /dev/null 2>&1; echo fresh $?
        {apply} {both} > /dev/null 2>&1; echo both $?
        {apply} {broken} > /dev/null; echo broken $?
        for option in --skip-invalid "--skip-invalid --dry-run" "--skip-invalid --force"; do
            {apply} {broken} $option > /dev/null; echo $option $?
        done
        {apply} {both} 2>/dev/null; echo still $?
        {apply} {broken} --prune-unreadable > /dev/null 2>&1; echo pruned $?
        {apply} {both} 2>/dev/null | tail -1
    """)
    lines = done.stdout.splitlines()
    assert lines[:-1] == [
        "fresh 0",
        "both 0",
        "broken 2",
        "--skip-invalid 2",
        "--skip-invalid --dry-run 2",
        "--skip-invalid --force 2",
        "nothing to change",
        "still 0",
        "pruned 0",
    ], done.stderr
    assert lines[-1].endswith(": applied")
    assert (
        done.stderr.count("nothing was changed: a document that cannot be read may ask for what would be removed") == 3
    )
    assert f"rulegen: {broken}:19:5: invalid YAML: " in done.stderr


@pytest.mark.kernel
def test_what_cannot_be_read_leaves_the_other_target_as_it_is(tmp_path: Path) -> None:
    good, broken = tmp_path / "good.yaml", tmp_path / "broken.yaml"
    good.write_text(SERVICE)
    broken.write_text(f"{SERVICE}---\nkind: [\n")
    done = in_namespace(f"""
        $R apply --target nftables --node n -f {good} > /dev/null 2>&1
        $R apply --target iptables --node n -f {broken} --skip-invalid > /dev/null 2>&1; echo $?
        nft list table ip rulegen > /dev/null; echo $?
        $R apply --target iptables --node n -f {good} > /dev/null 2>&1
        nft list table ip rulegen > /dev/null 2>&1; echo $?
    """)
    assert done.stdout.split() == ["0", "0", "1"]


@pytest.mark.kernel
def test_without_nft_the_package_is_named() -> None:
    done = in_namespace(f"PATH=/nonexistent $R apply -f {CLUSTER} --node node-a")
    assert done.returncode == 2
    assert "install the package nftables" in error_of(done)


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="is without privileges already")
def test_without_privileges_says_so() -> None:
    source = ("-f", CLUSTER, "--node", "node-a")
    command = ["setpriv", "--bounding-set=-net_admin,-net_raw", "--inh-caps=-net_admin,-net_raw"]
    for arguments in (("diff", *source), ("apply", *source), ("cleanup",)):
        done = subprocess.run([*command, *RULEGEN, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "CAP_NET_ADMIN" in error_of(done)


@pytest.mark.kernel
@pytest.mark.user_namespace
def test_in_a_user_namespace_a_first_load_may_be_large_and_what_is_too_large_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_text("---".join(_numbered(number) for number in range(3000)))
    script = f"""
        {RULEGEN[0]} apply -f {path} --node n | tail -1
        {RULEGEN[0]} diff -f {path} --node n | tail -1
        {RULEGEN[0]} apply -f {CLUSTER} --node node-a > /dev/null; echo $?
    """
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", "bash", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    first, second, third = done.stdout.splitlines()
    assert first.endswith(": applied")
    assert second == "0 added, 0 changed, 0 removed"
    if third != "0":  # the host allows no larger buffers
        assert third == "2"
        assert "net.core.wmem_max" in error_of(done)


@pytest.mark.kernel
def test_what_the_kernel_refuses_is_one_line_with_the_command(tmp_path: Path) -> None:
    web = tmp_path / "web.yaml"
    web.write_text(SERVICE)
    done = in_namespace(f"""
        coproc nft --interactive
        echo 'add table ip rulegen {{ flags owner; }}' >&${{COPROC[1]}}
        until nft list tables | grep -q rulegen; do sleep 0.01; done
        $R apply -f {web} --node n > /dev/null; echo $?
        eval "exec ${{COPROC[1]}}>&-"; wait
        $R apply -f {web} --node n 2>&1 | grep -o ': applied'; echo $?
    """)
    assert done.stdout.splitlines() == ["2", ": applied", "0"]
    assert error_of(done).endswith("the kernel refused a transaction: Operation not permitted: delete table ip rulegen")


@pytest.mark.parametrize("target", ["nftables", "iptables"])
def test_a_file_to_compare_with_is_whole_and_no_listing(tmp_path: Path, target: str) -> None:
    source = ("-f", CLUSTER, "--node", "node-a", "--target", target)
    rendered = run("render", *source).stdout
    second_family = rendered.index("# ip6tables-restore" if target == "iptables" else "add table ip6 ")
    rules = tmp_path / "rules"
    for text, expected in (
        (rendered, ""),
        (rendered[: len(rendered) // 2], "the file was cut off"),
        (rendered[:second_family], "the file was cut off"),
        (rendered[: rendered.rindex("\n", 0, -1) + 1], "the file was cut off"),
        (rendered[:-1], "the file was cut off"),
        (f"{rendered}and more\n", 'expected nothing after "# end of rulegen\'s ruleset", got'),
        ("# Generated by iptables-save v1.8.9\n*nat\n", "found n" if target == "nftables" else "iptables-save lists"),
        ("table ip rulegen {\n}\n", "looks like a listing" if target == "nftables" else "found nothing of it"),
    ):
        rules.write_text(text)
        done = run("diff", *source, "--against", str(rules))
        assert done.returncode == (2 if expected else 0), text[-200:]
        if expected:
            assert expected in error_of(done)


@pytest.mark.kernel
def test_an_interrupted_apply_leaves_the_old_ruleset_or_the_new_one(tmp_path: Path) -> None:
    """Stopped at many moments: packets meet a whole table or none, and the next apply makes it right."""
    count = 1500
    path = tmp_path / "big.yaml"
    path.write_text("---".join(_numbered(number) for number in range(count)))
    rendered = tmp_path / "rules.nft"
    with rendered.open("w") as output:
        subprocess.run(
            [*RULEGEN, "render", "-f", path, "--node", "n"], stdout=output, check=True, stderr=subprocess.PIPE
        )
    keeper = subprocess.Popen([*ISOLATED, "sleep", "300"])
    try:
        inside = ["nsenter", f"--net=/proc/{keeper.pid}/ns/net"]
        if os.geteuid() != 0:
            inside.insert(1, f"--user=/proc/{keeper.pid}/ns/user")
        _wait_for_namespace(keeper.pid)
        seen: set[int] = set()
        for stop, delay in zip(itertools.cycle([signal.SIGINT, signal.SIGKILL]), _delays(9), strict=False):
            subprocess.run([*inside, "nft", "flush ruleset"], check=True)
            apply = subprocess.Popen(
                [*inside, *RULEGEN, "apply", "-f", path, "--node", "n"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            # What a signal does to Python while it starts is Python's.
            _wait_for_reading(apply)
            time.sleep(delay)
            apply.send_signal(stop)
            _, errors = apply.communicate()
            assert b"Traceback" not in errors
            listing = subprocess.run(
                [*inside, "nft", "list", "map", "ip", "rulegen", "frontends"],
                capture_output=True,
                text=True,
                check=False,
            )
            hooks = subprocess.run(
                [*inside, "nft", "list", "chains"], capture_output=True, text=True, check=True
            ).stdout
            # A table without hooks is one that was being filled.
            seen.add(listing.stdout.count("default/web-") if " hook " in hooks else 0)
        assert seen <= {0, count}
        assert 0 in seen
        done = subprocess.run(
            [*inside, *RULEGEN, "apply", "-f", path, "--node", "n"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        done = subprocess.run(
            [*inside, *RULEGEN, "diff", "-f", path, "--node", "n"], capture_output=True, text=True, check=False
        )
        assert done.stdout == "0 added, 0 changed, 0 removed\n"
    finally:
        keeper.terminate()
        keeper.wait()


def _numbered(number: int) -> str:
    return (
        SERVICE.replace("name: web", f"name: web-{number}")
        .replace("service-name: web}", f"service-name: web-{number}}}")
        .replace("10.96.0.10", f"10.96.{number >> 8}.{number & 255}")
    )


def _delays(count: int) -> list[float]:
    """Moments from when the program reads its input to well after its end."""
    return [1.9 * step / count for step in range(count)]


def _wait_for_reading(process: subprocess.Popen[bytes]) -> None:
    """Until the process has begun to read manifests, or has ended: it has the YAML parser in memory then."""
    end = time.monotonic() + patience(10)
    while process.poll() is None and "/_yaml." not in Path(f"/proc/{process.pid}/maps").read_text():
        assert time.monotonic() < end
        time.sleep(0.001)


def _wait_for_namespace(process: int) -> None:
    own = Path("/proc/self/ns/net").readlink()
    end = time.monotonic() + patience(10)
    while Path(f"/proc/{process}/ns/net").readlink() == own:
        assert time.monotonic() < end
        time.sleep(0.01)
