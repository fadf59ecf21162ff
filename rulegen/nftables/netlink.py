"""nf_tables messages over netlink: elements, chains and rules as the kernel holds them.

In: entries and bytes. Out: netlink batches, and what the kernel lists or refuses. The path of a change goes this way
because libnftables fetches every set of the host for each command, other tables' too, and a listing as text depends
on the version of nft. Loads of many elements are sent as text instead (`apply`). Knows no Service and decides nothing.

Messages and attributes are those of linux/netfilter/nf_tables.h; numbers in them are big-endian.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import NamedTuple, Self

from msgspec import Struct

from rulegen.config import Family
from rulegen.errors import HostError
from rulegen.netlink import (
    ATTRIBUTE,
    DUMP,
    DUMP_INTERRUPTED,
    HEADER,
    NESTED,
    NETLINK_NETFILTER,
    NLMSG_DONE,
    NLMSG_ERROR,
    REQUEST,
    attribute,
    attributes,
    message,
)
from rulegen.nftables.layout import Container, Value

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33

_SUBSYSTEM = 10 << 8
_GETTABLE, _DELTABLE = _SUBSYSTEM | 1, _SUBSYSTEM | 2
_NEWCHAIN, _GETCHAIN, _DELCHAIN = _SUBSYSTEM | 3, _SUBSYSTEM | 4, _SUBSYSTEM | 5
_NEWRULE, _GETRULE, _DELRULE = _SUBSYSTEM | 6, _SUBSYSTEM | 7, _SUBSYSTEM | 8
_GETSET = _SUBSYSTEM | 10
_NEWSETELEM, _GETSETELEM, _DELSETELEM = _SUBSYSTEM | 12, _SUBSYSTEM | 13, _SUBSYSTEM | 14
_GETGEN = _SUBSYSTEM | 16
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11

_CREATE, _APPEND = 0x400, 0x800
_CAPPED, _ACK_TLVS = 0x100, 0x200

_TABLE_NAME, _TABLE_FLAGS, _TABLE_USERDATA = 1, 2, 6
_DORMANT = 0x1
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 1, 3, 4, 5, 7
_HOOK_PRIORITY = 2
_CHAIN_DECLARATION = ((_CHAIN_TYPE, 0), (_CHAIN_HOOK, NESTED), (_CHAIN_POLICY, 0))
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS = 1, 2, 4
_SET_TABLE, _SET_NAME, _SET_FLAGS, _SET_KEY_LENGTH, _SET_DATA_LENGTH, _SET_DESCRIPTION = 1, 2, 3, 5, 7, 9
_DESCRIPTION_SIZE = 1
SET_INTERVAL, SET_MAP, SET_TIMEOUT, SET_DYNAMIC, SET_CONCATENATION = 0x04, 0x08, 0x10, 0x20, 0x80
_ELEMENTS_TABLE, _ELEMENTS_SET, _ELEMENTS = 1, 2, 3
_ELEMENT_KEY, _ELEMENT_DATA, _ELEMENT_FLAGS = 1, 2, 3
_ELEMENT_TIMEOUT, _ELEMENT_EXPIRATION, _ELEMENT_USERDATA, _ELEMENT_KEY_END = 4, 5, 6, 10
_DATA_VALUE, _DATA_VERDICT = 1, 2
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
_GENERATION_ID = 1
_LIST_ITEM = 1
_EXPRESSION_NAME, _EXPRESSION_DATA, _NUMGEN_MODULUS = 1, 2, 2
_USERDATA_COMMENT = 0  # the same in tables and in elements
_INTERVAL_END = 0x1

_VERDICT_CODES = {"goto": 0xFFFFFFFC, "jump": 0xFFFFFFFD}
_VERDICT_WORDS = {code: word for word, code in _VERDICT_CODES.items()}

_FAMILY_NUMBERS = {Family.IPV4: 2, Family.IPV6: 10}  # NFPROTO_IPV4, NFPROTO_IPV6

_FAMILY_HEADER = 4  # struct nfgenmsg
_BATCH_GENERATION = 1
_TWO_ATTRIBUTES = struct.Struct("=HHHH")
_U32, _S32 = struct.Struct("!I"), struct.Struct("!i")
# A nested attribute's length is 16 bits: so many elements of the longest kind stay well below.
_ELEMENTS_PER_MESSAGE = 128

# Root's socket buffers may be larger than that.
SIZE_HINT = "without root a transaction is limited by the sysctl net.core.wmem_max"


class KernelError(Exception):
    """The kernel refused a message. `index` is its place in the transaction, -1 when the kernel does not say."""

    def __init__(self, number: int, index: int, message: str = "") -> None:
        """`number` is an errno, `message` what the kernel adds to it."""
        self.number = number
        self.index = index
        super().__init__(f"{os.strerror(number)} ({message})" if message else os.strerror(number))


class TableInfo(NamedTuple):
    """A table of ours: its comment, and whether packets are kept from it."""

    comment: str
    is_dormant: bool


class ChainInfo(NamedTuple):
    """A chain: `declaration` is the attributes of its type, hook and policy (empty without a hook)."""

    name: str
    declaration: bytes


class RuleInfo(NamedTuple):
    """A rule: the chain's name and its expressions as the kernel lists them."""

    chain: str
    expressions: bytes


class SetInfo(NamedTuple):
    """A set or map: lengths in bytes, 0 for no data; a `size` of 0 is no limit to the number of elements."""

    name: str
    flags: int
    key_length: int
    data_length: int
    size: int


class Element(Struct, frozen=True, gc=False):
    """An element as the kernel lists it. Times in milliseconds; `expiration` is what is left, None without a timeout.

    `timeout` None: the set's own.
    """

    key: bytes
    value: Value
    key_end: bytes = b""
    interval_end: bool = False
    timeout: int | None = None
    expiration: int | None = None


# ---- writing ----


def _text(kind: int, text: str) -> bytes:
    return attribute(kind, text.encode() + b"\0")


def delete_table(family: Family, table: str) -> bytearray:
    """`delete table ip rulegen`."""
    return message(_DELTABLE, REQUEST, _FAMILY_NUMBERS[family], _text(_TABLE_NAME, table))


def new_chain(family: Family, table: str, name: str, declaration: bytes) -> bytearray:
    """`add chain ip rulegen NAME`; `declaration` as in `ChainInfo`."""
    payload = _text(_CHAIN_TABLE, table) + _text(_CHAIN_NAME, name) + declaration
    return message(_NEWCHAIN, REQUEST | _CREATE, _FAMILY_NUMBERS[family], payload)


def one_step_earlier(declaration: bytes) -> bytes:
    """The attributes of a hook with a priority one lower."""
    hook = dict(attributes(declaration))[_CHAIN_HOOK]
    priority = dict(attributes(hook))[_HOOK_PRIORITY]
    earlier = _S32.pack(_S32.unpack(priority)[0] - 1)
    return declaration.replace(
        hook, hook.replace(attribute(_HOOK_PRIORITY, priority), attribute(_HOOK_PRIORITY, earlier))
    )


def delete_chain(family: Family, table: str, name: str) -> bytearray:
    """`delete chain ip rulegen NAME`."""
    payload = _text(_CHAIN_TABLE, table) + _text(_CHAIN_NAME, name)
    return message(_DELCHAIN, REQUEST, _FAMILY_NUMBERS[family], payload)


def flush_chain(family: Family, table: str, name: str) -> bytearray:
    """`flush chain ip rulegen NAME`."""
    payload = _text(_RULE_TABLE, table) + _text(_RULE_CHAIN, name)
    return message(_DELRULE, REQUEST, _FAMILY_NUMBERS[family], payload)


def new_rule(family: Family, table: str, chain: str, expressions: bytes) -> bytearray:
    """`add rule ip rulegen CHAIN ...`, the rule given as the kernel listed one."""
    payload = _text(_RULE_TABLE, table) + _text(_RULE_CHAIN, chain)
    payload += attribute(_RULE_EXPRESSIONS | NESTED, expressions)
    return message(_NEWRULE, REQUEST | _CREATE | _APPEND, _FAMILY_NUMBERS[family], payload)


def with_modulus(expressions: bytes, modulus: int) -> bytes:
    """A rule's expressions with the modulus of its `numgen` replaced; all else stays as the kernel listed it."""
    for _, expression in attributes(expressions):
        parts = dict(attributes(expression))
        if parts[_EXPRESSION_NAME] == b"numgen\0":
            before = parts[_EXPRESSION_DATA]
            old = attribute(_NUMGEN_MODULUS, dict(attributes(before))[_NUMGEN_MODULUS])
            after = before.replace(old, attribute(_NUMGEN_MODULUS, _U32.pack(modulus)), 1)
            return expressions.replace(before, after, 1)
    raise ValueError("a rule without numgen")


def add_elements(container: Container, table: str, entries: list[tuple[bytes, Value]]) -> bytearray:
    """`add element ip rulegen NAME { ... }`; as many as `chunks` gives."""
    items = [item for key, value in entries for item in _items(container, key, value)]
    return _elements(_NEWSETELEM, REQUEST | _CREATE, container, table, items)


def add_expiring_element(
    container: Container, table: str, entry: tuple[bytes, Value], times: tuple[int, int]
) -> bytearray:
    """`add element ip rulegen NAME { KEY timeout T expires E : DATA }`; `times` are both, in milliseconds."""
    timeout, expiration = (time.to_bytes(8, "big") for time in times)
    element = _key(entry[0]) + _content(container, entry[1])
    element += attribute(_ELEMENT_TIMEOUT, timeout) + attribute(_ELEMENT_EXPIRATION, expiration)
    return _elements(_NEWSETELEM, REQUEST | _CREATE, container, table, [element])


def delete_elements(container: Container, table: str, entries: list[tuple[bytes, Value]]) -> bytearray:
    """`delete element ip rulegen NAME { ... }`; values do not count."""
    items = [item for key, _ in entries for item in _items(container, key, None)]
    return _elements(_DELSETELEM, REQUEST, container, table, items)


def _elements(kind: int, flags: int, container: Container, table: str, items: list[bytes]) -> bytearray:
    payload = _text(_ELEMENTS_TABLE, table) + _text(_ELEMENTS_SET, container.name)
    payload += attribute(_ELEMENTS | NESTED, b"".join(attribute(_LIST_ITEM | NESTED, item) for item in items))
    return message(kind, flags, _FAMILY_NUMBERS[container.family], payload)


def _items(container: Container, key: bytes, value: Value | None) -> Iterator[bytes]:
    """What one entry is to the kernel; without a value, what must be said to delete it."""
    content = _content(container, value) if value else b""
    if not container.interval:
        yield _key(key) + content
        return
    first, last = key[: container.key_length], key[container.key_length :]
    if len(container.key) > 1:
        yield _key(first) + _key(last, _ELEMENT_KEY_END) + content
        return
    # One field: a range is its first address and the one after its last, unless that is the last of all.
    yield _key(first) + content
    after = int.from_bytes(last, "big") + 1
    if after < 1 << 8 * len(last):
        flags = attribute(_ELEMENT_FLAGS, _U32.pack(_INTERVAL_END))
        yield _key(after.to_bytes(len(last), "big")) + flags


def _key(key: bytes, kind: int = _ELEMENT_KEY) -> bytes:
    return attribute(kind | NESTED, attribute(_DATA_VALUE, key))


def _content(container: Container, value: Value) -> bytes:
    """An element's data and comment."""
    content = b""
    if container.is_verdict_map:
        word, chain = value.data.decode().split(" ")
        verdict = attribute(_VERDICT_CODE, _U32.pack(_VERDICT_CODES[word])) + _text(_VERDICT_CHAIN, chain)
        content = attribute(_ELEMENT_DATA | NESTED, attribute(_DATA_VERDICT | NESTED, verdict))
    elif container.data:
        content = attribute(_ELEMENT_DATA | NESTED, attribute(_DATA_VALUE, value.data))
    if value.comment:
        text = value.comment.encode() + b"\0"
        content += attribute(_ELEMENT_USERDATA, bytes((_USERDATA_COMMENT, len(text))) + text)
    return content


# ---- reading ----


def _name(data: bytes) -> str:
    return data.rstrip(b"\0").decode("utf-8", "replace")


def _number(parts: Mapping[int, bytes], kind: int) -> int:
    """The number that an attribute holds, 0 without it."""
    return int.from_bytes(parts.get(kind, b""), "big")


def _comment(userdata: bytes) -> str:
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        if kind == _USERDATA_COMMENT:
            return _name(userdata[offset + 2 : offset + 2 + length])
        offset += 2 + length
    return ""


_EMPTY = Value()


def _parse_element(data: bytes) -> Element:
    """The element of a list's item. Nearly all have a key and perhaps a value and nothing else, so they come first."""
    end, kind, length, _ = _TWO_ATTRIBUTES.unpack_from(data)
    if kind & 0x3FFF != _ELEMENT_KEY:
        return _parse_any_element(data)
    key = data[8 : 4 + length]
    if end == len(data):
        return Element(key, _EMPTY)
    size, kind, length, data_kind = _TWO_ATTRIBUTES.unpack_from(data, end)
    if end + size == len(data) and kind & 0x3FFF == _ELEMENT_DATA and data_kind & 0x3FFF == _DATA_VALUE:
        return Element(key, Value(data[end + 8 : end + 4 + length]))
    return _parse_any_element(data)


def _parse_any_element(data: bytes) -> Element:
    parts = dict(attributes(data))
    content = parts.get(_ELEMENT_DATA)
    return Element(
        key=parts[_ELEMENT_KEY][4:] if _ELEMENT_KEY in parts else b"",
        key_end=parts.get(_ELEMENT_KEY_END, b"")[4:],
        value=Value(_parse_data(content) if content else b"", _comment(parts.get(_ELEMENT_USERDATA, b""))),
        interval_end=bool(_U32.unpack(parts.get(_ELEMENT_FLAGS, bytes(4)))[0] & _INTERVAL_END),
        timeout=int.from_bytes(parts[_ELEMENT_TIMEOUT], "big") if _ELEMENT_TIMEOUT in parts else None,
        expiration=int.from_bytes(parts[_ELEMENT_EXPIRATION], "big") if _ELEMENT_EXPIRATION in parts else None,
    )


def _parse_data(payload: bytes) -> bytes:
    length, kind = ATTRIBUTE.unpack_from(payload)
    if kind & 0x3FFF == _DATA_VALUE:
        return payload[4:length]
    parts = dict(attributes(payload[4:length]))
    word = _VERDICT_WORDS.get(_U32.unpack(parts[_VERDICT_CODE])[0], "?")
    return f"{word} {_name(parts.get(_VERDICT_CHAIN, b''))}".encode()


class Connection:
    """A netlink socket to nf_tables in the network namespace of the thread that opens it.

    Raises HostError when the kernel has no nf_tables or privileges lack, `KernelError` for what it refuses.
    """

    def __init__(self) -> None:
        """Opens the socket."""
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
            self._socket.bind((0, 0))
        except OSError as error:
            raise HostError(f"cannot open a netlink socket to netfilter: {error.strerror}") from error
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._set_buffer(_SO_RCVBUFFORCE, socket.SO_RCVBUF, 4 << 20)
        self._sequence = 0

    def _set_buffer(self, force: int, ordinary: int, size: int) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, force, size)
        except PermissionError:  # in a user namespace: as much as the host allows
            self._socket.setsockopt(socket.SOL_SOCKET, ordinary, size)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the socket."""
        self.close()

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    @property
    def port(self) -> int:
        """By which the kernel names this socket to others."""
        return int(self._socket.getsockname()[0])

    def _receive(self, flags: int = 0) -> bytes:
        """One datagram. Raises KernelError, for example when there were more answers than the socket holds."""
        try:
            return self._socket.recv(1 << 17, flags)
        except BlockingIOError:
            raise
        except OSError as error:
            raise KernelError(error.errno or 0, -1) from error

    # -- listing --

    def _dump(self, kind: int, family: Family, payload: bytes = b"") -> list[bytes]:
        """All answers to a listing, each without its headers. Raises InterruptedDumpError."""
        return [answer[_FAMILY_HEADER:] for answer in self.dump(kind, _FAMILY_NUMBERS[family], payload)]

    def dump(self, kind: int, family: int, payload: bytes = b"") -> list[bytes]:
        """All answers to a listing of anybody's, each with the header whose first byte is the family.

        `kind`: NFT_MSG_*, with the subsystem; `family`: NFPROTO_*, 0 for all. Raises InterruptedDumpError, KernelError.
        """
        self._sequence += 1
        request = message(kind, REQUEST | DUMP, family, payload)
        struct.pack_into("=I", request, 8, self._sequence)
        self._socket.send(request)
        answers: list[bytes] = []
        while True:
            data = self._receive()
            offset = 0
            while offset < len(data):
                length, answer, flags, sequence, _ = HEADER.unpack_from(data, offset)
                body = data[offset + HEADER.size : offset + length]
                offset += (length + 3) & ~3
                if sequence != self._sequence:
                    continue
                if flags & DUMP_INTERRUPTED:
                    raise InterruptedDumpError
                if answer in {NLMSG_ERROR, NLMSG_DONE}:
                    number = -int.from_bytes(body[:4], sys.byteorder, signed=True)
                    if number:
                        raise KernelError(number, -1)
                    return answers
                answers.append(body)

    def generation(self) -> int:
        """The number of the ruleset's generation; every commit in the namespace, by anyone, counts it up."""
        for answer in self._dump_one(_GETGEN):
            return int(_U32.unpack(dict(attributes(answer))[_GENERATION_ID])[0])
        raise HostError("the kernel does not tell its nf_tables generation")

    def _dump_one(self, kind: int) -> list[bytes]:
        self._sequence += 1
        request = message(kind, REQUEST, 0, b"")
        struct.pack_into("=I", request, 8, self._sequence)
        self._socket.send(request)
        data = self._receive()
        _, answer, _, _, _ = HEADER.unpack_from(data)
        if answer == NLMSG_ERROR:
            raise KernelError(-struct.unpack_from("=i", data, HEADER.size)[0], -1)
        return [data[HEADER.size + 4 :]]

    def table(self, family: Family, name: str) -> TableInfo | None:
        """The table, None when there is none."""
        for answer in self._dump(_GETTABLE, family):
            parts = dict(attributes(answer))
            if _name(parts[_TABLE_NAME]) == name:
                is_dormant = bool(_number(parts, _TABLE_FLAGS) & _DORMANT)
                return TableInfo(_comment(parts.get(_TABLE_USERDATA, b"")), is_dormant)
        return None

    def chains(self, family: Family, table: str) -> list[ChainInfo]:
        """The table's chains, in the order in which they were made."""
        found = []
        for answer in self._dump(_GETCHAIN, family):
            parts = dict(attributes(answer))
            if _name(parts[_CHAIN_TABLE]) == table:
                declaration = b"".join(
                    attribute(kind | nested, parts[kind]) for kind, nested in _CHAIN_DECLARATION if kind in parts
                )
                found.append(ChainInfo(_name(parts[_CHAIN_NAME]), declaration))
        return found

    def rules(self, family: Family, table: str) -> list[RuleInfo]:
        """The table's rules, chain by chain in order."""
        found = []
        for answer in self._dump(_GETRULE, family, _text(_RULE_TABLE, table)):
            parts = dict(attributes(answer))
            found.append(RuleInfo(_name(parts[_RULE_CHAIN]), parts.get(_RULE_EXPRESSIONS, b"")))
        return found

    def sets(self, family: Family, table: str) -> list[SetInfo]:
        """The table's sets and maps."""
        found = []
        for answer in self._dump(_GETSET, family, _text(_SET_TABLE, table)):
            parts = dict(attributes(answer))
            found.append(
                SetInfo(
                    name=_name(parts[_SET_NAME]),
                    flags=_number(parts, _SET_FLAGS),
                    key_length=_number(parts, _SET_KEY_LENGTH),
                    data_length=_number(parts, _SET_DATA_LENGTH),
                    size=_number(dict(attributes(parts.get(_SET_DESCRIPTION, b""))), _DESCRIPTION_SIZE),
                )
            )
        return found

    def elements(self, family: Family, table: str, name: str) -> Iterator[Element]:
        """The elements of one set or map."""
        for answer in self._dump(_GETSETELEM, family, _text(_ELEMENTS_TABLE, table) + _text(_ELEMENTS_SET, name)):
            for kind, payload in attributes(answer):
                if kind == _ELEMENTS:
                    for _, item in attributes(payload):
                        yield _parse_element(item)

    # -- changing --

    def commit(self, messages: list[bytearray], generation: int | None = None) -> None:
        """Sends the messages as one transaction. Raises KernelError; then nothing of it is in force.

        `generation`: the kernel takes it only if nobody has committed anything since then; else the error is ERESTART.
        """
        self._send_batch([_batch_mark(_BATCH_BEGIN, generation), *messages, _batch_mark(_BATCH_END)])

    def check(self, messages: list[bytearray]) -> None:
        """The same without the end, so that the kernel checks everything and then undoes it. Raises KernelError."""
        self._send_batch([_batch_mark(_BATCH_BEGIN), *messages])

    def _send_batch(self, items: list[bytearray]) -> None:
        first = self._sequence + 2
        batch = bytearray()
        for item in items:
            self._sequence += 1
            struct.pack_into("=I", item, 8, self._sequence)
            batch += item
        self._set_buffer(_SO_SNDBUFFORCE, socket.SO_SNDBUF, max(len(batch) * 2, 1 << 16))
        try:
            self._socket.send(batch)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                raise KernelError(error.errno, -1, f"{len(batch)} bytes; {SIZE_HINT}") from error
            raise KernelError(error.errno or 0, -1) from error
        self._raise_refusal(first)

    def _raise_refusal(self, first: int) -> None:
        """The kernel has worked on the batch when send returns: its refusals wait in the socket, or there are none."""
        refusal: KernelError | None = None
        while True:
            try:
                data = self._receive(socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            offset = 0
            while offset < len(data):
                length, answer, flags, sequence, _ = HEADER.unpack_from(data, offset)
                if answer == NLMSG_ERROR and refusal is None:
                    refusal = _refusal(data[offset + HEADER.size : offset + length], flags, sequence - first)
                offset += (length + 3) & ~3
        if refusal is not None:
            raise refusal


def _batch_mark(kind: int, generation: int | None = None) -> bytearray:
    payload = b"" if generation is None else attribute(_BATCH_GENERATION, _U32.pack(generation))
    mark = message(kind, REQUEST, 0, payload)
    mark[18:20] = struct.pack("!H", _SUBSYSTEM >> 8)  # nfgenmsg.res_id
    return mark


class InterruptedDumpError(Exception):
    """The ruleset changed while it was listed; list it again."""


def _refusal(body: bytes, flags: int, index: int) -> KernelError:
    number = -struct.unpack_from("=i", body)[0]
    text = ""
    if flags & _ACK_TLVS:
        start = 4 + (HEADER.size if flags & _CAPPED else struct.unpack_from("=I", body, 4)[0])
        text = _name(dict(attributes(body[start:])).get(1, b""))
    return KernelError(number, index, text)


def chunks(entries: list[tuple[bytes, Value]]) -> Iterator[list[tuple[bytes, Value]]]:
    """`entries` in portions that fit into one message each."""
    for start in range(0, len(entries), _ELEMENTS_PER_MESSAGE):
        yield entries[start : start + _ELEMENTS_PER_MESSAGE]
