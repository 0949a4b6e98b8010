"""The figures that the engine is held to, measured with SmolLM2 (the last with the embedded model) through
``led_agent.bench``.

    python -m benchmarks.goals --rounds 5 --only a,c

Every row is an interleaved comparison, its ratio taken within each round. "÷" is of tokens a second where nothing else
is said. What is compared is loaded when its row begins, and let go when it ends.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import AutoModelForCausalLM

from benchmarks.overhead import Bench
from led_agent import Decoding, Search
from led_agent.bench import Arm, Comparison, Spread, Workload, compare
from led_agent.bench.peers import ENGINE, Peers
from led_agent.bench.view import told
from led_agent.diagnose import default_problems
from led_agent.engine import Engine, EngineRequest
from led_agent.engine.model import load_parts
from led_agent.errors import UsageError
from led_agent.models import locate
from led_agent.record import Record
from led_agent.strategies import BestOfN
from led_agent.types import Branch
from led_agent.verifiers import countdown

MODEL = "smollm2"
SWEEP = 2**30  # bytes read to measure the memory
PUZZLES = 24


class Row(Record):
    """One figure of the table.

    Attributes:
        rounds: The ratio of each round.
        arms: What the ratio is of; nothing where it isn't a comparison.
        notes: What else was measured, and what a reader has to know.
    """

    id: str
    what: str
    rounds: tuple[float, ...]
    spread: Spread | None
    arms: Comparison | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """What every row is told."""

    rounds: int
    dtype: str


# --- a, b: what LED costs -------------------------------------------------------------------------------------------


def led_costs(asked: Asked) -> list[Row]:
    led = Decoding.led("paper", temperature=0.6, span="all", gate_first=True)
    return [_law("a", "LED ÷ plain, T=0.6, 16 branches, gate first", led, asked)]


def exploring_costs(asked: Asked) -> list[Row]:
    led = Decoding.led("paper", temperature=0.6, span="all", exploit=False)
    return [_law("b", "LED ÷ plain, T=0.6, 16 branches, every row exploring", led, asked)]


def _law(name: str, what: str, law: Decoding, asked: Asked) -> Row:
    """From a real question's prompt, which stays cached: exploration depends on the text, and prefill is left out. The
    base is plain sampling at its quickest, without the spreading of siblings, as in ``benchmarks.overhead``."""
    bench, explored = Bench(MODEL, 16, 64, asked.dtype), []

    def arm(label: str, decoding: Decoding) -> Arm:
        def run(_number: int) -> tuple[int, float]:
            rate, share = bench.rate(decoding)
            explored.extend([share] if label == "LED" else [])
            return 16 * 64, 16 * 64 / rate

        return Arm(label, run)

    arms = [arm("LED", law), arm("plain", Decoding.plain(0.6).replace(siblings="independent"))]
    found = compare(arms, rounds=asked.rounds, ratios=[("LED", "plain")])
    share = sum(explored[1:]) / max(1, len(explored) - 1)
    return _row(name, what, found, f"r = {share:.3f} of the tokens explored")


# --- c, d, e: against peers ----------------------------------------------------------------------------------------


def against_generate(asked: Asked) -> list[Row]:
    work = Workload(branches=16, prompt=1024, new=256, dtype=asked.dtype)
    return _against("c", work, ("generate", "static"), asked)


def against_continuous(asked: Asked) -> list[Row]:
    work = Workload(branches=16, prompt=1024, new=32, dtype=asked.dtype)
    note = "32 new tokens in place of 256: a round takes minutes with more on a CPU, and the longer, the further behind"
    return _against("d", work, ("continuous",), asked, note)


def against_llama(asked: Asked) -> list[Row]:
    return _against("e", Workload(branches=32, prompt=512, new=128, dtype="bfloat16"), ("llama.cpp",), asked)


def _against(name: str, work: Workload, peers: tuple[str, ...], asked: Asked, *notes: str) -> list[Row]:
    made = Peers(locate(MODEL), work)
    arms, rows = [made.plain()], []
    for peer in peers:
        arm = made.arm(peer)
        if isinstance(arm, str):
            rows.append(Row(id=name, what=f"engine ÷ {peer}", rounds=(), spread=None, notes=(f"absent: {arm}",)))
        else:
            arms.append(arm)
    if len(arms) == 1:
        return rows
    names = [arm.name for arm in arms[1:]]
    found = compare(arms, rounds=asked.rounds, ratios=[(ENGINE, other) for other in names])
    shape = f"{work.branches} branches, {work.prompt} + {work.new} tokens, {made.workload.dtype}, prefill included"
    rows += [_row(name, f"engine ÷ {other}; {shape}", found, *notes, which=i) for i, other in enumerate(names)]
    return rows


# --- f: against the memory -----------------------------------------------------------------------------------------


def against_memory(asked: Asked) -> list[Row]:
    """Tokens a second of one branch over those that reading all weights once a token would allow.

    The floor is the weights' bytes over the bandwidth of the memory: a sum over a tensor of 1 GiB, by as many threads,
    the best of three in every round. An embedding table that is also the head is counted once, one that isn't not at
    all, since a step reads a row of it. Keys and values are not counted, nor what the processor computes.
    """
    parts = load_parts(locate(MODEL), dtype=asked.dtype)
    parts.eos = frozenset()
    engine = Engine(parts, slots=1)
    weights = sum(weight.nbytes for weight in parts.model.parameters())
    if not parts.tied:
        weights -= parts.model.get_input_embeddings().weight.nbytes
    block = torch.ones(SWEEP // 4)
    prompt = Workload(prompt=32).prompt_ids(0, parts.vocab)

    def decode(number: int) -> tuple[int, float]:
        engine.submit(EngineRequest(f"{number}", prompt, Decoding.plain(0.6), number + 1, max_tokens=65))
        engine.step(progress=False)  # the prefill, and the first token
        began = time.perf_counter()
        while engine.busy:
            engine.step(progress=False)
        return 64, time.perf_counter() - began

    def sweep(_number: int) -> tuple[int, float]:
        taken = []
        for _ in range(3):
            began = time.perf_counter()
            block.sum()
            taken.append(time.perf_counter() - began)
        return 64, 64 * min(taken) * weights / SWEEP

    arms = [Arm("memory floor", sweep), Arm("engine", decode)]
    found = compare(arms, rounds=asked.rounds, ratios=[("engine", "memory floor")])
    floor = found.arms[0].spread
    bandwidth = f"{floor.median * weights / 1e9:.1f} GB/s" if floor else "not measured"
    what = f"engine, 1 branch ÷ reading the weights once a token; {parts.dtype}".replace("torch.", "")
    return [_row("f", what, found, f"{weights / 1e6:.0f} MB of weights; bandwidth, median: {bandwidth}")]


# --- g: slots ------------------------------------------------------------------------------------------------------


def busy_slots(asked: Asked) -> list[Row]:
    """Branches of uneven length, all submitted at once: what is idle is idle at the end."""
    parts = load_parts(locate(MODEL), dtype=asked.dtype)
    parts.eos = frozenset()
    engine = Engine(parts, slots=16)
    prompt = Workload(prompt=8).prompt_ids(0, parts.vocab)
    shares, even = [], []
    for number in range(asked.rounds):
        rng = random.Random(number)
        lengths = [max(1, round(rng.lognormvariate(math.log(32), 0.6))) for _ in range(160)]
        before = engine.busy_slot_steps, engine.slot_steps
        for i, length in enumerate(lengths):
            engine.submit(EngineRequest(f"{number}-{i}", prompt, Decoding.plain(0.8), i, max_tokens=length))
        while engine.busy:
            engine.step(progress=False)
        shares.append((engine.busy_slot_steps - before[0]) / (engine.slot_steps - before[1]))
        # Without refilling, 16 at a time wait for the longest of them.
        even.append(sum(lengths) / sum(16 * max(lengths[at : at + 16]) for at in range(0, 160, 16)))
    note = f"16 at a time without refilling would be {sum(even) / len(even):.2f}"
    what = "busy slot-steps ÷ slot-steps; 160 branches of log-normal length (σ=0.6) through 16 slots"
    return [Row(id="g", what=what, rounds=tuple(shares), spread=Spread.of(shares), notes=(note,))]


# --- h: the first verified answer ----------------------------------------------------------------------------------


def first_answer(asked: Asked) -> list[Row]:
    """Puzzles one after another, each solved both ways, in turn. The search stops at the first accepted branch;
    ``generate`` returns when its last branch has ended, and all that ended are judged by the same verifier. Both sample
    at T=0.6, have 512 tokens a branch, and compute with one thread, which is the quicker for both in so small a model.
    """
    problems = default_problems("countdown")[:PUZZLES]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    solved: dict[str, list[bool]] = {"search": [], "generate": []}
    with Search("countdown", strategy=BestOfN(16, stop_at_first=True), slots=16, dtype=asked.dtype) as search:
        search.prepare()

        def searching(number: int) -> tuple[int, float]:
            began = time.perf_counter()
            verified = search.solve(problems[max(number, 0)]).verified
            seconds = time.perf_counter() - began
            solved["search"].append(verified)
            return 1, seconds

        best_of = _BestOf(search, asked.dtype)

        def generating(number: int) -> tuple[int, float]:
            began = time.perf_counter()
            verified = best_of.solve(problems[max(number, 0)], number)
            seconds = time.perf_counter() - began
            solved["generate"].append(verified)
            return 1, seconds

        arms = [Arm("search", searching), Arm("generate", generating)]
        found = compare(arms, rounds=len(problems), ratios=[("generate", "search")])
    torch.set_num_threads(before)
    sums = [sum(1 / rate for rate in arm.rates) for arm in found.arms]
    counts = ", ".join(f"{name} solved {sum(each[1:])} of {len(each) - 1}" for name, each in solved.items())
    note = f"of all puzzles together: {sums[0]:.2f} s ÷ {sums[1]:.2f} s = {sums[0] / max(sums[1], 1e-9):.3f}; {counts}"
    what = f"time to the first verified answer: search of 16 branches ÷ best of 16 by generate; {len(problems)} puzzles"
    return [_row("h", what, found, note)]


class _BestOf:
    """Best of 16 by transformers: prompts rendered as the search renders them."""

    def __init__(self, search: Search, dtype: str) -> None:
        self.decoder, self.verifier = search.decoder, countdown()
        kind = torch.float32 if dtype == "auto" else getattr(torch, dtype)
        self.model = AutoModelForCausalLM.from_pretrained(locate("countdown"), dtype=kind).eval()
        self.tokenizer = self.decoder.engine.parts.tokenizer
        self.ends = sorted(self.decoder.engine.parts.eos)

    def solve(self, problem, number: int) -> bool:
        torch.manual_seed(number + 1)
        ids = torch.tensor([self.decoder.render(problem.prompt)])
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=0.6,
            top_k=0,
            top_p=1.0,
            num_return_sequences=16,
            max_new_tokens=512,
            eos_token_id=self.ends,
            pad_token_id=self.ends[0],
        )
        verdicts = [self._accepts(problem, row) for row in out[:, ids.shape[1] :].tolist()]
        return any(verdicts)

    def _accepts(self, problem, tokens: list[int]) -> bool:
        end = next((at for at, token in enumerate(tokens) if token in self.ends), None)
        if end is None:
            return False
        text = self.tokenizer.decode(tokens[:end])
        verdict = self.verifier(problem, Branch(id="it", text=text, finish="eos"))
        return verdict.status == "accepted"


# --- the whole -----------------------------------------------------------------------------------------------------

ROWS: dict[str, Callable[[Asked], list[Row]]] = {
    "a": led_costs,
    "b": exploring_costs,
    "c": against_generate,
    "d": against_continuous,
    "e": against_llama,
    "f": against_memory,
    "g": busy_slots,
    "h": first_answer,
}


def _row(name: str, what: str, found: Comparison, *notes: str, which: int = 0) -> Row:
    ratio = found.ratios[which]
    failed = tuple(arm.error for arm in found.arms if arm.error is not None and arm.name in (ratio.arm, ratio.base))
    cut = ("interrupted",) if found.interrupted else ()
    return Row(id=name, what=what, rounds=ratio.rounds, spread=ratio.spread, arms=found, notes=(*notes, *failed, *cut))


def table(rows: list[Row]) -> str:
    """Markdown: a line a row."""
    lines = ["| | what | median (lowest … highest) | rounds | notes |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        cells = (row.id, row.what, told(row.spread, 3), str(len(row.rounds)), "; ".join(row.notes))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(
    rounds: Annotated[int, typer.Option(min=1, help="In which each is timed once; the last row has puzzles.")] = 5,
    only: Annotated[str | None, typer.Option(help="Rows, with commas between them: a to h.")] = None,
    dtype: Annotated[str, typer.Option(help="Of all rows but e, which is in bfloat16.")] = "float32",
    out: Annotated[Path, typer.Option(help="Where to keep all figures.")] = Path("benchmarks/results/goals.json"),
) -> None:
    chosen = [name.strip() for name in only.split(",")] if only else list(ROWS)
    unknown = [name for name in chosen if name not in ROWS]
    if unknown:
        raise UsageError(f"there is no row {unknown[0]!r}; there are {', '.join(ROWS)}")
    rows: list[Row] = []
    for name in chosen:
        found = ROWS[name](Asked(rounds, dtype))
        rows += found
        print(table(found), flush=True)
        kept = {
            "model": MODEL, "dtype": dtype, "threads": torch.get_num_threads(), "torch": torch.__version__,
            "rows": [row.model_dump(mode="json") for row in rows],
        }  # fmt: skip
        out.write_text(json.dumps(kept))  # after each row: a run is long
        if any(row.arms is not None and row.arms.interrupted for row in found):
            break
    print("\n" + table(rows))


if __name__ == "__main__":
    typer.run(main)
