"""The network (a stock Llama, deep and thin), its logit lens, and sampling from it in batches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, LlamaModel

from led_agent.countdown import Puzzle

from .problems import CLOSE, END, IDS, NEW_TOKENS, PAD, WORDS, encode, prompt_words

CONTEXT = 128  # positions
HEAD = 32  # width of an attention head
# transformers 5.24 renamed the argument, and warns of its old name.
_CACHE = "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"
Chooser = Callable[[Sequence[Tensor], Tensor], Tensor]  # states after each block and thinking [rows] -> tokens [rows]


def new_model(blocks: int, width: int) -> LlamaForCausalLM:
    """A fresh network, drawn with torch's current seed."""
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=blocks,
        num_attention_heads=width // HEAD,
        num_key_value_heads=width // HEAD,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=IDS[END],
        pad_token_id=IDS[PAD],
    )
    return LlamaForCausalLM(config)


def load(folder: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def lens(model: LlamaForCausalLM, state: Tensor) -> Tensor:
    """Logits [..., vocabulary] read off an intermediate state [..., width] through the final norm and the head."""
    return model.lm_head(model.model.norm(state))


def prompts(puzzles: Sequence[Puzzle]) -> Tensor:
    """Token ids [puzzles, prompt]; all prompts are of one length."""
    return torch.tensor([encode(prompt_words(puzzle)) for puzzle in puzzles])


def words_of(rows: Tensor) -> list[list[str]]:
    return [[WORDS[token] for token in row if token != IDS[PAD]] for row in rows.tolist()]


def temperature_chooser(model: LlamaForCausalLM, temperature: float, generator: torch.Generator) -> Chooser:
    """Sample from the final posterior; temperature 0 is greedy."""

    def choose(states: Sequence[Tensor], thinking: Tensor) -> Tensor:
        logits = model.lm_head(states[-1])
        if temperature == 0:
            return logits.argmax(-1)
        return draw(torch.softmax(logits / temperature, -1), generator)

    return choose


def draw(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """One index a row [rows] from probabilities [rows, choices], by exponential races."""
    race = torch.empty_like(probabilities).exponential_(generator=generator)
    return (probabilities / race).argmax(-1)


@torch.inference_mode()
def rollout(model: LlamaForCausalLM, start: Tensor, choose: Chooser, max_new: int = NEW_TOKENS) -> Tensor:
    """Grow each prompt [rows, prompt] until its ``<eos>``: new tokens [rows, max_new], padded after the end."""
    rows = len(start)
    grown = torch.full((rows, max_new), IDS[PAD])
    alive, thinking = torch.arange(rows), torch.ones(rows, dtype=torch.bool)
    cache, fed = DynamicCache(config=model.config), start
    for at in range(max_new):
        out = model.model(input_ids=fed, **{_CACHE: cache}, use_cache=True, output_hidden_states=True)
        token = choose([state[:, -1] for state in out.hidden_states], thinking)
        grown[alive, at] = token
        thinking = thinking & (token != IDS[CLOSE])
        on = token != IDS[END]
        if not on.any():
            break
        if on.sum() < 0.8 * len(alive):  # ended rows would be computed for nothing
            cache.batch_select_indices(on.nonzero()[:, 0])
            alive, thinking, token = alive[on], thinking[on], token[on]
        fed = token[:, None]
    return _padded(grown)


def _padded(grown: Tensor) -> Tensor:
    ended = (grown == IDS[END]).cumsum(-1)
    after = (ended - (grown == IDS[END]).long()) > 0
    return grown.masked_fill(after, IDS[PAD])
