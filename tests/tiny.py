"""Small real models for the tests: random ones of every family, and a tokenizer with thinking tags."""

from __future__ import annotations

from typing import Any

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "smollm")


def tiny_config(family: str, **changes: Any) -> Any:
    """A configuration of a model of a few thousand parameters, with grouped queries and, for SmolLM, its real shape's
    proportions and tied embeddings."""
    from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config, SmolLM3Config

    kinds = {
        "llama": LlamaConfig,
        "mistral": MistralConfig,
        "qwen2": Qwen2Config,
        "qwen3": Qwen3Config,
        "smollm3": SmolLM3Config,
        "smollm": LlamaConfig,
    }
    settings: dict[str, Any] = {
        "vocab_size": 97,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "initializer_range": 0.4,
        "bos_token_id": 1,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if family == "smollm":
        settings |= {"num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 72, "tie_word_embeddings": True}
    return kinds[family](**(settings | changes))


def tiny_model(family: str = "llama", seed: int = 0, **changes: Any) -> Any:
    """A random model; the same for the same arguments."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family, **changes))
    with torch.no_grad():  # norms that do something, so that leaving one out is noticed
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
    return model.float().eval()


def tiny_tokenizer(*, think: str = "none") -> Any:
    """One token a word, w0 … w79, and digits, letters and marks; ``think``: "none", "token" (each tag one token) or
    "pieces" (tags spelled in several)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [f"w{i}" for i in range(80)]
    vocab = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", *words, "<", "</", "think", ">", "\n", "."])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "removed"),
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Split("</", "isolated"),
            pre_tokenizers.Split("think", "isolated"),
            pre_tokenizers.Split(">", "isolated"),
        ]
    )
    raw.decoder = decoders.Sequence([decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    if think == "token":
        tokenizer.add_tokens(["<think>", "</think>"], special_tokens=False)
    opening = {"none": "", "token": "<think>\n", "pieces": "<think>\n"}[think]
    mention = "" if think == "none" else "{# </think> #}"
    tokenizer.chat_template = f"{{% for m in messages %}}{{{{ m.content }}}} {{% endfor %}}{mention}{opening}"
    return tokenizer
