"""What Prometheus reads of a server: what it does now, and what it has done."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from led_agent.serving.service import Service

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """One server's own registry."""

    def __init__(self, service: Service) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "led_agent_http_requests", "Requests answered.", ["route", "status"], registry=self._registry
        )
        self.first_event = Histogram(
            "led_agent_first_event_seconds", "From a request for a stream to its first event of the search.",
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self.run_seconds = Histogram(
            "led_agent_run_seconds", "From a request to its solution.", ["status"], buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        for name, about, read in (
            ("slots", "Branches that grow at a time.", lambda: service.decoder.slots),
            ("branches_in_flight", "Branches that grow or wait for a slot.", lambda: service.busy_slots),
            ("runs_running", "Runs that are on.", lambda: service.running),
            ("runs_waiting", "Runs that wait to be begun.", lambda: service.waiting),
            ("runs_kept", "Runs that have ended and can be asked for.", lambda: service.kept),
        ):
            Gauge(f"led_agent_{name}", about, registry=self._registry).set_function(read)
        self._registry.register(_Counts(service))

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _Counts(Collector):
    """What the service counts for itself."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> list[CounterMetricFamily]:
        counts = self._service.counts
        return [
            CounterMetricFamily(f"led_agent_{name}", about, value=value)
            for name, about, value in (
                ("runs", "Runs that have ended.", counts.runs),
                ("runs_verified", "Those of them with a verified answer.", counts.verified),
                ("runs_stopped", "Runs that their client stopped or left.", counts.stopped),
                ("runs_refused", "Requests refused because too many waited.", counts.refused),
                ("generated_tokens", "Tokens generated, over all branches.", counts.generated_tokens),
            )
        ]
