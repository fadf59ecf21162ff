"""Which Service answers for which host and path: by a request each, through one nginx.

The cases are those of the API's documentation (HTTPIngressPath, IngressRule) and of its page on Ingress, and what is
beside them. What must come out is written by hand.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rulegen.config import IngressSettings, NodeConfiguration
from rulegen.features import feed
from rulegen.ingress.explain import Known, explain_request
from rulegen.ingress.feature import IngressFeature
from rulegen.ingress.requests import parse_url
from rulegen.kube.manifests import load
from tests.ingress.lab import Lab, lab_in
from tests.ingress.objects import Document, ingress, path, rule

pytestmark = pytest.mark.kernel

_EXACT, _ANY = "Exact", "ImplementationSpecific"

# Each on a host of its own, as on the page's table.
_TABLE: list[tuple[str, list[Document], list[tuple[str, str]]]] = [
    ("all", [path("/", "s1")], [("/", "s1"), ("/foo", "s1"), ("/a/b/c", "s1"), ("//", "s1"), ("/?a=/x", "s1")]),
    (
        "exact",
        [path("/foo", "s1", _EXACT)],
        [("/foo", "s1"), ("/bar", "404"), ("/foo/", "404"), ("/Foo", "404"), ("/foo?x=1", "s1"), ("/foo/bar", "404")],
    ),
    ("exact-slash", [path("/foo/", "s1", _EXACT)], [("/foo", "404"), ("/foo/", "s1"), ("/foo/x", "404")]),
    ("foo", [path("/foo", "s1")], [("/foo", "s1"), ("/foo/", "s1"), ("/foobar", "404"), ("/", "404")]),
    ("foo-slash", [path("/foo/", "s1")], [("/foo", "s1"), ("/foo/", "s1"), ("/foo/bar", "s1"), ("/foobar", "404")]),
    ("aaa", [path("/aaa", "s1")], [("/ccc", "404"), ("/aaa/", "s1")]),
    ("bb", [path("/aaa/bb", "s1")], [("/aaa/bbb", "404"), ("/aaa/bb", "s1"), ("/aaa", "404")]),
    (
        "bbb",
        [path("/aaa/bbb", "s1")],
        [("/aaa/bbb", "s1"), ("/aaa/bbb/", "s1"), ("/aaa/bbb/ccc", "s1"), ("/aaa/bbbxyz", "404")],
    ),
    ("bbb-slash", [path("/aaa/bbb/", "s1")], [("/aaa/bbb", "s1"), ("/aaa/bbb/x", "s1"), ("/aaa/bbbx", "404")]),
    ("two", [path("/", "s1"), path("/aaa", "s2")], [("/aaa/ccc", "s2"), ("/aaa", "s2"), ("/aaab", "s1"), ("/", "s1")]),
    (
        "three",
        [path("/", "s1"), path("/aaa", "s2"), path("/aaa/bbb", "s3")],
        [("/aaa/bbb", "s3"), ("/aaa/bbb/c", "s3"), ("/aaa/b", "s2"), ("/ccc", "s1")],
    ),
    (
        "mixed",
        [path("/foo", "s1"), path("/foo", "s2", _EXACT)],
        [("/foo", "s2"), ("/foo/", "s1"), ("/foo/x", "s1")],
    ),
    (
        "exact-under-prefix",
        [path("/foo", "s1"), path("/foo/bar", "s2", _EXACT), path("/foo/bar/", "s3", _EXACT)],
        [("/foo/bar", "s2"), ("/foo/bar/", "s3"), ("/foo/bar/x", "s1"), ("/foo/b", "s1")],
    ),
    # A server that redirects to where the slash is would answer 301.
    ("slash-beside-prefix", [path("/", "s1"), path("/foo/", "s2", _EXACT)], [("/foo", "s1"), ("/foo/", "s2")]),
    ("specific", [path("/foo", "s1", _ANY)], [("/foo", "s1"), ("/foo/x", "s1"), ("/foox", "404")]),
    ("specific-none", [{**path("", "s1", _ANY)}], [("/", "s1"), ("/x/y", "s1")]),
    # What a request says is compared decoded, its dots resolved; what is said twice is not one.
    (
        "coded",
        [path("/a%20b", "s1"), path("/é", "s2", _EXACT)],
        [("/a%20b/c", "s1"), ("/a+b", "404"), ("/%C3%A9", "s2")],
    ),
    (
        "dots",
        [path("/a", "s1"), path("/b", "s2")],
        [("/b/../a", "s1"), ("/%61", "s1"), ("/a//b", "s1"), ("//a", "404")],
    ),
    ("case", [path("/Abc", "s1")], [("/Abc", "s1"), ("/abc", "404")]),
    (
        "syntax",
        [path('/a;b{$x}"\\n', "s1", _EXACT), path("/$host", "s2"), path("/*", "s3"), path("/^.*$", "s4")],
        [
            ("/a;b{$x}%22%5Cn", "s1"),
            ("/$host/x", "s2"),
            ("/syntax.test", "404"),
            ("/*", "s3"),
            ("/any", "404"),
            ("/^.*$", "s4"),
        ],
    ),
    (
        "nowhere",
        [path("/x", "s99"), path("/y", "s1", port=81), path("/z", "s1", port="http")],
        [("/x", "503"), ("/y", "503"), ("/z", "s1")],
    ),
    ("named", [path("/", "s1", port="https"), path("/ok", "s2", port="http")], [("/", "503"), ("/ok", "s2")]),
    (
        "long",
        [path("/" + "x" * 240, "s1"), path("/" + "x" * 239, "s2")],
        [("/" + "x" * 240, "s1"), ("/" + "x" * 239 + "/", "s2"), ("/" + "x" * 241, "404")],
    ),
]
_CASES = [(f"{name}.test", target, wanted) for name, _, cases in _TABLE for target, wanted in cases]

_HOSTS: list[tuple[str, str, str]] = [
    # The API's table of hosts, and its siblings.
    ("bar.foo.com", "/", "s1"),
    ("foo.foo.com", "/", "s2"),
    ("baz.bar.foo.com", "/", "s5"),
    ("baz.bar.foo.com", "/deep", "s6"),
    ("baz.bar.foo.com", "/deep/er?q=%2F", "s6"),
    ("foo.com", "/", "s5"),
    ("BAR.foo.COM", "/", "s1"),
    ("bar.foo.com:80", "/", "s1"),
    ("bar.foo.com.", "/", "s1"),
    ("other.foo.com", "/wild", "s2"),
    # A host that is known serves what it has, and nothing of the others'.
    ("bar.foo.com", "/deep", "s1"),
    ("only-path.foo.com", "/x", "s3"),
    ("only-path.foo.com", "/y", "404"),
    ("unknown.example", "/", "s5"),
    ("unknown.example", "/deep", "s6"),
    ("192.0.2.1", "/", "s5"),
    # A defaultBackend serves the hosts of its own Ingress, where no rule does.
    ("with-default.test", "/rule", "s7"),
    ("with-default.test", "/else", "s5"),
]


def _ingresses() -> list[Document]:
    tables = [ingress(name, rule(f"{name}.test", *paths)) for name, paths, _ in _TABLE]
    return [
        *tables,
        ingress("exact-host", rule("bar.foo.com", path("/", "s1")), created="2020-01-01T00:00:00Z"),
        ingress("wild", rule("*.foo.com", path("/", "s2")), created="2020-01-02T00:00:00Z"),
        ingress("one-path", rule("only-path.foo.com", path("/x", "s3"))),
        ingress("any", rule("", path("/deep", "s6"))),
        ingress("default", rule("with-default.test", path("/rule", "s7")), default="s5"),
        # The older wins a path, and both serve the host.
        ingress("b-old", rule("shared.test", path("/one", "s8")), created="2020-01-01T00:00:00Z"),
        ingress("a-new", rule("shared.test", path("/one", "s9"), path("/two", "s9")), created="2021-01-01T00:00:00Z"),
        ingress("foreign", rule("foreign.test", path("/", "s1")), class_name="another"),
        ingress("old-style", rule("old.test", path("/", "s1")), annotations={"kubernetes.io/ingress.class": "rulegen"}),
        ingress("old-other", rule("old2.test", path("/", "s1")), annotations={"kubernetes.io/ingress.class": "nginx"}),
        ingress("by-name", rule("by-name.test", path("/", "s1")), class_name="rulegen"),
    ]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab_in(tmp_path_factory.mktemp("ingress")) as made:
        made.apply_services()
        made.start_nginx()
        said = made.ingress("apply", *_ingresses())
        assert not said.returncode, said.stderr
        made.said = said.stderr  # type: ignore[attr-defined]
        yield made


def test_there_are_as_many_cases_as_it_takes() -> None:
    assert len(_CASES) + len(_HOSTS) >= 90


def test_paths(lab: Lab) -> None:
    found = [(host, target, lab.who(host, target)) for host, target, _ in _CASES]
    assert found == _CASES


def test_hosts(lab: Lab) -> None:
    found = [(host, target, lab.who(host, target)) for host, target, _ in _HOSTS]
    assert found == _HOSTS


def test_explain_says_the_same(lab: Lab) -> None:
    """Of each of these requests."""
    feature = IngressFeature(NodeConfiguration(node_name=""))
    objects = load([lab.write(*_ingresses())], None, kinds=IngressFeature.kinds).objects()
    feed([feature], objects)
    feature.take()

    def said(host: str, target: str) -> str:
        request = parse_url(f"http://{host}{target}")
        found = explain_request(request, "", Known(feature.sites.now, (), IngressSettings()))
        return found.backend.partition("/")[2].partition(":")[0] if found.cluster_ip else str(found.outcome)

    cases = [*_CASES, *_HOSTS]
    assert [(host, target, said(host, target)) for host, target, _ in cases] == cases


def test_an_ingress_of_several(lab: Lab) -> None:
    assert [lab.who("shared.test", target) for target in ("/one", "/two")] == ["s8", "s9"]
    place = "Ingress shop/a-new: spec.rules[0].http.paths[0]"
    words = f"{place}: Prefix /one of host shared.test is Ingress shop/b-old's already"
    assert words in lab.said  # type: ignore[attr-defined]


def test_classes(lab: Lab) -> None:
    hosts = ("foreign.test", "old.test", "old2.test", "by-name.test")
    # What nobody serves has the default's answer.
    assert [lab.who(host, "/") for host in hosts] == ["s5", "s1", "s5", "s1"]
    assert 'Ingress shop/foreign: there is no IngressClass "another"' in lab.said  # type: ignore[attr-defined]


def test_what_a_backend_sees(lab: Lab) -> None:
    told = {"X-Forwarded-For": "198.51.100.1", "X-Forwarded-Proto": "https", "X-Real-IP": "198.51.100.1"}
    answer = lab.get("bar.foo.com", "/a%2Fb/../c?d=%20", headers=told)
    assert answer.seen["line"] == "GET /a%2Fb/../c?d=%20 HTTP/1.1"
    headers = answer.seen["headers"]
    assert headers["host"] == "bar.foo.com"
    assert (headers["x-forwarded-for"], headers["x-forwarded-proto"]) == ("192.0.2.1", "http")
    assert headers["x-real-ip"] == "192.0.2.1"
    # Where nginx rewrites for itself, a backend sees the request as it was.
    deeper = lab.get("baz.bar.foo.com", "/deep/%2e%2E/deep/a%2Fb?q=%2F")
    assert deeper.seen["line"] == "GET /deep/%2e%2E/deep/a%2Fb?q=%2F HTTP/1.1"


def test_a_backend_cannot_send_nginx_elsewhere(lab: Lab) -> None:
    answer = lab.get("two.test", "/aaa", headers={"X-Accel": "1"})
    assert (answer.status, answer.service) == (200, "s2")
