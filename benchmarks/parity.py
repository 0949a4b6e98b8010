"""LED as the engine draws it against the exact law, as tables.

    python -m benchmarks.parity

First, on SmolLM2, log-probabilities that branches record against those of the same weights in float64, whole sequences
forwarded by transformers with ``output_hidden_states``, through ``exploration_law``. Second, on the embedded model,
102,400 draws of one position against the law of that position: chi-square, its degrees of freedom, and the chance of as
large a one.
"""

from __future__ import annotations

import copy
import itertools
from typing import Annotated

import torch
import typer
from transformers import AutoModelForCausalLM, AutoTokenizer

from led_agent import Decoding
from led_agent.engine import Engine, EngineRequest
from led_agent.engine.model import ModelParts
from led_agent.models import locate
from tests.engine.reference import branches, chi_square, draw_position, sequence_laws, true_law

PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n    if n < 2:\n        return",
    "Once upon a time, in a quiet valley, there lived",
    "Q: Is 91 a prime number? Think step by step.\nA:",
)


def log_probabilities(engine: Engine, double: torch.nn.Module, branches_each: int, new: int) -> None:
    """Print the first table."""
    print("| d | norm | layers | T | tokens | explored | log P off by at most | log p_final off by at most |")
    print("|" + " --- |" * 8)
    encode = engine.parts.tokenizer.encode
    for depths, norm, layers, temperature in itertools.product(
        (1, 2, 4, 8), ("final", "none"), ("paper", "official"), (0.6, 1.0)
    ):
        decoding = Decoding.led(depths=depths, norm=norm, layers=layers, temperature=temperature, span="all")
        requests = [
            EngineRequest(str(i), encode(text, add_special_tokens=False), decoding, i, new, branches_each)
            for i, text in enumerate(PROMPTS)
        ]
        off, clean_off, explored, tokens = 0.0, 0.0, 0, 0
        for name, branch in branches(engine, *requests).items():
            prompt = requests[int(name.partition("/")[0])].prompt_ids or ()
            exploration = decoding.exploration
            assert exploration is not None
            law, final = sequence_laws(
                double, [*prompt, *branch.token_ids], len(branch.token_ids), exploration, temperature
            )
            at = torch.tensor(branch.token_ids)[:, None]
            off = max(off, float((torch.tensor(branch.logprobs) - law.gather(1, at).log()[:, 0]).abs().max()))
            clean = final.gather(1, at).log()[:, 0]
            clean_off = max(clean_off, float((torch.tensor(branch.final_logprobs) - clean).abs().max()))
            explored, tokens = explored + sum(branch.explored), tokens + len(branch.token_ids)
        told = f"{explored / tokens:.0%} | {off:.1e} | {clean_off:.1e}"
        print(f"| {depths} | {norm} | {layers} | {temperature} | {tokens} | {told} |", flush=True)


def frequencies(engine: Engine, double: torch.nn.Module) -> None:
    """Print the second table."""
    print("| T | d | k | gate first | chi-square | degrees of freedom | p |")
    print("|" + " --- |" * 7)
    ids = engine.parts.tokenizer.encode("3 20 5 = 35 <think>", add_special_tokens=False)
    for temperature, depths, top_k, gate_first in itertools.product((0.6, 1.0, 1.5), (2, 8), (8, 40), (False, True)):
        decoding = Decoding.led(depths=depths, top_k=top_k, temperature=temperature, span="all", gate_first=gate_first)
        assert decoding.exploration is not None
        drawn = draw_position(engine.parts, ids, decoding, "all")
        chi2, freedom = chi_square(drawn.token, true_law(double, ids, decoding.exploration, temperature))
        p = float(torch.special.gammaincc(torch.tensor(freedom / 2), torch.tensor(chi2 / 2)))
        print(f"| {temperature} | {depths} | {top_k} | {gate_first} | {chi2:.1f} | {freedom} | {p:.3f} |", flush=True)


def main(
    samples: Annotated[int, typer.Option(help="Branches a prompt and setting.")] = 4,
    new: Annotated[int, typer.Option(help="Tokens a branch.")] = 12,
) -> None:
    engine, double = loaded("smollm2")
    log_probabilities(engine, double, samples, new)
    frequencies(*loaded("countdown"))


def loaded(model: str) -> tuple[Engine, torch.nn.Module]:
    """The engine, and the same weights in float64."""
    path = locate(model)
    weights = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    double = copy.deepcopy(weights).double()
    return Engine(ModelParts.of(weights, AutoTokenizer.from_pretrained(path)), slots=16), double


if __name__ == "__main__":
    typer.run(main)
