"""Text for nft comes in, what the kernel makes of it comes out: loaded in a network namespace of its own, then listed.

Run as a program, it is the other side: `unshare -rn python -m rulegen.verify.sandbox`, text on standard input.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable

import msgspec

from rulegen.errors import HostError, InputError, RulegenError, one_line
from rulegen.netfilter.kernel import Listing, list_tables

_SECONDS = 300


def load_and_list(text: str, tables: Iterable[str]) -> list[Listing]:
    """The tables of these names that the text makes, of both families.

    Raises InputError when nft does not take it, HostError where no namespace can be made.
    """
    command = [*_unshare(), sys.executable, "-m", "rulegen.verify.sandbox", *sorted(tables)]
    try:
        sent = text.encode(errors="surrogateescape")
        done = subprocess.run(command, input=sent, capture_output=True, timeout=_SECONDS, check=False)
    except OSError as error:
        raise HostError(f"cannot run unshare, which the rules are loaded with apart: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise HostError(f"nft did not load the rules in {_SECONDS} seconds") from error
    if done.returncode:
        message = one_line(done.stderr.decode(errors="replace").strip())
        if done.returncode == _REFUSED:
            raise InputError(f"the rules cannot be loaded: {message}")
        raise HostError(f"cannot load the rules in a network namespace of their own: {message}")
    return msgspec.msgpack.decode(done.stdout, type=list[Listing])


_REFUSED = 3


def _unshare() -> list[str]:
    """Root needs no user namespace, in which the kernel limits how much is loaded at once."""
    return ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]


def _main() -> None:
    loaded = subprocess.run(["nft", "-f", "-"], stdin=sys.stdin, stderr=subprocess.PIPE, check=False)
    if loaded.returncode:
        sys.stderr.buffer.write(loaded.stderr)
        sys.exit(_REFUSED)
    try:
        listed = list_tables(set(sys.argv[1:]))
    except RulegenError as error:
        sys.exit(str(error))
    sys.stdout.buffer.write(msgspec.msgpack.encode(listed))


if __name__ == "__main__":
    _main()
