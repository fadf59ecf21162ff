"""Other programs' tables stand beside rulegen's, with DNAT of their own at the same priority, and are left alone."""

from __future__ import annotations

import pytest

from tests.builders import Item, endpoint, endpoint_slice, node, service
from tests.lab import Packet
from tests.lab.fixtures import MakeLab
from tests.nftables.host import Host, host_in, lines_of

pytestmark = pytest.mark.kernel

NEIGHBOURS = """
table ip kube-proxy {
  map service-ips { type ipv4_addr . inet_proto . inet_service : verdict;
    elements = { 10.97.0.1 . tcp . 443 : goto service-x } }
  chain endpoint-x { meta l4proto tcp dnat to 10.244.9.9:6443; }
  chain service-x { numgen random mod 1 vmap { 0 : goto endpoint-x }; }
  chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
  chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
  chain nat-output { type nat hook output priority -100; jump services; }
  chain nat-postrouting { type nat hook postrouting priority srcnat; meta mark and 0x4000 == 0 return; masquerade; }
}
table inet firewalld {
  chain nat_PREROUTING { type nat hook prerouting priority dstnat + 10; jump nat_PRE_public; }
  chain nat_PRE_public { tcp dport 8443 redirect to :443; }
  chain filter_FORWARD { type filter hook forward priority filter + 10; ct state established,related accept; }
}
table ip portmap {
  chain hostports {
    type nat hook prerouting priority -100;
    ip daddr 192.168.1.10 tcp dport 8081 dnat to 10.244.7.7:80
  }
}
"""
ITEMS: list[Item] = [node(), service(), endpoint_slice([endpoint("10.244.1.1"), endpoint("10.244.1.2")])]
TABLES = (("ip", "kube-proxy"), ("inet", "firewalld"), ("ip", "portmap"))


def _listed(host: Host) -> list[str]:
    return [host.run("nft", "list", "table", *table).stdout for table in TABLES]


def test_neighbours_are_left_alone_and_both_translate(make_lab: MakeLab) -> None:
    lab = make_lab()
    with host_in(lab.namespace) as host:
        host.nft(NEIGHBOURS)
        before = _listed(host)
        assert all(before)
        host.apply(*ITEMS)
        assert _listed(host) == before
        ours, theirs, mapped = lab.send(
            [
                Packet("10.244.0.9", "10.96.0.10", 80),
                Packet("10.244.0.9", "10.97.0.1", 443),
                Packet("203.0.113.9", "192.168.1.10", 8081),
            ]
        )
        assert ours.endpoint in {"10.244.1.1:8080", "10.244.1.2:8080"}
        assert (theirs.endpoint, mapped.endpoint) == ("10.244.9.9:6443", "10.244.7.7:80")
        host.nft("flush chain ip rulegen frontend\ndelete chain ip rulegen output")
        host.apply(*ITEMS)
        assert lines_of(host.delta(*ITEMS)) == []
        assert _listed(host) == before
        with host.namespace.entered():
            assert host.kernel.delete_tables(["rulegen"]) == ["ip rulegen", "ip6 rulegen"]
        assert _listed(host) == before
