"""`led-agent solve` and `led-agent run`: a search on one problem, and on a file of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from led_agent.cli.options import (
    OUTPUT,
    PROBLEM,
    All,
    AsJson,
    BudgetSeconds,
    BudgetTokens,
    ClusterName,
    ClusterWait,
    Count,
    Debug,
    DecodingName,
    Device,
    Dtype,
    Limit,
    Matches,
    MaxTokens,
    Model,
    Quiet,
    Seed,
    ShardOf,
    Slots,
    Stop,
    StrategyName,
    Tries,
    VerifierNames,
)

__all__ = ["run", "solve"]


def solve(
    problem: Annotated[str, typer.Argument(help="The problem; - reads it from standard input.")],
    answer: Annotated[
        str | None,
        typer.Option(help="The reference answer; branches are verified against it.", rich_help_panel=PROBLEM),
    ] = None,
    model: Model = None,
    strategy: StrategyName = None,
    n: Count = None,
    decoding: DecodingName = None,
    seed: Seed = 0,
    max_tokens: MaxTokens = 512,
    tries: Tries = None,
    all_branches: All = False,
    stop: Stop = None,
    pattern: Matches = None,
    verifier: VerifierNames = None,
    budget_tokens: BudgetTokens = None,
    budget_seconds: BudgetSeconds = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Keep every event in this file; an unfinished run in it is resumed.", rich_help_panel=OUTPUT),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    slots: Slots = 16,
    cluster: ClusterName = None,
    cluster_wait: ClusterWait = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Solve one problem and show how.

    Several branches of the model try at once, exploring posteriors of its late layers; verifiers judge them, and the
    first that is accepted ends the search. Where all are rejected, the model is asked again, more and more
    conservatively. Without verifiers named, the problem is judged by what it calls for: an answer, tests, or the rules
    of the game. Ctrl-C keeps and prints what there is.
    """
    from led_agent.cli.searching import SearchSettings
    from led_agent.cli.solving import solve_one

    settings = SearchSettings(
        model, n, decoding, seed, max_tokens, tries, all_branches, tuple(stop or ()), pattern,
        budget_tokens, budget_seconds, device, dtype, slots, tuple(verifier or ()), strategy, cluster, cluster_wait,
    )  # fmt: skip
    raise typer.Exit(solve_one(settings, problem, answer, save, as_json=as_json, quiet=quiet))


def run(
    problems: Annotated[
        Path, typer.Argument(help="JSONL, a problem a line: prompt, and id, answer, … where there are.")
    ],
    out: Annotated[
        Path,
        typer.Option(help="The folder to keep the run in; a run that is there is resumed.", rich_help_panel=OUTPUT),
    ],
    limit: Limit = None,
    shard: ShardOf = None,
    model: Model = None,
    strategy: StrategyName = None,
    n: Count = None,
    decoding: DecodingName = None,
    seed: Seed = 0,
    max_tokens: MaxTokens = 512,
    tries: Tries = None,
    all_branches: All = False,
    stop: Stop = None,
    pattern: Matches = None,
    verifier: VerifierNames = None,
    budget_tokens: BudgetTokens = None,
    budget_seconds: BudgetSeconds = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    slots: Slots = 16,
    cluster: ClusterName = None,
    cluster_wait: ClusterWait = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Solve the problems of a file; what is finished in the folder is not done again.

    Each problem is searched as `led-agent solve` does it; results stand in results.jsonl, and every event in
    journal.jsonl, both in the folder of --out. The same command goes on where it was killed; where its settings differ
    from the run's, it says which and stops. A line that is no problem is named and passed over.
    """
    from led_agent.cli.searching import SearchSettings
    from led_agent.cli.solving import run_file

    settings = SearchSettings(
        model, n, decoding, seed, max_tokens, tries, all_branches, tuple(stop or ()), pattern,
        budget_tokens, budget_seconds, device, dtype, slots, tuple(verifier or ()), strategy, cluster, cluster_wait,
    )  # fmt: skip
    raise typer.Exit(run_file(settings, problems, out, limit=limit, shard=shard, as_json=as_json, quiet=quiet))
