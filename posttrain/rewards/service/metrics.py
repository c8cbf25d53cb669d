"""What ``/metrics`` shows, in Prometheus' text form."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
POWERS_OF_TWO = tuple(float(2**power) for power in range(14))


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry, "namespace": "posttrain"}
        self.requests = Counter("requests", "Answered requests", ["route", "status"], **own)
        self.request_seconds = Histogram("request_seconds", "From head to answer", ["route"], buckets=SECONDS, **own)
        self.items = Counter("items", "Answered items; outcome is scored or the error", ["reward", "outcome"], **own)
        self.queued_items = Gauge("queued_items", "Items that wait for a batch", ["reward"], **own)
        self.batch_items = Histogram("batch_items", "Items of a batch", ["reward"], buckets=POWERS_OF_TWO, **own)
        self.batch_seconds = Histogram("batch_seconds", "Scoring of a batch", ["reward"], buckets=SECONDS, **own)
        self.worker_restarts = Counter("worker_restarts", "Processes that were replaced", ["reward"], **own)
