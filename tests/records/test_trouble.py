"""What others do to a server, and what a server does: nothing is lost, each trouble is a line, and all is mended."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rulegen.cli import main
from tests.agent.running import RULEGEN, wait_until
from tests.patience import patience
from tests.records.servers import OTHER_SECRET, SECRET, ZONES, Server, serving

pytestmark = pytest.mark.kernel

SVC = "svc.cluster.local"


def web(name: str, *addresses: str, ready: bool = True) -> list[dict[str, Any]]:
    """A headless Service with its endpoints."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": f"{name}-a", "namespace": "shop", "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [{"addresses": [address], "conditions": {"ready": ready}} for address in addresses],
        },
    ]


def written(server: Server, *objects: list[dict[str, Any]]) -> str:
    folder = server.folder / "manifests"
    folder.mkdir(exist_ok=True)
    new = server.folder / "new"
    new.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(chain(*objects))}))
    new.rename(folder / "all.json")
    return str(folder)


@contextmanager
def agent_of(server: Server, source: str) -> Iterator[Path]:
    """Its log."""
    log = server.folder / "agent-log"
    with server.namespace.entered(), log.open("wb") as out:
        agent = subprocess.Popen([RULEGEN, "agent", "-f", source, "--config", str(server.config)], stderr=out)
    try:
        yield log
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(patience(15)) == 0
    finally:
        agent.kill()
        agent.wait()
    assert "Traceback" not in log.read_text()
    assert SECRET not in log.read_text()


def test_the_agent_mends_what_others_do_and_says_an_outage_once(tmp_path: Path) -> None:
    with serving("bind", tmp_path) as server:
        name = f"db.shop.{SVC}"

        def has(*addresses: str) -> bool:
            return server.short(name, "A") == sorted(addresses)

        def ttl() -> str:
            answer = server.run("dig", "@127.0.0.1", "+norec", "+noall", "+answer", name, "A").stdout
            return answer.split()[1] if answer else ""

        def said(words: str) -> int:
            return (server.folder / "agent-log").read_text().count(words)

        with agent_of(server, written(server, web("db", "10.1.0.1"))) as log:
            wait_until(lambda: has("10.1.0.1"), 15.0)
            # Another TTL; the registry gone; all of it gone.
            server.update("zone cluster.local", f"update delete {name} A", f"update add {name} 99 A 10.1.0.1")
            wait_until(lambda: ttl() == "5", 15.0)
            server.update("zone cluster.local", "update delete db.shop._rulegen.cluster.local TXT")
            wait_until(lambda: server.short("db.shop._rulegen.cluster.local", "TXT") != [], 15.0)
            server.stop()
            server.empty()
            server.start()
            wait_until(lambda: has("10.1.0.1"), 15.0)
            wait_until(lambda: server.short("1.0.1.10.in-addr.arpa", "PTR") != [], 15.0)
            # Away, for several attempts: one line, and one when it is back; the change is not lost.
            wait_until(lambda: said("synced again") > 0 or not said("sync failed"), 15.0)
            before = (said("sync failed"), said("synced again"))
            server.stop()
            written(server, web("db", "10.1.0.2"))
            wait_until(lambda: said("sync failed") > before[0], 15.0)
            # The next attempts are 0.1 s to 1 s apart.
            time.sleep(2.0)
            server.start()
            wait_until(lambda: has("10.1.0.2"), 15.0)
            wait_until(lambda: said("synced again") == before[1] + 1, 15.0)
            assert said("sync failed") == before[0] + 1
            # The server has another key: said once; the agent's file is changed later.
            server.stop()
            server.set_key(OTHER_SECRET)
            server.start()
            written(server, web("db", "10.1.0.3"))
            wait_until(lambda: said("sync failed") > before[0] + 1, 15.0)
            (server.folder / "key").write_text(server.key)
            wait_until(lambda: has("10.1.0.3"), 35.0)
            assert OTHER_SECRET not in log.read_text()


def test_what_others_write_into_the_registry_means_nothing(tmp_path: Path) -> None:
    with serving("bind", tmp_path) as server:
        source = written(server, web("db", "10.1.0.1"))
        assert server.rulegen("apply", "-f", source).returncode == 0
        for text in ('"a.svc FOO"', '"a..b.svc A"', f'"{"a" * 70}.svc A"', '"a.svc TYPE99999"', '"a.svc OPT TSIG"'):
            for holder in ("nobody.shop", "db.shop"):
                server.update("zone cluster.local", f"update add {holder}._rulegen.cluster.local. 5 TXT {text}")
        done = server.rulegen("apply", "-f", source)
        assert (done.returncode, done.stderr) == (0, "")
        # Beside our own words, too.
        done = server.rulegen("apply", "-f", written(server, web("db", "10.1.0.2", "10.1.0.3")))
        assert (done.returncode, done.stderr) == (0, "")
        assert server.short(f"db.shop.{SVC}", "A") == ["10.1.0.2", "10.1.0.3"]
        # What is not understood is somebody else's.
        assert len(server.short("nobody.shop._rulegen.cluster.local", "TXT")) == 5


def test_a_zone_that_is_not_there_keeps_the_others_from_nothing(tmp_path: Path) -> None:
    with serving("bind", tmp_path) as server:
        server.stop()
        server.served = ZONES[:1]
        server.start()
        source = written(server, web("db", "10.1.0.1"))
        assert server.rulegen("apply", "-f", source).returncode == 2
        assert server.short(f"db.shop.{SVC}", "A") == []
        with agent_of(server, source) as log:
            wait_until(lambda: server.short(f"db.shop.{SVC}", "A") == ["10.1.0.1"], 15.0)
            written(server, web("db", "10.1.0.2"))
            wait_until(lambda: server.short(f"db.shop.{SVC}", "A") == ["10.1.0.2"], 15.0)
            assert [log.read_text().count(f"zone {zone} on") for zone in ZONES] == [0, 1, 1]
            assert "sync failed" not in log.read_text()
            server.stop()
            server.served = ZONES
            server.start()
            wait_until(lambda: server.short("2.0.1.10.in-addr.arpa", "PTR") != [], 15.0)
            # One that goes away later.
            server.stop()
            server.served = ZONES[:2]
            server.start()
            written(server, web("db", "10.1.0.3"))
            wait_until(lambda: server.short("3.0.1.10.in-addr.arpa", "PTR") != [], 15.0)
            assert server.short(f"db.shop.{SVC}", "A") == ["10.1.0.3"]


def test_what_the_server_refuses_keeps_nothing_else_out(tmp_path: Path) -> None:
    """BIND takes 100 records of a name and type, unless it is told otherwise."""
    with serving("bind", tmp_path) as server:
        many = [f"10.2.{number // 200}.{number % 200 + 1}" for number in range(150)]
        source = written(server, web("a", "10.1.0.1"), web("many", *many), web("z", "10.1.0.2"))
        done = server.rulegen("apply", "-f", source)
        assert done.returncode == 2
        refused = "rulegen: zone cluster.local on 127.0.0.1:53: the update was refused: SERVFAIL"
        assert done.stderr.splitlines()[-1].startswith(refused)
        assert f"many.shop.{SVC}. " in done.stderr
        assert [server.short(f"{name}.shop.{SVC}", "A") for name in ("a", "z")] == [["10.1.0.1"], ["10.1.0.2"]]
        with agent_of(server, source) as log:
            wait_until(lambda: "not in force: Service shop/many: zone cluster.local" in log.read_text(), 15.0)
            # It stays as it was: as if it were not there.
            wait_until(lambda: server.short(f"10-2-0-1.many.shop.{SVC}", "A") == [], 15.0)
            soa = server.short("cluster.local", "SOA")
            written(server, web("a", "10.1.0.9"), web("many", *many), web("z", "10.1.0.2"))
            wait_until(lambda: server.short(f"a.shop.{SVC}", "A") == ["10.1.0.9"], 15.0)
            assert int(server.short("cluster.local", "SOA")[0].split()[2]) - int(soa[0].split()[2]) <= 2
            # Fewer are taken, with all that belongs to them.
            written(server, web("a", "10.1.0.9"), web("many", *many[:90]), web("z", "10.1.0.2"))
            wait_until(lambda: len(server.short(f"many.shop.{SVC}", "A")) == 90, 15.0)
            assert server.short(f"10-2-0-1.many.shop.{SVC}", "A") == ["10.2.0.1"]


def test_who_names_an_address_of_others_again_and_again_keeps_nobody_from_anything(tmp_path: Path) -> None:
    """As BIND is by itself, it takes no more names of an address than there are kept here."""
    with serving("bind", tmp_path) as server:
        own = web("own", "10.1.0.1")
        others = [web(f"a{number}", "10.1.0.1") for number in range(150)]
        done = server.rulegen("apply", "-f", written(server, own, *others))
        assert (done.returncode, done.stderr) == (0, "")
        assert len(server.short("1.0.1.10.in-addr.arpa", "PTR")) == 100
        done = server.rulegen("apply", "-f", written(server, web("own", "10.1.0.1", "10.1.0.2"), *others[2:]))
        assert (done.returncode, done.stderr) == (0, "")
        assert server.short(f"own.shop.{SVC}", "A") == ["10.1.0.1", "10.1.0.2"]
        assert len(server.short("1.0.1.10.in-addr.arpa", "PTR")) == 100


@pytest.mark.part(2)
@pytest.mark.parametrize("kind", ["bind", "knot"])
def test_a_clock_that_is_wrong_and_a_service_that_is_large(kind: str, tmp_path: Path) -> None:
    with serving(kind, tmp_path) as server:
        if kind == "bind":
            server.stop()
            server.allow_many()
            server.start()
        source = written(server, web("huge", *(f"10.3.{n // 200}.{n % 200 + 1}" for n in range(1200))))
        skewed = "import time; now = time.time; time.time = lambda: now() - 3600; from rulegen.cli import main; main()"
        done = server.run(sys.executable, "-c", skewed, "apply", "-f", source, "--config", str(server.config))
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("rulegen: zone cluster.local on 127.0.0.1:53: ")
        assert "Traceback" not in done.stderr
        done = server.rulegen("apply", "-f", source)
        assert done.returncode == 0, done.stderr
        assert len(server.short(f"huge.shop.{SVC}", "A")) == 1200
        assert server.rulegen("diff", "-f", source).returncode == 0
        # All of it is known to be ours, by a registry in parts, also when most of it goes.
        source = written(server, web("huge", "10.3.0.1"))
        assert server.rulegen("apply", "-f", source).returncode == 0
        assert server.rulegen("cleanup", "--records").returncode == 0
        assert server.rulegen("cleanup", "--records").stdout == "nothing to remove\n"
        for zone in ZONES:
            text = server.run("dig", "@127.0.0.1", "-k", str(server.folder / "key"), "+noall", "+answer", zone, "AXFR")
            assert {line.split()[3] for line in text.stdout.splitlines() if line[0] != ";"} <= {"SOA", "NS", "TSIG"}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "the connection was closed"),
        (b"\0\5hello", "what it answers is not understood: "),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "the connection was closed"),
    ],
    ids=["nothing", "garbage", "http"],
)
def test_a_server_that_is_none_is_a_line(answer: bytes, said: str, tmp_path: Path) -> None:
    with serving("bind", tmp_path) as server:
        server.stop()
        source = written(server, web("db", "10.1.0.1"))
        text = "import socket; s = socket.create_server(('127.0.0.1', 53)); c = s.accept()[0]; c.recv(9999); "
        text += f"c.send({answer!r})"
        with server.namespace.entered():
            fake = subprocess.Popen([sys.executable, "-c", text])
        try:
            wait_until(lambda: "LISTEN" in server.run("ss", "-tln", "sport = 53").stdout, 10.0)
            done = server.rulegen("apply", "-f", source)
        finally:
            fake.kill()
            fake.wait()
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(f"rulegen: zone cluster.local on 127.0.0.1:53: {said}")


def test_commands_about_records(tmp_path: Path) -> None:
    """Those that ask no server, and a plan."""

    def offline(*arguments: str) -> Result:
        return CliRunner().invoke(main, [*arguments, "--config", str(server.config)])

    with serving("knot", tmp_path) as server:
        source = written(server, web("db", "10.1.0.1"), web("none"))
        rendered = offline("render", "-f", source)
        assert rendered.exit_code == 0
        zones = tmp_path / "zones"
        zones.write_text(rendered.stdout)
        assert offline("diff", "-f", source, "--against", str(zones)).exit_code == 0
        source = written(server, web("db", "10.1.0.1", "10.1.0.2"), web("none"))
        compared = offline("diff", "-f", source, "--against", str(zones), "-o", "json")
        assert compared.exit_code == 1
        assert json.loads(compared.stdout)["summary"] == {"added": 2, "changed": 2, "removed": 0}
        # A plan is applied as it was made, and only where it still fits.
        plan = tmp_path / "plan"
        assert server.rulegen("plan", "-f", source, "--out", str(plan)).returncode == 0
        done = server.run(RULEGEN, "apply", str(plan))
        assert done.returncode == 0, done.stderr
        assert server.short(f"db.shop.{SVC}", "A") == ["10.1.0.1", "10.1.0.2"]
        # A record that others have deleted, of a Service that is gone meanwhile, is not ours any more when they put one
        # there.
        server.update("zone cluster.local", f"update delete db.shop.{SVC} A")
        gone = written(server, web("none"))
        done = server.rulegen("apply", "-f", gone)
        assert (done.returncode, f"- db.shop.{SVC}. A (only in the registry)  # shop/db" in done.stdout) == (0, True)
        assert server.short("db.shop._rulegen.cluster.local", "TXT") == []
        server.update("zone cluster.local", f"update add db.shop.{SVC} 60 A 192.0.2.1")
        assert server.rulegen("apply", "-f", gone).stdout == "nothing to change\n"
        source = written(server, web("db", "10.1.0.1", "10.1.0.2"), web("none"))
        asked = {
            "shop/db": ["Service shop/db", "10.1.0.2"],
            f"DB.shop.{SVC}.": [f"db.shop.{SVC}: records", "IN A 10.1.0.1  # shop/db"],
            "1.0.1.10.in-addr.arpa": ["records", f"IN PTR 10-1-0-1.db.shop.{SVC}.  # shop/db"],
            f"none.shop.{SVC}": ["NXDOMAIN", "headless, and none of its 0 endpoints is ready"],
            f"x.shop.{SVC}": ["NXDOMAIN", "there is no Service shop/x"],
            f"shop.{SVC}": ["NODATA"],
        }
        for name, words in asked.items():
            said = offline("explain", name, "-f", source)
            assert said.exit_code == 0, said.output
            assert all(word in said.stdout for word in words), said.output
        for name in ("shop/no", "www.example.com"):
            assert offline("explain", name, "-f", source).exit_code == 2
        assert offline("lint", "-f", source).stdout == "0 findings\n"
        assert offline("lint", "-f", source, "--live").exit_code == 2
        # A scenario of golden is one of a node.
        (tmp_path / "flows.yaml").write_text("node: a\nfeatures: [records]\nflows: []\n")
        (tmp_path / "cluster.yaml").write_text((Path(source) / "all.json").read_text())
        golden = CliRunner().invoke(main, ["golden", "check", str(tmp_path)])
        assert golden.exit_code == 2
        assert "records runs once for a cluster and has no flows" in golden.stderr
