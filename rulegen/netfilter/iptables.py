"""Rules of iptables as iptables-save and `iptables-restore` say them come in, rules of `model` go out. Pure.

Every match and target that is not known becomes a `Mystery`, which names itself when a packet meets it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from graphlib import CycleError, TopologicalSorter
from ipaddress import ip_address, ip_network
from typing import TypeAlias

from rulegen.errors import InputError, printable, shown
from rulegen.netfilter.bpf import compares_addresses
from rulegen.netfilter.expressions import BREAK, BeginsConnection, Masquerade, Mystery, known_key, written_before
from rulegen.netfilter.intervals import Intervals
from rulegen.netfilter.ipsets import IpSet, match_set
from rulegen.netfilter.machine import INTERFACE_BITS
from rulegen.netfilter.model import (
    BaseHook,
    Chain,
    Code,
    Family,
    Hook,
    Instruction,
    Result,
    Rule,
    Ruleset,
    Table,
    Verdict,
)
from rulegen.netfilter.regions import DPORT, DST, IIF, MARK, OIF, PROTO, SPORT, SRC
from rulegen.netfilter.registers import masked
from rulegen.netfilter.state import Connection, Remembered, State, split, split_equal, split_local

# Chain and priority of each table (linux/netfilter_ipv4.h); NAT's are those of its hooks.
_TABLES: Mapping[str, Mapping[str, int]] = {
    "raw": {"PREROUTING": -300, "OUTPUT": -300},
    "mangle": {"PREROUTING": -150, "INPUT": -150, "FORWARD": -150, "OUTPUT": -150, "POSTROUTING": -150},
    "nat": {"PREROUTING": -100, "INPUT": 100, "OUTPUT": -100, "POSTROUTING": 100},
    "filter": {"INPUT": 0, "FORWARD": 0, "OUTPUT": 0},
    "security": {"INPUT": 50, "FORWARD": 50, "OUTPUT": 50},
}
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "ipv6-icmp": 58, "icmpv6": 58, "udplite": 136, "dccp": 33}
_VERDICTS = {
    "ACCEPT": Code.ACCEPT,
    "DROP": Code.DROP,
    "RETURN": Code.RETURN,
    "REJECT": Code.REJECT,
    "QUEUE": Code.QUEUE,
}
# Matches and targets that change nothing, and options that say nothing about which packets match.
_NOTHING = frozenset({"--comment", "--nfacct-name", "--reject-with", "--random-fully", "--rsource", "--reap"})
_KNOWN_MATCHES = frozenset(
    {
        *("comment", "nfacct", "tcp", "udp", "sctp", "icmp6", "conntrack", "mark", "addrtype", "statistic", "recent"),
        *("bpf", "set"),
    }
)
# Targets that only tell somebody.
_NOTES = frozenset({"LOG", "NFLOG"})
_RANDOM = 1 << 31
_ALL = 0xFFFFFFFF
# What a rule has without any match, and where another match or the target begins.
_OF_HEADER = frozenset({"-s", "-d", "-p", "-i", "-o"})
_OF_NOBODY = frozenset({"-m", "-j", "-g", *_OF_HEADER})
# Options and their values in order, each with whether it is negated.
_Options: TypeAlias = Sequence[tuple[str, str, bool]]
_WITHOUT_VALUE = frozenset(
    {"--random-fully", "--rsource", "--rdest", "--reap", "--set", "--update", "--rcheck", "--remove", "--syn"}
)


def read_ruleset(
    family: Family, lines: Mapping[str, Iterable[str]], ipsets: Mapping[str, IpSet] | None = None
) -> Ruleset:
    """`lines`: by table, `:CHAIN POLICY` and `-A CHAIN ...`, `-I CHAIN ...` in order, as a restore takes them.

    `ipsets`: the sets that rules look into, by name.
    """
    return Ruleset(family, tuple(_Reader(family, name, rules, ipsets or {}).read() for name, rules in lines.items()))


def read_chains(
    family: Family, tables: Mapping[str, Mapping[str, Sequence[str]]], ipsets: Mapping[str, IpSet]
) -> Ruleset:
    """Rules as the kernel takes them, by table and chain, each what stands behind `-A CHAIN`; policies are ACCEPT.

    A chain is read when the first packet comes there.
    """
    found = (_Reader(family, name, (), ipsets).read_later(chains) for name, chains in tables.items())
    return Ruleset(family, tuple(found))


def parse_restore(text: str) -> dict[str, list[str]]:
    """The lines of each table in what `iptables-restore` takes; comments are left out. A later part adds to a table.

    Raises InputError for a table without its end.
    """
    tables: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in text.splitlines():
        if line.startswith("*"):
            current = tables.setdefault(line[1:].strip(), [])
        elif line == "COMMIT":
            current = None
        elif line and not line.startswith("#") and current is not None:
            current.append(line)
    if current is not None:
        raise InputError(f"table {shown(list(tables)[-1])}: the rules were cut off: there is no COMMIT")
    return tables


class _Reader:
    """One table."""

    def __init__(self, family: Family, name: str, lines: Iterable[str], ipsets: Mapping[str, IpSet]) -> None:
        self._family = family
        self._ipsets = ipsets
        self._lines = list(lines)
        self._hooks = _TABLES.get(name, {})
        program = "iptables" if family is Family.IPV4 else "ip6tables"
        self._table = Table(f"{program} {name}")
        self._kind = "nat" if name == "nat" else "filter"
        # How long a list of `recent` is asked back for, by its name.
        self._seconds: dict[str, int] = {}

    def read(self) -> Table:
        """Chains come first: rules name them. Raises InputError."""
        rules: list[tuple[str, list[str]]] = []
        for line in self._lines:
            try:
                rules += self._parse(line)
            except (ValueError, IndexError) as error:
                expected = "expected a chain or a rule as iptables-save writes it"
                raise InputError(f"{self._table.name}: {expected}, got {shown(line)}") from error
        for text, words in rules:
            chain = self._table.chains.get(words[1]) or self._add_chain(words[1], "ACCEPT")
            rule = self._rule(chain, text, words[2:])
            if words[0] == "-I":
                chain.rules.insert(0, rule)
            else:
                chain.rules.append(rule)
        for chain in self._table.chains.values():
            for place, rule in enumerate(chain.rules, 1):
                rule.place = place
        self._refuse_loops()
        return self._table

    def read_later(self, chains: Mapping[str, Sequence[str]]) -> Table:
        """The chains alone; their rules when a packet comes."""
        for name, rules in chains.items():
            self._add_chain(name, "ACCEPT").read = partial(self._read_chain, rules)
        return self._table

    def _read_chain(self, rules: Sequence[str], chain: Chain) -> list[Rule]:
        found = [self._rule(chain, text, _words(text)) for text in rules]
        for place, rule in enumerate(found, 1):
            rule.place = place
        return found

    def _parse(self, line: str) -> Iterator[tuple[str, list[str]]]:
        """A rule's text and words; a chain is added. Raises ValueError, IndexError."""
        if line.startswith(":"):
            name, policy, *_ = line[1:].split()
            self._add_chain(name, policy)
        elif line[:3] in {"-A ", "-I "}:
            command, chain, *words = _words(line)
            self._note_seconds(words)
            yield line.split(None, 2)[2] if words else "", [command, chain, *words]

    def _refuse_loops(self) -> None:
        """The kernel takes no chains that lead to themselves, but a text may have some."""
        below = {
            name: {one.verdict.chain for rule in chain.rules for one in rule.instructions if isinstance(one, Decide)}
            for name, chain in self._table.chains.items()
        }
        try:
            tuple(TopologicalSorter(below).static_order())
        except CycleError as error:
            chains = " -> ".join(printable(str(name)) for name in error.args[1])
            raise InputError(f"{self._table.name}: chains lead to each other: {chains}") from error

    def _add_chain(self, name: str, policy: str) -> Chain:
        known = self._table.chains.get(name)
        if known is not None:
            return known
        chain = Chain(self._table.name, name)
        if name in self._hooks:
            code = Code.DROP if policy == "DROP" else Code.ACCEPT
            chain.hook = BaseHook(self._kind, Hook(name.lower()), self._hooks[name], code)
        self._table.chains[name] = chain
        return chain

    def _note_seconds(self, words: Sequence[str]) -> None:
        if "--seconds" in words[:-1] and "--name" in words[:-1]:
            name, seconds = words[words.index("--name") + 1], words[words.index("--seconds") + 1]
            # Those who ask for different ages are nobody's idea of a time that a client is remembered for.
            self._seconds[name] = int(seconds) if self._seconds.get(name, int(seconds)) == int(seconds) else -1

    def _rule(self, chain: Chain, text: str, words: Sequence[str]) -> Rule:
        instructions: list[Instruction] = []
        # The kernel asks for these before any match, wherever they stand.
        first: list[Instruction] = []
        destination: int | None = None
        try:
            options = list(_options(words))
            for place, (option, value, negated) in enumerate(options):
                # Whatever it matches, a rule that only tells of a packet decides nothing; recent writes, too.
                if option == "-j" and value in _NOTES and ("-m", "recent", False) not in options:
                    return Rule(chain, 0, (), text)
                asked = first if option in _OF_HEADER else instructions
                asked += self._instructions(options, place)
                if option == "-d" and not negated and _network(self._family, value).only is not None:
                    destination = _network(self._family, value).only
        except (ValueError, KeyError, IndexError):
            first, instructions = [], [Mystery(text)]
        return Rule(chain, 0, (*first, *instructions), text, destination)

    def _instructions(self, options: _Options, place: int) -> Iterator[Instruction]:
        option, value, negated = options[place]
        if option in _NOTHING:
            return
        if option == "-m":
            yield from self._match(value, options[place + 1 :])
        elif option in {"-j", "-g"}:
            yield from self._target(option, value, options[place + 1 :])
        elif option == "--match-set":
            yield self._match_set(value, negated)
        elif option in _MATCHES:
            yield _MATCHES[option](self._family, value, negated)
        elif option not in _OF_OTHERS:
            yield Mystery(f"the option {option}")

    def _match(self, name: str, following: _Options) -> Iterator[Instruction]:
        """Those whose options mean something together; of others each option is a match of its own."""
        if name == "recent":
            yield self._recent(following)
        elif name == "statistic":
            yield _statistic(following)
        elif name not in _KNOWN_MATCHES:
            yield Mystery(f"the match {name}")

    def _match_set(self, value: str, negated: bool) -> Instruction:
        name, words = value.split()
        found = self._ipsets.get(name)
        if found is None:
            return Mystery(f"the set {name}, which is not there")
        return match_set(found, words, negated) or Mystery(f"a lookup in the set {name} ({found.kind}) by {words}")

    def _recent(self, following: _Options) -> Instruction:
        mine = _own(following)
        name = mine["--name"]
        action = next((word for word in ("--set", "--update", "--rcheck", "--remove") if word in mine), "")
        known = {"--set", "--update", "--rcheck", "--name", "--seconds", "--mask", "--rsource", "--reap"}
        if mine.keys() - known - _NOTHING or action in {"", "--remove"}:
            return Mystery("the match recent in this form")
        if mine.get("--mask", "") not in {"", "255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}:
            return Mystery("the match recent with a mask")
        return Recent(name, action, self._seconds.get(name))

    def _target(self, option: str, target: str, following: _Options) -> Iterator[Instruction]:
        if target in _VERDICTS:
            yield Decide(Verdict(_VERDICTS[target]), target)
        elif target == "MARK":
            mine = _own(following)
            value, _, mask = mine["--set-xmark"].partition("/")
            yield SetMark(int(value, 0), int(mask or "0xffffffff", 0))
        elif target == "DNAT":
            yield Translate(*_endpoint(_own(following)["--to-destination"]))
        elif target == "MASQUERADE":
            yield Masquerade()
        elif target in _NOTES:
            return
        elif target in self._table.chains:
            yield Decide(Verdict(Code.GOTO if option == "-g" else Code.JUMP, target), f"{option} {target}")
        else:
            yield Mystery(f"the target {target}")


def _words(line: str) -> list[str]:
    return shlex.split(line) if '"' in line or "\\" in line or "'" in line else line.split()


def _options(words: Sequence[str]) -> Iterator[tuple[str, str, bool]]:
    negated = False
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if word == "!":
            negated = True
            continue
        value = ""
        if word not in _WITHOUT_VALUE and index < len(words):
            count = 2 if word in {"--tcp-flags", "--match-set"} else 1
            value = " ".join(words[index : index + count])
            index += count
        yield word, value, negated
        negated = False


def _own(following: _Options) -> dict[str, str]:
    """The options up to the next match or target, or what else is not theirs."""
    found = {}
    for option, value, negated in following:
        if option in _OF_NOBODY:
            break
        if negated:
            raise ValueError(option)
        found[option] = value
    return found


# ---- matches ----


@dataclass(frozen=True, slots=True)
class Match:
    """A field of the packet is in a set of numbers, or is not."""

    variable: int
    numbers: Intervals
    is_negated: bool

    def __call__(self, state: State) -> Result:
        """Splits."""
        inside, others = split(state, state.fields[self.variable], self.numbers)
        if self.is_negated:
            inside, others = others, inside
        if not others and len(inside) == 1 and inside[0] is state:
            return None
        if not inside and len(others) == 1 and others[0] is state:
            return BREAK
        return [*((one, None) for one in inside), *((one, BREAK) for one in others)]

    def __str__(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class MatchLocal:
    """`-m addrtype --src-type LOCAL` and `--dst-type LOCAL`."""

    variable: int
    is_negated: bool

    def __call__(self, state: State) -> Result:
        """Splits."""
        return [
            (one, None if is_local is not self.is_negated else BREAK)
            for one, is_local in split_local(state, self.variable)
        ]

    def __str__(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class MatchState:
    """`-m conntrack --ctstate`."""

    states: frozenset[str]
    is_negated: bool

    def __call__(self, state: State) -> Result:
        """Known of all packets at once."""
        # In front of connection tracking iptables calls every packet invalid.
        word = _STATE_WORDS[state.run.connection] if state.run.is_tracked(state) else "INVALID"
        matches = word in self.states or ("DNAT" in self.states and state.is_translated)
        return None if matches is not self.is_negated else BREAK

    def __str__(self) -> str:
        return ""


_STATE_WORDS = {
    Connection.NEW: "NEW",
    Connection.TRANSLATED: "NEW",
    Connection.UNREPLIED: "NEW",
    Connection.ESTABLISHED: "ESTABLISHED",
    Connection.RELATED: "RELATED",
    Connection.UNTRACKED: "UNTRACKED",
    Connection.INVALID: "INVALID",
}


@dataclass(frozen=True, slots=True)
class MatchMark:
    """`-m mark --mark value/mask`."""

    value: int
    mask: int
    is_negated: bool

    def __call__(self, state: State) -> Result:
        """Splits."""
        bits = masked(state, state.fields[MARK], 32, self.mask, 0)
        inside, others = split(state, bits, Intervals.one(self.value))
        if self.is_negated:
            inside, others = others, inside
        return [*((one, None) for one in inside), *((one, BREAK) for one in others)]

    def __str__(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class MatchEqualEnds:
    """`-m bpf` with a filter that compares source and destination."""

    is_negated: bool

    def __call__(self, state: State) -> Result:
        """Splits."""
        return [(one, None if equal is not self.is_negated else BREAK) for one, equal in split_equal(state)]

    def __str__(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class MatchRandom:
    """`-m statistic --mode random`: the kernel draws 31 bits and compares them with a threshold."""

    threshold: int

    def __call__(self, state: State) -> Result:
        """Splits the connections, not the packets."""
        if not 0 < self.threshold < _RANDOM:
            return None if self.threshold else BREAK
        state.draw()
        other = state.copy()
        state.weight *= Fraction(self.threshold, _RANDOM)
        other.weight *= Fraction(_RANDOM - self.threshold, _RANDOM)
        return [(state, None), (other, BREAK)]

    def __str__(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class Recent:
    """`-m recent`: a list of clients. `seconds`: how long ago they may have been seen by those who ask."""

    name: str
    action: str
    seconds: int | None

    def __call__(self, state: State) -> Result:
        """What is written is noted with the packet; what it is remembered by, the run says."""
        key = known_key(state, [state.fields[SRC]])
        # What the packet itself has written on its way, the rules behind that find.
        is_written = written_before(state, self.name, key) is not None
        if self.action != "--set" and not is_written:
            state.asked |= {(self.name, key)}
            if state.run.recalled(self.name, key) is None:
                return BREAK
        if self.action != "--rcheck":
            state.remembered = (*state.remembered, Remembered(self.name, key, None, self.seconds))
        return None

    def __str__(self) -> str:
        return ""


# ---- targets ----


@dataclass(frozen=True, slots=True)
class Decide:
    """A verdict, or another chain."""

    verdict: Verdict
    text: str

    def __call__(self, _: State) -> Result:
        """Whatever the packet."""
        return self.verdict

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class SetMark:
    """`-j MARK --set-xmark value/mask`: the bits of the mask go, then the value's are flipped."""

    value: int
    mask: int

    def __call__(self, state: State) -> Result:
        """Goes on with the next rule."""
        state.fields[MARK] = masked(state, state.fields[MARK], 32, _ALL & ~self.mask, self.value)
        return None

    def __str__(self) -> str:
        return f"MARK --set-xmark {self.value:#x}/{self.mask:#x}"


@dataclass(frozen=True, slots=True)
class Translate:
    """`-j DNAT --to-destination`; port 0: it stays."""

    address: int
    port: int

    def __call__(self, state: State) -> Result:
        """Ends the table."""
        return state.run.translate(state, self.address, self.port or None)

    def __str__(self) -> str:
        return "DNAT"


def _endpoint(text: str) -> tuple[int, int]:
    """`10.0.0.1:80`, `[fd00::1]:80`, or without a port. Raises ValueError, for ranges too."""
    if text.startswith("["):
        address, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") > 1:
        address, port = text, ""
    else:
        address, _, port = text.partition(":")
    return int(ip_address(address)), int(port or "0")


def _network(family: Family, text: str) -> Intervals:
    network = ip_network(text)
    if (network.version == 4) is not (family is Family.IPV4):
        raise ValueError(text)
    return Intervals.of([(int(network.network_address), int(network.broadcast_address))])


def _ports(text: str) -> Intervals:
    low, _, high = text.partition(":")
    return Intervals.of([(int(low or "0"), int(high or low or "65535") if ":" not in text or high else 65535)])


def _protocol(text: str) -> Intervals:
    if text in {"all", "0"}:
        return Intervals.all_of(8)
    return Intervals.one(_PROTOCOLS[text] if text in _PROTOCOLS else int(text))


def _interface(text: str) -> Intervals:
    """An interface's name as a number; `+` at the end stands for anything."""
    size = INTERFACE_BITS // 8
    prefix = text.removesuffix("+").encode()
    if not text.endswith("+"):
        return Intervals.one(int.from_bytes(prefix.ljust(size, b"\0"), "big"))
    low = int.from_bytes(prefix.ljust(size, b"\0"), "big")
    high = int.from_bytes(prefix.ljust(size, b"\xff"), "big")
    return Intervals.of([(low, high)])


def _icmp_type(text: str) -> Intervals:
    """The first byte of the header, where other protocols have the first half of the source port."""
    return Intervals.of([(int(text) << 8, (int(text) << 8) + 255)])


def _flags(_: Family, value: str, negated: bool) -> Instruction:
    is_known = value == "FIN,SYN,RST,ACK SYN"
    return BeginsConnection(negated) if is_known else Mystery(f"the flags {value}")


def _states(_: Family, value: str, negated: bool) -> Instruction:
    states = frozenset(value.split(","))
    known = {*_STATE_WORDS.values(), "DNAT"}
    return MatchState(states, negated) if states <= known else Mystery(f"the state {value}")


def _mark(_: Family, value: str, negated: bool) -> Instruction:
    number, slash, mask = value.partition("/")
    return MatchMark(int(number, 0), int(mask if slash else "0xffffffff", 0), negated)


def _type_of(variable: int) -> Callable[[Family, str, bool], Instruction]:
    def make(_: Family, value: str, negated: bool) -> Instruction:
        return MatchLocal(variable, negated) if value == "LOCAL" else Mystery(f"the address type {value}")

    return make


def _bytecode(family: Family, value: str, negated: bool) -> Instruction:
    if compares_addresses(family, value):
        return MatchEqualEnds(negated)
    return Mystery("a socket filter that does more than compare source and destination")


def _statistic(following: _Options) -> Instruction:
    mine = _own(following)
    if mine.get("--mode") != "random":
        return Mystery("the match statistic in a mode other than random")
    return MatchRandom(round(Fraction(mine["--probability"]) * _RANDOM))


_MATCHES: Mapping[str, Callable[[Family, str, bool], Instruction]] = {
    "-s": lambda family, value, negated: Match(SRC, _network(family, value), negated),
    "-d": lambda family, value, negated: Match(DST, _network(family, value), negated),
    "-p": lambda _, value, negated: Match(PROTO, _protocol(value), negated),
    "-i": lambda _, value, negated: Match(IIF, _interface(value), negated),
    "-o": lambda _, value, negated: Match(OIF, _interface(value), negated),
    "--dport": lambda _, value, negated: Match(DPORT, _ports(value), negated),
    "--sport": lambda _, value, negated: Match(SPORT, _ports(value), negated),
    "--icmpv6-type": lambda _, value, negated: Match(SPORT, _icmp_type(value), negated),
    "--tcp-flags": _flags,
    "--ctstate": _states,
    "--mark": _mark,
    "--src-type": _type_of(SRC),
    "--dst-type": _type_of(DST),
    "--bytecode": _bytecode,
}
# Read together with the match or the target that they belong to.
_OF_OTHERS = frozenset(
    {
        *("--set", "--update", "--rcheck", "--remove", "--name", "--seconds", "--mask"),
        *(
            "--mode",
            "--probability",
            "--set-xmark",
            "--to-destination",
            "--nflog-group",
            "--nflog-prefix",
            "--log-prefix",
        ),
    }
)
