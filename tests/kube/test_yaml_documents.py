from __future__ import annotations

import contextlib
import json
import re

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from rulegen.kube.yaml_documents import YamlError, parse_documents

# What YAML allows as text and JSON can say.
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Co"], exclude_characters="\ufeff"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


def parse(text: str) -> object:
    (value,) = parse_documents(text.encode())
    return value


@given(st.lists(VALUES.filter(lambda value: value is not None), max_size=3))
def test_what_pyyaml_writes_is_read_back(values: list[object]) -> None:
    text = yaml.safe_dump_all(values, allow_unicode=True)
    assert [value for value in parse_documents(text.encode()) if value is not None] == values


@given(VALUES)
def test_json_is_yaml(value: object) -> None:
    """All but two things: for PyYAML an exponent without a sign, or after a number without a point, is text; and
    libyaml knows no surrogate pairs.
    """
    text = json.dumps(value, ensure_ascii=False)
    assume(not re.search(r"\de\d|(?<!\.)\b\d+e", text))
    assert parse(text) == value


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
        ("10.96.0.1", "10.96.0.1"),
        ("1.5", 1.5),
    ],
)
def test_scalars(text: str, value: object) -> None:
    assert parse(f"key: {text}") == {"key": value}


def test_documents_and_empty_ones() -> None:
    assert list(parse_documents(b"")) == []
    assert list(parse_documents(b"# nothing\n")) == []
    assert list(parse_documents(b"---\na: 1\n---\n---\nb: 2\n...\n")) == [{"a": 1}, None, {"b": 2}]


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
        ("a: !!python/object:os.system {}", 1, 4, "tag"),
        ("a: !thing b", 1, 4, 'the tag "!thing" is not supported'),
        ("a: !!int b", 1, 4, '"b" is no int'),
        ("a: !!bool b", 1, 4, '"b" is no bool'),
        ("a: " + "9" * 5000, 1, 4, "is no int"),
        ("? [a]\n: b", 1, 3, "a key must be a single value"),
        ("<<: 5", 1, 5, "<< merges mappings only"),
        ("a: b\nc: \x07", 2, 4, "control characters are not allowed"),
        ("a: b: c", 1, 5, "mapping values are not allowed in this context"),
        ("\ta: b", 1, 1, "found character that cannot start any token"),
        ("- " * 5000, 1, 203, "nested too deeply"),
        ("[" * 500, 1, 102, "nested too deeply"),
        ("{a: " * 5000, 1, 402, "nested too deeply"),
    ],
)
def test_errors_say_where(text: str, line: int, column: int, reason: str) -> None:
    with pytest.raises(YamlError) as raised:
        list(parse_documents(text.encode()))
    assert reason in str(raised.value)
    if yaml.__with_libyaml__:
        assert (raised.value.line, raised.value.column) == (line, column)


def test_no_depth_is_too_much() -> None:
    with pytest.raises(YamlError, match="nest"):  # libyaml's own words, from 0.2.6 on
        parse("[" * 50_000)


@pytest.mark.parametrize("brackets", ["[{}]", "{{<<: [{}]}}"])
def test_aliases_that_multiply_are_bounded(brackets: str) -> None:
    lines = ["a0: &a0 " + ("[x, x]" if brackets[0] == "[" else "{k: v}")]
    lines += [f"a{n}: &a{n} " + brackets.format(",".join([f"*a{n - 1}"] * 10)) for n in range(1, 30)]
    with pytest.raises(YamlError, match="aliases stand for more than 100000 values"):
        parse("\n".join(lines))


@given(st.text(st.sampled_from("ab:,-[]{}&*!|>#\"'%?<\n \x00\x07é\ufeff")))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(YamlError):
        list(parse_documents(text.encode()))
