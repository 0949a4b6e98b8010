"""The decoder in this process: prompts, threads, cancellation, failures."""

from __future__ import annotations

import queue
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from led_agent import Budget, DecodeRequest, Decoding, Problem, Search, Tree, solve
from led_agent.errors import ModelError, UsageError
from led_agent.local import LocalDecoder
from led_agent.protocols import BranchDone, BranchProgress
from led_agent.strategies import BestOfN
from led_agent.types import Branch, Message
from tests.engine.reference import make_engine
from tests.tiny import tiny_model, tiny_tokenizer


@pytest.fixture
def decoder():
    tokenizer = tiny_tokenizer()
    made = LocalDecoder(make_engine(tiny_model(vocab_size=len(tokenizer)), tokenizer, slots=4))
    yield made
    made.close()


def request(name: str = "1", **changes: Any) -> DecodeRequest:
    made = Tree("w1 w2", decoding=Decoding.plain(1.0), max_tokens=12).requests(1)[0]
    return made.model_copy(update={"id": name, "problem": "p", **changes})


def finish(decoder: LocalDecoder, *requests: DecodeRequest) -> dict[str, Branch]:
    inbox: queue.Queue[Any] = queue.Queue()
    for one in requests:
        decoder.submit(one, inbox.put)
    done: dict[str, Branch] = {}
    progress: dict[str, int] = {}
    while len(done) < len(requests):
        event = inbox.get(timeout=60)
        if isinstance(event, BranchProgress):
            assert event.tokens > progress.get(event.id, 0)
            progress[event.id] = event.tokens
        else:
            assert isinstance(event, BranchDone)
            done[event.branch.id] = event.branch
    return done


def test_requests_become_branches(decoder: LocalDecoder):
    done = finish(decoder, *(request(str(i), seed=i) for i in range(9)))
    assert {b.finish for b in done.values()} <= {"length", "eos"}
    assert len({b.token_ids for b in done.values()}) == 9
    assert finish(decoder, request("3", seed=3))["3"].token_ids == done["3"].token_ids


def test_what_is_cancelled_as_soon_as_it_is_submitted_is_not_decoded(
    decoder: LocalDecoder, monkeypatch: pytest.MonkeyPatch
):
    """Both may come while the decoder is taking up what came before."""
    inbox: queue.Queue[Any] = queue.Queue()
    start = decoder._start

    def slow_start(job: Any) -> None:
        if job.request.id == "first":
            decoder.submit(request("late", max_tokens=200), inbox.put)
            decoder.cancel("p", ["late"])
        start(job)

    monkeypatch.setattr(decoder, "_start", slow_start)
    decoder.submit(request("first", max_tokens=1), inbox.put)
    done: dict[str, Branch] = {}
    while len(done) < 2:
        event = inbox.get(timeout=60)
        if isinstance(event, BranchDone):
            done[event.branch.id] = event.branch
    assert done["late"].finish == "cancelled"
    assert done["first"].finish == "length"


class Held:
    """An engine's steps, held from the second on until ``go`` is set: what is asked for meanwhile is taken up then,
    all at once. What is submitted first must take more than one step."""

    def __init__(self, decoder: LocalDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at_work, self.go = threading.Event(), threading.Event()
        step = decoder.engine.step

        def slow(**options: Any) -> Any:
            if self.began:
                self.at_work.set()
                assert self.go.wait(60)
            self.began = True
            return step(**options)

        self.began = False
        monkeypatch.setattr(decoder.engine, "step", slow)


def last_of(inbox: queue.Queue[Any]) -> Branch:
    while True:
        event = inbox.get(timeout=60)
        if isinstance(event, BranchDone):
            return event.branch


def test_a_name_may_be_used_again_once_it_was_cancelled(decoder: LocalDecoder, monkeypatch: pytest.MonkeyPatch):
    """As by who leaves a search in the middle, and asks the same again at once."""
    decoder.engine.parts.eos = frozenset()  # nothing else ends it
    fresh = finish(decoder, request("1", seed=5))["1"]
    held, old, new = Held(decoder, monkeypatch), queue.Queue[Any](), queue.Queue[Any]()
    decoder.submit(request("1", max_tokens=240), old.put)
    decoder.submit(request("2", max_tokens=240), old.put)
    assert held.at_work.wait(60)
    decoder.cancel("p", ["1"])
    decoder.submit(request("1", seed=5), new.put)
    decoder.cancel("p", ["2"])
    assert decoder.in_flight == 3
    held.go.set()
    assert {last_of(old).finish, last_of(old).finish} == {"cancelled"}
    again = last_of(new)
    assert (again.finish, again.token_ids) == ("length", fresh.token_ids)
    assert decoder.in_flight == 0


def test_a_name_that_is_in_use_is_refused_and_its_owner_goes_on(decoder: LocalDecoder, monkeypatch: pytest.MonkeyPatch):
    decoder.engine.parts.eos = frozenset()  # it has not ended when the second one comes
    held, old, new = Held(decoder, monkeypatch), queue.Queue[Any](), queue.Queue[Any]()
    decoder.submit(request("1", max_tokens=60), old.put)
    assert held.at_work.wait(60)
    decoder.submit(request("1"), new.put)
    held.go.set()
    refused = last_of(new)
    assert (refused.finish, "already being decoded" in str(refused.error)) == ("error", True)
    assert (last_of(old).finish, decoder.in_flight) == ("length", 0)


@pytest.mark.parametrize("tokens", [None, 40])
def test_who_left_in_the_middle_and_asks_again_gets_what_he_would_have_had(
    saved_model: Path, monkeypatch: pytest.MonkeyPatch, tokens: int | None
):
    """A search's ids are the same in every run, and what is left of the first is at work when the second comes."""
    options: dict[str, Any] = {"strategy": BestOfN(6), "max_tokens": 60, "seed": 4}

    def grown(search: Search) -> list[Any]:
        branches = [node.branch for node in search.solve("w1 w2").tree.nodes() if node.branch is not None]
        return [(branch.id, branch.finish, branch.token_ids) for branch in branches]

    def leaves(_tree: Tree, event: object) -> None:
        if isinstance(event, BranchProgress):
            assert held.at_work.wait(60)
            raise KeyboardInterrupt

    def let_go(*given: Any) -> None:
        submit(*given)
        held.go.set()

    with closing(LocalDecoder.load(str(saved_model), slots=4)) as decoder:
        straight = grown(Search(decoder=decoder, **options))
        monkeypatch.setattr("led_agent.local._PROGRESS_SECONDS", 0.0)  # each step tells how far a branch is
        held, submit = Held(decoder, monkeypatch), decoder.submit
        with pytest.raises(KeyboardInterrupt):
            grown(Search(decoder=decoder, observer=leaves, budget=Budget(tokens=tokens), **options))
        monkeypatch.setattr(decoder, "submit", let_go)
        assert grown(Search(decoder=decoder, **options)) == straight
    assert len(straight) == 6


def test_prompts_go_through_the_chat_template(decoder: LocalDecoder):
    tokenizer = decoder.engine.parts.tokenizer
    assert decoder.render("w1 w2") == tokenizer.encode("w1 w2", add_special_tokens=False)
    messages = [Message(role="system", content="w9"), Message(role="user", content="w1")]
    assert decoder.render(messages) == tokenizer.encode("w9 w1", add_special_tokens=False)
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(UsageError, match="no system role"):
        decoder.render([*messages, Message(role="user", content="w2")])
    tokenizer.chat_template = None
    assert decoder.render("w1 w2") == tokenizer.encode("w1 w2")
    with pytest.raises(UsageError, match="plain prompt, not chat messages"):
        decoder.render([Message(role="user", content="w3")])


def test_cancelling_gives_what_there_is(decoder: LocalDecoder, monkeypatch: pytest.MonkeyPatch):
    held, inbox = Held(decoder, monkeypatch), queue.Queue[Any]()
    decoder.engine.parts.eos = frozenset()  # nothing else ends it
    decoder.submit(request("long", max_tokens=240), inbox.put)
    assert held.at_work.wait(60)
    decoder.cancel("p", ["long", "nobody"])
    decoder.cancel("another problem", ["long"])
    held.go.set()
    last = last_of(inbox)
    assert last.finish == "cancelled"
    assert 0 < len(last.token_ids) < 240


def test_what_breaks_in_a_step_costs_its_branches_only(decoder: LocalDecoder, monkeypatch: pytest.MonkeyPatch):
    step = decoder.engine.step
    broken = [True]

    def once(**options: Any) -> Any:
        if broken.pop() if broken else False:
            raise RuntimeError("out of memory, as it were")
        return step(**options)

    monkeypatch.setattr(decoder.engine, "step", once)
    failed = finish(decoder, request("1"))["1"]
    assert (failed.finish, failed.error) == ("error", "RuntimeError: out of memory, as it were")
    assert finish(decoder, request("1"))["1"].finish in ("length", "eos")


def test_a_request_that_slipped_past_the_check_is_a_failed_branch(decoder: LocalDecoder):
    wrong = request("1", decoding=Decoding.led(depths=7))
    with pytest.raises(UsageError, match="6 blocks"):
        decoder.check(wrong)
    failed = finish(decoder, wrong)["1"]
    assert failed.finish == "error"
    assert "6 blocks" in (failed.error or "")


def test_solve_with_a_folder_end_to_end_and_the_same_again(saved_model: Path):
    def once() -> list[Any]:
        problem = Problem(prompt="w1 w2 w3", answer="none")
        solution = solve(problem, str(saved_model), strategy=BestOfN(5), max_tokens=16, seed=4)
        assert solution.tree.started.decoding.exploration is not None
        return [(n.id, n.branch.token_ids, n.branch.span) for n in solution.tree.nodes() if n.branch]

    first = once()
    assert first == once()
    assert [span for _, _, span in first] == ["all"] * 5


def test_a_search_holds_its_model_and_many_problems_share_it(saved_model: Path):
    problems = [Problem(id=f"p{i}", prompt=f"w{i} w2") for i in range(6)]
    with Search(str(saved_model), strategy=BestOfN(3), max_tokens=10, slots=4) as search:
        alone = {s.problem.key: s.text for s in map(search.solve, problems)}
        together = list(search.solve_many(problems))
    assert [s.problem.key for s in together] == [p.key for p in problems]
    assert {s.problem.key: s.text for s in together} == alone


def test_a_model_that_is_not_there_is_said_at_the_first_use():
    with pytest.raises(ModelError, match="ways to have another"):
        solve("w1", "no-such-model")
