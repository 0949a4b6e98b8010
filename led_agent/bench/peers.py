"""The arms: the engine's own, and the other ways of running the same model.

Every arm does the same work, so many branches of one prompt that all have so many new tokens, sampled by temperature
alone, with the same weights in the same dtype, on the same device and with as many threads. Timed is the whole call,
prefill included, loading left out. An arm raises where it has not made exactly the tokens asked for.

Models are loaded when they are first needed. The three arms of transformers share one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

from led_agent.bench import llama
from led_agent.bench.gguf_file import dequantised
from led_agent.bench.harness import WARM_UP, Arm
from led_agent.bench.workload import Workload
from led_agent.engine import Engine, EngineRequest
from led_agent.engine.model import load_parts, without_bars
from led_agent.errors import MachineError, ModelError, UsageError
from led_agent.models import made_from
from led_agent.types import Branch, Decoding

__all__ = ["ENGINE", "LED", "ContinuousBatching", "EngineArm", "Peers"]

ENGINE, LED = "engine", "engine LED"
_SEEDS = 1000  # rounds come after the warm-up's -1, and no seed may be below 0
_SHORT = 8  # new tokens that warm up a CPU; on a GPU, shapes that come later would be compiled for later
_Grown = tuple[list[list[int]], float]  # tokens by branch, and seconds


class EngineArm:
    """The engine under one decoding.

    Attributes:
        explored: The share of tokens that were drawn from a shallower posterior, by round.
    """

    def __init__(self, name: str, engine: Engine, workload: Workload, decoding: Decoding) -> None:
        self.name, self.engine, self.workload, self.decoding = name, engine, workload, decoding
        self.explored: dict[int, float] = {}

    def run(self, number: int) -> tuple[int, float]:
        """Grow the branches of one round."""
        done, seconds = self._grow(number, self.workload)
        self.explored[number] = sum(sum(branch.explored) for branch in done) / self.workload.tokens
        return _checked([branch.token_ids for branch in done], self.workload), seconds

    def prepare(self) -> None:
        """Grow a few tokens a branch."""
        self._grow(WARM_UP, self.workload.shortened(_SHORT))

    def _grow(self, number: int, work: Workload) -> tuple[list[Branch], float]:
        # Decodings share the engine's prefixes: each has a prompt of its own, or one would be prefilled for another.
        prompt = work.prompt_ids(number, self.engine.parts.vocab, self.name)
        request = EngineRequest(f"{number}", prompt, self.decoding, _SEEDS + number, work.new, work.branches)
        began = time.perf_counter()
        done = [event.branch for event in self.engine.generate([request]) if event.branch is not None]
        return done, time.perf_counter() - began


class Peers:
    """Makes the arms for one model and one workload.

    Args:
        path: A folder or hub id.
        workload: With a dtype or "auto".
        gguf: The model as a GGUF file of the same dtype, for llama.cpp; needed where the model isn't one that was made
            from such a file.

    Raises:
        ModelError: the engine can't load the model.
        UsageError: no such device or dtype, or the workload doesn't fit the model.
    """

    def __init__(self, path: str, workload: Workload, *, device: str = "auto", gguf: Path | None = None) -> None:
        self.path, self.gguf = path, gguf
        parts = load_parts(path, device=device, dtype=workload.dtype)
        parts.eos = frozenset()
        self.engine = Engine(parts, slots=workload.branches)
        self.workload = workload.model_copy(update={"dtype": str(parts.dtype).removeprefix("torch.")})
        self.device = parts.device
        self.threads = torch.get_num_threads()
        self.vocab = parts.vocab
        if workload.prompt + workload.new > parts.context:
            raise UsageError(
                f"a prompt of {workload.prompt} tokens and {workload.new} new ones don't fit the model's context of "
                f"{parts.context}; give less of either"
            )

    # --- the engine --------------------------------------------------------------------------------------------

    def engine_arm(self, name: str, decoding: Decoding) -> tuple[Arm, EngineArm]:
        """The engine under any decoding, and what it notes beside the time."""
        made = EngineArm(name, self.engine, self.workload, decoding)
        return Arm(name, made.run, made.prepare), made

    def plain(self) -> Arm:
        """Temperature sampling, as all peers do it."""
        return self.engine_arm(ENGINE, self.engine_decoding())[0]

    def engine_decoding(self) -> Decoding:
        """What ``plain`` decodes by."""
        return Decoding.plain(self.workload.temperature)

    def led(self) -> Arm:
        """LED as in its paper, everywhere in the text; its gate is drawn before any shallower posterior is computed."""
        decoding = Decoding.led("paper", temperature=self.workload.temperature, span="all", gate_first=True)
        return self.engine_arm(LED, decoding)[0]

    # --- peers -------------------------------------------------------------------------------------------------

    def arm(self, peer: str) -> Arm | str:
        """A peer's arm, or why it can't be had."""
        makers: dict[str, Callable[[], Arm | str]] = {
            "generate": self._dynamic,
            "static": self._static,
            "continuous": self._continuous,
            "llama.cpp": self._llama,
        }
        return makers[peer]()

    def _dynamic(self) -> Arm:
        """``generate`` as it comes: its dynamic cache, all branches by ``num_return_sequences``, for which it prefills
        the prompt once a branch."""
        return self._generate("generate")

    def _static(self) -> Arm:
        """``generate`` with ``cache_implementation="static"``. On CUDA transformers then compiles the decode step, in
        the warm-up; on a CPU it doesn't by itself, and isn't asked to."""
        return self._generate("generate, static cache", cache_implementation="static")

    def _generate(self, name: str, **settings: Any) -> Arm:
        def grow(number: int, work: Workload) -> _Grown:
            torch.manual_seed(_SEEDS + number)
            ids = torch.tensor([work.prompt_ids(number, self.vocab)], device=self.device)
            config = _sampling(work, num_return_sequences=work.branches, min_new_tokens=work.new, **settings)
            began = time.perf_counter()
            out = self._model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
            tokens = out[:, work.prompt :].tolist()  # on the host: what a GPU still had to do is done
            return tokens, time.perf_counter() - began

        return self._arm(name, grow)

    def _continuous(self) -> Arm:
        """Continuous batching of transformers: see ``ContinuousBatching``."""
        batching: list[ContinuousBatching] = []

        def grow(number: int, work: Workload) -> _Grown:
            if not batching:
                batching.append(ContinuousBatching(self._model, self.workload))
            torch.manual_seed(_SEEDS + number)
            return batching[0].grow(work.prompt_ids(number, self.vocab), work.new)

        return self._arm("continuous batching", grow)

    def _llama(self) -> Arm | str:
        """llama.cpp: see ``led_agent.bench.llama``."""
        absent = llama.missing()
        if absent is not None:
            return absent
        source = made_from(self.path)
        if self.gguf is None and source is None:
            return "it needs the model as a GGUF file of the same dtype: give one with --gguf"
        loaded: list[llama.LlamaCpp] = []

        def grow(number: int, work: Workload) -> _Grown:
            if not loaded:
                loaded.append(self._load_llama(source))
            prompt = work.prompt_ids(number, self.vocab)
            began = time.perf_counter()
            tokens = loaded[0].grow(prompt, work.new, seed=_SEEDS + number)
            return tokens, time.perf_counter() - began

        return self._arm("llama.cpp", grow)

    def _load_llama(self, source: Path | None) -> llama.LlamaCpp:
        file = self.gguf if source is None or self.gguf else dequantised(source, self.workload.dtype)
        return llama.LlamaCpp(
            file or Path(),
            self.workload,
            vocab=int(self.engine.parts.model.lm_head.weight.shape[0]),
            threads=self.threads,
            gpu=self.device.type == "cuda",
        )

    def _arm(self, name: str, grow: Callable[[int, Workload], _Grown]) -> Arm:
        """An arm of what makes (tokens by branch, seconds) for a round's number and a workload."""

        def run(number: int) -> tuple[int, float]:
            tokens, seconds = grow(number, self.workload)
            return _checked(tokens, self.workload), seconds

        def prepare() -> None:
            grow(WARM_UP, self.workload if self.device.type == "cuda" else self.workload.shortened(_SHORT))

        return Arm(name, run, prepare)

    @cached_property
    def _model(self) -> Any:
        """The model of transformers' arms, loaded a second time: the engine's attends by a function of its own."""
        with without_bars():
            model = AutoModelForCausalLM.from_pretrained(self.path, dtype=self.engine.parts.dtype)
        model = torch.nn.Module.to(model, self.device).train(False)
        model.generation_config = _config(pad_token_id=0)  # the model's own would end branches, or filter
        return model


class ContinuousBatching:
    """transformers' continuous batching, as it is best here.

    One request with ``num_return_sequences``: the prompt is prefilled once, whole, and its full pages are shared. The
    manager, its page cache included, is made once and kept, and the clock stops with the last result, before its
    thread is stopped. On CUDA it takes flash attention where that is installed. A CPU leaves it "sdpa" and
    "paged|eager", and it is given the latter, which was measured to be the quicker of the two by about a tenth at 16
    branches of 1k tokens. Both attend from all branches to the pages of all of them and mask what isn't theirs, so
    that a step's cost grows with the square of the branches.
    """

    def __init__(self, model: Any, workload: Workload) -> None:
        self._model = model
        config = ContinuousBatchingConfig()
        pages = -(-(workload.prompt + workload.new) // config.page_size) + 1
        config.num_blocks = workload.branches * pages + 1
        config.max_batch_tokens = max(workload.prompt, workload.branches)
        config.max_requests_per_batch = workload.branches
        settings = _sampling(workload, num_return_sequences=workload.branches)
        settings.eos_token_id = -1  # none: its own way of saying so
        self._branches = workload.branches
        with self._attending():
            self._manager = model.init_continuous_batching(
                generation_config=settings, continuous_batching_config=config
            )

    def grow(self, prompt: Sequence[int], new: int) -> _Grown:
        """The tokens of all branches, and the seconds they took.

        Raises:
            MachineError: a request failed.
        """
        manager, complete = self._manager, False
        with self._attending():
            try:
                began = time.perf_counter()
                manager.start()
                manager.add_request(list(prompt), max_new_tokens=new)
                tokens = _collect(manager, self._branches)
                seconds = time.perf_counter() - began
                complete = True
            finally:
                # After Ctrl-C a thread that finishes what it has begun would keep the process for minutes.
                manager.stop(block=True, keep_for_next_session=complete, hard_stop=not complete)
        return tokens, seconds

    @contextmanager
    def _attending(self) -> Iterator[None]:
        """The other arms share the model: its attention is its own again when this is left."""
        before = self._model.config._attn_implementation
        if self._model.device.type == "cpu":
            self._model.set_attn_implementation("paged|eager")
        try:
            yield
        finally:
            self._model.set_attn_implementation(before)


def _collect(manager: Any, branches: int) -> list[list[int]]:
    found: list[list[int]] = []
    while len(found) < branches:
        result = manager.get_result(timeout=1)
        if result is None and not manager.is_running():
            raise MachineError("its thread ended before all branches were done")
        if result is not None and result.error is not None:
            raise MachineError(f"a request failed: {result.error}")
        if result is not None and result.is_finished():
            found.append(list(result.generated_tokens))
    return found


def _sampling(work: Workload, **more: Any) -> GenerationConfig:
    """Temperature alone, and no end of text."""
    return _config(
        do_sample=True,
        temperature=work.temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=work.new,
        eos_token_id=None,
        pad_token_id=0,
        **more,
    )


def _config(**settings: Any) -> GenerationConfig:
    return GenerationConfig(**settings)  # type: ignore[no-untyped-call]


def _checked(tokens: Sequence[Sequence[int]], work: Workload) -> int:
    """How many tokens these are.

    Raises:
        ModelError: a branch has more or fewer than were asked for.
    """
    found = [len(branch) for branch in tokens]
    if found != [work.new] * work.branches:
        raise ModelError(
            f"{work.branches} branches of {work.new} tokens were asked for; there are {len(found)} of "
            f"{min(found, default=0)} to {max(found, default=0)}"
        )
    return sum(found)
