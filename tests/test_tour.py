"""The notebook runs from top to bottom, and its cells show what its text claims."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
TOUR = ROOT / "examples" / "led_agent_tour.ipynb"


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The cells by their ids, run in a kernel of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))  # this checkout, whatever is installed
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        notebook = nbformat.read(TOUR, as_version=4)
        where = {"metadata": {"path": str(tmp_path_factory.mktemp("tour"))}}
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    return {cell.id: cell for cell in notebook.cells}


def printed(cell: Any) -> str:
    """What a cell printed; nothing on standard error."""
    assert all(output.name == "stdout" for output in cell.outputs if output.output_type == "stream"), cell.outputs
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def shown(cell: Any, kind: str) -> str:
    (found,) = [output.data[kind] for output in cell.outputs if kind in output.get("data", {})]
    return str(found)


def test_it_is_stored_without_outputs():
    stored = nbformat.read(TOUR, as_version=4)
    nbformat.validate(stored)
    for cell in stored.cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


def test_its_text_states_no_result():
    """What a run finds out stands in outputs, which a run can't contradict."""
    for cell in nbformat.read(TOUR, as_version=4).cells:
        if cell.cell_type == "markdown":
            assert not re.search(r"\d+ of \d+|\d+(\.\d+)? nat|solves \d+", cell.source), cell.id


def test_the_links_of_its_text_lead_somewhere():
    text = "".join(cell.source for cell in nbformat.read(TOUR, as_version=4).cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    for link in links:
        assert (TOUR.parent / link).exists(), link


def test_every_code_cell_shows_something(cells: dict[str, Any]):
    silent = [key for key, cell in cells.items() if cell.cell_type == "code" and not cell.outputs]
    assert silent == ["setup"]
    assert not [key for key, cell in cells.items() for out in cell.get("outputs", ()) if out.output_type == "error"]


def test_a_solution_is_shown_as_a_page(cells: dict[str, Any]):
    page = shown(cells["solve"], "text/html")
    assert page.count("<details") == 8
    assert "verified" in page
    statuses = printed(cells["nodes"]).splitlines()
    assert len(statuses) == 9


def test_an_own_verifier_narrows_down_what_counts(cells: dict[str, Any]):
    out = printed(cells["verifier"])
    assert "none of them divides: True" in out
    assert "without_division: accepted" in out
    assert "without_division: rejected" in out


def test_strategies_are_compared_with_intervals(cells: dict[str, Any]):
    rows = re.findall(r"^(.+?) +(\d+) of 20 solved, (\d+)% to (\d+)%$", printed(cells["compare"]), re.MULTILINE)
    assert [name for name, *_ in rows] == ["greedy", "best of 8"]
    for _, right, low, high in rows:
        assert int(low) <= 5 * int(right) <= int(high)
    assert int(rows[0][1]) <= int(rows[1][1])


def test_decodings_differ(cells: dict[str, Any]):
    rows = dict(re.findall(r"^(.+?) +(\d\.\d) different answers", printed(cells["variants"]), re.MULTILINE))
    assert len(rows) == 5
    assert float(rows["greedy"]) == 1.0
    assert max(map(float, rows.values())) > 1.0
    explored = dict(
        re.findall(r"^(.+?) +\d\.\d different.* (\d+\.\d)% explored$", printed(cells["variants"]), re.MULTILINE)
    )
    assert float(explored["greedy"]) == float(explored["plain, T=0.6"]) == 0.0
    assert float(explored["LED, as the paper"]) > 0.0


def test_the_ladder_is_climbed_down_where_nothing_can_be_right(cells: dict[str, Any]):
    out = printed(cells["fallback"])
    assert "verified: False" in out
    assert set(re.findall(r"^ *[\d.]+  (\w+)", out, re.MULTILINE)) == {"explore", "fallback"}
    assert "can't be asked to repair" in out
    assert "accepted" not in out.partition("verified:")[0]


def test_a_stopped_search_goes_on_to_the_same_tree(cells: dict[str, Any]):
    out = printed(cells["resume"])
    assert "stopped: interrupted" in out
    assert re.search(r"resumed: \w+ with 8 branches", out)
    assert "the same tokens as without a stop: True" in out


def test_entropy_is_drawn(cells: dict[str, Any]):
    assert len(shown(cells["plot"], "image/png")) > 1000
    quiet, total = map(int, re.search(r"(\d+) of (\d+) tokens below", printed(cells["plot"])).groups())  # type: ignore[union-attr]
    assert quiet > total / 2, "the text says that many tokens have almost no entropy"
