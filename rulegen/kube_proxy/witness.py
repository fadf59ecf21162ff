"""What kube-proxy's rules were when rulegen came to this network namespace: noted in the kernel, for those after us.

In: what there is now. Out: an `Arrival`. It is the comment of an empty table, `rulegen-arrival`, which lasts as long as
the namespace and its rules do, through restarts, upgrades, new pods and another target; no file of a pod does. Whoever
comes first notes it, whoever comes later finds it. `rulegen cleanup` takes it away with all else.
"""

from __future__ import annotations

import re
import time
from contextlib import closing
from functools import partial
from typing import NamedTuple

from rulegen.config import Family
from rulegen.errors import ApplyError, HostError
from rulegen.interfaces import host_families
from rulegen.iptables import binaries
from rulegen.iptables.binaries import Variant
from rulegen.iptables.listing import list_tables
from rulegen.iptables.names import PREFIX
from rulegen.kube_proxy.rules import Found, find
from rulegen.nftables import messages
from rulegen.nftables.foreign import new_empty_table
from rulegen.nftables.messages import Connection, KernelError, open_connection
from rulegen.nftables.undisturbed import undisturbed
from rulegen.services.on_nftables.layout import TABLE as OWN_TABLE

TABLE = "rulegen-arrival"
_COMMENT = re.compile(r"found (?P<boot>\d+) s after boot: (?P<rules>unknown|none|\w+=[0-9a-f]+(?: \w+=[0-9a-f]+)*)")


class Arrival(NamedTuple):
    """When rulegen came, in seconds since the machine started, and what was there; None: nobody knows."""

    boot: int
    rules: Found | None


def arrive(connection: Connection) -> Arrival:
    """What was there when rulegen came: as one before us has noted it, or as it is now. Raises HostError, StaleError.

    To be called before our own rules come in. Where they are there already and nobody has noted anything, kube-proxy's
    may have come after them. Changes nothing.
    """
    if (noted := _noted(connection)) is not None:
        return noted
    are_here = any(undisturbed(partial(_has_rules, connection, family)) for family in host_families())
    rules = find(connection)
    return Arrival(int(seconds_since_boot()), None if are_here and rules else rules)


def note(connection: Connection, arrival: Arrival) -> None:
    """Leaves it to those after us, now that our rules are in force. Raises HostError, StaleError."""
    if _noted(connection) is not None:
        return
    family = host_families()[0]
    table = undisturbed(lambda: connection.table(family, TABLE))
    old = [] if table is None else [messages.delete_table(family, TABLE)]
    try:
        connection.commit([*old, new_empty_table(family, TABLE, _comment(arrival))])
    except KernelError as error:
        raise HostError(f"cannot note what was there when rulegen came: {error}") from error


def _noted(connection: Connection) -> Arrival | None:
    family = host_families()[0]
    table = undisturbed(lambda: connection.table(family, TABLE))
    return None if table is None else _parse(table.comment)


def forget() -> None:
    """Takes the note away, as rulegen leaves. Raises HostError, ApplyError."""
    family = host_families()[0]
    with closing(open_connection()) as connection:
        if undisturbed(lambda: connection.table(family, TABLE)) is not None:
            try:
                connection.commit([messages.delete_table(family, TABLE)])
            except KernelError as error:
                raise ApplyError(f"cannot remove the table {TABLE}: {error}") from error


def seconds_since_boot() -> float:
    """Also while the machine slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _has_rules(connection: Connection, family: Family) -> bool:
    if connection.table(family, OWN_TABLE) is not None:
        return True
    if any(chain.name.startswith(PREFIX) for chain in connection.chains(family, "nat")):
        return True
    if not binaries.installed(Variant.LEGACY):
        return False
    return any(line.startswith(f":{PREFIX}") for table in list_tables(Variant.LEGACY, family) for line in table.lines)


def _comment(arrival: Arrival) -> str:
    rules = arrival.rules
    words = "unknown" if rules is None else " ".join(f"{place}={digest}" for place, digest in rules.items()) or "none"
    return f"found {arrival.boot} s after boot: {words}"


def _parse(comment: str) -> Arrival | None:
    match = _COMMENT.fullmatch(comment)
    if match is None:
        return None
    words = match["rules"]
    if words == "unknown":
        return Arrival(int(match["boot"]), None)
    pairs = () if words == "none" else (pair.split("=") for pair in words.split(" "))
    return Arrival(int(match["boot"]), Found(dict(pairs)))
