"""``tune-lens``: make a model's tuned lens of branches that the model samples itself, and measure it on other problems.

This file knows problems, where a lens is kept, and what is reported of it. Training and the lens itself are
``engine.tuning``'s and ``engine.lens``'s. It does not know torch; numpy is imported where it is needed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from led_agent.countdown_puzzles import sample_puzzles
from led_agent.diagnose import default_problems as word_problems
from led_agent.diagnose import spread
from led_agent.errors import UsageError
from led_agent.local import LocalDecoder
from led_agent.models import default_model, embedded_refusal, is_embedded, lens_place, locate
from led_agent.problems import Asked, as_problem
from led_agent.record import Record
from led_agent.tree import derive_seed
from led_agent.types import Decoding, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from led_agent.engine.lens import TunedLens
    from led_agent.evaluation.statistics import Estimate

__all__ = ["Interval", "LensReport", "Progress", "TunedDepth", "default_problems", "tune_lens"]

_PUZZLES = 300
_HELD_OUT = 4  # one problem of so many is measured by
_WATCHED = 8  # one of so many, and at least one, says when a depth's training has gone far enough
_FEWEST = 4  # problems: intervals are over those that are held out
_STATES = 2**29  # bytes of states to train on
_POSITIONS = 65_536  # of them, at most
_MEASURED, _WATCHED_AT = 2048, 512  # positions at which these problems are looked at, at most
_SEED = "tune-lens"

Progress = Callable[[str, int, int], None]  # what is being done, how much of it is, and of how much (0: not known)


class Interval(Record):
    """A mean over held-out problems and its 95 % bootstrap interval, nat."""

    mean: float
    low: float
    high: float


class TunedDepth(Record):
    """KL(final posterior ‖ posterior of this depth) on the held-out problems.

    Attributes:
        depth: After how many blocks.
        before: By the logit lens: final norm and head alone.
        after: By the tuned lens.
        lowered: The one less the other, paired by problem.
    """

    depth: int
    before: Interval
    after: Interval
    lowered: Interval


class LensReport(Record):
    """How a lens was made, where it lies, and what it is worth.

    Attributes:
        path: Its file.
        blocks: Of the model, n; the lens has depths 1 … n-1.
        positions: States that it was trained on.
        tokens: Generated in all, of the problems that were trained on.
        trained_on, watched, held_out: Problems: whose states were trained on, by which each depth's best map was
            chosen, and by which it was measured.
        measured: Positions of the latter that were looked at.
        notes: What else there is to know.
    """

    model: str
    path: str
    fingerprint: str
    blocks: int
    seed: int
    samples: int
    max_tokens: int
    steps: int
    trained_on: int
    watched: int
    held_out: int
    tokens: int
    positions: int
    measured: int
    depths: tuple[TunedDepth, ...]
    notes: tuple[str, ...] = ()


def default_problems(model: str | None, seed: int = 0) -> list[Problem]:
    """For the embedded reasoner puzzles of the split that it was trained on, so that those for evaluation stay unseen;
    for other models short word problems."""
    if is_embedded(model):
        puzzles = sample_puzzles("train", _PUZZLES, seed)
        return [Problem(prompt=str(puzzle), id=f"puzzle-{i}") for i, puzzle in enumerate(puzzles, 1)]
    return word_problems(model)


def tune_lens(
    model: str | None,
    problems: Sequence[Asked] | None = None,
    *,
    samples: int = 4,
    max_tokens: int = 128,
    steps: int = 500,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    slots: int = 16,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> LensReport:
    """Train a model's tuned lens, write it, and measure it.

    Args:
        model: Embedded name, local path, hub id or alias; None is "countdown".
        problems: What to let the model generate on, at least four; a quarter is held out to measure by, an eighth
            to end the training by; None is ``default_problems``. One that the model can't be asked is passed over and
            noted.
        samples: Branches a problem, plainly sampled at temperature 1.
        max_tokens: New tokens a branch, at most.
        steps: Of the optimiser.
        out: The file to write; None is where ``Decoding.led(norm="tuned")`` looks for it: beside a model in a folder of
            the user's own, else in the cache folder.
        progress: Told what is being done and how far it is.

    Raises:
        UsageError: an option is out of its limits, or too few problems can be asked.
        ModelError: the model is missing, not supported, or its posteriors aren't finite.
        MachineError: the lens can't be written.
    """
    settings = _Settings(samples, max_tokens, steps, seed)
    if slots < 1:
        raise UsageError(f"slots is {slots}; it must be at least 1")
    asked = default_problems(model, seed) if problems is None else [as_problem(problem) for problem in problems]
    _refuse_unfit(model, asked, out)
    tell = progress or (lambda _doing, _done, _of: None)
    tell("loading the model", 0, 0)
    decoder = LocalDecoder.load(model, device=device, dtype=dtype, slots=slots)
    decoder.close()  # its thread: the engine is stepped from this one; prompts are still rendered as a search would
    parts = decoder.engine.parts
    if parts.n_blocks < 2:
        raise UsageError("the model has a single block, and a tuned lens is of those before the last one")
    place = Path(out) if out is not None else lens_place(locate(model), parts.fingerprint())
    session = _Session.over(decoder, asked, settings, tell)
    with decoder.engine.settled():
        return session.tune(model or default_model(), place)


def _refuse_unfit(model: str | None, asked: Sequence[Problem], out: str | Path | None) -> None:
    """What can be said before anything is loaded."""
    refusals = [embedded_refusal(problem.text) for problem in asked] if is_embedded(model) else []
    if refusals and all(refusals):
        raise UsageError(f"none of the {len(refusals)} problems can be asked; of the first: {refusals[0]}")
    _refuse_few(len(asked), "")
    if out is not None and (Path(out).is_dir() or not Path(out).parent.is_dir()):
        raise UsageError(f"out is {str(out)!r}; it must be a file in a folder that is there")


def _refuse_few(problems: int, why: str) -> None:
    if problems < _FEWEST:
        raise UsageError(
            f"found {problems} usable problem(s); at least {_FEWEST} are needed, as one in {_HELD_OUT} is held out of "
            f"the training to measure by{why}"
        )


@dataclass(frozen=True)
class _Settings:
    samples: int
    max_tokens: int
    steps: int
    seed: int

    def __post_init__(self) -> None:
        for name, value in (("samples", self.samples), ("max_tokens", self.max_tokens), ("steps", self.steps)):
            if value < 1:
                raise UsageError(f"{name} is {value}; it must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed is {self.seed}; allowed are 0 to 2**63 - 1")


@dataclass
class _Session:
    """A loaded model, and the problems that it can be asked with their token ids."""

    decoder: LocalDecoder
    settings: _Settings
    tell: Progress
    problems: list[Problem]
    prompts: list[list[int]]
    notes: list[str]

    @classmethod
    def over(cls, decoder: LocalDecoder, asked: Sequence[Problem], settings: _Settings, tell: Progress) -> _Session:
        """Raises: UsageError where too few of the problems can be asked."""
        from led_agent.engine import EngineRequest

        session, refused = cls(decoder, settings, tell, [], [], []), list[str]()
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

    def tune(self, model: str, place: Path) -> LensReport:
        from led_agent.engine.tuning import train_lens

        settings, parts = self.settings, self.decoder.engine.parts
        grown = self._grow()
        held, watched, kept = self._divided([at for at, tokens in grown.items() if any(tokens)])
        tokens = sum(len(branch) for at in kept for branch in grown[at])
        bytes_each = parts.n_blocks * parts.width * parts.dtype.itemsize
        most = max(1, min(_POSITIONS, _STATES // bytes_each) // len(kept))
        states = self._read("reading states", grown, kept, most)
        lens = train_lens(
            parts, states, steps=settings.steps, seed=settings.seed,
            watched=self._read("reading others", grown, watched, max(1, _WATCHED_AT // len(watched))),
            told=lambda done: self.tell("training", done, settings.steps),
        )  # fmt: skip
        positions = sum(int(piece.shape[1]) for piece in states)
        del states
        depths, measured = self._measure(grown, held, lens)
        fingerprint = parts.fingerprint()
        made = {
            "fingerprint": fingerprint, "model": model, "seed": settings.seed, "samples": settings.samples,
            "max_tokens": settings.max_tokens, "steps": settings.steps, "problems": len(kept), "tokens": tokens,
            "positions": positions, "dtype": self.decoder.dtype, "temperature": 1.0,
        }  # fmt: skip
        lens.save(place, {name: str(value) for name, value in made.items()})
        return LensReport(
            model=model, path=str(place), fingerprint=fingerprint, blocks=parts.n_blocks, seed=settings.seed,
            samples=settings.samples, max_tokens=settings.max_tokens, steps=settings.steps, trained_on=len(kept),
            watched=len(watched), held_out=len(held), tokens=tokens, positions=positions, measured=measured,
            depths=depths, notes=tuple(self.notes),
        )  # fmt: skip

    def _grow(self) -> dict[int, list[tuple[int, ...]]]:
        """Plainly sampled branches' tokens, by the problems' numbers."""
        from led_agent.engine import EngineRequest

        settings, of = self.settings, len(self.problems) * self.settings.samples
        requests = [
            EngineRequest(
                id=str(at), prompt_ids=self.prompts[at], decoding=Decoding.plain(1.0),
                seed=derive_seed(settings.seed, problem, _SEED), max_tokens=settings.max_tokens, n=settings.samples,
            )
            for at, problem in enumerate(self.problems)
        ]  # fmt: skip
        grown: dict[str, tuple[int, ...]] = {}
        self.tell("sampling", 0, of)
        for event in self.decoder.engine.generate(requests):
            if event.branch is not None:
                grown[event.id] = event.branch.token_ids
                self.tell("sampling", len(grown), of)
        found: dict[int, list[tuple[int, ...]]] = {at: [] for at in range(len(self.problems))}
        for name in sorted(grown):
            found[int(name.partition("/")[0])].append(grown[name])
        return found

    def _divided(self, usable: list[int]) -> tuple[list[int], list[int], list[int]]:
        """The problems to measure by, those to watch the training by, and those to train on: the same for the same
        seed."""
        if len(usable) < len(self.problems):
            self.notes.append(f"{len(self.problems) - len(usable)} problems gave no token and are left out")
        _refuse_few(len(usable), "; the others gave no token")
        order = random.Random(self.settings.seed).sample(usable, len(usable))
        first, second = len(usable) // _HELD_OUT, max(1, len(usable) // _WATCHED)
        return sorted(order[:first]), sorted(order[first : first + second]), sorted(order[first + second :])

    def _read(self, doing: str, grown: dict[int, list[tuple[int, ...]]], which: list[int], most: int) -> list[Tensor]:
        """States [n, positions, hidden] of each of these problems, at most so many positions."""
        found = []
        for done, at in enumerate(which):
            self.tell(doing, done, len(which))
            found.append(self._states(at, grown[at], most))
        self.tell(doing, len(which), len(which))
        return found

    def _states(self, at: int, branches: list[tuple[int, ...]], most: int) -> Tensor:
        """States [n, positions, hidden] along a problem's branches, at most so many positions, evenly spread."""
        from led_agent.engine.depths import DepthReader

        return DepthReader(self.decoder.engine.parts, self.prompts[at]).along(
            branches, spread([(b, i) for b, tokens in enumerate(branches) for i in range(len(tokens))], most)
        )

    def _measure(
        self, grown: dict[int, list[tuple[int, ...]]], held: list[int], lens: TunedLens
    ) -> tuple[tuple[TunedDepth, ...], int]:
        """Each depth's divergence on the held-out problems, each problem's the mean over its positions; and at how many
        positions."""
        import numpy as np

        from led_agent.engine.tuning import divergences
        from led_agent.evaluation.statistics import Bootstrap

        parts, rows, measured = self.decoder.engine.parts, [], 0
        for done, at in enumerate(held):
            self.tell("measuring", done, len(held))
            states = self._states(at, grown[at], max(1, _MEASURED // len(held)))
            rows.append([divergences(parts, states, one).mean(-1).numpy() for one in (None, lens)])
            measured += int(states.shape[1])
        self.tell("measuring", len(held), len(held))
        before, after = np.array(rows).transpose(1, 2, 0)  # [n-1, problems] each
        bootstrap = Bootstrap.of(len(held))
        depths = (
            TunedDepth(
                depth=depth,
                before=_interval(bootstrap.mean(b)),
                after=_interval(bootstrap.mean(a)),
                lowered=_interval(bootstrap.difference(b, a)[0]),
            )
            for depth, (b, a) in enumerate(zip(before, after, strict=True), 1)
        )
        return tuple(depths), measured


def _interval(estimate: Estimate | None) -> Interval:
    assert estimate is not None  # every problem counts
    return Interval(mean=estimate.value, low=estimate.low, high=estimate.high)
