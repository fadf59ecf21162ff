"""The iptables target, stage by stage and beside kube-proxy's iptables layout, in either variant."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

from bench.clock import Numbers, measured, peak_memory, watched_children
from bench.clusters import ENDPOINTS, POD_CIDRS, Shape, cluster_ip, endpoint_address, manifest
from bench.product import MASQUERADE_BIT, configuration, replaced_endpoint, spread, timed
from rulegen import gc_pause
from rulegen.config import Family, IptablesLoader
from rulegen.iptables import binaries
from rulegen.iptables.binaries import Variant
from rulegen.iptables.chains import NAT, Entries, EntryKey, target_of
from rulegen.iptables.driver import LOADERS
from rulegen.iptables.kernel import Kernel
from rulegen.iptables.transaction import plan
from rulegen.kube.manifests import Manifests, load
from rulegen.kube.objects import EndpointSlice
from rulegen.reconcile.delta import diff
from rulegen.services.on_iptables.compiler import Compiler
from rulegen.services.store import Store

_WAIT = 60
_DESTINATION = re.compile(r"(?:^| )-d (\S+)")


def stages(shape: Shape, folder: Path, variant: str) -> Numbers:
    """Compile, first apply, read back; and how many rules a first packet to the last Service passes."""
    manifests = load([str(manifest(shape, folder))], None)
    numbers: Numbers = {}
    with gc_pause.paused():
        with measured(numbers, "compile"):
            _, compiler = _compiled(manifests, shape)
            desired = compiler.entries()
        kernel = Kernel(Variant(variant), _WAIT)
        live = kernel.read()
        with watched_children(numbers, "restore memory"), measured(numbers, "first apply"):
            kernel.commit(plan(diff(live, desired), live), live)
        with measured(numbers, "read back"):
            live = kernel.read()
    assert live == desired
    numbers["rules"] = sum(map(len, desired.values()))
    numbers["rules passed"] = rules_passed(desired, cluster_ip(shape.services - 1))
    numbers["memory"] = peak_memory()
    return numbers


def changes(shape: Shape, folder: Path, variant: str, repeats: int, driver: str) -> dict[str, list[float]]:
    """Seconds from a changed slice to the committed kernel. `driver`: iptables-restore or python-iptables."""
    manifests = load([str(manifest(shape, folder))], None)
    store, compiler = _compiled(manifests, shape)
    kernel = Kernel(Variant(variant), _WAIT, LOADERS[IptablesLoader(driver)])
    live = compiler.entries()
    _loader(variant).commit(plan(diff({}, live), {}), {})

    def change(slice_: EndpointSlice) -> None:
        store.set_objects([slice_])
        delta, errors = compiler.update(*store.take_changes()[:2])
        assert not errors
        kernel.commit(plan(delta, live), live)

    change(replaced_endpoint(manifests.endpoint_slices[0]))
    gc.collect()
    return {"endpoint replaced": timed(change, map(replaced_endpoint, spread(manifests, repeats)))}


def kube_proxy_load(shape: Shape, variant: str) -> Numbers:
    """The same cluster in kube-proxy's layout, through the same iptables-restore."""
    numbers: Numbers = {}
    text = "\n".join(_kube_proxy_lines(shape.services)) + "\n"
    with measured(numbers, "load"):
        binaries.restore(Variant(variant), Family.IPV4, text, wait=_WAIT)
    return numbers


def load_ours(variant: Variant, shape: Shape, folder: Path) -> None:
    """Loads rulegen's rules, for other measurements."""
    _, compiler = _compiled(load([str(manifest(shape, folder))], None), shape)
    _loader(variant.value).commit(plan(diff({}, compiler.entries()), {}), {})


def rules_passed(entries: Entries, address: str) -> int:
    """The rules that a packet meets between the nat hook and the chain of the Service with this ClusterIP."""
    chain, passed = "PREROUTING", 0
    while not chain.startswith("RULEGEN-SVC-"):
        for rule in entries[EntryKey(Family.IPV4, NAT, chain)]:
            passed += 1
            destination = _DESTINATION.search(rule)
            if destination is None or ip_address(address) in ip_network(destination[1]):
                chain = target_of(rule)
                break
        else:
            raise AssertionError(f"no rule for {address} in {chain}")
    return passed


def _compiled(manifests: Manifests, shape: Shape) -> tuple[Store, Compiler]:
    settings = configuration(shape.families)
    store = Store(settings)
    for objects in (manifests.nodes, manifests.service_cidrs, manifests.services, manifests.endpoint_slices):
        store.set_objects(objects)
    compiler = Compiler(settings.families, MASQUERADE_BIT)
    _, errors = compiler.update(*store.take_changes()[:2])
    assert not errors
    return store, compiler


def _loader(variant: str) -> Kernel:
    return Kernel(Variant(variant), _WAIT)


def usable_drivers() -> tuple[str, ...]:
    """The ways into legacy iptables that there are on this host; python-iptables does not understand every iptables."""
    probe = (
        "from rulegen.iptables.binaries import Variant; from rulegen.iptables.python_iptables import PythonLoader; "
        "PythonLoader(Variant.LEGACY, 1).close()"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False)
    return ("iptables-restore", "python-iptables") if done.returncode == 0 else ("iptables-restore",)


# ---- other layouts ----

# What kube-proxy 1.36 has in filter where every Service has an endpoint; counting what it drops left out.
_KUBE_PROXY_FILTER = """\
*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A INPUT -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"""


def _kube_proxy_lines(services: int) -> Iterator[str]:
    """A chain for each Service and each endpoint, and one chain that leads to all Services."""
    yield from _KUBE_PROXY_FILTER.splitlines()
    yield "*nat"
    yield from (":KUBE-SERVICES - [0:0]", ":KUBE-MARK-MASQ - [0:0]", ":KUBE-POSTROUTING - [0:0]")
    for index in range(services):
        yield f":{_service_chain(index)} - [0:0]"
        yield from (f":{_endpoint_chain(index, number)} - [0:0]" for number in range(ENDPOINTS))
    yield "-A PREROUTING -j KUBE-SERVICES"
    yield "-A OUTPUT -j KUBE-SERVICES"
    yield "-A POSTROUTING -j KUBE-POSTROUTING"
    yield "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000"
    yield "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN"
    yield "-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0"
    yield "-A KUBE-POSTROUTING -j MASQUERADE --random-fully"
    for index in range(services):
        yield from _kube_proxy_service(index, range(ENDPOINTS))
    yield "COMMIT"


def _kube_proxy_service(index: int, endpoints: Iterable[int]) -> Iterator[str]:
    chain, address = _service_chain(index), cluster_ip(index)
    comment = f'-m comment --comment "team-{index % 50}/service-{index:05}:http cluster IP"'
    yield f"-A KUBE-SERVICES {comment} -d {address}/32 -p tcp -m tcp --dport 80 -j {chain}"
    yield f"-A {chain} {comment} -d {address}/32 -p tcp -m tcp --dport 80 ! -s {POD_CIDRS[0]} -j KUBE-MARK-MASQ"
    numbers = list(endpoints)
    for position, number in enumerate(numbers):
        endpoint, own = endpoint_address(index, number), _endpoint_chain(index, number)
        comment = f'-m comment --comment "team-{index % 50}/service-{index:05}:http"'
        rest = len(numbers) - position
        chance = f"-m statistic --mode random --probability {1 / rest:.10f} " if rest > 1 else ""
        yield f"-A {chain} {comment} {chance}-j {own}"
        yield f"-A {own} {comment} -s {endpoint}/32 -j KUBE-MARK-MASQ"
        yield f"-A {own} {comment} -p tcp -m tcp -j DNAT --to-destination {endpoint}:8080"


def _service_chain(index: int) -> str:
    return f"KUBE-SVC-{index * 2654435761 % (1 << 32):08X}{index:08}"


def _endpoint_chain(index: int, number: int) -> str:
    place = index * ENDPOINTS + number
    return f"KUBE-SEP-{place * 2654435761 % (1 << 32):08X}{place:08}"


def load_kube_proxy(variant: Variant, shape: Shape, _: Path) -> None:
    """Loads kube-proxy's layout, for other measurements."""
    kube_proxy_load(shape, variant.value)


def load_one_rule(variant: Variant, shape: Shape, _: Path) -> None:
    """Loads one DNAT rule and nothing else, for other measurements: to the last Service's first endpoint."""
    last = shape.services - 1
    rule = (
        f"-d {cluster_ip(last)}/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination {endpoint_address(last, 0)}:8080"
    )
    binaries.restore(variant, Family.IPV4, f"*nat\n-A PREROUTING {rule}\nCOMMIT\n", wait=_WAIT)
