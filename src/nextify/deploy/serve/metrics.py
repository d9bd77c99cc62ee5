"""What ``/metrics`` tells Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        r = self.registry = CollectorRegistry()
        self.requests = Counter("nextify_requests", "Requests answered.", ("route", "status"), registry=r)
        self.seconds = Histogram("nextify_request_seconds", "Time to answer.", ("route",), registry=r, buckets=SECONDS)
        self.network_seconds = Histogram("nextify_batch_seconds", "Time of a batch.", registry=r, buckets=SECONDS)
        self.batch_size = Histogram(
            "nextify_batch_images", "Images in a batch.", registry=r, buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
        )
        self.restarts = Counter("nextify_worker_restarts", "Workers that died and were started again.", registry=r)
        self.accepted = Gauge("nextify_accepted_images", "Images accepted and not answered yet.", registry=r)
        self.workers = Gauge("nextify_workers", "Workers that are ready.", registry=r)
