"""The rules of the house: who may import what, and what an import costs."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"led_agent": "led_agent", "strategies": "led_agent.strategies", "verifiers": "led_agent.verifiers"}


def modules() -> dict[str, Path]:
    """Dotted name to file, each file once, by the name it is installed under."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            inside = path.relative_to(ROOT / folder)
            if folder == "led_agent" and inside.parts[0] in ("strategies", "verifiers"):
                continue  # the symlinks
            parts = [package, *inside.with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache  # each of the files is asked about by many tests
def imports(path: Path, *, top_level: bool = False) -> set[str]:
    """Modules that a file imports, those under TYPE_CHECKING left out; with ``top_level`` only at import time."""
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        inner = top_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if typing_only or inner:
            skipped.update(ast.walk(node))
    names: set[str] = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("ray", ("led_agent.cluster",)),
        ("networkx", ("led_agent.tree",)),
        ("torch", ("led_agent.decoding", "led_agent.engine", "led_agent.bench.peers", "led_agent.bench.best_of")),
        (
            "transformers",
            ("led_agent.decoding.processors", "led_agent.engine", "led_agent.bench.peers", "led_agent.bench.best_of"),
        ),
        ("llama_cpp", ("led_agent.bench.llama",)),
        ("gguf", ("led_agent.bench.gguf_file",)),
        ("fastapi", ("led_agent.serving", "led_agent.pages.live", "led_agent.cli.serve", "led_agent.cli.view")),
        ("uvicorn", ("led_agent.serving", "led_agent.pages.watching", "led_agent.cli.serve", "led_agent.cli.view")),
        ("prometheus_client", ("led_agent.serving.metrics", "led_agent.cli.serve")),
    ],
)
def test_a_library_stays_in_its_room(library: str, allowed: tuple[str, ...]):
    users = [n for n, p in modules().items() if any(i.split(".")[0] == library for i in imports(p))]
    assert not [n for n in users if not n.startswith(allowed)]


def test_the_engine_knows_no_tree_no_verifier_and_no_search():
    forbidden = ("tree", "search", "journal", "events", "strategies", "verifiers", "protocols", "solution", "judging")
    for name, path in modules().items():
        if name.startswith(("led_agent.engine", "led_agent.decoding")):
            taken = {i.split(".")[1] for i in imports(path) if i.startswith("led_agent.")}
            assert not taken & set(forbidden), name


def test_what_runs_inside_the_sandbox_needs_the_standard_library_only():
    inside = "led_agent.verifiers.sandbox.inside"
    for name, path in modules().items():
        if name.startswith(inside):
            tree = ast.parse(path.read_text())
            relative = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level}
            taken = {i.split(".")[0] for i in imports(path)} - set(sys.stdlib_module_names)
            siblings = {sibling.removeprefix(f"{inside}.") for sibling in modules() if sibling.startswith(inside)}
            assert taken <= siblings, name
            assert relative <= siblings | {None}, name


def test_there_are_no_import_cycles():
    files = modules()
    graph = {name: {i for i in imports(p, top_level=True) if i in files and i != name} for name, p in files.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name not in done:
            for other in graph[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def fresh(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd="/", env={**os.environ, **environment}
    )


def test_import_led_agent_is_light():
    """The issue's 0.3 s is measured in benchmarks; what keeps it is that none of these is imported."""
    code = "import led_agent, sys, json; print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(fresh(code).stdout))
    assert not loaded & {"torch", "ray", "transformers", "networkx", "pydantic", "math_verify", "rich", "numpy"}


def test_the_command_line_starts_without_torch():
    loaded = set(json.loads(fresh("import led_agent.cli, sys, json; print(json.dumps(sorted(sys.modules)))").stdout))
    assert not loaded & {"torch", "ray", "transformers", "sympy"}


def test_every_public_name_is_there_and_nothing_else_is_promised():
    import led_agent

    for name in led_agent.__all__:
        assert getattr(led_agent, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        led_agent.nonsense  # noqa: B018
    assert set(led_agent.__all__) <= set(dir(led_agent))


@pytest.mark.parametrize("folder", ["strategies", "verifiers"])
def test_the_two_top_folders_refuse_their_bare_names(folder: str):
    done = fresh(f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {folder}")
    assert done.returncode != 0
    assert f"this folder is led_agent.{folder}" in done.stderr


def test_python_m_led_agent_works_uninstalled():
    # -S leaves site-packages' editable install out of the way; the libraries come by path.
    libraries = next(p for p in sys.path if p.endswith("site-packages"))
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {libraries!r}]; import led_agent.strategies, led_agent.verifiers; "
        "print(led_agent.strategies.__file__)"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd="/")
    assert done.stdout.strip() == str(ROOT / "led_agent" / "strategies" / "__init__.py"), done.stderr


def test_pyproject_lists_every_package():
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    packages = {name for name, path in modules().items() if path.name == "__init__.py"}
    assert packages == listed
