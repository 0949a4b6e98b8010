"""Fallback: the whole ladder, and each of its rungs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from led_agent.errors import UsageError
from led_agent.solution import Solution
from led_agent.strategies import BestOfN, Fallback
from led_agent.tree import ROOT, Tree
from led_agent.types import Branch, DecodeRequest, Decoding, Problem, Verdict
from tests.strategies.helpers import PROBLEM, Play, TwoSteps, drawn, outline, run, step_by_step, told

LADDER = {
    "1": "let x = 6\n",
    "1.1": "the answer is 41",
    "1.2": "the answer is 43",
    "1.2.1": "the answer is 44",
    "1.2.1.1": "the answer is 41.0",
    "2": "the answer is 45",
    "3": "the answer is 46",
    "4": "the answer is 41",
}


def climb(**options: Any) -> Solution:
    """Down the whole ladder: one step with two endings, both of them wrong, and so is all that follows."""

    def script(request: DecodeRequest) -> Branch:
        text = LADDER[request.id]
        return Branch(text=text, token_ids=tuple(range(len(text.split()))), finish="step" if request.step else "eos")

    return run(Fallback(TwoSteps(), **{"dead_end": 2, **options}), script)


def test_the_whole_ladder() -> None:
    solution = climb()
    assert drawn(solution.tree) == outline("""
        1 explore [led d=2 k=20 T=0.6] pruned: let x = 6
          1.1 explore [led d=2 k=20 T=0.6] rejected: the answer is 41
          1.2 explore [led d=2 k=20 T=0.6] rejected: the answer is 43
            1.2.1 repair [led d=2 k=20 T=0.6] rejected: the answer is 44
              1.2.1.1 repair [led d=2 k=20 T=0.6] rejected: the answer is 41.0
        2 fallback [greedy] rejected: the answer is 45
        3 fallback [plain T=0.3] rejected: the answer is 46
        4 fallback [plain T=0.3] rejected: the answer is 41
    """)
    assert solution.tree["1"].reason == "all of its 2 answers were rejected"
    triggers = [node.request.trigger for node in solution.tree.nodes() if node.request]
    assert triggers[3] == "1.2 was rejected: no reason was given"
    assert triggers[5] == "4 of 4 branches rejected or failed"
    assert (solution.status, solution.verified) == ("exhausted", False)
    assert solution.answer in ("41", "41.0")
    assert solution.confidence is not None
    assert (solution.confidence.votes, solution.confidence.of) == (3, 7)


def test_each_rung_may_be_left_out() -> None:
    def rungs(**options: Any) -> list[tuple[str, str]]:
        return [(node.id, node.purpose) for node in climb(**options).tree.nodes()]

    explored = [("1", "explore"), ("1.1", "explore"), ("1.2", "explore")]
    repaired = [("1.2.1", "repair"), ("1.2.1.1", "repair")]
    calm = [("2", "fallback"), ("3", "fallback"), ("4", "fallback")]
    assert rungs() == explored + repaired + calm
    assert rungs(repairs=0) == explored + calm
    assert rungs(repairs=1) == explored + repaired[:1] + calm
    assert rungs(tries=0) == explored + repaired
    assert rungs(tries=1) == explored + repaired + calm[:1]
    assert rungs(tries=0, repairs=0) == explored
    assert climb().tree["1"].status == "pruned"
    assert climb(tries=0, dead_end=0).tree["1"].status == "expanded"
    assert climb(tries=0, dead_end=3, repairs=0).tree["1"].status == "expanded"


def test_without_the_vote_the_likeliest_answer_is_given() -> None:
    def script(request: DecodeRequest) -> Branch:
        chance = -0.1 if request.id == "3" else -2.0
        text = "the answer is 43" if request.id == "3" else "the answer is 41"
        return Branch(text=text, token_ids=(1,), final_logprobs=(chance,))

    told = {vote: run(Fallback(BestOfN(4), repairs=0, tries=0, vote=vote), script) for vote in (True, False)}
    assert [told[vote].answer for vote in (True, False)] == ["41", "43"]
    assert [told[vote].confidence.votes for vote in (True, False) if told[vote].confidence] == [3, 1]


def test_a_model_that_cannot_be_asked_to_repair_falls_back_at_once_and_says_so() -> None:
    tree = Play(Fallback(BestOfN(2), tries=1), **told({}, {}), follow_up=False)()
    assert [node.purpose for node in tree.nodes()] == ["explore", "explore", "fallback"]
    assert tree["3"].request is not None
    assert tree["3"].request.trigger.endswith("; this model can't be asked to repair")


def test_a_repair_that_is_accepted_ends_it() -> None:
    tree = Play(Fallback(BestOfN(2)), **told({}, {"2.1": 1.0}))()
    assert [node.id for node in tree.nodes()] == ["1", "2", "2.1"]


def test_steps_with_an_answer_that_was_not_rejected_are_no_dead_end() -> None:
    texts = {"1": "a\n", "2": "b\n"}
    tree = Play(Fallback(TwoSteps(2), dead_end=2), **told(texts, {"1.2": 0.5}))()
    assert [node.status for node in tree.nodes() if node.branch and node.branch.finish == "step"] == ["expanded"] * 2
    assert {node.purpose for node in tree.nodes()} == {"explore"}


def test_an_answer_found_in_the_fallback_ends_it() -> None:
    solution = run(Fallback(BestOfN(2), repairs=0), lambda request: "42!" if request.id == "4" else "41")
    assert drawn(solution.tree) == outline("""
        1 explore [led d=2 k=20 T=0.6] rejected: 41
        2 explore [led d=2 k=20 T=0.6] rejected: 41
        3 fallback [greedy] rejected: 41
        4 fallback [plain T=0.3] accepted: 42!
    """)
    assert (solution.status, solution.text) == ("verified", "42!")


def test_an_answer_found_by_exploring_needs_no_fallback() -> None:
    solution = run(Fallback(BestOfN(2)), ["41", "42"])
    assert drawn(solution.tree) == outline("""
        1 explore [led d=2 k=20 T=0.6] rejected: 41
        2 explore [led d=2 k=20 T=0.6] accepted: 42
    """)


def test_an_answer_found_among_all_that_were_wanted_needs_no_fallback_either() -> None:
    solution = run(Fallback(BestOfN(3, stop_at_first=False)), ["41", "42", "43"])
    assert drawn(solution.tree) == outline("""
        1 explore [led d=2 k=20 T=0.6] rejected: 41
        2 explore [led d=2 k=20 T=0.6] accepted: 42
        3 explore [led d=2 k=20 T=0.6] rejected: 43
    """)


def test_where_the_exploration_was_greedy_the_greedy_try_is_left_out() -> None:
    solution = run(Fallback(BestOfN(1), tries=2, repairs=0), ["41"], decoding=Decoding.greedy())
    assert drawn(solution.tree) == outline("""
        1 explore [greedy] rejected: 41
        2 fallback [plain T=0.3] rejected: 41
        3 fallback [plain T=0.3] rejected: 41
    """)


def test_the_fallback_starts_from_the_deepest_sound_step() -> None:
    script: dict[str, str] = {"1": "let x = 6\n", "1.1": "41", "1.2": "43", "1.3": "44", "1.4": "so 42"}
    solution = run(
        Fallback(TwoSteps(), repairs=0, dead_end=0),
        lambda request: Branch(text=script[request.id], token_ids=(7,), finish="step" if request.step else "eos"),
    )
    assert drawn(solution.tree) == outline("""
        1 explore [led d=2 k=20 T=0.6] expanded: let x = 6
          1.1 explore [led d=2 k=20 T=0.6] rejected: 41
          1.2 explore [led d=2 k=20 T=0.6] rejected: 43
          1.3 fallback [greedy] rejected: 44
          1.4 fallback [plain T=0.3] accepted: so 42
    """)
    assert solution.text == "let x = 6\nso 42"
    assert solution.tree["1.3"].request is not None
    assert solution.tree["1.3"].request.prefix_ids == (7,)


def test_a_step_that_was_given_up_is_not_sound() -> None:
    tree = Tree(PROBLEM)
    for parent in (ROOT, "1", "1.1"):
        (request,) = tree.part("inner").requests(1, parent=parent)
        tree.add(request)
        answer = parent == "1.1"
        tree.attach(Branch(id=request.id, text="x", token_ids=(1,), finish="eos" if answer else "step"))
        tree.judge(request.id, [Verdict(status="rejected")] if answer else [])
    fallback = Fallback(BestOfN(1), repairs=0)
    assert [request.parent for request in fallback.propose(tree, 1)] == ["1.1"]
    tree.prune("1.1", "a dead end")
    assert [request.parent for request in fallback.propose(tree, 1)] == ["1"]
    tree.prune("1", "all of it")
    assert [request.parent for request in fallback.propose(tree, 1)] == [ROOT]


def test_of_two_steps_of_one_depth_the_older_is_taken() -> None:
    solution = run(Fallback(TwoSteps(2), tries=1), step_by_step)
    fallbacks = [node.parent for node in solution.tree.nodes() if node.purpose == "fallback"]
    assert fallbacks == ["1"]


def test_the_fallback_waits_until_every_branch_has_its_verdict() -> None:
    tree = Tree(PROBLEM)
    for request in tree.part("inner").requests(2):
        tree.add(request)
    fallback = Fallback(BestOfN(2), repairs=0)
    tree.attach(Branch(id="1", text="41"))
    tree.judge("1", [Verdict(status="rejected")])
    assert fallback.propose(tree, 4) == []
    tree.attach(Branch(id="2", text="41"))
    assert fallback.propose(tree, 4) == []
    tree.judge("2", [Verdict(status="rejected")])
    assert fallback.propose(tree, 0) == []
    (greedy,) = fallback.propose(tree, 4)
    assert (greedy.id, greedy.decoding, greedy.purpose) == ("3", Decoding.greedy(), "fallback")
    tree.add(greedy)
    assert fallback.propose(tree, 4) == []


def test_failed_branches_count_as_rejected_ones() -> None:
    broken = Branch(text="", finish="error", error="non-finite logits")
    solution = run(Fallback(BestOfN(2)), lambda request: "42" if request.purpose == "fallback" else broken)
    assert [node.status for node in solution.tree.nodes()] == ["failed", "failed", "accepted"]


ONLY_EXPLORED = outline("""
    1 explore [led d=2 k=20 T=0.6] rejected: 41
    2 explore [led d=2 k=20 T=0.6] open: maybe
""")


@pytest.mark.parametrize(
    "unsure",
    [lambda: 0.5, lambda: Verdict(status="abstained"), lambda: Verdict(status="error"), lambda: 1 / 0],
    ids=["score", "abstained", "error", "raises"],
)
def test_a_branch_that_nobody_rejected_is_better_than_a_fallback(unsure: Callable[[], Any]) -> None:
    def verifier(problem: Problem, branch: Branch) -> Any:
        return unsure() if branch.text == "maybe" else False

    solution = run(Fallback(BestOfN(2)), ["41", "maybe"], verifiers=[verifier])
    assert drawn(solution.tree) == ONLY_EXPLORED
    assert (solution.status, solution.text) == ("exhausted", "maybe")


def test_without_a_verifier_there_is_nothing_to_fall_back_from() -> None:
    solution = run(Fallback(BestOfN(2)), ["41", "42"], verifiers=[])
    assert [(node.purpose, node.status) for node in solution.tree.nodes()] == [("explore", "open")] * 2


def test_without_tries_it_is_the_inner_strategy() -> None:
    alone, wrapped = run(BestOfN(3), ["41"]), run(Fallback(BestOfN(3), tries=0, repairs=0), ["41"])
    assert drawn(alone.tree) == drawn(wrapped.tree)


def test_the_fallback_does_not_explore_whatever_the_search_does() -> None:
    solution = run(Fallback(BestOfN(1), repairs=0), ["41"], decoding=Decoding.led("official", span="all"))
    decodings = [node.request.decoding for node in solution.tree.nodes() if node.request]
    assert decodings == [
        Decoding.led("official", span="all"),
        Decoding.greedy(),
        Decoding.plain(0.3),
        Decoding.plain(0.3),
    ]


def test_the_tries_are_different_branches() -> None:
    solution = run(Fallback(BestOfN(1), tries=5, repairs=0), ["41"])
    seeds = [node.request.seed for node in solution.tree.nodes() if node.request]
    assert len(set(seeds)) == 6


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tries": -1}, "tries of at least 0, found -1"),
        ({"repairs": -1}, "repairs of at least 0"),
        ({"dead_end": -1}, "dead_end of at least 0"),
        ({"temperature": 0.0}, "temperature above 0, found 0.0"),
        ({"temperature": -1.0}, "temperature above 0"),
        ({"temperature": float("nan")}, "temperature above 0"),
    ],
)
def test_a_fallback_that_cannot_be_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Fallback(**options)


def test_the_fallback_is_content_when_the_inner_strategy_is() -> None:
    @dataclass(frozen=True)
    class Content(BestOfN):
        def finished(self, tree: Tree) -> bool:
            return len(tree.leaves()) >= 2

    solution = run(Fallback(Content(5)), ["41"])
    assert "the strategy is content" in solution.reason
    assert all(node.purpose == "explore" for node in solution.tree.nodes())


def test_an_accepted_fallback_is_enough_even_for_a_strategy_that_wants_all() -> None:
    tree = Tree(PROBLEM)
    for purpose in ("explore", "fallback"):
        view = tree.part("inner") if purpose == "explore" else tree
        (request,) = view.requests(1, purpose=purpose)
        tree.add(request)
        tree.attach(Branch(id=request.id, text="x"))
    strategy = Fallback(BestOfN(1, stop_at_first=False))
    tree.judge("1", [Verdict(status="accepted")])
    assert not strategy.finished(tree)
    tree.judge("2", [Verdict(status="accepted")])
    assert strategy.finished(tree)


def test_around_a_strategy_without_finished_the_first_accepted_branch_ends_it() -> None:
    tree = Tree(PROBLEM)
    (request,) = tree.part("inner").requests(1)
    tree.add(request)
    tree.attach(Branch(id="1", text="42"))
    assert not Fallback(TwoSteps()).finished(tree)
    tree.judge("1", [Verdict(status="accepted")])
    assert Fallback(TwoSteps()).finished(tree)
