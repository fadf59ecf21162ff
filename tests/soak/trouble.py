"""What an API server, other programs and the kernel's out-of-memory killer do to an agent. Decides nothing about when.

`Trouble` has an act for each; all of them return at once, and what has to follow is left with the agenda.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from rulegen.kube.objects import EndpointSlice, KubeStruct, Node, Service, ServiceCIDR
from rulegen.nftables.elements import key_text
from tests.apiserver import ApiServer
from tests.apiserver.faults import (
    Answer,
    Body,
    Cut,
    End,
    ErrorEvent,
    HalfBody,
    Hang,
    Late,
    Line,
    RequestFault,
    Silence,
    StreamFault,
)
from tests.nftables.host import Host
from tests.soak.agenda import Agenda

_KINDS: tuple[type[KubeStruct], ...] = (Service, EndpointSlice, Service, EndpointSlice, Node, ServiceCIDR)
_REFUSALS = (
    *(Answer(401, "Unauthorized"), Answer(429, "TooManyRequests", "1"), Answer(429, "TooManyRequests", "2")),
    *(Answer(500, "InternalError"), Answer(502), Answer(503, "ServiceUnavailable"), Answer(504, "Timeout")),
    Answer(410, "Expired"),
)
_IN_A_STREAM: tuple[StreamFault, ...] = (
    *(Cut(), Cut(), End(), ErrorEvent(410, "Expired"), ErrorEvent(500, "InternalError")),
    *(Line(b"garbage"), Line(b'{"type":"ADDED","object":'), Line(b'{"type":"NEW","object":{}}')),
    Line(b'{"type":"MODIFIED","object":{"metadata":{"name":7}}}'),
)
_IN_A_LIST: tuple[RequestFault, ...] = (*_REFUSALS, HalfBody(), Body(b"<html>not a list</html>"), Body(b""), Late(2.0))
_DRIFT = (
    *("flush map ip rulegen endpoints", "flush map ip6 rulegen lists", "flush set ip rulegen hairpin"),
    *("flush set ip rulegen cluster-ips", "add element ip rulegen cluster-ips { 10.96.255.254 }"),
    *("flush chain ip rulegen frontend", "insert rule ip6 rulegen postrouting accept"),
    *("delete table ip rulegen", "delete table ip6 rulegen", "flush ruleset"),
    "add table ip another; add chain ip another forward { type filter hook forward priority 0; }",
)
# After so many seconds without an answer the agent asks again.
HANG_SECONDS = 100.0


class Trouble:
    """`counts`: how often each thing happened, by its name."""

    def __init__(self, server: ApiServer, host: Host, agenda: Agenda, chance: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self._server = server
        self._host = host
        self._agenda = agenda
        self._chance = chance
        self._is_down = False

    # -- the API server --

    def fault(self) -> None:
        """Something that the API server does wrong, in a stream or when it is asked the next time."""
        acts: tuple[Callable[[type[KubeStruct]], None], ...] = (self._in_a_stream, self._at_a_watch, self._at_a_list)
        kind = self._chance.choice(_KINDS)
        if not self._is_down and self._server.watchers(kind):
            self._chance.choice(acts)(kind)
            self.counts["API faults"] += 1

    def hang(self) -> bool:
        """A stream or a list that says nothing any more, and is not closed either; whether there could be one now."""
        kind = self._chance.choice(_KINDS)
        if self._is_down or not self._server.watchers(kind):
            return False
        if self._chance.random() < 0.5:
            self._server.disturb(kind, Silence())
        else:
            self._server.inject(kind, "list", Hang())
            self._expire(kind)
        self.counts["hangs"] += 1
        return True

    def stop_server(self) -> None:
        """The API server is gone for a while."""
        if self._is_down:
            return
        self._is_down = True
        self._server.stop()
        self.counts["server restarts"] += 1
        self._agenda.once(self._chance.choice((0.0, 0.5, 3.0)), self._start_server)

    def _start_server(self) -> None:
        with self._host.namespace.entered():
            self._server.start()
        self._is_down = False

    def _in_a_stream(self, kind: type[KubeStruct]) -> None:
        self._server.disturb(kind, self._chance.choice(_IN_A_STREAM))

    def _at_a_watch(self, kind: type[KubeStruct]) -> None:
        self._server.inject(kind, "watch", self._chance.choice(_REFUSALS))
        self._server.disturb(kind, End())

    def _at_a_list(self, kind: type[KubeStruct]) -> None:
        self._server.inject(kind, "list", self._chance.choice(_IN_A_LIST))
        self._expire(kind)

    def _expire(self, kind: type[KubeStruct]) -> None:
        """What the watch knows has expired: the agent has to list."""
        self._server.store.compact()
        self._server.disturb(kind, ErrorEvent(410, "Expired"))

    # -- other programs --

    def drift(self) -> None:
        """Another program changes our table, or makes one of its own."""
        commands = self._chance.choice((self._one_element(), self._one_element(), *_DRIFT))
        # What it names may be gone, or not be back yet.
        if not self._host.run("nft", "-f", "-", input=commands).returncode:
            self.counts["drift"] += 1

    def everything_goes(self) -> None:
        """All that is dear at once: every rule is gone, and all kinds have to be listed."""
        self._host.run("nft", "flush", "ruleset")
        for kind in (Service, EndpointSlice, ServiceCIDR, Node):
            self._expire(kind)

    def _one_element(self) -> str:
        found = [entry for entry in self._host.read().entries if not entry[0].is_chains]
        if not found:
            return "flush ruleset"
        set_spec, key = self._chance.choice(found)
        return f"delete element {set_spec.ip} rulegen {set_spec.name} {{ {key_text(set_spec, key)} }}"
