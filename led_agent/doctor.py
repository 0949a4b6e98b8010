"""What led_agent finds on this machine: versions, devices, models, Ray, the cache folder, the sandbox.

Each finding says whether it is as it should be and, where it is needed for solving and verifying, that it is.
"""

from __future__ import annotations

import importlib
import importlib.util
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from led_agent.models import cache_folder, known_models

__all__ = ["Finding", "examine"]

_PACKAGES = ("led-agent", "torch", "transformers", "ray", "math-verify")
_NEEDED = ("torch", "transformers", "math-verify")  # without which nothing is solved and judged


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        group: "version", "device", "model", "ray", "cache" or "sandbox".
        name: What.
        ok: Whether it is there and usable.
        detail: What was found, and what to do where it isn't usable.
        needed: Whether the main job, solving and verifying here, can't run without it.
    """

    group: str
    name: str
    ok: bool
    detail: str
    needed: bool = False

    def row(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> Iterator[Finding]:
    """All findings, as they are made. None raises: what fails is a finding."""
    for group, look in (
        ("version", _versions),
        ("device", _devices),
        ("model", _models),
        ("ray", _ray),
        ("cache", _cache),
        ("sandbox", _sandbox),
    ):
        yield from _guarded(group, look)


def _guarded(group: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except Exception as error:  # noqa: BLE001 - a broken installation is what this command is for
        yield Finding(group, group, False, f"{type(error).__name__}: {error}", needed=group == "device")


def _versions() -> Iterator[Finding]:
    yield Finding("version", "python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in _PACKAGES:
        try:
            yield Finding("version", name, True, version(name), name in _NEEDED)
        except PackageNotFoundError:
            missing = f"not installed: pip install {name}"
            yield Finding("version", name, False, missing, name in _NEEDED)


def _devices() -> Iterator[Finding]:
    from led_agent.engine.devices import device_facts

    for name, fact in device_facts().items():
        yield Finding("device", name, True, fact)


def _models() -> Iterator[Finding]:
    for info in known_models():
        yield Finding("model", info.name, info.path is not None, info.source)


def _ray() -> Iterator[Finding]:
    """Looked up, and neither imported nor started: that takes seconds and processes."""
    if importlib.util.find_spec("ray") is None:
        yield Finding("ray", "ray", False, "not importable: pip install ray")
    else:
        yield Finding("ray", "ray", True, f"{version('ray')}, importable; not started")


def _cache() -> Iterator[Finding]:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        told = f"{folder} can't be written ({error.strerror}); set LED_AGENT_CACHE to another folder"
        yield Finding("cache", "folder", False, told)
        return
    free = shutil.disk_usage(folder).free / 2**30
    yield Finding("cache", "folder", True, f"{folder} can be written, {free:.1f} GiB free")


def _sandbox() -> Iterator[Finding]:
    """The only place that knows what ``led_agent.verifiers.sandbox`` offers."""
    if importlib.util.find_spec("led_agent.verifiers.sandbox") is None:
        yield Finding("sandbox", "sandbox", False, "this version of led_agent has none")
        return
    sandbox: Any = importlib.import_module("led_agent.verifiers.sandbox")
    for tier in sandbox.report():
        passed = sum(probe.passed for probe in tier.probes)
        told = f"{passed} of {len(tier.probes)} probes contained" if tier.probes else "no probe was run"
        yield Finding("sandbox", f"tier {tier.tier}", tier.available, f"{told}{_reason(tier.reason)}")
        for probe in tier.probes:
            if not probe.passed:
                yield Finding("sandbox", f"tier {tier.tier}, {probe.name}", False, probe.detail)
    chosen = sandbox.chosen()
    refused = "none: unit_tests refuses to run code here"
    yield Finding("sandbox", "chosen", chosen is not None, f"tier {chosen}" if chosen is not None else refused)


def _reason(text: str) -> str:
    return f"; {text}" if text else ""
