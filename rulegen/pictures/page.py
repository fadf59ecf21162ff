"""Records come in, one HTML file goes out that needs nothing else: no network, no server, no other file.

The page may run the two scripts and use the two styles that are in it, by their hashes, and nothing else; what came
from a cluster is data that scripts put in as text.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

from rulegen.errors import one_line
from rulegen.pictures.records import Record, Records
from rulegen.resources import environment, templates

_MOST_DIFFERENCES = 1000
_TOGETHER = 200
# Of data, in bytes: as long as they are no more, people and programs can read them in the file.
_MOST_PLAIN = 8 << 20


class About(NamedTuple):
    """What the page is about.

    `target`: nftables or iptables. `version`: of rulegen. `findings`: about no Service, in words. `differences`: what
    differs in the kernel besides what belongs to Services; None where nobody asked. `has_connections`: the records have
    counts of them.
    """

    title: str
    node: str
    target: str
    version: str
    findings: Sequence[str] = ()
    differences: Sequence[str] | None = None
    has_connections: bool = False


def page(about: About, records: Records) -> str:
    """The whole document; the same input gives the same bytes."""
    folder = templates("report")

    def text(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    style = text("page.css") + text("drawing.css")
    scripts = [_library(text("dagre.js"), text("dagre.js.LEGAL.txt")), text("drawing.js"), text("page.js")]
    return (
        environment("report")
        .get_template("page.html.j2")
        .render(
            title=one_line(about.title),
            policy=_policy(scripts, style),
            style=style,
            scripts=scripts,
            data=_block(_data(about, records)),
        )
    )


def _library(text: str, licence: str) -> str:
    """With its licence, as that asks for, and without a link to a file that is not there."""
    kept = [line for line in text.splitlines() if not line.startswith(("//# sourceMappingURL", "/*! For license"))]
    return "\n".join([licence.strip(), *kept, ""])


def _policy(scripts: Sequence[str], style: str) -> str:
    """A Content-Security-Policy under which only what is in the page here runs."""
    allowed = " ".join(map(_hash, scripts))
    return f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _packed(graphs: Sequence[Sequence[Record]]) -> str:
    """Some graphs that are unpacked together, when somebody opens one of their Services."""
    return _deflated(_json(graphs))


def _deflated(text: str) -> str:
    return b64encode(zlib.compress(text.encode(), 6)).decode()


def _json(document: object) -> str:
    return json.dumps(document, ensure_ascii=True, separators=(",", ":"))


def _data(about: About, records: Records) -> str:
    differences = about.differences
    shown = None if differences is None else [one_line(text) for text in differences[:_MOST_DIFFERENCES]]
    document = {
        "title": one_line(about.title),
        "node": one_line(about.node),
        "target": about.target,
        "version": about.version,
        "findings": [one_line(text) for text in about.findings],
        "differences": shown,
        "connections": about.has_connections,
        "moreDifferences": max(0, len(differences or ()) - _MOST_DIFFERENCES),
        "strings": records.strings,
        "kinds": records.kinds,
        "services": records.services,
        "graphs": [_packed(records.graphs[at : at + _TOGETHER]) for at in range(0, len(records.graphs), _TOGETHER)],
        "together": _TOGETHER,
    }
    return _json(document)


def _block(data: str) -> str:
    """What stands in the page: JSON in which nothing ends a script, or a comment, or a line; packed if it is large."""
    if len(data) > _MOST_PLAIN:
        return _deflated(data)
    return data.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
