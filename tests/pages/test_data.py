"""What a page is told of a tree, and how texts are laid over tokens."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from led_agent import Branch, Decoding, Problem, Search, Solution, Tree, solve
from led_agent.engine.tokens import Tokens
from led_agent.errors import ModelError, UsageError
from led_agent.events import Ended, Pruned
from led_agent.models import locate
from led_agent.pages.data import FORMAT, changes, detail, index, kind_of, problem_row
from led_agent.strategies import BestOfN, Fallback
from led_agent.types import LatentNoise, Message

PUZZLE = "Use 3, 20 and 5 to make 35."
NOISY = Decoding.led("paper", depths=2).replace(latent_noise=LatentNoise(sigma=0.05, scale="confidence"))


@pytest.fixture(scope="module")
def solution() -> Solution:
    return solve(PUZZLE, strategy=Fallback(BestOfN(6, stop_at_first=False)), decoding=NOISY)


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return Tokens.load(locate("countdown"))


def test_the_index_has_each_node_once_and_parents_first(solution: Solution):
    told = json.loads(json.dumps(index([solution.tree], title="x")))
    assert (told["format"], told["title"], told["live"]) == (FORMAT, "x", False)
    (problem,) = told["problems"]
    assert (problem["prompt"], problem["model"], problem["messages"]) == (PUZZLE, "countdown", None)
    assert problem["ended"]["answer"] == solution.answer
    assert problem["ended"]["best"] == solution.branch.id
    assert problem["ended"]["usage"]["branches"] == len(problem["nodes"]) == len(solution.tree.nodes())
    seen = {"root"}
    for row, node in zip(problem["nodes"], solution.tree.nodes(), strict=True):
        assert row["parent"] in seen
        seen.add(row["id"])
        assert row["tokens"] == len(node.branch.token_ids)
        assert row["status"] == node.status
        assert row["kind"] == ("explored+noisy" if node.purpose == "explore" else "conservative")
        assert row["verifiers"] == {v.verifier: v.status for v in node.verdicts}
        assert node.branch.text.endswith(row["tail"])


def test_details_have_a_figure_for_each_token(solution: Solution, tokens: Tokens):
    for node in solution.tree.nodes():
        told = json.loads(json.dumps(detail(solution.tree, node.id, tokens.pieces)))
        assert told["text"] == node.branch.text
        assert "".join(told["pieces"]).startswith(told["text"])
        lengths = {len(told[name]) for name in ("pieces", "token_ids", "entropies", "logprobs", "explored")}
        assert lengths == {len(node.branch.token_ids)}
        assert len(told["noise"]) == (len(node.branch.token_ids) if node.purpose == "explore" else 0)
        assert told["verdicts"][0]["reason"] == node.verdicts[0].reason
        assert all(0 <= scale <= 0.05 for scale in told["noise"])
    with pytest.raises(UsageError, match="no node 'nonsense'"):
        detail(solution.tree, "nonsense")


def test_what_a_branch_continues_comes_before_it():
    tree = Tree(Problem(prompt="?"), decoding=Decoding.plain(1.0))
    for request in tree.requests(2):
        tree.add(request)
    tree.attach(Branch(id="1", text="one ", token_ids=(1,), noise_scales=(0.5,)))
    (below,) = tree.requests(1, parent="1")
    tree.add(below)
    (repair,) = tree.requests(1, parent="1", prompt=[Message(role="user", content="again?")], purpose="repair")
    tree.add(repair.model_copy(update={"id": "1.2"}))
    tree.attach(Branch(id="1.1", text="two", token_ids=(2, 3)))
    tree.attach(Branch(id="1.2", text="three", token_ids=(4,)))
    assert (detail(tree, "1.1")["before"], detail(tree, "1.1")["text"]) == ("one ", "two")
    assert detail(tree, "1.1")["pieces"] is None
    assert (detail(tree, "1.2")["before"], detail(tree, "1.2")["prompt"]) == ("", "user: again?")
    assert tree.branch("1.1").noise_scales == (0.5, 0.0, 0.0)  # a part without noise has none of it
    pending = detail(tree, "2")
    assert (pending["text"], pending["finish"], pending["token_ids"]) == ("", "", [])
    (row,) = (row for row in index([tree], title="")["problems"][0]["nodes"] if row["id"] == "2")
    assert row["pending"]


def test_an_unfinished_problem_has_no_end_and_one_without_branches_no_best():
    tree = Tree("?")
    assert index([tree], title="")["problems"][0]["ended"] is None
    tree.end(Ended(status="failed", reason="nothing"))
    assert index([tree], title="")["problems"][0]["ended"]["best"] is None


@pytest.mark.parametrize(
    ("decoding", "kind"),
    [
        (Decoding.greedy(), "conservative"),
        (Decoding.plain(0.8), "plain"),
        (Decoding.led(), "explored"),
        (Decoding.esamp(), "explored"),
        (Decoding.noise(0.1), "noisy"),
        (Decoding.led(span="none"), "plain"),
        (NOISY, "explored+noisy"),
    ],
)
def test_edges_are_named_after_their_decoding(decoding: Decoding, kind: str):
    (request,) = Tree("?", decoding=decoding).requests(1)
    assert kind_of(request) == kind
    fallen_back = request.model_copy(update={"purpose": "fallback"})
    assert kind_of(fallen_back) == "conservative"


def test_exploration_that_was_off_in_the_span_is_not_shown():
    (request,) = Tree("?", decoding=Decoding.led()).requests(1)
    assert kind_of(request, Branch(text="x", token_ids=(1,), span="none")) == "plain"


@pytest.fixture(scope="module")
def bytewise() -> Tokens:
    return Tokens.load(locate("smollm2"))


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(codec="utf-8"), max_size=30), st.integers(0, 10))
def test_pieces_are_the_text_cut_at_its_tokens(bytewise: Tokens, text: str, at: int):
    ids = bytewise._tokenizer.encode(text, add_special_tokens=False)
    whole = bytewise._tokenizer.decode(ids, skip_special_tokens=True)
    pieces = bytewise.pieces(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == whole
    before, after = ids[:at], ids[at:]  # a character may be cut in two there: it comes with its last token
    assert len(bytewise.pieces(after, before)) == len(after)
    said = bytewise._tokenizer.decode(before, skip_special_tokens=True)
    if "\ufffd" not in said:
        assert said + "".join(bytewise.pieces(after, before)) == whole


def test_a_tokenizer_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError, match="can't load the tokenizer of"):
        Tokens.load(tmp_path)


def test_changes_add_up_to_the_index(monkeypatch: pytest.MonkeyPatch):
    """A page that was told every change shows what the index says."""
    monkeypatch.setattr("led_agent.local._PROGRESS_SECONDS", 0.0)  # a quick branch ends before its growth is due
    shown: dict[str, dict[str, object]] = {}
    heads: list[dict[str, object]] = []
    grown: list[str] = []

    def follow(tree: Tree, event: object) -> None:
        for name, data in changes(tree, event):  # type: ignore[arg-type]
            json.dumps(data)
            if name == "node":
                shown[data["node"]["id"]] = data["node"]
            elif name == "problem":
                heads.append(data)
            else:
                grown.append(data["id"])

    with Search(strategy=Fallback(BestOfN(6)), observer=follow) as search:
        solution = search.solve("Use 9, 7 and 2 to make 1.")
    row = problem_row(solution.tree)
    assert [*shown.values()] == row.pop("nodes")
    assert heads[-1] == row
    assert {"1", "2"} <= set(grown)


def test_what_is_given_up_with_its_parent_is_told():
    tree = Tree("?")
    for request in tree.requests(2):
        tree.add(request)
    tree.attach(Branch(id="1", text="x", token_ids=(1,)))
    for request in tree.requests(1, parent="1"):
        tree.add(request)
    tree.prune("1", "no use")
    told = changes(tree, Pruned(id="1", reason="no use"))
    assert [(data["node"]["id"], data["node"]["status"]) for _, data in told] == [("1", "pruned"), ("1.1", "pruned")]


def test_answers_are_ranked_as_the_best_is_chosen(solution: Solution):
    ranked = solution.tree.ranked()
    assert ranked[0].id == solution.tree.best().id == solution.branch.id
    assert {node.id for node in ranked} == {node.id for node in solution.tree.leaves()}
    marks = [node.status == "accepted" for node in ranked]
    assert marks == sorted(marks, reverse=True)
