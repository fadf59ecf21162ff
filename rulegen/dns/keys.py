"""The key for TSIG (RFC 8945): a file comes in, dnspython's key goes out. Its secret is never in a message."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from rulegen.errors import InputError, printable, shown

if TYPE_CHECKING:
    from dns.tsig import Key

_LARGEST = 1 << 16
# What tsig-keygen writes, and BIND includes.
_BLOCK = re.compile(
    r"""\s*key\s+"?(?P<name>[^\s"{};]+)"?\s*\{\s*
    algorithm\s+"?(?P<algorithm>[^\s"{};]+)"?\s*;\s*
    secret\s+"?(?P<secret>[^\s"{};]+)"?\s*;\s*\}\s*;?\s*""",
    re.VERBOSE,
)
# What dig and knsupdate take after -y, and keymgr writes as a comment.
_LINE = re.compile(r"(?:#\s*)?(?P<algorithm>[A-Za-z0-9-]+):(?P<name>[^\s:]+):(?P<secret>[A-Za-z0-9+/=]+)\s*")
_COMMENT = re.compile(r"^\s*(//|#(?!\s*\S+:\S+:)).*$", re.MULTILINE)
_ALGORITHMS = ("hmac-sha1", "hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512")


def read_key(path: str) -> Key:
    """The only key in a file. Raises InputError."""
    import binascii

    from dns.exception import DNSException
    from dns.tsig import Key

    place = f"records.keyFile: {printable(path)}"
    text = _COMMENT.sub("", _read(path, place)).strip()
    found = _BLOCK.fullmatch(text) or _LINE.match(text)
    if found is None:
        raise InputError(
            f'{place}: expected one key as tsig-keygen writes it: key "NAME" {{ algorithm ...; secret "..."; }};, '
            "or ALGORITHM:NAME:SECRET"
        )
    algorithm = found["algorithm"].lower().rstrip(".")
    if algorithm not in _ALGORITHMS:
        raise InputError(f"{place}: algorithm: expected {' or '.join(_ALGORITHMS)}, got {shown(algorithm)}")
    try:
        return Key(found["name"], found["secret"], algorithm)
    except (binascii.Error, ValueError):
        # Neither the secret nor what is said about it may be seen.
        raise InputError(f"{place}: secret: expected base64") from None
    except DNSException as error:
        raise InputError(f"{place}: name: expected a DNS name, got {shown(found['name'])}") from error


def readable_by_all(path: str) -> bool:
    """Whether everybody on this host can read the file, and with it change the zones."""
    try:
        return bool(Path(path).stat().st_mode & stat.S_IROTH)
    except (OSError, ValueError):
        return False


def _read(path: str, place: str) -> str:
    try:
        file = Path(path)
        if not file.is_file():
            raise InputError(f"{place}: expected a file{'' if file.exists() else ', there is none'}")
        with file.open("rb") as opened:
            return opened.read(_LARGEST).decode("ascii", "replace")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no name of a file"
        raise InputError(f"{place}: {reason}") from error
