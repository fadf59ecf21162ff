"""What mode ipvs leaves: chains, sets of ipset, the interface and virtual servers go; those of others stay."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pyroute2 import IPSet

from rulegen.iptables import binaries
from rulegen.kube_proxy import ipvs
from rulegen.kube_proxy.removal import remove_iptables_rules
from tests.nftables.host import Host, host_or_skip

pytestmark = pytest.mark.kernel

SETS = {
    "KUBE-CLUSTER-IP": "hash:ip,port",
    "KUBE-LOOP-BACK": "hash:ip,port,ip",
    "KUBE-NODE-PORT-TCP": "bitmap:port",
    "KUBE-6-LOAD-BALANCER-SOURCE-CID": "hash:ip,port,net",
    "KUBE-IPVS-IPS": "hash:ip",
}
# Not kube-proxy's, though the name may look so.
OTHERS = {"KUBE-ROUTER-PODS": "hash:ip", "KUBE-CLUSTER-IP-2": "hash:ip", "mine": "hash:ip"}
# As kube-proxy 1.36 writes them, shortened.
RULES = """*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-LOAD-BALANCER - [0:0]
:KUBE-MARK-MASQ - [0:0]
:MINE - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A PREROUTING -m set --match-set mine src -j MINE
-A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT
-A KUBE-NODE-PORT -p tcp -m set --match-set KUBE-NODE-PORT-TCP dst -j KUBE-MARK-MASQ
-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ
-A KUBE-POSTROUTING -m set --match-set KUBE-LOOP-BACK dst,dst,src -j MASQUERADE
COMMIT
*filter
:KUBE-FORWARD - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SOURCE-RANGES-FIREWALL - [0:0]
:KUBE-IPVS-FILTER - [0:0]
:KUBE-IPVS-OUT-FILTER - [0:0]
:KUBE-FIREWALL - [0:0]
-A INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
-A INPUT -j KUBE-FIREWALL
-A INPUT -j KUBE-NODE-PORT
-A FORWARD -j KUBE-FORWARD
-A FORWARD -j KUBE-PROXY-FIREWALL
-A OUTPUT -j KUBE-IPVS-OUT-FILTER
-A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m set --match-set KUBE-IPVS-IPS dst -j REJECT
-A KUBE-SOURCE-RANGES-FIREWALL -j DROP
COMMIT
"""


@pytest.fixture
def host() -> Iterator[Host]:
    with host_or_skip() as made:
        yield made


def _make_sets(host: Host) -> None:
    with host.namespace.entered(), IPSet() as sets:
        for name, kind in {**SETS, **OTHERS}.items():
            options = {"bitmap_ports_range": (0, 65535)} if kind == "bitmap:port" else {}
            sets.create(name, stype=kind, **options)
        sets.add("KUBE-NODE-PORT-TCP", 30080, etype="port")


def _names(host: Host) -> set[str]:
    with host.namespace.entered(), IPSet() as sets:
        return {message.get_attr("IPSET_ATTR_SETNAME") for message in sets.list()}


@pytest.mark.parametrize("variant", binaries.Variant, ids=lambda variant: variant.value)
def test_chains_and_sets_of_kube_proxy_go_and_all_others_stay(host: Host, variant: binaries.Variant) -> None:
    _make_sets(host)
    done = host.run(f"iptables-{variant.value}-restore", input=RULES)
    assert done.returncode == 0, done.stderr
    with host.namespace.entered():
        assert ipvs.leftovers() == [f"ipset {name}" for name in sorted(SETS)]
        assert sorted(remove_iptables_rules()) == [
            f"iptables-{variant.value} filter",
            f"iptables-{variant.value} nat",
        ]
        assert ipvs.clean_up() == ipvs.Cleaned([f"ipset {name}" for name in sorted(SETS)], [], [])
        assert ipvs.leftovers() == []
    assert _names(host) == set(OTHERS)
    saved = host.run(f"iptables-{variant.value}-save").stdout.splitlines()
    assert [line for line in saved if line.startswith("-A")] in (
        ["-A PREROUTING -m set --match-set mine src -j MINE", "-A INPUT -j KUBE-FIREWALL"],
        ["-A INPUT -j KUBE-FIREWALL", "-A PREROUTING -m set --match-set mine src -j MINE"],
    )
    assert {line.split(" ")[0] for line in saved if line.startswith(":KUBE")} == {":KUBE-FIREWALL"}


def test_a_set_that_somebody_elses_rule_uses_stays_and_is_named(host: Host) -> None:
    _make_sets(host)
    host.run("iptables-nft", "-A", "INPUT", "-m", "set", "--match-set", "KUBE-CLUSTER-IP", "dst,dst", "-j", "DROP")
    with host.namespace.entered():
        cleaned = ipvs.clean_up()
    assert cleaned.left == ["ipset KUBE-CLUSTER-IP: a rule of another program uses it"]
    assert _names(host) == {"KUBE-CLUSTER-IP", *OTHERS}


def test_an_interface_of_its_name_that_is_no_dummy_stays_and_is_named(host: Host) -> None:
    host.run("ip", "link", "add", "kube-ipvs0", "type", "bridge")
    with host.namespace.entered():
        assert ipvs.clean_up() == ipvs.Cleaned([], ["interface kube-ipvs0: it is of the kind bridge, not dummy"], [])
    assert host.run("ip", "link", "show", "kube-ipvs0").returncode == 0


# ---- where the kernel has IPVS ----

SERVERS = """
ip link add kube-ipvs0 type dummy
ip address add 10.96.0.10/32 dev kube-ipvs0
ip -6 address add fd00:10:96::10/128 dev kube-ipvs0
ip address add 192.0.2.10/32 dev lo
"""


@pytest.mark.ipvs
def test_virtual_servers_of_kube_proxy_go_and_those_of_others_stay(host: Host) -> None:
    from pyroute2 import IPVS, IPVSDest, IPVSService

    _make_sets(host)
    for line in SERVERS.strip().splitlines():
        done = host.run(*line.split(" "))
        assert done.returncode == 0, done.stderr
    places = [
        ("10.96.0.10", 80, 6),
        ("10.96.0.10", 53, 17),
        ("fd00:10:96::10", 80, 6),
        ("192.0.2.10", 30080, 6),  # a NodePort
        ("192.0.2.10", 30081, 6),  # none of kube-proxy's
        ("192.0.2.10", 30080, 17),
        ("203.0.113.7", 80, 6),
    ]
    with host.namespace.entered(), IPVS() as servers:
        for address, port, protocol in places:
            # The length of an IPv6 prefix stands where the mask of an IPv4 address would.
            mask = {"netmask": "128.0.0.0"} if ":" in address else {}
            service = IPVSService(addr=address, port=port, protocol=protocol, **mask)
            servers.service("add", service=service)
            servers.dest(
                "add", service=service, dest=IPVSDest(addr="fd00::1" if ":" in address else "10.1.0.1", port=1)
            )
        cleaned = ipvs.clean_up()
        left = list(servers.service("dump"))
    assert [line for line in cleaned.removed if not line.startswith("ipset")] == [
        "virtual server 10.96.0.10:80/tcp",
        "virtual server 192.0.2.10:30080/tcp",
        "virtual server 10.96.0.10:53/udp",
        "virtual server [fd00:10:96::10]:80/tcp",
        "interface kube-ipvs0",
    ]
    assert cleaned.others == [
        "virtual server 192.0.2.10:30081/tcp",
        "virtual server 203.0.113.7:80/tcp",
        "virtual server 192.0.2.10:30080/udp",
    ]
    assert cleaned.left == []
    assert len(left) == 3
    assert host.run("ip", "link", "show", "kube-ipvs0").returncode != 0
