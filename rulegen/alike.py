"""A name that nobody has comes in, and those that there are; out go the ones that may have been meant.

Names come from people and from tenants, and `difflib` takes the square of their length, for each that there is. So what
is compared is bounded, in length and in number.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from heapq import nlargest

from rulegen.errors import printable

# Longer than a namespace and a name of Kubernetes together; and how many may be compared letter by letter.
_LONGEST = 128
_MOST_COMPARED = 500


def alike(name: str, names: Iterable[str], most: int = 3, likeness: float = 0.6) -> list[str]:
    """Those of `names` that are spelt like `name`, the likest first; at most so many.

    `likeness`: from 0 to 1, as `difflib.SequenceMatcher.ratio` counts it.
    """
    matcher = SequenceMatcher(autojunk=False)
    matcher.set_seq2(name[:_LONGEST])
    found: list[tuple[float, str]] = []
    compared = 0
    for candidate in names:
        if len(candidate) > _LONGEST:
            continue
        matcher.set_seq1(candidate)
        if matcher.real_quick_ratio() < likeness or matcher.quick_ratio() < likeness:
            continue
        compared += 1
        if compared > _MOST_COMPARED:
            break
        if (ratio := matcher.ratio()) >= likeness:
            found.append((ratio, candidate))
    return [candidate for _, candidate in nlargest(most, found)]


def there_is(name: str, names: Iterable[str], most: int = 5) -> str:
    """The end of a message about a name that nobody has: `; there is shop`, those that are spelt alike, else a few."""
    known = sorted(names)
    near = alike(name.lower(), known, most)
    found = near or known[:most]
    more = f" and {len(known) - len(found)} more" if not near and len(known) > len(found) else ""
    return f"; there is {', '.join(map(printable, found))}{more}" if found else ""
