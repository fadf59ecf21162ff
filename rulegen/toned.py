"""Lines for people, each with how it may be shown. Knows no terminal."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Tone(Enum):
    """How a line may be shown."""

    PLAIN = "plain"
    TITLE = "title"
    HEADING = "heading"
    GOOD = "good"
    BAD = "bad"


class TextLine(NamedTuple):
    """A line without its end."""

    text: str
    tone: Tone = Tone.PLAIN
