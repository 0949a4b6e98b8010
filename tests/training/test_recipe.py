"""The recipe itself, at a size that takes seconds: it learns, it is reproducible, and its measurements are right."""

from __future__ import annotations

import json
from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import pytest
import torch

from led_agent.models import locate
from training.countdown import rl, sft
from training.countdown.evaluate import Law, Measuring, bootstrap, by_depth, kinds_of, pass_at, sample
from training.countdown.log import Log
from training.countdown.model import load, new_model, prompts, rollout, temperature_chooser, words_of
from training.countdown.parallel import Team
from training.countdown.problems import IDS, NEW_TOKENS, PAD, WORDS, encode, sample_puzzles
from training.countdown.report import read_log
from training.countdown.stages import Plan, build

ALONE = Team(0, 1)
SMALL = sft.SftSettings(blocks=4, width=32, tokens=60_000, batch=16)


@pytest.fixture(scope="module")
def shipped():
    return load(Path(locate("countdown")))


def test_supervised_training_learns_and_repeats(tmp_path: Path):
    models = [sft.train(SMALL, Log(tmp_path / f"{run}.jsonl"), ALONE) for run in "ab"]
    losses = read_log(tmp_path / "a.jsonl")["loss"]
    assert losses[-1] < losses[0] - 0.2
    assert losses == read_log(tmp_path / "b.jsonl")["loss"]
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_lens_loss_teaches_the_late_blocks(tmp_path: Path):
    """Read through the lens one block early, the network trained with it predicts better than the one without."""
    asked = sample_puzzles("dev", 40, 0)
    entropies = []
    for weight in (0.0, 0.3):
        torch.manual_seed(0)
        model = sft.train(replace(SMALL, lens_weight=weight), None, ALONE)
        rows = [
            encode(
                [
                    "12",
                    "-",
                    "2",
                    "=",
                    "10",
                    "10",
                    "*",
                    "5",
                    "=",
                    "50",
                    "yes",
                    "</think>",
                    "(",
                    "12",
                    "-",
                    "2",
                    ")",
                    "*",
                    "5",
                    "<eos>",
                ]
            )
        ] * len(asked)
        inputs = torch.cat([prompts(asked), torch.tensor(rows)], 1)
        with torch.inference_mode():
            states = model.model(input_ids=inputs[:, :-1], output_hidden_states=True).hidden_states
            logits = model.lm_head(model.model.norm(states[-2]))
        entropies.append(float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs[:, 1:].flatten())))
    assert entropies[1] < entropies[0] - 0.03


def test_rollouts_are_what_generate_gives(shipped):
    asked = sample_puzzles("dev", 24, 0)
    start = prompts(asked)
    grown = rollout(shipped, start, temperature_chooser(shipped, 0.0, torch.Generator()))
    expected = shipped.generate(start, max_new_tokens=NEW_TOKENS, do_sample=False)[:, start.shape[1] :]
    assert words_of(grown) == words_of(expected)


def test_rollouts_end_at_their_end_and_repeat(shipped):
    start = prompts(sample_puzzles("dev", 64, 0))
    first, again = (
        rollout(shipped, start, temperature_chooser(shipped, 1.0, torch.Generator().manual_seed(1))) for _ in range(2)
    )
    assert torch.equal(first, again)
    for row in first.tolist():
        if IDS["<eos>"] in row:
            assert set(row[row.index(IDS["<eos>"]) + 1 :]) <= {IDS[PAD]}
        else:
            assert IDS[PAD] not in row


def test_sampling_follows_the_posterior(shipped):
    """Of the first token, over many rollouts of one prompt, plain and explored, against the exact laws."""
    start = prompts(sample_puzzles("dev", 1, 4)).expand(4_000, -1)
    with torch.inference_mode():
        exact = torch.softmax(shipped(start[:1]).logits[0, -1] / 1.3, -1)
    for law in (Law(1.3), Law(1.3, 4)):
        grown = rollout(shipped, start, law.chooser(shipped, torch.Generator().manual_seed(0)), max_new=1)
        seen = torch.bincount(grown[:, 0], minlength=len(WORDS)) / len(grown)
        distance = float((seen - exact).abs().sum() / 2)
        if law.depths == 1:
            assert distance < 0.04
        else:
            assert distance < 0.2  # explored, and not another distribution altogether
    assert Law(0.0).label == "greedy"


def test_reinforcement_moves_the_model_toward_its_reward(shipped, tmp_path: Path):
    """One update with a made-up reward: what got a positive advantage becomes more probable, the rest less."""
    model = load(Path(locate("countdown-sft")))
    settings = rl.RlSettings(problems=4, group=8, steps=3)
    before = [p.clone() for p in model.parameters()]
    rl.train(model, settings, Log(tmp_path / "log.jsonl"), ALONE)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    told = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert 0 <= told["correct"] <= 1
    assert told["entropy"] > 0

    model = new_model(4, 32)
    start = prompts(sample_puzzles("train", 8, 0))
    grown = rollout(model, start, temperature_chooser(model, 1.0, torch.Generator().manual_seed(0)), max_new=5)
    liked = torch.tensor([1.0] * 4 + [-1.0] * 4)

    def logp() -> torch.Tensor:
        with torch.inference_mode():
            out = torch.log_softmax(model(torch.cat([start, grown[:, :-1]], 1)).logits[:, start.shape[1] - 1 :], -1)
        return out.gather(2, grown[..., None]).sum((1, 2))

    old = logp()
    rl._update(model, start, grown, liked, settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 5.0 * parameter.grad
    change = logp() - old
    assert change[:4].sum() > 0 > change[4:].sum()


@pytest.mark.parametrize(("samples", "correct"), [(16, 0), (16, 1), (16, 5), (16, 16), (1, 1)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(samples: int, correct: int):
    from itertools import combinations

    marks = [i < correct for i in range(samples)]
    for k in {1, 2, 4} & set(range(1, samples + 1)):
        subsets = [any(chosen) for chosen in combinations(marks, k)]
        assert pass_at(k, samples, correct) == pytest.approx(sum(subsets) / comb(samples, k))


def test_the_bootstrap_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        found = bootstrap(rng.random(60) < 0.3, seed)
        covered += found.low <= 0.3 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_kinds_of_tokens():
    words = [
        "12",
        "-",
        "2",
        "=",
        "10",
        "10",
        "*",
        "5",
        "=",
        "50",
        "yes",
        "</think>",
        "(",
        "12",
        "-",
        "2",
        ")",
        "*",
        "5",
        "<eos>",
    ]
    kinds = kinds_of(torch.tensor([encode(words)]))[0].tolist()
    named = dict(enumerate(("choice", "result", "verdict")))
    assert [named.get(kind, "") for kind in kinds[:12]] == [
        "choice", "choice", "choice", "", "result", "choice", "choice", "choice", "", "result", "verdict", "",
    ]  # fmt: skip
    assert set(kinds[12:]) == {-1}


def test_depths_are_measured_against_a_naive_forward(shipped):
    asked = sample_puzzles("dev", 6, 0)
    found = by_depth(shipped, asked, 0, ALONE, samples=2)
    start = prompts([puzzle for puzzle in asked for _ in range(2)])
    grown = rollout(shipped, start, temperature_chooser(shipped, 1.0, torch.Generator().manual_seed(0)))
    sums: dict[int, list[tuple[int, float]]] = {0: [], 1: [], 2: []}
    model = shipped.double()
    try:
        with torch.inference_mode():
            inputs = torch.cat([start, grown[:, :-1]], 1)
            states = model.model(input_ids=inputs, output_hidden_states=True).hidden_states
            p = model.lm_head(model.model.norm(states[9]))[:, start.shape[1] - 1 :].softmax(-1)
    finally:
        shipped.float()
    kinds = kinds_of(grown)
    for row, at in (kinds >= 0).nonzero().tolist():
        sums[int(kinds[row, at])].append((row // 2, float(-(p[row, at] * p[row, at].log()).sum())))
    for kind, name in enumerate(("choice", "result", "verdict")):
        for problem in range(len(asked)):
            of_problem = [value for row, value in sums[kind] if row == problem]
            assert found.entropy[name][8][problem] == pytest.approx(np.mean(of_problem), rel=1e-3)


def test_outcomes_count_what_was_sampled(shipped):
    asked = sample_puzzles("dev", 10, 0)
    outcome = sample(shipped, asked, Law(1.0), 8, 0, ALONE)
    assert len(outcome.correct) == 10
    assert all(0 <= c <= 8 for c in outcome.correct)
    assert outcome.passes(1).mean() == pytest.approx(sum(outcome.correct) / 80)
    assert 1 <= outcome.distinct <= 8
    assert sample(shipped, asked, Law(1.0), 8, 0, ALONE) == outcome


@pytest.mark.slow
def test_build_goes_from_nothing_to_tables_and_is_resumed(tmp_path: Path):
    """Two processes, every stage; a second call does nothing again; another folder gives the same weights."""
    plan = Plan(
        tmp_path / "a",
        processes=2,
        sft=replace(SMALL, tokens=6_000),
        rl=rl.RlSettings(steps=2, problems=4, group=4),
        measuring=Measuring(problems=8, samples=4, temperatures=(0.0, 1.0)),
    )
    build(plan)
    tables = (plan.out / "tables.md").read_text()
    assert "## countdown-sft" in tables
    assert "Δ pass@4" in tables
    weights = {p.parent.name: p.read_bytes() for p in sorted(plan.out.rglob("model.safetensors"))}
    assert set(weights) == {"countdown", "countdown-sft"}
    assert weights["countdown"] != weights["countdown-sft"]
    stamps = {p: p.stat().st_mtime_ns for p in plan.out.rglob("*.safetensors")}
    build(plan)
    assert {p: p.stat().st_mtime_ns for p in plan.out.rglob("*.safetensors")} == stamps
    build(replace(plan, out=tmp_path / "b"))
    assert {p.parent.name: p.read_bytes() for p in sorted((tmp_path / "b").rglob("model.safetensors"))} == weights
