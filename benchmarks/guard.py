"""The quality guard under strong noise: how many branches of a language model degenerate with it and without it.

    python -m benchmarks.guard --sigma 0.4 --out guard.json

A branch is degenerate when an 8-gram comes four times or more in it, or when its tokens' mean log-probability under
the clean final posterior is below -3 nat. The mean is taken over the whole branch, and by a forward of the plain
transformers model, not by the engine that grew it. Intervals are percentile bootstraps over prompts.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import AutoModelForCausalLM

from led_agent import Branch, Decoding, QualityGuard
from led_agent.engine import Engine, EngineRequest
from led_agent.engine.model import load_parts
from led_agent.models import locate
from training.countdown.evaluate import bootstrap

PROMPTS = (
    "Explain why the sky is blue.",
    "Write a short story about a lighthouse keeper who finds a letter.",
    "What are the main causes of inflation?",
    "Describe how a bicycle stays upright.",
    "Give me a recipe for vegetable soup, with amounts.",
    "How does a refrigerator keep food cold?",
    "Tell me about the history of the printing press.",
    "A train travels 60 km in 45 minutes. What is its speed in km per hour? Think step by step.",
    "What should I consider before adopting a dog?",
    "Summarise the rules of chess for a beginner.",
    "Why do leaves change colour in autumn?",
    "Plan a three-day walking tour in the mountains.",
)
NGRAM, REPEATS, LEAST = 8, 4, -3.0


class Plain:
    """The unmodified model, to judge branches by."""

    def __init__(self, path: str) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    @torch.no_grad()
    def mean_logprob(self, prompt: list[int], tokens: tuple[int, ...]) -> float:
        logits = self.model(input_ids=torch.tensor([[*prompt, *tokens]]), use_cache=False).logits[0]
        clean = logits[len(prompt) - 1 : -1].log_softmax(-1)
        return float(clean.gather(1, torch.tensor(tokens)[:, None]).mean())


def loops(tokens: tuple[int, ...]) -> bool:
    grams = Counter(tokens[i : i + NGRAM] for i in range(len(tokens) - NGRAM + 1))
    return max(grams.values(), default=0) >= REPEATS


def arms(sigma: float, temperature: float) -> dict[str, Decoding]:
    noise = Decoding.noise(sigma, temperature=temperature, span="all")
    return {
        "no noise, no guard": Decoding.plain(temperature),
        f"noise σ={sigma:g}, no guard": noise,
        f"noise σ={sigma:g}, guard": noise.replace(guard=QualityGuard()),
        "no noise, guard": Decoding.plain(temperature).replace(guard=QualityGuard()),
    }


def judge(plain: Plain, prompt: list[int], branch: Branch) -> dict[str, Any]:
    mean = plain.mean_logprob(prompt, branch.token_ids)
    looping = loops(branch.token_ids)
    return {
        "degenerate": looping or mean < LEAST,
        "loops": looping,
        "mean_logprob": mean,
        "tokens": len(branch.token_ids),
        "discarded": branch.discarded,
        "rollbacks": [event.model_dump() for event in branch.rollbacks],
    }


def table(found: dict[str, list[list[dict[str, Any]]]]) -> str:
    lines = [
        "| | degenerate | of these loops | mean log-probability | turned back | for good | computed ÷ kept tokens |",
        "|" + " --- |" * 7,
    ]
    for name, groups in found.items():
        rows = [row for group in groups for row in group]
        share = bootstrap([sum(r["degenerate"] for r in group) / len(group) for group in groups])
        turned = sum(bool(r["rollbacks"]) for r in rows) / len(rows)
        lasting = sum(any(e["lasting"] for e in r["rollbacks"]) for r in rows) / len(rows)
        spent = sum(r["tokens"] + r["discarded"] for r in rows) / sum(r["tokens"] for r in rows)
        mean = sum(r["mean_logprob"] for r in rows) / len(rows)
        lines.append(
            f"| {name} | {share.mean:.1%} ({share.low:.1%} … {share.high:.1%}) | {sum(r['loops'] for r in rows)} | "
            f"{mean:.2f} | {turned:.0%} | {lasting:.0%} | {spent:.2f} |"
        )
    return "\n".join(lines)


def main(
    model: Annotated[str, typer.Option(help="Alias, folder or hub id.")] = "smollm2",
    sigma: Annotated[float, typer.Option(help="Of the noise.")] = 0.4,
    temperature: Annotated[float, typer.Option(help="Of all arms.")] = 0.6,
    branches: Annotated[int, typer.Option(help="A prompt.")] = 8,
    new: Annotated[int, typer.Option(help="Tokens a branch.")] = 160,
    slots: Annotated[int, typer.Option(help="Branches at a time.")] = 32,
    out: Annotated[Path | None, typer.Option(help="Where to keep what was found of each branch.")] = None,
) -> None:
    path = locate(model)
    engine, plain = Engine(load_parts(path, dtype="float32"), slots=slots), Plain(path)
    tokenizer = engine.parts.tokenizer
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": p}], add_generation_prompt=True, return_dict=False)
        for p in PROMPTS
    ]
    found: dict[str, list[list[dict[str, Any]]]] = {}
    for name, decoding in arms(sigma, temperature).items():
        asked = [EngineRequest(f"{i}", ids, decoding, i, new, branches) for i, ids in enumerate(prompts)]
        grown = {e.id: e.branch for e in engine.generate(asked) if e.branch is not None}
        found[name] = [[judge(plain, ids, grown[f"{i}/{k}"]) for k in range(branches)] for i, ids in enumerate(prompts)]
        print(f"{name}: done", flush=True)
    if out is not None:
        out.write_text(json.dumps(found))
    print(table(found))


if __name__ == "__main__":
    typer.run(main)
