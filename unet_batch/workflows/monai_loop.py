"""MonaiLoop: the loop that a user would write with MONAI's inferer, timed to compare with.

It runs in a process of its own: what we tune in ours, threads apart, is not the user's.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median
from time import perf_counter
from typing import cast

import torch
from monai.inferers import SlidingWindowInferer

from unet_batch.models.intensity import Normalizer
from unet_batch.models.precision import resolve_precision
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.workflows.segment_job import SegmentJob


def monai_seconds(
    spec: SegmentSpec, *, num_threads: int, repeats: int
) -> tuple[float, float | None]:
    """Median seconds of MONAI's loop over the Volumes of a Job: in fp32, and under autocast.

    From Zarr to labels in memory, which nobody stores. None where the processor has no bf16.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(_measure, spec, num_threads, repeats).result()


def _measure(spec: SegmentSpec, num_threads: int, repeats: int) -> tuple[float, float | None]:
    torch.set_num_threads(num_threads)
    job = SegmentJob.open(spec)
    fp32 = _median_seconds(lambda: _loop(job, autocast=False), repeats)
    if resolve_precision("auto", torch.device("cpu")) != "bf16":
        return fp32, None
    return fp32, _median_seconds(lambda: _loop(job, autocast=True), repeats)


def _loop(job: SegmentJob, *, autocast: bool) -> None:
    inference, network = job.spec.inference, job.bundle.network()
    inferer = SlidingWindowInferer(
        job.bundle.roi,
        sw_batch_size=inference.batch_size,
        overlap=inference.overlap,
        mode=inference.importance,
    )
    for info in job.infos:
        voxels = torch.from_numpy(job.archive[info.id].stored[:])
        image = Normalizer.fit(job.bundle.intensity, info.statistics).apply(voxels)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = inferer(image[None], network)
            cast("torch.Tensor", logits).argmax(1).to(torch.uint8)


def _median_seconds(work: Callable[[], None], repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        started = perf_counter()
        work()
        taken.append(perf_counter() - started)
    return median(taken)
