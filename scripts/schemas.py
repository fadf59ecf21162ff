#!/usr/bin/env python3
"""Writes docs/schemas: the JSON Schema of each document that `-o json` prints, and of the plan, from their structs.

scripts/schemas.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rulegen.commands.documents import SCHEMAS, schema


def write_schemas(folder: Path) -> None:
    """All of them, and nothing else: a document that there is no more has no schema."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.json"):
        path.unlink()
    for name in SCHEMAS:
        (folder / f"{name}.json").write_text(json.dumps(schema(name), indent=2) + "\n")


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]))
