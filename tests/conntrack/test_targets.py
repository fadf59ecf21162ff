"""Which flows live on is nothing that a rule depends on."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from rulegen.services.model import Backend
from rulegen.services.on_iptables.compiler import Compiler as IptablesCompiler
from rulegen.services.on_nftables.compiler import Compiler as NftablesCompiler
from tests.builders import CONFIGURATION, endpoint, endpoint_port, endpoint_slice, node, port, service, store


@pytest.mark.parametrize("compiler_of", [NftablesCompiler, IptablesCompiler], ids=["nftables", "iptables"])
@pytest.mark.parametrize("affinity", [None, 60])
def test_no_target_reads_which_flows_live_on(
    compiler_of: type[NftablesCompiler] | type[IptablesCompiler], affinity: int | None
) -> None:
    dns = service("dns", kind="NodePort", ports=[port(53, "dns", "UDP", 30053)], affinity=affinity)
    target = endpoint_port(5353, "dns", "UDP")
    given = store(node(), dns, endpoint_slice([endpoint("10.244.1.1")], service_name="dns", ports=[target]))
    changes = given.take_changes()
    compiler = compiler_of(CONFIGURATION.families, CONFIGURATION.masquerade_bit)
    delta, _ = compiler.update(changes.service_ports, changes.node)
    assert delta
    differing = {
        key: replace(service_port, serving=(*service_port.serving, Backend("10.244.9.9", 5353)))
        for key, service_port in changes.service_ports.items()
        if service_port
    }
    delta, errors = compiler.update(differing)
    assert differing
    assert not delta
    assert not errors
