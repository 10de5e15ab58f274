"""What surrounds a workflow at the command line: Ray, the live view, the metrics, the status."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from unet_batch.inference.cluster import ray_running
from unet_batch.monitoring.events import Listener, fan_out
from unet_batch.monitoring.metrics import JobMetrics, serve
from unet_batch.monitoring.progress import JobConsole, ProgressDisplay


@contextmanager
def job_running(
    *,
    address: str | None = None,
    metrics_port: int | None = None,
    metrics_address: str = "127.0.0.1",
    quiet: bool = False,
) -> Iterator[Listener]:
    """Ray, and a Listener that shows the Job on stderr and, if asked, to Prometheus."""
    console = JobConsole(stderr=True, quiet=quiet)
    with ExitStack() as stack:
        listeners: list[Listener] = []
        if metrics_port is not None:
            metrics = JobMetrics()
            port = stack.enter_context(serve(metrics, port=metrics_port, address=metrics_address))
            console.print(f"metrics: http://{metrics_address}:{port}/metrics")
            listeners.append(metrics)
        stack.enter_context(ray_running(address))
        listeners.append(stack.enter_context(ProgressDisplay(console=console)))
        yield fan_out(*listeners)
