"""The command line. Each command reads its options, calls the library, and prints; nothing is decided here.

Exit codes: 0 verified, 1 not verified, 2 usage, 3 model or machine, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

import led_agent
from led_agent.bench.command import parse_peers, print_result, run_bench, workload_of
from led_agent.diagnose import default_problems
from led_agent.diagnose import diagnose as run_diagnosis
from led_agent.diagnosis_view import check_plot, plot_diagnosis, render_diagnosis, stages
from led_agent.errors import LedError, MachineError, UsageError, explain
from led_agent.journal import Journal, read_trees
from led_agent.models import default_model, embedded_refusal, is_embedded, known_models
from led_agent.problems import BadLine, read_problems
from led_agent.protocols import Strategy, Verifier
from led_agent.runs import RunFolder
from led_agent.search import Search
from led_agent.solution import Solution
from led_agent.strategies import BestOfN, Fallback
from led_agent.tree import Tree
from led_agent.types import Budget, Decoding, Problem
from led_agent.verifiers import countdown, is_puzzle, matches, math_answer
from led_agent.view import LinesView, LiveView, render_solution, render_tree

__all__ = ["app", "main"]

INTERRUPTED = 130
app = typer.Typer(
    help="Solve problems by multi-path search in latent space: explore, verify, fall back.",
    epilog="Exit codes: 0 verified, 1 not verified, 2 usage, 3 model or machine, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_out = Console()
_err = Console(stderr=True)

# --- options that several commands share ---------------------------------------------------------------------------

Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Alias, folder or hub id. See `led-agent models`.", show_default="countdown"),
]
Count = Annotated[int, typer.Option("--n", "-n", min=1, help="Exploring branches.")]
DecodingName = Annotated[
    str | None,
    typer.Option(
        "--decoding",
        "-d",
        help="led.paper, led.official, noise, dola, esamp, plain or greedy; settings follow a colon: "
        "led.paper:depths=4,temperature=1.0,noise=0.05,guard=true",
        show_default="led.paper over the last quarter of the model",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Of everything random.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="New tokens a branch, at most.")]
Tries = Annotated[int, typer.Option(min=0, help="Conservative branches when all exploring ones were rejected.")]
All = Annotated[
    bool, typer.Option("--all", help="Decode all branches; by default the first accepted one ends the search.")
]
Stop = Annotated[list[str] | None, typer.Option(help="A string that ends an answer; may be repeated.")]
Matches = Annotated[str | None, typer.Option(metavar="REGEX", help="Accept answers in which this is found.")]
BudgetTokens = Annotated[int | None, typer.Option(min=1, help="Generated tokens a problem, at most.")]
BudgetSeconds = Annotated[float | None, typer.Option(help="Seconds a problem, at most.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Slots = Annotated[int, typer.Option(min=1, help="Branches that grow at a time.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON object a line on standard output, and nothing else there.")
]
Debug = Annotated[bool, typer.Option(help="Show tracebacks.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


@dataclass(frozen=True)
class _Settings:
    """What a search is made with, from the command line."""

    model: str | None
    n: int
    decoding: str | None
    seed: int
    max_tokens: int
    tries: int
    all_branches: bool
    stop: tuple[str, ...]
    pattern: str | None
    budget_tokens: int | None
    budget_seconds: float | None
    device: str
    dtype: str
    slots: int

    @property
    def parsed_decoding(self) -> Decoding | None:
        return Decoding.parse(self.decoding) if self.decoding is not None else None

    @property
    def strategy(self) -> Strategy:
        return Fallback(BestOfN(self.n, stop_at_first=not self.all_branches), tries=self.tries)

    def verifiers(self, problems: Sequence[Problem]) -> list[Verifier] | None:
        """What each problem calls for; with a pattern, that beside what any of them calls for."""
        if self.pattern is None:
            return None
        chosen: list[Verifier] = [matches(self.pattern)]
        if any(is_puzzle(problem) for problem in problems):
            chosen.append(countdown())
        if any(problem.answer is not None for problem in problems):
            chosen.append(math_answer())
        return chosen

    def search(self, problems: Sequence[Problem], journal: Journal | None, observer: Any) -> Search:
        try:
            budget = Budget(tokens=self.budget_tokens, seconds=self.budget_seconds)
        except ValidationError as error:
            raise UsageError(f"budget {explain(error)}") from error
        return Search(
            self.model,
            strategy=self.strategy,
            verifiers=self.verifiers(problems),
            decoding=self.parsed_decoding,
            budget=budget,
            seed=self.seed,
            max_tokens=self.max_tokens,
            stop=self.stop,
            device=self.device,
            dtype=self.dtype,
            slots=self.slots,
            journal=journal,
            observer=observer,
        )

    def record(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed; where it is computed may differ."""
        return {
            "model": self.model or default_model(),
            "strategy": repr(self.strategy),
            "decoding": self.parsed_decoding.model_dump(mode="json") if self.parsed_decoding else "by the model",
            "seed": self.seed,
            "max_tokens": self.max_tokens,
            "stop": list(self.stop),
            "matches": self.pattern,
            "budget": {"tokens": self.budget_tokens, "seconds": self.budget_seconds},
        }


# --- commands ------------------------------------------------------------------------------------------------------


@app.command()
def solve(
    problem: Annotated[str, typer.Argument(help="The problem; - reads it from standard input.")],
    answer: Annotated[str | None, typer.Option(help="The reference answer; branches are verified against it.")] = None,
    model: Model = None,
    n: Count = 8,
    decoding: DecodingName = None,
    seed: Seed = 0,
    max_tokens: MaxTokens = 512,
    tries: Tries = 3,
    all_branches: All = False,
    stop: Stop = None,
    pattern: Annotated[
        str | None, typer.Option("--matches", metavar="REGEX", help="Accept answers in which this is found.")
    ] = None,
    budget_tokens: BudgetTokens = None,
    budget_seconds: BudgetSeconds = None,
    save: Annotated[
        Path | None, typer.Option(help="Keep every event in this file; an unfinished run in it is resumed.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    slots: Slots = 16,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Solve one problem and show how."""
    settings = _Settings(
        model, n, decoding, seed, max_tokens, tries, all_branches, tuple(stop or ()), pattern,
        budget_tokens, budget_seconds, device, dtype, slots,
    )  # fmt: skip
    asked = _problem(sys.stdin.read() if problem == "-" else problem, answer)
    with _journal(save, asked) as journal:
        solution = _solve_one(settings, asked, journal, quiet or as_json)
    _print_solution(solution, as_json)
    raise typer.Exit(INTERRUPTED if solution.status == "interrupted" else int(not solution.verified))


@app.command()
def run(
    problems: Annotated[
        Path, typer.Argument(help="JSONL, a problem a line: prompt, and id, answer, … where there are.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to keep the run in; a run that is there is resumed.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many problems.")] = None,
    model: Model = None,
    n: Count = 8,
    decoding: DecodingName = None,
    seed: Seed = 0,
    max_tokens: MaxTokens = 512,
    tries: Tries = 3,
    all_branches: All = False,
    stop: Stop = None,
    pattern: Annotated[
        str | None, typer.Option("--matches", metavar="REGEX", help="Accept answers in which this is found.")
    ] = None,
    budget_tokens: BudgetTokens = None,
    budget_seconds: BudgetSeconds = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    slots: Slots = 16,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Solve the problems of a file; what is finished in the folder is not done again.

    A line that is no problem is named and passed over, and the exit code is then 2; else it is 0 where every problem
    was verified, and 1 where one was not.
    """
    settings = _Settings(
        model, n, decoding, seed, max_tokens, tries, all_branches, tuple(stop or ()), pattern,
        budget_tokens, budget_seconds, device, dtype, slots,
    )  # fmt: skip
    asked, bad = read_problems(problems)
    _name_bad_lines(problems, bad)
    asked = asked[:limit]
    _refuse_unfit(model, asked)
    with RunFolder(out, settings.record()) as folder:
        interrupted = _run_all(settings, asked, folder, as_json=as_json, quiet=quiet)
        verified = [bool(folder.finished[p.key]["verified"]) for p in asked if p.key in folder.finished]
        if not as_json:
            _out.print(
                f"{len(verified)} of {len(asked)} problems finished, {sum(verified)} verified; results in {folder.path}"
            )
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    raise typer.Exit(2 if bad else int(not all(verified)))


class TreeFormat(StrEnum):
    """How `show` prints a tree."""

    text = "text"
    json = "json"
    graphml = "graphml"
    node_link = "node-link"


@app.command()
def show(
    journal: Annotated[Path, typer.Argument(help="A file made by --save, or a run's folder.")],
    problem: Annotated[str | None, typer.Option(help="Only the problem of this id.")] = None,
    form: Annotated[TreeFormat, typer.Option("--format", help="What to print.")] = TreeFormat.text,
    full: Annotated[bool, typer.Option(help="The whole text of the best branch, too.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Print the trees of a saved run."""
    trees = read_trees(journal / "journal.jsonl" if journal.is_dir() else journal)
    if not trees:
        raise UsageError(f"{journal} holds no run yet")
    if problem is not None and problem not in trees:
        raise UsageError(f"{journal} has no problem {problem!r}; it has {', '.join(list(trees)[:20])}")
    for tree in [trees[problem]] if problem is not None else trees.values():
        _print_tree(tree, TreeFormat.json if as_json else form, full=full)


@app.command()
def diagnose(
    model: Annotated[str, typer.Argument(help="Alias, folder or hub id. See `led-agent models`.")],
    problems: Annotated[
        Path | None,
        typer.Option(
            help="JSONL, a problem a line; where there are answers, accuracy is measured, too.",
            show_default="puzzles for the embedded model, word problems for others",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many problems.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Branches a problem and temperature.")] = 4,
    max_tokens: MaxTokens = 128,
    plot: Annotated[Path | None, typer.Option(help="Draw a picture into this file: .png, .svg or .pdf.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    slots: Slots = 16,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure a model's entropy by depth, and say whether LED can be expected to help it, and with which settings.

    The exit code is 0 whatever is recommended, and 2 where a line of the problems file is no problem.
    """
    if plot is not None:
        check_plot(plot)
    asked, bad = read_problems(problems) if problems is not None else (default_problems(model), [])
    if problems is not None:
        _name_bad_lines(problems, bad)
    try:
        with stages(_err, quiet=quiet) as progress:
            found = run_diagnosis(
                model, asked[:limit], samples=samples, max_tokens=max_tokens, seed=seed, device=device, dtype=dtype,
                slots=slots, progress=progress,
            )  # fmt: skip
    except KeyboardInterrupt:  # typer would exit without a word
        _err.print("interrupted; what was measured so far is dropped")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        _print_json(found.model_dump(mode="json"))
    else:
        _out.print(render_diagnosis(found))
    if plot is not None:
        plot_diagnosis(found, plot)
    raise typer.Exit(2 if bad else 0)


@app.command()
def bench(
    model: Annotated[str | None, typer.Argument(help="Alias, folder or hub id.", show_default="countdown")] = None,
    branches: Annotated[int, typer.Option(help="That grow from one prompt at a time.")] = 16,
    prompt: Annotated[int, typer.Option(help="Tokens of the prompt; other ones in each round.")] = 1024,
    new: Annotated[int, typer.Option(help="New tokens a branch; none ends early.")] = 256,
    rounds: Annotated[int, typer.Option(help="In which each is timed once, in turn.")] = 5,
    temperature: Annotated[float, typer.Option(help="That all sample by.")] = 0.8,
    peers: Annotated[
        str | None,
        typer.Option(
            help="What to compare with: generate, static, continuous, llama.cpp, with commas between them, or none.",
            show_default="all that are installed",
        ),
    ] = None,
    gguf: Annotated[
        Path | None, typer.Option(help="The model as a GGUF file of the same dtype, for llama.cpp.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables, and nothing else.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Time a model in this engine, plainly and with LED, against other ways of running it, in one interleaved run.

    Peers are transformers' generate with its dynamic and its static cache, its continuous batching (which takes minutes
    a round on a CPU where prompts are long), and llama.cpp. One that isn't here is named, with what to install. Ctrl-C
    keeps and prints the rounds that are complete.
    """
    if as_json and as_markdown:
        raise UsageError("give --json or --markdown, not both")
    work, chosen = workload_of(branches, prompt, new, temperature, dtype), parse_peers(peers)
    try:
        found = run_bench(model, work, rounds=rounds, peers=chosen, device=device, gguf=gguf, console=_err, quiet=quiet)
    except KeyboardInterrupt:  # typer would exit without a word
        _err.print("interrupted before anything was measured")
        raise typer.Exit(INTERRUPTED) from None
    print_result(found, as_json=as_json, as_markdown=as_markdown, console=_out)
    raise typer.Exit(INTERRUPTED if found.comparison.interrupted else 0)


@app.command()
def models(as_json: AsJson = False, debug: Debug = False) -> None:
    """List the models that have a name, and where they are."""
    found = known_models()
    if as_json:
        for info in found:
            _print_json({"name": info.name, "about": info.about, "path": info.path, "source": info.source})
        return
    table = Table(show_edge=False)
    for column in ("name", "what it is", "where"):
        table.add_column(column)
    for info in found:
        table.add_row(info.name, info.about, Text(f"{info.source}\n{info.path or ''}".strip()))
    _out.print(table)


@app.callback(invoke_without_command=True)
def top(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"led-agent {led_agent.__version__}")
        raise typer.Exit


# --- inside --------------------------------------------------------------------------------------------------------


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
    others = [key for key in journal.trees if key != problem.key]
    kept = journal.trees.get(problem.key)
    finished = kept is not None and kept.ended is not None and kept.ended.status != "interrupted"
    if others or finished:
        journal.close()
        held = "other problems" if others else "a finished run of this problem"
        raise UsageError(f"{path} holds {held}; `led-agent show {path}` prints it; give --save another file")
    return journal


def _solve_one(settings: _Settings, problem: Problem, journal: Journal | None, quiet: bool) -> Solution:
    header = f"{settings.model or default_model()}  {settings.decoding or ''}".rstrip()
    view = None if quiet else LiveView(_err, header) if _err.is_terminal else LinesView(_err)
    with settings.search([problem], journal, view) as search:
        _load(search, quiet)
        with _stopping(search), view if view is not None else nullcontext():
            return search.solve(problem)


def _run_all(settings: _Settings, problems: list[Problem], folder: RunFolder, *, as_json: bool, quiet: bool) -> bool:
    """Solve what is not finished; whether it was interrupted."""
    left = folder.remaining(problems)
    if len(left) < len(problems) and not quiet:
        _err.print(f"{len(problems) - len(left)} of {len(problems)} problems are finished already")
    if not left:
        return False
    progress = Progress(
        TextColumn("problems"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=_err,
        disable=quiet,
    )
    verified = tokens = 0
    interrupted = False
    with settings.search(problems, folder.journal, None) as search:
        _load(search, quiet)
        with _stopping(search), progress:
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
        _print_json(solution.row())
    elif not quiet:
        mark = "[green]verified[/]" if solution.verified else "[yellow]not verified[/]"
        console.print(f"{solution.problem.key}: {mark}", Text(solution.reason), highlight=False)


def _load(search: Search, quiet: bool) -> None:
    """Load the model with a sign of life, and check what can only be checked with it."""
    with nullcontext() if quiet else _err.status("loading the model"):
        search.prepare()


@contextmanager
def _stopping(search: Search) -> Iterator[None]:
    """The first Ctrl-C asks the search to stop and keep what it has; the second is an ordinary one."""

    def ask(_signal: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        _err.print("stopping; press Ctrl-C again to leave at once")
        search.stop()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _refuse_unfit(model: str | None, problems: Sequence[Problem]) -> None:
    """Stop at once where the embedded model can be asked none of the problems; one that fails alone is a result."""
    refusals = [embedded_refusal(problem.text) for problem in problems] if is_embedded(model) else []
    if refusals and all(refusals):
        raise UsageError(f"none of the {len(problems)} problems can be asked; of the first: {refusals[0]}")


def _name_bad_lines(path: Path, bad: Sequence[BadLine]) -> None:
    for line in bad:
        _err.print(Text(f"{path} line {line.number} {line.why}; passed over", style="red"), soft_wrap=True)


def _print_solution(solution: Solution, as_json: bool) -> None:
    if as_json:
        _print_json(solution.row())
        return
    _out.print(render_tree(solution.tree))
    if solution.text:
        _out.print()
        _out.print(Text(solution.text.strip()), soft_wrap=True)
    _out.print()
    _out.print(render_solution(solution))


def _print_tree(tree: Tree, form: TreeFormat, *, full: bool) -> None:
    if form is TreeFormat.json:
        print(tree.to_json())
    elif form is TreeFormat.graphml:
        print(tree.to_graphml())
    elif form is TreeFormat.node_link:
        _print_json(tree.to_node_link())
    else:
        _out.print(render_tree(tree))
        if tree.ended is not None:
            solution = Solution.of(tree, tree.ended)
            if full:
                _out.print(Text(solution.text))
            _out.print(render_solution(solution))
        else:
            _out.print("not finished: the run was cut off; the same command with the same --save or --out resumes it")


def _print_json(row: dict[str, Any]) -> None:
    print(json.dumps(row), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    debug = "--debug" in given
    try:
        app(args=given, prog_name="led-agent")
    except LedError as error:
        if debug:
            raise
        _err.print(Text(f"error: {error}", style="bold red"), soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        if debug:
            raise
        _err.print("interrupted")
        sys.exit(INTERRUPTED)
    except OSError as error:
        if debug or isinstance(error, BrokenPipeError):
            raise
        _err.print(Text(f"error: {MachineError(f'{error.filename or error}: {error.strerror}')}"), soft_wrap=True)
        sys.exit(3)
