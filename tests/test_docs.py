"""What the documentation names is there, and what is there is named."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from rulegen.claims import ACCELERATION, EGRESS_HOOKS, HOOKS, POLICY_HOOKS, Hook
from rulegen.cli import main
from rulegen.reference import ObjectReference
from rulegen.services.model import Reason, found

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DECISIONS = ROOT / "docs" / "service-proxy.md"
_SOURCES = [path for folder in ("rulegen", "templates", "deploy", "tests") for path in (ROOT / folder).rglob("*")]
_TEXTS = [path for path in _SOURCES if path.suffix in {".py", ".j2", ".yaml"}] + PAGES


def test_each_module_has_its_line_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    modules = {path.name for path in (ROOT / "rulegen").rglob("*.py")} - {"__init__.py"}
    named = {name.rpartition("/")[2] for name in re.findall(r"`((?!tests/|bench/)[a-z_/]+\.py)`", text)}
    assert modules ^ named == set()


def test_no_table_of_the_architecture_has_a_module_twice() -> None:
    for table in _tables((ROOT / "docs" / "architecture.md").read_text()):
        named = [name for row in table[2:] for name in re.findall(r"`([\w/]+\.py)`", row.split(" | ")[0])]
        assert sorted(set(named)) == sorted(named)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_each_table_has_a_heading_and_as_many_cells_in_each_row(page: Path) -> None:
    for table in _tables(page.read_text()):
        cells = {len(re.findall(r"(?<!\\)\|", row)) for row in table}
        assert len(cells) == 1, table[0]
        assert re.fullmatch(r"[| :-]+", "".join(table[1:2])), table[0]


def _tables(text: str) -> list[list[str]]:
    """The lines of each table, without what looks like one in a block of code."""
    prose = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [found.splitlines() for found in re.findall(r"^\|(?:.*\n\|)*.*$", prose, re.MULTILINE)]


def test_decisions_are_unique_and_each_that_is_cited_exists() -> None:
    made = re.findall(r"^- \*\*D(\d+) ", DECISIONS.read_text(), re.MULTILINE)
    assert made == sorted(set(made), key=int)
    cited = {number for path in _TEXTS for number in re.findall(r"\bD(\d{1,2})\b", path.read_text())}
    assert cited <= set(made)


def test_the_tests_that_decisions_name_exist() -> None:
    named = r"`((?:tests|bench)/[\w/]+(?:\.py)?)`(?:: ((?:`\w+`(?:, | and )?)+))?"
    for path, names in re.findall(named, DECISIONS.read_text()):
        text = (ROOT / path).read_text() if (ROOT / path).is_file() else None
        assert text is not None or (ROOT / path).is_dir(), path
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"\b{name}\b", text or ""), f"{path}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, heading = link.partition("#")
        if "://" in link:
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert heading in {_anchor(text) for text in headings}, link


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_each_reason_of_an_event_is_told() -> None:
    text = (ROOT / "docs" / "operations.md").read_text().partition("\n### Events\n")[2].partition("\n### ")[0]
    reasons = {reason.value for reason in Reason if found(ObjectReference("Pod", "", "web"), reason, "").is_for_owner}
    assert set(re.findall(r"`([A-Z]\w+)`", text)) >= reasons


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_and_option_exists(page: Path) -> None:
    assert isinstance(main, click.Group)
    for words in _commands(page.read_text()):
        command: click.Command = main
        options = {"--help", "-h", "--version"}
        for word in words:
            if isinstance(command, click.Group) and not word.startswith("-"):
                found = command.get_command(click.Context(command), word)
                assert found is not None, " ".join(words)
                command = found
                options |= {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
            elif re.match(r"--?[a-z]", word):
                assert word.partition("=")[0] in options, " ".join(words)


def _below(command: click.Command) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), name)
            assert found is not None
            yield from _below(found)


def test_the_help_of_an_option_names_options_that_the_command_has() -> None:
    for command in _below(main):
        own = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        for option in command.params:
            named = re.findall(r"(?<![\w-])--?[a-z][a-z-]*", getattr(option, "help", None) or "")
            assert set(named) <= own, f"{command.name} {option.opts}"


@pytest.mark.parametrize("name", ["top", "trace"])
def test_what_reads_no_cluster_by_itself_says_so(name: str) -> None:
    (command,) = [one for one in _below(main) if one.name == name]
    (option,) = [one for one in command.params if "--kubeconfig" in one.opts]
    assert isinstance(option, click.Option)
    assert "[default: none]" in str(option.help)


def _commands(text: str) -> Iterator[list[str]]:
    """Of the blocks of shell commands, and of the code in lines: what follows the word rulegen."""
    blocks = "\n".join(re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    spans = re.findall(r"`(rulegen [^`\n]+)`", text)
    for line in [*blocks.split("\n"), *spans]:
        found = re.search(r"(?:^|[;&|] ?|bin/|-- )rulegen ([a-z][^|;&<>#]*)", line)
        if found:
            try:
                yield shlex.split(found[1].rstrip(")'\""))
            except ValueError:
                continue


def _drawn(kind: str) -> str:
    """What the block of this kind in the architecture's drawing of hooks holds."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    drawn: str = re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)[0]
    return drawn


def test_the_hooks_that_the_architecture_draws_are_those_that_are_claimed() -> None:
    claimed = {("rulegen-acceleration", ACCELERATION.hook, ACCELERATION)}
    claimed |= {("rulegen", name, hook) for name, hook in HOOKS.items()}
    claimed |= {("rulegen-egress-masquerade", name, hook) for name, hook in EGRESS_HOOKS.items()}
    claimed |= {("rulegen-network-policies", name, hook) for name, hook in POLICY_HOOKS.items()}
    lines = re.findall(r"^([a-z]+) +(-?\d+) +([a-z]+) +([a-z-]+) +([a-z-]+)", _drawn("nftables"), re.MULTILINE)
    assert {(table, chain, Hook(kind, hook, int(at))) for hook, at, kind, table, chain in lines} == claimed


def test_the_rules_in_built_in_chains_that_the_architecture_draws_are_those_of_the_templates() -> None:
    found = set()
    for template in (ROOT / "templates" / "iptables").glob("*.j2"):
        table = ""
        for line in template.read_text().splitlines():
            table = line[1:] if re.fullmatch(r"\*[a-z]+", line) else table
            if rule := re.match(r"-[IA] ([A-Z]+) .*-j ([A-Z-]+)", line):
                found.add((table, rule[1], rule[2]))
    assert found == set(re.findall(r"^([a-z]+) +([A-Z]+) +([A-Z-]+)", _drawn("iptables"), re.MULTILINE))


def test_each_file_that_code_and_documentation_name_is_there() -> None:
    named = r"\b(?:rulegen|tests|bench|scripts|templates)/[\w/.-]+\.(?:py|j2|nft|md)\b"
    paths = {(path, name) for path in _TEXTS for name in re.findall(named, path.read_text())}
    assert [(path.name, name) for path, name in paths if not (ROOT / name).exists()] == []


_RULE_NUMBER = re.compile(r"\b(?:SVC-\d+|D\d{1,2})\b")
_PACKET_NUMBER = re.compile(r"\b8000:[0-9a-f]{4}\b")


@pytest.mark.parametrize("page", [page for page in PAGES if page != DECISIONS], ids=lambda page: page.name)
def test_numbers_are_explained_before_they_are_shown(page: Path) -> None:
    """Those of rules and decisions, and those that a packet carries from one lookup to the next."""
    text = page.read_text()
    told = re.search(r"\bsuch as SVC-\d+\b|\[service-proxy\.md\]\(service-proxy\.md\)", text)
    for number in _RULE_NUMBER.finditer(text):
        assert told is not None, number[0]
        # In the same sentence, or before.
        assert told.start() <= number.start() or "\n\n" not in text[number.start() : told.start()], number[0]
    told = re.search(r"a packet\s+carries|number by which|in a packet's register", text)
    for number in _PACKET_NUMBER.finditer(text):
        assert told is not None, number[0]
        assert told.start() < number.start() or "\n\n" not in text[number.start() : told.start()], number[0]


def test_the_first_pages_have_the_figures_that_were_measured() -> None:
    """The table of README.md and of the site's first page, each cell of which stands in docs/performance.md."""
    measured = (ROOT / "docs/performance.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+) \| (.*) \|$", measured, re.MULTILINE))
    tables = []
    for page in (ROOT / "README.md", ROOT / "docs/index.md"):
        text = page.read_text()
        # What it is and why comes first, before how it is installed or called.
        assert (
            text.index("in place of kube-proxy") < text.index("| kube-proxy's nftables layout") < text.index("```sh\n")
            if "```sh\n" in text
            else True
        )
        tables.append(re.findall(r"^\| ([^|]+, [^|]+) \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE))
    assert tables[0] == tables[1]
    assert len(tables[0]) == 6
    for name, theirs, ours in tables[0]:
        kind, _, scale = name.partition(", ")
        if "Services" in scale:
            (row,) = [cells for words, cells in rows.items() if words.startswith(f"{scale}: {kind}")]
            assert row.split(" | ")[:2] == [theirs, ours], name
        else:
            beginning = {"each later packet": "later packet of a connection"}.get(kind, kind)
            # Of the first of its rows, at 1,000 Services: the floor, no rules, rulegen, kube-proxy's layout.
            cells = re.search(
                rf"^\| {beginning} \| (.*) \|$", measured[measured.index("**1,000 Services**") :], re.MULTILINE
            )
            assert cells is not None
            assert [cell.split(" ")[0] for cell in cells[1].split(" | ")[2:4]] == [ours, theirs], name


def test_each_decision_about_what_kube_proxy_does_is_in_the_table_of_those_who_move() -> None:
    """Each row says of each of the three modes whether something is lost, won or the same."""
    made = set(re.findall(r"^- \*\*(D\d+) ", DECISIONS.read_text(), re.MULTILINE))
    # Host ports and egress masquerade are other programs' work.
    of_features = {"D21", "D22"}
    table = re.findall(r"^\| (.*) \|$", (ROOT / "docs/moving.md").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bD\d+\b", "\n".join(table))) == made - of_features
    assert table[0] == "| from iptables | from ipvs | from nftables"
    for row in table[2:]:
        _, *cells = row.split(" | ")
        assert len(cells) == 3, row
        for cell in cells:
            assert re.search(r"(?:^|on (?:nftables|iptables) |; )(?:=|won|lost|needs|as from)", cell), cell


def test_each_page_has_its_place_in_the_site() -> None:
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    named = re.findall(r"([\w-]+\.md)$", nav, re.MULTILINE)
    assert sorted(named) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
