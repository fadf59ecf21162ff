"""The Debian package on Debian 12 and 13: installed, upgraded, removed and purged under a systemd that runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from deb import build_in_root

from rulegen import __version__
from rulegen.kube.objects import EndpointSlice, Service
from tests.agent.running import save, web
from tests.apiserver import ApiServer
from tests.builders import node
from tests.packages.system import Client, System, ask, booted, pod
from tests.patience import patience

pytestmark = pytest.mark.packages

UNITS = ("rulegen.service", "rulegen-cluster.service")
REPOSITORY = Path(__file__).parents[2]
URL = "http://10.96.0.2:80"
INSTALL = (REPOSITORY / "docs/install.md").read_text()
NET_ADMIN, NET_RAW = 1 << 12, 1 << 13


def _tables(system: System) -> str:
    return system.out("nft", "list", "tables")


@pytest.fixture
def root(installed: Path) -> Path:
    """The sysctl that only a host's own network namespace has is left alone."""
    with (installed / "etc/rulegen/config.conf").open("a") as settings:
        settings.write("conntrack: {maxPerCore: 0}\n")
    return installed


def _start(system: System, unit: str = "rulegen") -> None:
    """A unit that has put its rules into the kernel."""
    system.run("systemctl", "start", unit)
    system.wait_for_line(unit, "sync mode=full")


def _property(system: System, unit: str, name: str) -> str:
    return system.out("systemctl", "show", "--value", "--property", name, unit).strip()


def test_lintian_finds_no_error(package: Path) -> None:
    words = ["lintian", "--fail-on", "error", "--allow-root", str(package)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    # debhelper takes files of other names for the changelog, too.
    assert "changelog" not in done.stdout


def test_two_builds_give_the_same_bytes(release: str, package: Path) -> None:
    assert build_in_root(release).read_bytes() == package.read_bytes()


def test_an_installation_starts_nothing_and_the_command_works(root: Path) -> None:
    with booted(root) as system:
        assert re.fullmatch(rf"rulegen {__version__} \([0-9a-f]{{12}}(-dirty)?\)\n", system.out("rulegen", "--version"))
        for unit in UNITS:
            assert _property(system, unit, "UnitFileState") == "disabled"
            assert _property(system, unit, "ActiveState") == "inactive"
        assert _tables(system) == ""
        # Nothing of the caller's gets into it.
        words = ("env", "PYTHONPATH=/nonexistent", "PYTHONHOME=/nonexistent", "rulegen", "sysctls", "--help")
        assert "conntrack" in system.out(*words)


def test_what_is_optional_elsewhere_is_inside(root: Path) -> None:
    shutil.copy(REPOSITORY / "golden/clusterip/cluster.yaml", root / "cluster.yaml")
    shutil.copy(REPOSITORY / "tests/packages/records.yaml", root)
    with booted(root) as system:
        manifests = ("-f", "/cluster.yaml")
        assert system.out("rulegen", "graph", "default/web", *manifests, "--node", "node-a", "-o", "svg")[:5] == "<svg "
        assert "web.default.svc" in system.out("rulegen", "render", *manifests, "--config", "/records.yaml")
        # Somebody who has dnspython gets as far as the server, which is not there.
        refused = system.run("rulegen", "diff", *manifests, "--config", "/records.yaml", check=False)
        assert "zone cluster.local on 127.0.0.1:53: " in refused.stderr


def test_the_units_are_as_systemd_wants_them_and_hardened_as_is_said(root: Path, release: str) -> None:
    stated = re.findall(r"says ([\d.]+) of 10 on Debian 13 .* and\s+([\d.]+) on Debian 12", INSTALL)
    newer, older = stated[0]
    with booted(root) as system:
        for unit in UNITS:
            # man-db is not there, nor needs to be.
            done = system.run("systemd-analyze", "verify", "--man=no", unit)
            assert (done.stdout, done.stderr) == ("", "")
            score = system.out("systemd-analyze", "security", "--no-pager", unit)
            exposure = re.findall(r"exposure level for \S+: ([\d.]+)", score)
            assert exposure == [older if release == "bookworm" else newer], score


@pytest.mark.parametrize("target", ["nftables", "iptables"])
def test_a_node_without_a_cluster_follows_a_folder(root: Path, target: str) -> None:
    (root / "etc/default/rulegen").write_text(f'RULEGEN_OPTIONS="--target {target}"\n')
    save(root / "etc/rulegen/manifests/web.json", *web(1, 5))
    with booted(root) as system, pod(system.namespace):
        _start(system)
        assert _ask_from(system) == "pod"
        status = system.out("cat", f"/proc/{_property(system, 'rulegen', 'MainPID')}/status")
        for kind in ("CapPrm", "CapBnd", "CapEff"):
            assert int(re.findall(rf"^{kind}:\s+(\w+)$", status, re.MULTILINE)[0], 16) == NET_ADMIN | NET_RAW
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
        assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)
        # What is put into the folder takes effect, and nothing that the unit forbids is missed.
        save(root / "etc/rulegen/manifests/other.json", *web(2, 5))
        end = time.monotonic() + patience(5)
        while _answers(system, "http://10.96.0.3:80") != "pod":
            assert time.monotonic() < end
        journal = system.out("journalctl", "--no-pager", "--unit", "rulegen", "--output", "cat")
        # The sysctls are set before the agent starts, which may not.
        assert "nf_conntrack_tcp_timeout_established: 432000 -> 86400" in journal
        assert not re.search(r"(?i)not permitted|denied|read-only|traceback|level=error", journal), journal
        system.run("systemctl", "stop", "rulegen")
        assert _ask_from(system) == "pod"


def _ask_from(system: System, url: str = URL) -> str:
    with system.namespace.entered():
        return ask(url)


def _answers(system: System, url: str) -> str:
    try:
        return _ask_from(system, url)
    except OSError:
        return ""


def test_a_node_with_a_kubeconfig_follows_its_api_server(root: Path) -> None:
    with booted(root) as system, pod(system.namespace):
        # Without one it does not start, and says why.
        refused = system.run("systemctl", "start", "rulegen-cluster", check=False)
        assert refused.returncode != 0
        assert "Assertion failed" in refused.stderr
        with system.namespace.entered(), ApiServer() as server:
            server.put(node(os.uname().nodename), *web(1, 5))
            server.kubeconfig(root / "etc/rulegen/kubeconfig")
            (root / "etc/rulegen/kubeconfig").chmod(0o600)
            _start(system, "rulegen-cluster")
            assert _ask_from(system) == "pod"
            server.delete(Service, "web-1", "default")
            server.delete(EndpointSlice, "web-1-a", "default")
            end = time.monotonic() + patience(5)
            while _answers(system, URL):
                assert time.monotonic() < end
            # One at a time.
            system.run("systemctl", "start", "rulegen")
            assert _property(system, "rulegen-cluster", "ActiveState") == "inactive"


def test_an_upgrade_keeps_the_rules_serving(root: Path) -> None:
    save(root / "etc/rulegen/manifests/web.json", *web(1, 5))
    settings = (root / "etc/rulegen/config.conf").read_text()
    with booted(root) as system, pod(system.namespace):
        _start(system)
        process = _property(system, "rulegen", "MainPID")
        rules = system.out("nft", "list", "table", "ip", "rulegen")
        with Client(system.namespace, URL) as client:
            system.run("dpkg", "--force-confdef", "--force-confold", "--install", "/next.deb")
            system.wait_for_line("rulegen", "sync mode=full")
        assert client.tried > 20
        assert client.failures == []
        assert _property(system, "rulegen", "ActiveState") == "active"
        assert _property(system, "rulegen", "MainPID") != process
        assert system.out("nft", "list", "table", "ip", "rulegen") == rules
        assert _property(system, "rulegen-cluster", "ActiveState") == "inactive"
    # What a person has changed is kept, and what nobody has is the new version's.
    assert (root / "etc/rulegen/config.conf").read_text() == settings
    assert "Of the next version" in (root / "etc/rulegen/config.conf.dpkg-dist").read_text()
    assert "Of the next version" in (root / "etc/default/rulegen").read_text()


@pytest.mark.parametrize("target", ["nftables", "iptables"])
def test_a_removal_leaves_the_rules_and_a_purge_takes_them_out(root: Path, target: str) -> None:
    (root / "etc/default/rulegen").write_text(f'RULEGEN_OPTIONS="--target {target}"\n')
    save(root / "etc/rulegen/manifests/web.json", *web(1, 5))
    with booted(root) as system, pod(system.namespace):
        system.run("nft", "add table ip somebodys; add chain ip somebodys their-own")
        before = system.out("nft", "list", "ruleset")
        system.run("systemctl", "enable", "rulegen")
        _start(system)
        removed = system.out("apt-get", "remove", "-q", "-y", "rulegen")
        assert "rulegen: its rules stay in the kernel and serve" in removed
        assert "apt-get purge rulegen takes them out" in removed
        assert not (root / "usr/bin/rulegen").exists()
        assert (root / "etc/rulegen/config.conf").exists()
        assert _ask_from(system) == "pod"
        purged = system.out("apt-get", "purge", "-q", "-y", "rulegen")
        assert "rulegen: removed " in purged
        assert _answers(system, URL) == ""
        assert _without_empty_tables(system.out("nft", "list", "ruleset")) == _without_empty_tables(before)
        # What a person put there is theirs.
        assert [path.name for path in (root / "etc/rulegen").rglob("*")] == ["manifests", "web.json"]
        assert not (root / "usr/lib/rulegen").exists()
        assert _property(system, "rulegen", "LoadState") == "not-found"


def _without_empty_tables(ruleset: str) -> list[str]:
    """The chains of others and the rules; iptables leaves its built-in chains behind, empty."""
    return [
        line
        for line in ruleset.splitlines()
        if not re.match(r"table ip6? (nat|filter|mangle) |\tchain [A-Z]+ |\t?}|\t\ttype |$|# Warning", line)
    ]


def test_what_was_never_started_goes_without_a_word_about_rules(root: Path) -> None:
    with booted(root) as system:
        purged = system.out("apt-get", "purge", "-q", "-y", "rulegen")
        assert "rules" not in purged.replace("rulegen", "")
        assert not (root / "etc/rulegen").exists()


def test_the_shells_complete_and_the_manual_has_each_command(root: Path) -> None:
    with booted(root) as system:
        script = (
            ". /usr/share/bash-completion/completions/rulegen; COMP_WORDS=(rulegen ex); COMP_CWORD=1; "
            "_rulegen_completion rulegen ex rulegen; echo ${COMPREPLY[@]}"
        )
        assert system.out("bash", "-c", script) == "explain\n"
        for path in ("zsh/vendor-completions/_rulegen", "fish/vendor_completions.d/rulegen.fish"):
            assert "_RULEGEN_COMPLETE" in (root / "usr/share" / path).read_text()
        commands = re.findall(r"^  ([a-z]+) ", system.out("rulegen", "--help").partition("Commands:")[2], re.MULTILINE)
        # A minimal Debian drops manual pages when it installs a package, but for those that dpkg lists.
        listed = system.out("dpkg", "--listfiles", "rulegen")
        assert {f"/usr/share/man/man1/rulegen-{command}.1.gz" for command in commands} <= set(listed.split())
