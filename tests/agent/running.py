"""The agent as a process in a network namespace, and the manifests that it follows."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from rulegen.demo.namespaces import NetworkNamespace
from rulegen.kube.objects import EndpointSlice, Node, Service, ServiceCIDR
from rulegen.kube_proxy.witness import TABLE as ARRIVAL_TABLE
from tests.builders import CONFIGURATION, Item, endpoint_slice, service
from tests.nftables.host import Host, lines_of
from tests.patience import patience

RULEGEN = str(Path(sys.executable).parent / "rulegen")
_VERSIONS = {
    Service: "v1",
    Node: "v1",
    EndpointSlice: "discovery.k8s.io/v1",
    ServiceCIDR: "networking.k8s.io/v1",
}


def manifest(*items: Item) -> bytes:
    """The objects as one JSON file."""
    objects = [
        {"apiVersion": _VERSIONS[type(item)], "kind": type(item).__name__, **msgspec.to_builtins(item)}
        for item in items
    ]
    return msgspec.json.encode({"apiVersion": "v1", "kind": "List", "items": objects})


def save(path: Path, *items: Item) -> None:
    """Saves as good editors do: another file takes the name."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(manifest(*items))
    new.rename(path)


def web(number: int, *hosts: int) -> list[Item]:
    """A Service and its endpoints."""
    name = f"web-{number}"
    return [
        service(name, [f"10.96.{number // 250}.{number % 250 + 1}"]),
        endpoint_slice([f"10.128.0.{host}" for host in hosts], service_name=name, name=f"{name}-a"),
    ]


def wait_until(is_true: Callable[[], bool], seconds: float = 5.0) -> float:
    """Waits, and says how long it took. `seconds`: as long as it takes at most on an idle machine."""
    start = time.monotonic()
    while not is_true():
        assert time.monotonic() - start < patience(seconds), "not within the time"
        time.sleep(0.02)
    return time.monotonic() - start


class Agent:
    """A running agent; `log` is what it has said so far, `printed` what it wrote to standard output."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self._folder = folder

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()

    @property
    def printed(self) -> str:
        return (self._folder / "printed").read_text()

    def wait_for(self, text: str, seconds: float = 5.0) -> None:
        try:
            wait_until(lambda: text in self.log, seconds)
        except AssertionError:
            raise AssertionError(f"{text!r} is not in the log:\n{self.log}") from None

    def memory(self) -> int:
        """What is resident now, in bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()

    def syncs(self) -> list[str]:
        return [line for line in self.log.splitlines() if " sync mode=" in line]

    def modes(self, count: int) -> list[str]:
        """Those of all syncs that were told; waits for so many, since the log follows what the kernel shows at once."""
        wait_until(lambda: len(self.syncs()) >= count)
        return [line.split("mode=")[1].split()[0] for line in self.syncs()]


class Ground:
    """A network namespace, a folder of manifests, and agents that follow it. `program`: what is run as rulegen."""

    program: Sequence[str] = (RULEGEN,)

    def __init__(self, namespace: NetworkNamespace, folder: Path, arguments: Sequence[str] = ()) -> None:
        """`arguments`: what all agents here are started with."""
        self.namespace = namespace
        self.manifests = folder / "manifests"
        self.manifests.mkdir()
        self._arguments = arguments
        self._folder = folder
        self._count = 0
        self.config = str(folder / "config.yaml")
        self.configure()

    def configure(self, *lines: str) -> None:
        """Writes the configuration: that of all tests, and lines of its own."""
        # In a namespace that is not the host's some of kube-proxy's sysctls cannot be set.
        conntrack = "conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}"
        text = "\n".join(
            [
                "apiVersion: kubeproxy.config.k8s.io/v1alpha1",
                "kind: KubeProxyConfiguration",
                f"clusterCIDR: {','.join(CONFIGURATION.cluster_cidrs)}",
                *([] if any(line.startswith("conntrack:") for line in lines) else [conntrack]),
                *lines,
                "",
            ]
        )
        new = Path(f"{self.config}.new")
        new.write_text(text)
        new.rename(self.config)

    @contextmanager
    def agent(self, *arguments: str) -> Iterator[Agent]:
        """An agent; killed at the end of the block if it still runs then."""
        self._count += 1
        folder = self._folder / f"agent-{self._count}"
        folder.mkdir()
        what = arguments or ("-f", str(self.manifests))
        configuration = ("--config", self.config) if self.config else ()
        command = [*self.program, "agent", "--node", "node-1", *configuration, "--log-level", "debug"]
        command += [*self._arguments, *what]
        with (folder / "log").open("wb") as log, (folder / "printed").open("wb") as printed:
            with self.namespace.entered():
                process = subprocess.Popen(
                    command, stdout=printed, stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"}
                )
            with process:
                try:
                    yield Agent(process, folder)
                finally:
                    process.kill()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command of rulegen, in the same namespace."""
        with self.namespace.entered():
            return subprocess.run(
                [*self.program, *arguments], capture_output=True, text=True, check=False, timeout=patience(60)
            )

    def differences(self, *items: Item) -> list[str]:
        """What the kernel would have to change to be as the objects say."""
        raise NotImplementedError

    def wait_for(self, items: Iterable[Item], seconds: float = 5.0) -> float:
        """Waits until the kernel is as the objects say."""
        expected = list(items)
        try:
            return wait_until(lambda: not self.differences(*expected), seconds)
        except AssertionError:
            raise AssertionError(f"still different: {self.differences(*expected)[:10]}") from None


class Playground(Ground):
    """With rules in nftables."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host = host
        super().__init__(host.namespace, folder)

    def differences(self, *items: Item) -> list[str]:
        return lines_of(self.host.delta(*items))

    def settled_generation(self) -> int:
        """The ruleset's generation once an agent has noted what was there when it came, its last commit at a start."""
        wait_until(lambda: ARRIVAL_TABLE in self.host.nft("list tables"), 15.0)
        return self.host.generation()
