"""A credential plugin (`exec` of a kubeconfig) comes in and is run; the token or certificate that it gives goes out.

The protocol is `ExecCredential` of client.authentication.k8s.io. A plugin is another's program: it may be missing,
fail, hang, leave children behind or print anything; each is one line, and `Waiting.end` ends it at once.
"""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import IO

import msgspec
from msgspec import Struct

from rulegen.errors import UNDECODABLE, InputError, printable, shown
from rulegen.kube.access import Plugin, Trust, checked_token
from rulegen.kube.transport import EndedError, Waiting

# A person who logs in may take as long as he wants; a program that talks to nobody may not.
_SECONDS = 60
# What a plugin's children still write when it has ended is not waited for longer than this.
_SECONDS_AFTER_END = 1.0
_LARGEST_OUTPUT = 1 << 20
_CHUNK = 1 << 16
_LONGEST_SELECT = 3600.0


class Credential(Struct, frozen=True):
    """What a plugin gave: a token ("": none), or a client's certificate and key in PEM, or both.

    `expires`: until when it may be used; None for as long as the API server takes it.
    """

    token: str = ""
    certificate: bytes = b""
    key: bytes = b""
    expires: datetime | None = None

    def is_expired(self) -> bool:
        """Whether a new one is needed."""
        return self.expires is not None and datetime.now(UTC) >= self.expires

    def added_to(self, trust: Trust, plugin: Plugin) -> Trust:
        """`trust` with the certificate shown to the server; one of the kubeconfig comes first, as in client-go."""
        if not self.certificate or trust.certificate:
            return trust
        return msgspec.structs.replace(
            trust,
            certificate=self.certificate,
            key=self.key,
            certificate_place=f"{plugin.place}: clientCertificateData",
            key_place=f"{plugin.place}: clientKeyData",
        )


class _Status(Struct, rename="camel"):
    token: str | None = None
    client_certificate_data: str | None = None
    client_key_data: str | None = None
    expiration_timestamp: datetime | None = None


class _ExecCredential(Struct, rename="camel"):
    api_version: str = ""
    kind: str = ""
    status: _Status | None = None


def run_plugin(plugin: Plugin, waiting: Waiting) -> Credential:
    """Runs it and waits for what it gives, for a minute at most unless it may ask a person.

    Raises:
        InputError: it gives nothing that can be used.
        EndedError: `waiting` was ended.
    """
    is_interactive = _is_interactive(plugin)
    if waiting.is_ended:
        # Who ended it may be gone before what is begun now could be ended.
        raise EndedError("ended")
    output = _output(plugin, _start(plugin, is_interactive=is_interactive), waiting, is_interactive=is_interactive)
    return _credential(plugin, output)


def _is_interactive(plugin: Plugin) -> bool:
    """Whether it may ask the person at the terminal."""
    is_terminal = sys.stdin is not None and sys.stdin.isatty()
    if plugin.interactive_mode == "Always" and not is_terminal:
        raise InputError(f"{plugin.place}.interactiveMode: the plugin wants to ask a person, and there is no terminal")
    return is_terminal and plugin.interactive_mode != "Never"


def _start(plugin: Plugin, *, is_interactive: bool) -> subprocess.Popen[bytes]:
    if sys.platform != "linux":
        # How one ends is told by a file descriptor that other systems do not have.
        raise InputError(
            f"{plugin.place}: plugins are run on Linux alone; take a kubeconfig with a token or a certificate"
        )
    command = shutil.which(plugin.command)
    if command is None:
        hint = f"; {printable(' '.join(plugin.install_hint.split()))}" if plugin.install_hint else ""
        raise InputError(f"{plugin.place}.command: {printable(plugin.command)}: no such program{hint}")
    try:
        # A group of its own, so that all of it can be ended; one that reads from the terminal has to stay in ours.
        return subprocess.Popen(
            [command, *plugin.arguments],
            stdin=None if is_interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if is_interactive else subprocess.PIPE,
            env={
                **os.environ,
                **dict(plugin.environment),
                "KUBERNETES_EXEC_INFO": _information(plugin, is_interactive),
            },
            start_new_session=not is_interactive,
        )
    except OSError as error:
        raise InputError(f"{plugin.place}.command: {printable(command)}: {error.strerror}") from error


def _information(plugin: Plugin, is_interactive: bool) -> str:
    specification: dict[str, object] = {"interactive": is_interactive}
    if plugin.cluster:
        specification["cluster"] = msgspec.Raw(plugin.cluster.encode())
    document = {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": specification}
    return msgspec.json.encode(document).decode()


def _output(plugin: Plugin, process: subprocess.Popen[bytes], waiting: Waiting, *, is_interactive: bool) -> bytes:
    """What it wrote on standard output, once it has ended well."""

    def kill() -> None:
        # Ended processes that nobody has waited for keep their number, so this meets nobody else.
        if is_interactive:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)

    with process:
        try:
            with waiting.endable(kill):
                output, errors = _read(plugin, process, None if is_interactive else _SECONDS)
        except BaseException:
            kill()
            raise
        status = process.wait()
    if waiting.is_ended:
        raise EndedError("ended")
    if status:
        how = f"ended by signal {-status}" if status < 0 else f"exit status {status}"
        said = f": {printable(' '.join(errors.decode(errors='replace').split()))}" if errors.strip() else ""
        raise InputError(f"{plugin.place}: {printable(plugin.command)}: {how}{said}")
    return output


def _read(plugin: Plugin, process: subprocess.Popen[bytes], seconds: int | None) -> tuple[bytes, bytes]:
    """All that it writes until it ends; its status is not taken yet, so its number stays its own."""
    collected = {pipe: bytearray() for pipe in (process.stdout, process.stderr) if pipe is not None}
    end = float("inf") if seconds is None else time.monotonic() + seconds
    ended = os.pidfd_open(process.pid)
    try:
        with selectors.DefaultSelector() as selector:
            for pipe in collected:
                selector.register(pipe, selectors.EVENT_READ)
            selector.register(ended, selectors.EVENT_READ)
            while selector.get_map() and (left := end - time.monotonic()) > 0:
                for key, _ in selector.select(min(left, _LONGEST_SELECT)):
                    if key.fd == ended:
                        selector.unregister(ended)
                        end = min(end, time.monotonic() + _SECONDS_AFTER_END)
                    elif not _read_some(plugin, key.fileobj, collected):  # type: ignore[arg-type] # registered above
                        selector.unregister(key.fileobj)
            has_ended = ended not in selector.get_map()
    finally:
        os.close(ended)
    if not has_ended:
        raise InputError(f"{plugin.place}: {printable(plugin.command)}: has not ended within {seconds} s")
    output, errors = (bytes(collected.get(pipe, b"")) for pipe in (process.stdout, process.stderr))  # type: ignore[arg-type]
    return output, errors


def _read_some(plugin: Plugin, pipe: IO[bytes], collected: dict[IO[bytes], bytearray]) -> bool:
    """Whether there may be more."""
    chunk = os.read(pipe.fileno(), _CHUNK)
    collected[pipe] += chunk
    if len(collected[pipe]) > _LARGEST_OUTPUT:
        raise InputError(f"{plugin.place}: {printable(plugin.command)}: prints more than {_LARGEST_OUTPUT >> 20} MiB")
    return bool(chunk)


def _credential(plugin: Plugin, output: bytes) -> Credential:
    place = f"{plugin.place}: {printable(plugin.command)}"
    try:
        found = msgspec.json.decode(output, type=_ExecCredential)
    except UNDECODABLE as error:
        raise InputError(
            f"{place}: expected an ExecCredential as JSON, got something else: {_reason(error)}"
        ) from error
    if (found.kind, found.api_version) != ("ExecCredential", plugin.api_version):
        said = f"{shown(found.kind)} of {shown(found.api_version)}"
        raise InputError(f'{place}: expected "ExecCredential" of "{plugin.api_version}", got {said}')
    status = found.status or _Status()
    token, certificate, key = status.token or "", status.client_certificate_data or "", status.client_key_data or ""
    if bool(certificate) is not bool(key):
        raise InputError(f"{place}: status: expected clientCertificateData and clientKeyData, got one of them")
    if not (token or certificate):
        raise InputError(f"{place}: status: expected a token, or a certificate and its key, got neither")
    expires = status.expiration_timestamp
    if expires is not None and expires.tzinfo is None:
        raise InputError(f"{place}: status.expirationTimestamp: expected a time with its zone")
    return Credential(
        token=checked_token(token, f"{place}: status.token") if token else "",
        certificate=certificate.encode(),
        key=key.encode(),
        expires=expires,
    )


def _reason(error: Exception) -> str:
    return printable(str(error).replace("`", ""))
