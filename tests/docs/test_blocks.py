"""Every block of code in README.md and docs/ runs, or is parsed where a mark above it says why it can't be run.

- Python: the blocks of one page run in order, in one namespace, so that one may build on those before it.
- Shell: the ``led-agent`` commands run, in a folder with the files that pages speak of; of all others what can be
  checked is: scripts and modules are there, extras are known. Options are checked in sentences and tables, too.
- JSON, TOML and YAML parse.

Models from a hub are stood in for: in Python by a tiny random one, on the command line by the embedded one. Nothing is
skipped in silence: ``MARKS`` lists what a mark changes or leaves out.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml

from led_agent.cli import app, main
from led_agent.models import cache_folder
from led_agent.serving.plan import Plan
from tests.docs.pages import (
    NAMES,
    ROOT,
    Block,
    MarkError,
    all_blocks,
    blocks,
    commands,
    inline_commands,
    tool_arguments,
)
from tests.serving.servers import running

HUB_MODELS = ("Qwen/Qwen3-4B-Thinking-2507",)
# Pages whose blocks start a Ray of their own, which one process can't beside the Ray of other tests; and TRL, which
# warns of what it calls itself.
OWN_PROCESS = ("docs/cluster.md", "docs/cookbook/cluster.md", "docs/cookbook/trl.md")
CLIENTS = ("docs/server.md",)  # pages whose blocks ask a server
ADDRESS = "http://localhost:8000"  # where they look for it
NEEDS = {"docs/cookbook/trl.md": "trl"}  # what an extra brings
MARKS = {
    ("docs/cluster.md", "there is no cluster to join here; a private Ray carries the package as one does"),
    ("docs/cluster.md", "it begins and joins a cluster of several machines"),
    ("docs/evaluation.md", "50 puzzles in four settings take two minutes"),
    ("docs/study.md", "an hour and a half on two cores"),
    ("docs/study.md", "there is no such model"),
    ("docs/study.md", "two minutes on two cores"),
}
PYTHON = [page for page in NAMES if any(block.kind == "python" for block in blocks(page))]
SHELL = [page for page in NAMES if any(block.kind in ("bash", "console") for block in blocks(page))]
KINDS = {"python", "bash", "console", "json", "jsonl", "toml", "yaml", "text", ""}
PUZZLES = ("Use 3, 20 and 5 to make 35.", "Use 1, 7 and 8 to make 49.", "Use 4, 7 and 12 to make 40.")
ENDLESS = ("serve", "view", "top")  # commands that go on until they are stopped: their options are checked
# What stands for something of the reader's, or needs a hub; the puzzles are for the embedded model.
PLACES = {"MODEL": "countdown", **dict.fromkeys(HUB_MODELS, "countdown")}


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for where pages name one of a hub: random, of 8 blocks, with a short context, so that it ends soon."""
    from tests.tiny import tiny_model, tiny_tokenizer

    folder, tokenizer = tmp_path_factory.mktemp("models") / "stand-in", tiny_tokenizer()
    settings = {"vocab_size": len(tokenizer), "num_hidden_layers": 8, "eos_token_id": 2, "max_position_embeddings": 96}
    tiny_model("qwen3", **settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_exceptions_are_these():
    found = {(b.page, b.reason) for b in all_blocks() if b.reason}
    assert found == MARKS


def test_kinds_of_blocks_are_known():
    assert {block.kind for block in all_blocks()} <= KINDS


# --- Python --------------------------------------------------------------------------------------------------------


def python_blocks(page: str, model: Path) -> list[Block]:
    """Those that are run, models of a hub stood in for."""
    found = []
    for block in blocks(page):
        if block.kind == "python":
            named = tuple((name, str(model)) for name in HUB_MODELS if name in block.text)
            found.append(Block(block.page, block.line, block.kind, block.text, block.run, block.changes + named))
    return found


def padded(block: Block) -> str:
    """The code on the lines that it has on its page, so that an error names them."""
    return "\n" * (block.line - 1) + block.code


@pytest.mark.parametrize("page", [page for page in PYTHON if page not in (*OWN_PROCESS, *CLIENTS)])
def test_python_blocks_run(page: str, stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # where dataclasses look their module up
    for block in python_blocks(page, stand_in):
        code = compile(padded(block), str(ROOT / page), "exec", dont_inherit=True)
        if block.run:
            exec(code, module.__dict__)


@pytest.mark.parametrize("page", CLIENTS)
def test_blocks_of_clients_run_against_a_server(page: str, stand_in: Path):
    with running(Plan(slots=32).setup()) as server:
        names: dict[str, Any] = {}
        for block in python_blocks(page, stand_in):
            exec(compile(padded(block).replace(ADDRESS, server.url), str(ROOT / page), "exec"), names)
        names["client"].close()


@pytest.mark.parametrize("page", OWN_PROCESS)
def test_python_blocks_run_in_a_process_of_their_own(page: str, stand_in: Path, tmp_path: Path):
    if page in NEEDS and importlib.util.find_spec(NEEDS[page]) is None:
        pytest.skip(f"{NEEDS[page]} is not installed: pip install 'led-agent[{NEEDS[page]}]'")
    script = tmp_path / "page.py"
    found = python_blocks(page, stand_in)
    assert found
    for block in found:
        ast.parse(block.code)
    script.write_text("\n".join(block.code for block in found if block.run))
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


# --- the shell -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that pages speak of, and a home folder of its own, for what writes there."""
    problems = [{"id": f"p{i}", "prompt": prompt} for i, prompt in enumerate(PUZZLES)]
    answers = [{"id": "p0", "text": "20 + 5 * 3"}, {"id": "p1", "text": "(8 - 1) * 7"}, {"id": "p2", "text": "none"}]
    for name, rows in (("problems", problems), ("answers", answers)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("LED_AGENT_CACHE", str(cache_folder()))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", SHELL)
@pytest.mark.usefixtures("folder")
def test_shell_blocks_run(page: str, capsys: pytest.CaptureFixture[str]):
    for block in blocks(page):
        if block.kind not in ("bash", "console"):
            continue
        for words in commands(block.code if block.run else block.text):
            arguments = tool_arguments(words)
            if arguments is None:
                check_other(block, words)
                continue
            check_options(f"{block}", arguments)
            if block.run and arguments[:1] not in [[name] for name in ENDLESS]:
                run_tool(block, arguments, capsys)


def run_tool(block: Block, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    given = [PLACES.get(word, word) for word in arguments]
    with pytest.raises(SystemExit) as ended:
        main(given)
    out, err = capsys.readouterr()
    assert (ended.value.code or 0) in (0, 1), f"{block}: led-agent {' '.join(given)}\n{out}\n{err}"


def check_other(block: Block, words: list[str]) -> None:
    """What can be said of a command without running it."""
    program, rest = words[0], words[1:]
    if re.fullmatch(r"[A-Z_]+=\S*", program) or program in ("cd", "export", "cat", "ray", "source", "curl"):
        return
    if program.endswith("pip"):
        for extra in re.findall(r"(?:\.|led-agent)\[([\w,-]+)\]", " ".join(rest)):
            assert set(extra.split(",")) <= set(extras()), f"{block}: no extra is called {extra}"
    elif re.fullmatch(r"(.*/)?python3?", program) and rest[:1] == ["-m"]:
        assert importlib.util.find_spec(rest[1].split(".")[0]), f"{block}: there is no module {rest[1]}"
        if (ROOT / rest[1].split(".")[0]).is_dir():
            assert importlib.util.find_spec(rest[1]), f"{block}: there is no module {rest[1]}"
    else:
        file = rest[0] if re.fullmatch(r"(.*/)?python3?", program) else program
        assert (ROOT / file).is_file(), f"{block}: {file} is neither known to this test nor a file of the repository"


def extras() -> dict[str, list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return dict(project["optional-dependencies"])


def check_options(where: str, arguments: list[str]) -> None:
    """Refuse a command or an option that ``led-agent`` does not have. Capitals stand for a command of the reader's."""
    group: Any = typer.main.get_command(app)
    words = list(arguments)
    while words and words[0].startswith("-"):
        option = words.pop(0)
        found = next((p for p in group.params if option in p.opts), None)
        assert found or option == "--help", f"{where}: led-agent has no option {option}"
        if found and not found.is_flag:
            words = words[1:]
    if not words or words[0].isupper():
        return
    assert words[0] in group.commands, f"{where}: there is no command {words[0]!r}"
    known = {name for p in group.commands[words[0]].params for name in (*p.opts, *p.secondary_opts)} | {"--help"}
    unknown = [word for word in words[1:] if re.match(r"--?[a-zA-Z]", word) and word.split("=")[0] not in known]
    assert not unknown, f"{where}: led-agent {words[0]} has no option {unknown[0]}"


@pytest.mark.parametrize("page", NAMES)
def test_commands_in_sentences_exist(page: str):
    for line, arguments in inline_commands(page):
        check_options(f"{page}:{line}", [word for word in arguments if word != "…"])


# --- data ----------------------------------------------------------------------------------------------------------


def test_data_parses():
    read = {
        "json": json.loads,
        "jsonl": lambda text: [json.loads(line) for line in text.splitlines()],
        "toml": tomllib.loads,
        "yaml": yaml.safe_load,
    }
    for block in all_blocks(*read):
        try:
            read[block.kind](block.text)
        except ValueError as error:
            pytest.fail(f"{block}: {error}")


# --- the runner itself ---------------------------------------------------------------------------------------------


def test_a_mark_must_be_read_and_have_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def page(text: str) -> list[Block]:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.md"
        path.write_text(text)
        monkeypatch.setitem(NAMES, path.name, path)
        return blocks(path.name)

    fence = "```python\nx = 1\n```\n"
    (plain,) = page(fence)
    assert (plain.line, plain.code, plain.run) == (2, "x = 1\n", True)
    (changed,) = page(f"<!-- block: with `1` as `2`: because -->\n{fence}")
    assert (changed.code, changed.reason) == ("x = 2\n", "because")
    (parsed,) = page(f"<!-- block: parsed only: too long -->\n\n{fence}")
    assert not parsed.run
    with pytest.raises(MarkError, match="allowed are"):
        page(f"<!-- block: skip -->\n{fence}")
    with pytest.raises(MarkError, match="above no block"):
        page(f"<!-- block: parsed only: too long -->\nText.\n\n{fence}")
    (elsewhere,) = page(f"<!-- block: with `3` as `2`: because -->\n{fence}")
    with pytest.raises(MarkError, match="not in the block"):
        _ = elsewhere.code


def test_unknown_options_commands_and_extras_are_found():
    check_options("here", ["solve", "x", "--n", "3", "-q"])
    for arguments in (["solve", "x", "--branches", "3"], ["sovle"], ["--all"], ["--version", "sovle"]):
        with pytest.raises(AssertionError):
            check_options("here", arguments)
    block = Block("here", 1, "bash", "")
    for words in (["pip", "install", "led-agent[none]"], ["scripts/none"], ["python", "-m", "benchmarks.none"]):
        with pytest.raises(AssertionError):
            check_other(block, words)


def test_shell_lines_are_taken_apart():
    text = "$ A=1 led-agent solve 'x; y' \\\n  --n 2 && .venv/bin/led-agent models | head  # led-agent top\n"
    assert [tool_arguments(words) for words in commands(text)] == [["solve", "x; y", "--n", "2"], ["models"], None]
