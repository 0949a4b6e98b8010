"""`led-agent models`: the models that have a name."""

from __future__ import annotations

from led_agent.cli.base import print_json, stdout
from led_agent.cli.options import AsJson, Debug

__all__ = ["models"]


def models(as_json: AsJson = False, debug: Debug = False) -> None:
    """List the models that have a name, and where they are.

    Two are inside the package; others are named by a folder or a hub's id, and are not listed here.
    """
    from rich.table import Table
    from rich.text import Text

    from led_agent.models import known_models

    found = known_models()
    if as_json:
        for info in found:
            print_json({"name": info.name, "about": info.about, "path": info.path, "source": info.source})
        return
    table = Table(show_edge=False)
    for column in ("name", "what it is", "where"):
        table.add_column(column)
    for info in found:
        table.add_row(info.name, info.about, Text(f"{info.source}\n{info.path or ''}".strip()))
    stdout.print(table)
