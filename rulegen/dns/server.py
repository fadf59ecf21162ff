"""One name server: zones are transferred from it, updates are sent to it. Always TCP, signed where there is a key.

What it says comes out as text; what goes wrong as one line that names the server and the zone. Remembers nothing but
its connection.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from rulegen.config import SocketAddress
from rulegen.dns.keys import read_key
from rulegen.dns.metrics import APPLIED, REFUSED, STALE, TRANSFERS
from rulegen.dns.transfer import transferred
from rulegen.errors import ApplyError, HostError, StaleError, one_line

if TYPE_CHECKING:
    from dns.message import Message
    from dns.tsig import Key

# Seconds that an answer may take, and that all of a transfer may.
_ANSWER_SECONDS = 10.0
_TRANSFER_SECONDS = 120.0
# What TCP carries.
_LARGEST = 65_535


class Record(NamedTuple):
    """One record as it is in a zone: `owner` absolute and in lower case, `data` in dnspython's text."""

    owner: str
    type: str
    ttl: int
    data: str


class TooLargeError(Exception):
    """A message does not fit into what TCP carries (65,535 bytes)."""


class ZoneError(HostError):
    """A server that answers does not give a zone."""


class Question:
    """What one message asks. `wire`: as it is sent; `is_repeated`: it is, or will be, on a connection of its own."""

    def __init__(self, zone: str, asked: Message) -> None:
        self.zone = zone
        self.asked = asked
        self.wire = b""
        self.is_repeated = False


class Server:
    """`key_file`: "" for none; it is read for each connection, so that a new key is taken up.

    `counts`: how many updates were answered, by result, and zones transferred (names of `metrics.py`).
    """

    def __init__(self, address: SocketAddress, key_file: str) -> None:
        self._address = address
        self._key_file = key_file
        self._key: Key | None = None
        self._connection: socket.socket | None = None
        self.counts: Counter[str] = Counter()

    def close(self) -> None:
        """Ends the connection; another call opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def serial(self, zone: str) -> int:
        """The number of the zone's version. Raises HostError."""
        from dns import message, rcode, rdatatype

        question = self.question(zone, message.make_query(zone, "SOA"))
        self.ask(question)
        answer = self.answer(question)
        for rrset in answer.answer:
            if rrset.rdtype == rdatatype.SOA:
                return int(rrset[0].serial)
        raise HostError(f"{self._place(zone)}: no such zone there ({rcode.to_text(answer.rcode())})")

    def transfer(self, zone: str) -> Iterator[Record]:
        """All records of a zone, the SOA twice. Raises HostError, ZoneError where only this zone is not given."""
        from dns import message, rdatatype

        with self._errors(zone), closing(socket.create_connection(self._address, _ANSWER_SECONDS)) as connection:
            query = message.make_query(zone, "AXFR")
            if key := self._read_key():
                query.use_tsig(key)
            owners: dict[object, str] = {}
            for answer in transferred(connection, query, _ANSWER_SECONDS, _TRANSFER_SECONDS):
                for rrset in answer.answer:
                    owner = owners.get(rrset.name) or owners.setdefault(rrset.name, rrset.name.to_text().lower())
                    kind = rdatatype.to_text(rrset.rdtype)
                    for data in rrset:
                        text = data.to_text()
                        yield Record(owner, kind, rrset.ttl, text if kind == "TXT" else text.lower())
        self.counts[TRANSFERS] += 1

    def question(self, zone: str, asked: Message) -> Question:
        """A message as it is sent, signed. Raises TooLargeError, and InputError where the key cannot be read."""
        from dns.exception import TooBig

        if self._connection is None:
            self._read_key()
        question = Question(zone, asked)
        try:
            with self._errors(zone):
                self._sign(question)
        except TooBig as error:
            raise TooLargeError from error
        return question

    def ask(self, question: Question) -> None:
        """Sends it. What the server has closed since the last answer is opened again. Raises HostError."""
        with self._errors(question.zone):
            if self._connection is None:
                self._connect()
                question.is_repeated = True
            try:
                self._post(question)
            except (EOFError, ConnectionError):
                self._repeat(question)

    def answer(self, question: Question) -> Message:
        """Waits for the answer to what was asked last. Raises HostError."""
        with self._errors(question.zone):
            try:
                return self._received(question)
            except (EOFError, ConnectionError):
                self._repeat(question)
                return self._received(question)

    def take_effect(self, question: Question) -> None:
        """Waits until an update that was sent has taken effect.

        Raises:
            StaleError: the zone is not as the message says that it has to be.
            ApplyError: the server does not take it, though it takes others.
            HostError: the server cannot be reached, or takes nothing from us.
        """
        from dns import rcode

        code = self.answer(question).rcode()
        if code == rcode.NOERROR:
            self.counts[APPLIED] += 1
            return
        place = self._place(question.zone)
        if code in (rcode.YXRRSET, rcode.NXRRSET, rcode.YXDOMAIN, rcode.NXDOMAIN):
            self.counts[STALE] += 1
            raise StaleError(f"{place}: its records were changed by others meanwhile")
        self.counts[REFUSED] += 1
        words = f"{place}: the update was refused: {rcode.to_text(code)}"
        if code in (rcode.SERVFAIL, rcode.FORMERR):
            raise ApplyError(words)
        raise HostError(words)

    def _sign(self, question: Question) -> None:
        if self._key is not None:
            question.asked.use_tsig(self._key)
        question.wire = question.asked.to_wire(max_size=_LARGEST)

    def _repeat(self, question: Question) -> None:
        """On a new connection, once, with the key as it is by then; within an `except`."""
        if question.is_repeated:
            raise  # noqa: PLE0704 - what the caller has caught
        self.close()
        self._read_key()
        self._sign(question)
        self._connect()
        question.is_repeated = True
        self._post(question)

    def _connect(self) -> None:
        self._connection = socket.create_connection(self._address, timeout=_ANSWER_SECONDS)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.setblocking(False)

    def _post(self, question: Question) -> None:
        from dns import query

        query.send_tcp(self._connection, question.wire, time.time() + _ANSWER_SECONDS)

    def _received(self, question: Question) -> Message:
        from dns import query

        asked = question.asked
        answer, _ = query.receive_tcp(self._connection, time.time() + _ANSWER_SECONDS, False, asked.keyring, asked.mac)
        if not asked.is_response(answer):
            raise query.BadResponse
        return answer

    def _read_key(self) -> Key | None:
        self._key = read_key(self._key_file) if self._key_file else None
        return self._key

    @contextmanager
    def _errors(self, zone: str) -> Iterator[None]:
        from dns.exception import DNSException, FormError, Timeout, TooBig
        from dns.xfr import TransferError

        try:
            yield
        except TooBig:
            raise
        except (Timeout, TimeoutError) as error:
            self.close()
            raise HostError(f"{self._place(zone)}: no answer within {_ANSWER_SECONDS:.0f} s") from error
        except (OSError, EOFError) as error:
            self.close()
            reason = (error.strerror if isinstance(error, OSError) else None) or "the connection was closed"
            raise HostError(f"{self._place(zone)}: {reason}") from error
        except (DNSException, ValueError) as error:
            self.close()
            words = one_line(str(error) or type(error).__name__)
            if isinstance(error, TransferError):
                raise ZoneError(f"{self._place(zone)}: {words}") from error
            if isinstance(error, FormError):
                words = f"what it answers is not understood: {words}"
            raise HostError(f"{self._place(zone)}: {words}") from error

    def _place(self, zone: str) -> str:
        return f"zone {zone.removesuffix('.') or '.'} on {self._address}"
