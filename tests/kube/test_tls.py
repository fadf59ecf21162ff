"""Whose certificates are accepted: as client-go verifies them, whatever the version of Python."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from rulegen.kube.access import Trust
from rulegen.kube.api import Api, connect
from rulegen.kube.tls import client_context
from tests.apiserver import ApiServer
from tests.apiserver.server import certificate_authority
from tests.kube.conftest import listed, refusal

pytestmark = pytest.mark.usefixtures("nowhere")

Key: TypeAlias = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

DAY = datetime.timedelta(days=1)
SERVER = (x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),)
AUTHORITY = (x509.BasicConstraints(ca=True, path_length=None),)


class Pair(NamedTuple):
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


def issue(
    name: str,
    extensions: tuple[x509.ExtensionType, ...],
    issuer: Pair | None = None,
    *,
    key: Key | None = None,
    days: tuple[int, int] = (-1, 1),
) -> Pair:
    """A certificate with these extensions and no others; signed by itself without an issuer."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + days[0] * DAY)
        .not_valid_after(now + days[1] * DAY)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
    signer = issuer.key if issuer else key
    digest = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return Pair(builder.sign(signer, digest), key)


@contextmanager
def served(tmp_path: Path, chain: list[Pair], authority: bytes) -> Iterator[Api]:
    """An API server with this chain, and who trusts the authority."""
    file = tmp_path / "server.pem"
    key = chain[0].key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(b"".join(pair.pem for pair in chain) + key)
    with ApiServer(configure_certificate=lambda context: context.load_cert_chain(file)) as server:
        data = base64.b64encode(authority).decode()
        yield connect(server.kubeconfig(tmp_path / "k", cluster={"certificate-authority-data": data}))


@pytest.fixture(params=["as it is", "as in Python 3.13"])
def strictness(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.13 makes contexts strict; here the class does it, so that a context is strict unless told otherwise."""
    if request.param == "as it is":
        return
    make = ssl.SSLContext.__new__

    def strict(cls: type[ssl.SSLContext], protocol: int) -> ssl.SSLContext:
        context = make(cls, protocol)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl.SSLContext, "__new__", strict)


def key_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def test_a_context_is_not_strict(strictness: None) -> None:
    context = client_context(Trust(authorities=certificate_authority().cert_pem.bytes()))
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.verify_flags & ssl.VERIFY_X509_PARTIAL_CHAIN
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_an_authority_without_key_usage(strictness: None, tmp_path: Path) -> None:
    authority = issue("kubernetes", AUTHORITY)
    with served(tmp_path, [issue("kube-apiserver", SERVER, authority)], authority.pem) as api:
        assert listed(api) == []


def test_an_authority_without_key_identifiers(strictness: None, tmp_path: Path) -> None:
    authority = issue("kubernetes", (*AUTHORITY, key_usage()))
    with served(tmp_path, [issue("kube-apiserver", SERVER, authority)], authority.pem) as api:
        assert listed(api) == []


def test_what_was_made_for_it_is_strict_here(strictness: None, tmp_path: Path) -> None:
    """So that the two above mean something: a strict context refuses the same authority."""
    authority = issue("kubernetes", AUTHORITY)
    with served(tmp_path, [issue("kube-apiserver", SERVER, authority)], authority.pem) as api:
        context = ssl.create_default_context(cadata=authority.pem.decode())
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        host, port = api.server.removeprefix("https://").split(":")
        with (
            pytest.raises(ssl.SSLCertVerificationError),
            socket.create_connection((host, int(port))) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            pass


def test_an_authority_that_another_one_has_signed(tmp_path: Path) -> None:
    root = issue("root", AUTHORITY)
    between = issue("between", AUTHORITY, root)
    server = issue("kube-apiserver", SERVER, between)
    with served(tmp_path, [server], between.pem) as api:
        assert listed(api) == []
    with served(tmp_path, [server, between], root.pem) as api:
        assert listed(api) == []
    with served(tmp_path, [server], root.pem) as api:
        assert "its certificate is not accepted: " in refusal(lambda: listed(api))


def test_a_server_that_is_its_own_authority(tmp_path: Path) -> None:
    alone = issue("kube-apiserver", SERVER)
    with served(tmp_path, [alone], alone.pem) as api:
        assert listed(api) == []


def test_other_kinds_of_keys(tmp_path: Path) -> None:
    authority = issue("kubernetes", AUTHORITY, key=ed25519.Ed25519PrivateKey.generate())
    with served(tmp_path, [issue("kube-apiserver", SERVER, authority)], authority.pem) as api:
        assert listed(api) == []


def test_what_else_is_in_a_bundle_does_not_matter(tmp_path: Path) -> None:
    authority = issue("kubernetes", AUTHORITY)
    other = issue("other", AUTHORITY)
    broken = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    bundle = b"# of the cluster\r\n" + other.pem + broken + authority.pem.replace(b"\n", b"\r\n") + authority.pem
    with served(tmp_path, [issue("kube-apiserver", SERVER, authority)], bundle) as api:
        assert listed(api) == []


def named(name: str) -> tuple[x509.ExtensionType, ...]:
    return (x509.SubjectAlternativeName([x509.DNSName(name)]),)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda authority: issue("s", SERVER, authority, days=(-3, -2)), "certificate has expired"),
        (lambda authority: issue("s", SERVER, authority, days=(2, 3)), "certificate is not yet valid"),
        (lambda authority: issue("s", named("elsewhere"), authority), "IP address mismatch"),
        # As Go: the common name is no name of a server.
        (lambda authority: issue("127.0.0.1", (), authority), "IP address mismatch"),
        (lambda _: issue("s", SERVER, issue("kubernetes", AUTHORITY)), "certificate signature failure"),
        (lambda _: issue("s", SERVER), "self-signed certificate"),
    ],
)
def test_servers_that_are_refused(
    strictness: None, tmp_path: Path, make: Callable[[Pair], Pair], expected: str
) -> None:
    authority = issue("kubernetes", AUTHORITY)
    with served(tmp_path, [make(authority)], authority.pem) as api:
        message = refusal(lambda: listed(api))
        assert message.startswith(f"{api.server}: its certificate is not accepted: {expected}")


def test_a_common_name_is_no_name_of_a_server(tmp_path: Path) -> None:
    """As Go has it; a name of the system, not an address, which no common name is compared with anyway."""
    authority = issue("kubernetes", AUTHORITY)
    with served(tmp_path, [issue("localhost", (), authority)], authority.pem) as api:
        by_name = connect(str(tmp_path / "k"), api.server.replace("127.0.0.1", "localhost"))
        assert "its certificate is not accepted: Hostname mismatch" in refusal(lambda: listed(by_name))


def test_an_authority_that_may_not_sign_is_none(tmp_path: Path) -> None:
    leaf = issue("kubernetes", (x509.BasicConstraints(ca=False, path_length=None),))
    with served(tmp_path, [issue("kube-apiserver", SERVER, leaf)], leaf.pem) as api:
        assert "its certificate is not accepted: " in refusal(lambda: listed(api))
