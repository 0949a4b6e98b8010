"""`led-agent eval`, as a user meets it: what it prints and keeps, resuming, interruption, bad input."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from led_agent.cli import main
from led_agent.errors import UsageError
from led_agent.evaluation.grid import Grid, Plan, Setting
from led_agent.evaluation.tasks import Task
from led_agent.solution import Solution
from led_agent.strategies import BestOfN, Fallback
from led_agent.testing import ScriptedDecoder
from led_agent.types import DecodeRequest, Problem

TWO = ("-S", "best-of-n; fallback(best-of-n:n=1):tries=1", "-d", "plain:temperature=0.6", "--n", "4", "--limit", "6")
GRID = ("eval", "countdown", *TWO)
ESTIMATE = {"value", "low", "high", "problems"}


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return int(ended.value.code or 0), *capsys.readouterr()


@dataclass(frozen=True)
class Finished:
    """A small evaluation with the embedded model, that is through."""

    out: Path
    code: int
    printed: str


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    import matplotlib.font_manager  # noqa: F401 - else the command may say that it makes a list of all fonts

    out = tmp_path_factory.mktemp("eval") / "out"
    done = subprocess.run(
        [sys.executable, "-m", "led_agent", *GRID, "--out", str(out), "--json", "-q"], capture_output=True, text=True
    )
    assert done.stderr == ""
    return Finished(out, done.returncode, done.stdout)


def copied(finished: Finished, to: Path) -> Path:
    return Path(shutil.copytree(finished.out, to / "out"))


def files(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"*/{name}"))


def test_lines_are_settings_and_then_comparisons(finished: Finished):
    assert finished.code == 0
    rows = [json.loads(line) for line in finished.printed.splitlines()]
    settings = [row for row in rows if row["kind"] == "setting"]
    comparisons = [row for row in rows if row["kind"] == "comparison"]
    assert rows == [*settings, *comparisons]
    assert [row["strategy"] for row in settings] == ["BestOfN(n=4)", "Fallback(BestOfN(n=1), tries=1)"]
    assert {row["decoding"] for row in settings} == {"plain:temperature=0.6"}
    for row in settings:
        assert row["problems"] == 6
        for metric in ("solved", "tokens", "prefill", "seconds", "branches"):
            assert set(row[metric]) == ESTIMATE
            assert row[metric]["low"] <= row[metric]["value"] <= row[metric]["high"]
    first, second = settings
    assert [at["k"] for at in first["at"]] == [1, 2, 4]
    assert all(set(at) == {"k", "passed", "majority", "best"} for at in first["at"])
    assert first["at"][-1]["passed"]["value"] == pytest.approx(first["solved"]["value"])
    assert (second["at"], second["ranked_by"], first["ranked_by"]) == ([], None, "log-probability")
    assert first["branches"]["value"] == 4
    assert [row["metric"] for row in comparisons] == ["solved", "tokens"]
    for row in comparisons:
        assert row["setting"] == "Fallback(BestOfN(n=1), tries=1), plain:temperature=0.6"
        assert set(row["difference"]) == ESTIMATE
        assert row["p"] <= row["p_corrected"] <= 1
        assert row["shown"] in ("higher", "lower", "not shown")
    assert comparisons[0]["gained"] is not None
    assert comparisons[1]["gained"] is None


def test_the_folder_holds_the_report_the_pictures_and_a_run_for_each_setting(finished: Finished):
    report = json.loads((finished.out / "report.json").read_text())
    assert (report["asked"], report["interrupted"], len(report["results"])) == (6, False, 2)
    text = (finished.out / "report.md").read_text()
    assert "| 1 | BestOfN(n=4) | plain:temperature=0.6 |" in text
    assert "wall-clock" in text
    assert len(files(finished.out, "journal.jsonl")) == 2
    if importlib.util.find_spec("matplotlib"):
        for name in ("accuracy_tokens", "pass_at_k"):
            assert (finished.out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_finished_is_not_run_again_and_pictures_can_be_made_anew(
    finished: Finished, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    out = copied(finished, tmp_path)
    before = [path.read_bytes() for path in files(out, "journal.jsonl")]
    code, printed, _ = call(capsys, *GRID, "--out", out, "--markdown", "--plot", "svg")
    assert code == 0
    assert printed == (finished.out / "report.md").read_text() == (out / "report.md").read_text()
    assert [path.read_bytes() for path in files(out, "journal.jsonl")] == before
    for name in ("accuracy_tokens.svg", "pass_at_k.svg"):
        assert "<svg" in (out / name).read_text()
    code, printed, _ = call(capsys, *GRID, "--out", out)
    assert code == 0
    for said in ("Of each problem", "pass@k, %", "Less setting 1, paired by problem"):
        assert said in printed


def timeless(text: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in text.splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "prefill")} for row in rows]


def test_a_journal_that_was_cut_is_taken_up_and_comes_to_the_same(
    finished: Finished, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    out = copied(finished, tmp_path)
    (journal, *_), (results, *_) = files(out, "journal.jsonl"), files(out, "results.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    third = [at for at, line in enumerate(lines) if b'"event": "ended"' in line][2]
    journal.write_bytes(b"".join(lines[: third + 1]) + lines[third + 1][:20])  # killed while it wrote a line
    results.write_bytes(b"".join(results.read_bytes().splitlines(keepends=True)[:3]))
    code, printed, _ = call(capsys, *GRID, "--out", out, "--json", "-q")
    assert code == 0
    assert journal.read_bytes().count(b'"event": "ended"') == 6
    assert timeless(printed) == timeless(finished.printed)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (("--seed", "1"), "seed: 0 there, 1 now"),
        (("--max-tokens", "99"), "max_tokens: 512 there, 99 now"),
        (("--blind",), "blind: False there, True now"),
    ],
)
def test_changed_settings_are_refused(
    finished: Finished, capsys: pytest.CaptureFixture[str], tmp_path: Path, changed: Sequence[str], says: str
):
    out = copied(finished, tmp_path)
    code, printed, err = call(capsys, *GRID, "--out", out, *changed, "-q")
    assert (code, printed, says in err) == (2, "", True)


def test_more_settings_and_more_problems_take_up_what_is_there(
    finished: Finished, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    out = copied(finished, tmp_path)
    before = {path: path.read_bytes() for path in files(out, "results.jsonl")}
    more = (*GRID[:-1], "7", "-d", "greedy")
    code, printed, _ = call(capsys, *more, "--out", out, "--json", "-q")
    assert code == 0
    settings = [row for row in map(json.loads, printed.splitlines()) if row["kind"] == "setting"]
    assert [row["problems"] for row in settings] == [7] * 4
    for path, kept in before.items():
        assert path.read_bytes().startswith(kept)
        assert path.read_bytes().count(b"\n") == 7


def test_ctrl_c_keeps_and_reports_what_is_finished(tmp_path: Path):
    out = tmp_path / "out"
    command = [sys.executable, "-u", "-m", "led_agent", "eval", "countdown", "-S", "best-of-n:n=4", "-d", "plain", "-d"]
    command += ["greedy", "--limit", "200", "--slots", "4", "--out", str(out), "--json", "-q"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while not any(path.read_bytes().count(b"\n") >= 3 for path in files(out, "results.jsonl")):
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
            pytest.fail(f"it ended before it was interrupted: {process.communicate()}")
    process.send_signal(signal.SIGINT)
    printed, err = process.communicate()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    (row,) = [json.loads(line) for line in printed.splitlines()]
    assert (row["kind"], 3 <= row["problems"] < 200) == ("setting", True)
    report = json.loads((out / "report.json").read_text())
    assert report["interrupted"]
    assert any("interrupted" in note for note in report["notes"])


BAD = [
    (("eval", "countdwon"), "no task of that name; did you mean countdown"),
    (("eval", "countdown", "-S", "best-of-m"), "no strategy is called 'best-of-m'"),
    (("eval", "countdown", "-d", "hot"), "no decoding is called 'hot'"),
    (("eval", "countdown", "-S", "best-of-n", "-S", "BestOfN"), "is given twice"),
    (("eval", "countdown", "-S", ";"), "no setting to evaluate"),
    (("eval", "countdown", "-v", "mathanswer"), "no verifier is called"),
    (("eval", "countdown", "--json", "--markdown"), "not both"),
    (("eval", "countdown", "--plot", "gif", "--out", "OUT"), "pictures are png, svg, pdf; found 'gif'"),
    (("eval", "countdown", "--plot", "png"), "give that, too"),
    (("eval", "countdown", "--budget-seconds", "-1"), "greater than 0"),
    (("eval", "humaneval"), "none of the 164 problems can be asked"),
    (("eval", "PROBLEMS"), "nothing says whether 1 of 2 problems are solved, the first 'b'"),
    (("eval", "PROBLEMS", "--blind", "-v", "math_answer"), "nothing says whether 1 of 2"),
    (("eval", "countdown", "--limit", "2", "-d", "led.paper:depths=99", "-q"), "99, but the model has"),
]


@pytest.mark.parametrize(("arguments", "says"), BAD, ids=[" ".join(b[0])[:50] for b in BAD])
def test_bad_input_is_one_line_with_the_remedy(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...], says: str
):
    path = tmp_path / "problems.jsonl"
    path.write_text(
        '{"id": "a", "prompt": "Use 3, 20 and 5 to make 35.", "answer": "35"}\n'
        '{"id": "b", "prompt": "Say 3.", "metadata": {}}\n'
    )
    places = {"PROBLEMS": path, "OUT": tmp_path / "out"}
    code, printed, err = call(capsys, *(places.get(a, a) for a in arguments))
    assert (code, printed) == (2, "")
    assert says in err
    assert len(err.strip().splitlines()) == 1


def test_pictures_need_matplotlib(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    code, _, err = call(capsys, "eval", "countdown", "--plot", "png", "--out", tmp_path)
    assert (code, "pip install 'led-agent[plots]'" in err) == (2, True)
    options = ("-S", "best-of-n", "-d", "greedy", "--n", 1, "--limit", 2, "--out", tmp_path / "out", "--json")
    code, _, err = call(capsys, "eval", "countdown", *options)
    assert (code, err.count("no pictures")) == (0, 1)
    assert not list((tmp_path / "out").glob("*.png"))


def test_a_file_with_a_bad_line_and_a_verifier(capsys: pytest.CaptureFixture[str], saved_model: Path, tmp_path: Path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "a", "prompt": "w1"}\n{broken\n{"id": "b", "prompt": "w2"}\n')
    options = ("-m", saved_model, "--n", 2, "--max-tokens", 4, "-v", "matches:w", "-d", "plain", "--json", "-q")
    code, printed, err = call(capsys, "eval", path, *options)
    assert (code, "line 2 is not valid JSON" in err) == (2, True)
    assert json.loads(printed)["problems"] == 2


# --- the grid, with a script for a model ---------------------------------------------------------------------------

ASKED = tuple(Problem(prompt=f"What is {k} + {k}?", id=f"q{k}", answer=str(2 * k)) for k in range(6))


def right_at_first(request: DecodeRequest) -> str:
    """The first branch of each problem is right, the others say 1."""
    return f"the answer is {2 * int(request.problem[1:]) if request.id == '1' else 1}"


def test_all_branches_are_drawn_though_the_first_is_right(tmp_path: Path):
    plan = Plan(Task("sums", ASKED), (Setting(BestOfN(3)), Setting(Fallback(BestOfN(3)))))
    decoder = ScriptedDecoder(right_at_first, slots=1)
    first, second = Grid(plan, tmp_path, decoder=decoder).run()
    assert [len(o.samples) for o in first.outcomes] == [3] * 6
    assert [(o.solved, o.samples) for o in second.outcomes] == [(True, ())] * 6
    assert first.setting.samples == 3
    assert second.setting.samples is None
    assert [o.problem for o in first.outcomes] == [p.key for p in ASKED]


def test_blind_the_search_goes_by_the_majority_and_is_judged_afterwards(tmp_path: Path):
    plan = Plan(Task("sums", ASKED), (Setting(BestOfN(3)),), blind=True)
    (done,) = Grid(plan, tmp_path, decoder=ScriptedDecoder(right_at_first)).run()
    assert [[s.right for s in o.samples] for o in done.outcomes] == [[True, False, False]] * 6
    assert all(o.status == "exhausted" for o in done.outcomes)


def test_a_stop_ends_the_grid_and_what_is_finished_counts(tmp_path: Path):
    plan = Plan(Task("sums", ASKED), (Setting(BestOfN(1)), Setting(BestOfN(2))))
    told: list[str] = []

    def tell(setting: Setting, solution: Solution | None) -> None:
        told.append(setting.name)
        if len(told) == 2:
            grid.stop()

    grid = Grid(plan, tmp_path, tell=tell, decoder=ScriptedDecoder(right_at_first, slots=1))
    first, second = grid.run()
    assert grid.stopped
    assert len(first.outcomes) >= 2  # what was on its way when it was stopped may have ended all the same
    assert second.outcomes == ()
    resumed = list(Grid(plan, tmp_path, decoder=ScriptedDecoder(right_at_first, slots=1)).run())
    assert [len(done.outcomes) for done in resumed] == [6, 6]


def test_a_folder_is_for_one_task(tmp_path: Path):
    settings = (Setting(BestOfN(1)),)
    list(Grid(Plan(Task("sums", ASKED), settings), tmp_path, decoder=ScriptedDecoder(right_at_first)).run())
    with pytest.raises(UsageError, match="task: 'sums' there, 'others' now"):
        list(Grid(Plan(Task("others", ASKED), settings), tmp_path, decoder=ScriptedDecoder(right_at_first)).run())
