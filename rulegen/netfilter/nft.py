"""Rules of nf_tables in the kernel's encoding come in, rules of `model` go out. Pure.

Attributes are those of linux/netfilter/nf_tables.h. Every expression that is not known becomes a `Mystery`, which names
itself when a packet meets it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_address
from typing import TypeAlias

from rulegen.netfilter import expressions as do
from rulegen.netfilter.kernel import Listing
from rulegen.netfilter.model import (
    BaseHook,
    Chain,
    Code,
    Family,
    FoundElement,
    Hook,
    Instruction,
    Rule,
    Ruleset,
    Set,
    Table,
    Verdict,
)
from rulegen.netfilter.regions import DPORT, DST, IIF, MARK, OIF, PRIO, PROTO, SPORT, SRC
from rulegen.netlink.messages import attributes, text_of

_Parts: TypeAlias = Mapping[int, bytes]

_HOOKS = (Hook.PREROUTING, Hook.INPUT, Hook.FORWARD, Hook.OUTPUT, Hook.POSTROUTING)
_CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 3, 4, 5, 7
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
_RULE_CHAIN, _RULE_EXPRESSIONS, _RULE_USERDATA = 2, 4, 7
_SET_NAME, _SET_FLAGS, _SET_KEY_LENGTH, _SET_DATA_LENGTH, _SET_TIMEOUT = 2, 3, 5, 7, 11
_SET_INTERVAL, _SET_MAP, _SET_EVAL = 0x04, 0x08, 0x20
_ELEMENTS = 3
_KEY, _DATA, _FLAGS, _KEY_END = 1, 2, 3, 10
_INTERVAL_END, _CATCH_ALL = 0x1, 0x2
_CT_STATE, _CT_DIRECTION, _CT_STATUS = 0, 1, 2
_NETWORK, _TRANSPORT = 1, 2
_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
ETHERTYPES = {Family.IPV4: 0x0800, Family.IPV6: 0x86DD}
_NFPROTO = {Family.IPV4: 2, Family.IPV6: 10}
_TCP_FLAGS = "bytes 13 to 13 of header 2"
_NOTHING = frozenset({"counter", "comment", "log"})


# Who says of a table and a set what is in there, one key at a time; None for a set whose elements are listed.
Finders: TypeAlias = Callable[[str, str], Callable[[bytes], FoundElement | None] | None]


def read_ruleset(family: Family, listings: Iterable[Listing], finders: Finders = lambda *_: None) -> Ruleset:
    """The tables of one family."""
    return Ruleset(family, tuple(_read_table(family, one, finders) for one in listings if one.family == family.value))


def _read_table(family: Family, listing: Listing, finders: Finders) -> Table:
    table = Table(f"{listing.family} {listing.table}")
    for body in listing.sets:
        found = _read_set(dict(attributes(body)))
        found.find = finders(listing.table, found.name)
        if found.find is None:
            _fill(found, listing.elements.get(found.name, ()))
        table.sets[found.name] = found
    for body in listing.chains:
        chain = _read_chain(table, dict(attributes(body)), is_met=not listing.is_dormant)
        table.chains[chain.name] = chain
    reader = _Reader(family, table)
    for body in listing.rules:
        parts = dict(attributes(body))
        chain = table.chains[text_of(parts[_RULE_CHAIN])]
        instructions = tuple(joined(family, list(reader.instructions(parts.get(_RULE_EXPRESSIONS, b"")))))
        text = " ".join(filter(None, map(str, instructions)))
        chain.rules.append(Rule(chain, len(chain.rules) + 1, instructions, text))
    return table


def joined(family: Family, instructions: list[Instruction]) -> Iterator[Instruction]:
    """A rule with a comparison of two addresses byte by byte as one instruction, and with a test of TCP's flags."""
    place, count = 0, family.bits // 8
    while place < len(instructions):
        begins = _begins_connection(instructions[place : place + 3])
        if begins is not None:
            yield begins
            place += 3
            continue
        pairs = [_compared_byte(instructions[start : start + 3]) for start in range(place, place + 3 * count, 3)]
        known = [pair for pair in pairs if pair is not None]
        if {byte for byte, _ in known} == set(range(count)) and len({id(found) for _, found in known}) == 1:
            yield do.SameBytes(known[0][1], count)
            place += 3 * count
        else:
            yield instructions[place]
            place += 1


def _begins_connection(instructions: list[Instruction]) -> Instruction | None:
    """`tcp flags & (fin | syn | rst | ack) != syn`, behind a test of the protocol; None for anything else."""
    match instructions:
        case [
            do.LoadUnknown(register=first, text=text),
            do.Bitwise(source=masked, register=second, mask=b"\x17", flip=b"\0"),
            do.Compare(register=third, operator="==" | "!=" as operator, data=b"\x02", last=None),
        ] if text == _TCP_FLAGS and first == masked and second == third:
            return do.BeginsConnection(operator == "!=")
    return None


def _compared_byte(instructions: list[Instruction]) -> tuple[int, Set] | None:
    """Which byte of the source and of the destination are looked up in which set; None for anything else."""
    match instructions:
        case [
            do.LoadByte(register=first, variable=source, place=byte),
            do.LoadByte(register=second, variable=destination, place=other),
            do.Lookup(found_in=found, source=key, register=None, is_verdict=False, is_inverted=False),
        ] if (source, destination) == (SRC, DST) and byte == other and (first, second) == (key, key + 4):
            return None if found.is_dynamic else (byte, found)
    return None


def _number(parts: _Parts, kind: int, default: int = 0) -> int:
    return int.from_bytes(parts[kind], "big") if kind in parts else default


def _register(parts: _Parts, kind: int) -> int:
    """A byte offset: registers 1 to 4 are of 16 bytes, those from 8 on of 4."""
    number = _number(parts, kind)
    return 4 * (number - 8) if number >= 8 else 16 * (number - 1)


def _data(parts: _Parts, kind: int) -> bytes | Verdict:
    """A value or a verdict."""
    content = dict(attributes(parts[kind]))
    if 1 in content:
        return content[1]
    return _verdict(dict(attributes(content[2])))


def _value(parts: _Parts, kind: int) -> bytes:
    found = _data(parts, kind)
    return found if isinstance(found, bytes) else b""


def _verdict(parts: _Parts) -> Verdict:
    code = int.from_bytes(parts[1], "big", signed=True)
    if code & 0xFF == Code.QUEUE and code >= 0:
        return Verdict(Code.QUEUE)
    try:
        return Verdict(Code(code), text_of(parts[2]) if 2 in parts else "")
    except ValueError:
        return Verdict(Code.UNKNOWN)


def _read_chain(table: Table, parts: _Parts, *, is_met: bool) -> Chain:
    """`is_met`: whether what is in hooks is asked there."""
    chain = Chain(table.name, text_of(parts[_CHAIN_NAME]))
    if _CHAIN_HOOK in parts and is_met:
        hook = dict(attributes(parts[_CHAIN_HOOK]))
        priority = int.from_bytes(hook[_HOOK_PRIORITY], "big", signed=True)
        policy = Code(_number(parts, _CHAIN_POLICY, Code.ACCEPT))
        chain.hook = BaseHook(text_of(parts[_CHAIN_TYPE]), _HOOKS[_number(hook, _HOOK_NUMBER)], priority, policy)
    return chain


# ---- sets ----


def _read_set(parts: _Parts) -> Set:
    flags = _number(parts, _SET_FLAGS)
    return Set(
        name=text_of(parts[_SET_NAME]),
        key_length=_number(parts, _SET_KEY_LENGTH),
        data_length=_number(parts, _SET_DATA_LENGTH),
        is_map=bool(flags & _SET_MAP),
        is_interval=bool(flags & _SET_INTERVAL),
        is_dynamic=bool(flags & _SET_EVAL),
        timeout=_number(parts, _SET_TIMEOUT) // 1000 if _SET_TIMEOUT in parts else None,
    )


def _fill(found: Set, bodies: Iterable[bytes]) -> None:
    items = [
        dict(attributes(item))
        for body in bodies
        for kind, payload in attributes(body)
        if kind == _ELEMENTS
        for _, item in attributes(payload)
    ]
    if not found.is_interval or any(_KEY_END in item for item in items):
        for item in items:
            low = _value(item, _KEY) if _KEY in item else bytes(found.key_length)
            high = _value(item, _KEY_END) if _KEY_END in item else low
            if _number(item, _FLAGS) & _CATCH_ALL:
                low, high = bytes(found.key_length), b"\xff" * found.key_length
            found.elements.append((low, high, _data(item, _DATA) if _DATA in item else None))
        return
    # Of one field, a range is its first key and the one behind its last, unless that is the last of all.
    ends = sorted(items, key=lambda item: (_value(item, _KEY), not _number(item, _FLAGS) & _INTERVAL_END))
    opened: tuple[bytes, bytes | Verdict | None] | None = None
    for item in ends:
        key = _value(item, _KEY)
        if opened is not None:
            last = int.from_bytes(key, "big") - 1
            found.elements.append((opened[0], last.to_bytes(len(key), "big"), opened[1]))
            opened = None
        if not _number(item, _FLAGS) & _INTERVAL_END:
            opened = (key, _data(item, _DATA) if _DATA in item else None)
    if opened is not None:
        found.elements.append((opened[0], b"\xff" * found.key_length, opened[1]))


# ---- expressions ----


_Constants: TypeAlias = Callable[[bytes], str]


def _hexadecimal(data: bytes) -> str:
    return f"0x{data.hex()}"


def _native(data: bytes) -> str:
    return hex(int.from_bytes(data, sys.byteorder))


def _port(data: bytes) -> str:
    return str(int.from_bytes(data, "big"))


def _protocol(data: bytes) -> str:
    return {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp", 132: "sctp"}.get(data[0], str(data[0]))


def _name(data: bytes) -> str:
    whole = 16
    text = data.rstrip(b"\0").decode("ascii", "backslashreplace")
    return f'"{text}"' if len(data) == whole else f'"{text}*"'


def _address(data: bytes) -> str:
    """An address, or the first bytes of one as a prefix."""
    for size in (4, 16):
        if len(data) == size:
            return str(ip_address(data))
        if len(data) < size and (size == 4 or len(data) > 4):
            return f"{ip_address(data.ljust(size, bytes(1)))}/{8 * len(data)}"
    return _hexadecimal(data)


def _address_type(data: bytes) -> str:
    number = int.from_bytes(data, sys.byteorder)
    return {1: "unicast", 2: "local", 3: "broadcast", 5: "multicast"}.get(number, str(number))


_META_CONSTANTS: Mapping[int, _Constants] = {2: _native, 3: _native, 6: _name, 7: _name, 16: _protocol}


class _Reader:
    """Expressions of one table."""

    def __init__(self, family: Family, table: Table) -> None:
        self._family = family
        self._table = table
        # What the registers of the rule that is read hold, as far as that says how constants are written.
        self._words: dict[int, _Constants] = {}
        self._masked_registers: set[int] = set()
        self._known: Mapping[str, Callable[[_Parts], Instruction | None]] = {
            "meta": self._meta,
            "payload": self._payload,
            "cmp": self._compare,
            "range": self._range,
            "bitwise": self._bitwise,
            "byteorder": self._byteorder,
            "immediate": self._immediate,
            "lookup": self._lookup,
            "dynset": self._update,
            "ct": self._ct,
            "fib": self._fib,
            "numgen": self._numgen,
            "hash": self._hash,
            "nat": self._nat,
            "masq": lambda _: do.Masquerade(),
            "reject": lambda _: do.Decide(Verdict(Code.REJECT)),
        }

    def instructions(self, data: bytes) -> Iterator[Instruction]:
        """Of a rule, in order."""
        self._words = {}
        self._masked_registers = set()
        expressions = [dict(attributes(expression)) for _, expression in attributes(data)]
        names = [text_of(parts[1]) for parts in expressions]
        for place, (name, parts) in enumerate(zip(names, expressions, strict=True)):
            content = dict(attributes(parts.get(2, b"")))
            # How often something is logged does not count.
            if name in _NOTHING or (name == "limit" and _NOTHING.issuperset(names[place + 1 :])):
                continue
            read = self._known.get(name)
            made = read(content) if read else None
            yield do.Mystery(f"the expression {name}") if made is None else made

    def _meta(self, parts: _Parts) -> Instruction | None:
        key = _number(parts, 2)
        if 3 in parts:
            variable = {2: PRIO, 3: MARK}.get(key)
            if variable is not None:
                return do.SetField(_register(parts, 3), variable)
            return do.Nothing("meta nftrace set") if key == 12 else None
        register = _register(parts, 1)
        found = {
            1: ((None, ETHERTYPES[self._family], 2, False), "meta protocol"),
            2: ((PRIO, 0, 4, True), "meta priority"),
            3: ((MARK, 0, 4, True), "meta mark"),
            6: ((IIF, 0, 16, False), "iifname"),
            7: ((OIF, 0, 16, False), "oifname"),
            15: ((None, _NFPROTO[self._family], 1, False), "meta nfproto"),
            16: ((PROTO, 0, 1, False), "meta l4proto"),
        }.get(key)
        if found is None:
            return do.LoadUnknown(register, 4, f"meta key {key}")
        self._words[register] = _META_CONSTANTS.get(key, _hexadecimal)
        return do.Load(register, (found[0],), found[1])

    def _payload(self, parts: _Parts) -> Instruction | None:
        if 1 not in parts:
            return None
        register, base, offset, length = _register(parts, 1), _number(parts, 2), _number(parts, 3), _number(parts, 4)
        fields = self._fields(base)
        self._words[register] = _port if base == _TRANSPORT else _address
        if length == 1 and base == _NETWORK:
            return self._byte(register, offset)
        first = fields.get(offset)
        if first is not None and first[1] > length:
            return do.LoadPrefix(register, first[0], length, first[1], first[2])
        taken: list[tuple[int | None, int, int, bool]] = []
        words = []
        place = offset
        while place < offset + length and (found := fields.get(place)) is not None:
            variable, size, word = found
            taken.append((variable, 0, size, False))
            words.append(word)
            place += size
        if place != offset + length:
            return do.LoadUnknown(register, length, f"bytes {offset} to {offset + length - 1} of header {base}")
        return do.Load(register, tuple(taken), " . ".join(words))

    def _byte(self, register: int, offset: int) -> Instruction:
        """One byte of a header, which may be in the middle of an address."""
        text = f"@nh,{8 * offset},8"
        if self._fields(_NETWORK).get(offset, (SRC, 0, ""))[0] == PROTO:
            return do.Load(register, ((PROTO, 0, 1, False),), "protocol")
        for start, (variable, size, _) in self._fields(_NETWORK).items():
            if variable in {SRC, DST} and start <= offset < start + size:
                return do.LoadByte(register, variable, offset - start, size, text)
        return do.LoadUnknown(register, 1, text)

    def _fields(self, base: int) -> Mapping[int, tuple[int, int, str]]:
        """By offset: variable, length, and nft's word."""
        if base == _TRANSPORT:
            return {0: (SPORT, 2, "th sport"), 2: (DPORT, 2, "th dport")}
        if base != _NETWORK:
            return {}
        ip = self._family.value
        if self._family is Family.IPV4:
            return {9: (PROTO, 1, "ip protocol"), 12: (SRC, 4, f"{ip} saddr"), 16: (DST, 4, f"{ip} daddr")}
        return {8: (SRC, 16, f"{ip} saddr"), 24: (DST, 16, f"{ip} daddr")}

    def _compare(self, parts: _Parts) -> Instruction | None:
        register, operator, data = _register(parts, 1), _COMPARISONS[_number(parts, 2)], _value(parts, 3)
        word = "" if operator == "==" and register not in self._masked_registers else f"{operator} "
        return do.Compare(register, operator, data, None, word + self._constant(register, data))

    def _constant(self, register: int, data: bytes) -> str:
        return self._words.get(register, _hexadecimal)(data)

    def _range(self, parts: _Parts) -> Instruction | None:
        operator = "!=" if _number(parts, 2) else "=="
        register, low, high = _register(parts, 1), _value(parts, 3), _value(parts, 4)
        word = "" if operator == "==" else f"{operator} "
        text = f"{word}{self._constant(register, low)}-{self._constant(register, high)}"
        return do.Compare(register, operator, low, high, text)

    def _bitwise(self, parts: _Parts) -> Instruction | None:
        operation, length = _number(parts, 6), _number(parts, 3)
        source, register = _register(parts, 1), _register(parts, 2)
        self._words[register] = self._words.get(source, _hexadecimal)
        self._masked_registers.add(register)
        if operation == 0:
            mask, flip = _value(parts, 4), _value(parts, 5)
            return do.Bitwise(source, register, mask, flip, self._masked(register, mask, flip))
        everything, nothing = b"\xff" * length, bytes(length)
        if operation in {3, 4, 5} and 7 in parts and 8 not in parts:
            data = _value(parts, 7)
            inverse = bytes(byte ^ 0xFF for byte in data)
            mask, flip = {3: (data, nothing), 4: (inverse, data), 5: (everything, data)}[operation]
            return do.Bitwise(source, register, mask, flip, self._masked(register, mask, flip))
        return None

    def _masked(self, register: int, mask: bytes, flip: bytes) -> str:
        text = f"& {self._constant(register, mask)}"
        return f"{text} ^ {self._constant(register, flip)}" if any(flip) else text

    def _byteorder(self, parts: _Parts) -> Instruction | None:
        length, size = _number(parts, 4), _number(parts, 5)
        source, register = _register(parts, 1), _register(parts, 2)
        if length == size:
            return do.ByteOrder(source, register, length)
        # The kernel swaps as many numbers as fit: of a protocol, which nft calls a number of two bytes, none.
        return do.Nothing("") if length < size and source == register else None

    def _immediate(self, parts: _Parts) -> Instruction | None:
        data = _data(parts, 2)
        if isinstance(data, bytes):
            return do.Immediate(_register(parts, 1), data)
        return do.Mystery("a verdict of an unknown kind") if data.code is Code.UNKNOWN else do.Decide(data)

    def _lookup(self, parts: _Parts) -> Instruction | None:
        found = self._table.sets.get(text_of(parts[1]))
        if found is None:
            return None
        has_data = 3 in parts
        is_verdict = has_data and _number(parts, 3) == 0
        register = _register(parts, 3) if has_data and not is_verdict else None
        return do.Lookup(found, _register(parts, 2), register, is_verdict, bool(_number(parts, 5)))

    def _update(self, parts: _Parts) -> Instruction | None:
        found = self._table.sets.get(text_of(parts[1]))
        if found is None or 7 in parts or 10 in parts or _number(parts, 9) & 1:
            return None
        operation = ("add", "update", "delete")[_number(parts, 3)]
        data = _register(parts, 5) if 5 in parts else None
        timeout = _number(parts, 6) // 1000 or None
        return do.Update(found, operation, _register(parts, 4), data, found.data_length, timeout)

    def _ct(self, parts: _Parts) -> Instruction | None:
        if 1 not in parts:
            return None
        key, register = _number(parts, 2), _register(parts, 1)
        self._words[register] = _native
        if key in {_CT_STATE, _CT_STATUS}:
            return do.LoadConnection(register, key == _CT_STATUS)
        original = {9: DST, 20: DST, 22: DST, 12: DPORT}.get(key)
        if original is not None and 3 in parts and _number(parts, 3) == 0:
            length = 2 if original == DPORT else self._family.bits // 8
            return do.LoadOriginal(register, original, length)
        return do.LoadUnknown(register, 4, f"ct key {key}")

    def _fib(self, parts: _Parts) -> Instruction | None:
        result, flags = _number(parts, 2), _number(parts, 3)
        self._words[_register(parts, 1)] = _address_type
        if result == 3 and flags in {1, 2}:
            return do.LoadAddressType(_register(parts, 1), SRC if flags == 1 else DST)
        return do.LoadUnknown(_register(parts, 1), 4, "fib of another kind than type")

    def _numgen(self, parts: _Parts) -> Instruction | None:
        if _number(parts, 3) != 1:
            return do.LoadUnknown(_register(parts, 1), 4, "numgen inc")
        return do.Draw(_register(parts, 1), _number(parts, 2), _number(parts, 4))

    def _hash(self, parts: _Parts) -> Instruction | None:
        if _number(parts, 7):
            return do.LoadUnknown(_register(parts, 2), 4, "symhash")
        function = (_number(parts, 4), _number(parts, 5), _number(parts, 6))
        return do.Hash(_register(parts, 1), _register(parts, 2), _number(parts, 3), function)

    def _nat(self, parts: _Parts) -> Instruction | None:
        if _number(parts, 1) != 1:
            return None
        ends = ((3, 4), (5, 6))
        if any(end in parts and parts[end] != parts.get(start) for start, end in ends):
            return None
        address = _register(parts, 3) if 3 in parts else None
        port = _register(parts, 5) if 5 in parts else None
        return do.Translate(address, self._family.bits // 8, port, f"dnat {self._family.value} to")
