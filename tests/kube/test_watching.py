"""The lines of a stream, whatever the network made of it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rulegen.kube.api import ApiError
from rulegen.kube.watching import lines


@given(st.text("ab\n", max_size=40), st.lists(st.integers(0, 40)))
def test_lines_do_not_depend_on_how_the_stream_is_cut(text: str, cuts: list[int]) -> None:
    stream = text.encode()
    bounds = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    chunks = [stream[start:end] for start, end in pairwise(bounds)]
    *complete, _ = stream.split(b"\n")
    assert list(lines(chunks)) == [line for line in complete if line]


def test_a_line_without_end_is_an_error() -> None:
    with pytest.raises(ApiError, match="without end"):
        list(lines(b"x" * (1 << 20) for _ in range(40)))
