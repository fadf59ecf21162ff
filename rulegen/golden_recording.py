"""What is true today becomes what is expected: of packets, as a new scenario, or of the flows of one that there is.

In come manifests and packets, or a scenario, and out go files of the scenario's folder. What a person wrote besides the
expectations stays as it was, comments too. Never looks at the host.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from io import StringIO
from pathlib import Path
from typing import Any

from rulegen.errors import InputError, printable, shown
from rulegen.golden import (
    CLUSTER_FILE,
    FLOWS_FILE,
    Fact,
    Flow,
    Scenario,
    check,
    facts,
    read_scenario,
    read_text,
    write_text,
)
from rulegen.kube.manifests import Manifests
from rulegen.kube.snapshot import write_manifests
from rulegen.paths import refusal

# What is done where a file is there already.
_INSTEAD = {
    CLUSTER_FILE: "record into another folder, or move it away",
    FLOWS_FILE: "`rulegen golden update --flows` writes down what is so now",
}
# Shares are compared with six digits.
_LARGEST_PART = 1_000_000


def record(
    folder: Path,
    manifests: Manifests,
    node: str,
    settings: Mapping[str, Any],
    own: Mapping[str, Any],
    packets: Iterable[str],
) -> Scenario:
    """Writes a new scenario.

    `settings`: fields of a KubeProxyConfiguration. `own`: what else flows.yaml says of the node, by field: `features`,
    `networkPolicies`. `packets`: lines `FROM TO`, as `from` and `to` of a flow.

    All of it or nothing: what was there stays as it was, and after a failure there is no more than before.

    Raises:
        InputError: the folder has a file of a scenario already, a packet cannot be used, or a file cannot be written.
    """
    pairs = list(_pairs(packets))
    if not pairs:
        raise InputError("the packets: expected lines FROM TO, got none")
    lines = [f"node: {json.dumps(node)}"]
    if settings:
        lines.append(f"configuration: {json.dumps(dict(settings))}")
    lines += (f"{name}: {json.dumps(value)}" for name, value in own.items() if value)
    lines.append("flows:")
    for source, destination in pairs:
        lines.append(f"  - name: {json.dumps(f'{source} to {destination}', ensure_ascii=False)}")
        lines.append(f"    from: {json.dumps(source)}")
        lines.append(f"    to: {json.dumps(destination)}")
        lines.append("    expect: passed")
    cluster = StringIO()
    write_manifests(manifests, cluster)
    with _taken_back_on_failure(folder) as write:
        write(CLUSTER_FILE, cluster.getvalue())
        write(FLOWS_FILE, "\n".join(lines) + "\n")
        accept_flows(read_scenario(folder))
        return read_scenario(folder)


@contextmanager
def _taken_back_on_failure(folder: Path) -> Iterator[Callable[[str, str], None]]:
    """What writes a new file there, by name and text. When the block fails, what it made goes, folders too."""
    undo = ExitStack()

    def write(name: str, text: str) -> None:
        path = folder / name
        try:
            # Whoever was there first has it, also since it was last looked at.
            with path.open("x", encoding="utf-8") as output:
                undo.callback(_if_possible, path.unlink)
                output.write(text)
        except FileExistsError as error:
            raise InputError(f"{printable(str(path))}: there already; {_INSTEAD[name]}") from error
        except OSError as error:
            raise InputError(f"{printable(str(path))}: {error.strerror}") from error

    try:
        with undo:
            for missing in reversed([one for one in (folder, *folder.parents) if not one.exists()]):
                missing.mkdir()
                undo.callback(_if_possible, missing.rmdir)
            yield write
            undo.pop_all()
    except OSError as error:
        raise refusal(error.filename or folder, error) from error


def _if_possible(step: Callable[[], None]) -> None:
    """Where somebody has put something there meanwhile, it stays."""
    with suppress(OSError):
        step()


def _pairs(packets: Iterable[str]) -> Iterable[tuple[str, str]]:
    for number, line in enumerate(packets, 1):
        words = line.partition("#")[0].split()
        if words and len(words) != 2:
            raise InputError(f"line {number} of the packets: expected FROM TO, got {shown(line.strip())}")
        if words:
            yield words[0], words[1]


def accept_flows(scenario: Scenario) -> int:
    """Rewrites the expectations of flows that end otherwise; how many. All else in the file stays.

    Raises:
        InputError: packets of one entry have different fates now, which no one expectation says; or the file cannot
            be written.
    """
    import yaml

    wrong = {case.line for case in check(scenario).cases if case.failures and case.file == scenario.flows_file}
    if not wrong:
        return 0
    text = read_text(scenario.flows_file)
    root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    assert root is not None  # noqa: S101 - the scenario was read from it
    entries = next(value for key, value in root.value if key.value == "flows").value
    # From the end, so that what is before stays where it is.
    for entry in reversed(range(len(entries))):
        flows = [flow for flow in scenario.flows if flow.entry == entry]
        if flows[0].line in wrong:
            node = next(value for key, value in entries[entry].value if key.value == "expect")
            begin, end = node.start_mark.index, node.end_mark.index
            old = text[begin:end]
            # A block ends where the next token begins.
            kept = old[len(old.rstrip()) :]
            text = text[:begin] + expectation(_only(scenario, flows)) + kept + text[end:]
            text = _on_the_line_of_its_key(text, begin)
    write_text(scenario.flows_file, text)
    return len(wrong)


def _on_the_line_of_its_key(text: str, begin: int) -> str:
    """A value that stood on lines of its own is one line now, and goes behind `expect:`."""
    before = text[:begin]
    return f"{before.rstrip()} {text[begin:]}" if before.rstrip(" ").endswith("\n") else text


def _only(scenario: Scenario, flows: Sequence[Flow]) -> Fact:
    found = [fact for flow in flows for fact in facts(scenario, flow)]
    if any(fact != found[0] for fact in found):
        place = f"{scenario.flows_file}:{flows[0].line}"
        raise InputError(
            f"{place}: {shown(flows[0].name)}: its packets end in different ways now: make entries of them"
        )
    return found[0]


def expectation(fact: Fact) -> str:
    """A fact as the value of `expect`, in one line."""
    if fact.fate:
        return fact.fate
    parts = _parts(fact.shares)
    names = list(fact.shares)
    endpoints: Any = names if len(set(parts)) == 1 else dict(zip(names, parts, strict=True))
    masqueraded: Any = len(fact.masqueraded) == len(names)
    if fact.masqueraded and not masqueraded:
        masqueraded = sorted(fact.masqueraded)
    sticky = ", sticky: true" if fact.sticky else ""
    return f"{{endpoints: {json.dumps(endpoints)}, masqueraded: {json.dumps(masqueraded)}{sticky}}}"


def _parts(shares: Mapping[str, float]) -> list[int]:
    """The smallest whole numbers with these shares, which are rounded to six digits."""
    parts: list[int] = []
    for bound in (100, 1_000, 100_000, _LARGEST_PART):
        fractions = [Fraction(share).limit_denominator(bound) for share in shares.values()]
        scale = math.lcm(*(fraction.denominator for fraction in fractions))
        parts = [int(fraction * scale) for fraction in fractions]
        if [round(part / sum(parts), 6) for part in parts] == list(shares.values()):
            break
    return parts
