"""``reward_model(model)``: what a trained reward model says of an answer, or of each of its steps.

This file turns problems and answers into rows of tokens, and scores into verdicts. What a classifier computes is
``led_agent.engine.classifier``'s to know; torch is imported there, when the first answer is to be judged.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from led_agent.answers import after_thinking
from led_agent.errors import ModelError, UsageError
from led_agent.types import Branch, Problem, Verdict, VerdictStatus

if TYPE_CHECKING:
    from led_agent.engine.classifier import Classifier, Row

__all__ = ["RewardModel", "reward_model"]

Scope = Literal["outcome", "process"]
Aggregate = Literal["min", "mean", "last", "product"]
_SCOPES = ("outcome", "process")
_AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    "mean": lambda scores: math.fsum(scores) / len(scores),
    "last": lambda scores: scores[-1],
    "product": math.prod,
}


@dataclass(frozen=True)
class RewardModel:
    """A verifier: scores a branch by a sequence or token classifier of transformers.

    The judged answer is what follows ``</think>``. Problem and answer go through the model's chat template, as the user
    and the assistant, and where it has none they are ``prompt + "\\n" + answer``.

    - ``scope="outcome"``: one score of the whole answer, by a sequence classifier.
    - ``scope="process"``: one score for each step, brought together by ``aggregate``. Steps are what stands between
      ``step_separator``, blank ones left out. A token classifier (TRL's format: the prompt, then each step and its
      separator, each tokenised alone) is asked once, and scores a step at its separator's last token. A sequence
      classifier is asked for each prefix of the answer that ends with a step.

    Without ``accept`` it abstains with its score, which ranks; with it, scores of at least so much accept and others
    reject. It never truncates: where an answer is longer than the model's context, it abstains and says so. The model
    is loaded at the first use, once, and its forward is one thread's at a time; ``close()`` gives its memory back, and
    a later call loads it again. A pickled copy loads its own.

    Attributes:
        model: Folder or hub id of the classifier.
        scope, aggregate, step_separator: As above.
        label: Name or number of the label whose probability is the score; None where the model has one output (then
            the logistic function of it) or two (then the second's probability).
        accept: The score from which on an answer is accepted.
        device, dtype: As for ``Search``; "auto" is bfloat16 on CUDA and float32 elsewhere.
        batch_size: Answers that are taken at once, at most; what goes through the model together is chosen by length.
    """

    model: str
    scope: Scope = "outcome"
    aggregate: Aggregate = "min"
    step_separator: str = "\n\n"
    label: str | None = None
    accept: float | None = None
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 32
    name: ClassVar[str] = "reward_model"
    replicas: ClassVar[int] = 1  # each copy is a model in memory

    def __post_init__(self) -> None:
        _ = self._held  # now, while one thread alone has this
        for what, found, allowed in (
            ("scope", self.scope, _SCOPES),
            ("aggregate", self.aggregate, tuple(_AGGREGATES)),
        ):
            if found not in allowed:
                raise UsageError(f"reward_model: {what} is {found!r}; allowed are {', '.join(allowed)}")
        if not self.step_separator:
            raise UsageError("reward_model: step_separator is empty; give the string that ends a step, e.g. '\\n\\n'")
        if self.accept is not None and not 0.0 <= self.accept <= 1.0:
            raise UsageError(f"reward_model: accept is {self.accept}; a score in [0, 1] is allowed, e.g. 0.7")
        if self.batch_size < 1:
            raise UsageError(f"reward_model: batch_size is {self.batch_size}; at least 1 is needed")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (
            self.model, self.scope, self.aggregate, self.step_separator, self.label, self.accept, self.device,
            self.dtype, self.batch_size,
        )  # fmt: skip

    @cached_property
    def _held(self) -> _Held:
        return _Held()

    def check(self, problem: Problem) -> str | None:
        """Load the model. It has something to say on every problem.

        Raises:
            ModelError: the model is missing, no classifier, or can't do what is asked of it: a label, a scope.
        """
        with self._held.lock:
            self._loaded()
        return None

    def __call__(self, problem: Problem, branch: Branch, /) -> Verdict:
        """The verdict on one branch; may be called from many threads at once."""
        return self.batch([(problem, branch)])[0]

    def batch(self, asked: Sequence[tuple[Problem, Branch]]) -> list[Verdict]:
        """The verdicts on several branches, which are computed together."""
        begun = time.perf_counter()
        with self._held.lock:
            classifier = self._loaded()
            rows = [self._rows(classifier, problem, branch) for problem, branch in asked]
            flat = classifier.scores([row for given in rows if isinstance(given, list) for row in given])
        scores = iter(flat)
        verdicts = [
            self._verdict([score for _ in given for score in next(scores)]) if isinstance(given, list) else given
            for given in rows
        ]
        seconds = (time.perf_counter() - begun) / max(1, len(asked))
        return [verdict.model_copy(update={"seconds": seconds}) for verdict in verdicts]

    def close(self) -> None:
        """Let go of the model. Idempotent."""
        with self._held.lock:
            self._held.classifier = None

    def _loaded(self) -> Classifier:
        if self._held.classifier is None:
            path = _located(self.model)
            from led_agent.engine.classifier import Classifier

            found = Classifier.load(path, device=self.device, dtype=self.dtype, label=self.label)
            if found.by_token and self.scope == "outcome":
                raise ModelError(
                    f"{self.model} is a token classifier, which scores steps; give reward_model scope='process'"
                )
            self._held.classifier = found
        return self._held.classifier

    def _rows(self, classifier: Classifier, problem: Problem, branch: Branch) -> list[Row] | Verdict:
        """What the model is to score, or the verdict where it can't."""
        answer = after_thinking(branch.text)
        steps = [step for step in answer.split(self.step_separator) if step.strip()]
        if not steps:
            return self._said("abstained", "there is no answer to score: the text after </think> is empty")
        try:
            rows = self._tokenised(classifier, problem, answer, steps)
        except ModelError as error:
            return self._said("error", str(error))
        longest, context = max(len(row.ids) for row in rows), classifier.context
        if context is not None and longest > context:
            told = f"problem and answer have {longest} tokens, and {self.model} takes {context} at most; not truncated"
            return self._said("abstained", told)
        return rows

    def _tokenised(self, classifier: Classifier, problem: Problem, answer: str, steps: Sequence[str]) -> list[Row]:
        if classifier.by_token:
            return [_marked(classifier, problem, steps, self.step_separator)]
        if self.scope == "process":
            return [_whole(classifier, problem, prefix) for prefix in _prefixes(answer, self.step_separator)]
        return [_whole(classifier, problem, answer)]

    def _verdict(self, scores: list[float]) -> Verdict:
        if not all(map(math.isfinite, scores)):
            return self._said("error", f"{self.model} computed {scores}: no finite score")
        score = min(1.0, max(0.0, _AGGREGATES[self.aggregate](scores)))
        told = f"scored {score:.3g}"
        if self.scope == "process":
            worst = min(range(len(scores)), key=scores.__getitem__)
            told += f", {self.aggregate} of {len(scores)} steps; lowest is step {worst + 1} with {scores[worst]:.3g}"
        if self.accept is None:
            return self._said("abstained", told, score)
        if score >= self.accept:
            return self._said("accepted", f"{told}; {self.accept:g} is reached", score)
        return self._said("rejected", f"{told}; {self.accept:g} is not reached", score)

    def _said(self, status: VerdictStatus, reason: str, score: float = 0.0) -> Verdict:
        return Verdict(status=status, score=score, reason=reason, verifier=self.name)


class _Held:
    """The loaded model, and who may use it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.classifier: Classifier | None = None


def reward_model(
    model: str | Path,
    scope: Scope = "outcome",
    *,
    aggregate: Aggregate = "min",
    step_separator: str = "\n\n",
    label: str | None = None,
    accept: float | None = None,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 32,
) -> RewardModel:
    """A verifier that scores answers by a reward model: any sequence or token classifier of transformers.

    Args:
        model: Folder or hub id. It is loaded at the first use.
        scope: "outcome" scores the whole answer, "process" each step.
        aggregate: What the steps' scores come to: "min", "mean", "last" or "product".
        step_separator: The string between steps.
        label: The label whose probability is the score, by name or number; needed where there are more than two.
        accept: Accept from this score on, and reject below it; None only ranks.
        device, dtype: As for ``Search``.
        batch_size: Answers that are taken at once, at most.

    Raises:
        UsageError: a setting that isn't allowed.
    """
    label = None if label is None else str(label)
    return RewardModel(str(model), scope, aggregate, step_separator, label, accept, device, dtype, batch_size)


def _located(model: str) -> str:
    folder = Path(model).expanduser()
    if folder.is_dir():
        if (folder / "config.json").is_file():
            return str(folder)
        raise ModelError(f"reward_model: the folder {model} holds no model: it has no config.json")
    if model.count("/") == 1 and not model.startswith((".", "/", "~")):
        return model
    raise ModelError(
        f"reward_model: there is no model {model!r}; give the folder of a sequence or token classifier (config.json, "
        "weights and tokenizer), or its hub id OWNER/NAME"
    )


def _prefixes(answer: str, separator: str) -> list[str]:
    """The answer up to the end of each step that isn't blank."""
    found, end = [], 0
    for step in answer.split(separator):
        end += len(step)
        if step.strip():
            found.append(answer[:end])
        end += len(separator)
    return found


def _messages(problem: Problem) -> list[dict[str, str]]:
    if isinstance(problem.prompt, str):
        return [{"role": "user", "content": problem.prompt}]
    return [message.model_dump() for message in problem.prompt]


def _templated(classifier: Classifier, messages: list[dict[str, str]], *, opened: bool) -> list[int]:
    tokenizer = classifier.tokenizer
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opened)
    except Exception as error:  # a template is the model's own code
        raise ModelError(f"the reward model's chat template refuses these messages: {error}") from error
    return [int(t) for t in tokenizer.encode(text, add_special_tokens=False)]


def _has_template(classifier: Classifier) -> bool:
    return getattr(classifier.tokenizer, "chat_template", None) is not None


def _whole(classifier: Classifier, problem: Problem, answer: str) -> Row:
    """Problem and answer as one sequence."""
    from led_agent.engine.classifier import Row

    if _has_template(classifier):
        turns = [*_messages(problem), {"role": "assistant", "content": answer}]
        return Row(_templated(classifier, turns, opened=False))
    return Row([int(t) for t in classifier.tokenizer.encode(f"{problem.text}\n{answer}")])


def _marked(classifier: Classifier, problem: Problem, steps: Sequence[str], separator: str) -> Row:
    """The problem, then each step and its separator; marked is each separator's last token."""
    from led_agent.engine.classifier import Row

    def encode(text: str) -> list[int]:
        return [int(t) for t in classifier.tokenizer.encode(text, add_special_tokens=False)]

    if _has_template(classifier):
        ids = _templated(classifier, _messages(problem), opened=True)
    else:
        begin = classifier.tokenizer.bos_token_id
        ids = ([begin] if begin is not None else []) + encode(f"{problem.text}\n")
    marks, between = [], encode(separator)
    for step in steps:
        ids += encode(step) + between
        marks.append(len(ids) - 1)
    return Row(ids, marks)
