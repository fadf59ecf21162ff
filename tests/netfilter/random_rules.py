"""Small rulesets over the evaluator's vocabulary, that nobody would write: a seed comes in, text for nft goes out."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Words(NamedTuple):
    """Values of one IP family that rules and packets share, so that rules match now and then."""

    ip: str
    sources: tuple[str, ...]
    destinations: tuple[str, ...]
    prefixes: tuple[str, ...]
    endpoints: tuple[str, ...]


IPV4 = Words(
    "ip",
    ("10.128.0.5", "10.128.0.9", "10.128.0.130", "203.0.113.7", "203.0.113.200", "192.0.2.10"),
    ("10.96.0.10", "10.96.0.11", "198.51.100.20", "192.0.2.10", "10.128.0.9"),
    ("10.128.0.0/24", "10.128.0.0/25", "203.0.113.0/25", "10.96.0.0/16", "0.0.0.0/1", "198.51.100.20/31"),
    ("10.128.0.5", "10.128.0.9", "203.0.113.7", "198.51.100.77"),
)
IPV6 = Words(
    "ip6",
    ("fd00:10:128::5", "fd00:10:128::9", "2001:db8:b::9", "2001:db8:b::77", "2001:db8:0:1::10"),
    ("fd00:10:96::10", "fd00:10:96::11", "2001:db8:c::20", "2001:db8:0:1::10", "fd00:10:128::9"),
    ("fd00:10:128::/64", "fd00:10:96::/112", "2001:db8:b::/48", "::/1", "2001:db8:c::20/127"),
    ("fd00:10:128::5", "fd00:10:128::9", "2001:db8:b::9", "2001:db8:c::77"),
)
PORTS = (80, 81, 443, 8080, 30080)
_MARKS = ("0x1", "0x4000", "0xff00", "0x4001", "0x10")
_CHAINS = ("one", "two", "three", "four")
# Where the base chains stand, and what kinds of verdicts they take.
_BASE = {
    "untracked": "type filter hook prerouting priority -300",
    "out-untracked": "type filter hook output priority -300",
    "early": "type filter hook prerouting priority -150",
    "pre": "type nat hook prerouting priority -100",
    "pre-late": "type nat hook prerouting priority -50",
    "out-early": "type filter hook output priority -150",
    "out": "type nat hook output priority -100",
    "forward": "type filter hook forward priority 0",
    "forward-late": "type filter hook forward priority 10",
    "input": "type filter hook input priority 0",
    "out-late": "type filter hook output priority 0",
    "post": "type nat hook postrouting priority 100",
}


def hashed(words: Words) -> str:
    """A function of the client of which the evaluator knows nothing."""
    return f"jhash {words.ip} saddr mod 4294967295 seed 0x51ed270b"


class RandomRules:
    """`text`: a table for nft. `draws`: whether something is drawn at random. `remembers`: rules write dynamic sets."""

    def __init__(self, seed: int, words: Words, *, remembers: bool = False) -> None:
        self._random = random.Random(seed)
        self._words = words
        self._remembers = remembers
        self.draws = False
        self.text = "\n".join(self._table())

    def _table(self) -> Iterator[str]:
        words = self._words
        yield f"table {words.ip} probe {{"
        yield from self._sets()
        for name in _CHAINS:
            yield f"\tchain {name} {{"
            below = _CHAINS[_CHAINS.index(name) + 1 :]
            for _ in range(self._random.randint(0, 4)):
                yield f"\t\t{self._rule('', below)}"
            yield "\t}"
        for name, hook in _BASE.items():
            if self._random.random() < 0.25:
                continue
            policy = "drop" if "filter" in hook and self._random.random() < 0.05 else "accept"
            yield f"\tchain {name} {{"
            yield f"\t\t{hook}; policy {policy};"
            # Answers of the kernel find their way whatever the rules.
            yield "\t\tmeta l4proto { icmp, ipv6-icmp } accept"
            for _ in range(self._random.randint(1, 5)):
                yield f"\t\t{self._rule(hook, _CHAINS)}"
            yield "\t}"
        yield "}"

    def _sets(self) -> Iterator[str]:
        pick, words = self._random, self._words
        yield f"\tset places {{ typeof {words.ip} daddr; elements = {{ {self._some(words.destinations)} }} }}"
        prefix = pick.choice(words.prefixes)
        yield f"\tset ranges {{ typeof {words.ip} saddr; flags interval; elements = {{ {prefix} }} }}"
        pairs = ", ".join(f"{one} . {one}" for one in pick.sample(words.endpoints, 2))
        yield f"\tset pairs {{ typeof {words.ip} saddr . {words.ip} daddr; elements = {{ {pairs} }} }}"
        keys = {(place, self._port()) for place in words.destinations}
        ends = ", ".join(f"{place} . tcp . {port} : {self._end()}" for place, port in sorted(keys))
        yield f"\tmap ends {{ typeof {words.ip} daddr . meta l4proto . th dport : {words.ip} daddr . th dport"
        yield f"\t\telements = {{ {ends} }} }}"
        # Now and then a byte lacks its pair.
        same = ", ".join(f"0x{byte:x} . 0x{byte:x}" for byte in range(256) if pick.random() > 0.002)
        yield f"\tset bytes {{ typeof @nh,120,8 . @nh,120,8; elements = {{ {same} }} }}"
        slots = ", ".join(f"{slot} : {self._end()}" for slot in range(3))
        yield f"\tmap slots {{ typeof numgen random mod 2 : {words.ip} daddr . th dport; elements = {{ {slots} }} }}"
        numbers = ", ".join(f"tcp . {port} : {pick.choice(_MARKS)}" for port in pick.sample(PORTS, 3))
        yield f"\tmap numbers {{ typeof meta l4proto . th dport : meta mark; elements = {{ {numbers} }} }}"
        scoped = ", ".join(f"{place} . {pick.choice(words.prefixes)}" for place in pick.sample(words.destinations, 3))
        named = ", ".join(f"{place} . {pick.choice(('tcp', 'udp'))} . {self._port()}" for place in words.destinations)
        yield f"\tset named {{ typeof {words.ip} daddr . meta l4proto . th dport; elements = {{ {named} }} }}"
        ports = ", ".join(("tcp . 80-90", "udp . 443", f"tcp . {pick.choice(('30000-31000', '443'))}"))
        source = f"{words.ip} saddr"
        yield f"\tset seen {{ typeof {source}; size 4096; flags dynamic,timeout; timeout 1h; }}"
        yield f"\tmap clients {{ typeof {source} : meta mark; size 4096; flags dynamic,timeout; timeout 1h; }}"
        yield "\tset hashed { typeof numgen random mod 4294967295; size 4096; flags dynamic,timeout; timeout 1h; }"
        yield f"\tset ports {{ typeof meta l4proto . th dport; flags interval; elements = {{ {ports} }} }}"
        verdicts = ", ".join(f"{one} : {self._verdict(_CHAINS)}" for one in pick.sample(words.sources, 3))
        yield f"\tmap verdicts {{ typeof {words.ip} saddr : verdict; elements = {{ {verdicts} }} }}"
        yield f"\tset scoped {{ typeof {words.ip} daddr . {words.ip} saddr; flags interval"
        yield f"\t\telements = {{ {scoped} }} }}"

    def _some(self, things: Sequence[str]) -> str:
        return ", ".join(self._random.sample(things, self._random.randint(1, len(things) - 1)))

    def _port(self) -> int:
        return self._random.choice(PORTS)

    def _end(self) -> str:
        return f"{self._random.choice(self._words.endpoints)} . {self._port()}"

    def _rule(self, hook: str, chains: Sequence[str]) -> str:
        while True:
            conditions = [self._condition() for _ in range(self._random.randint(0, 2))]
            is_memory = self._remembers and self._random.random() < 0.3
            statement = self._memory() if is_memory else self._statement(hook, chains)
            rule = " ".join([*conditions, statement])
            # nft takes no rule for two protocols at once.
            if not ("tcp" in rule and "udp" in rule):
                return rule

    def _condition(self) -> str:
        pick, words = self._random, self._words
        if self._remembers and pick.random() < 0.4:
            source = f"{words.ip} saddr"
            return pick.choice([f"{source} @seen", f"{source} != @seen", f"{hashed(words)} @hashed"])
        ip, mark = words.ip, pick.choice(_MARKS)
        return pick.choice(
            [
                f"{ip} saddr {pick.choice(words.prefixes)}",
                f"{ip} saddr != {pick.choice(words.prefixes)}",
                f"{ip} saddr {pick.choice(words.sources)}",
                f"{ip} daddr {pick.choice(words.destinations)}",
                f"{ip} daddr != {pick.choice(words.destinations)}",
                f"{ip} daddr {pick.choice(words.prefixes)}",
                f"{ip} daddr @places",
                f"{ip} daddr != @places",
                f"{ip} saddr @ranges",
                f"{ip} saddr != @ranges",
                f"{ip} saddr . {ip} daddr @pairs",
                f"{ip} saddr . {ip} daddr != @pairs",
                f"{ip} daddr . {ip} saddr @scoped",
                self._same_addresses(),
                f"ct original {ip} daddr {pick.choice(words.destinations)}",
                f"meta l4proto tcp ct original proto-dst {self._port()}",
                f"{ip} saddr {{ {self._some(words.sources)} }}",
                f"{ip} saddr {words.sources[0]} {ip} daddr {pick.choice(words.destinations)}",
                f"meta l4proto {pick.choice(['tcp', 'udp'])}",
                f"tcp dport {self._port()}",
                f"tcp dport != {self._port()}",
                f"udp dport {{ {self._port()}, 9000-9100 }}",
                f"th dport 80-{pick.choice([100, 443, 9000])}",
                f"th dport > {self._port()}",
                f"th dport < {self._port()}",
                f"th sport >= {pick.choice([1, 2000, 40000])}",
                f"meta mark & {mark} == {mark}",
                f"meta mark & {mark} != {mark}",
                f"meta mark {mark}",
                f"meta priority & {mark} == {mark}",
                f"meta mark != {mark}",
                "meta mark 0x0",
                "ct state new",
                "ct state established,related",
                "ct state invalid,untracked",
                "tcp flags & (fin | syn | rst | ack) != syn",
                "tcp flags & (fin | syn | rst | ack) == syn",
                f"{ip} daddr . meta l4proto . th dport @named",
                "meta l4proto . th dport @ports",
                "meta l4proto . th dport != @ports",
                "ct status dnat",
                "fib saddr type local",
                "fib daddr type local",
                "fib daddr type != local",
                'iifname "eth0"',
                'iifname != "pods"',
                'iifname "po*"',
            ]
        )

    def _same_addresses(self) -> str:
        """Source and destination byte by byte, as rulegen compares them."""
        first, size = (96, 4) if self._words.ip == "ip" else (64, 16)
        starts = range(first, first + 8 * size, 8)
        return " ".join(f"@nh,{start},8 . @nh,{start + 8 * size},8 @bytes" for start in starts)

    def _statement(self, hook: str, chains: Sequence[str]) -> str:
        pick, mark = self._random, self._random.choice(_MARKS)
        found = [
            f"meta mark set {mark}",
            f"meta mark set meta mark | {mark}",
            f"meta mark set meta mark & {mark}",
            f"meta mark set meta mark ^ {mark}",
            f"meta priority set meta priority | {mark}",
            f"meta priority set meta priority & {mark}",
            "meta priority set none",
            "meta mark set meta l4proto . th dport map @numbers",
            "counter",
            'counter log prefix "probe " group 7',
            'limit rate 1/second burst 1 packets log prefix "probe " group 7',
            "accept",
            "return",
        ]
        if pick.random() < 0.15:
            found += ["drop"] * 4
        if chains:
            found += [f"{pick.choice(['jump', 'goto'])} {pick.choice(chains)}" for _ in range(5)]
            verdicts = ", ".join(f"{port} : {self._verdict(chains)}" for port in pick.sample(PORTS, 3))
            found += [f"th dport vmap {{ {verdicts} }}"] * 2
            if chains is _CHAINS:
                found += [f"{self._words.ip} saddr vmap @verdicts"] * 2
            if pick.random() < 0.3:
                self.draws = True
                slots = ", ".join(f"{slot} : {self._verdict(chains)}" for slot in range(3))
                found.append(f"numgen random mod 3 vmap {{ {slots} }}")
        if "nat hook prerouting" in hook or "nat hook output" in hook:
            found += [f"meta l4proto tcp {self._translation()}" for _ in range(6)]
        if "postrouting" in hook:
            found += ["masquerade fully-random"] * 4
        if "filter hook forward" in hook or "filter hook input" in hook:
            found += ["reject"] * 2
        return pick.choice(found)

    def _memory(self) -> str:
        """Something about a client is written, forgotten or asked."""
        mark = self._random.choice(_MARKS)
        source = f"{self._words.ip} saddr"
        key = hashed(self._words)
        return self._random.choice(
            [
                f"add @seen {{ {source} }}",
                f"update @seen {{ {source} timeout 60s }}",
                f"delete @seen {{ {source} }}",
                f"update @hashed {{ {key} }}",
                f"delete @hashed {{ {key} }}",
                f"meta mark set {source} map @clients",
                f"meta mark set {source} map @clients",
                f"meta mark set {mark} update @clients {{ {source} timeout 60s : meta mark }}",
                f"meta mark set {mark} add @clients {{ {source} : meta mark }}",
                f"delete @clients {{ {source} : meta mark }}",
            ]
        )

    def _verdict(self, chains: Sequence[str]) -> str:
        return self._random.choice(["accept", "return", f"jump {self._random.choice(chains)}", f"goto {chains[-1]}"])

    def _translation(self) -> str:
        pick, words = self._random, self._words
        choice = pick.randrange(4)
        if choice == 0:
            address = pick.choice(words.endpoints)
            shown = f"[{address}]" if ":" in address else address
            return f"dnat to {shown}:{self._port()}"
        if choice == 1:
            return f"dnat {words.ip} to {words.ip} daddr . meta l4proto . th dport map @ends"
        self.draws = True
        if choice == 2:
            return f"dnat {words.ip} to numgen random mod 3 map @slots"
        slots = ", ".join(f"{slot} : {self._end()}" for slot in range(2))
        return f"dnat {words.ip} to numgen random mod 2 map {{ {slots} }}"
