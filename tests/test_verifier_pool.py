"""The pool asks each thing once, in its turn and within its limits, and nothing that a verifier does stops it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from led_agent.errors import MachineError, UsageError
from led_agent.judging import judge
from led_agent.types import Branch, Problem, Verdict
from led_agent.verifier_pool import VerifierPool, VerifierStats

PROBLEM = Problem(prompt="What is 6 x 7?", id="six")
OTHER = Problem(prompt="What is 7 x 7?", id="seven")
LONG = 60.0  # seconds; a limit that no test means to reach


def branch(name: str, text: str = "42") -> Branch:
    return Branch(text=text, id=name)


def waited(event: threading.Event) -> bool:
    """Whether it came; a test that waits in vain fails and does not hang."""
    return event.wait(30)


@pytest.fixture
def pool() -> Iterator[VerifierPool]:
    pool = VerifierPool(4)
    yield pool
    pool.close()


class Asked:
    """A verifier that keeps what it was asked, and may be held."""

    def __init__(self, says: Any = True, *, name: str = "asked", held: threading.Event | None = None) -> None:
        self.says, self.name, self.held = says, name, held
        self.ids: list[str] = []
        self.begun = threading.Event()

    def __call__(self, problem: Problem, branch: Branch) -> Any:
        self.ids.append(branch.id)
        self.begun.set()
        assert self.held is None or waited(self.held)
        if isinstance(self.says, BaseException):
            raise self.says
        return self.says(branch) if callable(self.says) else self.says


class Batches(Asked):
    """The same, in batches, which it keeps."""

    batch_size = 3

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.batches: list[list[str]] = []

    def batch(self, asked: Sequence[tuple[Problem, Branch]]) -> list[Any]:
        self.batches.append([branch.id for _, branch in asked])
        return [self(problem, branch) for problem, branch in asked]


def answers(futures: Sequence[Any]) -> list[tuple[Verdict, ...]]:
    return [future.result(timeout=30) for future in futures]


# --- what comes out ------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([True, False, 0.5, None, Verdict(status="error", reason="no tool")]), max_size=5))
@settings(max_examples=40, deadline=None)
def test_it_says_what_asking_them_one_after_another_says(said: list[Any]) -> None:
    verifiers = [Asked(value, name=f"v{k}") for k, value in enumerate(said)]
    pool = VerifierPool(3)
    found = pool.submit(verifiers, PROBLEM, branch("1")).result(timeout=30)
    expected = judge([Asked(value, name=f"v{k}") for k, value in enumerate(said)], PROBLEM, branch("1"))
    pool.close()
    assert [v.model_copy(update={"seconds": 0.0}) for v in found] == [
        v.model_copy(update={"seconds": 0.0}) for v in expected
    ]
    assert [len(verifier.ids) for verifier in verifiers] == [1] * len(found) + [0] * (len(said) - len(found))


def test_a_verdict_comes_when_it_is_there_whatever_was_asked_before_it(pool: VerifierPool) -> None:
    late = threading.Event()
    slow = pool.submit([Asked(held=late)], PROBLEM, branch("1"))
    quick = pool.submit([Asked(False)], PROBLEM, branch("2"))
    assert quick.result(timeout=30)[0].status == "rejected"
    assert not slow.done()
    late.set()
    assert slow.result(timeout=30)[0].status == "accepted"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("123"), st.sampled_from("xy")), max_size=30))
@settings(max_examples=25, deadline=None)
def test_each_thing_is_asked_once_however_often_it_is_submitted(asked: list[tuple[str, str, str]]) -> None:
    """A branch is known by its problem, its id and its text."""
    seen: Counter[tuple[str, str, str]] = Counter()
    lock = threading.Lock()

    def verifier(problem: Problem, branch: Branch) -> float:
        with lock:
            seen[problem.key, branch.id, branch.text] += 1
        return 0.25 if branch.text == "x" else 0.75

    pool = VerifierPool(3)
    verdicts = answers([pool.submit([verifier], Problem(prompt="q", id=p), branch(i, t)) for p, i, t in asked])
    stats = pool.stats
    pool.close()
    assert seen == Counter(set(asked))
    assert [said.score for (said,) in verdicts] == [0.25 if t == "x" else 0.75 for _, _, t in asked]
    assert stats.get("verifier", VerifierStats()).calls == len(set(asked))


def test_what_is_in_flight_is_not_asked_again(pool: VerifierPool) -> None:
    late = threading.Event()
    verifier = Asked(held=late)
    first = pool.submit([verifier], PROBLEM, branch("1"))
    assert waited(verifier.begun)
    second = pool.submit([verifier], PROBLEM, branch("1"))
    late.set()
    assert first.result(timeout=30) == second.result(timeout=30)
    assert verifier.ids == ["1"]


def test_a_verifier_that_is_given_twice_is_asked_twice(pool: VerifierPool) -> None:
    verifier = Asked(0.5)
    assert len(pool.submit([verifier, verifier], PROBLEM, branch("1")).result(timeout=30)) == 2
    assert verifier.ids == ["1", "1"]


def test_what_is_forgotten_is_asked_again_and_what_still_waits_is_dropped() -> None:
    pool = VerifierPool(1)
    late = threading.Event()
    verifier = Asked(held=late)
    first = pool.submit([verifier], PROBLEM, branch("1"))
    assert waited(verifier.begun)
    dropped, kept = pool.submit([verifier], PROBLEM, branch("2")), pool.submit([verifier], OTHER, branch("2"))
    pool.forget(PROBLEM.key)
    again = pool.submit([verifier], PROBLEM, branch("1"))
    late.set()
    answers([first, kept, again])
    with pytest.raises(CancelledError):
        dropped.result(timeout=30)
    assert sorted(verifier.ids) == ["1", "1", "2"]
    pool.close()


def test_what_a_run_left_behind_is_forgotten(pool: VerifierPool) -> None:
    answers([pool.submit([Asked()], PROBLEM, branch(str(k))) for k in range(50)])
    pool.forget(PROBLEM.key)
    assert (pool._memory, pool._lanes) == ({}, {})


def test_a_problem_that_was_forgotten_is_not_known_again_by_its_next_verifier(pool: VerifierPool) -> None:
    late = threading.Event()
    first, second = Asked(held=late, name="first"), Asked(name="second")
    asked = pool.submit([first, second], PROBLEM, branch("1"))
    assert waited(first.begun)
    pool.forget(PROBLEM.key)
    late.set()
    with pytest.raises(CancelledError):
        asked.result(timeout=30)
    assert (second.ids, pool._memory) == ([], {})


# --- how much at a time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 3])
def test_as_many_calls_at_a_time_as_allowed_and_no_more(concurrency: int) -> None:
    pool = VerifierPool(concurrency)
    together = threading.Barrier(concurrency)
    now, most, lock = 0, 0, threading.Lock()

    def verifier(problem: Problem, branch: Branch) -> bool:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait(30)  # passes only where so many are in here
        with lock:
            now -= 1
        return True

    verdicts = answers([pool.submit([verifier], PROBLEM, branch(str(k))) for k in range(4 * concurrency)])
    pool.close()
    assert {said.status for (said,) in verdicts} == {"accepted"}
    assert most == concurrency


def test_problems_take_turns() -> None:
    pool = VerifierPool(1)
    late = threading.Event()
    order: list[tuple[str, str]] = []

    def verifier(problem: Problem, branch: Branch) -> bool:
        order.append((problem.key, branch.id))
        return waited(late)

    futures = [pool.submit([verifier], PROBLEM, branch(str(k))) for k in range(5)]
    futures += [pool.submit([verifier], OTHER, branch(str(k))) for k in range(2)]
    late.set()
    answers(futures)
    pool.close()
    assert order.index(("seven", "0")) <= 2
    assert order.index(("seven", "1")) <= 4


def test_verifiers_take_turns() -> None:
    pool = VerifierPool(1)
    late = threading.Event()
    many, one = Asked(held=late, name="many"), Asked(name="one")
    order: list[str] = []
    futures = []
    for verifier, count in ((many, 5), (one, 1)):
        for k in range(count):
            futures.append(pool.submit([verifier], PROBLEM, branch(str(k))))
            futures[-1].add_done_callback(lambda _, name=verifier.name: order.append(name))  # type: ignore[misc]
    late.set()
    answers(futures)
    pool.close()
    assert order.index("one") <= 2


def test_what_waits_goes_into_one_batch_and_no_batch_is_too_large(pool: VerifierPool) -> None:
    late = threading.Event()
    verifier = Batches(lambda branch: branch.id != "3", held=late)
    futures = [pool.submit([verifier], PROBLEM, branch("0"))]
    assert waited(verifier.begun)  # nothing waits for company
    futures += [pool.submit([verifier], PROBLEM, branch(str(k))) for k in range(1, 6)]
    late.set()
    assert [said.status for (said,) in answers(futures)] == ["accepted"] * 3 + ["rejected"] + ["accepted"] * 2
    assert verifier.batches == [["0"], ["1", "2", "3"], ["4", "5"]]
    assert pool.stats["asked"].calls == 6


def test_a_batch_is_shared_by_problems(pool: VerifierPool) -> None:
    late = threading.Event()
    verifier = Batches(held=late)
    futures = [pool.submit([verifier], PROBLEM, branch("0"))]
    assert waited(verifier.begun)
    futures += [pool.submit([verifier], PROBLEM, branch(f"a{k}")) for k in range(4)]
    futures += [pool.submit([verifier], OTHER, branch("b"))]
    late.set()
    answers(futures)
    assert verifier.batches[1] == ["a0", "b", "a1"]


def test_a_verifier_with_room_for_two_batches_gets_two_at_once(pool: VerifierPool) -> None:
    both = threading.Barrier(2)

    class InTwoPlaces(Batches):
        batch_size = 1
        batches_at_once = 2

        def batch(self, asked: Sequence[tuple[Problem, Branch]]) -> list[Any]:
            both.wait(30)  # broken where the other batch doesn't begin
            return super().batch(asked)

    verifier = InTwoPlaces()
    said = answers([pool.submit([verifier], PROBLEM, branch(str(k))) for k in range(2)])
    assert [verdict.status for (verdict,) in said] == ["accepted"] * 2
    assert pool.stats["asked"].retries == 0


@pytest.mark.parametrize("size", [0, -1, 2.5, "many", True, None])
def test_a_batch_size_that_is_none_is_refused(pool: VerifierPool, size: Any) -> None:
    verifier = Batches()
    verifier.batch_size = size
    with pytest.raises(UsageError, match=r"verifier asked has batch_size .*; a whole number from 1 on"):
        pool.submit([Asked(), verifier], PROBLEM, branch("1"))


@pytest.mark.parametrize(
    ("said", "told"),
    [([True], "1 answers for 3 branches"), (None, "NoneType for 3 branches"), ("yes", "str for 3 branches")],
)
def test_a_batch_of_another_length_is_an_error_on_each_and_not_asked_for_again(said: Any, told: str) -> None:
    late = threading.Event()

    class Short(Batches):
        def batch(self, asked: Sequence[tuple[Problem, Branch]]) -> Any:
            return super().batch(asked) if len(asked) == 1 else said

    pool, verifier = VerifierPool(2), Short(held=late)
    futures = [pool.submit([verifier], PROBLEM, branch("0"))]
    assert waited(verifier.begun)
    futures += [pool.submit([verifier], PROBLEM, branch(str(k))) for k in range(1, 4)]
    late.set()
    first, *others = answers(futures)
    pool.close()
    assert first[0].status == "accepted"
    assert [said.status for (said,) in others] == ["error"] * 3
    assert all(told in said.reason for (said,) in others)
    assert pool.stats["asked"].retries == 0


# --- what fails ----------------------------------------------------------------------------------------------------


class Flaky(Asked):
    """Raises when it is asked about a branch for the first so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def __call__(self, problem: Problem, branch: Branch) -> bool:
        self.ids.append(branch.id)
        if self.ids.count(branch.id) <= self.times:
            raise OSError("the tool is away")
        return True


@pytest.mark.parametrize(("times", "status"), [(0, "accepted"), (1, "accepted"), (2, "error"), (9, "error")])
def test_what_raises_is_tried_once_more(pool: VerifierPool, times: int, status: str) -> None:
    verifier = Flaky(times)
    (said,) = pool.submit([verifier], PROBLEM, branch("1")).result(timeout=30)
    assert said.status == status
    assert verifier.ids == ["1"] * min(2, times + 1)
    stats = pool.stats["asked"]
    assert (stats.calls, stats.retries) == (1, min(1, times))
    assert (stats.accepted, stats.errors) == ((1, 0) if status == "accepted" else (0, 1))
    if status == "error":
        assert said.reason == "verifier asked raised OSError: the tool is away"


@pytest.mark.parametrize(
    "said", [Verdict(status="error", reason="no"), None, "yes", SystemExit(3), KeyboardInterrupt()]
)
def test_what_it_returns_and_what_ends_it_is_not_asked_for_again(pool: VerifierPool, said: Any) -> None:
    verifier = Asked(said)
    (verdict,) = pool.submit([verifier], PROBLEM, branch("1")).result(timeout=30)
    assert verdict.status == "error"
    assert verifier.ids == ["1"]
    assert pool.stats["asked"].retries == 0


def test_after_a_batch_that_raised_each_is_tried_alone_and_only_the_guilty_fail(pool: VerifierPool) -> None:
    late = threading.Event()

    def says(branch: Branch) -> bool:
        if branch.id == "2":
            raise ValueError("not this one")
        return True

    verifier = Batches(says, held=late)
    futures = [pool.submit([verifier], PROBLEM, branch("0"))]
    assert waited(verifier.begun)
    futures += [pool.submit([verifier], PROBLEM, branch(str(k))) for k in range(1, 4)]
    late.set()
    assert [said.status for (said,) in answers(futures)] == ["accepted", "accepted", "error", "accepted"]
    assert len(verifier.batches) == 2
    assert pool.stats["asked"] == VerifierStats(
        calls=4, accepted=3, errors=1, retries=3, seconds=pool.stats["asked"].seconds
    )


@given(st.lists(st.sampled_from([True, False, 0.5, "nonsense", "raises"]), max_size=12))
@settings(max_examples=30, deadline=None)
def test_the_counters_add_up(said: list[Any]) -> None:
    def verifier(problem: Problem, branch: Branch) -> Any:
        value = said[int(branch.id)]
        if value == "raises":
            raise ValueError("no")
        return value

    pool = VerifierPool(3)
    verdicts = answers([pool.submit([verifier], PROBLEM, branch(str(k))) for k in range(len(said))])
    stats = pool.stats.get("verifier", VerifierStats())
    pool.close()
    statuses = Counter(verdict.status for (verdict,) in verdicts)
    assert statuses == Counter(
        {"accepted": stats.accepted, "rejected": stats.rejected, "abstained": stats.abstained, "error": stats.errors}
    )
    assert stats.calls == len(said)
    assert stats.retries == said.count("raises")
    assert (stats.seconds > 0) == bool(said)


# --- the time limit ------------------------------------------------------------------------------------------------


def test_what_takes_too_long_is_an_error_at_once_and_its_place_is_taken() -> None:
    """One call at a time, and the first never comes back while the others are asked."""
    pool = VerifierPool(1, seconds=1.0)
    late = threading.Event()
    stuck, quick = Asked(held=late, name="stuck"), Asked(name="quick")
    first = pool.submit([stuck, quick], PROBLEM, branch("1"))
    second = pool.submit([quick], PROBLEM, branch("2"))
    said, then = first.result(timeout=30)
    assert (said.status, said.verifier) == ("error", "stuck")
    assert said.reason.startswith("verifier stuck did not answer within 1 s")
    assert then.status == "accepted"
    assert second.result(timeout=30)[0].status == "accepted"
    assert not late.is_set()
    assert stuck.ids == ["1"]  # one that takes too long is not tried again
    late.set()
    assert (pool.stats["stuck"].calls, pool.stats["stuck"].errors, pool.stats["stuck"].retries) == (1, 1, 0)
    pool.close()


def test_a_batch_that_takes_too_long_does_not_hold_up_the_next() -> None:
    pool = VerifierPool(2, seconds=1.0)
    late = threading.Event()
    verifier = Batches(lambda branch: branch.id != "0" or waited(late))
    first = pool.submit([verifier], PROBLEM, branch("0"))
    assert first.result(timeout=30)[0].status == "error"
    assert pool.submit([verifier], PROBLEM, branch("1")).result(timeout=30)[0].status == "accepted"
    late.set()
    pool.close()


def test_a_word_that_comes_too_late_changes_nothing() -> None:
    pool = VerifierPool(1, seconds=1.0)
    late, returned = threading.Event(), threading.Event()

    def verifier(problem: Problem, branch: Branch) -> bool:
        if branch.id == "1":
            waited(late)
            returned.set()
        return True

    first = pool.submit([verifier], PROBLEM, branch("1"))
    assert first.result(timeout=30)[0].status == "error"
    late.set()
    assert waited(returned)
    assert pool.submit([verifier], PROBLEM, branch("1")).result(timeout=30)[0].status == "error"
    assert pool.submit([verifier], PROBLEM, branch("2")).result(timeout=30)[0].status == "accepted"
    assert (pool.stats["verifier"].calls, pool.stats["verifier"].errors) == (2, 1)
    pool.close()


def test_a_verifier_in_which_too_many_threads_are_stuck_is_not_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("led_agent.verifier_pool._MOST_STUCK", 2)
    pool = VerifierPool(1, seconds=1.0)
    late, asked = threading.Event(), threading.Semaphore(0)

    def stuck(problem: Problem, branch: Branch) -> bool:
        asked.release()
        return waited(late)

    verdicts = answers([pool.submit([stuck], PROBLEM, branch(str(k))) for k in range(5)])
    assert [said.status for (said,) in verdicts] == ["error"] * 5
    assert all(asked.acquire(timeout=30) for _ in range(2))
    assert not asked.acquire(blocking=False)
    assert "was not asked: 2 earlier calls of it have not come back" in verdicts[-1][0].reason
    late.set()
    pool.close()


def test_within_the_limit_nothing_is_given_up() -> None:
    pool = VerifierPool(2, seconds=LONG)
    verdicts = answers([pool.submit([Asked()], PROBLEM, branch(str(k))) for k in range(20)])
    assert {said.status for (said,) in verdicts} == {"accepted"}
    assert not pool._running
    pool.close()


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"seconds": 0.0}, {"seconds": float("inf")}, {"seconds": -1}])
def test_limits_that_are_none_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        VerifierPool(**options)


# --- comparing -----------------------------------------------------------------------------------------------------


class Compares(Asked):
    def together(self, problem: Problem, branches: Sequence[Branch]) -> Any:
        self.ids.append(" ".join(branch.id for branch in branches))
        return self.says(branches) if callable(self.says) else self.says


def test_branches_are_compared_in_one_call_and_once(pool: VerifierPool) -> None:
    verifier = Compares(lambda branches: [k / 10 for k in range(len(branches))])
    branches = [branch(str(k)) for k in range(4)]
    first, second = (pool.compare(verifier, PROBLEM, branches).result(timeout=30) for _ in range(2))
    assert first == second
    assert [said.score for said in first] == [0.0, 0.1, 0.2, 0.3]
    assert verifier.ids == ["0 1 2 3"]
    assert (pool.stats["asked"].calls, pool.stats["asked"].rejected, pool.stats["asked"].abstained) == (4, 1, 3)


def test_a_comparison_that_fails_is_tried_once_more_and_then_an_error_on_each(pool: VerifierPool) -> None:
    def says(branches: Sequence[Branch]) -> Any:
        raise OSError("away")

    verifier = Compares(says)
    said = pool.compare(verifier, PROBLEM, [branch("1"), branch("2")]).result(timeout=30)
    assert [(v.status, v.verifier) for v in said] == [("error", "asked")] * 2
    assert verifier.ids == ["1 2"] * 2


def test_what_compares_nothing_can_not_be_asked_to(pool: VerifierPool) -> None:
    with pytest.raises(UsageError, match="asked has no together"):
        pool.compare(Asked(), PROBLEM, [branch("1")])


# --- the end -------------------------------------------------------------------------------------------------------


def test_closing_waits_for_nobody_drops_what_waits_and_may_be_done_twice() -> None:
    pool = VerifierPool(1)
    late = threading.Event()
    verifier = Asked(held=late)
    running = pool.submit([verifier], PROBLEM, branch("1"))
    assert waited(verifier.begun)
    waiting = pool.submit([verifier], PROBLEM, branch("2"))
    pool.close()
    pool.close()
    assert waiting.cancelled()
    late.set()
    assert running.result(timeout=30)[0].status == "accepted"
    assert verifier.ids == ["1"]


def test_after_close_it_can_be_used_again_and_its_counters_stand(pool: VerifierPool) -> None:
    verifier = Asked()
    for _ in range(2):
        assert pool.submit([verifier], PROBLEM, branch("1")).result(timeout=30)[0].status == "accepted"
        pool.close()
    assert verifier.ids == ["1", "1"]
    assert pool.stats["asked"].calls == 2


def test_a_stuck_verifier_keeps_neither_ctrl_c_nor_the_interpreter_from_its_end(tmp_path: Path) -> None:
    script = tmp_path / "stuck.py"
    script.write_text(
        textwrap.dedent("""
        import os, signal, threading
        from led_agent import Budget, Problem, Search
        from led_agent.strategies import BestOfN
        from led_agent.testing import ScriptedDecoder

        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
        begun = threading.Event()

        def stuck(problem, branch):
            begun.set()
            threading.Event().wait()

        threading.Thread(target=lambda: (begun.wait(), os.kill(os.getpid(), signal.SIGINT)), daemon=True).start()
        try:
            with Search(decoder=ScriptedDecoder(["42"]), strategy=BestOfN(2), verifiers=[stuck]) as search:
                search.solve(Problem(prompt="q"))
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """)
    )
    root = str(Path(__file__).parents[1])
    done = subprocess.run([sys.executable, str(script)], env={"PYTHONPATH": root}, capture_output=True, timeout=120)
    assert (done.returncode, done.stdout.decode(), done.stderr.decode()) == (0, "interrupted\n", "")


def test_ctrl_c_while_a_thread_starts_is_neither_lost_nor_counted_as_a_thread_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, pool: VerifierPool
) -> None:
    """``threading`` makes a RuntimeError of it, as it does of a machine without threads: it releases a lock twice."""
    start, began = threading.Thread.start, Asked(held=(held := threading.Event()))
    before = set(threading.enumerate())

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        lock = threading.Lock()
        with lock:
            lock.release()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.submit([began], PROBLEM, branch("1"))
    assert waited(began.begun)
    futures = [pool.submit([Asked(held=held)], PROBLEM, branch(str(at))) for at in range(2, 12)]
    new = [thread for thread in set(threading.enumerate()) - before if thread.name == "led-verify"]
    assert len(new) <= pool.concurrency + 1  # and the one with the clock
    held.set()
    assert all(future.result(timeout=30)[0].status == "accepted" for future in futures)


def test_without_threads_it_says_so(monkeypatch: pytest.MonkeyPatch, pool: VerifierPool) -> None:
    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        with pytest.raises(MachineError, match="no thread can be started"):
            pool.submit([Asked()], PROBLEM, branch("1"))
    assert pool.submit([Asked()], PROBLEM, branch("2")).result(timeout=30)[0].status == "accepted"
