r"""Which answers are the same answer: by mathematics, not by spelling.

This file knows texts and answers, and no problems, weights or verdicts. What can be told by reading is told here;
the rest is asked of ``math_worker``, in processes that may be killed. An answer that could not be compared stands
alone, and is named in ``faults``.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from led_agent.answers import after_thinking, boxed, final_answer
from led_agent.verifiers.workers import WorkerDied, WorkerPool, WorkerTimeout

__all__ = ["Answers", "Equivalence", "equivalence_groups", "final_answers", "plain_answer", "same_readings"]

WORKER = "led_agent.verifiers.math_worker"
_LONGEST_TEXT = 1_000_000
_KEPT = 100_000
_INTEGER = re.compile(r"[-+]?\d+")
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:/\d*[1-9]\d*)?")
_THOUSANDS = re.compile(r"([-+]?\d{1,3})((?:,\d{3})+)(?![\d,])")
_PLAIN_END = re.compile(r"(?:\A|\banswer(?:\s+is|:)|####)\s*([-+]?\d+)\.?\s*\Z", re.IGNORECASE)

_shared: list[WorkerPool] = []
_shared_lock = threading.Lock()


@dataclass(frozen=True)
class Answers:
    """The final answers of some texts.

    Attributes:
        answers: One for each text; None where it has none.
        faults: Texts that the worker failed on, by their place, and how; their answers were read more simply.
    """

    answers: tuple[str | None, ...]
    faults: dict[int, str]


@dataclass(frozen=True)
class Equivalence:
    """Answers by what they come to.

    Attributes:
        groups: Places of equal answers, each place once, groups in the order in which they begin. What has no answer
            is in none.
        faults: Answers with a comparison that failed, by their place, and how. It counted as "not equal", so that
            their group may be too small.
    """

    groups: tuple[tuple[int, ...], ...]
    faults: dict[int, str]


def final_answers(texts: Sequence[str], *, seconds: float = 5.0, pool: WorkerPool | None = None) -> Answers:
    r"""The final answer of each text, as ``math_answer`` finds it: the last ``\boxed{…}``, else what follows the last
    "answer is" or "####", else the last formula or number.

    Args:
        texts: Whole outputs of a model.
        seconds: Wall-clock limit of reading one text.
        pool: The workers to ask; by default some that all callers share.
    """
    known: dict[str, str | None] = {}
    faults: dict[int, str] = {}
    for at, text in enumerate(texts):
        if text in known:
            continue
        plain, answer = plain_answer(text)
        if not plain:
            short = _encodable(text if len(text) <= _LONGEST_TEXT else text[-_KEPT:])
            reply = _call(pool, {"find": short}, seconds)
            answer = reply["answer"]
            if reply["status"] == "error":
                answer, faults[at] = final_answer(short), f"the answer was not read: {reply['reason']}"
        known[text] = answer
    return Answers(tuple(known[text] for text in texts), faults)


def equivalence_groups(
    answers: Sequence[str | None], *, seconds: float = 5.0, pool: WorkerPool | None = None
) -> Equivalence:
    """Group answers that are equal as mathematics: "1/2", "0.5" and "50/100" are one answer.

    Each different answer is compared with the first of each group, so that n answers in g groups cost n·g
    comparisons at most; those that read the same, and whole numbers, cost nothing.

    Args:
        answers: As ``final_answers`` gives them.
        seconds: Wall-clock limit of one comparison.
        pool: The workers to ask; by default some that all callers share.
    """
    groups: list[list[int]] = []
    homes: dict[object, list[int]] = {}  # by what an answer reads as
    doubts: dict[object, str] = {}
    faults: dict[int, str] = {}
    for at, answer in enumerate(answers):
        if answer is None or not answer.strip():
            continue
        reading = _reading(answer)
        if reading not in homes:
            for group in groups:
                same, fault = _equal(str(answers[group[0]]), answer, seconds, pool)
                if same:
                    homes[reading] = group
                    doubts.pop(reading, None)
                    break
                if fault:
                    doubts[reading] = fault
            else:
                homes[reading] = []
                groups.append(homes[reading])
        homes[reading].append(at)
        if reading in doubts:
            faults[at] = doubts[reading]
    return Equivalence(tuple(map(tuple, groups)), faults)


def plain_answer(text: str) -> tuple[bool, str | None]:
    """Whether the answer is plain to see, and what it is."""
    final = after_thinking(text)
    if r"\boxed{" in final:
        return True, boxed(final) or None
    found = _PLAIN_END.search(final)
    return (True, found[1]) if found else (not final.strip(), None)


def same_readings(answers: Sequence[str | None]) -> tuple[tuple[int, ...], ...]:
    """Group answers that read the same, as numbers or letter by letter; nothing is computed."""
    homes: dict[object, list[int]] = {}
    for at, answer in enumerate(answers):
        if answer is not None and answer.strip():
            homes.setdefault(_reading(answer), []).append(at)
    return tuple(map(tuple, homes.values()))


def _equal(one: str, other: str, seconds: float, pool: WorkerPool | None) -> tuple[bool, str]:
    """Whether two answers that read differently are equal, and what kept that from being found out."""
    if _INTEGER.fullmatch(_spelled(one)) and _INTEGER.fullmatch(_spelled(other)):
        return False, ""
    reply = _call(pool, {"equal": [_encodable(one), _encodable(other)]}, seconds)
    if reply["status"] == "error":
        return False, f"{_short(other)} was not compared with {_short(one)}: {reply['reason']}"
    return reply["status"] == "equal", ""


def _reading(answer: str) -> object:
    """What an answer reads as: a number, or its spelling. Equal readings are equal answers."""
    spelled = _spelled(answer)
    if _NUMBER.fullmatch(spelled):
        over, _, under = spelled.partition("/")
        return Fraction(over) / int(under or 1)
    return spelled


def _spelled(answer: str) -> str:
    text = " ".join(answer.split()).strip("$ ").removesuffix(".").strip("$ ")
    return _THOUSANDS.sub(lambda found: found[0].replace(",", ""), text) if _THOUSANDS.fullmatch(text) else text


def _call(pool: WorkerPool | None, payload: dict[str, Any], seconds: float) -> dict[str, Any]:
    try:
        return (pool or _shared_pool()).call(payload, seconds)
    except WorkerTimeout:
        reason = f"not done within {seconds:g} s"
    except WorkerDied as error:
        reason = str(error)
    return {"status": "error", "reason": reason, "answer": None}


def _shared_pool() -> WorkerPool:
    with _shared_lock:
        if not _shared:
            _shared.append(WorkerPool(WORKER))
        return _shared[0]


def _short(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 60 else f"{text[:60]}…")


def _encodable(text: str) -> str:
    """Without lone surrogates, which neither a pipe nor a results file takes."""
    return text.encode("utf-8", "replace").decode("utf-8")
