"""A read that failed is no empty table: rules that only nft knows, cut listings, programs that fail, odd bytes."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from rulegen.config import Family
from rulegen.errors import HostError, UnseenError
from rulegen.iptables.binaries import Variant
from rulegen.iptables.kernel import Kernel, remove_rules
from rulegen.iptables.listing import detect, list_tables
from rulegen.kube_proxy.removal import remove_iptables_rules
from tests.builders import Item, endpoint_slice, node, port, service, service_cidr
from tests.iptables.host import COMMANDS, Host
from tests.wrapped_programs import Wrap

pytestmark = pytest.mark.kernel

CLUSTER: list[Item] = [
    node(),
    service_cidr("10.96.0.0/16", "fd00:10:96::/112"),
    service("web", ["10.96.0.10", "fd00:10:96::10"], [port(80, node_port=30080)], affinity=600),
    endpoint_slice(["10.244.0.5", "10.244.0.6"]),
    endpoint_slice(["fd00:10:244::5"], name="web-6"),
    service(
        "shut",
        ["10.96.0.11", "fd00:10:96::11"],
        kind="LoadBalancer",
        vips=["203.0.113.80", "2001:db8::80"],
        ranges=["198.51.100.0/24", "2001:db8:1::/64"],
        external="Local",
        health_check_port=30666,
    ),
]
# Rules that iptables has no words for.
NFT_ONLY = {
    "a verdict map": "ct state vmap { established : accept, related : accept, invalid : drop }",
    "a route lookup": "fib saddr type local counter",
    "a hash": "meta mark set jhash tcp sport mod 7 seed 1",
}
KUBE_PROXY = """*{table}
:KUBE-SERVICES - [0:0]
:KUBE-SVC-TCOU7JCQXEZGVUNU - [0:0]
:KUBE-FIREWALL - [0:0]
-I {hook} -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I {hook} -j KUBE-FIREWALL
-A KUBE-SERVICES -p tcp -m tcp --dport 80 -j KUBE-SVC-TCOU7JCQXEZGVUNU
COMMIT
"""
HOOKS = {"mangle": "OUTPUT", "nat": "OUTPUT", "filter": "FORWARD"}
IP = {Family.IPV4: "ip", Family.IPV6: "ip6"}


@pytest.fixture
def nft_host() -> Iterator[Host]:
    with Host(Variant.NFT) as host:
        yield host


@pytest.fixture(params=Variant, ids=lambda variant: variant.value)
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    with Host(request.param) as host:
        yield host


def nft(host: Host, *words: str) -> str:
    with host.namespace.entered():
        return subprocess.run(["nft", *words], capture_output=True, text=True, check=True).stdout


def jumps(host: Host) -> Counter[str]:
    """How many rules of rulegen's stand in each chain that is not its own, as the kernel tells nft."""
    found: Counter[str] = Counter()
    place = table = ""
    for line in nft(host, "-a", "list", "ruleset").splitlines():
        if line.startswith("table "):
            table = " ".join(line.split()[1:3])
        elif line.startswith("\tchain "):
            place = f"{table} {line.split()[1]}"
        elif "jump RULEGEN-" in line or "ct state related,established" in line:
            found[place] += " RULEGEN-" not in place
    return +found


# ---- tables of iptables-nft that hold what only nft knows ----


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("table", HOOKS)
@pytest.mark.parametrize("kind", NFT_ONLY)
def test_beside_a_rule_that_only_nft_knows_apply_adds_nothing_twice_and_cleanup_removes_all(
    nft_host: Host, family: Family, table: str, kind: str
) -> None:
    hook = (IP[family], table, HOOKS[table])
    nft_host.run(f"-t {table} -A {HOOKS[table]} -p tcp -m tcp --dport 7000 -j ACCEPT", family=family)
    nft(nft_host, "add", "rule", *hook, NFT_ONLY[kind])
    assert "is incompatible" in nft_host.run("save", family=family)
    before = nft(nft_host, "-a", "list", "table", *hook[:2])
    nft_host.apply(*CLUSTER)
    placed = jumps(nft_host)
    assert placed[" ".join(hook)]
    for _ in range(3):
        assert nft_host.apply(*CLUSTER) == []
    assert jumps(nft_host) == placed
    with nft_host.namespace.entered():
        assert f"iptables-nft {IP[family]} {table}" in remove_rules(Variant)
        assert remove_rules(Variant) == []
    after = nft(nft_host, "-a", "list", "ruleset")
    assert "RULEGEN" not in after
    for line in before.splitlines():
        assert line in after


def test_chains_that_come_and_go_while_it_is_listed(nft_host: Host) -> None:
    """Each chain is asked for by itself then, and may be gone before its turn."""
    nft_host.apply(*CLUSTER)
    nft(nft_host, "add", "rule", "ip", "nat", "OUTPUT", NFT_ONLY["a verdict map"])
    whole = nft_host.read()
    stop = threading.Event()

    def come_and_go() -> None:
        with nft_host.namespace.entered():
            while not stop.is_set():
                subprocess.run(["nft", "add chain ip nat RULEGEN-ZZZ"], check=True)
                subprocess.run(["nft", "delete chain ip nat RULEGEN-ZZZ"], check=True)
                time.sleep(0.01)

    others = threading.Thread(target=come_and_go)
    others.start()
    try:
        read = [nft_host.read() for _ in range(15)]
    finally:
        stop.set()
        others.join()
    for entries in read:
        assert all(not rules for key, rules in entries.items() if key not in whole), entries.keys() - whole.keys()
        assert {key: rules for key, rules in entries.items() if key in whole} == whole


@pytest.mark.parametrize("place", ["a chain of nobody's", "a chain of rulegen's", "a base chain of nft's", "raw"])
@pytest.mark.parametrize("family", Family)
def test_wherever_that_rule_stands(nft_host: Host, place: str, family: Family) -> None:
    nft_host.apply(*CLUSTER)
    placed, whole = jumps(nft_host), nft_host.read()
    ip = IP[family]
    if place == "a chain of nobody's":
        nft(nft_host, f"add chain {ip} nat other; add rule {ip} nat other {NFT_ONLY['a verdict map']}")
    elif place == "a chain of rulegen's":
        nft(nft_host, f"add rule {ip} nat RULEGEN-VIPS {NFT_ONLY['a verdict map']}")
    elif place == "a base chain of nft's":
        chain = "{ type nat hook prerouting priority -90; }"
        nft(nft_host, f"add chain {ip} nat theirs {chain}; add rule {ip} nat theirs {NFT_ONLY['a verdict map']}")
    else:
        chain = "{ type filter hook prerouting priority raw; }"
        nft(nft_host, f"add table {ip} raw; add chain {ip} raw PREROUTING {chain}")
        nft(nft_host, f"add rule {ip} raw PREROUTING {NFT_ONLY['a verdict map']}")
    # What is in a chain of rulegen's is damage, what is elsewhere is not.
    assert len(nft_host.apply(*CLUSTER)) == (place == "a chain of rulegen's")
    assert nft_host.apply(*CLUSTER) == []
    assert nft_host.read() == whole
    assert jumps(nft_host) == placed
    with nft_host.namespace.entered():
        assert remove_rules(Variant)
    assert "RULEGEN" not in nft(nft_host, "list", "ruleset")


def test_a_chain_of_nft_that_leads_to_rulegen_does_not_stop_cleanup(nft_host: Host) -> None:
    nft_host.apply(*CLUSTER)
    chain = "{ type nat hook prerouting priority -90; }"
    nft(nft_host, f"add chain ip nat theirs {chain}; add rule ip nat theirs tcp dport 1-9 jump RULEGEN-SERVICES")
    nft(nft_host, "add rule ip nat theirs tcp dport 10-19 accept")
    with nft_host.namespace.entered():
        assert remove_rules(Variant)
    assert "RULEGEN" not in nft(nft_host, "list", "ruleset")
    assert "tcp dport 10-19 accept" in nft(nft_host, "list", "chain", "ip", "nat", "theirs")


# In words -> what to do to the rules of FORWARD, and in how many chains that is seen.
DAMAGE = {
    "a jump gone": ["-D FORWARD -m conntrack --ctstate NEW -j RULEGEN-FORWARD"],
    "a jump twice": ["-I FORWARD -m conntrack --ctstate NEW -j RULEGEN-FORWARD"],
    "a jump of another kind": ["-I FORWARD -j RULEGEN-FORWARD"],
    "the accept gone": [
        "-D FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment RULEGEN-ESTABLISHED -j ACCEPT"
    ],
    "behind a verdict": ["-I FORWARD -j DROP"],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_seen_and_repaired_there_too(nft_host: Host, kind: str) -> None:
    nft_host.apply(*CLUSTER)
    placed = jumps(nft_host)
    for command in DAMAGE[kind]:
        nft_host.run(f"-t filter {command}")
    nft(nft_host, "add", "rule", "ip", "filter", "FORWARD", NFT_ONLY["a route lookup"])
    assert [step.table for step in nft_host.apply(*CLUSTER)] == ["filter"]
    assert nft_host.apply(*CLUSTER) == []
    assert jumps(nft_host) == placed


def test_a_jump_that_iptables_has_no_words_for_is_removed(nft_host: Host) -> None:
    nft_host.apply(*CLUSTER)
    placed = jumps(nft_host)
    nft(nft_host, "add", "rule", "ip", "filter", "FORWARD", f"{NFT_ONLY['a route lookup']} jump RULEGEN-FORWARD")
    assert [step.table for step in nft_host.apply(*CLUSTER)] == ["filter"]
    assert nft_host.apply(*CLUSTER) == []
    assert jumps(nft_host) == placed
    nft(nft_host, "add", "rule", "ip", "filter", "FORWARD", f"{NFT_ONLY['a route lookup']} jump RULEGEN-FORWARD")
    with nft_host.namespace.entered():
        assert remove_rules(Variant)
    assert "RULEGEN" not in nft(nft_host, "list", "ruleset")


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("table", HOOKS)
def test_kube_proxys_chains_go_from_such_a_table(nft_host: Host, family: Family, table: str) -> None:
    text = KUBE_PROXY.format(table=table, hook=HOOKS[table])
    nft_host.run("restore --noflush", text, family)
    hook = (IP[family], table, HOOKS[table])
    nft(nft_host, "add", "rule", *hook, NFT_ONLY["a verdict map"])
    assert "is incompatible" in nft_host.run("save", family=family)
    with nft_host.namespace.entered():
        assert remove_iptables_rules() == [f"{COMMANDS[family]}-nft {table}"]
        assert remove_iptables_rules() == []
    left = nft(nft_host, "list", "ruleset")
    assert "KUBE-SERVICES" not in left
    assert "KUBE-SVC" not in left
    assert "jump KUBE-FIREWALL" in left
    assert "vmap" in left


def test_such_a_table_is_evidence_of_the_variant_in_use(nft_host: Host) -> None:
    nft(nft_host, "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; }")
    nft(nft_host, "add", "rule", "ip", "filter", "FORWARD", NFT_ONLY["a verdict map"])
    nft(nft_host, "add", "rule", "ip", "filter", "FORWARD", NFT_ONLY["a route lookup"])
    with nft_host.namespace.entered():
        subprocess.run(["iptables-legacy", "-A", "INPUT", "-j", "ACCEPT"], check=True)
        assert detect() is Variant.NFT


# ---- programs that do not tell everything ----


def test_a_listing_that_is_cut_off_anywhere_is_an_error_or_complete(host: Host, wrap: Wrap) -> None:
    host.apply(*CLUSTER)
    host.run("-t raw -A OUTPUT -p tcp -j ACCEPT")
    whole = host.read()
    length = len(host.run("save"))
    program = f"iptables-{host.variant.value}-save"
    messages: list[str] = []
    for end in sorted({*range(0, length, length // 60), *range(length - 70, length + 1, 3)}):
        wrap(program, f"$REAL | head -c {end}")
        with host.namespace.entered():
            try:
                found = {table.name: table for table in list_tables(host.variant, Family.IPV4)}
                entries = host.kernel.read()
            except HostError as error:
                messages.append(str(error))
            else:
                # Of iptables-nft the kernel tells what is missing.
                assert set(found) >= {"raw", "mangle", "nat", "filter"}
                assert entries == whole
    assert len(messages) > 30
    assert all(program in message and "\n" not in message for message in messages)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("$REAL; exit 3", "-save ended with exit status 3"),
        ("kill -KILL $$", "-save was killed by SIGKILL"),
        ("$REAL; kill -SEGV $$", "-save was killed by SIGSEGV"),
        ("echo Segmentation fault", 'found "Segmentation fault"'),
        ("echo '*nat'; echo ':X - [0:0]'; printf '\\033[31mred'; exit 0", r'found "\\u001b\[31mred"'),
        ("printf 'no \\033[31m\\377\\n' >&2; exit 1", r"exit status 1: no \\x1b\[31m\\xff$"),
    ],
)
def test_a_program_that_fails_is_one_line(host: Host, wrap: Wrap, script: str, message: str) -> None:
    host.apply(*CLUSTER)
    wrap(f"iptables-{host.variant.value}-save", script)
    with host.namespace.entered():
        with pytest.raises(HostError, match=message) as caught:
            host.kernel.read()
        assert "\n" not in str(caught.value)
        with pytest.raises(HostError):
            detect()
        # The other family's are removed, and nobody is told that all is.
        with pytest.raises(UnseenError, match=message) as unseen:
            remove_rules([host.variant])
        assert all(" ip6 " in place for place in unseen.value.removed)
        assert len(unseen.value.removed) == 3
        with pytest.raises(UnseenError, match=message):
            remove_iptables_rules()


def test_warnings_and_other_versions_words_are_no_faults(host: Host, wrap: Wrap) -> None:
    host.apply(*CLUSTER)
    whole = host.read()
    script = """
        echo '# Warning: iptables-legacy tables present, use iptables-legacy-save to see them'
        echo '# Warning: iptables-legacy tables present, use iptables-legacy-save to see them' >&2
        $REAL | sed -e 's/^# Generated.*/# Generated by xtables-save v1.8.2 on Tue Mar  5/' -e '/^# Completed/d' \
            -e 's/^-A/[12:3456] -A/' -e 's/^COMMIT$/COMMIT\\n/'
    """
    wrap(f"iptables-{host.variant.value}-save", script)
    assert host.read() == whole


def test_programs_that_vanish_are_named_and_found_again(
    host: Host, wrap: Wrap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.apply(*CLUSTER)
    whole = host.read()
    host.run("restore --noflush", KUBE_PROXY.format(table="filter", hook="FORWARD"))
    binaries = [f"{command}-{host.variant.value}-save" for command in COMMANDS.values()]
    for program in binaries:
        wrap(program, "exec $REAL")
    folder = tmp_path / "bin"
    monkeypatch.setenv("PATH", str(folder))
    assert host.read() == whole
    for damage in ("", "#!/no/such/interpreter\n"):
        (folder / binaries[0]).unlink()
        if damage:
            (folder / binaries[0]).write_text(damage)
            (folder / binaries[0]).chmod(0o755)
        with pytest.raises(HostError, match=f"^{binaries[0]} (cannot be run: .*|is not installed: .*)$"):
            host.read()
        with pytest.raises(HostError, match=r"not installed|cannot be run"):
            host.read()
        with host.namespace.entered(), pytest.raises(UnseenError, match=binaries[0]) as unseen:
            remove_iptables_rules()
        assert unseen.value.removed == ()
        monkeypatch.undo()
        wrap(binaries[0], "exec $REAL")
        monkeypatch.setenv("PATH", str(folder))
        assert host.read() == whole


@pytest.mark.parametrize("variant", Variant, ids=lambda variant: variant.value)
def test_cleanup_without_the_programs_does_not_say_that_nothing_is_left(
    variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Host(variant) as host:
        host.apply(*CLUSTER)
        host.run("restore --noflush", KUBE_PROXY.format(table="filter", hook="FORWARD"))
        with host.namespace.entered():
            monkeypatch.setenv("PATH", str(tmp_path))
            from rulegen.iptables import binaries

            binaries._find.cache_clear()
            try:
                expected = f"iptables-{variant.value}-save is not installed: "
                with pytest.raises(UnseenError, match=expected):
                    remove_rules(Variant)
                with pytest.raises(UnseenError, match=expected):
                    remove_iptables_rules()
            finally:
                binaries._find.cache_clear()


# ---- other programs' bytes ----

ODD = {
    "not UTF-8": b"caf\xe9 \xff\xfe",
    "a line end": b"two\nlines",
    "a rule of rulegen's": b"x\n-A PREROUTING -j RULEGEN-SERVICES\n:RULEGEN-X - [0:0]\nCOMMIT\n*raw",
    "a jump in words": b"see -j RULEGEN-SERVICES or -j KUBE-SERVICES too",
    "quotes": rb"""say "-j RULEGEN-SERVICES" \ and 'KUBE-SERVICES' \\""",
    "our comment": b"x --comment RULEGEN-ESTABLISHED",
    "controls": b"\x1b[31m\x0b\x0c\x85\xe2\x80\xa8 \xe2\x80\xae",
}
SAVES = {variant: f"iptables-{variant.value}-save" for variant in Variant}


OURS = re.compile(rb"(-A |:)RULEGEN-|.*-j RULEGEN-[A-Z-]+$|.*--comment RULEGEN-ESTABLISHED -j ACCEPT$|[:#]")


def saved(host: Host) -> list[bytes]:
    with host.namespace.entered():
        output = subprocess.run([SAVES[host.variant]], capture_output=True, check=True).stdout
    return [line for line in output.split(b"\n") if not OURS.match(line)]


@pytest.mark.parametrize("kind", ODD)
def test_other_programs_comments_are_kept_byte_for_byte(host: Host, kind: str) -> None:
    program = f"iptables-{host.variant.value}".encode()
    with host.namespace.entered():
        for table, chain in ((b"nat", b"PREROUTING"), (b"filter", b"FORWARD"), (b"mangle", b"OUTPUT")):
            for words in (
                [b"-s", b"192.0.2.7", b"-m", b"comment", b"--comment", ODD[kind], b"-j", b"ACCEPT"],
                [b"-d", b"192.0.2.7", b"-m", b"comment", b"--comment", ODD[kind]],
                [b"-p", b"tcp", b"-j", b"LOG", b"--log-prefix", ODD[kind].partition(b"\n")[0][:29]],
            ):
                subprocess.run([program, b"-t", table, b"-A", chain, *words], check=True)
    host.run("restore --noflush", KUBE_PROXY.format(table="nat", hook="OUTPUT"))
    with host.namespace.entered():
        listed = subprocess.run([SAVES[host.variant]], capture_output=True, check=True).stdout
        assert remove_iptables_rules() == ["iptables-" + host.variant.value + " nat"]
    foreign = saved(host)
    assert [line for line in listed.split(b"\n") if b"192.0.2.7" in line] == [
        line for line in foreign if b"192.0.2.7" in line
    ]
    assert sum(b"LOG" in line for line in foreign) == listed.count(b"LOG") == 3
    host.apply(*CLUSTER)
    assert host.apply(*CLUSTER) == []
    assert sorted(saved(host)) == sorted(foreign)
    with host.namespace.entered():
        remove_rules([host.variant])
    assert sorted(saved(host)) == sorted(foreign)


def test_a_rule_ahead_with_odd_bytes_is_shown_escaped(host: Host, tmp_path: Path) -> None:
    host.apply(*CLUSTER)
    program = f"iptables-{host.variant.value}".encode()
    comment = b"\xff\x1b[31m\xe2\x80\xae"
    words = [program, b"-I", b"FORWARD", b"-m", b"comment", b"--comment", comment, b"-j", b"ACCEPT"]
    with host.namespace.entered():
        subprocess.run([*words[:1], b"-I", b"FORWARD", b"-j", b"ACCEPT"], check=True)
        subprocess.run([*words[:1], b"-t", b"nat", b"-I", b"PREROUTING", *words[3:]], check=True)
    file = tmp_path / "cluster.yaml"
    file.write_text("apiVersion: v1\nkind: List\nitems: []\n")
    command = [sys.executable, "-c", "from rulegen.cli import main; main()", "diff", "-f", str(file)]
    with host.namespace.entered():
        done = subprocess.run(
            [*command, "--target", "iptables", "--iptables-variant", host.variant.value],
            capture_output=True,
            check=False,
        )
    assert done.returncode == 1, done.stderr
    assert rb"- # behind: -m comment --comment " in done.stdout
    assert rb"\xff\x1b[31m\xe2\x80\xae" in done.stdout.replace(b"\\x", b"\\x")
    assert b"\x1b" not in done.stdout
    assert b"\xff" not in done.stdout


def test_a_kernel_object_can_be_made_where_the_rules_are_odd(host: Host) -> None:
    program = f"iptables-{host.variant.value}".encode()
    with host.namespace.entered():
        subprocess.run(
            [program, b"-A", b"INPUT", b"-m", b"comment", b"--comment", b"\xff", b"-j", b"ACCEPT"], check=True
        )
        assert Kernel().variant is host.variant
