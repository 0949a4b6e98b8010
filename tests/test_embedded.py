"""The embedded reasoner as users meet it: its files, its reading of English, its quality, and search with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from led_agent import Decoding, Search, solve
from led_agent.countdown import AIMS, FILLERS, SEPARATORS, SIGNS, read_puzzle
from led_agent.errors import UsageError
from led_agent.local import LocalDecoder
from led_agent.models import EMBEDDED_EXAMPLE, embedded_refusal, locate
from led_agent.strategies import BestOfN
from training.countdown.evaluate import Law, Outcome, by_depth, sample
from training.countdown.model import load
from training.countdown.parallel import Team
from training.countdown.problems import sample_puzzles
from training.countdown.tokenizer import new_tokenizer

ALONE = Team(0, 1)
NAMES = ("countdown", "countdown-sft")


@pytest.fixture(scope="module")
def decoder():
    with_model = LocalDecoder.load("countdown", device="cpu")
    yield with_model
    with_model.close()


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """Both checkpoints on the same held-out problems, 16 rollouts each at T=1."""
    asked = sample_puzzles("test", 120, 7)
    return {name: sample(load(Path(locate(name))), asked, Law(1.0), 16, 0, ALONE) for name in NAMES}


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_is_a_stock_model_that_transformers_loads(name: str):
    model = AutoModelForCausalLM.from_pretrained(locate(name))
    assert (model.config.model_type, model.dtype) == ("llama", torch.bfloat16)
    assert 12 <= model.config.num_hidden_layers <= 16
    tokenizer = AutoTokenizer.from_pretrained(locate(name))
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": EMBEDDED_EXAMPLE}], tokenize=False, add_generation_prompt=True
    )
    assert text == "4 7 12 = 40 <think>"
    assert max(tokenizer.encode(text)) < model.config.vocab_size


def test_both_weigh_at_most_8_megabytes():
    assert sum(f.stat().st_size for name in NAMES for f in Path(locate(name)).iterdir()) <= 8e6


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_tokenizer_is_the_recipes(name: str):
    shipped, fresh = AutoTokenizer.from_pretrained(locate(name)), new_tokenizer()
    assert shipped.chat_template == fresh.chat_template
    assert shipped.get_vocab() == fresh.get_vocab()
    trace = "12 * 5 = 60 60 - 2 = 58 no 12 - 2 = 10 10 * 5 = 50 yes </think> ( 12 - 2 ) * 5"
    for tokenizer in (shipped, fresh):
        assert tokenizer.decode(tokenizer.encode(trace), skip_special_tokens=True) == trace


# --- reading English -------------------------------------------------------------------------------------------------

TOKENIZER = new_tokenizer()
_ODDS = "-> 3 4 25 26 0 99 100 4. 3.5 .5 -2 07 apples é ² ١ MAKE =40 4,7 3+4"
PIECES = st.sampled_from([*AIMS[:8], *FILLERS[::6], *SEPARATORS, *SIGNS, *_ODDS.split(), "- 5"])


def template_says(text: str) -> str | None:
    from jinja2.exceptions import TemplateError

    try:
        said = TOKENIZER.apply_chat_template([{"role": "user", "content": text}], tokenize=False)
    except TemplateError:
        return None
    return str(said)


@st.composite
def nearly_puzzles(draw: st.DrawFn) -> str:
    """A readable puzzle with one piece put in or exchanged: most of what a reader could get wrong is one word away."""
    words = ["use", "3", "4", "and", "5", "to", "make", "20"]
    at = draw(st.integers(0, len(words)))
    words[at : at + draw(st.integers(0, 1))] = [draw(PIECES)]
    return " ".join(words)


@settings(max_examples=400, deadline=None)
@given(nearly_puzzles() | st.lists(PIECES, max_size=9).map(" ".join) | st.text(max_size=30))
@example("use 3 4 and + 5 to make 20")
@example("use 3 4 and .5 to make 20")
@example("numbers:\n- 3\n- 4\n- 5\ntarget: 20")
def test_the_chat_template_and_python_read_alike(text: str):
    """What the package asks before loading and what the model's own template does are two readers of one grammar."""
    puzzle = read_puzzle(text)
    if embedded_refusal(text) is None:
        assert puzzle is not None
        assert template_says(text) == f"{' '.join(map(str, puzzle.numbers))} = {puzzle.target}"
    else:
        assert template_says(text) is None


def test_the_template_takes_chats_content_parts_and_finished_answers():
    part = [{"type": "text", "text": EMBEDDED_EXAMPLE}]
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": part}]
    assert TOKENIZER.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == "4 7 12 = 40 <think>"
    chat.append({"role": "assistant", "content": "<think> 7 * 4 = 28 28 + 12 = 40 yes </think> ( 7 * 4 ) + 12"})
    told = TOKENIZER.apply_chat_template(chat, tokenize=False)
    assert told == "4 7 12 = 40 <think> 7 * 4 = 28 28 + 12 = 40 yes </think> ( 7 * 4 ) + 12"


# --- quality ---------------------------------------------------------------------------------------------------------


def test_supervised_quality_on_held_out_problems(outcomes: dict[str, Outcome]):
    """Floors a few standard errors under what training/RESULTS.md measured on more problems."""
    found = outcomes["countdown-sft"]
    assert found.passes(1).mean() > 0.55
    assert found.passes(16).mean() > 0.97
    assert found.arithmetic > 0.99


def test_reinforcement_raises_pass_at_1_and_keeps_arithmetic(outcomes: dict[str, Outcome]):
    gain = outcomes["countdown"].passes(1).mean() - outcomes["countdown-sft"].passes(1).mean()
    assert gain > 0.15
    assert outcomes["countdown"].arithmetic > 0.99
    assert outcomes["countdown"].form > 0.97


def test_reinforcement_collapses_the_final_layer():
    asked = sample_puzzles("test", 100, 7)
    reinforced, supervised = (by_depth(load(Path(locate(name))), asked, 0, ALONE).entropy["choice"] for name in NAMES)
    assert np.mean(reinforced[-1]) < 0.75 * np.mean(supervised[-1])


# --- engine and search -----------------------------------------------------------------------------------------------


def test_thinking_is_found(decoder: LocalDecoder):
    """LED explores inside the thinking only: the expression after it is drawn as it stands."""
    with Search(decoder=decoder, strategy=BestOfN(8, stop_at_first=False)) as search:
        tree = search.solve(EMBEDDED_EXAMPLE).tree
    assert any(any(node.branch.explored) for node in tree.nodes())
    for node in tree.nodes():
        close = decoder.engine.parts.tokenizer.convert_tokens_to_ids("</think>")
        ids = list(node.branch.token_ids)
        if close in ids:
            assert not any(node.branch.explored[ids.index(close) :])


def test_sixteen_paths_and_a_verifier_beat_greedy(decoder: LocalDecoder):
    asked = [str(puzzle) for puzzle in sample_puzzles("test", 40, 3)]
    with Search(decoder=decoder, strategy=BestOfN(1), decoding=Decoding.greedy()) as search:
        greedy = sum(solution.verified for solution in search.solve_many(asked))
    with Search(decoder=decoder, strategy=BestOfN(16)) as search:
        searched = sum(solution.verified for solution in search.solve_many(asked))
    assert searched >= greedy + 4
    assert searched >= 32


def test_one_call_with_nothing_named_solves_and_repeats():
    first, again = (solve(EMBEDDED_EXAMPLE, seed=3) for _ in range(2))
    assert first.verified
    assert first.verdict is not None
    assert first.verdict.verifier == "countdown"
    for one, other in zip(first.tree.nodes(), again.tree.nodes(), strict=True):
        # How far a branch had come when the first right answer cancelled it is a matter of time; its tokens are not.
        a, b = one.branch.token_ids, other.branch.token_ids
        assert a[: len(b)] == b[: len(a)]
        assert a == b or "cancelled" in (one.branch.finish, other.branch.finish)
    # So is which right answers come before the search has ended; of the same ones the same is given.
    accepted = [[node.id for node in solution.tree.accepted()] for solution in (first, again)]
    assert first.answer == again.answer or accepted[0] != accepted[1]


def test_what_it_can_not_do_is_said_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(LocalDecoder, "load", fail)
    with pytest.raises(UsageError, match=r"doesn't read as a Countdown puzzle.*--model smollm2"):
        solve("What is the capital of France?")


def test_an_unfit_problem_among_others_is_a_result(decoder: LocalDecoder):
    with Search(decoder=decoder) as search:
        good, bad = search.solve_many([EMBEDDED_EXAMPLE, "Name a colour."])
    assert good.verified
    assert bad.status == "failed"
    assert "doesn't read as a Countdown puzzle" in bad.reason


# --- command line ----------------------------------------------------------------------------------------------------


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    from led_agent.cli import main

    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, " ".join(err.split())


def test_the_quick_start_command_gives_the_same_twice(capsys: pytest.CaptureFixture[str]):
    rows = []
    for _ in range(2):
        code, out, _ = call(capsys, "solve", EMBEDDED_EXAMPLE, "--all", "--json")
        row = json.loads(out)
        assert (code, row["verified"]) == (0, True)
        row["usage"].pop("seconds")
        rows.append(row)
    assert rows[0] == rows[1]


def test_a_question_it_can_not_read_is_a_usage_error(capsys: pytest.CaptureFixture[str]):
    code, out, err = call(capsys, "solve", "What is the capital of France?")
    assert (code, out) == (2, "")
    assert "three numbers from 1 to 25" in err
    assert "name a bigger model" in err


def test_a_file_without_a_puzzle_is_refused_and_one_with_some_is_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    problems = tmp_path / "problems.jsonl"
    problems.write_text(json.dumps({"id": "a", "prompt": "Name a colour."}) + "\n")
    code, _, err = call(capsys, "run", str(problems), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "none of the 1 problems can be asked" in err
    assert not (tmp_path / "out").exists()
    with problems.open("a") as file:
        file.write(json.dumps({"id": "b", "prompt": EMBEDDED_EXAMPLE}) + "\n")
    code, out, _ = call(capsys, "run", str(problems), "--out", str(tmp_path / "out"), "--json")
    rows = {row["id"]: row for row in map(json.loads, out.splitlines())}
    assert code == 1
    assert (rows["a"]["status"], rows["b"]["verified"]) == ("failed", True)
