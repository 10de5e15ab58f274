"""MonaiLoop: the loop that a user would write with MONAI's inferer, timed to compare with.

It runs in a process of its own: what we tune in ours, threads apart, is not the user's.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from time import perf_counter
from typing import cast

import torch
from monai.inferers import SlidingWindowInferer

from unet_batch.models.intensity import Normalizer
from unet_batch.models.precision import resolve_precision
from unet_batch.models.process import own_device
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.workflows.segment_job import SegmentJob


class MonaiLoop:
    """MONAI's loop over the Volumes of a Job, from Zarr to labels in memory, which nobody stores.

    It runs on the GPU where there is one. Close it to end its process.
    """

    def __init__(self, spec: SegmentSpec, *, num_threads: int) -> None:
        self._spec = spec
        self._process = ProcessPoolExecutor(
            1, get_context("spawn"), initializer=torch.set_num_threads, initargs=(num_threads,)
        )

    def close(self) -> None:
        """End the process."""
        self._process.shutdown()

    def fp32_seconds(self) -> float:
        """What a pass over all Volumes takes in float32, as by default."""
        return self._process.submit(_seconds, self._spec, autocast=False).result()

    def autocast_seconds(self) -> float | None:
        """The same under autocast; None where the device has no bf16."""
        if resolve_precision("auto", own_device()) != "bf16":
            return None
        return self._process.submit(_seconds, self._spec, autocast=True).result()


def _seconds(spec: SegmentSpec, *, autocast: bool) -> float:
    job, device = SegmentJob.open(spec), own_device()
    started = perf_counter()
    _loop(job, device, autocast=autocast)
    return perf_counter() - started


def _loop(job: SegmentJob, device: torch.device, *, autocast: bool) -> None:
    inference, network = job.spec.inference, job.bundle.network().to(device)
    inferer = SlidingWindowInferer(
        job.bundle.roi,
        sw_batch_size=inference.batch_size,
        overlap=inference.overlap,
        mode=inference.importance,
    )
    for info in job.infos:
        voxels = torch.from_numpy(job.archive[info.id].stored[:]).to(device)
        image = Normalizer.fit(job.bundle.intensity, info.statistics).apply(voxels)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            logits = inferer(image[None], network)
            cast("torch.Tensor", logits).argmax(1).to(torch.uint8).cpu()
