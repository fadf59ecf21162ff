"""Sets of ipset in the kernel: what others do to them, to the program, and what rulegen does about it."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from rulegen.config import IptablesLoader, NodeConfiguration, PolicySettings, Target
from rulegen.drivers import make_driver
from rulegen.errors import ApplyError, HostError, RulegenError
from rulegen.features import make
from rulegen.iptables.binaries import Variant
from rulegen.iptables.driver import IptablesDriver
from rulegen.kube.objects import NetworkPolicy, Pod
from rulegen.policies.store import PolicyRules
from rulegen.reconcile.compilers import CompilerSet
from rulegen.reconcile.reconciler import Reconciler
from rulegen.reference import ObjectReference
from tests.iptables.host import ACCESSES, kernel
from tests.nftables.host import Host, host_or_skip
from tests.patience import patience
from tests.policies import checks, cluster
from tests.policies import documents as d
from tests.policies.decoding import decode
from tests.policies.documents import Document
from tests.policies.fixtures import lab_or_skip
from tests.policies.kept import KeptPolicies
from tests.policies.lab import NODES, Frame, interface_of
from tests.policies.objects import node, pod, policy
from tests.policies.test_packets import packet
from tests.wrapped_programs import Wrap, wrap

__all__ = ["wrap"]

pytestmark = pytest.mark.kernel

WEB = {"podSelector": {"matchLabels": {"app": "web"}}}
POLICIES = [
    node("node-1", "192.168.0.1", cidrs=("10.0.0.0/24", "fd00::/64")),
    policy("shop/web", {"app": "web"}, ingress=[{"from": [WEB], "ports": [{"port": "http"}]}]),
]


def web(number: int) -> Document:
    return pod(f"shop/p{number}", f"10.0.0.{number}", f"fd00::{number}", labels={"app": "web"}, ports={"http": 8080})


@pytest.fixture
def host() -> Iterator[Host]:
    with host_or_skip() as made:
        yield made


@contextmanager
def started(
    host: Host, settings: PolicySettings | None = None, driver: IptablesDriver | None = None
) -> Iterator[Reconciler]:
    """An agent's rules on a host that has none before and none afterwards."""
    configuration = NodeConfiguration(node_name="node-1", policies=settings or PolicySettings())
    features = make(["network-policies"], configuration)
    driver = driver or IptablesDriver(Variant.NFT)
    with host.namespace.entered(), ExitStack() as opened:
        opened.callback(driver.remove, ())
        kernel = opened.enter_context(driver.open())
        yield Reconciler(features, kernel.rules(CompilerSet.of(features, driver.name, configuration)))


def tell(reconciler: Reconciler, *documents: Document) -> None:
    for item in decode(documents):
        reconciler.put(item)


def run(*command: str, text: str | None = None) -> str:
    return subprocess.run(command, input=text, check=True, capture_output=True, text=True).stdout


def ipsets() -> list[str]:
    """What is in all sets, without what the kernel has chosen."""
    return sorted(line.partition(" hashsize")[0] for line in run("ipset", "save").splitlines())


def chains() -> str:
    """The rules of the table filter."""
    return "\n".join(line for line in run("iptables-nft-save", "-t", "filter").splitlines() if not line.startswith("#"))


def name_of(kind: str) -> str:
    """The IPv4 set whose name begins so."""
    return next(name for name in run("ipset", "list", "-name").split() if name.startswith(f"rulegen-{kind}-"))


# ---- what changes ----


def test_a_pod_that_comes_and_goes_is_elements_alone(host: Host) -> None:
    with started(host) as reconciler:
        tell(reconciler, *POLICIES, web(1))
        reconciler.sync()
        before = chains(), ipsets()
        for number in (2, 3):
            tell(reconciler, web(number))
            delta = reconciler.sync().delta
            assert {key.table for key in (*delta.added, *delta.changed, *delta.removed)} == {"ipset"}
        assert chains() == before[0]
        added = set(ipsets()) - set(before[1])
        places = {"10.0.0.2,tcp:8080", "10.0.0.3,tcp:8080", "fd00::2,tcp:8080", "fd00::3,tcp:8080"}
        assert {line.split(" ", 2)[2] for line in added} == {"10.0.0.2", "10.0.0.3", "fd00::2", "fd00::3"} | places
        for number in (2, 3):
            reconciler.remove(Pod, _reference(number))
        reconciler.sync()
        assert (chains(), ipsets()) == before


def _reference(number: int) -> ObjectReference:
    return ObjectReference("Pod", "shop", f"p{number}")


def test_addresses_that_ipset_does_not_hold_keep_nobody_else_from_his_policies(host: Host) -> None:
    with started(host) as reconciler:
        tell(reconciler, *POLICIES, web(1), pod("shop/nobody", str(IPv4Address(0)), "::", labels={"app": "web"}))
        reconciler.sync()
        assert f"add {name_of('pods')} 10.0.0.1" in ipsets()
        tell(reconciler, pod("shop/mapped", "10.0.0.9", "::ffff:1.2.3.4", "::1.2.3.4", labels={"app": "web"}))
        reconciler.sync()
        reconciler.distrust()
        assert not reconciler.sync().delta


# ---- what others do ----

_DAMAGE = {
    "an element that is gone": "ipset del {pods} 10.0.0.1",
    "a set that is empty": "ipset flush {pods}",
    "all sets that are empty": "ipset list -name | grep rulegen | while read name; do ipset flush $name; done",
    "an element more": "ipset add {pods} 10.99.0.1",
    "a place more": "ipset add rulegen-named-http 10.0.0.1,tcp:1",
    "a set more": "ipset create rulegen-pods-mine hash:ip && ipset add rulegen-pods-mine 10.0.0.1",
    "sets that are exchanged": "ipset swap {pods} {subjects}",
    "another type that is used": "ipset create other hash:ip timeout 5 maxelem 9 && ipset swap {pods} other;"
    " ipset destroy other",
    "rules that are gone": "iptables-nft -F RULEGEN-NP-INGRESS",
    "all that is gone": "iptables-nft -F; sleep 0.2; ipset destroy {subjects}",
}


@pytest.mark.parametrize("damage", _DAMAGE)
def test_what_others_change_is_put_back(damage: str, host: Host) -> None:
    with started(host) as reconciler:
        run("ipset", "create", "others", "hash:ip")
        run("ipset", "add", "others", "10.0.0.1")
        tell(reconciler, *POLICIES, web(1), pod("shop/far", "10.0.1.1", node="node-2", labels={"app": "web"}))
        reconciler.sync()
        before = chains(), ipsets()
        command = _DAMAGE[damage].format(pods=name_of("pods"), subjects=name_of("i"))
        run("sh", "-c", command)
        assert (chains(), ipsets()) != before
        reconciler.distrust()
        sync = reconciler.sync()
        assert sync.repaired
        assert (chains(), ipsets()) == before
        reconciler.distrust()
        assert not reconciler.sync().delta
        run("ipset", "destroy", "others")


def test_python_iptables_leaves_rules_with_sets_to_iptables_restore(host: Host) -> None:
    with host.namespace.entered(), kernel(ACCESSES["python-iptables"]):
        pass  # it works with this iptables
    driver = IptablesDriver(Variant.LEGACY, IptablesLoader.PYTHON)
    with started(host, PolicySettings(log_group=5), driver) as reconciler:
        tell(reconciler, *POLICIES, web(1))
        reconciler.sync()
        tell(reconciler, web(2))
        reconciler.sync()
        reconciler.distrust()
        assert not reconciler.sync().delta
        assert f"add {name_of('pods')} 10.0.0.2" in ipsets()
        reconciler.remove(NetworkPolicy, ObjectReference("NetworkPolicy", "shop", "web"))
        reconciler.sync()
        assert not ipsets()
        assert "RULEGEN-NP" not in run("iptables-legacy-save")


def test_a_set_with_a_name_of_ours_and_another_type_is_made_anew(host: Host) -> None:
    with started(host) as reconciler:
        run("ipset", "create", "rulegen-named-http", "hash:net", "timeout", "7")
        run("ipset", "add", "rulegen-named-http", "10.0.0.0/8")
        tell(reconciler, *POLICIES, web(1))
        reconciler.sync()
        reconciler.distrust()
        assert not reconciler.sync().delta
        assert "create rulegen-named-http hash:ip,port family inet" in ipsets()


def test_attempts_that_fail_again_and_again_leave_no_more_and_more_copies(host: Host) -> None:
    """A set that another program has swapped, and whose rule keeps it, cannot be made anew."""
    with started(host) as reconciler:
        tell(reconciler, *POLICIES, web(1))
        reconciler.sync()
        run("iptables-nft", "-A", "INPUT", "-m", "set", "--match-set", "rulegen-named-http", "src,src", "-j", "RETURN")
        run("ipset", "create", "other", "hash:ip,port", "counters")
        run("ipset", "swap", "other", "rulegen-named-http")
        run("ipset", "destroy", "other")
        counts = []
        for _ in range(4):
            reconciler.distrust()
            with pytest.raises(ApplyError, match="rulegen-named-http"):
                reconciler.sync()
            counts.append(len(run("ipset", "list", "-name").split()))
        assert counts[1] == counts[-1]
        run("iptables-nft", "-F", "INPUT")
        reconciler.distrust()
        reconciler.sync()
        assert not [name for name in run("ipset", "list", "-name").split() if "twin" in name]
        reconciler.distrust()
        assert not reconciler.sync().delta


def test_cleanup_ends_the_sets_and_leaves_those_of_others(host: Host) -> None:
    with started(host) as reconciler:
        run("ipset", "create", "rulegenerated", "hash:ip")
        tell(reconciler, *POLICIES, web(1))
        reconciler.sync()
        removed = make_driver(Target.IPTABLES).remove(())
        assert "ipset rulegen-named-http" in removed
        assert run("ipset", "list", "-name").split() == ["rulegenerated"]
        run("ipset", "destroy", "rulegenerated")


def test_a_set_that_a_rule_of_others_uses_is_named(host: Host) -> None:
    with started(host) as reconciler:
        tell(reconciler, *POLICIES, web(1))
        reconciler.sync()
        used = name_of("pods")
        run("iptables-nft", "-A", "INPUT", "-m", "set", "--match-set", used, "src")
        with pytest.raises(RulegenError, match=f"look into the sets {used}"):
            make_driver(Target.IPTABLES).remove(())
        assert run("ipset", "list", "-name").split() == [used]
        run("iptables-nft", "-F", "INPUT")


# ---- a host without ipset, and one where it does not work ----


@contextmanager
def without_ipset(folder: Path) -> Iterator[None]:
    """No program of this name is found meanwhile."""
    path = os.environ["PATH"]
    folder.mkdir(exist_ok=True)
    for place in path.split(":"):
        for program in Path(place).glob("*") if Path(place).is_dir() else ():
            link = folder / program.name
            if program.name != "ipset" and not link.is_symlink():
                link.symlink_to(program)
    os.environ["PATH"] = str(folder)
    try:
        yield
    finally:
        os.environ["PATH"] = path


def test_ipset_vanishes_and_comes_back(host: Host, tmp_path: Path) -> None:
    with started(host) as reconciler:
        tell(reconciler, *POLICIES, web(1), web(2))
        reconciler.sync()
        with_sets = chains(), ipsets()
        with without_ipset(tmp_path / "bin"):
            tell(reconciler, web(3))
            with pytest.raises(HostError, match="ipset is not installed"):
                reconciler.sync()
            reconciler.sync()
            assert "--match-set" not in chains()
            assert "-s 10.0.0.3/32 -d 10.0.0.1/32" in chains()
            reconciler.distrust()
            assert not reconciler.sync().delta
        reconciler.distrust()
        reconciler.sync()
        assert chains() == with_sets[0]
        assert {line.replace("0.0.3", "0.0.2").replace("::3", "::2") for line in ipsets()} == set(with_sets[1])


def test_a_policy_that_needs_a_set_is_named_where_there_is_none(host: Host) -> None:
    many = [
        pod(f"shop/m{number}", f"10.1.{number >> 8}.{number & 255}", labels={"app": "web"}) for number in range(300)
    ]
    with started(host, settings=PolicySettings(ipsets=False)) as reconciler:
        tell(reconciler, *POLICIES, policy("shop/out", {}, egress=[{}]), web(1), *many)
        (words,) = reconciler.sync().refused.values()
        assert "NetworkPolicy shop/web: " in words
        assert "takes an ipset" in words
        assert not ipsets()
        assert "shop/out" in chains()
        # It is told once, and is over when no set is needed any more, though nobody has touched the policy.
        tell(reconciler, web(2))
        assert reconciler.sync().refused == {}
        assert len(reconciler.refusals()) == 1
        for number in range(300):
            reconciler.remove(Pod, ObjectReference("Pod", "shop", f"m{number}"))
        done = reconciler.sync()
        assert done.refused == {}
        assert reconciler.refusals() == {}
        assert [key for key in done.features["network-policies"].items if isinstance(key, PolicyRules)]
        assert "10.0.0.1" in chains()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("kill -SEGV $$", "was killed by SIGSEGV"),
        ("echo no >&2; exit 1", "no"),
        ("echo garbage; exit 3", "ended with exit status 3"),
    ],
    ids=["crash", "refusal", "garbage"],
)
def test_an_ipset_that_does_not_work_is_no_host_without_sets(script: str, words: str, host: Host, wrap: Wrap) -> None:
    with started(host) as reconciler:
        tell(reconciler, *POLICIES, web(1))
        reconciler.sync()
        before = chains(), ipsets()
        wrap("ipset", script)
        tell(reconciler, web(2))
        for _ in range(2):
            with pytest.raises((HostError, ApplyError), match=words):
                reconciler.sync()
        wrap("ipset", 'exec $REAL "$@"')
        assert chains() == before[0]
        reconciler.sync()
        assert set(before[1]) < set(ipsets())
        assert chains() == before[0]


@pytest.mark.part(4)
@pytest.mark.parametrize("stop", range(1, 8))
def test_what_is_interrupted_is_ended_by_the_next_sync(stop: int, host: Host, wrap: Wrap, tmp_path: Path) -> None:
    """A change over twins that stops at one of its steps."""
    with started(host) as reconciler:
        tell(reconciler, *POLICIES, *map(web, range(1, 4)))
        reconciler.sync()
        counter = tmp_path / "steps"
        counter.write_text("0")
        wrap(
            "ipset",
            f'case "$*" in *restore*) n=$(($(cat {counter}) + 1)); echo $n >{counter};'
            f' [ $n -eq {stop} ] && kill -KILL $$;; esac; exec $REAL "$@"',
        )
        changed = policy("shop/web", {"app": "web"}, ingress=[{"from": [WEB], "ports": [{"port": 8080}]}])
        tell(reconciler, changed, pod("shop/p1", "10.0.0.7", labels={"app": "db"}), pod("shop/p2", "10.0.0.8"))
        try:
            reconciler.sync()
        except RulegenError:
            reconciler.sync()
        wrap("ipset", 'exec $REAL "$@"')
        reconciler.distrust()
        assert not reconciler.sync().delta
        assert not [name for name in run("ipset", "list", "-name").split() if "twin" in name]


# ---- denials are told ----

# Now and then a first burst was not told of, in a process that had run other tests before.
_NFLOG_ATTEMPTS = 5


def test_denials_are_told_to_an_nflog_group() -> None:
    closed = d.policy("x", "closed", d.selector({"pod": "a"}), policyTypes=["Ingress"])
    source, destination = cluster.BY_NAME["z/b"], cluster.BY_NAME["x/a"]
    with lab_or_skip() as lab, lab.entered(NODES[0]):
        for group, ipsets_are_used in ((77, True), (78, False)):
            settings = PolicySettings(log_group=group, ipsets=ipsets_are_used)
            kept = KeptPolicies(lab, NODES[0], settings, Variant.NFT)
            kept.apply([*cluster.objects(), closed])
            checks.assert_same(lab, [*cluster.objects(), closed], "with a log group")
            with _nflog(group) as received:
                prefixes: list[str] = []
                for attempt in range(_NFLOG_ATTEMPTS):
                    lab.forget_connections()
                    for port in range(60):
                        sent = packet(source, destination, 80, "TCP", 4, 5000 + 60 * attempt + port)
                        assert not lab.exchange([Frame(interface_of(source), sent)])
                    if prefixes := received():
                        break
                assert set(prefixes) == {"rulegen in x/a by x/closed"}
                # The first at once, the others as the limit allows.
                assert len(prefixes) < 60
            kept.close()
            make_driver(Target.IPTABLES).remove(())


@contextmanager
def _nflog(group: int) -> Iterator[Callable[[], list[str]]]:
    """The prefixes of what an nflog group is told, as linux/netfilter/nfnetlink_log.h has them."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as log:
        log.bind((0, 0))
        log.settimeout(patience(0.5))
        bind = struct.pack("=BBH", 1, 0, 0)
        message = struct.pack("=BBH", 0, 0, socket.htons(group)) + struct.pack("=HH", 5, 1) + bind[:1] + b"\0" * 3
        header = struct.pack("=IHHII", 16 + len(message), 4 << 8 | 1, 5, 1, 0)
        log.send(header + message)
        (error,) = struct.unpack_from("=i", log.recv(4096), 16)
        assert not error, os.strerror(-error)

        def received() -> list[str]:
            found: list[str] = []
            with suppress(TimeoutError):
                found += [part.decode() for part in _prefixes(log.recv(65536))]
            log.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    found += [part.decode() for part in _prefixes(log.recv(65536))]
            log.settimeout(patience(0.5))
            return found

        yield received


def _prefixes(data: bytes) -> Iterator[bytes]:
    while data:
        length, kind = struct.unpack_from("=IH", data)
        body = data[20:length] if kind == 4 << 8 else b""
        while len(body) >= 4:
            size, attribute = struct.unpack_from("=HH", body)
            if attribute & 0x3FFF == 10:
                yield body[4:size].rstrip(b"\0")
            body = body[(size + 3) & ~3 :]
        data = data[(length + 3) & ~3 :]
