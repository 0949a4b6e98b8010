"""Completion in real shells: what the Tab key offers, that it is quick, and how it is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from led_agent.cli import completing
from led_agent.cli.completion import VARIABLE
from led_agent.models import ALIASES
from led_agent.settings import Decoding
from led_agent.strategies.named import parse_strategy
from led_agent.verifiers.named import VERIFIER_NAMES

Tool = Any
ROOT = Path(__file__).parents[2]


@pytest.fixture
def shell(tmp_path: Path) -> Any:
    """Run a script in a shell that has led-agent in its path: what it prints."""
    program = tmp_path / "bin" / "led-agent"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m led_agent "$@"\n')
    program.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    variables = {
        **os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
    }  # fmt: skip
    del variables["LED_AGENT_CONFIG"]  # tests/conftest.py's

    def call(name: str, script: str, *options: str) -> str:
        if shutil.which(name) is None:
            pytest.skip(f"the shell {name} is not installed here")
        done = subprocess.run(
            [name, *options, "-c", script], capture_output=True, text=True, env=variables, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    return call


def bash(*words: str) -> str:
    """A script that completes the last word and prints what is offered, a line each."""
    listed = " ".join(f"'{word}'" for word in words)
    return (
        'eval "$(led-agent completion bash)"\n'
        f"COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}\n"
        "_led_agent_completion led-agent\nprintf '%s\\n' \"${COMPREPLY[@]}\"\ncomplete -p led-agent\n"
    )


OFFERED = [
    (("led-agent", "so"), {"solve"}),
    (("led-agent", "co"), {"config", "completion"}),
    (("led-agent", "solve", "--max"), {"--max-tokens"}),
    (("led-agent", "solve", "--model", "count"), {"countdown", "countdown-sft"}),
    (("led-agent", "solve", "-S", "be"), {"beam", "best-of-n"}),
    (("led-agent", "eval", "--strategy", "rep"), {"repair"}),
    (("led-agent", "solve", "--n", "3", "--decoding", "led"), {"led.paper", "led.official"}),
    (("led-agent", "run", "p.jsonl", "-v", "math"), {"math_answer"}),
    (("led-agent", "eval", "human"), {"humaneval"}),
    (("led-agent", "diagnose", "smol"), {"smollm2"}),
    (("led-agent", "completion", "z"), {"zsh"}),
    (("led-agent", "help", "ru"), {"run"}),
    (("led-agent", "show", "--format", "node"), {"node-link"}),
    (("led-agent", "run", "prob"), {""}),  # nothing of its own: the shell's default is files
    (("led-agent", "solve", "x", "--save", "f"), {""}),
]


@pytest.mark.parametrize(("words", "expected"), OFFERED, ids=[" ".join(words) for words, _ in OFFERED])
def test_bash_completes(shell: Any, words: tuple[str, ...], expected: set[str]):
    *offered, registered = shell("bash", bash(*words), "--norc").splitlines()
    assert set(offered) == expected
    assert "-o default" in registered, "without an offer, files are completed"


def test_zsh_completes_with_hints(shell: Any):
    script = (
        "autoload -Uz compinit && compinit -D -u\nsource <(led-agent completion zsh)\n"
        '_arguments() { print -r -- "$@" }\n_files() { print files }\n'
        "words=(led-agent solve --strategy be); CURRENT=4; _led_agent_completion\n"
        "words=(led-agent run prob); CURRENT=3; _led_agent_completion\n"
    )
    out = shell("zsh", script, "-f")
    assert '"best-of-n":"n, stop_at_first"' in out
    assert out.strip().endswith("files")


def test_fish_completes_with_hints(shell: Any):
    out = shell(
        "fish", "led-agent completion fish | source; complete -C 'led-agent solve --strategy be'", "--no-config"
    )
    assert "best-of-n\tn, stop_at_first" in out.splitlines()


def test_powershell_has_a_script(tool: Tool):
    code, out, _ = tool("completion", "powershell")
    assert (code, "Register-ArgumentCompleter" in out) == (0, True)


def test_installing_says_where_and_works_in_a_new_shell(shell: Any, tmp_path: Path):
    out = shell("bash", "led-agent completion bash --install", "--norc")
    assert "installed for bash in " in out
    assert str(tmp_path / "home") in out
    script = bash("led-agent", "so").replace('eval "$(led-agent completion bash)"', "source ~/.bashrc")
    assert shell("bash", script, "--norc").splitlines()[0] == "solve"


def test_installing_works_for_zsh_and_fish(shell: Any, tmp_path: Path):
    for name, option, asked in (
        ("zsh", "-f", "source ~/.zshrc; print -r -- $_comps[led-agent]"),
        ("fish", "--private", "complete -C 'led-agent sol'"),
    ):
        out = shell(name, f"led-agent completion {name} --install", option)
        assert f"installed for {name} in {tmp_path / 'home'}" in out
        assert shell(name, asked, option).split()[0] in ("_led-agent", "solve")


def test_the_shell_is_detected(shell: Any):
    assert "complete -o default" in shell("bash", "led-agent completion; true", "--norc")


def test_a_shell_that_is_not_known(tool: Tool):
    code, _, err = tool("completion", "tcsh")
    assert (code, "no completion for the shell 'tcsh'" in err, "name one of bash, zsh, fish" in err) == (2, True, True)


@pytest.mark.parametrize(
    "words",
    ["led-agent s", "led-agent solve --strategy b", "led-agent eval --m", "led-agent verify --", "led-agent show --f"],
)
def test_nothing_heavy_is_imported_between_two_key_strokes(words: str):
    """What keeps it below 0.3 s; the time itself is not asserted."""
    code = (
        "import atexit, json, sys\n"
        "atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))\n"
        "from led_agent.cli import main\nmain([])\n"
    )
    variables = {VARIABLE: "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env={**os.environ, **variables, "PYTHONPATH": str(ROOT)}, cwd="/",
    )  # fmt: skip
    assert done.stdout.strip(), done.stderr
    loaded = set(json.loads(done.stderr))
    assert not loaded & {
        "torch", "ray", "transformers", "networkx", "pydantic", "numpy", "led_agent.search", "led_agent.types"
    }  # fmt: skip


def test_a_broken_settings_file_does_not_disturb(shell: Any, tmp_path: Path):
    (tmp_path / "led-agent.toml").write_text("nonsense")
    assert shell("bash", bash("led-agent", "solve", "--tr"), "--norc").splitlines()[0] == "--tries"


def test_names_are_those_that_the_library_takes():
    from led_agent.evaluation.tasks import NAMES
    from led_agent.strategies import named

    assert set(completing.MODELS) == set(ALIASES)
    assert set(completing.VERIFIERS) == set(VERIFIER_NAMES)
    assert {name.removesuffix("NAME") for name in NAMES} == set(completing.TASKS)
    assert set(completing.STRATEGIES) == set(named.strategy_names())
    for name, hint in completing.STRATEGIES.items():
        fields = {
            field
            for cls in named._known().values()
            if named._spelled(cls) == name
            for field in cls.__dataclass_fields__
        }
        assert set(hint.rpartition("; ")[2].split(", ")) <= fields, name
        if "brackets" not in hint:
            parse_strategy(name)
    for name in completing.DECODINGS:
        Decoding.parse(name)
    with pytest.raises(ValueError, match=", ".join(completing.DECODINGS).split(", ")[0]) as refused:
        Decoding.parse("nonsense")
    assert set(str(refused.value).partition("there are ")[2].split(", ")) == set(completing.DECODINGS)
