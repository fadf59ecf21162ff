"""A rendered file says where it ends, so that one that was cut off is not taken for a smaller ruleset.

In: the lines of a file. Out: the same without the last, and whether that was there. What they mean is the targets'.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rulegen.errors import InputError, shown

END = "# end of rulegen's ruleset\n"


class RenderedLines:
    """The lines of a file, whose name for messages is `source`."""

    def __init__(self, lines: Iterable[str], source: str) -> None:
        self._lines = lines
        self._source = source
        self._number = 0
        self._has_ended = False

    def __iter__(self) -> Iterator[str]:
        """The lines up to the last, or up to where the file was cut off. Raises InputError for what comes after it."""
        for line in self._lines:
            self._number += 1
            if self._has_ended:
                place = f"{self._source}:{self._number}"
                raise InputError(f"{place}: expected nothing after {END.strip()!r}, got {shown(line)}")
            if line == END:
                self._has_ended = True
            elif line.endswith("\n"):
                yield line

    def check(self) -> None:
        """To be called when all were read. Raises InputError when the last was not among them."""
        if not self._has_ended:
            place = f"{self._source}:{max(1, self._number)}"
            raise InputError(f"{place}: the file was cut off: `rulegen render` writes {END.strip()!r} as the last line")
