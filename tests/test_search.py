"""The loop, with a scripted decoder: when it ends, what it gives back, and what it makes of plug-ins that fail."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from led_agent.errors import UsageError
from led_agent.events import Event
from led_agent.journal import Journal
from led_agent.protocols import BranchDone, BranchProgress
from led_agent.search import Search, _Noted, as_problem, solve, solve_many
from led_agent.solution import Solution
from led_agent.strategies import BestOfN, Fallback
from led_agent.testing import ScriptedDecoder
from led_agent.tree import ROOT, Tree
from led_agent.types import Branch, Budget, DecodeRequest, Decoding, Message, Problem, Verdict

PROBLEM = Problem(prompt="What is 6 x 7?", id="six", answer="42")
RIGHT, WRONG = "it must be 42", "it must be 41"
SAFETY = Budget(seconds=60)  # ends a run that would otherwise hang, so that the test fails instead


def says_42(problem: Problem, branch: Branch) -> bool:
    return "42" in branch.text


def right_at(*ids: str) -> Callable[[DecodeRequest], str]:
    """A script that is right on these branches and wrong on all others."""
    return lambda request: RIGHT if request.id in ids else WRONG


def returning(value: object) -> Any:
    def verifier(problem: Problem, branch: Branch) -> object:
        return value

    return verifier


def statuses(solution: Solution) -> dict[str, str]:
    return {node.id: node.status for node in solution.tree.nodes()}


def waited(event: threading.Event) -> bool:
    """Whether it came; a test that waits in vain fails and does not hang."""
    return event.wait(30)


@dataclass
class Watch:
    """An observer that keeps what it saw, and does something about it."""

    then: Callable[[Tree, Event | BranchProgress], None] = lambda tree, event: None
    events: list[tuple[str, Event | BranchProgress]] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def __call__(self, tree: Tree, event: Event | BranchProgress) -> None:
        self.events.append((tree.problem.key, event))
        self.threads.add(threading.get_ident())
        self.then(tree, event)

    def of(self, key: str) -> list[Event]:
        return [event for name, event in self.events if name == key and not isinstance(event, BranchProgress)]

    def growing(self) -> int:
        return sum(isinstance(event, BranchProgress) for _, event in self.events)


@dataclass(frozen=True)
class OneByOne:
    """The next branch when the verdict on the last is in."""

    n: int = 4

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        judged = all(node.verdicts for node in tree.nodes())
        return tree.requests(1) if judged and len(tree) <= self.n else []


# --- best of n -----------------------------------------------------------------------------------------------------


def test_the_accepted_branch_is_the_solution() -> None:
    solution = solve(
        PROBLEM, decoder=ScriptedDecoder(right_at("3")), strategy=BestOfN(4), verifiers=[says_42], budget=SAFETY
    )
    assert (solution.status, solution.verified, solution.text, solution.answer) == ("verified", True, RIGHT, "42")
    assert solution.verdict is not None
    assert (solution.verdict.verifier, solution.verdict.status) == ("says_42", "accepted")
    assert solution.branch is not None
    assert solution.branch.id == "3"
    assert "branch 3 of 4 accepted by says_42" in solution.reason
    assert solution.tree.ended is not None
    assert solution.tree.ended.usage == solution.usage
    assert solution.usage.generated_tokens == solution.tree.usage().generated_tokens


def test_none_accepted_gives_the_best_of_the_rejected_and_says_so() -> None:
    solution = solve(PROBLEM, decoder=ScriptedDecoder([WRONG]), strategy=BestOfN(3), verifiers=[says_42])
    assert (solution.status, solution.verified, solution.text) == ("exhausted", False, WRONG)
    assert solution.reason == "none of 3 branches was accepted (3 rejected); this is the best of them"
    assert solution.usage.branches == solution.usage.verifier_calls == 3
    assert solution.usage.generated_tokens == 12


def test_the_first_accepted_branch_ends_it_and_what_is_in_flight_is_cut_off() -> None:
    decoder = ScriptedDecoder(right_at("1"), hold=True)

    def then(tree: Tree, event: Event | BranchProgress) -> None:
        if isinstance(event, BranchProgress) and watch.growing() == 3:
            decoder.release(1)

    watch = Watch(then)
    with Search(decoder=decoder, strategy=BestOfN(3), verifiers=[says_42], observer=watch, budget=SAFETY) as search:
        solution = search.solve(PROBLEM)
    assert solution.status == "verified"
    assert statuses(solution) == {"1": "accepted", "2": "pruned", "3": "pruned"}
    assert solution.tree.text("2") == "it must"
    assert solution.usage.generated_tokens == 4 + 2 + 2
    assert decoder.release() == 0


def test_without_stopping_at_the_first_all_are_decoded_and_judged() -> None:
    solution = solve(
        PROBLEM,
        decoder=ScriptedDecoder(right_at("1", "3")),
        strategy=BestOfN(4, stop_at_first=False),
        verifiers=[says_42],
    )
    assert (solution.status, solution.verified) == ("verified", True)
    assert statuses(solution) == {"1": "accepted", "2": "rejected", "3": "accepted", "4": "rejected"}
    assert "branch 1 of 4 accepted by says_42" in solution.reason
    assert "none of" not in solution.reason


def test_without_a_verifier_nothing_is_verified_and_the_most_probable_is_the_best() -> None:
    likely = {"1": -3.0, "2": -1.0, "3": -2.0}

    def script(request: DecodeRequest) -> Branch:
        return Branch(text=f"#{request.id}", token_ids=(1,), final_logprobs=(likely[request.id],))

    solution = solve(PROBLEM, decoder=ScriptedDecoder(script), strategy=BestOfN(3), verifiers=())
    assert (solution.status, solution.verified, solution.verdict, solution.text) == ("exhausted", False, None, "#2")
    assert "there is no verifier" in solution.reason
    assert solution.usage.verifier_calls == 0


def test_a_strategy_without_finished_ends_at_the_first_accepted_branch() -> None:
    decoder = ScriptedDecoder(right_at("2"))
    solution = solve(PROBLEM, decoder=decoder, strategy=OneByOne(9), verifiers=[says_42], budget=SAFETY)
    assert statuses(solution) == {"1": "rejected", "2": "accepted"}
    assert len(decoder.requests) == 2


def test_a_strategy_may_be_content_without_an_accepted_branch() -> None:
    @dataclass(frozen=True)
    class Two(BestOfN):
        def finished(self, tree: Tree) -> bool:
            return len(tree.leaves()) >= 2

    solution = solve(PROBLEM, decoder=ScriptedDecoder([WRONG], slots=1), strategy=Two(9))
    assert (solution.status, solution.reason) == ("exhausted", "the strategy is content")
    assert len(solution.tree) == 3


def test_a_strategy_that_proposes_nothing_is_exhausted_at_once() -> None:
    solution = solve(PROBLEM, decoder=ScriptedDecoder([WRONG]), strategy=OneByOne(0))
    assert (solution.status, solution.text, solution.branch, solution.answer) == ("exhausted", "", None, None)
    assert solution.reason == "the strategy proposed nothing"


def test_the_answer_is_the_verifiers_where_it_names_one() -> None:
    verifier = returning(Verdict(status="accepted", answer="forty-two"))
    assert solve(PROBLEM, decoder=ScriptedDecoder([RIGHT]), verifiers=[verifier]).answer == "forty-two"
    assert solve(PROBLEM, decoder=ScriptedDecoder([RIGHT]), verifiers=[says_42]).answer == "42"


def test_a_solution_as_a_row() -> None:
    row = solve(PROBLEM, decoder=ScriptedDecoder([RIGHT]), strategy=BestOfN(1), verifiers=[says_42]).row()
    assert list(row) == ["id", "text", "answer", "verified", "status", "reason", "usage"]
    assert (row["id"], row["answer"], row["verified"], row["status"]) == ("six", "42", True, "verified")
    assert set(row["usage"]) == {"generated_tokens", "prefill_tokens", "seconds", "branches", "verifier_calls"}


# --- what is asked -------------------------------------------------------------------------------------------------


def test_requests_carry_the_settings_of_the_search() -> None:
    decoder = ScriptedDecoder([WRONG])
    solve(PROBLEM, decoder=decoder, strategy=BestOfN(2), decoding=Decoding.plain(), seed=3, max_tokens=9, stop=["END"])
    reference = Tree(PROBLEM, decoding=Decoding.plain(), seed=3, max_tokens=9, stop=["END"])
    assert decoder.requests == reference.requests(2)


def test_a_single_stop_string_is_not_taken_apart() -> None:
    decoder = ScriptedDecoder([WRONG])
    solve(PROBLEM, decoder=decoder, strategy=BestOfN(1), stop="END")
    assert decoder.requests[0].stop == ("END",)


def test_the_default_is_the_papers_decoding_and_eight_branches_with_a_fallback() -> None:
    decoder = ScriptedDecoder([WRONG])
    with Search(decoder=decoder) as search:
        assert search.strategy == Fallback(BestOfN(8))
        search.solve(PROBLEM)
    assert [request.decoding for request in decoder.requests][:8] == [Decoding.led("paper", gate_first=True)] * 8
    assert [request.purpose for request in decoder.requests] == ["explore"] * 8 + ["repair"] * 2 + ["fallback"] * 3


@pytest.mark.parametrize(
    ("problem", "verifier"),
    [
        (Problem(prompt="What is 6 x 7?", answer="42"), "math_answer"),
        (Problem(prompt="Use 3, 7 and 5 to make 50."), "countdown"),
        (Problem(prompt="Use 3, 7 and 5 to make 50.", answer="(3 + 7) * 5"), "countdown"),
        (Problem(prompt="Solve it.", metadata={"numbers": [3, 7, 5], "target": 50}), "countdown"),
        (Problem(prompt="Name a colour."), None),
    ],
)
def test_without_verifiers_named_each_problem_is_judged_by_what_it_calls_for(
    problem: Problem, verifier: str | None
) -> None:
    decoder = ScriptedDecoder([Branch(text="6 + 36")])
    with Search(decoder=decoder, strategy=BestOfN(2, stop_at_first=False)) as search:
        (solution,) = search.solve_many([problem])
    verdicts = {verdict.verifier for node in solution.tree.nodes() for verdict in node.verdicts}
    assert verdicts == ({verifier} if verifier else set())
    assert solution.usage.verifier_calls == (2 if verifier else 0)
    assert not list(solve(problem, decoder=decoder, verifiers=[], strategy=BestOfN(1)).tree.nodes()[0].verdicts)


@pytest.mark.parametrize(("n_blocks", "depths"), [(1, 1), (2, 2), (4, 2), (8, 3), (12, 4), (30, 8), (40, 8)])
def test_the_default_decoding_explores_the_last_quarter_of_the_model(n_blocks: int, depths: int) -> None:
    decoder = ScriptedDecoder([WRONG])
    decoder.n_blocks = n_blocks  # type: ignore[attr-defined]
    solve(PROBLEM, decoder=decoder, strategy=BestOfN(1))
    assert decoder.requests[0].decoding == Decoding.led("paper", depths=depths, gate_first=True)


def test_a_problem_may_be_text_or_chat() -> None:
    chat = [{"role": "user", "content": "What is 6 x 7?"}]
    assert as_problem("q") == Problem(prompt="q")
    assert as_problem(PROBLEM) is PROBLEM
    assert as_problem(chat) == as_problem([Message(role="user", content="What is 6 x 7?")]) == Problem(prompt=chat)


@pytest.mark.parametrize("asked", ["", "  ", [], [{"role": "user"}], [{"role": "user", "content": ""}]])
def test_what_is_no_problem_is_a_usage_error(asked: Any) -> None:
    with pytest.raises(UsageError, match=r"not a problem: .*prompt"):
        solve(asked, decoder=ScriptedDecoder([WRONG]))


class Picky(ScriptedDecoder):
    """A decoder that can't be asked anything long."""

    def check(self, request: DecodeRequest) -> None:
        if request.max_tokens > 100 or "long" in str(request.prompt):
            raise UsageError("this model has 100 tokens of context")


def test_what_the_model_cannot_be_asked_is_a_usage_error_before_anything_is_decoded() -> None:
    decoder = Picky([WRONG])
    with pytest.raises(UsageError, match="100 tokens of context"):
        solve("a long question", decoder=decoder, max_tokens=9)
    assert decoder.requests == []


def test_among_many_it_is_a_failed_solution_and_the_others_go_on() -> None:
    problems = ["short", "a long question", "short too"]
    solutions = list(solve_many(problems, decoder=Picky([WRONG]), max_tokens=9, strategy=BestOfN(1)))
    assert [solution.status for solution in solutions] == ["exhausted", "failed", "exhausted"]
    assert solutions[1].reason == "this model has 100 tokens of context"


def test_a_strategys_request_beyond_the_model_is_the_strategys_fault() -> None:
    @dataclass(frozen=True)
    class Long(BestOfN):
        def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
            return tree.requests(1, max_tokens=101)

    solution = solve("short", decoder=Picky([WRONG]), max_tokens=9, strategy=Long())
    assert (solution.status, solution.reason) == ("failed", "strategy Long: this model has 100 tokens of context")


# --- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"slots": 0}, "slots is 0"),
        ({"cluster": "auto"}, "cluster is 'auto', and a decoder is given"),
        ({"verifiers": [says_42, "math_answer"]}, "'math_answer'"),
        ({"verifiers": says_42}, "verifiers"),
        ({"strategy": "best of n"}, "'best of n'"),
        ({"strategy": BestOfN}, r"BestOfN\(…\)"),
        ({"decoding": "led.paper"}, r"decoding.*'led\.paper'"),
        ({"budget": {"tokens": 3}}, r"budget.*tokens"),
        ({"journal": "runs"}, r"journal.*'runs'"),
    ],
)
def test_a_bad_option_is_refused_at_once(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Search(decoder=ScriptedDecoder([WRONG]), **options)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match="temperature"):
        solve("q", decoder=ScriptedDecoder([WRONG]), temperature=0.5)  # type: ignore[call-arg]


# --- budgets -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Greedy:
    """Wants more than it may have."""

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        return tree.requests(50)


@pytest.mark.parametrize("strategy", [BestOfN(100), Greedy()])
@pytest.mark.parametrize("slots", [1, 3, 8])
@pytest.mark.parametrize("limit", [1, 2, 5, 17])
def test_the_budget_of_branches_is_kept_to_the_branch(strategy: Any, slots: int, limit: int) -> None:
    decoder = ScriptedDecoder([WRONG], slots=slots)
    budget = Budget(branches=limit)
    solution = solve(PROBLEM, decoder=decoder, strategy=strategy, verifiers=[says_42], budget=budget)
    assert len(decoder.requests) == solution.usage.branches == limit
    assert (solution.status, solution.reason) == ("budget", f"the budget of {limit} branches is spent")
    assert set(statuses(solution).values()) == {"rejected"}


def test_the_last_branch_of_the_budget_may_be_the_one() -> None:
    decoder = ScriptedDecoder(right_at("3"))
    solution = solve(
        PROBLEM, decoder=decoder, strategy=BestOfN(9), verifiers=[says_42], budget=Budget(branches=3, seconds=60)
    )
    assert (solution.status, solution.verified) == ("verified", True)


def test_a_strategy_that_needs_no_more_than_its_budget_is_exhausted_or_spent_but_complete() -> None:
    decoder = ScriptedDecoder([WRONG])
    solution = solve(PROBLEM, decoder=decoder, strategy=BestOfN(3), verifiers=[says_42], budget=Budget(branches=4))
    assert (solution.status, len(decoder.requests)) == ("exhausted", 3)


def test_the_budget_of_tokens_ends_it_within_what_was_in_flight() -> None:
    decoder = ScriptedDecoder(["one two three four five"], slots=2)
    solution = solve(PROBLEM, decoder=decoder, strategy=BestOfN(100), budget=Budget(tokens=12))
    assert (solution.status, solution.reason) == ("budget", "the budget of 12 tokens is spent")
    assert 12 <= solution.usage.generated_tokens <= 12 + 3 * 5
    assert solution.usage.generated_tokens == 5 * len(decoder.requests)
    assert solution.text == "one two three four five"


def test_tokens_of_growing_branches_count() -> None:
    decoder = ScriptedDecoder(["one two three four five six"], slots=2, hold=True)
    budget = Budget(tokens=5, seconds=60)
    solution = solve(PROBLEM, decoder=decoder, strategy=BestOfN(100), budget=budget, max_tokens=2)
    assert (solution.status, solution.reason) == ("budget", "the budget of 5 tokens is spent")
    assert len(decoder.requests) == 2
    assert solution.usage.generated_tokens == 2 * 3
    assert solution.text == "one two three"
    assert decoder.release() == 0


def test_tokens_are_counted_once_though_they_were_seen_to_grow() -> None:
    decoder = ScriptedDecoder(["one two three four five six"], hold=True)
    watch = Watch(lambda tree, event: decoder.release(1) if isinstance(event, BranchProgress) else None)
    search = Search(decoder=decoder, strategy=BestOfN(4), budget=Budget(tokens=25, seconds=60), observer=watch)
    solution = search.solve(PROBLEM)
    assert (solution.status, solution.usage.generated_tokens) == ("exhausted", 24)


def test_the_budgets_last_branches_may_come_back_in_their_own_time() -> None:
    decoder = ScriptedDecoder([WRONG], hold=True)

    @dataclass(frozen=True)
    class Slow(BestOfN):
        def finished(self, tree: Tree) -> bool:
            decoder.release(1)  # one a turn of the loop
            return False

    budget = Budget(branches=3, seconds=60)
    solution = solve(PROBLEM, decoder=decoder, strategy=Slow(9), verifiers=[says_42], budget=budget)
    assert (solution.status, solution.reason) == ("budget", "the budget of 3 branches is spent")
    assert statuses(solution) == {"1": "rejected", "2": "rejected", "3": "rejected"}


def test_no_time_at_all() -> None:
    decoder = ScriptedDecoder([RIGHT], hold=True)
    solution = solve(PROBLEM, decoder=decoder, verifiers=[says_42], budget=Budget(seconds=1e-9))
    assert (solution.status, solution.reason) == ("budget", "the budget of 1e-09 seconds is spent")
    assert not solution.verified
    assert decoder.release() == 0


def test_time_runs_out_on_branches_that_do_not_come_back() -> None:
    decoder = ScriptedDecoder([RIGHT], hold=True)
    solution = solve(PROBLEM, decoder=decoder, strategy=BestOfN(3), verifiers=[says_42], budget=Budget(seconds=1))
    assert (solution.status, solution.reason) == ("budget", "the budget of 1 seconds is spent")
    assert statuses(solution) == {"1": "pruned", "2": "pruned", "3": "pruned"}
    assert solution.text == "it must"
    assert decoder.release() == 0


def test_time_runs_out_on_a_verifier_that_does_not_come_back() -> None:
    late = threading.Event()

    def verifier(problem: Problem, branch: Branch) -> bool:
        return not waited(late)

    decoder = ScriptedDecoder([RIGHT])
    with Search(decoder=decoder, strategy=BestOfN(1), verifiers=[verifier], budget=Budget(seconds=1)) as search:
        solution = search.solve(PROBLEM)
        late.set()
    assert (solution.status, solution.verified, solution.text) == ("budget", False, RIGHT)


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("n_verifiers", [1, 2, 3])
def test_the_budget_of_verifier_calls_is_never_exceeded(limit: int, n_verifiers: int) -> None:
    calls: list[str] = []

    def verifier(problem: Problem, branch: Branch) -> float:
        calls.append(branch.id)
        return 0.5

    solution = solve(
        PROBLEM,
        decoder=ScriptedDecoder([WRONG], slots=2),
        strategy=BestOfN(100),
        verifiers=[verifier] * n_verifiers,
        budget=Budget(verifier_calls=limit, seconds=60),
    )
    assert (solution.status, solution.reason) == ("budget", f"the budget of {limit} verifier calls is spent")
    assert len(calls) == limit - limit % n_verifiers
    assert solution.usage.verifier_calls == len(calls)


def test_calls_that_a_rejection_made_needless_are_not_charged() -> None:
    calls: list[str] = []

    def never(problem: Problem, branch: Branch) -> bool:
        calls.append(branch.id)
        return False

    solution = solve(
        PROBLEM,
        decoder=ScriptedDecoder([WRONG]),
        strategy=OneByOne(100),
        verifiers=[never, says_42],
        budget=Budget(verifier_calls=4, seconds=60),
    )
    assert solution.status == "budget"
    assert calls == ["1", "2", "3"]
    assert solution.usage.verifier_calls == 3


def test_a_spent_budget_waits_for_the_verdicts_on_what_was_decoded() -> None:
    spent = threading.Event()

    def verifier(problem: Problem, branch: Branch) -> bool:
        return waited(spent)

    solution = solve(
        PROBLEM,
        decoder=ScriptedDecoder([RIGHT], slots=1),
        strategy=BestOfN(9),
        verifiers=[verifier],
        budget=Budget(tokens=8, seconds=60),
        observer=Watch(lambda tree, event: spent.set() if len(tree.leaves()) == 2 else None),
    )
    assert (solution.status, solution.verified) == ("verified", True)


# --- strategies that fail ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GoesWrong:
    """Two good branches, and then something else."""

    then: Callable[[Tree], Any]

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        found: Sequence[DecodeRequest] = tree.requests(2) if len(tree) == 1 else self.then(tree)
        return found


def explode(tree: Tree) -> Any:
    raise ValueError("no idea\nat all")


@pytest.mark.parametrize(
    ("then", "told"),
    [
        (explode, "strategy GoesWrong raised ValueError: no idea"),
        (lambda tree: None, "strategy GoesWrong raised TypeError"),
        (lambda tree: 3, "strategy GoesWrong raised TypeError"),
        (lambda tree: ["3"], "strategy GoesWrong proposed str; allowed are requests made by tree.requests"),
        (lambda tree: [Branch(text="x")], "strategy GoesWrong proposed Branch"),
        (lambda tree: tree.requests(1) * 2, "strategy GoesWrong: the tree already has a node '3'"),
        (lambda tree: [tree["1"].request], "strategy GoesWrong: the tree already has a node '1'"),
        (
            lambda tree: [tree.requests(1)[0].model_copy(update={"parent": "9"})],
            "strategy GoesWrong: request '3' names a parent '9'",
        ),
        (
            lambda tree: [tree.requests(1)[0].model_copy(update={"problem": "seven"})],
            "strategy GoesWrong: request '3' is for 'seven'",
        ),
        (lambda tree: tree.requests(1, parent="9"), "strategy GoesWrong raised UsageError: the tree has no node '9'"),
        (lambda tree: tree.requests(1, max_tokens=0), "strategy GoesWrong raised ValidationError"),
    ],
)
@pytest.mark.parametrize("hold", [False, True])
def test_a_strategy_that_fails_is_named_and_what_was_decoded_is_kept(then: Any, told: str, hold: bool) -> None:
    decoder = ScriptedDecoder([WRONG], hold=hold)
    watch = Watch(lambda tree, event: decoder.release())
    with Search(
        decoder=decoder, strategy=GoesWrong(then), verifiers=[returning(0.5)], budget=SAFETY, observer=watch
    ) as search:
        solution = search.solve(PROBLEM)
    assert solution.status == "failed"
    assert solution.reason.startswith(told)
    assert "\n" not in solution.reason
    assert solution.tree[ROOT].notes == (solution.reason,)
    assert solution.text == WRONG
    assert solution.tree.text("1") == solution.tree.text("2") == WRONG
    assert decoder.release() == 0


def test_a_strategy_that_fails_after_success_has_succeeded() -> None:
    @dataclass(frozen=True)
    class Late(GoesWrong):
        def finished(self, tree: Tree) -> bool:
            return False

    solution = solve(
        PROBLEM, decoder=ScriptedDecoder([RIGHT]), strategy=Late(explode), verifiers=[says_42], budget=SAFETY
    )
    assert solution.verified == (solution.status == "verified")
    assert "strategy Late raised ValueError" in solution.reason


def test_a_finished_that_raises_fails_in_the_strategys_name() -> None:
    @dataclass(frozen=True)
    class Unsure(BestOfN):
        def finished(self, tree: Tree) -> bool:
            if tree.leaves():
                raise KeyError("mood")
            return False

    solution = solve(PROBLEM, decoder=ScriptedDecoder([WRONG]), strategy=Unsure(2))
    assert (solution.status, solution.text) == ("failed", WRONG)
    assert solution.tree[ROOT].notes == ("strategy Unsure raised KeyError: 'mood'",)


def test_one_problems_failed_strategy_is_not_the_others() -> None:
    @dataclass(frozen=True)
    class Choosy(BestOfN):
        def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
            if tree.problem.key == "p1":
                raise ValueError("not this one")
            return super().propose(tree, slots)

    problems = [Problem(prompt="q", id=f"p{k}") for k in range(3)]
    solutions = list(solve_many(problems, decoder=ScriptedDecoder([WRONG]), strategy=Choosy(2)))
    assert [solution.status for solution in solutions] == ["exhausted", "failed", "exhausted"]


@dataclass(frozen=True)
class Fickle(BestOfN):
    """Gives up its first branch, once it is decoded or before."""

    decoded: bool = False

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        for node in tree.nodes():
            if node.id == "1" and node.status == "open" and (node.branch is not None) == self.decoded:
                tree.prune(node.id, "changed my mind")
        return super().propose(tree, slots)


def test_a_branch_given_up_in_flight_is_kept_and_not_judged() -> None:
    judged: list[str] = []

    def verifier(problem: Problem, branch: Branch) -> bool:
        judged.append(branch.id)
        return False

    decoder = ScriptedDecoder([WRONG], hold=True)
    watch = Watch(lambda tree, event: decoder.release() if "1" in tree and tree["1"].status == "pruned" else None)
    search = Search(decoder=decoder, strategy=Fickle(2), verifiers=[verifier], observer=watch, budget=SAFETY)
    solution = search.solve(PROBLEM)
    assert statuses(solution) == {"1": "pruned", "2": "rejected"}
    assert solution.tree.text("1") == WRONG
    assert judged == ["2"]


def test_a_verdict_on_a_branch_given_up_meanwhile_changes_nothing() -> None:
    pruned = threading.Event()

    def verifier(problem: Problem, branch: Branch) -> bool:
        return not waited(pruned)

    watch = Watch(lambda tree, event: pruned.set() if "1" in tree and tree["1"].status == "pruned" else None)
    strategy = Fickle(2, decoded=True)
    solution = solve(
        PROBLEM,
        decoder=ScriptedDecoder([WRONG]),
        strategy=strategy,
        verifiers=[verifier],
        observer=watch,
        budget=SAFETY,
    )
    assert statuses(solution) == {"1": "pruned", "2": "rejected"}


def test_a_search_ends_though_its_last_verdict_is_on_a_branch_given_up() -> None:
    other_is_judged = threading.Event()

    def verifier(problem: Problem, branch: Branch) -> bool:
        return branch.id == "1" and not waited(other_is_judged)

    def watch(tree: Tree, event: Event | BranchProgress) -> None:
        if "2" in tree and tree["2"].status == "rejected":
            other_is_judged.set()

    search = Search(
        decoder=ScriptedDecoder([WRONG]), strategy=Fickle(2, decoded=True), verifiers=[verifier], observer=Watch(watch),
        budget=SAFETY,
    )  # fmt: skip
    solution = search.solve(PROBLEM)
    assert (solution.status, statuses(solution)) == ("exhausted", {"1": "pruned", "2": "rejected"})


# --- verifiers -----------------------------------------------------------------------------------------------------


def moody(problem: Problem, branch: Branch) -> bool:
    raise ValueError("not today\nnor tomorrow")


def exits(problem: Problem, branch: Branch) -> bool:
    raise SystemExit(3)


def interrupts(problem: Problem, branch: Branch) -> bool:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("verifier", "told"),
    [
        (moody, "verifier moody raised ValueError: not today"),
        (exits, "verifier exits raised SystemExit: 3"),
        (interrupts, "KeyboardInterrupt"),
        (returning(None), "returned NoneType 'None'; allowed are"),
        (returning("yes"), "returned str 'yes'"),
        (returning(2.0), "returned float '2.0'"),
        (returning(float("nan")), "returned float 'nan'"),
    ],
)
def test_a_verifier_that_fails_has_not_rejected_and_the_search_goes_on(verifier: Any, told: str) -> None:
    decoder = ScriptedDecoder([WRONG])
    solution = solve(PROBLEM, decoder=decoder, strategy=BestOfN(3), verifiers=[verifier], budget=SAFETY)
    assert (solution.status, solution.verified, solution.text) == ("exhausted", False, WRONG)
    assert statuses(solution) == {"1": "open", "2": "open", "3": "open"}
    for node in solution.tree.nodes():
        assert [verdict.status for verdict in node.verdicts] == ["error"]
        assert told in node.reason
    assert solution.verdict is not None
    assert solution.verdict.status == "error"
    assert "3 error" in solution.reason


@pytest.mark.parametrize(
    ("value", "status", "score", "verified"),
    [
        (True, "accepted", 1.0, True),
        (False, "rejected", 0.0, False),
        (1.0, "accepted", 1.0, True),
        (0.0, "rejected", 0.0, False),
        (0.75, "open", 0.75, False),
        (Verdict(status="accepted", score=0.5), "accepted", 0.5, True),
        (Verdict(status="rejected", score=0.5), "rejected", 0.5, False),
        (Verdict(status="abstained"), "open", 0.0, False),
    ],
)
def test_what_a_verifier_says_decides(value: Any, status: str, score: float, verified: bool) -> None:
    solution = solve(PROBLEM, decoder=ScriptedDecoder([WRONG]), strategy=BestOfN(1), verifiers=[returning(value)])
    assert statuses(solution) == {"1": status}
    assert solution.verdict is not None
    assert (solution.verdict.score, solution.verified) == (score, verified)
    assert solution.status == ("verified" if verified else "exhausted")


def test_scores_rank_what_nobody_accepted() -> None:
    def length(problem: Problem, branch: Branch) -> float:
        return len(branch.text) / 100

    decoder = ScriptedDecoder(["short", "the longest of all", "longer"])
    assert solve(PROBLEM, decoder=decoder, strategy=BestOfN(3), verifiers=[length]).text == "the longest of all"


def test_the_first_rejection_spares_the_verifiers_behind_it() -> None:
    asked: list[str] = []

    def costly(problem: Problem, branch: Branch) -> bool:
        asked.append(branch.id)
        return True

    decoder = ScriptedDecoder(right_at("2"))
    solution = solve(PROBLEM, decoder=decoder, strategy=OneByOne(3), verifiers=[says_42, costly], budget=SAFETY)
    assert asked == ["2"]
    assert statuses(solution) == {"1": "rejected", "2": "accepted"}
    assert [verdict.verifier for verdict in solution.tree["2"].verdicts] == ["says_42", "costly"]


def test_an_error_among_acceptances_leaves_a_branch_unverified() -> None:
    decoder = ScriptedDecoder([RIGHT])
    solution = solve(PROBLEM, decoder=decoder, strategy=BestOfN(2), verifiers=[says_42, moody], budget=SAFETY)
    assert (solution.status, solution.verified) == ("exhausted", False)
    assert statuses(solution) == {"1": "open", "2": "open"}


def test_verifiers_work_beside_the_loop_and_the_loop_does_not_wait_for_them() -> None:
    second = threading.Event()
    threads: set[int] = set()

    def verifier(problem: Problem, branch: Branch) -> bool:
        threads.add(threading.get_ident())
        return branch.id == "2" or not waited(second)

    def then(tree: Tree, event: Event | BranchProgress) -> None:
        if "2" in tree and tree["2"].branch is not None:
            second.set()

    watch = Watch(then)
    decoder = ScriptedDecoder([WRONG], slots=1)
    solution = solve(PROBLEM, decoder=decoder, strategy=BestOfN(2), verifiers=[verifier], observer=watch, budget=SAFETY)
    assert solution.branch is not None
    assert solution.branch.id == "2"
    assert watch.threads == {threading.get_ident()}
    assert threading.get_ident() not in threads


def test_a_verdict_that_comes_after_the_end_changes_nothing() -> None:
    begun, late, returned = threading.Event(), threading.Event(), threading.Event()

    def verifier(problem: Problem, branch: Branch) -> bool:
        if (problem.key, branch.id) == ("first", "1"):
            waited(begun)  # a call that has not begun by the end is never made
        elif (problem.key, branch.id) == ("first", "2"):
            begun.set()
            waited(late)
            returned.set()
        elif problem.key == "second":
            waited(returned)
        return problem.key == "first"

    watch = Watch()
    problems = [Problem(prompt="q", id="first"), Problem(prompt="r", id="second")]
    with Search(
        decoder=ScriptedDecoder([WRONG], slots=2),
        strategy=Fallback(BestOfN(2)),
        verifiers=[verifier],
        verifier_concurrency=4,  # of all that may wait for each other, on one processor, too
        observer=watch,
        budget=SAFETY,
    ) as search:
        running = search.solve_many(problems)
        first = next(running)
        as_given = first.tree.to_json()
        assert first.verified
        late.set()
        assert [solution.status for solution in running] == ["exhausted"]
    assert first.tree.to_json() == as_given
    assert watch.of("first")[-1].event == "ended"


def test_closing_the_search_closes_the_verifiers_and_not_the_decoder_that_it_was_given() -> None:
    class Tool:
        closed = 0

        def __call__(self, problem: Problem, branch: Branch) -> bool:
            return True

        def close(self) -> None:
            self.closed += 1

    tool, decoder = Tool(), ScriptedDecoder([WRONG])
    with Search(decoder=decoder, verifiers=[tool, says_42]) as search:
        search.solve(PROBLEM)
        assert tool.closed == 0
    assert tool.closed == 1
    assert not decoder.closed
    assert solve(PROBLEM, decoder=decoder).text == WRONG


# --- branches ------------------------------------------------------------------------------------------------------


def test_a_branch_that_failed_is_a_failed_node_and_the_search_goes_on() -> None:
    def script(request: DecodeRequest) -> str | Branch:
        return Branch(text="", finish="error", error="non-finite logits") if request.id == "1" else RIGHT

    judged: list[str] = []

    def verifier(problem: Problem, branch: Branch) -> bool:
        judged.append(branch.id)
        return True

    decoder = ScriptedDecoder(script)
    solution = solve(PROBLEM, decoder=decoder, strategy=BestOfN(2), verifiers=[verifier], budget=SAFETY)
    assert statuses(solution) == {"1": "failed", "2": "accepted"}
    assert solution.tree["1"].reason == "non-finite logits"
    assert judged == ["2"]


def test_where_no_branch_could_be_decoded_the_search_has_failed_and_says_why() -> None:
    decoder = ScriptedDecoder(lambda request: Branch(text="", finish="error", error="out of memory"))
    solution = solve(PROBLEM, decoder=decoder, strategy=BestOfN(2), verifiers=[says_42])
    assert not solution.verified
    assert solution.status == "failed"
    assert solution.reason == "none of 2 branches could be decoded: out of memory"


@pytest.mark.parametrize(("finish", "judged"), [("eos", 1), ("stop", 1), ("length", 1), ("step", 0), ("cancelled", 0)])
def test_complete_branches_are_judged_and_steps_of_a_longer_one_are_not(finish: Any, judged: int) -> None:
    decoder = ScriptedDecoder(lambda request: Branch(text=RIGHT, finish=finish))
    solution = solve(PROBLEM, decoder=decoder, strategy=BestOfN(1), verifiers=[says_42])
    assert solution.usage.verifier_calls == judged
    assert solution.verified == bool(judged)


def test_a_verifier_sees_the_whole_output_that_ends_in_a_branch() -> None:
    @dataclass(frozen=True)
    class TwoSteps:
        def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
            if len(tree) == 1:
                return tree.requests(1, step="\n")
            return tree.requests(1, parent="1") if len(tree) == 2 and not tree.pending() else []

    def script(request: DecodeRequest) -> Branch:
        step = request.id == "1"
        return Branch(text="6 x 7\n" if step else "= 42", token_ids=(1, 2), finish="step" if step else "eos")

    seen: list[str] = []

    def verifier(problem: Problem, branch: Branch) -> bool:
        seen.append(branch.text)
        return True

    solution = solve(PROBLEM, decoder=ScriptedDecoder(script), strategy=TwoSteps(), verifiers=[verifier], budget=SAFETY)
    assert seen == ["6 x 7\n= 42"]
    assert (solution.text, solution.verified) == ("6 x 7\n= 42", True)
    assert solution.branch is not None
    assert solution.branch.token_ids == (1, 2, 1, 2)


def test_a_second_result_for_a_request_is_ignored() -> None:
    class Stutters(ScriptedDecoder):
        def submit(self, request: DecodeRequest, sink: Any) -> None:
            super().submit(request, sink)
            sink(BranchDone(Branch(id=request.id, text="again", token_ids=(1,) * 99)))
            sink(BranchProgress(request.id, 99, "again"))

    solution = solve(PROBLEM, decoder=Stutters([WRONG]), strategy=BestOfN(2), budget=Budget(tokens=50))
    assert [solution.tree.text(name) for name in ("1", "2")] == [WRONG, WRONG]
    assert (solution.status, solution.usage.generated_tokens) == ("exhausted", 8)


# --- interrupted ---------------------------------------------------------------------------------------------------


def test_stop_from_another_thread_gives_what_there_is() -> None:
    growing = threading.Event()
    decoder = ScriptedDecoder([WRONG], hold=True)
    watch = Watch(lambda tree, event: growing.set() if watch.growing() == 2 else None)
    with Search(decoder=decoder, strategy=BestOfN(2), observer=watch, budget=SAFETY) as search:
        stopper = threading.Thread(target=lambda: (waited(growing), search.stop()))
        stopper.start()
        solution = search.solve(PROBLEM)
        stopper.join()
    assert (solution.status, solution.verified, solution.text) == ("interrupted", False, "it must")
    assert statuses(solution) == {"1": "pruned", "2": "pruned"}
    assert decoder.release() == 0


def test_stop_from_the_observer_keeps_what_is_complete() -> None:
    decoder = ScriptedDecoder([WRONG], hold=True)

    def then(tree: Tree, event: Event | BranchProgress) -> None:
        if watch.growing() == 3 and decoder.release(1):
            search.stop()

    watch = Watch(then)
    search = Search(decoder=decoder, strategy=BestOfN(3), observer=watch, budget=SAFETY)
    solution = search.solve(PROBLEM)
    assert solution.status == "interrupted"
    assert solution.text == WRONG
    assert "interrupted" in solution.reason


def test_a_stopped_search_may_be_asked_again() -> None:
    decoder = ScriptedDecoder([WRONG])
    watch = Watch(lambda tree, event: search.stop() if tree.problem.key == "six" else None)
    search = Search(decoder=decoder, strategy=BestOfN(2), observer=watch, budget=SAFETY)
    assert search.solve(PROBLEM).status == "interrupted"
    assert search.solve("another").status == "exhausted"


def test_stop_while_the_model_is_still_being_prepared_is_not_forgotten() -> None:
    class Slow(ScriptedDecoder):
        def check(self, request: DecodeRequest) -> None:
            search.stop()

    decoder = Slow([WRONG])
    search = Search(decoder=decoder, budget=SAFETY)
    solution = search.solve(PROBLEM)
    assert (solution.status, solution.text, decoder.requests) == ("interrupted", "", [])


def test_of_many_those_begun_give_what_they_have_and_the_others_are_not_begun() -> None:
    decoder = ScriptedDecoder([WRONG], slots=4, hold=True)
    watch = Watch(lambda tree, event: search.stop() if watch.growing() == 5 else None)
    search = Search(decoder=decoder, strategy=BestOfN(2), observer=watch, budget=SAFETY)
    problems = [Problem(prompt="q", id=f"p{k}") for k in range(9)]
    solutions = list(search.solve_many(problems))
    assert [solution.problem.key for solution in solutions] == ["p0", "p1", "p2"]
    assert {solution.status for solution in solutions} == {"interrupted"}
    assert decoder.release() == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_the_observer_raises_comes_out_and_what_is_in_flight_is_cut_off(error: type[BaseException]) -> None:
    decoder = ScriptedDecoder([WRONG], hold=True)

    def then(tree: Tree, event: Event | BranchProgress) -> None:
        if isinstance(event, BranchProgress):
            raise error

    with Search(decoder=decoder, strategy=BestOfN(3), observer=Watch(then), budget=SAFETY) as search:
        with pytest.raises(error):
            search.solve(PROBLEM)
        assert len(decoder.requests) == 3
        assert decoder.release() == 0


def test_a_caller_who_leaves_early_leaves_nothing_running() -> None:
    decoder = ScriptedDecoder(lambda request: RIGHT if request.problem == "p0" else WRONG, slots=4, hold=True)
    watch = Watch(lambda tree, event: decoder.release(1) if watch.growing() == 4 else None)
    search = Search(decoder=decoder, strategy=BestOfN(1), observer=watch, budget=SAFETY)
    running = search.solve_many([Problem(prompt="q", id=f"p{k}") for k in range(9)])
    assert next(running).problem.key == "p0"
    running.close()  # type: ignore[attr-defined]
    assert len(decoder.requests) > 1
    assert decoder.release() == 0


# --- many ----------------------------------------------------------------------------------------------------------


def the_first_is_the_last() -> Search:
    """A search on p0, p1 and p2 where p0 is done when the others are."""
    others = threading.Event()

    def verifier(problem: Problem, branch: Branch) -> bool:
        return problem.key != "p0" or waited(others)

    def then(tree: Tree, event: Event | BranchProgress) -> None:
        if {key for key, _ in watch.events if watch.of(key)[-1].event == "ended"} >= {"p1", "p2"}:
            others.set()

    watch = Watch(then)
    return Search(
        decoder=ScriptedDecoder([RIGHT]), strategy=BestOfN(1), verifiers=[verifier], observer=watch, budget=SAFETY
    )


THREE = [Problem(prompt="q", id=f"p{k}") for k in range(3)]


@pytest.mark.parametrize("as_given", [list, tuple, iter], ids=["list", "tuple", "generator"])
def test_solutions_come_in_the_order_of_the_problems(as_given: Callable[[Iterable[Problem]], Any]) -> None:
    with the_first_is_the_last() as search:
        assert [s.problem.key for s in search.solve_many(as_given(THREE))] == ["p0", "p1", "p2"]


def test_or_as_they_are_done() -> None:
    with the_first_is_the_last() as search:
        keys = [s.problem.key for s in search.solve_many(THREE, ordered=False)]
    assert sorted(keys) == ["p0", "p1", "p2"]
    assert keys[-1] == "p0"


@pytest.mark.parametrize("ordered", [True, False])
def test_two_problems_of_one_name_are_refused(ordered: bool) -> None:
    problems = [Problem(prompt="q", id="a"), Problem(prompt="r", id="b"), Problem(prompt="s", id="a")]
    decoder = ScriptedDecoder([WRONG], hold=True)
    with Search(decoder=decoder, strategy=BestOfN(1), budget=SAFETY) as search:
        with pytest.raises(UsageError, match="two problems have the key 'a'; give each its own id"):
            list(search.solve_many(problems, ordered=ordered))
        assert decoder.release() == 0


@pytest.mark.parametrize("one", ["What is 6 x 7?", PROBLEM])
def test_one_problem_is_not_taken_for_many(one: Any) -> None:
    with pytest.raises(UsageError, match="give it to solve"):
        Search(decoder=ScriptedDecoder([WRONG])).solve_many(one)


def test_no_problems_have_no_solutions() -> None:
    assert list(solve_many([], decoder=ScriptedDecoder([WRONG]))) == []


@pytest.mark.parametrize(("slots", "room"), [(1, 1), (2, 3), (4, 5), (8, 10), (16, 20)])
@pytest.mark.parametrize("n", [1, 3, 50])
def test_problems_share_the_decoder_and_keep_it_full_but_not_fuller(slots: int, room: int, n: int) -> None:
    """Each branch that grows lets the oldest go, so that the decoder is always as full as the loop makes it."""
    decoder = ScriptedDecoder([WRONG], slots=slots, hold=True)
    released = 0
    peak: set[int] = set()
    together: set[int] = set()

    def then(tree: Tree, event: Event | BranchProgress) -> None:
        nonlocal released
        if isinstance(event, BranchProgress):
            flying = decoder.requests[released:]
            peak.add(len(flying))
            together.add(len({request.problem for request in flying}))
            released += decoder.release(1)

    problems = [Problem(prompt="q", id=f"p{k}") for k in range(max(4, 60 // n))]
    search = Search(decoder=decoder, strategy=BestOfN(n), observer=Watch(then), budget=SAFETY)
    solutions = list(search.solve_many(problems))
    assert [solution.usage.branches for solution in solutions] == [n] * len(problems)
    assert max(peak) == room
    assert max(together) > 1 or n >= room


def test_problems_are_taken_from_a_generator_only_as_there_is_room() -> None:
    taken: list[int] = []

    def endless() -> Iterator[Problem]:
        k = 0
        while True:
            taken.append(k)
            yield Problem(prompt="q", id=f"p{k}")
            k += 1

    decoder = ScriptedDecoder([WRONG], slots=4)
    with Search(decoder=decoder, strategy=BestOfN(2), budget=SAFETY) as search:
        running = search.solve_many(endless(), ordered=False)  # in order, 256 more may wait for an earlier one
        assert len({next(running).problem.key for _ in range(10)}) == 10
        assert len(taken) <= 10 + 2 * 4
        running.close()  # type: ignore[attr-defined]


def test_no_more_is_begun_while_many_wait_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first problem is let go when the loop sees that it is crowded, and not before: were it never crowded, the
    first would have no verdict, and were it crowded for ever, there would be no end."""
    monkeypatch.setattr("led_agent.search._HELD_BACK", 4)
    crowded, most, begun_then = threading.Event(), 0, 0
    begun: list[str] = []
    ask = _Noted.crowded

    def asked(noted: _Noted) -> bool:
        nonlocal most, begun_then
        most = max(most, len(noted.held))
        if ask(noted) and not crowded.is_set():
            begun_then = len(begun)
            crowded.set()
        return ask(noted)

    def verifier(problem: Problem, branch: Branch) -> bool:
        return problem.key != "p0" or waited(crowded)

    monkeypatch.setattr(_Noted, "crowded", asked)
    problems = (begun.append(f"p{k}") or Problem(prompt="q", id=f"p{k}") for k in range(60))
    search = Search(decoder=ScriptedDecoder([RIGHT], slots=2), strategy=BestOfN(1), verifiers=[verifier], budget=SAFETY)
    with search:
        solutions = list(search.solve_many(problems))
    assert [solution.problem.key for solution in solutions] == [f"p{k}" for k in range(60)]
    assert all(solution.verified for solution in solutions)
    assert begun_then <= 1 + 5 + 4  # the first, those held back, and what may be on beside them
    assert most <= 5 + 4


def test_what_a_journal_holds_finished_is_given_back_before_more_is_taken(tmp_path: Path) -> None:
    problems = [Problem(prompt="q", id=f"p{k}") for k in range(30)]
    with Journal(tmp_path / "run.jsonl") as journal:
        options: dict[str, Any] = {"strategy": BestOfN(1), "journal": journal, "budget": SAFETY}
        list(solve_many(problems, decoder=ScriptedDecoder([WRONG]), **options))
        taken: list[Problem] = []
        with Search(decoder=ScriptedDecoder([WRONG]), **options) as search:
            again = search.solve_many((taken.append(p) or p for p in problems), ordered=False)
            for number, solution in enumerate(again, 1):
                assert solution.problem.key == f"p{number - 1}"
                assert len(taken) == number


def test_a_stop_between_two_that_are_finished_already_begins_no_more(tmp_path: Path) -> None:
    problems = [Problem(prompt="q", id=f"p{k}") for k in range(9)]
    with Journal(tmp_path / "run.jsonl") as journal:
        options: dict[str, Any] = {"strategy": BestOfN(1), "journal": journal, "budget": SAFETY}
        list(solve_many(problems[:3], decoder=ScriptedDecoder([WRONG]), **options))
        decoder = ScriptedDecoder([WRONG])
        with Search(decoder=decoder, **options) as search:
            running = search.solve_many(problems)
            next(running)
            search.stop()
            assert [solution.problem.key for solution in running] == []
        assert decoder.requests == []


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """What is freed here is freed because nothing leads to it, at once."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("strategy", [BestOfN(3, stop_at_first=False), Fallback(BestOfN(2))], ids=["best", "fallback"])
def test_what_has_ended_and_been_given_back_is_held_by_nothing(tmp_path: Path, strategy: Any, ordered: bool) -> None:
    """Neither loop, journal and verifiers nor a knot of their own keep trees alive, while the search is still open."""
    before = set(threading.enumerate())
    refs: list[weakref.ref[Any]] = []
    problems = [Problem(prompt="What is 6 x 7?", id=f"p{k}") for k in range(12)]
    script = right_at("2")
    with without_collection(), Journal(tmp_path / "run.jsonl") as journal:
        search = Search(
            decoder=ScriptedDecoder(lambda request: script(request) if request.seed % 2 else WRONG),
            strategy=strategy,
            verifiers=[says_42, says_42],
            journal=journal,
            observer=lambda tree, event: None,
            budget=SAFETY,
        )
        for solution in search.solve_many(problems, ordered=ordered):
            refs += [weakref.ref(solution.tree), weakref.ref(solution.tree._graph)]
            del solution
        search._pool.close()  # so that its threads end: one that is about to rest may still hold its last job
        for thread in set(threading.enumerate()) - before:
            thread.join(30)
        assert len(refs) == 2 * 12
        assert [ref() for ref in refs] == [None] * 24
        for solution in search.solve_many(problems, ordered=ordered):  # as the journal has them
            refs += [weakref.ref(solution.tree), weakref.ref(solution.tree._graph)]
            del solution
        assert [ref() for ref in refs] == [None] * 48


def test_trees_do_not_pile_up_while_a_search_goes_on() -> None:
    refs: list[weakref.ref[Tree]] = []
    with without_collection(), Search(decoder=ScriptedDecoder([WRONG]), strategy=BestOfN(2), verifiers=[]) as search:
        for solution in search.solve_many([Problem(prompt="q", id=f"p{k}") for k in range(100)], ordered=False):
            refs.append(weakref.ref(solution.tree))
            del solution
            assert sum(ref() is not None for ref in refs) <= 1
    assert len(refs) == 100


def test_each_problem_has_a_budget_of_its_own() -> None:
    solutions = list(
        solve_many(THREE, decoder=ScriptedDecoder([WRONG], slots=2), strategy=BestOfN(9), budget=Budget(branches=2))
    )
    assert [solution.usage.branches for solution in solutions] == [2, 2, 2]


def test_a_problem_gets_the_same_alone_as_among_others() -> None:
    def script(request: DecodeRequest) -> str:
        return f"{request.prompt} {request.seed}"

    problems = [Problem(prompt=f"question {k}") for k in range(5)]
    together = list(solve_many(problems, decoder=ScriptedDecoder(script, slots=3), strategy=BestOfN(4), seed=7))
    for problem, among in zip(problems, together, strict=True):
        alone = solve(problem, decoder=ScriptedDecoder(script), strategy=BestOfN(4), seed=7)
        assert [n.branch for n in alone.tree.nodes()] == [n.branch for n in among.tree.nodes()]


# --- observers -----------------------------------------------------------------------------------------------------


def test_the_observer_sees_each_event_in_the_order_of_things() -> None:
    watch = Watch()
    decoder = ScriptedDecoder(right_at("2"))
    solution = solve(PROBLEM, decoder=decoder, strategy=OneByOne(3), verifiers=[says_42], observer=watch, budget=SAFETY)
    one = ["requested", "decoded", "judged"]
    assert [event.event for event in watch.of("six")] == ["started", *one, *one, "ended"]
    assert Tree.replay(watch.of("six")).to_json() == solution.tree.to_json()


def test_the_observer_sees_branches_grow() -> None:
    decoder = ScriptedDecoder([WRONG], hold=True)
    watch = Watch(lambda tree, event: decoder.release())
    search = Search(decoder=decoder, strategy=BestOfN(1), observer=watch, budget=SAFETY)
    search.solve(PROBLEM)
    grown = [event for _, event in watch.events if isinstance(event, BranchProgress)]
    assert grown == [BranchProgress("1", 2, "it must")]


def test_of_many_problems_each_event_comes_with_its_tree() -> None:
    watch = Watch()
    solutions = list(solve_many(THREE, decoder=ScriptedDecoder([WRONG]), strategy=BestOfN(2), observer=watch))
    for solution in solutions:
        assert Tree.replay(watch.of(solution.problem.key)).to_json() == solution.tree.to_json()


def test_a_chat_beyond_the_models_context_fails_alone_and_the_ladder_goes_on() -> None:
    class Narrow(ScriptedDecoder):
        def check(self, request: DecodeRequest) -> None:
            if not isinstance(request.prompt, str):
                raise UsageError("the prompt has 99 tokens; the context is 9")

    decoder = Narrow(lambda request: RIGHT if request.decoding.is_greedy else WRONG)
    solution = solve(PROBLEM, decoder=decoder, strategy=Fallback(BestOfN(2)), verifiers=[says_42])
    assert [(n.id, n.purpose, n.status) for n in solution.tree.nodes()] == [
        ("1", "explore", "rejected"),
        ("2", "explore", "rejected"),
        ("2.1", "repair", "failed"),
        ("1.1", "repair", "failed"),
        ("3", "fallback", "accepted"),
    ]
    assert solution.tree["2.1"].reason == "the prompt has 99 tokens; the context is 9"
    assert solution.verified
