"""A kubeconfig or a pod's service account comes in, a configuration of the `kubernetes` client goes out.

Files are read, and where a kubeconfig says so a program is run for a token; nothing is sent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rulegen.errors import InputError, printable, shown

if TYPE_CHECKING:
    from kubernetes.client import Configuration

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_DEFAULT_KUBECONFIG = "~/.kube/config"


def find_configuration(kubeconfig: str = "", server: str = "") -> Callable[[], Configuration]:
    """How to read the configuration: of `kubeconfig`, else `$KUBECONFIG`, `~/.kube/config`, the pod's own cluster.

    `server`: the URL of the API server, instead of the one in the configuration. What is found is read each time, and
    an InputError when it cannot be used.

    Raises:
        InputError: there is none of these.
    """
    path = kubeconfig or os.environ.get("KUBECONFIG", "")
    default = Path(_DEFAULT_KUBECONFIG).expanduser()
    if not path and default.exists():
        path = str(default)
    if path:
        return partial(from_kubeconfig, path, server)
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return partial(from_service_account, SERVICE_ACCOUNT, server)
    raise InputError(
        "nothing to read: no manifests (-f), "
        f"no kubeconfig (--kubeconfig, $KUBECONFIG, {_DEFAULT_KUBECONFIG}), and this is no pod of a cluster"
    )


def from_kubeconfig(path: str, server: str = "") -> Configuration:
    """The configuration of a kubeconfig's current context; `path` may be several files with `:` between.

    Raises:
        InputError: it is missing, or cannot be used.
    """
    from kubernetes.client import Configuration
    from kubernetes.config import load_kube_config

    files = [Path(name).expanduser() for name in path.split(os.pathsep) if name]
    if not any(file.exists() for file in files):
        raise InputError(f"{printable(path)}: no such file")
    configuration = Configuration()
    with _unusable(f"{printable(path)}: not a usable kubeconfig"):
        load_kube_config(path, client_configuration=configuration, persist_config=False)
    _set_server(configuration, server or configuration.host)
    return configuration


def from_service_account(folder: Path, server: str = "") -> Configuration:
    """The configuration of a pod whose service account is mounted at `folder`.

    Raises:
        InputError: something of it is missing.
    """
    from kubernetes.client import Configuration
    from kubernetes.config.incluster_config import InClusterConfigLoader

    configuration = Configuration()
    with _unusable(f"{printable(str(folder))}: not a usable service account"):
        # What is in the files now; they are read again as those of a kubeconfig are.
        loader = InClusterConfigLoader(str(folder / "token"), str(folder / "ca.crt"), try_refresh_token=False)
        loader.load_and_set(configuration)
    _set_server(configuration, server or configuration.host)
    return configuration


def _set_server(configuration: Configuration, url: str) -> None:
    """Raises InputError for what is no URL of a server."""
    from urllib3.exceptions import LocationParseError
    from urllib3.util import parse_url

    try:
        parsed = parse_url(url)
        is_usable = parsed.scheme in ("http", "https") and bool(parsed.host)
    except LocationParseError:
        is_usable = False
    if not is_usable:
        raise InputError(f"API server: expected a URL such as https://192.0.2.1:6443, got {shown(url)}")
    configuration.host = url


@contextmanager
def _unusable(what: str) -> Iterator[None]:
    import yaml
    from kubernetes.config import ConfigException

    try:
        yield
    except (ConfigException, yaml.YAMLError, OSError, ValueError) as error:
        raise InputError(f"{what}: {_one_line(error)}") from error
    except (TypeError, AttributeError, LookupError) as error:
        # What the client raises for values of another type than it expects says nothing about the file.
        raise InputError(f"{what}: it is not built as one") from error


def _one_line(error: BaseException) -> str:
    return printable(" ".join(str(error).split()) or type(error).__name__)
