"""dnspython, which only those need who keep records."""

from __future__ import annotations

from importlib.util import find_spec

from rulegen.errors import HostError


def need_dnspython() -> None:
    """Raises HostError where it lacks."""
    if find_spec("dns") is None or find_spec("dns.update") is None:
        raise HostError("the feature records needs the Python package dnspython: pip install 'rulegen[dns]'")
