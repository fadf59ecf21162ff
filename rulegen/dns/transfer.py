"""A zone is transferred (RFC 5936): the query comes in, the messages of the answer go out.

They are taken off the connection as fast as they come, whatever the rest takes: servers give up on who does not read
(Knot after half a second), and this process may have to wait for a processor.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from dns.message import Message

# A zone that is larger is none of names of Services.
_LARGEST = 1 << 29


def transferred(connection: socket.socket, query: Message, silence: float, lifetime: float) -> Iterator[Message]:
    """The messages, the last of which has the zone's SOA again; each is checked against the query's key.

    `silence`, `lifetime`: so many seconds may pass between two messages, and in all. Raises OSError, EOFError, and what
    dnspython does.
    """
    from dns import message, rcode, rdatatype
    from dns.exception import FormError
    from dns.xfr import TransferError

    ends = time.monotonic() + lifetime
    connection.settimeout(silence)
    connection.sendall(query.to_wire(prepend_length=True))
    context = None
    soas = 0
    with closing(_Reader(connection)) as reader:
        while soas < 2:
            wire = reader.next(ends - time.monotonic())
            if wire is None:
                raise OSError(None, f"the transfer has not ended after {lifetime:g} s")
            answer = message.from_wire(
                wire,
                keyring=query.keyring,
                request_mac=query.mac,
                xfr=True,
                tsig_ctx=context,
                multi=True,
            )
            context = answer.tsig_ctx
            if answer.id != query.id:
                raise FormError("the answer is to another question")
            if answer.rcode() != rcode.NOERROR:
                raise TransferError(answer.rcode())
            if not soas and (not answer.answer or answer.answer[0].rdtype != rdatatype.SOA):
                raise FormError("the answer is no transfer")
            soas += sum(len(rrset) for rrset in answer.answer if rrset.rdtype == rdatatype.SOA)
            if soas > 1 and query.keyring is not None and not answer.had_tsig:
                raise FormError("missing TSIG")
            yield answer


class _Reader:
    """Reads messages off a connection, in a thread of its own."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._read: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="transfer", daemon=True)
        self._thread.start()

    def next(self, seconds: float) -> bytes | None:
        """The next message; None when it has not come after so many seconds. Raises what has ended the reading."""
        try:
            found = self._read.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """Ends the thread."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _run(self) -> None:
        size = 0
        try:
            with self._connection.makefile("rb") as file:
                while size <= _LARGEST:
                    length = self._exactly(file, 2)
                    self._read.put(self._exactly(file, int.from_bytes(length, "big")))
                    size += int.from_bytes(length, "big")
            raise OSError(None, "the zone is too large")
        except (OSError, EOFError, ValueError) as error:
            self._read.put(error)

    @staticmethod
    def _exactly(file: IO[bytes], length: int) -> bytes:
        found = file.read(length)
        if len(found) < length:
            raise EOFError
        return found
