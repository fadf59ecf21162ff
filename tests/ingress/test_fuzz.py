"""Whatever others write, what an Ingress of before answers is the same, nginx takes the whole, and the bad is found.

In memory by an evaluator of nginx's configuration, and a sample by nginx itself.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from rulegen.config import NodeConfiguration
from rulegen.ingress.feature import IngressFeature
from rulegen.ingress.on_nginx import SiteCompiler
from rulegen.kube.decode import ObjectError, convert_object
from rulegen.kube.objects import Ingress, IngressClass, Secret, Service
from rulegen.nginx.configuration import Document, Pem, parse, version_in
from rulegen.reference import ObjectReference
from tests.ingress.evaluate import Served
from tests.ingress.lab import Lab, lab_in
from tests.ingress.objects import Document as Written
from tests.ingress.objects import ingress, ingress_class, path, rule, secret, service
from tests.selection import Extent

_KINDS: dict[str, type[Any]] = {
    "Ingress": Ingress,
    "IngressClass": IngressClass,
    "Secret": Secret,
    "Service": Service,
}
_OLD = "2020-01-01T00:00:00Z"
# Who asks, by which scheme, and who is to answer.
_Asked: TypeAlias = tuple[str, str, str, str]
_ASKED: list[_Asked] = [
    ("http", "good.test", "/exact", "s1"),
    ("http", "good.test", "/pre", "s2"),
    ("http", "good.test", "/pre/a/b", "s2"),
    ("http", "good.test", "/prefix", "404"),
    ("http", "good.test", "/", "404"),
    ("https", "good.test", "/exact", "s1"),
    ("https", "good.test", "/pre/%2e/x", "s2"),
    ("http", "a.good.test", "/any", "s3"),
    ("http", "default", "/", "s4"),
]
# What has meant something to somebody: nginx, the API, a shell, rulegen's own marks.
_TAKEN_APART = (
    '$host ${x} $ { } ; " \' \\ \\" # ~ ~* = ^~ @rulegen_backend default include hostnames volatile',
    "* *. . .. _ ! !/ %00 %0a %2e%2e %2F %zz % // /../ /./ ? \n \r\n \0 \t \x7f \x85 é \u202e \U0001f600",
    '[::1] 10.0.0.1 443 -1 true 127.0.0.1:80 /exact /pre /pre/ /Pre /a;b /a\nb /a} /a{ /a$uri /a\\ /a"',
    "/.well-known /a%20b /%C3%A9 good.test *.good.test other.test *.other.test x.other.test Other.test",
    "a..b -a a- xn--e1afmkfd http:// shop/s1 s1 s1; s99 @version@",
)
_WORDS = [
    *(word for line in _TAKEN_APART for word in line.split(" ")),
    "# rulegen: end",
    "# rulegen: begin good.test",
    "x # good.test",
    "a b",
    "/a b",
    "x" * 64,
    "/" + "x" * 240,
    "/" + "x" * 242,
    "/" + "x" * 243,
    "/" + "/x" * 120,
    "a." * 126 + "a",
    "x" * 20_000,
]


def _word(number: int) -> str:
    return _WORDS[number]


# By number: what hypothesis says of itself stays short, and it says it often.
_words = st.integers(0, len(_WORDS) - 1).map(_word)
_text = st.one_of(
    _words, st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.builds(str.__add__, _words, _words)
)
_junk = st.one_of(st.none(), st.booleans(), st.integers(-1, 70_000), _text, st.lists(_text, max_size=2), st.just({}))
# Mostly what would be served, else nothing of it would ever get so far.
_label = st.from_regex(r"\A[a-z0-9]([-a-z0-9]{0,6}[a-z0-9])?\Z")
_known = st.sampled_from(
    ["other.test", "*.other.test", "x.other.test", "include", "*.default", "sub.a.good.test", "*.a.good.test"]
)
_host = st.one_of(_known, _known, st.lists(_label, min_size=1, max_size=4).map(".".join), _text, st.just(""), _junk)
_path = st.one_of(
    _words.map(lambda word: f"/{word}"),
    st.lists(_label, max_size=4).map(lambda found: "/" + "/".join(found)),
    _text,
    _junk,
)
_service = st.one_of(st.sampled_from(["s1", "s5", "s6", "s99"]), _text, _junk)
_port = st.one_of(
    st.just({"number": 80}), st.just({"name": "http"}), st.dictionaries(st.sampled_from(["number", "name"]), _junk)
)


def _fields(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """All of them, and now and then less or more."""
    usual = st.fixed_dictionaries(fields)
    odd = st.fixed_dictionaries({}, optional={**fields, "extra": _junk})
    return st.one_of(usual, usual, usual, odd)


def _list(one: st.SearchStrategy[Any], largest: int = 3) -> st.SearchStrategy[Any]:
    lists = st.lists(one, min_size=1, max_size=largest)
    return st.one_of(lists, lists, lists, _junk)


_kind = st.one_of(st.sampled_from(["Exact", "Prefix", "ImplementationSpecific"]), _junk)
_backend = _fields(service=_fields(name=_service, port=_port))
_paths = _list(_fields(path=_path, pathType=_kind, backend=_backend))
_rule = _fields(host=_host, http=_fields(paths=_paths))
_tls = _fields(hosts=_list(_host), secretName=st.one_of(st.sampled_from(["tls", "bad-tls", "none"]), _text, _junk))
_class = st.one_of(st.none(), st.just("rulegen"), _text)
_annotations = st.dictionaries(
    st.one_of(st.just("kubernetes.io/ingress.class"), _text), st.one_of(st.just("rulegen"), _text)
)
_ingress = st.builds(
    lambda number, name, namespace, rules, more, annotations: {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {
            "name": f"{name}{number}",
            "namespace": namespace,
            "creationTimestamp": "2021-01-01T00:00:00Z",
            **({"annotations": annotations} if annotations else {}),
        },
        "spec": {"rules": rules, **{name: value for name, value in more.items() if value is not None}},
    },
    st.integers(0, 10_000),
    st.one_of(*[st.just("bad-")] * 8, _text),
    st.one_of(*[st.just("shop")] * 8, _text),
    _list(_rule),
    st.fixed_dictionaries({}, optional={"tls": _list(_tls), "ingressClassName": _class, "defaultBackend": _backend}),
    st.one_of(st.just({}), _annotations),
)


# A default of somebody else's is no change of what an Ingress has for its own hosts.
_ingresses = st.lists(_ingress, min_size=1, max_size=6, unique_by=lambda one: json.dumps(one["metadata"]))


@cache
def _good() -> str:
    """Once, as text: certificates take time."""
    found = [
        ingress_class(),
        *(service(f"s{number}", number + 9) for number in range(1, 8)),
        secret("good-tls", "good.test"),
        secret("tls", "other.test", "*.other.test"),
        {**secret("bad-tls", "x.test"), "data": {"tls.crt": "Oyk=", "tls.key": "JHt9"}},
        ingress(
            "good",
            rule("good.test", path("/exact", "s1", "Exact"), path("/pre", "s2")),
            rule("*.good.test", path("/", "s3")),
            rule("default", path("/", "s4")),
            tls=[(["good.test"], "good-tls")],
            created=_OLD,
        ),
    ]
    return json.dumps(found)


class _Cluster:
    """A feature and its compiler, fed with documents."""

    def __init__(self) -> None:
        node = NodeConfiguration(node_name="")
        self.feature = IngressFeature(node)
        self._compiler = SiteCompiler(node)
        self.refused: set[int] = set()

    def put(self, documents: Sequence[Written]) -> None:
        for number, one in enumerate(documents):
            try:
                self.feature.put(convert_object(_KINDS[one["kind"]], copy.deepcopy(one)))
            except ObjectError:
                self.refused.add(number)

    def text(self) -> str:
        """What is written, after all that was put."""
        _, errors = self._compiler.update(self.feature.take().items, None)
        assert not errors
        entries = self._compiler.entries()
        text = Document(entries).text()
        sections = {key: value for key, value in entries.items() if not isinstance(value, Pem)}
        assert parse(text.splitlines(keepends=True), version_in(text)) == sections
        return text


def _answers(served: Served, asked: Sequence[_Asked]) -> list[str]:
    names = {f"10.96.0.{number + 9}:80": f"s{number}" for number in range(1, 8)}
    found = [
        served.answer(host, target.replace("/%2e", ""), tls=host if scheme == "https" else "")
        for scheme, host, target, _ in asked
    ]
    return [names.get(one, one) for one in found]


def _certain(documents: Sequence[Written]) -> list[_Asked]:
    """What cannot be otherwise: who names the same host may have a longer path there, and no older one."""
    shared = set(_strings([one["spec"] for one in documents]))
    return [one for one in _ASKED if one[2] == "/exact" or not {one[1], f"*.{one[1].partition('.')[2]}"} & shared]


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _strings(one)


def _check(documents: Sequence[Written], shuffled: Random) -> None:
    good = json.loads(_good())
    cluster = _Cluster()
    cluster.put(good)
    before = Served(cluster.text())
    cluster.put(documents)
    text = cluster.text()
    served = Served(text)
    assert _answers(before, _ASKED) == [wanted for *_, wanted in _ASKED]
    certain = _certain(documents)
    assert _answers(served, certain) == [wanted for *_, wanted in certain]
    assert served.certificate("good.test") == before.certificate("good.test") != ""
    for number, one in enumerate(documents):
        if number not in cluster.refused:
            _is_served_or_found(cluster.feature, convert_object(Ingress, copy.deepcopy(one)))
    # In another order, with some put twice and taken away between: the same bytes.
    other = _Cluster()
    mixed = [*good, *documents]
    shuffled.shuffle(mixed)
    other.put(mixed[: len(mixed) // 2])
    other.text()
    for one in mixed[: len(mixed) // 4]:
        meta = one["metadata"]
        other.feature.remove(ObjectReference(one["kind"], meta.get("namespace", ""), meta["name"]))
    other.put(mixed)
    assert other.text() == text


def _is_served_or_found(feature: IngressFeature, item: Ingress) -> None:
    """An Ingress of ours has a site for each host of its rules, or a finding says why not."""
    reference = ObjectReference.of(item)
    if feature.findings.get(reference):
        return
    spec = item.spec
    annotation = (item.metadata.annotations or {}).get("kubernetes.io/ingress.class")
    if spec.get("ingressClassName") is not None or annotation not in {None, "", "rulegen"}:
        return
    hosts = [one.get("host") or "" for one in spec.get("rules") or ()]
    assert all(host in feature.sites for host in hosts)


@given(_ingresses, st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_nobody_changes_anothers_answers(documents: list[Written], shuffled: Random) -> None:
    _check(documents, shuffled)


def test_nobody_changes_anothers_answers_however_many(extent: Extent) -> None:
    if extent.exhaustive:
        wanted = settings(max_examples=5_000, suppress_health_check=list(HealthCheck))
        wanted(given(_ingresses, st.randoms(use_true_random=False))(_check))()


def test_each_word_in_each_place() -> None:
    """Hypothesis chooses; these are all there."""
    for word in _WORDS:
        _check(_with(word), Random(word))


def _with(word: str) -> list[Written]:
    hosts = [ingress(f"bad-host-{nth}", rule(host, path("/", "s5"))) for nth, host in enumerate((word, f"*.{word}"))]
    targets = [
        ingress(f"bad-path-{kind.lower()}-{nth}", rule(f"word{nth}.test", path(target, "s5", kind)))
        for kind in ("Exact", "Prefix", "ImplementationSpecific")
        for nth, target in enumerate((word, f"/{word}", f"/a/{word}/b"))
    ]
    others = [
        ingress("bad-service", rule("word.test", path("/", word)), rule("word.test", path("/x", "s5", port=word))),
        ingress("bad-tls", rule("word.test", path("/", "s5")), tls=[([word], "tls"), ([], word)]),
        ingress("bad-class", rule("word.test", path("/", "s5")), class_name=word),
        ingress("bad-note", rule("word.test", path("/", "s5")), annotations={word: word}),
        ingress(f"bad-name-{word}", rule("word.test", path("/", "s5")), namespace=f"shop{word}"),
    ]
    return [*hosts, *targets, *others]


@pytest.mark.kernel
def test_nginx_takes_it_and_answers_the_same(tmp_path: Path, extent: Extent) -> None:
    with lab_in(tmp_path) as lab:
        lab.apply_services()
        lab.start_nginx()
        # Many at once: most is nginx's time for each reload.
        lists = st.lists(_ingress, min_size=20, max_size=60, unique_by=lambda one: json.dumps(one["metadata"]))
        count = 60 if extent.exhaustive else 3
        # To make a failure smaller takes a reload each time.
        chosen = settings(max_examples=count, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        seed(extent.seed)(chosen(given(lists)(lambda documents: _ask(lab, documents))))()


def _is_object(one: Written) -> bool:
    try:
        convert_object(Ingress, copy.deepcopy(one))
    except ObjectError:
        return False
    return True


def _ask(lab: Lab, drawn: list[Written]) -> None:
    # Of a file that has something else in it, nothing is applied.
    documents = list(filter(_is_object, drawn))
    objects = [one for one in json.loads(_good()) if one["kind"] in {"Ingress", "Secret"}]
    done = lab.ingress("apply", *objects, *documents)
    assert not done.returncode, done.stderr
    served = Served(lab.file.read_text())
    for scheme, host, target, wanted in _certain(documents):
        answer = lab.get(host, target, tls=host if scheme == "https" else "")
        assert (answer.service or str(answer.status)) == wanted
    # What the evaluator says is what nginx does.
    for host in ("other.test", "x.other.test", "y.other.test", "include", "sub.a.good.test", "z.a.good.test", "a.b.c"):
        for target in ("/", "/a", "/exact", "/pre/x"):
            found = served.answer(host, target)
            number = int(found.rpartition(".")[2].partition(":")[0]) - 9 if ":" in found else 0
            assert lab.who(host, target) == (f"s{number}" if number else found)
