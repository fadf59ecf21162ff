"""The errors a person can cause or meet; every one is a single line they can act on.

`cli` turns them into a line on standard error and an exit status; a programming error is none of these and keeps its
traceback. Chain the cause (`raise ... from`), never repeat it in the text when it adds nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

_SHOWN_LENGTH = 60
_LINE_LENGTH = 2000
_MOST_LINES = 1000

# What a decoder of JSON raises, whatever is wrong with the text: it is malformed, of other types, no UTF-8 (for which
# msgspec has no error of its own), or nested too deeply.
UNDECODABLE = (ValueError, RecursionError)

NEEDED_FOR_IPTABLES = "reading and changing iptables needs root, or CAP_NET_ADMIN and CAP_NET_RAW"
NEEDED_FOR_NFTABLES = "reading and changing nftables needs root, or the capability CAP_NET_ADMIN"


class RulegenError(Exception):
    """Base of all expected errors; `str()` is one line without the program's name."""


class InputError(RulegenError):
    """Manifests or configuration that cannot be used: says where, what was expected, what was found."""


class HostError(RulegenError):
    """The host lacks something: a privilege, a kernel feature, a program or a version of it."""


class AbsentError(HostError):
    """The host does not have what rules could be in, so that there are none."""


class UnseenError(RulegenError):
    """Rules that cannot be listed, so that nobody knows whether there is something to remove.

    `removed`: what was removed elsewhere, in words.
    """

    def __init__(self, message: str, removed: Sequence[str] = ()) -> None:
        """`message`: what cannot be seen, and why."""
        super().__init__(message)
        self.removed = tuple(removed)


class TargetError(RulegenError):
    """A Service needs what the target cannot express; names the Service."""


class ApplyError(RulegenError):
    """The kernel refused a transaction; nothing of it is in force. Carries the kernel's words and the command."""


class StaleError(ApplyError):
    """The kernel no longer holds what a transaction was planned on: read it again and plan anew."""


class ConntrackError(RulegenError):
    """Stale connections could not be found or removed; what is left is kept in mind and tried again."""


def shown(value: object) -> str:
    """What was found in the input, for a message: JSON on one line, printable ASCII only, shortened.

    Names and values come from people and may hold newlines, terminal controls or rule syntax.
    """
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number out of range"
    if isinstance(value, str):
        cut = value[:_SHOWN_LENGTH]
        return _ascii(cut) + ("..." if len(cut) < len(value) else "")
    if value is None or isinstance(value, (bool, int, float)):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "an object"
    return "an array" if isinstance(value, Sequence) else f"a value of type {type(value).__name__}"


def printable(text: str) -> str:
    """`text` itself where it is short and harmless in a message, else as `shown` writes it."""
    harmless = text.isascii() and text.isprintable() and 0 < len(text) <= 4 * _SHOWN_LENGTH and text == text.strip()
    return text if harmless else shown(text)


def one_line(text: str, length: int | None = _LINE_LENGTH) -> str:
    """`text` as one line that is safe for a log or a terminal, whoever wrote it; the last barrier on the way out.

    What is not printable (controls, line ends, marks that change the direction of writing, surrogates) is written as in
    a Python string, and what is longer than `length` characters is cut (None: never). What people may write goes
    through `shown` or `printable` where the message is made; this is for what comes from libraries and other programs.
    """
    cut = text if length is None else text[:length]
    safe = cut if cut.isprintable() else "".join(char if char.isprintable() else ascii(char)[1:-1] for char in cut)
    return safe if len(cut) == len(text) else f"{safe}... ({len(text) - len(cut)} more characters)"


def legible(text: str) -> str:
    r"""The same text as any encoder takes it: bytes that were no UTF-8, kept as surrogates, are written as `\xff`."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_text(text: str) -> bool:
    """Whether it can be written: bytes of a path that were no UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def lines(text: str, most: int = _MOST_LINES) -> list[str]:
    """`text`, which may have several lines, as lines that are safe; of more than `most` only the number is told."""
    found = text.split("\n", most)
    rest = found.pop().count("\n") + 1 if len(found) > most else 0
    safe = [one_line(line) for line in found]
    return [*safe, f"{rest} more lines"] if rest else safe


def _ascii(text: str) -> str:
    # JSON leaves DEL, a control character, as it is.
    return json.dumps(text).replace("\x7f", "\\u007f")
