"""nginx's files, and what they should be, kept equal; see `reconcile.driver.LiveRules`.

A change is written, tried by `nginx -t` as a whole, and put to work by a reload that is waited for. Where nginx does
not take it, the file is again what it was before, byte for byte, and so is what nginx serves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from msgspec.structs import replace

from rulegen.config import Family, IngressSettings
from rulegen.errors import ApplyError, HostError, RulegenError, StaleError
from rulegen.nginx.configuration import CERTIFICATE, IN_USE, Document, Entries, Key, Pem, Value, version_in
from rulegen.nginx.diff_text import count, shown_changes
from rulegen.nginx.files import Files, FileState
from rulegen.nginx.process import Nginx, serving
from rulegen.nginx.watching import Seen
from rulegen.reconcile.compilers import CompilerSet, Items
from rulegen.reconcile.delta import Change, Delta, diff
from rulegen.reconcile.driver import RuleCount, RulesState, ShownChange, digest_of
from rulegen.reconcile.feature import ItemErrors, ItemKey
from rulegen.reference import ObjectReference

_IN_USE_KEY = Key(IN_USE, "")
# As much of a main file as our own part needs to be tried without the host's.
_SCRATCH_MAIN = """daemon off; pid {folder}/pid; error_log stderr;
events {{}}
http {{ access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
uwsgi_temp_path {folder}; scgi_temp_path {folder}; include {folder}/part.conf; }}
"""


class LiveSites:
    """`compilers`: each wants sections and certificates."""

    def __init__(self, settings: IngressSettings, nginx: Nginx, seen: Seen, compilers: CompilerSet) -> None:
        self._settings = settings
        self._files = Files(settings)
        self._nginx = nginx
        self._seen = seen
        self._compilers = compilers
        self._unreadable: Mapping[str, Collection[ObjectReference]] = {}
        self._state = FileState(None)
        self.live: Entries = {}
        self._document = Document({})

    def preserve_unreadable(self, unreadable: Mapping[str, Collection[ObjectReference]]) -> None:
        """See `LiveRules`."""
        self._unreadable = unreadable

    def read(self) -> None:
        """See `LiveRules`."""
        self._seen.note()
        self._state = self._files.read()
        self.live = self._files.entries(self._state)
        self._document = Document(self.live)
        self._compilers.adopt(self.live, self._unreadable)

    def update(self, items: Items, contexts: Mapping[str, Any]) -> tuple[Delta[Key, Value], ItemErrors]:
        """See `LiveRules`."""
        delta, errors = self._compilers.update(items, contexts)
        if self._unreadable:
            # A section that is spared is live, whatever was compiled before.
            delta = self._compilers.spare(delta.onto(self.live))
        return delta, errors

    def difference(self) -> Delta[Key, Value]:
        """See `LiveRules`; where the files are as they should be, what nginx serves may be something else."""
        wanted = self._compilers.entries()
        delta = self._compilers.spare(diff(self.live, wanted))
        if delta:
            return delta
        version = self._state.version
        now = serving(self._settings.version_address)
        return delta if now == version else Delta(changed={_IN_USE_KEY: Change(now or "nothing known", version)})

    def state(self) -> RulesState:
        """See `LiveRules`."""
        return RulesState(*(digest_of(sorted(entries.items())) for entries in (self.live, self._compilers.entries())))

    def check(self, delta: Delta[Key, Value]) -> None:
        """Has nginx try what would be written, on its own; the host's main file is not asked. Raises ApplyError."""
        self._try(_with(self.live, delta))

    def apply(self, delta: Delta[Key, Value]) -> None:
        """See `LiveRules`."""
        before = self._state.content
        if self._files.read().content != before:
            raise StaleError(f"{self._files.path}: changed by somebody else meanwhile")
        wanted, had = _changes(delta), _changes(delta, back=True)
        added = {key: value for key, value in wanted.items() if isinstance(value, Pem)}
        self._files.write_certificates(added.values())
        self._document.change(wanted)
        text = self._document.text()
        after = text.encode()
        is_new = after != before
        try:
            if is_new:
                self._files.write(after)
            # Now, and not at the end: what others change meanwhile is theirs.
            self._seen.wrote(pem.digest for pem in added.values())
            self._put_to_work(version_in(text), before if is_new else after)
        except RulegenError:
            self._document.change(had)
            self._files.remove_certificates([key.name for key in added if key not in self.live])
            raise
        self._files.remove_certificates([key.name for key in delta.removed if key.kind == CERTIFICATE])
        self._seen.removed(key.name for key in delta.removed if key.kind == CERTIFICATE)
        self._state = FileState(after)
        for key, value in wanted.items():
            if value is None:
                self.live.pop(key, None)
            else:
                self.live[key] = value

    def accepts(self, pending: Mapping[ItemKey, Change[Any]], suspects: Collection[ItemKey]) -> None:
        """See `LiveRules`; tried on its own, beside nothing else."""
        del pending
        self._try(self._compilers.entries_of(suspects))

    def settle(self) -> None:
        """See `LiveRules`; what was read is what the next change is made of."""

    def changes(self, delta: Delta[Key, Value]) -> Iterator[ShownChange]:
        """See `LiveRules`."""
        return shown_changes(delta, self._compilers)

    def changes_in_full(self, delta: Delta[Key, Value]) -> Iterator[ShownChange]:
        """See `LiveRules`."""
        return shown_changes(delta, self._compilers)

    def counts(self, delta: Delta[Key, Value]) -> Iterator[str]:
        """See `LiveRules`."""
        return count(delta)

    def rule_counts(self) -> Mapping[tuple[Family, str], RuleCount]:
        """See `LiveRules`: there are none."""
        return {}

    def _put_to_work(self, version: str, before: bytes | None) -> None:
        """What is written is tried and served, or the file is what it was `before`, and nginx serves that."""
        try:
            self._nginx.test()
        except RulegenError as error:
            self._files.write_back(before, error)
            raise
        try:
            self._nginx.reload(version)
        except ApplyError as error:
            # Without a server there is nothing to put back: it is to read what nginx takes when it starts.
            if serving(self._settings.version_address):
                self._files.write_back(before, error)
                with suppress(ApplyError):
                    self._nginx.reload(FileState(before).version)
            raise

    def _try(self, entries: Mapping[Key, Value]) -> None:
        try:
            with TemporaryDirectory(prefix="rulegen-nginx-") as folder:
                # Certificates are nothing to nginx until somebody asks for one.
                Files(replace(self._settings, file=f"{folder}/part.conf")).write(Document(entries).text().encode())
                main_file = Path(folder, "main.conf")
                main_file.write_text(_SCRATCH_MAIN.format(folder=folder))
                self._nginx.test(str(main_file))
        except OSError as error:
            raise HostError(f"cannot try a configuration: {error.strerror}") from error


def _with(live: Entries, delta: Delta[Key, Value]) -> Entries:
    return {key: value for key, value in {**live, **_changes(delta)}.items() if value is not None}


def _changes(delta: Delta[Key, Value], *, back: bool = False) -> dict[Key, Value | None]:
    """What each key has afterwards, or had before; None: nothing."""
    changed = {
        key: change.before if back else change.after for key, change in delta.changed.items() if key != _IN_USE_KEY
    }
    come, gone = (delta.removed, delta.added) if back else (delta.added, delta.removed)
    return {**changed, **come, **dict.fromkeys(gone)}
