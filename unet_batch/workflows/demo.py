"""Demo: phantom scans, or a person's own, through the whole life of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

from unet_batch.errors import QuarantineError, SpecError
from unet_batch.formats.dicom import write_dicom_series
from unet_batch.formats.nifti import write_nifti
from unet_batch.formats.phantom import CLASSES, phantom
from unet_batch.monitoring.events import Listener, ignore
from unet_batch.planning.specs.demo import DemoSpec
from unet_batch.planning.specs.evaluate import EvaluateSpec
from unet_batch.planning.specs.ingest import IngestSpec
from unet_batch.planning.specs.recipe import TrainingSpec
from unet_batch.planning.specs.report import ReportSpec
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.planning.specs.train import AUTO, TrainSpec
from unet_batch.planning.volume_info import VolumeInfo
from unet_batch.storage.archive import open_archive
from unet_batch.workflows.evaluate import EvaluateSummary, evaluate
from unet_batch.workflows.ingest import ingest
from unet_batch.workflows.report import report
from unet_batch.workflows.segment import segment
from unet_batch.workflows.train import train

TRUTH, PREDICTION = "reference", "prediction"
MAX_ROI = 64  # voxels a side: a tile of 64³ trains in about a tenth of a second on two cores
DICOM_EVERY = 4  # of the phantoms, one in this many is written as a DICOM series


@dataclass(frozen=True, slots=True)
class DemoSummary:
    """Where the demo's results lie, how good they are, and how long each stage took."""

    out: str
    archive: str
    bundle: str
    report: str
    num_trained_on: int
    scores: EvaluateSummary
    quarantined: dict[str, str]
    seconds: dict[str, float]


def demo(spec: DemoSpec, *, listen: Listener = ignore) -> DemoSummary:
    """Run every stage, the scores being of Volumes that training never saw.

    Ray must be running. Raises SpecError where `spec.data` has no images/ and labels/, and
    what the stages raise.
    """
    out, clock = Path(spec.out), _Clock()
    archive = str(out / "archive")
    with clock.stage("make scans"):
        images, masks = _own_data(Path(spec.data)) if spec.data else _phantoms(spec, out)
    with clock.stage("ingest"):
        ingested = ingest(_ingest_spec(spec, archive, images, masks), listen=listen)
    with clock.stage("train"):
        trained = train(_train_spec(spec, archive, out), listen=listen)
    held_back = trained.held_back_volumes
    with clock.stage("segment"):
        segmented = segment(
            SegmentSpec(
                archive=archive,
                model=trained.bundle,
                labels=PREDICTION,
                volumes=held_back,
                inference=spec.inference,
            ),
            listen=listen,
        )
    compared = {"archive": archive, "labels": PREDICTION, "truth": TRUTH, "volumes": held_back}
    with clock.stage("evaluate"):
        scores = evaluate(EvaluateSpec.model_validate(compared), listen=listen)
    with clock.stage("report"):
        shown = report(ReportSpec.model_validate({**compared, "out": str(out)}), listen=listen)
    return DemoSummary(
        out=str(out),
        archive=archive,
        bundle=trained.bundle,
        report=shown.path,
        num_trained_on=len(trained.train_volumes),
        scores=scores,
        quarantined={**ingested.quarantined, **segmented.quarantined},
        seconds=clock.seconds,
    )


def _own_data(folder: Path) -> tuple[Path, Path]:
    """The folders of scans and masks of a person's own data."""
    for part in (folder / "images", folder / "labels"):
        if not part.is_dir():
            raise SpecError(
                f"no folder {part}; `demo --data DIR` expects scans in DIR/images and masks of"
                " the same file names in DIR/labels"
            )
    return folder / "images", folder / "labels"


def _phantoms(spec: DemoSpec, out: Path) -> tuple[Path, Path]:
    """Write phantom scans, NIfTI and DICOM, and their masks; what is there already stays."""
    images, masks = out / "scans" / "images", out / "scans" / "labels"
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    for number in range(spec.num_phantoms):
        scan, mask = phantom(spec.seed * 1000 + number, name=f"phantom_{number:03d}")
        mask_path = masks / f"{scan.name}.nii.gz"
        if mask_path.exists():
            continue
        if number % DICOM_EVERY == 0:
            write_dicom_series(images / scan.name, scan)
        else:
            write_nifti(images / f"{scan.name}.nii.gz", scan.voxels_czyx, scan.affine)
        write_nifti(mask_path, mask.voxels_zyx, mask.affine)
    return images, masks


def _ingest_spec(spec: DemoSpec, archive: str, images: Path, masks: Path) -> IngestSpec:
    names = {} if spec.data else {TRUTH: {one.value: one.name for one in CLASSES if one.value}}
    return IngestSpec(
        archive=archive,
        sources=(str(images),),
        truth={TRUTH: str(masks)},
        class_names=names,
    )


def _train_spec(spec: DemoSpec, archive: str, out: Path) -> TrainSpec:
    infos = open_archive(archive).select(("*",))
    if not infos:
        raise QuarantineError(f"no scan of {spec.data or 'the phantoms'} could be ingested")
    is_to_choose = spec.roi == AUTO and spec.network.name != AUTO
    return TrainSpec(
        archive=archive,
        truth=TRUTH,
        out=str(out / "model"),
        split=spec.split,
        network=spec.network,
        roi=_median_roi(infos) if is_to_choose else spec.roi,
        intensity=spec.intensity,
        augmentation=spec.augmentation,
        training=spec.training if spec.data else _short(spec),
        resources=spec.resources,
    )


def _short(spec: DemoSpec) -> TrainingSpec:
    steps = min(spec.training.steps, spec.phantom_steps)
    return spec.training.model_copy(update={"steps": steps})


def _median_roi(infos: list[VolumeInfo]) -> tuple[int, int, int]:
    """The median shape rounded up to what three halvings divide, at most MAX_ROI a side."""
    sizes = [median(info.shape_zyx[axis] for info in infos) for axis in range(3)]
    z, y, x = (min(MAX_ROI, int(-(-size // 8) * 8)) for size in sizes)
    return z, y, x


class _Clock:
    """Seconds of each stage, in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = perf_counter()
        yield
        self.seconds[name] = round(perf_counter() - started, 2)
