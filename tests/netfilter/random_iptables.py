"""Small rulesets of iptables that nobody would write: a seed comes in, text for ipset and iptables-restore goes out."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from rulegen.config import Family
from rulegen.iptables.same_address import same_address
from tests.netfilter.random_rules import IPV4, PORTS, Words

# Lists of clients that have been seen, of the match recent.
LISTS = ("probe-one", "probe-two")
SETS = ("probe-places", "probe-ranges", "probe-named")
# The built-in chains that get rules, and chains of their own that these lead to: of nat apart, since the kernel refuses
# targets in a chain that some hook leads to which has no such target.
_HOOKS: dict[str, dict[str, tuple[str, ...]]] = {
    "raw": {"PREROUTING": ("A", "B"), "OUTPUT": ("A", "B")},
    "mangle": dict.fromkeys(("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"), ("A", "B", "C")),
    "nat": {"PREROUTING": ("D1", "D2", "D3"), "OUTPUT": ("D1", "D2", "D3"), "POSTROUTING": ("S1", "S2")},
    "filter": dict.fromkeys(("INPUT", "FORWARD", "OUTPUT"), ("F1", "F2", "F3")),
}
_MARKS = ("0x1", "0x4000", "0xff00", "0x4001", "0x10")
_PROTOCOLS = ("tcp", "udp")
_EVERYONE = {"ip": "255.255.255.255", "ip6": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}


class RandomChains:
    """`text`: for iptables-restore or ip6tables-restore. `ipsets`: for `ipset restore`, before that.

    `remembers`: whether rules ask for clients that were seen. `draws`: whether something is drawn at random.
    """

    def __init__(self, seed: int, words: Words, *, remembers: bool) -> None:
        self._random = random.Random(f"iptables {seed}")
        self._words = words
        self._remembers = remembers
        self.draws = False
        self.ipsets = "".join(f"{line}\n" for line in self._sets())
        self.text = "".join(f"{line}\n" for line in self._tables())

    def _sets(self) -> Iterator[str]:
        pick, words = self._random, self._words
        family = "inet" if words is IPV4 else "inet6"
        places, ranges, named = SETS
        yield f"create {places} hash:ip family {family}"
        yield from (f"add {places} {one}" for one in pick.sample(words.destinations, 3))
        yield f"create {ranges} hash:net family {family}"
        # ipset takes no prefix of all addresses, nor half of them.
        yield from (f"add {ranges} {one}" for one in pick.sample(words.prefixes[:4], 2))
        yield f"create {named} hash:ip,port family {family}"
        for one in sorted({*words.destinations, *words.endpoints}):
            yield f"add {named} {one},{pick.choice(_PROTOCOLS)}:{pick.choice(PORTS)}"

    def _tables(self) -> Iterator[str]:
        for table, hooks in _HOOKS.items():
            yield f"*{table}"
            policy = "DROP" if table == "filter" and self._random.random() < 0.1 else "ACCEPT"
            yield from (f":{hook} {policy if hook == 'FORWARD' else 'ACCEPT'} [0:0]" for hook in hooks)
            own = {name: self._kind(table, hook) for hook, names in hooks.items() for name in names}
            yield from (f":{name} - [0:0]" for name in own)
            for hook, names in hooks.items():
                # Answers of the kernel find their way whatever the rules.
                if table in {"mangle", "filter"}:
                    yield f"-A {hook} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
                for _ in range(self._random.randint(0, 2 if table == "raw" else 4)):
                    yield f"-A {hook} {self._rule(table, self._kind(table, hook), names)}"
            for name, kind in own.items():
                below = [other for other, other_kind in own.items() if other > name and other_kind == kind]
                for _ in range(self._random.randint(1, 4)):
                    yield f"-A {name} {self._rule(table, kind, below)}"
            yield "COMMIT"

    @staticmethod
    def _kind(table: str, hook: str) -> str:
        """Which targets the chain takes besides those of all."""
        if table == "nat":
            return "source" if hook == "POSTROUTING" else "destination"
        return table

    def _rule(self, table: str, kind: str, chains: Sequence[str]) -> str:
        protocol = self._random.choice(["", "", *_PROTOCOLS])
        # Each option may stand in a rule but once.
        kinds = {_kind_of(one): one for one in (self._condition(protocol) for _ in range(self._random.randint(0, 2)))}
        conditions = kinds.values()
        begin = [f"-p {protocol}"] if protocol else []
        return " ".join([*begin, *conditions, self._target(table, kind, protocol, chains)])

    def _condition(self, protocol: str) -> str:
        pick, words = self._random, self._words
        mark = pick.choice(_MARKS)
        places, ranges, named = SETS
        end = pick.choice(("src", "dst"))
        found = [
            f"-s {pick.choice(words.prefixes)}",
            f"! -s {pick.choice(words.prefixes)}",
            f"-s {pick.choice(words.sources)}",
            f"-d {pick.choice(words.destinations)}",
            f"! -d {pick.choice(words.destinations)}",
            f"-d {pick.choice(words.prefixes)}",
            '-m comment --comment "a word, \\"another\\" -j DROP"',
            "-m conntrack --ctstate NEW",
            "-m conntrack ! --ctstate NEW",
            "-m conntrack --ctstate INVALID,UNTRACKED",
            "-m conntrack --ctstate DNAT",
            "-m conntrack ! --ctstate DNAT",
            f"-m mark --mark {mark}/{mark}",
            f"-m mark ! --mark {mark}/{mark}",
            f"-m mark --mark {mark}",
            "-m mark --mark 0x0/0xff",
            "-m addrtype --src-type LOCAL",
            "-m addrtype --dst-type LOCAL",
            "-m addrtype ! --dst-type LOCAL",
            f"-m set --match-set {places} {end}",
            f"-m set ! --match-set {places} {end}",
            f"-m set --match-set {ranges} {end}",
            f"-m set --match-set {named} dst,dst",
            f"-m set ! --match-set {named} dst,dst",
            self._same_addresses(),
        ]
        if protocol:
            match = f"-m {protocol} "
            port = pick.choice(PORTS)
            found += [f"{match}--dport {port}", f"{match}! --dport {port}", f"{match}--dport 80:{port + 400}"] * 2
            found += [f"{match}--sport 2000:2100", f"{match}! --sport 40000:", f"{match}--dport :443"]
        if protocol == "tcp":
            found += ["-m tcp --tcp-flags FIN,SYN,RST,ACK SYN", "-m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN"]
        if self._remembers:
            found += [self._asked() for _ in range(12)]
        elif pick.random() < 0.3:
            self.draws = True
            found = [f"-m statistic --mode random --probability {pick.choice((0.5, 0.33333333349, 0.2, 0.9999))}"]
        return pick.choice(found)

    def _same_addresses(self) -> str:
        family = Family.IPV4 if self._words is IPV4 else Family.IPV6
        return f'-m bpf --bytecode "{same_address(family)}"'

    def _asked(self) -> str:
        end = f"--name {self._random.choice(LISTS)} --mask {_EVERYONE[self._words.ip]} --rsource"
        action = self._random.choice(
            ["--rcheck --seconds 3000 --reap", "--rcheck --seconds 3000", "--update --seconds 3000", "--set"]
        )
        return f"-m recent {action} {end}"

    def _target(self, table: str, kind: str, protocol: str, chains: Sequence[str]) -> str:
        pick, mark = self._random, self._random.choice(_MARKS)
        found = ["-j ACCEPT", "-j RETURN", "-j NFLOG --nflog-group 7 --nflog-prefix probe", ""]
        found += [f"-j MARK --set-xmark {mark}/{other}" for other in (mark, "0xffffffff", "0x0", "0xff")]
        if chains:
            found += [f"{pick.choice(['-j', '-g'])} {pick.choice(chains)}" for _ in range(5)]
        if kind == "destination":
            found += [self._translation(protocol) for _ in range(5)]
        if kind == "source":
            found += ["-j MASQUERADE --random-fully"] * 4
        if table == "filter":
            found += ["-j REJECT --reject-with " + ("icmp" if self._words is IPV4 else "icmp6") + "-port-unreachable"]
        # In raw, which comes before connections, it would drop answers too.
        if pick.random() < 0.1 and table in {"mangle", "filter"}:
            found += ["-j DROP"] * 4
        return pick.choice(found)

    def _translation(self, protocol: str) -> str:
        address = self._random.choice(self._words.endpoints)
        if not protocol or self._random.random() < 0.2:
            return f"-j DNAT --to-destination {address}"
        shown = f"[{address}]" if ":" in address else address
        return f"-j DNAT --to-destination {shown}:{self._random.choice(PORTS)}"


def _kind_of(condition: str) -> str:
    """An option, or a match by its name."""
    words = [word for word in condition.split() if word != "!"]
    return " ".join(words[:2]) if words[0] == "-m" else words[0]
