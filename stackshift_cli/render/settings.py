"""`config show` on a terminal."""

from __future__ import annotations

from rich.text import Text

from stackshift_cli.arguments import Globals
from stackshift_cli.output.safe_text import safe
from stackshift_cli.render.columns import Cells, Give, Row, field, print_table


def print_settings(options: Globals, settings: list[Row], with_origin: bool) -> None:
    """`settings` as a table, with a column for their `origin` if it was asked for. Of one that is
    not set, what that means is shown, or a dash."""
    cells: Cells = {"setting": field("setting"), "value": _value}
    gives: tuple[Give, ...] = (("VALUE", 24), ("SETTING", 24), ("VALUE", 8))
    if with_origin:
        cells = {**cells, "origin": field("origin")}
        gives = (("VALUE", 24), ("ORIGIN", 16), ("SETTING", 24), ("VALUE", 8))
    print_table(options, settings, cells, gives)


def _value(setting: Row) -> str | Text:
    if setting["value"] not in (None, ""):
        return str(setting["value"])
    unset = setting["unset"]
    return Text(f"- ({safe(unset)})" if unset and unset != "none" else "-", "dim")
