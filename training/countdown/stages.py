"""The stages of the recipe. Each leaves a folder, and one whose folder is complete is not done again."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from . import rl, sft
from .evaluate import Measuring, Report, evaluate
from .log import Log
from .model import load
from .parallel import Team, run
from .report import collapse_table, depth_table, gain_table, laws_table
from .rl import RlSettings
from .sft import SftSettings
from .tokenizer import new_tokenizer

MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class Plan:
    """Everything that decides the result."""

    out: Path
    processes: int = 2
    sft: SftSettings = field(default_factory=SftSettings)
    rl: RlSettings = field(default_factory=RlSettings)
    measuring: Measuring = field(default_factory=Measuring)


def build(plan: Plan) -> None:
    """Both checkpoints and their measurements: supervised, reinforced, evaluated."""
    supervised, reinforced = plan.out / "countdown-sft", plan.out / "countdown"
    _stage(supervised, plan.processes, _supervise, plan.sft)
    _stage(reinforced, plan.processes, _reinforce, plan.rl, supervised)
    measure(plan, [supervised, reinforced])


def compare(plan: Plan, blocks: Sequence[int], weights: Sequence[float]) -> None:
    """Supervised checkpoints of several depths, with and without the lens loss, measured alike."""
    folders = []
    for depth in blocks:
        for weight in weights:
            folders.append(plan.out / f"blocks-{depth}-lens-{weight:g}")
            settings = replace(plan.sft, blocks=depth, lens_weight=weight)
            _stage(folders[-1], plan.processes, _supervise, settings)
    measure(plan, folders)


def measure(plan: Plan, checkpoints: Sequence[Path]) -> None:
    """Evaluate checkpoints on the same problems; tables go to ``out/tables.md``."""
    for folder in checkpoints:
        if not (folder / plan.measuring.report).exists():
            _tell(f"evaluating {folder.name}")
            run(plan.processes, _measure, folder, plan.measuring)
    reports = [Report.read(folder / plan.measuring.report) for folder in checkpoints]
    parts = [f"## {report.name}\n\n{laws_table(report)}" for report in reports]
    if len(reports) == 2:
        changes = f"{gain_table(*reports)}\n{collapse_table(*reports)}"
        parts.append(f"## From {reports[0].name} to {reports[1].name}\n\n{changes}")
    parts += [f"## {report.name} by depth\n\n{depth_table(report)}" for report in reports]
    tables = plan.out / plan.measuring.report.replace("report", "tables").replace("json", "md")
    tables.write_text("\n".join(parts))
    _tell(f"tables are in {tables}")


def install(out: Path, models: Path) -> None:
    """Put finished checkpoints where the package has them: what a model needs, and no logs."""
    for name in ("countdown", "countdown-sft"):
        if not (out / name / "settings.json").exists():
            raise SystemExit(f"{out / name} holds no finished checkpoint; `build --out {out}` makes it")
        (models / name).mkdir(exist_ok=True)
        for file in MODEL_FILES:
            shutil.copy(out / name / file, models / name / file)


def _stage(folder: Path, processes: int, work: Callable[..., None], *arguments: object) -> None:
    """Make a checkpoint in ``folder`` unless it is there."""
    if (folder / "settings.json").exists():
        _tell(f"{folder} is there")
        return
    begun = time.perf_counter()
    run(processes, work, folder, *arguments)
    settings = asdict(arguments[0])  # type: ignore[call-overload]
    made = {"settings": settings, "processes": processes, "seconds": round(time.perf_counter() - begun)}
    (folder / "settings.json").write_text(json.dumps(made, indent=2) + "\n")  # last: it says that the rest is whole


def _supervise(team: Team, folder: Path, settings: SftSettings) -> None:
    model = sft.train(settings, Log(folder / "log.jsonl") if team.leads else None, team)
    if team.leads:
        save(model, folder)


def _reinforce(team: Team, folder: Path, settings: RlSettings, supervised: Path) -> None:
    model = load(supervised)
    rl.train(model, settings, Log(folder / "log.jsonl") if team.leads else None, team)
    if team.leads:
        save(model, folder)


def _measure(team: Team, folder: Path, settings: Measuring) -> None:
    report = evaluate(folder.name, load(folder), settings, team)
    if team.leads:
        report.write(folder / settings.report)


def save(model: LlamaForCausalLM, folder: Path) -> None:
    """A folder that ``AutoModelForCausalLM`` and ``AutoTokenizer`` load: weights in bfloat16, and the tokenizer."""
    model.to(torch.bfloat16).save_pretrained(folder)
    new_tokenizer().save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes for the owner alone, and a wheel keeps that


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
