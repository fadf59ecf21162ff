"""All features at once, on both targets: Services, host ports, policies and egress masquerade of one random cluster."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest

from rulegen.config import Target
from rulegen.kube.objects import Node
from tests.flows.world import HERE
from tests.policies.decoding import decode
from tests.policies.documents import Document
from tests.policies.services import PolicyWorld
from tests.verify.cases import check
from tests.verify.test_policies import Cluster

pytestmark = pytest.mark.kernel

_FEATURES = ("host-ports", "network-policies", "egress-masquerade")
SERVICES = 6
# Of each feature's rules something without which something else comes of a packet, and what it becomes.
_DAMAGE = {
    Target.NFTABLES: (
        (r"(egress-masquerade pods \{\n\t10\.128\.0\.0)/24", r"\1/25"),
        (r"(chain denied-(?:in|e)gress \{\n\t\t)drop", r"\1accept"),
        (r"(chain host-port \{\n)[^}]*", r"\1\t"),
    ),
    Target.IPTABLES: (
        (r"-A RULEGEN-EG-PODS .*\n", ""),
        (r"-A RULEGEN-NP-DENIED -j DROP", "-A RULEGEN-NP-DENIED -j ACCEPT"),
        (r"-A RULEGEN-HOST-PORTS .*\n", ""),
    ),
}


def with_host_ports(seed: int, document: Document) -> Document:
    """A pod whose first ports are open on the node as well."""
    if document["kind"] != "Pod":
        return document
    pick = random.Random(f"{seed} {document['metadata']['name']}")
    containers = [
        {
            **container,
            "ports": [
                {**port, "hostPort": pick.choice((80, 443, 8443, 30001))} if place < 2 else port
                for place, port in enumerate(container.get("ports", ()))
            ],
        }
        for container in document["spec"]["containers"]
    ]
    return {**document, "spec": {**document["spec"], "containers": containers}}


def compiled(seed: int, target: Target) -> Cluster:
    made = PolicyWorld(seed, with_names=target is Target.NFTABLES)
    documents = [with_host_ports(seed, document) for document in made.objects]
    others = (item for item in decode(documents) if not (isinstance(item, Node) and item.metadata.name == HERE))
    # All that the features tell apart multiplies.
    world = replace(made.world, services=made.world.services[:SERVICES])
    addresses = [address.partition("/")[0] for address in made.world.addresses]
    return Cluster([*world.objects(), *others], world.configuration(), addresses, _FEATURES)


@pytest.mark.part(40)
@pytest.mark.parametrize("target", Target, ids=lambda target: target.value)
@pytest.mark.parametrize("seed", range(20))
def test_random_clusters(seed: int, target: Target) -> None:
    """They are proved, and with the rules of any one feature damaged they are not."""
    found = compiled(seed, target)
    text = found.text(target)
    check(found.report(text))
    pattern, replacement = _DAMAGE[target][seed % 3]
    damaged, count = re.subn(pattern, replacement, text)
    assert count, pattern
    assert found.report(damaged).status == 1
