"""retrain: train on what was labelled since, hold the result against the champion, promote it.

    collect ─▶ train ─▶ add to the registry ─▶ score both ─▶ decide ─▶ promote? ─▶ report
       │                                                                             │
       └ nothing new: say so, stop                         list what to segment again ┘

Every arrow may be a crash: what came before it is found again (the Round and the versions in
the registry, the training's checkpoint, the Ledgers of the segmentations, a decision that was
put once), and the same command goes on behind it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from unet_batch.errors import BundleError, QuarantineError
from unet_batch.models.bundle import CONFIG, Bundle, load_bundle
from unet_batch.monitoring.events import (
    Challenged,
    Event,
    JobFinished,
    JobStarted,
    Listener,
    ModelLoaded,
    RetrainFinished,
    RetrainOutcome,
    Warned,
    ignore,
)
from unet_batch.planning.challenge import (
    Comparison,
    Verdict,
    class_means,
    compare,
    judge,
    judge_first,
)
from unet_batch.planning.model_versions import Decision, ModelReference, ModelVersion, UsedVolume
from unet_batch.planning.retraining import Round, watched
from unet_batch.planning.specs.retrain import RetrainSpec
from unet_batch.planning.specs.train import TrainRecipe, TrainSpec
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.lease import Lease
from unet_batch.storage.registry import Registry
from unet_batch.storage.stores import normalize_url, open_store
from unet_batch.storage.who import Note
from unet_batch.workflows.dask_window import require_ray
from unet_batch.workflows.model_references import registry_at
from unet_batch.workflows.resegment import outdated_volumes, segment_again
from unet_batch.workflows.retrain_report import report_path, write_challenge_report
from unet_batch.workflows.retrain_round import (
    begin_round,
    champion_of,
    collect,
    write_round,
)
from unet_batch.workflows.retrain_scoring import ScoredVersion, score_version
from unet_batch.workflows.train import train


@dataclass(frozen=True, slots=True)
class RetrainSummary:
    """How a retraining ended.

    Attributes
    ----------
    message: the outcome in a line.
    champion: who is the champion now; None where there is none yet.
    challenger: who was trained; None where nothing was.
    num_volumes: with a truth; `num_new` of them new since the champion.
    champion_dice, challenger_dice: mean by class on the held-back Volumes.
    num_outdated: Volumes whose published Labels are older than the champion; `outdated` is the
        file that lists them, `num_resegmented` how many were done again.
    """

    model: str
    outcome: RetrainOutcome
    message: str
    champion: str | None
    challenger: str | None = None
    num_volumes: int = 0
    num_new: int = 0
    num_trained_on: int = 0
    num_held_back: int = 0
    champion_dice: Mapping[str, float] = field(default_factory=dict)
    challenger_dice: Mapping[str, float] = field(default_factory=dict)
    p_value: float | None = None
    reasons: tuple[str, ...] = ()
    report: str | None = None
    num_outdated: int = 0
    outdated: str | None = None
    num_resegmented: int = 0
    seconds: float = 0.0


def retrain(spec: RetrainSpec, *, listen: Listener = ignore) -> RetrainSummary:
    """Train a challenger on what is new, and make it the champion where it is better.

    Ray must be running. Run again after a crash it goes on where it was. Raises ConflictError
    where another run holds the lease or moved the champion meanwhile, SpecError where there is
    nothing to learn from or to judge on, QuarantineError where Volumes that were to be
    segmented again could not be, and what training and segmenting raise.
    """
    require_ray()
    started = time.monotonic()
    archive, registry = open_archive(spec.archive), registry_at(spec.registry, create=True)
    job = f"retrain-{spec.model}"
    listen(JobStarted(job, "retrain", spec.model, 0, dataset=archive.name))
    path = registry.model_path(spec.model, "lease.json")
    lease = Lease(registry.store, path, spec.lease.span_s)
    with lease.held(wait_s=spec.lease.wait_s, tell=lambda line: listen(Warned(line))):
        try:
            run = _Retraining(spec, archive, registry, lease, _Under(job, spec, archive, listen))
            summary = run.go()
        except Exception:
            listen(RetrainFinished("failed"))
            raise
        listen(RetrainFinished(summary.outcome))
    summary = _resegment(spec, archive, registry, summary, _Under(job, spec, archive, listen))
    seconds = time.monotonic() - started
    listen(JobFinished(job, seconds))
    return replace(summary, seconds=seconds)


@dataclass(frozen=True, slots=True)
class _Under:
    """A Listener that hears the inner workflows as stages of one Job, the retraining."""

    job: str
    spec: RetrainSpec
    archive: Archive
    listen: Listener

    def __call__(self, event: Event) -> None:
        match event:
            case JobStarted():
                model, dataset = self.spec.model, self.archive.name
                self.listen(
                    replace(event, job=self.job, kind="retrain", model=model, dataset=dataset)
                )
            case JobFinished() | ModelLoaded():
                return
            case _:
                self.listen(event)


@dataclass(slots=True)
class _Retraining:
    """One retraining, under its lease."""

    spec: RetrainSpec
    archive: Archive
    registry: Registry
    lease: Lease
    listen: Listener

    def go(self) -> RetrainSummary:
        """All stages, each skipped where an earlier run has done it."""
        volumes = collect(self.archive, self.spec)
        found = begin_round(self.spec, volumes, self.registry)
        if isinstance(found, str):
            return self._nothing_new(found, len(volumes))
        self._keep(found)
        challenger = self._challenger(found)
        current = found.model_copy(update={"challenger": challenger.version})
        self._keep(current)
        ours = self._score(challenger, current)
        champion = self._champion(current)
        theirs = self._score(champion, current) if champion else None
        comparison = _compared(theirs, ours, current.data.held_back) if theirs else None
        self.listen(
            Challenged(
                comparison.champion if comparison else {},
                comparison.challenger if comparison else class_means(ours.dice),
            )
        )
        decision = self._decide(current, ours, theirs, comparison)
        if decision.is_promoted:
            self._promote(challenger, decision)
        report = write_challenge_report(
            self.spec,
            self.archive,
            current,
            decision,
            challenger=ours,
            champion=theirs,
            comparison=comparison,
        )
        self._keep(current.model_copy(update={"is_finished": True}))
        return self._summary(current, decision, len(volumes), report)

    def _keep(self, current: Round) -> None:
        self.lease.require()
        write_round(self.registry, self.spec.model, current)

    def _champion(self, current: Round) -> ModelVersion | None:
        """The version that was the champion when the Round began."""
        if current.champion is None:
            return None
        reference = ModelReference(name=self.spec.model, version=current.champion)
        return self.registry.version(reference)

    def _challenger(self, current: Round) -> ModelVersion:
        """The version trained for this Round; trained now where it is not there yet."""
        if current.challenger is not None:
            reference = ModelReference(name=self.spec.model, version=current.challenger)
            return self.registry.version(reference)
        folder = Path(self.spec.work) / current.id
        out = folder / self.spec.model
        bundle = self._finished_bundle(out) or self._train(out, current)
        self.lease.require()
        version = self.registry.add(
            self.spec.model,
            out,
            content_hash=bundle.content_hash,
            note=Note.now(f"retrained with {current.num_new} new Volumes"),
            scores=bundle.scores,
            data=current.data,
            recipe=current.request,
        )
        shutil.rmtree(folder, ignore_errors=True)
        return version

    def _train(self, out: Path, current: Round) -> Bundle:
        recipe = {name: getattr(self.spec.train, name) for name in TrainRecipe.model_fields}
        recipe["split"] = watched(current.data.train, self.spec.train.split)
        ids = tuple(one.volume_id for one in current.data.train)
        request = TrainSpec(
            archive=self.archive.url, truth=self.spec.truth, out=str(out), volumes=ids, **recipe
        )
        train(request, listen=self.listen)
        return load_bundle(out, trust_network=self.spec.train.trust_network)

    def _finished_bundle(self, out: Path) -> Bundle | None:
        """The Bundle that an earlier run finished training; None where there is none."""
        if not (out / CONFIG).exists():
            return None
        try:
            return load_bundle(out, trust_network=self.spec.train.trust_network)
        except BundleError:
            return None

    def _score(self, version: ModelVersion, current: Round) -> ScoredVersion:
        self.lease.require()
        return score_version(
            version,
            [one.volume_id for one in current.data.held_back],
            self.spec,
            archive=self.archive,
            registry=self.registry,
            listen=self.listen,
        )

    def _decide(
        self,
        current: Round,
        ours: ScoredVersion,
        theirs: ScoredVersion | None,
        comparison: Comparison | None,
    ) -> Decision:
        """What the rules say; what was decided before a crash stands."""
        rules = self.spec.promotion
        if comparison is None or theirs is None:
            verdict = judge_first(ours.dice, rules)
        else:
            failed = sorted(ours.failed.keys() - theirs.failed.keys())
            verdict = judge(comparison, rules, failed=failed)
        return self.registry.decide(
            self.spec.model, self._decision(current, ours, verdict, comparison)
        )

    def _decision(
        self,
        current: Round,
        ours: ScoredVersion,
        verdict: Verdict,
        comparison: Comparison | None,
    ) -> Decision:
        means = comparison.challenger if comparison else class_means(ours.dice)
        return Decision(
            version=ours.version.version,
            champion=current.champion,
            is_promoted=verdict.is_promoted,
            reasons=verdict.reasons,
            scores=_as_scores(means),
            champion_scores=_as_scores(comparison.champion if comparison else {}),
            p_value=comparison.p_value if comparison else None,
            num_volumes=len(comparison.pairs) if comparison else len(ours.dice),
            report=report_path(self.spec, ours.version.version),
            at=Note.now("").at,
        )

    def _promote(self, challenger: ModelVersion, decision: Decision) -> None:
        """Move the champion; nothing where an earlier run of this Round did."""
        self.lease.require()
        self.registry.promote(
            challenger,
            replaces=decision.champion,
            note=Note.now("retrain: " + "; ".join(decision.reasons)),
            scores=decision.scores,
        )

    def _nothing_new(self, reason: str, num_volumes: int) -> RetrainSummary:
        champion = champion_of(self.registry, self.spec.model)
        return RetrainSummary(
            model=self.spec.model,
            outcome="nothing_new",
            message=f"nothing new: {reason}",
            champion=str(champion) if champion else None,
            num_volumes=num_volumes,
            reasons=(reason,),
        )

    def _summary(
        self, current: Round, decision: Decision, num_volumes: int, report: str
    ) -> RetrainSummary:
        name = self.spec.model
        challenger = f"{name}@{decision.version}"
        before = f"{name}@{decision.champion}" if decision.champion else None
        outcome: RetrainOutcome = "promoted" if decision.is_promoted else "kept"
        what = (
            f"promoted {challenger}"
            if decision.is_promoted
            else f"kept {before or 'no champion'}, refused {challenger}"
        )
        return RetrainSummary(
            model=name,
            outcome=outcome,
            message=f"{what}: {'; '.join(decision.reasons)}",
            champion=challenger if decision.is_promoted else before,
            challenger=challenger,
            num_volumes=num_volumes,
            num_new=current.num_new,
            num_trained_on=len(current.data.train),
            num_held_back=len(current.data.held_back),
            champion_dice=_by_class(decision.champion_scores),
            challenger_dice=_by_class(decision.scores),
            p_value=decision.p_value,
            reasons=decision.reasons,
            report=report,
        )


def _compared(
    theirs: ScoredVersion, ours: ScoredVersion, held_back: Sequence[UsedVolume]
) -> Comparison:
    patients = {one.volume_id: one.patient for one in held_back}
    try:
        return compare(theirs.dice, ours.dice, patients)
    except ValueError as error:
        reasons = [*theirs.failed.items(), *ours.failed.items()][:2]
        raise QuarantineError(
            f"{theirs.version} and {ours.version} cannot be compared: no held-back Volume was"
            f" scored with both ({reasons}). Look at the Volumes, or promote by hand:"
            f" unet-batch models promote {ours.version}"
        ) from error


def _as_scores(dice: Mapping[str, float]) -> dict[str, float]:
    """Dice by class as a Bundle names its scores."""
    mean = {"mean_dice": fmean(dice.values())} if dice else {}
    return mean | {f"dice.{name}": value for name, value in dice.items()}


def _by_class(scores: Mapping[str, float]) -> dict[str, float]:
    prefix = "dice."
    return {k.removeprefix(prefix): v for k, v in scores.items() if k.startswith(prefix)}


def _resegment(
    spec: RetrainSpec,
    archive: Archive,
    registry: Registry,
    summary: RetrainSummary,
    listen: Listener,
) -> RetrainSummary:
    """List the Volumes whose published Labels are older than the champion, and do what is asked."""
    champion = champion_of(registry, spec.model)
    if spec.published is None or spec.resegment is False or champion is None:
        return summary
    ids = outdated_volumes(spec, champion, archive=archive, registry=registry)
    name = f"{spec.model}-v{champion.version}-outdated.txt"
    open_store(spec.work).put(name, "".join(f"{one}\n" for one in ids).encode())
    summary = replace(summary, num_outdated=len(ids), outdated=f"{normalize_url(spec.work)}/{name}")
    if spec.resegment != "list" and ids:
        done = segment_again(ids, spec, champion, archive=archive, registry=registry, listen=listen)
        if done.quarantined:
            raise QuarantineError(
                f"{summary.message}. Then {len(done.quarantined)} of {len(ids)} Volumes could not"
                f" be segmented again, such as {next(iter(done.quarantined.items()))}; their Labels"
                f" {spec.published!r} are those of an older version"
            )
        summary = replace(summary, num_resegmented=done.done)
    return summary
