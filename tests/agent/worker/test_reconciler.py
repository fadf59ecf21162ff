"""What the reconciler makes of events, in a real kernel; in one that also refuses something."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rulegen.errors import ApplyError
from rulegen.iptables.binaries import RestoreError, Variant
from rulegen.iptables.chains import NAT
from rulegen.iptables.kernel import Kernel
from rulegen.iptables.live_rules import LiveChains
from rulegen.iptables.loader import RestoreLoader
from rulegen.iptables.transaction import Step
from rulegen.kube.objects import EndpointSlice, Service
from rulegen.nftables.elements import EntryKey, Value
from rulegen.nftables.live_rules import LiveTables
from rulegen.reconcile.delta import Delta
from rulegen.reconcile.reconciler import Reconciler
from rulegen.reference import ObjectReference
from tests.agent.running import web
from tests.builders import Item, endpoint_slice, node, service
from tests.iptables.host import Host as IptablesHost
from tests.kept import services_on
from tests.nftables.host import Host, host_or_skip, lines_of

pytestmark = pytest.mark.kernel


class Refusing(LiveTables):
    """The kernel, but it takes no element with one of these words in its comment."""

    words: tuple[str, ...] = ()

    def _refuse(self, delta: Delta[EntryKey, Value]) -> None:
        for value in delta.added.values():
            if any(word in value.comment for word in self.words):
                raise ApplyError(f"the kernel refused {value.comment}")

    def apply(self, delta: Delta[EntryKey, Value]) -> None:
        self._refuse(delta)
        super().apply(delta)

    def check(self, delta: Delta[EntryKey, Value]) -> None:
        self._refuse(delta)
        super().check(delta)


class Scene:
    """A reconciler in a namespace."""

    def __init__(self, host: Host) -> None:
        self.host = host
        services, compilers = services_on("nftables")
        self.target = Refusing(host.kernel, compilers)
        self.reconciler = Reconciler([services], self.target)

    def take(self, *items: Item) -> None:
        for item in items:
            self.reconciler.put(item)

    def sync(self) -> list[str]:
        """What changed; refusals are in `refused`."""
        with self.host.namespace.entered():
            done = self.reconciler.sync()
        self.refused = list(done.refused.values())
        return lines_of(done.delta)

    def is_equal_to(self, *items: Item) -> bool:
        return lines_of(self.host.delta(*items)) == []


@pytest.fixture
def scene() -> Iterator[Scene]:
    with host_or_skip() as host:
        yield Scene(host)


def test_a_change_touches_its_own_service_and_reads_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.take(*web(1, 1, 2), *web(2, 3))
    scene.sync()
    monkeypatch.setattr(scene.target, "read", None)
    scene.take(*web(1, 1, 5))
    assert scene.sync() == [
        "~ ip endpoints 8000:1000 . tcp . 1",
    ]
    assert scene.is_equal_to(*web(1, 1, 5), *web(2, 3))
    scene.reconciler.remove(Service, ObjectReference("Service", "default", "web-2"))
    scene.reconciler.remove(EndpointSlice, ObjectReference("EndpointSlice", "default", "web-2-a"))
    scene.sync()
    assert scene.is_equal_to(*web(1, 1, 5))
    assert scene.sync() == []


def test_what_is_live_is_adopted(scene: Scene) -> None:
    items = [*web(1, 3, 1, 2), *web(2, 4)]
    scene.host.apply(*reversed(items))
    scene.take(*items)
    assert scene.sync() == []


def test_a_service_that_cannot_be_expressed_keeps_what_it_had(scene: Scene) -> None:
    sticky = service("sticky", ["10.96.0.9"], affinity=60)
    before: list[Item] = [sticky, endpoint_slice(["10.1.0.1"], service_name="sticky")]
    scene.take(*before)
    scene.sync()
    hosts = [f"10.1.{number // 250}.{number % 250 + 1}" for number in range(2100)]
    scene.take(endpoint_slice(hosts, service_name="sticky"), *web(1, 1))
    scene.sync()
    (message,) = scene.refused
    assert message.startswith("Service default/sticky")
    assert scene.is_equal_to(*before, *web(1, 1))
    scene.take(endpoint_slice(["10.1.0.7"], service_name="sticky"))
    scene.sync()
    assert scene.refused == []
    assert scene.is_equal_to(sticky, endpoint_slice(["10.1.0.7"], service_name="sticky"), *web(1, 1))


@pytest.mark.parametrize("is_loaded", [False, True])
def test_services_that_the_kernel_refuses_do_not_stop_the_others(scene: Scene, is_loaded: bool) -> None:
    good = [item for number in range(40) for item in web(number, 1, 2)]
    if is_loaded:
        scene.take(*web(0, 1, 2))
        scene.sync()
    scene.target.words = ("web-77", "web-78")
    scene.take(*good, *web(77, 1), *web(78, 2))
    try:
        scene.sync()
    except ApplyError:
        assert is_loaded  # then the first attempt is a small one; the next reads the kernel
        scene.sync()
    assert sorted(scene.refused) == [
        f"Service default/web-{number} (IPv4): the kernel refused default/web-{number}" for number in (77, 78)
    ]
    assert scene.is_equal_to(*good)
    scene.target.words = ()
    scene.take(*web(77, 5), *web(78, 6))
    scene.sync()
    assert scene.refused == []
    assert scene.is_equal_to(*good, *web(77, 5), *web(78, 6))


def test_a_kernel_that_takes_nothing_is_no_services_fault(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.take(*web(1, 1), *web(2, 2))
    with monkeypatch.context() as patched:

        def refuse(*_: object) -> None:
            raise ApplyError("refused")

        patched.setattr(scene.target, "apply", refuse)
        patched.setattr(scene.target, "check", refuse)
        with pytest.raises(ApplyError):
            scene.sync()
    scene.sync()
    assert scene.refused == []
    assert scene.is_equal_to(*web(1, 1), *web(2, 2))


def test_a_failure_loses_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.take(*web(1, 1))
    scene.sync()
    with monkeypatch.context() as patched:

        def refuse(*_: object) -> None:
            raise ApplyError("refused")

        patched.setattr(scene.target, "apply", refuse)
        for host in (2, 3):
            scene.take(*web(host, host))
            with pytest.raises(ApplyError):
                scene.sync()
    scene.sync()
    assert scene.is_equal_to(*web(1, 1), *web(2, 2), *web(3, 3))


def test_a_change_of_the_node_recompiles_the_program(scene: Scene) -> None:
    scene.take(*web(1, 1))
    scene.sync()
    here = node(addresses=["192.168.1.10", "fd00:1::10"])
    scene.take(here)
    assert scene.sync()
    assert scene.is_equal_to(*web(1, 1), here)


class RefusingLoader(RestoreLoader):
    """iptables-restore, but it takes no rule with one of these words in the nat table."""

    words: tuple[str, ...] = ()

    def take(self, step: Step, *, test: bool) -> None:
        for number, line in enumerate(step.lines, 1):
            for word in self.words:
                if step.table == NAT and word in line:
                    raise RestoreError(f"iptables-restore refused {word}", number)
        super().take(step, test=test)


@pytest.mark.parametrize("variant", Variant, ids=lambda variant: variant.value)
def test_services_that_iptables_refuses_do_not_stop_the_others(variant: Variant) -> None:
    good = [item for number in range(20) for item in web(number, 1, 2)]
    loader = RefusingLoader(variant, 5)
    loader.words = ("web-77", "web-78")
    with IptablesHost(variant) as host:
        with host.namespace.entered():
            host.kernel = Kernel(variant, 5, lambda *_: loader)
        services, compilers = services_on("iptables")
        reconciler = Reconciler([services], LiveChains(host.kernel, compilers))
        for item in (*good, *web(77, 1), *web(78, 2)):
            reconciler.put(item)
        with host.namespace.entered():
            sync = reconciler.sync()
        assert sorted(words.partition(";")[0] for words in sync.refused.values()) == [
            f"Service default/web-{number} (IPv4): iptables-restore refused web-{number}" for number in (77, 78)
        ]
        assert len(reconciler.refusals()) == 2
        assert not host.delta(*good)
        loader.words = ()
        for item in web(77, 5):
            reconciler.put(item)
        with host.namespace.entered():
            sync = reconciler.sync()
        assert (sync.is_full, sync.refused) == (False, {})
        assert [str(name) for _, (name, _) in reconciler.refusals()] == ["default/web-78"]
        assert not host.delta(*good, *web(77, 5))


def test_what_was_read_ahead_is_read_once_and_not_trusted_for_ever(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = web(1, 1, 2)
    scene.host.apply(*items)
    reads: list[int] = []
    read = scene.target.read

    def counted() -> None:
        reads.append(1)
        read()

    monkeypatch.setattr(scene.target, "read", counted)
    scene.reconciler.read_ahead()
    scene.take(*items)
    assert scene.sync() == []
    assert len(reads) == 1
    scene.host.nft("flush map ip rulegen endpoints")
    scene.reconciler.distrust()
    assert len(scene.sync()) == 2
    assert len(reads) == 2
    # Changed between the reading and the first sync.
    scene = Scene(scene.host)
    scene.reconciler.read_ahead()
    scene.host.nft("flush map ip rulegen endpoints")
    scene.reconciler.distrust()
    scene.take(*items)
    assert len(scene.sync()) == 2
    assert scene.is_equal_to(*items)
