"""A plugin of pytest: each flow of a scenario is a test.

In comes a folder with `flows.yaml` and `cluster.yaml` that pytest looks into, out go tests, one for each entry of
`flows`, and one for each file of rules where the scenario is checked as deep as that. It does nothing until pytest
meets such a folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rulegen.errors import RulegenError
from rulegen.paths import may_be_there


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """The scenario, when the file is a scenario's."""
    if file_path.name == "flows.yaml" and may_be_there(file_path.parent / "cluster.yaml"):
        return ScenarioFile.from_parent(parent, path=file_path)
    return None


class ScenarioFile(pytest.File):
    """A scenario; a mistake in one of its files is an error of the collection, in a line for each."""

    def collect(self) -> Iterator[pytest.Item]:
        """A test for each thing that is compared."""
        from rulegen.golden import check, read_scenario

        try:
            cases = check(read_scenario(self.path.parent)).cases
        except RulegenError as error:
            raise self.CollectError(str(error)) from error
        for case in cases:
            yield CaseItem.from_parent(self, name=case.name, case=case)


class CaseItem(pytest.Item):
    """A flow, or a file of rules."""

    def __init__(self, *, case: Any, **words: Any) -> None:
        super().__init__(**words)
        self._case = case

    def runtest(self) -> None:
        """Fails with a line for each packet that ends otherwise."""
        if self._case.failures:
            pytest.fail("\n".join(map(str, self._case.failures)), pytrace=False)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where it is written down; pytest counts lines from 0."""
        return self._case.file, self._case.line - 1, self.name
