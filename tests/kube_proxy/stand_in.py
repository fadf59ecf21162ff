"""kube-proxy's stand-in as a process in a namespace of the test's own, with rules as kube-proxy has them, shortened."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

PROGRAM = Path(__file__).with_name("program.py")
SYSTEM_PYTHON = "/usr/bin/python3"

# As kube-proxy's transactions: tables and chains are made where they are missing, and each chain is written anew.
_NFTABLES = """
add table ip kube-proxy { comment "rules for kube-proxy" ; }
add chain ip kube-proxy service-2QRHZV4L-default/web/tcp/
add chain ip kube-proxy services
add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority -100 ; }
add chain ip kube-proxy nat-output { type nat hook output priority -100 ; }
flush table ip kube-proxy
add rule ip kube-proxy service-2QRHZV4L-default/web/tcp/ meta l4proto tcp dnat to 10.128.0.5:8080
add rule ip kube-proxy services ip daddr 10.96.0.10 tcp dport 80 goto service-2QRHZV4L-default/web/tcp/
add rule ip kube-proxy services fib daddr type local tcp dport 30080 goto service-2QRHZV4L-default/web/tcp/
add rule ip kube-proxy nat-prerouting jump services
add rule ip kube-proxy nat-output jump services
"""
_IPTABLES = """*nat
:KUBE-SERVICES - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-SVC-TCOU7JCQXEZGVUNU - [0:0]
-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-D OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-TCOU7JCQXEZGVUNU
-A KUBE-SERVICES -p tcp -m addrtype --dst-type LOCAL -m tcp --dport 30080 -j KUBE-SVC-TCOU7JCQXEZGVUNU
-A KUBE-SVC-TCOU7JCQXEZGVUNU -p tcp -j DNAT --to-destination 10.128.0.5:8080
COMMIT
"""
MODES = {
    "nftables": ("nft -f", _NFTABLES),
    "iptables-nft": ("iptables-nft-restore --noflush", _IPTABLES),
    "iptables-legacy": ("iptables-legacy-restore --noflush", _IPTABLES),
}


class Entered(Protocol):
    """A network namespace, or a lab."""

    def entered(self) -> AbstractContextManager[None]: ...


class StandIn:
    """Running; its rules are loaded."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def sync(self) -> None:
        """Has it write its rules anew, soon."""
        self._process.send_signal(signal.SIGUSR1)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def running(
    place: Entered, folder: Path, mode: str, *, name: str = "kube-proxy", ports: bool = True
) -> Iterator[StandIn]:
    """kube-proxy in a network namespace; ended with the block. `folder`: where its files are put."""
    command, rules = MODES[mode]
    program, file = folder / name, folder / f"{name}.rules"
    if not program.exists():
        program.symlink_to(SYSTEM_PYTHON)
    if "iptables" in mode:
        # The jumps that are to be put in front are not there yet.
        with place.entered():
            tool = command.split("-restore")[0]
            for chain in ("PREROUTING", "OUTPUT"):
                subprocess.run([tool, "-t", "nat", "-N", "KUBE-SERVICES"], capture_output=True, check=False)
                jump = ["-m", "comment", "--comment", "kubernetes service portals", "-j", "KUBE-SERVICES"]
                if subprocess.run([tool, "-t", "nat", "-C", chain, *jump], capture_output=True, check=False).returncode:
                    subprocess.run([tool, "-t", "nat", "-I", chain, *jump], check=True)
    file.write_text(rules)
    words = [str(program), str(PROGRAM), command, str(file), "ports" if ports else "no-ports"]
    with place.entered():
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "synced\n"
            yield StandIn(process)
        finally:
            process.kill()
