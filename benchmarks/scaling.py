"""How a search scales to hundreds of decoders, on paper: a model of them, with a driver that costs what was measured.

    python -m benchmarks.scaling --measure --out scaling.json   # measures this machine first, a minute or two
    python -m benchmarks.scaling --costs benchmarks/results/scaling.json

Measured: the CPU seconds of the driver's threads a branch, a message and a turn (``scaling_costs``). Real: the table of
leases, so that credits, affinity and stealing are what they are; only its clock isn't. Modelled: decoders whose slots
each draw tokens at one rate, whoever is beside them; branches of log-normal length; the driver as one core, which its
threads take in turn (they share Python's lock); verifiers as one place a decoder. The network has no limit and no
delay, and nothing dies: this says where the driver ends, and nothing of machines.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.scaling_costs import Costs, measure
from led_agent import Branch, Decoding
from led_agent.cluster.actor import _PAUSE, _PROGRESS
from led_agent.cluster.leases import Attempt, Leases, Orders, Worker
from led_agent.loop import _AHEAD
from led_agent.protocols import BranchDone, DecodeEvent
from led_agent.types import DecodeRequest

_DECODING = Decoding.plain(1.0)
_AT_ONCE = 64  # requests that the modelled loop makes before it looks at what has come; the real one sends each at once
_SPREAD = 0.6  # σ of the logarithm of lengths, as in the engine's own goals


@dataclass(frozen=True)
class Setting:
    """What is decoded, and on what.

    Attributes:
        decoders, slots, rate: Tokens a second of each slot.
        tokens: Mean length of a branch.
        siblings: Branches a problem.
        journal: Whether each event is written.
        checks: Requests that a decoder is asked about beforehand, a branch; None is what was measured.
        verify: Seconds of a verdict.
    """

    decoders: int
    slots: int = 64
    rate: float = 100.0
    tokens: float = 2048.0
    siblings: int = 16
    journal: bool = True
    checks: float | None = None
    verify: float = 0.005

    @property
    def ideal(self) -> float:
        """Branches a second with no slot ever empty."""
        return self.decoders * self.slots * self.rate / self.tokens


@dataclass
class Outcome:
    """What came of a model's seconds, those in which it settles left out."""

    setting: Setting
    branches_s: float
    tokens_s: float
    busy: float  # share of slot time
    driver: float  # share of the driver's core
    loop: float  # share of the time in which the loop computes, or waits for an answer to a check
    service: float  # CPU seconds of the driver a branch
    messages: float  # to and from decoders, a branch
    stolen: int
    submitted: int
    ended: int
    twice: int

    @property
    def efficiency(self) -> float:
        return self.branches_s / self.setting.ideal

    @property
    def enough_for(self) -> float:
        """Decoders at which the driver's core, or its loop, would have no moment left, where it has some now. A little
        too few, as turns in which more happens cost less a branch."""
        return self.setting.decoders / max(self.driver, self.loop, 1e-9)

    def row(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "ideal": self.setting.ideal,
            "efficiency": self.efficiency,
            "enough_for": self.enough_for,
        }


@dataclass(eq=False)
class _Decoder:
    """An actor: branches that grow, those that wait inside, and what it has to tell."""

    worker: Worker
    growing: set[Attempt] = field(default_factory=set)
    waiting: dict[Attempt, float] = field(default_factory=dict)  # and each one's tokens
    begun: int = 0
    done: list[Attempt] = field(default_factory=list)
    called_off: list[Attempt] = field(default_factory=list)
    replied: float = 0.0
    told_growth: float = 0.0
    due: float = math.inf  # of the next reply
    since: float = 0.0
    busy: float = 0.0  # slot-seconds


class Model:
    """The search of one driver, event by event."""

    def __init__(self, setting: Setting, costs: Costs, *, seed: int = 0) -> None:
        self.setting, self.costs, self.now = setting, costs, 0.0
        self.leases = Leases()
        self.decoders: dict[str, _Decoder] = {}
        self._draw = random.Random(seed)
        self._mu = math.log(setting.tokens) - _SPREAD**2 / 2
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._core = deque[tuple[float, Callable[[], None]]]()
        self._running, self._since = False, 0.0
        self._inbox: list[tuple[float, Callable[[], None]]] = []  # of the dispatcher: CPU seconds, and what is done
        self._turning = self._looping = False
        self._arrived = 0  # branches, and
        self._judged = 0  # verdicts, that the loop hasn't seen
        self._grown = 0
        self._in_flight = self._made = 0
        self._checking = setting.checks if setting.checks is not None else costs.checks
        self._ends: dict[tuple[str, str], int] = {}
        self._verifiers = [0.0] * setting.decoders
        self.cpu = self.looped = self.tokens = 0.0
        self.ended = self.messages = 0
        for at in range(setting.decoders):
            worker = Worker(f"d{at}", setting.slots)
            self.leases.join(worker)
            self.decoders[worker.name] = _Decoder(worker)

    # --- time --------------------------------------------------------------------------------------------------

    def run(self, seconds: float, settle: float) -> Outcome:
        """So many seconds, after those in which it settles."""
        self._loop()
        self._until(settle)
        self._account()
        before = (self.cpu, self.looped, self.tokens, self.ended, self.messages)
        busy = sum(decoder.busy for decoder in self.decoders.values())
        self._until(settle + seconds)
        self._account()
        cpu, looped, tokens, ended, messages = (
            now - then
            for now, then in zip((self.cpu, self.looped, self.tokens, self.ended, self.messages), before, strict=True)
        )
        busy = sum(decoder.busy for decoder in self.decoders.values()) - busy
        setting = self.setting
        return Outcome(
            setting=setting,
            branches_s=ended / seconds,
            tokens_s=tokens / seconds,
            busy=busy / (seconds * setting.decoders * setting.slots),
            driver=cpu / seconds,
            loop=looped / seconds,
            service=cpu / max(1, ended),
            messages=messages / max(1, ended),
            stolen=self.leases.counts.stolen,
            submitted=self._made,
            ended=len(self._ends),
            twice=sum(count - 1 for count in self._ends.values()),
        )

    def _until(self, end: float) -> None:
        while self._events and self._events[0][0] <= end:
            self.now, _, act = heapq.heappop(self._events)
            act()
        self.now = end

    def _at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), act))

    def _account(self) -> None:
        """Bring what is being counted up to this moment."""
        if self._running:
            self.cpu += self.now - self._since
        self._since = self.now
        for decoder in self.decoders.values():
            self._clock(decoder)

    # --- the driver's core -------------------------------------------------------------------------------------

    def _compute(self, seconds: float, then: Callable[[], None]) -> None:
        """So much of the core, behind what is in line for it."""
        self._core.append((seconds, then))
        if not self._running:
            self._next()

    def _next(self) -> None:
        if not self._core:
            self._running = False
            return
        self._running, self._since = True, self.now
        seconds, then = self._core.popleft()

        def done() -> None:
            self.cpu += self.now - self._since
            then()
            self._next()

        self._at(self.now + seconds, done)

    # --- the loop ----------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        """A turn of the search's thread: all that has come, then a few of the requests that there is room for."""
        if self._looping:
            return
        arrived, news = self._arrived, bool(self._arrived or self._judged or self._grown)
        costs, setting = self.costs, self.setting
        work = self._grown * costs.loop_growth
        self._arrived = self._judged = self._grown = 0
        self._in_flight -= arrived
        room = int(setting.decoders * setting.slots * _AHEAD + 0.5) - self._in_flight
        if not news and room <= 0:
            return
        self._looping, asked = True, max(0, min(room, _AT_ONCE))
        kept = costs.journal_branch.at(setting.tokens) if setting.journal else 0.0
        work += arrived * (costs.loop_branch.at(setting.tokens) + kept) + asked * self._checking * costs.check_cpu
        work += news * math.ceil(self._in_flight / setting.siblings) * costs.loop_run
        self._in_flight += asked
        wait = asked * self._checking * costs.check_wait
        self.looped += work + wait
        self._compute(work, lambda: self._at(self.now + wait, lambda: self._go_on(asked)))

    def _go_on(self, asked: int) -> None:
        """The loop has had its answers about these requests; meanwhile the core was others'."""
        self._looping = False
        if asked:
            self._post(0.0, lambda: self._submit(asked))
        self._loop()

    def _submit(self, count: int) -> None:
        for _ in range(count):
            problem, at = divmod(self._made, self.setting.siblings)
            self._made += 1
            request = DecodeRequest.model_construct(
                id=f"n{at}", parent="root", problem=f"p{problem}", prompt="?", decoding=_DECODING, seed=0, max_tokens=1
            )
            self.leases.submit(request, lambda event, problem=problem: self._hear(problem, event))

    def _hear(self, problem: int, event: DecodeEvent) -> None:
        """The loop is told, and the branch goes to a verifier."""
        if not isinstance(event, BranchDone):
            return
        key = (f"p{problem}", event.branch.id)
        self._ends[key] = self._ends.get(key, 0) + 1
        self.ended += 1
        self._arrived += 1
        tokens = self.setting.tokens
        self._compute(self.costs.pool_branch.at(tokens) + self.costs.verdict_branch.at(tokens), self._verify)
        self._loop()

    def _verify(self) -> None:
        free = max(self.now, heapq.heappop(self._verifiers))
        heapq.heappush(self._verifiers, free + self.setting.verify)

        def said() -> None:
            self._judged += 1
            self._loop()

        self._at(free + self.setting.verify, said)

    # --- the dispatcher ----------------------------------------------------------------------------------------

    def _post(self, seconds: float, act: Callable[[], None]) -> None:
        self._inbox.append((seconds, act))
        if not self._turning:
            self._turn()

    def _turn(self) -> None:
        """All that has come, then orders to each decoder that there are any for: as in ``Dispatcher``."""
        inbox, self._inbox = self._inbox, []
        self._turning = True
        work = sum(seconds for seconds, _ in inbox) + self.costs.dispatch_worker * len(self.decoders)

        def decide() -> None:
            for _, act in inbox:
                act()
            self.leases.assign()
            sending = [decoder for decoder in self.decoders.values() if decoder.worker.orders]
            requests = sum(len(decoder.worker.orders.requests) for decoder in sending)
            orders = len(sending) * self.costs.orders_message + requests * self.costs.orders_request
            self._compute(orders, lambda: self._sent(sending))

        self._compute(work, decide)

    def _sent(self, sending: list[_Decoder]) -> None:
        self.messages += len(sending)
        for decoder in sending:
            orders, decoder.worker.orders = decoder.worker.orders, Orders()
            self._carry_out(decoder, orders)
        told, self.leases.told = self.leases.told, []
        for sink, event in told:
            sink(event)
        self._turning = False
        if self._inbox:
            self._turn()

    def _heard(self, decoder: _Decoder, done: list[Attempt], called_off: list[Attempt], growing: int) -> None:
        def take() -> None:
            for attempt in done:
                self.leases.done(decoder.worker, attempt, Branch.model_construct(id=attempt[1], finish="eos"))
            for attempt in called_off:
                self.leases.done(decoder.worker, attempt, Branch.model_construct(id=attempt[1], finish="cancelled"))
            self._grown += growing
            if growing:
                self._loop()

        self.messages += 1
        costs, tokens = self.costs, self.setting.tokens
        work = costs.reply_message + growing * (costs.reply_growth + costs.dispatch_growth)
        work += len(done) * (costs.reply_branch.at(tokens) + costs.dispatch_branch.at(tokens))
        self._post(work, take)

    # --- decoders ----------------------------------------------------------------------------------------------

    def _clock(self, decoder: _Decoder) -> None:
        decoder.busy += len(decoder.growing) * (self.now - decoder.since)
        decoder.since = self.now

    def _carry_out(self, decoder: _Decoder, orders: Orders) -> None:
        for attempt in orders.cancelled:
            if decoder.waiting.pop(attempt, None) is not None:
                decoder.called_off.append(attempt)
        for request, number in orders.requests:
            decoder.waiting[request.problem, request.id, number] = self._length(decoder)
        self._begin(decoder)
        self._tell(decoder)

    def _length(self, decoder: _Decoder) -> float:
        """Tokens of a branch. Those that fill a decoder's slots at first have what is left of a branch that an
        observer meets, so that the model has less to settle."""
        decoder.begun += 1
        if decoder.begun > self.setting.slots:
            return max(1.0, self._draw.lognormvariate(self._mu, _SPREAD))
        return max(1.0, self._draw.random() * self._draw.lognormvariate(self._mu + _SPREAD**2, _SPREAD))

    def _begin(self, decoder: _Decoder) -> None:
        self._clock(decoder)
        while decoder.waiting and len(decoder.growing) < self.setting.slots:
            attempt = next(iter(decoder.waiting))
            tokens = decoder.waiting.pop(attempt)
            decoder.growing.add(attempt)
            self._at(self.now + tokens / self.setting.rate, lambda a=attempt, t=tokens: self._end(decoder, a, t))

    def _end(self, decoder: _Decoder, attempt: Attempt, tokens: float) -> None:
        self._clock(decoder)
        decoder.growing.discard(attempt)
        decoder.done.append(attempt)
        self.tokens += tokens
        self._begin(decoder)
        self._tell(decoder)

    def _tell(self, decoder: _Decoder) -> None:
        """Have the next reply leave when it is due: as in ``DecoderActor``."""
        due = math.inf
        if decoder.done or decoder.called_off:
            due = decoder.replied + _PAUSE
        elif decoder.growing:
            due = decoder.told_growth + _PROGRESS
        due = max(self.now, due)
        if due < decoder.due:
            decoder.due = due
            self._at(due, lambda: self._reply(decoder, due))

    def _reply(self, decoder: _Decoder, due: float) -> None:
        if decoder.due != due:
            return  # an earlier one has gone
        decoder.due = math.inf
        growing = 0
        if self.now >= decoder.told_growth + _PROGRESS:
            decoder.told_growth, growing = self.now, len(decoder.growing)
        decoder.replied = self.now
        done, decoder.done = decoder.done, []
        called_off, decoder.called_off = decoder.called_off, []
        self._heard(decoder, done, called_off, growing)
        self._tell(decoder)


KINDS: dict[str, dict[str, Any]] = {
    "a 4B model on a GPU each": {"slots": 64, "rate": 100.0, "tokens": 2048.0},
    "the embedded model on a CPU each": {"slots": 16, "rate": 128.0, "tokens": 37.0},
}


def table(outcomes: list[tuple[str, int, Outcome]]) -> str:
    """Markdown, a line a model; with several drivers the figures are those of all of them."""
    head = (
        "| decoders | drivers | branches/s, ideal | branches/s | tokens/s | of the ideal | slots busy | driver's core "
        "| its loop | one driver is enough for | CPU a branch, ms | messages a branch |"
    )
    lines = [head, "|" + " --- |" * 12]
    for _, drivers, out in outcomes:
        s = out.setting
        enough = "–" if max(out.driver, out.loop) > 0.95 else f"{out.enough_for:.0f}"
        lines.append(
            f"| {s.decoders * drivers} | {drivers} | {s.ideal * drivers:.0f} | {out.branches_s * drivers:.0f} "
            f"| {out.tokens_s * drivers:,.0f} | {out.efficiency:.0%} | {out.busy:.0%} | {out.driver:.0%} "
            f"| {out.loop:.0%} | {enough} | {1000 * out.service:.2f} | {out.messages:.1f} |"
        )
    return "\n".join(lines)


def study(costs: Costs, given: argparse.Namespace) -> list[tuple[str, int, Outcome]]:
    """Each kind of decoder, each number of them, and as many drivers as are asked for."""
    found = []
    for kind, settings in KINDS.items():
        for decoders in given.decoders:
            for drivers in [k for k in given.drivers if decoders % k == 0 and decoders // k >= 1]:
                setting = Setting(decoders // drivers, journal=not given.no_journal, checks=given.checks, **settings)
                lives = max(2.0, given.lives * setting.tokens / setting.rate)
                outcome = Model(setting, costs, seed=given.seed).run(lives, lives)
                found.append((kind, drivers, outcome))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure this machine first")
    parser.add_argument("--costs", type=Path, default=Path("benchmarks/results/scaling.json"))
    parser.add_argument("--out", type=Path, help="where to keep what was measured")
    parser.add_argument("--decoders", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--drivers", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--lives", type=float, default=2.0, help="mean lives of a branch, modelled after as many")
    parser.add_argument("--checks", type=float, help="questions to a decoder a branch; by default as many as measured")
    parser.add_argument("--no-journal", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    costs = measure() if given.measure else Costs.of(json.loads(given.costs.read_text()))
    if given.out is not None:
        given.out.write_text(json.dumps(costs.row(), indent=2) + "\n")
    found = study(costs, given)
    if given.json:
        rows = [{"kind": kind, "drivers": drivers, **outcome.row()} for kind, drivers, outcome in found]
        print(json.dumps({"costs": costs.row(), "found": rows}))
        return
    for kind, settings in KINDS.items():
        print(f"\n{kind}: {settings}\n\n{table([one for one in found if one[0] == kind])}")


if __name__ == "__main__":
    main()
