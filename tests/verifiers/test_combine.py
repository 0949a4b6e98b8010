"""What verdicts add up to, by a truth table written a second time; and a cache that asks each thing once."""

from __future__ import annotations

import pickle
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from led_agent.errors import MachineError, UsageError
from led_agent.judging import batch_limit, compares
from led_agent.types import Branch, Problem, Verdict
from led_agent.verifiers import all_of, any_of, cached, countdown, matches, negate, weighted

PROBLEM = Problem(prompt="q", id="q")
BRANCH = Branch(text="42", id="1")
SCORES = [0.0, 0.25, 0.5, 1.0]
VERDICTS = st.builds(
    Verdict, status=st.sampled_from(["accepted", "rejected", "abstained", "error"]), score=st.sampled_from(SCORES)
)


@dataclass(frozen=True)
class Says:
    """A verifier that says this and keeps count."""

    verdict: Any
    name: str = "says"

    def __call__(self, problem: Problem, branch: Branch) -> Any:
        return self.verdict


@dataclass
class Counts:
    """A verifier that accepts 42, and keeps the texts that it was asked about."""

    name: str = "counts"

    def __post_init__(self) -> None:
        self.texts: list[str] = []
        self.closed = 0

    def __call__(self, problem: Problem, branch: Branch) -> bool:
        self.texts.append(branch.text)
        return branch.text == "42"

    def close(self) -> None:
        self.closed += 1


class Batches(Counts):
    batch_size = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.batches: list[int] = []

    def batch(self, asked: Sequence[tuple[Problem, Branch]]) -> list[bool]:
        self.batches.append(len(asked))
        return [self(problem, branch) for problem, branch in asked]


class Compares(Counts):
    def together(self, problem: Problem, branches: Sequence[Branch]) -> list[float]:
        self.texts.append("|".join(branch.text for branch in branches))
        return [0.5] * len(branches)


def raises(problem: Problem, branch: Branch) -> bool:
    raise OSError("no tool")


def is_42(problem: Problem, branch: Branch) -> bool:
    return branch.text == "42"


# --- the truth tables ----------------------------------------------------------------------------------------------


def all_table(said: list[Verdict]) -> tuple[str, float]:
    first = next((v for v in said if v.status == "rejected"), None)
    if first:
        return "rejected", first.score
    statuses = {v.status for v in said}
    if "error" in statuses:
        return "error", 0.0
    status = "accepted" if "accepted" in statuses else "abstained"
    return status, min(v.score for v in said if v.status == status)


def any_table(said: list[Verdict]) -> tuple[str, float]:
    first = next((v for v in said if v.status == "accepted"), None)
    if first:
        return "accepted", first.score
    statuses = {v.status for v in said}
    if "error" in statuses:
        return "error", 0.0
    status = "rejected" if statuses == {"rejected"} else "abstained"
    return status, max(v.score for v in said if v.status == status)


def weighted_table(said: list[Verdict], accept: float) -> tuple[str, float]:
    if any(v.status == "error" for v in said):
        return "error", 0.0
    judged = [(v.score, k + 1) for k, v in enumerate(said) if v.status != "abstained" or v.score > 0]
    if not judged:
        return "abstained", 0.0
    mean = sum(score * w for score, w in judged) / sum(w for _, w in judged)
    return ("accepted" if mean >= accept else "rejected"), mean


@given(st.lists(VERDICTS, min_size=1, max_size=5))
def test_all_of_and_any_of_say_what_their_tables_say(said: list[Verdict]) -> None:
    for combine, table in ((all_of, all_table), (any_of, any_table)):
        found = combine(*map(Says, said))(PROBLEM, BRANCH)
        assert (found.status, found.score) == table(said)


@given(st.lists(VERDICTS, min_size=1, max_size=5), st.sampled_from([0.3, 0.6, 0.99]))
def test_weighted_says_what_its_table_says(said: list[Verdict], accept: float) -> None:
    pairs = [(Says(verdict), k + 1.0) for k, verdict in enumerate(said)]
    found = weighted(pairs, accept)(PROBLEM, BRANCH)
    status, mean = weighted_table(said, accept)
    assert (found.status, found.score) == (status, pytest.approx(mean))
    ranked = weighted(pairs, accept=None)(PROBLEM, BRANCH)
    assert (ranked.status, ranked.score) == ("error" if status == "error" else "abstained", pytest.approx(mean))


@given(VERDICTS)
def test_negate_turns_the_verdict_and_twice_is_not_at_all(said: Verdict) -> None:
    turned = {"accepted": "rejected", "rejected": "accepted", "abstained": "abstained", "error": "error"}
    found = negate(Says(said))(PROBLEM, BRANCH)
    assert found.status == turned[said.status]
    assert found.score == (0.0 if said.status == "error" else 1 - said.score)
    twice = negate(negate(Says(said)))(PROBLEM, BRANCH)
    assert (twice.status, twice.score) == (said.status, 0.0 if said.status == "error" else said.score)


@given(st.recursive(VERDICTS.map(Says), lambda inner: st.one_of(
    st.lists(inner, min_size=1, max_size=3).map(lambda v: all_of(*v)),
    st.lists(inner, min_size=1, max_size=3).map(lambda v: any_of(*v)),
), max_leaves=8))  # fmt: skip
def test_however_nested_what_only_fails_is_never_rejected_nor_accepted(verifier: Any) -> None:
    def leaves(of: Any) -> Iterator[Verdict]:
        for member in getattr(of, "members", ()):
            yield from leaves(member)
        if isinstance(of, Says):
            yield of.verdict

    statuses = {verdict.status for verdict in leaves(verifier)}
    status = verifier(PROBLEM, BRANCH).status
    assert status in statuses
    assert pickle.loads(pickle.dumps(verifier)) == verifier


def test_who_is_settled_is_not_asked_on() -> None:
    behind = Counts()
    assert all_of(is_42, behind)(PROBLEM, Branch(text="41")).status == "rejected"
    assert any_of(is_42, behind)(PROBLEM, BRANCH).status == "accepted"
    assert behind.texts == []
    all_of(raises, behind)(PROBLEM, BRANCH)
    assert behind.texts == ["42"]


def test_what_a_member_raises_is_its_error_after_a_second_try() -> None:
    calls = []

    def once(problem: Problem, branch: Branch) -> bool:
        calls.append(branch)
        if len(calls) == 1:
            raise OSError("away")
        return True

    assert all_of(once)(PROBLEM, BRANCH).status == "accepted"
    said = all_of(raises, is_42)(PROBLEM, BRANCH)
    assert (said.status, said.reason) == ("error", "raises: verifier raises raised OSError: no tool")
    assert all_of(raises, is_42)(PROBLEM, Branch(text="41")).status == "rejected"
    assert any_of(raises, is_42)(PROBLEM, BRANCH).status == "accepted"
    assert negate(raises)(PROBLEM, BRANCH).status == "error"


def test_names_reasons_and_answers_tell_who_said_what() -> None:
    verifier = all_of(countdown(), negate(matches("x")))
    assert verifier.name == "all_of(countdown, negate(matches))"
    assert weighted({countdown(): 0.7, is_42: 2}).name == "weighted(countdown: 0.7, is_42: 2)"
    said = any_of(Says(Verdict(status="rejected", reason="no", answer="7"), name="a"), is_42)(PROBLEM, Branch(text="7"))
    assert (said.verifier, said.reason, said.answer) == ("any_of(a, is_42)", "a: no; is_42 rejected", "7")
    assert all_of(lambda problem, branch: True)(PROBLEM, BRANCH).status == "accepted"


def test_batches_go_on_as_batches_and_only_with_what_is_not_settled() -> None:
    inner, behind = Batches(), Counts()
    verifier = all_of(inner, behind)
    pairs = [(PROBLEM, Branch(text=text)) for text in ("42", "41", "42", "40", "42")]
    assert [v.status for v in verifier.batch(pairs)] == ["accepted", "rejected", "accepted", "rejected", "accepted"]
    assert inner.batches == [2, 2, 1]
    assert behind.texts == ["42"] * 3
    assert batch_limit(negate(verifier)) == 2
    assert batch_limit(all_of(is_42)) is None


def test_what_compares_goes_on_comparing_and_only_what_is_not_settled() -> None:
    inner = Compares()
    verifier = all_of(is_42, inner)
    said = verifier.together(PROBLEM, [Branch(text=text) for text in ("42", "41", "42")])
    assert [v.status for v in said] == ["accepted", "rejected", "accepted"]
    assert inner.texts == ["42|42"]
    assert compares(negate(verifier))
    assert not compares(all_of(is_42))


@pytest.mark.parametrize("combine", [all_of, any_of, lambda *v: weighted([(m, 1.0) for m in v])])
def test_only_what_no_member_can_judge_is_refused_and_closing_closes_all(combine: Any) -> None:
    @dataclass
    class Unable(Counts):
        def check(self, problem: Problem) -> str:
            return "no tests"

    unable, able = Unable(), Counts()
    assert combine(unable, unable).check(PROBLEM) == "counts: no tests; counts: no tests"
    assert combine(unable, able).check(PROBLEM) is None
    combine(unable, able, is_42).close()
    assert (unable.closed, able.closed) == (1, 1)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (all_of, "all_of needs at least one"),
        (any_of, "any_of needs at least one"),
        (lambda: weighted({}), "weighted needs at least one"),
        (lambda: all_of(is_42, "math"), "found 'math'"),  # type: ignore[arg-type]
        (lambda: negate(Counts), "found <class"),  # type: ignore[arg-type]
        (lambda: weighted({is_42: 0}), "above 0, but is_42 has 0"),
        (lambda: weighted({is_42: float("nan")}), "above 0, but is_42 has nan"),
        (lambda: weighted([is_42]), "verifiers with weights are allowed"),  # type: ignore[list-item]
        (lambda: weighted({is_42: 1}, accept=0.0), "accept is 0.0"),
        (lambda: cached("math"), "found 'math'"),  # type: ignore[arg-type]
        (lambda: cached(is_42, size=0), "size is 0"),
        (lambda: cached(Compares()), "counts compares branches"),
        (lambda: cached(lambda p, b: True, path="x.db"), "can't be told from others"),
        (lambda: cached(all_of(lambda p, b: True), path="x.db"), "can't be told from others"),
    ],
)
def test_what_can_not_be_combined_is_refused(make: Any, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        make()


# --- cached --------------------------------------------------------------------------------------------------------


def test_the_same_question_is_asked_once_and_another_again() -> None:
    inner = Counts()
    verifier = cached(inner)
    base = Problem(prompt="q", answer="1")
    others = [
        base.model_copy(update=change)
        for change in ({"answer": "2"}, {"tests": "assert f()"}, {"entry_point": "f"}, {"metadata": {"n": 1}})
    ]
    for _ in range(2):
        for problem in (base, *others, Problem(prompt="r", answer="1")):
            assert verifier(problem, BRANCH).status == "accepted"
        assert verifier(base, Branch(text="41")).status == "rejected"
    assert verifier(base.model_copy(update={"id": "renamed"}), Branch(text="42", id="9")).verifier == "cached(counts)"
    assert inner.texts == ["42"] * 6 + ["41"]


def test_errors_are_not_kept() -> None:
    said: list[Any] = [Verdict(status="error"), None, OSError("away"), True]

    def inner(problem: Problem, branch: Branch) -> Any:
        value = said.pop(0)
        if isinstance(value, Exception):
            raise value
        return value

    verifier = cached(inner)
    assert [verifier(PROBLEM, BRANCH).status for _ in range(2)] == ["error", "error"]
    with pytest.raises(OSError, match="away"):
        verifier(PROBLEM, BRANCH)
    assert [verifier(PROBLEM, BRANCH).status for _ in range(2)] == ["accepted", "accepted"]


def test_the_least_used_is_given_up_first() -> None:
    inner = Counts()
    verifier = cached(inner, size=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        verifier(PROBLEM, Branch(text=text))
    assert inner.texts == ["a", "b", "c", "b"]


def test_the_same_question_from_many_threads_is_worked_out_once() -> None:
    late, begun, asked = threading.Event(), threading.Event(), []

    def inner(problem: Problem, branch: Branch) -> bool:
        asked.append(branch)
        begun.set()
        return late.wait(30)

    verifier, said = cached(inner), []
    threads = [threading.Thread(target=lambda: said.append(verifier(PROBLEM, BRANCH))) for _ in range(4)]
    threads[0].start()
    assert begun.wait(30)
    for thread in threads[1:]:
        thread.start()
    late.set()
    for thread in threads:
        thread.join(30)
    assert [v.status for v in said] == ["accepted"] * 4
    assert len(asked) == 1


def test_of_a_batch_only_what_is_new_is_asked_and_twins_once() -> None:
    inner = Batches()
    verifier = cached(inner)
    verifier(PROBLEM, BRANCH)
    said = verifier.batch([(PROBLEM, Branch(text=text)) for text in ("42", "41", "41")])
    assert [v.status for v in said] == ["accepted", "rejected", "rejected"]
    assert (inner.texts, inner.batches) == (["42", "41"], [1])
    assert batch_limit(verifier) == 2
    assert batch_limit(cached(is_42)) is None


def test_a_file_serves_the_next_run_and_not_another_verifier(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "verdicts.db"
    for expected in (["42"], []):
        inner = Counts()
        verifier = cached(inner, path=path)
        assert pickle.loads(pickle.dumps(verifier)) == verifier
        assert verifier(PROBLEM, BRANCH).status == "accepted"
        assert inner.texts == expected
        verifier.close()
        assert inner.closed == 1
    other = Counts(name="other")
    cached(other, path=path)(PROBLEM, BRANCH)
    assert other.texts == ["42"]
    assert cached(matches("42"), path=path)(PROBLEM, BRANCH).status == "accepted"
    assert cached(matches("43"), path=path)(PROBLEM, BRANCH).status == "rejected"


def test_a_file_is_shared_by_processes(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.db"
    code = (
        "import sys; from led_agent import *; from led_agent.verifiers import *; v = cached(matches('4'), sys.argv[1]);"
        "[v(Problem(prompt='q'), Branch(text=str(k))) for k in range(50)]; v.close()"
    )
    root = str(Path(__file__).parents[2])
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], env={"PYTHONPATH": root}, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    assert [(run.communicate(timeout=120)[1], run.returncode) for run in runs] == [(b"", 0)] * 2
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM verdicts").fetchone() == (50,)
    connection.close()


@pytest.mark.parametrize("damage", ["garbage", "another", "row", "folder"])
def test_a_file_that_is_damaged_or_no_cache_is_named_and_left_as_it_is(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "verdicts.db"
    if damage == "garbage":
        path.write_bytes(b"not a database at all" * 100)
    elif damage == "folder":
        path.mkdir()
    elif damage == "another":
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE mine (x)")
        connection.close()
    else:
        first = cached(matches("42"), path)
        first(PROBLEM, BRANCH)
        first.close()
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("UPDATE verdicts SET verdict = '{}'")
        connection.close()
    before = path.read_bytes() if path.is_file() else b""
    verifier = cached(matches("42"), path)
    with pytest.raises(MachineError, match=r"verdicts\.db"):
        verifier(PROBLEM, BRANCH)
    if damage != "row":
        with pytest.raises(MachineError, match=r"verdicts\.db"):
            verifier.check(PROBLEM)
    verifier.close()
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_what_may_not_be_told_to_the_model_stays_so() -> None:
    gives_away = Says(Verdict(status="rejected", reason="expected 42", feedback="wrong"), name="a")
    plain = Says(Verdict(status="rejected", reason="too long"), name="b")
    silent = Says(Verdict(status="rejected", reason="expected 42", feedback=""), name="c")
    assert any_of(gives_away, plain)(PROBLEM, Branch(text="7")).feedback == "wrong; b: too long"
    assert any_of(silent)(PROBLEM, Branch(text="7")).feedback == ""
    assert any_of(plain)(PROBLEM, Branch(text="7")).feedback is None
    told = weighted([(gives_away, 1.0)], accept=0.5)(PROBLEM, Branch(text="7")).feedback
    assert told is not None
    assert "42" not in told
