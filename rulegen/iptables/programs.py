"""The programs of iptables on this host: which variant is in use, where it is, and running it.

The variants are two kernels' worth of rules: `nft` writes nf_tables, `legacy` the older ip_tables. Both may hold rules
at once; a host should use one. Never changes rules.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import suppress
from enum import Enum
from functools import lru_cache
from pathlib import Path

from rulegen.config import Family
from rulegen.errors import ApplyError, HostError
from rulegen.iptables.names import PREFIX

TIMEOUT = 600.0
# As iptables(8) itself: the variable moves its lock.
LOCK = Path(os.environ.get("XTABLES_LOCKFILE") or "/run/xtables.lock")

NAME = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}
# Chains by which the kubelet tells others which variant it uses.
_HINT = re.compile(r"^:KUBE-(?:IPTABLES-HINT|KUBELET-CANARY) ", re.MULTILINE)
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


class LockedError(RestoreError):
    """Another program held the lock all the time."""


def installed(variant: Variant) -> bool:
    """Whether the programs of a variant are there."""
    return _find(variant, Family.IPV4, "save") is not None


def detect() -> Variant:
    """The variant in use, as the ecosystem tells: the kubelet's hint, else the one with more rules, else nft.

    Raises HostError without any.
    """
    saved = {variant: _save_all(variant) for variant in Variant if installed(variant)}
    if not saved:
        raise HostError("iptables is not installed: neither iptables-nft-save nor iptables-legacy-save is there")
    for variant, text in saved.items():
        if _HINT.search(text):
            return variant
    counts = {variant: len(re.findall("^-A ", text, re.MULTILINE)) for variant, text in saved.items()}
    return max(counts, key=lambda variant: (counts[variant], variant is Variant.NFT))


def save(variant: Variant, family: Family) -> str:
    """What iptables-save prints. Raises HostError."""
    if variant is Variant.LEGACY and not _legacy_tables(family):
        # Asked for, the tables would be made.
        return ""
    program = find(variant, family, "save")
    try:
        done = subprocess.run([program], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise HostError(f"{program} did not end within {TIMEOUT:.0f} s") from error
    if done.returncode:
        raise HostError(f"{program}: {_words(done.stderr)}")
    return done.stdout


def restore(variant: Variant, family: Family, text: str, *, wait: int, test: bool = False) -> None:
    """Adds to the tables what `text` says. Raises RestoreError, HostError."""
    program = find(variant, family, "restore")
    arguments = [program, "--noflush", "--wait", str(wait), *(["--test"] if test else [])]
    try:
        done = subprocess.run(arguments, input=text, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise RestoreError(f"{program} did not end within {TIMEOUT:.0f} s", 0) from error
    if done.returncode:
        raise _refusal(program, done.stderr, text)


def find(variant: Variant, family: Family, what: str) -> str:
    """The program `iptables-nft-save` or what it is called here. Raises HostError."""
    program = _find(variant, family, what)
    if program is None:
        raise HostError(f"{NAME[family]}-{variant.value}-{what} is not installed: install the package iptables")
    return program


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


@lru_cache(maxsize=16)
def _find(variant: Variant, family: Family, what: str) -> str | None:
    """By its full name; else the plain name, if it is of this variant."""
    full = f"{NAME[family]}-{variant.value}-{what}"
    if shutil.which(full):
        return full
    plain = f"{NAME[family]}-{what}"
    if shutil.which(plain) is None or shutil.which(NAME[family]) is None:
        return None
    version = subprocess.run([NAME[family], "--version"], capture_output=True, text=True, check=False).stdout
    word = _VARIANT_WORD.search(version)
    is_nft = word is not None and word[1] == "nf_tables"
    return plain if is_nft is (variant is Variant.NFT) else None


def _save_all(variant: Variant) -> str:
    """All rules but rulegen's own, which say where rulegen was, not what the host uses."""
    found = []
    for family in Family:
        with suppress(HostError):
            found += [line for line in save(variant, family).splitlines() if PREFIX not in line]
    return "\n".join(found)


def _legacy_tables(family: Family) -> bool:
    names = Path("/proc/net/ip_tables_names" if family is Family.IPV4 else "/proc/net/ip6_tables_names")
    try:
        # The process's own namespace is not the thread's.
        return bool(Path("/proc/thread-self/net", names.name).read_text().strip())
    except FileNotFoundError:
        return False
    except PermissionError as error:
        raise HostError("reading and changing iptables needs root, or the capability CAP_NET_ADMIN") from error


def _refusal(program: str, output: str, text: str) -> RestoreError:
    """What the program said, with the line that it names."""
    if "xtables lock" in output:
        holder = lock_holder()
        return LockedError(f"{program}: the lock {LOCK} is held by {holder or 'another program'}", 0)
    found = re.search(r"line:? (\d+)", output)
    number = int(found[1]) if found else 0
    lines = text.splitlines()
    line = f": line {number}: {lines[number - 1][:300]}" if 0 < number <= len(lines) else ""
    return RestoreError(f"{program}: {_words(output)}{line}", number)


def _words(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    lines = [_VERSION.sub("", line) for line in lines if not line.startswith(("Try `", "# Warning"))]
    return " ".join(lines[:_ERROR_LINES])[:300] or "failed without a message"
