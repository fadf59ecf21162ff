"""The errors a person can cause or meet; every one is a single line they can act on.

`cli` turns them into a line on standard error and an exit status; a programming error is none of these and keeps its
traceback. Chain the cause (`raise ... from`), never repeat it in the text when it adds nothing.
"""

from __future__ import annotations


class RulegenError(Exception):
    """Base of all expected errors; `str()` is one line without the program's name."""


class InputError(RulegenError):
    """Manifests or configuration that cannot be used: says where, what was expected, what was found."""


class HostError(RulegenError):
    """The host lacks something: a privilege, a kernel feature, a program or a version of it."""


class TargetError(RulegenError):
    """A Service needs what the target cannot express; names the Service."""


class ApplyError(RulegenError):
    """The kernel refused a transaction; nothing of it is in force. Carries the kernel's words and the command."""
