"""The study of cost: figures against sums by hand, and small studies from end to end on the embedded model."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from led_agent.bench.best_of import BestOfGenerate
from led_agent.cli import main
from led_agent.errors import UsageError
from led_agent.local import LocalDecoder
from led_agent.study.cost import CostPlan, CostStudy
from led_agent.study.cost_figures import ENGINE, GENERATE, LADDER, WAYS, Costs, Spent, costs_of
from led_agent.study.cost_view import markdown
from led_agent.study.rows import RowFile
from led_agent.types import Branch, Decoding, Problem, Verdict

PLAN = CostPlan(test=3, n=2)
PUZZLE = Problem(prompt="Use 3, 20 and 5 to make 35.")


@pytest.fixture(scope="module")
def decoder():
    made = LocalDecoder.load(None, slots=2)
    yield made
    made.close()


def studied(decoder: LocalDecoder, folder: Path, plan: CostPlan = PLAN, stop_after: int | None = None) -> Costs:
    file = RowFile(folder, plan.record(), Spent)
    made: list[CostStudy] = []

    def tell(doing: str, done: int, _of: int) -> None:
        if doing == "solving" and done == stop_after:
            made[0].stop()

    made.append(CostStudy(plan, file, decoder, tell))
    found = made[0].run()
    if found.interrupted:
        file.close()
    else:
        file.pack()
    return found


def rows_of(folder: Path) -> dict[tuple[str, str], Spent]:
    with gzip.open(folder / "rows.jsonl.gz", "rt") as file:
        return {row.key: row for row in map(Spent.model_validate_json, file)}


@pytest.fixture(scope="module")
def whole(decoder: LocalDecoder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Costs]:
    folder = tmp_path_factory.mktemp("cost")
    return folder, studied(decoder, folder)


# --- figures -------------------------------------------------------------------------------------------------------


def spent(way: str, problem: str, tokens: int, seconds: float, *, verified: bool = True, errors: int = 0) -> Spent:
    return Spent(way=way, problem=problem, verified=verified, tokens=tokens, seconds=seconds, errors=errors)


HAND_MADE = [
    spent(GENERATE, "a", 100, 4.0),
    spent(GENERATE, "b", 300, 6.0, verified=False, errors=2),
    spent(ENGINE, "a", 50, 1.0),
    spent(ENGINE, "b", 150, 3.0),
    spent(LADDER, "a", 10, 4.0),
    spent(LADDER, "b", 390, 6.0, verified=False),
]


def test_figures_are_means_over_problems_and_ratios_of_sums():
    generate, engine, ladder = costs_of(HAND_MADE)
    assert (generate.way, engine.way, ladder.way) == WAYS
    assert (generate.verified.value, engine.verified.value, ladder.verified.value) == (0.5, 1.0, 0.5)
    assert (generate.tokens.value, engine.tokens.value, ladder.tokens.value) == (200, 100, 200)
    assert (generate.seconds.value, engine.seconds.value, ladder.seconds.value) == (5, 2, 5)
    assert (generate.token_ratio.value, engine.token_ratio.value, ladder.token_ratio.value) == (1, 0.5, 1)
    assert (engine.second_ratio.value, ladder.second_ratio.value) == (0.4, 1)
    assert (generate.errors, engine.errors) == (2, 0)


def test_intervals_are_paired_by_problem():
    _, engine, ladder = costs_of(HAND_MADE)
    # half the tokens of generate on each problem: of any resample, too
    assert (engine.token_ratio.low, engine.token_ratio.high) == (0.5, 0.5)
    # of two problems a resample has "a" twice, both, or "b" twice
    assert (ladder.token_ratio.low, ladder.token_ratio.high) == (pytest.approx(0.1), pytest.approx(1.3))
    assert (engine.second_ratio.low, engine.second_ratio.high) == (0.25, 0.5)


def test_a_problem_counts_once_it_was_solved_in_all_ways():
    more = [spent(GENERATE, "c", 10_000, 1.0), spent(ENGINE, "c", 1, 1.0)]
    assert costs_of([*HAND_MADE, *more]) == costs_of(HAND_MADE)
    assert costs_of(more) == ()


# --- best of N by generate -----------------------------------------------------------------------------------------


def test_generate_counts_all_branches_up_to_their_ends(decoder: LocalDecoder):
    seen: list[Branch] = []

    def judge(_problem: Problem, branch: Branch) -> Verdict:
        seen.append(branch)
        return Verdict(status="error" if len(seen) == 1 else "rejected")

    best_of = BestOfGenerate(None, decoder, judge, Decoding.plain(1.0), n=6, max_tokens=75)
    found = best_of.solve(PUZZLE, 3)
    assert (found.verified, found.errors) == (False, 1)
    assert len(seen) >= 2
    ends = decoder.engine.parts.eos
    for branch in seen:
        assert branch.token_ids[-1] in ends
        assert not set(branch.token_ids[:-1]) & set(ends)
    cut = 6 - len(seen)
    assert found.tokens == sum(len(branch.token_ids) for branch in seen) + 75 * cut
    assert best_of.solve(PUZZLE, 3).tokens == found.tokens
    assert len({best_of.solve(PUZZLE, seed).tokens for seed in range(3)}) > 1


def test_generate_judges_up_to_the_first_accepted_and_only_whole_branches(decoder: LocalDecoder):
    seen: list[Branch] = []

    def accept(_problem: Problem, branch: Branch) -> Verdict:
        seen.append(branch)
        return Verdict(status="accepted")

    assert BestOfGenerate(None, decoder, accept, Decoding.plain(0.6), n=3, max_tokens=75).solve(PUZZLE, 0).verified
    assert len(seen) == 1
    cut = BestOfGenerate(None, decoder, accept, Decoding.plain(0.6), n=3, max_tokens=2).solve(PUZZLE, 0)
    assert (cut.verified, cut.tokens, len(seen)) == (False, 6, 1)


def test_generate_and_the_engine_are_asked_the_same_and_counted_alike(decoder: LocalDecoder, tmp_path: Path):
    """As cold as this, both grow the likeliest branch."""
    plan = CostPlan(test=5, n=1, sampling="plain:temperature=0.001")
    studied(decoder, tmp_path, plan)
    rows = rows_of(tmp_path)
    for problem in {problem for problem, _ in rows}:
        generate, engine = rows[problem, GENERATE], rows[problem, ENGINE]
        assert (generate.tokens, generate.verified) == (engine.tokens, engine.verified)
    assert len({row.tokens for row in rows.values()}) > 1


# --- studies -------------------------------------------------------------------------------------------------------


def test_every_problem_is_solved_in_every_way(whole: tuple[Path, Costs]):
    folder, found = whole
    rows = rows_of(folder)
    assert set(rows) == {(problem.key, way) for problem in PLAN.asked()[1] for way in WAYS}
    assert all(0 < row.tokens <= 2 * 75 for row in rows.values() if row.way != LADDER)
    assert all(row.seconds > 0 for row in rows.values())
    assert (found.problems, found.interrupted) == (3, False)
    assert found.ways == costs_of(rows.values())


def test_what_a_seed_fixes_is_the_same_again(decoder: LocalDecoder, whole: tuple[Path, Costs], tmp_path: Path):
    """Seconds are not; nor are a search's tokens, as it ends where the first answer is accepted."""
    studied(decoder, tmp_path)
    first, again = rows_of(whole[0]), rows_of(tmp_path)
    for key, row in first.items():
        assert row.verified == again[key].verified
        assert row.way != GENERATE or row.tokens == again[key].tokens


def test_a_study_that_was_stopped_keeps_its_rows_and_goes_on(decoder: LocalDecoder, tmp_path: Path):
    part = studied(decoder, tmp_path, stop_after=4)
    assert (part.interrupted, part.problems) == (True, 1)
    assert "It was interrupted" in markdown(part)
    text = (tmp_path / "rows.jsonl").read_text()
    kept = [Spent.model_validate_json(line) for line in text.splitlines()]
    assert len(kept) == 4
    (tmp_path / "rows.jsonl").write_text(text + '{"way": "torn')
    found = studied(decoder, tmp_path)
    rows = rows_of(tmp_path)
    assert (found.interrupted, found.problems, len(rows)) == (False, 3, 9)
    assert all(rows[row.key] == row for row in kept)  # their seconds, too: not measured again


def test_a_study_that_is_whole_measures_nothing_again(decoder: LocalDecoder, whole: tuple[Path, Costs]):
    folder, found = whole
    before = (folder / "rows.jsonl.gz").read_bytes()
    assert studied(decoder, folder).ways == found.ways
    assert (folder / "rows.jsonl.gz").read_bytes() == before


def test_no_problem_that_is_measured_warms_up():
    warm_up, measured = PLAN.asked()
    assert warm_up.key not in {problem.key for problem in measured}


def test_the_default_search_is_given_as_many_branches(decoder: LocalDecoder, tmp_path: Path):
    """Nothing is accepted here: all that may be tried is."""
    (tmp_path / "own.py").write_text("def never(problem, branch):\n    return False\n")
    plan = CostPlan(test=2, n=2, max_tokens=4, verifiers=(f"{tmp_path}/own.py:never",))
    found = studied(decoder, tmp_path / "out", plan)
    assert [one.verified.value for one in found.ways] == [0, 0, 0]
    assert [one.tokens.value for one in found.ways] == [8, 8, (2 + 3) * 4]  # and three conservative tries


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"sampling": "led.paper"}, "best of N can't sample by 'led.paper' over generate"),
        ({"sampling": "plain:temperature=0"}, "a temperature above 0"),
        ({"sampling": "plain:noise=0.1"}, "allowed is plain"),
        ({"sampling": "plane"}, "no decoding is called 'plane'"),
        ({"n": 0}, "n is 0; at least 1"),
        ({"max_tokens": 0}, "new_tokens is 0; at least 1"),
        ({"test": 1}, "test is 1; at least 2"),
        ({"model": "smollm2"}, "give --problems FILE"),
    ],
)
def test_a_plan_that_can_t_be_is_refused(given: dict[str, Any], told: str):
    with pytest.raises(UsageError, match=told):
        CostPlan(**given)


def test_filters_of_plain_sampling_are_taken():
    assert CostPlan(sampling="plain:temperature=0.6,top_p=0.95,top_k=20,min_p=0.01").law.top_k == 20


def test_what_the_embedded_model_can_t_be_asked_is_refused_before_it_is_loaded(tmp_path: Path):
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"What is {n} + 1?", "answer": n + 1}) + "\n" for n in range(20)))
    with pytest.raises(UsageError, match="this doesn't read as a Countdown puzzle"):
        CostPlan(problems=path).asked()


def test_another_study_s_folder_is_refused(whole: tuple[Path, Costs]):
    with pytest.raises(UsageError, match="n: 2 there, 3 now"):
        RowFile(whole[0], CostPlan(test=3, n=3).record(), Spent)
    with pytest.raises(UsageError, match="study: 'cost' there, None now"):
        RowFile(whole[0], PLAN.of.record(), Spent)


# --- the command ---------------------------------------------------------------------------------------------------

OWN = """
import os, pathlib, signal, threading
from led_agent.verifiers import countdown

asked = countdown()
told, once = pathlib.Path("told"), threading.Lock()

def judge(problem, branch):
    rows = pathlib.Path("kept/rows.jsonl")
    # Branches are judged in threads, and a second signal would be a second Ctrl-C, which leaves without a report.
    with once:
        if rows.exists() and len(rows.read_text().splitlines()) >= 4 and not told.exists():
            told.touch()
            os.kill(os.getpid(), signal.SIGINT)
    return asked(problem, branch)
"""


@pytest.fixture
def tool(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `led-agent study` in this process, in a folder of its own: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["study", *map(str, arguments)])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def test_ctrl_c_reports_what_there_is_and_the_same_command_goes_on(tool: Any, tmp_path: Path):
    (tmp_path / "own.py").write_text(OWN)
    command = ("cost", "--test", 3, "--n", 2, "--verifier", "own.py:judge", "--out", "kept", "--json", "--quiet")
    code, out, err = tool(*command)
    assert code == 130, err
    assert json.loads(out)["interrupted"]
    assert json.loads(out)["problems"] == 1
    assert (tmp_path / "kept/rows.jsonl").read_text().count("\n") >= 4
    code, out, err = tool(*command)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["interrupted"], found["problems"]) == (False, 3)
    assert len(rows_of(tmp_path / "kept")) == 9
    assert json.loads((tmp_path / "kept/report.json").read_text()) == found
    assert "best of N, this engine" in (tmp_path / "kept/report.md").read_text()


def test_the_table_of_a_study_goes_to_standard_output_and_progress_to_the_other(tool: Any):
    code, out, err = tool("cost", "--test", 2, "--n", 1, "--max-tokens", 8, "--markdown")
    assert code == 0
    assert out.startswith(
        "Cost of a first verified answer with countdown: 2 problems of countdown, N = 1, 8 new tokens"
    )
    assert "| best of N, generate |" in out
    assert "solving" in err
    assert "solving" not in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("cost", "--dev", 5), "`study cost` has no --dev: that is of `study exploration`"),
        (("cost", "--quick"), "`study cost` has no --quick"),
        (("cost", "--samples", 5), "`study cost` has no --samples"),
        (("cost", "--before", "countdown-sft"), "`study cost` has no --before"),
        (("cost", "--processes", 1), "`study cost` has no --processes"),
        (("exploration", "--n", 5), "`study exploration` has no --n: that is of `study cost`"),
        (("exploration", "--sampling", "plain"), "`study exploration` has no --sampling"),
        (("cost", "--json", "--markdown"), "give --json or --markdown, not both"),
        (("cost", "--sampling", "greedy"), "best of N can't sample by 'greedy'"),
    ],
)
def test_options_of_another_subject_are_refused_by_name(tool: Any, arguments: tuple[object, ...], told: str):
    code, out, err = tool(*arguments)
    assert (code, out) == (2, "")
    assert told in " ".join(err.split())


def test_settings_of_the_command_are_of_all_its_subjects(tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LED_AGENT_CONFIG", "led-agent.toml")
    (tmp_path / "led-agent.toml").write_text("[study]\nsamples = 4\ntest = 2\nn = 1\nmax-tokens = 8\n")
    code, out, err = tool("cost", "--json")
    assert code == 0, err
    settings = json.loads(out)["settings"]
    assert (settings["test"], settings["n"], settings["max_tokens"]) == (2, 1, 8)
