from __future__ import annotations

import io
import itertools
import json
import os
import socket
import threading
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw

from rulegen.errors import InputError
from rulegen.kube import documents
from rulegen.kube.document_text import Unreadable, parse_text
from rulegen.kube.documents import read_documents
from tests.lengths import assert_linear


def read(*paths: str | Path, stdin: bytes = b"") -> list[object]:
    """The documents as plain values; for one that is unreadable, its place and reason."""
    found: list[object] = []
    for document in read_documents([str(path) for path in paths], io.BytesIO(stdin)):
        if isinstance(document, Unreadable):
            found.append(f"{document.source}: {document.reason}")
        else:
            value = document.value
            found.append(json.loads(bytes(memoryview(value))) if isinstance(value, Raw) else value)
    return found


def write(file: Path, text: str | bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


@given(
    st.lists(st.dictionaries(st.text(), st.integers(-(2**63), 2**63 - 1) | st.text(), max_size=3), min_size=1),
    st.sampled_from(["", " ", "\n", "\r\n\t "]),
)
def test_json_documents_one_after_the_other(values: list[object], space: str) -> None:
    text = space + space.join(json.dumps(value) for value in values) + space
    assert read("-", stdin=text.encode()) == values


def test_the_content_decides_where_the_name_does_not(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a", '{"a": 1}')) == [{"a": 1}]
    assert read(write(tmp_path / "b", "a: 1\n---\nb: 2")) == [{"a": 1}, {"b": 2}]
    assert read(write(tmp_path / "c.yaml", '{"a": 1}\n---\n{b: 2}')) == [{"a": 1}, {"b": 2}]
    assert read(write(tmp_path / "d.json", b"\xef\xbb\xbf \n[1]")) == [[1]]
    assert read(write(tmp_path / "e.yaml", b"\xef\xbb\xbfa: 1")) == [{"a": 1}]


def test_a_folder_is_read_in_order_without_what_is_hidden(tmp_path: Path) -> None:
    for number, name in enumerate(["b.yaml", "a/z.yml", "a/b/c.json", ".hidden.yaml", ".git/x.yaml", "README.md"]):
        write(tmp_path / name, json.dumps(number))
    write(tmp_path / "empty.yaml", "# nothing\n")
    assert read(tmp_path) == [2, 1, 0]


def test_a_mounted_config_map_is_read_once(tmp_path: Path) -> None:
    write(tmp_path / "..2024_03_01" / "web.yaml", "1")
    write(tmp_path / "..2024_03_01" / "sub" / "db.yaml", "2")
    (tmp_path / "..data").symlink_to("..2024_03_01")
    (tmp_path / "web.yaml").symlink_to("..data/web.yaml")
    (tmp_path / "sub").symlink_to("..data/sub")
    assert read(tmp_path) == [2, 1]


def test_links_that_lead_back_end(tmp_path: Path) -> None:
    write(tmp_path / "a" / "web.yaml", "1")
    (tmp_path / "a" / "up").symlink_to("..")
    assert read(tmp_path) == [1]


def test_no_file_is_read_twice(tmp_path: Path) -> None:
    file = write(tmp_path / "web.yaml", "1")
    assert read(file, tmp_path, f"{tmp_path}/./web.yaml", "-", "-", stdin=b"2") == [1, 2]


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n---\n"])
def test_a_file_without_an_object_is_an_error(tmp_path: Path, text: str) -> None:
    file = write(tmp_path / "web.yaml", text)
    for path in (file, tmp_path):
        with pytest.raises(InputError, match=r"holds no object$"):
            read(path)
    with pytest.raises(InputError, match=r"^standard input: holds no object$"):
        read("-", stdin=text.encode())


def test_paths_that_cannot_be_used(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    with pytest.raises(InputError) as raised:
        read(missing)
    assert str(raised.value) == f"{missing}: No such file or directory"
    with pytest.raises(InputError, match=r"holds no .yaml, .yml or .json file$"):
        read(tmp_path)
    with pytest.raises(InputError, match=r'^"": not a path$'):
        read("")
    with pytest.raises(InputError, match=r'^"a\\u0000b": not a path$'):
        read("a\0b")
    with pytest.raises(InputError, match=r"^standard input: not open$"):
        list(read_documents(["-"], None))


def test_a_dangling_link_in_a_folder_is_not_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "1")
    (tmp_path / "web.yaml").symlink_to("gone.yaml")
    with pytest.raises(InputError, match=r"web.yaml: No such file or directory$"):
        read(tmp_path)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    file = write(tmp_path / "web.yaml", "a: 1")
    file.chmod(0)
    if os.access(file, os.R_OK):
        # Root may read anything; a file that says no to everybody.
        file = Path("/proc/self/mem")
    with pytest.raises(InputError) as raised:
        read(file)
    assert str(raised.value).startswith(f"{file}: ")


def test_a_file_name_is_shown_safely(tmp_path: Path) -> None:
    file = write(tmp_path / "we\nb\x1b[2J.yaml", "")
    with pytest.raises(InputError) as raised:
        read(file)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.yaml", "a: 1\n---\nb: [", [{"a": 1}, "a.yaml:4:1: invalid YAML: did not find expected node content"]),
        ("a.json", '{"a": 1}\n{"b" 2}', [{"a": 1}, "a.json:2:6: invalid JSON: expected ':'"]),
        ("a.json", '{"a": 1', ["a.json: invalid JSON: Input data was truncated"]),
        ("a.json", "a: 1", [{"a": 1}]),
        ("a.json", '{"a": 1}\nb: 2', [{"a": 1}, {"b": 2}]),
        ("a.json", '{"a": 1,}', [{"a": 1}]),
        ("a.json", '# a comment\n{"a": 1}', [{"a": 1}]),
        ("a.yaml", '{"a": 1} {"b": "\\ud83d\\ude00"}[2]', [{"a": 1}, {"b": "\U0001f600"}, [2]]),
        ("a.yaml", '{a: 1}\n---\n{"b": 2}{"c": 3}\n---\nd: 4\n', [{"a": 1}, {"b": 2}, {"c": 3}, {"d": 4}]),
        (
            "a.json",
            r'{"a": "\ud83d", "b": "\\ud83d", "c": "\ud83d\ude00"}',
            [{"a": "\ufffd", "b": r"\ud83d", "c": "\U0001f600"}],
        ),
        (
            "a.json",
            # Deeper than any Python goes; how deep that is differs.
            '{"a": ' + "[" * 100_000 + '"]"' + "]" * 100_000 + '} {"b": 1}',
            ["a.json: invalid JSON: nested too deeply", {"b": 1}],
        ),
        # What is wrong with one document is not the others' concern.
        (
            "a.yaml",
            "a: 1\n---\nb: [\n---\nc: 3",
            [{"a": 1}, "a.yaml:4:1: invalid YAML: did not find expected node content", {"c": 3}],
        ),
        (
            "a.yaml",
            "a: 'b\n---\nc: 3\n...\n---\n\td: 4\n--- # e\ne: 5",
            [
                "a.yaml:2:1: invalid YAML: found unexpected end of stream",
                {"c": 3},
                "a.yaml:6:1: invalid YAML: found character that cannot start any token",
                {"e": 5},
            ],
        ),
        (
            "a.yaml",
            b"a: \xff\n---\nb: \0\n---\nc: \x07\n---\nd: 4",
            [
                "a.yaml:1:4: not UTF-8 (invalid start byte)",
                "a.yaml:3:4: a NUL byte",
                "a.yaml:5:4: invalid YAML: control characters are not allowed",
                {"d": 4},
            ],
        ),
        (
            "a.yaml",
            "a: " + "[" * 3000 + "\n---\nb: 2",
            ["a.yaml:1:1003: invalid YAML: exceeded maximum nesting depth", {"b": 2}],
        ),
        (
            "a.yaml",
            '{\n---\n{"a" 1}\n---\n{"b": 2}',
            ["a.yaml: invalid JSON: Input data was truncated", "a.yaml:3:6: invalid JSON: expected ':'", {"b": 2}],
        ),
        # Directives belong to the document behind them; of their version nobody makes anything.
        (
            "a.yaml",
            "%YAML 1.1\n---\na: 1\n%YAML 9.9\n# b\n\n---\nb: 2\n...\n%YAML 1.2\n---\nc: [",
            [{"a": 1}, {"b": 2}, "a.yaml:13:1: invalid YAML: did not find expected node content"],
        ),
        (
            "a.yaml",
            "%TAG !e! tag:x,2000:\n---\na: !e!thing b\n---\nb: !e!thing c",
            [{"a": "b"}, "a.yaml:5:4: invalid YAML: found undefined tag handle"],
        ),
        ("a.yaml", "a: |\n  %b\n---\nb: '%'\n", [{"a": "%b\n"}, {"b": "%"}]),
        # Lines that only look like the end of a document.
        ("a.yaml", "a: |\n  ---\n  b\n----: c\n---d: e\n", [{"a": "---\nb\n", "----": "c", "---d": "e"}]),
        ("a.yaml", "a: 1\r\n---\r\nb: 2\r\n", [{"a": 1}, {"b": 2}]),
        ("a.yaml", "a: 1\r---\rb: 2\r", [{"a": 1}, {"b": 2}]),
        ("a.yaml", "---\n---\na: 1\n---", [{"a": 1}]),
        ("a.yaml", "--- {a: 1}\n--- [2]\n--- 3\n--- |\n 4\n", [{"a": 1}, [2], 3, "4\n"]),
        ("a.json", "[" * 100_000, ["a.json: invalid JSON: nested too deeply"]),
        ("a.yaml", b"a: b\n\xc3\xa4 \xff", ["a.yaml:2:3: not UTF-8 (invalid start byte)"]),
        ("a.json", b'{"a": "\xc3"}', ["a.json:1:8: not UTF-8 (invalid continuation byte)"]),
        ("a.json", b'{"a": "\xc3', ["a.json:1:8: not UTF-8 (unexpected end of data)"]),
        ("a.yaml", "a: 1\nb: \0", ["a.yaml:2:4: a NUL byte"]),
        ("a.yaml", "a: 1".encode("utf-16-le"), ["a.yaml:1:2: a NUL byte"]),
        *(
            ("a.yaml", f"a: é\n---\nb: {mark}2".encode(coding), [{"a": "é"}, {"b": 2}])
            for coding, mark in (("utf-16", ""), ("utf-32", ""), ("utf-8-sig", ""))
        ),
        *(
            ("a.json", '\ufeff{"a": "é"}'.encode(coding), [{"a": "é"}])
            for coding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-8")
        ),
        (
            "a.yaml",
            "a: é".encode("utf-16") + b"x",
            ["a.yaml: not utf-16-le, which its byte order mark says: truncated data"],
        ),
        (
            "a.yaml",
            '\ufeffa: 1\n\ufeff---\n\ufeffb: 2\n---\n\ufeff{"c": 3}\ufeff{"d": 4}',
            [{"a": 1}, {"b": 2}, {"c": 3}, {"d": 4}],
        ),
    ],
)
def test_where_a_file_stops_being_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str | bytes, expected: list[object]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name, text)
    assert read(name) == expected


def test_documents_are_counted_as_a_person_counts_them() -> None:
    text = b'a: 1\n---\n---\n[\n---\n{"b": 2}{"c": 3}\n---\nd: 4'
    found = [document for document in read_documents(["-"], io.BytesIO(text)) if not isinstance(document, Unreadable)]
    assert [document.number for document in found] == [1, 4, 5, 6]


def test_only_plain_files_of_a_folder_are_read(tmp_path: Path) -> None:
    """Nobody waits for what a folder holds besides, and whoever puts it there holds up nothing."""
    write(tmp_path / "a.yaml", "1")
    os.mkfifo(tmp_path / "b.yaml")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "c.yaml"))
        (tmp_path / "d.yaml").symlink_to("/dev/zero")
        (tmp_path / "e.yaml").symlink_to("/dev/null")
        found = [str(item).removeprefix(f"{tmp_path}/") for item in read(tmp_path)]
    assert found == [
        "1",
        "b.yaml: a named pipe, not a file",
        "c.yaml: not a file",
        "d.yaml: a device, not a file",
        "e.yaml: a device, not a file",
    ]


def test_a_named_pipe_that_somebody_names_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text("a: 1"))
    writer.start()
    assert read(pipe) == [{"a": 1}]
    writer.join()
    assert read("/dev/zero") == ["/dev/zero: a device, not a file"]


def test_folders_that_lead_to_each_other_are_read_once(tmp_path: Path) -> None:
    """Twelve folders with a link to each: every way through them is 12! ways."""
    folders = [tmp_path / f"{number:02}" for number in range(12)]
    for number, folder in enumerate(folders):
        write(folder / "a.yaml", str(number))
        for other in folders:
            (folder / f"to{other.name}").symlink_to(other)
    assert sorted(read(tmp_path)) == list(range(12))  # type: ignore[type-var]


@pytest.mark.parametrize("moment", [1, 2])
def test_a_file_is_read_as_it_was_at_one_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """It is overwritten in place between a look at its state and the reading, or between the reading and a look."""
    file = write(tmp_path / "a.yaml", "a: 1")
    original, looks = documents._state, itertools.count(1)

    def state(opened: BinaryIO) -> tuple[int, int]:
        if next(looks) == moment:
            found = original(opened)
            file.write_text("a: 2\nb: 3")
            return original(opened) if moment == 2 else found
        return original(opened)

    monkeypatch.setattr(documents, "_state", state)
    assert read(file) == [{"a": 2, "b": 3}]
    assert next(looks) >= 5


def test_a_file_that_was_changed_just_now_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a tick of the file system's clock, a second change leaves no trace in the file's state."""
    file = write(tmp_path / "a.yaml", "a: 1")
    before = file.stat()
    pauses: list[float] = []

    def overwrite(seconds: float) -> None:
        pauses.append(seconds)
        file.write_text("a: 2")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    monkeypatch.setattr(documents, "_TICK", 60.0)
    monkeypatch.setattr(documents, "_ATTEMPTS", 3)
    monkeypatch.setattr("rulegen.kube.documents.time.sleep", overwrite)
    assert read(file) == [f"{file}: changes while it is read"]
    assert len(pauses) == 2
    monkeypatch.setattr(documents, "_TICK", 0.0)
    assert read(file) == [{"a": 2}]


def test_a_file_that_does_not_stop_changing_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.yaml", "a: 1")
    states = itertools.count()
    monkeypatch.setattr(documents, "_state", lambda _: (4, next(states)))
    monkeypatch.setattr(documents, "_PAUSE", 0.0)
    assert read(file) == [f"{file}: changes while it is read"]
    assert next(states) == 10


@given(st.binary(), st.sampled_from(["a.yaml", "a.json"]))
@example(b"%" * 100 + b"\n---\n", "a.yaml")
@example(b"\xff\xfe" + b"\xd8\x00" * 3, "a.yaml")
@example(b"\xff\xfe\x00\xd8", "a.json")
def test_any_bytes_are_documents_or_one_line(content: bytes, name: str) -> None:
    for document in parse_text(name, content, is_json=name.endswith(".json")):
        if isinstance(document, Unreadable):
            assert f"{document.source}: {document.reason}".isprintable()


@given(st.lists(st.text(st.sampled_from("ab:,-[]{}&*!|>#\"'%?<\n \t\x00\x07é\ufeff"), max_size=30), max_size=5))
def test_what_is_between_two_lines_does_not_depend_on_what_is_around(texts: list[str]) -> None:
    pieces = [text for text in texts if "---" not in text and "..." not in text and "%" not in text]
    sound = '---\n{"sound": true}\n'
    text = "".join(f"{sound}---\n{piece}\n" for piece in pieces) + sound
    assert read("-", stdin=text.encode()).count({"sound": True}) >= len(pieces) + 1


LARGE = {
    "separators": b"---\n",
    "dashes": b"-",
    "directives": b"%YAML 1.1\n",
    "directives and a text": b"%YAML 1.1\na: 1\n",
    "comments": b"#\n",
    "spaces": b" ",
    "lines": b"\n",
    "byte order marks": b"\n\xef\xbb\xbf",
    "brackets": b"[",
    "objects": b'{"a": 1}',
    "broken objects": b'---\n{"a" 1}\n',
    "open strings": b'"',
    "open strings in brackets": b'["\\"',
    "escapes": b'"\\ud800',
    "not UTF-8": b"---\na: \xff\n",
    "headers": b"kind: a\n",
    "question marks": b"? ",
    "colons": b": ",
    "anchors": b"&a ",
    "quotes": b"'",
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("start", [b"", b'{"a": ['])
def test_no_file_takes_more_than_its_length(name: str, start: bytes) -> None:
    def parse(size: int) -> None:
        for _ in parse_text("a.yaml", start + LARGE[name] * size, is_json=False):
            pass

    assert_linear(parse, 1_000)


def test_text_that_is_not_utf8_is_found_behind_and_across_chunks(tmp_path: Path) -> None:
    start = "ä" * (1 << 19)
    for text, column in ((start.encode() + b"a\xff", len(start) + 2), (b"a" + start.encode()[:-1], len(start) + 1)):
        (message,) = read(write(tmp_path / "a.json", text))
        assert f"a.json:1:{column}: not UTF-8" in str(message)
    assert read(write(tmp_path / "b.json", f'"a{start}"')) == ["a" + start]
