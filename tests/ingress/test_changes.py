"""What an Ingress that changes costs and what is said of it: its own hosts, however many there are."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from rulegen.config import IngressSettings, NodeConfiguration
from rulegen.ingress.feature import IngressFeature
from rulegen.ingress.model import Site
from rulegen.ingress.on_nginx import SiteCompiler
from rulegen.ingress.sites import Reason
from rulegen.kube.decode import convert_object
from rulegen.kube.objects import Ingress, IngressClass, Service
from rulegen.nginx.configuration import SERVER, Document, Entries
from rulegen.nginx.files import Files
from rulegen.nginx.live import LiveSites
from rulegen.nginx.process import Nginx
from rulegen.nginx.watching import Seen
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.delta import Delta
from rulegen.reference import ObjectReference
from tests.counting import lines_run
from tests.ingress.objects import Document as Written
from tests.ingress.objects import ingress, ingress_class, path, rule, service

_OLD = "2020-01-01T00:00:00Z"


class _Kept:
    def __init__(self, documents: list[Written]) -> None:
        node = NodeConfiguration(node_name="")
        self.feature = IngressFeature(node)
        self._compiler = SiteCompiler(node)
        kinds: dict[str, type[Any]] = {"Ingress": Ingress, "IngressClass": IngressClass, "Service": Service}
        for one in [ingress_class(), service("s1", 1), service("s2", 2), *documents]:
            self.feature.put(convert_object(kinds[one["kind"]], one))
        self.update()
        self._document = Document(self.entries())

    def entries(self) -> Entries:
        return self._compiler.entries()

    def update(self) -> Delta[Any, Any]:
        delta, _ = self._compiler.update(self.feature.take().items, None)
        return delta

    def change(self, document: Written) -> Delta[Any, Any]:
        """From the object to the file's pieces."""
        self.feature.put(convert_object(Ingress, document))
        delta = self.update()
        self._document.change({key: change.after for key, change in delta.changed.items()})
        return delta

    def text(self) -> str:
        return self._document.text()


def _cluster(number: int) -> list[Written]:
    return [ingress(f"i{one}", rule(f"h{one}.test", path("/", "s1"), path("/a", "s1"))) for one in range(number)]


def test_a_change_costs_the_same_in_any_cluster() -> None:
    counts = []
    for number in (50, 1_000):
        kept = _Kept(_cluster(number))
        # Once before, as what is made only once is no part of it.
        kept.change(ingress("i7", rule("h7.test", path("/", "s2"))))
        changed = ingress("i7", rule("h7.test", path("/", "s1"), path("/b", "s2")))
        counts.append(lines_run(partial(kept.change, changed)))
        delta = kept.change(ingress("i7", rule("h7.test", path("/", "s2"))))
        assert [(key.kind, key.name) for key in delta.changed] == [(SERVER, "h7.test")]
        assert kept.text() == Document(kept.entries()).text()
    assert counts[1] <= 1.1 * counts[0]


def test_an_ingress_with_many_hosts_costs_each_of_them_once() -> None:
    def made(number: int) -> int:
        hosts = [rule(f"h{one}.test", path("/", "s1")) for one in range(number)]
        tls = [([f"h{one}.test"], f"tls-{one}") for one in range(number)]
        document = ingress("one", *hosts, tls=tls)
        return lines_run(lambda: _Kept([document]))

    few, many = made(100), made(1_000)
    assert many < 11 * few, (few, many)


def test_of_many_mistakes_a_few_are_told_and_of_a_host_its_own() -> None:
    number = 500
    hosts = [rule(f"h{one}.test", path("/", "gone"), path("/a", "s1")) for one in range(number)]
    tls = [([f"h{one}.test"], "gone") for one in range(number)]
    older = ingress("older", *(rule(f"h{one}.test", path("/a", "s2")) for one in range(number)), created=_OLD)
    feature = _Kept([older, ingress("web", *hosts, tls=tls)]).feature
    ((reference, found),) = feature.findings.items()
    assert reference.name == "web"
    reasons = (Reason.NO_BACKEND, Reason.NO_CERTIFICATE, Reason.CONFLICT)
    assert Counter(one.reason for one in found) == dict.fromkeys(reasons, 11)
    assert sum(one.message == "and 490 more like these" for one in found) == 3
    (_, mention) = feature.mentions(["h400.test"])
    first = {reason: next(one.message for one in mention.findings if one.reason == reason) for reason in reasons}
    assert len(mention.findings) == 33
    assert first[Reason.NO_BACKEND].startswith("spec.rules[400].http.paths[0]: ")
    assert first[Reason.NO_CERTIFICATE].startswith("spec.tls[400]: ")
    assert first[Reason.CONFLICT].startswith("spec.rules[400].http.paths[1]: ")


@pytest.mark.parametrize(
    ("unreadable", "kept"),
    [
        (("Ingress", "web"), {"h1.test"}),
        (("Service", "s1"), {"h1.test", "h3.test"}),
        (("Secret", "web"), set()),
        (("Service", "s"), set()),
        (("Ingress", "we"), set()),
    ],
)
def test_what_an_unreadable_object_has_a_part_in_stays_and_nothing_else(
    tmp_path: Path, unreadable: tuple[str, str], kept: set[str]
) -> None:
    """As after a start, when nothing else was ever read of it, and after changes of others."""
    before = [("web", "h1.test", "s1"), ("web-2", "h2.test", "s12"), ("other", "h3.test", "s1")]
    live = _Kept([ingress(name, rule(host, path("/", service_name))) for name, host, service_name in before])
    settings = IngressSettings(
        main_file=str(tmp_path / "nginx.conf"),
        file=str(tmp_path / "rulegen.conf"),
        certificates=str(tmp_path / "certificates"),
    )
    files = Files(settings)
    files.write(live.text().encode())
    compiler = SiteCompiler(NodeConfiguration(node_name=""))
    rules = LiveSites(settings, cast(Nginx, None), Seen(files), CompilerSet({"ingress": compiler}))
    kind, name = unreadable
    rules.preserve_unreadable({"ingress": [ObjectReference(kind, "shop", name)]})
    rules.read()
    rules.update({"ingress": {}}, {})
    gone = {f"h{one}.test" for one in (1, 2, 3)} - kept
    assert {key.name for key in rules.difference().removed} == gone
    for host in ("h1.test", "h2.test", "h3.test"):
        delta, _ = rules.update({"ingress": {host: Site(host, ())}}, {})
        assert [key.name for key in delta.changed] == [host] * (host in gone)
        assert not delta.added
