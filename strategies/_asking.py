from __future__ import annotations

from led_agent.tree import Node, Tree
from led_agent.types import Message


def ask_again(tree: Tree, node: Node) -> list[Message]:
    prompt = node.request.prompt if node.request else tree.problem.prompt
    messages = [Message(role="user", content=prompt)] if isinstance(prompt, str) else list(prompt)
    verdict = node.verdict
    said = (verdict.feedback if verdict.feedback is not None else verdict.reason) if verdict else ""
    return [
        *messages,
        Message(role="assistant", content=tree.text(node.id)),
        Message(role="user", content=f"That was wrong: {said}"),
    ]
