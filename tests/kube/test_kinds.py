"""A kind is one entry: where it is, and what is asked for; one that is not needed costs nobody anything."""

from __future__ import annotations

import io
import json
import runpy
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from rulegen.config import NodeConfiguration
from rulegen.features import REGISTRY as FEATURES
from rulegen.features import Entry, kinds_of, resources
from rulegen.kube.api import connect
from rulegen.kube.follow import Delete, Follower, FollowEvent, Interrupted, Synced, Upsert
from rulegen.kube.kinds import REGISTRY, Kind, kind_of
from rulegen.kube.manifests import Manifests, load
from rulegen.kube.objects import EndpointSlice, KubeStruct, Metadata, NamespacedMetadata, Node, Service, ServiceCIDR
from rulegen.kube.snapshot import read_cluster, write_manifests
from rulegen.reconcile.feature import Need
from tests.apiserver import EVERY_KIND, ApiServer
from tests.builders import service
from tests.kube.conftest import QUICK
from tests.patience import patience

REPOSITORY = Path(__file__).parents[2]


class Lamp(KubeStruct, frozen=True):
    """On nodes, as Pods are."""

    metadata: NamespacedMetadata
    spec: Any = None


class Grid(KubeStruct, frozen=True):
    """Of the whole cluster, and not in every cluster."""

    metadata: Metadata


LAMP = Kind(
    struct=Lamp,
    api_versions=("v1",),
    plural="lamps",
    field_selector="status.phase!=Failed",
    own_node_field="spec.nodeName",
)
GRID = Kind(struct=Grid, api_versions=("example.org/v1alpha2",), plural="grids", is_optional=True)


class LightFeature:
    """Only what it needs matters here."""

    kinds: Mapping[type, Need] = {Lamp: Need.OWN_NODE, Grid: Need.SOON, Node: Need.SOON}

    def __init__(self, node: NodeConfiguration) -> None:
        del node


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (LAMP, GRID):
        monkeypatch.setitem(REGISTRY, kind.struct, kind)
    monkeypatch.setitem(FEATURES, "light", Entry(__name__, "LightFeature"))


@pytest.fixture
def server(registered: None) -> Iterator[ApiServer]:
    """Made when it can know the kinds."""
    del registered
    with ApiServer() as made:
        yield made


def document(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    version = GRID.api_versions[0] if kind == "Grid" else "v1"
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, **fields}}


LAMPS = [
    {**document("Lamp", "a", namespace="home"), "spec": {"nodeName": "node-1"}},
    document("Grid", "north"),
    {**document("Lamp", "b", namespace="home"), "spec": {"nodeName": "node-1"}},
]


def read(kinds: Mapping[type, Need]) -> Manifests:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": LAMPS})
    return load(["-"], io.BytesIO(text.encode()), None, kinds)


def test_what_is_asked_for_follows_from_what_all_features_need() -> None:
    asked = {resource.kind: resource for resource in resources(["light"], "node-1")}
    assert asked[Lamp].paths == ("/api/v1/lamps",)
    assert asked[Lamp].selectors == {"fieldSelector": "status.phase!=Failed,spec.nodeName=node-1"}
    assert asked[Grid] == (Grid, ("/apis/example.org/v1alpha2/grids",), {}, True)
    # One feature needs the own Node, the other all: all.
    assert asked[Node].selectors == {}
    assert {resource.kind for resource in resources([], "node-1")} == {Service, EndpointSlice, ServiceCIDR, Node}


def test_of_all_nodes_the_rest_of_the_selector_stays() -> None:
    assert kind_of(Lamp).resource().selectors == {"fieldSelector": "status.phase!=Failed"}
    assert kind_of(Lamp).everything().selectors == {}


def test_manifests_hold_the_kinds_that_are_needed_and_the_others_are_skipped() -> None:
    found = read(kinds_of(["light"]))
    assert [type(item).__name__ for item in found.objects()] == ["Lamp", "Lamp", "Grid"]
    assert found.skipped == {}
    off = read(kinds_of([]))
    assert list(off.objects()) == []
    assert off.skipped == {"Grid": 1, "Lamp": 2}


def test_a_bad_object_of_a_kind_that_is_not_needed_is_nobodys_business() -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "Lamp", "metadata": {"name": 7}}).encode()
    assert load(["-"], io.BytesIO(text), None, kinds_of([])).problems == []
    (problem,) = load(["-"], io.BytesIO(text), None, kinds_of(["light"])).problems
    assert (problem.kind, problem.field) == ("Lamp", "metadata.name")


def test_a_list_of_a_kind_and_a_misspelt_kind_are_recognised_only_where_it_is_needed() -> None:
    misspelt = json.dumps({**LAMPS[1], "kind": "grid"}).encode()
    (notice,) = load(["-"], io.BytesIO(misspelt), None, kinds_of(["light"])).notices
    assert "Grid of example.org/v1alpha2 is" in notice.message
    assert load(["-"], io.BytesIO(misspelt), None, kinds_of([])).notices == []
    items = json.dumps({"apiVersion": "v1", "kind": "LampList", "items": "none"}).encode()
    assert load(["-"], io.BytesIO(items), None, kinds_of(["light"])).problems
    assert not load(["-"], io.BytesIO(items), None, kinds_of([])).problems


def written(server: ApiServer, path: Path, features: list[str]) -> list[str]:
    output = io.StringIO()
    write_manifests(read_cluster(connect(server.kubeconfig(path)), kinds_of(features)), output)
    return [line.removeprefix("kind: ") for line in output.getvalue().split("\n") if line.startswith("kind: ")]


def test_a_snapshot_holds_the_kinds_that_are_needed(server: ApiServer, tmp_path: Path) -> None:
    server.put(service(), *LAMPS)
    assert written(server, tmp_path / "k", ["light"]) == ["Service", "Lamp", "Lamp", "Grid"]
    assert written(server, tmp_path / "k", []) == ["Service"]


class Events:
    """What a follower tells."""

    def __init__(self, server: ApiServer, path: Path, features: list[str]) -> None:
        self.told: list[FollowEvent] = []
        self._api = connect(server.kubeconfig(path))
        self.follower = Follower(self._api, resources(features, "node-1"), self.told.append, QUICK)

    def until(self, event: FollowEvent) -> None:
        end = time.monotonic() + patience(30)
        while event not in self.told:
            assert time.monotonic() < end, self.told
            time.sleep(0.01)


def test_it_is_followed_as_every_other_kind_and_only_where_it_is_needed(server: ApiServer, tmp_path: Path) -> None:
    server.served.pop(EVERY_KIND[Grid].path)
    server.put(*LAMPS)
    events = Events(server, tmp_path / "k", ["light"])
    with events.follower:
        # A kind that the server does not know is empty, and no error.
        for kind in (Lamp, Grid, Service, EndpointSlice, Node, ServiceCIDR):
            events.until(Synced(kind))
        server.delete(Lamp, "a", "home")
        events.until(Delete(Lamp, "home", "a"))
        lamps = [event.item.metadata.name for event in events.told if isinstance(event, Upsert)]
    assert lamps == ["a", "b"]
    assert not [event for event in events.told if isinstance(event, Interrupted)]
    before = server.count(Lamp, "list")
    off = Events(server, tmp_path / "k", [])
    with off.follower:
        off.until(Synced(Service))
        off.until(Synced(Node))
    assert server.count(Lamp, "list") == before == 1


def test_the_role_is_for_the_kinds_of_the_features() -> None:
    role = runpy.run_path(str(REPOSITORY / "scripts/cluster_role.py"))["rules"]
    usual, more = (yaml.safe_load(role(features)) for features in ([], ["light"]))
    added = [rule for rule in more if rule not in usual]
    assert added == [
        {"apiGroups": [""], "resources": ["lamps"], "verbs": ["list", "watch"]},
        {"apiGroups": ["example.org"], "resources": ["grids"], "verbs": ["list", "watch"]},
    ]
