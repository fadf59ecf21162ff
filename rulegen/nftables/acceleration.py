"""A flowtable for established connections to Services, in a table of its own, so that later packets skip forwarding.

In: whether it is wanted. Out: the table `inet rulegen-acceleration`, over all interfaces that the namespace has at the
moment; nothing without it. It belongs to neither target: it takes over whatever connection has been translated. Knows
no Service. Messages and attributes are those of linux/netfilter/nf_tables.h.

    table inet rulegen-acceleration {
        flowtable established { hook ingress priority 0; devices = { ... }; }
        chain forward {
            type filter hook forward priority 10; policy accept;
            ct state established ct status dnat flow add @established
        }
    }
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial

from rulegen.claims import ACCELERATION
from rulegen.errors import ApplyError, HostError
from rulegen.netlink.messages import (
    FAMILY_HEADER,
    NESTED,
    REQUEST,
    attribute,
    attributes,
    message,
    text_attribute,
    text_of,
)
from rulegen.netlink.nf_tables import (
    APPEND,
    CHAIN_HOOK,
    CHAIN_NAME,
    CHAIN_POLICY,
    CHAIN_TYPE,
    CREATE,
    DATA_VALUE,
    DELTABLE,
    EXPRESSION_DATA,
    EXPRESSION_NAME,
    FLOWTABLE_HOOK,
    FLOWTABLE_NAME,
    GETFLOWTABLE,
    GETRULE,
    GETTABLE,
    HOOK_DEVICES,
    HOOK_NUMBER,
    HOOK_PRIORITY,
    LIST_ITEM,
    NEWCHAIN,
    NEWFLOWTABLE,
    NEWRULE,
    NEWTABLE,
    RULE_CHAIN,
    RULE_EXPRESSIONS,
)
from rulegen.nftables.messages import Connection, KernelError, open_connection
from rulegen.nftables.undisturbed import undisturbed

TABLE = "rulegen-acceleration"
_FLOWTABLE, _CHAIN = "established", "forward"

_INET = 1  # NFPROTO_INET

_NAME = 1

_FORWARD = 2  # NF_INET_FORWARD
_ACCEPT = 1
_REGISTER = 1  # NFT_REG_1
_CT_STATE, _CT_STATUS = 0, 2
_ESTABLISHED, _TRANSLATED = 1 << 1, 1 << 5  # NF_CT_STATE_BIT(IP_CT_ESTABLISHED), IPS_DST_NAT
_NOT_EQUAL = 1
# The kernel takes at most 256 (NFT_NETDEVICE_MAX) in one message.
_DEVICES_PER_MESSAGE = 128
_LOOPBACK = "lo"

# The kernel has no flowtables, or not the module for them.
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOENT, errno.EINVAL)
_U32, _S32 = struct.Struct("!I"), struct.Struct("!i")


class UnsupportedError(HostError):
    """This kernel has no flowtables."""


class Acceleration:
    """The table in the network namespace of the thread that makes this; all calls must come from there.

    Raises HostError without nf_tables or the privilege to use it.
    """

    def __init__(self) -> None:
        self._connection = Connection()

    def close(self) -> None:
        """Closes the socket; the table stays."""
        self._connection.close()

    def ensure(self) -> list[str]:
        """Makes the table what it should be now; what was done, in words.

        Raises:
            UnsupportedError: this kernel has no flowtables.
            ApplyError, HostError: the kernel refuses, or cannot be read; the next call tries again.
        """
        try:
            return list(self._ensured())
        except KernelError as error:
            raise ApplyError(f"the kernel refused the flowtable: {error}") from error

    def remove(self) -> list[str]:
        """Removes the table; what there was, in words. Connections go on, packet by packet.

        Raises ApplyError, HostError.
        """
        try:
            if not self._is_there():
                return []
            self._connection.commit([_message(DELTABLE, text_attribute(_NAME, TABLE))])
        except KernelError as error:
            raise ApplyError(f"the kernel did not remove table inet {TABLE}: {error}") from error
        return [f"inet {TABLE}"]

    def _ensured(self) -> Iterator[str]:
        if not self._is_intact():
            self._make()
            yield f"made table inet {TABLE}"
        missing = sorted(set(_interfaces()) - self._devices())
        for start in range(0, len(missing), _DEVICES_PER_MESSAGE):
            self._connection.commit([_flowtable(missing[start : start + _DEVICES_PER_MESSAGE])])
        if missing:
            yield f"accelerating {', '.join(missing)}"

    def _make(self) -> None:
        """Without interfaces, so that none that has just gone can be what the kernel refuses."""
        stale = [_message(DELTABLE, text_attribute(_NAME, TABLE))] if self._is_there() else []
        try:
            self._connection.commit([*stale, *_table()])
        except KernelError as error:
            if error.number in _UNSUPPORTED:
                raise UnsupportedError(f"this kernel has no flowtables ({error})") from error
            raise

    def _dump(self, kind: int, payload: bytes = b"") -> list[bytes]:
        answers = undisturbed(partial(self._connection.dump, kind, _INET, payload))
        return [answer[FAMILY_HEADER:] for answer in answers]

    def _is_there(self) -> bool:
        return any(_named(answer, _NAME) == TABLE for answer in self._dump(GETTABLE))

    def _is_intact(self) -> bool:
        """Whether the flowtable and the one rule are there; a rule is listed with what the kernel adds to it."""
        if self._flowtable() is None:
            return False
        answers = self._dump(GETRULE, text_attribute(_NAME, TABLE))
        rules = [parts for answer in answers if _named(answer, _NAME) == TABLE and (parts := dict(attributes(answer)))]
        return len(rules) == 1 and _contains(rules[0].get(RULE_EXPRESSIONS, b""), _expressions())

    def _devices(self) -> set[str]:
        hook = dict(attributes(self._flowtable() or b"")).get(FLOWTABLE_HOOK, b"")
        devices = dict(attributes(hook)).get(HOOK_DEVICES, b"")
        return {text_of(name) for _, name in attributes(devices)}

    def _flowtable(self) -> bytes | None:
        for answer in self._dump(GETFLOWTABLE):
            if (_named(answer, _NAME), _named(answer, FLOWTABLE_NAME)) == (TABLE, _FLOWTABLE):
                return answer
        return None


def remove_acceleration() -> list[str]:
    """Removes the table from the calling thread's network namespace; what there was. Raises ApplyError, HostError."""
    # Says what lacks where there can be none.
    open_connection().close()
    with closing(Acceleration()) as acceleration:
        return acceleration.remove()


def _interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex() if name != _LOOPBACK]


def _named(answer: bytes, kind: int) -> str:
    return text_of(dict(attributes(answer)).get(kind, b""))


def _contains(listed: bytes, sent: bytes) -> bool:
    """Whether attributes that the kernel lists hold all that were sent, in the same order where they repeat."""
    found = list(attributes(listed))
    wanted = list(attributes(sent))
    return len(found) == len(wanted) and all(_holds(*pair) for pair in zip(found, wanted, strict=True))


def _holds(found: tuple[int, bytes], wanted: tuple[int, bytes]) -> bool:
    """One expression: its name, and all of its attributes that were sent."""
    listed, sent = dict(attributes(found[1])), dict(attributes(wanted[1]))
    given = dict(attributes(listed.get(EXPRESSION_DATA, b"")))
    asked = dict(attributes(sent[EXPRESSION_DATA]))
    return listed.get(EXPRESSION_NAME) == sent[EXPRESSION_NAME] and asked.items() <= given.items()


def _message(kind: int, payload: bytes, flags: int = 0) -> bytearray:
    return message(kind, REQUEST | flags, _INET, payload)


def _nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | NESTED, b"".join(parts))


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, _U32.pack(value))


def _table() -> list[bytearray]:
    chain_hook = _nested(
        CHAIN_HOOK, _number(HOOK_NUMBER, _FORWARD), attribute(HOOK_PRIORITY, _S32.pack(ACCELERATION.priority))
    )
    chain = (
        text_attribute(_NAME, TABLE) + text_attribute(CHAIN_NAME, _CHAIN) + chain_hook + _number(CHAIN_POLICY, _ACCEPT)
    )
    rule = text_attribute(_NAME, TABLE) + text_attribute(RULE_CHAIN, _CHAIN) + _nested(RULE_EXPRESSIONS, _expressions())
    return [
        _message(NEWTABLE, text_attribute(_NAME, TABLE), CREATE),
        _flowtable([]),
        _message(NEWCHAIN, chain + text_attribute(CHAIN_TYPE, ACCELERATION.kind), CREATE),
        _message(NEWRULE, rule, CREATE | APPEND),
    ]


def _flowtable(devices: Sequence[str]) -> bytearray:
    """`add flowtable inet rulegen-acceleration established { hook ingress priority 0; devices = { ... }; }`."""
    listed = [_nested(HOOK_DEVICES, *(text_attribute(LIST_ITEM, device) for device in devices))] if devices else []
    hook = _nested(FLOWTABLE_HOOK, _number(HOOK_NUMBER, 0), _number(HOOK_PRIORITY, 0), *listed)
    return _message(
        NEWFLOWTABLE, text_attribute(_NAME, TABLE) + text_attribute(FLOWTABLE_NAME, _FLOWTABLE) + hook, CREATE
    )


def _expressions() -> bytes:
    """`ct state established ct status dnat flow add @established`."""
    return b"".join(
        (
            *_ct_has(_CT_STATE, _ESTABLISHED),
            *_ct_has(_CT_STATUS, _TRANSLATED),
            _expression("flow_offload", text_attribute(1, _FLOWTABLE)),
        )
    )


def _ct_has(key: int, bit: int) -> tuple[bytes, bytes, bytes]:
    """`ct KEY & BIT != 0`: load, mask, compare; attributes of nft_ct, nft_bitwise and nft_cmp. Bits in host order."""
    mask, zero = bit.to_bytes(4, sys.byteorder), bytes(4)
    return (
        _expression("ct", _number(1, _REGISTER), _number(2, key)),
        _expression(
            "bitwise",
            _number(1, _REGISTER),
            _number(2, _REGISTER),
            _number(3, 4),
            _nested(4, attribute(DATA_VALUE, mask)),
            _nested(5, attribute(DATA_VALUE, zero)),
        ),
        _expression("cmp", _number(1, _REGISTER), _number(2, _NOT_EQUAL), _nested(3, attribute(DATA_VALUE, zero))),
    )


def _expression(name: str, *parts: bytes) -> bytes:
    return _nested(LIST_ITEM, text_attribute(EXPRESSION_NAME, name), _nested(EXPRESSION_DATA, *parts))
