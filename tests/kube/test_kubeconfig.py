"""Kubeconfigs of every kind: what kubectl accepts works, all else is one line that names the file and the field."""

from __future__ import annotations

import base64
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from rulegen.errors import InputError
from rulegen.kube.api import Api, connect
from rulegen.kube.kubeconfig import from_kubeconfig, from_service_account
from tests.apiserver import ApiServer
from tests.apiserver.server import TOKEN, certificate_authority
from tests.builders import service
from tests.kube.conftest import listed, refusal
from tests.patience import patience

pytestmark = pytest.mark.usefixtures("nowhere")


@pytest.fixture
def client() -> trustme.LeafCert:
    return certificate_authority().issue_cert("me")


def encoded(text: bytes | str) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def key_of(certificate: trustme.LeafCert) -> bytes:
    return certificate.private_key_pem.bytes()


def chain_of(certificate: trustme.LeafCert) -> bytes:
    return b"".join(pem.bytes() for pem in certificate.cert_chain_pems)


def works(server: ApiServer, tmp_path: Path, user: dict[str, Any], cluster: dict[str, Any] | None = None) -> Api:
    """A kubeconfig with this user (and these fields of the cluster) can be used."""
    server.put(service("web"))
    api = connect(server.kubeconfig(tmp_path / "config", user=user, cluster=cluster))
    assert [item.name for item in listed(api)] == ["web"]
    return api


def fails(server: ApiServer, tmp_path: Path, user: dict[str, Any], cluster: dict[str, Any] | None = None) -> str:
    """It cannot be used; the line, in which PATH stands for the folder."""
    path = server.kubeconfig(tmp_path / "config", user=user, cluster=cluster)
    return refusal(lambda: connect(path), InputError).replace(str(tmp_path), "PATH")


# -- tokens --


@pytest.mark.parametrize("text", ["{}", "{}\n", "{}\r\n", "\r\n\t {} \n\n", "\v{}\f"])
def test_white_space_around_a_token_in_a_file_is_not_a_part_of_it(server: ApiServer, tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_bytes(text.format(TOKEN).encode())
    works(server, tmp_path, {"tokenFile": str(tmp_path / "token")})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "expected a token, the file is empty"),
        (b" \r\n", "expected a token, the file is empty"),
        (b"one\ntwo", "found U+000A at character 4"),
        (b"one\r\ntwo\r\n", "found U+000D at character 4"),
        (b"one two", "found U+0020 at character 4"),
        (b"a\0b", "found U+0000 at character 2"),
        (b"\xef\xbb\xbftoken", "found U+00EF at character 1"),
        (b"\xff\xfet\0o\0k\0", "found U+00FF at character 1"),
        ("t\u00f6ken".encode(), "found U+00C3 at character 2"),
    ],
)
def test_a_file_that_holds_no_token(server: ApiServer, tmp_path: Path, text: bytes, expected: str) -> None:
    (tmp_path / "token").write_bytes(text)
    message = fails(server, tmp_path, {"tokenFile": "token"})
    assert message.startswith("PATH/config: user me: tokenFile: PATH/token: expected a token")
    assert message.endswith(expected)


@pytest.mark.parametrize("token", ["secret\n", "sec\rret", "sec ret", "s\u00e9cret", "sec\x1b[1mret"])
def test_a_token_that_no_header_can_carry_is_not_shown(server: ApiServer, tmp_path: Path, token: str) -> None:
    message = fails(server, tmp_path, {"token": token})
    assert message.startswith("PATH/config: user me: token: expected a token of printable ASCII characters")
    assert "ret" not in message


def test_files_that_cannot_be_read(server: ApiServer, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert fails(server, tmp_path, {"tokenFile": "none"}) == (
        "PATH/config: user me: tokenFile: PATH/none: No such file or directory"
    )
    assert fails(server, tmp_path, {"tokenFile": "."}) == ("PATH/config: user me: tokenFile: PATH: Is a directory")
    for path in ("pipe", "/dev/zero"):
        assert fails(server, tmp_path, {"tokenFile": path}).endswith("expected a regular file")
    assert fails(server, tmp_path, {"tokenFile": "a\0b"}).endswith("no name of a file")
    assert fails(server, tmp_path, {"tokenFile": "x" * 300}).endswith("File name too long")
    with (tmp_path / "large").open("wb") as large:
        large.truncate(17 << 20)
    assert fails(server, tmp_path, {"tokenFile": "large"}).endswith("larger than 16 MiB")


def test_the_file_wins_over_the_token_and_is_read_again(server: ApiServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    api = works(server, tmp_path, {"tokenFile": "token", "token": "another"})
    server.tokens = {"second"}
    token.write_text("second\n")
    assert listed(api)
    # As with kubectl: without the file, the token.
    token.unlink()
    works(server, tmp_path, {"tokenFile": "token", "token": "second"})


def test_a_token_file_in_the_middle_of_being_replaced_is_used_as_it_was(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    api = works(server, tmp_path, {"tokenFile": "token"})
    monkeypatch.setattr("rulegen.kube.api._CREDENTIALS_SECONDS", 0.0)
    token.write_text("")
    assert listed(api)
    # It is refused, and only then what is wrong with the file matters.
    server.tokens = {"second"}
    assert "expected a token, the file is empty" in refusal(lambda: listed(api), InputError)
    token.write_text("second")
    assert listed(api)


def test_reading_files_again_keeps_connections(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    monkeypatch.setattr("rulegen.kube.api._CREDENTIALS_SECONDS", 0.0)
    api = works(server, tmp_path, {"tokenFile": "token"})
    server.tokens = {"second"}
    token.write_text("second")
    assert listed(api)
    assert server.connections == 1


# -- other ways to say who asks --


def test_a_user_name_and_a_password(server: ApiServer, tmp_path: Path) -> None:
    server.tokens = {"me:p\u00e4ss:word"}
    works(server, tmp_path, {"username": "me", "password": "p\u00e4ss:word"})
    for other in ({"token": "t"}, {"tokenFile": "t"}):
        message = fails(server, tmp_path, {"username": "me", "password": "x", **other})
        assert message == f"PATH/config: user me: username: cannot be set beside {next(iter(other))}"


def test_acting_as_another(server: ApiServer, tmp_path: Path) -> None:
    user = {
        "token": TOKEN,
        "as": "jane",
        "as-uid": "u-1",
        "as-groups": ["system:masters", "a, b"],
        "as-user-extra": {"Example.org/scope X": ["one", "tw\u00f6"]},
    }
    works(server, tmp_path, user)
    headers = server.headers[-1]
    assert headers["Impersonate-User"] == "jane"
    assert headers["Impersonate-Uid"] == "u-1"
    assert headers.get_all("Impersonate-Group") == ["system:masters", "a, b"]
    extra = headers.get_all("Impersonate-Extra-Example.org%2Fscope%20X") or []
    assert [value.encode("latin-1").decode() for value in extra] == ["one", "tw\u00f6"]


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ({"as": "a\r\nX: y"}, "as: expected text that an HTTP header can carry"),
        ({"as": " "}, "as: expected text that an HTTP header can carry"),
        ({"as": "a", "as-groups": ["b\n"]}, "as-groups: expected text that an HTTP header can carry"),
        ({"as": "a", "as-uid": "\0"}, "as-uid: expected text that an HTTP header can carry"),
        ({"as": "a", "as-user-extra": {"k": [""]}}, "as-user-extra: expected text that an HTTP header can carry"),
        ({"as-groups": ["b"]}, "as-groups: expected a user as whom to act (as), it is not set"),
        ({"as-uid": "b"}, "as-uid: expected a user as whom to act (as), it is not set"),
        ({"as-user-extra": {"a": ["b"]}}, "as-user-extra: expected a user as whom to act (as), it is not set"),
    ],
)
def test_acting_as_nobody(server: ApiServer, tmp_path: Path, user: dict[str, Any], expected: str) -> None:
    assert fails(server, tmp_path, user).startswith(f"PATH/config: user me: {expected}")


def test_auth_providers_are_gone(server: ApiServer, tmp_path: Path) -> None:
    for name in ("gcp", "oidc", "azure"):
        message = fails(server, tmp_path, {"auth-provider": {"name": name, "config": {"access-token": "x"}}})
        assert message.startswith(f'PATH/config: user me: auth-provider: "{name}" is not supported any more')
        assert "expected exec" in message


def test_nobody_in_particular(server: ApiServer, tmp_path: Path) -> None:
    """A context without a user, and a user who says nothing, ask anonymously; that is for the server to judge."""
    server.tokens.add("")
    works(server, tmp_path, {})
    path = tmp_path / "config"
    document = json.loads(path.read_text())
    document["users"] = None
    document["contexts"][0]["context"]["user"] = None
    path.write_text(json.dumps(document))
    assert listed(connect(str(path)))
    assert server.headers[-1]["Authorization"] is None


# -- certificates --


def test_a_client_certificate_as_data_or_in_files(server: ApiServer, tmp_path: Path, client: trustme.LeafCert) -> None:
    server.tokens = set()
    works(
        server,
        tmp_path,
        {"client-certificate-data": encoded(chain_of(client)), "client-key-data": encoded(key_of(client))},
    )
    # Relative to the kubeconfig, and with line ends of another system.
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls/crt").write_bytes(chain_of(client).replace(b"\n", b"\r\n"))
    (tmp_path / "tls/key").write_bytes(key_of(client).replace(b"\n", b"\r\n"))
    works(server, tmp_path, {"client-certificate": "tls/crt", "client-key": "tls/key"})
    works(server, tmp_path, {"client-certificate": "tls/crt", "client-key-data": encoded(key_of(client))})


def test_a_client_certificate_on_another_system(
    server: ApiServer, tmp_path: Path, client: trustme.LeafCert, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.tokens = set()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    data = {"client-certificate-data": encoded(chain_of(client)), "client-key-data": encoded(key_of(client))}
    works(server, tmp_path, data)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_base64_may_be_in_lines(server: ApiServer, tmp_path: Path, client: trustme.LeafCert) -> None:
    server.tokens = set()
    lines = base64.encodebytes(chain_of(client)).decode().replace("\n", "\r\n")
    works(server, tmp_path, {"client-certificate-data": lines, "client-key-data": encoded(key_of(client))})


def test_a_certificate_that_is_replaced_is_used(server: ApiServer, tmp_path: Path, client: trustme.LeafCert) -> None:
    """As a kubelet replaces its own, in one file with the key."""
    both = tmp_path / "kubelet.pem"
    other = trustme.CA().issue_cert("me")
    both.write_bytes(chain_of(other) + key_of(other))
    server.put(service("web"))
    server.tokens = set()
    api = connect(server.kubeconfig(tmp_path / "k", user={"client-certificate": str(both), "client-key": str(both)}))
    assert "ertificate" in refusal(lambda: listed(api)) or server.connections
    both.write_bytes(chain_of(client) + key_of(client))
    api = connect(str(tmp_path / "k"))
    assert listed(api)


def test_client_certificates_that_cannot_be_used(server: ApiServer, tmp_path: Path, client: trustme.LeafCert) -> None:
    certificate, key = encoded(chain_of(client)), encoded(key_of(client))
    other = encoded(key_of(certificate_authority().issue_cert("other")))

    def message(user: dict[str, Any]) -> str:
        return fails(server, tmp_path, user).removeprefix("PATH/config: user me: ")

    assert message({"client-certificate-data": certificate}) == (
        "client-key: expected the key of client-certificate, it is not set"
    )
    assert message({"client-certificate-data": certificate, "client-key-data": other}) == (
        "client-key-data: the key is not that of the certificate"
    )
    assert message({"client-certificate-data": certificate, "client-key-data": "%%%"}) == (
        "client-key-data: expected base64"
    )
    assert message({"client-certificate-data": certificate, "client-key-data": encoded("hello")}) == (
        "client-key-data: expected a private key in PEM, no private key in PEM is in it"
    )
    assert message({"client-certificate-data": key, "client-key-data": key}) == (
        "client-certificate-data: expected a certificate in PEM, no certificate in PEM is in it"
    )
    assert message({"client-certificate-data": certificate, "client-certificate": "x", "client-key-data": key}) == (
        "client-certificate: cannot be set beside client-certificate-data"
    )
    assert message({"client-certificate": "none", "client-key-data": key}) == (
        "client-certificate: PATH/none: No such file or directory"
    )
    broken = encoded(chain_of(client).replace(b"\nMII", b"\nAAA"))
    assert message({"client-certificate-data": broken, "client-key-data": key}).startswith(
        "client-certificate-data, PATH/config: user me: client-key-data: certificate or key cannot be read: "
    )


def test_a_key_with_a_passphrase_asks_nobody(server: ApiServer, tmp_path: Path, client: trustme.LeafCert) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    key = load_pem_private_key(key_of(client), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    message = fails(
        server, tmp_path, {"client-certificate-data": encoded(chain_of(client)), "client-key-data": encoded(key)}
    )
    assert message == "PATH/config: user me: client-key-data: expected a private key without a passphrase"


def test_a_key_without_a_certificate_does_not_matter(
    server: ApiServer, tmp_path: Path, client: trustme.LeafCert
) -> None:
    works(server, tmp_path, {"token": TOKEN, "client-key-data": encoded(key_of(client))})


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ({"certificate-authority-data": "!"}, "certificate-authority-data: expected base64"),
        ({"certificate-authority-data": "QQ"}, "certificate-authority-data: expected base64"),
        ({"certificate-authority-data": encoded("x")}, "certificate-authority-data: expected certificates in PEM"),
        (
            {"certificate-authority-data": encoded("-----BEGIN CERTIFICATE-----\nQQ==\n-----END CERTIFICATE-----\n")},
            "certificate-authority-data: expected certificates in PEM, a certificate cannot be read",
        ),
        (
            {"certificate-authority-data": None, "certificate-authority": "none"},
            "certificate-authority: PATH/none: No such file or directory",
        ),
        ({"certificate-authority": "none"}, "certificate-authority: cannot be set beside certificate-authority-data"),
        (
            {"insecure-skip-tls-verify": True},
            "insecure-skip-tls-verify: cannot be true beside a certificate authority",
        ),
    ],
)
def test_authorities_that_cannot_be_used(
    server: ApiServer, tmp_path: Path, cluster: dict[str, Any], expected: str
) -> None:
    assert fails(server, tmp_path, {}, cluster).startswith(f"PATH/config: cluster it: {expected}")


def test_an_authority_in_a_file_beside_the_kubeconfig(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate_authority().cert_pem.write_to_path(tmp_path / "ca.crt")
    cluster = {"certificate-authority-data": "", "certificate-authority": "ca.crt"}
    works(server, tmp_path, {"token": TOKEN}, cluster)
    monkeypatch.chdir(tmp_path)
    assert listed(connect("config"))
    (tmp_path / "ca.crt").write_bytes(b"")
    assert fails(server, tmp_path, {}, cluster) == (
        "PATH/config: cluster it: certificate-authority: PATH/ca.crt: "
        "expected certificates in PEM, no certificate in PEM is in it"
    )


def test_a_server_that_is_not_checked_is_warned_of_once(
    server: ApiServer, tmp_path: Path, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the kubeconfig says so later only."""
    monkeypatch.setattr("rulegen.kube.api._CREDENTIALS_SECONDS", 0.0)
    warnings: list[str] = []
    api = connect(server.kubeconfig(tmp_path / "config"), warn=warnings.append)
    listed(api)
    assert warnings == []
    server.kubeconfig(
        tmp_path / "config", cluster={"certificate-authority-data": None, "insecure-skip-tls-verify": True}
    )
    listed(api)
    (tmp_path / "config").write_text((tmp_path / "config").read_text().replace("first-token", "another"))
    server.tokens.add("another")
    listed(api)
    assert warnings == [
        f"{tmp_path}/config: cluster it: insecure-skip-tls-verify: whoever answers at {server.url} is believed, "
        "and is given the credentials",
    ]
    assert not recwarn.list


# -- servers --


def test_the_name_in_the_servers_certificate_may_be_another(server: ApiServer, tmp_path: Path) -> None:
    elsewhere = server.url.replace("127.0.0.1", "127.0.0.2")
    with ApiServer("127.0.0.2") as other:
        works(other, tmp_path, {"token": TOKEN}, {"tls-server-name": "localhost"})
        api = connect(other.kubeconfig(tmp_path / "k"))
        assert "its certificate is not accepted: IP address mismatch" in refusal(lambda: listed(api))
        api = connect(other.kubeconfig(tmp_path / "k", cluster={"tls-server-name": "other"}))
        assert "its certificate is not accepted: Hostname mismatch" in refusal(lambda: listed(api))
    assert elsewhere != server.url


def test_a_server_of_the_other_family(tmp_path: Path) -> None:
    with ApiServer("::1") as server:
        assert server.url.startswith("https://[::1]:")
        works(server, tmp_path, {"token": TOKEN})


def test_a_server_without_a_scheme(server: ApiServer, tmp_path: Path) -> None:
    """As client-go has it: https where anything is said about TLS."""
    works(server, tmp_path, {"token": TOKEN}, {"server": server.url.removeprefix("https://")})
    path = server.kubeconfig(tmp_path / "k", user={}, cluster={"server": "h:1", "certificate-authority-data": None})
    assert connect(path).server == "http://h:1"


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("https://h/k8s/clusters/c-1/", "https://h/k8s/clusters/c-1"),
        ("HTTPS://H:6443", "https://h:6443"),
        ("https://h:6443/", "https://h:6443"),
        ("https://[2001:DB8::1]:6443", "https://[2001:db8::1]:6443"),
        ("http://192.0.2.1:8080", "http://192.0.2.1:8080"),
    ],
)
def test_servers_as_they_are_written(server: ApiServer, tmp_path: Path, url: str, meant: str) -> None:
    assert connect(server.kubeconfig(tmp_path / "k", cluster={"server": url})).server == meant


def test_answers_that_are_not_to_be_compressed(server: ApiServer, tmp_path: Path) -> None:
    works(server, tmp_path, {"token": TOKEN}, {"disable-compression": True})
    assert server.headers[-1]["Accept-Encoding"] == "identity"
    works(server, tmp_path, {"token": TOKEN})
    assert server.headers[-1]["Accept-Encoding"] == "gzip"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ftp://x", '"ftp://x"'),
        ("https://", '"https://"'),
        ("https://me:secret@x", '"https://...@x"'),
        ("https://x/?a=b", '"https://x/?a=b"'),
        ("https://x#y", '"https://x#y"'),
        ("https://[::1", '"https://[::1"'),
        ("https://x:99999", '"https://x:99999"'),
    ],
)
def test_servers_that_are_none(server: ApiServer, tmp_path: Path, url: str, shown: str) -> None:
    message = fails(server, tmp_path, {}, {"server": url})
    assert message.startswith("PATH/config: cluster it: server: expected a URL")
    assert message.endswith(f"got {shown}")


# -- contexts and several files --

KUBECONFIG = """
current-context: here
contexts: [{name: here, context: {cluster: it, user: me}}]
clusters: [{name: it, cluster: {server: "https://192.0.2.1"}}]
users: [{name: me, user: {token: t}}]
"""


@pytest.mark.parametrize(
    ("was", "now", "expected"),
    [
        ("current-context: here", "current-context:", "current-context: expected the name of a context, it is not set"),
        ("current-context: here", "current-context: x", 'current-context: there is no context "x"; it has "here"'),
        ("cluster: it, ", "", "context here: cluster: expected the name of a cluster, it is not set"),
        ("cluster: it,", "cluster: that,", 'context here: cluster: there is no cluster "that"'),
        ("user: me}", "user: you}", 'context here: user: there is no user "you"'),
        ('server: "https://192.0.2.1"', "", "cluster it: server: expected the URL of the API server, it is not set"),
        ("{name: it,", "{name: it}, {name: it,", 'clusters: two have the name "it"'),
        ("users: [", "users: [{name: me}, ", 'users: two have the name "me"'),
        ("contexts: [", "contexts: [{name: here}, ", 'contexts: two have the name "here"'),
        ("token: t", "token: 5", "not a kubeconfig: users[0].user.token: expected str, got int"),
        ("token: t", "tokenFile: [t]", "not a kubeconfig: users[0].user.tokenFile: expected str, got array"),
        ("{token: t}", "5", "not a kubeconfig: users[0].user: expected object, got int"),
        ("contexts:", "kind: Secret\ncontexts:", 'not a kubeconfig: expected kind "Config" of apiVersion "v1", got '),
        ("contexts:", "apiVersion: v2\ncontexts:", 'not a kubeconfig: expected kind "Config" of apiVersion "v1", got '),
        ("users:", "---\nusers:", "not a kubeconfig: it holds 2 documents"),
        ('"https://192.0.2.1"', "[https]", "not a kubeconfig: clusters[0].cluster.server: expected str, got array"),
    ],
)
def test_a_kubeconfig_with_a_mistake(tmp_path: Path, was: str, now: str, expected: str) -> None:
    path = tmp_path / "config"
    path.write_text(KUBECONFIG)
    assert connect(str(path)).server == "https://192.0.2.1"
    assert was in KUBECONFIG
    path.write_text(KUBECONFIG.replace(was, now))
    message = refusal(lambda: connect(str(path)), InputError)
    assert message.replace(str(path), "PATH").startswith(f"PATH: {expected}")


@pytest.mark.parametrize(
    "text",
    [
        KUBECONFIG.replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + KUBECONFIG.encode(),
        KUBECONFIG.encode("utf-16"),
        f"---{KUBECONFIG}---\n".encode(),
        b"# a comment\n" + KUBECONFIG.encode(),
        # Of a key that is set twice the last one counts, as for kubectl.
        b"current-context: elsewhere\n" + KUBECONFIG.encode(),
        KUBECONFIG.replace("users:", "preferences: {}\nextensions: null\nsomething: else\nusers:").encode(),
    ],
)
def test_a_kubeconfig_as_other_programs_write_it(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "config").write_bytes(text)
    access = from_kubeconfig(str(tmp_path / "config"))
    assert access.server == "https://192.0.2.1"
    assert access.headers == (("Authorization", "Bearer t"),)


def test_a_kubeconfig_that_cannot_be_read(tmp_path: Path) -> None:
    assert refusal(lambda: connect(str(tmp_path)), InputError) == f"{tmp_path}: Is a directory"
    assert refusal(lambda: connect("a\0b"), InputError).endswith("no name of a file")
    with (tmp_path / "large").open("wb") as large:
        large.truncate(17 << 20)
    assert refusal(lambda: connect(str(tmp_path / "large")), InputError) == f"{tmp_path}/large: larger than 16 MiB"


def test_names_of_files_that_are_odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "x" * 5000
    assert refusal(lambda: connect(long), InputError).endswith(": File name too long")
    assert refusal(lambda: connect("~nobody-of-this-name/config"), InputError).endswith(": no such file")
    monkeypatch.setenv("HOME", f"/{long}")
    assert refusal(connect, InputError).startswith("nothing to read")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube/config").write_text(KUBECONFIG)
    assert connect("~/.kube/config").server == connect().server == "https://192.0.2.1"


def test_a_kubeconfig_that_hangs_holds_no_end_up(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rulegen.kube.api._CREDENTIALS_SECONDS", 0.0)
    path = tmp_path / "config"
    text = Path(server.kubeconfig(path)).read_text()
    api = connect(str(path))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pipe").rename(path)
    asking = threading.Thread(target=lambda: refusal(lambda: listed(api)), daemon=True)
    asking.start()
    time.sleep(0.2)
    began = time.monotonic()
    api.close()
    assert time.monotonic() - began < patience(5)
    path.write_text(text)
    asking.join()


def write(path: Path, **fields: Any) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(fields))
    return str(path)


def named(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, kind: fields}


def test_of_several_files_the_first_that_has_it_has_it_wholly(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/token").write_text("of-b")
    one = write(
        tmp_path / "a/config",
        users=[named("user", "other", token="x")],  # noqa: S106
        clusters=[named("cluster", "it", server="https://192.0.2.1")],
    )
    two = write(
        tmp_path / "b/config",
        **{"current-context": "second"},
        contexts=[named("context", "second", cluster="it", user="me")],
        clusters=[named("cluster", "it", server="https://192.0.2.2", **{"tls-server-name": "not-merged"})],
        users=[named("user", "me", tokenFile="token")],
    )
    three = write(
        tmp_path / "c/config",
        **{"current-context": "third"},
        contexts=[named("context", "third", cluster="it", user="other")],
        users=[named("user", "me", token="y")],  # noqa: S106
    )
    access = from_kubeconfig(":".join(["", one, str(tmp_path / "none"), two, one, three, ""]))
    assert access.server == "https://192.0.2.1"
    assert access.trust.server_name == ""
    assert dict(access.headers)["Authorization"] == "Bearer of-b"
    assert dict(from_kubeconfig(f"{three}:{one}").headers)["Authorization"] == "Bearer x"
    missing = f"{tmp_path}/x:{tmp_path}/y"
    assert refusal(lambda: from_kubeconfig(missing), InputError) == f"{missing}: no such file"


def test_the_file_that_is_wrong_is_named_among_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text(KUBECONFIG.replace("users: [{name: me, user: {token: t}}]", ""))
    bad.write_text("users: [{name: me, user: {client-key: [1]}}]")
    monkeypatch.setenv("KUBECONFIG", f"{good}:{bad}")
    assert refusal(connect, InputError) == (
        f"{bad}: not a kubeconfig: users[0].user.client-key: expected str, got array"
    )
    bad.write_text("users: [{name: me, user: {tokenFile: none}}]")
    assert refusal(connect, InputError).startswith(f"{bad}: user me: tokenFile: {tmp_path}/none: ")
    monkeypatch.setenv("KUBECONFIG", ":")
    assert refusal(connect, InputError).startswith("nothing to read")


def test_a_name_may_hold_the_separator(tmp_path: Path) -> None:
    path = tmp_path / "a:b"
    path.write_text(KUBECONFIG)
    assert connect(str(path)).server == "https://192.0.2.1"


def test_a_kubeconfig_from_a_pipe_is_read_once(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Path(server.kubeconfig(tmp_path / "k")).read_text()
    os.mkfifo(tmp_path / "pipe")
    writing = threading.Thread(target=(tmp_path / "pipe").write_text, args=(text,), daemon=True)
    writing.start()
    api = connect(str(tmp_path / "pipe"))
    monkeypatch.setattr("rulegen.kube.api._CREDENTIALS_SECONDS", 0.0)
    assert listed(api) == []
    assert listed(api) == []
    writing.join()


# -- anything at all --

WHOLE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "here",
    "contexts": [{"name": "here", "context": {"cluster": "it", "user": "me", "namespace": "x"}}],
    "clusters": [
        {
            "name": "it",
            "cluster": {
                "server": "https://192.0.2.1",
                "proxy-url": "http://proxy:3128",
                "tls-server-name": "api",
                "certificate-authority-data": "",
                "insecure-skip-tls-verify": False,
                "disable-compression": False,
                "extensions": [{"name": "client.authentication.k8s.io/exec", "extension": {}}],
            },
        }
    ],
    "users": [
        {
            "name": "me",
            "user": {
                "token": "t",
                "tokenFile": "",
                "as": "jane",
                "as-uid": "1",
                "as-groups": ["g"],
                "as-user-extra": {"k": ["v"]},
                "client-certificate": "",
                "client-certificate-data": "",
                "client-key-data": "",
                "username": "",
                "password": "",
                "exec": {
                    "command": "plugin",
                    "args": ["a"],
                    "env": [{"name": "N", "value": "v"}],
                    "apiVersion": "client.authentication.k8s.io/v1",
                    "interactiveMode": "Never",
                    "provideClusterInfo": True,
                    "installHint": "x",
                },
            },
        }
    ],
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something can be changed in it."""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.sampled_from(["\0", "../..", "/dev/null", "/", "\n", "https://[", "\ud800", "%", "a" * 5000, "http://\u00fc"]),
    st.lists(st.text(max_size=3), max_size=2),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
)


@given(st.lists(st.tuples(st.sampled_from(places(WHOLE)[1:]), ODD), min_size=1, max_size=3))
@settings(max_examples=150)
def test_a_kubeconfig_of_any_kind_is_used_or_is_one_line(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    document = json.loads(json.dumps(WHOLE))
    for path, value in changes:
        with suppress(KeyError, IndexError, TypeError):
            inner = document
            for step in path[:-1]:
                inner = inner[step]
            inner[path[-1]] = value
    with TemporaryDirectory() as folder:
        file = Path(folder, "config")
        file.write_text(json.dumps(document))
        line = "used"
        try:
            connect(str(file)).close()
        except InputError as error:
            line = str(error)
    assert line.isprintable()
    assert len(line) < 1000


# -- pods --


def test_a_pods_cluster_of_the_other_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    certificate_authority().cert_pem.write_to_path(tmp_path / "ca.crt")
    with ApiServer("::1") as server:
        server.put(service("web"))
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "::1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", server.url.rpartition(":")[2])
        assert [item.name for item in listed(Api(lambda: from_service_account(tmp_path)))] == ["web"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda folder: (folder / "token").write_text(""), "PATH/token: expected a token, the file is empty"),
        (lambda folder: (folder / "token").unlink(), "PATH/token: No such file or directory"),
        (lambda folder: (folder / "ca.crt").write_text("x"), "expected certificates in PEM"),
    ],
)
def test_a_service_account_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object], expected: str
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    certificate_authority().cert_pem.write_to_path(tmp_path / "ca.crt")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    assert Api(lambda: from_service_account(tmp_path)).server == "https://192.0.2.1:443"
    change(tmp_path)
    message = refusal(lambda: Api(lambda: from_service_account(tmp_path)), InputError)
    assert expected in message.replace(str(tmp_path), "PATH")
    monkeypatch.delenv("KUBERNETES_SERVICE_PORT")
    assert "$KUBERNETES_SERVICE_PORT" in refusal(lambda: Api(lambda: from_service_account(tmp_path)), InputError)
