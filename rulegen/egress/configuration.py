"""The configuration file of ip-masq-agent comes in; settings go out, with warnings, or every fault of the file.

The file is read as that agent reads it: YAML or JSON; one that is not there, or empty, means its defaults, and one with
a fault is not used at all. Reads the file and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from msgspec.structs import replace

from rulegen.config import Cidr, EgressSettings
from rulegen.configuration_fields import INT32_MAX, Fields, Unexpected, duration
from rulegen.configuration_file import plain_document, readable
from rulegen.errors import InputError, printable, shown
from rulegen.kube.addresses import canonical_address
from rulegen.kube.documents import read_file
from rulegen.kube.faults import Fault
from rulegen.networks import parse_network

# Where ip-masq-agent looks for it.
DEFAULT_FILE = "/etc/config/ip-masq-agent"

_CIDRS = "nonMasqueradeCIDRs"
_MOST_CIDRS = 64


def file_of(settings: EgressSettings) -> str:
    """The path of the file."""
    return settings.config_file or DEFAULT_FILE


def with_file(settings: EgressSettings) -> tuple[EgressSettings, list[str]]:
    """The settings with what the file says, and a line for each thing in it that has no effect.

    Where nobody has named a file there need not be any. Raises InputError with a line for each fault.
    """
    path = file_of(settings)
    source = printable(path)
    if not settings.config_file:
        try:
            os.lstat(path)
        except FileNotFoundError:
            return settings, []
        except OSError as error:
            raise InputError(f"{source}: {error.strerror}") from error
    documents = readable(read_file(path))
    if len(documents) > 1:
        raise InputError(f"{source}: expected one document, got {len(documents)}")
    value = plain_document(documents[0], source) if documents else None
    if value is not None and not isinstance(value, Mapping):
        raise InputError(f"{source}: expected an object, got {shown(value)}")
    return with_fields(settings, value or {}, source)


def with_file_or_reason(settings: EgressSettings) -> tuple[EgressSettings, list[str]]:
    """As `with_file`; of a file that cannot be used the settings say why."""
    try:
        return with_file(settings)
    except InputError as error:
        first, *more = str(error).splitlines()
        return replace(settings, unusable=f"{first} (and {len(more)} more)" if more else first), []


def with_fields(settings: EgressSettings, document: Mapping[Any, Any], source: str) -> tuple[EgressSettings, list[str]]:
    """As `with_file`, from the plain values of the fields; `source` begins each line."""
    fields = Fields(document)
    limit = fields.integer("cidrLimit", 0, INT32_MAX, _MOST_CIDRS)
    count = len(document[_CIDRS]) if isinstance(document.get(_CIDRS), list) else 0
    if count > limit:
        raise InputError(f"{source}: {_CIDRS}: expected at most {limit} CIDRs (cidrLimit), got {count}")
    cidrs = tuple(fields.texts(_CIDRS, _cidr))
    # It says when to look at the file again, which is followed here.
    fields.text("resyncInterval", duration, 0.0)
    found = replace(
        settings,
        non_masquerade_cidrs=cidrs if _CIDRS in document else settings.non_masquerade_cidrs,
        masq_link_local=fields.flag("masqLinkLocal"),
        masq_link_local_ipv6=fields.flag("masqLinkLocalIPv6"),
    )
    if fields.faults:
        raise InputError("\n".join(f"{source}: {fault}" for fault in fields.faults))
    line = partial("{}: {}".format, source)
    return found, [line(Fault(path, "unknown field; has no effect")) for path, _ in fields.unread()]


def written_egress_settings(egress: EgressSettings) -> dict[str, Any]:
    """What differs from the defaults, as a scenario's flows.yaml has it: `ipMasqAgent`, `podRange`."""
    default = EgressSettings()
    count = len(egress.non_masquerade_cidrs)
    fields = {
        _CIDRS: (list(egress.non_masquerade_cidrs), list(default.non_masquerade_cidrs)),
        "cidrLimit": (max(count, _MOST_CIDRS), _MOST_CIDRS),
        "masqLinkLocal": (egress.masq_link_local, default.masq_link_local),
        "masqLinkLocalIPv6": (egress.masq_link_local_ipv6, default.masq_link_local_ipv6),
    }
    return {
        "ipMasqAgent": {name: value for name, (value, usual) in fields.items() if value != usual},
        "podRange": "" if egress.pod_range is default.pod_range else egress.pod_range.value,
    }


def _cidr(text: str) -> Cidr:
    """A canonical CIDR; one with host bits is none, as ip-masq-agent has it."""
    network = parse_network(text)
    if network is None or str(network.network_address) != canonical_address(text.strip().partition("/")[0]):
        whole = f" such as {network}" if network is not None else ""
        raise Unexpected(f"a CIDR without host bits{whole}")
    return str(network)
