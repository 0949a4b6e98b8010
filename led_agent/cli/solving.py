"""What `led-agent solve` and `led-agent run` do. Apart from their options, so that these are known without all that a
search imports."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from led_agent.cli.base import INTERRUPTED, name_bad_lines, print_json, refuse_unfit, stderr, stdout, stopping
from led_agent.cli.searching import SearchSettings
from led_agent.errors import UsageError, explain
from led_agent.journal import Journal
from led_agent.models import default_model
from led_agent.problems import Shard, read_problems
from led_agent.runs import RunFolder
from led_agent.search import Search
from led_agent.solution import Solution
from led_agent.types import Problem
from led_agent.view import LinesView, LiveView, render_solution, render_tree

__all__ = ["run_file", "solve_one"]


def solve_one(
    settings: SearchSettings, problem: str, answer: str | None, save: Path | None, *, as_json: bool, quiet: bool
) -> int:
    """Solve one problem, print it, and return the exit code."""
    asked = _problem(sys.stdin.read() if problem == "-" else problem, answer)
    with _journal(save, asked) as journal:
        solution = _solve_one(settings, asked, journal, quiet or as_json)
    _print_solution(solution, as_json)
    return INTERRUPTED if solution.status == "interrupted" else int(not solution.verified)


def run_file(
    settings: SearchSettings,
    problems: Path,
    out: Path,
    *,
    limit: int | None,
    shard: str | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Solve what of a file is not finished in the folder, and return the exit code."""
    part = Shard.parse(shard) if shard is not None else None
    asked, bad = read_problems(problems)
    name_bad_lines(problems, bad)
    asked = [problem for problem in asked[:limit] if part is None or part.holds(problem)]
    refuse_unfit(settings.model, asked)
    # A run that has no parts keeps the settings that it always had, so that it can be resumed by any version.
    record = settings.record() if part is None else {**settings.record(), "shard": str(part)}
    with RunFolder(out, record) as folder:
        interrupted = _run_all(settings, asked, folder, as_json=as_json, quiet=quiet)
        verified = [folder.finished[p.key] for p in asked if p.key in folder.finished]
        if not as_json:
            stdout.print(
                f"{len(verified)} of {len(asked)} problems finished, {sum(verified)} verified; results in {folder.path}"
            )
    return INTERRUPTED if interrupted else 2 if bad else int(not all(verified))


def _problem(text: str, answer: str | None) -> Problem:
    try:
        return Problem(prompt=text, answer=answer)
    except ValidationError as error:
        raise UsageError(explain(error).removeprefix("Problem: ")) from error


def _journal(path: Path | None, problem: Problem) -> Any:
    """The file to keep the run in: a new one, or one that holds this problem unfinished."""
    if path is None:
        return nullcontext()
    journal = Journal(path)
    others = [key for key in journal if key != problem.key]
    if others or journal.finished(problem.key):
        journal.close()
        held = "other problems" if others else "a finished run of this problem"
        raise UsageError(f"{path} holds {held}; `led-agent show {path}` prints it; give --save another file")
    return journal


def _solve_one(settings: SearchSettings, problem: Problem, journal: Journal | None, quiet: bool) -> Solution:
    header = f"{settings.model or default_model()}  {settings.decoding or ''}".rstrip()
    view = None if quiet else LiveView(stderr, header) if stderr.is_terminal else LinesView(stderr)
    with settings.search([problem], journal, view) as search:
        _load(search, quiet)
        with stopping(search.stop), view if view is not None else nullcontext():
            return search.solve(problem)


def _run_all(
    settings: SearchSettings, problems: list[Problem], folder: RunFolder, *, as_json: bool, quiet: bool
) -> bool:
    """Solve what is not finished; whether it was interrupted."""
    left = folder.remaining(problems)
    if len(left) < len(problems) and not quiet:
        stderr.print(f"{len(problems) - len(left)} of {len(problems)} problems are finished already")
    if not left:
        return False
    progress = Progress(
        TextColumn("problems"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stderr,
        disable=quiet,
    )
    verified = tokens = 0
    interrupted = False
    with settings.search(problems, folder.journal, None) as search:
        _load(search, quiet)
        with stopping(search.stop), progress:
            task = progress.add_task("", total=len(problems), completed=len(problems) - len(left), told="")
            for solution in search.solve_many(left, ordered=False):
                folder.keep(solution)
                interrupted |= solution.status == "interrupted"
                if solution.status == "interrupted":
                    continue
                verified, tokens = verified + solution.verified, tokens + solution.usage.generated_tokens
                elapsed = progress.tasks[0].elapsed or 1e-9
                progress.update(task, advance=1, told=f"{verified} verified, {tokens / elapsed:.0f} tokens/s")
                _report(solution, as_json=as_json, quiet=quiet, console=progress.console)
            interrupted |= search.stopped
    return interrupted


def _report(solution: Solution, *, as_json: bool, quiet: bool, console: Console) -> None:
    if as_json:
        print_json(solution.row())
    elif not quiet:
        mark = "[green]verified[/]" if solution.verified else "[yellow]not verified[/]"
        console.print(f"{solution.problem.key}: {mark}", Text(solution.reason), highlight=False)


def _load(search: Search, quiet: bool) -> None:
    """Load the model with a sign of life, and check what can only be checked with it."""
    with nullcontext() if quiet else stderr.status("loading the model"):
        search.prepare()


def _print_solution(solution: Solution, as_json: bool) -> None:
    if as_json:
        print_json(solution.row())
        return
    stdout.print(render_tree(solution.tree))
    if solution.text:
        stdout.print()
        stdout.print(Text(solution.text.strip()), soft_wrap=True)
    stdout.print()
    stdout.print(render_solution(solution))
