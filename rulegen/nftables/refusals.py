"""Who has to do something about what nf_tables refuses: an errno, or nft's words for it, become one of three errors."""

from __future__ import annotations

import re

from rulegen.errors import ApplyError, HostError, RulegenError, StaleError

# ENOENT, EEXIST, EBUSY, ERESTART: another program's commit came between. ENOBUFS: the answer was lost, so nobody knows.
_STALE = {2, 17, 16, 85, 105}
_STALE_WORDS = re.compile(r"No such file or directory|File exists|Device or resource busy|Interrupted system call")
# EPERM, EACCES, ENOMEM: whatever it is that the kernel was asked for. A table may be another program's own.
_OF_THE_HOST = {1, 13, 12}
_HOST_WORDS = re.compile(r"Operation not permitted|Permission denied|Cannot allocate memory")


def kind_of_number(number: int) -> type[RulegenError]:
    """`number`: an errno of the kernel's."""
    return _kind(number in _STALE, number in _OF_THE_HOST)


def kind_of_words(words: str) -> type[RulegenError]:
    """`words`: what nft prints for an errno."""
    return _kind(bool(_STALE_WORDS.search(words)), bool(_HOST_WORDS.search(words)))


def _kind(is_stale: bool, is_of_the_host: bool) -> type[RulegenError]:
    """We, by planning anew; the host's owner; or the owner of a Service."""
    if is_stale:
        return StaleError
    return HostError if is_of_the_host else ApplyError
