"""Forks and steps in a search on the embedded model: what they cost, and what their text is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from led_agent import Budget, Decoding, Search
from led_agent.local import LocalDecoder
from led_agent.steps import StepJudge, step_judges
from led_agent.strategies import BestOfN, EntropyBranching
from led_agent.tree import ROOT, Tree
from led_agent.types import Branch, DecodeRequest, Problem, Verdict

ASKED = "Using the numbers 3, 7 and 19, make 40. Use each number exactly once."


@dataclass(frozen=True)
class Stepwise:
    """One chain, a step of so many tokens at a time, and a fork inside its first step when it has ended."""

    tokens: int | None

    def propose(self, tree: Tree, slots: int) -> Sequence[DecodeRequest]:
        if tree.pending() or slots < 1:
            return []
        last = tree.nodes()[-1] if tree.nodes() else None
        if last is None:
            return tree.requests(1, max_step_tokens=self.tokens)
        if last.branch is not None and last.branch.finish == "step":
            return tree.requests(1, parent=last.id, max_step_tokens=self.tokens)
        forked = tree.children("1", purpose="fork")
        return [] if forked else tree.requests(1, parent="1", keep=3, purpose="fork")

    def finished(self, tree: Tree) -> bool:
        return False


@pytest.fixture(scope="module")
def decoder() -> Iterator[LocalDecoder]:
    made = LocalDecoder.load(slots=16)
    yield made
    made.close()


def test_a_chain_in_steps_costs_the_prompt_once_and_reads_as_the_whole(decoder: LocalDecoder) -> None:
    whole = Search(decoder=decoder, strategy=BestOfN(1), decoding=Decoding.greedy(), verifiers=[]).solve(ASKED)
    prompt = len(decoder.render(ASKED))
    before = decoder.engine.generated_tokens, decoder.engine.prefill_tokens
    stepped = Search(decoder=decoder, strategy=Stepwise(4), decoding=Decoding.greedy(), verifiers=[]).solve(ASKED)
    tree = stepped.tree
    chain = [node for node in tree.nodes() if node.purpose != "fork"]
    assert len(chain) > 2
    assert tree.text(chain[-1].id) == whole.text
    assert stepped.usage.prefill_tokens <= prompt - 1
    generated = decoder.engine.generated_tokens - before[0]
    prefilled = decoder.engine.prefill_tokens - before[1]
    assert (stepped.usage.generated_tokens, stepped.usage.prefill_tokens) == (generated, prefilled)


def test_a_fork_reads_as_what_it_keeps_and_what_it_adds(decoder: LocalDecoder) -> None:
    tree = Search(decoder=decoder, strategy=Stepwise(8), decoding=Decoding.greedy(), verifiers=[]).solve(ASKED).tree
    (fork,) = (node for node in tree.nodes() if node.purpose == "fork")
    assert fork.request is not None
    assert fork.branch is not None
    first = tree["1"].branch
    assert first is not None
    assert fork.request.prefix_ids == first.token_ids[:3]
    assert fork.branch.kept_text
    assert first.text.startswith(fork.branch.kept_text)
    joined = tree.branch(fork.id)
    assert joined.text == fork.branch.kept_text + fork.branch.text
    assert joined.token_ids == first.token_ids[:3] + fork.branch.token_ids
    assert tree["1"].status == "expanded"
    chain = next(leaf for leaf in tree.leaves() if leaf.purpose != "fork")
    assert joined.text == tree.text(chain.id)  # greedy again


@pytest.mark.parametrize("tokens", [1, 17, 100])
def test_a_budget_of_tokens_is_run_over_by_one_step_at_most(decoder: LocalDecoder, tokens: int) -> None:
    before = decoder.engine.generated_tokens
    search = Search(
        decoder=decoder, strategy=BestOfN(16, stop_at_first=False), budget=Budget(tokens=tokens), verifiers=[]
    )
    solution = search.solve(ASKED)
    assert solution.status == "budget"
    assert tokens <= solution.usage.generated_tokens < tokens + 16
    assert solution.usage.generated_tokens == decoder.engine.generated_tokens - before


@pytest.mark.parametrize("parent", [ROOT, "1"])
def test_a_fork_keeps_no_more_than_there_is(parent: str) -> None:
    tree = Tree("what?")
    (request,) = tree.requests(1)
    tree.add(request)
    tree.attach(Branch(id="1", text="a b", token_ids=(1, 2)))
    if parent == ROOT:
        assert tree.requests(1, parent=parent)[0].prefix_ids == ()
        return
    assert tree.requests(1, parent=parent, keep=1)[0].prefix_ids == (1,)
    with pytest.raises(Exception, match="has 2 tokens of its own to keep"):
        tree.requests(1, parent=parent, keep=3)


def test_a_process_reward_ranks_and_rejects_steps_and_accepts_none() -> None:
    class Process:
        name = "process"

        def __call__(self, problem: Problem, branch: Branch) -> bool:
            return False

        def step(self, problem: Problem, branch: Branch) -> float | Verdict:
            return float(branch.text)

    (judge,) = step_judges([Process(), lambda problem, branch: True])
    assert isinstance(judge, StepJudge)
    said = [judge(Problem(prompt="?"), Branch(text=text)) for text in ("0", "0.4", "1")]
    assert [(v.status, v.score) for v in said] == [("rejected", 0.0), ("abstained", 0.4), ("abstained", 1.0)]


def test_forks_at_uncertain_tokens_cost_no_prefix_and_differ_where_they_fork(decoder: LocalDecoder) -> None:
    search = Search(decoder=decoder, strategy=EntropyBranching(n=6), verifiers=[lambda problem, branch: False])
    solution = search.solve(ASKED)
    forks = [node for node in solution.tree.nodes() if node.purpose == "fork"]
    assert len(forks) == 4
    assert solution.usage.prefill_tokens <= len(decoder.render(ASKED)) - 1
    for fork in forks:
        assert fork.request is not None
        assert fork.parent is not None
        at, above = fork.request.keep, solution.tree[fork.parent].branch
        assert at is not None
        assert above is not None
        assert fork.branch is not None
        assert fork.branch.token_ids[0] != above.token_ids[at]
