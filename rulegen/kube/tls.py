"""Whom to trust comes in, a TLS context goes out. On Linux keys and certificates never touch a disk.

A server is accepted as client-go accepts it: a chain to one of the authorities (which need not be a root), the name,
the dates. The default contexts of Python 3.13 ask for more (`VERIFY_X509_STRICT`): authorities that say their key usage
and key identifiers. Clusters have authorities that do not, and every other client of theirs accepts these.
"""

from __future__ import annotations

import os
import re
import ssl
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from rulegen.errors import InputError, printable
from rulegen.kube.access import Trust

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def client_context(trust: Trust) -> ssl.SSLContext:
    """A context for connections to the API server.

    Raises:
        InputError: a certificate or key cannot be used; says which.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    # An authority that another one has signed is enough.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.hostname_checks_common_name = False
    context.set_alpn_protocols(["http/1.1"])
    if not trust.is_checked:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif trust.authorities is None:
        context.load_default_certs()
    else:
        _load_authorities(context, trust.authorities, trust.authorities_place)
    if trust.certificate:
        _load_client_certificate(context, trust)
    return context


def _load_authorities(context: ssl.SSLContext, text: bytes, place: str) -> None:
    """As Go does it: what else is in a bundle, even certificates that cannot be read, does not matter beside one."""
    loaded = 0
    reason = "no certificate in PEM is in it"
    for block in _CERTIFICATE.findall(text):
        try:
            context.load_verify_locations(cadata=block.decode("latin-1"))
        except (ssl.SSLError, ValueError) as error:
            reason = f"a certificate cannot be read: {_ssl_reason(error)}"
        else:
            loaded += 1
    if not loaded:
        raise InputError(f"{place}: expected certificates in PEM, {reason}")


def _load_client_certificate(context: ssl.SSLContext, trust: Trust) -> None:
    if not _CERTIFICATE.search(trust.certificate):
        raise InputError(f"{trust.certificate_place}: expected a certificate in PEM, no certificate in PEM is in it")
    if b"PRIVATE KEY-----" not in trust.key:
        raise InputError(f"{trust.key_place}: expected a private key in PEM, no private key in PEM is in it")

    def refuse_passphrase() -> str:
        # OpenSSL would ask on the terminal.
        raise InputError(f"{trust.key_place}: expected a private key without a passphrase")

    try:
        with _in_memory(trust.certificate) as certificate, _in_memory(trust.key) as key:
            context.load_cert_chain(certificate, key, refuse_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise InputError(f"{trust.key_place}: the key is not that of the certificate") from error
        raise InputError(
            f"{trust.certificate_place}, {trust.key_place}: certificate or key cannot be read: {_ssl_reason(error)}"
        ) from error
    except OSError as error:
        raise InputError(f"{trust.certificate_place}: cannot be loaded: {error.strerror}") from error


@contextmanager
def _in_memory(text: bytes) -> Iterator[str]:
    """The name of a file that is in memory only: it is gone with the process, however that ends.

    Only Linux has such; elsewhere it is a temporary file that nobody else can read.
    """
    if sys.platform != "linux":
        with tempfile.NamedTemporaryFile(prefix="rulegen-") as named:
            named.write(text)
            named.flush()
            yield named.name
        return
    descriptor = os.memfd_create("rulegen", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(text)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _ssl_reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return printable(str(reason).replace("_", " ").lower() if reason else str(error))
