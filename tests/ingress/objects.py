"""Short ways to write Ingresses and what they name, as documents; all else is what the API server would default to."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import trustme

Document = dict[str, Any]
# A Service each, with one pod.
SERVICES = (*(f"s{number}" for number in range(1, 13)), "web")
AUTHORITY = trustme.CA(key_type=trustme.KeyType.ECDSA)


def path(text: str, service: str = "web", kind: str = "Prefix", port: int | str = 80) -> Document:
    """One of a rule."""
    wanted = {"number": port} if isinstance(port, int) else {"name": port}
    return {"path": text, "pathType": kind, "backend": {"service": {"name": service, "port": wanted}}}


def rule(host: str, *paths: Document) -> Document:
    """`host` "": of all hosts."""
    return {**({"host": host} if host else {}), "http": {"paths": list(paths)}}


def ingress(
    name: str,
    *rules: Document,
    namespace: str = "shop",
    default: str = "",
    tls: Sequence[tuple[Sequence[str], str]] = (),
    created: str = "",
    class_name: str | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Document:
    """`default`: the Service of the defaultBackend; `tls`: hosts and a Secret's name."""
    spec: Document = {"rules": list(rules)} if rules else {}
    if default:
        spec["defaultBackend"] = path("/", default)["backend"]
    if tls:
        spec["tls"] = [{"hosts": list(hosts), "secretName": secret} for hosts, secret in tls]
    if class_name is not None:
        spec["ingressClassName"] = class_name
    metadata: Document = {"name": name, "namespace": namespace}
    if created:
        metadata["creationTimestamp"] = created
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": spec}


def ingress_class(name: str = "rulegen", controller: str = "rulegen.io/ingress", *, default: bool = True) -> Document:
    """Ours unless it says otherwise."""
    annotations = {"ingressclass.kubernetes.io/is-default-class": "true"} if default else {}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"controller": controller},
    }


def service(name: str, number: int, namespace: str = "shop", **spec: Any) -> Document:
    """With ClusterIP 10.96.0.`number` and the port 80, named http."""
    address = f"10.96.0.{number}"
    ports = [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIP": address, "clusterIPs": [address], "ports": ports, **spec},
    }


def endpoints(name: str, *addresses: str, namespace: str = "shop") -> Document:
    """A slice of a Service, port 8080."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-a", "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
    }


def network_objects() -> list[Document]:
    """The Services, and their endpoints."""
    found = []
    for number, name in enumerate(SERVICES, 10):
        found += [service(name, number), endpoints(name, f"10.244.1.{number}")]
    return found


def secret(name: str, *hosts: str, namespace: str = "shop") -> Document:
    """A certificate of `AUTHORITY` for the hosts."""
    made = AUTHORITY.issue_cert(*hosts, key_type=trustme.KeyType.ECDSA)
    return raw_secret(
        name, b"".join(pem.bytes() for pem in made.cert_chain_pems), made.private_key_pem.bytes(), namespace
    )


def encrypted(host: str) -> tuple[bytes, bytes]:
    """A certificate, and its key with the password ""."""
    made = AUTHORITY.issue_cert(host, key_type=trustme.KeyType.ECDSA)
    words = ["openssl", "pkcs8", "-topk8", "-passout", "pass:"]
    key = subprocess.run(words, input=made.private_key_pem.bytes(), capture_output=True, check=True).stdout
    assert b"ENCRYPTED" in key
    return made.cert_chain_pems[0].bytes(), key


def chain_of(host: str, length: int) -> tuple[bytes, bytes]:
    """A certificate with others behind it, which nobody needs, and its key."""
    made = AUTHORITY.issue_cert(host, key_type=trustme.KeyType.ECDSA)
    return made.cert_chain_pems[0].bytes() * length, made.private_key_pem.bytes()


def raw_secret(name: str, certificate: bytes, key: bytes, namespace: str = "shop") -> Document:
    """Whatever it holds."""
    data = {"tls.crt": certificate, "tls.key": key}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "type": "kubernetes.io/tls",
        "data": {field: base64.b64encode(content).decode() for field, content in data.items()},
    }
