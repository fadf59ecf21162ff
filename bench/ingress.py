"""What Ingresses take: all of them rendered, and one that changes, beside a controller that does not compare.

The other way is what an Ingress controller does that writes everything anew: a server for each host, with its
certificate and its proxies, then `nginx -t` and `nginx -s reload`. Both write for the same nginx, each in its turn.
"""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trustme
from msgspec import convert
from pyroute2 import IPRoute

from bench.clock import Numbers, measured, processor_seconds
from bench.product import timed
from rulegen.config import Family, IngressSettings, NodeConfiguration, SocketAddress
from rulegen.ingress.feature import IngressFeature
from rulegen.kube.objects import Ingress, IngressClass, Secret, Service
from rulegen.nginx.driver import NginxDriver
from rulegen.nginx.process import serving
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.reconciler import Reconciler

OURS, THEIRS = "rulegen", "all written anew"
CHANGE, HANDSHAKE = "change", "handshake, nginx's processor"
OWN = f"{CHANGE}, {OURS}, its own processor time"
_NAMESPACE = "shop"
_SERVICES = 500
_WORKERS = 2
_HTTP, _HTTPS, _VERSION = 8080, 8443, 10246
_SECONDS = 300.0
_KINDS: dict[str, type[Any]] = {
    "Ingress": Ingress,
    "IngressClass": IngressClass,
    "Secret": Secret,
    "Service": Service,
}
_MAIN = """user root; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes {workers};
events {{ worker_connections 4096; }}
http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
include {folder}/conf.d/*.conf; }}
"""
_THEIR_HEAD = """server_names_hash_max_size 32768; server_names_hash_bucket_size 512;
map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
server {{ listen 127.0.0.1:{version}; return 200 "{text} $pid\\n"; }}
server {{ listen {http} default_server; listen {https} ssl http2 default_server; ssl_reject_handshake on; return 404; }}
"""
_THEIR_SERVER = """server {{
    listen {http}; listen {https} ssl http2; server_name {host};
    ssl_certificate {certificate}; ssl_certificate_key {certificate};
    ssl_protocols TLSv1.2 TLSv1.3; ssl_session_tickets off;
    proxy_http_version 1.1; proxy_request_buffering off; client_max_body_size 0;
    proxy_set_header Host $host;
    proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
    proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Forwarded-Proto $scheme;
    location = /app {{ proxy_pass http://{backend}; }}
    location /app/ {{ proxy_pass http://{backend}; }}
    location / {{ return 404; }}
}}
"""


def render(_: object, folder: Path, ingresses: int, secrets: int) -> Numbers:
    """`rulegen render --feature ingress` of a manifest, as a whole."""
    path = folder / "ingresses.json"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": documents(ingresses, secrets)}))
    numbers: Numbers = {}
    program = str(Path(sys.executable).with_name("rulegen"))
    words = [program, "render", "--feature", "ingress", "-f", str(path)]
    with measured(numbers, "render"):
        subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
    return numbers


def changes(_: object, folder: Path, ingresses: int, secrets: int, repeats: int, others: int) -> dict[str, list[float]]:
    """Seconds from an Ingress with another backend until all new connections get it; `others`: of the other way."""
    with ExitStack() as opened:
        own_folder = Path(opened.enter_context(TemporaryDirectory(dir=folder)))
        nginx = opened.enter_context(_running(own_folder))
        objects = documents(ingresses, secrets)
        kept = _Kept(opened, own_folder, objects)
        ours: list[float] = []
        own: list[float] = []
        for number in range(repeats):
            changed = convert(ingress(ingresses // 2, secrets, number + 1), Ingress)
            cpu = time.process_time()
            ours += timed(kept.change, [changed])
            own.append(time.process_time() - cpu)
        handshake = _handshake(nginx, ingresses)
        anew = _Anew(own_folder, objects)
        anew.change(0)
        return {
            f"{CHANGE}, {OURS}": ours,
            OWN: own,
            f"{HANDSHAKE}, {OURS}": [handshake],
            f"{CHANGE}, {THEIRS}": timed(anew.change, range(1, others + 1)),
            f"{HANDSHAKE}, {THEIRS}": [_handshake(nginx, ingresses)],
        }


def documents(ingresses: int, secrets: int) -> list[dict[str, Any]]:
    """Each Ingress has a host, a path and TLS; a Secret has the certificate of as many hosts as it takes."""
    marks = {"ingressclass.kubernetes.io/is-default-class": "true"}
    made: list[dict[str, Any]] = [
        {
            **_head("networking.k8s.io/v1", "IngressClass", "rulegen", annotations=marks),
            "spec": {"controller": IngressSettings().controller},
        }
    ]
    made += [_service(number) for number in range(_SERVICES)]
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    made += [_secret(authority, number, range(number, ingresses, secrets)) for number in range(secrets)]
    return made + [ingress(number, secrets) for number in range(ingresses)]


def ingress(number: int, secrets: int, shift: int = 0) -> dict[str, Any]:
    """`shift`: leads to another Service than before."""
    backend = {"service": {"name": f"service-{(number + shift) % _SERVICES}", "port": {"number": 80}}}
    paths = [{"path": "/app", "pathType": "Prefix", "backend": backend}]
    return {
        **_head("networking.k8s.io/v1", "Ingress", f"ingress-{number}", namespace=_NAMESPACE),
        "spec": {
            "rules": [{"host": _host(number), "http": {"paths": paths}}],
            "tls": [{"hosts": [_host(number)], "secretName": f"secret-{number % secrets}"}],
        },
    }


def _host(number: int) -> str:
    return f"host-{number}.shop.example.org"


def _head(version: str, kind: str, name: str, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, **metadata}}


def _service(number: int) -> dict[str, Any]:
    address = f"10.96.{number // 250}.{number % 250 + 1}"
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    spec = {"clusterIP": address, "clusterIPs": [address], "ports": ports}
    return {**_head("v1", "Service", f"service-{number}", namespace=_NAMESPACE), "spec": spec}


def _secret(authority: trustme.CA, number: int, hosts: range) -> dict[str, Any]:
    made = authority.issue_cert(*map(_host, hosts), key_type=trustme.KeyType.ECDSA)
    chain = b"".join(pem.bytes() for pem in made.cert_chain_pems)
    data = {"tls.crt": chain, "tls.key": made.private_key_pem.bytes()}
    encoded = {name: b64encode(content).decode() for name, content in data.items()}
    head = _head("v1", "Secret", f"secret-{number}", namespace=_NAMESPACE)
    return {**head, "type": "kubernetes.io/tls", "data": encoded}


class _Kept:
    """Ingresses that are kept equal, as an agent keeps them, without the API server."""

    def __init__(self, opened: ExitStack, folder: Path, objects: list[dict[str, Any]]) -> None:
        node = NodeConfiguration(families=(Family.IPV4,), ingress=_settings(folder))
        features = [IngressFeature(node)]
        nginx = opened.enter_context(NginxDriver(node.ingress).open())
        self._reconciler = Reconciler(features, nginx.rules(CompilerSet.of(features, "nginx", node)))
        for one in objects:
            self._reconciler.put(convert(one, _KINDS[one["kind"]]))
        self._reconciler.sync()

    def change(self, item: Ingress) -> None:
        """From the changed object to where it is served."""
        self._reconciler.put(item)
        self._reconciler.sync()


class _Anew:
    """The other way. Its file stands in place of rulegen's."""

    def __init__(self, folder: Path, objects: list[dict[str, Any]]) -> None:
        self._folder = folder
        self._ingresses = [one for one in objects if one["kind"] == "Ingress"]
        self._addresses = {
            one["metadata"]["name"]: one["spec"]["clusterIP"] for one in objects if one["kind"] == "Service"
        }
        self._certificates = {one["metadata"]["name"]: self._write(one) for one in objects if one["kind"] == "Secret"}

    def change(self, number: int) -> None:
        """One Ingress leads to another Service: all is rendered, tried and loaded."""
        middle = len(self._ingresses) // 2
        self._ingresses[middle] = ingress(middle, len(self._certificates), number)
        version = f"{number:032x}"
        head = _THEIR_HEAD.format(version=_VERSION, text=version, http=_HTTP, https=_HTTPS)
        text = head + "".join(map(self._server, self._ingresses))
        (self._folder / "conf.d" / "rulegen.conf").write_text(text)
        for words in (("-t", "-q"), ("-s", "reload")):
            _nginx(self._folder, *words)
        _wait(lambda: serving(SocketAddress("127.0.0.1", _VERSION)) == version)

    def _server(self, one: dict[str, Any]) -> str:
        spec = one["spec"]
        rule, tls = spec["rules"][0], spec["tls"][0]
        service = rule["http"]["paths"][0]["backend"]["service"]
        return _THEIR_SERVER.format(
            http=_HTTP,
            https=_HTTPS,
            host=rule["host"],
            certificate=self._certificates[tls["secretName"]],
            backend=f"{self._addresses[service['name']]}:{service['port']['number']}",
        )

    def _write(self, secret: dict[str, Any]) -> Path:
        path = self._folder / f"{secret['metadata']['name']}.pem"
        data = convert(secret, Secret).data
        path.write_bytes(b"".join(b64decode(data[name]) for name in ("tls.crt", "tls.key")))
        return path


def _settings(folder: Path) -> IngressSettings:
    return IngressSettings(
        main_file=str(folder / "nginx.conf"),
        file=str(folder / "conf.d" / "rulegen.conf"),
        certificates=str(folder / "certificates"),
        http_port=_HTTP,
        https_port=_HTTPS,
        version_address=SocketAddress("127.0.0.1", _VERSION),
    )


@contextmanager
def _running(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """nginx, with nothing to serve yet."""
    with IPRoute() as ip:
        ip.link("set", index=ip.link_lookup(ifname="lo")[0], state="up")
    (folder / "conf.d").mkdir(exist_ok=True)
    (folder / "nginx.conf").write_text(_MAIN.format(folder=folder, workers=_WORKERS))
    process = subprocess.Popen([_program(), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"])
    try:
        _wait((folder / "nginx.pid").exists)
        yield process
    finally:
        process.terminate()
        process.wait(_SECONDS)


def _handshake(nginx: subprocess.Popen[bytes], ingresses: int, count: int = 200) -> float:
    """Processor seconds of nginx for a whole TLS handshake, each for another host."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    children = Path(f"/proc/{nginx.pid}/task/{nginx.pid}/children")
    # Those of before the last change end by themselves.
    _wait(lambda: len(children.read_text().split()) == _WORKERS)
    workers = children.read_text().split()
    before = sum(processor_seconds(int(worker)) for worker in workers)
    for number in range(count):
        with socket.create_connection(("127.0.0.1", _HTTPS), _SECONDS) as plain:
            context.wrap_socket(plain, server_hostname=_host(number * 7 % ingresses)).close()
    return (sum(processor_seconds(int(worker)) for worker in workers) - before) / count


def _wait(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + _SECONDS
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"nginx is not ready after {_SECONDS:.0f} s")
        time.sleep(0.005)


def _nginx(folder: Path, *words: str) -> None:
    subprocess.run([_program(), *words, "-c", str(folder / "nginx.conf")], check=True, capture_output=True)


def _program() -> str:
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if found is None:
        raise FileNotFoundError("nginx is missing: install the package nginx-light")
    return found
