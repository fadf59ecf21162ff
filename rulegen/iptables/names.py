"""Names of chains and of lists of clients, and comments, from what they stand for. Pure; deterministic.

A chain's name has at most 28 characters. All of rulegen's begin with `RULEGEN-`; a Service's chains go on with a word
for their kind and a digest, those of a tree with a letter and the addresses or ports that they are for.
"""

from __future__ import annotations

import re
from base64 import b32encode
from hashlib import sha256

PREFIX = "RULEGEN-"
MAX_LENGTH = 28
MAX_COMMENT = 128
# The comment of rulegen's own rule in a built-in chain that leads to none of its chains.
ESTABLISHED = f"{PREFIX}ESTABLISHED"

_DIGEST_LENGTH = 16
_OF_SERVICE = re.compile(rf"{PREFIX}(?:SVC|SVL|EXT|SRC|LB)-")
_UNSAFE = re.compile(r"[^A-Za-z0-9._:/~ -]")


def digest(*parts: str) -> str:
    """Names a sequence of texts by 16 characters (80 bits)."""
    joined = "\0".join(parts).encode("utf-8", "surrogatepass")
    return b32encode(sha256(joined).digest())[:_DIGEST_LENGTH].decode()


def chain_name(kind: str, *parts: str) -> str:
    """`RULEGEN-SVC-` and a digest of what the chain is for; `kind` has at most three letters."""
    return f"{PREFIX}{kind}-{digest(*parts)}"


def tree_chain_name(letter: str, place: str) -> str:
    """`RULEGEN-V-10.96.0.0/20`; a digest of the place where that would be too long, as for most of IPv6."""
    # nft prints these names too, and reads no colon in one.
    readable = f"{PREFIX}{letter}-{place.replace(':', '_')}"
    return readable if len(readable) <= MAX_LENGTH else f"{PREFIX}{letter}-{digest(place)}"


def escaped(text: str) -> str:
    r"""`text`, another program's, as it may be printed: what is not printable ASCII becomes its bytes, as `\xff`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char.isascii() and char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    # A surrogate stands for a byte that is not UTF-8.
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def is_of_service(chain: str) -> bool:
    """Whether a chain of rulegen's is a Service's own, not the fixed part's nor a tree's."""
    return _OF_SERVICE.match(chain) is not None


def is_ours(chain: str) -> bool:
    """Whether a chain is rulegen's."""
    return chain.startswith(PREFIX)


def safe_comment(text: str) -> str:
    """`text` without characters that iptables-save would write otherwise, and short enough; told apart by a digest."""
    safe = _UNSAFE.sub("?", text)
    if len(safe) <= MAX_COMMENT and safe == text:
        return safe
    return f"{safe[: MAX_COMMENT - _DIGEST_LENGTH - 1]}~{digest(text)}"
