"""nginx's files on a disk: whose they are, and what others change meanwhile."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest

from rulegen.config import IngressSettings
from rulegen.errors import ApplyError, HostError
from rulegen.nginx.configuration import (
    COMMON,
    HEADER,
    SERVER,
    Document,
    Entries,
    Key,
    Pem,
    parse,
    place,
    section,
    version_in,
)
from rulegen.nginx.driver import NginxDriver
from rulegen.nginx.files import Files
from rulegen.nginx.live import LiveSites
from rulegen.nginx.main_file import worker_of
from rulegen.nginx.process import Nginx
from rulegen.nginx.watching import Seen
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.delta import Delta

_COMMON = f"""return 200 "@version@ $pid\\n";
map $host $site {{
    {place("hosts")}
}}
server {{
    {place("plain")}
}}
"""


def _entries(*hosts: str) -> Entries:
    found: Entries = {Key(COMMON, ""): _COMMON}
    for host in hosts:
        lines = [
            ("hosts", f'    "{host}" "x";\n'),
            ("plain", f"    location /{host} {{\n        return 404;\n    }}\n"),
        ]
        found[Key(SERVER, host)] = section(lines)
    return found


def test_a_section_that_changes_is_what_a_whole_file_would_have() -> None:
    document = Document(_entries("a.test", "b.test", "c.test"))
    changed = _entries("b.test", "d.test")
    changed[Key(SERVER, "b.test")] = section([("hosts", '    "b.test" "y";\n')])
    document.change({**dict.fromkeys((Key(SERVER, "a.test"), Key(SERVER, "c.test"))), **changed})
    text = document.text()
    assert text == Document(changed).text()
    assert parse(text.splitlines(keepends=True), version_in(text)) == changed
    document.change(_entries("a.test", "b.test", "c.test"))
    document.change({Key(SERVER, "d.test"): None})
    assert document.text() == Document(_entries("c.test", "b.test", "a.test")).text()


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ('"a.test" "x"', '"a.test" "z"'),
        ('    "a.test" "x"; # a.test\n', ""),
        ('    "a.test" "x"; # a.test\n', '    "a.test" "x"; # a.test\n' * 2),
        ('    "a.test" "x"; # a.test\n', '    "other" "x";\n    "a.test" "x"; # a.test\n'),
        ("return 404", "return 403"),
        ("# rulegen: end\n", ""),
        ("# rulegen: begin a.test\n", ""),
        ("    # rulegen: end of place\n", ""),
        ("map $host", "map $http_host"),
        ("# rulegen: place plain\n", "# rulegen: place hosts\n"),
    ],
)
def test_whatever_others_write_differs(was: str, now: str) -> None:
    entries = _entries("a.test")
    text = Document(entries).text()
    assert was in text
    changed = text.replace(was, now, 1)
    assert parse(changed.splitlines(keepends=True), version_in(changed)) != entries


def _settings(folder: Path) -> IngressSettings:
    return IngressSettings(
        main_file=str(folder / "nginx.conf"),
        file=str(folder / "rulegen.conf"),
        certificates=str(folder / "certificates"),
    )


def test_what_others_change_while_nginx_reloads_is_theirs(tmp_path: Path) -> None:
    files = Files(_settings(tmp_path))
    seen = Seen(files)
    seen.note()
    files.write(HEADER.encode())
    assert seen.differs()
    seen.wrote()
    assert not seen.differs()
    Path(tmp_path, "rulegen.conf").write_text("theirs")
    # Certificates that nobody needs any more go at the end of a reload.
    seen.removed(["0" * 32])
    assert seen.differs()


def test_of_certificates_that_were_never_finished_none_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nginx.conf").write_text("user root;")
    files = Files(_settings(tmp_path))
    with monkeypatch.context() as killed:
        killed.setattr(Path, "replace", Mock(side_effect=KeyboardInterrupt))
        for content in (b"one", b"two"):
            with pytest.raises(KeyboardInterrupt):
                files.write_certificates([Pem(content)])
    folder = tmp_path / "certificates"
    assert len(list(folder.iterdir())) == 1
    three = Pem(b"three")
    files.write_certificates([three])
    assert [path.name for path in folder.iterdir()] == [f"{three.digest}.pem"]
    with monkeypatch.context() as killed:
        killed.setattr(Path, "replace", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            files.write_certificates([Pem(b"four")])
    files.remove_certificates([three.digest])
    assert not list(folder.iterdir())


class _Refusing(Nginx):
    """Takes nothing; meanwhile nothing can be written any more."""

    def __init__(self, settings: IngressSettings) -> None:
        self._beside = Path(settings.file).with_name(".rulegen.conf.rulegen-new")

    def test(self, main_file: str = "") -> None:
        del main_file
        self._beside.mkdir()
        raise ApplyError("nginx refuses the configuration: its words")


def test_what_cannot_be_written_back_hides_no_word_of_nginx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _settings(tmp_path)
    files = Files(settings)
    files.write(f"{HEADER}# before\n".encode())
    both = (
        "nginx refuses the configuration: its words; what was there before cannot be written back: "
        f"{settings.file}: Is a directory"
    )
    rules = LiveSites(settings, _Refusing(settings), Seen(files), CompilerSet({}))
    rules.read()
    with pytest.raises(HostError) as raised:
        rules.apply(Delta(added=_entries("a.test")))
    assert str(raised.value) == both
    # The same when all is removed.
    (tmp_path / ".rulegen.conf.rulegen-new").rmdir()
    monkeypatch.setattr("rulegen.nginx.driver.Nginx", _Refusing)
    monkeypatch.setattr("rulegen.nginx.driver.serving", lambda _: "something")
    with pytest.raises(HostError) as raised:
        NginxDriver(settings).remove(["ingress"])
    assert str(raised.value) == both


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", "nobody"),
        ("user www-data;", "www-data"),
        ("# user root;\nuser  'www-data'  adm ;\nevents { }", "www-data"),
        ('http { user root; } daemon "x;user root;"; user www-data;', "www-data"),
        ("include parts/*.conf;", "www-data"),
        ("include missing.conf; user nobody;", "nobody"),
    ],
)
def test_who_nginx_is(tmp_path: Path, text: str, name: str) -> None:
    part = tmp_path / "parts" / "user.conf"
    part.parent.mkdir()
    part.write_text("user www-data;\n")
    main_file = tmp_path / "nginx.conf"
    main_file.write_text(text)
    assert worker_of(str(main_file)).name == name


def test_an_include_of_itself_ends(tmp_path: Path) -> None:
    main_file = tmp_path / "nginx.conf"
    main_file.write_text("include nginx.conf;\ninclude nginx.conf;\n")
    assert worker_of(str(main_file)).name == "nobody"
