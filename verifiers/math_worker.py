r"""The child process of ``math_answer`` and ``consensus``: finds final answers and compares them.

This file knows how answers are written and how math-verify reads them. (``reference`` in ``math_answer`` has taken
the reference out of a worked solution.) It knows no time limit (the pool kills this process) and neither problems nor
verdicts. It replies ``{"status", "reason", "answer"}``, with ``"feedback"`` where the reason names the reference, to
three kinds of payload:

- ``{"answer", "text"}``: whether the text's final answer equals the reference, accepted, rejected or abstained;
- ``{"find": text}``: the text's final answer, found or none;
- ``{"equal": [one, other]}``: whether two answers are equal, whichever is taken for the reference: equal or unequal.

Each may be of status "error" instead.

Where the answer stands, first match first, after ``</think>``:

1. the last ``\boxed{…}``; one that is never closed means that the text was cut off, and there is no answer;
2. after the last "answer is", "answer:", "####" or ``<answer>``: up to the end of that sentence;
3. all of a short text that is a formula; else the last formula or number, as math-verify extracts it.

Two answers are equal when they read the same, or when math-verify says so. Words are compared as words only, as
math-verify takes "Evelyn" for a product of six variables.
"""

from __future__ import annotations

import logging
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from itertools import accumulate
from typing import Any

import math_verify
from math_verify import grader, parser
from sympy import Number  # type: ignore[import-untyped]

from led_agent.answers import after_thinking, boxed
from led_agent.verifiers.workers import serve

__all__ = ["equal", "find", "judge", "main"]

Reply = dict[str, Any]
Formulas = Sequence[Any]  # sympy objects: as many readings as math-verify has
Reading = str | Formulas  # as it was written, or as math-verify took it out of running text

_LONGEST = 10_000  # characters of an answer; a longer one is compared as text only
_DEEPEST = 200  # brackets in brackets; math-verify's parser gives up below half of it
_SHOWN = 2_000  # characters of the answer in a reply; more is no answer, and would be kept with every result
_TAIL = 4_000  # characters in which an answer is looked for that isn't boxed

# What introduces an answer. "To answer this, …" does not, nor "the answer is not …", nor a heading "#### 1. Costs".
_MARK = re.compile(
    r"""(?<!\#)\#{4}[ \t]*+ (?: (?=[^\n#]++\s*+\Z) | (?=[-+−$€£¥\\(\[{.\d]) (?!\d+[.)]\s*[^\W\d]) )
    | <answer>
    | \banswer\W{0,4}(?:\([^)\n]{0,40}\)\W{0,4})?[:=]
    | (?:\banswer\s+is | \b(?:the|my|our|final|correct)\s+answer\b[^.,;:\n\d]{0,40}?\s(?:is|be|equals))\b(?!\s*not\b)
    """,
    re.IGNORECASE | re.VERBOSE,
)
_CLAUSE_END = re.compile(r"\.(?:\s|\*|$)|\n|</|;\s|,\s+(?!and\b|or\b)[a-z]{2}|\s(?:because|since|as|which|so)\s")
_PROSE = re.compile(r"(?<![\\\w])[^\W\d_]{2,}\s+[^\W\d_]{2,}")
_NUMBER = r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)"

# A number and plain words after it. "5xy" is a product, so that glued units are listed and others have three letters.
_WITH_UNIT = re.compile(
    rf"({_NUMBER})(?:\s*(?:km|cm|mm|mi|ft|in|kg|mg|lbs?|oz|ml|hrs?|min|sec|mph|kph)|[\s-]+[^\W\d_]{{3,}})"
    r"(?:[\s/]+[^\W\d_]+)*(?:\s*\^?\{?[23]\}?)?"
)
_NO_UNIT = re.compile(
    r"\b(?:and|or|to|than|plus|minus|times|over|divided|hundred|thousand|million|billion|trillion|dozen|half|percent"
    r"|sqrt|sin|cos|tan|log|exp|mod|pairs?)\b",
    re.IGNORECASE,
)
_WORD = re.compile(
    r"(?<![\\\w])(?:(?!(?:sqrt|sin|cos|tan|log|exp)\b)[^\W\d_]{3}|(?:so|is|it|of|to|in|or|at|by|be|we|he|if|on|no)\b)",
    re.IGNORECASE,
)
_TERM = r"(?:\d+(?:\.\d+)?(?:\s?\*?\s?[a-zB-HJ-Z](?:\^\d+)?)?|[a-zB-HJ-Z](?:\^\d+)?)(?!\w)"
_ALGEBRA = re.compile(
    r"\$[^$\n]*\$|\\\([^\n]*?\\\)|\\\[.*?\\\]"
    rf"|(?<![\w$\\.,])((?=[^=,;:\n]*?[a-zB-HJ-Z](?!\w))-?{_TERM}(?:\s*[-+*/^]\s*{_TERM})+)",
    re.DOTALL,
)
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_CHOICE = re.compile(r"\(?([A-J])\)?")
_CHOSEN = re.compile(r"\(?([A-J])(?:\)?[.:]?$|[).:]+\s+(?!and\b|or\b)|\)?\s+(?:because|since|as)\b)")
_BASE = re.compile(r"\d_\{?(\d+)\}?$")
_SIGNS = str.maketrans(
    {
        "−": "-", "×": r"\times ", "·": r"\cdot ", "÷": r"\div ", "π": r"\pi ", "∞": r"\infty ",
        "°": r"^\circ ", "√": r"\sqrt ", "²": "^2", "³": "^3", "∪": r"\cup ", "∅": r"\emptyset ",
        "\u00a0": " ", "\u202f": " ", "`": " ", '"': " ", "“": " ", "”": " ",
    }
)  # fmt: skip
_QUIET_SIGNS = str.maketrans({"−": "-", "\u00a0": " ", "\u202f": " ", "`": " ", '"': " ", "“": " ", "”": " "})
_TIDY: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\displaystyle|\\left(?![a-z])|\\right(?![a-z])|\\[!,]\s*|\\?[$€£¥₹]|\\[()\[\]]", ""),
        (r"(?<!\w)\*\*|\*\*(?!\w)", ""),
        (r"\*\*", "^"),
        (r"\\[dt]frac", r"\\frac"),
        (r"(?<!\\)~", " "),
        (r"\\varnothing(?![a-z])", r"\\emptyset "),
        (r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi "),
        (r"(?<![A-Za-z\\])infinity(?![A-Za-z])", r"\\infty "),
        (r"(?:(?<!\s)\s+)?\bpercent\b", r"\\%"),
        (r"(?<=\d)[eE]([-+]?\d+)(?![\w.])", r"\\times 10^{\1}"),
        (r"(?<![\w.,\\} ])(\d+) +(\d+) */ *(\d+)$", r"\1\\frac{\2}{\3}"),
        (r"^(?:\\approx|≈|=|:|about|approximately|exactly)\s*", ""),
        (r"(?<![.,;:\s])[.,;:\s]+$", ""),
    )
)

_exhausted: list[BaseException] = []


def judge(answer: str, text: str) -> Reply:
    """The verdict on a text. What goes wrong in here is an error, and never a rejection."""
    return _sound(lambda: _judge(answer, text), "rejected")


def find(text: str) -> Reply:
    """The final answer of a text, as it is shown to people."""

    def found() -> Reply:
        answer = _find(text)
        status = "found" if answer else "none"
        return {"status": status, "reason": "", "answer": answer[0] if answer else None}

    return _sound(found, "none")


def equal(one: str, other: str) -> Reply:
    """Whether two answers are equal. math-verify takes one of them for the reference, and that may matter."""

    def compared() -> Reply:
        same = _equal(one, other) or _equal(other, one)
        return {"status": "equal" if same else "unequal", "reason": "", "answer": None}

    return _sound(compared, "unequal")


def _sound(compute: Callable[[], Reply], doubtful: str) -> Reply:
    """A reply, or the error that came of it; ``doubtful`` is what math-verify also says when it runs out of memory."""
    _exhausted.clear()
    try:
        reply = compute()
    except Exception as error:  # noqa: BLE001 - sympy raises anything, and all of it is this verifier's own failure
        return _failed(error, None)
    if _exhausted and reply["status"] == doubtful:
        return _failed(_exhausted[0], reply["answer"])
    return reply


def main() -> None:
    """Serve the pool until it closes the pipe."""
    logging.disable(logging.CRITICAL)
    _watch_for_exhaustion()
    # The first formulas cost 100 ms of tables and patterns: not on a caller's time.
    judge(r"\frac{1}{2}", r"\boxed{0.5}")
    judge("(1,2)", "The answer is $x=3$.")
    serve(_handle)


def _handle(payload: dict[str, Any]) -> Reply:
    if "find" in payload:
        return find(payload["find"])
    if "equal" in payload:
        return equal(*payload["equal"])
    return judge(payload["answer"], payload["text"])


def _judge(gold: str, text: str) -> Reply:
    found = _find(text)
    if found is None:
        cut_off = r"; its last \boxed{ is never closed" if _cut_off(text) else ""
        return {"status": "rejected", "reason": f"no answer found in the text{cut_off}", "answer": None}
    shown, readings = found
    if any(_equal(gold, reading) for reading in readings):
        return {"status": "accepted", "reason": f"{_short(shown)} matches", "answer": shown[:_SHOWN]}
    return {
        "status": "rejected",
        "reason": f"found {_short(shown)}, expected {_short(gold)}",
        "answer": shown[:_SHOWN],
        "feedback": f"the final answer reads {_short(shown)}, and that is wrong",
    }


def _failed(error: BaseException, answer: str | None) -> Reply:
    told = " ".join(str(error).split())[:120]
    reason = f"math-verify raised {type(error).__name__}{': ' if told else ''}{told}"
    return {"status": "error", "reason": reason, "answer": answer}


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:80]}… ({len(text)} characters)"


# --- where the answer stands ---------------------------------------------------------------------------------------


def _cut_off(text: str) -> bool:
    final = after_thinking(text)
    return r"\boxed{" in final and boxed(final) is None


def _find(text: str) -> tuple[str, list[Reading]] | None:
    """The answer as it is shown to people, and its readings; None where there is none."""
    final = after_thinking(text)
    inside = boxed(final)
    if inside is not None:
        return (inside, [inside]) if inside else None
    if _cut_off(final):
        return None
    ends = [mark.end() for mark in _MARK.finditer(final)]
    return _find_after(final[ends[-1] :]) if ends else _find_last(final)


def _find_after(tail: str) -> tuple[str, list[Reading]] | None:
    tail = tail[:_TAIL].lstrip(" \t\r\n:=*_>")
    clause = _CLAUSE_END.split(tail, maxsplit=1)[0].strip(" \t*_")
    paragraph = tail.split("\n\n", maxsplit=1)[0]
    # "answer:" makes math-verify take what comes first; without it, it takes what comes last.
    return _read(clause, f"answer: {clause}", f"answer: {paragraph}")


def _find_last(final: str) -> tuple[str, list[Reading]] | None:
    whole = final.strip()
    tail = whole[-_TAIL:]
    tail = tail.partition("\n")[2] or tail if len(whole) > _TAIL else tail
    short = whole if len(whole) <= 200 and "\n" not in whole and not _PROSE.search(whole) else ""
    # Without its marks ("To answer this, take 18 …"), so that the last formula or number counts.
    return _read(short, re.sub("answer", "result", tail, flags=re.IGNORECASE))


def _read(written: str, *running: str) -> tuple[str, list[Reading]] | None:
    """A formula as it is written; else that, and what can be taken out of the running text.

    Never both for a formula: the last number of "x + 1" is 1.
    """
    if not _WORD.search(_TEXT_COMMAND.sub("", written)) and _has_formula(_formulas(_tidy(written))):
        return written, [written]
    extracted = next(filter(None, map(_extract, running)), None)
    if extracted:
        return _name(extracted), [written, extracted]
    return (written, [written]) if written else None


def _extract(text: str) -> Formulas:
    """What math-verify takes out of running text: formulas in dollar signs and the like, and plain numbers."""
    text = re.sub(r"(?<!\w)\*\*|\*\*(?!\w)", " ", text.translate(_QUIET_SIGNS))
    text = re.sub(rf"(?<=\s)\(({_NUMBER})\)", r" \1 ", text)
    # It would take the 3 out of a bare "2x + 3".
    text = _ALGEBRA.sub(lambda found: f"${found[1]}$" if found[1] else found[0], text)
    return list(math_verify.parse(text, parsing_timeout=None))


def _name(extracted: Formulas) -> str:
    written = [part for part in extracted if isinstance(part, str)]
    return (written[-1] if written else str(extracted[0])).strip(" *")


# --- whether two answers are equal ---------------------------------------------------------------------------------


def _equal(gold: str, reading: Reading) -> bool:
    if not isinstance(reading, str):
        return not _is_words(_plain(gold)) and _verify(_formulas(_tidy(gold)), reading)
    wanted, given = _plain(gold), _plain(reading)
    if wanted == given and wanted:
        return True
    if _is_words(wanted):
        return wanted.casefold() == given.casefold()
    letter, chosen = _CHOICE.fullmatch(wanted), _CHOSEN.match(_unwrapped(_tidy(reading)))
    if letter and chosen:
        return letter[1] == chosen[1]
    return _equal_formulas(_tidy(gold), _tidy(reading))


def _equal_formulas(gold: str, reading: str) -> bool:
    if {gold[:1], reading[:2]} == {"(", r"\{"} or {gold[:2], reading[:1]} == {"(", r"\{"}:
        return False  # it takes a point for a set
    bases = _BASE.search(gold), _BASE.search(reading)
    if bases[0] and bases[1] and bases[0][1] != bases[1][1]:
        return False  # math-verify drops the base
    if _verify(_formulas(gold), _formulas(reading)):
        return True
    bare = _without_unit(gold), _without_unit(reading)
    if (bare[0] is None) == (bare[1] is None):
        return False
    return _verify(_formulas(bare[0] or gold), _formulas(bare[1] or reading))


def _verify(gold: Formulas, given: Formulas) -> bool:
    gold, given = [[part for part in parts if not isinstance(part, str)] for parts in (gold, given)]
    if not gold or not given:
        return False
    return bool(
        math_verify.verify(
            gold,
            given,
            float_rounding=_decimals(gold[0]),
            allow_set_relation_comp=True,  # -2 ≤ x ≤ 7 is [-2, 7], whichever of them is the reference
            timeout_seconds=None,
            raise_on_error=True,
        )
    )


def _has_formula(parts: Formulas) -> bool:
    return any(not isinstance(part, str) for part in parts)


def _decimals(gold: Any) -> int:
    """To how many decimals a float must agree: six, and as many more as a small reference has leading zeros."""
    if not isinstance(gold, Number) or not gold.is_finite or gold == 0:
        return 6
    value = abs(float(gold)) if abs(gold) < 1 else 1.0
    return 6 + max(0, math.floor(-math.log10(value))) if value else 6


def _formulas(text: str) -> Formulas:
    """A formula as math-verify reads it; empty where it is none, or where reading it would make something up."""
    if len(text) > _LONGEST or text.count("{") != text.count("}") or _PROSE.search(_TEXT_COMMAND.sub("", text)):
        return []
    if re.search(r"\d\s+\d", text) and "\\" not in text:
        return []  # math-verify adds "1 8" up to 9
    if _depth(text) > _DEEPEST:
        raise RecursionError(
            f"nested {_depth(text)} deep; at most {_DEEPEST} is read"
        )  # it would take a minute to fail
    return _parsed(text)


def _depth(text: str) -> int:
    depths = accumulate((sign in "([{") - (sign in ")]}") for sign in text)
    return max(depths, default=0)


@lru_cache(maxsize=256)
def _parsed(text: str) -> Formulas:
    latex = [math_verify.LatexExtractionConfig(boxed_match_priority=0)]
    formulas = list(math_verify.parse(rf"\boxed{{{text}}}", latex, parsing_timeout=None))
    if _exhausted:
        raise _exhausted[0]  # so that "unreadable" isn't kept for the next verdict
    return formulas


def _tidy(text: str) -> str:
    """The same formula, without decoration and in signs that math-verify reads."""
    return text if len(text) > _LONGEST else _tidied(text)


@lru_cache(maxsize=256)
def _tidied(text: str) -> str:
    text = re.sub("[¼-¾⅐-⅞]", _vulgar, text).translate(_SIGNS).strip()
    if "\\" not in text:
        text = re.sub(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?!\d)", lambda found: found[0].replace(" ", ""), text)
    for pattern, replacement in _TIDY:
        text = pattern.sub(replacement, text).strip()
    return text


def _vulgar(found: re.Match[str]) -> str:
    over, _, under = unicodedata.normalize("NFKC", found[0]).partition("\u2044")
    return rf"\frac{{{over}}}{{{under}}}"


def _unwrapped(text: str) -> str:
    return _TEXT_COMMAND.sub(r" \1 ", text).strip()


def _plain(text: str) -> str:
    """For comparison as text: tidy, and without the spaces that mean nothing."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", _unwrapped(_tidy(text)))


def _is_words(plain: str) -> bool:
    return not re.search(r"[\d=+*/^<>\\_{}|]", plain) and bool(re.search(r"[^\W\d_]{3}|^no$", plain, re.IGNORECASE))


def _without_unit(text: str) -> str | None:
    text = _unwrapped(text)
    found = _WITH_UNIT.fullmatch(text)
    return found[1] if found and not _NO_UNIT.search(text) else None


# --- what math-verify would hide -----------------------------------------------------------------------------------


def _watch_for_exhaustion() -> None:
    """Note out-of-memory and too-deep recursion in the calls that math-verify makes inside ``except Exception``.

    It goes on as if the formula were unreadable or unequal, and the verdict would be a rejection.
    """
    for module, name in ((parser, "latex2sympy"), (parser, "parse_expr"), (grader, "simplify"), (grader, "solve")):
        function = getattr(module, name, None)
        if function is not None:
            setattr(module, name, _noting(function))


def _noting(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def noting(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (MemoryError, RecursionError) as error:
            _exhausted.append(error)
            raise

    return noting


if __name__ == "__main__":
    main()
