"""What kube-proxy leaves behind in iptables, removed (rule 99); its nftables tables are `Kernel.delete_tables`' work.

In: the rules as `iptables-save` lists them, in each variant and family. Out: one `iptables-restore` for each table that
holds chains of kube-proxy. KUBE-FIREWALL and the kubelet's own chains stay; so do all other rules, in their order.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator

from rulegen.errors import ApplyError

NFTABLES_TABLE = "kube-proxy"

_PROGRAMS = ("iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy")
_CHAIN = re.compile(
    r"KUBE-(?:SERVICES|EXTERNAL-SERVICES|NODEPORTS|POSTROUTING|MARK-MASQ|FORWARD|PROXY-FIREWALL|PROXY-CANARY"
    r"|(?:SVC|SVL|SEP|FW|EXT|XLB)-[A-Z0-9]+)"
)
_JUMP = re.compile(r"-A (?P<chain>\S+) (?:.* )?-[jg] (?P<target>\S+)(?: .*)?")
_TIMEOUT = 120.0


def remove_iptables_rules() -> list[str]:
    """Removes kube-proxy's chains and the jumps to them; says from which tables. Raises ApplyError."""
    removed = []
    for program in _PROGRAMS:
        if shutil.which(f"{program}-save") is None:
            continue
        saved = _run([f"{program}-save"], "")
        for table, lines in _tables(saved):
            commands = removal(lines)
            if commands:
                text = "\n".join([f"*{table}", *commands, "COMMIT", ""])
                _run([f"{program}-restore", "--noflush", "--wait", "60"], text)
                removed.append(f"{program} {table}")
    return removed


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


def _run(command: list[str], text: str) -> str:
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise ApplyError(f"{command[0]} did not end within {_TIMEOUT:.0f} s") from error
    if done.returncode:
        raise ApplyError(f"{command[0]} failed: {' '.join(done.stderr.split())[:300]}")
    return done.stdout
