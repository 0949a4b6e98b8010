"""What `led-agent study exploration` does, apart from its options: these are known without all that it imports."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from led_agent.cli.base import print_json, print_text, stderr, stdout, stopping
from led_agent.diagnosis_view import stages
from led_agent.errors import MachineError
from led_agent.evaluation.plots import can_plot
from led_agent.local import LocalDecoder
from led_agent.models import default_model, is_embedded
from led_agent.study.arms import Arm
from led_agent.study.exploration import Exploration, depths_of
from led_agent.study.plan import Plan
from led_agent.study.plots import draw
from led_agent.study.report import Findings
from led_agent.study.rows import Row, RowFile
from led_agent.study.view import markdown, render, timing
from led_agent.study.workers import Crew, Here, Processes, drawing_of

__all__ = ["kept_in", "planned", "run_study", "study_exploration"]

_QUICK = {"test": 48, "samples": 16, "searches": 2, "dev": 0}


@contextmanager
def kept_in(out: Path | None) -> Iterator[Path]:
    """The folder for a study's files; one for the time being where none is named."""
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def study_exploration(
    given: Mapping[str, Any],
    out: Path | None,
    processes: int | None,
    *,
    quiet: bool,
    as_json: bool,
    as_markdown: bool,
) -> bool:
    """Draw, write and print what options ask for. Whether it was interrupted."""
    plan = planned(**given)
    with kept_in(out) as folder:
        found = run_study(plan, folder, processes, quiet=quiet, keep=out is not None)
    _print(found, as_json=as_json, as_markdown=as_markdown)
    return found.interrupted


def planned(*, quick: bool, **given: Any) -> Plan:
    """The plan that options come to: what is None is left to the plan's defaults, or those of a quick study."""
    chosen = {name: value for name, value in given.items() if value is not None}
    if quick:
        chosen = {**_QUICK, **chosen}
    model = chosen.get("model") or default_model()
    if "before" not in chosen and model == "countdown":
        chosen["before"] = "countdown-sft"
    if "slots" not in chosen:
        chosen["slots"] = 256 if is_embedded(model) else 16
    return Plan(quick=quick, **chosen)


def run_study(plan: Plan, folder: Path, processes: int | None, *, quiet: bool, keep: bool) -> Findings:
    """Draw, measure, and where it is kept, write everything into the folder."""
    plan.split()  # what is wrong with the problems is said before anything is loaded
    with ExitStack() as stack:
        file = stack.enter_context(closing(RowFile(folder, plan.record(), Row)))
        tell = stack.enter_context(stages(stderr, quiet=quiet))
        depths = depths_of(plan, folder, tell)
        tell("loading the model", 0, 0)
        decoder = stack.enter_context(
            closing(LocalDecoder.load(plan.model, device=plan.device, dtype=plan.dtype, slots=plan.slots))
        )
        _check_arms(plan, decoder)
        crew = stack.enter_context(closing(_crew(plan, decoder, processes)))
        made = Exploration(plan, file, crew, decoder.n_blocks, tell)
        with stopping(made.stop):
            found = made.run(depths)
        if not found.interrupted:
            file.pack()
        if keep:
            _write(found, made, folder, quiet)
    return found


def _check_arms(plan: Plan, decoder: LocalDecoder) -> None:
    """Refuse now what the model can't do: of what a study draws, only a lens may be missing.

    Raises:
        UsageError: it has no tuned lens.
    """
    if plan.lens:
        arm = Arm(name="the lens", family="LED", decoding="led.paper:norm=tuned")
        drawing_of(plan, decoder, "test").check(arm, plan.split()[1][0])


def _crew(plan: Plan, decoder: LocalDecoder, processes: int | None) -> Crew:
    from led_agent.engine.cpu import granted_threads

    alone = not is_embedded(plan.model) or decoder.device != "cpu"
    count = processes if processes is not None else 1 if alone else granted_threads()
    return Here(plan, decoder) if count == 1 else Processes(plan, count)


def _write(found: Findings, made: Exploration, folder: Path, quiet: bool) -> None:
    try:
        (folder / "report.md").write_text(markdown(found))
        (folder / "report.json").write_text(json.dumps(found.model_dump(mode="json"), indent=1) + "\n")
        if made.drawn:  # else what is there is of the run that drew it
            (folder / "timing.md").write_text(_timing(made))
    except OSError as error:
        raise MachineError(f"can't write the report into {folder}: {error.strerror}") from error
    if can_plot():
        draw(found, folder)
    elif not quiet:
        stderr.print("no pictures: matplotlib isn't installed (pip install 'led-agent[plots]')")


def _timing(made: Exploration) -> str:
    branches = {arm: sum(len(row.right) for row in made.drawn.get(arm, ())) for arm in made.seconds}
    tokens = {arm: float(sum(sum(row.tokens) for row in made.drawn.get(arm, ()))) for arm in made.seconds}
    return timing(made.seconds, branches, tokens)


def _print(found: Findings, *, as_json: bool, as_markdown: bool) -> None:
    if as_json:
        print_json(found.model_dump(mode="json"))
    elif as_markdown:
        print_text(markdown(found), end="")
    else:
        stdout.print(render(found) if found.arms else "nothing was drawn")
