from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rulegen.kube.yaml_documents import YamlDocument, YamlError, parse_documents
from tests.lengths import assert_linear

# What YAML allows as text and JSON can say.
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Co"], exclude_characters="\ufeff"))
# A key without `? ` before it ends within 1,024 bytes, says YAML; an escape takes twelve for a character.
KEY = TEXT.filter(lambda key: len(key) < 80)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEY, inner, max_size=4),
    max_leaves=20,
)


def values(text: str) -> list[object]:
    return [document.value for document in parse_documents(text.encode())]


def parse(text: str) -> object:
    (document,) = parse_documents(text.encode())
    assert document.faults == document.repeated == ()
    return document.value


def noted(text: str) -> list[tuple[int, int, str]]:
    """What is wrong, with its place: where the text cannot be read any further, and what is told beside a value."""
    notes: list[tuple[int, int, str]] = []
    try:
        for document in parse_documents(text.encode()):
            notes += [note[:3] for note in (*document.faults, *document.repeated)]
    except YamlError as error:
        notes.append((error.line, error.column, str(error)))
    return notes


class Quoting(yaml.SafeDumper):
    """Quotes the words that only kubectl takes for true and false, and numbers that only it takes for such."""


class Doubtful:
    @staticmethod
    def match(text: str) -> bool:
        return bool(re.fullmatch(r"[yYnN]|[-+.0-9][0-9a-zA-Z._+-]*", text))


Quoting.add_implicit_resolver("tag:yaml.org,2002:bool", Doubtful, [*"yYnN+-.0123456789"])


@given(st.lists(VALUES.filter(lambda value: value is not None), max_size=3))
def test_what_pyyaml_writes_is_read_back(documents: list[object]) -> None:
    text = yaml.dump_all(documents, allow_unicode=True, Dumper=Quoting)
    assert [value for value in values(text) if value is not None] == documents


@given(VALUES)
def test_json_is_yaml(value: object) -> None:
    assert parse(json.dumps(value, ensure_ascii=False)) == value
    assert parse(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024-03-01T10:00:00Z", "2024-03-01T10:00:00Z"),
        ("2024-03-01", "2024-03-01"),
        ("2001:1:2:3:4:5:6:7", "2001:1:2:3:4:5:6:7"),
        ("22:30", "22:30"),
        ("::1", "::1"),
        ("0x1F", 31),
        ("80", 80),
        ("'80'", "80"),
        ("!!str 80", "80"),
        ("!!int '80'", 80),
        ("! 80", "80"),
        ("yes", True),
        ("~", None),
        ("", None),
        ("=", "="),
        ("<<", "<<"),
        *((word, True) for word in ("y", "Y", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON")),
        *((word, False) for word in ("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF")),
        *((word, word) for word in ("yEs", "oN", "tRUE", "nul", "nULL", "yes.", "on_")),
        *((word, None) for word in ("null", "Null", "NULL")),
        # Numbers, as Go's strconv reads them with base 0.
        ("+80", 80),
        ("-80", -80),
        ("0X50", 80),
        ("0x5_0", 80),
        ("8_0", 80),
        ("80_", 80),
        ("0b1010000", 80),
        ("0B1010000", 80),
        ("-0b1", -1),
        ("0o120", 80),
        ("0O120", 80),
        ("0120", 80),
        ("+0120", 80),
        ("080", 80.0),
        ("8e1", 80.0),
        ("8E+1", 80.0),
        ("800e-1", 80.0),
        ("80.0", 80.0),
        ("80.", 80.0),
        ("+.8e2", 80.0),
        (".5", 0.5),
        ("18446744073709551616", 2**64),
        ("!!float 80", 80.0),
        ("!!float '8_0'", 80.0),
        ("!!int 0x50", 80),
        ("!!bool on", True),
        ("!!null ''", None),
        *((word, word) for word in ("1:20", "0x", "0b2", "0o8", "0xG", "1e", "1.2.3", "+", "_80", "1e400", "--1")),
        *((word, word) for word in ("1e5e5", "0x1p4", "1 2", "٣", "+-1", "Infinity", "nan", "~~")),
        # A tag that is not known says nothing; neither does a known one of what is no scalar.
        ("!thing 80", "80"),
        ("!thing '80'", "80"),
        ("!!set {b, c}", {"b": None, "c": None}),
        ("!!omap [{b: 1}]", [{"b": 1}]),
        ("!Ref [1]", [1]),
        ("!!map {b: 1}", {"b": 1}),
        ("!!binary aGVsbG8=", "hello"),
        ("!!timestamp 2024-01-01", "2024-01-01"),
        (r'"\ud83d\ude00"', "\U0001f600"),
        ("10.96.0.1", "10.96.0.1"),
        ("1.5", 1.5),
    ],
)
def test_scalars(text: str, value: object) -> None:
    assert parse(f"key: {text}") == {"key": value}


def test_surrogate_pairs_are_one_character() -> None:
    r"""JSON writes a pair; half of one is an error, and behind an escaped backslash there is none."""
    assert parse(r'a: "\ud83d\ude00 \uD83D\uDE00"') == {"a": "\U0001f600 \U0001f600"}
    assert parse(r'a: "x\\\ud83d\ude00"') == {"a": "x\\\U0001f600"}
    assert parse(r'a: "x\\ud83d\\ude00"') == {"a": r"x\ud83d\ude00"}
    assert "Unicode" in noted(r'a: "\ud83d"')[0][2]


def test_keys_are_text_as_in_json() -> None:
    """As kubectl writes them: a label may be called 80 or yes."""
    text = "80: a\nyes: b\n1.5: c\n0x10: d\n80.0: e\n'0': f\n2024-01-01: g"
    (document,) = parse_documents(text.encode())
    assert document.value == {"80": "e", "true": "b", "1.5": "c", "16": "d", "0": "f", "2024-01-01": "g"}
    assert [note.reason for note in document.repeated] == ['the key "80" is set twice']


def test_documents_and_empty_ones() -> None:
    assert values("") == []
    assert values("# nothing\n") == []
    assert values("---\na: 1\n---\n---\nb: 2\n...\n") == [{"a": 1}, None, {"b": 2}]


def test_aliases_and_merges() -> None:
    assert parse("a: &x {k: 1, l: 2}\nb: *x\nc: {<<: *x, l: 3}") == {
        "a": {"k": 1, "l": 2},
        "b": {"k": 1, "l": 2},
        "c": {"k": 1, "l": 3},
    }
    assert parse("c: {<<: [{k: 1}, {k: 2, l: 2}], m: 3}") == {"c": {"k": 1, "l": 2, "m": 3}}


@pytest.mark.parametrize(
    ("text", "line", "column", "reason"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, 1, 'the key "a" is set twice'),
        ("a: [1,\n  2", 3, 1, "did not find expected ',' or ']'"),
        ("a: &x [*x]", 1, 8, 'the alias "x" stands for nothing, or for itself'),
        ("a: *x", 1, 4, 'the alias "x" stands for nothing, or for itself'),
        ("a: 1\n---\nb: &x 1\n---\nc: *x", 5, 4, 'the alias "x" stands for nothing, or for itself'),
        ("a: !!float b", 1, 4, '"b" is no float'),
        ("a: !!int 80.5", 1, 4, '"80.5" is no int'),
        ("a: !!null b", 1, 4, '"b" is no null'),
        ("a: !!timestamp b", 1, 4, '"b" is no timestamp'),
        ("a: !!binary b", 1, 4, '"b" is no base64'),
        ("~: b", 1, 1, "a key must be a single value"),
        ("a: !!int b", 1, 4, '"b" is no int'),
        ("a: !!bool b", 1, 4, '"b" is no bool'),
        ("a: " + "9" * 5000, 1, 4, "is no int"),
        ("? [a]\n: b", 1, 3, "a key must be a single value"),
        ("<<: 5", 1, 5, "<< merges mappings only"),
        ("a: b\nc: \x07", 2, 4, "control characters are not allowed"),
        ("a: b: c", 1, 5, "mapping values are not allowed in this context"),
        ("\ta: b", 1, 1, "found character that cannot start any token"),
        ("- " * 500, 1, 203, "nested too deeply"),
        ("[" * 500 + "]" * 500, 1, 102, "nested too deeply"),
        ("{a: " * 500 + "}" * 500, 1, 405, "nested too deeply"),
    ],
)
def test_errors_say_where(text: str, line: int, column: int, reason: str) -> None:
    (found,) = noted(text)
    assert reason in found[2]
    if yaml.__with_libyaml__:
        assert found[:2] == (line, column)


def test_no_depth_is_too_much() -> None:
    with pytest.raises(YamlError, match="nest"):  # libyaml's own words, from 0.2.6 on
        parse("[" * 50_000)


@pytest.mark.parametrize("brackets", ["[{}]", "{{<<: [{}]}}"])
def test_aliases_that_multiply_are_bounded(brackets: str) -> None:
    lines = ["a0: &a0 " + ("[x, x]" if brackets[0] == "[" else "{k: v}")]
    lines += [f"a{n}: &a{n} " + brackets.format(",".join([f"*a{n - 1}"] * 10)) for n in range(1, 30)]
    notes = noted("\n".join(lines))
    assert "aliases stand for too many values" in {reason for _, _, reason in notes}
    assert len(notes) == 10


def test_what_is_wrong_costs_no_more_than_its_place() -> None:
    text = "a: !!int x\nb: 1\nb: 2\nc: " + "[" * 200 + "]" * 200 + "\nd: *x\ne: {[1]: 2, f: 3}\n---\ng: 1"
    first, second = parse_documents(text.encode())
    deep: object = None
    for _ in range(100):
        deep = [deep]
    assert first.value == {"a": "x", "b": 2, "c": deep, "d": None, "e": {"f": 3}}
    assert [note.line for note in first.faults] == [1, 4, 5, 6]
    assert [note.line for note in first.repeated] == [3]
    assert second == YamlDocument({"g": 1})


def test_notes_say_in_which_item_they_are() -> None:
    (document,) = parse_documents(b"kind: List\nkind: List\nitems:\n- {a: 1, a: 2}\n- {b: !!int c}\nitems: 1\n")
    assert [note.item for note in document.repeated] == [None, 0, None]
    assert [note.item for note in document.faults] == [1]
    assert document.lost_kinds == ("List",)


LARGE: dict[str, Callable[[int], str]] = {
    "aliases": lambda n: "a: &a {x: 1, y: 2}\nb: [" + "*a, " * n + "]",
    "aliases of aliases": lambda n: (
        "a0: &a0 [x]\n" + "".join(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]\n" for k in range(1, n))
    ),
    "merges": lambda n: (
        "".join(f"a{k}: &a{k} {{k{k}: 1}}\n" for k in range(n)) + "b:\n" + "".join(f"  <<: *a{k}\n" for k in range(n))
    ),
    "merges of merges": lambda n: (
        "a0: &a0 {k: 1}\n" + "".join(f"a{k}: &a{k} {{<<: *a{k - 1}, k{k}: 1}}\n" for k in range(1, n))
    ),
    "depth": lambda n: ("[" * 900 + "1," * 10 + "]" * 900 + "\n---\n") * (n // 500 + 1),
    "keys": lambda n: "".join(f"k{k}: 1\n" for k in range(n)),
    "one key": lambda n: "k: 1\n" * n,
    "long key": lambda n: "? " + "k" * n * 5 + "\n: 1",
    "digits": lambda n: "a: " + "9" * n * 5,
    "backslashes": lambda n: 'a: "' + "\\\\" * n * 2 + '\\ud83d\\ude00"',
    "half surrogates": lambda n: "a: '" + "\\ud83d" * n + "'",
}


@pytest.mark.parametrize("name", LARGE)
def test_no_text_takes_more_than_its_length(name: str) -> None:
    def parse(size: int) -> None:
        with contextlib.suppress(YamlError):
            list(parse_documents(LARGE[name](size).encode()))

    assert_linear(parse, 2_000)


@given(st.text(st.sampled_from("ab:,-[]{}&*!|>#\"'%?<\n \x00\x07é\ufeff")))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(YamlError):
        list(parse_documents(text.encode()))
