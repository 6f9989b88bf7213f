"""What Prometheus reads."""

from collections.abc import Callable

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The numbers of one service."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "kt_forecast_requests",
            "Requests answered.",
            ("method", "path", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "kt_forecast_request_seconds",
            "Seconds from the first byte to the last.",
            ("path",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._groups = Histogram(
            "kt_forecast_group_size",
            "Requests that one transaction or one pass answered.",
            ("thread",),
            buckets=SIZES,
            registry=self._registry,
        )
        self.gauge(
            "process_resident_memory_bytes",
            "Memory of the process.",
            lambda: float(psutil.Process().memory_info().rss),
        )

    def request(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(method, path, status).inc()
        self._seconds.labels(path).observe(seconds)

    def group(self, thread: str, size: int) -> None:
        """Count a group of requests that was handled at once."""
        self._groups.labels(thread).observe(size)

    def gauge(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Show a number that is looked up when it is asked for."""
        Gauge(name, what, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """Return all in the format that Prometheus reads."""
        return generate_latest(self._registry)
