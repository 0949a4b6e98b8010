"""`led-agent show`: the trees of a saved run, in the terminal, for other programs, or as a page for a browser."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from led_agent.cli.base import print_json, print_text, stderr, stdout
from led_agent.cli.options import OUTPUT, PROBLEM, AsJson, Debug
from led_agent.errors import UsageError

if TYPE_CHECKING:
    from led_agent.pages.export import Progress
    from led_agent.tree import Tree

__all__ = ["show"]

_PATIENCE = 2.0  # seconds of silence


class TreeFormat(StrEnum):
    """How `show` prints a tree."""

    text = "text"
    json = "json"
    graphml = "graphml"
    node_link = "node-link"


def show(
    run: Annotated[
        Path, typer.Argument(help="A file made by --save, a run's folder, or a tree as --format printed it.")
    ],
    problem: Annotated[str | None, typer.Option(help="Only the problem of this id.", rich_help_panel=PROBLEM)] = None,
    form: Annotated[
        TreeFormat, typer.Option("--format", help="What to print.", rich_help_panel=OUTPUT)
    ] = TreeFormat.text,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a page for a browser instead: one file that fetches nothing.", rich_help_panel=OUTPUT),
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="With --html: a second run, beside the first.", rich_help_panel=OUTPUT)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="With --html: whose tokenizer texts are shaded with, where the run doesn't name its model.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    full: Annotated[bool, typer.Option(help="The whole text of the best branch, too.", rich_help_panel=OUTPUT)] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show the trees of a saved run.

    A line a branch, with its status, decoding, verdict and the end of its text; then the answer and what it cost. The
    run may still be going on, or have been cut off. Other formats hold all of the tree, for other tools; --html writes
    a page on which a tree can be looked through, branch by branch and token by token.
    """
    if html is not None:
        _write_page(run, html, problem, compare, model)
        return
    if compare is not None or model is not None:
        raise UsageError("--compare and --model are for a page; say where to write it: --html FILE")
    from led_agent.pages.saved import read_saved

    for tree in read_saved(run, problem):
        _print_tree(tree, TreeFormat.json if as_json else form, full=full)


def _write_page(run: Path, html: Path, problem: str | None, compare: Path | None, model: str | None) -> None:
    from led_agent.pages.export import write_html
    from led_agent.pages.saved import read_saved
    from led_agent.pages.shading import Shading

    if html.is_dir():
        raise UsageError(f"{html} is a folder; give the file to write: --html {html / 'run.html'}")
    other = read_saved(compare, problem) if compare is not None else None
    with _patience() as progress:
        write_html(
            html, read_saved(run, problem), title=_title(run), other=other,
            other_title=_title(compare) if compare is not None else "", shading=Shading(model), progress=progress,
        )  # fmt: skip
    stderr.print(Text(f"{html}: {html.stat().st_size / 1e6:.1f} MB; open it in a browser"), soft_wrap=True)


def _title(run: Path) -> str:
    return run.resolve().name


@contextmanager
def _patience() -> Iterator[Progress]:
    """What says how far one is, once it has taken a while: a line that is written anew, or lines in a log."""
    began = told = time.monotonic()
    written = 0
    status = stderr.status("")

    def progress(more: int) -> None:
        nonlocal told, written
        written += more
        now = time.monotonic()
        if now - began < _PATIENCE:
            return
        if stderr.is_terminal:
            status.update(f"{written} branches written")
            status.start()
        elif now - told >= _PATIENCE:
            stderr.print(f"{written} branches written")
            told = now

    try:
        yield progress
    finally:
        status.stop()


def _print_tree(tree: Tree, form: TreeFormat, *, full: bool) -> None:
    from led_agent.solution import Solution
    from led_agent.view import render_solution, render_tree

    if form is TreeFormat.json:
        print_text(tree.to_json())
    elif form is TreeFormat.graphml:
        print_text(tree.to_graphml())
    elif form is TreeFormat.node_link:
        print_json(tree.to_node_link())
    else:
        stdout.print(render_tree(tree))
        if tree.ended is not None:
            solution = Solution.of(tree, tree.ended)
            if full:
                stdout.print(Text(solution.text))
            stdout.print(render_solution(solution))
        else:
            stdout.print("not finished: the run was cut off; the same command with the same --save or --out resumes it")
