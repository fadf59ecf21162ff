"""An agent beside firewalls that may drop what Services need says so once, in the log and as an Event of the Node."""

from __future__ import annotations

import pytest

from tests.agent.running import Playground, save, wait_until, web
from tests.apiserver import ApiServer
from tests.builders import node, service_cidr

pytestmark = pytest.mark.kernel

DROP = "table inet other {\nchain c {\ntype filter hook forward priority 0; policy drop;\n}\n}\n"
WORDS = "nftables chain c of table inet other (policy drop) may drop Services with endpoints in pods"


def test_it_is_said_once_and_when_it_is_over(playground: Playground) -> None:
    host = playground.host
    host.nft(DROP)
    save(playground.manifests / "all.json", *web(1, 1))
    with playground.agent() as agent:
        agent.wait_for(f"{WORDS}; docs/deploy.md", 10.0)
        host.nft("delete table ip rulegen")
        agent.wait_for("repaired", 10.0)
        wait_until(lambda: agent.log.count("sync mode=full") == 2, 10.0)
        host.nft("delete table inet other; delete table ip rulegen")
        agent.wait_for("no chain of another program may drop traffic of Services any more", 20.0)
        assert agent.log.count("may drop Services") == 1


def test_it_is_an_event_of_the_node(playground: Playground, api_server: ApiServer, kubeconfig: str) -> None:
    playground.host.nft(DROP)
    api_server.put(node(), service_cidr("10.96.0.0/16"), *web(1, 1))
    with playground.agent("--kubeconfig", kubeconfig):
        wait_until(lambda: bool(api_server.events), 10.0)
    (event,) = api_server.events
    assert event["regarding"] == {"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "node-1"}
    assert (event["metadata"]["namespace"], event["reason"]) == ("default", "ForeignDrop")
    assert event["note"] == f"on node node-1: {WORDS}"
