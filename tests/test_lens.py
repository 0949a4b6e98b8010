"""`led-agent tune-lens` and ``tune_lens``: a whole run on real models, what it writes, and what it leaves behind."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from led_agent import lens as module
from led_agent.cli import main
from led_agent.countdown import read_puzzle
from led_agent.countdown_puzzles import split_of
from led_agent.engine import Engine, EngineRequest
from led_agent.errors import UsageError
from led_agent.lens import LensReport, default_problems, tune_lens
from led_agent.models import cache_folder
from led_agent.types import Decoding
from tests.engine.reference import branches
from tests.tiny import tiny_model, tiny_tokenizer


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LED_AGENT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A random model in a folder of the user's own, with thinking tags."""
    folder, tokenizer = tmp_path / "tiny", tiny_tokenizer(think="token")
    settings = {"vocab_size": len(tokenizer), "eos_token_id": 2, "initializer_range": 0.15}
    tiny_model("qwen3", **settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps({"id": f"p{i}", "prompt": f"w{i} w{2 * i} w3"}) + "\n" for i in range(9)))
    return path


@pytest.fixture
def tool(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


SMALL = ("--samples", "2", "--max-tokens", "12", "--steps", "5")


def test_the_command_makes_a_lens_that_searches_use(tool: Any, tiny: Path, problems: Path):
    asking = ("solve", "w1 w2", "--model", tiny, "-d", "led.paper:norm=tuned,depths=4,span=all", "--max-tokens", "9")
    code, _, err = tool(*asking, "--n", "2", "--json")
    assert code == 2
    assert f"run `led-agent tune-lens {tiny}`" in err
    code, out, err = tool("tune-lens", tiny, "--problems", problems, *SMALL, "--json", "--quiet")
    assert (code, err) == (0, "")
    row = json.loads(out)
    lens = tiny / "tuned_lens.safetensors"
    assert row["path"] == str(lens)
    assert (row["trained_on"], row["watched"], row["held_out"], row["blocks"], row["samples"]) == (6, 1, 2, 6, 2)
    assert [depth["depth"] for depth in row["depths"]] == [1, 2, 3, 4, 5]
    for depth in row["depths"]:
        for name in ("before", "after"):
            assert 0 <= depth[name]["low"] <= depth[name]["mean"] <= depth[name]["high"]
        lowered = depth["before"]["mean"] - depth["after"]["mean"]
        assert depth["lowered"]["mean"] == pytest.approx(lowered)
    with safe_open(lens, "pt") as file:
        made = file.metadata()
    assert made["fingerprint"] == row["fingerprint"]
    assert (made["seed"], made["samples"], made["tokens"]) == ("0", "2", str(row["tokens"]))
    assert [path.name for path in tiny.iterdir() if path.name.startswith(".")] == []
    code, out, _ = tool(*asking, "--n", "2", "--json")
    assert code in (0, 1)
    assert json.loads(out)


def test_the_table_and_the_progress(tool: Any, tiny: Path, problems: Path, tmp_path: Path):
    out_file = tmp_path / "elsewhere.safetensors"
    code, out, err = tool("tune-lens", tiny, "--problems", problems, *SMALL, "--limit", "5", "--out", out_file)
    assert code == 0
    assert "before (logit lens) and after" in out
    assert [line.split()[0] for line in out.splitlines() if line[:8].strip().isdigit()] == ["1", "2", "3", "4", "5"]
    assert str(out_file) in "".join(out.split())
    assert all(stage in err for stage in ("sampling", "reading states", "training", "measuring"))
    assert out_file.is_file()
    assert not (tiny / "tuned_lens.safetensors").exists()


def test_a_line_that_is_no_problem_is_named(tool: Any, tiny: Path, problems: Path):
    problems.write_text(problems.read_text() + "nonsense\n")
    code, _, err = tool("tune-lens", tiny, "--problems", problems, *SMALL, "--quiet")
    assert code == 2
    assert "line 10" in err
    assert (tiny / "tuned_lens.safetensors").is_file()


def interrupted_in(stage: str) -> Callable[..., Any]:
    @contextmanager
    def stages(_console: Any, *, quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
        def tell(doing: str, done: int, _of: int) -> None:
            if doing == stage and done == 2:
                signal.raise_signal(signal.SIGINT)

        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        try:
            yield tell
        finally:
            signal.signal(signal.SIGINT, before)

    return stages


@pytest.mark.parametrize("stage", ["sampling", "training", "measuring"])
def test_ctrl_c_leaves_what_was_there(
    tool: Any, tiny: Path, problems: Path, monkeypatch: pytest.MonkeyPatch, stage: str
):
    lens = tiny / "tuned_lens.safetensors"
    lens.write_text("the one of before")
    there = sorted(tiny.iterdir())
    monkeypatch.setattr("led_agent.diagnosis_view.stages", interrupted_in(stage))
    code, out, err = tool("tune-lens", tiny, "--problems", problems, *SMALL)
    assert (code, out) == (130, "")
    assert "interrupted; no lens was written" in err
    assert lens.read_text() == "the one of before"
    assert sorted(tiny.iterdir()) == there


def test_the_same_seed_gives_the_same_lens(tiny: Path, problems: Path, tmp_path: Path):
    asked = [json.loads(line)["prompt"] for line in problems.read_text().splitlines()]

    def made(seed: int, name: str) -> tuple[LensReport, dict[str, bytes], dict[str, str]]:
        path = tmp_path / name
        found = tune_lens(str(tiny), asked, samples=2, max_tokens=10, steps=3, seed=seed, slots=5, out=path)
        with safe_open(path, "np") as file:
            return found, {key: file.get_tensor(key).tobytes() for key in file.keys()}, file.metadata()  # noqa: SIM118

    one, again, other = made(4, "a"), made(4, "b"), made(5, "c")
    assert one[1:] == again[1:]
    assert one[0].depths == again[0].depths
    assert one[1] != other[1]
    assert (one[2]["seed"], other[2]["seed"]) == ("4", "5")


def test_training_lowers_the_divergence_of_the_embedded_model_on_held_out_puzzles():
    """A real run, small: the last three depths agree already, and come nearer still."""
    found = tune_lens("countdown", default_problems("countdown")[:120], samples=2, steps=200, max_tokens=64)
    assert Path(found.path) == cache_folder() / "lenses" / f"{found.fingerprint}.safetensors"
    assert (found.trained_on, found.watched, found.held_out, len(found.depths)) == (75, 15, 30, 11)
    assert all(depth.lowered.mean > 0 for depth in found.depths), found.depths
    assert all(depth.lowered.low > 0.1 for depth in found.depths[:8]), found.depths
    engine = Engine.load("countdown")
    ids = engine.parts.tokenizer.encode("Use 3, 20 and 5 to make 35.")
    asked = Decoding.led(norm="tuned", depths=12, span="all")
    grown = branches(engine, EngineRequest("x", ids, asked, max_tokens=40, n=4))
    assert all(branch.error is None and branch.token_ids for branch in grown.values())


def test_default_puzzles_are_of_the_split_that_the_model_was_trained_on():
    for seed in (0, 3):
        puzzles = [read_puzzle(problem.text) for problem in default_problems(None, seed)]
        assert len(puzzles) == module._PUZZLES
        assert {split_of(puzzle) for puzzle in puzzles if puzzle is not None} == {"train"}
    assert all(problem.answer for problem in default_problems("smollm2"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"samples": 0}, "samples is 0; it must be at least 1"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"max_tokens": -1}, "max_tokens is -1; it must be at least 1"),
        ({"seed": -1}, "seed is -1; allowed are 0"),
        ({"slots": 0}, "slots is 0; it must be at least 1"),
        ({"problems": ["w1", "w2", "w3"]}, "found 3 usable problem.*at least 4 are needed"),
        ({"out": "nowhere/lens.safetensors"}, "it must be a file in a folder that is there"),
        ({"model": "countdown"}, "none of the 5 problems can be asked"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_loaded(changes: dict[str, Any], told: str):
    given = {"model": "no/such-model", "problems": [f"w{i}" for i in range(5)]} | changes
    model, asked = given.pop("model"), given.pop("problems")
    with pytest.raises(UsageError, match=told):
        tune_lens(model, asked, **given)


def test_a_model_of_one_block_has_nothing_to_translate(tmp_path: Path):
    tokenizer = tiny_tokenizer()
    tiny_model("llama", vocab_size=len(tokenizer), num_hidden_layers=1).save_pretrained(tmp_path / "flat")
    tokenizer.save_pretrained(tmp_path / "flat")
    with pytest.raises(UsageError, match="a single block"):
        tune_lens(str(tmp_path / "flat"), [f"w{i}" for i in range(5)], samples=1, steps=1)
