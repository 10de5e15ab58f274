"""The whole way of a Submission on an emulated cluster: each end has its outcome and exit status.

The script plays KubeRay and fate: one move each time that the submitter sleeps.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kmock
import pytest
import yaml

from unet_batch.cli.app import main
from unet_batch.errors import ClusterError, ConflictError
from unet_batch.kubernetes.rayjob import Submission
from unet_batch.monitoring.events import Event, RayJobFinished
from unet_batch.workflows.submit_kubernetes import RayJobSubmitter, Waiting

if TYPE_CHECKING:
    from conftest import Cluster

RAYJOBS = kmock.resource("ray.io", "v1", "rayjobs")
MAPS = kmock.resource("", "v1", "configmaps")
PODS = kmock.resource("", "v1", "pods")
NIGHT = Submission("ub-night", "retrain", "archive: /data/a\n")


class Watcher:
    """Hears what a submitter says."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.events: list[Event] = []


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


def submitter_on(cluster: Cluster, watcher: Watcher, submission: Submission = NIGHT) -> Any:
    return RayJobSubmitter(
        cluster.client(),
        submission,
        "ub-rayjob",
        listen=watcher.events.append,
        tell=watcher.lines.append,
        clock=cluster.clock,
        sleep=cluster.sleep,
    )


def says(cluster: Cluster, name: str, *words: str, **more: Any) -> Callable[[], None]:
    return lambda: cluster.kuberay_says(name, *words, **more)


def test_a_job_that_succeeds(cluster: Cluster, watcher: Watcher) -> None:
    cluster.script = [
        says(cluster, "ub-night", "Initializing"),
        says(cluster, "ub-night", "Running", "RUNNING"),
        says(cluster, "ub-night", "Complete", "SUCCEEDED", message="promoted liver@8"),
    ]
    summary = submitter_on(cluster, watcher).run(Waiting())
    assert (summary.outcome, summary.attempts) == ("succeeded", 1)
    assert summary.message == "promoted liver@8"
    assert watcher.events == [RayJobFinished("retrain", "succeeded")]
    assert [line.split(": ")[1] for line in watcher.lines] == [
        "not seen by KubeRay yet",
        "Initializing",
        "Running, RUNNING",
        "Complete, SUCCEEDED",
    ]
    data = cluster.api.objects[MAPS, "seg", "ub-night"].raw["data"]
    assert data == {"spec.yaml": NIGHT.spec}


@pytest.mark.parametrize(
    ("words", "outcome"),
    [(("Failed", "FAILED"), "failed"), (("Complete", "STOPPED"), "failed")],
)
def test_a_job_that_fails_is_told_as_it_is(
    cluster: Cluster, watcher: Watcher, words: tuple[str, str], outcome: str
) -> None:
    cluster.script = [says(cluster, "ub-night", *words, reason="AppFailed")]
    assert submitter_on(cluster, watcher).run(Waiting()).outcome == outcome


def test_a_rayjob_deleted_underneath_ends_the_wait(cluster: Cluster, watcher: Watcher) -> None:
    cluster.script = [
        says(cluster, "ub-night", "Running", "RUNNING"),
        lambda: cluster.lose(RAYJOBS, "ub-night"),
    ]
    summary = submitter_on(cluster, watcher).run(Waiting())
    assert summary.outcome == "deleted"
    assert "Running" in summary.status


def test_what_takes_too_long_is_deleted(cluster: Cluster, watcher: Watcher) -> None:
    cluster.script = [says(cluster, "ub-night", "Suspended")]
    summary = submitter_on(cluster, watcher).run(Waiting(timeout_s=100))
    assert summary.outcome == "timeout"
    assert cluster.names(RAYJOBS) == set()
    assert watcher.events == [RayJobFinished("retrain", "timeout")]


QUICK = Waiting(hung_after_s=20, restarts=1)


def lost_head(cluster: Cluster, name: str) -> list[Callable[[], None]]:
    """KubeRay goes on saying Running after the head of the RayJob's cluster is gone."""
    return [
        says(cluster, name, "Running", "RUNNING", rayClusterName=f"{name}-c"),
        lambda: cluster.head_is(f"{name}-c", "Running"),
        lambda: None,
        lambda: cluster.lose(PODS, f"{name}-c-head"),
        *([lambda: None] * 5),  # longer than QUICK allows
    ]


def test_a_lost_head_that_kuberay_misses_is_started_over(
    cluster: Cluster, watcher: Watcher
) -> None:
    cluster.script = [
        *lost_head(cluster, "ub-night"),
        says(cluster, "ub-night-2", "Complete", "SUCCEEDED"),
    ]
    summary = submitter_on(cluster, watcher).run(QUICK)
    assert (summary.outcome, summary.attempts) == ("succeeded", 2)
    assert cluster.names(RAYJOBS) == {"ub-night-2"}
    assert any("starting over" in line for line in watcher.lines)


def test_a_head_that_is_lost_again_and_again_is_given_up(
    cluster: Cluster, watcher: Watcher
) -> None:
    cluster.script = lost_head(cluster, "ub-night") + lost_head(cluster, "ub-night-2")
    summary = submitter_on(cluster, watcher).run(QUICK)
    assert (summary.outcome, summary.attempts) == ("hung", 2)
    assert cluster.names(RAYJOBS) == set()


def test_a_retry_by_kuberay_is_left_to_kuberay(cluster: Cluster, watcher: Watcher) -> None:
    cluster.script = [
        says(cluster, "ub-night", "Running", "RUNNING", rayClusterName="c1", jobId="ub-1"),
        says(cluster, "ub-night", "Retrying", failed=1, rayClusterName="c1"),
        says(cluster, "ub-night", "Running", "RUNNING", rayClusterName="c2", jobId="ub-2"),
        says(cluster, "ub-night", "Complete", "SUCCEEDED", failed=1),
    ]
    summary = submitter_on(cluster, watcher).run(Waiting())
    assert (summary.outcome, summary.attempts) == ("succeeded", 1)
    assert "1 failed before" in summary.status


def test_a_pod_that_comes_again_finds_its_rayjob(cluster: Cluster, watcher: Watcher) -> None:
    submitter_on(cluster, watcher).start()
    cluster.script = [says(cluster, "ub-night", "Complete", "SUCCEEDED")]
    summary = submitter_on(cluster, watcher).run(Waiting())
    assert summary.outcome == "succeeded"
    assert watcher.lines[0].startswith("found it there already")


def test_a_crash_between_rayjob_and_spec_is_mended(cluster: Cluster, watcher: Watcher) -> None:
    submitter_on(cluster, watcher).start()
    cluster.lose(MAPS, "ub-night")
    submitter_on(cluster, watcher).start()
    assert "ub-night" in cluster.names(MAPS)


class PodKilledError(Exception):
    """The submitter's own pod dies."""


def test_a_pod_that_comes_again_goes_on_with_the_last_attempt(
    cluster: Cluster, watcher: Watcher
) -> None:
    def kill() -> None:
        raise PodKilledError

    first = submitter_on(cluster, watcher)
    cluster.script = [*lost_head(cluster, "ub-night"), lambda: None, kill]
    with pytest.raises(PodKilledError):
        first.run(QUICK)  # while it waits for the second attempt
    assert cluster.names(RAYJOBS) == {"ub-night-2"}
    cluster.script = [says(cluster, "ub-night-2", "Complete", "SUCCEEDED")]
    summary = submitter_on(cluster, watcher).run(QUICK)
    assert (summary.name, summary.outcome, summary.attempts) == ("ub-night-2", "succeeded", 2)
    assert cluster.names(RAYJOBS) == {"ub-night-2"}


def test_a_name_that_another_kind_of_rayjob_has_is_refused(
    cluster: Cluster, watcher: Watcher
) -> None:
    cluster.add(RAYJOBS, {"metadata": {"name": "ub-night"}})
    with pytest.raises(ConflictError, match=r"'ub-night' .* runs another Spec"):
        submitter_on(cluster, watcher).start()


def test_a_name_of_another_spec_is_refused(cluster: Cluster, watcher: Watcher) -> None:
    submitter_on(cluster, watcher).start()
    other = Submission("ub-night", "retrain", "archive: /data/b\n")
    with pytest.raises(ConflictError, match="runs another Spec; choose another --name"):
        submitter_on(cluster, watcher, other).start()
    assert cluster.names(RAYJOBS) == {"ub-night"}


def test_a_spec_that_cannot_be_stored_leaves_no_rayjob(cluster: Cluster, watcher: Watcher) -> None:
    cluster.fail(kmock.action.CREATE, MAPS, 403, "exceeded quota: configmaps")
    with pytest.raises(ClusterError, match="quota is used up"):
        submitter_on(cluster, watcher).run(Waiting())
    assert cluster.names(RAYJOBS) == set()
    assert watcher.events == [RayJobFinished("retrain", "refused")]


def test_a_rayjob_that_runs_is_left_alone_whatever_the_quota(
    cluster: Cluster, watcher: Watcher
) -> None:
    submitter_on(cluster, watcher).start()
    cluster.kuberay_says("ub-night", "Running", "RUNNING")
    cluster.fail(kmock.action.CREATE, MAPS, 403, "exceeded quota: configmaps")
    submitter_on(cluster, watcher).start()
    assert cluster.names(RAYJOBS) == {"ub-night"}


def test_a_deadline_is_kuberays_first_and_ours_a_while_later(cluster: Cluster) -> None:
    rayjob = Submission("a", "train", "x: 1", deadline_s=3600).rayjob(
        cluster.client().template("ub-rayjob")
    )
    assert rayjob["spec"]["activeDeadlineSeconds"] == 3600
    assert Waiting.after(3600, restarts=0).timeout_s == 4200
    assert Waiting.after(None, restarts=2) == Waiting(restarts=2)


def test_an_answer_that_was_lost_makes_no_second_rayjob(cluster: Cluster, watcher: Watcher) -> None:
    submitter = submitter_on(cluster, watcher)
    made = submitter.submission.rayjob(submitter.client.template("ub-rayjob"))
    cluster.fail(kmock.action.CREATE, RAYJOBS, 504, "timed out")
    # It was made all the same, as the submitter finds when it asks again.
    cluster.script = [
        lambda: cluster.add(RAYJOBS, made | {"metadata": made["metadata"] | {"uid": "u"}})
    ]
    assert submitter.start().name == "ub-night"
    assert cluster.names(RAYJOBS) == {"ub-night"}
    assert "ub-night" in cluster.names(MAPS)


def test_a_check_makes_nothing(cluster: Cluster, watcher: Watcher) -> None:
    assert submitter_on(cluster, watcher).check().outcome is None
    assert cluster.names(RAYJOBS) == set()


# ---- the command ------------------------------------------------------------------------------


@pytest.fixture
def spec_path(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Spec, and a kubeconfig that leads to the emulated cluster."""
    monkeypatch.setattr("unet_batch.kubernetes.client.connect", lambda _: cluster.client())
    path = tmp_path / "segment.yaml"
    path.write_text("archive: /data/a\nmodel: /data/m\nlabels: liver\n")
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["unet-batch", "submit", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


BASICS = ("--kubernetes", "--template", "ub-rayjob", "--name", "ub-a", "--json")


def test_the_command_submits_the_whole_spec(
    cluster: Cluster, spec_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert run(monkeypatch, spec_path, *BASICS, "--set", "resources.replicas=4") == 0
    assert json.loads(capsys.readouterr().out)["name"] == "ub-a"
    spec = yaml.safe_load(cluster.api.objects[MAPS, "seg", "ub-a"].raw["data"]["spec.yaml"])
    assert (spec["labels"], spec["resources"]["replicas"]) == ("liver", 4)


@pytest.mark.parametrize("kind", [(), ("--kind", "retrain")])
def test_a_retraining_is_checked_here_and_asked_for_without_making_it(
    cluster: Cluster, spec_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, kind: Any
) -> None:
    spec = Path(__file__).parents[2] / "jobs" / "retrain.yaml"
    assert run(monkeypatch, spec, *BASICS, *kind, "--dry-run") == 0
    assert cluster.names(RAYJOBS) == set()
    assert run(monkeypatch, spec, *BASICS, *kind, "--set", "promotion.alpha=2") == 2
    assert "promotion.alpha" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status"), [(("Complete", "SUCCEEDED"), 0), (("Failed", "FAILED"), 1)]
)
def test_the_exit_status_is_the_jobs(
    cluster: Cluster,
    spec_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, str],
    status: int,
) -> None:
    assert run(monkeypatch, spec_path, *BASICS) == 0
    cluster.kuberay_says("ub-a", *words)
    assert run(monkeypatch, spec_path, *BASICS, "--wait") == status


def test_without_the_kubernetes_package_the_message_says_how_to_get_it(
    spec_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "unet_batch.kubernetes.client", None)
    assert run(monkeypatch, spec_path, *BASICS) == 2
    assert "pip install 'unet-batch[kubernetes]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--kubernetes", "--kind", "paint"), "--kind 'paint': expected one of segment, train"),
        (("--kubernetes", "--set", "inference.overlap=2"), "inference.overlap"),
        (("--kubernetes", "--template", "none-rayjob"), "is the chart installed there"),
        (("--kubernetes", "--address", "http://h:1"), "a Job goes to one of them"),
        ((), "no Archive at /data/a"),
    ],
)
def test_what_cannot_be_submitted_is_said_and_ends_with_2(
    spec_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    assert run(monkeypatch, spec_path, *arguments) == 2
    assert said in capsys.readouterr().err
