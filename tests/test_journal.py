"""The journal: whatever happens to process or disk, what was written is read back, and a run goes on from it."""

from __future__ import annotations

import fcntl
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from led_agent.errors import MachineError, UsageError
from led_agent.events import Ended, Event, Noted
from led_agent.journal import Journal, drop_torn_line, read_events, read_trees
from led_agent.protocols import BranchProgress
from led_agent.search import Search
from led_agent.solution import Solution
from led_agent.strategies import BestOfN, Fallback
from led_agent.testing import ScriptedDecoder
from led_agent.tree import ROOT, Tree
from led_agent.types import Branch, Budget, DecodeRequest, Decoding, Problem, Verdict

WRONG = "I think it is 41"
PROBLEM = Problem(prompt="What is 6 x 7?", id="six", answer="42")


def says_42(problem: Problem, branch: Branch) -> bool:
    return "42" in branch.text


def told(request: DecodeRequest) -> str:
    """Wrong, and otherwise a matter of the seed alone."""
    return f"{WRONG} or {request.seed % 1000} "


def searching(decoder: ScriptedDecoder, journal: Journal, **options: Any) -> Search:
    chosen = {
        "strategy": Fallback(BestOfN(3), repairs=0),
        "verifiers": [says_42],
        "decoding": Decoding.led(depths=2),
        **options,
    }
    return Search(decoder=decoder, journal=journal, **chosen)


def what_came_of_it(tree: Tree) -> list[tuple[Any, ...]]:
    return [(n.id, n.status, n.purpose, tree.text(n.id), [v.status for v in n.verdicts]) for n in tree.nodes()]


def a_run(path: Path, **options: Any) -> Solution:
    with Journal(path) as journal, searching(ScriptedDecoder(told), journal, **options) as search:
        return search.solve(PROBLEM)


# --- written and read back -----------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "run.jsonl"
    tree = Tree(PROBLEM)
    written: list[Event] = [tree.started]
    with Journal(path) as journal:
        journal.begin(tree)
        tree.listen(lambda event: journal.record(tree.problem.key, event))
        tree.listen(written.append)
        for request in tree.requests(2):
            tree.add(request)
        tree.attach(Branch(id="1", text="41\u2028\r\n\x00🦊\ud800", token_ids=(1, 2)))
        tree.judge("1", [Verdict(status="rejected")])
        tree.note("1", "x")
        tree.prune("2", "enough")
        tree.end(Ended(status="exhausted", reason="x"))
    assert [(key, event.event) for key, event in read_events(path)] == [("six", event.event) for event in written]
    assert [event for _, event in read_events(path)] == written
    assert read_trees(path)["six"].to_json() == tree.to_json()


def test_each_event_is_one_line_that_names_its_problem(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    a_run(path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert {row["key"] for row in rows} == {"six"}
    assert rows[0]["event"] == "started"
    assert rows[-1]["event"] == "ended"


def test_an_event_is_on_the_disk_before_the_next_begins(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    seen: list[bool] = []

    def observer(tree: Tree, event: Event | BranchProgress) -> None:
        if not isinstance(event, BranchProgress):
            seen.append(list(read_events(path))[-1][1] == event)

    a_run(path, observer=observer)
    assert len(seen) > 10
    assert all(seen)


def test_a_start_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    for _ in range(2):
        with Journal(path) as journal:
            journal.begin(Tree(PROBLEM))
            journal.begin(Tree(PROBLEM))
    assert len(list(read_events(path))) == 1


def test_problems_may_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    trees = [Tree(Problem(prompt=f"question {k}", id=f"p{k}"), seed=k) for k in range(3)]
    with Journal(path) as journal:
        for tree in trees:
            journal.begin(tree)
            tree.listen(lambda event, key=tree.problem.key: journal.record(key, event))
        for step in range(3):
            for tree in trees[step:]:
                (request,) = tree.requests(1)
                tree.add(request)
        for tree in reversed(trees):
            tree.attach(Branch(id="1", text=tree.problem.key))
    found = read_trees(path)
    assert list(found) == ["p0", "p1", "p2"]
    assert [tree.to_json() for tree in found.values()] == [tree.to_json() for tree in trees]
    assert [len(tree) for tree in trees] == [2, 3, 4]


def test_an_empty_file_is_an_empty_journal(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.touch()
    assert read_trees(path) == {}
    with Journal(path) as journal:
        assert list(journal) == []


# --- the index -----------------------------------------------------------------------------------------------------

KEYS = st.text(st.characters(exclude_categories=()), min_size=1) | st.sampled_from(['"', "\\", '\\"', '", "event": "'])
TEXTS = st.text(st.characters(exclude_categories=()))
STEPS: dict[str, Callable[[Tree, str], object]] = {
    "ask": lambda tree, text: tree.add(tree.requests(1)[0]),
    "answer": lambda tree, text: [
        tree.attach(Branch(id=n.id, text=text, token_ids=(7, 300), logprobs=(-0.1, -1e-9))) for n in tree.pending()[:1]
    ],
    "judge": lambda tree, text: [
        tree.judge(n.id, [Verdict(status="rejected", reason=text)]) for n in tree.leaves() if n.status != "pruned"
    ],
    "note": lambda tree, text: tree.note(ROOT, text),
    "prune": lambda tree, text: [tree.prune(n.id, text) for n in tree.nodes()[:1]],
    "interrupt": lambda tree, text: tree.end(Ended(status="interrupted", reason=text)),
    "end": lambda tree, text: tree.end(Ended(status="exhausted", reason=text)),
}


def same(journal: Journal, events: dict[str, list[Event]]) -> None:
    """Whether the journal holds these, by problem, and nothing else."""
    assert list(journal) == list(events)
    assert len(journal) == len(events)
    for key, own in events.items():
        ended = [event.status for event in own if isinstance(event, Ended)]
        kept, whole = journal.kept(key), Tree.replay(own)
        assert kept is not None
        assert kept.to_json() == whole.to_json()
        assert journal.ended(key) == (ended[-1] if ended else None)
        assert journal.finished(key) == (ended[-1:] == ["exhausted"])


@given(
    st.lists(KEYS, min_size=1, max_size=4, unique=True),
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(list(STEPS)), TEXTS), max_size=20),
    st.integers(0, 200),
)
def test_however_problems_take_turns_each_tree_is_the_replay_of_its_events(
    keys: list[str], turns: list[tuple[int, str, str]], torn: int
) -> None:
    """While it is written, opened again, and opened again after a kill that tore the last line."""
    trees: dict[str, Tree] = {}
    events: dict[str, list[Event]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.jsonl"
        with Journal(path) as journal:
            for number, step, text in turns:
                key = keys[number % len(keys)]
                if key not in trees:
                    tree = trees[key] = Tree(Problem(prompt="x", id=key, metadata={"x": text}))
                    journal.begin(tree)
                    events[key] = [tree.started]
                    tree.listen(events[key].append)
                    tree.listen(lambda event, key=key: journal.record(key, event))
                STEPS[step](trees[key], text)
            same(journal, events)
        with Journal(path) as journal:
            same(journal, events)
        assert {key: tree.to_json() for key, tree in read_trees(path).items()} == {
            key: Tree.replay(own).to_json() for key, own in events.items()
        }
        for line, (key, event) in zip(path.read_bytes().splitlines(), read_events(path), strict=True):
            assert json.loads(line) == {"key": key, **event.model_dump(mode="json")}
            assert line.isascii()
            assert list(json.loads(line))[:2] == ["key", "event"]
        whole = path.read_bytes()
        path.write_bytes(whole[: max(0, len(whole) - 1 - torn)])
        left: dict[str, list[Event]] = {}
        for key, event in read_events(path):
            left.setdefault(key, []).append(event)
        assert all(own == events[key][: len(own)] for key, own in left.items())
        with Journal(path) as journal:
            same(journal, left)


def test_a_line_that_another_program_has_written_anew_is_still_one(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    first = a_run(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row, sort_keys=True, indent=None) + "\n" for row in lines))
    with Journal(path) as journal:
        kept = journal.kept("six")
        assert journal.finished("six")
    assert kept is not None
    assert kept.to_json() == first.tree.to_json()


def test_a_tree_is_built_anew_each_time_and_is_the_callers_own(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    a_run(path)
    with Journal(path) as journal:
        mine, other = journal.kept("six"), journal.kept("six")
        assert mine is not None
        assert other is not None
        mine.note(ROOT, "mine")
        assert other[ROOT].notes == ()
        assert journal.kept("seven") is None


def test_what_is_done_to_a_tree_after_its_end_is_not_the_journals(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with Journal(path) as journal, searching(ScriptedDecoder(told), journal) as search:
        solution = search.solve(PROBLEM)
        content = path.read_bytes()
        solution.tree.note(ROOT, "afterwards")
    assert path.read_bytes() == content


def test_an_event_before_the_start_and_a_second_start_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with Journal(path) as journal:
        with pytest.raises(UsageError, match="'six' before its start"):
            journal.record("six", Noted(id="root", text="x"))
        journal.begin(Tree(PROBLEM))
        with pytest.raises(UsageError, match="starts the problem 'six' twice"):
            journal.record("six", Tree(PROBLEM).started)
    assert len(list(read_events(path))) == 1


@pytest.mark.parametrize("block", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(
    "content", [b"", b"\n", b"torn", b"one\n", b"one\ntwo\nto", b"one\n\n", b"one\ntwo\n\ntorn now"]
)
def test_a_torn_line_is_found_from_the_end_whatever_the_size_of_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, block: int
) -> None:
    monkeypatch.setattr("led_agent.lines._BLOCK", block)
    path = tmp_path / "lines"
    path.write_bytes(content)
    drop_torn_line(path)
    assert path.read_bytes() == content[: content.rfind(b"\n") + 1]


# --- torn ----------------------------------------------------------------------------------------------------------


def test_a_line_torn_anywhere_costs_that_line_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    tree = Tree(PROBLEM)
    with Journal(path) as journal:
        journal.begin(tree)
        tree.listen(lambda event: journal.record("six", event))
        tree.add(tree.requests(1)[0])
        tree.note("1", "wörds \n and more")
    whole = path.read_bytes()
    before = whole[: whole.rindex(b"\n", 0, -1) + 1]
    events = [event for _, event in read_events(path)]
    for size in range(len(before), len(whole)):
        path.write_bytes(whole[:size])
        assert [event for _, event in read_events(path)] == events[:-1]
        assert path.read_bytes() == whole[:size]
        with Journal(path) as journal:
            kept = journal.kept("six")
            assert kept is not None
            assert kept.to_json() == Tree.replay(events[:-1]).to_json()
            journal.record("six", Noted(id="1", text="afterwards"))
        assert [event for _, event in read_events(path)] == [*events[:-1], Noted(id="1", text="afterwards")]
        assert path.read_bytes().startswith(before)


def test_a_journal_torn_in_its_first_line_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    a_run(path)
    whole = path.read_bytes()
    for size in (1, 5, whole.index(b"\n")):
        path.write_bytes(whole[:size])
        assert read_trees(path) == {}
        assert a_run(path).status == "exhausted"
        assert read_trees(path)["six"].ended is not None


# --- refused -------------------------------------------------------------------------------------------------------


def started() -> bytes:
    return json.dumps({"key": "six", **Tree(PROBLEM).started.model_dump(mode="json")}).encode() + b"\n"


def noted(problem: str = "six") -> bytes:
    return json.dumps({"key": problem, "event": "noted", "id": "root", "text": "x"}).encode() + b"\n"


def opened(path: Path) -> None:
    Journal(path).close()


def taken_up(path: Path) -> None:
    with Journal(path) as journal:
        journal.kept("six")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\n",
        b"hello\n",
        b"{}\n",
        b"[1]\n",
        b"3\n",
        b"null\n",
        b"\xff\xfe\x00\n",
        b"hello\rworld\n",
        b'{"key": "six"}\n',
        b'{"key": "six", "event": "exploded"}\n',
        b'{"key": "six", "event": ["noted"]}\n',
        b'{"key": "six", "event": "ended", "status": "bored", "reason": ""}\n',
        b'{"event": "noted", "id": "root", "text": "x"}\n',
        noted()[:20] + noted(),
        b"[" * 100_000 + b"\n",
    ],
    ids=lambda garbage: repr(garbage[:30]),
)
def test_garbage_in_the_middle_is_refused_with_its_line_and_left_as_it_is(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "run.jsonl"
    content = started() + noted() + garbage + noted()
    path.write_bytes(content)
    for read in (read_trees, opened):
        with pytest.raises(UsageError, match=r"run\.jsonl line 3 "):
            read(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (b'{"key": "six", "event": "noted", "id": "1"}\n', "line 3 is no event of a journal: noted.text"),
        (b'{"key": "six", "event": "noted", "id": "1", "text": 3}\n', "line 3 is no event of a journal: noted.text"),
        (b'{"key": "six", "event": "noted", "id": "root", "te\n', "line 3 is not a line of a journal"),
        (noted()[:50] + noted(), "line 3 is not a line of a journal"),
        (noted().replace(b"root", b"9"), "line 3: .*no node '9'"),
    ],
)
def test_a_line_with_a_sound_head_is_refused_when_its_tree_is_asked_for(tmp_path: Path, bad: bytes, said: str) -> None:
    """Opening reads no more than the heads of lines; the trees of other problems are there all the same."""
    path = tmp_path / "run.jsonl"
    other = started().replace(b'"six"', b'"seven"')
    content = started() + other + bad + noted("seven")
    path.write_bytes(content)
    for read in (read_trees, taken_up):
        with pytest.raises(UsageError, match=rf"run\.jsonl {said}"):
            read(path)
    with Journal(path) as journal:
        seven = journal.kept("seven")
    assert seven is not None
    assert seven[ROOT].notes == ("x",)
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"my only copy", b'{"prompt": "What is 6 x 7?"}', b'{"key', b"\x80\x81", b"{"])
def test_a_file_that_is_something_else_is_not_touched(tmp_path: Path, content: bytes) -> None:
    """A last line without its end is dropped only where it can be the beginning of one of ours."""
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    if b'{"key": "'.startswith(content):
        assert read_trees(path) == {}
        return
    with pytest.raises(UsageError, match=r"mine\.json line 1 "):
        Journal(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (started() + started(), "starts the problem 'six' twice"),
        (noted(), "'six' before its start"),
        (started() + noted("seven"), "'seven' before its start"),
    ],
)
def test_events_that_are_no_run_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said):
        Journal(path)
    assert path.read_bytes() == content


def test_a_folder_that_is_a_file_is_the_machines_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MachineError, match="choose another place"):
        Journal(tmp_path / "file" / "run.jsonl")
    with pytest.raises(MachineError, match="can't write"):
        Journal(tmp_path)


def test_a_file_that_another_run_writes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("led_agent.journal._PAUSE", 0.0)
    with Journal(tmp_path / "run.jsonl"), pytest.raises(MachineError, match="is being written by another run"):
        Journal(tmp_path / "run.jsonl")


def test_who_looks_whether_a_run_goes_on_keeps_none_from_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.jsonl"
    path.touch()
    with path.open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        monkeypatch.setattr("led_agent.journal.time.sleep", lambda seconds: looking.close())
        with Journal(path):
            assert looking.closed


def test_a_journal_that_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="can't read"):
        list(read_events(tmp_path / "none.jsonl"))
    assert not (tmp_path / "none.jsonl").exists()


@pytest.mark.parametrize("room", [0, 1, 20])
def test_a_full_disk_is_the_machines_fault_however_much_of_the_line_went_in(tmp_path: Path, room: int) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "run.jsonl"
    with Journal(path) as journal:
        journal.begin(Tree(PROBLEM))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, limits[1]))
        try:
            with pytest.raises(MachineError, match="can't write"):
                journal.record("six", Noted(id="root", text="x"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert len(list(read_events(path))) == 1
        journal.record("six", Noted(id="root", text="when there is room again"))
        kept = journal.kept("six")
    assert kept is not None
    assert kept[ROOT].notes == ("when there is room again",)
    assert len(list(read_events(path))) == 2


# --- resumed -------------------------------------------------------------------------------------------------------


def test_a_run_killed_after_any_event_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    whole = a_run(path)
    assert whole.status == "exhausted"
    lines = path.read_bytes().splitlines(keepends=True)
    for count in range(len(lines) + 1):
        path.write_bytes(b"".join(lines[:count]))
        held = read_trees(path).get("six")
        decoded = sum(node.branch is not None for node in held.nodes()) if held else 0
        decoder = ScriptedDecoder(told)
        with Journal(path) as journal, searching(decoder, journal) as search:
            again = search.solve(PROBLEM)
        assert what_came_of_it(again.tree) == what_came_of_it(whole.tree)
        assert (again.status, again.text, again.reason) == (whole.status, whole.text, whole.reason)
        assert len(decoder.requests) == len(whole.tree) - 1 - decoded
        assert (again.usage.branches, again.usage.verifier_calls) == (6, 6)
        assert again.usage.generated_tokens == whole.usage.generated_tokens
        assert read_trees(path)["six"].to_json() == again.tree.to_json()


def test_a_finished_problem_is_not_run_again(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    first = a_run(path)
    content = path.read_bytes()
    decoder = ScriptedDecoder(told)
    with Journal(path) as journal, searching(decoder, journal) as search:
        again = search.solve(PROBLEM)
    assert decoder.requests == []
    assert path.read_bytes() == content
    assert again.row() == first.row()


def test_only_the_unfinished_of_many_are_run(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    problems = [Problem(prompt=f"question {k}", id=f"p{k}") for k in range(4)]
    with Journal(path) as journal, searching(ScriptedDecoder(told), journal) as search:
        list(search.solve_many(problems[:2]))
    decoder = ScriptedDecoder(told)
    with Journal(path) as journal, searching(decoder, journal) as search:
        solutions = list(search.solve_many(problems))
    assert [solution.problem.key for solution in solutions] == ["p0", "p1", "p2", "p3"]
    assert {request.problem for request in decoder.requests} == {"p2", "p3"}
    assert list(read_trees(path)) == ["p0", "p1", "p2", "p3"]


def test_a_resumed_run_that_can_no_longer_pay_its_verifiers_sends_nothing_more(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    interrupted_at(path, 1)
    decoder = ScriptedDecoder(told, hold=True)
    budget = Budget(verifier_calls=1, seconds=60)
    with Journal(path) as journal, searching(decoder, journal, verifiers=[says_42] * 2, budget=budget) as search:
        solution = search.solve(PROBLEM)
    assert (solution.status, solution.usage.verifier_calls) == ("budget", 0)
    assert decoder.requests == []


@pytest.mark.parametrize("limit", [{"branches": 4}, {"tokens": 22}, {"verifier_calls": 3}])
def test_what_was_spent_before_counts(tmp_path: Path, limit: dict[str, int]) -> None:
    """Three branches, 21 tokens and two calls were; each limit leaves room for one branch more."""
    path = tmp_path / "run.jsonl"
    a_run(path)
    lines = path.read_bytes().splitlines(keepends=True)
    second = [k for k, line in enumerate(lines) if b'"event": "judged"' in line][1]
    path.write_bytes(b"".join(lines[: second + 1]))
    spent = read_trees(path)["six"].usage()
    assert (spent.branches, spent.generated_tokens, spent.verifier_calls) == (3, 21, 2)
    decoder = ScriptedDecoder(told)
    with Journal(path) as journal, searching(decoder, journal, budget=Budget(seconds=60, **limit)) as search:
        assert search.solve(PROBLEM).status == "budget"
    assert [request.id for request in decoder.requests] == ["4"]


def interrupted_at(path: Path, finished: int) -> Solution:
    """A run that is stopped once so many branches have come back, with the others still on their way."""
    decoder = ScriptedDecoder(told, hold=True)
    stopped = False

    def observer(tree: Tree, event: Event | BranchProgress) -> None:
        nonlocal stopped
        if not stopped and len(decoder.requests) == 3:
            stopped = True
            decoder.release(finished)
            search.stop()

    with Journal(path) as journal:
        search = searching(decoder, journal, observer=observer, verifiers=[])
        return search.solve(PROBLEM)


@pytest.mark.parametrize("finished", [0, 1, 2])
def test_what_an_interruption_cut_off_is_decoded_whole_when_resumed(tmp_path: Path, finished: int) -> None:
    path = tmp_path / "run.jsonl"
    first = interrupted_at(path, finished)
    assert first.status == "interrupted"
    assert [node.status for node in first.tree.nodes()] == ["open"] * finished + ["pruned"] * (3 - finished)
    cut = [node.id for node in first.tree.nodes() if node.status == "pruned"]
    decoder = ScriptedDecoder(told)
    with Journal(path) as journal, searching(decoder, journal, verifiers=[]) as search:
        again = search.solve(PROBLEM)
    assert [request.id for request in decoder.requests] == cut
    assert decoder.requests == [node.request for node in first.tree.nodes() if node.id in cut]
    assert again.status == "exhausted"
    assert all(again.tree.text(request.id) == told(request) for request in decoder.requests)
    assert read_trees(path)["six"].to_json() == again.tree.to_json()


def test_a_run_may_go_on_with_the_journal_that_is_still_open(tmp_path: Path) -> None:
    """As one does who stops a search and asks the same one again."""
    path = tmp_path / "run.jsonl"
    decoder = ScriptedDecoder(told, hold=True)

    def observer(tree: Tree, event: Event | BranchProgress) -> None:
        if decoder.hold and len(decoder.requests) == 3:
            decoder.hold = False
            search.stop()

    with Journal(path) as journal, searching(decoder, journal, observer=observer) as search:
        assert search.solve(PROBLEM).status == "interrupted"
        again = search.solve(PROBLEM)
        assert again.status == "exhausted"
        once_more = search.solve(PROBLEM)
    assert [request.id for request in decoder.requests] == ["1", "2", "3", "1", "2", "3", "4", "5", "6"]
    assert all(again.tree.text(request.id) == told(request) for request in decoder.requests)
    assert once_more.row() == again.row()
    events = [event for _, event in read_events(path)]
    assert len(events) == len({event.model_dump_json() for event in events})
    assert read_trees(path)["six"].to_json() == again.tree.to_json()


def test_a_run_broken_off_by_ctrl_c_goes_on_with_the_journal_that_is_still_open(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    pressed = False

    def observer(tree: Tree, event: Event | BranchProgress) -> None:
        nonlocal pressed
        if not pressed and len(tree.leaves()) == 2:
            pressed = True
            raise KeyboardInterrupt

    with Journal(path) as journal, searching(ScriptedDecoder(told), journal, observer=observer) as search:
        with pytest.raises(KeyboardInterrupt):
            search.solve(PROBLEM)
        again = search.solve(PROBLEM)
    assert again.status == "exhausted"
    assert read_trees(path)["six"].to_json() == again.tree.to_json()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"max_tokens": 9}, "max_tokens"),
        ({"stop": ["END"]}, "stop"),
        ({"decoding": Decoding.greedy()}, "decoding"),
        ({"seed": 1, "max_tokens": 9}, "seed and max_tokens"),
    ],
)
def test_settings_changed_on_resume_are_refused_by_name(tmp_path: Path, changed: dict[str, Any], named: str) -> None:
    path = tmp_path / "run.jsonl"
    a_run(path)
    content = path.read_bytes()
    with pytest.raises(UsageError, match=f"'six' with another {named};"):
        a_run(path, **changed)
    assert path.read_bytes() == content


def test_another_problem_under_the_same_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    a_run(path)
    with Journal(path) as journal, pytest.raises(UsageError, match="another problem"):
        searching(ScriptedDecoder(told), journal).solve(Problem(prompt="What is 7 x 8?", id="six"))


def test_a_problem_is_the_same_after_json_has_made_lists_of_its_tuples(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    problem = Problem(prompt="add", id="add", tests=[{"args": (1, 2), "expect": 3}], metadata={"span": (1, 2)})
    for _ in range(2):
        with Journal(path) as journal, searching(ScriptedDecoder(told), journal) as search:
            assert search.solve(problem).status == "exhausted"


def test_budget_strategy_and_verifiers_may_change_from_run_to_run(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    interrupted_at(path, 1)
    with Journal(path) as journal:
        search = searching(ScriptedDecoder(["it is 42"]), journal, strategy=BestOfN(5))
        assert search.solve(PROBLEM).verified
