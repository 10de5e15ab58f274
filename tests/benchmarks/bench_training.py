"""Training: a step from Zarr to moved weights, against the bare forward, backward and step.

The recipe of `jobs/train.yaml` on phantom scans, four patches a step. Rounds of the bare step,
on one batch that lies ready, and of ours alternate: the machine is shared, and only ratios
within one run mean something. Ours includes reading, augmenting with every change of the
recipe, waiting for the first batch of a round, clipping and averaging. The goal is 0.85 of the
bare step's speed. `--json PATH` writes the figures; `--rounds N` sets how many.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

from unet_batch.formats.phantom import phantom
from unet_batch.models.process import tune_process
from unet_batch.planning.specs.train import TrainSpec
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.training.batch import Batch
from unet_batch.training.learner import Learner
from unet_batch.training.losses import SegmentationLoss
from unet_batch.training.optimizers import make_optimizer
from unet_batch.training.read_ahead import ReadAhead
from unet_batch.training.sampling import PatchSampler
from unet_batch.training.task import TrainTask, plan_training
from unet_batch.training.volumes import MemoryBudget
from unet_batch.training.worker import make_learner, open_volumes

GOAL = 0.85
STEPS = 20  # a round
ROIS = ((32, 48, 32), (64, 64, 64))


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians over rounds of one size of patch; `waited_ms` is spent on waiting for batches."""

    roi: tuple[int, ...]
    bare_ms: float
    ours_ms: float
    waited_ms: float
    share_of_bare: float


class Bare:
    """The same network, loss and optimiser, and nothing else.

    Each round begins with the learner's weights and rate: how long a pass in bf16 takes
    depends on the values, by up to a tenth.
    """

    def __init__(self, learner: Learner, task: TrainTask, batch: Batch) -> None:
        self._learner = learner
        self._network = make_learner(task, learner.device).averaged.train()
        self._network.requires_grad_(requires_grad=True)
        self._loss = SegmentationLoss(task.spec.training.loss, task.table)
        self._optimizer = make_optimizer(self._network, task.spec.training)
        layout = learner._layout
        self._image = batch.image.to(memory_format=layout)
        self._truth = batch.truth_on(learner.device)

    def round(self) -> float:
        """Seconds a step."""
        self._network.load_state_dict(self._learner.state()["network"])
        for group in self._optimizer.param_groups:
            group["lr"] = self._learner.learning_rate
        started = perf_counter()
        for _ in range(STEPS):
            with self._learner.autocast():
                logits = self._network(self._image)
            loss = self._loss(logits, self._truth)
            self._optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            self._optimizer.step()
        return (perf_counter() - started) / STEPS


def make_archive(folder: Path) -> Archive:
    """Four phantoms, larger than the patches."""
    archive = open_archive(folder, create=True)
    for number in range(4):
        scan, mask = phantom(number, name=f"phantom_{number}")
        archive.write_scan(scan, source={})
        archive[scan.name].write_labels("truth", mask, provenance={})
    return archive


def plan(archive: Archive, roi: tuple[int, ...], overrides: list[str]) -> TrainTask:
    """The ready Spec on the phantoms."""
    ready = TrainSpec.load(
        Path(__file__).parents[2] / "jobs" / "train.yaml",
        arguments={"archive": archive.url, "truth": "truth", "roi": roi},
        overrides=overrides,
    )
    return plan_training(archive, ready)


def measure(archive: Archive, roi: tuple[int, ...], rounds: int, overrides: list[str]) -> Figures:
    """Bare and ours in turn; the first round of each is not counted."""
    task = plan(archive, roi, overrides)
    learner = make_learner(task, torch.device("cpu"))
    resources = task.spec.resources
    volumes = open_volumes(task, task.split.train, MemoryBudget(resources.cache))
    sampler = PatchSampler(volumes, task.spec)
    bare = Bare(learner, task, sampler.batch(0))
    bare_s, ours_s, waited_s = [], [], []
    for number in range(rounds + 1):
        bare_s.append(bare.round())
        first, waited = number * STEPS + 1, 0.0
        started = perf_counter()
        with ReadAhead(
            sampler.batch,
            first=first,
            last=first + STEPS - 1,
            depth=resources.read_ahead,
            readers=resources.readers,
        ) as ahead:
            for _ in range(STEPS):
                asked = perf_counter()
                batch = ahead.next()
                waited += perf_counter() - asked
                learner.learn(batch)
        ours_s.append((perf_counter() - started) / STEPS)
        waited_s.append(waited / STEPS)
    bare_ms, ours_ms, waited_ms = (1e3 * median(one[1:]) for one in (bare_s, ours_s, waited_s))
    share = median(a / b for a, b in zip(bare_s[1:], ours_s[1:], strict=True))
    return Figures(roi, bare_ms, ours_ms, waited_ms, share)


def main() -> int:
    """Print the table; 1 where the goal is missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    tune_process(torch.get_num_threads())
    print(f"{'patch':14} {'bare':>9} {'ours':>9} {'waited':>9} {'of bare':>8}")
    results = []
    with tempfile.TemporaryDirectory(prefix="unet-batch-bench-") as folder:
        archive = make_archive(Path(folder) / "archive")
        for roi in ROIS:
            one = measure(archive, roi, arguments.rounds, arguments.set)
            results.append(one)
            print(
                f"{'x'.join(map(str, roi)):14} {one.bare_ms:6.1f} ms {one.ours_ms:6.1f} ms"
                f" {one.waited_ms:6.1f} ms {one.share_of_bare:8.3f}",
                flush=True,
            )
    print(json.dumps([asdict(one) for one in results]))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(one) for one in results]))
    return int(any(one.share_of_bare < GOAL for one in results))


if __name__ == "__main__":
    sys.exit(main())
