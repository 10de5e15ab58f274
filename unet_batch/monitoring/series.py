"""Series: metric families that all carry the labels of the Job that is running.

Prometheus joins on labels, so that `job`, `model` and `dataset` are on every series; what is
measured before a Job began, or beside one, has them empty, which Prometheus reads as absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from unet_batch.monitoring.events import JobStarted

JOB_LABELS = ("job", "model", "dataset")
PREFIX = "unet_batch_"

AnyMetric = TypeVar("AnyMetric", Counter, Gauge, Histogram)


class Series:
    """Makes metric families in `registry`, and finds the series of the present Job in them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._values = ("", "", "")

    def begin(self, event: JobStarted) -> None:
        """From now on series are those of this Job."""
        self._values = (event.job, event.model, event.dataset)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """A Gauge `unet_batch_<name>`."""
        return Gauge(PREFIX + name, text, (*JOB_LABELS, *labels), registry=self._registry)

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """A Counter `unet_batch_<name>`, which ends in `_total`."""
        return Counter(PREFIX + name, text, (*JOB_LABELS, *labels), registry=self._registry)

    def histogram(self, name: str, text: str, *labels: str, buckets: Sequence[float]) -> Histogram:
        """A Histogram `unet_batch_<name>`."""
        names = (*JOB_LABELS, *labels)
        return Histogram(PREFIX + name, text, names, buckets=buckets, registry=self._registry)

    def of(self, metric: AnyMetric, *labels: str) -> AnyMetric:
        """The present Job's series of a family; `labels` are the values of its own labels."""
        return metric.labels(*self._values, *labels)
