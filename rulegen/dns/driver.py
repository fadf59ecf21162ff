"""The door of the driver `dns`: records rendered as zone files, compared with a server's zones, kept there, removed.

In: compilers (`live_records.ZoneCompiler`), and where the server is. Never knows what a record is about. It runs once
for a cluster: nothing of the host that it runs on matters.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import msgspec

from rulegen.config import RecordSettings
from rulegen.dns.diff_text import count, shown_changes
from rulegen.dns.keys import readable_by_all
from rulegen.dns.library import need_dnspython
from rulegen.dns.live_records import LiveRecords, Manner
from rulegen.dns.metrics import add_metrics
from rulegen.dns.record_sets import Entries, RecordKey, RecordSet, Zones
from rulegen.dns.server import Server
from rulegen.dns.versions import Versions, ZoneWatch
from rulegen.dns.zone_files import parse, render
from rulegen.errors import InputError, printable
from rulegen.reconcile.compilers import CompilerSet, Items
from rulegen.reconcile.delta import diff
from rulegen.reconcile.driver import Difference, LiveRules, Removal, compile_all

_BATCH = 2000

Warn = Callable[[str], None]


class _Packed(msgspec.Struct, array_like=True):
    key: tuple[str, str, str]
    ttl: int
    records: list[str]
    holder: str | None


class OpenDns:
    """See `OpenDriver`."""

    variant = ""
    batch = _BATCH
    leftovers: Sequence[Removal] = ()

    def __init__(self, server: Server, ttl: int, warn: Warn) -> None:
        self._server = server
        self._versions = Versions(server)
        self._ttl = ttl
        self._warn = warn
        self._may_write: Callable[[], bool] = lambda: True

    def only_while(self, may_write: Callable[[], bool]) -> None:
        """See `Guarded`."""
        self._may_write = may_write

    def find_leftovers(self) -> list[str]:
        """See `OpenDriver`; there are none."""
        return []

    def rules(self, compilers: CompilerSet, patience: float = 0.0) -> LiveRecords:
        """See `OpenDriver`; a record set is ours or somebody else's, so that there is nothing to fight about."""
        manner = Manner(self._ttl, self._warn, self._may_write, is_patient=patience > 0)
        return LiveRecords(self._server, self._versions, compilers, manner)

    def add_metrics(self, registry: Any, rules: LiveRules) -> None:
        """See `WithMetrics`."""
        add_metrics(registry, self._server.counts, lambda: len(rules.live))

    def watch(self, period: float, now: float) -> ZoneWatch:
        """See `OpenDriver`."""
        return ZoneWatch(self._versions, period, now)


class DnsDriver:
    """See `Driver`. `warn` gets what a person should know, a line at a time."""

    name = "dns"

    def __init__(self, settings: RecordSettings, warn: Warn) -> None:
        self._settings = settings
        self._zones = Zones(settings.zone, settings.reverse_zones)
        self._warn = warn

    def render(self, compilers: CompilerSet) -> Iterator[str]:
        """Zone files, one after the other."""
        return render(compilers.entries(), self._zones, self._settings.ttl)

    def compare_rendered(
        self, compilers: CompilerSet, items: Items, contexts: Mapping[str, Any], lines: Iterable[str], source: str
    ) -> Difference:
        """See `Driver`."""
        need_dnspython()
        return _compare(parse(lines, source), compilers, items, contexts)

    def compare_compiled(
        self, before: CompilerSet, compilers: CompilerSet, items: Items, contexts: Mapping[str, Any]
    ) -> Difference:
        """See `Driver`."""
        return _compare(before.entries(), compilers, items, contexts)

    def pack(self, live: Mapping[RecordKey, RecordSet]) -> list[Any]:
        """See `Driver`."""
        return [[list(key), value.ttl, list(value.records), value.holder] for key, value in sorted(live.items())]

    def compare_packed(
        self, compilers: CompilerSet, items: Items, contexts: Mapping[str, Any], packed: Any, source: str
    ) -> tuple[Entries, Difference]:
        """See `Driver`."""
        try:
            rows = msgspec.convert(packed, list[_Packed])
        except msgspec.ValidationError as error:
            raise InputError(f"{source}: expected record sets as they were packed: {error}") from error
        live: Entries = {RecordKey(*row.key): RecordSet(row.ttl, tuple(row.records), row.holder) for row in rows}
        return live, _compare(live, compilers, items, contexts)

    @contextmanager
    def open(self) -> Iterator[OpenDns]:
        """See `Driver`. Raises InputError where it is not said which server."""
        need_dnspython()
        settings = self._settings
        if settings.server is None:
            raise InputError("records.server: missing in the RulegenConfiguration: expected IP:PORT of a name server")
        if settings.key_file and readable_by_all(settings.key_file):
            self._warn(f"records.keyFile: {printable(settings.key_file)}: everybody on this host can read it")
        with closing(Server(settings.server, settings.key_file)) as server:
            yield OpenDns(server, settings.ttl, self._warn)

    def find(self, features: Collection[str]) -> list[str]:
        """See `Driver`; what is in a server is nothing that this host has."""
        del features
        return []

    def remove(self, features: Collection[str]) -> list[str]:
        """See `find`."""
        return self.find(features)


def _compare(
    before: Mapping[RecordKey, RecordSet], compilers: CompilerSet, items: Items, contexts: Mapping[str, Any]
) -> Difference:
    compile_all(compilers, items, contexts)
    delta = diff(before, compilers.entries())
    return Difference.of(delta, lambda: shown_changes(delta, compilers), lambda: count(delta))
