"""What surrounds a workflow at the command line: Ray, the live view, the metrics, the status.

Where metrics are served is said by the command, or by the environment, which a cluster sets
for all of its pods:

    UNET_BATCH_METRICS_PORT      a port; commands that have no such option serve there too
    UNET_BATCH_METRICS_ADDRESS   127.0.0.1 unless it says otherwise
    UNET_BATCH_METRICS_LINGER_S  seconds to serve on after the end, for the last scrape
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from importlib import import_module
from threading import Thread

import typer

from unet_batch.cli.exits import Exit
from unet_batch.errors import JobStoppedError, SpecError
from unet_batch.inference.cluster import ray_running
from unet_batch.monitoring.events import Listener, fan_out, ignore
from unet_batch.monitoring.metrics import JobMetrics, serve
from unet_batch.monitoring.progress import JobConsole, ProgressDisplay
from unet_batch.planning.control import Control
from unet_batch.planning.specs.base import SpecModel

LOOPBACK = "127.0.0.1"


@contextmanager
def job_running(
    *,
    address: str | None = None,
    metrics_port: int | None = None,
    metrics_address: str = LOOPBACK,
    quiet: bool = False,
    job: tuple[str, SpecModel] | None = None,
    control: Control | None = None,
    wait_s: float = 0.0,
    with_networks: bool = False,
) -> Iterator[Listener]:
    """Ray, and a Listener that shows the Job on stderr and, if asked, to Prometheus.

    Stdout is for what comes of the Job, after it: what Ray prints meanwhile goes to stderr.
    With `job`, its kind and Spec, the Job is kept with its Archive too, where anyone may watch,
    pause and cancel it; `control` is told what they want, else the workflow is interrupted.
    Another driver of the same Job is waited for, up to `wait_s` where it is alive. A workflow
    that runs `with_networks` is imported in the block: while Ray starts, torch and MONAI are.
    """
    console = JobConsole(stderr=True, quiet=quiet)
    try:
        with (
            redirect_stdout(sys.stderr),
            metrics_served(console, port=metrics_port, address=metrics_address) as metrics,
            _kept(job, control, console, wait_s) as keep,
            _ray_started(address, with_networks=with_networks),
            ProgressDisplay(console=console) as display,
        ):
            yield keep(fan_out(metrics, display))
    except JobStoppedError as error:
        console.print(str(error), markup=False, highlight=False)
        raise typer.Exit(Exit.INCOMPLETE) from error


@contextmanager
def _ray_started(address: str | None, *, with_networks: bool) -> Iterator[None]:
    """Ray, which mostly waits for its processes while it starts: two seconds for imports.

    Nothing of Ray is among them: what two threads import at once must not need each other.
    """
    thread = Thread(target=_import_networks)
    if with_networks:
        thread.start()
    with ray_running(address):
        if with_networks:
            thread.join()
        yield


def _import_networks() -> None:
    with suppress(Exception):  # who needs them imports them again, and is told
        import_module("unet_batch.models.bundle")


@contextmanager
def _kept(
    job: tuple[str, SpecModel] | None,
    control: Control | None,
    console: JobConsole,
    wait_s: float,
) -> Iterator[Callable[[Listener], Listener]]:
    """What makes of a Listener one that keeps the Job with its Archive; unchanged without one."""
    if job is None:
        yield lambda listen: listen
        return
    from unet_batch.workflows.job_run import JobRun, is_obedient

    kind, spec = job

    def tell(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    with JobRun(
        kind, spec, control=control, is_resumed=not is_obedient(), tell=tell, wait_s=wait_s
    ) as run:
        yield lambda listen: lambda event: fan_out(run, listen)(run.renamed(event))


@contextmanager
def metrics_served(
    console: JobConsole, *, port: int | None = None, address: str = LOOPBACK
) -> Iterator[Listener]:
    """A Listener whose metrics Prometheus can fetch; a deaf one where nobody asked for them."""
    if port is None:
        port = _port_of_environment()
        address = os.environ.get("UNET_BATCH_METRICS_ADDRESS", LOOPBACK)
    if port is None:
        yield ignore
        return
    metrics = JobMetrics()
    with ExitStack() as stack:
        served = stack.enter_context(serve(metrics, port=port, address=address))
        stack.callback(time.sleep, _linger_s_of_environment())
        console.print(f"metrics: http://{address}:{served}/metrics")
        yield metrics


def _port_of_environment() -> int | None:
    port = _number("UNET_BATCH_METRICS_PORT", "a port, such as 9400")
    return None if port is None else int(port)


def _linger_s_of_environment() -> float:
    return _number("UNET_BATCH_METRICS_LINGER_S", "seconds, such as 40") or 0.0


def _number(variable: str, expected: str) -> float | None:
    text = os.environ.get(variable, "")
    if not text:
        return None
    if not text.isdecimal():
        raise SpecError(f"{variable}={text!r} in the environment: expected {expected}")
    return float(text)
