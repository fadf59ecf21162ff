"""What others commit to rulegen's tables: the kernel's notifications come in, who did it goes out, at once.

The kernel sends each commit in the namespace to all listeners: what it changed, then the new generation with the
process behind it. Own commits are told apart by the port of the netlink socket that made them, or, where nft made
them, by their generation. Reads no rule and repairs nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from rulegen.errors import HostError, printable
from rulegen.netlink.listening import Listening
from rulegen.netlink.messages import HEADER, attributes
from rulegen.netlink.nf_tables import GENERATION_ID, GENERATION_PROCESS_ID, GENERATION_PROCESS_NAME, NEWGEN

_GROUP_NFTABLES = 7
_BUFFER = 8 << 20
_BODY = HEADER.size + 4


class ForeignCommit(NamedTuple):
    """Somebody else changed our table, or may have. `by`: the process, as words."""

    by: str


@dataclass
class OwnLoad:
    """A load of ours: how many commits it took."""

    commits: int = 0


class Monitor:
    """Listens in the network namespace of the thread that opens it. Raises HostError when the kernel refuses that.

    `own_port`: whose commits are not told; those that nft makes for this program have other ports. `generation`: asks
    the kernel for the number of the ruleset, which grows by one with each commit. `tables`: the names of those that are
    looked at, of whatever family.
    """

    def __init__(self, own_port: int, generation: Callable[[], int], tables: Collection[str]) -> None:
        self._own_port = own_port
        self._generation = generation
        # In every message but that of a generation, the first attribute is the name of the table.
        self._tables = tuple(struct.pack("=HH", 5 + len(name), 1) + name.encode() + b"\0" for name in tables)
        # Those that nft made for us, and that were not met yet.
        self._own_generations: set[int] = set()
        self._touched = False
        # Somebody may have committed something while nobody listened.
        self.has_missed = False
        with _heard():
            self._listening = Listening((_GROUP_NFTABLES,), _BUFFER)

    def fileno(self) -> int:
        """For `select`."""
        return self._listening.fileno()

    def close(self) -> None:
        self._listening.close()

    @contextmanager
    def own_commit(self) -> Iterator[None]:
        """What nft commits within is ours, in one transaction; nothing is, if this ends with an error."""
        before = self._generation()
        yield
        after = self._generation()
        if after == before + 1:
            self._own_generations.add(after)

    @contextmanager
    def own_load(self) -> Iterator[OwnLoad]:
        """Not to be listened to: while anybody listens, the kernel takes more than twice as long for a large load.

        What was committed within and is not counted as ours, somebody else has committed.
        """
        before, load = self._generation(), OwnLoad()
        with _heard():
            self._listening.leave(_GROUP_NFTABLES)
        try:
            yield load
        finally:
            with _heard():
                self._listening.join(_GROUP_NFTABLES)
            self.has_missed = self.has_missed or self._generation() > before + load.commits

    def read(self) -> list[ForeignCommit]:
        """What has happened since the last call; does not wait."""
        found = [ForeignCommit("another program, while rules were loaded")] if self.has_missed else []
        self.has_missed = False
        with _heard():
            for data in self._listening.read():
                if data is None:
                    self._touched = False
                    found.append(ForeignCommit("somebody (there was more than could be followed)"))
                else:
                    found += self._intrusions(data)
        return found

    def _intrusions(self, data: bytes) -> Iterator[ForeignCommit]:
        offset = 0
        while offset < len(data):
            length, kind, _, _, port = HEADER.unpack_from(data, offset)
            if port != self._own_port:
                if kind == NEWGEN:
                    generation, process = _new_generation(data[offset + _BODY : offset + length])
                    if self._touched and generation not in self._own_generations:
                        yield ForeignCommit(process)
                    self._own_generations.discard(generation)
                    self._touched = False
                elif data.startswith(self._tables, offset + _BODY):
                    self._touched = True
            offset += (length + 3) & ~3


@contextmanager
def _heard() -> Iterator[None]:
    """What the kernel refuses a listener, as HostErrors."""
    try:
        yield
    except OSError as error:
        raise HostError(f"cannot listen for changes of nftables: {error.strerror}") from error


def _new_generation(payload: bytes) -> tuple[int, str]:
    """Its number, and the process that made it, as words."""
    parts = dict(attributes(payload))
    name = parts.get(GENERATION_PROCESS_NAME, b"").rstrip(b"\0").decode("utf-8", "replace")
    process = f"{printable(name)} (process {int.from_bytes(parts.get(GENERATION_PROCESS_ID, b''), 'big')})"
    return int.from_bytes(parts.get(GENERATION_ID, b""), "big"), process
