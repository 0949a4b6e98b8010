"""What each way of decoding costs: tokens a second over those of plain sampling, interleaved.

    python -m benchmarks.overhead --model smollm2 --rounds 5 --out overhead.json

In every round each law is timed once, and plain decoding before and after every third of them: a law's ratio is to the
mean of the two plain timings around it. All grow from the same cached prompt, so prefill is left out; branches are kept
from ending early. The whole call is timed, what is done at a branch's end included.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from led_agent import Decoding, LatentNoise, QualityGuard
from led_agent.engine import Engine, EngineRequest
from led_agent.engine.model import load_parts
from led_agent.models import locate

PROMPT = (
    "A farmer has 3 fields. On the first he grows 120 rows of corn, on the second twice as many, and on the third 40 "
    "rows fewer than on the first two together. He waters a row in 4 minutes. How long does it take him to water "
    "everything? Think about it step by step, and write the answer in the end."
)

_THIRD = 5  # laws between two plain timings


def laws(t: float) -> dict[str, Decoding]:
    """The laws compared, all inside the whole output."""
    led = Decoding.led("paper", temperature=t, span="all")
    noise = Decoding.noise(0.05, temperature=t, span="all")
    quiet = QualityGuard(min_logprob=None, max_entropy=None)  # watches loops; the text of a plain model stays
    return {
        "plain, stratified siblings": Decoding.plain(t),
        "plain, top-p 0.95": Decoding.plain(t, top_p=0.95).replace(siblings="independent"),
        "plain, guarded": Decoding.plain(t).replace(siblings="independent", guard=quiet),
        "LED paper": led,
        "LED paper, gate first": Decoding.led("paper", temperature=t, span="all", gate_first=True),
        "LED paper, every row explores": Decoding.led("paper", temperature=t, span="all", exploit=False),
        "LED official": Decoding.led("official", temperature=t, span="all"),
        "noise": noise,
        "noise, orthogonal, held for a step": Decoding.noise(
            0.05, temperature=t, span="all", orthogonal=True, hold="step"
        ),
        "noise, guarded": noise.replace(guard=quiet),
        "LED paper + noise": led.replace(latent_noise=LatentNoise(sigma=0.05)),
        "DoLa low": Decoding.dola("low", temperature=t),
        "ESamp": Decoding.esamp(temperature=t, span="all"),
    }


class Bench:
    """An engine, its prompt, and one timing after the other."""

    def __init__(self, model: str, branches: int, new: int, dtype: str = "float32") -> None:
        parts = load_parts(locate(model), dtype=dtype)
        parts.eos = frozenset()
        self.engine, self.branches, self.new = Engine(parts, slots=branches), branches, new
        tokenizer = parts.tokenizer
        chat = [{"role": "user", "content": PROMPT}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        self.prompt = tokenizer.encode(text, add_special_tokens=False)
        self._made = 0

    def rate(self, decoding: Decoding) -> tuple[float, float]:
        """Tokens a second, and the share of tokens that were drawn from a shallower posterior."""
        self._made += 1
        request = EngineRequest(f"r{self._made}", self.prompt, decoding, self._made, self.new, self.branches)
        began = time.perf_counter()
        done = [e.branch for e in self.engine.generate([request]) if e.branch is not None]
        seconds = time.perf_counter() - began
        tokens = sum(len(b.token_ids) + b.discarded for b in done)
        return tokens / seconds, sum(sum(b.explored) for b in done) / tokens


def measure(bench: Bench, t: float, rounds: int) -> dict[str, Any]:
    """Ratios of each law, round by round."""
    plain = Decoding.plain(t).replace(siblings="independent")
    named = list(laws(t).items())
    thirds = [named[i : i + _THIRD] for i in range(0, len(named), _THIRD)]
    found: dict[str, Any] = {name: {"ratios": [], "explored": 0.0} for name, _ in named}
    rates = []
    for law in (plain, *dict(named).values()):
        bench.rate(law)  # warm up: what it allocates
    for _ in range(rounds):
        rates.append(bench.rate(plain)[0])
        for third in thirds:
            timed = {name: bench.rate(law) for name, law in third}
            rates.append(bench.rate(plain)[0])
            for name, (rate, explored) in timed.items():
                found[name]["ratios"].append(rate / statistics.mean(rates[-2:]))
                found[name]["explored"] = explored
        print(f"B={bench.branches}: plain {rates[-1]:.1f} tokens/s", flush=True)
    return {"plain": rates, "laws": found}


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown: a line a law, a column a batch."""
    batches = list(found)
    lines = ["| law ÷ plain | " + " | ".join(f"B={b}" for b in batches) + " | tokens explored |"]
    lines.append("|" + " --- |" * (len(batches) + 2))
    for name in found[batches[0]]["laws"]:
        cells = []
        for batch in batches:
            ratios = found[batch]["laws"][name]["ratios"]
            cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f})")
        explored = found[batches[-1]]["laws"][name]["explored"]
        lines.append(f"| {name} | {' | '.join(cells)} | {f'{explored:.0%}' if explored else ''} |")
    rates = [found[b]["plain"] for b in batches]
    base = " | ".join(f"{statistics.median(r):.1f} ({min(r):.1f} … {max(r):.1f})" for r in rates)
    return "\n".join([*lines, f"| plain, tokens/s | {base} | |"])


def main(
    model: Annotated[str, typer.Option(help="Alias, folder or hub id.")] = "smollm2",
    temperature: Annotated[float, typer.Option(help="Of every law.")] = 0.6,
    rounds: Annotated[int, typer.Option(help="In which each law is timed once.")] = 5,
    batches: Annotated[str, typer.Option(help="Branches at a time.")] = "1,8,32",
    new: Annotated[int, typer.Option(help="Tokens a branch.")] = 24,
    out: Annotated[Path | None, typer.Option(help="Where to keep all ratios.")] = None,
) -> None:
    found = {}
    for branches in map(int, batches.split(",")):
        found[str(branches)] = measure(Bench(model, branches, new), temperature, rounds)
    if out is not None:
        out.write_text(json.dumps({"model": model, "temperature": temperature, "found": found}))
    print(table(found))


if __name__ == "__main__":
    typer.run(main)
