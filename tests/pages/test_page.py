"""The chat and search page, in a real Chromium, against the real server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from led_agent.local import LocalDecoder
from led_agent.serving.app import Setup
from led_agent.serving.asking import Defaults
from led_agent.serving.limits import Keys, Limits
from tests.pages.conftest import PHONE, Open, click_node, expect
from tests.pages.test_viewer import weak
from tests.pages.trees import HOSTILE
from tests.serving.servers import PUZZLE, Running, embedded, endless, running, setup_of, until

SECRET = "a-key-of-twenty-letters"


@pytest.fixture(scope="module")
def countdown() -> Iterator[Setup]:
    with embedded() as setup:
        yield setup


@pytest.fixture(scope="module")
def server(countdown: Setup) -> Iterator[Running]:
    with running(countdown) as up:
        yield up


@pytest.fixture
def slow() -> Iterator[LocalDecoder]:
    decoder = endless()
    yield decoder
    decoder.close()


def ask(page: Any, prompt: str, key: str = "Control+Enter") -> None:
    page.get_by_test_id("prompt").fill(prompt)
    page.get_by_test_id("prompt").press(key)


def test_a_problem_is_asked_solved_and_looked_into(server: Running, open_page: Open):
    page = open_page(server.url, origin=server.url)
    expect(page.get_by_test_id("model")).to_have_text("countdown")
    ask(page, PUZZLE)
    expect(page.get_by_test_id("standing")).to_have_text("verified", timeout=60_000)
    expect(page.get_by_test_id("live")).to_have_text("ended")
    expect(page.get_by_test_id("cost")).to_contain_text("tokens")
    expect(page.get_by_test_id("run-row").first).to_contain_text("✓ verified")
    answer = page.get_by_test_id("result-answer").inner_text()
    page.get_by_test_id("open-best").click()
    expect(page.get_by_test_id("tokens")).to_contain_text(answer)
    page.reload()
    expect(page.get_by_test_id("result-answer")).to_have_text(answer)


def test_what_is_sent_before_the_settings_have_come_is_solved_and_stays(server: Running, open_page: Open):
    page = open_page(server.url, origin=server.url)
    ask(page, PUZZLE)
    expect(page.get_by_test_id("standing")).to_have_text("verified", timeout=60_000)
    first = page.url  # it names the run
    held: list[Any] = []
    page.route("**/v1/settings", lambda route: held.append(route))
    page.reload()
    ask(page, PUZZLE)
    expect(page.get_by_test_id("standing")).to_have_text("verified", timeout=60_000)
    page.get_by_test_id("open-best").click()
    expect(page.get_by_test_id("panel")).to_contain_text("accepted")
    second = page.url
    expect(page.get_by_test_id("model")).to_have_count(0)
    with page.expect_response("**/v1/runs"):  # the last that the page asks for before it opens what it was to open
        for route in held:
            route.continue_()
    expect(page.get_by_test_id("model")).to_have_text("countdown")
    expect(page.get_by_test_id("panel")).to_contain_text("accepted")
    assert first != page.url == second


def test_what_is_typed_while_a_problem_is_sent_stays(server: Running, open_page: Open):
    page = open_page(server.url, origin=server.url)
    held: list[Any] = []
    page.route("**/v1/runs", lambda route: held.append(route) if route.request.method == "POST" else route.fallback())
    ask(page, PUZZLE)
    expect(page.get_by_test_id("send")).to_have_text("sending")
    page.get_by_test_id("prompt").fill("the next")
    for route in held:
        route.continue_()
    expect(page.get_by_test_id("standing")).to_have_text("verified", timeout=60_000)
    expect(page.get_by_test_id("send")).not_to_have_text("sending")
    expect(page.get_by_test_id("prompt")).to_have_value("the next")


def test_a_list_of_runs_that_comes_late_does_not_replace_a_newer_one(server: Running, open_page: Open):
    page = open_page(server.url, origin=server.url)
    expect(page.get_by_test_id("model")).to_have_text("countdown")
    held: list[Any] = []
    page.route("**/v1/runs", lambda route: route.fallback() if held else held.append(route))
    page.reload()
    expect(page.get_by_test_id("model")).to_have_text("countdown")
    ask(page, PUZZLE)
    expect(page.get_by_test_id("standing")).to_have_text("verified", timeout=60_000)
    expect(page.get_by_test_id("run-row").first).to_contain_text("✓ verified")
    with page.expect_response("**/v1/runs"):
        held[0].fulfill(json={"data": []})
    page.evaluate("async () => { for (let n = 2; n; n -= 1) await new Promise(requestAnimationFrame); }")
    expect(page.get_by_test_id("run-row").first).to_contain_text("✓ verified")


def test_a_list_of_runs_that_could_not_be_read_is_told_until_it_is(slow: LocalDecoder, open_page: Open):
    with running(setup_of(slow, slow.tokens, limits=Limits(max_tokens=100_000), defaults=many())) as up:
        page = open_page(up.url, origin=up.url)
        ask(page, "w1 w2 w3 .")
        expect(page.get_by_test_id("run-row")).to_contain_text("running", timeout=30_000)
        page.route("**/v1/runs", lambda route: route.abort())
        expect(page.get_by_test_id("error")).to_contain_text("does not answer")  # it is read every few seconds
        page.unroute("**/v1/runs")
        expect(page.get_by_test_id("error")).to_have_count(0)
        page.get_by_test_id("stop").click()
        expect(page.get_by_test_id("standing")).to_have_text("not verified", timeout=30_000)


def test_what_was_chosen_is_what_is_run(server: Running, open_page: Open):
    page = open_page(server.url, origin=server.url)
    page.get_by_test_id("settings-toggle").click()
    page.get_by_test_id("strategy").fill("best-of-n:n=3,stop_at_first=false")
    page.get_by_test_id("decoding").fill("plain")
    page.get_by_test_id("answer").fill("35")
    page.get_by_test_id("seed").fill("7")
    page.get_by_test_id("max-tokens").fill("200")
    page.get_by_test_id("prompt").fill(PUZZLE)
    page.get_by_test_id("send").click()
    expect(page.get_by_test_id("standing")).to_be_visible(timeout=60_000)
    expect(page.get_by_test_id("heading")).to_contain_text("3 branches")
    click_node(page, "1")
    expect(page.get_by_test_id("panel")).to_contain_text("plain: sampled from the final posterior")
    page.get_by_test_id("heading").click()
    expect(page.get_by_test_id("panel")).to_contain_text("reference answer35")
    expect(page.get_by_test_id("panel")).to_contain_text("seed7")


def test_what_the_server_refuses_is_said_in_its_words(server: Running, open_page: Open):
    page = open_page(server.url, origin=server.url)
    ask(page, "What is the meaning of life?")
    expect(page.get_by_test_id("error")).to_contain_text("Countdown puzzle")
    expect(page.get_by_test_id("prompt")).to_have_value("What is the meaning of life?")


def test_a_run_grows_and_is_stopped(slow: LocalDecoder, open_page: Open):
    with running(setup_of(slow, slow.tokens, limits=Limits(max_tokens=100_000), defaults=many())) as up:
        page = open_page(up.url, origin=up.url)
        ask(page, "w1 w2 w3 .")
        expect(page.get_by_test_id("status-pending")).to_be_visible(timeout=30_000)
        click_node(page, "1")
        expect(page.get_by_test_id("panel")).to_contain_text("Text so far")
        page.get_by_test_id("stop").click()
        expect(page.get_by_test_id("standing")).to_have_text("not verified", timeout=30_000)
        expect(page.get_by_test_id("stop")).to_have_count(0)
        expect(page.get_by_test_id("run-row")).to_contain_text("not verified")


def many() -> Defaults:
    return Defaults(verifiers={}, max_tokens=100_000)


def test_a_busy_server_says_when_to_come_again(slow: LocalDecoder, open_page: Open):
    limits = Limits(max_tokens=100_000, waiting=1)
    with running(setup_of(slow, slow.tokens, limits=limits, defaults=many())) as up:
        up.service.counts.runs, up.service.counts.seconds = 1, 3600.0  # what a run took so far: a minute is to wait
        page = open_page(up.url, origin=up.url)
        page.clock.install()
        for _ in range(12):
            if page.get_by_test_id("countdown").count():
                break
            ask(page, "w1 w2 w3 .")
            expect(page.get_by_test_id("send")).not_to_have_text("sending")
        expect(page.get_by_test_id("error")).to_contain_text("The server is busy")
        expect(page.get_by_test_id("countdown")).to_contain_text(re.compile(r"again in \d+ s"))
        page.get_by_test_id("prompt").fill("w1")
        expect(page.get_by_test_id("send")).to_be_disabled()
        page.clock.fast_forward(60_000)
        expect(page.get_by_test_id("countdown")).to_contain_text("try again now")
        expect(page.get_by_test_id("send")).to_be_enabled()
        for run in list(up.service.runs("")):
            up.service.stop(run)


def test_a_key_is_asked_for_and_kept_for_the_tab_only(countdown: Setup, open_page: Open):
    from dataclasses import replace

    with running(replace(countdown, keys=Keys([SECRET]))) as up:
        page = open_page(up.url, origin=up.url)
        expect(page.get_by_test_id("key-dialog")).to_be_visible()
        page.get_by_test_id("key").fill("wrong")
        page.get_by_test_id("key-send").click()
        expect(page.get_by_test_id("key-dialog")).to_contain_text("refused")
        page.get_by_test_id("key").fill(SECRET)
        page.get_by_test_id("key-send").click()
        expect(page.get_by_test_id("key-dialog")).to_have_count(0)
        ask(page, PUZZLE)
        expect(page.get_by_test_id("standing")).to_be_visible(timeout=60_000)
        assert page.evaluate("() => [localStorage.length, document.cookie]") == [0, ""]
        assert SECRET not in page.url + page.content()
        other = page.context.new_page()
        other.goto(up.url)
        expect(other.get_by_test_id("key-dialog")).to_be_visible()


def test_a_server_that_is_gone_is_said_to_be(countdown: Setup, open_page: Open):
    with running(countdown) as up:
        page = open_page(up.url, origin=up.url)
        expect(page.get_by_test_id("model")).to_have_text("countdown")
    ask(page, PUZZLE)
    expect(page.get_by_test_id("error")).to_contain_text("does not answer")
    expect(page.get_by_test_id("prompt")).to_have_value(PUZZLE)


def test_hostile_problems_do_nothing(slow: LocalDecoder, open_page: Open):
    everything = "\n".join(text for name, text in HOSTILE.items() if name != "surrogate")
    with running(setup_of(slow, slow.tokens, limits=Limits(max_tokens=100_000))) as up:
        page = open_page(up.url, origin=up.url, viewport=PHONE)
        ask(page, everything)
        expect(page.get_by_test_id("standing")).to_be_visible(timeout=60_000)
        page.get_by_test_id("heading").click()
        expect(page.get_by_test_id("panel")).to_contain_text("<script>window.harmed = true</script>")
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x00]", page.locator("body").inner_text())
        assert until(lambda: all(run.status == "done" for run in up.service.runs("")))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_readable_on_a_phone(server: Running, open_page: Open, scheme: str):
    page = open_page(server.url, origin=server.url, viewport=PHONE, color_scheme=scheme)
    ask(page, PUZZLE)
    expect(page.get_by_test_id("standing")).to_be_visible(timeout=60_000)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"]
    assert weak(page) == []
    page.get_by_test_id("runs-button").click()
    expect(page.get_by_test_id("run-row").first).to_be_visible()
    assert weak(page) == []


def test_one_asks_on_where_the_model_is_no_puzzle_solver(slow: LocalDecoder, open_page: Open):
    with running(setup_of(slow, slow.tokens, limits=Limits(max_tokens=100_000))) as up:
        page = open_page(up.url, origin=up.url)
        ask(page, "w1 w2 w3 .")
        expect(page.get_by_test_id("standing")).to_be_visible(timeout=60_000)
        expect(page.get_by_test_id("send")).to_have_text("ask on")
        ask(page, "w4 w5 .", key="Meta+Enter")
        messages = page.get_by_test_id("message")
        expect(messages).to_have_count(3, timeout=60_000)
        expect(messages.nth(0)).to_contain_text("w1 w2 w3 .")
        expect(messages.nth(1)).to_contain_text("assistant")
        expect(messages.nth(2)).to_contain_text("w4 w5 .")
        expect(page.get_by_test_id("standing")).to_be_visible(timeout=60_000)
        page.get_by_test_id("new").click()
        expect(page.get_by_test_id("send")).to_have_text("solve")
