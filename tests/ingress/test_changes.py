"""What an Ingress that changes costs: its own hosts, however many others there are, and however many hosts it has."""

from __future__ import annotations

from functools import partial
from typing import Any

from rulegen.config import NodeConfiguration
from rulegen.ingress.feature import IngressFeature
from rulegen.ingress.on_nginx import SiteCompiler
from rulegen.kube.decode import convert_object
from rulegen.kube.objects import Ingress, IngressClass, Service
from rulegen.nginx.configuration import SERVER, Document, Entries
from rulegen.reconcile.delta import Delta
from tests.counting import lines_run
from tests.ingress.objects import Document as Written
from tests.ingress.objects import ingress, ingress_class, path, rule, service


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
