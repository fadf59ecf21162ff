"""Variables of a pod: the kubelet's names, values and choice of Services, as its documentation and code have them."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from rulegen.kube.objects import Service, ServicePort
from rulegen.services.environment import environment
from tests.builders import service

PROGRAM = [sys.executable, "-c", "from rulegen.cli import main; main()", "env"]


def _service(name: str, namespace: str, address: str, *ports: ServicePort, kind: str = "ClusterIP") -> Service:
    made = service(name, [address], namespace=namespace)
    spec = msgspec.structs.replace(made.spec, type=kind, cluster_ip=address, ports=list(ports) or None)
    return msgspec.structs.replace(made, spec=spec)


API = _service("kubernetes", "default", "10.0.0.1", ServicePort(port=443, name="https"))
REDIS = _service("redis-primary", "shop", "10.0.0.11", ServicePort(port=6379))
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
DOCUMENTED = """\
REDIS_PRIMARY_SERVICE_HOST=10.0.0.11
REDIS_PRIMARY_SERVICE_PORT=6379
REDIS_PRIMARY_PORT=tcp://10.0.0.11:6379
REDIS_PRIMARY_PORT_6379_TCP=tcp://10.0.0.11:6379
REDIS_PRIMARY_PORT_6379_TCP_PROTO=tcp
REDIS_PRIMARY_PORT_6379_TCP_PORT=6379
REDIS_PRIMARY_PORT_6379_TCP_ADDR=10.0.0.11
"""


def _of(namespace: str, *services: Service, links: bool = True) -> dict[str, str]:
    return {one.name: one.value for one in environment(services, namespace, links=links).variables}


def _lines(variables: dict[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in variables.items())


def test_the_documented_example() -> None:
    assert _lines(_of("shop", REDIS)) == DOCUMENTED


def test_named_ports_of_several_protocols_and_an_ipv6_address() -> None:
    ports = ServicePort(port=53, name="dns", protocol="UDP"), ServicePort(port=80, name="web-ui")
    assert _lines(_of("shop", _service("web", "shop", "2001:db8::1", *ports))) == (
        "WEB_SERVICE_HOST=2001:db8::1\n"
        "WEB_SERVICE_PORT=53\n"
        "WEB_SERVICE_PORT_DNS=53\n"
        "WEB_SERVICE_PORT_WEB_UI=80\n"
        "WEB_PORT=udp://[2001:db8::1]:53\n"
        "WEB_PORT_53_UDP=udp://[2001:db8::1]:53\n"
        "WEB_PORT_53_UDP_PROTO=udp\n"
        "WEB_PORT_53_UDP_PORT=53\n"
        "WEB_PORT_53_UDP_ADDR=2001:db8::1\n"
        "WEB_PORT_80_TCP=tcp://[2001:db8::1]:80\n"
        "WEB_PORT_80_TCP_PROTO=tcp\n"
        "WEB_PORT_80_TCP_PORT=80\n"
        "WEB_PORT_80_TCP_ADDR=2001:db8::1\n"
    )


def test_the_api_server_is_told_everywhere_and_others_in_their_namespace() -> None:
    other = _service("web", "other", "10.0.0.12", ServicePort(port=80))
    assert set(_of("shop", API, REDIS, other)) == set(_of("shop", REDIS)) | set(_of("default", API))
    assert _of("nothing", API, REDIS) == _of("default", API)


def test_an_own_service_of_that_name_comes_first_wherever_it_stands() -> None:
    own = _service("kubernetes", "shop", "10.0.0.99", ServicePort(port=443, name="https"))
    for services in ((API, own), (own, API)):
        assert _of("shop", *services)["KUBERNETES_SERVICE_HOST"] == "10.0.0.99"
    # One without an address does not count.
    headless = _service("kubernetes", "shop", "None", ServicePort(port=443))
    assert _of("shop", headless, API)["KUBERNETES_SERVICE_HOST"] == "10.0.0.1"


def test_without_links_only_the_api_server_remains() -> None:
    in_default = _service("web", "default", "10.0.0.13", ServicePort(port=80))
    for namespace in ("shop", "default"):
        assert _of(namespace, API, REDIS, in_default, links=False) == _of("default", API)


@pytest.mark.parametrize(
    ("address", "kind", "notes"),
    [
        ("None", "ClusterIP", []),
        ("", "ExternalName", []),
        ("10.0.0.9", "ExternalName", []),
        ("", "ClusterIP", ["shop/odd: has no clusterIP yet, so no variables"]),
        (
            "10.0.0.9\nLD_PRELOAD=/tmp/x",
            "ClusterIP",
            ['shop/odd: clusterIP: expected an IP address, found "10.0.0.9\\nLD_PRELOAD=/tmp/x"; it gets no variables'],
        ),
        (
            "fe80::1%$(id)",
            "ClusterIP",
            ['shop/odd: clusterIP: expected an IP address, found "fe80::1%$(id)"; it gets no variables'],
        ),
    ],
)
def test_services_without_a_usable_address_have_none(address: str, kind: str, notes: list[str]) -> None:
    found = environment([REDIS, _service("odd", "shop", address, ServicePort(port=80), kind=kind)], "shop")
    assert {one.service for one in found.variables} == {"shop/redis-primary"} | (
        {"shop/odd"} if address == "10.0.0.9" else set()
    )
    assert found.notes == notes


def test_a_variable_of_two_services_is_told() -> None:
    one = _service("web", "shop", "10.0.0.1", ServicePort(port=80))
    two = _service("web-service", "shop", "10.0.0.2", ServicePort(port=81))
    found = environment([two, one], "shop")
    assert found.notes == ["WEB_SERVICE_PORT: set by shop/web and shop/web-service; a pod may get the value of either"]
    assert _of("shop", two, one)["WEB_SERVICE_PORT"] == "tcp://10.0.0.2:81"


def test_the_order_of_services_does_not_show() -> None:
    services = [API, REDIS, *(_service(f"s-{n}", "shop", f"10.0.1.{n}", ServicePort(port=n)) for n in range(1, 9))]
    wanted = environment(services, "shop")
    random.Random(1).shuffle(services)
    assert environment(services, "shop") == wanted


def test_what_the_command_prints_is_what_a_process_gets(tmp_path: Path) -> None:
    objects = [
        {"apiVersion": "v1", "kind": "Service", **msgspec.to_builtins(one)}
        for one in (API, REDIS, _service("1st", "shop", "10.0.0.14", ServicePort(port=80)))
    ]
    manifest = tmp_path / "all.json"
    manifest.write_bytes(msgspec.json.encode({"apiVersion": "v1", "kind": "List", "items": objects}))
    wanted = _of("shop", API, REDIS)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*PROGRAM, *arguments, "-f", str(manifest)], capture_output=True, text=True, check=True)

    shell = run("shop", "-o", "shell")
    assert "1ST_SERVICE_HOST: no shell can name it" in shell.stderr
    seen = subprocess.run(
        ["env", "-i", "/bin/sh", "-ec", f"{shell.stdout}\n/usr/bin/env"], check=True, capture_output=True, text=True
    )
    assert {line for line in seen.stdout.splitlines() if not line.startswith("PWD=")} == set(
        _lines(wanted).splitlines()
    )
    everything = run("shop").stdout
    assert "1ST_SERVICE_HOST=10.0.0.14" in everything
    printed = run("shop", "-o", "json").stdout
    assert _lines(msgspec.json.decode(printed)["variables"]) == everything
    assert "there is no Service in namespace nothing; there is " in run("nothing").stderr
