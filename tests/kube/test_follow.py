"""Following an API server that speaks the real protocol, through the real client: what happens, what is told of it."""

from __future__ import annotations

import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

import msgspec
import pytest

from rulegen.features import resources
from rulegen.kube.api import connect
from rulegen.kube.follow import Delete, Failed, Follower, Interrupted, Invalid, Resumed, Synced, Upsert
from rulegen.kube.objects import EndpointSlice, Node, Service, ServiceCIDR
from tests.apiserver import ApiServer
from tests.apiserver.faults import (
    Answer,
    Body,
    Cut,
    Drip,
    End,
    ErrorEvent,
    HalfBody,
    Hang,
    Late,
    Line,
    Raw,
    Silence,
)
from tests.apiserver.server import Verb
from tests.builders import endpoint_slice, node, service, service_cidr
from tests.kube.conftest import QUICK, Followed, left_threads
from tests.patience import patience

Follow: TypeAlias = Callable[..., Followed]


def names(followed: Followed, kind: type[Service] | type[EndpointSlice] | type[Node] | type[ServiceCIDR]) -> list[str]:
    return sorted(followed.state(kind))


# What is followed.


def test_what_is_there_is_told_before_a_kind_is_synced(server: ApiServer, follow: Follow) -> None:
    objects = (service("web"), endpoint_slice(["10.0.0.1"], name="web-1"), node("node-1"), service_cidr("10.96.0.0/16"))
    server.put(*objects)
    followed = follow()
    followed.synced()
    for item in objects:
        told = [event.item if isinstance(event, Upsert) else event for event in followed.events]
        (upsert,) = [event for event in told if isinstance(event, type(item))]
        assert msgspec.structs.replace(upsert, metadata=item.metadata) == item
        assert told.index(upsert) < told.index(Synced(type(item)))


def test_an_empty_cluster_is_synced(follow: Follow) -> None:
    followed = follow()
    followed.synced()
    assert len(followed.events) == 4


def test_changes_are_told_as_they_happen(server: ApiServer, follow: Follow) -> None:
    followed = follow()
    followed.synced()
    server.put(service("web", ["10.96.0.1"]))
    followed.until(lambda: names(followed, Service) == ["web"])
    server.put(service("web", ["10.96.0.2"]))
    followed.until(lambda: [event.item.spec.cluster_ip for event in followed.of(Upsert)] == ["10.96.0.1", "10.96.0.2"])
    server.delete(Service, "web", "default")
    followed.until(lambda: followed.of(Delete) == [Delete(Service, "default", "web")])
    server.put(service_cidr("10.96.0.0/16"))
    followed.until(lambda: names(followed, ServiceCIDR) == ["kubernetes"])
    server.delete(ServiceCIDR, "kubernetes")
    followed.until(lambda: Delete(ServiceCIDR, "", "kubernetes") in followed.events)
    assert server.count(Service, "list") == server.count(Service, "watch") == 1


def test_svc_1_services_of_another_proxy_and_headless_ones_are_not_followed(server: ApiServer, follow: Follow) -> None:
    other = {"service.kubernetes.io/service-proxy-name": ""}
    server.put(service("web"), service("theirs", labels=other), service("headless", ["None"]))
    followed = follow()
    followed.synced()
    assert names(followed, Service) == ["web"]
    # The label that comes later is a deletion; and goes again.
    server.put(service("web", labels=other))
    followed.until(lambda: followed.of(Delete) == [Delete(Service, "default", "web")])
    server.put(service("web"))
    followed.until(lambda: names(followed, Service) == ["web"])


def test_svc_2_slices_of_headless_services_are_not_followed(server: ApiServer, follow: Follow) -> None:
    server.put(endpoint_slice(name="web-1"), endpoint_slice(name="db-1", labels={"service.kubernetes.io/headless": ""}))
    followed = follow()
    followed.synced()
    assert names(followed, EndpointSlice) == ["web-1"]


def test_svc_3_only_the_own_node_is_followed(server: ApiServer, follow: Follow) -> None:
    server.put(node("node-1"), node("node-2"))
    followed = follow()
    followed.synced()
    server.put(node("node-2", zone="b"), node("node-1", zone="a"))
    followed.until(lambda: len(followed.of(Upsert)) == 2)
    assert names(followed, Node) == ["node-1"]


def test_service_cidrs_of_an_older_version_or_none_at_all(server: ApiServer, follow: Follow) -> None:
    server.put(service_cidr("10.96.0.0/16"))
    v1 = "/apis/networking.k8s.io/v1/servicecidrs"
    kind = server.served.pop(v1)
    followed = follow()
    followed.synced()
    assert names(followed, ServiceCIDR) == []
    assert not followed.of(Interrupted)
    server.served[v1.replace("v1", "v1beta1")] = kind
    beta = follow()
    beta.synced()
    assert names(beta, ServiceCIDR) == ["kubernetes"]


def test_a_kind_that_a_server_turns_out_not_to_have_is_not_waited_for_any_more(
    server: ApiServer, follow: Follow
) -> None:
    server.inject(ServiceCIDR, "list", *[Answer(500)] * 1000)
    followed = follow()
    followed.until(lambda: [event.kind for event in followed.of(Interrupted)][:2] == [ServiceCIDR] * 2)
    server.served.pop("/apis/networking.k8s.io/v1/servicecidrs")
    followed.synced()
    followed.until(lambda: Resumed(ServiceCIDR) in followed.events)


def test_a_server_without_services_is_an_error_and_deletes_nothing(server: ApiServer, follow: Follow) -> None:
    server.put(service("web"))
    followed = follow()
    followed.synced()
    followed.until(lambda: server.watchers(Service) == 1)
    kind = server.served.pop("/api/v1/services")
    server.disturb(Service, End())
    followed.until(lambda: len([event for event in followed.of(Interrupted) if event.kind is Service]) > 2)
    server.served["/api/v1/services"] = kind
    followed.until(lambda: Resumed(Service) in followed.events)
    assert names(followed, Service) == ["web"]
    assert not followed.of(Delete)


# Lists.


def test_lists_come_in_pages_of_one_moment(server: ApiServer, follow: Follow) -> None:
    server.put(*(service(f"s-{number}") for number in range(25)))
    followed = follow(msgspec.structs.replace(QUICK, page_limit=10))
    followed.synced()
    assert len(names(followed, Service)) == 25
    pages = [request.query for request in server.requests if (request.verb, request.kind) == ("list", "Service")]
    assert [page["limit"] for page in pages] == ["10", "10", "10"]
    assert ["continue" in page for page in pages] == [False, True, True]


def test_a_list_whose_rest_has_expired_is_begun_again(server: ApiServer, follow: Follow) -> None:
    server.put(*(service(f"s-{number}") for number in range(25)))
    server.inject(Service, "list", Late(0), Answer(410, "Expired"))
    followed = follow(msgspec.structs.replace(QUICK, page_limit=10))
    followed.synced()
    assert len(names(followed, Service)) == 25
    assert len(followed.of(Upsert)) == 25
    assert server.count(Service, "list") == 4


def test_a_large_list_is_compressed_and_read(server: ApiServer, follow: Follow) -> None:
    server.put(*(endpoint_slice([f"10.0.{n}.{i}" for i in range(100)], name=f"s-{n}") for n in range(50)))
    followed = follow()
    followed.synced()
    assert len(names(followed, EndpointSlice)) == 50
    assert server.compressed == 1


@pytest.mark.parametrize(
    "fault", [HalfBody(), Body(b"<html>hello</html>"), Body(b'{"items": 5}'), Answer(500), Answer(503), Answer(403)]
)
def test_a_list_that_fails_is_asked_for_again(
    server: ApiServer, follow: Follow, fault: HalfBody | Body | Answer
) -> None:
    server.put(service("web"))
    server.inject(Service, "list", fault, fault)
    followed = follow()
    followed.synced()
    assert [event.kind for event in followed.of(Interrupted)] == [Service, Service]
    followed.until(lambda: Resumed(Service) in followed.events)
    assert names(followed, Service) == ["web"]


def test_a_slow_list_holds_nothing_else_up(server: ApiServer, follow: Follow) -> None:
    server.put(service("web"), endpoint_slice(name="web-1"))
    server.inject(Service, "list", Late(0.5))
    followed = follow()
    followed.synced(EndpointSlice)
    assert Synced(Service) not in followed.events
    followed.synced()


def test_memory_does_not_grow_with_the_list(server: ApiServer, tmp_path: Path) -> None:
    slices = 480
    addresses = [f"10.{n // 200}.0.{n % 200}" for n in range(250)]
    server.put(*(endpoint_slice(addresses, name=f"s-{number}") for number in range(slices)))
    synced = threading.Event()
    size = sum(
        len(item.text)
        for item in server.store.page(
            server.served["/apis/discovery.k8s.io/v1/endpointslices"], lambda _: True, 0, ""
        ).items
    )
    timing = msgspec.structs.replace(QUICK, page_limit=20)
    follower = Follower(
        connect(server.kubeconfig(tmp_path / "k")),
        resources((), "n"),
        lambda e: synced.set() if e == Synced(EndpointSlice) else None,
        timing,
    )
    tracemalloc.start()
    try:
        with follower:
            assert synced.wait(20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The server's own page is counted too, as text and compressed.
    assert peak < size / 3, f"{peak} of {size}"


# Watches that end.


def test_a_watch_whose_time_is_up_goes_on_without_a_list(server: ApiServer, follow: Follow) -> None:
    followed = follow(msgspec.structs.replace(QUICK, watch_seconds=(1, 1), steady=0.1))
    followed.synced()
    followed.until(lambda: server.count(Service, "watch") >= 2)
    server.put(service("web"))
    followed.until(lambda: names(followed, Service) == ["web"])
    assert server.count(Service, "list") == 1
    assert not followed.of(Interrupted)


def test_a_watch_that_is_cut_in_the_middle_of_a_line_goes_on_where_it_was(server: ApiServer, follow: Follow) -> None:
    followed = follow()
    followed.synced()
    server.put(service("one"))
    followed.until(lambda: names(followed, Service) == ["one"])
    server.disturb(Service, Cut())
    server.put(service("two"))
    followed.until(lambda: names(followed, Service) == ["one", "two"])
    assert [event.item.metadata.name for event in followed.of(Upsert)] == ["one", "two"]
    assert server.count(Service, "list") == 1
    assert Resumed(Service) in followed.events
    watches = [request.query for request in server.requests if (request.verb, request.kind) == ("watch", "Service")]
    assert int(watches[-1]["resourceVersion"]) == server.store.version - 1


def test_what_happens_while_the_server_is_away_is_told_when_it_is_back(server: ApiServer, follow: Follow) -> None:
    server.put(service("stays"), service("goes"))
    followed = follow()
    followed.synced()
    before = len(followed.events)
    server.stop()
    followed.until(lambda: len({event.kind for event in followed.of(Interrupted)}) == 4)
    time.sleep(0.3)
    assert not [event for event in followed.events[before:] if not isinstance(event, Interrupted)]
    server.delete(Service, "goes", "default")
    server.put(service("new"))
    server.start()
    followed.until(lambda: names(followed, Service) == ["new", "stays"])
    assert server.count(Service, "list") == 1


@pytest.mark.parametrize("way", ["status", "event"])
def test_after_410_what_differs_is_told_and_nothing_else(server: ApiServer, follow: Follow, way: str) -> None:
    server.put(service("stays"), service("goes"), service("changes"))
    followed = follow()
    followed.synced()
    before = len(followed.events)
    server.stop()
    server.delete(Service, "goes", "default")
    server.put(service("changes", ["10.96.0.99"]), service("new"))
    if way == "event":
        server.store.compact()
    else:
        server.inject(Service, "watch", Answer(410, "Gone"))
    server.start()
    followed.until(lambda: followed.events.count(Synced(Service)) == 2)
    followed.until(lambda: server.watchers(Service) == 1)
    told = [event for event in followed.events[before:] if isinstance(event, Upsert | Delete)]
    assert [event.item.metadata.name for event in told if isinstance(event, Upsert)] == ["changes", "new"]
    assert [event for event in told if isinstance(event, Delete)] == [Delete(Service, "default", "goes")]


def test_after_an_outage_a_410_is_not_waited_after(server: ApiServer, follow: Follow) -> None:
    """The longest delay has been reached, and is that of the next failure; what the server forgot is none."""
    server.put(service("old"))
    followed = follow(msgspec.structs.replace(QUICK, first_delay=4.0, longest_delay=4.0))
    followed.synced()
    # The delay would be half of four seconds at least. On a busy machine all may take long, but not each time.
    for lists in range(2, 7):
        followed.until(lambda: server.watchers(Service) == 1)
        watches, outages = server.count(Service, "watch"), len(_of_services(followed))
        server.stop()
        followed.until(lambda outages=outages: len(_of_services(followed)) > outages)  # type: ignore[misc]
        server.put(service(f"new-{lists}"))
        server.store.compact()
        server.start()
        followed.until(lambda watches=watches: server.count(Service, "watch") > watches)  # type: ignore[misc]
        began = time.monotonic()
        followed.until(lambda lists=lists: followed.events.count(Synced(Service)) == lists)  # type: ignore[misc]
        assert not [event for event in followed.of(Interrupted) if getattr(event.error, "status", 0) == 410]
        if time.monotonic() - began < 2.0:
            break
    else:
        raise AssertionError("there was a delay each time")
    assert names(followed, Service) == [*(f"new-{number}" for number in range(2, lists + 1)), "old"]


def _of_services(followed: Followed) -> list[Interrupted]:
    return [event for event in followed.of(Interrupted) if event.kind is Service]


def test_a_server_that_forgets_at_once_is_not_asked_without_a_pause(server: ApiServer, follow: Follow) -> None:
    followed = follow(msgspec.structs.replace(QUICK, first_delay=0.2, longest_delay=5.0))
    server.inject(Service, "watch", *[Answer(410, "Expired")] * 1000)
    followed.synced()
    followed.until(lambda: server.count(Service, "list") >= 2)
    began = time.monotonic()
    time.sleep(1.0)
    # Without a pause there are hundreds in this time; with one, the second and each later one waits twice as long.
    assert server.count(Service, "list") <= 10 + (time.monotonic() - began)
    server.put(service("new"))
    followed.until(lambda: names(followed, Service) == ["new"])


def test_a_bookmark_spares_the_list(server: ApiServer, follow: Follow) -> None:
    """Nodes are quiet while Services change: without one, the watch of Nodes would start from the distant past."""
    followed = follow()
    followed.synced()
    followed.until(lambda: server.watchers(Node) == server.watchers(ServiceCIDR) == 1)
    server.put(*(service(f"s-{number}") for number in range(5)))
    server.bookmark(Node)
    server.store.compact()
    time.sleep(0.1)
    server.disturb(Node, End())
    followed.until(lambda: server.count(Node, "watch") == 2 and server.watchers(Node) == 1)
    server.put(node("node-1"))
    followed.until(lambda: names(followed, Node) == ["node-1"])
    assert server.count(Node, "list") == 1
    # ServiceCIDRs were as quiet, and had no bookmark.
    followed.until(lambda: server.watchers(ServiceCIDR) == 1)
    server.disturb(ServiceCIDR, End())
    followed.until(lambda: server.count(ServiceCIDR, "list") == 2)


def test_an_error_in_the_stream_is_no_reason_to_list(server: ApiServer, follow: Follow) -> None:
    followed = follow()
    followed.synced()
    followed.until(lambda: server.watchers(Service) == 1)
    server.disturb(Service, ErrorEvent(500, "InternalError"))
    followed.until(lambda: Resumed(Service) in followed.events)
    server.put(service("web"))
    followed.until(lambda: names(followed, Service) == ["web"])
    (interrupted,) = followed.of(Interrupted)
    assert str(interrupted.error).endswith("500 InternalError: this is answer 500")
    assert server.count(Service, "list") == 1


def test_a_cluster_that_was_put_back_to_a_backup_is_listed(server: ApiServer, follow: Follow) -> None:
    version = server.put(service("web"))
    followed = follow()
    followed.synced()
    server.put(service("later"))
    followed.until(lambda: names(followed, Service) == ["later", "web"])
    server.stop()
    server.store.restore(version - 1)
    # The same version again, of something else.
    assert server.put(service("web", ["10.96.0.77"])) == version
    server.start()
    followed.until(lambda: followed.events.count(Synced(Service)) == 2)
    assert followed.state(Service)["web"].spec.cluster_ip == "10.96.0.77"


def test_a_cluster_that_is_put_back_while_it_is_listed_is_listed_anew(server: ApiServer, follow: Follow) -> None:
    version = server.put(service("a"))
    server.put(service("b"))
    server.inject(Service, "list", Late(0), Hang())
    followed = follow(msgspec.structs.replace(QUICK, page_limit=1))
    followed.until(lambda: names(followed, Service) == ["a"])
    server.stop()
    server.store.restore(version - 1)
    assert server.put(service("a", ["10.96.0.77"])) == version
    server.start()
    followed.until(lambda: Synced(Service) in followed.events)
    assert followed.state(Service)["a"].spec.cluster_ip == "10.96.0.77"


def test_a_silent_watch_is_renewed(server: ApiServer, follow: Follow) -> None:
    server.inject(Service, "watch", Silence())
    followed = follow(msgspec.structs.replace(QUICK, silence=1.0))
    followed.until(lambda: server.watchers(Service) == 1)
    server.put(service("web"))
    followed.until(lambda: names(followed, Service) == ["web"])
    assert any("silent" in str(event.error) for event in followed.of(Interrupted))
    assert server.count(Service, "list") == 1


def test_a_server_that_does_not_answer_is_asked_again(server: ApiServer, follow: Follow) -> None:
    server.inject(Service, "watch", Hang())
    followed = follow(msgspec.structs.replace(QUICK, silence=1.0))
    followed.synced(Service)
    server.put(service("web"))
    followed.until(lambda: names(followed, Service) == ["web"])


# Back-off.


def test_delays_grow_to_a_bound_and_begin_anew_after_a_steady_watch(server: ApiServer, follow: Follow) -> None:
    server.inject(Service, "list", *[Answer(500)] * 6)
    followed = follow()
    followed.until(lambda: Resumed(Service) in followed.events)
    seconds = [event.seconds for event in followed.of(Interrupted)]
    bounds = [0.02, 0.04, 0.08, 0.1, 0.1, 0.1]
    assert all(bound / 2 <= found <= bound for found, bound in zip(seconds, bounds, strict=True))
    time.sleep(0.3)
    server.disturb(Service, Cut())
    server.put(service("web"))
    followed.until(lambda: len(followed.of(Interrupted)) == 7)
    assert followed.of(Interrupted)[-1].seconds <= 0.02


def test_a_watch_that_ends_again_and_again_is_not_renewed_in_a_hurry(server: ApiServer, follow: Follow) -> None:
    server.inject(Service, "watch", *[End()] * 1000)
    followed = follow()
    followed.synced()
    followed.until(lambda: server.count(Service, "watch") > 1)
    began, before = time.monotonic(), server.count(Service, "watch")
    time.sleep(0.7)
    # Each delay is 0.05 s or more once they have grown.
    assert server.count(Service, "watch") - before <= 5 + (time.monotonic() - began) / 0.05


def test_retry_after_is_honoured(server: ApiServer, follow: Follow) -> None:
    server.inject(Service, "list", Answer(429, "TooManyRequests", retry_after="1"))
    began = time.monotonic()
    followed = follow()
    followed.synced()
    assert time.monotonic() - began >= 1.0
    (interrupted,) = followed.of(Interrupted)
    assert 1.0 <= interrupted.seconds <= 1.1


# Credentials.


def test_a_token_that_was_rotated_is_read_again(server: ApiServer, follow: Follow, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    server.tokens = {"old"}
    followed = follow(kubeconfig=server.kubeconfig(tmp_path / "k", token_file=token))
    followed.until(lambda: all(server.watchers(kind) for kind in followed.kinds))
    server.tokens = {"new"}
    server.disturb(Service, End())
    followed.until(lambda: any("401" in str(event.error) for event in followed.of(Interrupted)))
    token.write_text("new")
    followed.until(lambda: Resumed(Service) in followed.events)
    server.put(service("web"))
    followed.until(lambda: names(followed, Service) == ["web"])
    assert server.count(Service, "list") == 1


def test_a_token_that_was_rotated_in_time_is_no_interruption(server: ApiServer, follow: Follow, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    server.tokens = {"old"}
    followed = follow(kubeconfig=server.kubeconfig(tmp_path / "k", token_file=token))
    followed.synced()
    followed.until(lambda: server.watchers(Service) == 1)
    time.sleep(QUICK.steady)
    token.write_text("new")
    server.tokens = {"new"}
    server.disturb(Service, End())
    followed.until(lambda: server.count(Service, "watch", 401) == 1)
    server.put(service("web"))
    followed.until(lambda: names(followed, Service) == ["web"])
    assert not followed.of(Interrupted)


# What cannot be read.


def test_an_invalid_object_is_reported_by_name_and_holds_nothing_up(server: ApiServer, follow: Follow) -> None:
    good = msgspec.to_builtins(service("web"))
    bad = {"apiVersion": "v1", "kind": "Service", **good, "spec": {"ports": [{"port": 70000}]}}
    bad["metadata"] = {"name": "bad", "namespace": "default"}
    server.put(bad, service("web"))
    followed = follow()
    followed.synced()
    (invalid,) = followed.of(Invalid)
    assert (invalid.kind, invalid.namespace, invalid.name) == (Service, "default", "bad")
    assert str(invalid.error) == "Service default/bad: spec.ports[0].port: expected a port from 1 to 65535, got 70000"
    assert names(followed, Service) == ["web"]
    # In a watch: a good one that turns bad, is not deleted by that, and turns good again.
    server.put({**bad, "metadata": {"name": "web", "namespace": "default"}}, service("after"))
    followed.until(lambda: names(followed, Service) == ["after", "web"])
    assert [event.name for event in followed.of(Invalid)] == ["bad", "web"]
    server.disturb(Service, ErrorEvent(410, "Expired"))
    followed.until(lambda: followed.events.count(Synced(Service)) == 2)
    assert len(followed.of(Invalid)) == 2
    assert not followed.of(Delete)
    server.put(service("web", ["10.96.0.9"]))
    followed.until(lambda: followed.state(Service)["web"].spec.cluster_ip == "10.96.0.9")
    server.delete(Service, "bad", "default")
    followed.until(lambda: Delete(Service, "default", "bad") in followed.events)


@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b'{"type":"ADDED"',
        b'{"type":"ADDED","object":5}',
        b'{"type":"MODIFIED","object":{"metadata":{}}}',
        b'{"type":"DELETED","object":{"metadata":{"name":5}}}',
        b'{"type":"SOMETHING","object":{}}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_line_that_is_no_event_ends_nothing_and_is_made_up_for(
    server: ApiServer, follow: Follow, line: bytes
) -> None:
    server.put(service("web"))
    followed = follow()
    followed.synced()
    followed.until(lambda: server.watchers(Service) == 1)
    server.disturb(Service, Line(line))
    server.put(service("after"))
    followed.until(lambda: names(followed, Service) == ["after", "web"])
    assert server.count(Service, "watch") == 1
    if b"DELETED" not in line:
        (invalid,) = followed.of(Invalid)
        assert (invalid.kind, invalid.name) == (Service, "")
        assert len(str(invalid.error)) < 400
    # What it should have told is unknown: when the stream ends, everything is listed.
    server.disturb(Service, End())
    followed.until(lambda: followed.events.count(Synced(Service)) == 2)
    assert not followed.of(Delete)


@pytest.mark.parametrize("port", [80, 70000])
@pytest.mark.parametrize("way", ["watch", "list"])
def test_an_object_without_a_namespace_goes_as_it_came(server: ApiServer, follow: Follow, way: str, port: int) -> None:
    """No API server of Kubernetes leaves it out; a proxy or an imitation may."""
    server.put(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bare"}, "spec": {"ports": [{"port": port}]}}
    )
    followed = follow()
    followed.synced()
    upserts = [event.item.metadata.namespace for event in followed.of(Upsert)]
    assert [*upserts, *(event.namespace for event in followed.of(Invalid))] == ["default"]
    followed.until(lambda: server.watchers(Service) == 1)
    if way == "list":
        server.stop()
    server.delete(Service, "bare")
    if way == "list":
        server.store.compact()
        server.start()
    followed.until(lambda: followed.of(Delete) == [Delete(Service, "default", "bare")])


@pytest.mark.parametrize("verb", ["list", "watch"])
def test_a_refusal_that_is_nested_too_deeply_is_one_as_any(server: ApiServer, follow: Follow, verb: Verb) -> None:
    server.inject(Service, verb, Raw(b'HTTP/1.1 500 Deep\r\n\r\n{"metadata": ' + b"[" * 60_000))
    followed = follow()
    followed.until(lambda: bool(followed.of(Interrupted)))
    server.put(service("after"))
    followed.until(lambda: names(followed, Service) == ["after"])
    assert not followed.of(Failed)


def test_names_of_invalid_objects_are_safe_to_print(server: ApiServer, follow: Follow) -> None:
    server.put(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a\n\x1b[2J", "namespace": "b"}, "spec": {}}
    )
    followed = follow()
    followed.synced()
    (invalid,) = followed.of(Invalid)
    assert str(invalid.error).isprintable()


# Order and pace.


def test_many_changes_arrive_complete_and_in_order(server: ApiServer, follow: Follow) -> None:
    followed = follow()
    followed.synced()
    addresses = [f"10.96.{n // 250}.{n % 250 + 1}" for n in range(400)]
    for number, address in enumerate(addresses):
        if number % 100 == 50:
            followed.until(lambda: server.watchers(Service) == 1)
            server.disturb(Service, Cut())
        server.put(service("web", [address]))
    followed.until(lambda: followed.has(Upsert, 400))
    assert [event.item.spec.cluster_ip for event in followed.of(Upsert)] == addresses


def test_an_event_is_told_within_milliseconds(server: ApiServer, follow: Follow) -> None:
    followed = follow()
    followed.synced()
    followed.until(lambda: server.watchers(Service) == 1)
    # The best of as many as it takes, since the host may be busy: nothing between the server and the event waits.
    for number in range(200):
        began = time.monotonic()
        server.put(service("web", [f"10.96.0.{number + 1}"]))
        followed.until(partial(followed.has, Upsert, number + 1))
        if time.monotonic() - began < 0.05:
            return
    raise AssertionError("none of 200 was told within milliseconds")


# Stopping.

# Whatever is waited for is waited for long.
UNHURRIED = msgspec.structs.replace(QUICK, silence=600.0)


@contextmanager
def port_that_accepts() -> Iterator[int]:
    """Connections are accepted, and that is all."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@contextmanager
def port_that_drops() -> Iterator[int]:
    """What asks for a connection is dropped, as by a firewall: the queue of the listener is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as stack:
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def stops_at_once(followed: Followed) -> None:
    """Where it does not, it would take ten minutes."""
    time.sleep(0.2)
    before = len(followed.events)
    began = time.monotonic()
    followed.follower.stop()
    assert not left_threads()
    assert time.monotonic() - began < patience(5)
    assert len(followed.events) == before


def test_stopping_ends_watches(server: ApiServer, follow: Follow) -> None:
    followed = follow()
    followed.synced()
    followed.until(lambda: server.watchers(Service) == 1)
    stops_at_once(followed)


@pytest.mark.parametrize(
    "fault",
    [
        Hang(),
        Late(600),
        Answer(429, retry_after="600"),
        Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", hangs=True),
        Raw(b"HTTP/1.1 500 No\r\nContent-Length: 99\r\n\r\n", hangs=True),
        Drip(b"HTTP/1.1 200 OK\r\n", b"x", 0.01),
        Drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", 0.01),
    ],
)
def test_stopping_waits_for_no_answer_and_no_delay(
    server: ApiServer, follow: Follow, fault: Hang | Late | Answer | Raw | Drip
) -> None:
    server.inject(Service, "list", fault)
    stops_at_once(follow(UNHURRIED))


@pytest.mark.parametrize("port", [port_that_accepts, port_that_drops])
def test_stopping_waits_for_no_connection(
    server: ApiServer,
    follow: Follow,
    tmp_path: Path,
    port: Callable[[], AbstractContextManager[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rulegen.kube.api._CONNECT_SECONDS", 600.0)
    kubeconfig = Path(server.kubeconfig(tmp_path / "elsewhere"))
    with port() as number:
        kubeconfig.write_text(kubeconfig.read_text().replace(server.url, f"https://127.0.0.1:{number}"))
        stops_at_once(follow(UNHURRIED, str(kubeconfig)))


def test_stopping_waits_for_no_name(
    server: ApiServer, follow: Follow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resolver cannot be interrupted."""
    answers = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers.wait(600) and [])
    try:
        stops_at_once(follow())
    finally:
        answers.set()
