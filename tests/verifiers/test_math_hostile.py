"""What never ends, what is far too long, what is no text: no hang, no acceptance, no harm to any other verdict."""

from __future__ import annotations

import asyncio

import pytest

from led_agent.types import Branch, Problem, Verdict
from led_agent.verifiers import MathAnswer, math_answer

# In \boxed{…}, judged against 18: what a computer algebra system may compute with for ever, or in all of its memory.
EXPRESSIONS = [
    r"10^{10^{10}}",
    "10^10^10",
    r"9^{9^{9^9}}",
    "9^9^9^9^9",
    "9**9**9**9",
    r"2^{2^{2^{2^{2^{2^2}}}}}",
    r"10000000!",
    r"((((9!)!)!)!)!",
    r"\binom{10^{12}}{10^{11}}",
    r"\binom{123456789}{61728394}",
    r"\sum_{k=1}^{10000000} \frac{1}{k}",
    r"\sum_{n=1}^{\infty} \frac{\sin(n^n)}{n!}",
    r"\prod_{k=1}^{99999999} (k + \frac{1}{k})",
    r"\int_0^1 x^{x^{x^x}} e^{\sin(x^5)} dx",
    r"\int \frac{\sin(x^x)}{\log(\cos(x)+x^{77})} dx",
    r"(1+x+x^2+x^3)^{100000} - (1+x+x^2+x^3)^{99999}",
    r"\sqrt[10^9]{10^{10^9}+1}",
    r"\frac{10^{10^8}}{3^{10^8}}",
    r"\lim_{x \to 0} \frac{\sin(\tan x) - \tan(\sin x)}{x^{7^{7}}}",
]

MEGABYTE = 1_000_000


def repeated(piece: str) -> str:
    return piece * (MEGABYTE // len(piece))


# Against 18; none of them has an answer that could be compared for long.
TEXTS = {
    "digits": "9" * MEGABYTE,
    "digits in a box": rf"\boxed{{{'9' * (MEGABYTE - 9)}}}",
    "boxes": repeated(r"\boxed{"),
    "closed boxes": repeated(r"\boxed{1}"),
    "nested braces": r"\boxed{" + "{" * 100_000 + "18" + "}" * 100_000 + "}",
    "nested braces, one short": r"\boxed{" + "{" * 100_000 + "18" + "}" * 100_000,
    "nested fractions": r"\boxed{" + r"\frac{1}{" * 1_000 + "2" + "}" * 1_000 + "}",
    "nested roots": r"\boxed{" + r"\sqrt{" * 1_000 + "2" + "}" * 1_000 + "}",
    "nested brackets": r"\boxed{" + "(" * 4_000 + "7" + ")" * 4_000 + "}",
    "marks": repeated("the answer is "),
    "marks with colons": repeated("answer:"),
    "hashes": "#" * MEGABYTE,
    "hashes and spaces": "#### 1" + " " * (MEGABYTE - 7) + "#",
    "hashes and tabs": "####" + "\t" * (MEGABYTE - 5) + "#",
    "rows of hashes": repeated("#### "),
    "spaces": " " * MEGABYTE,
    "spaces between": "The answer is 1" + " " * (MEGABYTE - 17) + "2",
    "spaces in a box": r"\boxed{1" + " " * 9_900 + "2}",
    "points in a box": r"\boxed{1" + " ." * 4_900 + "2}",
    "stars": "*" * MEGABYTE,
    "dollars": "$" * MEGABYTE,
    "formulas left open": repeated(r"\( "),
    "displays left open": repeated("\\[\n"),
    "plus": repeated("1+"),
    "letters": repeated("x "),
    "groups of digits": repeated("111 "),
    "commas": repeated("1,"),
    "percent": r"\boxed{" + " percent" * 1_200 + "}",
    "text commands": repeated(r"\text{a} "),
    "text commands left open": repeated(r"\text{a "),
    "newlines": "\n" * MEGABYTE,
    "answers left open": repeated("<answer>"),
    "thoughts": repeated("</think>"),
    "box left open": r"The answer is 18, so \boxed{18",
    "NUL": "\x00" * 1_000,
    "NUL in a box": "\\boxed{1\x008}",
    "surrogate": "\\boxed{\ud800}",
    "surrogates": "The answer is 1\udfff8 \ud800.",
    "right to left": "\\boxed{\u202e81\u202c}",
    "Arabic words": "الجواب هو أربعة",
    "combining": "\\boxed{1" + "\u0301" * 50_000 + "}",
}


def pair(gold: str, text: str) -> tuple[Problem, Branch]:
    # model_construct, as a model may well write what the record would not take.
    return Problem.model_construct(prompt="?", answer=gold, metadata={}), Branch.model_construct(text=text)


@pytest.fixture(scope="module")
def verifier():
    verifier = math_answer(seconds=60.0, workers=2)
    yield verifier
    verifier.close()


def test_expressions_without_end_cost_their_own_verdicts_only():
    """In one batch with ordinary answers, so that each has neighbours in its message and in the other worker."""
    verifier = math_answer(seconds=4.0, workers=2)
    asked, expected = [], []
    for at, expression in enumerate(EXPRESSIONS):
        asked += [pair("18", rf"\boxed{{{expression}}}"), pair(str(at), f"It is {at}."), pair(str(at), f"{at + 1}")]
        expected += ["accepted", "rejected"]
    verdicts = verifier.batch(asked)
    for expression, verdict in zip(EXPRESSIONS, verdicts[::3], strict=True):
        assert verdict.status in ("error", "rejected"), expression
        assert len(verdict.reason) < 500
    assert any(verdict.reason.startswith("not compared within 4 s: ") for verdict in verdicts[::3])
    others = [verdict.status for at, verdict in enumerate(verdicts) if at % 3]
    assert others == expected
    assert verifier(*pair("18", "18")).status == "accepted"
    verifier.close()


@pytest.mark.parametrize("name", TEXTS)
def test_a_hostile_text_is_never_accepted_and_the_next_verdicts_are_right(verifier, name):
    found = verifier.batch([pair("18", "18"), pair("18", TEXTS[name]), pair("18", "18"), pair("18", "19")])
    assert [found[0].status, found[2].status, found[3].status] == ["accepted", "accepted", "rejected"]
    assert found[1].status in ("rejected", "error")
    assert not found[1].reason.startswith("not compared within"), "the patterns must not go back and forth"
    assert "workers failed" not in found[1].reason
    assert len(found[1].reason) < 500
    assert len(found[1].answer or "") <= 2_000
    found[1].model_dump_json()


@pytest.mark.parametrize(
    "gold",
    [
        "9" * MEGABYTE,
        "{" * 100_000,
        "x " * 500_000,
        "\x00",
        "\ud800",
        r"\boxed{",
        "\u202e81",
        "1" + " " * 100_000 + "2",
    ],
    ids=lambda gold: ascii(gold[:8]),
)
def test_a_hostile_reference_is_matched_by_itself_alone(verifier, gold):
    itself, other = verifier.batch([pair(gold, rf"\boxed{{{gold}}}"), pair(gold, r"\boxed{17}")])
    assert itself.status in ("accepted", "rejected")
    assert other.status == "rejected"
    assert len(other.reason) < 500


def test_a_long_answer_is_accepted_and_reported_in_part(verifier):
    gold = "+".join(f"x^{{{n}}}" for n in range(1, 1_200))
    verdict = verifier(*pair(gold, rf"\boxed{{{gold}}}"))
    assert verdict.status == "accepted"
    assert verdict.answer == gold[:2_000]


# --- many at once ----------------------------------------------------------------------------------------------------


def test_a_batch_has_its_verdicts_in_order_abstentions_among_them(verifier):
    asked = [pair("" if n % 5 == 4 else "3", f"The answer is {n % 7}.") for n in range(verifier.batch_size)]
    verdicts = verifier.batch(asked)
    assert [verdict.status for verdict in verdicts] == [
        "abstained" if n % 5 == 4 else "accepted" if n % 7 == 3 else "rejected" for n in range(verifier.batch_size)
    ]
    assert {verdict.verifier for verdict in verdicts} == {"math_answer"}
    assert [verdict.answer for verdict in verdicts[:4]] == ["0", "1", "2", "3"]
    assert all(verdict.seconds > 0 for verdict in verdicts if verdict.status != "abstained")
    assert verifier.batch([]) == []


def test_a_batch_says_what_single_calls_say(verifier):
    asked = [pair("18", text) for text in ("18", r"\boxed{19}", "", "The answer is $18$.", "(")]
    without_time = {"seconds"}
    together = [verdict.model_dump(exclude=without_time) for verdict in verifier.batch(asked)]
    assert together == [verifier(*one).model_dump(exclude=without_time) for one in asked]


@pytest.mark.parametrize("answer", [None, "", "  ", "####", r"\boxed{}", "It is easy.\n#### "])
def test_check_says_beforehand_what_the_abstention_says(answer):
    verifier = math_answer()
    problem = Problem(prompt="?", answer=answer)
    reason = verifier.check(problem)
    assert reason is not None
    assert "Problem(answer=…)" in reason
    assert verifier(problem, Branch(text="18")).reason == reason
    assert asyncio.run(verifier.judge(problem, Branch(text="18"))).reason == reason
    assert verifier._pool.pids() == ()


def test_check_is_silent_where_there_is_a_reference():
    assert math_answer().check(Problem(prompt="?", answer="0")) is None


# --- from an event loop ----------------------------------------------------------------------------------------------


def test_many_may_wait_in_an_event_loop(verifier):
    async def ask() -> list[Verdict]:
        return await asyncio.gather(*(verifier.judge(*pair("3", f"It is {n % 7}.")) for n in range(60)))

    verdicts = asyncio.run(ask())
    assert [verdict.status == "accepted" for verdict in verdicts] == [n % 7 == 3 for n in range(60)]


def with_an_endless_one(verifier: MathAnswer) -> tuple[Verdict, Verdict]:
    """A verdict while another one never comes, and one after that was cancelled."""

    async def ask() -> tuple[Verdict, Verdict]:
        await asyncio.gather(*(verifier.judge(*pair("18", "18")) for _ in range(8)))
        endless = asyncio.create_task(verifier.judge(*pair("18", r"\boxed{9^{9^{9^9}}}")))
        during = await verifier.judge(*pair("18", "18"))
        assert not endless.done()
        endless.cancel()
        with pytest.raises(asyncio.CancelledError):
            await endless
        return during, await verifier.judge(*pair("18", "19"))

    return asyncio.run(ask())


def test_an_endless_one_blocks_neither_the_loop_nor_the_others_and_may_be_cancelled():
    verifier = math_answer(seconds=600.0, workers=2)
    during, after = with_an_endless_one(verifier)
    assert (during.status, after.status) == ("accepted", "rejected")
    verifier.close()
    assert verifier(*pair("18", "18")).status == "accepted"
    verifier.close()


def test_with_a_single_worker_a_cancelled_one_gives_it_back_at_its_limit():
    verifier = math_answer(seconds=4.0, workers=1)

    async def ask() -> Verdict:
        endless = asyncio.create_task(verifier.judge(*pair("18", r"\boxed{9^{9^{9^9}}}")))
        await asyncio.sleep(0)  # let it begin
        endless.cancel()
        return await verifier.judge(*pair("18", "18"))

    assert asyncio.run(ask()).status == "accepted"
    verifier.close()
