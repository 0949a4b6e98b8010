"""`led-agent top`: what the decoders and verifiers of a cluster do, live."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from led_agent.cli.base import print_json, stderr, stdout
from led_agent.cli.options import OUTPUT, AsJson, Debug
from led_agent.errors import UsageError

if TYPE_CHECKING:
    from led_agent.cluster.watch import Board

__all__ = ["board_view", "top"]


def top(
    cluster: Annotated[
        str, typer.Argument(metavar="[CLUSTER]", help="auto (the one on this machine), host:port or ray://host:port.")
    ] = "auto",
    once: Annotated[bool, typer.Option("--once", help="Print it once and end.", rich_help_panel=OUTPUT)] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.", rich_help_panel=OUTPUT)] = 1.0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Watch the decoders and verifiers of a cluster: tokens, slots, retries.

    Every search that runs on the cluster is shown, with what it has lost and sent again; a decoder that doesn't answer
    is named. It only looks: nothing changes by it. With --json it prints one object a look. Ctrl-C ends it.
    """
    from led_agent.cluster.plan import as_cluster

    where = as_cluster(cluster)
    if where.address in (None, "local"):
        raise UsageError(f"cluster is {cluster!r}; give auto, host:port or ray://host:port")
    from led_agent.cluster.connect import connect
    from led_agent.cluster.watch import look

    with stderr.status(f"connecting to {cluster}"):
        disconnect = connect(where)
    try:
        if once or as_json:
            _print(look, once, every, as_json)
        else:
            with Live(console=stdout, refresh_per_second=4, screen=stdout.is_terminal) as live:
                while True:
                    live.update(board_view(look()), refresh=True)
                    time.sleep(every)
    finally:
        disconnect()


def _print(look: Any, once: bool, every: float, as_json: bool) -> None:
    while True:
        board = look()
        if as_json:
            print_json(board.row())
        else:
            stdout.print(board_view(board))
        if once:
            return
        time.sleep(every)


def board_view(board: Board) -> RenderableType:
    """Runs, decoders and verifiers, as tables."""
    if not (board.decoders or board.verifiers or board.silent):
        return Text("no search runs on this cluster")
    parts: list[RenderableType] = [_run_line(name, state) for name, state in board.runs.items()]
    parts.append(_decoders(board, wide=stdout.width >= 110))
    if board.verifiers:
        parts.append(_verifiers(board))
    parts += [Text(f"{silent.name}: {silent.why}", style="yellow") for silent in board.silent]
    return Group(*parts)


def _run_line(name: str, state: dict[str, Any]) -> Text:
    line = Text(f"run {name}  ", style="bold")
    line.append(
        f"{state['seconds']:.0f} s, {state['decoders']} decoders, {state['done']} branches done, {state['open']} open, "
        f"{state['waiting']} waiting, {state['sent_again']} sent again, {state['deaths']} deaths, "
        f"{state['stalls']} stalls, {state['put_aside']} put aside",
        style="",
    )
    return line


def _decoders(board: Board, wide: bool) -> Table:
    """What fits into 80 columns; where there are more, also what seldom differs."""
    columns = [("decoder", False, True), ("host", False, True), ("device", False, wide), ("model", False, wide),
               ("slots", True, True), ("tokens/s", True, True), ("tokens", True, True), ("explored", True, True),
               ("branches", True, wide)]  # fmt: skip
    table = Table(show_edge=False, pad_edge=False, expand=True)
    for name, right, shown in columns:
        if shown:
            table.add_column(name, justify="right" if right else "left", no_wrap=True)

    def add(*cells: str, style: str = "") -> None:
        table.add_row(*(cell for cell, (_, _, shown) in zip(cells, columns, strict=True) if shown), style=style)

    for status in board.decoders:
        explored = f"{status.explored / status.tokens:.1%}" if status.tokens else "–"
        add(
            status.name.removeprefix("led-decoder-"), f"{status.host}:{status.pid}", status.device, status.model,
            f"{status.busy}/{status.slots}", f"{status.rate:.0f}", str(status.tokens), explored, str(status.branches),
        )  # fmt: skip
    if len(board.decoders) > 1:
        busy, slots = sum(s.busy for s in board.decoders), sum(s.slots for s in board.decoders)
        rate = sum(s.rate for s in board.decoders)
        add("all", "", "", "", f"{busy}/{slots}", f"{rate:.0f}", "", "", "", style="bold")
    return table


def _verifiers(board: Board) -> Table:
    table = Table(show_edge=False, pad_edge=False, expand=True)
    for name in ("verifiers", "host", "sandbox", "verdicts"):
        table.add_column(name, no_wrap=True)
    for told in board.verifiers:
        verdicts = "; ".join(
            f"{name} " + ", ".join(f"{count} {status}" for status, count in sorted(stats["verdicts"].items()))
            for name, stats in told["verifiers"].items()
        )
        table.add_row(
            str(told["name"]).removeprefix("led-verifier-"), f"{told['host']}:{told['pid']}", told["tier"] or "–",
            verdicts or "–",
        )  # fmt: skip
    return table
