"""llama.cpp as a peer, through the package llama_cpp's low-level functions. This file alone knows that package.

A prompt is computed once, its keys and values are shared by all sequences, and each step decodes one token of every
sequence in one batch. Each sequence has a sampler chain of its own: temperature, then a draw. Weights are those of the
file; keys and values are kept in half precision, its own default, whatever the weights are. Its flash attention is
switched off on a CPU, where 32 branches of a small model were measured to be quicker without, by about a tenth; and one
buffer for all sequences was as quick as one for each. Nothing else is changed from its defaults.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from led_agent.bench.workload import Workload
from led_agent.errors import MachineError, ModelError, UsageError

__all__ = ["LlamaCpp", "missing"]

_PREFILL = 512  # prompt tokens computed at a time, its own default


def missing() -> str | None:
    """Why it can't be run, and what to install; None where it is there."""
    if importlib.util.find_spec("llama_cpp") is None:
        return "llama_cpp isn't installed: pip install llama-cpp-python (it compiles llama.cpp for this machine)"
    return None


class LlamaCpp:
    """A loaded model and a context with room for one workload.

    Args:
        file: A GGUF file.
        vocab: Tokens that the other arms sample among; the file's model must have as many.
        threads: That compute.
        gpu: Whether all layers are to be put on a GPU.

    Raises:
        UsageError: the file is of another model.
        ModelError: it can't be loaded.
        MachineError: memory is short, or the library was built without a GPU.
    """

    def __init__(self, file: Path, workload: Workload, *, vocab: int, threads: int, gpu: bool = False) -> None:
        import llama_cpp

        self._lib: Any = llama_cpp
        self.workload = workload
        self._log = _quiet(self._lib)
        self._lib.llama_backend_init()
        if gpu and not self._lib.llama_supports_gpu_offload():
            raise MachineError("llama_cpp was built without support of a GPU; the other arms run on one")
        self._model = self._load(file, gpu=gpu)
        self._context = self._make_context(threads, gpu=gpu)
        found = self._lib.llama_vocab_n_tokens(self._lib.llama_model_get_vocab(self._model))
        if found != vocab:
            raise UsageError(f"{file} has a vocabulary of {found} tokens, the model one of {vocab}: give its own file")

    def _load(self, file: Path, *, gpu: bool) -> Any:
        settings = self._lib.llama_model_default_params()
        settings.n_gpu_layers = -1 if gpu else 0
        model = self._lib.llama_model_load_from_file(str(file).encode(), settings)
        if not model:
            raise ModelError(f"llama.cpp can't load {file}: is it a GGUF file of a model that it knows?")
        return model

    def _make_context(self, threads: int, *, gpu: bool) -> Any:
        work = self.workload
        settings = self._lib.llama_context_default_params()
        # One buffer for all sequences, in which the prompt's keys and values lie once.
        settings.kv_unified = True
        if not gpu:
            settings.flash_attn_type = self._lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        settings.n_ctx = work.prompt + work.branches * work.new
        settings.n_seq_max = work.branches
        settings.n_batch = settings.n_ubatch = max(_PREFILL, work.branches)
        settings.n_threads = settings.n_threads_batch = threads
        context = self._lib.llama_init_from_model(self._model, settings)
        if not context:
            raise MachineError(f"llama.cpp can't make a context of {settings.n_ctx} positions: memory is short")
        return context

    def grow(self, prompt: Sequence[int], new: int, *, seed: int) -> list[list[int]]:
        """The tokens of all branches, so many new ones each.

        Raises:
            MachineError: llama.cpp reports that it failed.
        """
        lib, branches = self._lib, range(self.workload.branches)
        memory = lib.llama_get_memory(self._context)
        lib.llama_memory_clear(memory, False)  # the prompt before is forgotten
        batch = lib.llama_batch_init(max(_PREFILL, len(branches)), 0, 1)
        samplers = [self._sampler(seed * len(branches) + i) for i in branches]
        try:
            self._prefill(batch, prompt)
            for branch in branches[1:]:
                lib.llama_memory_seq_cp(memory, 0, branch, -1, -1)
            newest = [lib.llama_sampler_sample(sampler, self._context, -1) for sampler in samplers]
            grown = [[token] for token in newest]
            for step in range(new - 1):
                self._decode(batch, [(newest[i], len(prompt) + step, i, True) for i in branches])
                for i in branches:
                    newest[i] = lib.llama_sampler_sample(samplers[i], self._context, i)
                    grown[i].append(newest[i])
            return grown
        finally:
            lib.llama_batch_free(batch)
            for sampler in samplers:
                lib.llama_sampler_free(sampler)

    def _sampler(self, seed: int) -> Any:
        lib = self._lib
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_temp(self.workload.temperature))
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_dist(seed % 2**32))
        return chain

    def _prefill(self, batch: Any, prompt: Sequence[int]) -> None:
        last = len(prompt) - 1
        for start in range(0, len(prompt), _PREFILL):
            piece = enumerate(prompt[start : start + _PREFILL], start)
            self._decode(batch, [(token, at, 0, at == last) for at, token in piece])

    def _decode(self, batch: Any, tokens: Sequence[tuple[int, int, int, bool]]) -> None:
        """Compute a batch of (token, position, sequence, whether its logits are wanted)."""
        batch.n_tokens = len(tokens)
        for i, (token, position, sequence, wanted) in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            batch.logits[i] = wanted
        code = self._lib.llama_decode(self._context, batch)
        if code != 0:
            raise MachineError(f"llama_decode gave {code} for a batch of {len(tokens)}")

    def close(self) -> None:
        """Give its memory back."""
        if self._context is not None:
            self._lib.llama_free(self._context)
            self._lib.llama_model_free(self._model)
            self._context = self._model = None


def _quiet(lib: Any) -> Callable[..., None]:
    """Keep the library from writing on standard error; the callback must be kept for as long as it is used."""

    @lib.llama_log_callback  # type: ignore[untyped-decorator]
    def ignore(_level: int, _text: bytes, _data: ctypes.c_void_p) -> None:
        pass

    lib.llama_log_set(ignore, ctypes.c_void_p(0))
    return ignore  # type: ignore[no-any-return]
