"""rulegen report: what is in the file, whatever the order and the names; what the kernel has otherwise."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from rulegen.cli import main
from tests.lab import Packet
from tests.lab.fixtures import MakeLab
from tests.pictures.conftest import WritePage
from tests.pictures.hostile import NASTY, hostile_manifest
from tests.trace.scene import CLIENT, CLUSTER, NODE_ADDRESS, POD

LOCAL = ("-f", "golden/external-policy-local/cluster.yaml", "--node", "node-a")
DUPLICATES = ("-f", "golden/duplicate-frontends/cluster.yaml", "--node", "node-a")


def run(*words: str) -> Result:
    return CliRunner().invoke(main, list(words), catch_exceptions=False)


class Page:
    """The data of a report, by name."""

    def __init__(self, path: Path) -> None:
        found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
        assert found
        self.data: dict[str, Any] = json.loads(found[1])

    def text(self, number: int) -> str:
        return str(self.data["strings"][number])

    def texts(self, numbers: list[int]) -> list[str]:
        return [self.text(number) for number in numbers]

    def service(self, name: str) -> list[Any]:
        (found,) = [one for one in self.data["services"] if self.text(one[0]) == name]
        return list(found)

    def names(self) -> list[str]:
        return [self.text(one[0]) for one in self.data["services"]]


def test_the_order_of_the_manifests_makes_no_difference(write_page: WritePage, tmp_path: Path) -> None:
    documents = list(yaml.safe_load_all(Path("golden/topology-hints/cluster.yaml").read_text()))
    pages = []
    for order in (documents, documents[::-1]):
        path = tmp_path / "cluster.yaml"
        path.write_text(yaml.safe_dump_all(order))
        pages.append(write_page("-f", str(path), "--node", "node-a").read_bytes())
    assert pages[0] == pages[1]


def test_only_what_is_in_the_page_may_run(write_page: WritePage, tmp_path: Path) -> None:
    text = write_page("-f", str(hostile_manifest(tmp_path)), "--node", "node-a", "--title", NASTY).read_text()
    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', text)
    assert policy
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    styles = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in (*scripts, *styles)]
    assert re.findall(r"'sha256-([^']*)'", policy[1]) == hashes
    assert policy[1].startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy[1]
    assert text.count("<script") == text.count("</script>") == len(scripts) + 1 == 4
    assert not re.search(r"<[^>]*\b(src|href|action)\s*=", re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL))
    # A title is HTML, the rest JSON; neither leaves anything of this to be read otherwise.
    others = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not [sign for sign in others if not sign.isprintable() and sign != "\n"]


def test_health_findings_and_policies(write_page: WritePage) -> None:
    page = Page(write_page(*LOCAL))
    names = page.names()
    assert names == sorted(names)
    told = {name: page.texts(page.service(name)[5]) for name in names}
    assert any("not ready: nobody here" in " ".join(words) for words in told.values())
    assert any(re.fullmatch(r"port \d+, IPv4: ready, \d+ here", word) for words in told.values() for word in words)
    duplicates = Page(write_page(*DUPLICATES))
    (finding,) = duplicates.service("team-b/twin")[3]
    assert duplicates.texts(finding)[:2] == ["Service team-b/twin", "DuplicateFrontend"]
    assert "belongs to team-a/twin" in duplicates.text(finding[2])


def test_network_policies_stand_at_the_endpoints_that_they_isolate(write_page: WritePage) -> None:
    scenario = ("-f", "golden/network-policies/cluster.yaml", "--node", "node-a")
    page = Page(write_page(*scenario, "--feature", "network-policies"))
    policies = [page.texts(one[6]) for one in _endpoints(page, "shop/web")]
    assert policies == 2 * [
        ["ClusterNetworkPolicy metrics", "NetworkPolicy shop/default-deny", "NetworkPolicy shop/web"]
    ]
    assert [one[5:] for one in _endpoints(Page(write_page(*scenario)), "shop/web")] == [[], []]


def test_a_finding_of_no_service_is_told(write_page: WritePage, tmp_path: Path) -> None:
    documents = list(yaml.safe_load_all(Path("golden/clusterip/cluster.yaml").read_text()))
    (service,) = [one for one in documents if one["kind"] == "Service" and one["metadata"]["name"] == "web"]
    service["spec"]["externalIPs"] = ["10.96.0.20.1"]
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    page = Page(write_page("-f", str(path), "--node", "node-a", "--title", "a title"))
    assert (page.data["title"], page.data["node"], page.data["differences"]) == ("a title", "node-a", None)
    told = [page.text(one[2]) for one in page.service("default/web")[3]]
    assert any("10.96.0.20.1" in text for text in told)
    assert not any("10.96.0.20.1" in text for text in page.data["findings"])


def test_standard_output_and_files_that_cannot_be(tmp_path: Path) -> None:
    written = run("report", *LOCAL, "-o", "-")
    path = tmp_path / "r.html"
    assert run("report", *LOCAL, "-o", str(path)).exit_code == 0
    assert written.stdout_bytes == path.read_bytes()
    assert path.stat().st_mode & 0o600 == 0o600
    before = path.read_bytes()
    failed = run("report", "-f", "golden/external-policy-local", "--node", "nobody", "-o", str(path))
    assert failed.exit_code == 2
    assert path.read_bytes() == before
    for wrong in (tmp_path, tmp_path / "none" / "r.html", Path("/dev/null")):
        refused = run("report", *LOCAL, "-o", str(wrong))
        assert (refused.exit_code, "Traceback" in refused.stderr) == (2, False)
        assert refused.stderr.splitlines()[-1].startswith(f"rulegen: {wrong}: ")
    assert [one.name for one in tmp_path.iterdir()] == ["r.html"]


@pytest.mark.kernel
@pytest.mark.parametrize("target", ["nftables", "iptables"])
def test_what_the_kernel_has_otherwise_and_its_connections(
    make_lab: MakeLab, write_page: WritePage, tmp_path: Path, target: str
) -> None:
    lab = make_lab()
    scenario = ("-f", CLUSTER, "--node", "node-a", "--target", target)
    with lab.entered():
        everything = Page(write_page(*scenario, "--live"))
        assert everything.service("shop/web")[6]
        assert run("apply", *scenario).exit_code == 0
    # Two to the ClusterIP, one to the NodePort.
    lab.send([Packet(POD, "10.96.0.20", 80, "TCP", source_port=port) for port in (7000, 7001)])
    lab.send([Packet(CLIENT, NODE_ADDRESS, 30080, "TCP", source_port=7002)])
    with lab.entered():
        page = Page(write_page(*scenario, "--live"))
    assert (page.data["differences"], page.data["connections"]) == ([], True)
    assert not any(one[6] for one in page.data["services"])
    assert [(page.text(one[0]), one[5:]) for one in _endpoints(page, "shop/web")] == [
        ("10.128.1.7:8080", [3]),
        ("[fd00:10:129::7]:8080", []),
    ]
    with lab.entered():
        _spoil(target)
        page = Page(write_page(*scenario, "--live"))
        assert run("support-bundle", str(tmp_path / "it.tar.gz"), *scenario).exit_code == 0
    assert any("10.96.0.20" in text for text in page.texts(page.service("shop/web")[6]))
    assert not any(one[6] for one in page.data["services"] if page.text(one[0]) != "shop/web")
    # Elsewhere a bundle says the same of the rules, and nothing of connections.
    told = Page(write_page("-f", str(tmp_path / "it.tar.gz"), "--live"))
    assert told.texts(told.service("shop/web")[6]) == page.texts(page.service("shop/web")[6])
    assert (told.data["node"], told.data["target"], told.data["connections"]) == ("node-a", target, False)
    assert [one[5:] for one in _endpoints(told, "shop/web")] == [[], []]


def _endpoints(page: Page, name: str) -> list[list[Any]]:
    return [endpoint for port in page.service(name)[4] for endpoint in port[6]]


def _spoil(target: str) -> None:
    """Takes the rule away that says whose 10.96.0.20:80 is."""
    words = ["nft", "delete element ip rulegen frontends { 10.96.0.20 . tcp . 80 }"]
    if target == "iptables":
        listed = subprocess.run(["iptables-save", "-t", "nat"], capture_output=True, text=True, check=True).stdout
        (rule,) = [line for line in listed.splitlines() if line.startswith("-A ") and "10.96.0.20/32" in line]
        words = ["iptables", "-t", "nat", "-D", *shlex.split(rule)[1:]]
    subprocess.run(words, check=True)
