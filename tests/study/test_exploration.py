"""A small study from end to end, on the embedded model."""

from __future__ import annotations

import gzip
import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from led_agent.cli.studying import run_study
from led_agent.errors import UsageError
from led_agent.local import LocalDecoder
from led_agent.study.arms import Arm
from led_agent.study.exploration import Exploration
from led_agent.study.plan import Plan
from led_agent.study.report import Findings
from led_agent.study.rows import Row, RowFile
from led_agent.study.view import markdown
from led_agent.study.workers import Crew, Here, Order, Processes

PLAN = Plan(dev=3, test=4, samples=4, dev_samples=2, searches=2, dev_searches=1, quick=True, slots=64)


@pytest.fixture(scope="module")
def decoder():
    made = LocalDecoder.load(None, slots=64)
    yield made
    made.close()


def studied(decoder: LocalDecoder, folder: Path, stop_after: int | None = None) -> Findings:
    file = RowFile(folder, PLAN.record(), Row)
    made: list[Exploration] = []

    def tell(_doing: str, done: int, _of: int) -> None:
        if stop_after is not None and done >= stop_after:
            made[0].stop()

    made.append(Exploration(PLAN, file, Here(PLAN, decoder), decoder.n_blocks, tell))
    found = made[0].run()
    if found.interrupted:
        file.close()
    else:
        file.pack()
    return found


@pytest.fixture(scope="module")
def whole(decoder: LocalDecoder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Findings]:
    folder = tmp_path_factory.mktemp("study")
    return folder, studied(decoder, folder)


def test_the_same_seed_gives_the_same_tables_and_rows(
    decoder: LocalDecoder, whole: tuple[Path, Findings], tmp_path: Path
):
    folder, found = whole
    again = studied(decoder, tmp_path)
    assert again == found
    assert markdown(again) == markdown(found)
    assert (tmp_path / "rows.jsonl.gz").read_bytes() == (folder / "rows.jsonl.gz").read_bytes()


def test_every_arm_has_a_row_for_every_problem(whole: tuple[Path, Findings]):
    folder, found = whole
    with gzip.open(folder / "rows.jsonl.gz", "rt") as file:
        rows = [Row.model_validate_json(line) for line in file]
    tested = [row for row in rows if row.split == "test"]
    assert {arm.arm for arm in found.arms} == {row.arm for row in tested}
    assert {row.arm for row in rows if row.repeat == 1} == {arm.arm for arm in found.arms if arm.strategy is not None}
    assert all(arm.problems == 4 for arm in found.arms)
    assert not {row.problem for row in tested} & {row.problem for row in rows if row.split == "dev"}
    assert {choice.kind for choice in found.choices} >= {"temperature", "LED, tuned", "noise, tuned"}
    assert found.base.startswith("plain, T=")
    assert found.search_base.startswith("plain, T=")
    assert {one.base for one in found.comparisons} == {found.base, found.search_base, "the default ladder"}
    assert {one.arm for one in found.primary} <= {one.arm for one in found.choices}
    assert [one.metric for one in found.primary] == [
        "pass@1",
        "pass@1",
        "within 450",
        "within 38",
        "within 112",
        "within 225",
    ]


def test_a_search_s_row_ends_at_its_first_right_branch(whole: tuple[Path, Findings]):
    with gzip.open(whole[0] / "rows.jsonl.gz", "rt") as file:
        rows = [Row.model_validate_json(line) for line in file]
    searched = {arm.arm for arm in whole[1].arms if arm.strategy is not None}
    right = [row.right for row in rows if row.arm in searched and any(row.right)]
    assert right
    assert all(sum(one) == 1 and one[-1] for one in right)


def test_processes_draw_what_one_does(decoder: LocalDecoder, tmp_path: Path):
    """Rows depend on no one else's: not on what is decoded beside them, nor on which branch is back first."""
    _, test = PLAN.split()
    arms = (
        Arm(name="noise", family="noise", decoding="noise:sigma=0.05,temperature=1"),
        Arm(name="together", family="siblings", decoding="plain:temperature=1", draw="together", group=4),
        Arm(name="ladder", family="search", decoding="plain:temperature=1", draw="search",
            strategy="fallback(best-of-n:n=8)"),
        Arm(name="steps", family="search", decoding="plain:temperature=1", draw="search",
            strategy="without-replacement:n=16,step=no,order=breadth", verifiers=("countdown:steps=true",)),
    )  # fmt: skip
    orders = [Order(arm, "test", tuple(test)) for arm in arms]

    def rows(crew: Crew) -> dict[object, Row]:
        return {row.key: row for _, some, _ in crew.draw(orders) for row in some}

    here = rows(Here(PLAN, decoder))
    with closing(Processes(PLAN, 2)) as crew:
        assert rows(crew) == here
    assert len(here) == 2 * 4 + 2 * 2 * 4


def test_what_a_model_lacks_is_said_before_anything_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LED_AGENT_CACHE", str(tmp_path))
    plan = replace(PLAN, lens=True)
    with pytest.raises(UsageError, match="tune-lens countdown"):
        run_study(plan, tmp_path / "out", 1, quiet=True, keep=False)
    assert not (tmp_path / "out" / "rows.jsonl").read_text()


def test_a_study_that_was_stopped_goes_on_where_it_was(
    decoder: LocalDecoder, whole: tuple[Path, Findings], tmp_path: Path
):
    part = studied(decoder, tmp_path, stop_after=5)
    assert part.interrupted
    kept = (tmp_path / "rows.jsonl").read_text()
    assert len(kept.splitlines()) >= 5
    (tmp_path / "rows.jsonl").write_text(kept + '{"arm": "torn')
    assert studied(decoder, tmp_path) == whole[1]


def test_another_study_s_folder_is_refused(whole: tuple[Path, Findings]):
    with pytest.raises(UsageError, match="seed: 0 there, 1 now"):
        RowFile(whole[0], PLAN.record() | {"seed": 1}, Row)


def test_a_file_is_split_by_its_prompts(tmp_path: Path):
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"What is {n} + 1?", "answer": n + 1}) + "\n" for n in range(200)))
    dev, test = Plan(model="smollm2", problems=path, dev=200, test=200).split()
    assert not {p.key for p in dev} & {p.key for p in test}
    assert len(dev) + len(test) == 200
    assert 30 <= len(dev) <= 70
    path.write_text('{"prompt": "What?"}\n' * 3)
    with pytest.raises(UsageError, match="nothing says whether"):
        Plan(model="smollm2", problems=path).split()
    with pytest.raises(UsageError, match="give --problems FILE"):
        Plan(model="smollm2")
