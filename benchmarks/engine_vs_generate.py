"""The engine against transformers' own generate: 16 samples of one prompt, same weights, same dtype, interleaved pairs.

    python -m benchmarks.engine_vs_generate --model smollm2 --pairs 5

Both draw by temperature alone and are kept from ending early. What is timed is the whole call, prefill included.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from transformers import AutoModelForCausalLM

from led_agent.engine import Engine, EngineRequest
from led_agent.engine.model import load_parts
from led_agent.models import locate
from led_agent.types import Decoding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--branches", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    path = locate(options.model)
    parts = load_parts(path, dtype=options.dtype)
    parts.eos = frozenset()
    engine = Engine(parts, slots=options.branches)
    peer = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, options.dtype)).to(parts.device)
    prompt = [(37 * i) % 20_000 + 100 for i in range(options.prompt)]

    def ours(decoding: Decoding, seed: int) -> float:
        began = time.perf_counter()
        # A prompt of its own each time: nothing may be left over from the pair before.
        request = EngineRequest(f"{seed}", [seed + 1, *prompt[1:]], decoding, seed, options.new, options.branches)
        tokens = sum(e.tokens for e in engine.generate([request]) if e.kind == "done")
        return tokens / (time.perf_counter() - began)

    def theirs(seed: int) -> float:
        torch.manual_seed(seed)
        ids = torch.tensor([[seed + 1, *prompt[1:]]], device=parts.device)
        began = time.perf_counter()
        out = peer.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=0.8,
            top_k=0,
            top_p=1.0,
            num_return_sequences=options.branches,
            min_new_tokens=options.new,
            max_new_tokens=options.new,
            pad_token_id=0,
        )
        return (out.shape[1] - options.prompt) * options.branches / (time.perf_counter() - began)

    plain, led = Decoding.plain(0.8), Decoding.led("paper", gate_first=True)
    ours(plain, 1000), theirs(1000)  # warm up
    rows = [(ours(plain, i), theirs(i), ours(led, 500 + i)) for i in range(options.pairs)]
    for name, values in zip(("engine, plain", "generate", "engine, LED"), zip(*rows, strict=True), strict=True):
        print(f"{name}: {statistics.median(values):.1f} tokens/s ({min(values):.1f} … {max(values):.1f})")
    for name, ratios in (
        ("engine / generate", [a / b for a, b, _ in rows]),
        ("LED / plain, same engine", [c / a for a, _, c in rows]),
    ):
        told = ", ".join(f"{r:.2f}" for r in ratios)
        print(f"{name}: median {statistics.median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f}); pairs {told}")


if __name__ == "__main__":
    main()
