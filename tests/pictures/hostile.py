"""Names with which somebody would like to do something to who looks at them."""

from __future__ import annotations

import json
from pathlib import Path

# HTML, scripts, SVG, DOT, Mermaid, a terminal, and signs that end lines or turn the direction of writing.
NASTY = (
    '</script><script>owned=1</script><!-- <img src=x onerror=owned=1> ]]> "]; a -> b [label="\\" --> '
    'n0["x"] click n0 href "javascript:owned=1" | %% {{7*7}} &lt; \x1b[2J \u2028 \u2029 \u202e \x00 end\nline `id`'
)


def hostile_manifest(folder: Path) -> Path:
    """A Service whose endpoints have such names."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default", "annotations": {"rulegen.io/weights": NASTY}},
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"name": "http", "port": 80}]},
    }
    endpoints = [
        {"addresses": [f"10.244.0.{number}"], "nodeName": text, "targetRef": {"kind": "Pod", "name": text}}
        for number, text in enumerate([NASTY, "<img src=x onerror=owned=1>", "short"], 5)
    ]
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": endpoints,
    }
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}}
    path = folder / "hostile.json"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [service, slice_, node]}))
    return path
