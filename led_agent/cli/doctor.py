"""`led-agent doctor`: what there is on this machine."""

from __future__ import annotations

import typer

from led_agent.cli.base import print_json, stdout
from led_agent.cli.options import AsJson, Debug

__all__ = ["doctor"]


def doctor(as_json: AsJson = False, debug: Debug = False) -> None:
    """Report versions, devices, models, Ray, the cache folder, and the sandbox's tier with its probes.

    Each line is something that was tried or looked for here; what is missing says how to get it. Nothing is installed
    or changed.
    """
    from rich.table import Table
    from rich.text import Text

    from led_agent.doctor import examine

    broken = False
    table = Table(show_edge=False)
    for column in ("", "name", "", "found"):
        table.add_column(column)
    group = ""
    for finding in examine():
        broken |= finding.needed and not finding.ok
        if as_json:
            print_json(finding.row())
        mark = Text("ok", "green") if finding.ok else Text("MISSING" if finding.needed else "no", "red")
        table.add_row(finding.group if finding.group != group else "", Text(finding.name), mark, Text(finding.detail))
        group = finding.group
    if not as_json:
        stdout.print(table)
    raise typer.Exit(3 if broken else 0)
