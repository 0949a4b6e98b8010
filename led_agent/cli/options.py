"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = [
    "All",
    "AsJson",
    "BudgetSeconds",
    "BudgetTokens",
    "ClusterName",
    "ClusterWait",
    "Count",
    "Debug",
    "DecodingName",
    "Device",
    "Dtype",
    "Matches",
    "MaxTokens",
    "Model",
    "Quiet",
    "Seed",
    "ShardOf",
    "Slots",
    "Stop",
    "StrategyName",
    "Tries",
    "VerifierNames",
]

Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Alias, folder or hub id. See `led-agent models`.", show_default="countdown"),
]
Count = Annotated[int | None, typer.Option("--n", "-n", min=1, help="Exploring branches.", show_default="8")]
StrategyName = Annotated[
    str | None,
    typer.Option(
        "--strategy",
        "-S",
        metavar="NAME",
        help="best-of-n, fallback, …; settings follow a colon, another strategy stands in brackets: "
        "'fallback(best-of-n:n=16):tries=2'. Your own: package.module:name or file.py:name. In place of --n, --tries "
        "and --all.",
        show_default="fallback(best-of-n)",
    ),
]
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
ShardOf = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Only part I of N of the problems, chosen by their ids, so that N drivers share a file, each with an "
        "--out of its own. Of what --limit leaves.",
        show_default="all",
    ),
]
MaxTokens = Annotated[int, typer.Option(min=1, help="New tokens a branch, at most.")]
Tries = Annotated[
    int | None,
    typer.Option(min=0, help="Conservative branches when all exploring ones were rejected.", show_default="3"),
]
All = Annotated[
    bool, typer.Option("--all", help="Decode all branches; by default the first accepted one ends the search.")
]
Stop = Annotated[list[str] | None, typer.Option(help="A string that ends an answer; may be repeated.")]
Matches = Annotated[
    str | None, typer.Option("--matches", metavar="REGEX", help="Accept answers in which this is found.")
]
VerifierNames = Annotated[
    list[str] | None,
    typer.Option(
        "--verifier",
        "-v",
        metavar="NAME",
        help="math_answer, countdown, unit_tests, consensus, matches:REGEX, reward_model:PATH, judge:MODEL, or your "
        "own as package.module:function or file.py:function; settings follow a colon or comma: unit_tests:timeout=2. "
        "May be repeated.",
        show_default="what each problem calls for",
    ),
]
BudgetTokens = Annotated[int | None, typer.Option(min=1, help="Generated tokens a problem, at most.")]
BudgetSeconds = Annotated[float | None, typer.Option(help="Seconds a problem, at most.")]
ClusterName = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="WHERE",
        help="Decode on a Ray cluster: local (a private one on this machine), auto (the one that this machine belongs "
        "to), ray://host:port, host:port, or how many decoders. --slots is then each decoder's.",
        show_default="in this process",
    ),
]
ClusterWait = Annotated[
    float | None,
    typer.Option(
        min=0, metavar="SECONDS", help="Wait so long for nodes that an autoscaler has to start first.", show_default="0"
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Slots = Annotated[int, typer.Option(min=1, help="Branches that grow at a time.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON object a line on standard output, and nothing else there.")
]
Debug = Annotated[bool, typer.Option(help="Show tracebacks.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
