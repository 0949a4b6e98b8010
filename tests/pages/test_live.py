"""`led-agent view`: a journal that is written while browsers look at it."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from led_agent.errors import UsageError
from led_agent.events import Decoded, Judged, Requested
from led_agent.journal import Journal
from led_agent.lines import Tail, line_of
from led_agent.pages.data import index
from led_agent.pages.live import Board
from led_agent.pages.saved import journal_of
from led_agent.tree import Tree
from tests.pages.conftest import Open, click_node, expect, where
from tests.pages.trees import tree_of, write_events

ROWS = [(f"text {i}", "rejected", str(i)) for i in range(40)]


class View:
    """Begins `led-agent view` on a run, and gives its address. It is ended by an interrupt, and must end well."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[str]] = []

    def __call__(self, run: Path, port: int = 0) -> str:
        command = [sys.executable, "-m", "led_agent", "view", str(run), "--port", str(port)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._running.append(process)
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address), process.stderr.read() if process.stderr else ""
        return address

    def end(self) -> None:
        while self._running:
            process = self._running.pop()
            process.send_signal(signal.SIGINT)
            with process:
                try:
                    out, err = process.communicate(timeout=120)  # it may be loading a tokenizer
                finally:
                    process.kill()
            assert (process.returncode, out) == (0, "")
            assert "Traceback" not in err


@pytest.fixture
def view() -> Iterator[View]:
    begun = View()
    yield begun
    begun.end()


def ask(address: str, path: str, host: str | None = None) -> tuple[int, str]:
    name = address.removeprefix("http://").rstrip("/")
    connection = http.client.HTTPConnection(name, timeout=60)  # loading a tokenizer takes its time
    connection.request("GET", path, headers={"Host": host or name})
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


def write(journal: Journal, tree: Tree, node: str, judged: bool = True) -> None:
    """One branch, from its request to its verdict, or to the end of its decoding."""
    held = tree[node]
    assert held.request is not None
    assert held.branch is not None
    journal.record(tree.problem.key, Requested(request=held.request))
    journal.record(tree.problem.key, Decoded(branch=held.branch))
    if judged:
        journal.record(tree.problem.key, Judged(id=node, verdicts=held.verdicts))


def test_a_tree_grows_under_the_eyes_and_neither_zoom_nor_selection_is_lost(
    view: View, open_page: Open, tmp_path: Path
):
    tree = tree_of("p", ROWS)
    address = view(tmp_path / "out")  # a folder that a run will make
    page = open_page(address, origin=address)
    expect(page.locator(".empty")).to_contain_text("no problem has begun yet")
    (tmp_path / "out").mkdir()
    with Journal(tmp_path / "out" / "journal.jsonl") as journal:
        journal.begin(tree)
        for node in ("1", "2", "3"):
            write(journal, tree, node)
        click_node(page, "2")
        expect(page.get_by_test_id("text")).to_contain_text("text 1", timeout=60_000)
        page.get_by_test_id("tree").focus()
        page.keyboard.press("+")
        before = where(page, "2")
        asked, decoded = tree["4"], tree["5"]
        assert asked.request is not None
        journal.record("p", Requested(request=asked.request))
        expect(page.get_by_test_id("status-pending")).to_contain_text("1")
        write(journal, tree, "5", judged=False)
        expect(page.get_by_test_id("status-open")).to_contain_text("1")
        assert where(page, "2") == pytest.approx(before, abs=1.0)  # though the legend may have another line by now
        journal.record("p", Judged(id="5", verdicts=decoded.verdicts))
        for node in [n.id for n in tree.nodes()][5:]:
            write(journal, tree, node)
        expect(page.get_by_test_id("status-rejected")).to_contain_text("39")
        where(page, "40")
        after = where(page, "2")
        assert after == pytest.approx(before, abs=1.0)
        expect(page.get_by_test_id("panel")).to_contain_text("Branch 2")
        expect(page.get_by_test_id("live")).to_have_text("live")
        assert asked.branch is not None
        assert tree.ended is not None
        journal.record("p", Decoded(branch=asked.branch))
        journal.record("p", Judged(id="4", verdicts=asked.verdicts))
        journal.record("p", tree.ended)
        expect(page.get_by_test_id("heading")).to_contain_text("not verified")
    expect(page.get_by_test_id("live")).to_have_text("ended")


def test_the_page_comes_back_when_the_server_does(view: View, open_page: Open, tmp_path: Path):
    tree = tree_of("p", ROWS[:3])
    path = tmp_path / "run.jsonl"
    with Journal(path) as journal:
        journal.begin(tree)
        write(journal, tree, "1")
        address = view(path)
        page = open_page(address, origin=address)
        click_node(page, "1")
        expect(page.get_by_test_id("live")).to_have_text("live")
        view.end()
        expect(page.get_by_test_id("live")).to_contain_text("again in")
        write(journal, tree, "2")
        assert view(path, port=int(address.rstrip("/").rpartition(":")[2])) == address
        expect(page.get_by_test_id("status-rejected")).to_contain_text("2", timeout=30_000)
        expect(page.get_by_test_id("live")).to_have_text("live")
        expect(page.get_by_test_id("panel")).to_contain_text("Branch 1")


def test_a_branch_that_could_not_be_read_is_read_once_more_is_told(view: View, open_page: Open, tmp_path: Path):
    tree = tree_of("p", ROWS[:2])
    path = tmp_path / "run.jsonl"
    with Journal(path) as journal:
        journal.begin(tree)
        write(journal, tree, "1")
        address = view(path)
        page = open_page(address, origin=address)
        page.route("**/api/node?*", lambda route: route.abort())
        click_node(page, "1")
        expect(page.get_by_test_id("panel")).to_contain_text("the server does not answer")
        page.unroute("**/api/node?*")
        write(journal, tree, "2")
        expect(page.get_by_test_id("text")).to_contain_text("text 0", timeout=60_000)


def test_other_hosts_names_are_refused_and_unknown_branches_are_named(view: View, tmp_path: Path):
    tree = tree_of("p", ROWS[:2])
    with Journal(tmp_path / "run.jsonl") as journal:
        write_events(journal, tree)
    address = view(tmp_path / "run.jsonl")
    assert ask(address, "/api", "evil.example")[0] == 421
    assert ask(address, "/api", "evil.example:80")[0] == 421
    assert ask(address, "/api", "localhost")[0] == 200
    status, told = ask(address, "/api")
    assert (status, json.loads(told)) == (200, {**index([tree], title="run.jsonl"), "live": False})
    assert json.loads(ask(address, "/api/node?problem=p&id=2")[1])["text"] == "text 1"
    status, told = ask(address, "/api/node?problem=p&id=7")
    assert (status, "no node '7'" in json.loads(told)["error"]["message"]) == (404, True)
    status, told = ask(address, "/api/events")
    assert re.findall("^event: (.*)$", told, re.MULTILINE) == ["index", "done"]


def test_what_is_no_journal_is_refused_before_anything_is_served(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("notes\n")
    command = [sys.executable, "-m", "led_agent", "view", str(tmp_path / "notes.txt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "line 1 is not a line of a journal" in done.stderr


def test_a_torn_line_waits_until_it_is_whole(tmp_path: Path):
    tree = tree_of("p", ROWS[:1])
    path = tmp_path / "run.jsonl"
    line = line_of("p", tree.started)
    tail, board = Tail(path), Board(path)
    assert tail.read() == []
    with path.open("ab", buffering=0) as file:
        for cut in (1, 9, 40, len(line) - 1):
            file.write(line[path.stat().st_size : cut])
            assert tail.read() == []
            assert board.read() is None
        file.write(line[-1:])
    assert [(start, key, event) for start, key, event in tail.read()] == [(0, "p", tree.started)]
    assert [name for name, _ in board.read() or []] == ["problem"]


def test_a_folder_that_is_made_between_two_looks_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run, tree = tmp_path / "run", tree_of("p", ROWS[:1])
    board = Board(run)

    def made_at_once(at: Path) -> Path:
        found = journal_of(at)
        at.mkdir(exist_ok=True)
        return found

    monkeypatch.setattr("led_agent.pages.live.journal_of", made_at_once)
    assert board.read() is None
    (run / "journal.jsonl").write_bytes(line_of("p", tree.started))
    assert [name for name, _ in board.read() or []] == ["problem"]


def test_a_file_that_was_replaced_is_refused(tmp_path: Path):
    path = tmp_path / "run.jsonl"
    tree = tree_of("p", ROWS[:1])
    path.write_bytes(line_of("p", tree.started) * 2)
    tail = Tail(path)
    assert len(tail.read(1)) == 1
    path.write_bytes(b"")
    with pytest.raises(UsageError, match="replaced"):
        tail.read()


def told_by(board: Board) -> list[Any]:
    found: list[Any] = []
    while (told := board.read()) is not None:
        found += told
    return found


def test_what_is_told_adds_up_to_the_index_and_ended_problems_are_read_again(tmp_path: Path):
    trees = [tree_of(f"p{i}", ROWS[: i + 1]) for i in range(3)]
    with Journal(tmp_path / "run.jsonl") as journal:
        for tree in trees:
            write_events(journal, tree)
    board = Board(tmp_path / "run.jsonl")
    problems: dict[str, Any] = {}
    for name, data in told_by(board):
        if name == "problem":
            problems[data["key"]] = {**data, "nodes": problems.get(data["key"], {}).get("nodes", {})}
        else:
            problems[data["problem"]]["nodes"][data["node"]["id"]] = data["node"]
    added = [{**each, "nodes": list(each["nodes"].values())} for each in problems.values()]
    assert board.index()["problems"] == added == index(trees, title="")["problems"]
    assert board.detail("p2", "3")["text"] == "text 2"
    with pytest.raises(UsageError, match="no problem 'p9'"):
        board.detail("p9", "1")
