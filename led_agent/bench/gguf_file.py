"""The same weights as a GGUF file, for llama.cpp. No torch here; gguf is imported where it is needed."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any

from led_agent.errors import MachineError, ModelError
from led_agent.models import cache_folder

__all__ = ["dequantised"]

_KINDS = {"bfloat16": ("BF16", "MOSTLY_BF16"), "float16": ("F16", "MOSTLY_F16"), "float32": ("F32", "ALL_F32")}


def dequantised(source: Path, dtype: str) -> Path:
    """A GGUF file with the weights that the engine gets from ``source``: written out from their quantised form, rounded
    to bfloat16 as the engine's own are, and kept in ``dtype``, norms in float32. Made once, in the user's cache.

    Raises:
        ModelError: gguf isn't installed.
        MachineError: the cache folder can't be written.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f"reading {source.name} needs gguf: pip install 'led-agent[smollm2]'")
    target = cache_folder() / "models" / f"{source.stem}-{dtype}.gguf"
    if target.is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, made = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=".gguf", dir=target.parent)
        os.close(handle)
        try:
            _write(source, Path(made), dtype)
            Path(made).replace(target)  # whole or not at all
        finally:
            Path(made).unlink(missing_ok=True)
    except OSError as error:
        raise MachineError(
            f"can't write {target}: {error.strerror or error}; set LED_AGENT_CACHE to another folder"
        ) from error
    return target


def _write(source: Path, target: Path, dtype: str) -> None:
    import gguf

    reader: Any = gguf.GGUFReader(source)
    kind, file_kind = _KINDS[dtype]
    architecture = reader.fields["general.architecture"].contents()
    writer: Any = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        # The header's own fields are counted anew, and the writer has put the architecture.
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    writer.add_file_type(gguf.LlamaFileType[file_kind])
    for tensor in reader.tensors:
        _add(gguf, writer, tensor, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(gguf: Any, writer: Any, tensor: Any, kind: str) -> None:
    kinds, quants = gguf.GGMLQuantizationType, gguf.quants
    halved = quants.quantize(quants.dequantize(tensor.data, tensor.tensor_type), kinds.BF16)
    # Of a vector's shape are norms: llama.cpp multiplies by them in float32.
    chosen = kinds[kind] if len(tensor.shape) > 1 else kinds.F32
    data = halved if chosen == kinds.BF16 else quants.quantize(quants.dequantize(halved, kinds.BF16), chosen)
    writer.add_tensor(tensor.name, data, raw_dtype=chosen)
