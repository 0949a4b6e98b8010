"""What `led-agent study cost` does, apart from its options: these are known without all that it imports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from led_agent.cli.base import print_json, print_text, stderr, stdout, stopping
from led_agent.cli.studying import kept_in
from led_agent.diagnosis_view import stages
from led_agent.errors import MachineError
from led_agent.local import LocalDecoder
from led_agent.study.cost import CostPlan, CostStudy
from led_agent.study.cost_figures import Costs, Spent
from led_agent.study.cost_view import markdown, render
from led_agent.study.rows import RowFile

__all__ = ["study_cost"]


def study_cost(given: Mapping[str, Any], out: Path | None, *, quiet: bool, as_json: bool, as_markdown: bool) -> bool:
    """Measure, write and print what options ask for; those that are None are left to the plan's defaults. Whether it
    was interrupted."""
    plan = CostPlan(**{name: value for name, value in given.items() if value is not None})
    plan.asked()  # what is wrong with the problems is said before anything is loaded
    with kept_in(out) as folder:
        found = _measured(plan, folder, quiet)
        if out is not None:
            _write(found, out)
    if as_json:
        print_json(found.model_dump(mode="json"))
    elif as_markdown:
        print_text(markdown(found), end="")
    else:
        stdout.print(render(found) if found.ways else "nothing was measured in all ways")
    return found.interrupted


def _measured(plan: CostPlan, folder: Path, quiet: bool) -> Costs:
    with ExitStack() as stack:
        file = stack.enter_context(closing(RowFile(folder, plan.record(), Spent)))
        tell = stack.enter_context(stages(stderr, quiet=quiet))
        tell("loading the model", 0, 0)
        decoder = stack.enter_context(
            closing(LocalDecoder.load(plan.model, device=plan.device, dtype=plan.dtype, slots=plan.grown))
        )
        study = CostStudy(plan, file, decoder, tell)
        with stopping(study.stop):
            found = study.run()
        if not found.interrupted:
            file.pack()
    return found


def _write(found: Costs, folder: Path) -> None:
    try:
        (folder / "report.md").write_text(markdown(found))
        (folder / "report.json").write_text(json.dumps(found.model_dump(mode="json"), indent=1) + "\n")
    except OSError as error:
        raise MachineError(f"can't write the report into {folder}: {error.strerror}") from error
