"""Segment: the Volumes of an Archive through a model, each published once, none lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import perf_counter

from unet_batch.inference.choosing import EngineChoice
from unet_batch.inference.driver import Driver
from unet_batch.inference.outcome import Outcome
from unet_batch.inference.pool import ReplicaPool, ReplicaSize
from unet_batch.inference.reading import IO_WORKERS
from unet_batch.models.bundle import Bundle
from unet_batch.monitoring.events import (
    Event,
    JobFinished,
    JobStarted,
    Listener,
    ModelLoaded,
    StageTimed,
    VolumeFinished,
    Warned,
    fan_out,
    ignore,
)
from unet_batch.planning.control import Control
from unet_batch.planning.plan import Plan
from unet_batch.planning.prediction import Account
from unet_batch.planning.schedule import Schedule
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.storage.ledger import Ledger, LedgerEntry
from unet_batch.storage.ledger import Outcome as LedgerOutcome
from unet_batch.storage.volume import Volume
from unet_batch.workflows.engine_choice import known_engine, settle_engine
from unet_batch.workflows.live_scores import LiveScores
from unet_batch.workflows.model_references import ModelNote
from unet_batch.workflows.precision_choice import settle_precision
from unet_batch.workflows.prediction import Bookkeeper
from unet_batch.workflows.segment_job import SegmentJob
from unet_batch.workflows.sharing import replicas_shared
from unet_batch.workflows.smaller_blocks import run_within_memory

MAX_UNWRITTEN_BYTES = 2**30
"""Labels and probabilities that may wait to be stored before more is read."""


@dataclass(frozen=True, slots=True)
class SegmentSummary:
    """What a segment Job did.

    `skipped` counts the Volumes that were published already, `quarantined` maps a Volume to
    its reason; `left` were not begun when the Job was paused. `tiles_skipped` were background,
    and not predicted. `stage_seconds` is the workers' time by stage, `engine` what ran and why;
    `predicted` is what the Job was to take, `actual` what it took; `warnings` is what a person
    should know.
    """

    job: str
    num_volumes: int
    done: int
    skipped: int
    quarantined: dict[str, str]
    cancelled: int
    left: int
    tiles_planned: int
    tiles_predicted: int
    tiles_skipped: int
    voxels_done: int
    seconds: float
    voxels_per_second: float
    stage_seconds: dict[str, float]
    engine: str
    predicted: Account
    actual: Account
    warnings: tuple[str, ...] = ()


def segment(
    spec: SegmentSpec, *, listen: Listener = ignore, control: Control | None = None
) -> SegmentSummary:
    """Segment what the Spec names; Volumes published already are left as they are.

    Ray must be running. A Volume that cannot be segmented is quarantined with its reason, and
    the others finish; `control` may ask for a pause, or for the end. Raises NotFoundError,
    BundleError or SpecError where something named is not there, and ReplicaError where no
    Replica can be started.
    """
    started, control = perf_counter(), control or Control()
    job = SegmentJob.open(spec)
    published = job.published()
    size = ReplicaSize.resolve(spec.resources)
    plan = job.plan_without(published, num_replicas=size.count, on_gpus=size.num_gpus > 0)
    with job.archive.ledger(job.id) as ledger:
        tally, scores = _Tally(), _live_scores(job, listen)
        books = Bookkeeper.of(job, plan, size, published)
        tell = fan_out(tally, books, listen, *scores, lambda _: ledger.flush_if_due())
        accounts = _Accounts(job, plan, ledger, tell)
        note = ModelNote.of(spec)
        note.begin(job.models)
        accounts.begin(published)
        for model in job.models:
            if model.moved_to:
                tell(Warned(model.moved_to))
        choice = EngineChoice("torch", note="nothing was left to do")
        if plan.volumes and control.wanted == "run":
            choice = _drive(job, plan, size, accounts, ledger, tell, control)
        if control.wanted == "cancel":
            accounts.cancel_rest()
        job.archive.catalog.refresh_labels(_unlisted(job, plan, published))
        for one in scores:
            one.finish()
        seconds = perf_counter() - started
        books.close(ledger, seconds)
        listen(JobFinished(job.id, seconds))
    summary = tally.summary(job, plan, books, choice.reason)
    if summary.done + summary.skipped + len(summary.quarantined) >= summary.num_volumes:
        note.finish()
    return summary


def _unlisted(job: SegmentJob, plan: Plan, published: set[str]) -> set[str]:
    """Volumes of whose Labels the Catalog may not know: those of now, and of a run that died."""
    names = set(job.labels_classes)
    stale = {one.id for one in job.volumes.briefs() if not names.issubset(one.labels)}
    return {*plan.volumes, *(stale & published)}


def _live_scores(job: SegmentJob, listen: Listener) -> list[LiveScores]:
    """What scores Volumes while the Job runs; nothing where the Spec names no truth."""
    return [
        LiveScores(job.archive, labels=labels, truth=truth, listen=listen)
        for labels, truth in job.labels_truths.items()
    ]


def _drive(
    job: SegmentJob,
    plan: Plan,
    size: ReplicaSize,
    accounts: _Accounts,
    ledger: Ledger,
    listen: Listener,
    control: Control,
) -> EngineChoice:
    """Run the Plan; what ran the model."""
    with (
        replicas_shared(job.id, size, job.spec.resources, control),
        ReplicaPool(
            job.model_paths,
            job.spec.inference,
            size=size,
            roi_zyx=job.roi_zyx,
            engine=known_engine(job, ledger) or "torch",
            num_lanes=job.num_lanes(plan, size.num_cpus),
            trust_network=job.spec.trust_network,
        ) as pool,
    ):
        choice = settle_engine(job, plan, pool, ledger)
        settle_precision(job, plan, pool, ledger, listen)
        run_plan(job, plan, pool, on_outcome=accounts.close, listen=listen, control=control)
    return choice


def run_plan(
    job: SegmentJob,
    plan: Plan,
    pool: ReplicaPool,
    *,
    on_outcome: Callable[[Outcome], None],
    listen: Listener,
    control: Control | None = None,
) -> None:
    """Predict, stitch and publish all Volumes of a Plan on the Replicas of `pool`."""
    resources = job.spec.resources

    def run(plan: Plan, on_outcome: Callable[[Outcome], None]) -> None:
        Driver(
            plan,
            Schedule(
                plan.chains(),
                plan.volumes,
                window=resources.window,
                max_attempts=resources.max_attempts,
                max_unwritten_voxels=MAX_UNWRITTEN_BYTES // job.head.num_planes,
                least_replicas=pool.size.least,
                num_writers=IO_WORKERS,
            ),
            pool,
            volumes=lambda volume_id: Volume(job.archive.url, plan.volumes[volume_id].info),
            target=lambda volume_id: job.target_of(plan.volumes[volume_id].info),
            head=job.head,
            on_outcome=on_outcome,
            listen=listen,
            control=control,
        ).run()

    run_within_memory(plan, run, on_outcome=on_outcome, listen=listen)


def _class_dice(bundle: Bundle) -> dict[str, float]:
    """The Dice of each class that the Bundle reached on the Volumes held back from it."""
    prefix = "dice."
    return {k.removeprefix(prefix): v for k, v in bundle.scores.items() if k.startswith(prefix)}


class _Accounts:
    """Puts every Volume's outcome into the Ledger, and says it to the listeners."""

    def __init__(self, job: SegmentJob, plan: Plan, ledger: Ledger, listen: Listener) -> None:
        self._job, self._plan, self._ledger, self._listen = job, plan, ledger, listen
        self._accounted: set[str] = set()

    def begin(self, published: set[str]) -> None:
        """Tell what is to be done, what was done before, and what is refused."""
        job, plan = self._job, self._plan
        self._ledger.write_spec(job.record())
        self._listen(
            JobStarted(
                job.id,
                "segment",
                job.model_name,
                len(job.volumes),
                num_tiles=plan.num_tiles,
                num_voxels=plan.num_voxels,
                dataset=job.archive.name,
            )
        )
        self._listen(ModelLoaded(_class_dice(job.bundle)))
        self._record_unknown(published)
        for volume_id in sorted(published):
            self._listen(VolumeFinished(volume_id, "skipped"))
        for volume_id, reason in plan.refused.items():
            self.close(Outcome(volume_id, "quarantined", reason, 0.0, ()))

    def _record_unknown(self, published: set[str]) -> None:
        """Enter the Volumes that are published, but of which no run came to tell."""
        known = self._ledger.done_keys()
        for volume_id in sorted(published):
            entry = self._entry(
                volume_id, "skipped", "was published before this run, which found it whole"
            )
            if known.get(volume_id) != entry.key:
                self._ledger.record(entry)

    def close(self, outcome: Outcome) -> None:
        """Account for one Volume."""
        self._accounted.add(outcome.volume_id)
        is_planned = outcome.volume_id in self._plan.volumes
        brief = self._job.volumes.brief(outcome.volume_id)
        num_voxels = brief.num_voxels if is_planned else 0
        self._ledger.record(
            replace(
                self._entry(outcome.volume_id, outcome.outcome, outcome.reason),
                seconds=outcome.seconds,
                num_voxels=num_voxels,
                num_tiles=self._plan.tiles_of(outcome.volume_id),
                replica=",".join(outcome.replicas),
                node=",".join(outcome.nodes),
                peak_bytes=outcome.peak_bytes,
            )
        )
        self._listen(
            VolumeFinished(
                outcome.volume_id, outcome.outcome, outcome.reason, outcome.seconds, num_voxels
            )
        )

    def cancel_rest(self) -> None:
        """Account for the Volumes that were not begun when the Job was cancelled."""
        for volume_id in self._plan.volumes:
            if volume_id not in self._accounted:
                self.close(Outcome(volume_id, "cancelled", "the Job was cancelled", 0.0, ()))

    def _entry(self, volume_id: str, outcome: LedgerOutcome, reason: str) -> LedgerEntry:
        """What can be said of a Volume whatever became of it."""
        job, content_hash = self._job, self._job.volumes.content_hash(volume_id)
        return LedgerEntry(
            volume_id=volume_id,
            outcome=outcome,
            reason=reason,
            key=job.key_of(content_hash),
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
            bundle_hash=job.model_hash,
            spec_hash=job.spec_hash,
            input_hash=content_hash,
            version=job.version,
        )


@dataclass(slots=True)
class _Tally:
    """A Listener that adds a Job up."""

    outcomes: Counter[str] = field(default_factory=Counter)
    quarantined: dict[str, str] = field(default_factory=dict)
    stage_seconds: Counter[str] = field(default_factory=Counter)
    tiles: int = 0
    skipped: int = 0
    voxels: int = 0
    warnings: list[str] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        match event:
            case VolumeFinished():
                self.outcomes[event.outcome] += 1
                if event.outcome == "quarantined":
                    self.quarantined[event.volume_id] = event.reason
                elif event.outcome == "done":
                    self.voxels += event.num_voxels
            case Warned(text):
                self.warnings.append(text)
            case StageTimed():
                self.stage_seconds[event.stage] += event.seconds  # type: ignore[assignment]
                self.tiles += event.num_tiles
                self.skipped += event.num_skipped

    def summary(
        self, job: SegmentJob, plan: Plan, books: Bookkeeper, engine: str
    ) -> SegmentSummary:
        seconds = books.actual.seconds or 0.0
        return SegmentSummary(
            job=job.id,
            num_volumes=len(job.volumes),
            done=self.outcomes["done"],
            skipped=self.outcomes["skipped"],
            quarantined=dict(sorted(self.quarantined.items())),
            cancelled=self.outcomes["cancelled"],
            left=len(job.volumes) - sum(self.outcomes.values()),
            tiles_planned=plan.num_tiles,
            tiles_predicted=self.tiles,
            tiles_skipped=self.skipped,
            voxels_done=self.voxels,
            seconds=seconds,
            voxels_per_second=self.voxels / max(seconds, 1e-9),
            stage_seconds=dict(self.stage_seconds),
            engine=engine,
            predicted=books.predicted,
            actual=books.actual,
            warnings=tuple(self.warnings),
        )
