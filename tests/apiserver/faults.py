"""What the API server for tests can be told to do wrong. Of one request, or of the watches that run."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias


class Answer(NamedTuple):
    """Another HTTP status than 200, with a Status object, and `Retry-After` where that is not None.

    `about`: the kind that it is about, as in paths.
    """

    status: int
    reason: str = ""
    retry_after: str | None = None
    causes: tuple[str, ...] = ()
    about: str = ""


class Late(NamedTuple):
    """The right answer, but not before `seconds` have passed."""

    seconds: float


class Hang(NamedTuple):
    """No answer at all; the connection stays open."""


class Body(NamedTuple):
    """The HTTP status 200 and something that is no list."""

    text: bytes


class HalfBody(NamedTuple):
    """A list that stops in the middle, by the connection being closed."""


class Raw(NamedTuple):
    """These bytes in place of an answer; then the connection is closed, or stays open if it `hangs`."""

    text: bytes
    hangs: bool = False


class Drip(NamedTuple):
    """`start`, then `part` again and again, each after `seconds`, for as long as the client listens."""

    start: bytes
    part: bytes
    seconds: float


# The rest happens in a watch.


class Silence(NamedTuple):
    """The stream is open and stays silent."""


class ErrorEvent(NamedTuple):
    """An event of type ERROR with a Status object; then the stream ends, as the real server does it."""

    status: int
    reason: str = ""
    causes: tuple[str, ...] = ()


class Line(NamedTuple):
    """A line of this text, without its newline, at once; the stream goes on."""

    text: bytes


class Cut(NamedTuple):
    """The connection is closed in the middle of the next event's line."""


class End(NamedTuple):
    """The stream ends as if its time were up."""


RequestFault: TypeAlias = Answer | Late | Hang | Body | HalfBody | Raw | Drip
StreamFault: TypeAlias = Silence | ErrorEvent | Line | Cut | End
Fault: TypeAlias = RequestFault | StreamFault
