"""Options that several commands share, and the panels that help shows them in.

What is in the panels ``PROBLEM`` and ``OUTPUT`` says what one call is about and what becomes of it, and comes from the
command line only; everything else may come from a variable or a file, too (``led_agent.cli.settings``).
"""

from __future__ import annotations

from typing import Annotated

import typer

from led_agent.cli.completing import DECODINGS, DEVICES, DTYPES, MODELS, STRATEGIES, VERIFIERS, WHERE, offer

__all__ = [
    "BUDGET",
    "DECODING",
    "MACHINE",
    "MESSAGES",
    "OUTPUT",
    "PROBLEM",
    "SEARCH",
    "WORKLOAD",
    "All",
    "AsJson",
    "AsMarkdown",
    "BudgetSeconds",
    "BudgetTokens",
    "ClusterName",
    "ClusterWait",
    "Count",
    "Debug",
    "DecodingName",
    "Device",
    "Dtype",
    "Limit",
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

PROBLEM, SEARCH, DECODING, WORKLOAD = "Problem", "Search", "Decoding", "Workload"
BUDGET, MACHINE, OUTPUT, MESSAGES = "Budget", "Machine", "Output", "Messages"

Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="NAME", help="Alias, folder or hub id. See `led-agent models`.",
        show_default="countdown", rich_help_panel=SEARCH, autocompletion=offer(MODELS),
    ),
]  # fmt: skip
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="Only the first so many problems.", rich_help_panel=PROBLEM)
]
Count = Annotated[
    int | None,
    typer.Option("--n", "-n", min=1, help="Exploring branches.", show_default="8", rich_help_panel=SEARCH),
]
StrategyName = Annotated[
    str | None,
    typer.Option(
        "--strategy", "-S", metavar="NAME",
        help="best-of-n, fallback, …; settings follow a colon, another strategy stands in brackets: "
        "'fallback(best-of-n:n=16):tries=2'. Your own: package.module:name or file.py:name. In place of --n, --tries "
        "and --all.",
        show_default="fallback(best-of-n)", rich_help_panel=SEARCH, autocompletion=offer(STRATEGIES),
    ),
]  # fmt: skip
DecodingName = Annotated[
    str | None,
    typer.Option(
        "--decoding", "-d", metavar="NAME",
        help="led.paper, led.official, noise, dola, esamp, plain or greedy; settings follow a colon: "
        "led.paper:depths=4,temperature=1.0,noise=0.05,guard=true",
        show_default="led.paper over the last quarter of the model",
        rich_help_panel=DECODING, autocompletion=offer(DECODINGS),
    ),
]  # fmt: skip
Seed = Annotated[int, typer.Option(min=0, help="Of everything random.", rich_help_panel=SEARCH)]
ShardOf = Annotated[
    str | None,
    typer.Option(
        "--shard", metavar="I/N",
        help="Only part I of N of the problems, chosen by their ids, so that N drivers share a file, each with an "
        "--out of its own. Of what --limit leaves.",
        show_default="all", rich_help_panel=PROBLEM,
    ),
]  # fmt: skip
MaxTokens = Annotated[int, typer.Option(min=1, help="New tokens a branch, at most.", rich_help_panel=BUDGET)]
Tries = Annotated[
    int | None,
    typer.Option(
        min=0, help="Conservative branches when all exploring ones were rejected.", show_default="3",
        rich_help_panel=SEARCH,
    ),
]  # fmt: skip
All = Annotated[
    bool,
    typer.Option(
        "--all", help="Decode all branches; by default the first accepted one ends the search.", rich_help_panel=SEARCH
    ),
]
Stop = Annotated[
    list[str] | None, typer.Option(help="A string that ends an answer; may be repeated.", rich_help_panel=DECODING)
]
Matches = Annotated[
    str | None,
    typer.Option("--matches", metavar="REGEX", help="Accept answers in which this is found.", rich_help_panel=SEARCH),
]
VerifierNames = Annotated[
    list[str] | None,
    typer.Option(
        "--verifier", "-v", metavar="NAME",
        help="math_answer, countdown, unit_tests, consensus, matches:REGEX, reward_model:PATH, judge:MODEL, or your "
        "own as package.module:function or file.py:function; settings follow a colon or comma: unit_tests:timeout=2. "
        "May be repeated.",
        show_default="what each problem calls for", rich_help_panel=SEARCH, autocompletion=offer(VERIFIERS),
    ),
]  # fmt: skip
BudgetTokens = Annotated[
    int | None, typer.Option(min=1, help="Generated tokens a problem, at most.", rich_help_panel=BUDGET)
]
BudgetSeconds = Annotated[float | None, typer.Option(help="Seconds a problem, at most.", rich_help_panel=BUDGET)]
ClusterName = Annotated[
    str | None,
    typer.Option(
        "--cluster", metavar="WHERE",
        help="Decode on a Ray cluster: local (a private one on this machine), auto (the one that this machine belongs "
        "to), ray://host:port, host:port, or how many decoders. --slots is then each decoder's.",
        show_default="in this process", rich_help_panel=MACHINE, autocompletion=offer(WHERE),
    ),
]  # fmt: skip
ClusterWait = Annotated[
    float | None,
    typer.Option(
        min=0, metavar="SECONDS", help="Wait so long for nodes that an autoscaler has to start first.",
        show_default="0", rich_help_panel=MACHINE,
    ),
]  # fmt: skip
Device = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="auto, cpu, cuda or cuda:N.", rich_help_panel=MACHINE, autocompletion=offer(DEVICES)
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="auto, float32, bfloat16 or float16.", rich_help_panel=MACHINE,
        autocompletion=offer(DTYPES),
    ),
]  # fmt: skip
Slots = Annotated[int, typer.Option(min=1, help="Branches that grow at a time.", rich_help_panel=MACHINE)]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json", help="One JSON object a line on standard output, and nothing else there.", rich_help_panel=OUTPUT
    ),
]
AsMarkdown = Annotated[
    bool, typer.Option("--markdown", help="Print Markdown tables, and nothing else.", rich_help_panel=OUTPUT)
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.", rich_help_panel=MESSAGES)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.", rich_help_panel=MESSAGES)]
