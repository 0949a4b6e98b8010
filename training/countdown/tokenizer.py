"""The tokenizer: a token a word, numbers whole, and a chat template that reads plain English.

The template turns "Use 4, 7 and 12 to make 40." into ``4 7 12 = 40 <think>``, by the rules and word lists of
``led_agent.countdown.read_puzzle``, and refuses what it can't read or the model was not trained for.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from led_agent.countdown import AIMS, FILLERS, SEPARATORS, SIGNS
from led_agent.models import LARGEST_GIVEN

from .model import CONTEXT
from .problems import CLOSE, END, LARGEST, OPEN, PAD, UNKNOWN, WORDS

_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def chat_template() -> str:
    """The Jinja source with the word lists in it."""
    lists = {
        "LARGEST_GIVEN": LARGEST_GIVEN,
        "LARGEST": LARGEST,
        "SEPARATORS": list(SEPARATORS),
        "AIMS": list(AIMS),
        "NUMBERS": [str(n) for n in range(LARGEST + 1)],
        "FILLERS": list(FILLERS),
        "SIGNS": list(SIGNS),
    }
    template = _TEMPLATE.read_text()
    for name, value in lists.items():
        template = template.replace(name, json.dumps(value, ensure_ascii=False))
    return template


def new_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of both checkpoints."""
    raw = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token=UNKNOWN))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[-+*/=()]"), "isolated")]
    )
    raw.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in (OPEN, CLOSE)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=CONTEXT,
        chat_template=chat_template(),
        clean_up_tokenization_spaces=False,
    )
