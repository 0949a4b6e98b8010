"""GRPO by TRL, its rollouts grown by led_agent's engine and rewarded by a verifier; about a minute on one core.

The embedded model as it was before reinforcement learning is trained some steps more, and its share of right answers
to held-out puzzles measured before and after. Usage: trl_rollout.py [--steps 20] [--led] [--seed 0]
"""

import argparse
import copy
import itertools
import json
import tempfile

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from led_agent import Branch, Decoding, Problem
from led_agent.countdown_puzzles import sample_puzzles
from led_agent.engine import Engine, EngineRequest, ModelParts
from led_agent.models import locate
from led_agent.verifiers import countdown

PROMPTS, GROUP, NEW_TOKENS, SLOTS = 16, 8, 42, 64
# Siblings that share their numbers are no independent samples, and a group's mean would be a biased baseline.
ON_POLICY = Decoding.plain(1.0).replace(siblings="independent")
EXPLORING = Decoding.led("paper", depths=4, temperature=1.0).replace(siblings="independent")


class Rollouts:
    """TRL's rollout function: one branch for each prompt, from the weights that the policy has now."""

    def __init__(self, decoding: Decoding) -> None:
        self.decoding, self._engine, self._step = decoding, None, -1

    def __call__(self, prompts: list, trainer: GRPOTrainer) -> dict[str, list]:
        if self._step != trainer.state.global_step:
            policy = trainer.accelerator.unwrap_model(trainer.model)
            self._engine, self._step = engine_of(policy, trainer.processing_class), trainer.state.global_step
        grown = grow(self._engine, prompts, self.decoding, seed=trainer.args.seed * 1_000_003 + self._step)
        return {
            "prompt_ids": [ids for ids, _ in grown],
            "completion_ids": [list(branch.token_ids) for _, branch in grown],
            "logprobs": [list(branch.logprobs) for _, branch in grown],  # of the law that drew them
            "branch_text": [branch.text for _, branch in grown],  # goes on to the reward
        }


class Trainer(GRPOTrainer):
    """GRPO whose ratios are to the law that drew the tokens. TRL weighs by a rollout's log-probabilities for vLLM only,
    and takes all others to be on policy."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        drawn = {**inputs, "old_per_token_logps": inputs["sampling_per_token_logps"]}
        return super().compute_loss(model, drawn, return_outputs, num_items_in_batch)


def engine_of(policy: torch.nn.Module, tokenizer) -> Engine:
    """An engine with a copy of the policy's weights: it lays them out anew, and they must not change under it."""
    return Engine(ModelParts.of(copy.deepcopy(policy), tokenizer), slots=SLOTS)


def grow(engine: Engine, prompts: list, decoding: Decoding, seed: int) -> list[tuple[list[int], Branch]]:
    """Each prompt's tokens and branch, in order; a prompt that is repeated is prefilled once."""
    requests, encode = [], engine.parts.tokenizer.apply_chat_template
    for index, (prompt, same) in enumerate(itertools.groupby(prompts)):
        ids, n = encode(prompt, add_generation_prompt=True, return_dict=False), len(list(same))
        requests.append(EngineRequest(f"{index}", ids, decoding, seed + 7919 * index, NEW_TOKENS, n))
    done = {event.id: event.branch for event in engine.generate(requests) if event.branch is not None}
    return [
        (list(request.prompt_ids), done[request.id if request.n == 1 else f"{request.id}/{i}"])
        for request in requests
        for i in range(request.n)
    ]


def reward(prompts: list, branch_text: list[str], **_) -> list[float | None]:
    """1 for what the verifier accepts, 0 for what it rejects; None, which TRL leaves out, where it can't tell."""
    verdicts = [
        countdown()(Problem(prompt=prompt[-1]["content"]), Branch(text=text))
        for prompt, text in zip(prompts, branch_text, strict=True)
    ]
    return [{"accepted": 1.0, "rejected": 0.0}.get(verdict.status) for verdict in verdicts]


def asked(split: str, count: int, seed: int) -> list[list[dict[str, str]]]:
    """Puzzles as chats."""
    return [[{"role": "user", "content": str(puzzle)}] for puzzle in sample_puzzles(split, count, seed)]


def right(policy: torch.nn.Module, tokenizer) -> float:
    """Share of right branches, plainly sampled at T=1: 4 for each of 200 held-out puzzles, always the same."""
    chats = [chat for chat in asked("test", 200, seed=1) for _ in range(4)]
    grown = grow(engine_of(policy, tokenizer), chats, ON_POLICY, seed=99)
    return sum(reward(chats, [branch.text for _, branch in grown])) / len(chats)


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
    with tempfile.TemporaryDirectory() as out:
        settings = GRPOConfig(
            output_dir=out, max_steps=options.steps, per_device_train_batch_size=PROMPTS * GROUP, num_generations=GROUP,
            max_completion_length=NEW_TOKENS, learning_rate=1e-3, lr_scheduler_type="linear", seed=options.seed,
            bf16=False, use_cpu=True, gradient_checkpointing=False, report_to=[], logging_steps=1, save_strategy="no",
            disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(
            policy,
            reward,
            settings,
            Dataset.from_list([{"prompt": chat} for chat in asked("train", PROMPTS * options.steps, options.seed)]),
            processing_class=tokenizer,
            rollout_func=Rollouts(EXPLORING if options.led else ON_POLICY),
        )
        trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    print(json.dumps({"before": before, "after": right(policy, tokenizer), "rewards": rewards}))


if __name__ == "__main__":
    main()
