"""What a search on a cluster costs its driver, in CPU seconds a branch, a message and a turn: for ``scaling``.

Nothing is assumed here: the search's loop, the dispatcher, the table of leases, the crew's reading of replies, the
stand-ins of verifiers and Ray are the real ones, and so are the records. Missing are the models: whoever answers has
its answers ready. Times are of threads and processes (``time.thread_time``, ``time.process_time``), so that other work
on the machine matters little.
"""

from __future__ import annotations

import os
import pickle
import queue
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from led_agent import Branch, Decoding, Problem, Search, Tree
from led_agent.cluster.actor import Growth, Message, Recipe, Reply
from led_agent.cluster.crew import Crew, Seat
from led_agent.cluster.decoder import asked_for
from led_agent.cluster.dispatcher import Dispatcher
from led_agent.cluster.leases import Leases, Orders, Worker
from led_agent.cluster.plan import Share
from led_agent.journal import Journal
from led_agent.loop import Loop, Means
from led_agent.protocols import BranchProgress, Sink
from led_agent.strategies import BestOfN
from led_agent.testing import ScriptedDecoder
from led_agent.types import Budget, DecodeRequest
from led_agent.verifier_pool import VerifierPool

__all__ = ["Costs", "Line", "measure"]

_LENGTHS = (512, 2048)  # tokens a branch, between and beyond which costs are taken to be linear
_SIBLINGS = 16  # branches a problem
_DECODING = Decoding.led("paper")


@dataclass(frozen=True)
class Line:
    """Seconds for a branch of so many tokens."""

    base: float
    token: float

    def at(self, tokens: float) -> float:
        return self.base + self.token * tokens

    @classmethod
    def through(cls, found: Sequence[tuple[float, float]]) -> Line:
        """Through two points; not below nothing, as a small difference of two noisy times might be."""
        (x1, y1), (x2, y2) = found
        slope = max(0.0, (y2 - y1) / (x2 - x1))
        return cls(max(0.0, y1 - slope * x1), slope)


@dataclass(frozen=True)
class Costs:
    """CPU seconds of the driver, and bytes on its network.

    Attributes:
        loop_branch, journal_branch: The search's thread: propose, tree, verdict; what a journal adds.
        loop_growth: The same, for one report of a branch's growth.
        loop_run: For each turn of the loop, a problem that is on.
        dispatch_branch, dispatch_growth: The dispatcher's thread: submit, assign, end; a report of growth.
        dispatch_worker: For each turn of the dispatcher, a decoder.
        pool_branch: The verifier pool's threads, for a verdict.
        orders_message, orders_request: Ray, pickling included: a message to a decoder, a request in it.
        reply_message, reply_growth, reply_branch: The same for a reply, a report of growth and a branch in it.
        verdict_branch: Ray, pickling included: a branch to a verifier's process, and its verdict.
        check_cpu, check_wait: Asking a decoder whether it can do a request: CPU, and how long the loop waits for it.
        checks: How often that is asked, a branch.
        request_bytes, reply_bytes, verdict_bytes: Pickled.
    """

    loop_branch: Line
    journal_branch: Line
    loop_growth: float
    loop_run: float
    dispatch_branch: Line
    dispatch_growth: float
    dispatch_worker: float
    pool_branch: Line
    orders_message: float
    orders_request: float
    reply_message: float
    reply_growth: float
    reply_branch: Line
    verdict_branch: Line
    check_cpu: float
    check_wait: float
    checks: float
    request_bytes: float
    reply_bytes: Line
    verdict_bytes: Line

    def row(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, row: dict[str, Any]) -> Costs:
        return cls(**{name: Line(**value) if isinstance(value, dict) else value for name, value in row.items()})

    @classmethod
    def nothing(cls) -> Costs:
        """A driver that is free, to see what the rest of a model does."""
        free = Line(0.0, 0.0)
        return cls(free, free, 0, 0, free, 0, 0, free, 0, 0, 0, 0, free, free, 0, 0, 0, 0, free, free)


def branch_of(tokens: int, draw: random.Random) -> Branch:
    """A branch as a decoder makes it: four characters and four numbers a token."""
    return Branch(
        text="".join(draw.choice("abcdefgh") + "lm, " for _ in range(tokens)),
        token_ids=tuple(draw.randrange(150_000) for _ in range(tokens)),
        logprobs=tuple(-draw.expovariate(1.0) for _ in range(tokens)),
        final_logprobs=tuple(-draw.expovariate(1.0) for _ in range(tokens)),
        entropies=tuple(draw.expovariate(1.0) for _ in range(tokens)),
        explored=tuple(draw.random() < 0.2 for _ in range(tokens)),
        span="all",
    )


# --- the search and the dispatcher ------------------------------------------------------------------------------------


class Ready:
    """Decoders behind the real dispatcher that have their branches ready. What they do costs a thread of its own."""

    def __init__(self, branch: Branch, growths: int, decoders: int = 8, slots: int = 16) -> None:
        self.dispatcher = Dispatcher()
        self.crew = Crew(self.dispatcher, Recipe(None, "cpu", "float32", slots), Share(1.0), "bench", dict)
        self.branch, self.growths = branch, growths
        self._known: set[tuple[object, ...]] = set()
        self.slots, self.cpu = decoders * slots, 0.0
        self._orders: queue.SimpleQueue[tuple[Seat, Orders] | None] = queue.SimpleQueue()
        self._far = threading.Thread(target=self._answer, daemon=True)
        self._far.start()
        for at in range(decoders):
            seat = Seat(at, worker=Worker(f"d{at}", slots))
            join = partial(
                self.dispatcher.join, seat.worker, lambda orders, seat=seat: self._orders.put((seat, orders))
            )
            self.dispatcher.post(join)

    def check(self, request: DecodeRequest) -> None:
        self._known.add((request.problem, *asked_for(request)))  # the problems here all read the same

    @property
    def checked(self) -> int:
        """How many requests a decoder would have been asked about: each kind once."""
        return len(self._known)

    def submit(self, request: DecodeRequest, sink: Sink) -> None:
        self.dispatcher.submit(request, sink)

    def cancel(self, problem: str, ids: Sequence[str]) -> None:
        self.dispatcher.cancel(problem, ids)

    def close(self) -> None:
        self._orders.put(None)
        self._far.join()
        self.dispatcher.close()

    def dispatcher_cpu(self) -> float:
        """CPU seconds of the dispatcher's thread so far."""
        told: queue.SimpleQueue[float] = queue.SimpleQueue()
        self.dispatcher.post(lambda: told.put(time.thread_time()))
        return told.get()

    def _answer(self) -> None:
        began = time.thread_time()
        step = len(self.branch.text) // (self.growths + 1)
        while (told := self._orders.get()) is not None:
            seat, orders = told
            keys = [(request.problem, request.id, attempt) for request, attempt in orders.requests]
            for at in range(self.growths):
                more = self.branch.text[at * step : (at + 1) * step]
                self._say(seat, tuple(Growth(key, at + 1, at * step, more) for key in keys), ())
            self._say(seat, (), tuple((key, self.branch.model_copy(update={"id": key[1]})) for key in keys))
            self.cpu = time.thread_time() - began

    def _say(self, seat: Seat, grown: tuple[Growth, ...], done: tuple[tuple[Any, Branch], ...]) -> None:
        reply = Reply(1, grown, done, 0.0, 0)
        assert seat.worker is not None
        self.dispatcher.post(partial(self.crew._take, seat, seat.worker, reply))


def _accept(problem: Problem, branch: Branch) -> bool:
    return True


@dataclass(frozen=True)
class _Path:
    """CPU seconds a branch of the driver's threads, and checks a branch."""

    loop: float
    dispatch: float
    pool: float
    checks: float


def path(tokens: int, branches: int, *, journal: bool = False, growths: int = 0) -> _Path:
    """A search whose decoders answer at once: what each thread of the driver computes for a branch."""
    problems = [Problem(id=f"p{at}", prompt="?" * 200) for at in range(branches // _SIBLINGS)]
    ready = Ready(branch_of(tokens, random.Random(0)), growths)
    with tempfile.TemporaryDirectory() as folder:
        kept = Journal(Path(folder) / "journal.jsonl") if journal else None
        strategy = BestOfN(_SIBLINGS, stop_at_first=False)
        with Search(decoder=ready, strategy=strategy, verifiers=[_accept], decoding=_DECODING, journal=kept) as search:
            before = ready.dispatcher_cpu()
            loop, whole = time.thread_time(), time.process_time()
            for _ in search.solve_many(problems, ordered=False):
                pass
            loop, whole = time.thread_time() - loop, time.process_time() - whole
            dispatch = ready.dispatcher_cpu() - before
        ready.close()
        if kept is not None:
            kept.close()
    done = len(problems) * _SIBLINGS
    pool = max(0.0, whole - loop - dispatch - ready.cpu)
    return _Path(loop / done, dispatch / done, pool / done, ready.checked / done)


def usual(tokens: int, branches: int, *, journal: bool = False, growths: int = 0) -> _Path:
    """The median of three, thread by thread."""
    found = [path(tokens, branches, journal=journal, growths=growths) for _ in range(3)]
    median = lambda of: statistics.median(of(one) for one in found)  # noqa: E731
    return _Path(
        median(lambda p: p.loop), median(lambda p: p.dispatch), median(lambda p: p.pool), median(lambda p: p.checks)
    )


def loop_run() -> float:
    """CPU seconds of a turn of the loop in which one thing happens, a problem that is on."""

    def turn(count: int) -> float:
        pool = VerifierPool()
        tree = partial(Tree, decoding=_DECODING)
        means = Means(
            decoder=ScriptedDecoder(["a b"], slots=count * _SIBLINGS, hold=True),
            strategy=BestOfN(_SIBLINGS), verifiers=lambda _problem: (), budget=Budget(), journal=None, observer=None,
            stopping=threading.Event(), pool=pool, plant=tree, check=lambda _problem: None,
        )  # fmt: skip
        loop = Loop(means)
        list(loop._fill(iter([Problem(id=f"p{at}", prompt="?") for at in range(count)]), True))
        run = next(iter(loop.runs.values()))
        loop._receive()

        def once() -> None:
            loop.inbox.put((run, BranchProgress("none", 1, "")))
            loop._receive()
            list(loop._fill(iter(()), False))

        seconds = _cpu(once, 200, time.thread_time)
        pool.close()
        return seconds

    return (turn(400) - turn(20)) / 380


def dispatch_worker(slots: int = 64) -> float:
    """CPU seconds of a turn of the dispatcher in which nothing can be sent, a decoder: all of them are full."""

    def turn(decoders: int) -> float:
        leases = Leases()
        for at in range(decoders):
            leases.join(Worker(f"d{at}", slots))
        for at in range(int(decoders * slots * 1.25)):
            request = DecodeRequest(
                id=f"n{at}", parent="root", problem=f"p{at // _SIBLINGS}", prompt="?", decoding=_DECODING, seed=at,
                max_tokens=9,
            )  # fmt: skip
            leases.submit(request, lambda _event: None)
        leases.assign()

        def once() -> None:
            leases.assign()
            for worker in list(leases.workers.values()):
                bool(worker.orders)

        return _cpu(once, 100, time.thread_time)

    return (turn(256) - turn(8)) / 248


# --- Ray --------------------------------------------------------------------------------------------------------------


class _Far:
    """A process on the other side, which has its replies ready."""

    def __init__(self) -> None:
        self.reply = b""

    def keep(self, reply: bytes) -> None:
        self.reply = reply

    def turn(self, message: bytes) -> bytes:
        return self.reply if pickle.loads(message).heard is not None else b""


def _cpu(act: Callable[[], object], times: int, clock: Callable[[], float] = time.process_time) -> float:
    """CPU seconds of a call, after a few that don't count."""
    for _ in range(5):
        act()
    began = clock()
    for _ in range(times):
        act()
    return (clock() - began) / times


def _pickled(what: object) -> bytes:
    return pickle.dumps(what, pickle.HIGHEST_PROTOCOL)


def _messages(branches: dict[int, Branch]) -> dict[str, Any]:
    """Messages to an actor and back, one after the other, as the crew sends them."""
    import ray

    remote: Any = ray.remote(_Far)
    far = remote.options(max_concurrency=8, num_cpus=0).remote()
    requests = Tree(Problem(prompt="?" * 200), decoding=_DECODING).requests(8)
    driver = {"run": "abcdef", "decoders": 8, "open": 640, "done": 1000, "seconds": 12.5}

    def sent(count: int) -> float:
        orders = Orders(requests=[(request, 1) for request in requests[:count]])
        message = Message(orders=(1, orders))
        return _cpu(lambda: far.turn.remote(_pickled(message)).future().result(), 300)

    def heard(reply: Reply, times: int = 300) -> float:
        ray.get(far.keep.remote(_pickled(reply)))
        message = Message(heard=1, wait=1.0, driver=driver)
        return _cpu(lambda: pickle.loads(far.turn.remote(_pickled(message)).future().result()), times)

    empty = heard(Reply(1, (), (), 1.0, 1))
    grown = tuple(Growth(("p1", f"n{at}", 1), 100, 80, "x" * 80) for at in range(64))
    per = {t: (heard(Reply(1, (), ((("p", "n", 1), b),) * 1, 1.0, 1), 200) - empty) for t, b in branches.items()}
    none = sent(0)
    found = {
        "orders_message": none,
        "orders_request": max(0.0, (sent(8) - none) / 8),
        "reply_message": empty,
        "reply_growth": max(0.0, (heard(Reply(1, grown, (), 1.0, 1)) - empty) / 64),
        "reply_branch": Line.through(sorted(per.items())),
    }
    ray.kill(far)
    return found


def _verdicts(branches: dict[int, Branch]) -> Line:
    from led_agent.cluster.verifiers import Place, RemoteVerifiers

    far = RemoteVerifiers([_accept], [Place()], name="bench")
    proxy, problem = far.proxies[0], Problem(prompt="?" * 200)
    per = {t: _cpu(lambda b=b: proxy(problem, b), 200) for t, b in branches.items()}  # type: ignore[misc]
    far.close()
    return Line.through(sorted(per.items()))


def _checks() -> tuple[float, float]:
    """CPU and wall-clock seconds of asking a real decoder of the cluster whether it can do a request."""
    from led_agent.cluster.decoder import ClusterDecoder
    from led_agent.cluster.plan import Cluster

    decoder = ClusterDecoder(Cluster(decoders=1), slots=4)
    requests = Tree("Use 3, 20 and 5 to make 35.", decoding=Decoding.plain(0.8), max_tokens=64).requests(300)
    left = (request.model_copy(update={"max_tokens": at}) for at, request in enumerate(requests, 1))  # none is known
    began = time.perf_counter()
    cpu = _cpu(lambda: decoder.check(next(left)), 290)
    wait = (time.perf_counter() - began) / 295
    decoder.close()
    return cpu, wait


def _bytes(branches: dict[int, Branch]) -> dict[str, Any]:
    size = lambda what: float(len(_pickled(what)))  # noqa: E731
    request = Tree(Problem(prompt="?" * 200), decoding=_DECODING).requests(1)[0]
    problem = Problem(prompt="?" * 200)
    replies = [(t, size(Reply(1, (), ((("p", "n", 1), b),), 1.0, 1))) for t, b in sorted(branches.items())]
    verdicts = [(t, size(((problem,), (b,)))) for t, b in sorted(branches.items())]
    return {
        "request_bytes": size(Message(orders=(1, Orders(requests=[(request, 1)])))),
        "reply_bytes": Line.through(replies),
        "verdict_bytes": Line.through(verdicts),
    }


def over_ray(branches: dict[int, Branch]) -> dict[str, Any]:
    """What a private Ray on this machine costs the driver."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        address="local", include_dashboard=False, num_cpus=2, object_store_memory=200 << 20, namespace="led_agent",
        log_to_driver=False, configure_logging=False,
    )  # fmt: skip
    try:
        cpu, wait = _checks()
        verdicts = _verdicts(branches)
        return {
            **_messages(branches), **_bytes(branches),
            "verdict_branch": verdicts, "check_cpu": cpu, "check_wait": wait,
        }  # fmt: skip
    finally:
        ray.shutdown()


def measure(branches: int = 640) -> Costs:
    """All of it; a minute or two."""
    made = {tokens: branch_of(tokens, random.Random(1)) for tokens in _LENGTHS}
    path(64, branches)  # warm up
    plain = {t: usual(t, branches) for t in _LENGTHS}
    kept = {t: usual(t, branches, journal=True) for t in _LENGTHS}
    growing = usual(_LENGTHS[0], branches, growths=20)
    still = plain[_LENGTHS[0]]
    line = lambda of: Line.through([(t, of(t)) for t in _LENGTHS])  # noqa: E731
    return Costs(
        loop_branch=line(lambda t: plain[t].loop),
        journal_branch=line(lambda t: max(0.0, kept[t].loop - plain[t].loop)),
        loop_growth=max(0.0, (growing.loop - still.loop) / 20),
        loop_run=loop_run(),
        dispatch_branch=line(lambda t: plain[t].dispatch),
        dispatch_growth=max(0.0, (growing.dispatch - still.dispatch) / 20),
        dispatch_worker=dispatch_worker(),
        pool_branch=line(lambda t: plain[t].pool),
        checks=still.checks,
        **over_ray(made),
    )
