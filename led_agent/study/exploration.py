"""The study of exploration: depths, then settings chosen on the development split, then every arm on the test split.

This file knows the order of things. It does not know how a branch is drawn, nor how a figure is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from led_agent.diagnose import diagnose
from led_agent.diagnosis import Diagnosis
from led_agent.errors import UsageError
from led_agent.evaluation.at_k import powers_of_two
from led_agent.models import default_model
from led_agent.search import default_depths
from led_agent.study.arms import (
    Arm,
    Candidates,
    law_arms,
    new_arms,
    plain_arms,
    search_arms,
    sibling_arms,
    step_arms,
)
from led_agent.study.drawing import Stopped
from led_agent.study.figures import Comparison, Figure, columns, compare, corrected, match, measure
from led_agent.study.plan import Plan
from led_agent.study.report import Choice, Findings
from led_agent.study.rows import Row, RowFile
from led_agent.study.workers import Crew, Order
from led_agent.types import Problem

__all__ = ["Exploration", "depths_of"]

Tell = Callable[[str, int, int], None]
_GROUPS = (4, 16, 64)
_TUNED_GROUP = 16
_AT_LENGTH = (0.6, 1.0, 1.4)  # temperatures of plain sampling that is as long as a search's branches
_PASSED = ("pass@1", "pass@4", "pass@16")


class Exploration:
    """One study.

    Args:
        plan: What it is of.
        file: Where its rows are, and go.
        crew: Who draws.
        blocks: The model's.
        tell: Told what is being done, how much of it is, and of how much.

    Attributes:
        seconds, drawn: What this run has drawn, by arm: the time that it took, and the rows.
    """

    def __init__(self, plan: Plan, file: RowFile[Row], crew: Crew, blocks: int, tell: Tell) -> None:
        self._plan, self._file, self._crew, self._blocks, self._tell = plan, file, crew, blocks, tell
        self._dev, self._test = plan.split()
        self.seconds: dict[str, float] = {}
        self.drawn: dict[str, list[Row]] = {}
        self._stopped = False

    def stop(self) -> None:
        """End soon, from any thread or signal handler; what is drawn is kept, and reported."""
        self._stopped = True
        self._crew.stop()

    def run(self, depths: Sequence[Diagnosis] = ()) -> Findings:
        """Draw what is missing, and say what came of it; after a stop, of what there is.

        Args:
            depths: Of the model before and after, as ``depths_of`` measures them.
        """
        chosen = _Chosen()
        try:
            self._laws(chosen)
            self._searches(chosen)
            self._draw(chosen.arms, "test", self._test)
        except Stopped:
            self._stopped = True
        return self._findings(chosen, depths)

    def _laws(self, chosen: _Chosen) -> None:
        """Branches of a law of the next token, and such that are drawn in view of each other; by pass@k."""
        plan, blocks = self._plan, self._blocks
        chosen.arms += chosen.plain
        chosen.base = self._choose(Candidates(kind="temperature", arms=chosen.plain), chosen, otherwise=chosen.plain[1])
        warm = chosen.base.law.temperature
        for one in law_arms(blocks, warm, lens=plan.lens, quick=plan.quick):
            chosen.arms.append(one if isinstance(one, Arm) else self._choose(one, chosen))
        group = min(_TUNED_GROUP, plan.samples, plan.dev_samples)
        siblings = self._choose(sibling_arms(blocks, warm, group), chosen)
        sizes = [group] if plan.quick else [size for size in _GROUPS if size <= plan.samples]
        chosen.arms += [siblings.model_copy(update={"group": size}) for size in sizes]
        chosen.arms += [self._choose(one, chosen) for one in new_arms(blocks, warm, min(16, plan.samples))]

    def _searches(self, chosen: _Chosen) -> None:
        """Searches with a verifier, by the tokens that they need; against plain sampling, which gets its best."""
        plan = self._plan
        longer = plan.whole_tokens if plan.whole_tokens != plan.new_tokens else None
        arms: list[Arm] = list(plain_arms(_AT_LENGTH, longer)) if longer else []
        chosen.yardsticks = (*chosen.plain, *arms)
        kind = Candidates(kind="temperature and length at equal tokens", arms=chosen.yardsticks, goal="tokens")
        chosen.search_base = self._choose(kind, chosen, otherwise=(arms or chosen.plain)[1])
        default = f"led.paper:depths={default_depths(self._blocks)},gate_first=true"
        found: list[Arm | Candidates] = list(search_arms(default, min(16, plan.samples), longer))
        found = found[:2] if plan.quick else found
        if plan.step is not None:
            found += step_arms(default, *plan.step, longer)[: 1 if plan.quick else None]
        arms += [one if isinstance(one, Arm) else self._choose(one, chosen) for one in found]
        chosen.searches = tuple(arm for arm in arms if arm.draw == "search")
        chosen.arms += arms

    def _choose(self, candidates: Candidates, chosen: _Chosen, *, otherwise: Arm | None = None) -> Arm:
        """The candidate that is best on the development split; of equals the first. It bears the name of its kind, but
        plain sampling, which is named by its temperature."""
        best, goal = otherwise or candidates.arms[0], _goal(self._plan, candidates)
        if self._dev:
            self._draw(candidates.arms, "dev", self._dev)
            figures = [self._figure([arm], "dev", self._plan.dev_samples) for arm in candidates.arms]
            values = [tuple(float(figure.by_metric[name].mean()) for name in goal) for figure in figures]
            best = candidates.arms[max(range(len(values)), key=lambda at: values[at])]
            chosen.choices.append(
                Choice(
                    kind=candidates.kind,
                    metrics=goal,
                    chosen=best.name,
                    arm=best.name if otherwise is not None else candidates.kind,
                    candidates=tuple(measure(figure) for figure in figures),
                )
            )
        return best if otherwise is not None else best.model_copy(update={"name": candidates.kind})

    # --- drawing -----------------------------------------------------------------------------------------------

    def _draw(self, arms: Sequence[Arm], split: str, problems: Sequence[Problem]) -> None:
        orders, have = [], 0
        for arm in arms:
            missing = tuple(p for p in problems if not self._has(arm, split, p))
            have += len(problems) - len(missing)
            if missing:
                orders.append(Order(arm, split, missing))
        doing = "tuning" if split == "dev" else "drawing"
        whole = len(arms) * len(problems)
        self._tell(doing, have, whole)
        for order, rows, seconds in self._crew.draw(orders):
            for row in rows:
                self._file.add(row)
            self.drawn.setdefault(order.arm.name, []).extend(rows)
            have += sum(row.repeat == 0 for row in rows)
            self.seconds[order.arm.name] = self.seconds.get(order.arm.name, 0.0) + seconds
            self._tell(doing, have, whole)

    def _has(self, arm: Arm, split: str, problem: Problem) -> bool:
        """Whether a problem is done: searches that lack one are drawn again, all of them, to the same rows."""
        repeats = 1 if arm.draw != "search" else self._plan.dev_searches if split == "dev" else self._plan.searches
        return all((arm.name, arm.group, at, split, problem.key) in self._file.rows for at in range(repeats))

    def _figure(self, arms: Sequence[Arm], split: str, samples: int) -> Figure:
        rows = [row for row in self._file.rows.values() if row.split == split]
        return columns(arms, rows, samples, self._plan.budgets)

    # --- figures -----------------------------------------------------------------------------------------------

    def _findings(self, chosen: _Chosen, depths: Sequence[Diagnosis]) -> Findings:
        plan = self._plan
        named: dict[str, list[Arm]] = {}
        for arm in chosen.arms:
            named.setdefault(arm.name, []).append(arm)
        drawn = {name: self._figure(some, "test", plan.samples) for name, some in named.items()}
        figures = {name: figure for name, figure in drawn.items() if figure.problems}
        rival, racing = figures.get(chosen.search_base.name), _of(figures, chosen.searches)
        return Findings(
            settings=plan.record(),
            model=plan.model or default_model(),
            interrupted=self._stopped,
            depths=tuple(depths),
            choices=tuple(chosen.choices),
            base=chosen.base.name,
            search_base=chosen.search_base.name,
            arms=tuple(measure(figure) for figure in figures.values()),
            primary=corrected(_primary(plan, chosen, figures)),
            comparisons=corrected(_compared(plan, chosen, figures)),
            matched=match(rival, racing, plan.matched_at) if rival else (),
        )


def _primary(plan: Plan, chosen: _Chosen, figures: Mapping[str, Figure]) -> list[Comparison]:
    """What the development split found best, against plain sampling: of laws and of searches by branches, of searches
    also at equal tokens, about as many as 16 and as one of plain sampling's branches have, and against that plain
    sampling which does best at equal tokens."""
    base, rival = figures.get(chosen.base.name), figures.get(chosen.search_base.name)
    found: list[Comparison] = []
    for name, goal in ((_best(chosen.choices, "pass@"), "pass@"), (_best(chosen.choices, "within "), "within ")):
        if name not in figures or base is None or rival is None:
            continue
        best = [figures[name]]
        found += compare(base, best, ("pass@16", "pass@1"))
        if goal == "within ":
            found += compare(base, best, [_of_branches(plan, base, 16), _of_branches(plan, base, 1)])
            found += compare(rival, best, _within(plan, plan.TUNED_AT, plan.MATCHED_AT))
    return found


def _compared(plan: Plan, chosen: _Chosen, figures: Mapping[str, Figure]) -> list[Comparison]:
    """All laws against plain sampling, all searches against plain sampling at equal tokens, and against the search
    that is the default."""
    apart = {*chosen.searches, *chosen.yardsticks} - {*chosen.plain}
    laws = [figure for figure in _of(figures, chosen.arms) if figure.arm not in apart]
    racing = _of(figures, chosen.searches)
    bases = [(chosen.base, laws, _PASSED), (chosen.search_base, racing, _within(plan, 0, 2, 3, 5, 7))]
    bases += [(arm, racing, _within(plan, 3, 5)) for arm in chosen.searches[:1]]
    return [
        one
        for base, others, metrics in bases
        if base.name in figures
        for one in compare(figures[base.name], [f for f in others if f.arm.name != base.name], metrics)
    ]


def _of(figures: Mapping[str, Figure], arms: Iterable[Arm]) -> list[Figure]:
    """Those of these arms, in their order, once each."""
    return [figures[name] for name in dict.fromkeys(arm.name for arm in arms) if name in figures]


class _Chosen:
    """What is to be drawn of the test split, as far as it is known."""

    def __init__(self) -> None:
        self.plain = plain_arms()
        self.base = self.search_base = self.plain[1]
        self.yardsticks = self.plain
        self.searches: tuple[Arm, ...] = ()
        self.arms: list[Arm] = []
        self.choices: list[Choice] = []


def _best(choices: Sequence[Choice], metric: str) -> str:
    """The arm that did best on the development split of all that were chosen there, plain sampling left out; "" where
    there is none."""
    found = [choice for choice in choices if choice.metric.startswith(metric) and choice.arm != choice.chosen]
    return max(found, key=lambda one: [one.best.metric(name).value for name in one.metrics]).arm if found else ""


def _within(plan: Plan, *places: int) -> tuple[str, ...]:
    """Metrics of some of the plan's budgets; a study of very short branches has fewer."""
    return tuple(f"within {plan.budgets[at]}" for at in places if at < len(plan.budgets))


def _of_branches(plan: Plan, figure: Figure, k: int) -> str:
    """The metric of the least budget that holds so many of an arm's branches."""
    tokens = k * float(figure.by_metric["tokens"].mean())
    return f"within {next((budget for budget in plan.budgets if budget >= tokens), plan.budgets[-1])}"


def _goal(plan: Plan, candidates: Candidates) -> tuple[str, ...]:
    """The metrics that candidates are ranked by, in turn."""
    if candidates.goal == "tokens":
        return _within(plan, plan.TUNED_AT, plan.MATCHED_AT)
    group = candidates.arms[0].group
    most = group if group > 1 else powers_of_two(min(16, plan.dev_samples, plan.samples))[-1]
    return f"pass@{most}", "pass@1"


def depths_of(plan: Plan, folder: Path, tell: Tell) -> list[Diagnosis]:
    """The entropy by depth, before reinforcement learning where there is such a model, and after; what was measured in
    this folder already is not measured again."""
    found: list[Diagnosis] = []
    for model in [*([plan.before] if plan.before is not None else []), plan.model or default_model()]:
        kept = folder / f"depths-{len(found)}.json"
        if kept.exists():
            found.append(_read(kept))
            continue
        one = diagnose(
            model, plan.split()[0 if plan.dev else 1][:40], samples=4, max_tokens=plan.new_tokens, seed=plan.seed,
            device=plan.device, dtype=plan.dtype, slots=plan.slots, progress=tell,
        )  # fmt: skip
        kept.write_text(one.model_dump_json(indent=1) + "\n")
        found.append(one)
    return found


def _read(path: Path) -> Diagnosis:
    try:
        return Diagnosis.model_validate_json(path.read_text())
    except ValueError as error:
        raise UsageError(f"{path} is not a diagnosis ({error}); remove it, or choose another --out") from error
