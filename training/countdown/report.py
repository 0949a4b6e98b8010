"""Reports as Markdown tables, and the curves of a training as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .evaluate import KINDS, KS, Outcome, Report, bootstrap


def laws_table(report: Report) -> str:
    """A row a decoding law: pass@k with intervals, and what the traces are like."""
    head = ["law", *(f"pass@{k}" for k in KS), "arithmetic", "honest", "well-formed", "distinct answers", "tokens"]
    rows = []
    for outcome in report.outcomes:
        passes = [str(bootstrap(outcome.passes(k))) if k <= outcome.samples else "" for k in KS]
        rest = [outcome.arithmetic, outcome.honest, outcome.form]
        told = [f"{outcome.distinct:.1f}" if outcome.samples > 1 else "", f"{outcome.tokens:.1f}"]
        rows.append([outcome.law.label, *passes, *(f"{value:.4f}" for value in rest), *told])
    return _table(head, rows)


def gain_table(before: Report, after: Report) -> str:
    """What changed from one checkpoint to the other on the same problems, paired by problem."""
    head = ["law", *(f"Δ pass@{k}" for k in KS)]
    rows = []
    for old, new in zip(before.outcomes, after.outcomes, strict=True):
        rows.append([old.law.label, *(_gain(old, new, k) if k <= old.samples else "" for k in KS)])
    return _table(head, rows)


def _gain(old: Outcome, new: Outcome, k: int) -> str:
    change = bootstrap(new.passes(k) - old.passes(k))
    return f"{change.mean:+.3f} ({change.low:+.3f} to {change.high:+.3f})"


def depth_table(report: Report) -> str:
    """Entropy by depth of each kind of token, and how often the lens already has a line's right result."""
    depths = report.depths
    rows = [
        [str(depth), *(str(depths.estimate(kind, depth)) for kind in KINDS), f"{right:.3f}"]
        for depth, right in enumerate(depths.result_right, 1)
    ]
    return _table(["after block", *(f"entropy, {kind}" for kind in KINDS), "result right"], rows)


def collapse_table(before: Report, after: Report) -> str:
    """How the entropy of choices changed at each depth, paired by problem."""
    rows = []
    for depth, (old, new) in enumerate(
        zip(before.depths.entropy["choice"], after.depths.entropy["choice"], strict=True), 1
    ):
        change = bootstrap(np.array(new) - np.array(old))
        share = change.mean / float(np.mean(old))
        rows.append([str(depth), f"{change.mean:+.3f} ({change.low:+.3f} to {change.high:+.3f})", f"{share:+.1%}"])
    return _table(["after block", "Δ entropy of choices", "of what it was"], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def read_log(path: Path) -> dict[str, list[float]]:
    """A training log as columns."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return {name: [record[name] for record in records] for name in records[0]}


def curves(sft: Path, rl: Path, picture: Path) -> None:
    """Draw the loss of supervised training, and accuracy, entropy and length through reinforcement learning."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "countdown"  # the same picture from the same logs
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 4, figsize=(13, 3), layout="constrained")
    first, then = read_log(sft), read_log(rl)
    axes[0].plot(np.array(first["tokens"]) / 1e6, first["loss"], color="tab:blue")
    axes[0].set(title="SFT: loss", xlabel="million tokens", ylabel="nats a token", yscale="log")
    for axis, name, unit in zip(
        axes[1:],
        ("correct", "entropy", "tokens"),
        ("share of rollouts", "nats a token", "tokens a rollout"),
        strict=True,
    ):
        axis.plot(then["step"], then[name], color="tab:orange")
        axis.set(title=f"RL: {name}", xlabel="step", ylabel=unit)
    figure.savefig(picture, metadata={"Date": None})
    pyplot.close(figure)
