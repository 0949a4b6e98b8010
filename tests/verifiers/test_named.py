"""Verifiers by name: what comes of each spelling, and what is said of those that mean nothing."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any, Literal

import pytest

import led_agent.verifiers as verifiers
from led_agent.cli import main
from led_agent.errors import UsageError
from led_agent.types import Branch, Problem
from led_agent.verifiers import Countdown, CountdownSteps, Judge, Matches, MathAnswer, RewardModel
from led_agent.verifiers.named import VERIFIER_NAMES, parse_verifier


def unit_tests(
    timeout: float = 4.0,
    memory_mb: int = 512,
    partial: bool = False,
    unsafe_no_sandbox: bool = False,
    tier: str = "auto",
    kind: Literal["a", "b"] = "a",
    limit: int | None = None,
) -> Any:
    """A stand-in with every type of setting."""
    return lambda problem, branch: (timeout, memory_mb, partial, unsafe_no_sandbox, tier, kind, limit)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifiers, "unit_tests", unit_tests, raising=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("math_answer", MathAnswer()),
        (" math_answer:seconds=2,workers=1 ", MathAnswer(2.0, 1)),
        ("math_answer:workers=none", MathAnswer(5.0, None)),
        ("countdown", Countdown()),
        ("countdown:", Countdown()),
        ("countdown:steps=true", CountdownSteps()),
        ("countdown:steps=false", Countdown()),
        ("matches:^a=1,b:2$", Matches("^a=1,b:2$")),
        ("reward_model:some/rm", RewardModel("some/rm")),
        ("reward_model:some/rm,scope=process, accept=0.7", RewardModel("some/rm", "process", accept=0.7)),
        (r"reward_model:some/rm,step_separator=\n\n,label=1", RewardModel("some/rm", step_separator="\n\n", label="1")),
        ("reward_model:./a=b/rm", RewardModel("./a=b/rm")),
        ("reward_model:model=some/rm,accept=none", RewardModel("some/rm")),
        ("judge:big,url=http://localhost:8000/v1", Judge("big", url="http://localhost:8000/v1")),
        (
            "judge:a/b,rubric=Be kind, and fair,samples=2,temperature=1",
            Judge("a/b", "Be kind, and fair", samples=2, temperature=1.0),
        ),
    ],
)
def test_names_and_settings(text: str, expected: object):
    assert parse_verifier(text) == expected


def test_values_are_of_the_types_that_the_signature_names():
    text = "unit_tests:timeout=2,memory_mb=64,partial=true,unsafe_no_sandbox=FALSE,tier=1,kind=b,limit=3"
    found = parse_verifier(text)(Problem(prompt="p"), Branch(text=""))
    assert found == (2.0, 64, True, False, "1", "b", 3)
    assert [type(value) for value in found] == [float, int, bool, bool, str, str, int]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("math_anser", "did you mean math_answer"),
        ("unittests:timeout=2", "did you mean unit_tests"),
        ("", f"there are {', '.join(VERIFIER_NAMES)}; your own are package.module:function"),
        ("unit_tests:timout=2", "no setting 'timout'; did you mean timeout"),
        ("unit_tests:zzz=2", "it has timeout, memory_mb, partial, unsafe_no_sandbox, tier"),
        ("unit_tests:timeout=fast", "timeout is 'fast'; allowed is a number"),
        ("unit_tests:memory_mb=1.5", "memory_mb is '1.5'; allowed is a whole number"),
        ("unit_tests:partial=yes", "partial is 'yes'; allowed is true or false"),
        ("unit_tests:limit=x", "limit is 'x'; allowed is none or a whole number"),
        ("unit_tests:kind=c", "kind is 'c'; allowed is"),
        ("unit_tests:2", "'2' is no setting; settings are NAME=VALUE"),
        ("unit_tests:timeout=1,timeout=2", "timeout is given twice"),
        ("countdown:speed=1", "it has steps"),
        ("matches:", "matches needs a pattern"),
        ("matches:(", "is no regular expression"),
        ("reward_model", "reward_model needs its model: reward_model:MODEL"),
        ("reward_model:some/rm,scope=steps", "scope is 'steps'; allowed is"),
        ("judge:big,api_key=sk-1", "set the environment variable LED_AGENT_JUDGE_API_KEY"),
        ("no_such_module_at_all:f", "no module 'no_such_module_at_all' is found"),
        ("json:lods", "json has no 'lods'; it has loads"),
        ("json:JSONDecoder", "found the class JSONDecoder"),
        ("json:codecs", "found module"),
        ("pprint:isreadable", "a verifier is a callable"),
        ("nowhere/file.py:f", "there is no such file"),
    ],
)
def test_what_means_nothing_is_refused_with_what_there_is(text: str, says: str):
    with pytest.raises(UsageError) as refused:
        parse_verifier(text)
    assert says in str(refused.value)
    assert "sk-1" not in str(refused.value)


def test_a_verifier_of_a_later_version_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(verifiers, "unit_tests")
    with pytest.raises(UsageError, match="has no verifier unit_tests; it has math_answer, countdown, matches"):
        parse_verifier("unit_tests")
    module = types.ModuleType("led_agent.verifiers.unit_tests")
    module.unit_tests = unit_tests  # type: ignore[attr-defined]
    monkeypatch.setattr(verifiers, "unit_tests", module, raising=False)
    assert callable(parse_verifier("unit_tests:timeout=3"))


def test_ones_own_by_file_and_by_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own.py").write_text("def short(problem, branch):\n    return len(branch.text) < 3\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.delitem(sys.modules, "own", raising=False)
    problem = Problem(prompt="p")
    for text in ("own:short", f"{tmp_path}/own.py:short", "own.py:short", "./own.py:short"):
        verifier = parse_verifier(text)
        assert verifier(problem, Branch(text="ab")) is True
        assert verifier(problem, Branch(text="abc")) is False
    assert parse_verifier("own.py:short") is parse_verifier(f"{tmp_path}/own.py:short")  # imported once
    for text in ("broken.py:f", "broken:f"):
        with pytest.raises(UsageError, match="importing it raised ZeroDivisionError"):
            parse_verifier(text)
    sys.modules.pop("own", None)


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return int(ended.value.code or 0), *capsys.readouterr()


def test_solve_takes_them(capsys: pytest.CaptureFixture[str], saved_model: Path, tmp_path: Path):
    own = tmp_path / "own.py"
    own.write_text("def w(problem, branch):\n    return 'w' in branch.text\n")
    options = ("-m", saved_model, "--max-tokens", 8, "--n", 2, "--tries", 0, "--json")
    code, out, _ = call(capsys, "solve", "w1", *options, "--verifier", f"{own}:w")
    assert (code, json.loads(out)["verified"]) == (0, True)
    code, out, _ = call(capsys, "solve", "w1", *options, "-v", f"{own}:w", "-v", "matches:never")
    assert (code, json.loads(out)["verified"]) == (1, False)
    code, out, err = call(capsys, "solve", "w1", *options, "-v", "math_anser")
    assert (code, out, "did you mean math_answer" in err) == (2, "", True)


def test_a_run_is_resumed_with_the_same_verifiers_only(
    capsys: pytest.CaptureFixture[str], saved_model: Path, tmp_path: Path
):
    problems, out = tmp_path / "p.jsonl", tmp_path / "out"
    problems.write_text('{"id": "a", "prompt": "w1"}\n')
    options = ("run", problems, "-m", saved_model, "--n", 1, "--tries", 0, "--max-tokens", 4, "--out", out, "--json")
    code, _, err = call(capsys, *options, "-v", "mathanswer")
    assert (code, "no verifier is called 'mathanswer'" in err, out.exists()) == (2, True, False)
    assert call(capsys, *options, "--verifier", "matches:w")[0] == 0
    assert call(capsys, *options, "--verifier", "matches:w")[0] == 0
    code, _, err = call(capsys, *options)
    assert (code, "verifiers: ['matches:w'] there, None now" in err) == (2, True)
