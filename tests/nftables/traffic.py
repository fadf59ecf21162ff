"""First packets of connections in a stream, and how many of them no rule has translated.

A Lab comes in; counters come out, for the frontends that the Services of these tests have: of what arrives, and of what
has been translated when all chains that could do so are behind it. What was refused instead was not translated either.
Packets are sent by a process of its own (this module), so that it and the tests do not wait for each other.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.lab import UPLINK, Lab, Packet
from tests.lab.conntrack import Conntrack
from tests.lab.lab import send_waiting
from tests.lab.packets import build
from tests.patience import patience

ADDRESSES = ("10.96.0.10", "198.51.100.1")
FRONTENDS = tuple((address, 80) for address in ADDRESSES)
_RULES = """
table ip watch {
  set watched { typeof ip daddr; elements = { %s }; }
  counter seen { }
  counter translated { }
  chain seen { type filter hook prerouting priority -150; ip daddr @watched counter name seen; }
  chain translated {
    type filter hook prerouting priority -40;
    ct original ip daddr @watched ct status dnat counter name translated;
  }
}
"""


class Traffic:
    """What arrives at the node of `lab` through its uplink, for these addresses and ports."""

    def __init__(self, lab: Lab, frontends: Sequence[tuple[str, int]] = FRONTENDS) -> None:
        self._lab = lab
        self._frontends = [f"{address}:{port}" for address, port in frontends]
        lab.nft(_RULES % ", ".join(dict(frontends)))

    @property
    def seen(self) -> int:
        """How many packets have arrived."""
        return self._count("seen")

    @property
    def leaked(self) -> int:
        """How many of them were not translated; after `flowing`."""
        before, seen = -1, self.seen
        # What was sent last may still be on its way.
        while seen != before:
            time.sleep(0.1)
            before, seen = seen, self.seen
        return seen - self._count("translated")

    def _count(self, name: str) -> int:
        with self._lab.entered():
            listing = subprocess.run(
                ["nft", "list", "counter", "ip", "watch", name], capture_output=True, text=True, check=True
            ).stdout
        return int(listing.partition("packets ")[2].split()[0])

    @contextmanager
    def flowing(self) -> Iterator[None]:
        """Packets arrive from the start of the block to its end."""
        wire = self._lab._wires[UPLINK]
        hardware_address = wire._to[4][-1]
        with self._lab.entered():
            sender = subprocess.Popen(
                [sys.executable, "-m", __name__, str(wire.socket.fileno()), hardware_address.hex(), *self._frontends],
                pass_fds=[wire.socket.fileno()],
            )
        try:
            self._wait_for_more(sender)
            yield
            self._wait_for_more(sender)
        finally:
            sender.terminate()
            status = sender.wait()
        assert status == -signal.SIGTERM

    def _wait_for_more(self, sender: subprocess.Popen[bytes]) -> None:
        """Until more packets have arrived."""
        before, end = self.seen, time.monotonic() + patience(30)
        while self.seen == before:
            assert sender.poll() is None, f"the sender has ended with status {sender.returncode}"
            assert time.monotonic() < end, "no packets arrive"


def _send(wire: socket.socket, hardware_address: bytes, frontends: Sequence[str]) -> None:
    """Each packet is the first of a connection: all are forgotten after each round."""
    destinations = [(address, int(port)) for address, _, port in (frontend.partition(":") for frontend in frontends)]
    packets = [
        build(Packet(source, *destination, source_port=port), 1)
        for port in range(2000, 4000)
        for source in ("203.0.113.9", "10.244.0.9")
        for destination in destinations
    ]
    to = (UPLINK, 0x0800, 0, 0, hardware_address)
    conntrack = Conntrack()
    conntrack.events.close()
    while True:
        for packet in packets:
            send_waiting(wire, packet, to)
        conntrack.flush()


if __name__ == "__main__":
    _send(socket.socket(fileno=int(sys.argv[1])), bytes.fromhex(sys.argv[2]), sys.argv[3:])
