"""A TLS Secret comes in; a certificate and its key that OpenSSL takes go out, or what is wrong with them.

nginx reads them when a client asks for their name, and `nginx -t` never does: so each is tried here as nginx would, by
OpenSSL, from memory, and is held to a size that others do not wait for. No word that is said has anything of a Secret.
"""

from __future__ import annotations

import binascii
import os
import ssl
from base64 import b64decode
from collections.abc import Mapping

from rulegen.errors import InputError
from rulegen.kube.objects import Secret
from rulegen.nginx.configuration import Pem

_CERTIFICATE, _KEY = "tls.crt", "tls.key"
# 0.15 ms each, of the time of all clients.
_MAX_PARTS = 11
_MAX_SIZE = 64 << 10


def certificate_of(secret: Secret) -> Pem:
    """Raises InputError, in words that follow the Secret's name."""
    certificate, key = _value(secret, _CERTIFICATE).strip(), _value(secret, _KEY).strip()
    content = b"\n".join((certificate, key, b""))
    if len(content) > _MAX_SIZE or content.count(b"-----BEGIN ") > _MAX_PARTS:
        raise InputError(f"has more than {_MAX_PARTS - 1} certificates, or {_MAX_SIZE >> 10} KiB")
    if b"ENCRYPTED" in content:
        raise InputError(f"has a {_KEY} that is encrypted: nobody would tell nginx its password")
    file = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(file, content)
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(f"/proc/self/fd/{file}", password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None)
        words = str(reason).lower().replace("_", " ") if reason else "no PEM that OpenSSL can read"
        raise InputError(f"its {_CERTIFICATE} and {_KEY} cannot be used: {words}") from None
    finally:
        os.close(file)
    return Pem(content)


def _no_password() -> bytes:
    # Else OpenSSL asks whoever sits at the terminal.
    return b""


def _value(secret: Secret, name: str) -> bytes:
    plain = secret.string_data.get(name) if isinstance(secret.string_data, Mapping) else None
    if isinstance(plain, str):
        return plain.encode("utf-8", "replace")
    encoded = secret.data.get(name) if isinstance(secret.data, Mapping) else None
    if not isinstance(encoded, str | bytes):
        raise InputError(f"has no {name}")
    try:
        return b64decode(encoded, validate=False)
    except (binascii.Error, ValueError):
        raise InputError(f"has a {name} that is not base64") from None
