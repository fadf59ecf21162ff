"""A support bundle as a file: named parts in their order come in, a compressed archive goes out, and parts come back.

Nothing is ever unpacked to a disk, and no more is taken out of an archive than `_MOST_BYTES`, whatever its length. What
is in a part is nobody's business here.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from rulegen.errors import InputError

if TYPE_CHECKING:
    import gzip

# Parts that other commands read.
FACTS = "bundle.json"
CONFIGURATION = "configuration.yaml"
EGRESS = "ip-masq-agent.json"
LIVE_RULES = "live-rules.json"
OBJECTS = "objects.yaml"

_FOLDER = "rulegen-support-bundle"
_MAGIC = b"\x1f\x8b"
_LEVEL = 6
_MODE = 0o600
_MOST_BYTES = 1 << 30


class Part(NamedTuple):
    """A file in the archive."""

    name: str
    data: bytes


def pack_bundle(parts: Iterable[Part]) -> bytes:
    """The archive; the same parts give the same bytes."""
    import gzip
    import tarfile

    packed = io.BytesIO()
    with (
        gzip.GzipFile("", "wb", _LEVEL, packed, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w|", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for part in parts:
            header = tarfile.TarInfo(f"{_FOLDER}/{part.name}")
            header.size, header.mode = len(part.data), _MODE
            archive.addfile(header, io.BytesIO(part.data))
    return packed.getvalue()


def is_compressed(data: bytes) -> bool:
    """Whether these bytes, or those that follow, may be a bundle; no manifest begins so."""
    return data.startswith(_MAGIC)


def read_member(source: str, data: bytes, name: str) -> bytes:
    """A part of an archive. `source` begins messages. Raises InputError, also where there is no such part."""
    import gzip
    import tarfile
    import zlib

    try:
        with tarfile.open(fileobj=_Bounded(gzip.GzipFile(fileobj=io.BytesIO(data))), mode="r|") as archive:
            for member in archive:
                if member.isreg() and member.name == f"{_FOLDER}/{name}":
                    opened = archive.extractfile(member)
                    assert opened is not None  # noqa: S101 - it is a file
                    return opened.read()
    except _TooLargeError as error:
        raise InputError(f"{source}: holds more than {_MOST_BYTES >> 20} MiB when it is unpacked") from error
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError) as error:
        raise InputError(f"{source}: expected manifests or a support bundle, got a compressed file: {error}") from error
    raise InputError(f"{source}: holds no {name} of a support bundle")


class _TooLargeError(Exception):
    """More was unpacked than may be."""


class _Bounded(io.RawIOBase):
    """A stream that ends in an error when too much is read from it."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream
        self._left = _MOST_BYTES

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(min(size, self._left + 1) if size >= 0 else self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise _TooLargeError
        return data
