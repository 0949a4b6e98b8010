"""Where options come from: the command line, variables, files; what is refused, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import platformdirs
import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from led_agent.cli.commands import Commands
from led_agent.cli.entry import app
from led_agent.cli.options import OUTPUT, PROBLEM
from led_agent.cli.settings import OTHER_VARIABLES, Settings, options_of
from led_agent.errors import UsageError

Tool = Any
PUZZLE = "Use 3, 20 and 5 to make 35."


def holds(tool: Tool, command: str, *before: str) -> dict[str, tuple[Any, str]]:
    """What `led-agent config COMMAND --json` says: value and place by option."""
    code, out, err = tool(*before, "config", command, "--json")
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert {row["command"] for row in rows} == {command}
    return {row["option"]: (row["value"], row["from"]) for row in rows}


def user_file() -> Path:
    path = Path(platformdirs.user_config_path("led_agent")) / "led-agent.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_the_first_place_that_gives_an_option_counts(tool: Tool, project: Path, monkeypatch: pytest.MonkeyPatch):
    places = [
        lambda: user_file().write_text("seed = 1\n"),
        lambda: user_file().write_text("seed = 1\n[solve]\nseed = 2\n"),
        lambda: (project / "led-agent.toml").write_text("seed = 3\n"),
        lambda: (project / "led-agent.toml").write_text("seed = 3\n[solve]\nseed = 4\n"),
        lambda: monkeypatch.setenv("LED_AGENT_SEED", "5"),
        lambda: monkeypatch.setenv("LED_AGENT_SOLVE_SEED", "6"),
    ]
    assert holds(tool, "solve")["seed"] == (0, "built in")
    said = []
    for at, place in enumerate(places, 1):
        place()
        value, where = holds(tool, "solve")["seed"]
        assert int(value) == at
        said.append(where)
    assert said == [
        f"{user_file()} line 1", f"{user_file()} line 3", "led-agent.toml line 1", "led-agent.toml line 3",
        "LED_AGENT_SEED", "LED_AGENT_SOLVE_SEED",
    ]  # fmt: skip
    assert holds(tool, "run")["seed"] == ("5", "LED_AGENT_SEED")


def test_the_command_line_goes_before_all_and_a_search_goes_by_what_holds(
    tool: Tool, project: Path, saved_model: Path, monkeypatch: pytest.MonkeyPatch
):
    (project / "led-agent.toml").write_text(f'max-tokens = 6\nmodel = "{saved_model}"\n[solve]\nn = 2\ntries = 0\n')
    monkeypatch.setenv("LED_AGENT_SEED", "7")
    tool("solve", "w1", "--save", "a.jsonl", "--seed", 9, "--answer", "31337")
    code, out, _ = tool("show", "a.jsonl", "--json")
    tree = json.loads(out)
    requests = [node["request"] for node in tree["nodes"][1:]]
    assert code == 0
    assert len([r for r in requests if r["purpose"] == "explore"]) == 2
    assert {r["max_tokens"] for r in requests if r["purpose"] == "explore"} == {6}
    assert tree["started"]["seed"] == 9


def test_what_was_not_typed_is_told_on_standard_error(tool: Tool, project: Path, monkeypatch: pytest.MonkeyPatch):
    (project / "led-agent.toml").write_text("\n# a remark\nn = 2\n")
    monkeypatch.setenv("LED_AGENT_TRIES", "0")
    _, out, err = tool("solve", PUZZLE, "--json")
    assert "settings: --n from led-agent.toml line 3, --tries from LED_AGENT_TRIES" in err
    assert json.loads(out)["usage"]["branches"] <= 2
    assert "settings:" not in tool("solve", PUZZLE, "--json", "--quiet")[2]


def test_a_resumed_run_compares_what_holds(
    tool: Tool, project: Path, saved_model: Path, monkeypatch: pytest.MonkeyPatch
):
    (project / "p.jsonl").write_text('{"id": "a", "prompt": "w1", "answer": "1"}\n')
    options = ("-m", saved_model, "--n", 1, "--tries", 0, "--max-tokens", 3, "--out", "out")
    assert tool("run", "p.jsonl", *options)[0] in (0, 1)
    monkeypatch.setenv("LED_AGENT_SEED", "3")
    code, _, err = tool("run", "p.jsonl", *options)
    assert (code, "seed: 0 there, 3 now" in err) == (2, True)


def test_repeated_options_flags_and_numbers(tool: Tool, project: Path, monkeypatch: pytest.MonkeyPatch):
    (project / "led-agent.toml").write_text(
        'stop = [\n  "END",\n  "a b",\n]\nall = true\nbudget_seconds = 3\ncluster = 2\nstrategy = "beam"\n'
    )
    found = holds(tool, "solve")
    assert found["stop"] == (["END", "a b"], "led-agent.toml line 1")
    assert found["all"] == (True, "led-agent.toml line 5")
    assert (found["budget-seconds"][0], found["cluster"][0]) == (3, "2")
    assert holds(tool, "eval")["strategy"] == (["beam"], "led-agent.toml line 8")  # which takes several
    monkeypatch.setenv("LED_AGENT_STOP", '["x", "[y]"]')
    monkeypatch.setenv("LED_AGENT_ALL", "no")
    found = holds(tool, "solve")
    assert (found["stop"][0], found["all"][0]) == (["x", "[y]"], False)
    monkeypatch.setenv("LED_AGENT_STOP", "one thing")
    assert holds(tool, "solve")["stop"] == (["one thing"], "LED_AGENT_STOP")
    monkeypatch.setenv("LED_AGENT_STOP", "")
    assert holds(tool, "solve")["stop"][1] == "led-agent.toml line 1"


def test_an_option_that_was_typed_drops_those_of_files_that_it_stands_in_place_of(tool: Tool, project: Path):
    (project / "led-agent.toml").write_text("n = 5\ntries = 1\n")
    code, out, _ = tool("solve", PUZZLE, "--strategy", "best-of-n:n=2", "--json")
    assert json.loads(out)["usage"]["branches"] <= 2
    (project / "led-agent.toml").write_text('strategy = "best-of-n:n=2"\n')
    code, out, _ = tool("solve", PUZZLE, "--n", 3, "--all", "--json")
    assert json.loads(out)["usage"]["branches"] >= 3
    (project / "led-agent.toml").write_text('n = 5\ntries = 1\n[solve]\nstrategy = "best-of-n:n=2"\n')
    code, out, err = tool("solve", PUZZLE, "--json")
    assert json.loads(out)["usage"]["branches"] <= 2
    assert "settings: --strategy from led-agent.toml line 4\n" in err
    (project / "led-agent.toml").write_text('n = 5\nstrategy = "beam"\n')
    assert "not both" in tool("solve", PUZZLE)[2]
    code, _, err = tool("solve", PUZZLE, "--n", 3, "--strategy", "beam")
    assert (code, "not both" in err) == (2, True)


BAD = [
    ("sed = 1", "line 1: the top has no setting 'sed'; did you mean seed?; it has all,"),
    ("[sovle]\nn = 1", "line 1: no command is called 'sovle'; did you mean solve?"),
    ("[solve]\n\nsamples = 1", "line 3: [solve] has no setting 'samples'"),
    ('seed = "3"', 'line 1: seed is "3"; allowed is a whole number'),
    ("seed = 1.5", "line 1: seed is 1.5; allowed is a whole number"),
    ("seed = true", "line 1: seed is true; allowed is a whole number"),
    ("quiet = 1", "line 1: quiet is 1; allowed is true or false"),
    ("model = [1]", "line 1: model is a list, and not every command takes several"),
    ("stop = [true]", "line 1: stop is [true]; allowed is text, or a list of text"),
    ('strategy = ["a"]', "put the list into [eval]"),
    ('\nanswer = "4"', "line 2: answer belongs to one call; give --answer on the command line"),
    ("[solve]\njson = true", "line 2: json belongs to one call"),
    ("[solve]\nmax_tokens = 3\nmax-tokens = 4", "line 3: max-tokens is there twice"),
    ("n = 0", "line 1: --n is 0; "),
    ("n = ]", "is no valid TOML: Invalid value (at line 1, column 5)"),
    ("n = 1\nn = 2", "is no valid TOML: Cannot overwrite a value"),
]


@pytest.mark.parametrize(("text", "says"), BAD, ids=[text.replace("\n", " ") for text, _ in BAD])
def test_a_bad_file_is_refused_with_place_and_remedy(tool: Tool, project: Path, text: str, says: str):
    (project / "led-agent.toml").write_text(text)
    code, out, err = tool("solve", PUZZLE)
    assert code == 2
    assert says in err
    assert err.startswith("error: led-agent.toml")
    assert (out, len(err.strip().splitlines())) == ("", 1)
    assert tool("solve", "--help")[0] == tool("help", "solve")[0] == 0  # help is there all the same


def test_files_that_can_not_be_read(tool: Tool, project: Path):
    (project / "led-agent.toml").write_bytes(b"n = \xff")
    assert "is no text in UTF-8" in tool("models")[2]
    code, _, err = tool("--config", "absent.toml", "models")
    assert (code, "there is no settings file absent.toml" in err) == (2, True)
    assert tool("--config", "none", "models")[0] == 0


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("LED_AGENT_SEED", "abc", "LED_AGENT_SEED: --seed is 'abc'; "),
        ("LED_AGENT_SOLVE_N", "0", "LED_AGENT_SOLVE_N: --n is '0'; "),
        ("LED_AGENT_ALL", "maybe", "LED_AGENT_ALL is 'maybe'; allowed is 1, true, yes, on, 0, false, no, off"),
        ("LED_AGENT_STOP", "[END]", "LED_AGENT_STOP begins with a bracket, as a list in JSON does"),
        ("LED_AGENT_STOP", "[1]", "allowed is text, or a list of texts in JSON"),
    ],
)
def test_a_bad_variable_is_refused(
    tool: Tool, project: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
):
    monkeypatch.setenv(name, value)
    code, _, err = tool("solve", PUZZLE)
    assert (code, says in err) == (2, True)


def test_a_variable_that_sets_nothing_is_named(tool: Tool, project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LED_AGENT_MODLE", "x")
    monkeypatch.setenv("LED_AGENT_ANSWER", "x")
    for name in OTHER_VARIABLES:
        monkeypatch.setenv(name, "none")
    code, _, err = tool("models", "--json")
    assert code == 0
    assert "the variable LED_AGENT_MODLE sets nothing; did you mean LED_AGENT_MODEL?" in err
    assert "LED_AGENT_ANSWER is not read: --answer belongs to one call" in err
    assert len(err.strip().splitlines()) == 2


def test_which_files_are_looked_at(tool: Tool, project: Path, monkeypatch: pytest.MonkeyPatch):
    inner = project / "a" / "b"
    inner.mkdir(parents=True)
    (project.parent / "led-agent.toml").write_text("nonsense")  # beyond the repository's root
    (project / "led-agent.toml").write_text("n = 3\n")
    monkeypatch.chdir(inner)
    assert holds(tool, "solve")["n"] == (3, f"{project / 'led-agent.toml'} line 1")
    _, out, _ = tool("config", "--path", "--json")
    assert [(json.loads(line)["kind"], json.loads(line)["exists"]) for line in out.splitlines()] == [
        ("project", True), ("user", False),
    ]  # fmt: skip
    (project / "a" / "led-agent.toml").write_text("n = 4\n")
    assert holds(tool, "solve")["n"][0] == 4  # the nearest one alone
    (project / "other.toml").write_text("n = 5\n")
    monkeypatch.setenv("LED_AGENT_CONFIG", str(project / "other.toml"))
    assert holds(tool, "solve")["n"][0] == 5
    assert holds(tool, "solve", "--config", "none")["n"] == ("8", "built in")


def test_outside_of_repositories_and_home_only_the_working_folder_is_looked_at(
    tool: Tool, tmp_path: Path, project: Path
):
    (tmp_path / "led-agent.toml").write_text("nonsense")
    shared = tmp_path / "shared"
    shared.mkdir()
    import os

    os.chdir(shared)
    _, out, _ = tool("config", "--path", "--json")
    assert [Path(json.loads(line)["path"]).parent for line in out.splitlines() if "project" in line] == [shared]
    (shared / "led-agent.toml").write_text("n = 2\n")
    assert holds(tool, "solve")["n"][0] == 2


def test_folders_that_are_gone_or_closed_hold_no_settings(tool: Tool, project: Path, monkeypatch: pytest.MonkeyPatch):
    (project / "gone").mkdir()
    monkeypatch.chdir(project / "gone")
    (project / "gone").rmdir()
    assert tool("models", "--json")[0] == 0
    monkeypatch.chdir(project)
    (project / "led-agent.toml").mkdir()
    code, _, err = tool("models")
    assert (code, "can't read the settings in led-agent.toml: Is a directory" in err) == (3, True)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.text(max_size=20),
            st.tuples(
                st.sampled_from(["seed", "n", "stop", "all", "model", "budget_seconds", "[solve]", "[eval]", "nope"]),
                st.sampled_from(
                    ["", " = 1", " = -1.5", " = true", ' = "x"', ' = ["a", 1]', " = {a = 1}", " = 1979-05-27"]
                ),
            ).map("".join),
        ),
        max_size=6,
    )
)
def test_whatever_a_file_holds_it_is_read_or_refused(project: Path, lines: list[str]):
    path = project / "led-agent.toml"
    path.write_bytes("\n".join(lines).encode(errors="surrogatepass"))
    found = Settings(environment={})
    found.know(Commands())
    for command in ("solve", "eval"):
        refused, given = "", {}
        try:
            given = found.of(command)
        except UsageError as error:
            refused = str(error)
        assert refused.startswith("led-agent.toml ") or not refused
        for one in given.values():
            assert 1 <= int(one.where.removeprefix("led-agent.toml line ")) <= len(path.read_text().split("\n"))


def test_a_long_file_is_read_without_lines(tool: Tool, project: Path):
    (project / "led-agent.toml").write_text("# more\n" * 5000 + "seed = 4\n")
    assert holds(tool, "solve")["seed"] == (4, "led-agent.toml")
    (project / "led-agent.toml").write_text("x = " + "[" * 5000)
    assert "is no valid TOML" in tool("models")[2]


def test_debug_may_come_from_a_variable(project: Path, monkeypatch: pytest.MonkeyPatch):
    from led_agent.cli import main

    monkeypatch.setenv("LED_AGENT_DEBUG", "1")
    with pytest.raises(UsageError):
        main(["solve", ""])


def test_secrets_are_not_shown(tool: Tool, project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LED_AGENT_JUDGE_API_KEY", "SECRET")
    assert "SECRET" not in tool("config", "--json")[1]


def test_every_option_of_one_call_is_kept_out_and_no_two_variables_are_the_same():
    commands = Commands()
    names: dict[str, str] = {}
    for command in commands:
        for parameter in commands[command].params:
            if parameter.param_type_name == "option":
                found = {option.parameter: option for option in options_of(commands[command]).values()}
                panel = parameter.rich_help_panel
                assert found[parameter.name].settable == (panel not in (PROBLEM, OUTPUT)), (command, parameter.name)
        for key, option in options_of(commands[command]).items():
            if option.settable:
                own = f"LED_AGENT_{command}_{key}".upper().replace("-", "_")
                general = f"LED_AGENT_{key}".upper().replace("-", "_")
                assert names.setdefault(own, f"{command} {key}") == f"{command} {key}"
                assert names.setdefault(general, key) == key
                assert {own, general}.isdisjoint(OTHER_VARIABLES)


def test_the_library_reads_no_settings(project: Path, monkeypatch: pytest.MonkeyPatch):
    from led_agent import solve
    from led_agent.strategies import BestOfN

    monkeypatch.setenv("LED_AGENT_SEED", "abc")
    (project / "led-agent.toml").write_text("nonsense")
    assert solve(PUZZLE, strategy=BestOfN(1), seed=4).tree.started.seed == 4


def test_settings_are_read_at_the_first_need_only(project: Path):
    (project / "led-agent.toml").write_text("nonsense")
    found = Settings(environment={})
    found.know(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert found.anything()
    with pytest.raises(UsageError, match="no valid TOML"):
        found.of("solve")
