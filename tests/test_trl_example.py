"""The engine as TRL's sampler (``examples/trl_rollout.py``): what it hands over is what TRL takes it for."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PATH = ROOT / "examples" / "trl_rollout.py"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("trl") is None, reason="trl is not installed: pip install 'led-agent[trl]'"
)


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("trl_rollout", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():  # of what the libraries call themselves
        warnings.simplefilter("ignore")
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def trainer(example: ModuleType) -> Any:
    """As much of a trainer as a rollout function looks at, around a real policy."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = example.locate("countdown-sft")
    return SimpleNamespace(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(folder),
        accelerator=SimpleNamespace(unwrap_model=lambda model: model),
        state=SimpleNamespace(global_step=0),
        args=SimpleNamespace(seed=0),
    )


def logprobs_by(policy: Any, prompt: list[int], completion: list[int]) -> list[float]:
    """Of a completion's tokens, by a plain forward of the policy at T=1."""
    import torch

    with torch.no_grad():
        logits = policy(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0].tolist()


def test_plain_rollouts_are_on_policy_and_led_s_are_not(example: ModuleType, trainer: Any):
    prompts = [chat for chat in example.chats("train", 3, seed=0) for _ in range(4)]
    for decoding, on_policy in ((example.ON_POLICY, True), (example.EXPLORING, False)):
        grown = example.Rollouts(decoding)(prompts, trainer)
        assert len(grown["completion_ids"]) == len(grown["prompt_ids"]) == len(grown["branch_text"]) == len(prompts)
        largest = 0.0
        for ids, tokens, given in zip(grown["prompt_ids"], grown["completion_ids"], grown["logprobs"], strict=True):
            known = logprobs_by(trainer.model, ids, tokens)
            largest = max(largest, *(abs(a - b) for a, b in zip(given, known, strict=True)))
        assert (largest < 1e-4) == on_policy
        assert len({tuple(tokens) for tokens in grown["completion_ids"][:4]}) > 1  # each has a seed of its own


def test_rollouts_come_from_the_weights_of_the_step(example: ModuleType, trainer: Any):
    import torch

    rollouts = example.Rollouts(example.ON_POLICY)
    prompts = example.chats("train", 2, seed=0)
    before = rollouts(prompts, trainer)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight.mul_(1.1)
    assert rollouts(prompts, trainer) == before  # the policy may change; the engine's copy does not
    trainer.state.global_step = 1
    after = rollouts(prompts, trainer)
    for ids, tokens, given in zip(after["prompt_ids"], after["completion_ids"], after["logprobs"], strict=True):
        assert given == pytest.approx(logprobs_by(trainer.model, ids, tokens), abs=1e-4)


def test_what_the_verifier_cannot_judge_has_no_reward(example: ModuleType):
    puzzle, other = ([{"role": "user", "content": text}] for text in ("Use 3, 20 and 5 to make 35.", "How are you?"))
    texts = ["... </think> 20 + ( 5 * 3 )", "... </think> none", "fine"]
    assert example.reward([puzzle, puzzle, other], texts) == [1.0, 0.0, None]


def trained(*options: str) -> dict[str, Any]:
    """What the example tells at its end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(PATH), *options], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_training_by_them_gets_better():
    """20 steps, on one seed: the mean of 128 rollouts' rewards a step, in the first half and in the second."""
    told = trained()
    assert sum(told["reward"][10:]) > sum(told["reward"][:10])
    assert told["after"] > told["before"]
    assert max(told["clip_ratio/region_mean"]) == 0  # plainly drawn tokens have a ratio of 1


def test_tokens_that_led_drew_have_ratios_other_than_1():
    told = trained("--led", "--steps", "2")
    assert len(told["reward"]) == 2
    assert max(told["clip_ratio/region_mean"]) > 0
