"""`led-agent show`: the trees of a saved run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from led_agent.cli.base import print_json, stdout
from led_agent.cli.options import OUTPUT, PROBLEM, AsJson, Debug
from led_agent.errors import UsageError
from led_agent.journal import read_trees
from led_agent.solution import Solution
from led_agent.tree import Tree
from led_agent.view import render_solution, render_tree

__all__ = ["show"]


class TreeFormat(StrEnum):
    """How `show` prints a tree."""

    text = "text"
    json = "json"
    graphml = "graphml"
    node_link = "node-link"


def show(
    journal: Annotated[Path, typer.Argument(help="A file made by --save, or a run's folder.")],
    problem: Annotated[str | None, typer.Option(help="Only the problem of this id.", rich_help_panel=PROBLEM)] = None,
    form: Annotated[
        TreeFormat, typer.Option("--format", help="What to print.", rich_help_panel=OUTPUT)
    ] = TreeFormat.text,
    full: Annotated[bool, typer.Option(help="The whole text of the best branch, too.", rich_help_panel=OUTPUT)] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Print the trees of a saved run.

    A line a branch, with its status, decoding, verdict and the end of its text; then the answer and what it cost. The
    run may still be going on, or have been cut off. Other formats hold all of the tree, for other tools.
    """
    trees = read_trees(journal / "journal.jsonl" if journal.is_dir() else journal)
    if not trees:
        raise UsageError(f"{journal} holds no run yet")
    if problem is not None and problem not in trees:
        raise UsageError(f"{journal} has no problem {problem!r}; it has {', '.join(list(trees)[:20])}")
    for tree in [trees[problem]] if problem is not None else trees.values():
        _print_tree(tree, TreeFormat.json if as_json else form, full=full)


def _print_tree(tree: Tree, form: TreeFormat, *, full: bool) -> None:
    if form is TreeFormat.json:
        print(tree.to_json())
    elif form is TreeFormat.graphml:
        print(tree.to_graphml())
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
