"""The viewer as one meets it: a file in a browser. Every test also checks that nothing in it runs or asks anyone."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from led_agent import Decoding, Solution, Tree, solve
from led_agent.pages.export import write_html
from led_agent.pages.shading import Shading
from led_agent.strategies import BestOfN, Fallback
from led_agent.types import LatentNoise
from tests.pages.conftest import PHONE, WIDE, Open, click_node, expect, holds, where
from tests.pages.trees import HOSTILE, hostile_tree, tree_of

MIXED = [("so 35", "accepted", "35"), ("so 34", "rejected", "34"), ("who knows", "abstained", None)]
UNSOLVED = [("so 33", "rejected", "33"), *MIXED[1:]]


@pytest.fixture(scope="module")
def solution() -> Solution:
    noisy = Decoding.led("paper", depths=2).replace(latent_noise=LatentNoise(sigma=0.05, scale="confidence"))
    return solve("Use 3, 20 and 5 to make 35.", strategy=Fallback(BestOfN(8, stop_at_first=False)), decoding=noisy)


@pytest.fixture(scope="module")
def real(solution: Solution, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a real search."""
    path = tmp_path_factory.mktemp("real") / "run.html"
    write_html(path, [solution.tree], title="real")
    return path.as_uri()


@pytest.fixture
def mixed(tmp_path: Path) -> str:
    """Three problems of three branches."""
    path = tmp_path / "mixed.html"
    trees = [tree_of(f"p{i}", MIXED, prompt=f"Question {i}?") for i in range(3)]
    write_html(path, trees, title="mixed")
    return path.as_uri()


def test_a_branch_of_a_real_search_tells_all_there_is(open_page: Open, real: str, solution: Solution):
    page = open_page(real)
    node = next(n for n in solution.tree.nodes() if n.status == "accepted")
    click_node(page, node.id)
    panel = page.get_by_test_id("panel")
    assert panel.get_by_test_id("tokens").text_content() == node.branch.text
    assert node.verdict.reason in panel.get_by_test_id("verdicts").inner_text()
    assert node.request.decoding.label in panel.get_by_test_id("rung").inner_text()
    assert str(node.request.seed) in panel.get_by_test_id("settings").inner_text()


def test_tokens_are_shaded_by_what_is_chosen_and_tell_their_values(open_page: Open, real: str, solution: Solution):
    page = open_page(real)
    node = next(n for n in solution.tree.nodes() if any(n.branch.explored))
    click_node(page, node.id)
    page.get_by_test_id("shade").select_option("explored")
    pieces = Shading().pieces(solution.tree)(node.branch.token_ids, ())
    chosen = "".join(itertools.compress(pieces, node.branch.explored))
    assert chosen
    holds(
        page, "[...document.querySelectorAll('.tokens .t8')].map((each) => each.textContent).join('') === given", chosen
    )
    told = page.get_by_test_id("token-values")
    page.get_by_test_id("tokens").focus()
    for place, explored in enumerate(node.branch.explored, 1):
        page.keyboard.press("ArrowRight")
        expect(told).to_contain_text(f"token {place} of {len(node.branch.token_ids)}")
        values = told.inner_text()
        assert f"id {node.branch.token_ids[place - 1]}" in values
        assert f"σ {node.branch.noise_scales[place - 1]:.3f}" in values
        assert ("explored" in values, "exploited" in values) == (explored, not explored)
    box = page.locator(".tokens span").first.bounding_box()
    page.mouse.move(box["x"] + 3, box["y"] + box["height"] / 2)
    expect(page.locator(".card.fixed")).to_contain_text("token 1 of")


def test_the_status_filter_and_the_verdict_filter_find_their_branches(open_page: Open, mixed: str):
    page = open_page(mixed)
    found = page.get_by_test_id("found")
    page.get_by_test_id("status-rejected").click()
    expect(found).to_have_text("1")
    page.get_by_test_id("status-accepted").click()
    expect(found).to_have_text("2")
    page.get_by_test_id("only").check()
    holds(page, "document.querySelector('canvas').ledScene.shown === 2")
    page.get_by_test_id("status-rejected").click()
    page.get_by_test_id("status-accepted").click()
    page.get_by_test_id("verdict-filter").select_option(label="countdown: abstained")
    expect(found).to_have_text("1")
    holds(page, "document.querySelector('canvas').ledScene.whereIs('3') !== null")


def test_the_search_reads_whole_texts(open_page: Open, tmp_path: Path):
    needle = "needle in the middle"
    rows = [("x" * 3000 + needle + "y" * 3000, "rejected", None), ("z" * 50, "rejected", None)]
    write_html(tmp_path / "run.html", [tree_of("p", rows)], title="search")
    page = open_page((tmp_path / "run.html").as_uri())
    where(page, "1")  # then the page hears keys
    page.keyboard.press("/")
    page.keyboard.type(needle.upper())
    expect(page.get_by_test_id("found")).to_have_text("1")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("described")).to_contain_text("branch 1,")


def test_the_keyboard_is_enough(open_page: Open, mixed: str):
    page = open_page(mixed)
    where(page, "1")  # then the page hears keys
    said = page.get_by_test_id("described")
    page.get_by_test_id("tree").focus()
    expect(said).to_contain_text("the problem: Question 0?")
    for key, expected in [("ArrowRight", "branch 1"), ("ArrowDown", "branch 2"), ("ArrowUp", "branch 1"),
                          ("ArrowLeft", "the problem"), ("ArrowRight", "branch 1")]:  # fmt: skip
        page.keyboard.press(key)
        expect(said).to_contain_text(re.compile(f"^{expected}"))
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("panel").get_by_role("heading", name="Branch 1")).to_be_visible()
    before = where(page, "1")["k"]
    page.keyboard.press("+")
    holds(page, "document.querySelector('canvas').ledScene.whereIs('1').k > given", before)
    page.keyboard.press("-")
    page.keyboard.press("-")
    holds(page, "document.querySelector('canvas').ledScene.whereIs('1').k < given", before)
    page.keyboard.press("0")
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("panel")).to_have_count(0)
    expect(page.get_by_test_id("tree")).to_be_focused()
    page.keyboard.press("?")
    expect(page.get_by_test_id("keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("keys")).to_have_count(0)
    page.keyboard.press("]")
    expect(page.get_by_test_id("heading")).to_contain_text("Question 1?")


def test_the_first_press_on_a_tree_that_fits_does_not_move_it(open_page: Open, mixed: str):
    page = open_page(mixed)
    before = where(page, "root")
    page.get_by_test_id("tree").focus()
    holds(page, "document.querySelector('canvas').ledScene.selected === 'root'")
    assert where(page, "root") == before
    page.set_viewport_size({**WIDE, "width": 360})  # it still fits itself into what room there is
    holds(page, "document.querySelector('canvas').ledScene.whereIs('root').k < given", before["k"])


def test_another_height_moves_the_view_only_for_what_it_took_out_of_sight(open_page: Open, mixed: str):
    page = open_page(mixed)
    click_node(page, "3")
    page.get_by_test_id("tree").focus()
    page.keyboard.press("+")
    before = where(page, "3")
    for height in (WIDE["height"] - 20, WIDE["height"], WIDE["height"] - 40):  # as by a legend of another line
        assert resized(page, height) == pytest.approx(before, abs=1.0)
    lower = resized(page, int(before["y"]))
    assert lower["y"] < before["y"] - 30
    assert lower == pytest.approx({**before, "y": lower["y"]}, abs=1.0)
    assert resized(page, WIDE["height"]) == pytest.approx(lower, abs=1.0)
    page.mouse.move(lower["x"], lower["y"] + 60)
    page.mouse.down()
    page.mouse.move(lower["x"], 5)
    page.mouse.up()
    away = where(page, "3")
    assert away["y"] < page.get_by_test_id("tree").bounding_box()["y"]
    assert resized(page, WIDE["height"] - 20) == pytest.approx(away, abs=1.0)  # out of sight by choice


def resized(page: Any, height: int) -> dict[str, float]:
    """Where branch 3 is in a window of another height."""
    page.set_viewport_size({**WIDE, "height": height})
    drawn = "document.querySelector('canvas').ledScene.height === document.querySelector('canvas').clientHeight"
    holds(page, f"innerHeight === given && {drawn}", height)
    return where(page, "3")


def test_the_plain_list_holds_the_same_tree(open_page: Open, mixed: str):
    page = open_page(mixed)
    where(page, "1")  # then the page hears keys
    page.keyboard.press("l")
    rows = page.get_by_test_id("outline").locator("li")
    expect(rows).to_have_count(3)
    expect(rows.nth(0)).to_contain_text("accepted")
    rows.nth(1).locator("button").click()
    expect(page.get_by_test_id("panel")).to_contain_text("so 34")


def test_an_address_opens_what_it_names(open_page: Open, mixed: str):
    page = open_page(f"{mixed}#problem=p2&branch=2")
    expect(page.get_by_test_id("heading")).to_contain_text("Question 2?")
    expect(page.get_by_test_id("panel").get_by_role("heading", name="Branch 2")).to_be_visible()


def test_thousands_of_problems_are_a_list_of_those_in_sight(open_page: Open, tmp_path: Path):
    trees = (tree_of(f"p{i}", (UNSOLVED, MIXED)[i % 2], prompt=f"Question {i}?") for i in range(3000))
    write_html(tmp_path / "run.html", trees, title="many")
    page = open_page((tmp_path / "run.html").as_uri())
    rows = page.get_by_test_id("problem-row")
    expect(rows.nth(5)).to_be_attached()
    assert rows.count() < 60
    expect(page.get_by_test_id("sums")).to_contain_text("1,500 of 3,000 problems verified")
    page.get_by_test_id("problem-search").fill("Question 2999?")
    expect(rows).to_have_count(1)
    rows.click()
    expect(page.get_by_test_id("heading")).to_contain_text("Question 2999?")
    page.get_by_test_id("problem-search").fill("")
    page.get_by_test_id("problem-choice").select_option("verified")
    expect(page.get_by_test_id("problem-choice")).to_contain_text("verified (1,500)")


def test_two_runs_stand_side_by_side(open_page: Open, tmp_path: Path):
    better = [tree_of(f"p{i}", MIXED if i < 2 else UNSOLVED) for i in range(3)]
    worse = [tree_of(f"p{i}", MIXED[:2] if i == 2 else UNSOLVED[:2]) for i in range(4)]
    write_html(tmp_path / "run.html", better, title="better", other=worse, other_title="worse")
    page = open_page((tmp_path / "run.html").as_uri())
    told = page.get_by_test_id("difference")
    expect(told).to_contain_text("Of 3 in both: A verified 2, B 1; only A 2, only B 1.")
    expect(told).to_contain_text("Tokens: A 81, B 54 (−33 %)")
    expect(page.get_by_test_id("tree")).to_have_count(2)
    click_node(page, "1", side=1)
    expect(page.get_by_test_id("text")).to_contain_text("so 33")
    click_node(page, "1", side=0)
    expect(page.get_by_test_id("text")).to_contain_text("so 35")
    page.get_by_test_id("problem-choice").select_option("in one run only")
    expect(page.get_by_test_id("problem-row")).to_have_count(1)
    page.get_by_test_id("problem-row").click()
    expect(page.get_by_test_id("side-A")).to_contain_text("this run has no such problem")


def test_without_the_tokenizer_the_panel_says_so(open_page: Open, tmp_path: Path):
    write_html(tmp_path / "run.html", [hostile_tree("x")], title="none")
    page = open_page((tmp_path / "run.html").as_uri())
    click_node(page, "1")
    expect(page.get_by_test_id("no-tokenizer")).to_contain_text("tokenizer isn't at hand")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_text_has_contrast_and_nothing_is_wider_than_the_window(
    open_page: Open, real: str, scheme: str, size: dict[str, int]
):
    page = open_page(real, viewport=size, color_scheme=scheme)
    click_node(page, "1")
    page.get_by_test_id("verdicts").wait_for()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= size["width"]
    expect(page.locator("html")).to_have_attribute("data-theme", scheme)
    panel = page.get_by_test_id("panel").bounding_box()
    tree = page.get_by_test_id("tree").bounding_box()
    assert tree["width"] > 250
    assert tree["height"] > 150
    assert (panel["y"] >= tree["y"] + tree["height"]) == (size is PHONE)
    assert weak(page) == []
    page.get_by_test_id("theme").click()
    expect(page.locator("html")).to_have_attribute("data-theme", {"light": "dark", "dark": "light"}[scheme])
    assert weak(page) == []


def weak(page: Any) -> list[str]:
    """Texts with less contrast than WCAG AA asks of them, 4.5 to 1, over the ground that is painted behind them."""
    found: list[str] = page.evaluate(
        """() => {
          const parse = (c) => { const v = c.match(/[\\d.]+/g).map(Number); return v.length < 4 ? [...v, 1] : v; };
          const over = (top, under) => top.slice(0, 3).map((v, i) => v * top[3] + under[i] * (1 - top[3])).concat(1);
          const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
            .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
            .reduce((so, v, i) => so + v * [0.2126, 0.7152, 0.0722][i], 0);
          const weak = [];
          for (const element of document.querySelectorAll("#app *")) {
            const own = [...element.childNodes].filter((child) => child.nodeType === 3);
            const text = own.map((child) => child.nodeValue.trim()).join("");
            if (!text || !element.checkVisibility() || element.closest(".unseen, :disabled, select")) continue;
            let ground = [255, 255, 255, 1];
            const above = [];
            for (let at = element; at; at = at.parentElement) above.unshift(at);
            for (const at of above) ground = over(parse(getComputedStyle(at).backgroundColor), ground);
            const [a, b] = [light(over(parse(getComputedStyle(element).color), ground)), light(ground)];
            const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            if (ratio < 4.5) weak.push(`${element.className} ${text.slice(0, 30)} ${ratio.toFixed(2)}`);
          }
          return weak;
        }"""
    )
    return found


def test_hostile_text_is_shown_as_it_is_and_does_nothing(open_page: Open, tmp_path: Path):
    long = "1 MB in a line " + "x" * 1_000_000
    write_html(tmp_path / "run.html", [hostile_tree(long)], title=HOSTILE["end"])
    page = open_page((tmp_path / "run.html").as_uri())
    for number, text in enumerate(HOSTILE.values(), 1):
        click_node(page, str(number))
        expect(page.get_by_test_id("panel").get_by_role("heading", name=f"Branch {number}")).to_be_visible()
        shown = page.get_by_test_id("text").locator("pre").text_content()
        assert plain(shown) == plain(text)
        assert shown.isprintable() or "\n" in shown
        assert not re.search("[\u202a-\u202e\u2066-\u2069\u200e\u200f\x00]", page.locator("body").inner_text())
    page.keyboard.press("l")
    expect(page.get_by_test_id("outline").locator("li")).to_have_count(len(HOSTILE) + 1)
    expect(page.get_by_test_id("outline").locator("img, svg, script, a")).to_have_count(0)
    page.keyboard.press("l")
    page.get_by_test_id("heading").click()
    expect(page.get_by_test_id("panel")).to_contain_text("<script>window.harmed = true</script>")


def plain(text: str) -> str:
    """What is left of a text when characters that can't be seen are named as the page names them."""
    controls = "\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u00ad\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ufeff"
    hidden = controls + "\\ud800-\\udfff\\U000e0000-\\U000e0fff"
    return re.sub(f"[{hidden}]", lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)


def test_a_megabyte_in_one_line_is_shown_in_parts(open_page: Open, tmp_path: Path):
    write_html(tmp_path / "run.html", [hostile_tree("begin" + "x" * 1_000_000 + "end")], title="long")
    page = open_page((tmp_path / "run.html").as_uri())
    click_node(page, str(len(HOSTILE) + 1))
    text = page.get_by_test_id("text").locator("pre")
    assert text.text_content().startswith("begin")
    assert len(text.text_content()) < 20_000
    page.get_by_test_id("text").get_by_label("last part").click()
    expect(text).to_contain_text(re.compile("end$"))


def test_thousands_of_tokens_are_shown_in_parts_and_equal_shades_are_one_element(open_page: Open, tmp_path: Path):
    tree = tree_of("p", [("", "rejected", None)])
    branch = tree["1"].branch
    n = 9000
    document = branch.model_copy(
        update={"text": "ab " * n, "token_ids": (7,) * n, "entropies": (0.0,) * 8999 + (1.0,), "explored": (False,) * n}
    )
    tree._graph.nodes["1"]["branch"] = document
    tree._views.clear()

    class Letters:
        def pieces(self, tree: object) -> object:
            return lambda ids, before: ["ab "] * len(ids)

        def detail(self, tree: Any, node: str) -> dict[str, Any]:
            from led_agent.pages.data import detail

            return detail(tree, node, self.pieces(tree))

    write_html(tmp_path / "run.html", [tree], title="tokens", shading=Letters())
    page = open_page((tmp_path / "run.html").as_uri())
    click_node(page, "1")
    expect(page.get_by_test_id("tokens").locator("span")).to_have_count(1)
    page.get_by_test_id("text").get_by_label("last part").click()
    assert page.get_by_test_id("tokens").locator("span.t8").text_content() == "ab "


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_nothing_moves_for_those_who_ask_for_that(open_page: Open, tmp_path: Path, motion: str):
    tree = Tree("Still going on?")
    for request in tree.requests(2):
        tree.add(request)
    write_html(tmp_path / "run.html", [tree], title="pending")
    page = open_page((tmp_path / "run.html").as_uri(), reduced_motion=motion)
    where(page, "1")
    drawn = page.evaluate(
        """async () => {
          const scene = document.querySelector("canvas").ledScene;
          const frames = async (n) => { for (; n; n -= 1) await new Promise(requestAnimationFrame); };
          await frames(20);
          const before = scene.draws;
          await frames(20);
          return scene.draws - before;
        }"""
    )
    assert (drawn == 0) == (motion == "reduce")
