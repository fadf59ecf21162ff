"""Both ends of what is to be followed, as a person calls them, come in; which packets these are goes out. Pure."""

from __future__ import annotations

from itertools import product

from rulegen.errors import InputError
from rulegen.networks import with_port
from rulegen.services import parties
from rulegen.services.names import Directory
from rulegen.trace.packet import NODE, Wanted, is_address, parse_wanted


def wanted_between(directory: Directory, source: str, destination: str) -> list[Wanted]:
    """Each family in which both ends have an address. Raises InputError."""
    found: list[Wanted] = []
    refused: InputError | None = None
    for start, end in product(_sources(directory, source), _targets(directory, destination)):
        try:
            found.append(parse_wanted(start, end))
        except InputError as error:  # of different families: another pair may do
            refused = error
    if not found and refused is not None:
        raise refused
    return found


def _sources(directory: Directory, text: str) -> list[str]:
    if not text or text == NODE or is_address(text):
        return [text]
    return list(parties.source(directory, text).addresses.values())


def _targets(directory: Directory, text: str) -> list[str]:
    if not text or is_address(text):
        return [text]
    target = parties.target(directory, text)
    if not target.addresses:
        raise InputError(f"--to: {text} has no address of its own: name the address that its clients send to")
    return [f"{with_port(address, target.port)}/{target.protocol.lower()}" for address in target.addresses.values()]
