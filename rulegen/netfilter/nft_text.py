"""Rules of nft as text come in, rules of `model` go out, where there is no kernel to ask what it makes of them. Pure.

It reads the words that rulegen's own chains have; a rule with any other becomes a `Mystery`, which names itself when a
packet meets it. That it reads them as the kernel does, the tests prove of all chains that rulegen writes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import NamedTuple, TypeAlias

from rulegen.netfilter import expressions as do
from rulegen.netfilter.model import BaseHook, Chain, Code, Family, Hook, Instruction, Rule, Set, Table, Verdict
from rulegen.netfilter.nft import ETHERTYPES, joined
from rulegen.netfilter.regions import DPORT, DST, IIF, MARK, OIF, PRIO, PROTO, SPORT, SRC

_DECLARATION = re.compile(r"type (\w+) hook (\w+) priority (-?\d+); policy (\w+);")
_WORD = re.compile(r'"[^"]*"|[{}]|[^\s{}]+')
# Where keys are put together, and where data goes that a map gives: byte offsets of registers.
_KEY, _DATA, _INNER = 0, 64, 128
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "ipv6-icmp": 58, "icmpv6": 58}
_STATES = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}
_STATUS = {"dnat": 0x20}
_TYPES = {"local": 2}
_VERDICTS = {"accept": Code.ACCEPT, "drop": Code.DROP, "return": Code.RETURN}
_OPERATORS = frozenset({"==", "!=", "<", "<=", ">", ">="})
_BEGINS = ["flags", "&", "(fin", "|", "syn", "|", "rst", "|", "ack)"]
_HOST = sys.byteorder

# A constant as its first and its last number; both are the same where it is no range.
_Constant: TypeAlias = "Callable[[str], tuple[int, int]]"


class ChainText(NamedTuple):
    """`declaration`: the line of a base chain, "" of another. `rules`: gives them, one a line, when a packet comes."""

    declaration: str
    rules: Callable[[], Sequence[str]]


def read_table(
    family: Family, name: str, chains: Mapping[str, ChainText], set_named: Callable[[str], Set | None]
) -> Table:
    """A table; each chain is read when the first packet comes there. Raises ValueError for a strange declaration."""
    table = Table(f"{family.value} {name}")
    for chain_name, text in chains.items():
        hook = _hook(text.declaration) if text.declaration else None
        table.chains[chain_name] = Chain(table.name, chain_name, hook, read=_later(family, text, set_named))
    return table


def _hook(declaration: str) -> BaseHook:
    match = _DECLARATION.fullmatch(declaration)
    if match is None:
        raise ValueError(declaration)
    kind, hook, priority, policy = match.groups()
    return BaseHook(kind, Hook(hook), int(priority), _VERDICTS[policy])


def _later(family: Family, text: ChainText, set_named: Callable[[str], Set | None]) -> Callable[[Chain], list[Rule]]:
    def read(chain: Chain) -> list[Rule]:
        return [
            Rule(chain, place, tuple(joined(family, read_rule(family, line, set_named))), line)
            for place, line in enumerate(text.rules(), 1)
        ]

    return read


def read_rule(family: Family, text: str, set_named: Callable[[str], Set | None]) -> list[Instruction]:
    """One rule; a `Mystery` alone where a word of it is not known."""
    try:
        return list(_Reader(family, _WORD.findall(text), set_named).rule())
    except (ValueError, KeyError, IndexError):
        return [do.Mystery(f"the rule {text}")]


class _Part(NamedTuple):
    """A field: `load` puts it into a register. `length` in bytes; `is_host`: in the machine's byte order."""

    load: Callable[[int], Iterator[Instruction]]
    length: int
    constant: _Constant
    is_host: bool = False


class _Reader:
    """The words of one rule, from left to right. ValueError, KeyError, IndexError: for what it does not know."""

    def __init__(self, family: Family, words: Sequence[str], set_named: Callable[[str], Set | None]) -> None:
        self._family = family
        self._words = list(words)
        self._place = 0
        self._set_named = set_named

    # -- words --

    def _next(self) -> str:
        self._place += 1
        return self._words[self._place - 1]

    def _peek(self) -> str:
        return self._words[self._place] if self._place < len(self._words) else ""

    def _take(self, *words: str) -> bool:
        """Whether these come next, which are taken then."""
        end = self._place + len(words)
        if self._words[self._place : end] == list(words):
            self._place = end
            return True
        return False

    def _expect(self, *words: str) -> None:
        if not self._take(*words):
            raise ValueError(self._peek())

    def _set(self) -> Set:
        name = self._next()
        found = self._set_named(name[1:]) if name.startswith("@") else None
        if found is None:
            raise ValueError(name)
        return found

    # -- statements --

    def rule(self) -> Iterator[Instruction]:
        """All of it."""
        while self._place < len(self._words):
            yield from self._statement()

    def _statement(self) -> Iterator[Instruction]:
        word = self._peek()
        known: Mapping[str, Callable[[], Iterator[Instruction]]] = {
            "dnat": self._dnat,
            "masquerade": self._masquerade,
            "reject": self._reject,
            "counter": self._nothing,
            "log": self._note,
            "limit": self._note,
            "update": self._update,
            "delete": self._update,
        }
        if word in _VERDICTS:
            yield do.Decide(Verdict(_VERDICTS[self._next()]))
        elif word in {"goto", "jump"}:
            code = Code.GOTO if self._next() == "goto" else Code.JUMP
            yield do.Decide(Verdict(code, self._next()))
        elif word in known:
            yield from known[word]()
        elif word == "meta" and self._words[self._place + 2 : self._place + 3] == ["set"]:
            yield from self._set_field()
        else:
            yield from self._match()

    def _nothing(self) -> Iterator[Instruction]:
        self._next()
        return iter(())

    def _note(self) -> Iterator[Instruction]:
        """What is logged, and how often: a rule that does nothing else."""
        if not {"log", "counter"} >= {word for word in self._words if word in {*_VERDICTS, "log", "counter", "meta"}}:
            raise ValueError(self._peek())
        self._place = len(self._words)
        return iter(())

    def _masquerade(self) -> Iterator[Instruction]:
        self._next()
        self._take("fully-random")
        yield do.Masquerade()

    def _reject(self) -> Iterator[Instruction]:
        """How it is told does not count."""
        self._place = len(self._words)
        yield do.Decide(Verdict(Code.REJECT))

    def _dnat(self) -> Iterator[Instruction]:
        self._expect("dnat", self._family.value, "to")
        parts = self._concatenation()
        self._expect("map")
        yield from _loaded(parts, _KEY)
        yield do.Lookup(self._set(), _KEY, _DATA, is_verdict=False, is_inverted=False)
        size = self._family.bits // 8
        yield do.Translate(_DATA, size, _DATA + size, f"dnat {self._family.value} to")

    def _set_field(self) -> Iterator[Instruction]:
        self._expect("meta")
        variable = {"priority": PRIO, "mark": MARK}[self._next()]
        self._expect("set")
        register = _KEY
        if self._take("none"):
            yield do.Immediate(_KEY, bytes(4))
        elif self._peek().startswith("0x"):
            yield do.Immediate(_KEY, int(self._next(), 16).to_bytes(4, _HOST))
        else:
            yield from _loaded(self._concatenation(), _KEY)
            if self._take("map"):
                register = _DATA
                yield do.Lookup(self._set(), _KEY, _DATA, is_verdict=False, is_inverted=False)
        yield do.SetField(register, variable)

    def _update(self) -> Iterator[Instruction]:
        operation = self._next()
        written = self._set()
        self._expect("{")
        yield from _loaded(self._concatenation(), _KEY)
        timeout = int(self._next().removesuffix("s")) if self._take("timeout") else None
        data = None
        if self._take(":"):
            data = _DATA
            yield from _loaded(self._concatenation(), _DATA)
        self._expect("}")
        yield do.Update(written, operation, _KEY, data, written.data_length, timeout)

    # -- matches --

    def _match(self) -> Iterator[Instruction]:
        if self._take("tcp", *_BEGINS, "!=", "syn"):
            yield from self._protocol(6)
            yield do.BeginsConnection(is_negated=True)
            return
        if self._peek() in {"tcp", "udp", "sctp"}:
            yield from self._protocol(_PROTOCOLS[self._peek()])
        elif self._peek() == "icmpv6":
            yield from self._protocol(_PROTOCOLS["icmpv6"])
        parts = self._concatenation()
        yield from _loaded(parts, _KEY)
        if self._take("vmap"):
            yield do.Lookup(self._set(), _KEY, 0, is_verdict=True, is_inverted=False)
            return
        operator = self._next() if self._peek() in _OPERATORS else "=="
        if self._peek().startswith("@"):
            yield do.Lookup(self._set(), _KEY, None, is_verdict=False, is_inverted=operator == "!=")
        elif len(parts) == 1:
            yield from self._comparison(parts[0], operator, self._next())
        else:
            raise ValueError(self._peek())

    def _protocol(self, number: int) -> Iterator[Instruction]:
        yield do.Load(_KEY, ((PROTO, 0, 1, False),), "meta l4proto")
        yield do.Compare(_KEY, "==", bytes([number]), None, str(number))

    def _comparison(self, part: _Part, operator: str, text: str) -> Iterator[Instruction]:
        if text.startswith('"') and text.endswith('*"'):
            yield do.Compare(_KEY, operator, text[1:-2].encode(), None, text)
            return
        if part.constant is _state or part.constant is _status:
            mask = part.constant(text)[0].to_bytes(4, _HOST)
            yield do.Bitwise(_KEY, _KEY, mask, bytes(4), "")
            yield do.Compare(_KEY, "==" if operator == "!=" else "!=", bytes(4), None, text)
            return
        low, high = part.constant(text)
        first, last = (number.to_bytes(part.length, _HOST if part.is_host else "big") for number in (low, high))
        yield do.Compare(_KEY, operator, first, None if low == high else last, text)

    # -- expressions --

    def _concatenation(self) -> list[_Part]:
        parts = [self._field()]
        while self._take("."):
            parts.append(self._field())
        return parts

    def _field(self) -> _Part:
        part = self._primary()
        if not part.is_host:
            return part
        mask, flip = 0xFFFFFFFF, 0
        if self._take("&"):
            mask = int(self._next(), 16)
        if self._take("|"):
            flip = int(self._next(), 16)
        if (mask, flip) == (0xFFFFFFFF, 0):
            return part
        # `& mask | bits` as the kernel has it: `& (mask without the bits) ^ bits`.
        data = ((mask & ~flip).to_bytes(4, _HOST), flip.to_bytes(4, _HOST))

        def load(register: int) -> Iterator[Instruction]:
            yield from part.load(register)
            yield do.Bitwise(register, register, *data, "")

        return part._replace(load=load)

    def _primary(self) -> _Part:
        word = self._next()
        if word.startswith("@nh,"):
            return self._byte(word)
        known: Mapping[str, Callable[[], _Part]] = {
            self._family.value: lambda: self._address(word, self._next()),
            "meta": lambda: self._protocol_of_link() if self._take("protocol") else self._meta(self._next()),
            **dict.fromkeys(("th", "tcp", "udp", "sctp"), lambda: self._port(self._next())),
            "iifname": lambda: _simple(IIF, 16, _name, word),
            "oifname": lambda: _simple(OIF, 16, _name, word),
            "icmpv6": self._icmp_type,
            "fib": self._address_type,
            "ct": lambda: self._connection(self._next()),
            "numgen": self._number_drawn,
            "jhash": self._hash,
        }
        return known[word]()

    @staticmethod
    def _port(end: str) -> _Part:
        return _simple({"sport": SPORT, "dport": DPORT}[end], 2, _number, f"th {end}")

    def _icmp_type(self) -> _Part:
        self._expect("type")
        return _Part(lambda register: iter([do.LoadPrefix(register, SPORT, 1, 2, "icmpv6 type")]), 1, _number)

    def _address_type(self) -> _Part:
        variable = {"saddr": SRC, "daddr": DST}[self._next()]
        self._expect("type")
        return _Part(lambda register: iter([do.LoadAddressType(register, variable)]), 4, _type, is_host=True)

    def _address(self, word: str, end: str) -> _Part:
        return _simple({"saddr": SRC, "daddr": DST}[end], self._family.bits // 8, _addresses, f"{word} {end}")

    @staticmethod
    def _meta(key: str) -> _Part:
        if key == "l4proto":
            return _simple(PROTO, 1, _protocol_number, "meta l4proto")
        variable = {"mark": MARK, "priority": PRIO}[key]

        def load(register: int) -> Iterator[Instruction]:
            yield do.Load(register, ((variable, 0, 4, True),), f"meta {key}")

        return _Part(load, 4, _number, is_host=True)

    def _protocol_of_link(self) -> _Part:
        number = ETHERTYPES[self._family]

        def load(register: int) -> Iterator[Instruction]:
            yield do.Load(register, ((None, number, 2, False),), "meta protocol")

        return _Part(load, 2, _number)

    def _byte(self, word: str) -> _Part:
        """`@nh,120,8`: of an address, counted in bits from the beginning of the header."""
        offset, length = (int(number) for number in word.split(",")[1:])
        size = self._family.bits // 8
        first = 12 if self._family is Family.IPV4 else 8
        end, place = divmod(offset // 8 - first, size)
        if length != 8 or offset % 8:
            raise ValueError(word)
        variable = (SRC, DST)[end]
        return _Part(lambda register: iter([do.LoadByte(register, variable, place, size, word)]), 1, _number)

    def _connection(self, key: str) -> _Part:
        if key in {"state", "status"}:
            is_status = key == "status"
            constant = _status if is_status else _state
            return _Part(lambda register: iter([do.LoadConnection(register, is_status)]), 4, constant, is_host=True)
        if key != "original":
            raise ValueError(key)
        if self._take("proto-dst"):
            return _Part(lambda register: iter([do.LoadOriginal(register, DPORT, 2)]), 2, _number)
        self._expect(self._family.value, "daddr")
        size = self._family.bits // 8
        return _Part(lambda register: iter([do.LoadOriginal(register, DST, size)]), size, _addresses)

    def _number_drawn(self) -> _Part:
        self._expect("random", "mod")
        modulus = int(self._next())
        offset = int(self._next()) if self._take("offset") else 0
        return _Part(lambda register: iter([do.Draw(register, modulus, offset)]), 4, _number, is_host=True)

    def _hash(self) -> _Part:
        inner = self._field()
        self._expect("mod")
        modulus = int(self._next())
        self._expect("seed")
        seed = int(self._next(), 0)

        def load(register: int) -> Iterator[Instruction]:
            yield from inner.load(_INNER)
            yield do.Hash(_INNER, register, inner.length, (modulus, seed, 0))

        return _Part(load, 4, _number, is_host=True)


def _loaded(parts: Sequence[_Part], register: int) -> Iterator[Instruction]:
    """Side by side, each at a multiple of four bytes."""
    for part in parts:
        yield from part.load(register)
        register += -(-part.length // 4) * 4


def _simple(variable: int, length: int, constant: _Constant, text: str) -> _Part:
    def load(register: int) -> Iterator[Instruction]:
        yield do.Load(register, ((variable, 0, length, False),), text)

    return _Part(load, length, constant)


# ---- constants ----


def _number(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    return int(low, 0), int(high or low, 0)


def _protocol_number(text: str) -> tuple[int, int]:
    number = _PROTOCOLS[text] if text in _PROTOCOLS else int(text)
    return number, number


def _addresses(text: str) -> tuple[int, int]:
    if "-" in text:
        low, high = text.split("-")
        return int(ip_address(low)), int(ip_address(high))
    network = ip_network(text)
    return int(network.network_address), int(network.broadcast_address)


def _name(text: str) -> tuple[int, int]:
    number = int.from_bytes(text.strip('"').encode().ljust(16, b"\0"), "big")
    return number, number


def _type(text: str) -> tuple[int, int]:
    return _TYPES[text], _TYPES[text]


def _state(text: str) -> tuple[int, int]:
    number = sum(_STATES[word] for word in text.split(","))
    return number, number


def _status(text: str) -> tuple[int, int]:
    number = sum(_STATUS[word] for word in text.split(","))
    return number, number
