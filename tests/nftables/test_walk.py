"""The walk at the beginning of docs/architecture.md: each value there is what the code makes of its first blocks.

Only the Service and the event are taken from the document; its other blocks are compared with the steps, one by one.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rulegen.config import Family, NodeConfiguration
from rulegen.features import make
from rulegen.kube.decode import decode_object
from rulegen.kube.kinds import served_kinds
from rulegen.kube.objects import EndpointSlice, Service
from rulegen.kube.watching import Changed, read_event
from rulegen.nftables.elements import EntryKey, Value, element_text
from rulegen.nftables.live_rules import LiveTables
from rulegen.nftables.rules import Compiled
from rulegen.nftables.transaction import netlink_messages, plan
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.delta import Delta
from rulegen.reconcile.reconciler import Reconciler
from rulegen.services.feature import NAME, ServicesFeature
from tests.nftables.host import Host

ARCHITECTURE = Path(__file__).parents[2] / "docs" / "architecture.md"
HEADING = "## One EndpointSlice, from bytes to the kernel\n"
NODE = NodeConfiguration(node_name="node-1", families=(Family.IPV4,))


def blocks_of_the_walk() -> list[str]:
    """The code blocks of the section, without what stands behind their fences."""
    section = ARCHITECTURE.read_text().partition(HEADING)[2].partition("\n## ")[0]
    return re.findall(r"^```\w*\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


@pytest.mark.kernel
def test_the_walk_of_the_architecture_is_what_happens(host: Host) -> None:
    service, event, *told = blocks_of_the_walk()
    assert list(walk(service, event, host)) == told


def walk(service: str, event: str, host: Host) -> Iterator[str]:
    """What each step makes of the event, as the document prints it.

    The kernel holds the Service with all endpoints but the last.
    """
    (feature,) = make([], NODE)
    assert isinstance(feature, ServicesFeature)
    compilers = CompilerSet.of([feature], "nftables", NODE)
    with host.namespace.entered():
        rules = RecordedRules(host.kernel, compilers)
        reconciler = Reconciler([feature], rules)
        reconciler.put(decode_object(Service, service.encode()))
        reconciler.put(slice_before(event))
        reconciler.sync()

        (kind,) = served_kinds([EndpointSlice])
        changed = read_event("", kind.struct, event.encode())
        assert isinstance(changed, Changed)
        assert isinstance(changed.item.value, EndpointSlice)
        yield "".join(f"{endpoint}\n" for endpoint in map(shown, changed.item.value.endpoints or ()))

        reconciler.put(changed.item.value)
        sync = reconciler.sync()
    ((item_id, change),) = sync.features[NAME].items.items()
    yield "".join(f"{line}\n" for line in fields_of(change.after))
    yield "".join(f"{line}\n" for line in map(entry_text, in_order(compilers.entries_of([(NAME, item_id)]))))
    yield "".join(f"{line.text}\n" for line in rules.shown)
    yield "".join(rules.sent)
    yield "".join(element_lines(host.nft(f"list map ip rulegen {name}")) for name in ("frontends", "endpoints"))


class RecordedRules(LiveTables):
    """LiveTables that note what was sent last, before it is sent."""

    def apply(self, delta: Delta[EntryKey, Value]) -> None:
        # What is shown names the owners of live entries, too, so that it comes before the change.
        self.shown = list(self.changes(delta))
        transaction = plan(delta, self._live, self._base_chains())
        self.sent = []
        if not transaction.tables:
            for stage in transaction.stages:
                for change, message in netlink_messages(stage, Compiled({}, {}, {})):
                    self.sent.append(f"{change}\n{textwrap.fill(message.hex(' ', 4), 110)}\n")
        super().apply(delta)


def element_lines(listing: str) -> str:
    """What nft lists of the elements; how it lists the declaration depends on its version."""
    return listing[listing.index("\t\telements") : listing.index("\t}")].replace("\t", "    ")


def slice_before(event: str) -> EndpointSlice:
    """The slice of an event without its last endpoint."""
    value: dict[str, Any] = msgspec.json.decode(event)["object"]
    return decode_object(EndpointSlice, msgspec.json.encode({**value, "endpoints": value["endpoints"][:-1]}))


def shown(value: object) -> str:
    """A value as code would make it, without the fields that are as always."""
    if isinstance(value, msgspec.Struct):
        return f"{type(value).__name__}({', '.join(fields_of(value))})"
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, tuple) and type(value) is tuple:
        return f"[{', '.join(map(shown, value))}]"
    return repr(value)


def fields_of(value: msgspec.Struct) -> Iterator[str]:
    """The fields that have another value than the default."""
    for field in msgspec.structs.fields(value):
        content = getattr(value, field.name)
        if content != field.default:
            yield f"{field.name}={shown(content)}"


def in_order(entries: Mapping[EntryKey, Value]) -> list[tuple[EntryKey, Value]]:
    return sorted(entries.items(), key=lambda item: (item[0][0].place, item[0][1]))


def entry_text(entry: tuple[EntryKey, Value]) -> str:
    (set_spec, key), value = entry
    data = f"  {value.data.hex(' ', 4)}" if set_spec.data else ""
    return f"{set_spec.name}  {key.hex(' ', 4)}{data}    {element_text(set_spec, key, value)}"
