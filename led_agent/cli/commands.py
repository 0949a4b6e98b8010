"""The commands by name. Each is imported when it is asked for, so that a light one starts quickly, and a shell can
complete names without importing any."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import typer

from led_agent.cli.command import Command

__all__ = ["LISTED", "Commands", "Listed"]

SOLVING, MEASURING, LOOKING, SETTING_UP = "Solve", "Measure and judge", "Look", "Set up"


@dataclass(frozen=True)
class Listed:
    """A command: where its function is, under which heading it is listed, and what it does in a line."""

    function: str
    panel: str
    summary: str


LISTED = {
    "solve": Listed("led_agent.cli.solve:solve", SOLVING, "Solve one problem and show how."),
    "run": Listed("led_agent.cli.solve:run", SOLVING, "Solve the problems of a file, resumably."),
    "serve": Listed("led_agent.cli.serve:serve", SOLVING, "Serve searches over HTTP."),
    "eval": Listed("led_agent.cli.evaluate:evaluate", MEASURING, "Compare strategies and decodings."),
    "verify": Listed("led_agent.cli.verify:verify", MEASURING, "Judge answers that exist already."),
    "diagnose": Listed("led_agent.cli.measure:diagnose", MEASURING, "Measure a model's entropy by depth."),
    "tune-lens": Listed("led_agent.cli.lens:tune_lens", MEASURING, "Make a model's tuned lens for LED."),
    "bench": Listed("led_agent.cli.measure:bench", MEASURING, "Time a model against other engines."),
    "study": Listed("led_agent.cli.study:study", MEASURING, "Study what exploring is worth, and answers cost."),
    "show": Listed("led_agent.cli.show:show", LOOKING, "Show the trees of a saved run."),
    "view": Listed("led_agent.cli.view:view", LOOKING, "Watch a run in the browser."),
    "top": Listed("led_agent.cli.top:top", LOOKING, "Watch the decoders of a cluster."),
    "models": Listed("led_agent.cli.models:models", SETTING_UP, "List the models that have a name."),
    "doctor": Listed("led_agent.cli.doctor:doctor", SETTING_UP, "Report what there is on this machine."),
    "config": Listed("led_agent.cli.config:config", SETTING_UP, "Show settings and where they come from."),
    "completion": Listed("led_agent.cli.completion:completion", SETTING_UP, "Complete commands in your shell."),
    "help": Listed("led_agent.cli.completion:show_help", SETTING_UP, "Show the help of a command."),
}


class Commands(Mapping[str, Command]):
    """All commands, each made at its first use."""

    def __init__(self) -> None:
        self._made: dict[str, Command] = {}

    def __getitem__(self, name: str) -> Command:
        if name not in self._made:
            listed = LISTED[name]
            module, _, attribute = listed.function.partition(":")
            function: Any = getattr(importlib.import_module(module), attribute)
            alone = typer.Typer(add_completion=False, rich_markup_mode=None)
            alone.command(name, cls=Command, short_help=listed.summary, rich_help_panel=listed.panel)(function)
            made = typer.main.get_command(alone)
            assert isinstance(made, Command)
            self._made[name] = made
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in LISTED  # by default the item would be made

    def __iter__(self) -> Iterator[str]:
        return iter(LISTED)

    def __len__(self) -> int:
        return len(LISTED)

    def outline(self, name: str) -> Command:
        """A command's name and summary alone, for lists; nothing is imported."""
        listed = LISTED[name]
        return Command(name, short_help=listed.summary, help=listed.summary, rich_help_panel=listed.panel)
