"""The shop's database, as far as the examples need one: a folder a table, a JSON file a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jobs._files import OUT, write_json


def upsert(table: str, id: str, **columns: Any) -> dict[str, Any]:
    """Make the row `id`, or change the columns given; the row. Repeating it changes nothing."""
    file = _file(table, id)
    row: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"id": id}
    row |= columns
    write_json(file, row)
    return row


def _file(table: str, id: str) -> Path:
    return OUT / "shop" / table / f"{id}.json"
