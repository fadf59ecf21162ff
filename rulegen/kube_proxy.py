"""What kube-proxy leaves behind, removed (rule 99); and whether it runs.

Of iptables, in: the rules as `iptables-save` lists them, in each variant and family. Out: one `iptables-restore` for
each table that holds chains of kube-proxy. KUBE-FIREWALL and the kubelet's own chains stay; so do all other rules, in
their order.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from rulegen.config import Family
from rulegen.iptables import programs
from rulegen.iptables.kernel import remove_everywhere, remove_hidden
from rulegen.iptables.listing import list_tables
from rulegen.iptables.programs import Variant
from rulegen.iptables.rules import parse_rule

_NFTABLES_TABLE = "kube-proxy"

_CHAIN = re.compile(
    r"KUBE-(?:SERVICES|EXTERNAL-SERVICES|NODEPORTS|POSTROUTING|MARK-MASQ|FORWARD|PROXY-FIREWALL|PROXY-CANARY"
    r"|(?:SVC|SVL|SEP|FW|EXT|XLB)-[A-Z0-9]+)"
)
_LOCK_SECONDS = 60

_STATUS_PORT = 10249
_STATUS_HOSTS = (("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"))
_STATUS_SECONDS = 1.0
_MODES = ("iptables", "ipvs", "nftables")
_LONGEST_MODE = 16
_OWN_NAME = "rulegen"


def remove_nftables_tables() -> list[str]:
    """Removes kube-proxy's tables; says which there were. Raises ApplyError, HostError."""
    from rulegen.nftables.kernel import Kernel

    with Kernel() as kernel:
        return kernel.delete_tables([_NFTABLES_TABLE])


def remove_iptables_rules() -> list[str]:
    """Removes kube-proxy's chains and the jumps to them; says from which tables.

    Raises HostError without privileges, else UnseenError, after all the rest was done, when tables cannot be looked at,
    or not all could be removed.
    """
    return remove_everywhere(Variant, _is_chain, _remove_chains)


def _remove_chains(variant: Variant, family: Family) -> Iterator[str]:
    for table in list_tables(variant, family, lambda _: False):
        remove_hidden(family, [table], lambda rule: _is_chain(rule.target) and not _is_chain(rule.chain))
        if commands := removal(table.lines):
            text = "\n".join([f"*{table.name}", *commands, "COMMIT", ""])
            programs.restore(variant, family, text, wait=_LOCK_SECONDS)
            yield f"{programs.NAME[family]}-{variant.value} {table.name}"


def find_running() -> str | None:
    """Where a kube-proxy is that runs on this node, as words; None where none can be seen.

    In a container only the second is possible: processes of others do not show, but the network is the host's.
    """
    return _find_process() or _find_status_page()


def _find_process() -> str | None:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # `4711 (kube-proxy) S ...`
            name, _, rest = path.read_text().partition(" (")[2].rpartition(") ")
        except OSError:  # ended meanwhile
            continue
        if name == "kube-proxy" and not rest.startswith("Z"):
            return f"process {path.parent.name}"
    return None


def _find_status_page() -> str | None:
    """Rule 88; an agent of rulegen answers there too, and says who it is."""
    for host, shown in _STATUS_HOSTS:
        connection = HTTPConnection(host, _STATUS_PORT, timeout=_STATUS_SECONDS)
        try:
            connection.request("GET", "/proxyMode")
            answer = connection.getresponse()
            mode = answer.read(_LONGEST_MODE + 1).decode("ascii", "replace").strip()
        except (OSError, HTTPException):
            continue
        finally:
            connection.close()
        if answer.status == HTTPStatus.OK and mode in _MODES and answer.getheader("Server") != _OWN_NAME:
            return f"it answers at http://{shown}:{_STATUS_PORT}/proxyMode"
    return None


def removal(lines: list[str]) -> list[str]:
    """What `iptables-restore --noflush` must be told to free one table, given as saved, of kube-proxy's chains."""
    chains = [line[1:].split(" ")[0] for line in lines if line.startswith(":")]
    ours = [chain for chain in chains if _is_chain(chain)]
    jumps = [line for line in lines if line.startswith("-A ") and _is_foreign_jump(line, set(ours))]
    return [
        *(f":{chain} - [0:0]" for chain in ours),
        *(f"-D{line.removeprefix('-A')}" for line in jumps),
        *(f"-X {chain}" for chain in ours),
    ]


def _is_chain(name: str) -> bool:
    return _CHAIN.fullmatch(name) is not None


def _is_foreign_jump(line: str, ours: Collection[str]) -> bool:
    """Whether a rule of somebody else's chain leads to one of these; the text of a comment may look like it."""
    chain, _, rule = line[3:].partition(" ")
    return chain not in ours and "KUBE-" in rule and parse_rule(rule).target in ours
