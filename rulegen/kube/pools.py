"""An access comes in, urllib3's pools for it go out: TLS, and the proxy that is to be gone through.

Which servers the environment exempts from its proxy is known by the `kubernetes` client. Import this module where it
is used: urllib3 takes time to load.
"""

from __future__ import annotations

import ipaddress
import os
from contextlib import suppress
from urllib.parse import unquote

from urllib3 import PoolManager, ProxyManager, make_headers
from urllib3.util import parse_url

from rulegen.errors import InputError, printable
from rulegen.kube.access import Access, Trust, checked_proxy
from rulegen.kube.tls import client_context
from rulegen.kube.transport import Waiting, pool_classes

_MOST_CONNECTIONS = 10


def make_pools(access: Access, trust: Trust, waiting: Waiting) -> PoolManager:
    """Pools for the server of `access` alone. `trust`: that of `access`, with what a plugin has given.

    Raises:
        InputError: a certificate or the URL of the proxy cannot be used, or the headers cannot go through it.
    """
    context = client_context(trust)
    proxy = environment_proxy(access.server) if access.proxy is None else access.proxy
    is_socks = proxy.startswith("socks5:")
    name = trust.server_name or None
    pools: PoolManager
    if proxy and not is_socks:
        _check_forwarding(access)
        pools = ProxyManager(
            _without_login(proxy),
            proxy_headers=_login(proxy),
            proxy_ssl_context=context,
            maxsize=_MOST_CONNECTIONS,
            ssl_context=context,
            server_hostname=name,
        )
    else:
        pools = PoolManager(maxsize=_MOST_CONNECTIONS, ssl_context=context, server_hostname=name)
    pools.pool_classes_by_scheme = pool_classes(waiting, proxy if is_socks else "")
    return pools


def _check_forwarding(access: Access) -> None:
    names = [name for name, _ in access.headers]
    if access.server.startswith("http:") and len(set(names)) < len(names):
        # urllib3 makes one header of several that it forwards, which names another group than any of them.
        raise InputError(
            f"{printable(access.server)}: several as-groups, or values of an as-user-extra, cannot be sent through an "
            "HTTP proxy without TLS"
        )


def environment_proxy(server: str) -> str:
    """The URL of the proxy that the environment names for a server, by the rules that kubectl follows; "" for none.

    Raises:
        InputError: what it names is no URL of a proxy.
    """
    url = parse_url(server)
    proxy = _variable(f"{url.scheme}_proxy")
    if not proxy or _is_loopback((url.host or "").strip("[]")) or _is_exempt(server):
        return ""
    return checked_proxy(proxy if "://" in proxy else f"http://{proxy}", f"${url.scheme}_proxy".upper())


def _variable(name: str) -> str:
    return os.environ.get(name.upper()) or os.environ.get(name, "")


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _is_exempt(server: str) -> bool:
    exempt = _variable("no_proxy")
    if not exempt:
        return False
    from kubernetes.client.rest import should_bypass_proxies

    return bool(should_bypass_proxies(server, exempt))


def _login(proxy: str) -> dict[str, str]:
    auth = parse_url(proxy).auth
    return dict(make_headers(proxy_basic_auth=unquote(auth))) if auth else {}


def _without_login(proxy: str) -> str:
    return parse_url(proxy)._replace(auth=None).url
