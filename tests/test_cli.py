"""The command line, as a user meets it: output, exit codes, bad input, interruption and resuming."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from led_agent.cli import main
from led_agent.errors import UsageError
from led_agent.problems import Shard, read_problems
from led_agent.types import Problem

Tool = Any


@pytest.fixture
def tool(capsys: pytest.CaptureFixture[str]) -> Tool:
    """Run a command in this process: (exit code, standard output, standard error)."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    rows = [{"id": f"q{i}", "prompt": f"w{i} w{2 * i} w5 .", "answer": str(i), "source": "test"} for i in range(7)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_solve_prints_one_json_object_and_nothing_else(tool: Tool, saved_model: Path):
    code, out, _ = tool("solve", "w1 w2", "--model", saved_model, "--n", 3, "--max-tokens", 8, "--json")
    row = json.loads(out)
    assert out.count("\n") == 1
    assert code == 1
    assert set(row) == {"id", "text", "answer", "verified", "status", "reason", "usage"}
    assert set(row["usage"]) == {"generated_tokens", "prefill_tokens", "seconds", "branches", "verifier_calls"}
    assert (row["verified"], row["status"], row["usage"]["branches"]) == (False, "exhausted", 3)


def test_an_accepted_answer_is_exit_code_0(tool: Tool, saved_model: Path):
    code, out, _ = tool("solve", "w1", "-m", saved_model, "--matches", "w", "--max-tokens", 8, "--json")
    assert (code, json.loads(out)["verified"]) == (0, True)


def test_rejected_branches_are_followed_by_conservative_ones(tool: Tool, saved_model: Path, tmp_path: Path):
    saved = tmp_path / "run.jsonl"
    common = ("-m", saved_model, "--answer", "31337", "--max-tokens", 6, "--n", 2, "--tries", 2)
    code, out, err = tool("solve", "w1 w2", *common, "--save", saved)
    assert code == 1
    assert "4 of 4 branches rejected" in " ".join(out.split())
    assert "rejected" in err
    code, shown, _ = tool("show", saved, "--json")
    nodes = json.loads(shown)["nodes"][1:]
    assert [n["request"]["purpose"] for n in nodes] == ["explore"] * 2 + ["repair"] * 2 + ["fallback"] * 2
    assert [n["request"]["decoding"]["temperature"] for n in nodes] == [0.6, 0.6, 0.6, 0.6, 0.0, 0.3]
    code, out, err = tool("solve", "w1 w2", *common, "--save", saved)
    assert (code, "finished run" in err) == (2, True)


@pytest.mark.parametrize("form", ["text", "json", "graphml", "node-link"])
def test_show_in_every_format(tool: Tool, saved_model: Path, tmp_path: Path, form: str):
    from led_agent import Tree

    saved = tmp_path / "run.jsonl"
    tool("solve", "w1 w2", "-m", saved_model, "--n", 2, "--max-tokens", 4, "--save", saved, "--json")
    code, out, _ = tool("show", saved, "--format", form)
    assert code == 0
    readers = {
        "json": Tree.from_json,
        "graphml": Tree.from_graphml,
        "node-link": lambda text: Tree.from_node_link(json.loads(text)),
    }
    if form == "text":
        assert "unverified" in out
    else:
        assert len(readers[form](out)) == 3


def test_models_lists_the_aliases(tool: Tool):
    code, out, _ = tool("models", "--json")
    assert code == 0
    assert [json.loads(line)["name"] for line in out.splitlines()] == ["countdown", "countdown-sft", "smollm2"]


def test_help_and_version(tool: Tool):
    for command in ("solve", "run", "show", "models"):
        code, out, _ = tool(command, "--help")
        assert code == 0
        assert "Usage" in out
    assert tool("--version")[1].startswith("led-agent 0.")


BAD = [
    (("solve", ""), 2, "prompt is empty"),
    (("solve", "x", "-m", "surely-not"), 3, "no alias"),
    (("solve", "x", "-m", "MODEL", "-d", "nonsense"), 2, "no decoding is called 'nonsense'; there are led.paper"),
    (("solve", "x", "-m", "MODEL", "-d", "led.paper:depths=0"), 2, "greater than or equal to 1"),
    (("solve", "x", "-m", "MODEL", "-d", "led.paper:depths=9"), 2, "9, but the model has 8 blocks"),
    (("solve", "x", "-m", "MODEL", "-d", "led.paper:top_k=5000"), 2, "vocabulary has 89 tokens"),
    (("solve", "x", "-m", "MODEL", "-d", "plain:volume=11"), 2, "does not take volume"),
    (("solve", "x", "-m", "MODEL", "-d", "plain:temperature=-1"), 2, "greater than or equal to 0"),
    (("solve", "x", "-m", "MODEL", "--budget-seconds", "-3"), 2, "greater than 0"),
    (("solve", "x", "-m", "MODEL", "--matches", "("), 2, "is no regular expression"),
    (("solve", "x", "-m", "MODEL", "--device", "abacus"), 2, "no device is called 'abacus'"),
    (("solve", "w1 " * 300, "-m", "MODEL"), 2, "context of 256 leaves no room"),
    (("solve", "w1", "-m", "MODEL", "--save", "FILE/run.jsonl"), 3, "can't write"),
    (("run", "PROBLEMS", "-m", "MODEL", "--out", "FILE/out"), 3, "can't make the folder"),
    (("run", "MISSING", "-m", "MODEL", "--out", "OUT"), 3, "can't read"),
    (("run", "PROBLEMS", "-m", "MODEL", "--out", "OUT", "--shard", "3/2"), 2, "allowed is I/N"),
    (("show", "MISSING"), 3, "can't read"),
    (("show", "PROBLEMS"), 2, "line 1 is not a line of a journal"),
]


@pytest.mark.parametrize(("arguments", "code", "says"), BAD, ids=[" ".join(b[0])[:50] for b in BAD])
def test_bad_input_is_one_line_with_the_remedy(
    tool: Tool, saved_model: Path, problems: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
):
    (tmp_path / "file").write_text("a file where a folder is needed")
    places = {"MODEL": saved_model, "PROBLEMS": problems, "MISSING": tmp_path / "missing", "OUT": tmp_path / "out"}
    given = [str(places.get(a, a)).replace("FILE", str(tmp_path / "file")) for a in arguments]
    got, out, err = tool(*given)
    assert got == code
    assert says in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""


@pytest.mark.parametrize("arguments", [("solve", "x", "--n", "0"), ("solve", "x", "--seed", "-1"), ("solve", "--nope")])
def test_options_out_of_range_are_usage_errors(tool: Tool, arguments: tuple[str, ...]):
    code, _, err = tool(*arguments)
    assert code == 2
    assert "Traceback" not in err


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(UsageError):
        main(["solve", "", "--debug"])


def test_run_keeps_results_and_does_nothing_twice(tool: Tool, saved_model: Path, problems: Path, tmp_path: Path):
    out = tmp_path / "out"
    options = ("-m", saved_model, "--n", 2, "--tries", 0, "--max-tokens", 5, "--out", out)
    code, printed, _ = tool("run", problems, *options, "--limit", 3, "--json")
    assert code == 1
    assert [json.loads(line) for line in printed.splitlines()] == rows(out / "results.jsonl")
    before = (out / "results.jsonl").read_bytes()
    code, printed, _ = tool("run", problems, *options, "--json")
    assert len(printed.splitlines()) == 4
    assert (out / "results.jsonl").read_bytes().startswith(before)
    assert sorted(r["id"] for r in rows(out / "results.jsonl")) == [f"q{i}" for i in range(7)]
    code, printed, err = tool("run", problems, *options)
    assert "7 of 7 problems are finished already" in err
    code, _, err = tool("run", problems, *options, "--seed", 1)
    assert (code, "seed: 0 there, 1 now" in err) == (2, True)
    code, shown, _ = tool("show", out, "--problem", "q3")
    assert (code, "w3 w6 w5" in shown) == (0, True)


def test_drivers_that_share_a_file_do_each_problem_once(tool: Tool, saved_model: Path, problems: Path, tmp_path: Path):
    options = ("-m", saved_model, "--n", 1, "--tries", 0, "--max-tokens", 3, "--json")
    found = []
    for at in (1, 2, 3):
        tool("run", problems, *options, "--out", tmp_path / f"out{at}", "--shard", f"{at}/3")
        found += [row["id"] for row in rows(tmp_path / f"out{at}" / "results.jsonl")]
        assert json.loads((tmp_path / f"out{at}" / "run.json").read_text())["shard"] == f"{at}/3"
    assert sorted(found) == [f"q{i}" for i in range(7)]
    code, _, err = tool("run", problems, *options, "--out", tmp_path / "out1")
    assert (code, "shard: '1/3' there, None now" in err) == (2, True)


def test_parts_are_disjoint_complete_and_stay_what_they_are():
    problems = [Problem(id=f"p{at}", prompt="?") for at in range(1000)]
    for of in (1, 2, 8):
        parts = [[p.key for p in problems if Shard(at, of).holds(p)] for at in range(1, of + 1)]
        assert sorted(key for part in parts for key in part) == sorted(p.key for p in problems)
        assert min(len(part) for part in parts) > 0.7 * 1000 / of
    assert [key for key in ("p0", "p1", "p2", "p3") if Shard(1, 2).holds(Problem(id=key, prompt="?"))] == ["p0", "p2"]


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "-1/2", "1/0", "a/b", "1/2/3", "1.5/2"])
def test_a_bad_part_is_refused_with_what_is_allowed(text: str):
    with pytest.raises(UsageError, match="allowed is I/N, part I of N"):
        Shard.parse(text)


def test_bad_lines_are_named_and_the_others_go_on(tool: Tool, saved_model: Path, tmp_path: Path):
    path = tmp_path / "mixed.jsonl"
    lines = ['{"id": "a", "prompt": "w1"}', "{broken", "[1, 2]", '{"id": "a", "prompt": "w2"}', '{"id": "b"}', ""]
    long = json.dumps({"id": "long", "prompt": "w1 " * 300})
    path.write_text("\n".join([*lines, long, '{"id": 7, "prompt": "w3"}']))
    options = ("-m", saved_model, "--n", 1, "--max-tokens", 3, "--out", tmp_path / "out", "--json")
    code, out, err = tool("run", path, *options)
    assert code == 2
    for said in (
        "line 2 is not valid JSON",
        "line 3 is not a JSON object",
        "line 4 has the id 'a' of line 1",
        "line 5",
    ):
        assert said in err
    done = {r["id"]: r for r in map(json.loads, out.splitlines())}
    assert set(done) == {"a", "7", "long"}
    assert done["long"]["status"] == "failed"
    assert "leaves no room" in done["long"]["reason"]


def test_a_file_without_problems_is_refused(tmp_path: Path):
    for content, says in (("", "the file is empty"), ("\n\n", "the file is empty"), ("{}", "line 1: prompt")):
        path = tmp_path / "p.jsonl"
        path.write_text(content)
        with pytest.raises(UsageError, match=says):
            read_problems(path)


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-m", "led_agent", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


@pytest.fixture
def many(tmp_path: Path) -> Path:
    path = tmp_path / "many.jsonl"
    texts = [{"id": f"q{i}", "prompt": f"w{i % 80} w{i % 7} .", "answer": "1"} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in texts))
    return path


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_ended_in_the_middle_resumes_with_nothing_lost_or_repeated(
    tool: Tool, saved_model: Path, many: Path, tmp_path: Path, how: signal.Signals
):
    out, whole = tmp_path / "out", tmp_path / "whole"
    options = ("-m", saved_model, "--n", 3, "--tries", 1, "--max-tokens", 40, "--seed", 3, "--json")
    process = start("run", many, *options, "--out", out)
    assert process.stdout is not None
    first = [process.stdout.readline() for _ in range(3)]  # in the middle: some are done
    process.send_signal(how)
    _, err = process.communicate()
    assert process.returncode == (-9 if how is signal.SIGKILL else 130), err
    before = (out / "results.jsonl").read_bytes()
    assert 3 <= before.count(b"\n") < 40
    assert [json.loads(line) for line in first] == rows(out / "results.jsonl")[:3]
    code, _, _ = tool("run", many, *options, "--out", out)
    assert code == 1
    assert (out / "results.jsonl").read_bytes().startswith(before)
    tool("run", many, *options, "--out", whole)
    resumed, straight = ({r["id"]: r for r in rows(p / "results.jsonl")} for p in (out, whole))
    assert len(rows(out / "results.jsonl")) == 40
    for key, row in straight.items():
        for name in ("text", "answer", "verified", "status"):
            assert resumed[key][name] == row[name]
        assert resumed[key]["usage"]["branches"] == row["usage"]["branches"]


def test_ctrl_c_prints_what_there_is(saved_model: Path, tmp_path: Path):
    saved = tmp_path / "run.jsonl"
    options = ("-m", saved_model, "--n", 100, "--slots", 2, "--max-tokens", 240, "--matches", "never", "--save", saved)
    process = start("solve", "w1 w2", *options)
    assert process.stderr is not None
    while "rejected" not in (line := process.stderr.readline()):
        assert line, "ended before a branch was done"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, err
    assert "interrupted; this is the best so far" in " ".join(out.split())
    assert "Traceback" not in err
