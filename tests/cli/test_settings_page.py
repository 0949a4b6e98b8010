"""docs/settings.md: its file is valid and means what it says, its variables and commands exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from led_agent.cli.commands import Commands
from led_agent.cli.settings import OTHER_VARIABLES, PREFIX, options_of

PAGE = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
FILE = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0]


def test_the_file_is_valid_and_holds(tool: Any, project: Path):
    (project / "led-agent.toml").write_text(FILE)
    code, out, err = tool("config", "--json")
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    found = {(row["command"], row["option"]): row["value"] for row in rows if row["from"] != "built in"}
    assert found["solve", "n"] == 12
    assert found["solve", "all"] is True
    assert found["solve", "stop"] == ["\n\n", "END"]
    assert found["eval", "strategy"] == ["best-of-n", "fallback"]
    assert {command for command, option in found if option == "seed"} >= {"solve", "run", "eval", "diagnose"}
    assert ("run", "decoding") not in found
    code, _, err = tool("solve", "Use 3, 20 and 5 to make 35.", "--json")
    assert code in (0, 1)
    assert "settings: --model from led-agent.toml line 2" in err


def test_every_variable_is_there_and_none_else():
    listed = set(re.findall(r"^\| `(LED_AGENT_\w+)`", PAGE, re.MULTILINE))
    assert listed == set(OTHER_VARIABLES)
    commands = Commands()
    of_options = {
        PREFIX + key.replace("-", "_").upper()
        for command in commands
        for option in options_of(commands[command]).values()
        for key in (option.key, f"{command}-{option.key}")
    }
    told = set(re.findall(r"LED_AGENT_\w+", PAGE)) - {"LED_AGENT_", "LED_AGENT_COMMAND_OPTION", "LED_AGENT_OPTION"}
    assert told <= of_options | set(OTHER_VARIABLES)


@pytest.mark.parametrize("line", sorted(set(re.findall(r"led-agent (?:config|completion)[^`)\n]*", PAGE))))
def test_a_command_of_the_page_is_valid(line: str):
    _, name, *rest = shlex.split(line.rstrip("`,"))
    assert Commands()[name].make_context(name, rest)
