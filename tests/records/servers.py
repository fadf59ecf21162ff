"""BIND and Knot in a network namespace of the test's own, with the zones that names of Services go into."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rulegen.demo.namespaces import NetworkNamespace
from tests.agent.running import RULEGEN, wait_until
from tests.patience import patience

SECRET = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U="  # noqa: S105 - of servers that are gone with the test
OTHER_SECRET = "b3RoZXJvdGhlcm90aGVyb3RoZXJvdGhlcm90aGVyb3Q="  # noqa: S105 - as above
ZONES = ("cluster.local", "in-addr.arpa", "ip6.arpa")
_ZONE = "@ 5 IN SOA localhost. nobody.invalid. 1 3600 1200 604800 5\n@ 5 NS localhost.\n"
_PATH = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}


def _bind(folder: Path, names: Sequence[str]) -> list[str]:
    zones = "".join(
        f'zone "{zone}" {{ type primary; file "{folder}/{zone}"; allow-update {{ key rulegen; }};'
        " allow-transfer { key rulegen; }; };\n"
        for zone in names
    )
    file = folder / "named.conf"
    file.write_text(
        f'include "{folder}/server-key";\noptions {{ include "{folder}/options"; directory "{folder}"; pid-file none;'
        f' session-keyfile "{folder}/session";'
        " listen-on port 53 { 127.0.0.1; }; listen-on-v6 { none; }; recursion no; dnssec-validation no;"
        f' managed-keys-directory "{folder}"; empty-zones-enable no; }};\ncontrols {{ }};\n{zones}'
    )
    return ["named", "-g", "-c", str(file)]


def _knot(folder: Path, names: Sequence[str]) -> list[str]:
    # By itself it writes all of a zone's file after each update.
    zone = "    acl: rulegen\n    zonefile-sync: 1h\n"
    zones = "".join(f"  - domain: {name}\n{zone}    file: {folder}/{name}\n" for name in names)
    file = folder / "knot.conf"
    file.write_text(
        f"server:\n    listen: 127.0.0.1@53\n    rundir: {folder}\n"
        f"database:\n    storage: {folder}\n"
        f"key:\n  - id: rulegen\n    algorithm: hmac-sha256\n    secret: {SECRET}\n"
        f"acl:\n  - id: rulegen\n    key: rulegen\n    action: [transfer, update]\nzone:\n{zones}"
    )
    return ["knotd", "-c", str(file)]


COMMANDS = {"bind": _bind, "knot": _knot}


class Server:
    """A name server; `stop` and `start` as often as needed."""

    zones = ZONES

    def __init__(self, kind: str, folder: Path, namespace: NetworkNamespace) -> None:
        self.folder = folder
        self.namespace = namespace
        self._kind = kind
        self._process: subprocess.Popen[bytes] | None = None
        self.key = ""
        # The zones that it has from its next start on.
        self.served: Sequence[str] = ZONES
        # BIND's; those of the other are in its file.
        (folder / "options").write_text("")
        self.set_key(SECRET)
        (folder / "key").write_text(self.key)
        (folder / "key").chmod(0o600)
        self.config = folder / "rulegen.yaml"
        self.config.write_text(
            "apiVersion: rulegen.io/v1alpha1\nkind: RulegenConfiguration\nfeatures: [records]\n"
            f"records: {{server: 127.0.0.1, keyFile: {folder}/key}}\n---\n"
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
            "nftables: {syncPeriod: 1s}\n"
        )
        self.empty()

    def set_key(self, secret: str) -> None:
        """For the server, BIND's, from its next start on; `key`: what a client's file has to say then."""
        self.key = f'key "rulegen" {{ algorithm hmac-sha256; secret "{secret}"; }};\n'
        (self.folder / "server-key").write_text(self.key)

    def empty(self) -> None:
        """The zones, while it does not run."""
        for journal in self.folder.glob("*.jnl"):
            journal.unlink()
        for zone in ZONES:
            (self.folder / zone).write_text(_ZONE)

    def allow_many(self) -> None:
        """BIND takes any number of records of a name, from its next start on."""
        (self.folder / "options").write_text("max-records-per-type 0;\n")

    def start(self) -> None:
        with self.namespace.entered(), (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                COMMANDS[self._kind](self.folder, self.served), env=_PATH, stdout=log, stderr=log
            )
        wait_until(lambda: "NOERROR" in self.dig("cluster.local", "SOA"), 10.0)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(patience(10))
            self._process = None

    @property
    def process(self) -> int:
        """Of the server that runs."""
        assert self._process is not None
        return self._process.pid

    def dig(self, name: str, kind: str) -> str:
        """All that dig says."""
        return self.run("dig", "@127.0.0.1", "+norec", "+tries=1", "+time=2", name, kind).stdout

    def short(self, name: str, kind: str) -> list[str]:
        """Only the answers, sorted."""
        answer = self.run("dig", "@127.0.0.1", "+norec", "+short", "+tries=1", "+time=2", name, kind)
        return sorted(answer.stdout.split("\n")[:-1])

    def update(self, *lines: str) -> None:
        """What another program changes."""
        text = "\n".join(["server 127.0.0.1", *lines, "send", ""])
        done = self.run("nsupdate", "-k", str(self.folder / "key"), input=text)
        assert done.returncode == 0, done.stderr

    def rulegen(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(RULEGEN, *arguments, "--config", str(self.config))

    def run(self, *command: str, input: str | None = None) -> subprocess.CompletedProcess[str]:  # noqa: A002
        with self.namespace.entered():
            return subprocess.run(command, capture_output=True, text=True, check=False, input=input)


@contextmanager
def serving(kind: str, folder: Path) -> Iterator[Server]:
    with NetworkNamespace() as namespace:
        server = Server(kind, folder, namespace)
        try:
            server.start()
            yield server
        finally:
            server.stop()
