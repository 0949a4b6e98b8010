"""The loop and its verifiers: what is refused beforehand, what is compared at the end, and what was counted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from led_agent.errors import MachineError, PluginError, UsageError
from led_agent.events import Event, RunStatus
from led_agent.journal import Journal, read_trees
from led_agent.protocols import BranchProgress
from led_agent.search import Search, solve, solve_many
from led_agent.strategies import BestOfN
from led_agent.testing import ScriptedDecoder
from led_agent.tree import Tree, summary_verdict
from led_agent.types import Branch, Budget, DecodeRequest, Problem, Verdict

PROBLEM = Problem(prompt="What is 6 x 7?", id="six", answer="42")
SAFETY = Budget(seconds=60)


def fair(problem: Problem, branch: Branch) -> float:
    return 0.1


def waited(event: threading.Event) -> bool:
    return event.wait(30)


@dataclass
class Checks:
    """A verifier that says beforehand what it can't judge."""

    says: Callable[[Problem], Any] = lambda problem: None
    name: str = "checks"
    asked: int = 0

    def check(self, problem: Problem) -> Any:
        self.asked += 1
        return self.says(problem)

    def __call__(self, problem: Problem, branch: Branch) -> bool:
        return True


class Compares:
    """A verifier that compares branches, by a function of their texts."""

    name = "compares"

    def __init__(self, says: Callable[[list[str]], Any]) -> None:
        self.says = says
        self.seen: list[list[str]] = []
        self.threads: set[int] = set()

    def __call__(self, problem: Problem, branch: Branch) -> bool:
        raise AssertionError("it is not asked about one branch alone")

    def together(self, problem: Problem, branches: Sequence[Branch]) -> Any:
        self.seen.append([branch.text for branch in branches])
        self.threads.add(threading.get_ident())
        return self.says(self.seen[-1])


def most_common(texts: list[str]) -> list[float]:
    return [0.9 * texts.count(text) / len(texts) for text in texts]


def accepts_most_common(texts: list[str]) -> list[bool]:
    return [texts.count(text) > len(texts) / 2 for text in texts]


def raising(error: Exception) -> Callable[[Problem], Any]:
    def says(problem: Problem) -> Any:
        raise error

    return says


def no_answer(problem: Problem) -> str | None:
    return None if problem.answer is not None else "it has no answer"


# --- refused beforehand --------------------------------------------------------------------------------------------


def test_a_problem_that_no_verifier_can_judge_is_refused_before_anything_is_decoded() -> None:
    decoder = ScriptedDecoder(["42"])
    verifiers = [Checks(no_answer, name="one"), Checks(lambda problem: "it has no tests", name="two")]
    with pytest.raises(
        UsageError, match=r"no verifier can judge this problem: one: it has no answer; two: it has no tests; give"
    ):
        solve(Problem(prompt="q"), decoder=decoder, verifiers=verifiers)
    assert decoder.requests == []


@pytest.mark.parametrize(
    "able",
    [fair, Checks(), Checks(lambda problem: ""), Compares(most_common)],
    ids=["fair", "None", "empty", "compares"],
)
@pytest.mark.parametrize("first", [True, False])
def test_one_verifier_that_can_or_does_not_say_is_enough(able: Any, first: bool) -> None:
    unable = Checks(lambda problem: "no", name="checks")  # of the same name as another
    verifiers = [able, unable] if first else [unable, able]
    assert solve(PROBLEM, decoder=ScriptedDecoder(["42"]), strategy=BestOfN(1), verifiers=verifiers).text == "42"


def test_without_verifiers_nothing_is_refused() -> None:
    assert solve("q", decoder=ScriptedDecoder(["42"]), strategy=BestOfN(1), verifiers=()).text == "42"
    assert solve("q", decoder=ScriptedDecoder(["42"]), strategy=BestOfN(1)).text == "42"


@pytest.mark.parametrize(
    ("error", "comes_out"),
    [
        (UsageError("tests: line 3"), UsageError),
        (MachineError("no sandbox"), MachineError),
        (PluginError("no"), PluginError),
        (KeyError("tests"), PluginError),
    ],
)
def test_what_a_check_raises_refuses_the_problem_though_others_could_judge_it(
    error: Exception, comes_out: type[Exception]
) -> None:
    decoder = ScriptedDecoder(["42"])
    with pytest.raises(comes_out) as caught:
        solve(PROBLEM, decoder=decoder, verifiers=[fair, Checks(raising(error))])
    assert type(caught.value) is comes_out
    assert decoder.requests == []


@pytest.mark.parametrize("said", [True, 3, ["no"]])
def test_a_check_that_says_nonsense_is_named(said: Any) -> None:
    with pytest.raises(PluginError, match=r"verifier checks returned .* from check; allowed are None, or a reason"):
        solve(PROBLEM, decoder=ScriptedDecoder(["42"]), verifiers=[Checks(lambda problem: said)])


@pytest.mark.parametrize(
    ("says", "told"),
    [
        (lambda problem: "no" if problem.key == "p1" else None, "no verifier can judge this problem: checks: no"),
        (lambda problem: raising(MachineError("no sandbox"))(problem) if problem.key == "p1" else None, "no sandbox"),
        (lambda problem: raising(KeyError("x"))(problem) if problem.key == "p1" else None, "raised KeyError: 'x'"),
    ],
)
def test_of_many_problems_only_those_are_failed_and_the_others_go_on(says: Any, told: str) -> None:
    decoder = ScriptedDecoder(["42"])
    problems = [Problem(prompt="q", id=f"p{k}") for k in range(3)]
    solutions = list(solve_many(problems, decoder=decoder, strategy=BestOfN(2), verifiers=[Checks(says)]))
    assert [solution.status for solution in solutions] == ["verified", "failed", "verified"]
    assert told in solutions[1].reason
    assert {request.problem for request in decoder.requests} == {"p0", "p2"}


def test_each_problem_is_checked_once() -> None:
    verifier = Checks()
    with Search(decoder=ScriptedDecoder(["42"]), strategy=BestOfN(1), verifiers=[verifier]) as search:
        search.solve(PROBLEM)
        assert verifier.asked == 1
        list(search.solve_many([Problem(prompt="q", id="a"), Problem(prompt="q", id="b")]))
        assert verifier.asked == 3


def test_a_batch_size_that_is_none_is_refused_at_once() -> None:
    class Batches(Checks):
        batch_size = 0

        def batch(self, asked: Any) -> Any: ...

    with pytest.raises(UsageError, match="batch_size 0"):
        Search(decoder=ScriptedDecoder(["42"]), verifiers=[Batches()])


# --- compared at the end -------------------------------------------------------------------------------------------

TEXTS = ["one 41", "a 42", "other 43", "a 42"]


def ends(kind: str) -> dict[str, Any]:
    """Searches that end without an accepted branch after the four texts, for three reasons."""

    @dataclass(frozen=True)
    class Content(BestOfN):
        def finished(self, tree: Tree) -> bool:
            return len(tree.leaves()) >= 4

    if kind == "content":
        return {"strategy": Content(9), "decoder": ScriptedDecoder(TEXTS, slots=1), "verifiers": [fair]}
    if kind == "budget":
        decoder = ScriptedDecoder(TEXTS)
        return {
            "strategy": BestOfN(9),
            "decoder": decoder,
            "budget": Budget(branches=4, seconds=60),
            "verifiers": [fair],
        }
    return {"strategy": BestOfN(4), "decoder": ScriptedDecoder(TEXTS), "verifiers": [], "budget": SAFETY}


@pytest.mark.parametrize(
    ("kind", "status"), [("exhausted", "exhausted"), ("content", "exhausted"), ("budget", "budget")]
)
def test_at_the_end_all_complete_branches_are_compared_once_and_ranked(kind: str, status: RunStatus) -> None:
    verifier = Compares(most_common)
    options = ends(kind)
    options["verifiers"] = [*options["verifiers"], verifier]
    solution = solve(PROBLEM, **options)
    assert verifier.seen == [TEXTS]
    assert verifier.threads != {threading.get_ident()}
    assert (solution.status, solution.verified) == (status, False)
    assert [node.verdicts[-1].score for node in solution.tree.nodes()] == [0.225, 0.45, 0.225, 0.45]
    assert solution.usage.verifier_calls == (4 if kind == "exhausted" else 8)


def test_the_comparison_ranks_over_a_verifier_that_can_not_judge() -> None:
    def cannot(problem: Problem, branch: Branch) -> Verdict:
        return Verdict(status="abstained", reason="no answer to compare with")

    solution = solve(
        PROBLEM, decoder=ScriptedDecoder(TEXTS), strategy=BestOfN(4), verifiers=[cannot, Compares(most_common)]
    )
    assert solution.text == "a 42"
    assert solution.verdict is not None
    assert solution.verdict.verifier == "compares"


def test_the_highest_of_several_abstentions_decides() -> None:
    low, high = Verdict(status="abstained", score=0.0), Verdict(status="abstained", score=0.4)
    assert summary_verdict([low, high]) is high
    assert summary_verdict([high, low]) is high
    rejected = [Verdict(status="rejected", score=score, verifier=str(score)) for score in (0.1, 0.9)]
    assert summary_verdict(rejected) is rejected[0]


@pytest.mark.parametrize("budget", [SAFETY, Budget(branches=3, seconds=60), Budget(tokens=5, seconds=60)])
def test_an_accepted_comparison_verifies_the_run(budget: Budget) -> None:
    decoder = ScriptedDecoder(["a 42", "a 42", "other 43"])
    solution = solve(
        PROBLEM, decoder=decoder, strategy=BestOfN(3), verifiers=[Compares(accepts_most_common)], budget=budget
    )
    assert (solution.status, solution.verified, solution.text) == ("verified", True, "a 42")
    assert "accepted by compares" in solution.reason


def test_what_is_accepted_already_is_not_compared() -> None:
    verifier = Compares(most_common)
    solution = solve(
        PROBLEM,
        decoder=ScriptedDecoder(TEXTS),
        strategy=BestOfN(4, stop_at_first=False),
        verifiers=[lambda problem, branch: "42" in branch.text, verifier],
        budget=SAFETY,
    )
    assert (solution.status, verifier.seen) == ("verified", [])


def test_only_whole_answers_that_were_not_given_up_are_compared_and_with_all_of_their_text() -> None:
    @dataclass(frozen=True)
    class Steps:
        def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
            if len(tree) == 1:
                return tree.requests(4)
            if tree.pending() or len(tree) > 5:
                return []
            tree.prune("2", "changed my mind")
            return tree.requests(1, parent="1")

    def script(request: DecodeRequest) -> Branch:
        finish: Any = {"1": "step", "3": "error", "4": "length"}.get(request.id, "eos")
        return Branch(text=f"<{request.id}>", token_ids=(1,), finish=finish)

    verifier = Compares(most_common)
    solve(PROBLEM, decoder=ScriptedDecoder(script), strategy=Steps(), verifiers=[verifier], budget=SAFETY)
    assert verifier.seen == [["<4>", "<1><1.1>"]]


@pytest.mark.parametrize("says", [lambda texts: None, lambda texts: [True], lambda texts: 1 / 0])
def test_a_comparison_that_fails_is_an_error_on_each_branch_and_not_a_rejection(says: Any) -> None:
    solution = solve(
        PROBLEM, decoder=ScriptedDecoder(TEXTS), strategy=BestOfN(4), verifiers=[Compares(says)], budget=SAFETY
    )
    assert (solution.status, solution.verified) == ("exhausted", False)
    assert {node.status for node in solution.tree.nodes()} == {"open"}
    assert [node.verdict.status for node in solution.tree.nodes() if node.verdict] == ["error"] * 4
    assert "4 error" in solution.reason


def test_time_that_is_up_is_not_waited_out_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("led_agent.loop._GRACE", 0.05)
    late = threading.Event()
    verifier = Compares(lambda texts: waited(late))
    with Search(
        decoder=ScriptedDecoder(TEXTS), strategy=BestOfN(4), verifiers=[verifier], budget=Budget(seconds=1)
    ) as search:
        solution = search.solve(PROBLEM)
        late.set()
    assert not solution.verified
    assert solution.reason.endswith("compares had not answered when time was up")


def test_when_time_is_up_what_was_decoded_is_still_compared() -> None:
    decoder = ScriptedDecoder(TEXTS)

    @dataclass(frozen=True)
    class Waits(BestOfN):
        """Four branches, and then nothing but waiting."""

        def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
            decoder.hold = len(tree) > 4
            return super().propose(tree, min(slots, 4))

    verifier = Compares(most_common)
    solution = solve(PROBLEM, decoder=decoder, strategy=Waits(5), verifiers=[verifier], budget=Budget(seconds=2))
    assert (solution.status, solution.text) == ("budget", "a 42")
    assert verifier.seen == [TEXTS]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 7])
def test_the_budget_of_verifier_calls_has_room_for_the_comparison(limit: int) -> None:
    verifier = Compares(most_common)
    solution = solve(
        PROBLEM,
        decoder=ScriptedDecoder(TEXTS, slots=1),
        strategy=BestOfN(20),
        verifiers=[fair, verifier],
        budget=Budget(verifier_calls=limit, seconds=60),
    )
    assert solution.status == "budget"
    assert solution.usage.verifier_calls <= limit
    judged = [node for node in solution.tree.nodes() if any(v.verifier == "fair" for v in node.verdicts)]
    assert len(judged) == limit // 2


# --- interrupted and resumed ---------------------------------------------------------------------------------------


def test_an_interrupted_run_compares_nothing() -> None:
    verifier = Compares(most_common)

    def then(tree: Tree, event: Event | BranchProgress) -> None:
        if len(tree.leaves()) == 2:
            search.stop()

    decoder = ScriptedDecoder(TEXTS, slots=1)
    search = Search(decoder=decoder, strategy=BestOfN(4), verifiers=[verifier], observer=then, budget=SAFETY)
    assert search.solve(PROBLEM).status == "interrupted"
    assert verifier.seen == []


def test_a_run_that_is_stopped_while_branches_are_compared_compares_them_when_it_is_resumed(tmp_path: Path) -> None:
    late, begun = threading.Event(), threading.Event()

    def says(texts: list[str]) -> Any:
        begun.set()
        return most_common(texts) if waited(late) else None

    def run(verifier: Compares, *, stops: bool) -> Any:
        with Journal(tmp_path / "j.jsonl") as journal:
            decoder = ScriptedDecoder(TEXTS)
            search = Search(decoder=decoder, strategy=BestOfN(4), verifiers=[verifier], journal=journal, budget=SAFETY)
            stopper = threading.Thread(target=lambda: waited(begun) and search.stop())
            if stops:
                stopper.start()
            with search:
                solution = search.solve(PROBLEM)
            late.set()
            if stops:
                stopper.join()
            return solution, len(decoder.requests)

    first, _ = run(Compares(says), stops=True)
    assert (first.status, first.verdict) == ("interrupted", None)
    again = Compares(most_common)
    second, decoded = run(again, stops=False)
    assert (second.status, second.text, decoded) == ("exhausted", "a 42", 0)
    assert again.seen == [TEXTS]


@pytest.mark.parametrize(("kept", "asked"), [(0, 1), (1, 1), (3, 1), (4, 0)])
def test_a_resumed_run_asks_only_where_verdicts_are_missing_and_gives_none_twice(
    tmp_path: Path, kept: int, asked: int
) -> None:
    """The process died after so many of the comparison's verdicts were on disk."""
    path = tmp_path / "j.jsonl"
    options: dict[str, Any] = {"strategy": BestOfN(4), "budget": Budget(verifier_calls=8, seconds=60)}
    with Journal(path) as journal:
        solve(
            PROBLEM, decoder=ScriptedDecoder(TEXTS), verifiers=[fair, Compares(most_common)], journal=journal, **options
        )
    lines = path.read_bytes().splitlines(keepends=True)
    ours = [k for k, line in enumerate(lines) if b'"compares"' in line]
    path.write_bytes(b"".join(lines[: ours[0] + kept]))
    again = Compares(most_common)
    with Journal(path) as journal:
        solution = solve(PROBLEM, decoder=ScriptedDecoder(TEXTS), verifiers=[fair, again], journal=journal, **options)
    assert again.seen == [TEXTS] * asked
    assert (solution.status, solution.text, solution.usage.verifier_calls) == ("exhausted", "a 42", 8)
    assert read_trees(path)["six"].to_json() == solution.tree.to_json()


# --- counted -------------------------------------------------------------------------------------------------------


def test_the_search_counts_what_its_verifiers_said() -> None:
    def picky(problem: Problem, branch: Branch) -> bool:
        if "43" in branch.text:
            raise ValueError("not this one")
        return "42" in branch.text

    with Search(
        decoder=ScriptedDecoder(TEXTS),
        strategy=BestOfN(4, stop_at_first=False),
        verifiers=[picky, fair],
        verifier_concurrency=2,
        verifier_seconds=30.0,
        budget=SAFETY,
    ) as search:
        assert search.verifier_stats == {}
        search.solve(PROBLEM)
    stats = search.verifier_stats  # also when it is closed
    assert {name: s.model_dump(exclude={"seconds"}) for name, s in stats.items()} == {
        "picky": {"calls": 4, "accepted": 2, "rejected": 1, "abstained": 0, "errors": 1, "retries": 1},
        "fair": {"calls": 3, "accepted": 0, "rejected": 0, "abstained": 3, "errors": 0, "retries": 0},
    }


def test_a_verifier_that_hangs_is_an_error_on_its_branch_and_the_search_ends() -> None:
    late = threading.Event()

    def hangs(problem: Problem, branch: Branch) -> bool:
        return branch.text == "a 42" or not waited(late)

    with Search(
        decoder=ScriptedDecoder(TEXTS),
        strategy=BestOfN(4, stop_at_first=False),
        verifiers=[hangs],
        verifier_concurrency=1,
        verifier_seconds=1.0,
    ) as search:
        solution = search.solve(PROBLEM)
        late.set()
    assert [node.status for node in solution.tree.nodes()] == ["open", "accepted", "open", "accepted"]
    assert search.verifier_stats["hangs"].errors == 2


def test_the_same_problem_may_be_solved_again_and_is_judged_again() -> None:
    asked: list[str] = []

    def verifier(problem: Problem, branch: Branch) -> bool:
        asked.append(branch.id)
        return False

    with Search(decoder=ScriptedDecoder(["41"]), strategy=BestOfN(2), verifiers=[verifier], budget=SAFETY) as search:
        for _ in range(2):
            assert search.solve(PROBLEM).usage.verifier_calls == 2
        assert sorted(asked) == ["1", "1", "2", "2"]
        assert search._pool._memory == {}
