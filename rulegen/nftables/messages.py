"""nf_tables messages over netlink: elements, chains and rules as the kernel holds them.

In: entries and bytes. Out: netlink batches, and what the kernel lists or refuses. The path of a change goes this way
because libnftables fetches every set of the host for each command, other tables' too, and a listing as text depends
on the version of nft. Knows no Service and decides nothing.

Messages and attributes are those of linux/netfilter/nf_tables.h; numbers in them are big-endian.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from msgspec import Struct

from rulegen.config import Family
from rulegen.errors import NEEDED_FOR_NFTABLES, AbsentError, HostError, RulegenError, StaleError
from rulegen.netlink.messages import (
    ACK,
    ATTRIBUTE,
    DUMP,
    DUMP_INTERRUPTED,
    FAMILY_HEADER,
    HEADER,
    NESTED,
    NLMSG_DONE,
    NLMSG_ERROR,
    REQUEST,
    attribute,
    attributes,
    batch_begin,
    batch_end,
    comment_in,
    message,
    number_of,
    open_socket,
    text_attribute,
    text_of,
)
from rulegen.netlink.nf_tables import (
    APPEND,
    CHAIN_HOOK,
    CHAIN_NAME,
    CHAIN_POLICY,
    CHAIN_TABLE,
    CHAIN_TYPE,
    CREATE,
    DATA_VALUE,
    DATA_VERDICT,
    DELCHAIN,
    DELFLOWTABLE,
    DELOBJ,
    DELRULE,
    DELSET,
    DELSETELEM,
    DELTABLE,
    ELEMENT_DATA,
    ELEMENT_EXPIRATION,
    ELEMENT_FLAGS,
    ELEMENT_KEY,
    ELEMENT_KEY_END,
    ELEMENT_TIMEOUT,
    ELEMENT_USERDATA,
    ELEMENTS,
    ELEMENTS_SET,
    ELEMENTS_TABLE,
    EXPRESSION_DATA,
    EXPRESSION_NAME,
    FLOWTABLE_NAME,
    FLOWTABLE_TABLE,
    GENERATION_ID,
    GETCHAIN,
    GETFLOWTABLE,
    GETGEN,
    GETOBJ,
    GETRULE,
    GETSET,
    GETSETELEM,
    GETTABLE,
    HOOK_PRIORITY,
    INTERVAL_END,
    LIST_ITEM,
    NEWCHAIN,
    NEWRULE,
    NEWSET,
    NEWSETELEM,
    NEWTABLE,
    NUMGEN_MODULUS,
    OBJECT_NAME,
    OBJECT_TABLE,
    OBJECT_TYPE,
    RULE_CHAIN,
    RULE_EXPRESSIONS,
    RULE_TABLE,
    SET_COUNT,
    SET_DATA_LENGTH,
    SET_DATA_TYPE,
    SET_DEFAULT_TIMEOUT,
    SET_DESCRIPTION,
    SET_DESCRIPTION_CONCATENATION,
    SET_DESCRIPTION_SIZE,
    SET_FLAGS,
    SET_GC_INTERVAL,
    SET_ID,
    SET_KEY_LENGTH,
    SET_KEY_TYPE,
    SET_NAME,
    SET_POLICY,
    SET_TABLE,
    SET_USERDATA,
    TABLE_DORMANT,
    TABLE_FLAGS,
    TABLE_NAME,
    TABLE_USERDATA,
    VERDICT_CHAIN,
    VERDICT_CODE,
)
from rulegen.nftables.elements import SetSpec, Value

Content = TypeVar("Content")

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33


_CAPPED, _ACK_TLVS = 0x100, 0x200

_CHAIN_DECLARATION = ((CHAIN_TYPE, 0), (CHAIN_HOOK, NESTED), (CHAIN_POLICY, 0))
# What a set was declared with. A listing has more: what the kernel counts, how it has built the set.
_SET_DECLARATION = (
    SET_NAME,
    SET_FLAGS,
    SET_KEY_TYPE,
    SET_KEY_LENGTH,
    SET_DATA_TYPE,
    SET_DATA_LENGTH,
    SET_POLICY,
    SET_DEFAULT_TIMEOUT,
    SET_GC_INTERVAL,
    SET_USERDATA,
)
_USERDATA_COMMENT = 0  # the same in tables and in elements

_VERDICT_CODES = {"goto": 0xFFFFFFFC, "jump": 0xFFFFFFFD}
_VERDICT_WORDS = {code: word for word, code in _VERDICT_CODES.items()}

_FAMILY_NUMBERS = {Family.IPV4: 2, Family.IPV6: 10}  # NFPROTO_IPV4, NFPROTO_IPV6

_FAMILY_WORDS = {"inet": 1, "ip": 2, "arp": 3, "netdev": 5, "bridge": 7, "ip6": 10}

_TWO_ATTRIBUTES = struct.Struct("=HHHH")
_U32, _S32 = struct.Struct("!I"), struct.Struct("!i")
# A nested attribute's length is 16 bits: so many elements of the longest kind stay well below.
_ELEMENTS_PER_MESSAGE = 128
# Answers come in a packet each, of some kilobytes; so many fit into the receive buffer of a user without privileges.
_KEYS_PER_REQUEST = 64

# The marks around a transaction, and what the kernel keeps of a socket's buffer for itself.
_BATCH_OVERHEAD = 256
# Root's socket buffers may be larger than that.
SIZE_HINT = "without root a transaction is limited by the sysctl net.core.wmem_max"


class KernelError(RulegenError):
    """The kernel refused a message. `index` is its place in the transaction, -1 when the kernel does not say.

    Whoever sends messages says what he wanted; where nobody has, the errno's words are the line that a person sees.
    """

    def __init__(self, number: int, index: int, message: str = "") -> None:
        """`number` is an errno, `message` what the kernel adds to it."""
        self.number = number
        self.index = index
        super().__init__(f"{os.strerror(number)} ({message})" if message else os.strerror(number))


class TableInfo(NamedTuple):
    """A table: its comment, also as the attribute that declares it, and whether packets are kept from it."""

    comment: str
    comment_attribute: bytes
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
    """A set or map: lengths in bytes, 0 for no data; a `size` of 0 is no limit to the number of elements.

    `declaration`: the attributes that declare it, its name among them. `elements`: how many it has, None before Linux
    6.16 or so, which does not say.
    """

    name: str
    flags: int
    key_length: int
    data_length: int
    size: int
    declaration: bytes
    elements: int | None


class ObjectInfo(NamedTuple):
    """A named object; `kind` is the kernel's number for counter, quota and the like."""

    kind: int
    name: str


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


def delete_table(family: Family, table: str) -> bytearray:
    """`delete table ip rulegen`."""
    return message(DELTABLE, REQUEST, _FAMILY_NUMBERS[family], text_attribute(TABLE_NAME, table))


def new_table(family: Family, table: str, comment: bytes) -> bytearray:
    """`add table ip rulegen { comment ... }`; `comment` as in `TableInfo.comment_attribute`."""
    return message(NEWTABLE, REQUEST | CREATE, _FAMILY_NUMBERS[family], text_attribute(TABLE_NAME, table) + comment)


def new_set(family: Family, table: str, number: int, declaration: bytes) -> bytearray:
    """`add set ip rulegen NAME { ... }`; `declaration` as in `SetInfo`, `number` its own within the transaction."""
    payload = text_attribute(SET_TABLE, table) + declaration + attribute(SET_ID, _U32.pack(number))
    return message(NEWSET, REQUEST | CREATE, _FAMILY_NUMBERS[family], payload)


def delete_set(family: Family, table: str, name: str) -> bytearray:
    """`delete set ip rulegen NAME`, or a map."""
    payload = text_attribute(SET_TABLE, table) + text_attribute(SET_NAME, name)
    return message(DELSET, REQUEST, _FAMILY_NUMBERS[family], payload)


def delete_object(family: Family, table: str, kind: int, name: str) -> bytearray:
    """`delete counter ip rulegen NAME`, or another object; `kind` as in `ObjectInfo`."""
    payload = (
        text_attribute(OBJECT_TABLE, table)
        + text_attribute(OBJECT_NAME, name)
        + attribute(OBJECT_TYPE, _U32.pack(kind))
    )
    return message(DELOBJ, REQUEST, _FAMILY_NUMBERS[family], payload)


def delete_flowtable(family: Family, table: str, name: str) -> bytearray:
    """`delete flowtable ip rulegen NAME`."""
    payload = text_attribute(FLOWTABLE_TABLE, table) + text_attribute(FLOWTABLE_NAME, name)
    return message(DELFLOWTABLE, REQUEST, _FAMILY_NUMBERS[family], payload)


def new_chain(family: Family, table: str, name: str, declaration: bytes) -> bytearray:
    """`add chain ip rulegen NAME`; `declaration` as in `ChainInfo`."""
    payload = text_attribute(CHAIN_TABLE, table) + text_attribute(CHAIN_NAME, name) + declaration
    return message(NEWCHAIN, REQUEST | CREATE, _FAMILY_NUMBERS[family], payload)


def one_step_earlier(declaration: bytes) -> bytes:
    """The attributes of a hook with a priority one lower."""
    hook = dict(attributes(declaration))[CHAIN_HOOK]
    priority = dict(attributes(hook))[HOOK_PRIORITY]
    earlier = _S32.pack(_S32.unpack(priority)[0] - 1)
    return declaration.replace(
        hook, hook.replace(attribute(HOOK_PRIORITY, priority), attribute(HOOK_PRIORITY, earlier))
    )


def delete_chain(family: Family, table: str, name: str) -> bytearray:
    """`delete chain ip rulegen NAME`."""
    payload = text_attribute(CHAIN_TABLE, table) + text_attribute(CHAIN_NAME, name)
    return message(DELCHAIN, REQUEST, _FAMILY_NUMBERS[family], payload)


def flush_chain(family: Family, table: str, name: str) -> bytearray:
    """`flush chain ip rulegen NAME`."""
    payload = text_attribute(RULE_TABLE, table) + text_attribute(RULE_CHAIN, name)
    return message(DELRULE, REQUEST, _FAMILY_NUMBERS[family], payload)


def new_rule(family: Family, table: str, chain: str, expressions: bytes) -> bytearray:
    """`add rule ip rulegen CHAIN ...`, the rule given as the kernel listed one."""
    payload = text_attribute(RULE_TABLE, table) + text_attribute(RULE_CHAIN, chain)
    payload += attribute(RULE_EXPRESSIONS | NESTED, expressions)
    return message(NEWRULE, REQUEST | CREATE | APPEND, _FAMILY_NUMBERS[family], payload)


def with_modulus(expressions: bytes, modulus: int) -> bytes:
    """A rule's expressions with the modulus of its `numgen` replaced; all else stays as the kernel listed it."""
    for _, expression in attributes(expressions):
        parts = dict(attributes(expression))
        if parts[EXPRESSION_NAME] == b"numgen\0":
            before = parts[EXPRESSION_DATA]
            old = attribute(NUMGEN_MODULUS, dict(attributes(before))[NUMGEN_MODULUS])
            after = before.replace(old, attribute(NUMGEN_MODULUS, _U32.pack(modulus)), 1)
            return expressions.replace(before, after, 1)
    raise ValueError("a rule without numgen")


def add_elements(set_spec: SetSpec, entries: list[tuple[bytes, Value]]) -> bytearray:
    """`add element ip rulegen NAME { ... }`; as many as `chunks` gives."""
    frame = _frame(set_spec)
    if not frame.is_plain:
        listed = _listed([item for key, value in entries for item in _items(set_spec, key, value)])
    elif any(value.comment for _, value in entries):
        listed = b"".join([_commented(frame, key, value) for key, value in entries])
    else:
        return add_plain_elements(set_spec, [(key, value.data) for key, value in entries])
    return _message(NEWSETELEM, REQUEST | CREATE, set_spec, listed)


def add_plain_elements(set_spec: SetSpec, elements: list[tuple[bytes, bytes]]) -> bytearray:
    """The same of a map without intervals or verdicts, given as keys and data, without comments."""
    frame = _frame(set_spec)
    before_data = frame.before_data
    listed = frame.item_joined([key + before_data + data for key, data in elements])
    return _message(NEWSETELEM, REQUEST | CREATE, set_spec, listed)


class _Frame(NamedTuple):
    """What is around the keys and the data of a set's elements, where all are as long: no intervals, no verdicts.

    `names`: of the table and of the set. `before_key`: from the beginning of an element on; `before_data`: b"" in a
    set. `before_plain`: the header of an element without a comment, and `before_key`.
    """

    names: bytes
    is_plain: bool
    before_key: bytes = b""
    before_data: bytes = b""
    before_plain: bytes = b""

    def item_joined(self, contents: list[bytes]) -> bytes:
        """A list of elements, each given from its key on, without comments."""
        return self.before_plain + self.before_plain.join(contents)


@lru_cache(maxsize=128)
def _frame(set_spec: SetSpec) -> _Frame:
    names = text_attribute(ELEMENTS_TABLE, set_spec.table) + text_attribute(ELEMENTS_SET, set_spec.name)
    if set_spec.interval or set_spec.is_verdict_map or set_spec.data_length % 4:
        return _Frame(names, is_plain=False)
    key, data = bytes(set_spec.key_length), bytes(set_spec.data_length)
    element = _key(key) + _content(set_spec, Value(data))
    before_key = element[: 2 * ATTRIBUTE.size]
    before_data = element[len(before_key) + len(key) : len(element) - len(data)]
    return _Frame(names, True, before_key, before_data, _item_header(len(element)) + before_key)


def _commented(frame: _Frame, key: bytes, value: Value) -> bytes:
    """An item of a list of elements, in a set whose elements are plain but for a comment."""
    comment = _comment(value.comment) if value.comment else b""
    element = b"".join((frame.before_key, key, frame.before_data, value.data, comment))
    return _item_header(len(element)) + element


def add_expiring_element(set_spec: SetSpec, entry: tuple[bytes, Value], times: tuple[int, int]) -> bytearray:
    """`add element ip rulegen NAME { KEY timeout T expires E : DATA }`; `times` are both, in milliseconds."""
    timeout, expiration = (time.to_bytes(8, "big") for time in times)
    element = _key(entry[0]) + _content(set_spec, entry[1])
    element += attribute(ELEMENT_TIMEOUT, timeout) + attribute(ELEMENT_EXPIRATION, expiration)
    return _elements(NEWSETELEM, REQUEST | CREATE, set_spec, [element])


def delete_elements(set_spec: SetSpec, entries: list[tuple[bytes, Value]]) -> bytearray:
    """`delete element ip rulegen NAME { ... }`; values do not count."""
    items = [item for key, _ in entries for item in _items(set_spec, key, None)]
    return _elements(DELSETELEM, REQUEST, set_spec, items)


def flush_set(set_spec: SetSpec) -> bytearray:
    """`flush set ip rulegen NAME`: no error if it is empty."""
    return message(DELSETELEM, REQUEST, _FAMILY_NUMBERS[set_spec.family], _frame(set_spec).names)


def _elements(kind: int, flags: int, set_spec: SetSpec, items: list[bytes]) -> bytearray:
    return _message(kind, flags, set_spec, _listed(items))


def _message(kind: int, flags: int, set_spec: SetSpec, listed: bytes) -> bytearray:
    payload = _frame(set_spec).names + attribute(ELEMENTS | NESTED, listed)
    return message(kind, flags, _FAMILY_NUMBERS[set_spec.family], payload)


def _listed(items: list[bytes]) -> bytes:
    return b"".join([_item_header(len(item)) + item for item in items])


def _item_header(length: int) -> bytes:
    return ATTRIBUTE.pack(length + ATTRIBUTE.size, LIST_ITEM | NESTED)


def _items(set_spec: SetSpec, key: bytes, value: Value | None) -> Iterator[bytes]:
    """What one entry is to the kernel; without a value, what must be said to delete it."""
    content = _content(set_spec, value) if value else b""
    if not set_spec.interval:
        yield _key(key) + content
        return
    first, last = key[: set_spec.key_length], key[set_spec.key_length :]
    if len(set_spec.key) > 1:
        yield _key(first) + _key(last, ELEMENT_KEY_END) + content
        return
    # One field: a range is its first address and the one after its last, unless that is the last of all.
    yield _key(first) + content
    after = int.from_bytes(last, "big") + 1
    if after < 1 << 8 * len(last):
        flags = attribute(ELEMENT_FLAGS, _U32.pack(INTERVAL_END))
        yield _key(after.to_bytes(len(last), "big")) + flags


def _key(key: bytes, kind: int = ELEMENT_KEY) -> bytes:
    return attribute(kind | NESTED, attribute(DATA_VALUE, key))


def _content(set_spec: SetSpec, value: Value) -> bytes:
    """An element's data and comment."""
    content = b""
    if set_spec.is_verdict_map:
        word, chain = value.data.decode().split(" ")
        verdict = attribute(VERDICT_CODE, _U32.pack(_VERDICT_CODES[word])) + text_attribute(VERDICT_CHAIN, chain)
        content = attribute(ELEMENT_DATA | NESTED, attribute(DATA_VERDICT | NESTED, verdict))
    elif set_spec.data:
        content = attribute(ELEMENT_DATA | NESTED, attribute(DATA_VALUE, value.data))
    return content + _comment(value.comment) if value.comment else content


def _comment(comment: str) -> bytes:
    text = comment.encode() + b"\0"
    return attribute(ELEMENT_USERDATA, bytes((_USERDATA_COMMENT, len(text))) + text)


# ---- reading ----


_EMPTY = Value()


def _parse_element(data: bytes) -> Element:
    """The element of a list's item. Nearly all have a key and perhaps a value and nothing else, so they come first."""
    end, kind, length, _ = _TWO_ATTRIBUTES.unpack_from(data)
    if kind & 0x3FFF != ELEMENT_KEY:
        return _parse_any_element(data)
    key = data[8 : 4 + length]
    if end == len(data):
        return Element(key, _EMPTY)
    size, kind, length, data_kind = _TWO_ATTRIBUTES.unpack_from(data, end)
    if end + size == len(data) and kind & 0x3FFF == ELEMENT_DATA and data_kind & 0x3FFF == DATA_VALUE:
        return Element(key, Value(data[end + 8 : end + 4 + length]))
    return _parse_any_element(data)


def _any_entries(payload: bytes) -> list[tuple[bytes, Value]]:
    """The entries of a list of elements."""
    elements = (_parse_element(item) for _, item in attributes(payload))
    return [(element.key, element.value) for element in elements]


def _plain_entries(set_spec: SetSpec, payload: bytes) -> list[tuple[bytes, Value]] | None:
    """The same where all elements are plain; None for any other."""
    found = _plain_elements(set_spec, payload)
    if found is None:
        return None
    return [(key, Value(data)) for key, data in found] if set_spec.data else [(key, _EMPTY) for (key,) in found]


def _plain_elements(set_spec: SetSpec, payload: bytes) -> Iterator[tuple[bytes, ...]] | None:
    """Key, and value if it is a map of data, of elements that have nothing else; None for any other.

    Then they are equally long, and their headers are those of the first.
    """
    if set_spec.is_verdict_map or not payload:
        return None
    layout = _plain_layout(set_spec.key_length, set_spec.data_length)
    count, rest = divmod(len(payload), layout.size)
    if rest or _LIST_LENGTH.unpack_from(payload)[0] != layout.size:
        return None
    if any(payload[place :: layout.size] != payload[place : place + 1] * count for place in layout.headers):
        return None
    first = layout.content.unpack_from(payload)
    found = Value(first[1]) if set_spec.data else _EMPTY
    return layout.content.iter_unpack(payload) if _any_entries(payload[: layout.size]) == [(first[0], found)] else None


_LIST_LENGTH = struct.Struct("=H")


def entries_in(set_spec: SetSpec, lists: Iterable[bytes]) -> list[tuple[bytes, Value]]:
    """The keys and values in lists of elements (`Connection.listed`)."""
    return [entry for payload in lists for entry in _plain_entries(set_spec, payload) or _any_entries(payload)]


def plain_data_in(set_spec: SetSpec, lists: Iterable[bytes]) -> dict[bytes, bytes] | None:
    """The same of a map of data whose elements have no more than that; None where one has."""
    found: dict[bytes, bytes] = {}
    for payload in lists:
        elements = _plain_elements(set_spec, payload)
        if elements is not None:
            # Hundreds of thousands, so without a line of Python for each.
            found.update(elements)  # type: ignore[arg-type] # pairs, of a map
        elif payload:
            return None
    return found


class _PlainLayout(NamedTuple):
    """An item of a list of plain elements: its length, where its headers are, and its key and data."""

    size: int
    headers: tuple[int, ...]
    content: struct.Struct


@lru_cache(maxsize=64)
def _plain_layout(key_length: int, data_length: int) -> _PlainLayout:
    """Headers, key, and, of a map, headers and data."""
    data = f"8x{data_length}s" if data_length else ""
    content = struct.Struct(f"=12x{key_length}s{data}")
    return _PlainLayout(content.size, (*range(12), *range(12 + key_length, content.size - data_length)), content)


def _parse_any_element(data: bytes) -> Element:
    parts = dict(attributes(data))
    content = parts.get(ELEMENT_DATA)
    return Element(
        key=parts[ELEMENT_KEY][4:] if ELEMENT_KEY in parts else b"",
        key_end=parts.get(ELEMENT_KEY_END, b"")[4:],
        value=Value(_parse_data(content) if content else b"", comment_in(parts.get(ELEMENT_USERDATA, b""))),
        interval_end=bool(_U32.unpack(parts.get(ELEMENT_FLAGS, bytes(4)))[0] & INTERVAL_END),
        timeout=int.from_bytes(parts[ELEMENT_TIMEOUT], "big") if ELEMENT_TIMEOUT in parts else None,
        expiration=int.from_bytes(parts[ELEMENT_EXPIRATION], "big") if ELEMENT_EXPIRATION in parts else None,
    )


def _parse_data(payload: bytes) -> bytes:
    length, kind = ATTRIBUTE.unpack_from(payload)
    if kind & 0x3FFF == DATA_VALUE:
        return payload[4:length]
    parts = dict(attributes(payload[4:length]))
    word = _VERDICT_WORDS.get(_U32.unpack(parts[VERDICT_CODE])[0], "?")
    return f"{word} {text_of(parts.get(VERDICT_CHAIN, b''))}".encode()


def _set_declaration(parts: Mapping[int, bytes]) -> bytes:
    description = dict(attributes(parts.get(SET_DESCRIPTION, b"")))
    known = (SET_DESCRIPTION_SIZE, SET_DESCRIPTION_CONCATENATION)
    content = b"".join(
        attribute(kind | (NESTED if kind == SET_DESCRIPTION_CONCATENATION else 0), description[kind])
        for kind in known
        if kind in description
    )
    return b"".join(
        (
            *(attribute(kind, parts[kind]) for kind in _SET_DECLARATION if kind in parts),
            attribute(SET_DESCRIPTION | NESTED, content) if content else b"",
        )
    )


class Connection:
    """A netlink socket to nf_tables: `opened`, or one in the network namespace of the thread that opens it.

    Raises HostError when the kernel has no nf_tables or privileges lack, `KernelError` for what it refuses.
    """

    def __init__(self, opened: socket.socket | None = None) -> None:
        try:
            self._socket = opened or open_socket()
            self._socket.bind((0, 0))
        except OSError as error:
            raise HostError(f"cannot open a netlink socket to netfilter: {error.strerror}") from error
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._set_buffer(_SO_RCVBUFFORCE, socket.SO_RCVBUF, 4 << 20)
        self._sequence = 0
        # How much can be sent at once; each system call counts on the path of a change.
        self._room = 0
        # How many transactions of this connection's are in force.
        self.commits = 0

    def _set_buffer(self, force: int, ordinary: int, size: int) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, force, size)
        except PermissionError:  # in a user namespace: as much as the host allows
            self._socket.setsockopt(socket.SOL_SOCKET, ordinary, size)

    def _make_room(self, size: int) -> None:
        if size > self._room:
            self._room = max(size, 1 << 16)
            self._set_buffer(_SO_SNDBUFFORCE, socket.SO_SNDBUF, self._room)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    @property
    def port(self) -> int:
        """By which the kernel names this socket to others."""
        return int(self._socket.getsockname()[0])

    def _ask(self, request: bytearray) -> None:
        """Sends one message, under a number of its own. Raises KernelError."""
        self._sequence += 1
        struct.pack_into("=I", request, 8, self._sequence)
        try:
            self._socket.send(request)
        except OSError as error:
            raise KernelError(error.errno or 0, -1) from error

    def _receive(self, flags: int = 0) -> bytes:
        """One datagram. Raises KernelError, for example when there were more answers than the socket holds."""
        try:
            return self._socket.recv(1 << 17, flags)
        except BlockingIOError:
            raise
        except OSError as error:
            raise KernelError(error.errno or 0, -1) from error

    # -- listing --

    def _dump(self, kind: int, family: int, payload: bytes = b"") -> list[bytes]:
        """All answers to a listing, each without its headers. Raises InterruptedDumpError."""
        return [answer[FAMILY_HEADER:] for answer in self.dump(kind, family, payload)]

    def dump(self, kind: int, family: int, payload: bytes = b"") -> list[bytes]:
        """All answers to a listing of anybody's, each with the header whose first byte is the family.

        `kind`: NFT_MSG_*, with the subsystem; `family`: NFPROTO_*, 0 for all. Raises InterruptedDumpError, KernelError.
        """
        self._ask(message(kind, REQUEST | DUMP, family, payload))
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
        for answer in self._dump_one(GETGEN):
            return int(_U32.unpack(dict(attributes(answer))[GENERATION_ID])[0])
        raise HostError("the kernel does not tell its nf_tables generation")

    def _dump_one(self, kind: int) -> list[bytes]:
        self._ask(message(kind, REQUEST, 0, b""))
        data = self._receive()
        _, answer, _, _, _ = HEADER.unpack_from(data)
        if answer == NLMSG_ERROR:
            raise KernelError(-struct.unpack_from("=i", data, HEADER.size)[0], -1)
        return [data[HEADER.size + 4 :]]

    def tables_with_sets(self) -> list[str]:
        """Everybody's tables that have sets or maps, as `ip NAME`."""
        found = dict.fromkeys(
            f"{word} {text_of(dict(attributes(answer))[SET_TABLE])}"
            for word, number in _FAMILY_WORDS.items()
            for answer in self._dump(GETSET, number)
        )
        return list(found)

    def table(self, family: Family, name: str) -> TableInfo | None:
        """The table, None when there is none."""
        for answer in self._dump(GETTABLE, _FAMILY_NUMBERS[family]):
            parts = dict(attributes(answer))
            if text_of(parts[TABLE_NAME]) == name:
                userdata = parts.get(TABLE_USERDATA, b"")
                is_dormant = bool(number_of(parts, TABLE_FLAGS) & TABLE_DORMANT)
                return TableInfo(comment_in(userdata), attribute(TABLE_USERDATA, userdata), is_dormant)
        return None

    def chains(self, family: Family, table: str) -> list[ChainInfo]:
        """The table's chains, in the order in which they were made."""
        found = []
        for answer in self._dump(GETCHAIN, _FAMILY_NUMBERS[family]):
            parts = dict(attributes(answer))
            if text_of(parts[CHAIN_TABLE]) == table:
                declaration = b"".join(
                    attribute(kind | nested, parts[kind]) for kind, nested in _CHAIN_DECLARATION if kind in parts
                )
                found.append(ChainInfo(text_of(parts[CHAIN_NAME]), declaration))
        return found

    def rules(self, family: Family, table: str) -> list[RuleInfo]:
        """The table's rules, chain by chain in order."""
        found = []
        for answer in self._dump(GETRULE, _FAMILY_NUMBERS[family], text_attribute(RULE_TABLE, table)):
            parts = dict(attributes(answer))
            found.append(RuleInfo(text_of(parts[RULE_CHAIN]), parts.get(RULE_EXPRESSIONS, b"")))
        return found

    def sets(self, family: Family, table: str) -> list[SetInfo]:
        """The table's sets and maps."""
        found = []
        for answer in self._dump(GETSET, _FAMILY_NUMBERS[family], text_attribute(SET_TABLE, table)):
            parts = dict(attributes(answer))
            found.append(
                SetInfo(
                    name=text_of(parts[SET_NAME]),
                    flags=number_of(parts, SET_FLAGS),
                    key_length=number_of(parts, SET_KEY_LENGTH),
                    data_length=number_of(parts, SET_DATA_LENGTH),
                    size=number_of(dict(attributes(parts.get(SET_DESCRIPTION, b""))), SET_DESCRIPTION_SIZE),
                    declaration=_set_declaration(parts),
                    elements=number_of(parts, SET_COUNT) if SET_COUNT in parts else None,
                )
            )
        return found

    def objects(self, family: Family, table: str) -> list[ObjectInfo]:
        """The table's counters, quotas and other named objects."""
        found = []
        for answer in self._dump(GETOBJ, _FAMILY_NUMBERS[family], text_attribute(OBJECT_TABLE, table)):
            parts = dict(attributes(answer))
            if text_of(parts[OBJECT_TABLE]) == table:
                found.append(ObjectInfo(number_of(parts, OBJECT_TYPE), text_of(parts[OBJECT_NAME])))
        return found

    def flowtables(self, family: Family, table: str) -> list[str]:
        """The names of the table's flowtables."""
        listed = self._dump(GETFLOWTABLE, _FAMILY_NUMBERS[family], text_attribute(FLOWTABLE_TABLE, table))
        tables = (dict(attributes(answer)) for answer in listed)
        return [text_of(parts[FLOWTABLE_NAME]) for parts in tables if text_of(parts[FLOWTABLE_TABLE]) == table]

    def entries(self, set_spec: SetSpec) -> list[tuple[bytes, Value]]:
        """The keys and values of a set or map without intervals; much faster than `elements`."""
        return entries_in(set_spec, self.listed(set_spec))

    def listed(self, set_spec: SetSpec) -> list[bytes]:
        """The elements of a set or map without intervals, in lists as the kernel has them."""
        return [
            payload
            for answer in self._dump(GETSETELEM, _FAMILY_NUMBERS[set_spec.family], _frame(set_spec).names)
            for kind, payload in attributes(answer)
            if kind == ELEMENTS
        ]

    def lookup(self, set_spec: SetSpec, keys: Sequence[bytes]) -> list[tuple[bytes, Value]]:
        """Those of `keys`, in a set or map without intervals, that are there."""
        return entries_in(set_spec, self.found(set_spec, keys))

    def found(self, set_spec: SetSpec, keys: Sequence[bytes]) -> list[bytes]:
        """The same, in lists as the kernel has them."""
        lists: list[bytes] = []
        position = 0
        while position < len(keys):
            part = keys[position : position + _KEYS_PER_REQUEST]
            payloads, is_complete = self._get_elements(set_spec, part)
            lists.append(b"".join(payloads))
            # The kernel answers up to the first that is not there.
            position += len(payloads) + (not is_complete)
        return lists

    def _get_elements(self, set_spec: SetSpec, keys: Sequence[bytes]) -> tuple[list[bytes], bool]:
        """The lists of one element that answer a request for `keys`, and whether there is one for each."""
        self._ask(_elements(GETSETELEM, REQUEST | ACK, set_spec, [_key(key) for key in keys]))
        # An answer is as the request: the names of the table and of the set, then the list.
        start = HEADER.size + 4 + len(_frame(set_spec).names)
        payloads: list[bytes] = []
        while True:
            data = self._receive()
            _, kind, _, sequence, _ = HEADER.unpack_from(data)
            if kind == NLMSG_ERROR and sequence == self._sequence:
                number = -struct.unpack_from("=i", data, HEADER.size)[0]
                if number not in {0, errno.ENOENT}:
                    raise KernelError(number, -1)
                return payloads, not number
            if sequence == self._sequence:
                payloads.append(data[start + ATTRIBUTE.size :])

    def elements(self, family: Family, table: str, name: str) -> Iterator[Element]:
        """The elements of one set or map."""
        wanted = text_attribute(ELEMENTS_TABLE, table) + text_attribute(ELEMENTS_SET, name)
        for answer in self._dump(GETSETELEM, _FAMILY_NUMBERS[family], wanted):
            for kind, payload in attributes(answer):
                if kind == ELEMENTS:
                    for _, item in attributes(payload):
                        yield _parse_element(item)

    # -- changing --

    def largest_batch(self, wanted: int) -> int:
        """So many bytes, or fewer where a transaction may not be as large: without root in the host's namespace."""
        self._make_room(wanted)
        return min(wanted, self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - _BATCH_OVERHEAD)

    def commit(self, messages: list[bytearray], generation: int | None = None) -> None:
        """Sends the messages as one transaction. Raises KernelError; then nothing of it is in force.

        `generation`: the kernel takes it only if nobody has committed anything since then; else the error is ERESTART.
        """
        self._send_batch([batch_begin(generation), *messages, batch_end()])
        self.commits += 1

    def check(self, messages: list[bytearray]) -> None:
        """The same without the end, so that the kernel checks everything and then undoes it. Raises KernelError."""
        self._send_batch([batch_begin(), *messages])

    def _send_batch(self, items: list[bytearray]) -> None:
        first = self._sequence + 2
        batch = bytearray()
        for item in items:
            self._sequence += 1
            struct.pack_into("=I", item, 8, self._sequence)
            batch += item
        self._make_room(len(batch) * 2)
        try:
            self._socket.send(batch)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                # The host may allow more the next time.
                self._room = 0
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


def open_connection() -> Connection:
    """To nf_tables. Raises HostError when the kernel has none or privileges lack."""
    connection = Connection()
    try:
        connection.generation()
    except KernelError as error:
        connection.close()
        if error.number in {errno.EPERM, errno.EACCES}:
            raise HostError(NEEDED_FOR_NFTABLES) from error
        raise AbsentError(f"this kernel has no usable nf_tables: {error}") from error
    return connection


class InterruptedDumpError(StaleError):
    """The ruleset changed while it was listed; list it again (`undisturbed`)."""

    def __init__(self) -> None:
        super().__init__("the ruleset changed while it was listed")


def _refusal(body: bytes, flags: int, index: int) -> KernelError:
    number = -struct.unpack_from("=i", body)[0]
    text = ""
    if flags & _ACK_TLVS:
        start = 4 + (HEADER.size if flags & _CAPPED else struct.unpack_from("=I", body, 4)[0])
        text = text_of(dict(attributes(body[start:])).get(1, b""))
    return KernelError(number, index, text)


def chunks(entries: Iterable[tuple[bytes, Content]]) -> Iterator[list[tuple[bytes, Content]]]:
    """`entries` in portions that fit into one message each."""
    left = iter(entries)
    while part := list(islice(left, _ELEMENTS_PER_MESSAGE)):
        yield part
