"""Commands in this process, and a small cluster as text that tests change."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from rulegen.cli import main

TARGETS = ("nftables", "iptables")

_SERVICE = """---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}, tier: {tier}}}}}
spec: {{clusterIP: {address}, ports: [{{name: http, port: 80}}, {{name: https, port: 443}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}, {{name: https, port: 8443}}]
endpoints: [{endpoints}]
"""


def service(name: str, address: str, endpoints: Sequence[str], namespace: str = "shop", tier: str = "front") -> str:
    """A Service with two ports, and its slice."""
    listed = ", ".join(f"{{addresses: [{endpoint}]}}" for endpoint in endpoints)
    return _SERVICE.format(name=name, namespace=namespace, tier=tier, address=address, endpoints=listed)


WEB = service("web", "10.96.0.10", ["10.244.0.5", "10.244.0.6"])
WEB_WITH_ONE = service("web", "10.96.0.10", ["10.244.0.5"])
CART = service("cart", "10.96.0.11", ["10.244.0.7"], tier="back")
OTHER_CART = service("cart", "10.96.0.12", ["10.244.0.7"], namespace="test", tier="back")
NODE = "---\napiVersion: v1\nkind: Node\nmetadata: {name: node-a}\n"


def rulegen(*arguments: object, status: int | None = 0, **options: Any) -> Result:
    """Runs a command; `status` None: any."""
    done = CliRunner().invoke(main, [str(one) for one in arguments], catch_exceptions=False, **options)
    assert status is None or done.exit_code == status, done.output
    return done


def error(*arguments: object, **options: Any) -> str:
    """The one line of a command that fails, warnings apart."""
    done = rulegen(*arguments, status=2, **options)
    (line,) = [line for line in done.stderr.splitlines() if ": warning: " not in line]
    return line.removeprefix("rulegen: ")


def document(*arguments: object, status: int = 0) -> dict[str, Any]:
    """What a command prints with `-o json`."""
    found: dict[str, Any] = json.loads(rulegen(*arguments, "-o", "json", status=status).stdout)
    return found


def written(path: Path, *objects: str) -> Path:
    """A file with these objects and the node."""
    path.write_text("".join((*objects, NODE)))
    return path


def chains(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each change of `diff` with the rules below it."""
    current: tuple[str, list[str]] | None = None
    for line in text.splitlines():
        if line.startswith("    ") and current is not None:
            current[1].append(line.strip())
            continue
        if current is not None:
            yield current
        current = (line, [])
