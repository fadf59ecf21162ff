"""The files that nginx reads and rulegen writes: read whole, replaced at once, keys for nginx's workers alone.

A file that is not rulegen's is never replaced, and none is ever seen half written.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from rulegen.config import IngressSettings
from rulegen.errors import HostError, RulegenError, printable
from rulegen.nginx.configuration import CERTIFICATE, HEADER, Entries, Key, Pem, lines_of, parse, version_in
from rulegen.nginx.main_file import Worker, worker_of
from rulegen.nginx.process import missing_words

_LARGEST = 256 << 20
_LARGEST_CERTIFICATE = 4 << 20
_SUFFIX = ".pem"
# How the name of what is being written ends.
_NEW = ".rulegen-new"
_CERTIFICATE_NAME = re.compile(r"([0-9a-f]{32})\.pem")
_SECRET_MODE, _PUBLIC_MODE, _FOLDER_MODE = 0o600, 0o644, 0o700


class FileState(NamedTuple):
    """The configuration file. `content`: None where there is none."""

    content: bytes | None

    @property
    def text(self) -> str:
        return (self.content or b"").decode("utf-8", "replace")

    @property
    def version(self) -> str:
        return version_in(self.text)


class Files:
    """Where `settings` says."""

    def __init__(self, settings: IngressSettings) -> None:
        self._path = Path(settings.file)
        self._folder = Path(settings.certificates)
        self._main_file = settings.main_file

    @property
    def path(self) -> Path:
        """The configuration file's."""
        return self._path

    def read(self) -> FileState:
        """Raises HostError where it cannot be read, or is somebody else's."""
        content = _read(self._path, _LARGEST)
        if content and not content.startswith(HEADER.encode()):
            raise HostError(f"{self._path}: not written by rulegen, which would replace it: move it away")
        return FileState(content)

    def entries(self, state: FileState) -> Entries:
        """The sections, and the certificates that are as they were written and nobody but nginx can read."""
        found = parse(lines_of(state.text), state.version) if state.content else {}
        worker = worker_of(self._main_file)
        is_folder_right = _is_secret(self._folder, worker, _FOLDER_MODE)
        for name in self._names():
            path = self._folder / name
            content = _read(path, _LARGEST_CERTIFICATE)
            digest = name.removesuffix(_SUFFIX)
            pem = Pem(content or b"")
            is_whole = pem.digest == digest and is_folder_right and _is_secret(path, worker, _SECRET_MODE)
            # Of one that was changed, nothing is known but that it is there.
            found[Key(CERTIFICATE, digest)] = pem if is_whole else Pem(b"")
        return found

    def signatures(self) -> dict[str, object]:
        """By name, what is otherwise as soon as somebody has changed a file."""
        digests = [name.removesuffix(_SUFFIX) for name in self._names()]
        main = {"main file": _signature(Path(self._main_file))}
        found = {**main, **self.signature(), **self.signatures_of(digests)}
        return {name: signature for name, signature in found.items() if signature is not None}

    def signature(self) -> dict[str, object]:
        """That of the configuration file; None: it is not there."""
        return {"file": _signature(self._path)}

    def signatures_of(self, digests: Iterable[str]) -> dict[str, object]:
        """Those of some certificates."""
        return {digest: _signature(self._certificate(digest)) for digest in digests}

    def write(self, content: bytes | None) -> None:
        """Replaces the configuration file; None: removes it."""
        try:
            if content is None:
                self._path.unlink(missing_ok=True)
            else:
                new = self._path.with_name(f".{self._path.name}{_NEW}")
                _replace(self._path, new, content, _PUBLIC_MODE, os.geteuid())
        except OSError as error:
            raise HostError(missing_words(str(self._path), error)) from error

    def write_back(self, content: bytes | None, refused: RulegenError) -> None:
        """Writes what was there before, which is needed again as `refused` says. Raises HostError, which says both."""
        try:
            self.write(content)
        except HostError as error:
            raise HostError(f"{refused}; what was there before cannot be written back: {error}") from error

    def write_certificates(self, certificates: Collection[Pem]) -> None:
        """Each in a file of its own, which is the worker's: it reads one when somebody asks for its name.

        Raises HostError, too, where no worker could reach them: nginx would say so only at a handshake.
        """
        if not certificates:
            return
        worker = worker_of(self._main_file)
        try:
            # What is above it may be others' to enter.
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
            if not _is_secret(self._folder, worker, _FOLDER_MODE):
                self._folder.chmod(_FOLDER_MODE)
                os.chown(self._folder, worker.uid, -1)
            closed = next((one for one in self._folder.resolve().parents if not worker.may_enter(one)), None)
            if closed is not None:
                raise HostError(f"{closed}: {worker.name}, as whom nginx reads certificates, may not enter it")
            for pem in certificates:
                _replace(self._certificate(pem.digest), self._unfinished, pem.content, _SECRET_MODE, worker.uid)
        except OSError as error:
            raise HostError(missing_words(str(self._folder), error)) from error

    def remove_certificates(self, digests: Collection[str]) -> None:
        """What cannot be removed stays, and differs next time."""
        for path in (self._unfinished, *map(self._certificate, digests)):
            with suppress(OSError):
                path.unlink(missing_ok=True)

    @property
    def _unfinished(self) -> Path:
        """Of all certificates, so that no more than one is left where a process ends in the middle."""
        return self._folder / _NEW

    def _certificate(self, digest: str) -> Path:
        return self._folder / f"{digest}{_SUFFIX}"

    def _names(self) -> list[str]:
        try:
            return sorted(path.name for path in self._folder.iterdir() if _CERTIFICATE_NAME.fullmatch(path.name))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise HostError(missing_words(str(self._folder), error)) from error


def _read(path: Path, largest: int) -> bytes | None:
    try:
        # Neither a pipe that nobody writes nor a device may hold us.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError(missing_words(str(path), error)) from error
    with os.fdopen(file, "rb") as opened:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise HostError(f"{printable(str(path))}: not a regular file")
        try:
            content = opened.read(largest + 1)
        except OSError as error:
            raise HostError(missing_words(str(path), error)) from error
    if len(content) > largest:
        raise HostError(f"{printable(str(path))}: larger than {largest} bytes")
    return content


def _replace(path: Path, new: Path, content: bytes, mode: int, owner: int) -> None:
    with suppress(FileNotFoundError):
        new.unlink()
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(file, "wb") as opened:
            os.fchmod(file, mode)
            os.fchown(file, owner, -1)
            opened.write(content)
            opened.flush()
            os.fsync(file)
        new.replace(path)
    except OSError:
        with suppress(OSError):
            new.unlink()
        raise


def _is_secret(path: Path, worker: Worker, mode: int) -> bool:
    with suppress(OSError):
        found = path.stat()
        return stat.S_IMODE(found.st_mode) == mode and found.st_uid == worker.uid
    return False


def _signature(path: Path) -> object:
    with suppress(OSError):
        found = path.stat()
        return (found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode, found.st_uid)
    return None
