"""One measurement in a process and a network namespace of its own; its result comes back as JSON."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import msgspec
from msgspec import Struct

from bench.clusters import Shape

Result: TypeAlias = dict[str, float | list[float]]

_TIMEOUT = 1800.0


class Order(Struct, frozen=True):
    """What to measure: a key of `_measurements`, and what it takes besides the cluster.

    `shape`: of a cluster of Services; measurements of network policies have pods and policies among their arguments.
    """

    measurement: str
    shape: Shape = Shape(0)
    arguments: tuple[int | float | str, ...] = ()


def run(order: Order, folder: Path) -> Result:
    """Runs the order in a child. Raises CalledProcessError; what went wrong is on standard error."""
    words = ["unshare", "--net", *(["--map-root-user"] if os.geteuid() else []), sys.executable, "-m", __name__]
    output = subprocess.run(
        [*words, str(folder)], input=msgspec.json.encode(order), stdout=subprocess.PIPE, check=True, timeout=_TIMEOUT
    ).stdout
    return msgspec.json.decode(output.splitlines()[-1], type=Result)


def _measurements() -> Mapping[str, Callable[..., Mapping[str, float] | Mapping[str, list[float]]]]:
    from bench import (
        agent,
        egress,
        foreign,
        ingress,
        iptables,
        kube_proxy,
        packets,
        policies,
        product,
        records,
        reports,
        verify,
    )

    return {
        "stages": product.stages,
        "command": product.command,
        "changes": product.changes,
        "new chain": product.new_chain,
        "upgrade": product.upgrade,
        "beside": foreign.changes_beside,
        "kube-proxy load": lambda shape, _: kube_proxy.load(shape),
        "kube-proxy change": lambda shape, _, repeats: kube_proxy.change(shape, repeats),
        "packets": packets.packets,
        "policy stages": lambda _, __, *arguments: policies.stages(*arguments),
        "policy changes": lambda _, __, *arguments: policies.changes(*arguments),
        "policy memory": lambda _, __, *arguments: policies.memory(*arguments),
        "policy packets": lambda _, __, *arguments: policies.packets(*arguments),
        "egress changes": lambda _, __, *arguments: egress.changes(*arguments),
        "egress packets": lambda _, __, *arguments: egress.packets(*arguments),
        "ingress render": ingress.render,
        "ingress changes": ingress.changes,
        "agent": agent.follow,
        "flood": agent.flood,
        "proof": verify.objects,
        "proof of kube-proxy iptables": verify.replaced,
        "report": reports.written,
        "records load": records.load,
        "records agent": records.follow,
        "iptables stages": iptables.stages,
        "iptables changes": iptables.changes,
        "kube-proxy iptables load": lambda shape, _, variant: iptables.kube_proxy_load(shape, variant),
    }


def _main() -> None:
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    result = _measurements()[order.measurement](order.shape, Path(sys.argv[1]), *order.arguments)
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")


if __name__ == "__main__":
    _main()
