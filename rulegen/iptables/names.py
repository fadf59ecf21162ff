"""What names and comments in iptables look like, and how rulegen's own are told from others'. Pure; deterministic.

All of rulegen's chains begin with `RULEGEN-`, those of most features with a longer prefix of their own.
"""

from __future__ import annotations

import re
from base64 import b32encode
from collections.abc import Iterable
from hashlib import sha256

PREFIX = "RULEGEN-"
MAX_LENGTH = 28
MAX_COMMENT = 128

_DIGEST_LENGTH = 16
_UNSAFE = re.compile(r"[^A-Za-z0-9._:/~ -]")
# `RULEGEN-ESTABLISHED`, or with a feature's letters in between.
_ESTABLISHED = re.compile(rf"({PREFIX}(?:[A-Z]{{1,4}}-)?)ESTABLISHED")


def digest(*parts: str) -> str:
    """Names a sequence of texts by 16 characters (80 bits)."""
    joined = "\0".join(parts).encode("utf-8", "surrogatepass")
    return b32encode(sha256(joined).digest())[:_DIGEST_LENGTH].decode()


def established(prefix: str) -> str:
    """The comment of a feature's rule in a built-in chain that leads to none of its chains."""
    return f"{prefix}ESTABLISHED"


def escaped(text: str) -> str:
    r"""`text`, another program's, as it may be printed: what is not printable ASCII becomes its bytes, as `\xff`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char.isascii() and char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    # A surrogate stands for a byte that is not UTF-8.
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def is_ours(chain: str) -> bool:
    """Whether a chain is rulegen's."""
    return chain.startswith(PREFIX)


def is_our_comment(comment: str) -> bool:
    """Whether a rule in a built-in chain that leads to none of rulegen's chains is rulegen's all the same."""
    return _ESTABLISHED.fullmatch(comment) is not None


def prefix_of(name: str, prefixes: Iterable[str]) -> str:
    """The longest of the prefixes that a chain's name, or a rule's comment, begins with; `RULEGEN-` for none."""
    return max((prefix for prefix in prefixes if name.startswith(prefix)), key=len, default=PREFIX)


def safe_comment(text: str) -> str:
    """`text` without characters that iptables-save would write otherwise, and short enough; told apart by a digest."""
    safe = _UNSAFE.sub("?", text)
    if len(safe) <= MAX_COMMENT and safe == text:
        return safe
    return f"{safe[: MAX_COMMENT - _DIGEST_LENGTH - 1]}~{digest(text)}"
