"""The decoder's process, without the process: orders that come late, twice or never, and what is said of growth."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import ray
from ray.util import get_node_ip_address

from led_agent.cluster.actor import DecoderActor, Growth, Loaded, Recipe, Reply, _Open
from led_agent.cluster.crossing import unpack
from led_agent.cluster.leases import Attempt, Limit, Orders
from led_agent.errors import ModelError, UsageError
from led_agent.local import LocalDecoder
from led_agent.protocols import BranchDone, BranchProgress
from led_agent.tree import Tree
from led_agent.types import Branch, DecodeRequest, Decoding

pytestmark = pytest.mark.usefixtures("ray_session")  # a decoder says on which node it is
RECIPE = Recipe("countdown", "cpu", "float32", 4)
SOON = 60  # seconds; nothing here takes so long unless it is broken
LONG, SHORT = 400, 8  # tokens at most


def requests(count: int, *, puzzle: str = "Use 4, 7 and 12 to make 40.", tokens: int = LONG) -> list[DecodeRequest]:
    return Tree(puzzle, decoding=Decoding.plain(), max_tokens=tokens, seed=5).requests(count)


def new(*asked: DecodeRequest, attempt: int = 1) -> Orders:
    return Orders(requests=[(request, attempt) for request in asked])


def key(request: DecodeRequest, attempt: int = 1) -> Attempt:
    return request.problem, request.id, attempt


@pytest.fixture
def loaded() -> Iterator[DecoderActor]:
    made = DecoderActor("led-decoder-test-0-1")
    assert isinstance(made.load(RECIPE), Loaded)
    yield made
    made._decoder.close()


class Driver:
    """Asks an actor until what is waited for has come."""

    def __init__(self, actor: DecoderActor) -> None:
        self.actor = actor
        self.heard = 0
        self.replies: list[Reply] = []

    def ask(self, wait: float = 1.0) -> Reply:
        reply = self.actor.poll(self.heard, wait, {})
        assert reply.number == self.heard + 1
        self.heard = reply.number
        self.replies.append(reply)
        return reply

    def until(self, enough: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SOON
        while not enough():
            assert time.monotonic() < deadline, "it never came"
            self.ask()

    @property
    def done(self) -> list[tuple[Attempt, Branch]]:
        return [ended for reply in self.replies for ended in reply.done]

    @property
    def grown(self) -> list[Growth]:
        return [growth for reply in self.replies for growth in reply.grown]

    def until_done(self, count: int) -> dict[Attempt, Branch]:
        self.until(lambda: len(self.done) >= count)
        found = dict(self.done)
        assert len(found) == len(self.done)  # none twice
        return found


@pytest.fixture(scope="module")
def alone() -> Iterator[Callable[[Sequence[DecodeRequest]], list[tuple[int, ...]]]]:
    """The tokens of requests when a decoder in this process grows them."""
    decoder = LocalDecoder.load(RECIPE.model, device=RECIPE.device, dtype=RECIPE.dtype, slots=RECIPE.slots)

    def grow(asked: Sequence[DecodeRequest]) -> list[tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        all_done = threading.Event()

        def hear(event: object) -> None:
            if isinstance(event, BranchDone):
                found[event.branch.id] = event.branch.token_ids
                if len(found) == len(asked):
                    all_done.set()

        for request in asked:
            decoder.submit(request, hear)
        assert all_done.wait(SOON)
        return [found[request.id] for request in asked]

    yield grow
    decoder.close()


# --- loading -------------------------------------------------------------------------------------------------------


def test_it_says_what_it_has_loaded_and_where(loaded: DecoderActor) -> None:
    status = loaded.status()
    assert status is not None
    assert (status.name, status.model, status.slots, status.busy) == ("led-decoder-test-0-1", "countdown", 4, 0)
    told = DecoderActor("other").load(RECIPE)
    assert isinstance(told, Loaded)
    assert (told.device, told.dtype, told.slots) == ("cpu", "float32", 4)
    assert told.node == ray.get_runtime_context().get_node_id()
    assert told.versions["ray"] == ray.__version__
    assert told.fingerprint


def test_other_weights_have_another_fingerprint(loaded: DecoderActor) -> None:
    prints = set()
    for model in ("countdown", "countdown", "countdown-sft"):
        told = DecoderActor("x").load(Recipe(model, "cpu", "float32", 1))
        assert isinstance(told, Loaded)
        prints.add(told.fingerprint)
    assert len(prints) == 2


def test_a_model_that_is_missing_comes_back_as_data_with_the_node(tmp_path: Path) -> None:
    actor = DecoderActor("x")
    assert actor.status() is None
    told = actor.load(Recipe(str(tmp_path / "gone"), "cpu", "auto", 1))
    assert isinstance(told, tuple)
    host, packed = told
    assert host == get_node_ip_address()
    fault = unpack(packed)
    assert isinstance(fault, ModelError)
    assert str(tmp_path / "gone") in str(fault)


# --- orders --------------------------------------------------------------------------------------------------------


def test_a_branch_has_the_tokens_that_it_has_anywhere(loaded: DecoderActor, alone: Callable[..., object]) -> None:
    asked = requests(6)
    loaded.orders(0, new(*asked))
    found = Driver(loaded).until_done(6)
    assert [found[key(request)].token_ids for request in asked] == alone(asked)
    assert {branch.id for branch in found.values()} == {request.id for request in asked}


def test_orders_are_carried_out_once_and_in_their_order(loaded: DecoderActor) -> None:
    asked = requests(4, tokens=SHORT)
    driver = Driver(loaded)
    last = Orders(cancelled=[key(asked[3])])
    loaded.orders(3, last)
    loaded.orders(2, new(asked[2], asked[3].model_copy(update={"max_tokens": LONG})))
    loaded.orders(2, new(asked[2]))
    assert driver.ask(0.0).done == ()  # the first ones are not there yet
    loaded.orders(1, new(asked[1]))
    assert loaded.status().busy == 0  # type: ignore[union-attr]
    loaded.orders(0, new(asked[0]))
    for number in (0, 1, 2, 3):
        loaded.orders(number, new(asked[0]))  # again, after they have been carried out
    found = driver.until_done(4)
    assert {name: branch.finish == "cancelled" for (_, name, _), branch in found.items()} == {
        asked[0].id: False,
        asked[1].id: False,
        asked[2].id: False,
        asked[3].id: True,
    }
    loaded.orders(4, new(*requests(1, tokens=SHORT, puzzle="Use 2, 3 and 5 to make 30.")))
    driver.until_done(5)  # had one been carried out twice, it would have ended before this


def test_a_second_attempt_grows_beside_a_first_that_is_being_ended(
    loaded: DecoderActor, alone: Callable[..., object]
) -> None:
    (asked,) = requests(1)
    with loaded._lock:  # the first one doesn't end in between
        loaded.orders(0, new(asked))
        loaded.orders(1, Orders(cancelled=[key(asked)], requests=[(asked, 2)]))
    found = Driver(loaded).until_done(2)
    assert found[key(asked, 1)].finish == "cancelled"
    assert [found[key(asked, 2)].token_ids] == alone([asked])


def test_a_limit_that_comes_with_a_request_holds_for_it(loaded: DecoderActor) -> None:
    asked = requests(2)
    problem = asked[0].problem
    loaded.orders(0, Orders(limits=[Limit(problem, 12, None)], requests=[(request, 1) for request in asked]))
    driver = Driver(loaded)
    found = driver.until_done(2)
    assert {branch.finish for branch in found.values()} == {"cancelled"}
    assert 12 <= sum(len(branch.token_ids) for branch in found.values()) <= 12 + 2  # one step, one for each branch
    again = [request.model_copy(update={"id": f"{request.id}b", "max_tokens": SHORT}) for request in asked]
    loaded.orders(1, Orders(limits=[Limit(problem, None, None)], requests=[(request, 1) for request in again]))
    found = driver.until_done(4)
    assert {found[key(request)].finish for request in again} == {"length"}


def test_what_the_model_can_not_do_is_said_and_ends_its_branch_only(loaded: DecoderActor) -> None:
    good, bad = requests(2, tokens=SHORT)
    bad = bad.model_copy(update={"decoding": Decoding.led(depths=99)})
    assert loaded.check(good) is None
    fault = loaded.check(bad)
    assert fault is not None
    assert isinstance(unpack(fault), UsageError)
    loaded.orders(0, new(bad, good))
    found = Driver(loaded).until_done(2)
    assert found[key(bad)].finish == "error"
    assert found[key(good)].finish == "length"


# --- replies -------------------------------------------------------------------------------------------------------


def test_a_reply_that_is_lost_is_given_again_until_it_is_acknowledged(loaded: DecoderActor) -> None:
    asked = requests(3, tokens=SHORT)
    loaded.orders(0, new(*asked))
    driver = Driver(loaded)
    driver.until(lambda: bool(driver.done))
    before = driver.heard - 1
    lost = [loaded.poll(before, 0.0, {}) for _ in range(3)]  # the driver has not heard of the last one
    assert lost == [driver.replies[-1]] * 3
    assert set(driver.until_done(3)) == {key(request) for request in asked}


def test_a_question_that_is_asked_again_while_it_waits_has_one_answer(
    loaded: DecoderActor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the driver was told that the actor can't be reached: what has ended is told to both."""
    (asked,) = requests(1)
    again: list[Reply] = []

    def wait(left: float) -> None:
        """In place of the first one's waiting."""
        if not again:
            loaded._open[key(asked)] = _Open()
            loaded._hear(key(asked), BranchDone(Branch(id=f"{asked.id}~1", text="x", finish="eos")))
            again.append(loaded.poll(0, 0.0, {}))

    monkeypatch.setattr(loaded._lock, "wait", wait)
    reply = loaded.poll(0, 0.1, {})
    assert [reply] == again
    assert [attempt for attempt, _ in reply.done] == [key(asked)]


def test_a_question_without_news_is_answered_when_its_time_is_up(loaded: DecoderActor) -> None:
    reply = Driver(loaded).ask(0.0)
    assert (reply.number, reply.grown, reply.done) == (1, (), ())


def test_a_question_waits_for_news(loaded: DecoderActor) -> None:
    (asked,) = requests(1, tokens=1)
    answered: list[Reply] = []
    thread = threading.Thread(target=lambda: answered.append(loaded.poll(0, SOON, {})))
    thread.start()
    loaded.orders(0, new(asked))
    thread.join(SOON / 2)
    assert [attempt for attempt, _ in answered[0].done] == [key(asked)]


def test_no_message_goes_out_for_a_token(loaded: DecoderActor) -> None:
    asked = requests(16)
    loaded.orders(0, new(*asked))
    began = time.monotonic()
    driver = Driver(loaded)
    found = driver.until_done(16)
    seconds = time.monotonic() - began
    tokens = sum(len(branch.token_ids) for branch in found.values())
    assert tokens > 400
    assert loaded.messages() == len(driver.replies)
    # Growth is told every 0.2 s, and what has ended at most once for each branch.
    assert loaded.messages() <= 16 + seconds / 0.2 + 2
    assert sum(bool(reply.grown) for reply in driver.replies) <= seconds / 0.2 + 2
    assert loaded.messages() < tokens / 10


def test_growth_adds_up_to_the_text(loaded: DecoderActor) -> None:
    """Told in pieces, some of which are of less than there was: the text is the branch's in the end."""
    asked = requests(4)
    driver = Driver(loaded)
    loaded.orders(0, new(*asked))
    found = driver.until_done(4)
    for request in asked:
        text, tokens = "", 0
        for growth in driver.grown:
            if growth.attempt == key(request):
                assert 0 <= growth.keep <= len(text)
                assert growth.tokens >= tokens
                text, tokens = text[: growth.keep] + growth.more, growth.tokens
        assert found[key(request)].text.startswith(text)


def test_growth_of_a_branch_that_was_turned_back_is_told_too(loaded: DecoderActor) -> None:
    """The engine turns branches back seldom: here what it would report is reported in its place."""
    (asked,) = requests(1)
    loaded.orders(0, new(asked))
    loaded.orders(1, Orders(cancelled=[key(asked)]))
    driver = Driver(loaded)
    driver.until_done(1)
    text = ""
    loaded._open[key(asked)] = _Open()
    for told in ("12 * 4", "12 * 4 = 48 no", "12 * 7", "", "12 é"):
        loaded._hear(key(asked), BranchProgress(f"{asked.id}~1", 3, told))
        seen = len(driver.grown)
        driver.until(lambda seen=seen: len(driver.grown) > seen)
        growth = driver.grown[-1]
        text = text[: growth.keep] + growth.more
        assert text == told


# --- who watches ---------------------------------------------------------------------------------------------------


def test_the_status_tells_what_goes_on(loaded: DecoderActor) -> None:
    asked = requests(6)
    with loaded._lock:  # none of them ends in between
        loaded.orders(0, new(*asked))
        status = loaded.status()
    assert status is not None
    assert (status.busy, status.waiting) == (4, 2)
    driver = Driver(loaded)
    found = driver.until_done(6)
    loaded.poll(driver.heard, 0.0, {"run": "abc"})
    status = loaded.status()
    assert status is not None
    assert (status.busy, status.waiting, status.branches) == (0, 0, 6)
    assert status.tokens == sum(len(branch.token_ids) for branch in found.values()) == driver.ask(0.0).tokens
    assert status.driver == {"run": "abc"}


def test_a_request_s_trace_is_its_own_wherever_it_goes() -> None:
    first, second = requests(2)
    assert first.trace == requests(2)[0].trace != second.trace
    assert first.model_copy(update={"trigger": "another try"}).trace == first.trace
    assert first.model_copy(update={"problem": "another"}).trace != first.trace
    assert first.model_copy(update={"seed": 1}).trace != first.trace
    assert len(first.trace) == 32
    assert int(first.trace, 16)
