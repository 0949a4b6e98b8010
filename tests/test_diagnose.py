"""``diagnose``: the figures against naive ones, the recommendation rule by rule, and the command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import led_agent.diagnose as module
from led_agent.cli import main
from led_agent.diagnose import default_problems, diagnose, estimates, slopes, spread
from led_agent.diagnosis import (
    CAVEAT,
    AtTemperature,
    Depth,
    Diagnosis,
    Estimate,
    Reading,
    best_temperature,
    better_norm,
    collapse,
    late_depths,
    readable,
    recommend,
)
from led_agent.diagnosis_view import check_plot, stages
from led_agent.errors import ModelError, UsageError
from led_agent.models import embedded_refusal
from led_agent.types import Decoding, Problem, Verdict
from led_agent.verifiers import MathAnswer, is_puzzle
from tests.tiny import tiny_model, tiny_tokenizer

# --- the recommendation --------------------------------------------------------------------------------------------


def estimate(mean: float, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(mean=mean, low=mean if low is None else low, high=mean if high is None else high)


def reading(entropy: float, agreement: float, final: float, low: float | None = None) -> Reading:
    rise = entropy - final
    return Reading(entropy=estimate(entropy), agreement=estimate(agreement), rise=estimate(rise, low))


def model_of(
    normed: list[tuple[float, float]], raw: list[tuple[float, float]] | None = None, *, low: float | None = None
) -> list[Depth]:
    """(entropy, agreement) after each number of blocks; ``low``: the lower end of all rises."""
    final = normed[-1][0]
    raw = raw or [(0.01, 0.1)] * len(normed)
    return [
        Depth(depth=i, normed=reading(*n, final, low), raw=reading(*r, final, low))
        for i, (n, r) in enumerate(zip(normed, raw, strict=True), 1)
    ]


RATES = [
    AtTemperature(temperature=t, share=estimate(r)) for t, r in ((0.6, 0.05), (0.8, 0.12), (1.0, 0.17), (1.2, 0.3))
]
EARLY = [(2.0, 0.1)] * 8  # of 12 blocks
COLLAPSED = model_of([*EARLY, (0.6, 0.8), (0.55, 0.9), (0.5, 0.95), (0.3, 1.0)])
FLAT = model_of([*EARLY, (0.31, 0.8), (0.36, 0.9), (0.34, 0.95), (0.33, 1.0)])


def test_where_entropy_collapses_led_is_recommended_over_the_layers_that_can_be_read():
    said = recommend(COLLAPSED, RATES, None, problems=40, vocab=1000)
    assert said.use_led
    assert (said.depths, said.norm, said.temperature) == (4, "final", 1.0)
    assert said.decoding == "led.paper:depths=4,temperature=1"
    assert "0.30 nat, against 0.60 after block 9 of 12" in said.reason
    assert "exploration rate of 0.17 is the nearest to 0.15" in said.reason


def test_where_entropy_does_not_collapse_it_is_not():
    said = recommend(FLAT, RATES, None, problems=40, vocab=1000)
    assert (said.use_led, said.decoding) == (False, "plain:temperature=0.6")
    assert (
        "entropy does not collapse at the last layer (0.33 nat, the ones before it 0.31 to 0.36): LED is expected not "
        "to help" in said.reason
    )


def test_layers_in_another_language_are_a_reason_of_their_own():
    odd = model_of([*EARLY, (3.0, 0.2), (3.0, 0.3), (3.0, 0.4), (0.3, 1.0)])
    said = recommend(odd, RATES, None, problems=40, vocab=1000)
    assert not said.use_led
    assert said.depths == 2
    assert "don't read as its language (the nearest one's most probable token is the final one in 40%" in said.reason
    assert "20% at least" in said.reason


def test_few_problems_are_not_relied_on():
    assert recommend(COLLAPSED, RATES, None, problems=5, vocab=1000).use_led
    said = recommend(COLLAPSED, RATES, None, problems=4, vocab=1000)
    assert not said.use_led
    assert "but 4 problems are too few to rely on it: give at least 5" in said.reason


def test_a_single_block_has_nothing_to_explore():
    said = recommend(model_of([(0.3, 1.0)]), RATES, None, problems=40, vocab=1000)
    assert (said.use_led, said.depths) == (False, 1)
    assert "single block" in said.reason


@pytest.mark.parametrize(
    ("vocab", "everywhere", "raw", "ends"),
    [
        (1000, False, None, "temperature=1"),
        (20, False, None, "temperature=1"),
        (19, False, None, "temperature=1,top_k=19"),
        (1000, True, None, "temperature=1,span=all"),
        (19, True, [(0.9, 0.99)] * 12, "temperature=1,norm=none,top_k=19,span=all"),
    ],
)
def test_the_decoding_can_be_given_as_it_stands(
    vocab: int, everywhere: bool, raw: list[tuple[float, float]] | None, ends: str
):
    normed = [(depth.normed.entropy.mean, depth.normed.agreement.mean) for depth in COLLAPSED]
    said = recommend(model_of(normed, raw), RATES, None, problems=40, vocab=vocab, everywhere=everywhere)
    assert said.decoding == f"led.paper:depths=4,{ends}"
    parsed = Decoding.parse(said.decoding)
    parsed.check_model(12, vocab)
    assert parsed.exploration is not None
    assert (parsed.exploration.depths, parsed.exploration.norm) == (said.depths, said.norm)
    assert (parsed.span, parsed.temperature) == ("all" if everywhere else "auto", said.temperature)


@pytest.mark.parametrize(
    ("blocks", "late"),
    [
        (1, []),
        (2, [1]),
        (3, [2]),
        (6, [5]),
        (8, [7, 6]),
        (12, [11, 10, 9]),
        (36, list(range(35, 24, -1))),
        (64, list(range(63, 52, -1))),
    ],
)
def test_the_last_third_without_the_last_and_eleven_at_most(blocks: int, late: list[int]):
    assert [depth.depth for depth in late_depths(model_of([(1.0, 1.0)] * blocks))] == late


def test_no_more_than_twelve_posteriors_are_recommended():
    deep = model_of([(1.0, 0.9)] * 63 + [(0.2, 1.0)])
    assert recommend(deep, RATES, None, problems=40, vocab=1000).depths == 12


def test_the_raw_states_are_read_only_where_they_clearly_agree_more():
    for agreement, norm in ((0.3, "final"), (0.8, "final"), (0.84, "final"), (0.86, "none")):
        assert better_norm(model_of([(0.5, 0.8)] * 3, [(0.1, agreement)] * 3)) == norm
    assert better_norm([]) == "final"


def test_layers_are_readable_down_to_the_first_that_is_not():
    late = model_of([(1, 0.9), (1, 0.49), (1, 0.5), (1, 0.8)])[::-1]
    assert [depth.depth for depth in readable(late, "final")] == [4, 3]
    assert readable(late, "none") == []


def test_a_collapse_is_a_fifth_of_the_final_entropy_and_clear_of_zero():
    final = estimate(0.5)
    assert collapse(final, model_of([(0.61, 1.0), (0.62, 1.0), (0.5, 1.0)], low=0.01)[:2], "final").depth == 2
    assert collapse(final, model_of([(0.59, 1.0), (0.5, 1.0)], low=0.01)[:1], "final") is None
    assert collapse(final, model_of([(0.9, 1.0), (0.5, 1.0)], low=0.0)[:1], "final") is None
    assert collapse(final, [], "final") is None


def test_a_layer_beyond_an_unreadable_one_is_no_evidence():
    hidden = model_of([*EARLY, (0.9, 0.9), (0.9, 0.4), (0.3, 0.95), (0.3, 1.0)])
    assert not recommend(hidden, RATES, None, problems=40, vocab=1000).use_led


@pytest.mark.parametrize("explores", [True, False])
def test_the_temperature_follows_accuracy_where_it_is_known_to_fall_or_rise(explores: bool):
    falling, rising = estimate(-0.2, -0.3, -0.1), estimate(0.2, 0.1, 0.3)
    t, why = best_temperature(RATES, falling, explores=explores)
    assert t == 0.6
    assert "accuracy falls with temperature (slope -0.20, 95 % -0.30 to -0.10" in why
    t, why = best_temperature(RATES, rising, explores=explores)
    assert t == max(rate.temperature for rate in RATES)
    assert "accuracy rises" in why


def test_else_it_follows_the_exploration_rate_or_stays_low():
    for unsure in (None, estimate(-0.2, -0.5, 0.0), estimate(0.2, 0.0, 0.5)):
        assert best_temperature(RATES, unsure, explores=True)[0] == 1.0
        assert best_temperature(RATES[:2], unsure, explores=True)[0] == 0.8
        t, why = best_temperature(RATES, unsure, explores=False)
        assert (t, "isn't known to rise" in why) == (0.6, True)


# --- statistics ----------------------------------------------------------------------------------------------------


def test_intervals_are_bootstrapped_over_problems():
    data = np.random.default_rng(1).normal([0.0, 5.0], [1.0, 3.0], (50, 2))
    got = estimates(data)
    for column, found in zip(data.T, got, strict=True):
        rng = np.random.default_rng(7)
        means = [rng.choice(column, 50).mean() for _ in range(20_000)]
        assert found.mean == pytest.approx(column.mean())
        assert [found.low, found.high] == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.03 * column.std())
    assert got == estimates(data)
    pair = estimates(np.array([[1.0], [3.0]]))[0]
    assert (pair.low, pair.mean, pair.high) == (1.0, 2.0, 3.0)


def test_slopes_are_least_squares():
    rows = np.random.default_rng(0).random((5, 4))
    lines = [np.polyfit(module.TEMPERATURES, row, 1)[0] for row in rows]
    assert slopes(rows) == pytest.approx(lines)


def test_a_spread_is_even_and_no_longer_than_asked():
    assert spread("abc", 5) == ["a", "b", "c"]
    assert spread(range(10), 5) == [0, 2, 4, 6, 8]
    assert spread(range(10), 0) == []


# --- what is measured on -------------------------------------------------------------------------------------------


def test_the_embedded_models_get_solvable_puzzles_that_they_were_not_trained_on():
    from training.countdown.problems import attempts, split_of

    problems = default_problems("countdown-sft")
    assert problems == default_problems(None)
    assert len({problem.text for problem in problems}) == len({problem.key for problem in problems}) == 40
    for problem in problems:
        assert embedded_refusal(problem.text) is None
        assert is_puzzle(problem)
    for puzzle in module._puzzles():
        assert split_of(puzzle) == "test"
        assert puzzle.target in {a.result for a in attempts(tuple(sorted(puzzle.numbers)))}


def test_other_models_get_word_problems_with_answers():
    problems = default_problems("smollm2")
    assert len({problem.text for problem in problems}) == len({problem.key for problem in problems}) == 12
    assert all(problem.answer is not None and not is_puzzle(problem) for problem in problems)


# --- measured ------------------------------------------------------------------------------------------------------

QUESTIONS = [Problem(prompt=f"w{i} w{2 * i} w5 .", id=f"q{i}", answer=str(i)) for i in range(1, 5)]


@pytest.fixture(scope="module")
def measured(saved_model: Path) -> Diagnosis:
    return diagnose(str(saved_model), QUESTIONS, samples=3, max_tokens=20, seed=5)


def test_the_figures_are_means_over_problems_of_naive_ones(
    saved_model: Path, measured: Diagnosis, monkeypatch: pytest.MonkeyPatch
):
    import torch
    from transformers import AutoModelForCausalLM

    grown: dict[int, Any] = {}
    grow = module._Session.grow
    monkeypatch.setattr(
        module._Session, "grow", lambda self, which, t: grown.setdefault(t, (self.prompts, grow(self, which, t)))[1]
    )
    again = diagnose(str(saved_model), QUESTIONS, samples=3, max_tokens=20, seed=5)
    assert again == measured
    for t, (_, of_temperature) in grown.items():  # at T=1, and there only, tokens are drawn from the posterior as it is
        branch = of_temperature[0][0]
        assert (branch.logprobs == pytest.approx(branch.final_logprobs, abs=1e-3)) is (t == 1.0)
    assert sorted(grown) == [0.6, 0.8, 1.0, 1.2]
    model = AutoModelForCausalLM.from_pretrained(saved_model, dtype=torch.float64)
    prompts, by_problem = grown[1.0]
    entropy, agrees, doubt = [], [], []
    for at, branches in by_problem.items():
        logits = []
        for branch in branches:
            ids = torch.tensor([[*prompts[at], *branch.token_ids[:-1]]])
            with torch.no_grad():
                states = torch.stack(model.model(input_ids=ids, output_hidden_states=True).hidden_states[1:])
                states[:-1] = model.model.norm(states[:-1])
                logits.append(model.lm_head(states[:, 0, len(prompts[at]) - 1 :]))
        every = torch.cat(logits, 1)  # [n, positions, vocab]
        entropy.append(torch.special.entr(every.softmax(-1)).sum(-1).mean(-1).numpy())
        agrees.append((every.argmax(-1) == every[-1].argmax(-1)).double().mean(-1).numpy())
        doubt.append([1 - (every[-1] / t).softmax(-1).amax(-1).mean() for t in module.TEMPERATURES])
    for got, true in ((lambda d: d.entropy.mean, entropy), (lambda d: d.agreement.mean, agrees)):
        assert [got(depth.normed) for depth in measured.depths] == pytest.approx(np.mean(true, 0), abs=1e-4)
    assert [rate.share.mean for rate in measured.rates] == pytest.approx(np.mean(doubt, 0), abs=1e-4)
    rises = np.mean(entropy, 0) - np.mean(entropy, 0)[-1]
    assert [depth.normed.rise.mean for depth in measured.depths] == pytest.approx(rises, abs=1e-4)
    tokens = sum(len(branch.token_ids) for branches in by_problem.values() for branch in branches)
    assert measured.generated == measured.positions == measured.law_positions == tokens


def test_a_diagnosis_says_what_it_is_of(measured: Diagnosis):
    assert (measured.problems, measured.samples, measured.span, measured.blocks) == (4, 3, "all", 8)
    assert {(m.depths, m.norm, m.temperature) for m in measured.movements} == {
        (d, norm, t) for d in (2, 3, 4, 6, 8) for norm in ("final", "none") for t in (0.6, 1.0)
    }
    assert all(0 <= m.distance.low <= m.distance.mean <= m.distance.high <= 1 for m in measured.movements)
    assert measured.accuracy is not None
    assert [at.temperature for at in measured.accuracy.at] == [0.6, 0.8, 1.0, 1.2]
    assert measured.caveat == CAVEAT
    assert Diagnosis.model_validate_json(measured.model_dump_json()) == measured


def test_the_seed_decides(saved_model: Path, measured: Diagnosis):
    assert diagnose(str(saved_model), QUESTIONS, samples=3, max_tokens=20, seed=6).rates != measured.rates


def test_positions_are_spread_over_what_was_generated(saved_model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_POSITIONS", (40, 40))
    monkeypatch.setattr(module, "_LAW_POSITIONS", 12)
    seen: list[tuple[Any, ...]] = []
    look_at = module._Session._look_at
    monkeypatch.setattr(
        module._Session, "_look_at", lambda *args, **named: seen.append(args) or look_at(*args, **named)
    )
    found = diagnose(str(saved_model), QUESTIONS, samples=3, max_tokens=20, seed=5)
    assert (found.positions, found.law_positions) == (40, 12)
    for _, _, branches, places, laws_at, _ in seen:
        assert len(places) == 10
        assert {b for b, _ in places} == set(range(len(branches)))
        assert laws_at < set(places)


def test_accuracy_is_what_the_verifiers_accept(saved_model: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []

    def judge(_verifiers: Any, problem: Problem, branch: Any) -> tuple[Verdict, ...]:
        """Of q1's branches the first of each temperature is right; on q2's the verifier fails; all q3's are right."""
        calls.append(problem.key)
        first = branch.id.endswith("/0")
        status = {"q1": "accepted" if first else "rejected", "q2": "error", "q3": "accepted", "q4": "abstained"}
        return (Verdict(status=status[problem.key]),)

    monkeypatch.setattr(module, "judge", judge)
    problems = [*QUESTIONS, Problem(prompt="w1 w1", id="none to compare with")]
    found = diagnose(str(saved_model), problems, samples=2, max_tokens=4)
    assert len(calls) == 4 * 2 * 4
    assert found.accuracy is not None
    assert found.accuracy.problems == 3
    assert [at.share.mean for at in found.accuracy.at] == pytest.approx([0.5] * 4)
    assert found.accuracy.slope.mean == pytest.approx(0.0)
    assert any("failed on 8 branches" in note for note in found.notes)


def test_the_verifiers_processes_are_ended(saved_model: Path, monkeypatch: pytest.MonkeyPatch):
    closed: list[MathAnswer] = []
    close = MathAnswer.close
    monkeypatch.setattr(MathAnswer, "close", lambda self: closed.append(self) or close(self))
    diagnose(str(saved_model), QUESTIONS[:2], samples=1, max_tokens=3)
    assert len(closed) == 1


def test_without_answers_there_is_no_accuracy_and_nothing_is_sampled_for_it(saved_model: Path):
    stages_seen: set[str] = set()
    found = diagnose(
        str(saved_model),
        ["w1", "w2"],
        samples=1,
        max_tokens=3,
        progress=lambda doing, _done, _of: stages_seen.add(doing),
    )
    assert found.accuracy is None
    assert any("accuracy isn't measured" in note for note in found.notes)
    assert stages_seen == {"loading the model", "sampling at T=1", "reading every depth"}


def test_the_embedded_model_is_measured_inside_its_thinking():
    told: list[tuple[str, int, int]] = []
    found = diagnose(
        "countdown", default_problems("countdown")[:6], samples=2, progress=lambda *args: told.append(args)
    )
    assert (found.span, found.blocks, found.problems) == ("think", 12, 6)
    assert found.generated < 6 * 2 * 128
    assert found.depths[-1].normed.agreement == estimate(1.0)
    assert found.depths[0].normed.entropy.mean > 1 > found.depths[-1].normed.entropy.mean
    assert found.accuracy is not None
    assert found.accuracy.problems == 6
    assert found.accuracy.at[0].share.mean > 0.3
    assert ("judging", 6, 6) in told
    assert all(done <= of or not of for _, done, of in told)


@pytest.mark.parametrize("opens", [True, False])
def test_thinking_tags_that_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opens: bool):
    from led_agent.engine.depths import DepthReader

    left_alone: list[Any] = []
    moved = DepthReader.moved
    monkeypatch.setattr(
        DepthReader, "moved", lambda *args, **named: left_alone.append(named["held"]) or moved(*args, **named)
    )
    tokenizer = tiny_tokenizer(think="token")
    if not opens:
        tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}{# </think> #}"
    vocab = len(tokenizer)
    model = tiny_model("llama", vocab_size=vocab, initializer_range=0.02)
    for word in ("<think>", "</think>"):  # never sampled: only the template opens
        model.lm_head.weight.data[tokenizer.convert_tokens_to_ids(word)] = 0.0
    model.model.norm.weight.data *= 200
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = diagnose(str(tmp_path), ["w1 w2", "w3 w4", "w5"], samples=2, max_tokens=8)
    assert found.span == ("think" if opens else "all")
    assert any("has thinking tags and opened none" in note for note in found.notes) is not opens
    close = tokenizer.convert_tokens_to_ids("</think>")
    assert all(set(held) == {close} if opens else held is None for held in left_alone)
    assert left_alone


def test_problems_that_cannot_be_asked_are_passed_over_and_named(saved_model: Path):
    fit = default_problems(None)[:2]
    found = diagnose("countdown", [Problem(prompt="Who are you?", id="chat"), *fit], samples=1, max_tokens=8)
    assert found.problems == 2
    assert found.notes[0].startswith("1 of 3 problems passed over; the first, chat: this doesn't read as a Countdown")
    with pytest.raises(UsageError, match="found 1 usable problem"):  # before anything is loaded
        diagnose("surely-not-a-model", ["w1"])
    with pytest.raises(UsageError, match="none of the 2 problems can be asked"):
        diagnose("countdown", ["Who are you?", "And I?"])
    with pytest.raises(UsageError, match=r"found 1 usable problem.*1 of 2 problems passed over.*leaves no room"):
        diagnose(str(saved_model), ["w1", "w1 " * 300])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"samples": 0}, "samples is 0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"slots": 0}, "slots is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"problems": []}, "found 0 usable problem"),
        ({"problems": ["w1"]}, "found 1 usable problem.*at least 2 are needed"),
        ({"problems": ["", "w1"]}, "prompt is empty"),
        ({"device": "abacus"}, "no device is called 'abacus'"),
        ({"dtype": "int3"}, "no dtype is called 'int3'"),
    ],
)
def test_options_out_of_their_limits(saved_model: Path, options: dict[str, Any], says: str):
    with pytest.raises(UsageError, match=says):
        diagnose(str(saved_model), **options)


def test_a_model_whose_logits_are_not_finite_is_refused(tmp_path: Path):
    tokenizer = tiny_tokenizer()
    model = tiny_model("llama", vocab_size=len(tokenizer))
    model.lm_head.weight.data[3] = float("nan")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="generated no token to look at: the model's logits at position"):
        diagnose(str(tmp_path), ["w1", "w2"], samples=1, max_tokens=4)


def test_a_model_that_cannot_be_taken_apart_is_told_what_was_looked_for():
    from transformers import AutoModel

    from led_agent.engine.model import ModelParts
    from tests.tiny import tiny_config

    for change, found in ((lambda m: m.model, "found none of them"), (lambda m: m, "found model.layers and lm_head")):
        model = tiny_model("llama")
        del model.model.norm
        with pytest.raises(ModelError, match=f"looked for model.layers, model.norm and lm_head, {found}"):
            ModelParts.of(change(model))
    with pytest.raises(ModelError, match="found none of them; load it as a causal language model"):
        ModelParts.of(AutoModel.from_config(tiny_config("qwen3")))


# --- the command ---------------------------------------------------------------------------------------------------

Tool = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tool(capsys: pytest.CaptureFixture[str]) -> Tool:
    """Run ``led-agent diagnose``: (exit code, standard output, standard error)."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["diagnose", *(str(a) for a in arguments)])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    path.write_text(
        "".join(json.dumps(problem.model_dump(include={"prompt", "id", "answer"})) + "\n" for problem in QUESTIONS)
    )
    return path


def test_json_is_one_object_and_nothing_else(tool: Tool, saved_model: Path, problems: Path, measured: Diagnosis):
    common = ("--problems", problems, "--samples", 3, "--max-tokens", 20, "--seed", 5, "--json")
    code, out, err = tool(saved_model, *common)
    assert (code, out.count("\n")) == (0, 1)
    assert json.loads(out) == measured.model_dump(mode="json")
    assert "reading every depth" in err
    code, out, err = tool(saved_model, *common, "--limit", 2, "--quiet")
    assert (json.loads(out)["problems"], err) == (2, "")


def test_tables_are_for_people(tool: Tool, saved_model: Path, problems: Path, tmp_path: Path):
    code, out, err = tool(saved_model, "--problems", problems, "--samples", 2, "--max-tokens", 8)
    assert code == 0
    flat = " ".join(out.split())
    for told in ("8 blocks; 4 problems × 2 branches", "all that it generated", "entropy, normed", "agreement"):
        assert told in flat
    for told in ("Exploration rate", "accuracy on 4 problems", "slope", "total variation", "--decoding", CAVEAT[:40]):
        assert told in flat
    assert "sampling at T=0.6" in err
    assert "Traceback" not in err
    path = tmp_path / "plain.jsonl"
    path.write_text('{"prompt": "w1"}\n{"prompt": "w2"}\n')
    code, out, _ = tool(saved_model, "--problems", path, "--samples", 1, "--max-tokens", 4, "-q")
    assert (code, "accuracy isn't measured" in " ".join(out.split()), "slope" in out) == (0, True, False)


@pytest.mark.parametrize(("suffix", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")])
def test_a_picture_is_drawn(tool: Tool, saved_model: Path, problems: Path, tmp_path: Path, suffix: str, begins: bytes):
    picture = tmp_path / f"picture{suffix}"
    if suffix != ".png":  # there with accuracy, here without
        problems.write_text('{"prompt": "w1"}\n{"prompt": "w2"}\n')
    options = ("--problems", problems, "--samples", 1, "--max-tokens", 4, "--limit", 2, "--json", "-q")
    code, out, _ = tool(saved_model, *options, "--plot", picture)
    assert (code, out.count("\n")) == (0, 1)
    assert picture.read_bytes().startswith(begins)
    assert picture.stat().st_size > 5000


def test_a_picture_that_cannot_be_made_is_refused_before_the_model_is_loaded(
    tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    code, out, err = tool("surely-not-a-model", "--plot", tmp_path / "p.gif")
    assert (code, out, "ends in .png, .svg, .pdf; found 'p.gif'" in err) == (2, "", True)
    code, _, err = tool("surely-not-a-model", "--plot", tmp_path / "nowhere" / "p.png")
    assert (code, "there is no folder" in err) == (2, True)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = tool("surely-not-a-model", "--plot", tmp_path / "p.png")
    assert (code, "pip install 'led-agent[plots]'" in err) == (2, True)
    with pytest.raises(UsageError, match="matplotlib"):
        check_plot(tmp_path / "p.svg")


BAD = [
    (("surely-not",), 3, "no alias"),
    (("MODEL", "--problems", "EMPTY"), 2, "holds no problem"),
    (("MODEL", "--problems", "MISSING"), 3, "can't read"),
    (("MODEL", "--limit", "1"), 2, "at least 2 are needed"),
    (("countdown", "--problems", "PROBLEMS"), 2, "none of the 4 problems can be asked"),
    (("MODEL", "--device", "abacus"), 2, "no device is called 'abacus'"),
    (("MODEL", "--seed", str(2**63)), 2, "allowed are 0 to 2**63 - 1"),
]


@pytest.mark.parametrize(("arguments", "code", "says"), BAD, ids=[" ".join(b[0]) for b in BAD])
def test_bad_input_is_one_line_with_the_remedy(
    tool: Tool, saved_model: Path, problems: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
):
    (tmp_path / "empty").touch()
    places = {"MODEL": saved_model, "PROBLEMS": problems, "MISSING": tmp_path / "no", "EMPTY": tmp_path / "empty"}
    got, out, err = tool(*(places.get(a, a) for a in arguments), "--quiet")
    assert (got, out) == (code, "")
    assert says in err
    assert len(err.strip().splitlines()) == 1


def test_a_line_that_is_no_problem_is_named_and_the_exit_code_tells(tool: Tool, saved_model: Path, problems: Path):
    problems.write_text(problems.read_text() + "{broken\n")
    options = ("--problems", problems, "--samples", 1, "--max-tokens", 3, "--json", "-q")
    code, out, err = tool(saved_model, *options)
    assert (code, json.loads(out)["problems"]) == (2, 4)
    assert "line 5 is not valid JSON" in err


@pytest.mark.parametrize("during", ["grow", "look", "_judge"])
def test_ctrl_c_is_exit_code_130(
    tool: Tool, saved_model: Path, problems: Path, monkeypatch: pytest.MonkeyPatch, during: str
):
    """As if the key were pressed while branches grow, are read, or are judged."""

    def pressed(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(module._Session, during, pressed)
    code, out, err = tool(saved_model, "--problems", problems, "--samples", 1, "--max-tokens", 3)
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == "interrupted; what was measured so far is dropped"
    assert "Traceback" not in err


def test_progress_goes_through_its_stages():
    import io

    from rich.console import Console

    console = Console(file=io.StringIO(), width=100)
    with stages(console) as tell:
        tell("loading the model", 0, 0)
        tell("reading", 1, 7)
        tell("reading", 7, 7)
    shown = console.file.getvalue()
    assert "1/1" in shown
    assert "7/7" in shown


def test_the_command_line_imports_neither_numpy_nor_matplotlib():
    code = "import led_agent.cli, sys; print({'numpy', 'matplotlib', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.stdout.strip() == "set()", done.stderr
