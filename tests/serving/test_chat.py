"""Chat completions, as OpenAI's own client sees them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from led_agent import Decoding, Problem, solve
from led_agent.serving.app import Setup
from led_agent.strategies import BestOfN, Fallback
from led_agent.tree import derive_seed
from tests.serving.servers import PUZZLE, Running, asked


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with server.client() as made:
        yield made


def led_of(reply: Any) -> dict[str, Any]:
    return dict(reply.model_extra["led"])


def test_a_completion_is_what_solve_gives(client: openai.OpenAI, countdown: Setup):
    reply = client.chat.completions.create(**asked())
    strategy = Fallback(BestOfN(8, stop_at_first=False))
    same = solve(Problem(prompt=PUZZLE), strategy=strategy, decoding=countdown.load().decoding, seed=0)
    led = led_of(reply)
    assert reply.object == "chat.completion"
    assert reply.choices[0].finish_reason == "stop"
    assert led["verified"]
    assert led["answer"] in reply.choices[0].message.content
    assert led["usage"]["branches"] == 8
    assert reply.usage.prompt_tokens == len(countdown.load().tokens.render(PUZZLE))
    assert reply.usage.completion_tokens == led["usage"]["generated_tokens"]
    # Which of several right branches comes first is a matter of time; what each of them says is not.
    assert reply.choices[0].message.content in {same.tree.text(node.id) for node in same.tree.accepted()}


def test_the_same_seed_gives_the_same_branches(client: openai.OpenAI):
    whole = {"strategy": "best-of-n:n=3,stop_at_first=false"}
    first, again = (client.chat.completions.create(**asked(seed=7), n=3, extra_body={"led": whole}) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert len(texts) == 3
    assert led_of(first)["seed"] == 7
    other = client.chat.completions.create(**asked(seed=8), n=3, extra_body={"led": whole})
    assert texts != [choice.message.content for choice in other.choices]


def test_without_a_seed_each_request_has_its_own_and_says_which(client: openai.OpenAI):
    body = asked(temperature=0.9)
    del body["seed"]
    seeds = {led_of(client.chat.completions.create(**body))["seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert derive_seed(min(seeds), Problem(prompt=PUZZLE), "1") != derive_seed(max(seeds), Problem(prompt=PUZZLE), "1")


def test_choices_are_the_best_answers_best_first(client: openai.OpenAI):
    reply = client.chat.completions.create(**asked(), n=5)
    standings = [choice.model_extra["led"]["status"] for choice in reply.choices]
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3, 4]
    assert standings[0] == "accepted"
    marks = [standing == "accepted" for standing in standings]
    assert marks == sorted(marks, reverse=True)


def test_a_temperature_of_zero_is_one_greedy_branch(client: openai.OpenAI):
    reply = client.chat.completions.create(**asked(temperature=0))
    greedy = solve(PUZZLE, strategy=BestOfN(1), decoding=Decoding.greedy())
    assert reply.choices[0].message.content == greedy.text
    assert led_of(reply)["usage"]["branches"] == 1


def test_a_stop_string_ends_the_answer_and_is_cut(client: openai.OpenAI):
    reply = client.chat.completions.create(**asked(temperature=0), stop=[" ="])
    assert reply.choices[0].finish_reason == "stop"
    assert "=" not in reply.choices[0].message.content


def test_a_token_limit_ends_it_too(client: openai.OpenAI):
    for name in ("max_tokens", "max_completion_tokens"):
        reply = client.chat.completions.create(**asked(temperature=0), **{name: 4})
        assert reply.choices[0].finish_reason == "length"
        assert reply.usage.completion_tokens == 4


def test_log_probabilities_are_the_models_own(client: openai.OpenAI):
    reply = client.chat.completions.create(**asked(temperature=0), logprobs=True)
    greedy = solve(PUZZLE, strategy=BestOfN(1), decoding=Decoding.greedy())
    told = reply.choices[0].logprobs.content
    assert [entry.logprob for entry in told] == pytest.approx(greedy.branch.final_logprobs)
    assert "".join(entry.token for entry in told) == greedy.text
    assert bytes(told[0].bytes).decode() == told[0].token


def test_a_stream_says_what_the_reply_says(client: openai.OpenAI):
    whole = client.chat.completions.create(**asked(temperature=0.7), n=2, extra_body={"led": {"n": 4}})
    stream = client.chat.completions.create(
        **asked(temperature=0.7), n=2, stream=True, stream_options={"include_usage": True}, extra_body={"led": {"n": 4}}
    )
    texts, finishes, usage, led = {0: "", 1: ""}, {}, None, {}
    for piece in stream:
        usage, led = piece.usage or usage, piece.model_extra.get("led") or led
        for choice in piece.choices:
            texts[choice.index] += choice.delta.content or ""
            finishes[choice.index] = choice.finish_reason or finishes.get(choice.index)
    assert sorted(texts.values()) == sorted(choice.message.content for choice in whole.choices)
    assert set(finishes.values()) <= {"stop", "length"}
    assert usage == whole.usage
    assert led["answer"] == led_of(whole)["answer"]


def test_one_branch_is_told_while_it_grows(client: openai.OpenAI):
    one = {"led": {"strategy": "best-of-n:n=1"}}
    whole = client.chat.completions.create(**asked(), stop=["</think>"], extra_body=one)
    pieces = list(client.chat.completions.create(**asked(), stop=["</think>"], stream=True, extra_body=one))
    said = [choice.delta.content or "" for piece in pieces for choice in piece.choices]
    assert "".join(said) == whole.choices[0].message.content
    assert "</think" not in "".join(said)


def test_progress_tells_of_every_branch(client: openai.OpenAI):
    led = {"n": 4, "progress": True}
    events, texts = [], ""
    for piece in client.chat.completions.create(**asked(), stream=True, extra_body={"led": led}):
        told = piece.model_extra.get("led")
        if piece.choices:
            texts += piece.choices[0].delta.content or ""
        elif told:
            events.append(told)
    assert events[0]["event"] == "index"
    # What had happened before the stream was heard is in the index, and in no event.
    (head,) = events[0]["data"]["problems"]
    nodes = {node["id"] for node in head["nodes"]}
    nodes |= {event["data"]["node"]["id"] for event in events if event["event"] == "node"}
    assert {"1", "2", "3", "4"} <= nodes
    heads = [head, *(event["data"] for event in events if event["event"] == "problem")]
    (ended,) = [one["ended"] for one in heads if one["ended"]]
    assert ended["answer"] in texts


def test_settings_of_the_search_are_followed(client: openai.OpenAI, server: Running):
    led = {
        "strategy": "fallback(best-of-n:n=2):tries=1",
        "decoding": "noise:sigma=0.05",
        "verifiers": ["countdown", r"matches:\("],
        "budget": {"branches": 2},
    }
    reply = client.chat.completions.create(**asked(), extra_body={"led": led})
    tree = server.ask("GET", f"/v1/runs/{led_of(reply)['run']}").json()["problems"][0]
    assert len(tree["nodes"]) <= 2
    assert {node["kind"] for node in tree["nodes"]} == {"noisy"}
    judged = {name for node in tree["nodes"] for name in node["verifiers"]}
    assert judged <= {"countdown", "matches"}
    assert "countdown" in judged


def test_a_reference_answer_is_judged_by_math(server: Running):
    """The embedded model takes puzzles only, and these have a verifier of their own; named, the other judges."""
    body = asked(led={"verifiers": ["math_answer"], "answer": "35", "n": 2})
    reply = server.ask("POST", "/v1/chat/completions", json=body).json()
    tree = server.ask("GET", f"/v1/runs/{reply['led']['run']}").json()["problems"][0]
    assert {name for node in tree["nodes"] for name in node["verifiers"]} == {"math_answer"}
    assert tree["reference"] == "35"


def test_models_are_listed(client: openai.OpenAI):
    assert [model.id for model in client.models.list()] == ["countdown"]
    assert client.models.retrieve("countdown").owned_by == "led_agent"
    with pytest.raises(openai.NotFoundError, match="not served here"):
        client.models.retrieve("gpt-5")


@pytest.mark.parametrize(
    ("body", "kind", "told", "param"),
    [
        (asked("Hi"), openai.BadRequestError, "doesn't read as a Countdown puzzle", "messages"),
        (asked(model="gpt-5"), openai.NotFoundError, "not served here; there is 'countdown'", "model"),
        (asked(temperature=-1), openai.BadRequestError, "temperature", "temperature"),
        (asked(n=17), openai.BadRequestError, "n is 17; here at most 16", "n"),
        (asked(n=0), openai.BadRequestError, "n: ", "n"),
        (asked(max_tokens=10**6), openai.BadRequestError, "max_tokens is 1000000; here at most 8192", "max_tokens"),
        (asked(stop=[""]), openai.BadRequestError, "stop: an empty string", "stop"),
        (asked(tools=[{"type": "function"}]), openai.BadRequestError, "tools", "tools"),
        (asked(frequency_penalty=0.5), openai.BadRequestError, "frequency_penalty", "frequency_penalty"),
        (asked(top_logprobs=3, logprobs=True), openai.BadRequestError, "top_logprobs", "top_logprobs"),
        (asked(nonsense=1), openai.BadRequestError, "nonsense", "nonsense"),
        (asked(led={"nonsense": 1}), openai.BadRequestError, "led.nonsense", "led.nonsense"),
        (asked(led={"strategy": "bfs"}), openai.BadRequestError, "no strategy is called 'bfs'", "led.strategy"),
        (asked(led={"strategy": "x.py:y"}), openai.BadRequestError, "no strategy is called", "led.strategy"),
        (asked(led={"strategy": "os:system"}), openai.BadRequestError, "no strategy is called", "led.strategy"),
        (asked(led={"strategy": "best-of-n:n=9999"}), openai.BadRequestError, "at most 256", "led.strategy"),
        (asked(led={"strategy": "fallback(beam:width=9999)"}), openai.BadRequestError, "at most 256", "led.strategy"),
        (asked(led={"strategy": "portfolio(beam|best-of-n:n=999)"}), openai.BadRequestError, "at most", "led.strategy"),
        (asked(led={"strategy": "beam", "n": 3}), openai.BadRequestError, "not both", "led.n"),
        (asked(led={"n": 1000}), openai.BadRequestError, "led.n is 1000", "led.n"),
        (asked(led={"decoding": "hot"}), openai.BadRequestError, "no decoding is called 'hot'", "led.decoding"),
        (asked(led={"decoding": "esamp:rank=4096"}), openai.BadRequestError, "rank is 4096", "led.decoding"),
        (asked(led={"decoding": "led.paper:depths=99"}), openai.BadRequestError, "depths is 99", None),
        (asked(led={"verifiers": ["no.such:thing"]}), openai.BadRequestError, "is not offered here", "led.verifiers"),
        (asked(led={"verifiers": ["os:system"]}), openai.BadRequestError, "is not offered here", "led.verifiers"),
        (asked(led={"verifiers": ["judge:m,url=http://x"]}), openai.BadRequestError, "is not offered", "led.verifiers"),
        (asked(led={"verifiers": ["reward_model:/etc"]}), openai.BadRequestError, "is not offered", "led.verifiers"),
        (asked(led={"verifiers": ["matches:("]}), openai.BadRequestError, "led.verifiers", "led.verifiers"),
        (asked(led={"verifiers": ["unit_tests"]}), openai.PermissionDeniedError, "runs code", "led.verifiers"),
        (asked(led={"tests": "assert True"}), openai.PermissionDeniedError, "switched off over HTTP", "led.tests"),
        ({"model": "countdown", "messages": []}, openai.BadRequestError, "messages", "messages"),
        (asked(" "), openai.BadRequestError, "messages", "messages"),
    ],
)  # fmt: skip
def test_what_is_refused_says_why(
    client: openai.OpenAI, body: dict[str, Any], kind: type[openai.APIStatusError], told: str, param: str | None
):
    with pytest.raises(kind) as raised:
        client.post("/chat/completions", body=body, cast_to=object)
    error = raised.value.body
    assert told in error["message"]
    assert error["param"] == param


def test_a_conversation_goes_through_the_chat_template(server: Running):
    turns = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": PUZZLE}]
    reply = server.ask("POST", "/v1/chat/completions", json={"model": "countdown", "messages": turns}).json()
    tree = server.ask("GET", f"/v1/runs/{reply['led']['run']}").json()["problems"][0]
    assert tree["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PUZZLE}]
    assert tree["prompt"] == PUZZLE
    assert reply["choices"][0]["message"]["content"]


def test_content_may_come_in_parts(server: Running):
    parts = [{"type": "text", "text": "Use 3, 20 and 5 "}, {"type": "text", "text": "to make 35."}]
    body = {**asked(temperature=0), "messages": [{"role": "user", "content": parts}]}
    said = server.ask("POST", "/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    assert said == solve(PUZZLE, strategy=BestOfN(1), decoding=Decoding.greedy()).text
