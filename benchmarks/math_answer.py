"""math_answer: reference answers against themselves and against wrong ones, and verdicts per second.

    python -m benchmarks.math_answer FILE.jsonl [FILE.jsonl …] --workers 2 --rounds 5 --json figures.json

Every reference is judged in several ways of writing it, each of which must be accepted, and after several changes that
make it another answer, each of which must be rejected. A change applies where the reference has what it changes; one
that leaves an equal answer behind (a set's members swapped) is none. Rates: every reference in a sentence, half of them
changed first, asked one by one from 2, 4 and 8 threads and as one batch, interleaved, once for each round. An error
counts neither way.
"""

from __future__ import annotations

import json
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from led_agent.problems import read_problems
from led_agent.types import Branch, Problem, Verdict
from led_agent.verifiers import MathAnswer, math_answer

Change = Callable[[str], str | None]

_DIGITS = re.compile(r"\d+")
_WHOLE = re.compile(r"-?\d{1,3}(?:,\d{3})+|-?\d+")
_PAIR = re.compile(r"(\\left)?([(\[])([^,()\[\]]+),([^,()\[\]]+)(\\right)?([)\]])")


def _of_number(form: Callable[[int], str]) -> Change:
    """A way of writing whole numbers only."""
    return lambda gold: form(int(gold.replace(",", ""))) if _WHOLE.fullmatch(gold) else None


WAYS: dict[str, Change] = {
    "boxed": lambda gold: rf"So it is $\boxed{{{gold}}}$.",
    "boxed after thinking": lambda gold: (
        rf"<think>Perhaps \boxed{{7}}? The answer is 3.</think>It is \boxed{{{gold}}}."
    ),
    "the last of two boxes": lambda gold: rf"First \boxed{{-12345}}. No: \[ \boxed{{{gold}}} \]",
    "formula in a sentence": lambda gold: f"The answer is ${gold}$.",
    "in bold": lambda gold: f"We add them all up.\n\n**Final answer:** ${gold}$",
    "with x = before it": lambda gold: rf"\boxed{{x = {gold}}}" if _DIGITS.fullmatch(gold) else None,
    "plain number in a sentence": _of_number(lambda n: f"There are 3 of them, so the answer is {n}."),
    "after ####": _of_number(lambda n: f"He has 5 and 2 more.\n#### {n}"),
    "last number": _of_number(lambda n: f"She adds 3 and 4 and so on. In the end she has {n}."),
    "with separators": _of_number(lambda n: rf"\boxed{{{n:,}}}"),
    "with LaTeX separators": _of_number(lambda n: rf"\boxed{{{n:,}}}".replace(",", r"{,}")),
    "as a decimal": _of_number(lambda n: rf"\boxed{{{n}.00}}"),
    "with a unit": _of_number(lambda n: rf"\boxed{{{n} \text{{ meters}}}}"),
    "with dollars": _of_number(lambda n: f"The answer is {'-' if n < 0 else ''}${abs(n):,}."),
}


def _plus_one(gold: str) -> str | None:
    """The last number that isn't a subscript, plus one."""
    found = [number for number in _DIGITS.finditer(gold) if gold[: number.start()].rstrip("{")[-1:] != "_"]
    if not found or len(found[-1][0]) > 15:
        return None
    at = found[-1]
    return f"{gold[: at.start()]}{int(at[0]) + 1}{gold[at.end() :]}"


def _first_tens(gold: str) -> str | None:
    """One more digit before the first number."""
    return _DIGITS.sub(lambda number: f"1{number[0]}", gold, count=1) if _DIGITS.search(gold) else None


def _sign(gold: str) -> str | None:
    """The sign of a number or a fraction."""
    if not re.fullmatch(r"-?(?:[\d.,]+|\\[dt]?frac\{\d+\}\{\d+\})", gold) or not re.search("[1-9]", gold):
        return None
    return gold[1:] if gold.startswith("-") else f"-{gold}"


def _swapped(gold: str) -> str | None:
    """The coordinates of a point, or the ends of an interval, the other way round."""
    pair = _PAIR.fullmatch(gold)
    if pair is None or pair[3].strip() == pair[4].strip():
        return None
    return f"{pair[1] or ''}{pair[2]}{pair[4]},{pair[3]}{pair[5] or ''}{pair[6]}"


def _other_ends(gold: str) -> str | None:
    """An interval's closed ends for its open ones."""
    ends = re.fullmatch(r"\((-?\d+),\s*(-?\d+)\)", gold)
    return f"[{gold[1:-1]}]" if ends and int(ends[1]) < int(ends[2]) else None


def _one_less(gold: str) -> str | None:
    """A list or set without its last member."""
    bare = re.sub(r"\d,\d{3}(?!\d)|\\!", "", gold)
    if "," not in bare or re.search(r"[()\[\]]", gold):
        return None
    return gold.rpartition(",")[0] + (r"\}" if gold.endswith(r"\}") else "")


def _one_more(gold: str) -> str | None:
    """A number with another one beside it."""
    return f"{gold}, 98765" if re.fullmatch(r"-?\d+", gold) else None


def _variable(gold: str) -> str | None:
    """Another variable, where there is a single one."""
    names = set(re.findall(r"(?<![a-zA-Z\\])[a-z](?![a-zA-Z])", re.sub(r"\\[a-zA-Z]+|\\text\{[^}]*\}", " ", gold)))
    if len(names) != 1 or "=" in gold or r"\in" in gold or names & {"e", "i"}:
        return None
    (name,) = names
    return re.sub(rf"(?<![a-zA-Z\\]){name}(?![a-zA-Z])", "w" if name != "w" else "v", gold)


def _word(gold: str) -> str | None:
    """Another word."""
    return "giraffe" if re.fullmatch(r"(?:\\text\{)?[A-Za-z ]{3,}\}?", gold) else None


CHANGES: dict[str, Change] = {
    "last number + 1": _plus_one,
    "a digit before the first": _first_tens,
    "sign": _sign,
    "coordinates swapped": _swapped,
    "open or closed": _other_ends,
    "one member less": _one_less,
    "one member more": _one_more,
    "variable": _variable,
    "word": _word,
}


def main(
    files: Annotated[list[Path], typer.Argument(help="problems with reference answers, JSONL")],
    workers: Annotated[int, typer.Option()] = 2,
    rounds: Annotated[int, typer.Option(help="timings of each kind")] = 5,
    to_json: Annotated[Path | None, typer.Option("--json", help="write all figures to this file")] = None,
    show: Annotated[int, typer.Option(help="print so many verdicts that are not as they should be")] = 20,
) -> None:
    """Print what was accepted and rejected, and how fast."""
    verify = math_answer(workers=workers)
    figures: dict[str, Any] = {}
    for file in files:
        problems = [problem for problem in read_problems(file)[0] if verify.check(problem) is None]
        figures[file.name] = {
            "references": len(problems),
            "right": _judged(verify, problems, WAYS, "accepted", show),
            "wrong": _judged(
                verify, problems, {name: _boxed(change) for name, change in CHANGES.items()}, "rejected", show
            ),
            "rates": _rates(verify, problems, rounds),
        }
    verify.close()
    print("\n".join(_table(figures)))
    if to_json is not None:
        to_json.write_text(json.dumps({"workers": workers, "rounds": rounds, "files": figures}, indent=1) + "\n")


def _boxed(change: Change) -> Change:
    def boxed(gold: str) -> str | None:
        changed = change(gold)
        return None if changed is None or changed == gold else rf"So it is $\boxed{{{changed}}}$."

    return boxed


def _judged(
    verify: MathAnswer, problems: list[Problem], forms: dict[str, Change], wanted: str, show: int
) -> dict[str, dict[str, int]]:
    """For each form: how many verdicts of each status, and those that are not as wanted on the screen."""
    found: dict[str, dict[str, int]] = {}
    for name, form in forms.items():
        written = [(problem, form(problem.answer or "")) for problem in problems]
        asked = [(problem, Branch(text=text)) for problem, text in written if text is not None]
        verdicts = verify.batch(asked)
        found[name] = dict(Counter(verdict.status for verdict in verdicts))
        for (problem, branch), verdict in zip(asked, verdicts, strict=True):
            if verdict.status != wanted and show > 0:
                show -= 1
                print(f"{problem.key}, {name}: {verdict.status} in {branch.text!r}: {verdict.reason}")
    return found


def _rates(verify: MathAnswer, problems: list[Problem], rounds: int) -> dict[str, list[float]]:
    """Verdicts per second in each round, by kind of call. All workers run before the first one is timed."""
    asked = []
    for at, problem in enumerate(problems):
        gold = problem.answer or ""
        asked.append(
            (problem, Branch(text=f"There are 3 of them, so the answer is ${(at % 2 and _plus_one(gold)) or gold}$."))
        )
    asked *= -(-256 // len(asked))
    kinds: dict[str, Callable[[], Iterable[Verdict]]] = {}
    for threads in (2, 4, 8):
        kinds[f"single calls, {threads} threads"] = partial(_threaded, verify, asked, threads)
    kinds["one batch"] = partial(verify.batch, asked)
    for kind in kinds.values():
        list(kind())
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, kind in kinds.items():
            began = time.perf_counter()
            judged = len(list(kind()))
            rates[name].append(judged / (time.perf_counter() - began))
    return rates


def _threaded(verify: MathAnswer, asked: list[tuple[Problem, Branch]], threads: int) -> list[Verdict]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda pair: verify(*pair), asked))


def _table(figures: dict[str, Any]) -> Iterable[str]:
    yield "| | references | right, accepted | wrong, rejected | errors |"
    yield "|---|---|---|---|---|"
    for file, found in figures.items():
        right, wrong = (sum(map(Counter, found[kind].values()), Counter()) for kind in ("right", "wrong"))
        yield (
            f"| {file} | {found['references']} | {right['accepted']} of {right.total()} | "
            f"{wrong['rejected']} of {wrong.total()} | {right['error'] + wrong['error']} |"
        )
    kinds = next(iter(figures.values()))["rates"]
    yield ""
    yield f"| verdicts/s, median (range) | {' | '.join(kinds)} |"
    yield "|---" * (1 + len(kinds)) + "|"
    for file, found in figures.items():
        cells = [f"{statistics.median(r):.0f} ({min(r):.0f} … {max(r):.0f})" for r in found["rates"].values()]
        yield f"| {file} | {' | '.join(cells)} |"


if __name__ == "__main__":
    typer.run(main)
