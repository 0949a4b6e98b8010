"""``diagnose``: what a model's depths say of it, and whether exploring them can be expected to help.

Branches are sampled plainly, forwarded again with every block's state kept, and the figures averaged within each
problem, then over problems. This file knows problems and statistics; states and posteriors are ``engine.depths``'s, and
what follows from the figures is ``diagnosis``'s. It does not know torch; numpy is imported where it is needed.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

from led_agent.countdown import Puzzle
from led_agent.diagnosis import (
    TOP_K,
    Accuracy,
    AtTemperature,
    Depth,
    Diagnosis,
    Estimate,
    Movement,
    Norm,
    Reading,
    Recommendation,
    recommend,
)
from led_agent.errors import ModelError, UsageError
from led_agent.judging import judge
from led_agent.local import LocalDecoder
from led_agent.models import LARGEST_GIVEN, LARGEST_TARGET, default_model, embedded_refusal, is_embedded
from led_agent.problems import Asked, as_problem
from led_agent.search import DefaultVerifiers
from led_agent.tree import derive_seed, summary_verdict
from led_agent.types import Branch, Decoding, Problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

__all__ = ["Diagnosis", "Progress", "Recommendation", "default_problems", "diagnose"]

TEMPERATURES = (0.6, 0.8, 1.0, 1.2)
LAW_TEMPERATURES = (0.6, 1.0)
LAW_DEPTHS = (2, 3, 4, 6, 8, 12)
_READ_AT = 1.0  # the temperature of the branches that depths are read along
_POSITIONS = (512, 16384)  # at most, at which posteriors are read off all depths: for large models, and for small ones
_LOGITS = 2**33  # so many in all, or the lower of the two limits
_LAW_POSITIONS = 512  # at most, at which LED's law is computed
_RESAMPLES = 2000
_PUZZLES = 40

Progress = Callable[[str, int, int], None]  # what is being done, how much of it is, and of how much (0: not known)
_Place = tuple[int, int]  # which of a problem's branches, and which of its tokens
_Item = TypeVar("_Item")


# --- the whole -----------------------------------------------------------------------------------------------------


def diagnose(
    model: str | None,
    problems: Sequence[Asked] | None = None,
    *,
    samples: int = 4,
    max_tokens: int = 128,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    slots: int = 16,
    progress: Progress | None = None,
) -> Diagnosis:
    """Measure a model's posteriors by depth, and what they suggest for LED.

    Args:
        model: Embedded name, local path, hub id or alias; None is "countdown".
        problems: What to let it generate on, at least two; None is ``default_problems``. One that the model can't be
            asked is passed over and noted.
        samples: Branches a problem and temperature.
        max_tokens: New tokens a branch, at most.
        progress: Told what is being done and how far it is.

    Raises:
        UsageError: an option is out of its limits, or fewer than two problems can be asked.
        ModelError: the model is missing, not supported, or its logits aren't finite.
    """
    settings = _Settings(samples, max_tokens, seed)
    if slots < 1:
        raise UsageError(f"slots is {slots}; it must be at least 1")
    asked = default_problems(model) if problems is None else [as_problem(problem) for problem in problems]
    _refuse_unfit(model, asked)
    tell = progress or (lambda _doing, _done, _of: None)
    tell("loading the model", 0, 0)
    decoder = LocalDecoder.load(model, device=device, dtype=dtype, slots=slots)
    decoder.close()  # its thread: the engine is stepped from this one; prompts are still rendered as a search would
    session = _Session.over(decoder, asked, settings, tell)
    with decoder.engine.settled():
        hot = session.grow(range(len(session.problems)), _READ_AT)
        looked = session.look(hot)
        accuracy = session.accuracy(hot)
    return _diagnosis(model or default_model(), session, looked, accuracy, hot)


def _refuse_unfit(model: str | None, asked: Sequence[Problem]) -> None:
    """What can be said before anything is loaded."""
    refusals = [embedded_refusal(problem.text) for problem in asked] if is_embedded(model) else []
    if refusals and all(refusals):
        raise UsageError(f"none of the {len(refusals)} problems can be asked; of the first: {refusals[0]}")
    _refuse_few(len(asked), "")


def _refuse_few(problems: int, why: str) -> None:
    if problems < 2:
        raise UsageError(
            f"found {problems} usable problem(s); at least 2 are needed, since intervals are over problems{why}"
        )


def _diagnosis(
    model: str, session: _Session, looked: _Looked, accuracy: Accuracy | None, hot: dict[int, list[Branch]]
) -> Diagnosis:
    depths, rates = _depths(looked), _by_temperature(TEMPERATURES, looked.doubt)
    parts = session.decoder.engine.parts
    branches = [branch for of_problem in hot.values() for branch in of_problem]
    settings = session.settings
    return Diagnosis(
        model=model,
        blocks=parts.n_blocks,
        problems=len(looked.doubt),
        samples=settings.samples,
        max_tokens=settings.max_tokens,
        seed=settings.seed,
        span=looked.span,
        generated=looked.generated,
        positions=looked.positions,
        law_positions=looked.law_positions,
        cut=sum(branch.finish == "length" for branch in branches) / len(branches),
        depths=depths,
        rates=rates,
        movements=_movements(looked),
        accuracy=accuracy,
        recommendation=recommend(
            depths,
            rates,
            accuracy.slope if accuracy is not None else None,
            problems=len(looked.doubt),
            vocab=parts.vocab,
            everywhere=bool(parts.thinking) and looked.span == "all",
        ),
        notes=tuple(session.notes),
    )


# --- measuring -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Settings:
    samples: int
    max_tokens: int
    seed: int

    def __post_init__(self) -> None:
        for name, value in (("samples", self.samples), ("max_tokens", self.max_tokens)):
            if value < 1:
                raise UsageError(f"{name} is {value}; it must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed is {self.seed}; allowed are 0 to 2**63 - 1")


@dataclass(frozen=True)
class _Looked:
    """What was read: one row a problem, each the mean over its positions.

    Attributes:
        entropy, agrees: float64 [problems, 2, n], with the norm and without.
        doubt: float64 [problems, temperatures].
        moved: float64 [problems, 2, temperatures, depths].
        law_depths: The last axis of ``moved``; none where the model has a single block.
        span, generated, positions, law_positions: As in ``Diagnosis``.
    """

    entropy: Values
    agrees: Values
    doubt: Values
    moved: Values
    law_depths: tuple[int, ...]
    span: Literal["think", "all"]
    generated: int
    positions: int
    law_positions: int


@dataclass
class _Session:
    """A loaded model, the problems that it can be asked, and their token ids."""

    decoder: LocalDecoder
    settings: _Settings
    tell: Progress
    problems: list[Problem] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def over(cls, decoder: LocalDecoder, asked: Sequence[Problem], settings: _Settings, tell: Progress) -> _Session:
        """Raises: UsageError where fewer than two of the problems can be asked."""
        from led_agent.engine import EngineRequest

        session = cls(decoder, settings, tell)
        refused: list[str] = []
        for problem in asked:
            try:
                ids = decoder.render(problem.prompt)
                decoder.engine.check(EngineRequest(problem.key, ids, Decoding.plain()))
            except UsageError as error:
                refused.append(f"{problem.key}: {error}")
                continue
            session.problems.append(problem)
            session.prompts.append(ids)
        told = f"{len(refused)} of {len(asked)} problems passed over; the first, {refused[0]}" if refused else ""
        session.notes += [told] if told else []
        _refuse_few(len(session.problems), f"; {told}" if told else "")
        return session

    def grow(self, which: Sequence[int], temperature: float) -> dict[int, list[Branch]]:
        """Plainly sampled branches of these problems, by the problems' numbers."""
        from led_agent.engine import EngineRequest

        settings, label = self.settings, f"{temperature:g}"
        requests = [
            EngineRequest(
                id=str(at),
                prompt_ids=self.prompts[at],
                decoding=Decoding.plain(temperature),
                seed=derive_seed(settings.seed, self.problems[at], f"diagnose {label}"),
                max_tokens=settings.max_tokens,
                n=settings.samples,
            )
            for at in which
        ]
        grown: dict[str, Branch] = {}
        self.tell(f"sampling at T={label}", 0, len(requests) * settings.samples)
        for event in self.decoder.engine.generate(requests):
            if event.branch is not None:
                grown[event.id] = event.branch
                self.tell(f"sampling at T={label}", len(grown), len(requests) * settings.samples)
        found: dict[int, list[Branch]] = {at: [] for at in which}
        for name in sorted(grown):
            found[int(name.partition("/")[0])].append(grown[name])
        return found

    def look(self, grown: dict[int, list[Branch]]) -> _Looked:
        """Read the posteriors along the branches, at positions spread evenly over those of each problem."""
        import numpy as np

        parts = self.decoder.engine.parts
        span, places = self._places(grown)
        kept = {at: found for at, found in places.items() if found}
        if not kept:
            broken = next((b.error for branches in grown.values() for b in branches if b.error), None)
            raise ModelError(f"the model generated no token to look at{f': {broken}' if broken else ''}")
        if len(kept) < len(places):
            self.notes.append(f"{len(places) - len(kept)} problems have no position in the span and are left out")
        _refuse_few(len(kept), "; the others gave no position to look at")
        law_depths = tuple(d for d in LAW_DEPTHS if d <= parts.n_blocks)
        low, high = _POSITIONS
        most = max(1, min(max(low, _LOGITS // (2 * parts.n_blocks * parts.vocab)), high) // len(kept))
        most_laws = max(1, _LAW_POSITIONS // len(kept)) if law_depths else 0
        rows: list[tuple[Values, ...]] = []
        for at, found in kept.items():
            self.tell("reading every depth", len(rows), len(kept))
            looked_at = spread(found, most)
            laws_at = spread(looked_at, most_laws)
            rows.append(self._look_at(at, grown[at], looked_at, frozenset(laws_at), law_depths, held=span == "think"))
        self.tell("reading every depth", len(rows), len(kept))
        entropy, agrees, doubt, moved = (np.stack(column) for column in zip(*rows, strict=True))
        counts = [len(found) for found in kept.values()]
        return _Looked(
            entropy, agrees, doubt, moved, law_depths, span,
            generated=sum(counts),
            positions=sum(min(count, most) for count in counts),
            law_positions=sum(min(count, most, most_laws) for count in counts),
        )  # fmt: skip

    def _places(self, grown: dict[int, list[Branch]]) -> tuple[Literal["think", "all"], dict[int, list[_Place]]]:
        """Where to look in each problem's branches: inside the thinking where there is any, else everywhere."""
        from led_agent.engine.depths import inside_thinking

        parts = self.decoder.engine.parts
        every: dict[int, list[_Place]] = {}
        inside: dict[int, list[_Place]] = {}
        for at, branches in grown.items():
            flags = [inside_thinking(parts, self.prompts[at], branch.token_ids) for branch in branches]
            every[at] = [(b, i) for b, row in enumerate(flags) for i in range(len(row))]
            inside[at] = [(b, i) for b, i in every[at] if flags[b][i]]
        if any(inside.values()):
            return "think", inside
        if parts.thinking:
            self.notes.append(
                "the model has thinking tags and opened none: all its tokens are measured, and LED would need span=all"
            )
        return "all", every

    def _look_at(
        self,
        at: int,
        branches: Sequence[Branch],
        places: Sequence[_Place],
        laws_at: frozenset[_Place],
        law_depths: Sequence[int],
        *,
        held: bool,
    ) -> tuple[Values, ...]:
        """One problem's means over its places: entropy and agreement [2, n], doubt [temperatures], movement
        [2, temperatures, depths]; ``held``: with the closing tag's next token left alone, as LED does in thinking."""
        import numpy as np

        from led_agent.engine.depths import DepthReader, closing_tokens

        parts = self.decoder.engine.parts
        reader = DepthReader(parts, self.prompts[at])
        readings, moved = [], []
        for b, branch in enumerate(branches):
            chosen = [i for which, i in places if which == b]
            if not chosen:
                continue
            states = reader.states(branch.token_ids, chosen)
            readings.append(reader.read(states, TEMPERATURES))
            rows = [row for row, i in enumerate(chosen) if (b, i) in laws_at]
            if rows:
                closing = closing_tokens(parts.thinking.close, branch.token_ids) if held else ()
                left_alone = [closing[chosen[row]] for row in rows] if held else None
                moved.append(
                    reader.moved(
                        states[:, rows], law_depths, LAW_TEMPERATURES, top_k=min(TOP_K, parts.vocab), held=left_alone
                    )
                )
        return (
            np.concatenate([reading.entropy for reading in readings], -1).mean(-1),
            np.concatenate([reading.agrees for reading in readings], -1).mean(-1),
            np.concatenate([reading.doubt for reading in readings], -1).mean(-1),
            np.concatenate(moved, -1).mean(-1) if moved else np.zeros((2, len(LAW_TEMPERATURES), 0)),
        )

    def accuracy(self, hot: dict[int, list[Branch]]) -> Accuracy | None:
        """How many branches the default verifiers accept at each temperature; ``hot`` are those at temperature 1."""
        import numpy as np

        choose = DefaultVerifiers()
        which = [at for at, problem in enumerate(self.problems) if choose(problem)]
        if len(which) < 2:
            self.notes.append(f"accuracy isn't measured: {len(which)} problems have an answer, and 2 are needed")
            return None
        grown = {t: hot if t == _READ_AT else self.grow(which, t) for t in TEMPERATURES}
        try:
            rows, failed = self._judge(which, grown, choose)
        finally:
            for verifier in choose.all:
                getattr(verifier, "close", lambda: None)()
        if failed:
            self.notes.append(f"the verifier failed on {failed} branches, which are left out of the accuracy")
        if len(rows) < 2:
            return None
        values = np.array(rows)
        slope = estimates(slopes(values)[:, None])[0]
        return Accuracy(problems=len(rows), at=_by_temperature(TEMPERATURES, values), slope=slope)

    def _judge(
        self, which: Sequence[int], grown: dict[float, dict[int, list[Branch]]], choose: DefaultVerifiers
    ) -> tuple[list[list[float]], int]:
        """The share accepted, [problems][temperatures], and how many branches a verifier failed on. A problem that has
        none left at some temperature is left out."""
        rows: list[list[float]] = []
        failed = 0
        for done, at in enumerate(which):
            self.tell("judging", done, len(which))
            problem, row = self.problems[at], []
            for by_problem in grown.values():
                verdicts = [summary_verdict(judge(choose(problem), problem, b)) for b in by_problem[at]]
                sound = [v.status == "accepted" for v in verdicts if v is not None and v.status != "error"]
                failed += len(verdicts) - len(sound)
                if sound:
                    row.append(sum(sound) / len(sound))
            if len(row) == len(grown):
                rows.append(row)
        self.tell("judging", len(which), len(which))
        return rows, failed


def spread(items: Sequence[_Item], most: int) -> list[_Item]:
    """At most so many of them, evenly spread."""
    if len(items) <= most:
        return list(items)
    return [items[i * len(items) // most] for i in range(most)]


# --- statistics ----------------------------------------------------------------------------------------------------


def estimates(values: Values) -> list[Estimate]:
    """Means over problems, with intervals, of float64 [problems, figures]. The resamples are the same each time."""
    import numpy as np

    count = len(values)
    picks = np.random.default_rng(0).integers(0, count, (_RESAMPLES, count))
    times = np.stack([np.bincount(pick, minlength=count) for pick in picks])  # [resamples, problems]
    low, high = np.percentile(times @ values / count, [2.5, 97.5], axis=0)
    columns = zip(values.mean(0).tolist(), low.tolist(), high.tolist(), strict=True)
    return [Estimate(mean=m, low=lo, high=hi) for m, lo, hi in columns]


def slopes(accuracy: Values) -> Values:
    """Least-squares slope over ``TEMPERATURES`` of each problem's accuracies [problems, temperatures]."""
    import numpy as np

    off = np.array(TEMPERATURES) - np.mean(TEMPERATURES)
    found: Values = accuracy @ off / (off @ off)
    return found


def _by_temperature(temperatures: Sequence[float], shares: Values) -> tuple[AtTemperature, ...]:
    pairs = zip(temperatures, estimates(shares), strict=True)
    return tuple(AtTemperature(temperature=t, share=share) for t, share in pairs)


def _depths(looked: _Looked) -> tuple[Depth, ...]:
    final = looked.entropy[:, 0, -1:]  # [problems, 1]
    by_norm = []
    for norm in range(2):
        entropy, agrees = looked.entropy[:, norm], looked.agrees[:, norm]  # [problems, n]
        columns = zip(estimates(entropy), estimates(agrees), estimates(entropy - final), strict=True)
        by_norm.append([Reading(entropy=e, agreement=a, rise=r) for e, a, r in columns])
    return tuple(Depth(depth=i, normed=n, raw=r) for i, (n, r) in enumerate(zip(*by_norm, strict=True), 1))


def _movements(looked: _Looked) -> tuple[Movement, ...]:
    found = []
    norms: tuple[Norm, ...] = ("final", "none")
    for i, norm in enumerate(norms):
        for j, temperature in enumerate(LAW_TEMPERATURES):
            for d, distance in zip(looked.law_depths, estimates(looked.moved[:, i, j]), strict=True):
                found.append(Movement(depths=d, norm=norm, temperature=temperature, distance=distance))
    return tuple(found)


# --- problems to measure on ----------------------------------------------------------------------------------------

_QUESTIONS = (
    ("A baker fills 7 trays with 12 rolls each and sells 59 rolls. How many rolls are left?", "25"),
    ("Mia is 4 years older than Tom. Together they are 30 years old. How old is Mia?", "17"),
    ("A train covers 180 km in 2.5 hours. What is its average speed in km per hour?", "72"),
    ("A coat costs 80 euros and is reduced by 15 %. What does it cost now, in euros?", "68"),
    ("Three children share 84 marbles; each gets twice as many as the one before. How many gets the first?", "12"),
    ("What is the sum of the whole numbers from 1 to 20?", "210"),
    ("A rectangle is 9 cm long and has a perimeter of 28 cm. What is its area in square centimetres?", "45"),
    ("A tank holds 240 litres. A pump empties 16 litres a minute. After how many minutes is a quarter left?", "11.25"),
    ("Anna reads 18 pages a day for 5 days and 24 pages on each of the next 2 days. How many pages is that?", "138"),
    ("Two dozen eggs cost 6 dollars. What do 40 eggs cost, in dollars?", "10"),
    ("A number is doubled, then 7 is added, and the result is 41. What is the number?", "17"),
    ("On a farm there are hens and cows, 20 heads and 56 legs in all. How many cows are there?", "8"),
)  # fmt: skip


def default_problems(model: str | None) -> list[Problem]:
    """For the embedded reasoner puzzles that it was not trained on, for other models short word problems; always the
    same."""
    if is_embedded(model):
        return [Problem(prompt=str(puzzle), id=f"puzzle-{i}") for i, puzzle in enumerate(_puzzles(), 1)]
    return [Problem(prompt=text, answer=answer, id=f"question-{i}") for i, (text, answer) in enumerate(_QUESTIONS, 1)]


def _puzzles() -> list[Puzzle]:
    """Solvable ones, each found by working out an expression; none whose target is one of its numbers."""
    rng = random.Random(0)
    found: list[Puzzle] = []
    while len(found) < _PUZZLES:
        numbers = tuple(rng.randint(1, LARGEST_GIVEN) for _ in range(3))
        target = _step(_step(numbers[0], numbers[1], rng.choice("+-*/")), numbers[2], rng.choice("+-*/"))
        puzzle = Puzzle(tuple(rng.sample(numbers, 3)), target or 0)
        if target is not None and target not in numbers and _held_out(puzzle) and puzzle not in found:
            found.append(puzzle)
    return found


def _step(a: int | None, b: int, sign: str) -> int | None:
    """Larger number first; None where that isn't a whole number from 1 to the largest target."""
    if a is None:
        return None
    large, small = max(a, b), min(a, b)
    value = {"+": large + small, "-": large - small, "*": large * small, "/": large // small}[sign]
    exact = sign != "/" or large % small == 0
    return value if exact and 1 <= value <= LARGEST_TARGET else None


def _held_out(puzzle: Puzzle) -> bool:
    """Whether the training of the embedded model left it out: ``split_of`` in ``training/countdown/problems.py``."""
    key = f"{','.join(map(str, sorted(puzzle.numbers)))}={puzzle.target}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100 < 10
