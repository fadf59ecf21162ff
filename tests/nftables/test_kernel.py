"""What the kernel or nft refuses, and what others do meanwhile: errors in a line, and never half a ruleset."""

from __future__ import annotations

import sys
import time

import pytest

from rulegen.errors import ApplyError, StaleError
from rulegen.targets.model import Difference
from rulegen.targets.on_nftables import NftablesTarget
from tests.builders import CONFIGURATION, Item, cluster, endpoint_slice, node, service
from tests.nftables.host import Host, lines_of

pytestmark = pytest.mark.kernel

WEB: list[Item] = [node(), service(), endpoint_slice(["10.128.0.1"])]
CROWD: list[Item] = [node(), service(), endpoint_slice([f"10.128.0.{number}" for number in range(1, 21)])]
MORE: list[Item] = [node(), service(), endpoint_slice(["10.128.0.1", "10.128.0.2"])]


def test_another_programs_commit_in_between_is_told_from_a_refusal(host: Host) -> None:
    host.apply(*MORE)
    live = host.read()
    transaction = host.plan(live, *WEB)
    host.nft("flush map ip rulegen endpoints")
    before = host.read().entries
    with pytest.raises(StaleError, match=r"No such file or directory.*: delete element ip rulegen endpoints \{ "):
        host.commit(transaction, live)
    assert host.read().entries == before
    host.apply(*WEB)
    assert lines_of(host.delta(*WEB)) == []


@pytest.mark.parametrize(
    ("before", "after", "commits"),
    [
        pytest.param(WEB, MORE, 1, id="endpoint-added"),
        pytest.param(MORE, WEB, 1, id="endpoint-removed"),
        pytest.param(WEB, [node(), service(), endpoint_slice(["10.128.0.3"])], 1, id="endpoint-replaced"),
        pytest.param(MORE, MORE, 0, id="nothing"),
        pytest.param([node()], WEB, 1, id="service-added"),
        # What packets may still be looking up goes afterwards; a chain that must lead somewhere comes before.
        pytest.param(WEB, [node()], 2, id="service-removed"),
        pytest.param(WEB, CROWD, 2, id="new-chain"),
        pytest.param(CROWD, WEB, 2, id="unneeded-chain"),
    ],
)
def test_a_change_is_as_few_commits_as_packets_allow(
    host: Host, before: list[Item], after: list[Item], commits: int
) -> None:
    host.apply(*before)
    generation = host.generation()
    host.apply(*after)
    assert host.generation() - generation == commits


@pytest.mark.parametrize(
    "meddling", ["flush map ip rulegen endpoints", "flush set ip6 rulegen fingerprints", "delete table ip rulegen"]
)
def test_an_apply_begins_anew_when_others_were_quicker(host: Host, meddling: str) -> None:
    host.apply(*MORE)
    shown: list[Difference] = []

    def meddle(difference: Difference) -> None:
        if not shown:
            host.nft(f"{meddling}\nflush chain ip6 rulegen frontend")
        shown.append(difference)

    with host.namespace.entered():
        NftablesTarget().apply(cluster(*WEB), CONFIGURATION, meddle, dry_run=False)
    assert len(shown) == (1 if "fingerprints" in meddling else 2)
    host.apply(*WEB)
    assert lines_of(host.delta(*WEB)) == []


def test_what_the_kernel_refuses_is_shown_with_the_command(host: Host) -> None:
    host.apply(*CROWD)
    host.nft("add map ip rulegen foreign { type mark : verdict; elements = { 1 : goto lb-20 }; }")
    before = host.read().entries
    with pytest.raises(ApplyError) as raised:
        host.apply(*WEB)
    assert str(raised.value) == (
        "the kernel refused a transaction: Device or resource busy: delete chain ip rulegen lb-20"
    )
    # What balances is in force; the chain that nobody may delete is left.
    assert lines_of(host.delta(*WEB)) == ["- ip chains lb-20"]
    assert before != host.read().entries
    host.nft("delete map ip rulegen foreign")
    host.apply(*WEB)
    assert lines_of(host.delta(*WEB)) == []


_DIES = """
import os, signal, sys
from rulegen.nftables import kernel
def commands():
    yield "table ip half {\\n\\tset s { type mark; }\\n}\\n"
    yield "add element ip half s {\\n"
    for number in range(20000):
        yield f"\\t{number},\\n"
    yield "}\\n"
    yield "#\\n" * 100000  # wherever this is cut off, all before it is complete
    sys.stdout.write("sent")
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)
    yield ""
kernel._in_subprocess([], commands(), check=False)
"""


def test_nft_does_not_outlive_the_process_that_feeds_it(host: Host) -> None:
    done = host.run(sys.executable, "-c", _DIES)
    assert (done.stdout, done.returncode) == ("sent", -9)
    time.sleep(1)
    assert host.run("nft", "list", "tables").stdout == ""
