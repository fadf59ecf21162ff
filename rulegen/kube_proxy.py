"""What kube-proxy leaves behind, removed (rule 99); and whether it runs.

Of iptables, in: the rules as `iptables-save` lists them, in each variant and family. Out: one `iptables-restore` for
each table that holds chains of kube-proxy. KUBE-FIREWALL and the kubelet's own chains stay; so do all other rules, in
their order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from rulegen.config import Family
from rulegen.iptables import programs
from rulegen.iptables.programs import Variant

_NFTABLES_TABLE = "kube-proxy"

_CHAIN = re.compile(
    r"KUBE-(?:SERVICES|EXTERNAL-SERVICES|NODEPORTS|POSTROUTING|MARK-MASQ|FORWARD|PROXY-FIREWALL|PROXY-CANARY"
    r"|(?:SVC|SVL|SEP|FW|EXT|XLB)-[A-Z0-9]+)"
)
_JUMP = re.compile(r"-A (?P<chain>\S+) (?:.* )?-[jg] (?P<target>\S+)(?: .*)?")
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
    """Removes kube-proxy's chains and the jumps to them; says from which tables. Raises ApplyError, HostError."""
    removed = []
    for variant in filter(programs.installed, Variant):
        for family in Family:
            saved = programs.save(variant, family)
            for table, lines in _tables(saved):
                commands = removal(lines)
                if commands:
                    text = "\n".join([f"*{table}", *commands, "COMMIT", ""])
                    programs.restore(variant, family, text, wait=_LOCK_SECONDS)
                    removed.append(f"{programs.NAME[family]}-{variant.value} {table}")
    return removed


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
    ours = [chain for chain in chains if _CHAIN.fullmatch(chain)]
    jumps = [line for line in lines if (jump := _JUMP.fullmatch(line)) and _is_foreign_jump(jump, ours)]
    return [
        *(f":{chain} - [0:0]" for chain in ours),
        *(f"-D{line.removeprefix('-A')}" for line in jumps),
        *(f"-X {chain}" for chain in ours),
    ]


def _is_foreign_jump(jump: re.Match[str], ours: list[str]) -> bool:
    return jump["target"] in ours and jump["chain"] not in ours


def _tables(saved: str) -> Iterator[tuple[str, list[str]]]:
    table = ""
    lines: list[str] = []
    for line in saved.splitlines():
        if line.startswith("*"):
            table, lines = line[1:], []
        elif line == "COMMIT":
            yield table, lines
        else:
            lines.append(line)
