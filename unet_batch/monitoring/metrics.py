"""Metrics of one Job for Prometheus: events in, one registry out, on loopback or in a file.

Every series carries `job`, `model` and `dataset`; further labels are few and fixed (stage,
outcome, state, cause, class). Scores of single Volumes go to Parquet, never here. Dashboards
and alert rules (helm/unet-batch) are tested against these names.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server, write_to_textfile

from unet_batch.errors import SpecError, StoreError
from unet_batch.monitoring.events import Event, JobStarted
from unet_batch.monitoring.quality_metrics import QualityFamilies
from unet_batch.monitoring.series import Series
from unet_batch.monitoring.tally import Tally
from unet_batch.monitoring.training_metrics import RetrainingFamilies, TrainingFamilies
from unet_batch.monitoring.work_metrics import JobFamilies, WorkFamilies


class JobMetrics:
    """A Listener that keeps the metrics of one Job in a registry of its own."""

    def __init__(self, tally: Tally | None = None) -> None:
        self.registry = CollectorRegistry()
        self._tally = tally or Tally()
        self._series = series = Series(self.registry)
        self._families = (
            JobFamilies(series, self._tally),
            WorkFamilies(series, self._tally),
            QualityFamilies(series),
            TrainingFamilies(series),
            RetrainingFamilies(series),
        )

    def __call__(self, event: Event) -> None:
        """Add one event to the metrics."""
        if isinstance(event, JobStarted):
            self._series.begin(event)
        self._tally(event)
        for families in self._families:
            families(event)

    def write_textfile(self, path: Path) -> None:
        """Write all metrics in Prometheus' text format, atomically (node-exporter's collector).

        Raises StoreError where `path` cannot be written.
        """
        try:
            write_to_textfile(str(path), self.registry)
        except OSError as error:
            raise StoreError(f"cannot write the metrics to {path}: {error}") from error


@contextmanager
def serve(metrics: JobMetrics, *, port: int, address: str = "127.0.0.1") -> Iterator[int]:
    """Serve `metrics` over HTTP while the context is open; yields the port (0: any free one).

    Raises SpecError where the address cannot be listened on.
    """
    try:
        server, thread = start_http_server(port, addr=address, registry=metrics.registry)
    except OSError as error:
        raise SpecError(_explain(error, port, address)) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _explain(error: OSError, port: int, address: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"metrics port {port} on {address} is in use by another program; "
            "choose another, or 0 for any free one"
        )
    return f"cannot serve metrics on {address} port {port}: {error}"
