"""Commands on Ingresses: explain by a URL, lint, plan, snapshots and bundles. No nginx runs, no rule is loaded."""

from __future__ import annotations

import base64
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner, Result

from rulegen.cli import main
from rulegen.commands.documents import schema
from rulegen.kube.objects import Secret
from tests.apiserver import ApiServer
from tests.apiserver.faults import Answer
from tests.builders import node
from tests.ingress.objects import Document, endpoints, ingress, ingress_class, path, rule, secret, service

_SHOP = "shop.example.org"
_SECRETS = [secret("shop-tls", _SHOP), secret("wild-tls", "*.example.net")]
_NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "worker-1"}}
_OBJECTS: list[Document] = [
    _NODE,
    service("cart", 20),
    endpoints("cart", "10.244.1.5", "10.244.2.7"),
    service("web", 21),
    endpoints("web", "10.244.1.6"),
    service("empty", 22),
    ingress_class(),
    ingress_class("other", "example.org/other", default=False),
    *_SECRETS,
    ingress(
        "web",
        rule(_SHOP, path("/", "web"), path("/cart", "cart"), path("/cart", "web", "Exact")),
        tls=[([_SHOP], "shop-tls")],
    ),
    ingress("wild", rule("*.example.net", path("/x", "web", port="http")), tls=[([], "wild-tls")]),
    ingress("plain", rule("plain.example.com", path("/gone", "nobody"), path("/a b", "web"), path("/none", "empty"))),
    ingress("no-tls", rule("secure.example.com", path("/", "web")), tls=[([], "missing")]),
    ingress("bad", rule(_SHOP, path("x", "web"))),
    ingress("foreign", rule(_SHOP, path("/y", "web")), class_name="gone"),
    ingress("theirs", rule(_SHOP, path("/y", "web")), class_name="other"),
    ingress("default", default="web"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("ingress") / "cluster.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": _OBJECTS}))
    return str(file)


def _run(*arguments: str) -> Result:
    done = CliRunner().invoke(main, arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def _asked(cluster: str, url: str) -> dict[str, Any]:
    done = _run("explain", "-f", cluster, "--from", "203.0.113.9", "--to", url, "-o", "json")
    assert not done.exit_code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    jsonschema.validate(found, schema("explain"))
    return found


@pytest.mark.parametrize(
    ("url", "outcome", "host", "where", "backend"),
    [
        (f"https://{_SHOP}/cart", "Service", _SHOP, "Exact /cart", "shop/web:80"),
        (f"https://{_SHOP}/cart/x?q=/y#z", "Service", _SHOP, "Prefix /cart", "shop/cart:80"),
        (f"https://{_SHOP.upper()}./%63art/../cart/1", "Service", _SHOP, "Prefix /cart", "shop/cart:80"),
        (f"https://{_SHOP}", "Service", _SHOP, "Prefix /", "shop/web:80"),
        (f"http://{_SHOP}:8080/carts", "Service", _SHOP, "Prefix /", "shop/web:80"),
        ("https://a.example.net/x", "Service", "*.example.net", "Prefix /x", "shop/web:http"),
        ("https://a.example.net/y", "404", "*.example.net", " ", ""),
        # One label more: what has no host, with a certificate that is for less.
        ("https://a.b.example.net/x", "Service", "", "Prefix /", "shop/web:80"),
        ("http://a.b.example.net/x", "Service", "", "Prefix /", "shop/web:80"),
        ("http://example.net/x", "Service", "", "Prefix /", "shop/web:80"),
        ("http://plain.example.com/gone/x", "503", "plain.example.com", "Prefix /gone", "shop/nobody:80"),
        ("http://plain.example.com/a%20b", "Service", "plain.example.com", "Prefix /a b", "shop/web:80"),
        ("http://plain.example.com/", "404", "plain.example.com", " ", ""),
        ("http://plain.example.com/..", "400", "plain.example.com", " ", ""),
        ("http://plain.example.com/%zz", "400", "plain.example.com", " ", ""),
        ("https://plain.example.com/gone", "NoCertificate", "", " ", ""),
        ("https://secure.example.com/", "NoCertificate", "", " ", ""),
        ("http://secure.example.com/", "Service", "secure.example.com", "Prefix /", "shop/web:80"),
        ("http://192.0.2.1/", "Service", "", "Prefix /", "shop/web:80"),
        ("http://[2001:db8::1]:80/", "Service", "", "Prefix /", "shop/web:80"),
    ],
)
def test_a_url_through_an_ingress(cluster: str, url: str, outcome: str, host: str, where: str, backend: str) -> None:
    found = _asked(cluster, url)
    place = f"{found['pathType']} {found['path']}"
    assert (found["outcome"], found["host"], place, found["backend"]) == (outcome, host, where, backend)
    assert len(found["packets"]) == (outcome == "Service")
    if outcome == "Service":
        (packet,) = found["packets"]
        assert packet["destination"] == f"{found['clusterIp']}:{found['port']}/tcp"
        assert packet["fate"] == "balanced"


def test_what_else_is_said_of_it(cluster: str) -> None:
    shop = _asked(cluster, f"https://{_SHOP}:8443/cart/1")
    assert (shop["client"], shop["secret"], shop["ingress"]) == ("203.0.113.9", "shop/shop-tls", "shop/web")
    assert [one["endpoint"] for one in shop["packets"][0]["deliveries"]] == ["10.244.1.5:8080", "10.244.2.7:8080"]
    assert shop["reasons"][0] == "nginx listens on port 443: what leads there from port 8443 is not known here"
    assert [one["reason"] for one in shop["findings"]] == ["UnusableIngress", "NoIngressClass"]
    assert "Ingress shop/theirs names the host, too, and is served by another controller" in shop["reasons"]
    # A Service that has nobody is explained as any: why, and not that nginx answers.
    empty = _asked(cluster, "http://plain.example.com/none")
    assert (empty["outcome"], empty["packets"][0]["fate"]) == ("Service", "rejected")
    missing = _asked(cluster, "https://secure.example.com/")
    assert [one["reason"] for one in missing["findings"]] == ["NoCertificate"]
    assert missing["wouldWork"] == ["http://secure.example.com/"]
    # Of a certificate nobody is told who asks without TLS.
    assert _asked(cluster, "http://secure.example.com/")["findings"] == []
    assert _asked(cluster, "https://a.example.net/y")["wouldWork"] == ["https://a.example.net/x"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--to", "ftp://x/"), 'of URLs only http:// and https:// are known, got "ftp://x/"'),
        (("--to", "http:///x"), "expected a host's name or an address"),
        (("--to", "http://a:b/"), "expected http:// or https://HOST[:PORT][/PATH]"),
        (("--to", "http://[::1/"), "expected http:// or https://HOST[:PORT][/PATH]"),
        (("--to", "http://a b/"), "expected a URL without blanks and control characters"),
        (("--to", "http://me:secret@a/"), "expected a URL without a user name and a password"),
        (("--to", "http://a/", "--interface", "eth0"), "mean nothing with a URL"),
        (("--to", "http://a/", "--from", "nobody-1"), "no pod has this name"),
    ],
)
def test_questions_that_mean_nothing(cluster: str, words: tuple[str, ...], said: str) -> None:
    done = _run("explain", "-f", cluster, *words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert "secret" not in done.stderr


def test_who_may_not_read_secrets_can_ask_about_http(tmp_path: Path) -> None:
    with ApiServer() as api:
        api.put(*_OBJECTS[1:], node("worker-1"))
        kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
        words = ("explain", "--kubeconfig", kubeconfig, "--node", "worker-1", "--to")
        api.inject(Secret, "list", *[Answer(403, "Forbidden")] * 4)
        plain = _run(*words, f"http://{_SHOP}/cart/x", "-o", "json")
        secure = _run(*words, f"https://{_SHOP}/cart/x", "-o", "json")
    assert json.loads(plain.stdout)["backend"] == "shop/cart:80"
    assert (secure.exit_code, secure.stdout) == (2, "")
    assert "/api/v1/secrets: 403 Forbidden" in secure.stderr.splitlines()[-1]


def test_the_settings_may_be_those_of_ingress(cluster: str, tmp_path: Path) -> None:
    config = tmp_path / "ingress.yaml"
    settings = {"features": ["ingress"], "ingress": {"controller": "example.org/other", "httpPort": 8000}}
    config.write_text(yaml.safe_dump({"apiVersion": "rulegen.io/v1alpha1", "kind": "RulegenConfiguration", **settings}))
    words = ("--config", str(config), "--to", f"http://{_SHOP}/y", "-o", "json")
    found = json.loads(_run("explain", "-f", cluster, *words).stdout)
    assert found["ingress"] == "shop/theirs"
    assert found["reasons"][0].startswith("nginx listens on port 8000: ")


def test_lint_and_plan(cluster: str, tmp_path: Path) -> None:
    done = _run("lint", "-f", cluster, "--feature", "ingress", "-o", "json")
    assert done.exit_code == 1
    found = {(one["object"], one["reason"]) for one in json.loads(done.stdout)["findings"]}
    assert found == {
        ("Ingress shop/bad", "UnusableIngress"),
        ("Ingress shop/foreign", "NoIngressClass"),
        ("Ingress shop/no-tls", "NoCertificate"),
        ("Ingress shop/plain", "NoBackend"),
    }


def test_a_path_that_is_offered_can_be_asked_for(tmp_path: Path) -> None:
    """Paths are compared decoded, and asked for coded."""
    odd = path("/a b%23%3f%25zz/\u202e\u2028\u00fc")
    file = tmp_path / "cluster.json"
    documents = [_NODE, ingress_class(), service("web", 20), endpoints("web", "10.244.1.5")]
    documents.append(ingress("odd", rule(_SHOP, odd), rule("plain.example.com", odd)))
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}))
    (offered,) = _asked(str(file), f"http://{_SHOP}/")["wouldWork"]
    assert offered == f"http://{_SHOP}/a%20b%23%3F%25zz/%E2%80%AE%E2%80%A8%C3%BC"
    assert _asked(str(file), offered)["outcome"] == "Service"
    (offered,) = _asked(str(file), offered.replace("http:", "https:"))["wouldWork"]
    assert _asked(str(file), offered)["outcome"] == "Service"


def test_a_path_begins_no_line_and_no_comment(tmp_path: Path) -> None:
    """U+2028 ends a line for Unicode, and none for nginx."""
    written, other = tmp_path / "rulegen.conf", tmp_path / "other.json"
    named = path("/\u2028%23 a/victim -> ")
    file = tmp_path / "cluster.json"
    for name, paths in ((file, [named, path("/x")]), (other, None)):
        objects = [ingress_class(), service("web", 20), *([ingress("web", rule(_SHOP, *paths))] if paths else [])]
        name.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    written.write_text(_run("render", "-f", str(file), "--feature", "ingress").stdout)
    asked = ("diff", "-f", str(other), "--feature", "ingress", "--against", str(written), "-o", "json")
    (removed,) = json.loads(_run(*asked).stdout)["changes"]
    assert (removed["change"], removed["key"], removed["service"]) == ("removed", _SHOP, "shop/web")
    assert not [line for line in removed["before"] if line.startswith("# a/victim")]


def test_a_path_is_said_in_ascii(tmp_path: Path) -> None:
    """An Event says it as it is."""
    file = tmp_path / "cluster.json"
    twice = [ingress(name, rule(_SHOP, path("/\u202ex", service))) for name, service in (("a", "web"), ("b", "none"))]
    documents = [ingress_class(), service("web", 20), *twice]
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}))
    found = json.loads(_run("lint", "-f", str(file), "--feature", "ingress", "-o", "json").stdout)["findings"]
    conflict = next(one for one in found if one["reason"] == "IngressConflict")
    assert 'Prefix "/\\u202ex" of host' in conflict["message"]


def test_a_secret_of_another_type_is_none_as_in_a_cluster(tmp_path: Path) -> None:
    file = tmp_path / "cluster.json"
    opaque = {**secret("shop-tls", _SHOP), "type": "Opaque"}
    documents = [ingress_class(), service("web", 20), opaque]
    documents.append(ingress("web", rule(_SHOP, path("/", "web")), tls=[([], "shop-tls")]))
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}))
    (found,) = json.loads(_run("lint", "-f", str(file), "--feature", "ingress", "-o", "json").stdout)["findings"]
    assert found["message"] == "spec.tls[0]: there is no Secret shop/shop-tls of type kubernetes.io/tls"


# -- private keys --


def _private() -> Iterator[bytes]:
    """Parts of all keys, as they are and as Secrets have them."""
    for one in _SECRETS:
        encoded = one["data"]["tls.key"].encode()
        yield encoded[48:96]
        yield base64.b64decode(encoded).splitlines()[1][:48]
    yield b"PRIVATE KEY"
    yield base64.b64encode(b"-----BEGIN EC PRIVATE")[:16]


def test_keys_are_in_no_snapshot(tmp_path: Path) -> None:
    with ApiServer() as api:
        api.put(*_OBJECTS[1:], node("worker-1"))
        done = _run("snapshot", "--kubeconfig", api.kubeconfig(tmp_path / "kubeconfig"), "--feature", "ingress")
    assert not done.exit_code, done.stderr
    assert "left out, as they hold private keys: 2 Secret;" in done.stderr
    kinds = {document["kind"] for document in yaml.safe_load_all(done.stdout)}
    assert kinds == {"Ingress", "IngressClass", "Service", "EndpointSlice", "Node"}
    assert not [part for part in _private() if part in done.stdout.encode() + done.stderr.encode()]


def test_a_snapshot_says_what_becomes_of_a_request(tmp_path: Path) -> None:
    with ApiServer() as api:
        api.put(*_OBJECTS[1:], node("worker-1"))
        done = _run("snapshot", "--kubeconfig", api.kubeconfig(tmp_path / "kubeconfig"), "--feature", "ingress")
    file = tmp_path / "cluster.yaml"
    file.write_text(done.stdout)
    (packet,) = _asked(str(file), "http://plain.example.com/a%20b")["packets"]
    assert packet["fate"] == "balanced"


def test_keys_are_in_no_bundle_and_no_plan(cluster: str, tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text(f"events {{ }} http {{ include {tmp_path}/rulegen.conf; }}\n")
    places = {"mainFile": "nginx.conf", "file": "rulegen.conf", "certificates": "certificates"}
    settings = {"ingress": {name: str(tmp_path / place) for name, place in places.items()}, "features": ["ingress"]}
    # Nobody answers there.
    agent = {"healthzBindAddress": "127.0.0.1:9", "metricsBindAddress": "127.0.0.1:9"}
    config = tmp_path / "ingress.yaml"
    own = {"apiVersion": "rulegen.io/v1alpha1", "kind": "RulegenConfiguration", **settings}
    head = {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration"}
    config.write_text(yaml.safe_dump_all([own, {**head, **agent}]))
    words = ("-f", cluster, "--config", str(config))
    plan, bundle = tmp_path / "plan", tmp_path / "bundle.tar.gz"
    planned = _run("plan", *words, "-o", str(plan))
    assert not planned.exit_code, planned.stderr
    done = _run("support-bundle", *words, str(bundle))
    assert not done.exit_code, done.stderr
    with tarfile.open(bundle) as parts:
        texts = {part.name.rpartition("/")[2]: parts.extractfile(part).read() for part in parts}  # type: ignore[union-attr]
    assert b"left out, as they hold private keys: 2 Secret" in texts["objects-problems.txt"]
    assert b"nginx certificate" in texts["diff.txt"]
    whole = b"".join([*texts.values(), plan.read_bytes(), planned.output.encode(), done.output.encode()])
    assert not [part for part in _private() if part in whole]
    # It has the settings, and the class that is the default: what is explained from it is what is served.
    found = json.loads(_run("explain", "-f", str(bundle), "--to", f"http://{_SHOP}/cart/x", "-o", "json").stdout)
    assert found["backend"] == "shop/cart:80"
