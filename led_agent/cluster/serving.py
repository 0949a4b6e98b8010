"""The server on a cluster, by Ray Serve: a deployment that is started again when it dies, and a proxy in front of it.

The deployment is one replica: it holds the runs, and decodes on the cluster's decoders, as any driver does. It knows
how the application is made from a plan, and nothing of what it answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ray import serve

from led_agent.cluster.connect import connect
from led_agent.cluster.plan import Cluster
from led_agent.errors import MachineError, raised
from led_agent.serving.app import create_app
from led_agent.serving.plan import Plan

__all__ = ["serve_on_ray"]

_NAME = "led_agent"
_ONGOING = 10_000  # requests at a time; how many may wait is the application's to say


def serve_on_ray(plan: Plan, cluster: Cluster, host: str, port: int, *, until: Callable[[], None]) -> None:
    """Serve for as long as ``until`` takes, which is called when it answers.

    Raises:
        MachineError: the cluster can't be reached, or the deployment does not come up; the message says why.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    leave = connect(cluster)
    try:
        try:
            serve.start(http_options={"host": host, "port": port})
            serve.run(_deployment(plan), name=_NAME, route_prefix="/")
        except Exception as error:
            raise MachineError(raised("Ray Serve", error)) from error
        until()
    finally:
        serve.shutdown()
        leave()


def _deployment(plan: Plan) -> Any:
    def build() -> Any:  # in the replica
        return create_app(plan.setup())

    deployed: Any = serve.deployment(serve.ingress(build)())
    return deployed.options(
        name=_NAME,
        num_replicas=1,
        max_ongoing_requests=_ONGOING,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=plan.limits.shutdown_seconds + 10.0,
        health_check_timeout_s=60.0,
    ).bind()
