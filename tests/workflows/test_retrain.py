"""Nights of one model on a real Ray: first champion, nothing new, promoted, refused, resumed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from threading import Timer
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from unet_batch.cli.app import main
from unet_batch.errors import ConflictError, QuarantineError, SpecError
from unet_batch.formats.scan import Mask, Scan
from unet_batch.models.bundle import BundleConfig, save_bundle
from unet_batch.monitoring.events import (
    Challenged,
    Event,
    JobFinished,
    JobStarted,
    Listener,
    RetrainFinished,
    TrainStep,
    Validated,
    VolumeFinished,
    ignore,
)
from unet_batch.monitoring.metrics import JobMetrics
from unet_batch.planning.model_versions import Decision, ModelVersion, UsedVolume
from unet_batch.planning.specs.retrain import RetrainSpec
from unet_batch.planning.specs.train import TrainSpec
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.labels_writer import LabelsWriter
from unet_batch.storage.lease import Lease
from unet_batch.storage.registry import open_registry
from unet_batch.storage.who import Note
from unet_batch.training.task import plan_training
from unet_batch.workflows import retrain as workflow
from unet_batch.workflows.retrain import RetrainSummary, _compared, _Retraining, retrain
from unet_batch.workflows.retrain_scoring import ScoredVersion

CLASSES = (LabelClass(0, "background"), LabelClass(4, "cube"))
NETWORK = {"arguments": {"channels": [8, 16], "num_res_units": 1}}


def add_cubes(archive: Archive, first: int, last: int) -> None:
    """Noisy scans, each with a bright cube that the Labels `truth` mark."""
    for number in range(first, last):
        random = np.random.default_rng(number)
        mask = np.zeros((16, 16, 16), np.uint8)
        mask[tuple(slice(a, a + 7) for a in random.integers(0, 10, 3))] = 4
        voxels = (100 + 200 * (mask > 0) + random.normal(0, 20, (1, *mask.shape))).astype(np.int16)
        scan = Scan(f"cube_{number:02d}", voxels, np.eye(4), ("MR",))
        archive.write_scan(scan, source={})
        archive[scan.name].write_labels("truth", Mask(mask, np.eye(4), CLASSES), provenance={})


def spec_for(folder: Path, **changes: Any) -> RetrainSpec:
    fields = {
        "archive": str(folder / "archive"),
        "truth": "truth",
        "model": "cube",
        "registry": str(folder / "registry"),
        "work": str(folder / "work"),
        "held_back": {"share": 0.5},
        "train": {
            "split": {"holdout_share": 0.2},
            "roi": [16, 16, 16],
            "network": NETWORK,
            "training": {"steps": 120, "batch_size": 2, "learning_rate": 0.01, "log_every": 5},
            "augmentation": {"affine": 0},
            "resources": {"cpus_per_worker": 1},
        },
        "inference": {"precision": "fp32"},
        "resources": {"cpus_per_replica": 1},
        "promotion": {"minimum_dice": 0.0},
        "published": "net",
        "max_pictures": 2,
    }
    return RetrainSpec.model_validate(fields | changes)


def publish_as(archive: Archive, volume_id: str, bundle_hash: str) -> None:
    """Labels `net`, as the Bundle of this hash would have published them."""
    info = archive.info(volume_id)
    writer = LabelsWriter.for_volume(archive.url, info, name="net", classes=CLASSES, key="old")
    writer.prepare()
    for region in writer.write_regions():
        writer.write(region, np.zeros(region.shape, np.uint8))
    writer.publish({"bundle_hash": bundle_hash})


def untrained(spec: TrainSpec, *, listen: Listener = ignore) -> None:
    """Stands for a short training: a Bundle with the weights a network begins with."""
    task = plan_training(open_archive(spec.archive), spec)
    torch.manual_seed(len(task.split.train))
    config = BundleConfig(
        name=Path(spec.out).name,
        network_name=spec.network.name,
        network_arguments=spec.network.arguments,
        channels=task.channels,
        roi=spec.tile,
        classes=task.classes,
        spacing_mm=task.spacing_mm,
        data_hashes=task.data_hashes,
        held_back_hashes=task.held_back_hashes,
        truth_keys=task.truth_keys,
    )
    save_bundle(spec.out, config, config.build_network().state_dict())


class CrashError(Exception):
    """What ends a run in the middle."""


@dataclass
class Night:
    """One run: what it returned, and what it said on the way."""

    events: list[Event]
    metrics: JobMetrics
    summary: RetrainSummary | None = None

    def of(self, kind: type[Any]) -> list[Any]:
        return [one for one in self.events if isinstance(one, kind)]


def run(spec: RetrainSpec, *, crash_at: type[Any] | None = None) -> Night:
    night = Night([], JobMetrics())

    def listen(event: Event) -> None:
        night.events.append(event)
        night.metrics(event)
        if crash_at is not None and isinstance(event, crash_at):
            raise CrashError

    if crash_at is None:
        night.summary = retrain(spec, listen=listen)
    else:
        with pytest.raises(CrashError):
            retrain(spec, listen=listen)
    return night


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("nights")
    archive = open_archive(folder / "archive", create=True)
    registry = open_registry(folder / "registry", create=True)
    spec = spec_for(folder)
    add_cubes(archive, 0, 14)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow, "train", untrained)
        first = run(spec)
        nothing = run(spec)
    for volume_id in ("cube_00", "cube_01"):
        publish_as(archive, volume_id, registry.versions("cube")[0].content_hash)
    publish_as(archive, "cube_02", "of another model")
    add_cubes(archive, 14, 17)
    crashed = run(spec, crash_at=Challenged)
    add_cubes(archive, 17, 18)  # labelled while it lay there: for the next night
    better = run(spec.model_copy(update={"resegment": True}))
    outdated = Path(better.summary.outdated).read_text() if better.summary else ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow, "train", untrained)
        worse = run(spec)
        refused = run(spec)
    return SimpleNamespace(
        folder=folder, archive=archive, registry=registry, spec=spec, first=first, nothing=nothing,
        crashed=crashed, better=better, worse=worse, refused=refused, outdated=outdated,
    )  # fmt: skip


pytestmark = pytest.mark.ray


def test_the_first_challenger_becomes_champion(nights: SimpleNamespace) -> None:
    summary = nights.first.summary
    assert (summary.outcome, summary.champion, summary.challenger) == (
        "promoted",
        "cube@1",
        "cube@1",
    )
    assert summary.num_new == summary.num_volumes == 14
    assert summary.num_held_back >= 5
    assert "there is no champion yet" in summary.message
    assert summary.challenger_dice["cube"] < 0.5
    assert nights.registry.moves("cube")[0].scores["mean_dice"] < 0.5


def test_without_new_volumes_it_stops_early_and_says_so(nights: SimpleNamespace) -> None:
    summary = nights.nothing.summary
    assert (summary.outcome, summary.champion, summary.challenger) == (
        "nothing_new",
        "cube@1",
        None,
    )
    assert "0 of 14 Volumes with the truth 'truth' are new since cube@1" in summary.message
    assert nights.nothing.of(TrainStep) == nights.nothing.of(VolumeFinished) == []
    assert [one.outcome for one in nights.nothing.of(RetrainFinished)] == ["nothing_new"]


def test_a_crash_loses_nothing(nights: SimpleNamespace) -> None:
    """It had trained, and segmented with both; run again it does neither, nor looks for more."""
    assert nights.crashed.of(TrainStep)[-1].step == 120
    assert [one.outcome for one in nights.crashed.of(RetrainFinished)] == ["failed"]
    assert nights.better.of(TrainStep) == []
    assert nights.better.summary.num_new == 3
    assert nights.better.summary.challenger == "cube@2"
    before_decision = nights.better.events[: nights.better.events.index(challenged(nights.better))]
    done = [e for e in before_decision if isinstance(e, VolumeFinished) and e.outcome == "done"]
    assert done == []


def challenged(night: Night) -> Challenged:
    (found,) = night.of(Challenged)
    assert isinstance(found, Challenged)
    return found


def test_a_better_challenger_is_promoted_by_the_test(nights: SimpleNamespace) -> None:
    summary = nights.better.summary
    assert (summary.outcome, summary.champion) == ("promoted", "cube@2")
    assert summary.challenger_dice["cube"] > summary.champion_dice["cube"] + 0.2
    assert summary.p_value < 0.05
    told = challenged(nights.better)
    assert told.champion == pytest.approx(summary.champion_dice)
    assert told.challenger == pytest.approx(summary.challenger_dice)
    moves = [(move.replaces, move.version) for move in nights.registry.moves("cube")]
    assert moves == [(None, 1), (1, 2)]


def test_volumes_of_older_versions_are_segmented_again(nights: SimpleNamespace) -> None:
    summary = nights.better.summary
    assert (summary.num_outdated, summary.num_resegmented) == (2, 2)
    assert nights.outdated == "cube_00\ncube_01\n"
    provenance = nights.archive["cube_00"].labels["net"].provenance
    assert provenance["version"] == "cube@2"
    assert provenance["bundle_hash"] == nights.registry.versions("cube")[1].content_hash
    assert nights.worse.summary.num_outdated == 0


def test_no_challenger_learns_from_what_was_held_back_before(nights: SimpleNamespace) -> None:
    used = [nights.registry.data(one) for one in nights.registry.versions("cube")]
    assert len(used) == 3
    for before, after in pairwise(used):
        assert set(before.held_back) <= set(after.held_back)
        assert set(before.train) <= set(after.train)
    assert all(not set(one.train) & set(one.held_back) for one in used)


def test_a_worse_challenger_is_refused_with_every_reason(nights: SimpleNamespace) -> None:
    summary = nights.worse.summary
    assert (summary.outcome, summary.champion, summary.challenger) == ("kept", "cube@2", "cube@3")
    assert summary.num_new == 1
    reasons = " ".join(summary.reasons)
    assert "not shown to be better" in reasons
    assert "cube fell by" in reasons
    assert "the margin is 0.02" in reasons
    decision = nights.registry.decision("cube", 3)
    assert (decision.is_promoted, decision.champion) == (False, 2)
    assert nights.registry.champion("cube").version == 2


def test_what_was_refused_is_not_trained_again_the_next_night(nights: SimpleNamespace) -> None:
    assert nights.refused.summary.outcome == "nothing_new"
    assert "cube@3, a challenger already refused" in nights.refused.summary.message


def test_it_is_one_job_to_those_who_watch(nights: SimpleNamespace) -> None:
    for night in (nights.first, nights.nothing, nights.better, nights.worse):
        first, *_, last = night.events
        assert isinstance(first, JobStarted)
        assert isinstance(last, JobFinished)
        started = {(e.job, e.kind, e.model, e.dataset) for e in night.of(JobStarted)}
        assert started == {("retrain-cube", "retrain", "cube", "archive")}
        assert len(night.of(JobFinished)) == len(night.of(RetrainFinished)) == 1
    assert nights.crashed.of(Validated)


def test_its_metrics_are_those_that_the_dashboards_ask_for(nights: SimpleNamespace) -> None:
    labels = {"job": "retrain-cube", "model": "cube", "dataset": "archive"}

    def value(name: str, **more: str) -> float | None:
        return nights.better.metrics.registry.get_sample_value(f"unet_batch_{name}", labels | more)

    dice = value("retrain_dice", role="challenger", **{"class": "cube"})
    assert dice == pytest.approx(nights.better.summary.challenger_dice["cube"])
    assert value("retrain_finished_timestamp_seconds", outcome="promoted")
    steps = nights.crashed.metrics.registry.get_sample_value("unet_batch_train_steps_total", labels)
    assert steps == 120


def test_the_report_shows_the_decision_the_difference_and_pictures(
    nights: SimpleNamespace,
) -> None:
    html = Path(nights.better.summary.report).read_text()
    for text in ("cube@2 against cube@1", "promoted", "no class fell by more than 0.02"):
        assert text in html
    assert html.count("<figure>") == 2 * 2 * 3
    refused = Path(nights.worse.summary.report).read_text()
    assert "cube fell by" in refused
    assert "refused" in refused
    assert "the first champion?" in Path(nights.first.summary.report).read_text()


def test_what_it_leaves_is_in_the_registry_alone(nights: SimpleNamespace) -> None:
    left = sorted(path.name for path in (nights.folder / "work").iterdir())
    assert left == ["cube-v1-outdated.txt", "cube-v2-outdated.txt", "reports"]
    json.dumps(asdict(nights.better.summary))


def test_while_another_run_lives_it_is_refused(nights: SimpleNamespace) -> None:
    path = nights.registry.model_path("cube", "lease.json")
    spec = nights.spec.model_copy(
        update={"lease": nights.spec.lease.model_copy(update={"span_s": 0.4})}
    )
    with (
        Lease(nights.registry.store, path, 0.4).held(),
        pytest.raises(ConflictError, match="alive"),
    ):
        retrain(spec)
    assert retrain(spec).outcome == "nothing_new"


def test_another_run_is_waited_for_as_long_as_the_spec_says(nights: SimpleNamespace) -> None:
    path = nights.registry.model_path("cube", "lease.json")
    patient = {"lease": nights.spec.lease.model_copy(update={"span_s": 5.0, "wait_s": 60.0})}
    other = Lease(nights.registry.store, path, 5.0)
    other.acquire()
    timer = Timer(1.0, other.release)
    timer.start()
    assert retrain(nights.spec.model_copy(update=patient)).outcome == "nothing_new"
    timer.join()


@pytest.mark.parametrize("update", [{"resegment": False}, {"published": None}])
def test_volumes_of_older_versions_are_listed_only_if_asked(
    nights: SimpleNamespace, update: dict[str, object]
) -> None:
    summary = retrain(nights.spec.model_copy(update=update))
    assert summary.outdated is None
    assert retrain(nights.spec).outdated is not None


def test_the_command_says_in_a_line_how_it_ended(
    nights: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    path = tmp_path / "retrain.yaml"
    path.write_text(yaml.safe_dump(nights.spec.model_dump(mode="json")))
    for arguments, status, said in (
        ([str(path)], 0, "nothing new: 0 of 18 Volumes"),
        (["--spec", str(path), "--set", "truth=other"], 2, "has Labels 'other'"),
        ([str(path), "--spec", str(path)], 2, "give one"),
    ):
        monkeypatch.setattr("sys.argv", ["unet-batch", "retrain", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        told = capsys.readouterr()
        assert left.value.code == status
        assert said in told.out + told.err


def test_an_archive_without_the_truth_is_refused(nights: SimpleNamespace) -> None:
    events: list[Event] = []
    with pytest.raises(SpecError, match="has Labels 'other'"):
        retrain(nights.spec.model_copy(update={"truth": "other"}), listen=events.append)
    assert events[-1] == RetrainFinished("failed")


def test_a_run_that_lost_its_lease_promotes_nothing(tmp_path: Path) -> None:
    registry, now = open_registry(tmp_path / "registry", create=True), [0.0]
    lease = Lease(registry.store, "lease.json", 10.0, clock=lambda: now[0])
    lease.acquire()
    (tmp_path / "bundle").mkdir()
    note = Note("ada", "2026-11-22T01:00:00+00:00", "")
    version = registry.add("cube", tmp_path / "bundle", content_hash="0" * 64, note=note)
    archive = open_archive(tmp_path / "archive", create=True)
    run = _Retraining(spec_for(tmp_path), archive, registry, lease, ignore)
    decision = Decision(version=1, champion=None, is_promoted=True, reasons=("good",))
    now[0] = 10.0
    with pytest.raises(ConflictError, match="could not renew its lease"):
        run._promote(version, decision)
    assert registry.champion("cube") is None
    lease.renew()
    run._promote(version, decision)
    assert registry.champion("cube") is not None


def test_versions_that_share_no_scored_volume_are_not_compared() -> None:
    version = ModelVersion(
        name="cube", version=1, content_hash="0" * 64, files={}, by="a", at="now"
    )
    failed = ScoredVersion(version, "net", {}, {"a": "needs 3 GiB of 2 GiB"}, {})
    with pytest.raises(QuarantineError, match=r"cannot be compared.*needs 3 GiB"):
        _compared(failed, failed, [UsedVolume(volume_id="a", content_hash="h")])
