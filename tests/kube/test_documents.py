from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from rulegen.errors import InputError
from rulegen.kube.documents import Unreadable, read_documents


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
        ("a.json", "a: 1", ["a.json:1:1: invalid JSON: invalid character"]),
        ("a.json", "[" * 100_000, ["a.json: invalid JSON: nested too deeply"]),
        ("a.yaml", b"a: b\n\xc3\xa4 \xff", ["a.yaml:2:3: not UTF-8 (invalid start byte)"]),
        ("a.json", b'{"a": "\xc3"}', ["a.json:1:8: not UTF-8 (invalid continuation byte)"]),
        ("a.json", b'{"a": "\xc3', ["a.json:1:8: not UTF-8 (unexpected end of data)"]),
        ("a.yaml", "a: 1\nb: \0", ["a.yaml:2:4: a NUL byte"]),
        ("a.yaml", "a: 1".encode("utf-16-le"), ["a.yaml:1:2: a NUL byte"]),
    ],
)
def test_where_a_file_stops_being_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str | bytes, expected: list[object]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name, text)
    assert read(name) == expected


def test_text_that_is_not_utf8_is_found_behind_and_across_chunks(tmp_path: Path) -> None:
    start = "ä" * (1 << 19)
    for text, column in ((start.encode() + b"a\xff", len(start) + 2), (b"a" + start.encode()[:-1], len(start) + 1)):
        (message,) = read(write(tmp_path / "a.json", text))
        assert f"a.json:1:{column}: not UTF-8" in str(message)
    assert read(write(tmp_path / "b.json", f'"a{start}"')) == ["a" + start]
