"""Help: 80 columns, whole words, every option told, and examples that work."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from led_agent.cli.commands import LISTED, Commands
from led_agent.cli.manual import PAGES

Tool = Any
COMMANDS = list(LISTED)
EXAMPLES = [(name, line) for name, page in PAGES.items() for line, _ in page.examples]
# What takes a network, a cluster, another package, a model or a run that is not there; the others are run.
NEEDS_MORE = (
    "smollm2",
    "Qwen/",
    "./my-model",
    "led-agent top",
    "led-agent view",
    "led-agent serve",
    "--cluster",
    "led-agent doctor",
    "--install",
)


def helped(tool: Tool, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = tool(*arguments)
    assert (code, err) == (0, "")
    return str(out)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_into_80_columns_and_breaks_no_word(tool: Tool, monkeypatch: pytest.MonkeyPatch, command: str):
    out = helped(tool, monkeypatch, *([command] if command else []), "--help")
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out
    words = set(out.split())
    if command:
        made = Commands()[command]
        told = [p.help or "" for p in made.params] + [str(made.help)]
    else:
        told = [listed.summary for listed in LISTED.values()]
    for text in told:
        assert set(text.split()) <= words | {w.strip("[];") for w in words}, text
    for heading in ("Examples:", "Exit codes:"):
        assert f"\n{heading}\n" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_told_of_in_full(command: str):
    made = Commands()[command]
    summary, *more = str(made.help).split("\n\n")
    assert made.short_help == LISTED[command].summary
    assert summary.endswith(".")
    assert len(" ".join(more).split()) >= 8, "a few sentences, please"
    assert len(PAGES[command].examples) >= 2
    for parameter in made.params:
        assert parameter.help, parameter.name
        if parameter.param_type_name == "option":
            assert parameter.rich_help_panel, f"--{parameter.name} is under no heading"


def test_every_page_is_of_a_command():
    assert set(PAGES) == {"", *LISTED}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_command_says_what_its_help_says(tool: Tool, monkeypatch: pytest.MonkeyPatch, command: str):
    assert helped(tool, monkeypatch, "help", command) == helped(tool, monkeypatch, command, "--help")


def test_help_of_what_is_no_command(tool: Tool):
    code, _, err = tool("help", "slove")
    assert (code, "no command is called 'slove'; did you mean solve" in err) == (2, True)


def test_the_list_of_commands(tool: Tool, monkeypatch: pytest.MonkeyPatch):
    out = helped(tool, monkeypatch, "--help")
    assert out == helped(tool, monkeypatch, "help")
    assert "led-agent COMMAND --help tells more" in out
    listed = re.findall(r"^  ([a-z][a-z-]*) {3,}\S", out.partition("Examples:")[0], re.MULTILINE)
    assert listed == COMMANDS


@pytest.mark.parametrize(("command", "line"), EXAMPLES, ids=[line[:60] for _, line in EXAMPLES])
def test_an_example_is_valid(monkeypatch: pytest.MonkeyPatch, command: str, line: str):
    words = shlex.split(line)
    assert words[0] == "led-agent"
    name = words[1]
    if command:
        assert name == command
    made = Commands()[name]
    ctx = made.make_context(name, words[2:])  # the parser's own: raises for what is no option or no value
    assert ctx.params


@pytest.mark.parametrize("line", [line for _, line in EXAMPLES if not any(part in line for part in NEEDS_MORE)])
def test_an_example_works(tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str):
    monkeypatch.chdir(tmp_path)
    rows = [
        {"id": "a", "prompt": "Use 3, 20 and 5 to make 35.", "metadata": {"numbers": [3, 20, 5], "target": 35}},
        {"id": "b", "prompt": "Use 4, 7 and 12 to make 40.", "metadata": {"numbers": [4, 7, 12], "target": 40}},
    ]
    Path("problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("answers.jsonl").write_text('{"id": "a", "text": "20 + ( 5 * 3 )"}\n')
    if "show" in line:
        tool("solve", "Use 3, 20 and 5 to make 35.", "--n", 1, "--save", "puzzle.jsonl", "--json")
    code, out, err = tool(*shlex.split(line)[1:])
    assert code in (0, 1), err
    assert out.strip() or "--html" in line
