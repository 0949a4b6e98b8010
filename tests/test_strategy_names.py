"""Strategies by name: what comes of each spelling, and what is said of those that mean nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from led_agent import strategies
from led_agent.cli import main
from led_agent.errors import UsageError
from led_agent.protocols import Strategy
from led_agent.strategies import BestOfN, EntropyBranching, Fallback
from led_agent.strategies.named import parse_strategies, parse_strategy, strategy_name
from led_agent.tree import Tree
from led_agent.types import DecodeRequest, Decoding


@dataclass(frozen=True)
class StepWise:
    """A stand-in with every type of setting."""

    step: tuple[str, ...] = ("\n",)
    end: str | tuple[str, ...] = "."
    width: int | None = None
    share: float = 0.5
    warm: bool = False
    decoding: Decoding | None = None
    inner: Strategy | None = None

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        return []


@dataclass(frozen=True)
class AllTogether:
    """A stand-in around several others."""

    parts: tuple[Strategy, ...] = ()
    n: int = 1

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        return []


@dataclass(frozen=True)
class FirstThen:
    """A stand-in around two."""

    first: Strategy = field(default_factory=BestOfN)
    then: Strategy = field(default_factory=BestOfN)

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        return []


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategies, "__all__", [*strategies.__all__, "StepWise", "AllTogether", "FirstThen"])
    for cls in (StepWise, AllTogether, FirstThen):
        monkeypatch.setattr(strategies, cls.__name__, cls, raising=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("best-of-n", BestOfN()),
        (" BestOfN ", BestOfN()),
        ("best_of_n:n=16", BestOfN(16)),
        ("BESTOFN:n=2, stop_at_first=false", BestOfN(2, stop_at_first=False)),
        ("fallback", Fallback()),
        ("fallback(best-of-n:n=16):tries=1,temperature=0.5", Fallback(BestOfN(16), tries=1, temperature=0.5)),
        ("fallback( fallback(best-of-n:n=1):tries=0 )", Fallback(Fallback(BestOfN(1), tries=0))),
        ("fallback:inner=best-of-n:n=3", Fallback(BestOfN(3))),
        ("all-together(best-of-n:n=4|entropy-branching)", AllTogether((BestOfN(4), EntropyBranching()))),
        ("all-together:parts=best-of-n:n=4+fallback", AllTogether((BestOfN(4), Fallback()))),
        ("first-then(best-of-n:n=1)", FirstThen(BestOfN(1))),
        ("first-then(best-of-n:n=1|fallback)", FirstThen(BestOfN(1), Fallback())),
        ("step-wise(best-of-n)", StepWise(inner=BestOfN())),
        ("step-wise:step=no", StepWise(step=("no",))),
        (r"step-wise:step=\n\n+ no,then", StepWise(step=("\n\n", " no,then"))),
        ("step-wise:end=a", StepWise(end="a")),
        ("step-wise:end=a+b(", StepWise(end=("a", "b("))),
        ("step-wise:width=3,share=1,warm=true", StepWise(width=3, share=1.0, warm=True)),
        ("step-wise:width=none,decoding=none", StepWise()),
        ("step-wise:decoding=plain:temperature=0.8", StepWise(decoding=Decoding.plain(0.8))),
    ],
)
def test_names_settings_and_brackets(text: str, expected: Strategy):
    assert parse_strategy(text) == expected


def test_n_is_given_to_all_that_have_it_and_do_not_say_it():
    assert parse_strategy("best-of-n", n=5) == BestOfN(5)
    assert parse_strategy("best-of-n:n=2", n=5) == BestOfN(2)
    assert parse_strategy("fallback", n=5) == Fallback(BestOfN(5))
    assert parse_strategy("fallback(best-of-n:n=2)", n=5) == Fallback(BestOfN(2))
    assert parse_strategy("fallback(best-of-n)", n=5) == Fallback(BestOfN(5))
    assert parse_strategy("first-then(best-of-n:n=2)", n=5) == FirstThen(BestOfN(2), BestOfN())
    assert parse_strategy("step-wise", n=5) == StepWise()


def test_several_stand_between_semicolons():
    found = parse_strategies("best-of-n:n=2; fallback(best-of-n);", n=4)
    assert found == [("best-of-n:n=2", BestOfN(2)), ("fallback(best-of-n)", Fallback(BestOfN(4)))]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "best-of-n, "),
        ("best-off", "did you mean best-of-n?"),
        ("best-off(best-of-n)", "no strategy is called 'best-off'"),
        ("best-of-n:m=2", "has no setting 'm'; it has n, stop_at_first"),
        ("best-of-n:n=x", "n is 'x'; allowed is a whole number"),
        ("best-of-n:n=0", "n of at least 1"),
        ("best-of-n:5", "'5' is no setting"),
        ("best-of-n(best-of-n)", "it is made around no other strategy"),
        ("fallback(best-of-n|best-of-n)", "2 strategies stand in brackets; it takes 1"),
        ("fallback(best-of-n", "a bracket is left open"),
        ("fallback(best-of-n)tries=1", "after the bracket comes a colon"),
        ("step-wise:warm=yes", "allowed is true or false"),
        ("step-wise:decoding=hot", "no decoding is called 'hot'"),
        ("no_such_module_at_all:f", "no module 'no_such_module_at_all' is found"),
        ("json:loads", "making it raised TypeError"),
        ("json:codecs", "found module"),
        ("nowhere/file.py:f", "strategy nowhere/file.py: there is no such file"),
    ],
)
def test_what_means_nothing_is_refused_with_what_there_is(text: str, says: str):
    with pytest.raises(UsageError) as refused:
        parse_strategy(text)
    assert says in str(refused.value)


def test_ones_own_by_file_and_by_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own_strategy.py").write_text(
        "from led_agent.strategies import BestOfN\nclass Mine(BestOfN):\n    pass\n"
        "made = Mine(3)\ndef make():\n    return Mine(4)\nnumber = 7\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.delitem(sys.modules, "own_strategy", raising=False)
    found = [parse_strategy(f"own_strategy:{name}") for name in ("made", "make", "Mine")]
    assert [one.n for one in found] == [3, 4, 8]  # type: ignore[attr-defined]
    assert type(parse_strategy(f"{tmp_path}/own_strategy.py:made")).__name__ == "Mine"
    with pytest.raises(UsageError, match=r"a strategy has propose\(tree, slots\); found int"):
        parse_strategy("own_strategy:number")
    sys.modules.pop("own_strategy", None)


def test_every_strategy_is_there_by_its_own_name_and_tells_what_is_special():
    for name in strategies.__all__:
        cls = getattr(strategies, name)
        assert parse_strategy(name) == cls()
        assert strategy_name(cls()) == name
    assert strategy_name(Fallback(BestOfN(16), tries=1)) == "Fallback(BestOfN(n=16), tries=1)"
    assert strategy_name(AllTogether((BestOfN(), Fallback()))) == "AllTogether(BestOfN | Fallback)"
    assert strategy_name(StepWise(decoding=Decoding.plain(0.8))) == "StepWise(decoding=plain T=0.8)"
    assert strategy_name(object()) == "object"


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return int(ended.value.code or 0), *capsys.readouterr()


def test_solve_and_run_take_one(capsys: pytest.CaptureFixture[str], saved_model: Path, tmp_path: Path):
    options = ("-m", saved_model, "--max-tokens", 5, "--answer", "31337", "--json")
    code, out, _ = call(capsys, "solve", "w1", *options, "-S", "best-of-n:n=3")
    assert (code, json.loads(out)["usage"]["branches"]) == (1, 3)
    for extra in (("--n", 2), ("--tries", 0), ("--all",)):
        code, out, err = call(capsys, "solve", "w1", *options, "-S", "best-of-n", *extra)
        assert (code, out, f"--strategy or {extra[0]}, not both" in err) == (2, "", True)
    problems = tmp_path / "p.jsonl"
    problems.write_text('{"id": "a", "prompt": "w1"}\n')
    run: tuple[Any, ...] = ("run", problems, "-m", saved_model, "--max-tokens", 4, "--out", tmp_path / "out", "--json")
    assert call(capsys, *run, "-S", "best-of-n:n=2")[0] == 1
    code, _, err = call(capsys, *run)
    assert (code, "strategy: 'BestOfN(n=2" in err) == (2, True)
    assert call(capsys, *run, "-S", "bestofm")[0] == 2
