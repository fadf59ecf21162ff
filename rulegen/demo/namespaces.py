"""Network namespaces without a name: nothing comes in, a namespace comes out that ends with its last user.

No name means nothing to clean up: when the process ends, however it ends, the kernel removes the namespace with its
interfaces and rules. Never changes the namespace that the process started in.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from rulegen.errors import HostError

_CLONE_NEWNET = 0x40000000
_OWN_NAMESPACE = "/proc/thread-self/ns/net"

_libc = ctypes.CDLL(None, use_errno=True)


class NetworkNamespace:
    """A new network namespace, with nothing in it but `lo`, up.

    Raises HostError without the privilege to make one. Usable as a context manager that closes it.
    """

    def __init__(self) -> None:
        self.fd = _new_namespace()
        with self.entered():
            _set_loopback_up()

    def __enter__(self) -> NetworkNamespace:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the namespace; the kernel removes it when no socket or process in it is left."""
        os.close(self.fd)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread, and processes that it starts, are inside meanwhile. Sockets opened inside stay there."""
        outside = os.open(_OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(self.fd)
            try:
                yield
            finally:
                _enter(outside)
        finally:
            os.close(outside)

    def set_sysctl(self, name: str, value: str | int) -> None:
        """Sets a sysctl of this namespace; `name` is the path below /proc/sys/net, such as `ipv4/ip_forward`."""
        with self.entered():
            try:
                Path("/proc/sys/net", name).write_text(str(value))
            except OSError as error:
                raise HostError(f"/proc/sys/net/{name}: {error.strerror}") from error


def _new_namespace() -> int:
    """A file descriptor of a new namespace, made by a thread that ends there: the caller stays where it is."""
    if sys.platform != "linux":
        raise HostError("no network namespace: only Linux has them")
    made: list[int] = []
    failed: list[OSError] = []

    def make() -> None:
        try:
            _checked(_libc.unshare(_CLONE_NEWNET))
            made.append(os.open(_OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=make, name="new network namespace")
    thread.start()
    thread.join()
    if failed:
        raise HostError(
            f"no network namespace: {failed[0].strerror} (run as root, or inside `unshare -rn`)"
        ) from failed[0]
    return made[0]


def _enter(namespace: int) -> None:
    _checked(_libc.setns(namespace, _CLONE_NEWNET))


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _set_loopback_up() -> None:
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        ip.link("set", index=ip.link_lookup(ifname="lo")[0], state="up")
