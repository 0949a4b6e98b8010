"""One Ray for all tests of the cluster: starting it takes seconds."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Ray on this machine, with processors that nobody reserves."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(
        address="local",  # not the one that something else on this machine has started
        include_dashboard=False,
        num_cpus=4,
        object_store_memory=100 << 20,
        namespace="led_agent",
        log_to_driver=False,
        configure_logging=False,
    )
    yield
    ray.shutdown()
