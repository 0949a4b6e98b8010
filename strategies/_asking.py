"""Asking a model again about what it has said: a chat with its answer and what the verifier told."""

from __future__ import annotations

import re

from led_agent.answers import after_thinking, final_answer
from led_agent.tree import Node, Tree
from led_agent.types import Message, Problem, Verdict

__all__ = ["ask_again"]

_LONGEST_ANSWER = 6_000  # characters; an answer stands at the end of a text
_LONGEST_TOLD = 1_000
_AGAIN = "Find the mistake, and answer the problem again in the same form."
_CHECK = "Check that answer. Correct what is wrong with it, and answer the problem again in the same form."
_REPEATED = "You have said the same before, and were told the same. Try another way."


def ask_again(tree: Tree, node: Node) -> list[Message]:
    """A chat that asks for a better answer than a node's: the problem, the answer, and what the verifiers told of it.

    Only this one answer is in it, without the thinking that led there, so that a chain of corrections does not grow.
    What a verifier told is ``Verdict.feedback``, else its reason, which is withheld where it names ``problem.answer``:
    an answer that was given away would be verified, and worth nothing. A verifier that failed has told nothing.
    """
    problem, verdict = tree.problem, node.verdict
    asked = [Message(role="user", content=problem.prompt)] if isinstance(problem.prompt, str) else list(problem.prompt)
    said = after_thinking(tree.text(node.id)).strip() or "(no answer)"
    if len(said) > _LONGEST_ANSWER:
        said = f"… {said[-_LONGEST_ANSWER:]}"
    if asked[-1].role == "assistant":  # the beginning of an answer, which the model has gone on with
        said = f"{asked.pop().content}{said}"
    turns = [*asked, Message(role="assistant", content=said)]
    wish = _wish(problem, verdict)
    chat = [*turns, Message(role="user", content=wish)]
    if node.request is not None and node.request.prompt == tuple(chat):
        # The same answer to the same question. Asked this once more it would not be another prompt, and the new branch
        # would go on behind the old one's end.
        chat = [*turns, Message(role="user", content=f"{wish}\n\n{_REPEATED}")]
    return chat


def _wish(problem: Problem, verdict: Verdict | None) -> str:
    if verdict is None or verdict.status in ("accepted", "error"):
        return _CHECK
    if verdict.status == "abstained" and verdict.score == 0:
        return _CHECK
    rejected = verdict.status == "rejected"
    judged = "That answer was not accepted" if rejected else f"That answer was scored {verdict.score:.2g} of 1"
    told = _told(problem, verdict)
    return f"{judged}{f': {told}' if told else '.'}\n\n{_AGAIN}"


def _told(problem: Problem, verdict: Verdict) -> str:
    told = (verdict.reason if verdict.feedback is None else verdict.feedback).strip()
    if verdict.feedback is None and _gives_away(problem, told):
        return ""
    return told if len(told) <= _LONGEST_TOLD else f"{told[:_LONGEST_TOLD]}…"


def _gives_away(problem: Problem, told: str) -> bool:
    """Whether a text names the reference answer, or what a worked solution ends in."""
    if problem.answer is None:
        return False
    golds = {" ".join(gold.split()) for gold in (problem.answer, final_answer(problem.answer) or "")}
    line = " ".join(told.split())
    return any(gold and re.search(rf"(?<!\w){re.escape(gold)}(?!\w)", line, re.IGNORECASE) for gold in golds)
