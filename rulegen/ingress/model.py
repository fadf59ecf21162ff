"""What a proxy serves, host by host: plain values, as the feature hands them on. No I/O, no words of nginx."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from rulegen.nginx.configuration import Pem

# The host of what is served where no other host matches.
ANY_HOST = ""
ROOT = "/"


class PathKind(Enum):
    """How a path is compared with a request's."""

    EXACT = "Exact"
    PREFIX = "Prefix"


class Backend(NamedTuple):
    """A Service's port, `shop/web:80`. `address` "": nobody can be reached there, and the answer is 503."""

    name: str
    address: str = ""
    port: int = 0


class Path(NamedTuple):
    """A path of one host, decoded; a Prefix other than `/` without the slash at its end.

    `ingress`: whose it is, `shop/web`; `is_default`: from `defaultBackend`, and no rule.
    """

    kind: PathKind
    path: str
    backend: Backend
    ingress: str
    is_default: bool = False


class Site(NamedTuple):
    """A host: exact, `*.` and a name, or `ANY_HOST`. `paths`: sorted; `secret`: where the certificate is from."""

    host: str
    paths: tuple[Path, ...]
    certificate: Pem | None = None
    secret: str = ""

    @property
    def owners(self) -> tuple[str, ...]:
        """The Ingresses that it is made of."""
        return tuple(sorted({path.ingress for path in self.paths}))


def matching(paths: Iterable[Path], requested: str) -> Path | None:
    """The path that a request gets, given decoded; None: nothing is there (404).

    The longest wins, and Exact before Prefix (networking.k8s.io/v1, HTTPIngressPath).
    """
    found = [path for path in paths if _matches(path, requested)]
    return max(found, key=lambda path: (path.kind is PathKind.EXACT, len(path.path)), default=None)


def _matches(path: Path, requested: str) -> bool:
    if path.kind is PathKind.EXACT or path.path == requested:
        return path.path == requested
    return requested.startswith(path.path if path.path == ROOT else f"{path.path}/")


def host_for(hosts: Iterable[str], requested: str) -> str:
    """Which host of `hosts` a request's is: the same, else the wildcard that stands for its first label, else any."""
    known = set(hosts)
    wildcard = "*." + requested.partition(".")[2]
    return next((host for host in (requested, wildcard) if host in known), ANY_HOST)
