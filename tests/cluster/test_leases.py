"""Who works on what: the table of leases, with workers that live in this test."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from led_agent import Decoding
from led_agent.cluster.leases import Attempt, Leases, Limit, Orders, Worker
from led_agent.protocols import BranchDone, BranchProgress, DecodeEvent
from led_agent.types import Branch, DecodeRequest


def request(problem: str, name: str) -> DecodeRequest:
    return DecodeRequest(
        id=name, parent="root", problem=problem, prompt=problem, decoding=Decoding.greedy(), seed=1, max_tokens=8
    )


@dataclass(eq=False)
class Machine:
    """A decoder as a list: takes orders as the real one does, and begins the oldest requests first."""

    worker: Worker
    waiting: list[Attempt] = field(default_factory=list)
    news: list[tuple[Attempt, str]] = field(default_factory=list)

    def take(self, orders: Orders) -> None:
        for attempt in orders.cancelled:
            if attempt in self.waiting:
                self.waiting.remove(attempt)
                self.news.append((attempt, "cancelled"))
        self.waiting += [(r.problem, r.id, attempt) for r, attempt in orders.requests]

    def finish(self, at: int = 0) -> None:
        if at < min(self.worker.slots, len(self.waiting)):
            self.news.append((self.waiting.pop(at), "eos"))


class World:
    """A table, its workers, and what the search has heard."""

    def __init__(self) -> None:
        self.leases = Leases()
        self.machines: dict[str, Machine] = {}
        self.heard: dict[tuple[str, str], list[DecodeEvent]] = {}
        self.made = 0

    def join(self, slots: int = 2) -> Machine:
        self.made += 1
        machine = Machine(Worker(f"w{self.made}", slots))
        self.machines[machine.worker.name] = machine
        self.leases.join(machine.worker)
        return machine

    def submit(self, problem: str, name: str) -> None:
        events = self.heard.setdefault((problem, name), [])
        self.leases.submit(request(problem, name), events.append)

    def turn(self) -> None:
        """What the dispatcher does: share out, send, tell."""
        self.leases.assign()
        for machine in self.machines.values():
            worker = machine.worker
            assert len(worker.held) <= worker.credits or worker.state != "live"
            orders, worker.orders = worker.orders, Orders()
            machine.take(orders)
        for sink, event in self.leases.told:
            sink(event)
        self.leases.told = []

    def listen(self, machine: Machine) -> None:
        self.leases.seen_again(machine.worker)
        news, machine.news = machine.news, []
        for attempt, finish in news:
            self.leases.done(machine.worker, attempt, Branch(id=attempt[1], text=finish, finish=finish))  # type: ignore[arg-type]

    def die(self, machine: Machine, *, died: bool = True) -> None:
        del self.machines[machine.worker.name]
        self.leases.gone(machine.worker, "killed", died=died)

    def settle(self, rounds: int = 10_000) -> None:
        """Let all that is there be worked off."""
        for _ in range(rounds):
            self.turn()
            if not self.leases.open:
                return
            for machine in list(self.machines.values()):
                machine.finish()
                self.listen(machine)
        raise AssertionError(f"{len(self.leases.open)} requests were never answered")

    def results(self, problem: str, name: str) -> list[Branch]:
        return [event.branch for event in self.heard[problem, name] if isinstance(event, BranchDone)]


def test_each_request_is_answered_once_and_no_worker_holds_more_than_its_credits():
    world = World()
    for _ in range(3):
        world.join(slots=4)
    for at in range(40):
        world.submit(f"p{at // 8}", f"n{at}")
    world.turn()
    assert {len(machine.worker.held) for machine in world.machines.values()} == {5}  # 4 slots and a quarter
    world.settle()
    assert all(len(world.results(*key)) == 1 for key in world.heard)
    assert world.leases.counts.sent - world.leases.counts.stolen == 40


def test_branches_of_one_prompt_go_where_it_is_while_there_is_a_free_slot():
    world = World()
    first, second = world.join(slots=4), world.join(slots=4)
    for at in range(4):
        world.submit("p", f"n{at}")
    world.turn()
    assert sorted((len(first.worker.held), len(second.worker.held))) == [0, 4]
    world.submit("p", "n4")
    world.turn()  # it would wait there, and the other one idles
    assert sorted((len(first.worker.held), len(second.worker.held))) == [1, 4]


def test_problems_are_spread_over_the_workers():
    world = World()
    machines = [world.join(slots=8) for _ in range(4)]
    for at in range(4):
        for branch in range(4):
            world.submit(f"p{at}", f"n{branch}")
    world.turn()
    assert [len(machine.worker.held) for machine in machines] == [4, 4, 4, 4]
    assert all(len({key[0] for key in machine.worker.held}) == 1 for machine in machines)


def test_a_faster_worker_gets_more_of_what_none_has_the_prompt_of():
    world = World()
    fast, slow = world.join(slots=8), world.join(slots=8)
    fast.worker.rate, slow.worker.rate = 300.0, 100.0
    for at in range(8):
        world.submit(f"p{at}", "n")
    world.turn()
    assert (len(fast.worker.held), len(slow.worker.held)) == (6, 2)


def test_an_idle_worker_takes_over_what_waits_inside_a_busy_one():
    world = World()
    first = world.join(slots=4)
    for at in range(5):
        world.submit("p", f"n{at}")
    world.turn()
    assert len(first.waiting) == 5
    second = world.join(slots=4)
    world.turn()
    assert (len(first.worker.held), len(second.worker.held)) == (4, 1)
    world.settle()
    assert all(len(world.results(*key)) == 1 for key in world.heard)
    assert world.results("p", "n4")[0].decoder == second.worker.name
    assert world.results("p", "n4")[0].attempts == 2


def test_what_has_begun_to_grow_is_not_taken_over():
    world = World()
    first = world.join(slots=4)
    for at in range(5):
        world.submit("p", f"n{at}")
    world.turn()
    world.leases.grown(first.worker, ("p", "n4", 5), 3, "abc")
    world.join(slots=4)
    world.turn()
    assert len(first.worker.held) == 5


def test_the_most_that_was_open_at_a_time_is_kept_until_it_is_asked_for():
    world = World()
    machine = world.join(slots=4)
    for at in range(5):
        world.submit("p", f"n{at}")
    world.turn()
    machine.finish()
    world.listen(machine)
    assert len(world.leases.open) == 4
    assert [world.leases.most_open(), world.leases.most_open()] == [5, 4]


def test_what_a_dead_worker_held_is_sent_again_first():
    world = World()
    first = world.join(slots=2)
    for at in range(6):
        world.submit("p", f"n{at}")
    world.turn()
    world.die(first)
    second = world.join(slots=2)
    world.turn()
    assert [name for _, name, _ in second.waiting] == ["n0", "n1", "n2"]
    world.settle()
    assert all(len(world.results(*key)) == 1 for key in world.heard)
    assert world.results("p", "n0")[0].attempts == 2


def test_a_request_that_kills_its_workers_is_put_aside_and_the_others_finish():
    world = World()
    names = [f"n{at}" for at in range(8)]
    world.join(slots=4)
    for name in names:
        world.submit("p", name)
    deaths = 0
    while world.leases.open:
        world.turn()
        machine = next(iter(world.machines.values()))
        growing = machine.waiting[: machine.worker.slots]
        if any(name == "n3" for _, name, _ in growing):
            deaths += 1
            assert deaths <= 4
            world.die(machine)
            world.join(slots=4)
        else:
            machine.finish()
            world.listen(machine)
    assert deaths == 4  # two with others beside it, two alone
    world.turn()
    poisoned = world.results("p", "n3")[0]
    assert poisoned.finish == "error"
    assert "put aside: 4 decoders died over it, 2 with nothing else" in str(poisoned.error)
    assert all(world.results("p", name)[0].finish == "eos" for name in names if name != "n3")


def killed(world: World, times: int, *, others: bool = False) -> int:
    """Let each worker that gets the only request die, so often at most; with ``others``, an idle one after each. How
    often it was before nothing was open."""
    for deaths in range(times):
        if not world.leases.open:
            return deaths
        machine = world.join(slots=1)
        world.turn()
        world.die(machine)
        if others:
            world.die(world.join(slots=1))
    return times


def test_a_request_that_is_alone_from_the_first_is_put_aside_after_three_deaths():
    world = World()
    world.submit("p", "n")
    assert killed(world, 20) == 3


def test_innocent_requests_outlive_any_number_of_deaths_beside_a_busy_worker():
    """Each worker dies with several requests growing in it: none of them is put aside for that."""
    world = World()
    for at in range(8):
        world.submit("p", f"n{at}")
    for _ in range(2):
        machine = world.join(slots=4)
        world.turn()
        world.die(machine)
    world.join(slots=4)
    world.settle()
    assert all(world.results(*key)[0].finish == "eos" for key in world.heard)


def test_where_workers_die_without_it_as_well_a_request_may_see_more_deaths():
    """Somebody kills workers at random: what grew alone in three of them is not to blame for that."""
    world = World()
    world.submit("p", "n")
    assert killed(world, 5, others=True) == 5
    world.join(slots=1)
    world.settle()
    assert world.results("p", "n")[0].finish == "eos"


def test_a_request_that_always_kills_is_put_aside_even_where_others_die_too():
    world = World()
    world.submit("p", "n")
    assert killed(world, 20, others=True) == 10


def test_a_worker_that_is_lost_from_sight_before_it_is_known_to_be_dead_makes_suspects_all_the_same():
    world = World()
    for at in range(4):
        world.submit("p", f"n{at}")
    for _ in range(2):
        machine = world.join(slots=4)
        world.turn()
        world.leases.lost_from_sight(machine.worker)
        world.turn()
        world.die(machine)
    machine = world.join(slots=4)
    world.turn()
    assert len(machine.waiting) == 1  # alone, and not beside what it may kill
    world.settle()
    assert all(len(world.results(*key)) == 1 for key in world.heard)


def test_a_node_that_is_lost_is_no_request_s_fault():
    world = World()
    world.submit("p", "n")
    for _ in range(5):
        machine = world.join(slots=1)
        world.turn()
        world.die(machine, died=False)
    world.join(slots=1)
    world.settle()
    assert world.results("p", "n")[0].finish == "eos"


def test_what_waits_inside_a_worker_may_be_what_kills_it_too():
    """A request that kills as it arrives, before it has a slot, must not be sent for ever."""
    world = World()
    for at in range(3):
        world.submit("p", f"n{at}")
    deaths = 0
    while world.leases.open:
        machine = world.join(slots=2)
        world.turn()
        while ("p", "n2") not in {attempt[:2] for attempt in machine.waiting}:
            machine.finish()
            world.listen(machine)
            world.turn()
        world.die(machine)
        deaths += 1
        assert deaths <= 4
    world.turn()
    assert "put aside" in str(world.results("p", "n2")[0].error)
    assert all(world.results("p", name)[0].finish == "eos" for name in ("n0", "n1"))


def test_a_worker_lost_from_sight_gives_its_work_to_others_and_the_first_result_counts():
    world = World()
    first, second = world.join(slots=2), world.join(slots=2)
    world.submit("p", "a")
    world.turn()
    holder, other = (first, second) if first.waiting else (second, first)
    world.leases.lost_from_sight(holder.worker)
    world.turn()
    assert other.waiting == [("p", "a", 2)]
    holder.finish()
    world.listen(holder)  # it had gone on all the time
    world.turn()
    assert [branch.decoder for branch in world.results("p", "a")] == [holder.worker.name]
    assert other.waiting == []  # called off
    world.listen(other)
    assert len(world.results("p", "a")) == 1


def test_a_worker_that_is_seen_again_keeps_what_nobody_else_has_begun():
    world = World()
    only = world.join(slots=2)
    world.submit("p", "a")
    world.turn()
    world.leases.lost_from_sight(only.worker)
    world.turn()
    world.leases.seen_again(only.worker)
    world.settle()
    assert world.leases.counts.sent == 1
    assert world.results("p", "a")[0].finish == "eos"


def test_a_leaving_worker_ends_what_grows_and_gets_nothing_new():
    world = World()
    leaving = world.join(slots=4)
    for at in range(5):
        world.submit("p", f"n{at}")
    world.turn()
    world.leases.leave(leaving.worker)
    world.turn()
    assert len(leaving.waiting) == 4  # what only waited there waits here
    assert world.leases.waiting == 1
    world.join(slots=1)
    world.settle()
    assert all(branch.attempts <= 2 and branch.finish == "eos" for key in world.heard for branch in world.results(*key))


def test_what_waits_is_cancelled_at_once_and_what_grows_by_its_worker():
    world = World()
    machine = world.join(slots=1)
    for at in range(4):
        world.submit("p", f"n{at}")
    world.turn()
    world.leases.cancel("p", ["n0", "n3"])
    world.turn()
    assert [branch.finish for branch in world.results("p", "n3")] == ["cancelled"]
    assert world.results("p", "n0") == []
    world.listen(machine)
    world.turn()
    assert [branch.finish for branch in world.results("p", "n0")] == ["cancelled"]


@pytest.mark.parametrize("finish", ["cancelled", "eos"])
def test_a_name_may_be_used_again_once_it_was_cancelled(finish: str):
    """As by who leaves a search in the middle, and asks the same again before a worker has ended what is left of it."""
    world = World()
    machine = world.join(slots=1)
    world.submit("p", "n")
    world.turn()
    if finish == "eos":
        machine.finish()  # it is done when it is called off, and nobody has heard of it yet
    world.leases.cancel("p", ["n"])
    world.submit("p", "n")
    world.turn()
    assert [branch.finish for branch in world.results("p", "n")] == ["cancelled"]
    world.listen(machine)
    world.turn()
    assert len(world.results("p", "n")) == 1
    world.settle()
    assert [(branch.finish, branch.attempts) for branch in world.results("p", "n")] == [("cancelled", 1), ("eos", 1)]
    assert not machine.worker.held


def test_what_is_cancelled_when_its_worker_dies_is_not_sent_again():
    world = World()
    machine = world.join(slots=1)
    world.submit("p", "n")
    world.turn()
    world.leases.cancel("p", ["n"])
    world.die(machine)
    world.turn()
    assert [branch.finish for branch in world.results("p", "n")] == ["cancelled"]


def test_what_a_worker_says_of_an_earlier_request_of_the_same_name_is_not_taken_for_the_new_one():
    """It hangs, others do its work, the search ends, the next one uses its names again, and it is back."""
    world = World()
    slow, quick = world.join(slots=1), world.join(slots=1)
    world.submit("p", "n")
    world.turn()
    old = next(iter(slow.waiting))
    world.leases.lost_from_sight(slow.worker)
    world.turn()
    quick.finish()
    world.listen(quick)
    world.submit("p", "n")
    world.turn()
    new = next(iter(quick.waiting))
    assert old != new
    world.leases.grown(slow.worker, old, 3, "old")
    world.leases.done(slow.worker, old, Branch(id="n", text="old", finish="eos"))
    world.leases.seen_again(slow.worker)
    assert slow.worker.free_slots == 1
    world.leases.done(quick.worker, new, Branch(id="n", text="new", finish="eos"))
    world.turn()
    assert [branch.text for branch in world.results("p", "n")] == ["eos", "new"]
    assert [branch.attempts for branch in world.results("p", "n")] == [2, 1]
    assert not [event for event in world.heard["p", "n"] if isinstance(event, BranchProgress)]


def test_growth_is_told_by_whoever_holds_the_request_now_and_by_nobody_else():
    world = World()
    machine = world.join(slots=1)
    world.submit("p", "n")
    world.turn()
    world.leases.grown(machine.worker, ("p", "n", 1), 4, "four")
    world.die(machine)
    other = world.join(slots=1)
    world.turn()
    world.leases.grown(other.worker, ("p", "n", 1), 9, "of an earlier attempt")
    world.turn()
    told = [event for event in world.heard["p", "n"] if isinstance(event, BranchProgress)]
    assert [(event.tokens, event.text) for event in told] == [(4, "four")]


def test_a_limit_goes_with_the_first_request_to_each_worker_and_is_kept_over_all_of_them():
    world = World()
    first, second = world.join(slots=1), world.join(slots=1)
    world.leases.limit(Limit("p", 10, None))
    world.submit("p", "a")
    world.submit("p", "b")
    world.leases.assign()
    assert [machine.worker.orders.limits for machine in (first, second)] == [[Limit("p", 10, None)]] * 2
    world.turn()
    world.leases.grown(first.worker, ("p", "a", 1), 6, "")
    world.leases.grown(second.worker, ("p", "b", 2), 4, "")
    assert (first.worker.orders.cancelled, second.worker.orders.cancelled) == ([("p", "a", 1)], [("p", "b", 2)])


def test_a_lifted_limit_is_lifted_where_it_was_told():
    world = World()
    machine = world.join(slots=1)
    world.leases.limit(Limit("p", 10, 20))
    world.submit("p", "a")
    world.settle()
    world.leases.limit(Limit("p", None, None))
    assert machine.worker.orders.limits == [Limit("p", None, None)]


def test_what_is_left_of_a_limit_is_told_to_who_comes_later():
    world = World()
    world.leases.limit(Limit("p", 10, None))
    first = world.join(slots=1)
    world.submit("p", "a")
    world.turn()
    done = Branch(id="a", text="", token_ids=(1, 2, 3), discarded=1)
    world.leases.done(first.worker, ("p", "a", 1), done)
    world.die(first, died=False)
    second = world.join(slots=1)
    world.submit("p", "b")
    world.leases.assign()
    assert second.worker.orders.limits == [Limit("p", 6, None)]


def test_when_nobody_is_left_everything_open_ends_with_the_reason():
    world = World()
    world.submit("p", "a")
    world.leases.fail("no decoder is left")
    world.turn()
    assert world.results("p", "a")[0].error == "no decoder is left"


ACTIONS = ("submit", "finish", "listen", "turn", "die", "lose node", "hide", "join", "leave", "cancel")


class Chaos(World):
    """Lets anything happen, by its name; ``at`` says to whom."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def happen(self, action: str, at: int) -> None:
        if action == "submit":
            self.submit(f"p{at % 3}", f"n{self.asked}")
            self.asked += 1
        elif action == "join" and len(self.machines) < 5:
            self.join(slots=1 + at % 3)
        elif action == "cancel":
            self.leases.cancel(f"p{at % 3}", [f"n{at % (self.asked or 1)}"])
        elif action == "turn":
            self.turn()
        elif self.machines:
            self.befall(list(self.machines.values())[at % len(self.machines)], action, at)

    def befall(self, machine: Machine, action: str, at: int) -> None:
        if action == "finish":
            machine.finish(at % 3)
        elif action == "listen":
            self.listen(machine)
        elif action in ("die", "lose node"):
            self.die(machine, died=action == "die")
        elif action == "hide":
            self.leases.lost_from_sight(machine.worker)
        elif action == "leave":
            self.leases.leave(machine.worker)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 7)), max_size=120))
def test_whatever_happens_each_request_gets_exactly_one_result(steps: list[tuple[str, int]]):
    world = Chaos()
    world.join(slots=2)
    for action, at in steps:
        world.happen(action, at)
    world.join(slots=2)
    world.settle()
    for machine in world.machines.values():
        world.listen(machine)
    world.turn()
    assert all(len(world.results(*key)) == 1 for key in world.heard)
    assert not any(machine.worker.held for machine in world.machines.values())
    finishes = Counter(world.results(*key)[0].finish for key in world.heard)
    assert finishes["error"] == world.leases.counts.put_aside


def test_a_request_sent_twice_by_the_search_is_one_request():
    world = World()
    world.join(slots=1)
    world.submit("p", "a")
    world.submit("p", "a")
    world.settle()
    assert len(world.results("p", "a")) == 1
    assert world.leases.counts.submitted == 1


def test_an_unknown_worker_s_news_changes_nothing():
    world = World()
    stray = Worker("stray", 1)
    world.leases.done(stray, ("p", "a", 1), Branch(text="x", id="a"))
    assert world.leases.told == []
    with pytest.raises(KeyError):
        _ = world.heard["p", "a"]
