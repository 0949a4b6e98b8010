"""What is published of the study of exploration comes from its rows, and what the page tells comes from that."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from led_agent.diagnosis import Diagnosis
from led_agent.study import cost_view
from led_agent.study.arms import Arm
from led_agent.study.cost_figures import Costs, Spent, costs_of
from led_agent.study.exploration import Exploration
from led_agent.study.plan import Plan
from led_agent.study.report import Findings
from led_agent.study.rows import Row, RowFile
from led_agent.study.view import markdown

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
STUDY = RESULTS / "study"
REPORTS = (STUDY / "report.md", RESULTS / "cost" / "report.md", RESULTS / "extensions.md")
BLOCKS = 12


class Nobody:
    """Draws nothing: all is there."""

    def draw(self, orders: list[Any]) -> list[Any]:
        assert not orders, f"rows are missing: {[(order.arm.name, len(order.problems)) for order in orders]}"
        return []

    def stop(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def published() -> Findings:
    return Findings.model_validate_json((STUDY / "report.json").read_text())


def test_figures_are_those_of_the_rows(published: Findings, tmp_path: Path):
    settings = json.loads((STUDY / "settings.json").read_text())
    del settings["problems"]
    plan = Plan(**settings | {"verifiers": tuple(settings["verifiers"])})
    for name in ("settings.json", "rows.jsonl.gz"):
        shutil.copy(STUDY / name, tmp_path)
    depths = [Diagnosis.model_validate_json((STUDY / f"depths-{at}.json").read_text()) for at in (0, 1)]
    file = RowFile(tmp_path, plan.record(), Row)
    found = Exploration(plan, file, Nobody(), BLOCKS, lambda *_: None).run(depths)
    file.close()
    same(found.model_dump(mode="json"), published.model_dump(mode="json"))


def same(found: Any, published: Any, where: str = "") -> None:
    """Equal; figures up to what another processor's order of summing can change."""
    if isinstance(published, dict):
        assert found.keys() == published.keys(), where
        for name, value in published.items():
            same(found[name], value, f"{where}.{name}")
    elif isinstance(published, list):
        assert len(found) == len(published), where
        for at, value in enumerate(published):
            same(found[at], value, f"{where}[{at}]")
    elif isinstance(published, float):
        assert found == pytest.approx(published, abs=0.01 if ".p" in where else 1e-3), where
    else:
        assert found == published, where


def test_the_report_is_what_the_figures_say(published: Findings):
    assert markdown(published) == (STUDY / "report.md").read_text()


def test_tables_on_the_page_are_in_reports():
    lines = {line for report in REPORTS for line in report.read_text().splitlines()}
    told = [line for line in (ROOT / "docs" / "study.md").read_text().splitlines() if line.startswith("| ")]
    assert len(told) > 20
    assert [line for line in told if line not in lines] == []


def test_defaults_of_a_search_are_those_of_the_arm_that_is_called_so(published: Findings):
    from led_agent.local import LocalDecoder
    from led_agent.search import Search
    from led_agent.strategies.named import parse_strategy

    arm = next(one for one in published.arms if one.arm == "the default ladder")
    with Search() as search:
        search.solve("Use 3, 20 and 5 to make 35.")
        assert isinstance(search.decoder, LocalDecoder)
        decoding = search.chosen_decoding
    law = Arm(name="it", family="", decoding=arm.decoding, draw="search", strategy=arm.strategy).law
    assert law.replace(siblings=decoding.siblings) == decoding
    assert arm.strategy is not None
    assert parse_strategy(arm.strategy) == search.strategy


def test_the_extensions_tables_are_those_of_their_counts():
    told = subprocess.run(
        [sys.executable, "-m", "benchmarks.extensions", "--from", str(RESULTS / "extensions.json")],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout == (RESULTS / "extensions.md").read_text()


def test_costs_are_those_of_their_rows(tmp_path: Path):
    told = Costs.model_validate_json((RESULTS / "cost" / "report.json").read_text())
    for name in ("settings.json", "rows.jsonl.gz"):
        shutil.copy(RESULTS / "cost" / name, tmp_path)
    with closing(RowFile(tmp_path, told.settings, Spent)) as file:
        found = costs_of(file.rows.values())
    same([one.model_dump(mode="json") for one in found], [one.model_dump(mode="json") for one in told.ways])
    assert cost_view.markdown(told) == (RESULTS / "cost" / "report.md").read_text()
