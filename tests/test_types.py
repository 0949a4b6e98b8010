"""The records: what they take, what they refuse and with which words, and that JSON loses nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from led_agent.errors import UsageError, explain
from led_agent.events import Decoded, Ended, Judged, Noted, Pruned, Requested, Started, event_adapter
from led_agent.types import (
    Branch,
    Budget,
    DecodeRequest,
    Decoding,
    DepthExploration,
    Message,
    Problem,
    Record,
    Usage,
    Verdict,
)

QUICK = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

# --- one of each, generated --------------------------------------------------------------------------------------

texts = st.text(max_size=20)
ids = st.text(min_size=1, max_size=8)
finite = st.floats(allow_nan=False, allow_infinity=False)
amounts = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
counts = st.integers(min_value=0, max_value=10**12)
tokens = st.lists(st.integers(0, 200_000), max_size=6).map(tuple)
numbers = st.lists(finite, max_size=6).map(tuple)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | finite | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(texts, json_values, max_size=3)

messages = st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=texts)
questions = texts.filter(lambda text: text.strip() != "")
chats = st.builds(
    lambda before, last: (*before, Message(role="user", content=last)), st.lists(messages, max_size=2), questions
)
prompts = questions | chats
problems = st.builds(
    Problem,
    prompt=prompts,
    id=st.none() | ids,
    answer=st.none() | texts,
    tests=st.none() | texts | st.lists(objects, max_size=2).map(tuple),
    entry_point=st.none() | texts,
    metadata=objects,
)
explorations = st.builds(
    DepthExploration,
    depths=st.integers(1, 99),
    top_k=st.integers(1, 99),
    norm=st.sampled_from(["final", "none", "tuned"]),
    layers=st.sampled_from(["paper", "official"]),
    exploit=st.booleans(),
)
decodings = st.builds(
    Decoding,
    temperature=amounts,
    top_k=st.none() | st.integers(1, 10**6),
    top_p=st.floats(0, 1, exclude_min=True),
    min_p=st.floats(0, 1, exclude_max=True),
    exploration=st.none() | explorations,
    span=st.sampled_from(["auto", "think", "all", "none"]),
)
requests = st.builds(
    DecodeRequest,
    id=ids,
    parent=ids,
    problem=ids,
    prompt=prompts,
    decoding=decodings,
    seed=st.integers(0, 2**63 - 1),
    max_tokens=st.integers(1, 10**9),
    prefix_ids=tokens,
    stop=st.lists(texts, max_size=2).map(tuple),
    step=st.lists(texts, max_size=2).map(tuple),
    purpose=texts,
    trigger=texts,
)
branches = st.builds(
    Branch,
    text=texts,
    id=ids,
    finish=st.sampled_from(["eos", "stop", "step", "length", "cancelled", "error"]),
    token_ids=tokens,
    logprobs=numbers,
    final_logprobs=numbers,
    entropies=numbers,
    explored=st.lists(st.booleans(), max_size=4).map(tuple),
    span=st.sampled_from(["think", "all", "none"]),
    prefill_tokens=counts,
    error=st.none() | texts,
    seconds=amounts,
)
verdicts = st.builds(
    Verdict,
    status=st.sampled_from(["accepted", "rejected", "abstained", "error"]),
    score=st.none() | st.floats(0, 1),
    reason=texts,
    verifier=texts,
    seconds=amounts,
    answer=st.none() | texts,
)
limits = st.none() | st.integers(1, 10**12)
budgets = st.builds(
    Budget,
    tokens=limits,
    seconds=st.none() | st.floats(0, exclude_min=True, allow_infinity=False),
    branches=limits,
    verifier_calls=limits,
)
usages = st.builds(
    Usage, generated_tokens=counts, prefill_tokens=counts, seconds=amounts, branches=counts, verifier_calls=counts
)
events = st.one_of(
    st.builds(Started, problem=problems, decoding=decodings, seed=st.integers(0, 2**63 - 1)),
    st.builds(Requested, request=requests),
    st.builds(Decoded, branch=branches),
    st.builds(Judged, id=ids, verdicts=st.lists(verdicts, max_size=2).map(tuple)),
    st.builds(Pruned, id=ids, reason=texts),
    st.builds(Noted, id=ids, text=texts),
    st.builds(Ended, status=st.sampled_from(["verified", "budget", "failed"]), reason=texts, usage=usages),
)
RECORDS = {
    Message: messages,
    Problem: problems,
    DepthExploration: explorations,
    Decoding: decodings,
    DecodeRequest: requests,
    Branch: branches,
    Verdict: verdicts,
    Budget: budgets,
    Usage: usages,
}
EXAMPLES: list[Record] = [
    Message(role="user", content="hi"),
    Problem(prompt="hi"),
    DepthExploration(),
    Decoding(),
    DecodeRequest(id="1", parent="root", problem="p", prompt="hi", decoding=Decoding(), seed=0, max_tokens=1),
    Branch(text="hi"),
    Verdict(status="accepted"),
    Budget(),
    Usage(),
]


def refusal(kind: type[Record], /, **fields: Any) -> str:
    """The one line that says why ``kind`` refuses these fields."""
    with pytest.raises(ValidationError) as caught:
        kind(**fields)
    return explain(caught.value)


# --- all records ---------------------------------------------------------------------------------------------------


def test_the_examples_cover_every_record() -> None:
    assert {type(record) for record in EXAMPLES} == set(RECORDS)


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda record: type(record).__name__)
def test_no_record_can_be_changed(record: Record) -> None:
    name = next(iter(type(record).model_fields))
    before = record.model_dump()
    with pytest.raises(ValidationError):
        setattr(record, name, getattr(record, name))
    assert record.model_dump() == before


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda record: type(record).__name__)
def test_no_record_takes_a_field_that_it_does_not_have(record: Record) -> None:
    said = refusal(type(record), **record.model_dump(), colour="red")
    assert "colour" in said
    assert "'red'" in said


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
@QUICK
def test_json_loses_nothing(kind: type[Record], data: st.DataObject) -> None:
    record = data.draw(RECORDS[kind])
    assert kind.model_validate_json(record.model_dump_json()) == record
    assert kind.model_validate(record.model_dump(mode="json")) == record


@given(event=events)
@QUICK
def test_json_loses_nothing_of_an_event(event: Any) -> None:
    again = event_adapter.validate_json(event.model_dump_json())
    assert again == event
    assert type(again) is type(event)


def test_an_event_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValidationError, match="vanished"):
        event_adapter.validate_python({"event": "vanished", "id": "1"})


# --- problems ------------------------------------------------------------------------------------------------------

USER = {"role": "user", "content": "What is 6 x 7?"}


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        " \n\t",
        (),
        [{"role": "system", "content": "Be brief."}],
        [{"role": "user", "content": "  "}],
        [USER, {"role": "user", "content": ""}],
    ],
)
def test_an_empty_prompt_is_refused_with_the_remedy(prompt: Any) -> None:
    assert "the prompt is empty; give a question" in refusal(Problem, prompt=prompt)


@pytest.mark.parametrize("prompt", [None, 3, {"role": "user"}, [{"role": "robot", "content": "x"}], [USER, "x"]])
def test_what_is_no_prompt_is_refused(prompt: Any) -> None:
    assert "prompt" in refusal(Problem, prompt=prompt)


def test_the_text_of_a_chat_is_its_last_user_message() -> None:
    chat = [{"role": "system", "content": "S"}, USER, {"role": "assistant", "content": "A"}]
    assert Problem(prompt=chat).text == "What is 6 x 7?"
    assert Problem(prompt=[USER, {"role": "user", "content": "And 7 x 8?"}]).text == "And 7 x 8?"


def test_chat_messages_may_be_records_or_plain_objects() -> None:
    assert Problem(prompt=[USER]) == Problem(prompt=(Message(role="user", content="What is 6 x 7?"),))


@pytest.mark.parametrize(("given_answer", "kept"), [(42, "42"), (0.5, "0.5"), ("42", "42"), (None, None)])
def test_a_numeric_answer_is_kept_as_text(given_answer: Any, kept: str | None) -> None:
    assert Problem(prompt="q", answer=given_answer).answer == kept


def test_a_numeric_id_is_kept_as_text() -> None:
    assert Problem(prompt="q", id=7).key == "7"


@pytest.mark.parametrize("field", ["id", "answer"])
@pytest.mark.parametrize("value", [True, ["4"], {"a": 1}])
def test_an_answer_or_id_that_is_neither_text_nor_number_is_refused(field: str, value: Any) -> None:
    assert field in refusal(Problem, prompt="q", **{field: value})


def test_the_key_is_the_id_or_else_depends_on_the_prompt_alone() -> None:
    assert Problem(prompt="q", id="mine").key == "mine"
    assert Problem(prompt="q", id="").key == ""
    plain, rich = Problem(prompt="q"), Problem(prompt="q", answer="4", metadata={"a": 1})
    assert plain.key == rich.key != Problem(prompt="r").key
    assert plain.key == "p-" + plain.digest[:12]
    # A run is resumed by this name: it may not change from version to version.
    assert plain.digest == "83685c19aabd3b6d7d16a14419ce5e2a"


def test_the_digest_is_that_of_the_prompt_whatever_the_id() -> None:
    assert Problem(prompt="q", id="a").digest == Problem(prompt="q", id="b").digest
    chat = Problem(prompt=[USER])
    assert chat.digest != Problem(prompt="What is 6 x 7?").digest
    assert chat.digest != Problem(prompt=[{"role": "system", "content": "S"}, USER]).digest


@given(first=prompts, second=prompts)
@QUICK
def test_prompts_have_one_digest_exactly_when_they_are_equal(first: Any, second: Any) -> None:
    one, other = Problem(prompt=first), Problem(prompt=second)
    assert (one.digest == other.digest) == (one.prompt == other.prompt)


def test_a_row_keeps_its_other_keys_as_metadata() -> None:
    row = {"prompt": "q", "answer": 4, "id": 9, "level": "hard", "source": {"book": 1}, "metadata": {"seen": True}}
    problem = Problem.from_row(row)
    assert (problem.key, problem.answer) == ("9", "4")
    assert problem.metadata == {"level": "hard", "source": {"book": 1}, "seen": True}


def test_what_a_row_says_in_metadata_goes_before_a_key_of_the_same_name() -> None:
    assert Problem.from_row({"prompt": "q", "level": 1, "metadata": {"level": 2}}).metadata == {"level": 2}


def test_a_row_of_cases() -> None:
    case = {"args": [1, 2], "expect": 3}
    assert Problem.from_row({"prompt": "q", "tests": [case], "entry_point": "add"}).tests == (case,)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({}, "prompt"),
        ({"question": "q"}, "prompt"),
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": "q", "answer": ["4"]}, "answer"),
        ({"prompt": "q", "tests": 3}, "tests"),
        ({"prompt": "q", "metadata": "x"}, "metadata"),
    ],
)
def test_a_row_that_is_no_problem_is_refused_with_its_field_named(row: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named) as caught:
        Problem.from_row(row)
    assert "\n" not in str(caught.value)


# --- requests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("field", "value"), [("seed", -1), ("seed", 2**63), ("max_tokens", 0)])
def test_a_request_out_of_its_limits_is_refused(field: str, value: int) -> None:
    good = EXAMPLES[4].model_dump()
    assert field in refusal(DecodeRequest, **{**good, field: value})


# --- branches, verdicts, budgets -----------------------------------------------------------------------------------


def test_a_text_makes_a_branch() -> None:
    branch = Branch(text="42")
    assert (branch.finish, branch.token_ids, branch.error) == ("eos", (), None)
    assert branch.mean_logprob is None


def test_the_mean_is_that_of_the_models_own_posterior() -> None:
    assert Branch(text="x", logprobs=(-9.0, -9.0), final_logprobs=(-1.0, -2.0)).mean_logprob == -1.5


@pytest.mark.parametrize("field", ["logprobs", "final_logprobs", "entropies"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_do_not_enter_a_branch(field: str, value: float) -> None:
    assert field in refusal(Branch, text="x", **{field: (0.0, value)})


@pytest.mark.parametrize(
    ("status", "score"), [("accepted", 1.0), ("rejected", 0.0), ("abstained", 0.0), ("error", 0.0)]
)
def test_a_verdicts_score_follows_from_its_status(status: Any, score: float) -> None:
    assert Verdict(status=status).score == score
    assert Verdict(status=status, score=0.25).score == 0.25


@pytest.mark.parametrize("score", [-0.01, 1.01, -1.0, math.nan, math.inf, "high"])
def test_a_score_outside_the_unit_interval_is_refused(score: Any) -> None:
    said = refusal(Verdict, status="accepted", score=score)
    assert "score" in said


@pytest.mark.parametrize(("field", "value"), [("status", "maybe"), ("seconds", -1.0), ("seconds", math.nan)])
def test_a_verdict_out_of_its_limits_is_refused(field: str, value: Any) -> None:
    assert field in refusal(Verdict, **{"status": "accepted", field: value})


@pytest.mark.parametrize("field", ["tokens", "prefill_tokens", "seconds", "branches", "verifier_calls"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "many"])
def test_a_budget_of_nothing_or_less_is_refused(field: str, value: Any) -> None:
    assert field in refusal(Budget, **{field: value})


def test_a_budget_without_limits() -> None:
    limits = {"tokens", "prefill_tokens", "seconds", "branches", "verifier_calls"}
    assert Budget().model_dump() == dict.fromkeys(limits)
