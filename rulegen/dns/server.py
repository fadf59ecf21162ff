"""One name server: zones are transferred from it, updates are sent to it. Always TCP, signed where there is a key.

What it says comes out as text; what goes wrong as one line that names the server and the zone. Remembers nothing but
its connection.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from rulegen.config import SocketAddress
from rulegen.dns.keys import read_key
from rulegen.errors import ApplyError, HostError, StaleError, one_line

if TYPE_CHECKING:
    from dns.message import Message
    from dns.tsig import Key
    from dns.update import UpdateMessage


# Seconds that an answer may take, and that all of a transfer may.
_ANSWER_SECONDS = 10.0
_TRANSFER_SECONDS = 120.0


class Record(NamedTuple):
    """One record as it is in a zone: `owner` absolute and in lower case, `data` in dnspython's text."""

    owner: str
    type: str
    ttl: int
    data: str


class TooLargeError(Exception):
    """A message does not fit into what TCP carries (65,535 bytes)."""


class Server:
    """`key_file`: "" for none; it is read for each connection, so that a new key is taken up."""

    def __init__(self, address: SocketAddress, key_file: str) -> None:
        self._address = address
        self._key_file = key_file
        self._key: Key | None = None
        self._connection: socket.socket | None = None

    def close(self) -> None:
        """Ends the connection; another call opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def serial(self, zone: str) -> int:
        """The number of the zone's version. Raises HostError."""
        from dns import message, rcode, rdatatype

        answer = self._asked(zone, message.make_query(zone, "SOA"))
        for rrset in answer.answer:
            if rrset.rdtype == rdatatype.SOA:
                return int(rrset[0].serial)
        raise HostError(f"{self._place(zone)}: no such zone there ({rcode.to_text(answer.rcode())})")

    def transfer(self, zone: str) -> Iterator[Record]:
        """All records of a zone, the SOA twice. Raises HostError."""
        from dns import query, rdatatype, tsig

        with self._errors(zone):
            key = self._read_key()
            messages = query.xfr(
                self._address.address,
                zone,
                port=self._address.port,
                relativize=False,
                timeout=_ANSWER_SECONDS,
                lifetime=_TRANSFER_SECONDS,
                keyring={key.name: key} if key is not None else None,
                keyname=key.name if key is not None else None,
                keyalgorithm=key.algorithm if key is not None else tsig.default_algorithm,
            )
            owners: dict[object, str] = {}
            for answer in messages:
                for rrset in answer.answer:
                    owner = owners.get(rrset.name) or owners.setdefault(rrset.name, rrset.name.to_text().lower())
                    kind = rdatatype.to_text(rrset.rdtype)
                    for data in rrset:
                        text = data.to_text()
                        yield Record(owner, kind, rrset.ttl, text if kind == "TXT" else text.lower())

    def send(self, zone: str, update: UpdateMessage) -> None:
        """Has a message take effect.

        Raises:
            TooLargeError: it is larger than a message can be; nothing was sent.
            StaleError: the zone is not as the message says that it has to be.
            ApplyError: the server does not take it, though it takes others.
            HostError: the server cannot be reached, or takes nothing from us.
        """
        from dns import rcode
        from dns.exception import TooBig

        try:
            code = self._asked(zone, update).rcode()
        except TooBig as error:
            raise TooLargeError from error
        if code == rcode.NOERROR:
            return
        words = f"{self._place(zone)}: the update was refused: {rcode.to_text(code)}"
        if code in (rcode.YXRRSET, rcode.NXRRSET, rcode.YXDOMAIN, rcode.NXDOMAIN):
            raise StaleError(f"{self._place(zone)}: its records were changed by others meanwhile")
        if code in (rcode.SERVFAIL, rcode.FORMERR):
            raise ApplyError(words)
        raise HostError(words)

    def _asked(self, zone: str, asked: Message) -> Message:
        """The answer. What a server has closed since the last question is opened again, once."""
        with self._errors(zone):
            is_new = self._connection is None
            if is_new:
                self._read_key()
            if self._key is not None:
                asked.use_tsig(self._key)
            # Rendered once, in front of all else: what is too large never leaves a connection half used.
            asked.to_wire(max_size=65535)
            try:
                return self._exchanged(asked)
            except (EOFError, ConnectionError):
                self.close()
                if is_new:
                    raise
                self._read_key()
                if self._key is not None:
                    asked.use_tsig(self._key)
                return self._exchanged(asked)

    def _exchanged(self, asked: Message) -> Message:
        from dns import query

        if self._connection is None:
            self._connection = socket.create_connection(self._address, timeout=_ANSWER_SECONDS)
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connection.setblocking(False)
        return query.tcp(asked, self._address.address, timeout=_ANSWER_SECONDS, sock=self._connection)

    def _read_key(self) -> Key | None:
        self._key = read_key(self._key_file) if self._key_file else None
        return self._key

    @contextmanager
    def _errors(self, zone: str) -> Iterator[None]:
        from dns.exception import DNSException, Timeout, TooBig

        try:
            yield
        except TooBig:
            raise
        except Timeout as error:
            self.close()
            raise HostError(f"{self._place(zone)}: no answer within {_ANSWER_SECONDS:.0f} s") from error
        except (OSError, EOFError) as error:
            self.close()
            reason = (error.strerror if isinstance(error, OSError) else None) or "the connection was closed"
            raise HostError(f"{self._place(zone)}: {reason}") from error
        except (DNSException, ValueError) as error:
            self.close()
            raise HostError(f"{self._place(zone)}: {one_line(str(error) or type(error).__name__)}") from error

    def _place(self, zone: str) -> str:
        return f"zone {zone.removesuffix('.') or '.'} on {self._address}"
