"""A kubeconfig or a pod's service account comes in, an `Access` goes out.

What kubectl refuses is refused, and what it accepts means the same here; each refusal names the file, the context,
cluster or user in it, and the field. The `kubernetes` client's own loader is not used: see docs/architecture.md. Files
are read; nothing is sent and no program is run.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Struct, field

from rulegen.errors import InputError, printable, shown
from rulegen.kube.access import (
    LARGEST_FILE,
    Access,
    Plugin,
    Trust,
    basic_authorization,
    checked_header,
    checked_proxy,
    checked_server,
    checked_token,
    read_file,
    read_token_file,
)

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_DEFAULT_KUBECONFIG = "~/.kube/config"
_PLUGIN_GROUP = "client.authentication.k8s.io"
_PLUGIN_VERSIONS = (f"{_PLUGIN_GROUP}/v1", f"{_PLUGIN_GROUP}/v1beta1")
# What a header's name may hold beside letters, digits and `_.-~`; the rest goes percent-encoded.
_HEADER_NAME = "!#$&'*+^`|"
_INTERACTIVE_MODES = ("Never", "IfAvailable", "Always")

Read: TypeAlias = Callable[[], Access]


# -- the file, as it is written --


class _NamedExtension(Struct):
    name: str = ""
    extension: Any = None


class _Cluster(Struct, rename="kebab"):
    server: str = ""
    tls_server_name: str = ""
    insecure_skip_tls_verify: bool = False
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    proxy_url: str = ""
    disable_compression: bool = False
    extensions: list[_NamedExtension] = []


class _Variable(Struct):
    name: str = ""
    value: str = ""


class _Exec(Struct, rename="camel"):
    command: str = ""
    args: list[str] = []
    env: list[_Variable] = []
    api_version: str = ""
    install_hint: str = ""
    provide_cluster_info: bool = False
    interactive_mode: str = ""


class _User(Struct, rename="kebab"):
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    token: str = ""
    token_file: str = field(name="tokenFile", default="")
    as_user: str = field(name="as", default="")
    as_uid: str = ""
    as_groups: list[str] = []
    as_user_extra: dict[str, list[str]] = {}
    username: str = ""
    password: str = ""
    auth_provider: dict[str, Any] | None = None
    exec: _Exec | None = None


class _Context(Struct):
    cluster: str = ""
    user: str = ""


class _NamedCluster(Struct):
    name: str = ""
    cluster: _Cluster = field(default_factory=_Cluster)


class _NamedUser(Struct):
    name: str = ""
    user: _User = field(default_factory=_User)


class _NamedContext(Struct):
    name: str = ""
    context: _Context = field(default_factory=_Context)


class _Config(Struct, rename="camel"):
    api_version: str = ""
    kind: str = ""
    clusters: list[_NamedCluster] = []
    users: list[_NamedUser] = []
    contexts: list[_NamedContext] = []
    current_context: str = field(name="current-context", default="")


Entry = TypeVar("Entry")


class _Source(NamedTuple):
    """Where an entry stands: what names it in a message, and the folder that paths in it are relative to."""

    place: str
    folder: Path


# -- finding one --


def find_access(kubeconfig: str = "", server: str = "") -> Read:
    """How to read the access: of `kubeconfig`, else `$KUBECONFIG`, `~/.kube/config`, the pod's own cluster.

    `server`: the URL of the API server, instead of the one in the configuration. What is found is read each time, and
    an InputError when it cannot be used.

    Raises:
        InputError: there is none of these.
    """
    path = kubeconfig or os.environ.get("KUBECONFIG", "")
    if not path.strip(os.pathsep) and _exists(_DEFAULT_KUBECONFIG):
        path = _DEFAULT_KUBECONFIG
    if path.strip(os.pathsep):
        return partial(from_kubeconfig, path, server, _Files())
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return partial(from_service_account, SERVICE_ACCOUNT, server)
    raise InputError(
        "nothing to read: no manifests (-f), "
        f"no kubeconfig (--kubeconfig, $KUBECONFIG, {_DEFAULT_KUBECONFIG}), and this is no pod of a cluster"
    )


def _exists(name: str) -> bool:
    # What cannot even be looked for is said when it is read.
    with suppress(OSError, ValueError):
        return _expanded(name).exists()
    return False


def _expanded(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # there is no such home
        return Path(name)


class _Files:
    """Reads kubeconfigs; what can be read only once (a pipe) is remembered."""

    def __init__(self) -> None:
        self._read_once: dict[Path, bytes] = {}

    def read(self, path: Path) -> bytes | None:
        """Its text; None when it is not there.

        Raises:
            InputError: it cannot be read.
        """
        if path in self._read_once:
            return self._read_once[path]
        try:
            with path.open("rb") as file:
                is_plain = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
                text = file.read(LARGEST_FILE + 1)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no name of a file"
            raise InputError(f"{printable(str(path))}: {reason}") from error
        if len(text) > LARGEST_FILE:
            raise InputError(f"{printable(str(path))}: larger than {LARGEST_FILE >> 20} MiB")
        if not is_plain:
            self._read_once[path] = text
        return text


# -- a kubeconfig --


def from_kubeconfig(path: str, server: str = "", files: _Files | None = None) -> Access:
    """The access of a kubeconfig's current context; `path` may be several files with `:` between.

    Of several files, the first that has a cluster, user, context or current context of a name has it wholly; files that
    are not there do not matter beside one that is.

    Raises:
        InputError: it is missing, or cannot be used.
    """
    # A name may itself hold the separator.
    names = [path] if _exists(path) else [name for name in path.split(os.pathsep) if name]
    merged = _Merged(printable(path))
    files = files or _Files()
    for file in dict.fromkeys(map(_expanded, names)):
        text = files.read(file)
        if text is not None:
            merged.add(file, _parse(file, text))
    if not merged.places:
        raise InputError(f"{printable(path)}: no such file")
    context, context_source = merged.context()
    cluster, cluster_source = merged.cluster(context, context_source)
    user, user_source = merged.user(context, context_source)
    url = checked_server(server, "API server") if server else _server(cluster, user, cluster_source)
    trust = _trust(cluster, cluster_source, user, user_source)
    proxy = checked_proxy(cluster.proxy_url, f"{cluster_source.place}: proxy-url") if cluster.proxy_url else None
    return Access(
        server=url,
        trust=trust,
        headers=_headers(user, user_source),
        plugin=_plugin(user, user_source, _cluster_information(cluster, url, trust)),
        proxy=proxy,
        is_compressed=not cluster.disable_compression,
        warnings=_warnings(url, trust, cluster_source),
    )


def _parse(path: Path, text: bytes) -> _Config:
    from rulegen.kube.yaml_documents import YamlError, parse_documents

    place = printable(str(path))
    try:
        documents = [document for document in parse_documents(text) if document.value is not None]
    except YamlError as error:
        where = f":{error.line}:{error.column}" if error.line else ""
        raise InputError(f"{place}{where}: not a kubeconfig: {error}") from error
    if len(documents) > 1:
        raise InputError(f"{place}: not a kubeconfig: it holds {len(documents)} documents")
    for fault in (fault for document in documents for fault in document.faults):
        raise InputError(f"{place}:{fault.line}:{fault.column}: not a kubeconfig: {fault.reason}")
    try:
        config = msgspec.convert(_without_nulls(documents[0].value) if documents else {}, _Config)
    except msgspec.ValidationError as error:
        raise InputError(f"{place}: not a kubeconfig: {_plain(str(error))}") from error
    except UnicodeEncodeError as error:
        raise InputError(f"{place}: not a kubeconfig: it holds half of a surrogate pair") from error
    if (config.kind or "Config", config.api_version or "v1") != ("Config", "v1"):
        found = f"{shown(config.kind)} of {shown(config.api_version)}"
        raise InputError(f'{place}: not a kubeconfig: expected kind "Config" of apiVersion "v1", got {found}')
    return config


def _without_nulls(value: Any) -> Any:
    """To Kubernetes, a field that is null is one that is not there.

    Raises:
        UnicodeEncodeError: a text holds half of a surrogate pair, which nothing can be given.
    """
    if isinstance(value, dict):
        return {_without_nulls(key): _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if isinstance(value, str):
        value.encode()
    return value


def _plain(message: str) -> str:
    """Msgspec's `Expected X, got Y - at $.a[0].b` as `a[0].b: expected X, got Y`."""
    reason, _, path = message.replace("`", "").partition(" - at ")
    reason = reason[:1].lower() + reason[1:]
    path = path.removeprefix("$").removeprefix(".")
    return printable(f"{path}: {reason}" if path else reason)


class _Merged:
    """Several kubeconfigs as one. `path`: all of them, for messages."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.places: list[str] = []
        self._current = ""
        self._current_place = ""
        self._clusters: dict[str, tuple[_Cluster, _Source]] = {}
        self._users: dict[str, tuple[_User, _Source]] = {}
        self._contexts: dict[str, tuple[_Context, _Source]] = {}

    def add(self, path: Path, config: _Config) -> None:
        """What the files before did not have. Raises InputError when two entries of the file have one name."""
        place, folder = printable(str(path)), path.absolute().parent
        self.places.append(place)
        if not self._current and config.current_context:
            self._current, self._current_place = config.current_context, place
        clusters = [(item.name, item.cluster) for item in config.clusters]
        users = [(item.name, item.user) for item in config.users]
        contexts = [(item.name, item.context) for item in config.contexts]
        _add(self._clusters, "cluster", clusters, _Source(place, folder))
        _add(self._users, "user", users, _Source(place, folder))
        _add(self._contexts, "context", contexts, _Source(place, folder))

    def context(self) -> tuple[_Context, _Source]:
        """Raises InputError when there is no current one."""
        known = ", ".join(shown(name) for name in sorted(self._contexts)[:5])
        has = f"; it has {known}" if known else ""
        if not self._current:
            raise InputError(f"{self._path}: current-context: expected the name of a context, it is not set{has}")
        if self._current not in self._contexts:
            raise InputError(f"{self._current_place}: current-context: there is no context {shown(self._current)}{has}")
        return self._contexts[self._current]

    def cluster(self, context: _Context, source: _Source) -> tuple[_Cluster, _Source]:
        """Raises InputError when the context's is not there."""
        if context.cluster not in self._clusters:
            raise InputError(f"{source.place}: cluster: {_no_entry('cluster', context.cluster)}")
        return self._clusters[context.cluster]

    def user(self, context: _Context, source: _Source) -> tuple[_User, _Source]:
        """Nobody where the context names none. Raises InputError when the one that it names is not there."""
        if not context.user:
            return _User(), source
        if context.user not in self._users:
            raise InputError(f"{source.place}: user: {_no_entry('user', context.user)}")
        return self._users[context.user]


def _no_entry(kind: str, name: str) -> str:
    return f"there is no {kind} {shown(name)}" if name else f"expected the name of a {kind}, it is not set"


def _add(
    known: dict[str, tuple[Entry, _Source]], kind: str, entries: Sequence[tuple[str, Entry]], source: _Source
) -> None:
    names = [name for name, _ in entries]
    for name, entry in entries:
        if names.count(name) > 1:
            raise InputError(f"{source.place}: {kind}s: two have the name {shown(name)}")
        known.setdefault(name, (entry, source._replace(place=f"{source.place}: {kind} {printable(name)}")))


# -- the cluster --


def _server(cluster: _Cluster, user: _User, source: _Source) -> str:
    place = f"{source.place}: server"
    if not cluster.server:
        raise InputError(f"{place}: expected the URL of the API server, it is not set")
    if "://" in cluster.server:
        return checked_server(cluster.server, place)
    # As client-go: what is needed for TLS only, says that it is wanted.
    is_tls = (
        cluster.certificate_authority
        or cluster.certificate_authority_data
        or cluster.insecure_skip_tls_verify
        or user.client_certificate
        or user.client_certificate_data
    )
    return checked_server(f"{'https' if is_tls else 'http'}://{cluster.server}", place)


def _trust(cluster: _Cluster, cluster_source: _Source, user: _User, user_source: _Source) -> Trust:
    authorities = _data_or_file(
        cluster_source, "certificate-authority", cluster.certificate_authority, cluster.certificate_authority_data
    )
    if authorities is not None and cluster.insecure_skip_tls_verify:
        raise InputError(
            f"{cluster_source.place}: insecure-skip-tls-verify: cannot be true beside a certificate authority"
        )
    certificate = _data_or_file(
        user_source, "client-certificate", user.client_certificate, user.client_certificate_data
    )
    key = _data_or_file(user_source, "client-key", user.client_key, user.client_key_data)
    if certificate is not None and key is None:
        raise InputError(f"{user_source.place}: client-key: expected the key of client-certificate, it is not set")
    if certificate is None or key is None:
        # A key alone is of no use to anybody, and kubectl does not mind it.
        certificate = key = _Part(b"", "")
    return Trust(
        authorities=authorities.text if authorities else None,
        is_checked=not cluster.insecure_skip_tls_verify,
        server_name=cluster.tls_server_name,
        certificate=certificate.text,
        key=key.text,
        authorities_place=authorities.place if authorities else "",
        certificate_place=certificate.place,
        key_place=key.place,
    )


class _Part(NamedTuple):
    """A certificate or key, and where it stands."""

    text: bytes
    place: str


def _data_or_file(source: _Source, name: str, path: str, data: str) -> _Part | None:
    """What `name` or `name`-data says, None where neither does."""
    if path and data:
        raise InputError(f"{source.place}: {name}: cannot be set beside {name}-data")
    place = f"{source.place}: {name}"
    if data:
        return _Part(_base64(data, f"{place}-data"), f"{place}-data")
    if path:
        file = source.folder / path
        return _Part(read_file(file, place), f"{place}: {printable(str(file))}")
    return None


def _base64(data: str, place: str) -> bytes:
    try:
        return base64.b64decode(data.replace("\n", "").replace("\r", "").encode(), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise InputError(f"{place}: expected base64") from error


def _warnings(url: str, trust: Trust, source: _Source) -> tuple[str, ...]:
    if trust.is_checked or not url.startswith("https:"):
        return ()
    return (
        f"{source.place}: insecure-skip-tls-verify: whoever answers at {printable(url)} is believed, "
        "and is given the credentials",
    )


# -- the user --


def _headers(user: _User, source: _Source) -> tuple[tuple[str, str], ...]:
    headers = [("Authorization", authorization)] if (authorization := _authorization(user, source)) else []
    return (*headers, *_impersonation(user, source))


def _authorization(user: _User, source: _Source) -> str:
    is_basic = bool(user.username or user.password)
    token_field = "tokenFile" if user.token_file else "token"
    if is_basic and (user.token or user.token_file):
        raise InputError(f"{source.place}: username: cannot be set beside {token_field}")
    if is_basic:
        return basic_authorization(user.username, user.password)
    if user.token_file:
        try:
            return f"Bearer {read_token_file(source.folder / user.token_file, f'{source.place}: tokenFile')}"
        except InputError:
            # The file wins over `token`, which helps out where there is none.
            if not user.token:
                raise
    return f"Bearer {checked_token(user.token, f'{source.place}: token')}" if user.token else ""


def _impersonation(user: _User, source: _Source) -> list[tuple[str, str]]:
    if not user.as_user:
        for name, value in (
            ("as-uid", user.as_uid),
            ("as-groups", user.as_groups),
            ("as-user-extra", user.as_user_extra),
        ):
            if value:
                raise InputError(f"{source.place}: {name}: expected a user as whom to act (as), it is not set")
        return []
    place = source.place
    headers = [("Impersonate-User", checked_header(user.as_user, f"{place}: as"))]
    if user.as_uid:
        headers.append(("Impersonate-Uid", checked_header(user.as_uid, f"{place}: as-uid")))
    headers += [("Impersonate-Group", checked_header(group, f"{place}: as-groups")) for group in user.as_groups]
    for key, values in sorted(user.as_user_extra.items()):
        name = f"Impersonate-Extra-{quote(key, safe=_HEADER_NAME)}"
        headers += [(name, checked_header(value, f"{place}: as-user-extra")) for value in values]
    return headers


def _plugin(user: _User, source: _Source, cluster: Mapping[str, object]) -> Plugin | None:
    if user.auth_provider is not None:
        name = shown(user.auth_provider.get("name", ""))
        raise InputError(
            f"{source.place}: auth-provider: {name} is not supported any more, by kubectl neither; "
            "expected exec, with the plugin of the provider"
        )
    if user.exec is None:
        return None
    found, place = user.exec, f"{source.place}: exec"
    _check_plugin(found, place)
    command = found.command
    if os.sep in command:
        command = str(source.folder / command)
    return Plugin(
        place=place,
        command=command,
        arguments=tuple(found.args),
        environment=tuple((variable.name, variable.value) for variable in found.env),
        api_version=found.api_version,
        interactive_mode=found.interactive_mode or "IfAvailable",
        install_hint=found.install_hint,
        cluster=_cluster_json(cluster) if found.provide_cluster_info else "",
    )


def _check_plugin(plugin: _Exec, place: str) -> None:
    if not plugin.command:
        raise InputError(f"{place}.command: expected a program, it is not set")
    if plugin.api_version not in _PLUGIN_VERSIONS:
        found = f"got {shown(plugin.api_version)}" if plugin.api_version else "it is not set"
        raise InputError(f"{place}.apiVersion: expected {' or '.join(_PLUGIN_VERSIONS)}, {found}")
    if any(not variable.name or "=" in variable.name for variable in plugin.env):
        raise InputError(f"{place}.env: expected the name of a variable")
    words = [
        plugin.command,
        *plugin.args,
        *(text for variable in plugin.env for text in (variable.name, variable.value)),
    ]
    if any("\0" in word for word in words):
        raise InputError(f"{place}: a program cannot be given text with a zero byte")
    modes = _INTERACTIVE_MODES if plugin.api_version == _PLUGIN_VERSIONS[0] else ("", *_INTERACTIVE_MODES)
    if plugin.interactive_mode not in modes:
        found = f"got {shown(plugin.interactive_mode)}" if plugin.interactive_mode else "it is not set"
        raise InputError(f"{place}.interactiveMode: expected {', '.join(_INTERACTIVE_MODES)}, {found}")


def _cluster_information(cluster: _Cluster, url: str, trust: Trust) -> dict[str, object]:
    """What a plugin may be told, in the words of `ExecCredential`."""
    extension = next((item.extension for item in cluster.extensions if item.name == f"{_PLUGIN_GROUP}/exec"), None)
    fields = {
        "server": url,
        "tls-server-name": trust.server_name,
        "insecure-skip-tls-verify": not trust.is_checked,
        "certificate-authority-data": base64.b64encode(trust.authorities or b"").decode(),
        "proxy-url": cluster.proxy_url,
        "disable-compression": cluster.disable_compression,
        "config": extension,
    }
    return {name: value for name, value in fields.items() if value or name == "server"}


def _cluster_json(cluster: Mapping[str, object]) -> str:
    return msgspec.json.encode(cluster).decode()


# -- a pod --


def from_service_account(folder: Path, server: str = "") -> Access:
    """The access of a pod whose service account is mounted at `folder`.

    Raises:
        InputError: something of it is missing.
    """
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "")
    if not server and not port:
        raise InputError("$KUBERNETES_SERVICE_PORT: expected the port of the API server, it is not set")
    url = server or f"https://{f'[{host}]' if ':' in host else host}:{port}"
    place = f"{printable(str(folder))}: not a usable service account"
    authorities = folder / "ca.crt"
    return Access(
        server=checked_server(url, "API server" if server else "$KUBERNETES_SERVICE_HOST"),
        trust=Trust(authorities=read_file(authorities, place), authorities_place=printable(str(authorities))),
        headers=(("Authorization", f"Bearer {read_token_file(folder / 'token', place)}"),),
    )
