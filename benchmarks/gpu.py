"""The engine on a GPU: copy bandwidth, plain and LED steps, the fraction of the memory floor, and peers. One call.

    python -m benchmarks.gpu --shapes qwen3-4b,qwen3-0.6b --out benchmarks/results/gpu.json
    python -m benchmarks.gpu --shapes tiny --device cpu --batches 2,4 --prompt 40 --new 24 --rounds 2

Models have their real shapes and random weights, so nothing is downloaded; temperatures are set so that LED explores a
given share r of the tokens (1 - the largest probability, on the model's own posteriors). Arms are interleaved, round
by round. A step's floor is the time that its bytes take at the copy bandwidth measured before: all weights once, and
the keys and values of every branch. Needs torch >= 2.8, transformers >= 5.17 and pydantic; neither ray nor a network.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from transformers import AutoModelForCausalLM, Qwen3Config

from led_agent.engine import Engine, EngineRequest
from led_agent.engine.cache import PrefixCache
from led_agent.engine.model import ModelParts
from led_agent.types import Decoding

SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-4b": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
    "qwen3-0.6b": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 9,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 301,
    },
}
_QWEN3 = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936, "max_position_embeddings": 40_960}
_names = itertools.count()


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written together, of a large copy; the median of 10."""
    source = torch.ones(2**28 if device.type == "cuda" else 2**24, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    rates = []
    for _ in range(12):
        synchronize(device)
        began = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        rates.append(2 * source.nbytes / (time.perf_counter() - began))
    return statistics.median(rates[2:])


def make_model(shape: str, device: torch.device, dtype: torch.dtype) -> Any:
    """A random model of a real one's shape, made where it is to run."""
    torch.manual_seed(0)
    config = Qwen3Config(**(_QWEN3 | SHAPES[shape]), tie_word_embeddings=True, bos_token_id=1, eos_token_id=None)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


@torch.inference_mode()
def temperature_for(parts: ModelParts, share: float, prompt: list[int]) -> float:
    """At which 1 - the largest probability is ``share`` in the mean, over the prompt's positions."""
    cache = PrefixCache(parts.kv_shape, len(prompt), dtype=parts.dtype, device=parts.device)
    ids = torch.tensor(prompt, device=parts.device)
    states, _ = parts.forward(ids, cache.begin(len(prompt)), cache)
    logits = parts.head(states[-64:]).float()
    low, high = 1e-4, 100.0
    for _ in range(40):
        middle = (low * high) ** 0.5
        explored = float(1 - (logits / middle).softmax(-1).amax(-1).mean())
        low, high = (middle, high) if explored < share else (low, middle)
    return (low * high) ** 0.5


class Bench:
    """One model, its arms, and what was measured."""

    def __init__(self, shape: str, device: torch.device, dtype: torch.dtype, prompt: int) -> None:
        self.model = make_model(shape, device, dtype)
        self.parts = ModelParts.of(self.model)
        self.device, self.length = device, prompt
        self.weights = sum(p.nbytes for p in self.model.parameters())
        layers, heads, dim = self.parts.kv_shape
        self.position_bytes = 2 * layers * heads * dim * dtype.itemsize

    def prompt(self, seed: int) -> list[int]:
        return torch.randint(
            5, self.parts.vocab, (self.length,), generator=torch.Generator().manual_seed(seed)
        ).tolist()

    def stepping(self, decoding: Decoding, rows: int, *, different: bool = False) -> Engine:
        """An engine in mid-decode: siblings of one prompt, or a prompt for each branch."""
        engine = Engine(self.parts, slots=rows)
        seeds = range(rows) if different else [0]
        for seed in seeds:
            room = min(4096, self.parts.context - self.length - 1)
            n = 1 if different else rows
            engine.submit(EngineRequest(f"b{next(_names)}", self.prompt(seed), decoding, seed, room, n))
        while not engine.busy_slot_steps or len(engine._live) < rows:
            engine.step(progress=False)
        return engine

    def step_seconds(self, engine: Engine, tokens: int) -> float:
        """Of one step, over about so many."""
        before = engine.steps
        synchronize(self.device)
        began = time.perf_counter()
        while engine.steps - before < tokens:
            engine.step(tokens=16, progress=False)
        synchronize(self.device)
        return (time.perf_counter() - began) / (engine.steps - before)

    def floor_seconds(self, engine: Engine, bandwidth: float) -> float:
        """The least time of a step: weights, and keys and values, a shared prefix's once."""
        shared = {id(g.shared): g.shared.length for g in engine._live if g.shared is not None}
        own = sum(growing.place for growing in engine._live)
        return (self.weights + (own + sum(shared.values())) * self.position_bytes) / bandwidth


def spread(values: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values), "all": values}


def steps(bench: Bench, rows: int, rounds: int, tokens: int, bandwidth: float) -> dict[str, Any]:
    """Step times of every arm, interleaved, and the ratios that the goals are about."""
    arms = {"plain": bench.stepping(Decoding.plain(temperature_for(bench.parts, 0.10, bench.prompt(0))), rows)}
    for name, share, exploit in (("r=0.10", 0.10, True), ("r=0.17", 0.17, True), ("every row explores", 0.10, False)):
        t = temperature_for(bench.parts, share, bench.prompt(0))
        depths = min(8, bench.parts.n_blocks)
        led = Decoding.led("paper", depths=depths, temperature=t, span="all", gate_first=True, exploit=exploit)
        arms[f"LED, {name}"] = bench.stepping(led, rows)
    arms["plain, different prompts"] = bench.stepping(Decoding.plain(0.01), rows, different=True)
    times: dict[str, list[float]] = {name: [] for name in arms}
    for engine in arms.values():
        bench.step_seconds(engine, tokens)  # warm up: graphs
    for _ in range(rounds):
        for name, engine in arms.items():
            times[name].append(bench.step_seconds(engine, tokens))
    floor = bench.floor_seconds(arms["plain"], bandwidth)
    ratios = {
        f"{name}: speed ÷ plain": spread([p / t for p, t in zip(times["plain"], times[name], strict=True)])
        for name in arms
        if name != "plain"
    }
    return {
        "rows": rows,
        "step seconds": {name: spread(values) for name, values in times.items()},
        "ratios": ratios,
        "floor seconds": floor,
        "fraction of the floor": spread([floor / t for t in times["plain"]]),
        "explored": {n: _explored(e) for n, e in arms.items()},
    }


def _explored(engine: Engine) -> float:
    flags = [flag for growing in engine._live for flag in growing.explored]
    return sum(flags) / max(1, len(flags))


def against_generate(bench: Bench, rows: int, new: int, rounds: int) -> dict[str, Any]:
    """Tokens a second of whole calls, prefill included: the engine, ``generate``, and continuous batching."""
    engine = Engine(bench.parts, slots=rows)

    def ours(seed: int) -> None:
        request = EngineRequest(f"g{next(_names)}", bench.prompt(seed), Decoding.plain(1.0), seed, new, rows)
        assert sum(e.tokens for e in engine.generate([request]) if e.kind == "done") == rows * new

    def theirs(seed: int) -> None:
        ids = torch.tensor([bench.prompt(seed)], device=bench.device)
        out = bench.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            num_return_sequences=rows,
            min_new_tokens=new,
            max_new_tokens=new,
            pad_token_id=0,
        )
        assert out.shape == (rows, bench.length + new)

    arms = {"engine": ours, "generate": theirs}
    times: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds + 1):
        for name, arm in arms.items():
            synchronize(bench.device)
            began = time.perf_counter()
            arm(1000 + turn)
            synchronize(bench.device)
            if turn:  # the first one warms up
                times[name].append(time.perf_counter() - began)
    ratios = [b / a for a, b in zip(times["engine"], times["generate"], strict=True)]
    rates = {name: spread([rows * new / t for t in values]) for name, values in times.items()}
    return {"tokens a second": rates, "engine ÷ generate": spread(ratios)}


def main(
    shapes: Annotated[str, typer.Option(help=f"Of {', '.join(SHAPES)}.")] = "qwen3-4b,qwen3-0.6b",
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32.")] = "bfloat16",
    batches: Annotated[str, typer.Option(help="Branches at a time.")] = "1,16,64,256",
    prompt: Annotated[int, typer.Option(help="Tokens.")] = 1024,
    new: Annotated[int, typer.Option(help="Tokens a branch, against generate.")] = 256,
    rounds: Annotated[int, typer.Option(help="In which each arm is timed once.")] = 5,
    minutes: Annotated[float, typer.Option(help="What is not begun by then is left out, by name.")] = 7.0,
    out: Annotated[Path | None, typer.Option(help="Where to keep all figures.")] = None,
) -> None:
    began, place = time.perf_counter(), torch.device(device)
    bandwidth = copy_bandwidth(place)
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "copy bandwidth, GB/s": bandwidth / 1e9,
        "models": {},
        "left out": [],
    }
    for shape in shapes.split(","):
        bench = Bench(shape, place, getattr(torch, dtype), prompt)
        rows_list = [int(b) for b in batches.split(",")]
        results = found["models"].setdefault(shape, {})
        jobs: list[tuple[str, Any]] = [
            ("against generate", lambda b=bench: against_generate(b, 16, new, min(3, rounds)))
        ]
        jobs += [(f"B={b}", lambda b=b, k=bench: steps(k, b, rounds, 64, bandwidth)) for b in rows_list]
        for name, job in jobs:
            if time.perf_counter() - began > 60 * minutes:
                found["left out"].append(f"{shape}, {name}")
                continue
            try:
                results[name] = job()
            except (RuntimeError, AssertionError) as error:  # out of memory, say: the others still count
                results[name] = {"error": f"{type(error).__name__}: {error}"}
            print(f"{shape}, {name}: {json.dumps(results[name], default=str)[:400]}", flush=True)
            if out is not None:
                out.write_text(json.dumps(found, indent=1) + "\n")
        del bench
    if out is not None:
        out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    typer.run(main)
