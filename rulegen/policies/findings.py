"""What is legal in policies and pods, and probably not what was meant. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from ipaddress import ip_address

from rulegen.policies.model import Address, AddressRange, Direction, Policy, PolicyName
from rulegen.policies.pods import PodRecord
from rulegen.policies.ranges import text_of
from rulegen.reference import Finding, ObjectReference

# So many others of the same priority or address are named.
_NAMED = 5


class Reason(StrEnum):
    """The stable words of findings."""

    UNREADABLE = "PolicyUnreadable"
    UNSUPPORTED = "PolicyUnsupported"
    SAME_PRIORITY = "PolicySamePriority"
    SERVICE_BLOCK = "PolicyBlockOfServices"
    SAME_ADDRESS = "PodSameAddress"
    HIDDEN_PODS = "PodsHiddenFromPolicies"
    NO_POD_RANGE = "PolicyNoPodRange"


def policy_reference(name: PolicyName) -> ObjectReference:
    """The object that a policy is."""
    return ObjectReference(name.kind, name.namespace, name.name)


def policy_findings(
    policy: Policy, same_priority: Sequence[PolicyName], services: Iterable[AddressRange]
) -> Iterator[Finding]:
    """Of one policy. `same_priority`: all of its tier, in order, and itself. `services`: ranges of ClusterIPs."""
    reference = policy_reference(policy.name)
    for fault in policy.faults:
        yield Finding(reference, Reason.UNREADABLE.value, f"{fault}; its pods are isolated where this matters")
    for fault in policy.unsupported:
        yield Finding(reference, Reason.UNSUPPORTED.value, str(fault))
    others = [name.name for name in same_priority[: _NAMED + 1] if name != policy.name][:_NAMED]
    if others:
        names = _few(others, len(same_priority) - 1)
        message = (
            f"spec.priority: {policy.priority} is that of {names}, too: they are asked in the order of their names"
        )
        yield Finding(reference, Reason.SAME_PRIORITY.value, message)
    ranges = list(services)
    for direction, rules in policy.rules.items():
        for rule in rules:
            for block in rule.blocks:
                if any(_is_within(block, whole) for whole in ranges):
                    yield Finding(reference, Reason.SERVICE_BLOCK.value, _service_block(rule.place, block, direction))


def _few(names: Sequence[str], count: int) -> str:
    """The first names of so many."""
    more = count - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _is_within(block: AddressRange, whole: AddressRange) -> bool:
    return len(block[0]) == len(whole[0]) and whole[0] <= block[0] and block[1] <= whole[1]


def _service_block(place: str, block: AddressRange, direction: Direction) -> str:
    word = "to" if direction is Direction.EGRESS else "from"
    return (
        f"spec.{place}: {text_of(block)} are addresses of Services, and no packet comes {word} one where policies are "
        "asked: name the pods behind them"
    )


def address_finding(address: Address, claims: tuple[PodRecord, ...]) -> Finding:
    """Of an address that several pods claim; the one that counts is the first."""
    holder, *others = claims
    names = _few([str(other) for other in others[:_NAMED]], len(others))
    message = f"{ip_address(address)} is also the address of {names}; this pod counts"
    return Finding(ObjectReference("Pod", holder.namespace, holder.name), Reason.SAME_ADDRESS.value, message)


def masquerade_finding(node_name: str) -> Finding:
    """Of a node that masquerades what pods send to Services."""
    message = (
        "masqueradeAll: what pods of other nodes send to Services comes from their node's address, so that no policy "
        "for ingress can tell the pods"
    )
    return Finding(ObjectReference("Node", "", node_name), Reason.HIDDEN_PODS.value, message)


def pod_range_finding(node_name: str) -> Finding:
    """Of a node that is to be closed to pods that nobody knows, and does not say which addresses these have."""
    message = "failClosed: spec.podCIDRs is empty, so that pods that are not known yet cannot be told and are open"
    return Finding(ObjectReference("Node", "", node_name), Reason.NO_POD_RANGE.value, message)
