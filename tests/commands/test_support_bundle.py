"""A support bundle says what the host said, holds no secrets, and is made whatever does not work."""

from __future__ import annotations

import base64
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rulegen.bundle import Part, pack_bundle
from rulegen.commands.collected import scrubbed
from rulegen.demo.namespaces import NetworkNamespace
from tests.commands.running import CART, TARGETS, WEB, error, rulegen, service, written
from tests.commands.test_diff import POLICY

pytestmark = pytest.mark.kernel

CANARY = "canary-7f3a"


@pytest.fixture
def namespace() -> Iterator[NetworkNamespace]:
    with NetworkNamespace() as namespace:
        yield namespace


def members(path: Path) -> dict[str, bytes]:
    """Each part by its name."""
    with tarfile.open(path) as archive:
        found = {}
        for member in archive:
            opened = archive.extractfile(member)
            assert opened is not None
            found[member.name.removeprefix("rulegen-support-bundle/")] = opened.read()
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_diff_and_explain_say_elsewhere_what_they_said_on_the_host(
    namespace: NetworkNamespace, tmp_path: Path, target: str
) -> None:
    cluster = written(tmp_path / "a.yaml", WEB, CART, POLICY)
    (tmp_path / "masq").write_text("nonMasqueradeCIDRs: [10.0.0.0/8, 192.0.2.0/24]\nmasqLinkLocal: true\n")
    config = tmp_path / "config.yaml"
    config.write_text(
        f"apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: {target}\n"
        "clusterCIDR: 10.244.0.0/16\nnftables: {masqueradeBit: 9}\niptables: {masqueradeBit: 9}\n"
        "---\napiVersion: rulegen.io/v1alpha1\nkind: RulegenConfiguration\n"
        "features: [network-policies, egress-masquerade]\nnetworkPolicies: {denial: Reject}\n"
        f"egressMasquerade: {{configFile: {tmp_path / 'masq'}, podRange: ClusterCIDR}}\n"
    )
    options = ("--node", "node-a", "--config", config)
    bundle = tmp_path / "it.tar.gz"
    questions = (
        ("diff",),
        ("diff", "--stat"),
        ("diff", "shop/web"),
        ("explain", "shop/web", "--live"),
        ("explain", "--live", "--to", "10.96.0.11:80/tcp"),
        ("render",),
    )
    with namespace.entered():
        rulegen("apply", "-f", cluster, *options)
        clean = rulegen("support-bundle", bundle, "-f", cluster, *options)
        assert "0 added, 0 changed, 0 removed" in members(bundle)["diff.txt"].decode()
        # What the kernel holds is not what the objects mean any more.
        written(cluster, service("web", "10.96.0.10", ["10.244.0.5", "10.244.0.9"]), CART, POLICY)
        rulegen("support-bundle", bundle, "-f", cluster, *options)
        said = [rulegen(*question, "-f", cluster, *options, status=None) for question in questions]
    assert said[0].exit_code == 1
    # Outside, there is nothing of rulegen's, and nothing says whose rules these are but the bundle.
    again = [rulegen(*question, "-f", bundle, status=None) for question in questions]
    assert [one.stdout for one in again] == [one.stdout for one in said]
    assert [one.exit_code for one in again] == [one.exit_code for one in said]
    assert members(bundle)["diff.txt"].decode() == said[0].stdout
    other = "iptables" if target == "nftables" else "nftables"
    assert f"live-rules.json: has rules of {target}, not of {other}" in error("diff", "-f", bundle, "--target", other)
    # Settings that are given win, as over a file's.
    assert rulegen("diff", "-f", bundle, "--against", cluster, status=0).stdout.startswith("0 added")
    for command in (("apply",), ("plan", "-o", tmp_path / "plan"), ("agent",), ("support-bundle", tmp_path / "b")):
        assert "a support bundle says what a host was like" in error(*command, "-f", bundle)
    assert "one support bundle at a time" in error("diff", "-f", bundle, "-f", _copy(bundle))
    listed = members(bundle)["MANIFEST"].decode()
    assert clean.stdout.splitlines()[0] == listed.splitlines()[0]
    assert all(name in listed for name in members(bundle) if name != "MANIFEST")
    assert bundle.stat().st_mode & 0o777 == 0o600


def _copy(bundle: Path) -> Path:
    copy = bundle.with_name("copy.tar.gz")
    copy.write_bytes(bundle.read_bytes())
    return copy


def test_what_fails_is_named_and_the_rest_is_there(
    namespace: NetworkNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No agent, no objects, settings that are faulty, programs that are not there or fail."""
    config = tmp_path / "config.yaml"
    config.write_text("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: ipsv\n")
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "nft").write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    (programs / "nft").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/nowhere")
    bundle = tmp_path / "it.tar.gz"
    missing = tmp_path / "missing.yaml"
    with namespace.entered():
        done = rulegen("support-bundle", bundle, "-f", missing, "--config", config, "--node", "node-a")
    found = members(bundle)
    told = done.stderr.splitlines()
    for name, words in (
        ("objects.yaml", f"{missing}: No such file or directory"),
        ("diff.txt", f"{missing}: No such file or directory"),
        ("status.json", "no agent answers at 0.0.0.0:10256: Connection refused"),
        ("nft-tables.txt", "nft ended with exit status 3: broken"),
        ("journal.txt", "journalctl is not installed"),
        # Where it was run before, it is known that it was there.
        ("iptables-nft-save.txt", "iptables-nft-save "),
    ):
        assert name not in found
        (line,) = [line for line in told if line.startswith(f"rulegen: {name} is missing: ")]
        assert words in line
        assert words in next(line for line in found["MANIFEST"].decode().splitlines() if line.startswith(name))
    assert "mode: expected" in found["configuration-problems.txt"].decode()
    assert {"bundle.json", "configuration.yaml", "live-rules.json", "versions.txt", "nft-hooks.txt"} <= found.keys()
    assert "holds no objects.yaml of a support bundle" in error("diff", "-f", bundle)
    # What was there stays where the new one cannot be written.
    before = bundle.read_bytes()
    with namespace.entered():
        done = rulegen("support-bundle", bundle / "b", "-f", missing, "--node", "node-a", status=2)
    assert "b: Not a directory" in done.stderr.splitlines()[-1]
    assert bundle.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "it.tar.gz", "programs"]


def test_no_secret_is_in_it(namespace: NetworkNamespace, tmp_path: Path) -> None:
    """Canaries wherever a secret may be, in what works and in what does not."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    annotated = WEB.replace("labels: {", f"annotations: {{example.org/x: {CANARY}-annotation}}, labels: {{", 1)
    assert CANARY in annotated
    written(folder / "a.yaml", annotated, POLICY)
    (folder / "secret.yaml").write_text(
        f"apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData: {{a: {CANARY}-secret}}\n---\n"
        f"apiVersion: v1\nkind: Secret\nmetadata: {{name: t}}\nstringData: {{a: {CANARY}-broken, [}}\n"
    )
    token = tmp_path / "token"
    token.write_text(f"{CANARY}-token-file")
    key = f"-----BEGIN PRIVATE KEY-----\n{CANARY}-key\n-----END PRIVATE KEY-----\n"
    encoded = base64.b64encode(key.encode()).decode()
    users = (
        {"token": f"{CANARY}-token", "client-key-data": encoded},
        {"tokenFile": str(token), "password": f"{CANARY}-password", "username": "me"},
        {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "interactiveMode": "Never",
                  "args": ["-c", f"echo {CANARY}-exec; exit 1"], "env": [{"name": "A", "value": f"{CANARY}-env"}]}},
    )  # fmt: skip
    with namespace.entered():
        comment = ("-m", "comment", "--comment", f"password={CANARY}-comment", "-j", "RETURN")
        subprocess.run(["iptables-nft", "-A", "INPUT", *comment], check=True)
    outputs: list[str] = []
    found: dict[str, bytes] = {}
    for number, user in enumerate(users):
        kubeconfig = tmp_path / f"kubeconfig-{number}"
        cluster = {"server": "https://127.0.0.1:1", "proxy-url": f"http://me:{CANARY}-proxy@127.0.0.1:1"}
        kubeconfig.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "c", "cluster": cluster}],
                    "users": [{"name": "u", "user": user}],
                    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                    "current-context": "x",
                }
            )
        )
        config = tmp_path / f"config-{number}"
        config.write_text(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
            f"clientConnection: {{kubeconfig: {kubeconfig}}}\nunknown: {CANARY}-setting\n"
        )
        source = ("-f", folder, "--skip-invalid") if number == 0 else ()
        bundle = tmp_path / f"{number}.tar.gz"
        with namespace.entered():
            done = rulegen("support-bundle", bundle, *source, "--config", config, "--node", "node-a")
        found = members(bundle)
        outputs += [done.output, done.stderr, *(data.decode(errors="replace") for data in found.values())]
        assert str(kubeconfig) in found["configuration.yaml"].decode()
    assert "objects.yaml" not in found
    assert b"password=(left out)" in found["iptables-nft-save.txt"]
    for text in outputs:
        assert CANARY not in text
        assert encoded not in text


@pytest.mark.parametrize(
    "text",
    [
        f"-----BEGIN RSA PRIVATE KEY-----\n{CANARY}\n-----END RSA PRIVATE KEY-----\n",
        f"-----BEGIN PRIVATE KEY-----\n{CANARY}",
        f"eyJhbGciOiJSUzI1.{CANARY}.c2ln",
        f"https://me:{CANARY}@192.0.2.1:6443: refused",
        f"Authorization: Basic {CANARY}",
        f"bearer {CANARY} was refused",
        f"--token={CANARY}",
        f"password:{CANARY}",
    ],
)
def test_what_looks_like_a_credential_in_texts_of_others_is_left_out(text: str) -> None:
    assert CANARY not in scrubbed(f"before {text} after".encode()).decode()
    assert scrubbed(f"before {text}".encode()).startswith(b"before ")


def test_a_bundle_of_another_version_or_damaged_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "it.tar.gz"
    parts = {"bundle.json": b'{"version": 2}', "configuration.yaml": b"", "objects.yaml": WEB.encode()}
    path.write_bytes(pack_bundle([Part(name, data) for name, data in parts.items()]))
    assert "bundle.json: " in error("diff", "-f", path)
    parts["bundle.json"] = b'{"more": ' + b"[" * 100_000
    path.write_bytes(pack_bundle([Part(name, data) for name, data in parts.items()]))
    assert "bundle.json: " in error("diff", "-f", path)
    parts["bundle.json"] = json.dumps(
        {"version": 1, "rulegen": "0", "created": "", "node": "n", "target": "nftables", "families": ["IPv4"]}
    ).encode()
    settings = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nhostnameOverride: node-a\n"
    parts["configuration.yaml"] = settings.encode()
    for live, words in (
        (None, "holds no live-rules.json of a support bundle"),
        (b"{", "live-rules.json: cannot be read"),
        (b"[" * 100_000, "live-rules.json: cannot be read"),
        (b'{"driver": "nftables", "entries": 5}', "expected rows of five texts, got 5"),
        (b'{"driver": "nftables", "entries": [["ip rulegen", "nothing", "00", "", ""]]}', "it is of another version"),
        (b'{"driver": "nftables", "entries": [["ip rulegen", "frontends", "x", "", ""]]}', "expected hexadecimal"),
    ):
        if live is not None:
            parts["live-rules.json"] = live
        path.write_bytes(pack_bundle([Part(name, data) for name, data in parts.items()]))
        assert words in error("diff", "-f", path)
