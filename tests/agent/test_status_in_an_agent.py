"""What a running agent says about itself, to `rulegen status` and over HTTP, while files and rules are damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.agent.asking import ask
from tests.agent.running import Agent, Playground, save, wait_until, web
from tests.apiserver import ApiServer
from tests.apiserver.server import TOKEN
from tests.builders import node, service_cidr
from tests.commands.test_support_bundle import members

pytestmark = pytest.mark.kernel

SCHEMA = Path(__file__).parents[2] / "docs" / "schemas" / "status.json"


class Asking:
    """Asks an agent of the playground."""

    def __init__(self, playground: Playground) -> None:
        self._playground = playground

    def status(self) -> dict[str, Any]:
        """What the page says to programs."""
        with self._playground.namespace.entered():
            found: dict[str, Any] = ask(10256, "/status", accept="application/json").json
        return found

    def invalid(self, kind: str) -> float:
        with self._playground.namespace.entered():
            text = ask(10249, "/metrics").body.decode()
        return next(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "rulegen_invalid_objects" and sample.labels["kind"] == kind
        )

    def log(self) -> str:
        with self._playground.namespace.entered():
            return ask(10249, "/log").body.decode()

    def command(self, *arguments: str) -> tuple[int, str, str]:
        done = self._playground.run("status", *arguments)
        return done.returncode, done.stdout, done.stderr


def test_files_rules_and_configuration_that_are_damaged_and_mended(playground: Playground) -> None:
    file, other = playground.manifests / "all.json", playground.manifests / "other.yaml"
    asking = Asking(playground)
    status, _, error = asking.command()
    assert status == 2
    assert error == "rulegen: no agent answers at 0.0.0.0:10256: Connection refused\n"
    save(file, *web(1, 1, 2))
    other.write_text("kind: [\n")
    with playground.agent() as agent:
        agent.wait_for("nothing is programmed before every file has been read once")
        status, text, _ = asking.command()
        assert status == 1
        assert text.startswith("starting\n")
        assert "waiting for    Service" in text
        assert "other.yaml:2:1: invalid YAML" in text
        wait_until(lambda: asking.invalid("File") == 1)
        other.unlink()
        agent.wait_for(f"file gone, which could not be used: {other}")
        playground.wait_for(web(1, 1, 2))
        wait_until(lambda: asking.status()["state"] == "ok")
        assert asking.invalid("File") == 0
        found = asking.status()
        jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(found)
        assert found["source"] == {"kind": "files", "places": [str(playground.manifests)]}
        assert found["lastSync"]["names"] == ["default/web-1"]
        assert {one["kind"] for one in found["following"]} >= {"Service", "EndpointSlice", "Node"}
        assert asking.command()[0] == 0

        _damage_and_mend_files(playground, agent, file)
        _change_rules(playground, agent)
        status, text, _ = asking.command("--address", "127.0.0.1", "-o", "json")
        assert status == 0
        assert json.loads(text)["version"] == 1
        # Another program, an address of the agent's that has no such page, and none that is one.
        for address, words in (
            ("127.0.0.1:10249", "the agent at 127.0.0.1:10249 has no /status"),
            ("127.0.0.1:1", "no agent answers at 127.0.0.1:1: Connection refused"),
            ("here", '--address: expected IP:PORT, or [IPv6]:PORT, the port from 1 to 65535, got "here"'),
        ):
            status, _, error = asking.command("--address", address)
            assert status == 2
            assert error.startswith(f"rulegen: {words}")


def _damage_and_mend_files(playground: Playground, agent: Agent, file: Path) -> None:
    asking = Asking(playground)
    # An object that is damaged and mended to what it was.
    text = file.read_text()
    file.write_text(text.replace('"port":80}', '"port":80000}'))
    wait_until(lambda: asking.status()["brokenObjects"]["total"] == 1)
    assert asking.invalid("Service") == 1
    assert asking.status()["state"] == "degraded"
    file.write_text(text)
    agent.wait_for("object used again: Service default/web-1")
    wait_until(lambda: asking.invalid("Service") == 0)
    # A file, and the configuration.
    file.write_text(text[:-9])
    wait_until(lambda: asking.status()["brokenFiles"]["total"] == 1)
    assert asking.status()["brokenFiles"]["shown"][0]["subject"] == str(file)
    good = Path(playground.config).read_text()
    playground.configure("nftables: {masqueradeBit: 33}")
    wait_until(lambda: "expected 0 to 31, got 33" in asking.status()["configurationProblem"], 10.0)
    wait_until(lambda: asking.invalid("File") == 2)
    assert "got 33" in asking.command()[1]
    Path(playground.config).write_text(good)
    file.write_text(text)
    agent.wait_for(f"file in use again: {file}")
    agent.wait_for(f"configuration in use again: {playground.config}", 10.0)
    wait_until(lambda: asking.invalid("File") == 0)
    wait_until(lambda: asking.status()["state"] == "ok")


def _change_rules(playground: Playground, agent: Agent) -> None:
    asking = Asking(playground)
    playground.host.nft("delete element ip rulegen cluster-ips { 10.96.0.2 }")
    wait_until(lambda: asking.status()["drift"]["repairs"] == 1)
    (repair,) = asking.status()["drift"]["last"]
    assert repair["entries"] == 1
    assert repair["lines"] == ["+ ip cluster-ips 10.96.0.2"]
    assert "process" in repair["who"]
    assert repair["who"] in asking.command()[1]
    agent.wait_for("repaired: + ip cluster-ips 10.96.0.2")
    assert "repaired: + ip cluster-ips 10.96.0.2" in asking.log()


def test_a_bundle_of_an_agent_that_follows_an_api_server(
    playground: Playground, api_server: ApiServer, kubeconfig: str, tmp_path: Path
) -> None:
    asking = Asking(playground)
    api_server.put(node(), service_cidr("10.96.0.0/16"), *web(1, 1))
    bundle = tmp_path / "it.tar.gz"
    with playground.agent("--kubeconfig", kubeconfig) as agent:
        playground.wait_for([*web(1, 1), node(), service_cidr("10.96.0.0/16")])
        wait_until(lambda: asking.status()["state"] == "ok")
        assert asking.status()["source"] == {"kind": "api server", "places": [api_server.url]}
        done = playground.run(
            "support-bundle", str(bundle), "--kubeconfig", kubeconfig, "--config", playground.config, "--node", "node-1"
        )
        assert done.returncode == 0
        found = members(bundle)
        assert json.loads(found["status.json"])["state"] == "ok"
        assert b"rulegen_build_info" in found["metrics.txt"]
        assert f"following {api_server.url}" in found["agent-log.txt"].decode()
        assert b"nodePortAddresses" in found["agent-configuration.json"]
        assert found["diff.txt"] == b"0 added, 0 changed, 0 removed\n"
        assert b"name: web-1" in found["objects.yaml"]
        authority = json.loads(Path(kubeconfig).read_text())["clusters"][0]["cluster"]["certificate-authority-data"]
        for data in (*found.values(), done.stdout.encode(), done.stderr.encode()):
            assert TOKEN.encode() not in data
            assert authority.encode() not in data
        api_server.stop()
        wait_until(lambda: asking.status()["state"] == "degraded", 15.0)
        assert any(one["problem"] for one in asking.status()["following"])
        assert "not following" in asking.command()[1]
        agent.process.kill()
