"""Verifiers in processes of a real Ray: what they say, what they raise, and what becomes of calls when one dies."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import led_agent
from led_agent import Budget, Problem, Search, Verdict
from led_agent.cluster import verifiers
from led_agent.cluster.crossing import pack, pickled, unpack, unpickled
from led_agent.cluster.verifiers import Place, RemoteVerifiers, _Died, check_version
from led_agent.errors import LedError, MachineError, PluginError, UsageError
from led_agent.judging import compares
from led_agent.protocols import Verifier
from led_agent.strategies import BestOfN
from led_agent.testing import ScriptedDecoder
from led_agent.types import Branch
from led_agent.verifier_pool import VerifierPool
from led_agent.verifiers import (
    all_of,
    cached,
    consensus,
    countdown,
    judge,
    math_answer,
    reward_model,
    unit_tests,
)
from led_agent.verifiers.named import parse_verifier
from led_agent.verifiers.sandbox import SandboxUnavailable, chosen

SLOWLY = 60.0  # seconds that a verifier may take for what it does in one: the processors may be busy
SOON = 240  # seconds; nothing here takes so long unless it is broken
SUM = Problem(prompt="What is 2 + 2?", answer="4")
PUZZLE = Problem(prompt="Using the numbers [2, 3, 7], create an equation that equals 13.", answer="2*3+7")
CODE = Problem(
    prompt="Write add(a, b).", entry_point="add", tests=({"args": [1, 2], "expect": 3}, {"args": [0, 0], "expect": 0})
)


def branch(text: str, name: str = "b") -> Branch:
    return Branch(id=name, text=text, token_ids=(1, 2), logprobs=(-0.1, -0.2), finish="eos")


@contextmanager
def remote(*verifiers: Verifier, places: int | Sequence[Place] = 1, **more: Any) -> Iterator[RemoteVerifiers]:
    where = [Place()] * places if isinstance(places, int) else places
    made = RemoteVerifiers(verifiers, where, name=f"test-{os.urandom(4).hex()}", **more)
    try:
        yield made
    finally:
        made.close()


def through_pool(verifier: Verifier, problem: Problem, branches: Sequence[Branch]) -> list[Verdict]:
    """What a search would hear, but for the time that it took."""
    pool = VerifierPool(4, SOON)
    try:
        if compares(verifier):
            said = list(pool.compare(verifier, problem, branches).result(SOON))
        else:
            futures = [pool.submit([verifier], problem, b) for b in branches]
            said = [verdict for future in futures for verdict in future.result(SOON)]
    finally:
        pool.close()
    return [verdict.model_copy(update={"seconds": 0.0}) for verdict in said]


# --- verifiers of users --------------------------------------------------------------------------------------------


def by_length(problem: Problem, branch: Branch) -> float:
    return min(1.0, len(branch.text) / 100)


def nonsense(problem: Problem, branch: Branch) -> Any:
    return {"score": 3}


@dataclass(frozen=True)
class InBatches:
    batch_size: int = 3
    name: str = "in_batches"

    def __call__(self, problem: Problem, branch: Branch) -> bool:
        raise AssertionError("not asked one by one")

    def batch(self, asked: Sequence[tuple[Problem, Branch]]) -> list[bool]:
        return ["yes" in branch.text for _, branch in asked]


class BySteps:
    def __call__(self, problem: Problem, branch: Branch) -> bool:
        return "whole" in branch.text

    def step(self, problem: Problem, branch: Branch) -> float:
        return 0.5 if "step" in branch.text else 0.0


@dataclass(frozen=True)
class Raises:
    what: str

    def __call__(self, problem: Problem, branch: Branch) -> bool:
        if self.what == "value":
            raise ValueError("no such value\nsecond line")
        if self.what == "unpicklable":

            class LocalError(Exception):
                def __init__(self, held: Any) -> None:
                    super().__init__(f"holds {type(held).__name__}")
                    self.held = held

            raise LocalError(threading.Lock())
        if self.what == "exit":
            raise SystemExit(3)
        kinds: dict[str, LedError] = {
            "usage": UsageError("bad input"),
            "machine": MachineError("no disk"),
            "plugin": PluginError("verifier Raises says so"),
            "sandbox": SandboxUnavailable("no walls"),
        }
        raise kinds[self.what]

    def check(self, problem: Problem) -> str | None:
        if self.what == "usage":
            raise UsageError("bad problem")
        if self.what == "value":
            raise ValueError("no such value")
        return "nothing to say"


@dataclass(frozen=True)
class Waits:
    """Notes which process asks it, and answers when it may: tests know when it is in mid-call."""

    folder: Path

    def __call__(self, problem: Problem, branch: Branch) -> bool:
        (self.folder / f"asked-{os.getpid()}").touch()
        return eventually(lambda: (self.folder / "may").exists())

    def pids(self) -> set[int]:
        return {int(path.name.removeprefix("asked-")) for path in self.folder.glob("asked-*")}

    def pid(self, *before: int) -> int:
        """Of a process that asks it, another one than before."""
        assert eventually(lambda: bool(self.pids() - {*before}))
        return (self.pids() - {*before}).pop()

    def release(self) -> None:
        (self.folder / "may").touch()


def eventually(true: Callable[[], bool]) -> bool:
    """Whether it comes true."""
    end = time.monotonic() + SOON
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def dies(problem: Problem, branch: Branch) -> bool:
    if branch.text == "die":
        os._exit(3)
    return True


class Answered(threading.Thread):
    """A call in a thread of its own."""

    def __init__(self, verifier: Verifier, text: str = "x") -> None:
        super().__init__(daemon=True)
        self._verifier, self._text = verifier, text
        self.said: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.said = self._verifier(SUM, branch(self._text))
        except LedError as error:
            self.said = error

    def result(self) -> Any:
        self.join(SOON)
        assert not self.is_alive(), "it was not answered"
        return self.said


# --- what they say -------------------------------------------------------------------------------------------------


ASKED: list[tuple[Verifier, Problem, list[str]]] = [
    (math_answer(seconds=SLOWLY), SUM, [r"so \boxed{4}", r"\boxed{5}", "the answer is 8/2", ""]),
    (countdown(), PUZZLE, ["<answer>2*3+7</answer>", "<answer>2+3+7</answer>", "no idea"]),
    (
        unit_tests(timeout=SLOWLY),
        CODE,
        [
            "```python\ndef add(a, b):\n    return a + b\n```",
            "```python\ndef add(a, b):\n    return a - b\n```",
            "none",
        ],
    ),
    (consensus(seconds=SLOWLY), SUM, [r"\boxed{4}", r"\boxed{4}", r"\boxed{5}"]),
    (lambda problem, branch: "4" in branch.text, SUM, ["4", "5"]),
    (by_length, SUM, ["a" * 20, "a" * 200, ""]),
    (InBatches(), SUM, ["yes", "no", "yes yes", "never"]),
    (BySteps(), SUM, ["whole", "half"]),
    (all_of(math_answer(seconds=SLOWLY), by_length), SUM, [r"\boxed{4}", r"\boxed{5}"]),
    (nonsense, SUM, ["x"]),
    *((Raises(what), SUM, ["x"]) for what in ("value", "unpicklable", "exit", "usage", "machine", "plugin", "sandbox")),
]


@pytest.fixture(scope="module")
def crew(ray_session: None) -> Iterator[RemoteVerifiers]:
    with remote(*(verifier for verifier, _, _ in ASKED), places=2) as made:
        yield made


@pytest.mark.parametrize("at", range(len(ASKED)))
def test_a_verifier_says_what_it_says_here(crew: RemoteVerifiers, at: int):
    verifier, problem, texts = ASKED[at]
    branches = [branch(text, f"b{n}") for n, text in enumerate(texts)]
    assert through_pool(crew.proxies[at], problem, branches) == through_pool(verifier, problem, branches)


def test_stand_ins_have_what_their_verifiers_have_and_nothing_else(crew: RemoteVerifiers):
    for proxy, (verifier, _, _) in zip(crew.proxies, ASKED, strict=True):
        for method in ("check", "batch", "together", "step"):
            assert callable(getattr(proxy, method, None)) == callable(getattr(verifier, method, None)), method
        assert getattr(proxy, "batch_size", None) == getattr(verifier, "batch_size", None)


def test_a_step_is_judged_by_step(crew: RemoteVerifiers):
    steps: Any = crew.proxies[7]
    assert steps.step(SUM, branch("a step")).score == 0.5
    assert steps.step(SUM, branch("nothing")).status == "rejected"


def test_check_says_why_and_raises_what_it_raised(crew: RemoteVerifiers):
    named = [v.what if isinstance(v, Raises) else at for at, (v, _, _) in enumerate(ASKED)]
    proxies: Any = dict(zip(named, crew.proxies, strict=True))
    assert proxies[0].check(SUM) is None
    assert "no reference answer" in proxies[0].check(PUZZLE.model_copy(update={"answer": None}))
    assert proxies["machine"].check(SUM) == "nothing to say"
    with pytest.raises(UsageError, match=r"^bad problem$"):
        proxies["usage"].check(SUM)
    with pytest.raises(PluginError, match=r"^verifier Raises raised ValueError: no such value, in check$"):
        proxies["value"].check(SUM)


def test_what_is_raised_keeps_its_class(crew: RemoteVerifiers):
    for at, (verifier, _, _) in enumerate(ASKED):
        if isinstance(verifier, Raises) and verifier.what in ("usage", "machine", "sandbox", "plugin"):
            with pytest.raises(LedError) as here:
                verifier(SUM, branch("x"))
            with pytest.raises(LedError) as there:
                crew.proxies[at](SUM, branch("x"))
            assert type(there.value) is type(here.value)
            assert str(there.value) == str(here.value)


def test_each_process_says_what_it_is(crew: RemoteVerifiers):
    assert [info["version"] for info in crew.infos] == [led_agent.__version__] * 2
    assert {info["tier"] for info in crew.infos} == {chosen() or "none"}
    assert [state.alive for state in crew.actors] == [True, True]
    assert {state.pid for state in crew.actors} == {info["pid"] for info in crew.infos}
    assert [state.name.rpartition("-")[2] for state in crew.actors] == ["0", "1"]


def test_a_monitor_finds_them_by_name(crew: RemoteVerifiers):
    import ray

    for state in crew.actors:
        crew.proxies[1](PUZZLE, branch("<answer>2*3+7</answer>"))
        handle: Any = ray.get_actor(state.name, namespace="led_agent")
        stats = ray.get(handle.stats.remote(), timeout=30)
        assert all(sum(told["verdicts"].values()) >= 0 for told in stats.values())
        assert set(stats) <= {proxy.name for proxy in crew.proxies}  # type: ignore[attr-defined]


def test_a_file_of_the_users_goes_along(ray_session: None, tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nWORD = 'right'\n"
        "def helper(text):\n    return WORD in text\n"
        "def says(problem, branch):\n    return helper(branch.text)\n"
        "@dataclass(frozen=True)\nclass Of:\n    word: str\n"
        "    def __call__(self, problem, branch):\n        return self.word in branch.text and helper(branch.text)\n"
        "of = Of('all')\n"
    )
    mine = [parse_verifier(f"{tmp_path}/mine.py:{name}") for name in ("says", "of")]
    with remote(*mine) as made:
        (tmp_path / "mine.py").unlink()
        says, of = made.proxies
        assert says(SUM, branch("right")).status == "accepted"  # type: ignore[union-attr]
        assert says(SUM, branch("wrong")).status == "rejected"  # type: ignore[union-attr]
        assert of(SUM, branch("all right")).status == "accepted"  # type: ignore[union-attr]


def test_what_verifiers_share_they_share_there(ray_session: None):
    class Counts:
        def __init__(self) -> None:
            self.asked = 0

        def __call__(self, problem: Problem, branch: Branch) -> float:
            self.asked += 1
            return self.asked / 10

    counts = Counts()
    with remote(counts, cached(counts)) as made:
        first, second = made.proxies
        assert first(SUM, branch("x")).score == 0.1  # type: ignore[union-attr]
        assert second(SUM, branch("x")).score == 0.2  # type: ignore[union-attr]
    assert counts.asked == 0


def test_a_search_is_none_the_wiser(ray_session: None):
    script = [r"\boxed{5}", r"\boxed{6}", r"\boxed{4}"]
    with remote(math_answer(seconds=SLOWLY), places=2) as made:
        decoder = ScriptedDecoder(script, slots=1)
        with Search(decoder=decoder, verifiers=made.proxies, strategy=BestOfN(3), budget=Budget(branches=3)) as search:
            solution = search.solve(SUM)
            assert solution.answer == "4"
            assert solution.verified
            assert search.verifier_stats["math_answer"].accepted == 1
        stats = made.stats["math_answer"]
        assert (stats.accepted, stats.errors, stats.retries) == (1, 0, 0)
        assert stats.seconds > 0


# --- what dies -----------------------------------------------------------------------------------------------------


def test_a_call_whose_process_is_killed_is_made_elsewhere(ray_session: None, tmp_path: Path):
    waits = Waits(tmp_path)
    with remote(waits, places=2) as made:
        before = {state.pid for state in made.actors}
        call = Answered(made.proxies[0])
        first = waits.pid()
        assert first in before
        os.kill(first, signal.SIGKILL)
        waits.pid(first)
        waits.release()
        assert call.result().status == "accepted"
        assert made.stats["Waits"].retries == 1
        assert made.stats["Waits"].accepted == 1


def test_the_only_process_is_replaced(ray_session: None, tmp_path: Path):
    waits = Waits(tmp_path)
    with remote(waits) as made:
        (before,) = made.actors
        call = Answered(made.proxies[0])
        os.kill(waits.pid(), signal.SIGKILL)
        pid = waits.pid(before.pid)
        waits.release()
        assert call.result().status == "accepted"
        (after,) = made.actors
        assert after.pid == pid
        assert after.name != before.name


def test_a_process_that_answers_no_ping_is_dead(ray_session: None, tmp_path: Path):
    waits = Waits(tmp_path)
    with remote(waits, unanswered_s=5.0) as made:
        call = Answered(made.proxies[0])
        (before,) = made.actors
        os.kill(waits.pid(), signal.SIGSTOP)
        waits.pid(before.pid)
        waits.release()
        assert call.result().status == "accepted"


def test_a_slow_verifier_is_no_error(ray_session: None, tmp_path: Path):
    waits = Waits(tmp_path)
    with remote(waits, by_length) as made:
        call = Answered(made.proxies[0])
        waits.pid()
        call.join(2.5)  # it is looked after, once
        assert call.is_alive()
        assert made.proxies[1](SUM, branch("a" * 50)).score == 0.5  # type: ignore[union-attr]
        waits.release()
        assert call.result().status == "accepted"
        assert made.stats["Waits"].retries == 0


def test_a_branch_that_kills_three_times_is_an_error_and_others_go_on(ray_session: None):
    with remote(dies, by_length, places=2) as made:
        lethal, length = made.proxies
        others = []
        call = Answered(lethal, "die")
        while call.is_alive():
            others.append(length(SUM, branch("a" * 50)))
        assert isinstance(call.said, PluginError)
        assert "verifier dies: its process died 3 times on this branch" in str(call.said)
        assert re.search("worker process has died|is unavailable", str(call.said))  # Ray may not know yet which
        assert {verdict.score for verdict in others} == {0.5}  # type: ignore[union-attr]
        assert lethal(SUM, branch("live")).status == "accepted"  # type: ignore[union-attr]
        assert made.stats["dies"].retries == 3


def test_a_call_beside_others_that_kill_is_not_blamed(ray_session: None, tmp_path: Path):
    waits = Waits(tmp_path)
    with remote(dies, waits) as made:
        beside = Answered(made.proxies[1])
        first = waits.pid()
        killers = [Answered(made.proxies[0], "die") for _ in range(2)]
        waits.pid(first)
        waits.release()
        assert beside.result().status == "accepted"
        assert all(isinstance(killer.result(), PluginError) for killer in killers)
        assert made.stats["Waits"].retries >= 1


# --- places --------------------------------------------------------------------------------------------------------


def fake_node() -> str:
    """Of a node that is gone: its process runs on another."""
    import ray

    return str(ray.NodeID.from_random().hex())


class Alone:
    replicas = 1

    def __call__(self, problem: Problem, branch: Branch) -> Verdict:
        return Verdict(status="accepted", reason=str(os.getpid()))


def test_one_copy_stays_one_and_moves_when_its_place_goes(ray_session: None):
    first, second = fake_node(), fake_node()
    with remote(Alone(), by_length, places=[Place(first), Place(second)]) as made:
        alone: Any = made.proxies[0]
        pids = [state.pid for state in made.actors]
        assert {int(alone(SUM, branch("x")).reason) for _ in range(4)} == {pids[0]}
        assert (made.copies(0), made.copies(1)) == (1, 2)
        made.remove(first)
        assert int(alone(SUM, branch("x")).reason) == pids[1]
        assert (made.copies(0), made.copies(1)) == (1, 1)


def test_places_come_and_go(ray_session: None, tmp_path: Path):
    first, second = fake_node(), fake_node()
    waits = Waits(tmp_path)
    with remote(waits, Alone(), places=[Place(first)]) as made:
        call = Answered(made.proxies[0])
        pid = waits.pid()
        made.add(Place(second))
        made.remove(first)
        waits.pid(pid)
        waits.release()
        assert call.result().status == "accepted"
        assert made.proxies[1](SUM, branch("x")).status == "accepted"  # type: ignore[union-attr]
        made.remove(second)
        with pytest.raises(MachineError, match="verifier Waits: no process is left to run it"):
            made.proxies[0](SUM, branch("x"))
        made.add(Place())
        assert made.proxies[1](SUM, branch("x")).status == "accepted"  # type: ignore[union-attr]


def test_a_process_on_a_node_that_leaves_moves(ray_session: None, tmp_path: Path):
    waits = Waits(tmp_path)
    with remote(waits) as made:
        call = Answered(made.proxies[0])
        (before,) = made.actors
        assert waits.pid() == before.pid
        made.remove(before.node)
        waits.pid(before.pid)
        waits.release()
        assert call.result().status == "accepted"


def test_who_holds_a_model_says_so():
    assert reward_model("some/model").replicas == 1
    assert judge("some/model").replicas == 1
    assert judge("grader", url="http://localhost:1/v1").replicas is None
    assert all_of(math_answer(), judge("some/model")).replicas == 1
    assert cached(reward_model("some/model")).replicas == 1
    assert consensus(weight=reward_model("some/model")).replicas == 1
    assert all_of(math_answer(), by_length).replicas is None


# --- what is refused -----------------------------------------------------------------------------------------------


def test_what_cannot_be_pickled_is_refused(ray_session: None):
    lock = threading.Lock()

    def locked(problem: Problem, branch: Branch) -> bool:
        with lock:
            return True

    with pytest.raises(UsageError, match=r"verifier locked can't be sent to other processes .*at its first call"):
        RemoteVerifiers([math_answer(), locked], [Place()])


def test_no_place_and_bad_replicas_are_refused():
    with pytest.raises(UsageError, match="at least one place"):
        RemoteVerifiers([by_length], [])

    def many(problem: Problem, branch: Branch) -> bool:
        return True

    many.replicas = 0  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="verifier many has replicas 0"):
        RemoteVerifiers([many], [Place()])


class NotThere:
    """Unpickling it fails."""

    def __call__(self, problem: Problem, branch: Branch) -> bool:
        return True

    def __reduce__(self) -> tuple[Any, ...]:
        return __import__, ("no_such_module_anywhere",)


def test_what_cannot_be_unpickled_there_is_refused(ray_session: None):
    told = "verifiers can't be used on the node .*No module named 'no_such_module_anywhere'; install there"
    with pytest.raises(PluginError, match=told):
        RemoteVerifiers([NotThere()], [Place()])


def test_closed_is_closed(ray_session: None):
    with remote(by_length) as made:
        pass
    with pytest.raises(MachineError, match="verifiers were closed"):
        made.proxies[0](SUM, branch("x"))
    with pytest.raises(MachineError, match="verifiers were closed"):
        made.add(Place())
    made.close()
    assert made.actors == ()


def gone(name: str) -> bool:
    """Whether no process is called so."""
    import ray

    try:
        ray.get_actor(name, namespace="led_agent")
    except ValueError:
        return True
    return False


def test_a_process_that_is_still_starting_is_ended_with_the_others(ray_session: None, monkeypatch: pytest.MonkeyPatch):
    waiting: Future[str] = Future()
    may = threading.Event()
    ready = RemoteVerifiers._ready

    def late(self: RemoteVerifiers, slot: Any, name: str, *process: Any) -> Any:
        waiting.set_result(name)
        assert may.wait(SOON)
        return ready(self, slot, name, *process)

    with remote(by_length) as made:
        (slot,) = made._slots
        assert slot.actor is not None
        monkeypatch.setattr(RemoteVerifiers, "_ready", late)
        made._bury(slot.actor, "it was told to die")
        name = waiting.result(SOON)
        made.close()
        try:
            assert eventually(lambda: gone(name))
        finally:
            may.set()


def test_what_was_started_in_another_s_place_is_ended_where_not_all_can_be(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
):
    """The first process of the first place dies as it starts, another one takes its place, and the second has none."""
    names: list[str] = []
    ready = RemoteVerifiers._ready

    def first_dies_and_third_can_not_be(self: RemoteVerifiers, slot: Any, name: str, *process: Any) -> Any:
        names.append(name)
        if len(names) == 1:
            raise _Died("it is gone")
        if len(names) == 3:
            raise MachineError("no room")
        return ready(self, slot, name, *process)

    monkeypatch.setattr(RemoteVerifiers, "_ready", first_dies_and_third_can_not_be)
    monkeypatch.setattr(verifiers, "_FIRST_PAUSES", (0.0,))
    with pytest.raises(MachineError, match="no room"):
        RemoteVerifiers([by_length], [Place(), Place()], name=f"test-{os.urandom(4).hex()}")
    assert len(names) == 3
    assert eventually(lambda: all(map(gone, names)))


def test_ending_a_process_starts_no_ray(monkeypatch: pytest.MonkeyPatch):
    """Ray does so by itself in a program that has left its cluster."""
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "kill", lambda handle, **options: pytest.fail("it was asked"))
    verifiers._kill("any")


def test_another_version_is_refused():
    info = {"version": "0.0.9", "node_ip": "10.0.0.7"}
    with pytest.raises(MachineError, match=r"the node 10\.0\.0\.7 has led_agent 0\.0\.9, and 0\.1\.0 is here; install"):
        check_version(info, "0.1.0")
    check_version(info, "0.0.9")


# --- what crosses --------------------------------------------------------------------------------------------------


def test_errors_cross_with_class_and_message():
    class OfTheUserError(UsageError):
        pass

    for error, kind in (
        (UsageError("a"), UsageError),
        (SandboxUnavailable("a"), SandboxUnavailable),
        (OfTheUserError("a"), UsageError),
    ):
        found = unpack(unpickled(pickled(pack(error, "decoder"))))
        assert type(found) is kind
        assert str(found) == "a"
    found = unpack(pack(KeyError("a"), "the decoder"))
    assert type(found) is PluginError
    assert str(found) == "the decoder raised KeyError: 'a'"
    assert type(unpack(("led_agent.errors:Unknown", "a"))) is LedError
