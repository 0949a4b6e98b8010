"""What this machine offers a model: devices, threads, memory. Nothing is loaded or computed."""

from __future__ import annotations

import os

import torch

from led_agent.engine.cpu import granted_threads
from led_agent.engine.memory import free_bytes

__all__ = ["device_facts"]


def device_facts() -> dict[str, str]:
    """Facts by name, for people: the CPU's cores (those this process may use, a container's quota counted in), torch's
    threads, free memory in GiB, and each CUDA device or Apple's."""
    cpu = torch.device("cpu")
    facts = {
        "cpu": f"{os.cpu_count()} cores, {granted_threads()} granted to this process",
        "threads": f"{torch.get_num_threads()} in torch",
        "memory": f"{free_bytes(cpu) / 2**30:.1f} GiB free",
    }
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for i in range(count):
        free, total = (n / 2**30 for n in torch.cuda.mem_get_info(i))
        facts[f"cuda:{i}"] = f"{torch.cuda.get_device_name(i)}, {free:.1f} of {total:.1f} GiB free"
    if not count:
        facts["cuda"] = "none that torch sees"
    mps = getattr(torch.backends, "mps", None)
    facts["mps"] = "available, not used yet" if mps is not None and mps.is_available() else "none"
    return facts
