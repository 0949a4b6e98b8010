"""The answer of a search in which nothing was accepted."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from led_agent import counting
from led_agent.events import Event
from led_agent.journal import Journal, read_trees
from led_agent.protocols import BranchProgress
from led_agent.search import Search, solve
from led_agent.solution import Solution
from led_agent.strategies import BestOfN
from led_agent.testing import ScriptedDecoder
from led_agent.tree import ROOT, Tree
from led_agent.types import Branch, Budget, DecodeRequest, Problem, Verdict

PROBLEM = Problem(prompt="What is a half?", id="half")
HALVES = ["the answer is 0.7", "the answer is 1/2", "the answer is 0.3", r"so \boxed{\frac{1}{2}}", "the answer is 0.5"]
SAFETY = Budget(seconds=60)


def ask(script: Any, strategy: Any = None, **options: Any) -> Solution:
    decoder = options.pop("decoder", None) or ScriptedDecoder(script)
    chosen = strategy if strategy is not None else BestOfN(len(script))
    return solve(PROBLEM, decoder=decoder, strategy=chosen, **{"verifiers": [], "budget": SAFETY, **options})


def by_place(request: DecodeRequest) -> str:
    return HALVES[int(request.id) - 1]


def test_answers_that_are_equal_as_mathematics_are_one() -> None:
    solution = ask(HALVES)
    assert (solution.status, solution.verified) == ("exhausted", False)
    assert solution.confidence is not None
    assert (solution.confidence.votes, solution.confidence.of) == (3, 5)
    assert solution.answer in ("1/2", "0.5", r"\frac{1}{2}")
    best = solution.tree.best()
    assert best is not None
    assert solution.text == solution.tree.text(best.id)


def test_an_accepted_answer_needs_no_vote() -> None:
    solution = ask(HALVES, verifiers=[lambda problem, branch: "0.7" in branch.text])
    assert (solution.verified, solution.confidence) == (True, None)


def test_scores_of_verifiers_go_before_votes() -> None:
    solution = ask(
        ["it is 1", "it is 2", "it is 2"], verifiers=[lambda problem, branch: 0.3 + 0.3 * ("1" in branch.text)]
    )
    assert solution.answer == "1"
    assert solution.confidence is not None
    assert (solution.confidence.votes, solution.confidence.of) == (1, 3)


def test_without_any_answer_the_best_is_the_trees() -> None:
    solution = ask(["not yet", "no idea"])
    assert (solution.text, solution.confidence) == ("not yet", None)


@dataclass(frozen=True)
class Choosing(BestOfN):
    """Chooses a node, or does what it is told."""

    chosen: str | None = "1"

    def choose(self, tree: Tree) -> str | None:
        if self.chosen == "raise":
            raise ValueError("I can't choose")
        return self.chosen


def test_what_the_strategy_chooses_is_the_answer() -> None:
    solution = ask(HALVES, Choosing(5))
    assert solution.answer == "0.7"
    assert solution.confidence is not None
    assert (solution.confidence.votes, solution.confidence.of) == (1, 5)
    assert solution.tree.ended is not None
    assert solution.tree.ended.best == "1"
    scored = ask(HALVES, Choosing(5), verifiers=[lambda problem, branch: 0.3 + 0.3 * ("0.3" in branch.text)])
    assert scored.answer == "0.7"
    none = ask(HALVES, Choosing(5, chosen=None))
    assert none.confidence is not None
    assert none.confidence.votes == 3


@pytest.mark.parametrize(("chosen", "told"), [("raise", "I can't choose"), ("9", "'9'")])
def test_a_choice_that_fails_is_a_note(chosen: str, told: str) -> None:
    solution = ask(HALVES, Choosing(5, chosen=chosen))
    assert solution.status == "exhausted"
    assert solution.confidence is not None
    assert solution.confidence.votes == 3
    (note,) = solution.tree[ROOT].notes
    assert told in note
    assert "Choosing" in note


def test_the_journal_holds_what_was_decided(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with Journal(path) as journal:
        solution = ask(by_place, BestOfN(5), journal=journal)
    kept = read_trees(path)["half"]
    assert kept.ended is not None
    assert kept.ended.confidence == solution.confidence
    assert Solution.of(kept, kept.ended).row() == solution.row()
    with Journal(path) as journal:
        assert ask(by_place, BestOfN(5), journal=journal).row() == solution.row()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-4]))
    with Journal(path) as journal:
        again = ask(by_place, BestOfN(5), journal=journal)
    assert (again.text, again.confidence) == (solution.text, solution.confidence)


def test_a_tree_that_was_read_back_gives_the_answer_decided_on() -> None:
    tree = ask(HALVES, Choosing(5, chosen="3")).tree
    for again in (Tree.from_json(tree.to_json()), Tree.from_graphml(tree.to_graphml())):
        best = again.best()
        assert best is not None
        assert best.id == "3"
        assert again.ended == tree.ended


def test_an_interrupted_run_counts_by_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("nobody waits for this")

    monkeypatch.setattr("led_agent.verifiers.equivalence.equivalence_groups", never)
    decoder = ScriptedDecoder(["the answer is 1/2", "the answer is 0.7", r"\boxed{\frac{1}{2}}", "the answer is 0.7"])

    def observer(tree: Tree, event: Event | BranchProgress) -> None:
        if len(tree.leaves()) == 4:
            search.stop()

    search = Search(decoder=decoder, strategy=Lasting(4), verifiers=[], budget=SAFETY, observer=observer)
    solution = search.solve(PROBLEM)
    assert solution.status == "interrupted"
    assert solution.answer == "0.7"
    assert solution.confidence is not None
    assert (solution.confidence.votes, solution.confidence.of) == (2, 4)


@dataclass(frozen=True)
class Lasting:
    """Asks for ever more."""

    n: int

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        return tree.requests(1)


def test_where_comparing_fails_spelling_decides_and_it_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise OSError("no process can be started")

    monkeypatch.setattr("led_agent.verifiers.equivalence.equivalence_groups", fails)
    solution = ask([*HALVES, "the answer is 0.3", "the answer is 0.3"])
    assert solution.answer == "0.3"
    assert solution.tree[ROOT].notes == ("answers were compared by their spelling: no process can be started",)


def test_who_takes_too_long_to_compare_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(*_: Any) -> None:
        begun.set()
        go.wait(60)
        raise OSError("too late")

    monkeypatch.setattr("led_agent.verifiers.equivalence.equivalence_groups", slow)
    monkeypatch.setattr(counting, "_PATIENCE", 0.01)
    solution = ask([*HALVES, "the answer is 0.3", "the answer is 0.3"])
    go.set()
    assert solution.answer == "0.3"


def test_an_end_that_is_cut_off_gives_no_verdict() -> None:
    """A branch that was not finished has no say, however it reads."""
    cut = {"3": "length", "2": "error"}

    def script(request: DecodeRequest) -> Branch:
        finish: Any = cut.get(request.id, "eos")
        return Branch(
            text=HALVES[int(request.id) - 1], token_ids=(1,), finish=finish, error="gone" if finish == "error" else None
        )

    solution = ask(script, BestOfN(5))
    assert solution.confidence is not None
    assert (solution.confidence.votes, solution.confidence.of) == (2, 4)


def test_a_vote_among_rejected_answers_is_not_verified() -> None:
    solution = ask(HALVES, verifiers=[lambda problem, branch: Verdict(status="rejected")])
    assert (solution.verified, solution.status) == (False, "exhausted")
    assert solution.confidence is not None
    assert solution.confidence.votes == 2  # what reads the same: which wrong answers are equal is not computed
