"""From a solution to what OpenAI's clients expect: choices, reasons, usage and log-probabilities."""

from __future__ import annotations

from typing import Any

from led_agent.pages.data import Pieces
from led_agent.serving.schemas import (
    ChatChunk,
    ChatCompletion,
    ChatUsage,
    Choice,
    ChunkChoice,
    Delta,
    LedResult,
    LedUsage,
    Logprobs,
    Reason,
    ReplyMessage,
    RunSummary,
    TokenLogprob,
)
from led_agent.serving.service import Served
from led_agent.solution import Solution
from led_agent.tree import Node, Tree
from led_agent.types import Branch

__all__ = ["chunk", "completion", "final_chunks", "led_result", "summary", "usage_of"]

_PROMPT = 200  # characters of a prompt in a list of runs


def completion(run: Served, solution: Solution, model: str, pieces: Pieces | None) -> ChatCompletion:
    """The reply to a request that isn't streamed. Without ``pieces`` there are no log-probabilities."""
    return ChatCompletion(
        id=_reply_id(run),
        created=int(run.created),
        model=model,
        choices=[
            Choice(
                index=at,
                message=ReplyMessage(content=branch.text),
                finish_reason=_reason(branch),
                logprobs=_logprobs(branch, pieces) if pieces is not None else None,
                led=_standing(node, branch),
            )
            for at, (node, branch) in enumerate(_chosen(run, solution))
        ],
        usage=usage_of(run, solution),
        led=led_result(run, solution),
    )


def chunk(run: Served, model: str, choices: list[ChunkChoice], **rest: Any) -> ChatChunk:
    """One piece of a streamed reply."""
    return ChatChunk(id=_reply_id(run), created=int(run.created), model=model, choices=choices, **rest)


def final_chunks(
    run: Served, solution: Solution, model: str, pieces: Pieces | None, *, told: str = "", usage: bool = False
) -> list[ChatChunk]:
    """The end of a streamed reply: the texts, as far as they weren't told, how they ended, and what the search says."""
    found = []
    for at, (node, branch) in enumerate(_chosen(run, solution)):
        delta = Delta(content=branch.text.removeprefix(told) if at == 0 else branch.text)
        role = [] if at == 0 else [ChunkChoice(index=at, delta=Delta(role="assistant", content=""))]
        logprobs = _logprobs(branch, pieces) if pieces is not None else None
        said = ChunkChoice(index=at, delta=delta, logprobs=logprobs)
        ended = ChunkChoice(index=at, delta=Delta(), finish_reason=_reason(branch))
        found += [chunk(run, model, [one]) for one in (*role, said)]
        found.append(chunk(run, model, [ended], led={"choice": _standing(node, branch)} if at else None))
    found[-1].led = {**(found[-1].led or {}), **led_result(run, solution).model_dump()}
    if usage:
        found.append(chunk(run, model, [], usage=usage_of(run, solution)))
    return found


def led_result(run: Served, solution: Solution) -> LedResult:
    """What the search has to say beside the answer."""
    return LedResult(
        run=run.id,
        verified=solution.verified,
        answer=solution.answer,
        status=solution.status,
        reason=solution.reason,
        seed=run.order.seed,
        confidence=solution.confidence.model_dump() if solution.confidence is not None else None,
        usage=LedUsage(**solution.usage.model_dump()),
    )


def usage_of(run: Served, solution: Solution) -> ChatUsage:
    """All tokens that were generated, in whichever branch."""
    prompt, generated = run.order.prompt_tokens, solution.usage.generated_tokens
    return ChatUsage(prompt_tokens=prompt, completion_tokens=generated, total_tokens=prompt + generated)


def summary(run: Served) -> RunSummary:
    """A run in a list of them."""
    solution = run.solution
    return RunSummary(
        id=run.id,
        status=run.status,
        created=int(run.created),
        prompt=run.order.problem.text[:_PROMPT],
        answer=solution.answer if solution is not None else None,
        verified=solution is not None and solution.verified,
        reason=solution.reason if solution is not None else "",
    )


def _reply_id(run: Served) -> str:
    return f"chatcmpl-{run.id.removeprefix('run-')}"


def _chosen(run: Served, solution: Solution) -> list[tuple[Node | None, Branch]]:
    """The best answers, as many as were asked for, or as there are; one without text where there is none."""
    tree: Tree = solution.tree
    found: list[tuple[Node | None, Branch]] = [
        (node, tree.branch(node.id)) for node in tree.ranked()[: run.order.choices] if node.branch is not None
    ]
    return found or [(None, Branch(text="", finish="cancelled"))]


def _standing(node: Node | None, branch: Branch) -> dict[str, Any]:
    """What came of one choice."""
    if node is None:
        return {}
    verdicts = [verdict.model_dump(include={"verifier", "status", "score", "reason"}) for verdict in node.verdicts]
    return {"node": node.id, "status": node.status, "finish": branch.finish, "verdicts": verdicts}


def _reason(branch: Branch) -> Reason:
    return "stop" if branch.finish in ("eos", "stop") else "length"


def _logprobs(branch: Branch, pieces: Pieces) -> Logprobs:
    """Of each token of the text under the model's own posterior; special tokens have no text of their own."""
    texts = pieces(branch.token_ids, ())
    told = [
        TokenLogprob(token=text, logprob=logprob, bytes=list(text.encode("utf-8", "surrogatepass")))
        for text, logprob in zip(texts, branch.final_logprobs, strict=False)
    ]
    return Logprobs(content=told)
