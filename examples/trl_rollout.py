"""GRPO by TRL, its rollouts grown by led_agent's engine and rewarded by a verifier, in a minute or two on one core.

The embedded model as it was before reinforcement learning is trained some steps, and its share of right answers to
held-out puzzles is measured before and after. Usage: trl_rollout.py [--steps 20] [--led] [--seed 0]
"""

import argparse
import copy
import json
import tempfile

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from led_agent import Branch, Decoding, Problem
from led_agent.countdown_puzzles import sample_puzzles
from led_agent.engine import Engine, EngineRequest, ModelParts
from led_agent.evaluation.statistics import Bootstrap
from led_agent.models import locate
from led_agent.verifiers import countdown

PROMPTS, GROUP, NEW_TOKENS, SLOTS = 16, 8, 42, 64  # three tries and the answer fit into so many tokens
ON_POLICY = Decoding.plain(1.0)
EXPLORING = Decoding.led("paper", depths=4, temperature=1.0)


class Rollouts:
    """TRL's rollout function: a branch for each prompt, from the weights that the policy has now."""

    def __init__(self, decoding: Decoding) -> None:
        self.decoding = decoding
        self.engine: Engine | None = None
        self.step = -1

    def __call__(self, prompts: list, trainer: GRPOTrainer) -> dict[str, list]:
        if self.step != trainer.state.global_step:
            self.step = trainer.state.global_step
            self.engine = engine_of(trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class)
        asked, branches = grow(self.engine, prompts, self.decoding, seed=1_000_003 * trainer.args.seed + self.step)
        return {
            "prompt_ids": asked,
            "completion_ids": [list(branch.token_ids) for branch in branches],
            "logprobs": [list(branch.logprobs) for branch in branches],  # under the law that drew them
            "branch_text": [branch.text for branch in branches],  # goes on to the reward
        }


class OffPolicyTrainer(GRPOTrainer):
    """GRPO whose ratios are to the law that drew the tokens. TRL itself uses a rollout function's log-probabilities for
    masking only, and takes its tokens to be on policy."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        drawn = {**inputs, "old_per_token_logps": inputs["sampling_per_token_logps"]}
        return super().compute_loss(model, drawn, return_outputs, num_items_in_batch)


def engine_of(policy: torch.nn.Module, tokenizer) -> Engine:
    """An engine with a copy of the policy's weights: it lays them out anew, and they must not change under it."""
    return Engine(ModelParts.of(copy.deepcopy(policy), tokenizer), slots=SLOTS)


def grow(engine: Engine, prompts: list, decoding: Decoding, seed: int) -> tuple[list[list[int]], list[Branch]]:
    """The prompts' tokens and a branch for each. One that comes again is not prefilled again, and each has a seed of
    its own: siblings that share their numbers are no independent samples, and a group's mean needs these."""
    encode = engine.parts.tokenizer.apply_chat_template
    asked = [encode(prompt, add_generation_prompt=True, return_dict=False) for prompt in prompts]
    requests = [
        EngineRequest(str(i), ids, decoding, seed=65_537 * seed + i, max_tokens=NEW_TOKENS)
        for i, ids in enumerate(asked)
    ]
    done = {event.id: event.branch for event in engine.generate(requests) if event.branch is not None}
    return asked, [done[request.id] for request in requests]


def reward(prompts: list, branch_text: list[str], **_) -> list[float | None]:
    """1 for what the verifier accepts, 0 for what it rejects; None, which TRL leaves out, where it can't tell."""
    verify, known = countdown(), {"accepted": 1.0, "rejected": 0.0}
    asked = [Problem(prompt=prompt[-1]["content"]) for prompt in prompts]
    verdicts = [verify(problem, Branch(text=text)) for problem, text in zip(asked, branch_text, strict=True)]
    return [known.get(verdict.status) for verdict in verdicts]


def chats(split: str, count: int, seed: int) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": str(puzzle)}] for puzzle in sample_puzzles(split, count, seed)]


def right(policy: torch.nn.Module, tokenizer) -> np.ndarray:
    """Share of right branches [200 held-out puzzles, always the same], of 4 each, plainly sampled at T=1."""
    prompts = [chat for chat in chats("test", 200, seed=1) for _ in range(4)]
    _, branches = grow(engine_of(policy, tokenizer), prompts, ON_POLICY, seed=99)
    return np.reshape(reward(prompts, [branch.text for branch in branches]), (200, 4)).mean(1)


def train(policy: torch.nn.Module, tokenizer, steps: int, seed: int, decoding: Decoding) -> list[dict[str, float]]:
    """Train in place; what TRL logged of each step."""
    with tempfile.TemporaryDirectory() as out:
        settings = GRPOConfig(
            output_dir=out, max_steps=steps, per_device_train_batch_size=PROMPTS * GROUP, num_generations=GROUP,
            max_completion_length=NEW_TOKENS, learning_rate=1e-3, seed=seed, bf16=False, use_cpu=True, report_to=[],
            gradient_checkpointing=False, logging_steps=1, save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = OffPolicyTrainer(
            policy,
            reward,
            settings,
            Dataset.from_list([{"prompt": chat} for chat in chats("train", PROMPTS * steps, seed)]),
            processing_class=tokenizer,
            rollout_func=Rollouts(decoding),
        )
        trainer.train()
    return [entry for entry in trainer.state.log_history if "reward" in entry]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--led", action="store_true", help="explore with LED, off policy")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = locate("countdown-sft")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    policy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    before = right(policy, tokenizer)
    log = train(policy, tokenizer, options.steps, options.seed, EXPLORING if options.led else ON_POLICY)
    told = {name: [round(entry[name], 4) for entry in log] for name in ("reward", "clip_ratio/region_mean")}
    after = right(policy, tokenizer)
    gain, _ = Bootstrap.of(len(before)).difference(after, before)  # paired by puzzle, with its 95 % interval
    print(json.dumps({"before": before.mean(), "after": after.mean(), "gain": gain.model_dump(), **told}))


if __name__ == "__main__":
    main()
