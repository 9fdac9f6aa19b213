"""What Prometheus is told."""

from collections.abc import Callable, Iterable, Sequence

import prometheus_client
from prometheus_client import Counter, Gauge, Histogram

from jaxad.inference import journal
from jaxad.serving.drift import Drift

# A series more for each, which says when it began.
prometheus_client.disable_created_metrics()
CONTENT_TYPE = prometheus_client.CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
NO_VERDICT = "none"
_VERDICTS = (journal.ANOMALOUS, journal.NORMAL, NO_VERDICT)


class Metrics:
    """Counters of one service; every series is there from its start.

    Attributes:
      requests: for predictions, by status.
      refusals: by code.
      seconds: that they take.
      images: by category and verdict.
      batches: their sizes.
    """

    def __init__(self, categories: Iterable[str], sizes: Sequence[int]):
        self._registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self._registry)
        self.requests = self._of(
            Counter, "requests", "Requests for predictions, by status.", "status"
        )
        self.refusals = self._of(
            Counter, "refusals", "Requests that were not served, by code.", "code"
        )
        self.seconds = self._of(
            Histogram,
            "request_seconds",
            "From the head of a request for predictions to its answer.",
            buckets=_SECONDS,
        )
        self.images = self._of(
            Counter, "images", "Images, by verdict.", "category", "verdict"
        )
        self.batches = self._of(
            Histogram, "batch_images", "Images that are computed at once.",
            buckets=sizes,
        )  # fmt: skip
        for category in categories:
            for verdict in _VERDICTS:
                self.images.labels(category, verdict)

    def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
        """Has a number asked for whenever it is read."""
        self._of(Gauge, name, about).set_function(value)

    def watch_drift(self, drifts: dict[str, Drift]) -> None:
        for name, about, value in (
            (
                "drift_ks",
                "Kolmogorov-Smirnov distance of recent p-values from uniform.",
                lambda drift: drift.measured().statistic,
            ),
            (
                "drift_p_value",
                "How likely that distance is where nothing has changed.",
                lambda drift: drift.measured().p_value,
            ),
            ("drift_images", "Recent images that the distance is of.", len),
        ):
            gauge = self._of(Gauge, name, about, "category")
            for category, drift in drifts.items():
                gauge.labels(category).set_function(
                    lambda value=value, drift=drift: value(drift)
                )

    def text(self) -> bytes:
        return prometheus_client.generate_latest(self._registry)

    def _of(self, kind, name: str, about: str, *labels: str, **options):
        return kind(f"jaxad_{name}", about, labels, registry=self._registry, **options)
