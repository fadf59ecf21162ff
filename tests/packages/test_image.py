"""The image: built from the Containerfile by buildah, and run as the DaemonSet says, against the tests' API server.

The base is a Debian that debootstrap makes, in place of the one that a registry has. crun runs the agent in it with the
capabilities, the arguments and the volumes of the DaemonSet, in a network namespace of the test's own.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from debian_root import make_root

from rulegen import __version__
from rulegen.demo.namespaces import NetworkNamespace
from rulegen.kube.objects import Service
from tests.agent.running import Agent, web
from tests.apiserver import ApiServer
from tests.builders import node
from tests.nftables.host import Host, host_in
from tests.packages.container import Rights, words_of_container
from tests.packages.system import ROOTS, Client, ask, pod
from tests.patience import patience

pytestmark = pytest.mark.packages

REPOSITORY = Path(__file__).parents[2]
CONTAINERFILE = REPOSITORY / "deploy/Containerfile"
DOCUMENTS = list(yaml.safe_load_all((REPOSITORY / "deploy/base/rulegen.yaml").read_text()))
(CONTAINER,) = next(one for one in DOCUMENTS if one["kind"] == "DaemonSet")["spec"]["template"]["spec"]["containers"]
CLUSTER = (REPOSITORY / "golden/clusterip/cluster.yaml").read_text()
COMMIT = "0123456789ab"
# Of all files: Debian with Python, iptables and nft is two thirds.
LARGEST_MB = 240


class Builder:
    """Buildah with a store of its own, which needs nothing of the kernel but folders."""

    def __init__(self, folder: Path) -> None:
        self._words = ["buildah", "--root", f"{folder}/store", "--runroot", f"{folder}/run", "--storage-driver", "vfs"]

    def __call__(self, *words: str | Path) -> str:
        done = subprocess.run([*self._words, *map(str, words)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout.strip()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root of the image, as it is in a container."""
    (release,) = re.findall(r"debian:(\w+)-slim", CONTAINERFILE.read_text())
    base = ROOTS / f"base-{release}"
    if not (base / "complete").exists():
        shutil.rmtree(base, ignore_errors=True)
        make_root(base, release)
        (base / "complete").touch()
    folder = tmp_path_factory.mktemp("image")
    buildah = Builder(folder)
    scratch = buildah("from", "scratch")
    buildah("add", "--quiet", scratch, base, "/")
    buildah("commit", "--quiet", "--rm", scratch, "localhost/base")
    arguments = ("--build-arg", "BASE=localhost/base", "--build-arg", f"COMMIT={COMMIT}", "--tag", "localhost/rulegen")
    buildah("build", "--isolation", "chroot", "--network", "host", *arguments, "--file", CONTAINERFILE, REPOSITORY)
    container = buildah("from", "localhost/rulegen")
    root = Path(buildah("mount", container))
    yield root
    buildah("umount", container)
    shutil.rmtree(folder)


@pytest.fixture
def in_image(image: Path, tmp_path: Path) -> InImage:
    return InImage(image, tmp_path)


class InImage:
    """Commands, each in a container of its own with no capability, and no volume but those that are named."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root = root
        self._folder = folder
        self._started = 0

    def __call__(
        self, *command: str, user: int = 0, text: str = "", volumes: Mapping[str, Path] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`text`: its input."""
        self._started += 1
        bundle = self._folder / f"container-{self._started}"
        bundle.mkdir()
        words = words_of_container(self._root, bundle, command, Rights(user=user, volumes=volumes or {}))
        return subprocess.run(words, input=text, capture_output=True, text=True, timeout=patience(60), check=False)


def test_it_has_what_runs_and_nothing_that_builds(image: Path, in_image: InImage) -> None:
    assert in_image("rulegen", "--version").stdout == f"rulegen {__version__} ({COMMIT})\n"
    programs = {path.name for folder in ("usr/bin", "opt/rulegen/bin") for path in (image / folder).iterdir()}
    assert not {name for name in programs if re.fullmatch(r"(x86_64-.*)?(gcc|cc|ld|as|make|pip3?|git)(-[\d.]+)?", name)}
    for module in ("pip", "ensurepip", "setuptools", "hatchling"):
        assert in_image("/opt/rulegen/bin/python", "-c", f"import {module}").returncode == 1
    # Nothing of the build is left, and nothing is written when it runs.
    assert not (image / "src").exists()
    assert list((image / "var/lib/apt/lists").glob("*")) == []


def test_it_is_small(image: Path) -> None:
    size = sum(path.lstat().st_size for path in image.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6
    print(f"the image's files: {size:.0f} MB")  # noqa: T201 - what the documentation says
    assert size < LARGEST_MB


@pytest.mark.parametrize("user", [0, 65534])
def test_what_needs_no_kernel_runs_as_anybody(in_image: InImage, user: int) -> None:
    for words in (("render", "--help"), ("agent", "--help"), ("lint", "--help")):
        done = in_image("rulegen", *words, user=user)
        assert (done.returncode, done.stderr) == (0, "")
    for asked, expected in (
        ("render", "10.96.0.20 . tcp . 80"),
        ("graph default/web -o svg", "<svg "),
        ("report -o -", "</html>"),
        ("lint", "0 findings"),
    ):
        manifests = ("-f", "-", "--node", "node-a")
        done = in_image("rulegen", *asked.split(), *manifests, user=user, text=CLUSTER)
        assert (done.returncode, done.stderr) == (0, "")
        assert expected in done.stdout


def test_who_keeps_records_gets_as_far_as_the_server(in_image: InImage) -> None:
    volumes = {"/etc/rulegen": REPOSITORY / "tests/packages"}
    asked = ("diff", "-f", "-", "--config", "/etc/rulegen/records.yaml")
    done = in_image("rulegen", *asked, text=CLUSTER, volumes=volumes)
    assert "zone cluster.local on 127.0.0.1:53: " in done.stderr


def test_nothing_can_be_written_but_to_its_volumes(in_image: InImage) -> None:
    done = in_image("sh", "-c", "touch /x /opt/rulegen/x /run/x; touch /tmp/x && grep Cap /proc/self/status")
    assert done.stderr.count("Read-only file system") == 3
    assert set(re.findall(r"Cap\w+:\s+(\w+)", done.stdout)) == {"0" * 16}


@contextmanager
def _running(image: Path, host: Host, volumes: dict[str, Path], folder: Path, target: str) -> Iterator[Agent]:
    """The agent, as the kubelet would start it."""
    context = CONTAINER["securityContext"]
    assert (context["readOnlyRootFilesystem"], context["allowPrivilegeEscalation"]) == (True, False)
    assert context["capabilities"]["drop"] == ["ALL"]
    mounts = {mount["mountPath"]: mount for mount in CONTAINER["volumeMounts"]}
    assert {*volumes, "/tmp"} == mounts.keys()  # noqa: S108 - a path in the container
    rights = Rights(
        user=context["runAsUser"],
        capabilities=[f"CAP_{name}" for name in context["capabilities"]["add"]],
        volumes=volumes,
        read_only=frozenset(path for path, mount in mounts.items() if mount.get("readOnly")),
    )
    variables = {"NODE_NAME": "node-1", "KUBECONFIG": "/etc/rulegen/kubeconfig.conf"}
    arguments = [re.sub(r"\$\((\w+)\)", lambda match: variables[match[1]], word) for word in CONTAINER["args"]]
    arguments = [f"--target={target}" if word.startswith("--target=") else word for word in arguments]
    entry = re.findall(r'^ENTRYPOINT \["(.*)"\]$', CONTAINERFILE.read_text(), re.MULTILINE)
    bundle = folder / "container"
    bundle.mkdir()
    words = words_of_container(image, bundle, [*entry, *arguments], rights)
    with (folder / "log").open("wb") as log, host.namespace.entered():
        process = subprocess.Popen(words, stdout=log, stderr=log)
    with process:
        try:
            yield Agent(process, folder)
        finally:
            process.terminate()
            assert process.wait(patience(10)) == 0


@pytest.mark.parametrize("target", ["nftables", "iptables"])
def test_the_agent_in_it_follows_an_api_server_as_the_daemonset_says(image: Path, tmp_path: Path, target: str) -> None:
    settings = tmp_path / "settings"
    settings.mkdir()
    (settings / "config.conf").write_text(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nconntrack: {maxPerCore: 0, "
        "tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}\n"
    )
    (tmp_path / "xtables.lock").touch()
    volumes = {"/etc/rulegen": settings, "/run/xtables.lock": tmp_path / "xtables.lock"}
    with (
        NetworkNamespace() as namespace,
        host_in(namespace) as host,
        pod(namespace),
        namespace.entered(),
        ApiServer() as server,
    ):
        server.put(node("node-1"), *web(1, 5))
        server.kubeconfig(settings / "kubeconfig.conf")
        with _running(image, host, volumes, tmp_path, target) as agent:
            agent.wait_for("sync mode=full", 30)
            with Client(namespace, "http://10.96.0.2:80") as client:
                server.put(*web(2, 5))
                _wait_for("http://10.96.0.3:80")
                server.delete(Service, "web-2", "default")
            assert client.tried
            assert client.failures == []
            assert ask("http://127.0.0.1:10256/healthz")
        assert not re.search(r"Traceback|Read-only|not permitted", agent.log), agent.log
        # It ended, and its rules serve.
        assert ask("http://10.96.0.2:80") == "pod"


def _wait_for(url: str) -> None:
    end = time.monotonic() + patience(5)
    while True:
        try:
            assert ask(url) == "pod"
        except OSError:
            assert time.monotonic() < end
        else:
            return
