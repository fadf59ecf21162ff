"""The programs of iptables on this host: where those of a variant are, running them, and what they say.

The variants are two kernels' worth of rules: `nft` writes nf_tables, `legacy` the older ip_tables. Both may hold rules
at once; a host should use one. Never changes rules.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from functools import lru_cache
from pathlib import Path

from rulegen import children
from rulegen.children import Ended
from rulegen.config import Family
from rulegen.errors import ApplyError, HostError, printable
from rulegen.iptables.names import escaped

# A program that takes longer is killed: 100 times what the largest clusters need. A large restore may take longer.
_SECONDS = 60.0
_SECONDS_PER_LINE = 0.001
# As iptables(8) itself: the variable moves its lock.
LOCK = Path(os.environ.get("XTABLES_LOCKFILE") or "/run/xtables.lock")

NAME = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}
_VARIANT_WORD = re.compile(r"\((nf_tables|legacy)\)")
# The program's name and version, with which most messages begin.
_VERSION = re.compile(r"^ip6?tables\S* v[\d.]+ \(\w+\): *")
_ERROR_LINES = 3


class Variant(Enum):
    """Which of the two; the value is part of the programs' names."""

    NFT = "nft"
    LEGACY = "legacy"


class RestoreError(ApplyError):
    """iptables-restore refused; `line` is the number of the line, 0 when it names none."""

    def __init__(self, message: str, line: int) -> None:
        """`message` is what the program said, as one line."""
        super().__init__(message)
        self.line = line


class _MissingError(HostError):
    """A program is not there."""

    def __init__(self, program: str) -> None:
        super().__init__(f"{program} is not installed: install the package iptables")


class MissingChainError(HostError):
    """A chain is not there, or not any more."""


class LockedError(RestoreError):
    """Another program held the lock all the time."""


def installed(variant: Variant, family: Family = Family.IPV4) -> bool:
    """Whether the programs of a variant are there. Raises HostError when that cannot be told."""
    try:
        _find(variant, family, "save")
    except _MissingError:
        return False
    return True


def save(variant: Variant, family: Family, *, counters: bool = False) -> str:
    """What iptables-save prints; bytes that are not UTF-8 are kept as surrogates. Raises HostError.

    `counters`: only the table filter, each rule behind what it has counted.
    """
    if variant is Variant.LEGACY and not legacy_tables(family):
        # Asked for, the tables would be made.
        return ""
    program = find(variant, family, "save")
    done = _run([program, *(["--counters", "--table", "filter"] if counters else [])])
    if done.returncode:
        raise HostError(f"{program} {_failure(done)}")
    return _decoded(done.stdout)


def list_chain(family: Family, table: str, chain: str) -> list[str] | None:
    """The rules of a chain of the nft variant as iptables-save writes them, without asking for others of its table.

    None: it holds what only nft knows. Raises HostError, MissingChainError.
    """
    program = find(Variant.NFT, family)
    done = _run([program, "-t", table, "-S", chain])
    if done.returncode and b"is incompatible" in done.stderr:
        return None
    if done.returncode and b"No chain" in done.stderr:
        raise MissingChainError(f"{program} -t {table}: there is no chain {printable(chain)}")
    if done.returncode:
        raise HostError(f"{program} -t {table} -S {printable(chain)} {_failure(done)}")
    return [line for line in _decoded(done.stdout).split("\n") if line.startswith("-A ")]


def restore(variant: Variant, family: Family, text: str, *, wait: int, test: bool = False) -> None:
    """Adds to the tables what `text` says. Raises RestoreError, HostError."""
    program = find(variant, family, "restore")
    arguments = [program, "--noflush", "--wait", str(wait), *(["--test"] if test else [])]
    done = _run(arguments, text.encode("utf-8", "surrogateescape"), wait + _SECONDS_PER_LINE * text.count("\n"))
    if done.returncode < 0:
        raise HostError(f"{program} {_failure(done)}")
    if done.returncode:
        raise _refusal(program, _decoded(done.stderr), text)


def find(variant: Variant, family: Family, what: str = "") -> str:
    """The program `iptables-nft-save`, or what it is called here; `what` "": `iptables-nft`. Raises HostError."""
    return _find(variant, family, what)


def legacy_tables(family: Family) -> frozenset[str]:
    """The tables of the legacy variant that there are in the calling thread's network namespace. Raises HostError."""
    names = Path("/proc/net/ip_tables_names" if family is Family.IPV4 else "/proc/net/ip6_tables_names")
    try:
        # The process's own namespace is not the thread's.
        return frozenset(Path("/proc/thread-self/net", names.name).read_text().split())
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise HostError("reading and changing iptables needs root, or the capability CAP_NET_ADMIN") from error


def lock_holder() -> str:
    """Who holds the lock that the legacy programs take, as `name (process 42)`; "" when nobody does."""
    with suppress(OSError, ValueError, IndexError):
        status = LOCK.stat()
        place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if place in fields and "->" not in fields:
                process = fields[fields.index(place) - 1]
                return f"{Path(f'/proc/{process}/comm').read_text().strip()} (process {process})"
    return ""


def _run(arguments: Sequence[str], text: bytes = b"", more_seconds: float = 0.0) -> Ended:
    """Raises HostError when a program cannot be started, or hangs."""
    seconds = _SECONDS + more_seconds
    try:
        return children.run(arguments, text, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise HostError(f"{arguments[0]} did not end within {seconds:.0f} s and was killed") from error
    except OSError as error:
        _find.cache_clear()
        raise HostError(f"{arguments[0]} cannot be run: {error.strerror}") from error


@lru_cache(maxsize=16)
def _find(variant: Variant, family: Family, what: str) -> str:
    """By its full name; else the plain name, if it is of this variant. What raises is tried again at the next call."""
    full = _full_name(variant, family, what)
    if shutil.which(full):
        return full
    plain = f"{NAME[family]}-{what}".removesuffix("-")
    if shutil.which(plain) is None or shutil.which(NAME[family]) is None:
        raise _MissingError(full)
    version = _decoded(_run([NAME[family], "--version"]).stdout)
    word = _VARIANT_WORD.search(version)
    is_nft = word is not None and word[1] == "nf_tables"
    if is_nft is not (variant is Variant.NFT):
        raise _MissingError(full)
    return plain


def _full_name(variant: Variant, family: Family, what: str) -> str:
    return f"{NAME[family]}-{variant.value}-{what}".removesuffix("-")


def _decoded(output: bytes) -> str:
    return output.decode("utf-8", "surrogateescape")


def _failure(done: Ended) -> str:
    """`ended with exit status 4: what it said`."""
    said = _words(_decoded(done.stderr))
    return f"{children.how(done)}: {said}" if said else children.how(done)


def _refusal(program: str, output: str, text: str) -> RestoreError:
    """What the program said, with the line that it names."""
    if "xtables lock" in output:
        holder = lock_holder()
        return LockedError(f"{program}: the lock {LOCK} is held by {holder or 'another program'}", 0)
    found = re.search(r"line:? (\d+)", output)
    number = int(found[1]) if found else 0
    lines = text.splitlines()
    line = f": line {number}: {escaped(lines[number - 1][:300])}" if 0 < number <= len(lines) else ""
    return RestoreError(f"{program}: {_words(output) or 'failed without a message'}{line}", number)


def _words(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    lines = [_VERSION.sub("", line) for line in lines if not line.startswith(("Try `", "# Warning"))]
    return escaped(" ".join(lines[:_ERROR_LINES])[:300])
