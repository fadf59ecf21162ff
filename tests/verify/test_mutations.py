"""Compiled rulesets are damaged at random; each damage is found, or packets through the kernel find none either."""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import NamedTuple

import pytest

from rulegen.config import NodeConfiguration
from rulegen.errors import RulegenError
from rulegen.netfilter.machine import Machine, everything
from rulegen.netfilter.model import Family
from rulegen.netfilter.regions import DPORT, DST, PROTO, SRC, Undecided, simplest
from rulegen.netfilter.state import Connection
from rulegen.reconcile.feature import Feature
from rulegen.services.store import Store
from rulegen.verify import questions, rulesets
from rulegen.verify.compare import Sides, compare, rounding
from rulegen.verify.prove import RulesAnswer
from tests.flows.checks import Flow, differences, flow
from tests.flows.random_worlds import RandomWorld
from tests.flows.world import World
from tests.lab.fixtures import MakeLab
from tests.verify.cases import Case

pytestmark = pytest.mark.kernel

_PROTOCOLS = {6: "TCP", 17: "UDP", 132: "SCTP"}
# What no packet meets, and what gives the scratch register back, which is no part of an outcome.
_NOTHING = re.compile(r"^\s*(?:comment |#|}|table |flags |size |timeout |typeof |type |policy )|fingerprints")


@pytest.mark.part(500)
@pytest.mark.parametrize("seed", range(1000))
def test_damage_is_found_or_is_none(seed: int, make_lab: MakeLab) -> None:
    made = RandomWorld(seed % 25)
    target = ("nftables", "iptables")[seed % 2]
    case = Case(made.world, target)
    pick = random.Random(seed)
    damaged, what = damage(pick, case.text, target)
    try:
        source = rulesets.read_text(damaged, "damaged")
    except RulegenError:
        # nft refuses it: such rules are in no kernel.
        return
    report = case.report(source)
    if report.status:
        return
    lab = make_lab(dict(made.world.interfaces), made.world.addresses, ipv6=made.world.ipv6_enabled)
    with lab.entered():
        if not is_loaded(damaged, target):
            return
    aim = Aim(case.world, case.store, case.configuration, case.addresses)
    wrong = differences(lab, made.world, list(aimed(aim, source)))
    assert not wrong, f"not found: {what}\n" + "\n".join(wrong[:10])


def damage(pick: random.Random, text: str, target: str) -> tuple[str, str]:
    """The text with one element or rule gone, changed, or in another place; and what was done."""
    lines = text.splitlines()
    rules = [number for number, line in enumerate(lines) if is_rule(line, target)]
    number = pick.choice(rules)
    line = lines[number]
    kind = pick.randrange(4)
    if kind == 0:
        del lines[number]
        return "\n".join(lines) + "\n", f"gone: {line}"
    if kind == 1:
        # An element of an ipset stands in another part of the text than a rule.
        is_element = line.startswith("add ")
        other = pick.choice([one for one in rules if lines[one].startswith("add ") is is_element])
        lines[number], lines[other] = lines[other], line
        return "\n".join(lines) + "\n", f"swapped: {line} and {lines[number]}"
    changed = altered(pick, line)
    lines[number] = changed
    return "\n".join(lines) + "\n", f"changed: {line} to {changed}"


def is_rule(line: str, target: str) -> bool:
    """Whether a line is a rule or an element."""
    if target == "iptables":
        return line.startswith(("-A ", "-I ", "add "))
    return line.startswith("\t\t") and not _NOTHING.search(line) and " hook " not in line


def altered(pick: random.Random, line: str) -> str:
    """One number or word of a line is another one."""
    numbers = [
        *re.finditer(
            r"(?<![\w.:])\d+(?![\w.:])|(?<=[.:])\d+$|0x[0-9a-f]+|\b(?:drop|reject|goto|jump|ACCEPT|DROP)\b|!= ", line
        )
    ]
    if not numbers:
        return line
    found = pick.choice(numbers)
    words = {"drop": "accept", "reject": "drop", "goto": "jump", "jump": "goto", "ACCEPT": "DROP", "DROP": "ACCEPT"}
    words["!= "] = ""
    word = found[0]
    if word in words:
        changed = words[word]
    elif word.startswith("0x"):
        changed = hex(int(word, 16) ^ 1 << pick.randrange(15))
    else:
        changed = str(int(word) ^ 1 << pick.randrange(3))
    return line[: found.start()] + changed + line[found.end() :]


def is_loaded(text: str, target: str) -> bool:
    """Puts rules into the kernel of the node that the calling thread is on; False where it does not take them."""
    if target == "nftables":
        commands = [(["nft", "-f", "-"], text)]
    else:
        parts = re.split(r"^# (ipset -exist restore|ip6?tables-restore --noflush).*$", text, flags=re.MULTILINE)
        commands = [(words.split(), part) for words, part in zip(parts[1::2], parts[2::2], strict=True)]
    return not any(
        subprocess.run(words, input=given, text=True, capture_output=True, check=False).returncode
        for words, given in commands
    )


class Aim(NamedTuple):
    """A world, and what is known of its objects. `features`: those that are on besides the Services."""

    world: World
    store: Store
    configuration: NodeConfiguration
    addresses: Sequence[str]
    features: Sequence[Feature] = ()


def aimed(case: Aim, source: rulesets.Source) -> Iterator[Flow]:
    """A packet of every class of first packets that a lab can send: what the damaged rules tell apart."""
    world = case.world
    known = {*case.addresses, "127.0.0.1", "::1"}
    for meaning in questions.meanings(
        case.store, case.configuration, case.addresses, is_iptables=source.is_iptables, features=case.features
    ):
        ruleset = source.rulesets[meaning.family]
        left = RulesAnswer(Machine(ruleset, meaning.local_addresses, meaning.foreign_addresses))
        for is_sent in (True, False):
            sides = Sides(meaning.local_addresses, is_sent, meaning.mark, meaning.foreign_addresses)
            cells = left.follow(everything(meaning.family), Connection.NEW, is_sent=is_sent)

            def other(region: object, sent: bool = is_sent, of: object = meaning) -> object:
                return of.follow(region, Connection.NEW, is_sent=sent)  # type: ignore[attr-defined]

            for compared in compare(sides, cells, other, rounding(64)):  # type: ignore[arg-type]
                try:
                    packet = simplest(compared.region, _preferred(meaning.family, case.addresses, is_sent=is_sent))
                except Undecided:
                    continue
                if packet is None or packet[PROTO] not in _PROTOCOLS:
                    continue
                ends = [_text(meaning.family, packet[place]) for place in (SRC, DST)]
                is_usual = all(ip_address(end).is_global or ip_address(end).is_private for end in ends)
                if is_sent is (ends[0] in known) and is_usual and not any(map(_is_odd, ends)):
                    yield flow(world, "aimed", ends[0], ends[1], packet[DPORT], _PROTOCOLS[packet[PROTO]])


def _preferred(family: Family, addresses: Sequence[str], *, is_sent: bool) -> dict[int, tuple[int, ...]]:
    own = [address for address in addresses if (":" in address) is (family is Family.IPV6)]
    pods = ["10.128.0.77"] if family is Family.IPV4 else ["fd00:10:128::77"]
    outside = ["203.0.113.77"] if family is Family.IPV4 else ["2001:db8:b::77"]
    sources = own if is_sent else [*pods, *outside]
    places = ["198.51.100.77"] if family is Family.IPV4 else ["2001:db8:c::77"]
    numbers = [tuple(int(ip_address(one)) for one in some) for some in (sources, [*places, *own])]
    return {SRC: numbers[0], DST: numbers[1], PROTO: (6, 17), DPORT: (80,)}


def _text(family: Family, number: int) -> str:
    return str(ip_address(number.to_bytes(family.bits // 8, "big")))


_INTERFACE = (1 << 64) - 1


def _is_odd(address: str) -> bool:
    """No address that a packet of the lab has."""
    found = ip_address(address)
    if found.version == 6 and not int(found) & _INTERFACE:
        # The subnet-router anycast address (RFC 4291, 2.6.1): a node that forwards takes it for its own.
        return True
    return found.is_loopback or found.is_multicast or found.is_unspecified or found.is_reserved or found.is_link_local
