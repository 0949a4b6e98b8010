"""What could change exploration on the embedded model: three extensions against plain sampling at other temperatures.

    python -m benchmarks.extensions --out benchmarks/results/extensions.json
    python -m benchmarks.extensions --from benchmarks/results/extensions.json

Eleven minutes of one quiet core; interrupted, it goes on from what it kept.

Decision points: where the final posterior's entropy reaches a threshold, draw hot from the candidates on which clean
depths agree (each gives them a share of its most probable token), elsewhere cold. Attention-weighted noise: latent
noise whose scale for a token is weighted by how spread the token's attention is, against the same noise unweighted with
equal mean scale. Held noise: one direction for an attempt of the trace, or for the branch, against a new one for each
token.

The development split chooses each kind's setting, by pass@16 and then pass@1; the test split is asked once, with what
was chosen, all temperatures, and unweighted noise at the sigmas of the weighted and the held. A chosen setting is
compared with the chosen temperature, with the temperature that has about its pass@1 on the development split, and
noise with the same noise per token. Intervals are 95 % bootstraps over puzzles, differences are paired, and p's are
Holm's over all differences of the table. The laws are naive and in plain torch, not the engine's; noise is placed as
``led_agent.LatentNoise`` places it. The same seed gives the same tables on the same machine.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor
from transformers import LlamaForCausalLM

from led_agent import LatentNoise
from led_agent.countdown import Puzzle
from led_agent.evaluation.at_k import pass_at
from led_agent.evaluation.statistics import Bootstrap, Estimate, holm
from led_agent.models import locate
from training.countdown.model import draw, lens, load, prompts, rollout, words_of
from training.countdown.problems import CLOSE, END, IDS, Split, sample_puzzles
from training.countdown.scoring import score

KS = (1, 4, 16)
AT_ONCE = 1200  # branches; another number gives other samples
CALIBRATION = 4  # plain branches a development puzzle, of which the mean weights of attention are taken
SHOWN = 0.05
SPLITS: tuple[Split, ...] = ("dev", "test")
Row = dict[str, Any]
Floats = NDArray[np.float64]
Means = dict[str, list[float]]  # of each way to weigh, behind each noisy block


@dataclass(frozen=True)
class Plain:
    temperature: float = 1.0
    kind: str = "temperature"

    def __str__(self) -> str:
        return f"plain, T={self.temperature:g}"


@dataclass(frozen=True)
class DecisionPoints:
    """Hot where the entropy at T=1 is ``threshold`` nat or more, over tokens that have ``min_p`` of the most probable
    one's share in the final posterior and at each of ``depths`` blocks before it; the most probable token always."""

    threshold: float
    heat: float
    min_p: float
    depths: tuple[int, ...] = (1, 2, 3)
    temperature: float = 0.6
    kind: str = "decision points"

    def __str__(self) -> str:
        depths = ", depths " + " ".join(map(str, self.depths)) if self.depths else ""
        return f"{self.kind}: {self.threshold:g} nat, heat {self.heat:g}, min-p {self.min_p:g}{depths}"


@dataclass(frozen=True)
class Noise:
    """Latent noise of mean scale ``sigma``; ``weight`` is "entropy", by that of a token's attention, as a share of the
    most that it can be, "inverse", by 1 less that share, or "even"."""

    sigma: float
    hold: Literal["token", "step", "branch"] = "token"
    weight: Literal["even", "entropy", "inverse"] = "even"
    temperature: float = 1.0

    @property
    def kind(self) -> str:
        return f"noise per {self.hold}" if self.weight == "even" else "attention-weighted noise"

    def __str__(self) -> str:
        weighted = "" if self.weight == "even" else f" ({self.weight})"
        return f"{self.kind}{weighted}, σ={self.sigma:g}, T={self.temperature:g}"


Setting = Plain | DecisionPoints | Noise
SIGMAS = (0.05, 0.1, 0.2)
GRID: tuple[Setting, ...] = (
    *(Plain(temperature) for temperature in (0.6, 1.0, 1.2, 1.4)),
    *(DecisionPoints(0.1, heat, min_p) for heat in (1.4, 2.0) for min_p in (0.01, 0.03)),
    *(DecisionPoints(0.3, heat, 0.03) for heat in (1.4, 2.0)),
    *(DecisionPoints(0.1, heat, 0.03, depths=()) for heat in (1.4, 2.0)),
    *(Noise(sigma) for sigma in SIGMAS),
    *(Noise(sigma, weight="entropy") for sigma in SIGMAS),
    *(Noise(sigma, weight="inverse") for sigma in SIGMAS),
    *(Noise(sigma, hold="step") for sigma in SIGMAS),
    *(Noise(sigma, hold="branch") for sigma in SIGMAS),
)


class PlainLaw:
    """Draws from the final posterior."""

    def __init__(self, model: LlamaForCausalLM, generator: torch.Generator, temperature: float) -> None:
        self.model, self.generator, self.temperature = model, generator, temperature

    def __call__(self, states: Sequence[Tensor], thinking: Tensor) -> Tensor:
        return draw(torch.softmax(self.model.lm_head(states[-1]) / self.temperature, -1), self.generator)


class DecisionLaw(PlainLaw):
    def __init__(self, model: LlamaForCausalLM, generator: torch.Generator, setting: DecisionPoints) -> None:
        super().__init__(model, generator, setting.temperature)
        self.setting = setting

    def __call__(self, states: Sequence[Tensor], thinking: Tensor) -> Tensor:
        logits = self.model.lm_head(states[-1])
        posterior = torch.softmax(logits, -1)
        clean = [posterior, *(torch.softmax(lens(self.model, states[-1 - d]), -1) for d in self.setting.depths)]
        agreed = torch.stack([p >= self.setting.min_p * p.amax(-1, keepdim=True) for p in clean]).all(0)
        agreed.scatter_(1, posterior.argmax(-1, keepdim=True), True)
        hot = thinking & (torch.special.entr(posterior).sum(-1) >= self.setting.threshold)
        heated = torch.softmax(logits / self.setting.heat, -1) * agreed
        return draw(torch.where(hot[:, None], heated, torch.softmax(logits / self.temperature, -1)), self.generator)


class NoisyLaw(PlainLaw):
    """Plain sampling from a model whose middle blocks are moved: h ← h + σ · w / w̄ · rms(h) · ε.

    Noise has a generator of its own, so that σ = 0 is plain sampling to the bit. The prompt carries none, nor does what
    follows the thinking.

    Attributes:
        means: w̄ behind each noisy block, so that σ is the mean scale of all kinds.
        weighed: Float [blocks, 2], the sum of the weights w of thinking tokens behind each block, and their number.
    """

    def __init__(self, model: LlamaForCausalLM, generator: torch.Generator, setting: Noise, means: Means) -> None:
        super().__init__(model, generator, setting.temperature)
        self.setting, self.means = setting, means[setting.weight]
        self.noise = torch.Generator().manual_seed(generator.initial_seed() + 1)
        self.weighed = np.zeros((len(self.means), 2))

    def __call__(self, states: Sequence[Tensor], thinking: Tensor) -> Tensor:
        self.token = super().__call__(states, thinking)
        self.thinking = thinking & (self.token != IDS[CLOSE])
        return self.token

    def before(self, module: torch.nn.Module, args: Any, given: dict[str, Any]) -> None:
        """Before a forward: the directions [blocks, rows, width] of the rows that it has."""
        rows, positions = given["input_ids"].shape
        fresh = torch.randn(len(self.means), rows, self.model.config.hidden_size, generator=self.noise)
        self.prompt = positions > 1
        if self.prompt:
            self.direction = fresh
            return
        if rows < len(self.token):  # a rollout drops the rows that end just now, and no others
            kept = self.token != IDS[END]
            self.token, self.thinking, self.direction = self.token[kept], self.thinking[kept], self.direction[:, kept]
        ended = self.token == IDS["no"]
        redrawn = {"token": torch.ones_like(ended), "step": ended, "branch": torch.zeros_like(ended)}
        self.direction = torch.where(redrawn[self.setting.hold][:, None], fresh, self.direction)

    def attended(self, block: int, module: torch.nn.Module, args: Any, out: tuple[Tensor, Tensor]) -> None:
        """Behind a block's attention [rows, heads, queries, keys]: the weight [rows] of the last position."""
        if self.prompt:
            return
        last = out[1][:, :, -1]
        spread = torch.special.entr(last).sum(-1).mean(1) / math.log(last.shape[-1])  # 0 … 1, of the heads' mean
        weights = {"even": torch.ones_like(spread), "entropy": spread, "inverse": 1.0 - spread}
        self.weight = weights[self.setting.weight]
        self.weighed[block] += float(self.weight[self.thinking].sum()), int(self.thinking.sum())

    def behind(self, block: int, module: torch.nn.Module, args: Any, state: Tensor) -> Tensor | None:
        """Behind a block [rows, 1, width]: what the next one gets."""
        if self.prompt:
            return None
        scale = self.setting.sigma * self.weight / self.means[block] * self.thinking
        rms = state.square().mean(-1, keepdim=True).sqrt()
        return state + scale[:, None, None] * rms * self.direction[block][:, None]

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The model is noisy within."""
        body = self.model.model
        handles = [body.register_forward_pre_hook(self.before, with_kwargs=True)]
        for block, after in enumerate(noisy_blocks(self.model)):
            layer = body.layers[after - 1]
            handles.append(layer.self_attn.register_forward_hook(partial(self.attended, block)))
            handles.append(layer.register_forward_hook(partial(self.behind, block)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


Law = PlainLaw | DecisionLaw | NoisyLaw


def noisy_blocks(model: LlamaForCausalLM) -> tuple[int, ...]:
    return LatentNoise().after(model.config.num_hidden_layers)


def embedded() -> LlamaForCausalLM:
    """The embedded model, with attention that tells its weights."""
    model = load(Path(locate("countdown")))
    model.set_attn_implementation("eager")
    return model


def mean_weights(model: LlamaForCausalLM, puzzles: list[Puzzle], seed: int, tokens: int) -> Means:
    """Of each way to weigh, the mean weight behind each noisy block over the thinking of plain branches."""
    even = [1.0] * len(noisy_blocks(model))
    law = NoisyLaw(model, torch.Generator().manual_seed(seed), Noise(0.0, weight="entropy"), {"entropy": even})
    for _ in branches(model, puzzles, CALIBRATION, law, tokens):
        pass
    spread = law.weighed[:, 0] / law.weighed[:, 1]
    return {"even": even, "entropy": spread.tolist(), "inverse": (1.0 - spread).tolist()}


def law_of(setting: Setting, model: LlamaForCausalLM, seed: int, means: Means) -> Law:
    generator = torch.Generator().manual_seed(seed)
    if isinstance(setting, Plain):
        return PlainLaw(model, generator, setting.temperature)
    if isinstance(setting, DecisionPoints):
        return DecisionLaw(model, generator, setting)
    return NoisyLaw(model, generator, setting, means)


def branches(
    model: LlamaForCausalLM, puzzles: Sequence[Puzzle], samples: int, law: Law, tokens: int
) -> Iterator[tuple[Puzzle, list[str]]]:
    """Each puzzle's branches, one puzzle after the other: what was written."""
    group = [puzzle for puzzle in puzzles for _ in range(samples)]
    with law.installed() if isinstance(law, NoisyLaw) else nullcontext():
        for first in range(0, len(group), AT_ONCE):
            some = group[first : first + AT_ONCE]
            yield from zip(some, words_of(rollout(model, prompts(some), law, tokens)), strict=True)


def measure(
    model: LlamaForCausalLM, setting: Setting, puzzles: list[Puzzle], samples: int, tokens: int, seed: int, means: Means
) -> Row:
    """A row of the file: how many of each puzzle's branches are right, and their cost."""
    begun, law = time.perf_counter(), law_of(setting, model, seed, means)
    grown = list(branches(model, puzzles, samples, law, tokens))
    right = np.array([score(puzzle, words).correct for puzzle, words in grown]).reshape(-1, samples).sum(1)
    row: Row = {"name": str(setting), "kind": setting.kind, "settings": asdict(setting), "right": right.tolist()}
    row["tokens"] = sum(len(words) for _, words in grown) / len(grown)
    if isinstance(law, NoisyLaw):
        scales = law.weighed[:, 0] / law.weighed[:, 1] / law.means
        row["mean_scale"] = setting.sigma * float(scales.mean())
    told = f"{setting}: {right.sum() / len(grown):.3f} right, {time.perf_counter() - begun:.0f} s"
    print(told, file=sys.stderr, flush=True)
    return row


def solved(row: Row, samples: int) -> Floats:
    """pass@k of each puzzle: float [puzzles, ks]."""
    return np.array([pass_at(KS, samples, right) for right in row["right"]])


def choose(rows: Sequence[Row], samples: int) -> dict[str, Row]:
    """Each kind's setting: the highest pass@16, then pass@1, then the first."""
    best: dict[str, Row] = {}
    for row in rows:
        known = best.get(row["kind"])
        if known is None or _rank(row, samples) > _rank(known, samples):
            best[row["kind"]] = row
    return best


def _rank(row: Row, samples: int) -> tuple[float, float]:
    one, _, most = solved(row, samples).mean(0)
    return float(most), float(one)


def asked_of_test(chosen: dict[str, Row]) -> list[Setting]:
    """What the test split is asked: all temperatures, what was chosen, and even noise per token at the same sigmas."""
    names = {row["name"] for row in chosen.values()}
    sigmas = {row["settings"]["sigma"] for row in chosen.values() if "sigma" in row["settings"]}
    even = {str(Noise(sigma)) for sigma in sigmas}
    return [s for s in GRID if isinstance(s, Plain) or str(s) in names | even]


def bases(row: Row, chosen: dict[str, Row], dev: Sequence[Row], samples: int) -> list[str]:
    """What a chosen setting is compared with: the chosen temperature, the one whose pass@1 is nearest on the
    development split, and unweighted noise per token at the same sigma."""
    plain = [other for other in dev if other["kind"] == Plain.kind]
    nearest = min(plain, key=lambda other: abs(sum(other["right"]) - sum(row["right"])))
    found = [chosen[Plain.kind]["name"], nearest["name"]]
    if row["kind"] not in (DecisionPoints.kind, Noise(0.0).kind):
        found.append(str(Noise(row["settings"]["sigma"])))
    return list(dict.fromkeys(found))


def table(kept: dict[str, Any]) -> str:
    """Markdown: the development split and what it chose, the test split, and the differences."""
    dev, test = kept["dev"], kept["test"]
    chosen = choose(dev["rows"], dev["samples"])
    names = {row["name"] for row in chosen.values()}
    head = ["", *(f"pass@{k}" for k in KS), "tokens a branch", "mean scale"]
    lines = [f"Development, {told_of(dev)}; chosen in bold:", "", *_lines(head)]
    for row in dev["rows"]:
        name = f"**{row['name']}**" if row["name"] in names else row["name"]
        lines += _lines([name, *(f"{value:.3f}" for value in solved(row, dev["samples"]).mean(0)), *_cost(row)])
    if left := unmeasured(kept, "test"):
        return "\n".join([*lines, "", f"The test split lacks {'; '.join(map(str, left))}: go on with --out."])
    bootstrap = Bootstrap.of(test["puzzles"], seed=kept["seed"])
    lines += ["", f"Test, {told_of(test)}:", "", *_lines(head)]
    for row in test["rows"]:
        columns = solved(row, test["samples"]).T
        lines += _lines([row["name"], *(_told(bootstrap.mean(column)) for column in columns), *_cost(row)])
    return "\n".join([*lines, "", *differences(kept, chosen, bootstrap)])


def differences(kept: dict[str, Any], chosen: dict[str, Row], bootstrap: Bootstrap) -> list[str]:
    """A line for each chosen setting and what it is compared with; Holm's p over all of them."""
    dev, test = kept["dev"], kept["test"]
    passed = {row["name"]: solved(row, test["samples"]).T for row in test["rows"]}
    pairs = [
        (row["name"], base)
        for kind, row in chosen.items()
        if kind != Plain.kind
        for base in bases(row, chosen, dev["rows"], dev["samples"])
    ]
    found = [bootstrap.difference(*columns) for a, b in pairs for columns in zip(passed[a], passed[b], strict=True)]
    corrected = holm([p for _, p in found])
    lines = [f"Differences on the test split, p by Holm over {len(found)}:", ""]
    lines += _lines(["", "less", *(f"pass@{k}" for k in KS)])
    cells = [f"{_told(apart, '+')}, p {_p(p)}" for (apart, _), p in zip(found, corrected, strict=True)]
    for at, (name, base) in enumerate(pairs):
        lines += _lines([name, base, *cells[at * len(KS) : (at + 1) * len(KS)]])
    return lines


def told_of(part: dict[str, Any]) -> str:
    return f"{part['puzzles']} puzzles, {part['samples']} branches each"


def _lines(cells: list[str]) -> list[str]:
    """A line of a table; the head's, whose first cell is empty, with its rule."""
    line = f"| {' | '.join(cells)} |"
    return [line] if cells[0] else [line, "|---" * len(cells) + "|"]


def _cost(row: Row) -> list[str]:
    return [f"{row['tokens']:.1f}", f"{row['mean_scale']:.3f}" if "mean_scale" in row else ""]


def _told(estimate: Estimate | None, sign: str = "") -> str:
    assert estimate is not None  # no puzzle is left out
    return f"{estimate.value:{sign}.3f} ({estimate.low:{sign}.3f} … {estimate.high:{sign}.3f})"


def _p(p: float) -> str:
    return f"{p:.3f}, **shown**" if p < SHOWN else f"{p:.2f}"


def begun(sizes: dict[str, tuple[int, int]], tokens: int, seed: int, out: Path | None) -> dict[str, Any]:
    """What the file keeps, without rows; or the file itself, where an interrupted run left it."""
    kept: dict[str, Any] = {"seed": seed, "new_tokens": tokens, "mean_weights": {}}
    for split, (puzzles, samples) in sizes.items():
        kept[split] = {"puzzles": puzzles, "samples": samples, "rows": []}
    if out is None or not out.exists():
        return kept
    found: dict[str, Any] = json.loads(out.read_text())
    if _asked(found) != _asked(kept):
        raise typer.BadParameter(f"{out} holds a run of {_asked(found)}, asked for is {_asked(kept)}; move it away")
    return found


def _asked(kept: dict[str, Any]) -> dict[str, Any]:
    sizes = {split: told_of(kept[split]) for split in SPLITS}
    return {"seed": kept["seed"], "new tokens": kept["new_tokens"], **sizes}


def run(kept: dict[str, Any], out: Path | None) -> None:
    """Measure what is not kept yet: the grid, then what the test split is asked with what it chose."""
    model, tokens, seed = embedded(), kept["new_tokens"], kept["seed"]
    kept["mean_weights"] |= mean_weights(model, sample_puzzles("dev", kept["dev"]["puzzles"], seed), seed, tokens)
    for split in SPLITS:
        part = kept[split]
        puzzles = sample_puzzles(split, part["puzzles"], seed)
        for setting in unmeasured(kept, split):
            row = measure(model, setting, puzzles, part["samples"], tokens, seed, kept["mean_weights"])
            part["rows"].append(row)
            keep(kept, out)


def unmeasured(kept: dict[str, Any], split: Split) -> list[Setting]:
    dev, done = kept["dev"], {row["name"] for row in kept[split]["rows"]}
    settings = GRID if split == "dev" else asked_of_test(choose(dev["rows"], dev["samples"]))
    return [setting for setting in settings if str(setting) not in done]


def keep(kept: dict[str, Any], out: Path | None) -> None:
    if out is not None:
        out.write_text(json.dumps(kept, separators=(",", ":")) + "\n")


def main(
    dev: Annotated[int, typer.Option(help="Puzzles of the development split.")] = 150,
    dev_samples: Annotated[int, typer.Option(min=max(KS), help="Branches a puzzle there.")] = 16,
    test: Annotated[int, typer.Option(help="Puzzles of the test split.")] = 400,
    test_samples: Annotated[int, typer.Option(min=max(KS), help="Branches a puzzle there.")] = 24,
    tokens: Annotated[int, typer.Option(help="New tokens a branch: two attempts and an answer.")] = 31,
    seed: Annotated[int, typer.Option(help="Of puzzles, branches and resamples.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Where to keep what was measured, and to go on from.")] = None,
    file: Annotated[Path | None, typer.Option("--from", help="Print a file's tables, and do nothing else.")] = None,
) -> None:
    torch.set_num_threads(1)  # the order of sums, and so the samples, would depend on it
    if file is not None:
        kept = json.loads(file.read_text())
        if left := unmeasured(kept, "dev"):
            raise typer.BadParameter(f"{file} is of an interrupted run, which lacks {left[0]}; go on with --out {file}")
    else:
        kept = begun({"dev": (dev, dev_samples), "test": (test, test_samples)}, tokens, seed, out)
        run(kept, out)
    print(table(kept))


if __name__ == "__main__":
    typer.run(main)
