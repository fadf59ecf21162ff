"""What `-o json` prints, as structs: each document says its version first, and docs/schemas describes it.

A field is only ever added within a version; what is taken away or means something else makes another one. `SCHEMAS`
names all documents; from it come the files of docs/schemas (`make schemas`). Only values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from inspect import cleandoc
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args, get_type_hints

from msgspec import UNSET, Struct, UnsetType, convert, to_builtins
from msgspec.json import encode

from rulegen.errors import legible

if TYPE_CHECKING:
    from rulegen.commands.diffstat import Row
    from rulegen.reconcile.driver import Difference, ShownChange
    from rulegen.reference import Finding

VERSION = 1

Word: TypeAlias = Literal["added", "changed", "removed"]
# What a map holds; the rules of a chain; what the kernel holds of an element.
Content: TypeAlias = str | list[str]


class Document(Struct, frozen=True, rename="camel", tag_field="version", tag=VERSION):
    """Base of all documents."""


class Part(Struct, frozen=True, rename="camel"):
    """Base of all parts of one."""


def encoded(document: object) -> bytes:
    """As JSON, from anything that msgspec encodes; what kernels and files hold besides UTF-8, as `legible` has it."""
    try:
        return encode(document)
    except UnicodeEncodeError:
        return encode(_legible(to_builtins(document)))


def _legible(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else legible(value)
    if isinstance(value, Mapping):
        return {_legible(key): _legible(item) for key, item in value.items()}
    return [_legible(item) for item in value] if isinstance(value, list | tuple) else value


# ---- diff, apply, plan ----


class Summary(Part, frozen=True):
    """How many entries differ."""

    added: int
    changed: int
    removed: int

    @classmethod
    def total(cls, difference: Difference) -> Summary:
        """Of all that differs."""
        return cls(difference.added, difference.changed, difference.removed)


class ShownEntry(Part, frozen=True):
    """An entry that differs.

    `family`: ip or ip6, with the table's name where that is not rulegen; `name`: the set, map or table; `key`: the
    element or chain. `before`, `after`: the data of an element as text, of a chain the rules that are only there.
    `service`: the object whose it is, "" for no single one's; `feature`: of which feature.
    """

    change: Word
    family: str
    name: str
    key: str
    service: str
    feature: str = ""
    before: Content | UnsetType = UNSET
    after: Content | UnsetType = UNSET

    @classmethod
    def all_of(cls, changes: Iterable[ShownChange]) -> list[ShownEntry]:
        """Of changes as a driver shows them, with text that a plan can hold."""
        return [convert(_legible(change.document), cls, strict=False) for change in changes]


class DiffDocument(Document, frozen=True):
    """`rulegen diff -o json`."""

    summary: Summary
    changes: Sequence[ShownEntry]


class StatRow(Part, frozen=True):
    """How many entries of one object differ in one way; `object`: "" for what is no single one's."""

    feature: str
    object: str
    change: Word
    entries: int

    @classmethod
    def of(cls, row: Row) -> StatRow:
        """The same as a line of text."""
        return cls(row.feature, row.object, convert(row.change, Word), row.entries)


class DiffStatDocument(Document, frozen=True):
    """`rulegen diff --stat -o json`."""

    summary: Summary
    objects: Sequence[StatRow]


class ApplyDocument(Document, frozen=True):
    """`rulegen apply -o json`.

    `result`: applied, or checked with --dry-run, or unchanged where nothing differed. `removed`: where rules were
    removed that an earlier run left in another target or variant.
    """

    result: Literal["applied", "checked", "unchanged"]
    summary: Summary
    changes: Sequence[ShownEntry]
    removed: Sequence[str]


# ---- lint, golden ----


class LintFinding(Part, frozen=True):
    """Something legal but probably wrong; `reason` is a stable word."""

    object: str
    reason: str
    message: str

    @classmethod
    def of(cls, finding: Finding) -> LintFinding:
        """The same as a line of text."""
        return cls(finding.subject, finding.reason, finding.message)


class LintDocument(Document, frozen=True):
    """`rulegen lint -o json`."""

    findings: Sequence[LintFinding]


class GoldenSummary(Part, frozen=True):
    """How many scenarios were checked, and how many are not as written down."""

    scenarios: int
    different: int


class GoldenFailure(Part, frozen=True):
    """One thing that is not as written down; `accept`: the command that would write it down, "" where there is none."""

    scenario: str
    name: str
    file: str
    line: int
    expected: str
    found: str
    accept: str


class GoldenDocument(Document, frozen=True):
    """`rulegen golden check -o json`; `unused`: files that no scenario has any more."""

    summary: GoldenSummary
    failures: Sequence[GoldenFailure]
    unused: Sequence[str]


class GoldenUpdateDocument(Document, frozen=True):
    """`rulegen golden update -o json`: how many scenarios there are, and which files were written and removed."""

    scenarios: int
    rewritten: Sequence[str]
    removed: Sequence[str]


# ---- env ----


class EnvDocument(Document, frozen=True):
    """`rulegen env -o json`: the values of the variables, by their names."""

    variables: Mapping[str, str]


# ---- verify ----


class VerifiedEnding(Part, frozen=True):
    """What becomes of some packets on one side, and the rules that they meet there."""

    fate: str
    masqueraded: bool
    accepted: Sequence[str]
    remembered: int | None
    mark_bits_touched: int
    priority_left: bool
    client_is_endpoint: bool | None
    endpoint_is_local: bool | None
    shares: Mapping[str, str]
    rules: Sequence[str]
    reason: str


class VerifiedDifference(Part, frozen=True):
    """A class of packets that differs, by its simplest packet."""

    packet: str
    source: str
    destination: str
    protocol: int
    port: int
    mark: int
    sent_by_node: bool
    connection: str
    remembered_by: str | None
    explanation: str
    left: Sequence[VerifiedEnding]
    right: Sequence[VerifiedEnding]


class VerifiedFamily(Part, frozen=True):
    """What was found of one family, in classes of packets."""

    family: str
    classes: int
    different: int
    unsaid: int
    undecided: int
    not_understood: Mapping[str, int]
    unexplained: int
    explained: Mapping[str, int]
    differences: Sequence[VerifiedDifference]


class VerifyDocument(Document, frozen=True):
    """`rulegen verify -o json`."""

    left: str
    right: str
    result: Literal["equal", "different", "unknown"]
    missing: Sequence[str]
    uncovered: Sequence[str]
    families: Sequence[VerifiedFamily]


# ---- schemas ----

# The structs of each document, each as module and name: some cost time to import.
_HERE = "rulegen.commands.documents"
SCHEMAS: Mapping[str, Sequence[tuple[str, str]]] = {
    "apply": [(_HERE, "ApplyDocument")],
    "diff": [(_HERE, "DiffDocument"), (_HERE, "DiffStatDocument")],
    "env": [(_HERE, "EnvDocument")],
    "explain": [
        ("rulegen.services.explain.model", "ServiceExplanation"),
        ("rulegen.commands.explained", "PacketDocument"),
        ("rulegen.commands.explained", "RequestDocument"),
        ("rulegen.records.explain", "RecordsExplanation"),
    ],
    "golden": [(_HERE, "GoldenDocument"), (_HERE, "GoldenUpdateDocument")],
    "lint": [(_HERE, "LintDocument")],
    "plan": [("rulegen.commands.plan_file", "Plan")],
    "status": [("rulegen.agent.status.document", "Status")],
    "top": [("rulegen.top.model", "Snapshot")],
    "trace": [("rulegen.trace.model", "TracedPacket"), ("rulegen.trace.model", "Summary")],
    "verify": [(_HERE, "VerifyDocument")],
}


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema of a document, from its structs."""
    from importlib import import_module

    from msgspec.json import decode, schema_components

    structs = [getattr(import_module(module), struct) for module, struct in SCHEMAS[name]]
    refs, components = schema_components(structs, ref_template="#/$defs/{name}")
    for struct in _structs_in(structs, set()):
        described = components[struct.__name__]
        described["description"] = cleandoc(described.get("description", ""))
        described["required"] = [field for field in described["required"] if field not in _may_be_unset(struct)]
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"rulegen {name}",
        **(refs[0] if len(refs) == 1 else {"anyOf": list(refs)}),
        "$defs": {title: components[title] for title in sorted(components)},
    }
    # As JSON has it: a default may be a tuple.
    return decode(encode(whole), type=dict[str, Any])


def _structs_in(types: Iterable[Any], seen: set[type[Struct]]) -> set[type[Struct]]:
    """Structs, and all that their fields are made of."""
    for one in types:
        if isinstance(one, type) and issubclass(one, Struct):
            if one not in seen:
                seen.add(one)
                _structs_in(get_type_hints(one).values(), seen)
        else:
            _structs_in(get_args(one), seen)
    return seen


def _may_be_unset(struct: type[Struct]) -> set[str]:
    """The fields, by their names in JSON, that a document may lack though the struct has no default for them."""
    hints = get_type_hints(struct)
    fields = zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True)
    return {encoded for field, encoded in fields if UnsetType in get_args(hints[field])}
