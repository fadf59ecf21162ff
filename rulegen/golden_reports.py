"""What a check of scenarios found, in the forms that CI systems read.

In come scenarios with their Differences, out goes text: JUnit XML, annotations of GitHub, plain values for JSON. Names
are other people's text; none of the forms lets them be more than that. Never writes a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rulegen.errors import legible
from rulegen.golden import Case, Difference, Failure

# What XML 1.0 cannot say, not even escaped.
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Checked(NamedTuple):
    """A scenario's folder, and how it is not as written down."""

    folder: Path
    difference: Difference


def document(checked: Sequence[Checked], strays: Sequence[Path] = ()) -> dict[str, Any]:
    """For `-o json`: a summary, each thing that is not as written down, and files that no scenario has any more."""
    return {
        "summary": {"scenarios": len(checked), "different": sum(bool(one.difference) for one in checked)},
        "failures": [
            {
                "scenario": legible(str(one.folder)),
                "name": failure.name,
                "file": legible(str(failure.file)),
                "line": failure.line,
                "expected": failure.expected,
                "found": failure.found,
                "accept": failure.accept,
            }
            for one in checked
            for failure in one.difference.failures
        ],
        "unused": [legible(str(path)) for path in strays],
    }


def github_annotations(checked: Sequence[Checked], strays: Sequence[Path] = ()) -> Iterator[str]:
    """A workflow command for each failure, which GitHub shows beside the line of the file."""
    for one in checked:
        for failure in one.difference.failures:
            place = f"file={_property(str(failure.file))},line={failure.line}"
            title = _property(f"{one.folder.name}: {failure.name}")
            yield f"::error {place},title={title}::{_data(_what(failure))}"
    for path in strays:
        yield f"::error file={_property(str(path))}::no scenario has this configuration any more"


def _what(failure: Failure) -> str:
    accept = f"\nto accept it: {failure.accept}" if failure.accept else ""
    return f"expected {failure.expected}\nfound {failure.found}{accept}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def junit(checked: Sequence[Checked]) -> str:
    """A test suite for each scenario, a test case for each flow and file of rules."""
    from xml.etree import ElementTree as Xml

    root = Xml.Element("testsuites", name="rulegen golden check")
    for one in checked:
        cases = one.difference.cases
        counts = {"tests": str(len(cases)), "failures": str(sum(bool(case.failures) for case in cases))}
        suite = Xml.SubElement(root, "testsuite", {"name": _xml(str(one.folder)), **counts})
        for case in cases:
            _add_case(Xml.SubElement(suite, "testcase", _attributes(one, case)), case)
    Xml.indent(root)
    return Xml.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _attributes(one: Checked, case: Case) -> dict[str, str]:
    return {
        "classname": _xml(str(one.folder)),
        "name": _xml(case.name),
        "file": _xml(str(case.file)),
        "line": str(case.line),
    }


def _add_case(element: Any, case: Case) -> None:
    from xml.etree import ElementTree as Xml

    if case.failures:
        first = case.failures[0]
        message = _xml(f"expected {first.expected}, found {first.found}")
        failure = Xml.SubElement(element, "failure", message=message)
        failure.text = _xml("\n".join(map(str, case.failures)))


def _xml(text: str) -> str:
    return _NOT_IN_XML.sub("\ufffd", text)
