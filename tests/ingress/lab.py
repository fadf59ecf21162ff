"""A node in a namespace: pods that say which they are, Services by rulegen's rules, and nginx in front of them.

Everything a test sees has gone through nginx, a Service's ClusterIP and the kernel's translation.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from click.testing import CliRunner
from pyroute2 import IPRoute

from rulegen.cli import main
from rulegen.demo.namespaces import NetworkNamespace
from tests.agent.running import wait_until
from tests.ingress.objects import AUTHORITY, SERVICES, Document, ingress_class, network_objects
from tests.patience import patience

NODE = "192.0.2.1"
_WEBSOCKET_KEY = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_NO_HOST = "-"

_MAIN = """user {user}; worker_processes 2; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
include {folder}/conf.d/*.conf; }}
"""


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


class Answer(NamedTuple):
    """`service`: whose pod has answered, "" for nginx itself; `seen`: what it says of the request."""

    status: int
    service: str
    seen: dict[str, Any]
    headers: Mapping[str, str]


def main_file(folder: Path, user: str = "root") -> Path:
    """A folder for one nginx, with what it is started with. `user`: of its workers."""
    (folder / "conf.d").mkdir(parents=True)
    made = folder / "nginx.conf"
    made.write_text(_MAIN.format(folder=folder, user=user))
    return made


def nginx(main: Path) -> subprocess.Popen[bytes]:
    """One in the foreground, in this thread's namespace."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "install the package nginx"
    return subprocess.Popen([program, "-c", str(main), "-g", "daemon off;"])


class _Pods:
    """One server for all pods' addresses, which says whose address a request came to."""

    def __init__(self, namespace: NetworkNamespace) -> None:
        self._loop = asyncio.new_event_loop()
        self._sockets: list[socket.socket] = []
        self.requests = 0
        with namespace.entered():
            for number in range(10, 10 + len(SERVICES)):
                made = socket.create_server((f"10.244.1.{number}", 8080), backlog=1024)
                self._sockets.append(made)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        for made in self._sockets:
            self._loop.run_until_complete(asyncio.start_server(self._serve, sock=made))
        self._loop.run_forever()
        for made in self._sockets:
            made.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.requests += 1
            first, *lines = head.split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines) if name}
            await reader.readexactly(int(headers.get("content-length", "0")))
            if headers.get("upgrade", "").lower() == "websocket":
                await self._echo(headers, reader, writer)
                return
            number = int(writer.get_extra_info("sockname")[0].rpartition(".")[2]) - 10
            body = json.dumps({"service": SERVICES[number], "line": first, "headers": headers}).encode()
            extra = "X-Accel-Redirect: /elsewhere\r\n" if "x-accel" in headers else ""
            writer.write(f"HTTP/1.1 200 OK\r\n{extra}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode())
            writer.write(body)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _echo(
        self, headers: Mapping[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        text = (headers["sec-websocket-key"] + _WEBSOCKET_KEY).encode()
        digest = hashlib.sha1(text, usedforsecurity=False).digest()
        accept = b64encode(digest).decode()
        writer.write(
            f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()


class Lab:
    """`folder`: for nginx's files; `user`: its workers. What was applied last is in force."""

    def __init__(self, folder: Path, user: str) -> None:
        self.folder = folder
        self.namespace = NetworkNamespace()
        self.file = folder / "conf.d" / "rulegen.conf"
        self.certificates = folder / "certificates"
        self.process: subprocess.Popen[bytes] | None = None
        self._prepare_network()
        self.pods = _Pods(self.namespace)
        self.main_file = main_file(folder, user)
        self.configuration = folder / "own.yaml"
        self.configure()

    def configure(self, **ingress: Any) -> None:
        """Writes the RulegenConfiguration."""
        settings = {
            "mainFile": str(self.main_file),
            "file": str(self.file),
            "certificates": str(self.certificates),
            **ingress,
        }
        document = {"apiVersion": "rulegen.io/v1alpha1", "kind": "RulegenConfiguration", "features": ["ingress"]}
        # The agent looks for what others have changed once in a period.
        head = {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration"}
        pace = {**head, "nftables": {"syncPeriod": "1s"}}
        self.configuration.write_text(yaml.safe_dump_all([{**document, "ingress": settings}, pace]))

    def _prepare_network(self) -> None:
        with self.namespace.entered(), IPRoute() as ip:
            ip.link("add", ifname="pods", kind="bridge")
            index = ip.link_lookup(ifname="pods")[0]
            ip.link("set", index=index, state="up")
            for address in (NODE, *(f"10.244.1.{number}" for number in range(10, 10 + len(SERVICES)))):
                ip.addr("add", index=index, address=address, prefixlen=24)
            ip.route("add", dst="10.96.0.0/16", oif=index)

    def close(self) -> None:
        """Ends what was started."""
        self.stop_nginx()
        self.pods.close()
        self.namespace.close()

    def start_nginx(self) -> None:
        """In the foreground."""
        assert self.process is None
        with self.namespace.entered():
            self.process = nginx(self.main_file)
        wait_until(self._is_listening, 10.0)

    def _is_listening(self) -> bool:
        with self.namespace.entered(), suppress(OSError), socket.create_connection((NODE, 80), patience(1)):
            return True
        return not self.file.exists() and (self.folder / "nginx.pid").exists()

    def stop_nginx(self) -> None:
        """Where it runs."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(patience(10))
            self.process = None

    def run(self, *arguments: str) -> Done:
        """rulegen, in the namespace; in this process, which is many times as fast."""
        with self.namespace.entered():
            result = CliRunner().invoke(main, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    def write(self, *objects: Document, with_network: bool = True) -> str:
        """A file with the objects, the Services and the class beside them."""
        beside = [*network_objects(), ingress_class()] if with_network else []
        path = self.folder / "objects.json"
        new = path.with_suffix(".new")
        new.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [*beside, *objects]}))
        new.rename(path)
        return str(path)

    def apply_services(self) -> None:
        """The node's rules."""
        done = self.run("apply", "-f", self.write(), "--node", "node-1")
        assert not done.returncode, done.stderr

    def ingress(self, command: str, *objects: Document, more: tuple[str, ...] = ()) -> Done:
        """`apply`, `diff` or `render` of Ingresses."""
        return self.run(command, "-f", self.write(*objects), "--config", str(self.configuration), *more)

    def apply(self, *objects: Document) -> str:
        """What it says."""
        done = self.ingress("apply", *objects)
        assert not done.returncode, (done.stdout, done.stderr)
        return done.stdout

    def connect(self, port: int = 80) -> socket.socket:
        """To nginx."""
        with self.namespace.entered():
            return socket.create_connection((NODE, port), patience(10))

    def get(self, host: str, target: str = "/", *, tls: str = "", headers: Mapping[str, str] | None = None) -> Answer:
        """One request, as it is written; `tls`: the server name that is asked for, and checked."""
        connection = self.connect(443 if tls else 80)
        if tls:
            connection = client_context().wrap_socket(connection, server_hostname=tls)
        lines = [f"GET {target} HTTP/1.1", "Connection: close"]
        lines += [] if host == _NO_HOST else [f"Host: {host}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        with connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            response = http.client.HTTPResponse(connection, method="GET")
            response.begin()
            body = response.read()
        seen = json.loads(body) if response.status == http.HTTPStatus.OK else {}
        return Answer(response.status, seen.get("service", ""), seen, dict(response.headers))

    def answers(self, host: str) -> bool:
        """Whether there is an answer at all."""
        with suppress(OSError, http.client.HTTPException):
            return bool(self.get(host).status)
        return False

    def who(self, host: str, target: str) -> str:
        """Whose pod answers, or nginx's status."""
        answer = self.get(host, target)
        return answer.service or str(answer.status)


def client_context() -> ssl.SSLContext:
    """Trusts the tests' authority alone."""
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


@contextmanager
def lab_in(folder: Path, user: str = "root") -> Iterator[Lab]:
    """A Lab that ends with the block."""
    made = Lab(folder, user)
    try:
        yield made
    finally:
        made.close()
