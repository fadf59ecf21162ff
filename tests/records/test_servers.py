"""Names of Services in real servers: what the DNS specification 1.1.0 wants, asked for by dig."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.running import RULEGEN, wait_until
from tests.patience import patience
from tests.records.servers import SECRET, Server, serving

pytestmark = pytest.mark.kernel

CLUSTER = """\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd00:96::10"]
  ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}, {port: 9}]
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: None, ports: [{name: pg, port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-4, namespace: shop, labels: {kubernetes.io/service-name: db, service.kubernetes.io/headless: ""}}
addressType: IPv4
ports: [{name: pg, port: 5432}]
endpoints:
- {addresses: [10.244.1.5], hostname: db-0}
- {addresses: [10.244.1.6]}
- {addresses: [10.244.1.7], conditions: {ready: false}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-6, namespace: shop, labels: {kubernetes.io/service-name: db, service.kubernetes.io/headless: ""}}
addressType: IPv6
ports: [{name: pg, port: 5432}]
endpoints:
- {addresses: ["fd00:244::5"], hostname: db-0}
---
apiVersion: v1
kind: Service
metadata: {name: early, namespace: shop}
spec: {clusterIP: None, publishNotReadyAddresses: true}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: early-4, namespace: shop, labels: {kubernetes.io/service-name: early}}
addressType: IPv4
endpoints:
- {addresses: [10.244.1.8], hostname: e-0, conditions: {ready: false}}
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: shop}
spec: {clusterIP: None, ports: [{name: x, port: 1}]}
---
apiVersion: v1
kind: Service
metadata: {name: ext, namespace: shop}
spec: {type: ExternalName, externalName: www.example.com}
---
apiVersion: v1
kind: Service
metadata: {name: bad, namespace: shop}
spec: {type: ExternalName, externalName: "x\\n. 5 IN A 192.0.2.1"}
"""
SVC = "svc.cluster.local."
# Section of the specification, name, type, answers.
TABLE = [
    ("2.2", "dns-version.cluster.local.", "TXT", ['"1.1.0"']),
    ("2.3.1", f"web.shop.{SVC}", "A", ["10.96.0.10"]),
    ("2.3.1", f"WEB.shop.{SVC}", "AAAA", ["fd00:96::10"]),
    ("2.3.2", f"_http._tcp.web.shop.{SVC}", "SRV", [f"0 100 80 web.shop.{SVC}"]),
    ("2.3.2", f"_dns._udp.web.shop.{SVC}", "SRV", [f"0 100 53 web.shop.{SVC}"]),
    ("2.3.3", "10.0.96.10.in-addr.arpa.", "PTR", [f"web.shop.{SVC}"]),
    ("2.3.3", f"0.1.{'0.' * 22}6.9.0.0.0.0.d.f.ip6.arpa.", "PTR", [f"web.shop.{SVC}"]),
    ("2.4.1", f"db.shop.{SVC}", "A", ["10.244.1.5", "10.244.1.6"]),
    ("2.4.1", f"db.shop.{SVC}", "AAAA", ["fd00:244::5"]),
    ("2.4.1", f"db-0.db.shop.{SVC}", "A", ["10.244.1.5"]),
    ("2.4.1", f"db-0.db.shop.{SVC}", "AAAA", ["fd00:244::5"]),
    ("2.4.1", f"10-244-1-6.db.shop.{SVC}", "A", ["10.244.1.6"]),
    ("2.4.1", f"early.shop.{SVC}", "A", ["10.244.1.8"]),
    (
        "2.4.2",
        f"_pg._tcp.db.shop.{SVC}",
        "SRV",
        [f"0 100 5432 10-244-1-6.db.shop.{SVC}", f"0 100 5432 db-0.db.shop.{SVC}"],
    ),
    ("2.4.3", "5.1.244.10.in-addr.arpa.", "PTR", [f"db-0.db.shop.{SVC}"]),
    ("2.5", f"ext.shop.{SVC}", "CNAME", ["www.example.com."]),
]
NODATA = [(f"web.shop.{SVC}", "TXT"), (f"early.shop.{SVC}", "AAAA"), (f"shop.{SVC}", "A")]
NXDOMAIN = [
    f"empty.shop.{SVC}",
    f"bad.shop.{SVC}",
    f"none.shop.{SVC}",
    f"10-244-1-7.db.shop.{SVC}",
    f"_x._tcp.empty.shop.{SVC}",
    "7.1.244.10.in-addr.arpa.",
]


@pytest.fixture(params=["bind", "knot"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with serving(request.param, tmp_path) as made:
        yield made


def _written(server: Server, text: str = CLUSTER) -> str:
    folder = server.folder / "manifests"
    folder.mkdir(exist_ok=True)
    new = server.folder / "new"
    new.write_text(text)
    new.rename(folder / "all.yaml")
    return str(folder)


def test_the_specification(server: Server) -> None:
    source = _written(server)
    server.update("zone cluster.local", "update add printer.cluster.local 60 A 192.0.2.1")
    server.update(
        "zone cluster.local", f"update add web.shop.{SVC} 60 TXT theirs", f"update add none.shop.{SVC} 60 TXT x"
    )
    assert server.rulegen("diff", "-f", source).returncode == 1
    done = server.rulegen("apply", "-f", source)
    assert done.returncode == 0, done
    assert "externalName: expected a DNS name in lower case" in done.stderr
    assert {(name, kind): server.short(name, kind) for _, name, kind, _ in TABLE} == {
        (name, kind): answers for _, name, kind, answers in TABLE
    }
    server.update("zone cluster.local", f"update delete none.shop.{SVC}")
    for name, kind in [*NODATA[1:], (f"web.shop.{SVC}", "MX")]:
        assert "status: NOERROR" in (said := server.dig(name, kind)), said
        assert "ANSWER: 0" in said
    for name in NXDOMAIN:
        assert "status: NXDOMAIN" in server.dig(name, "ANY"), name
    # A restart sends nothing; others' records are as they were.
    soa = server.short("cluster.local", "SOA")
    assert server.rulegen("apply", "-f", source).stdout == "nothing to change\n"
    assert server.rulegen("diff", "-f", source).returncode == 0
    assert server.short("cluster.local", "SOA") == soa
    rest = CLUSTER.split("---\n")[1]
    assert server.rulegen("apply", "-f", _written(server, rest)).returncode == 0
    assert "status: NXDOMAIN" in server.dig(f"ext.shop.{SVC}", "ANY")
    assert server.short("printer.cluster.local", "A") == ["192.0.2.1"]
    assert server.short(f"web.shop.{SVC}", "TXT") == ['"theirs"']
    assert server.short(f"web.shop.{SVC}", "A") == []


def test_what_somebody_else_has_is_left_alone_until_it_goes(server: Server) -> None:
    source = _written(server)
    server.update(
        "zone cluster.local", f"update add web.shop.{SVC} 60 A 192.0.2.9", f"update add ext.shop.{SVC} 60 A 192.0.2.8"
    )
    done = server.rulegen("apply", "-f", source)
    assert done.returncode == 0
    assert f"web.shop.{SVC} A: somebody else's record is there, and is left alone" in done.stderr
    assert server.short(f"web.shop.{SVC}", "A") == ["192.0.2.9"]
    assert server.short(f"web.shop.{SVC}", "AAAA") == ["fd00:96::10"]
    assert server.short(f"ext.shop.{SVC}", "A") == ["192.0.2.8"]
    server.update("zone cluster.local", f"update delete web.shop.{SVC} A", f"update delete ext.shop.{SVC} A")
    assert server.rulegen("apply", "-f", source).returncode == 0
    assert server.short(f"web.shop.{SVC}", "A") == ["10.96.0.10"]
    # An ExternalName that becomes another Service, and back: a CNAME and an address never meet.
    other = CLUSTER.replace("{type: ExternalName, externalName: www.example.com}", "{clusterIP: 10.96.0.20}")
    for text, answer in ((other, ["10.96.0.20"]), (CLUSTER, ["www.example.com."])):
        assert server.rulegen("apply", "-f", _written(server, text)).returncode == 0
        assert server.short(f"ext.shop.{SVC}", "A") == answer


def test_the_agent_follows_repairs_and_survives_a_server_that_is_away(server: Server) -> None:
    source = _written(server)
    log = server.folder / "agent-log"
    with server.namespace.entered(), log.open("wb") as out:
        agent = subprocess.Popen([RULEGEN, "agent", "-f", source, "--config", str(server.config)], stderr=out)
    try:
        name = f"db.shop.{SVC}"
        wait_until(lambda: server.short(name, "A") == ["10.244.1.5", "10.244.1.6"], 10.0)
        _written(server, CLUSTER.replace("10.244.1.6", "10.244.1.9"))
        wait_until(lambda: server.short(name, "A") == ["10.244.1.5", "10.244.1.9"], 10.0)
        server.update("zone cluster.local", f"update delete {name} A", f"update add db-0.{name} 60 A 192.0.2.1")
        wait_until(lambda: server.short(name, "A") == ["10.244.1.5", "10.244.1.9"], 10.0)
        wait_until(lambda: server.short(f"db-0.{name}", "A") == ["10.244.1.5"], 10.0)
        server.stop()
        _written(server, CLUSTER.replace("10.244.1.6", "10.244.1.10"))
        wait_until(lambda: "sync failed" in log.read_text(), 10.0)
        server.start()
        wait_until(lambda: server.short(name, "A") == ["10.244.1.10", "10.244.1.5"], 10.0)
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(patience(15)) == 0
    finally:
        agent.kill()
        agent.wait()
    assert "Traceback" not in log.read_text()
    assert SECRET not in log.read_text()


def test_what_is_missing_is_said_in_a_line(server: Server) -> None:
    source = _written(server)
    text = server.config.read_text()
    server.config.write_text(text.replace("server: 127.0.0.1,", "server: '127.0.0.1:54',"))
    done = server.rulegen("apply", "-f", source)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        "rulegen: zone cluster.local on 127.0.0.1:54: Connection refused",
    )
    server.config.write_text(text.replace("{server", "{zone: other.example, server"))
    assert server.rulegen("diff", "-f", source).returncode == 2
    server.config.write_text(text)
    (server.folder / "key").write_text('key "rulegen" { algorithm hmac-sha256; secret "b3RoZXI="; };')
    done = server.rulegen("apply", "-f", source)
    assert done.returncode == 2
    assert "b3RoZXI" not in done.stderr
    assert len(done.stderr.splitlines()) == 2, done.stderr
