"""`led-agent bench`, as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from led_agent.bench import BenchResult, Comparison, measure
from led_agent.bench.command import parse_peers
from led_agent.bench.harness import compare
from led_agent.cli import main
from led_agent.errors import UsageError

Tool = Any
SMALL = ("--branches", 2, "--prompt", 8, "--new", 4, "--rounds", 2)


@pytest.fixture
def tool(capsys: pytest.CaptureFixture[str]) -> Tool:
    """Run a command in this process: (exit code, standard output, standard error)."""

    def call(*arguments: str | int | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["bench", *(str(a) for a in arguments)])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def test_json_is_the_record_and_nothing_else(tool: Tool, saved_model: Path):
    code, out, _ = tool(saved_model, *SMALL, "--peers", "generate", "--json")
    assert code == 0
    assert out.count("\n") == 1
    found = BenchResult.model_validate_json(out)
    assert [arm.name for arm in found.comparison.arms] == ["engine", "engine LED", "generate"]
    assert json.loads(out)["workload"] == {
        "branches": 2, "prompt": 8, "new": 4, "temperature": 0.8, "dtype": "float32",
    }  # fmt: skip


def test_the_tables_have_a_row_for_each_arm_and_ratio(tool: Tool, saved_model: Path):
    code, out, err = tool(saved_model, *SMALL, "--peers", "static,llama.cpp")
    text = " ".join(out.split())
    assert code == 0
    for row in ("engine LED", "generate, static cache", "engine LED ÷ engine", "engine ÷ generate, static cache"):
        assert row in text
    assert "llama.cpp: absent: " in text
    assert "timing" in err


def test_markdown_has_a_table(tool: Tool, saved_model: Path):
    code, out, _ = tool(saved_model, *SMALL, "--peers", "none", "--markdown", "--quiet")
    lines = out.splitlines()
    assert code == 0
    assert lines[2] == "| | tokens a second | engine ÷ it |"
    assert [line.split("|")[1].strip() for line in lines[4:6]] == ["engine", "engine LED"]
    assert "engine LED ÷ engine: " in out


BAD = [
    (("--peers", "vllm"), "no peer 'vllm'; there are generate, static, continuous, llama.cpp"),
    (("--rounds", 0), "rounds is 0"),
    (("--branches", 0), "branches: Input should be greater than or equal to 1"),
    (("--temperature", 0), "temperature: Input should be greater than 0"),
    (("--dtype", "int3"), "no dtype is called 'int3'"),
    (("--gguf", "nowhere.gguf"), "there is no file nowhere.gguf"),
    (("--json", "--markdown"), "not both"),
    (("--prompt", 4096), "don't fit the model's context of 256"),
]


@pytest.mark.parametrize(("options", "said"), BAD)
def test_bad_input_is_refused(tool: Tool, saved_model: Path, options: tuple[Any, ...], said: str):
    code, out, err = tool(saved_model, *options)
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())


def test_a_model_that_is_not_there(tool: Tool):
    code, _, err = tool("no-such-model")
    assert code == 3
    assert "there is no model 'no-such-model'" in " ".join(err.split())


def test_an_interrupt_prints_what_is_complete(tool: Tool, saved_model: Path, monkeypatch: pytest.MonkeyPatch):
    def cut(arms: Any, **settings: Any) -> Comparison:
        run = arms[1].run

        def interrupting(number: int) -> tuple[int, float]:
            if number == 1:
                raise KeyboardInterrupt
            return run(number)  # type: ignore[no-any-return]

        return compare([arms[0], type(arms[1])(arms[1].name, interrupting, arms[1].prepare)], **settings)

    monkeypatch.setattr(measure, "compare", cut)
    code, out, _ = tool(saved_model, *SMALL, "--peers", "none")
    text = " ".join(out.split())
    assert code == 130
    assert "1 of 2 rounds" in text
    assert "interrupted: only complete rounds are counted" in text


def test_a_run_in_which_nothing_works_is_an_error(tool: Tool, saved_model: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any) -> tuple[int, float]:
        raise RuntimeError("out of order")

    monkeypatch.setattr("led_agent.bench.peers.EngineArm.run", broken)
    code, _, err = tool(saved_model, *SMALL, "--peers", "none")
    assert code == 3
    assert "engine raised RuntimeError: out of order" in " ".join(err.split())


@pytest.mark.parametrize(("load", "warned"), [(0.1, False), (1.7, True)])
def test_a_busy_machine_is_told_of(
    tool: Tool, saved_model: Path, monkeypatch: pytest.MonkeyPatch, load: float, warned: bool
):
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    _, out, _ = tool(saved_model, *SMALL, "--peers", "none", "--markdown")
    assert ("the machine's load was 1.7" in out) == warned


def test_peers_by_name():
    assert parse_peers("static, generate,static") == ("generate", "static")
    assert parse_peers("none") == ()
    assert len(parse_peers(None)) == 4
    with pytest.raises(UsageError, match="no peer ''"):
        parse_peers("")
