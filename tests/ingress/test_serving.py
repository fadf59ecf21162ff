"""TLS by server name, HTTP/2, websockets, reloads under traffic, and what is left when nginx refuses."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from rulegen.config import SocketAddress
from rulegen.nginx.process import serving
from tests.agent.running import RULEGEN, wait_until
from tests.ingress.lab import NODE, Lab, client_context, lab_in
from tests.ingress.objects import AUTHORITY, Document, chain_of, encrypted, ingress, path, raw_secret, rule, secret
from tests.patience import patience
from tests.selection import Extent

pytestmark = pytest.mark.kernel

_SHOP = "shop.example.org"


def _tls() -> list[Document]:
    return [
        secret("shop-tls", _SHOP),
        secret("wild-tls", "*.example.org"),
        ingress("shop", rule(_SHOP, path("/", "s1")), tls=[([_SHOP], "shop-tls")], created="2020-01-01T00:00:00Z"),
        ingress("wild", rule("*.example.org", path("/", "s2")), tls=[(["*.example.org"], "wild-tls")]),
        # All that it names, by the same certificate.
        ingress(
            "both",
            rule("a.example.org", path("/", "s3")),
            rule("b.example.org", path("/", "s4")),
            tls=[([], "wild-tls")],
        ),
        ingress("plain", rule("plain.example.com", path("/", "s5"))),
        # Somebody else's host keeps the certificate of the older one.
        ingress("late", rule(_SHOP, path("/late", "s6")), tls=[([_SHOP], "wild-tls")], created="2021-01-01T00:00:00Z"),
    ]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    # As Debian's nginx: its workers are not root. pytest's own folders are closed to them.
    with TemporaryDirectory(prefix="rulegen-ingress-") as name, lab_in(Path(name), "www-data") as made:
        Path(name).chmod(0o711)
        made.apply_services()
        made.start_nginx()
        yield made


@pytest.fixture
def served(lab: Lab) -> Lab:
    lab.apply(*_tls())
    return lab


def _names(lab: Lab, host: str) -> list[str]:
    """Of the certificate that a client gets which asks for the host."""
    with lab.connect(443) as plain, client_context().wrap_socket(plain, server_hostname=host) as connection:
        found: Any = connection.getpeercert()
    return [value for kind, value in found["subjectAltName"] if kind == "DNS"]


def test_certificates_by_server_name(served: Lab) -> None:
    assert _names(served, _SHOP) == [_SHOP]
    assert _names(served, "other.example.org") == ["*.example.org"]
    answers = [served.get(host, tls=host) for host in (_SHOP, "other.example.org", "a.example.org", "b.example.org")]
    assert [answer.service for answer in answers] == ["s1", "s2", "s3", "s4"]
    assert answers[0].seen["headers"]["x-forwarded-proto"] == "https"
    assert served.get(_SHOP, "/late", tls=_SHOP).service == "s6"
    assert served.who(_SHOP, "/") == "s1"
    # A name that nobody has a certificate for gets none.
    for name in ("plain.example.com", "nobody.test"):
        with pytest.raises(ssl.SSLError, match="unrecognized name"):
            served.get(name, tls=name)
    # A connection is for the host that it was made for.
    assert served.get("plain.example.com", tls=_SHOP).status == 421


def test_hosts_with_tls_beside_hosts_without(lab: Lab) -> None:
    plain = [
        ingress("one", rule("one.mix.test", path("/", "s2"))),
        ingress("deep", rule("*.deep.mix.test", path("/", "s3"))),
        ingress("any", default="s5"),
        # Words of nginx's own.
        *(
            ingress(word, rule(word, path("/", "s6")), rule(f"*.{word}", path("/", "s7")))
            for word in ("default", "hostnames", "include", "volatile")
        ),
    ]
    wild = ingress("wild", rule("*.mix.test", path("/", "s1")), tls=[([], "mix-tls")])
    words = ingress(
        "words", rule("include", path("/", "s8")), tls=[([], "include-tls")], created="2020-01-01T00:00:00Z"
    )
    lab.apply(secret("mix-tls", "*.mix.test"), secret("include-tls", "include"), wild, words, *plain)
    hosts = ("one.mix.test", "two.mix.test", "a.deep.mix.test", "b.a.deep.mix.test", "a.two.mix.test", "mix.test")
    assert [lab.who(host, "/") for host in hosts] == ["s2", "s1", "s3", "s5", "s5", "s5"]
    # By TLS there is nobody but who has it.
    assert [lab.get(host, tls="two.mix.test").service for host in hosts[:3]] == ["s1", "s1", "s5"]
    assert lab.get("one.mix.test", tls="one.mix.test").service == "s1"
    assert lab.get("mix.test", tls="two.mix.test").status == 421
    words_asked = ("default", "hostnames", "volatile", "x.default", "x.hostnames", "x.include", "x.volatile", "unknown")
    assert [lab.who(host, "/") for host in words_asked] == ["s6"] * 3 + ["s7"] * 4 + ["s5"]
    assert lab.get("include", tls="include").service == "s8"


def test_a_certificate_for_all_others(lab: Lab) -> None:
    default = ingress("default", default="s5", tls=[([], "default-tls")])
    tls = ingress("own", rule("own.test", path("/", "s2")), tls=[([], "own-tls")])
    plain = ingress("plain", rule("plain.test", path("/", "s1")))
    names = ("unknown.test", "plain.test")
    lab.apply(secret("default-tls", *names), secret("own-tls", "own.test"), default, tls, plain)
    assert [lab.get(name, tls=name).service for name in (*names, "own.test")] == ["s5", "s5", "s2"]
    assert [lab.who(name, "/") for name in (*names, "own.test")] == ["s5", "s1", "s2"]


def test_http2_and_http1(served: Lab) -> None:
    authority = served.folder / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(authority)
    words = ["--silent", "--cacert", str(authority), "--resolve", f"{_SHOP}:443:{NODE}", "--max-time", "30"]
    for option, version in (("--http2", "2"), ("--http1.1", "1.1")):
        with served.namespace.entered():
            done = subprocess.run(
                ["curl", *words, option, "--write-out", "\n%{http_version}", f"https://{_SHOP}/x"],
                capture_output=True,
                text=True,
                check=False,
            )
        body, _, used = done.stdout.rpartition("\n")
        assert (json.loads(body)["service"], used) == ("s1", version)


def test_websockets_stay_through_a_reload(served: Lab) -> None:
    with served.connect() as connection:
        connection.settimeout(patience(10))
        connection.sendall(
            f"GET /chat HTTP/1.1\r\nHost: {_SHOP}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
        for word in (b"before", b"after"):
            connection.sendall(word)
            assert connection.recv(100) == word
            served.apply(*_tls(), ingress("more", rule("more.test", path("/", "s1"))))


def test_keys_are_for_root_and_said_nowhere(served: Lab) -> None:
    files = sorted(served.certificates.iterdir())
    assert len(files) == 2
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert served.certificates.stat().st_mode & 0o777 == 0o700
    # nginx's workers read them, and nobody else.
    assert {one.stat().st_uid for one in (served.certificates, *files)} == {pwd.getpwnam("www-data").pw_uid}
    keys = [line for file in files for line in file.read_text().splitlines() if len(line) > 20 and "-----" not in line]
    certificates = secret("shop-tls", _SHOP)
    changed = [certificates, *_tls()[1:]]
    for words in (("render",), ("diff",), ("diff", "-o", "json"), ("apply", "--dry-run"), ("apply", "-o", "json")):
        done = served.ingress(words[0], *changed, more=words[1:])
        assert done.returncode in {0, 1}, done.stderr
        said = done.stdout + done.stderr
        assert not [line for line in keys if line in said]
        assert "PRIVATE KEY" not in said
    # The old ones went with it, and the new ones are in force.
    assert len(list(served.certificates.iterdir())) == 2
    assert files != sorted(served.certificates.iterdir())
    # Not what was written, or readable for others: it is written anew.
    file = min(served.certificates.iterdir())
    file.chmod(0o644)
    assert "nginx certificate" in served.ingress("diff", *changed).stdout
    served.apply(*changed)
    assert file.stat().st_mode & 0o777 == 0o600
    os.chown(file, 0, 0)
    assert "nginx certificate" in served.ingress("diff", *changed).stdout
    served.apply(*changed)
    assert file.stat().st_uid == pwd.getpwnam("www-data").pw_uid


def test_certificates_that_nginx_could_not_reach(lab: Lab, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    lab.configure(certificates=str(closed / "certificates"))
    try:
        done = lab.ingress("apply", *_tls())
    finally:
        lab.configure()
    # pytest's own folders are closed, too.
    assert done.returncode == 2
    assert "www-data, as whom nginx reads certificates, may not enter it" in done.stderr
    assert not list((closed / "certificates").iterdir())


def test_a_bad_secret_takes_nobody_down(lab: Lab) -> None:
    good, other = secret("good-tls", _SHOP), secret("other-tls", "other.test")
    mixed = {**good["data"], "tls.key": other["data"]["tls.key"]}
    bad = [
        {**good, "metadata": {"name": "mixed", "namespace": "shop"}, "data": mixed},
        raw_secret("empty", b"", b""),
        raw_secret("rubbish", b"-----BEGIN CERTIFICATE-----\nssl_certificate /x;\n}", b"key"),
        {**good, "metadata": {"name": "wrong", "namespace": "shop"}, "data": {"tls.crt": "*", "tls.key": 7}},
        raw_secret("locked", *encrypted("locked.test")),
        raw_secret("chain", *chain_of("chain.test", 11)),
    ]
    names = [one["metadata"]["name"] for one in bad]
    ingresses = [
        ingress(name, rule(f"{name}.test", path("/", "s2")), tls=[([f"{name}.test"], name)])
        for name in (*names, "none")
    ]
    shop = ingress("shop", rule(_SHOP, path("/", "s1")), tls=[([_SHOP], "good-tls")])
    done = lab.ingress("apply", good, *bad, shop, *ingresses)
    assert not done.returncode, done.stderr
    for name in names:
        assert f"Ingress shop/{name}: spec.tls[0]: Secret shop/{name} " in done.stderr
    assert "Ingress shop/none: spec.tls[0]: there is no Secret shop/none of type kubernetes.io/tls" in done.stderr
    assert lab.get(_SHOP, tls=_SHOP).service == "s1"
    assert [lab.who(f"{name}.test", "/") for name in names] == ["s2"] * 6


def test_a_bad_ingress_is_left_out_and_the_others_stand(lab: Lab) -> None:
    bad: dict[str, Document] = {
        "host": rule("a_b.test", path("/", "s2")),
        "host-line": rule("x.test;\n}", path("/", "s2")),
        "upper": rule("X.test", path("/", "s2")),
        "star": rule("a.*.test", path("/", "s2")),
        "address": rule("192.0.2.1", path("/", "s2")),
        "relative": rule("x.test", path("foo", "s2")),
        "line": rule("x.test", path("/a\n}", "s2")),
        "coded-line": rule("x.test", path("/a%0a}", "s2")),
        "null": rule("x.test", path("/a%00", "s2")),
        "percent": rule("x.test", path("/a%zz", "s2")),
        "slash": rule("x.test", path("/a%2fb", "s2")),
        "twice": rule("x.test", path("/a//b", "s2")),
        "dots": rule("x.test", path("/a/../b", "s2")),
        "coded-dots": rule("x.test", path("/%2e%2e/b", "s2")),
        "query": rule("x.test", path("/a?b", "s2")),
        "latin": rule("x.test", path("/%e9", "s2")),
        "long": rule("x.test", path("/" + "x" * 260, "s2")),
        "kind": rule("x.test", path("/", "s2", "Regex")),
        "port": rule("x.test", path("/", "s2", port=0)),
        "service": rule("x.test", path("/", "s2;")),
        "no-list": {"host": "x.test", "http": {"paths": "/"}},
    }
    ingresses = [ingress(f"bad-{name}", made) for name, made in bad.items()]
    done = lab.ingress("apply", *ingresses, ingress("good", rule("good.test", path("/", "s1"))))
    assert not done.returncode, done.stderr
    left_out = {line.split()[3].rstrip(":") for line in done.stderr.splitlines() if "left out: " in line}
    assert left_out == {f"shop/bad-{name}" for name in bad}
    assert (lab.who("good.test", "/"), lab.who("x.test", "/")) == ("s1", "404")


def test_diff_apply_and_nothing_to_do(lab: Lab) -> None:
    one = ingress("one", rule("one.test", path("/", "s1")))
    lab.apply(one)
    before = (lab.file.read_bytes(), lab.file.stat().st_ino)
    assert lab.ingress("diff", one).stdout == "0 added, 0 changed, 0 removed\n"
    assert lab.apply(one) == "nothing to change\n"
    assert (lab.file.read_bytes(), lab.file.stat().st_ino) == before
    rendered = lab.ingress("render", one).stdout
    assert rendered.encode() == before[0]
    other = ingress("one", rule("one.test", path("/", "s2")))
    done = lab.ingress("diff", other)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "~ nginx server one.test  # shop/one",
        "    - # shop/one -> shop/s1:80",
        '    - set $rulegen_upstream "10.96.0.10:80";',
        "    + # shop/one -> shop/s2:80",
        '    + set $rulegen_upstream "10.96.0.11:80";',
        "0 added, 1 changed, 0 removed",
    ]
    # Neither a diff nor a dry run has changed anything.
    assert "checked" in lab.ingress("apply", other, more=("--dry-run",)).stdout
    assert (lab.file.read_bytes(), lab.who("one.test", "/")) == (before[0], "s1")
    against = lab.folder / "rendered.conf"
    against.write_text(rendered)
    assert lab.ingress("diff", one, more=("--against", str(against))).returncode == 0
    # What others write is theirs for a moment.
    lab.file.write_bytes(before[0].replace(b"return 404;", b"return 410;"))
    assert "+ return 404;" in lab.ingress("diff", one).stdout
    lab.apply(one)
    assert lab.file.read_bytes() == before[0]


def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path, lab: Lab) -> None:
    file = tmp_path / "site.conf"
    file.write_text("server { listen 8081; }\n")
    lab.configure(file=str(file))
    try:
        done = lab.ingress("apply", ingress("one", rule("one.test", path("/", "s1"))))
    finally:
        lab.configure()
    assert done.returncode == 2
    assert done.stderr.endswith(f"rulegen: {file}: not written by rulegen, which would replace it: move it away\n")
    assert file.read_text() == "server { listen 8081; }\n"


def test_what_worked_is_put_back(lab: Lab) -> None:
    one = ingress("one", rule("one.test", path("/", "s1")))
    lab.apply(one)
    before = lab.file.read_bytes()
    certificates = sorted(lab.certificates.glob("*"))
    beside = lab.file.with_name("theirs.conf")
    # nginx refuses the whole for what somebody else has written.
    beside.write_text("no_such_directive;\n")
    more = [secret("new-tls", "two.test"), ingress("two", rule("two.test", path("/", "s2")), tls=[([], "new-tls")])]
    done = lab.ingress("apply", one, *more)
    assert done.returncode == 2
    assert 'nginx refuses the configuration: unknown directive "no_such_directive"' in done.stderr
    # What is so is said in the same words, by which an agent knows that it has said it.
    assert lab.ingress("apply", one, *more).stderr == done.stderr
    assert (lab.file.read_bytes(), sorted(lab.certificates.glob("*"))) == (before, certificates)
    assert lab.who("one.test", "/") == "s1"
    beside.unlink()
    lab.apply(one, *more)
    assert lab.get("two.test", tls="two.test").service == "s2"


def test_an_nginx_that_hangs_or_is_away(lab: Lab, tmp_path: Path) -> None:
    one = ingress("one", rule("one.test", path("/", "s1")))
    lab.apply(one)
    before = lab.file.read_bytes()
    lab.stop_nginx()
    other = ingress("one", rule("one.test", path("/", "s2")))
    done = lab.ingress("apply", other)
    assert (done.returncode, "is it running?" in done.stderr) == (2, True)
    # It was tried and is in place for the nginx that starts.
    assert lab.file.read_bytes() != before
    lab.start_nginx()
    wait_until(lambda: lab.who("one.test", "/") == "s2", 10.0)
    assert lab.apply(other) == "nothing to change\n"
    # One that was told nothing serves something else than the file says.
    text = lab.file.read_bytes()
    lab.apply(one)
    lab.file.write_bytes(text)
    assert "~ nginx in use" in lab.ingress("diff", other).stdout
    lab.apply(other)
    assert lab.who("one.test", "/") == "s2"


def test_a_reload_takes_no_third_reading(lab: Lab) -> None:
    one = ingress("one", rule("one.test", path("/", "s1")))
    lab.apply(one)
    # `nginx -s reload` looks there after it has read everything; a signal to nginx's master needs none.
    (lab.folder / "nginx.pid").rename(lab.folder / "pid")
    try:
        lab.apply(ingress("one", rule("one.test", path("/", "s2"))))
    finally:
        (lab.folder / "pid").rename(lab.folder / "nginx.pid")
    assert lab.who("one.test", "/") == "s2"


def _reload_under_traffic(lab: Lab, requests: int, reloads: int) -> list[str]:
    """Whatever else than a good answer came."""
    wrong: list[str] = []
    stop = threading.Event()
    versions = [
        [ingress("one", rule("one.test", path("/", "s1"))), *_tls(), ingress("turn", rule(f"turn-{number}.test"))]
        for number in range(2)
    ]

    def ask(number: int) -> None:
        try:
            answer = lab.get("one.test", f"/{number}")
            if answer.service != "s1":
                wrong.append(str(answer))
        except OSError as error:
            wrong.append(repr(error))

    def reload() -> None:
        done = 0
        while done < reloads or not stop.is_set():
            lab.apply(*versions[done % 2])
            done += 1

    lab.apply(*versions[1])
    thread = threading.Thread(target=reload)
    thread.start()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(requests)))
    stop.set()
    thread.join()
    return wrong


def test_no_request_fails_while_nginx_reloads(lab: Lab, extent: Extent) -> None:
    assert _reload_under_traffic(lab, 10_000 if extent.exhaustive else 600, 3) == []


def test_an_agent_follows_and_repairs(lab: Lab) -> None:
    one = ingress("one", rule("one.test", path("/", "s1")))
    source = Path(lab.write(one))
    log = (lab.folder / "agent.log").open("wb")
    words = [RULEGEN, "agent", "-f", str(source), "--config", str(lab.configuration)]
    with log, lab.namespace.entered():
        agent = subprocess.Popen(words, stderr=log)
    try:
        wait_until(lambda: lab.who("one.test", "/") == "s1", 15.0)
        lab.write(ingress("two", rule("one.test", path("/", "s2"))))
        wait_until(lambda: lab.who("one.test", "/") == "s2", 15.0)
        before = lab.file.read_bytes()
        lab.file.write_bytes(before.replace(b"return 404;", b"return 410;"))
        wait_until(lambda: lab.file.read_bytes() == before, 15.0)
        assert agent.poll() is None
    finally:
        agent.terminate()
        agent.wait(patience(15))
    assert lab.who("one.test", "/") == "s2"


def test_a_clean_up_leaves_nothing_of_ours_and_all_else(lab: Lab) -> None:
    beside = lab.file.with_name("theirs.conf")
    beside.write_text("server { listen 8090; return 200 theirs; }\n")
    other = lab.certificates / "theirs.pem"
    lab.apply(*_tls())
    other.write_text("theirs")
    before = lab.file.read_bytes()
    # What others wrote needs ours.
    beside.write_text("server { listen 8090; return 200 $rulegen_connection; }\n")
    command = ("cleanup", "--ingress", "--config", str(lab.configuration))
    done = lab.run(*command)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("rulegen: nothing is removed: nginx refuses the configuration: ")
    assert (lab.file.read_bytes(), lab.who(_SHOP, "/")) == (before, "s1")
    beside.write_text("server { listen 8090; return 200 theirs; }\n")
    done = lab.run(*command)
    assert not done.returncode, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["removed", str(lab.file)],
        *[["removed", "certificate"]] * 2,
    ]
    assert not lab.file.exists()
    assert list(lab.certificates.iterdir()) == [other]
    with pytest.raises(ConnectionRefusedError):
        lab.connect(80)
    lab.connect(8090).close()
    assert lab.run(*command).stdout == "nothing to remove\n"
    other.unlink()
    beside.unlink()
    # Without nginx, or where it does not run, files are files.
    lab.stop_nginx()
    lab.ingress("apply", *_tls())
    assert lab.file.exists()
    assert not lab.run(*command).returncode
    assert not lab.file.exists()
    lab.start_nginx()


def test_a_clean_up_leaves_a_file_of_somebody_else(tmp_path: Path, lab: Lab) -> None:
    file = tmp_path / "site.conf"
    file.write_text("server { listen 8081; }\n")
    lab.configure(file=str(file))
    try:
        done = lab.run("cleanup", "--ingress", "--config", str(lab.configuration))
    finally:
        lab.configure()
    assert (done.returncode, file.read_text()) == (2, "server { listen 8081; }\n")


def _hangs_on(word: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is run as nginx hangs when it is told to do this, whatever signal comes that can be ignored."""
    file = folder / "nginx"
    hang = "while :; do sleep 1; done"
    file.write_text(f"""#!/bin/sh
trap '' TERM INT HUP
case " $* " in *" {word} "*) {hang} ;; esac
exec /usr/sbin/nginx "$@"
""")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def _running(folder: Path) -> list[str]:
    """What was started from there and has not ended."""
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            words = (process / "cmdline").read_bytes()
            found += [words.decode("utf-8", "replace")] if f"{folder}/".encode() in words else []
    return found


def test_a_test_that_hangs_is_given_up_on(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (ingress("one", rule("one.test", path("/", service))) for service in ("s1", "s2"))
    lab.apply(one)
    before = lab.file.read_bytes()
    _hangs_on("-t", tmp_path, monkeypatch)
    monkeypatch.setattr("rulegen.nginx.process._TEST_SECONDS", 1.0)
    done = lab.ingress("apply", two)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, "rulegen: nginx -t -q did not end within 1 s")
    # It was not tried, and is not in use.
    assert (lab.file.read_bytes(), lab.who("one.test", "/")) == (before, "s1")
    done = lab.ingress("apply", two, more=("--dry-run",))
    assert (done.returncode, "did not end within" in done.stderr) == (2, True)
    assert not _running(tmp_path)


def test_a_reload_that_never_ends_is_given_up_on(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (ingress("one", rule("one.test", path("/", service))) for service in ("s1", "s2"))
    lab.apply(one)
    before = lab.file.read_bytes()
    assert lab.process is not None
    # nginx is told, and does nothing; its workers go on.
    lab.process.send_signal(signal.SIGSTOP)
    try:
        with monkeypatch.context() as shorter:
            shorter.setattr("rulegen.nginx.process._RELOAD_SECONDS", 1.0)
            done = lab.ingress("apply", two)
        words = "rulegen: nginx was told to reload and does not serve the new configuration after 1 s"
        assert (done.returncode, done.stderr.splitlines()[-1]) == (2, words)
        assert (lab.file.read_bytes(), lab.who("one.test", "/")) == (before, "s1")
    finally:
        lab.process.send_signal(signal.SIGCONT)
    lab.apply(two)
    assert lab.who("one.test", "/") == "s2"


def test_who_answers_without_end_in_nginx_place_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rulegen.nginx.process._ANSWER_SECONDS", 0.5)
    gone = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while not gone.wait(0.05):
                connection.sendall(b"X")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: drip(server.accept()[0]))
        thread.start()
        try:
            assert serving(SocketAddress(*server.getsockname())) == ""
        finally:
            gone.set()
            thread.join()
