"""What a notebook shows: whatever text is in a tree, the page's elements and attributes are ours."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from led_agent import Branch, Problem, Tree, Verdict, solve
from led_agent.events import Ended
from led_agent.notebook import MOST_NODES, solution_html, tree_html
from led_agent.solution import Solution
from led_agent.strategies import BestOfN
from led_agent.types import Usage

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</pre></details></div><style>*{display:none}</style>",
    "<!-- <b>",
    "&lt;script&gt; &#60;b&#62; &amp;",
    "\u202egnp.exe\u202c \u2066x\u2069 \u200f",
    "nul \x00 bell \x07 escape \x1b[2J",
    "lone \ud800 and \udfff",
    "]]> <?php ?> <![CDATA[ x ]]>",
    "javascript:alert(1)",
    "\u2028\u2029\ufeff",
]
ELEMENTS = {
    "style", "div", "table", "tr", "th", "td", "b", "span", "details", "summary", "pre", "code", "i",
}  # fmt: skip
CLASSES = {
    "led-agent", "dim", "strip", "x", "accepted", "rejected", "open", "expanded", "pruned", "failed",
}  # fmt: skip


class Page(HTMLParser):
    """Reads a page, and refuses elements and attributes that aren't ours."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: Counter[str] = Counter()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ELEMENTS, tag
        for name, value in attrs:
            if name == "class":
                assert value in CLASSES, value
            elif name == "style":
                assert re.fullmatch(r"opacity:[01]\.\d\d", value or ""), value
            else:
                assert (tag, name, value) == ("details", "open", None)
        self.elements[tag] += 1
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data!r}")

    handle_decl = handle_pi = unknown_decl = handle_comment


def read(page: str) -> Page:
    page.encode()  # no lone surrogate is left
    reader = Page()
    reader.feed(page)
    reader.close()
    assert not reader.open
    assert "script" not in reader.elements
    return reader


def tree_of(text: str) -> Tree:
    """A tree with this text in every place that has text."""
    tree = Tree(Problem(prompt=f"x{text}", answer="1"))
    purpose = text.encode(errors="replace").decode()  # seeds are derived from it
    for request in tree.requests(2, trigger=text, purpose=purpose):
        tree.add(request)
    tree.attach(Branch(id="1", text=text, token_ids=(1, 2), entropies=(0.1, 2.0), explored=(False, True)))
    tree.judge("1", [Verdict(status="rejected", reason=text, verifier=text, answer=text)])
    for request in tree.requests(1, parent="1", trigger=text):
        tree.add(request)
    tree.attach(Branch(id="1.1", text="", finish="error", error=text))
    tree.note("root", text)
    tree.note("2", text)
    return tree


def solution_of(tree: Tree, text: str) -> Solution:
    return Solution.of(tree, Ended(status="failed", reason=text, usage=Usage(), best="1"))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str):
    tree = tree_of(text)
    plain = read(tree_html(tree_of("word")))
    assert read(tree_html(tree)).elements == plain.elements
    page = read(solution_html(solution_of(tree, text)))
    assert page.elements == read(solution_html(solution_of(tree_of("word"), "word"))).elements
    shown = re.sub(r"\s+", " ", page.text)
    if all(c.isprintable() for c in text):
        assert re.sub(r"\s+", " ", text) in shown
    for steering in "\u202e\u2066\u2069\u202c\u200f\x00\x07\x1b\u2028\u2029\ufeff":
        assert steering not in page.text


@settings(deadline=None, max_examples=150)
@given(
    st.text(
        alphabet=st.one_of(st.characters(exclude_categories=()), st.sampled_from("<>&\"'/=!-[]\u202e\ud800\x00")),
        max_size=60,
    )
)
def test_no_text_makes_an_element(text: str):
    if not text.strip():
        text = f"x{text}"
    page = read(solution_html(solution_of(tree_of(text), text)))
    assert page.elements == read(solution_html(solution_of(tree_of("word"), "word"))).elements


def test_direction_marks_are_spelled_out():
    assert "⟨U+202E⟩gnp.exe" in read(tree_html(tree_of("\u202egnp.exe"))).text


def test_a_search_is_shown_with_its_figures():
    solution = solve("Use 3, 20 and 5 to make 35.", strategy=BestOfN(4, stop_at_first=False), seed=0)
    html = solution._repr_html_()
    page = read(html)
    assert html == solution_html(solution)
    assert page.elements["details"] == 4
    assert page.elements["i"] == len(solution.branch.token_ids)  # type: ignore[union-attr]
    for said in (str(solution.answer), f"{solution.usage.generated_tokens} tokens", "countdown", "nat a token", "★"):
        assert said in page.text
    assert ("verified" in page.text) == solution.verified
    assert page.text.count("★") == 1
    assert read(solution.tree._repr_html_()).elements["details"] == 4


def test_a_large_tree_is_cut_and_says_so():
    tree = Tree("How many?")
    for request in tree.requests(1000):
        tree.add(request)
    for at in range(1, 1001):
        tree.attach(
            Branch(id=str(at), text="<b>" * 3000, final_logprobs=(-0.1 if at == 900 else -1.0,), token_ids=(1,))
        )
    for request in tree.requests(1, parent="900"):
        tree.add(request)
    html = tree_html(tree)
    page = read(html)
    assert page.elements["details"] == MOST_NODES
    assert f"and {1001 - MOST_NODES} more branches; led-agent show --html shows all" in page.text
    assert "★" in page.text
    assert len(html) < 1_000_000


def test_a_deep_tree_nests():
    tree = Tree("How deep?")
    name = "root"
    for depth in range(300):
        (request,) = tree.requests(1, parent=name)
        tree.add(request)
        tree.attach(Branch(id=request.id, text=f"step {depth} ", token_ids=(depth,)))
        name = request.id
    assert read(tree_html(tree)).elements["details"] == MOST_NODES


@pytest.mark.parametrize("entropies", [(), (0.0, 0.0), (2.0, 1.0), (-0.0, 1e-12)])
def test_any_entropies_make_a_strip(entropies: tuple[float, ...]):
    tree = Tree("How sure?")
    tree.add(tree.requests(1)[0])
    tree.attach(Branch(id="1", text="x", token_ids=tuple(range(len(entropies))), entropies=entropies))
    page = read(solution_html(Solution.of(tree, Ended(status="exhausted", reason="", usage=Usage(), best="1"))))
    assert page.elements["i"] == len(entropies)


def test_a_tree_without_branches():
    assert "Nothing yet?" in read(tree_html(Tree("Nothing yet?"))).text
