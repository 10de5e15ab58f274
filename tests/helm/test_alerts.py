"""Every alert fires where it should and is silent where it should not: by promtool itself."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

RULES = Path(__file__).parents[2] / "helm" / "unet-batch" / "rules" / "unet-batch.yaml"
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
}


@dataclass(frozen=True)
class Case:
    """Series in promtool's notation (`a+bxn`: n steps of a minute), and what fires when.

    `fires` maps labels, as `job=a class=b`, to the summary.
    """

    alert: str
    name: str
    series: dict[str, str]
    at: str
    fires: dict[str, str] = field(default_factory=dict)
    interval: str = "1m"


JOB = '{job="a",model="m",dataset="d"}'
LABELS = "job=a model=m dataset=d"


def volumes(done: int, quarantined: int) -> dict[str, str]:
    labels = 'job="a",model="m",dataset="d"'
    return {
        f'unet_batch_volumes_total{{{labels},outcome="done"}}': f"{done}x40",
        f'unet_batch_volumes_total{{{labels},outcome="quarantined"}}': f"{quarantined}x40",
        f'unet_batch_volumes_total{{{labels},outcome="skipped"}}': "900x40",
    }


def replicas(*, busy: int, idle: int, planned: int, done: int, running: int = 1) -> dict[str, str]:
    labels = 'job="a",model="m",dataset="d"'
    return {
        f'unet_batch_replicas{{{labels},state="busy"}}': f"{busy}x40",
        f'unet_batch_replicas{{{labels},state="idle"}}': f"{idle}x40",
        f"unet_batch_volumes_planned{JOB}": f"{planned}x40",
        f'unet_batch_volumes_total{{{labels},outcome="done"}}': f"{done}x40",
        f'unet_batch_volumes_total{{{labels},outcome="skipped"}}': "0x40",
        f"unet_batch_job_running{JOB}": f"{running}x40",
    }


def dice(*, model: float, now: float, scored: int) -> dict[str, str]:
    labels = '{job="a",model="m",dataset="d",class="organ"}'
    return {
        f"unet_batch_model_dice{labels}": f"{model}x40",
        f"unet_batch_dice_mean{labels}": f"{now}x40",
        f"unet_batch_dice_count{labels}": f"{scored}x40",
    }


def rayjob(outcome: str, values: str) -> dict[str, str]:
    name = "unet_batch_rayjob_finished_timestamp_seconds"
    return {f'{name}{{kind="retrain",outcome="{outcome}"}}': values}


def store(used: int, free: int) -> dict[str, str]:
    return {
        'ray_object_store_used_memory{NodeAddress="n1"}': f"{used}x40",
        'ray_object_store_available_memory{NodeAddress="n1"}': f"{free}x40",
    }


def running(values: str, last_event: str) -> dict[str, str]:
    return {
        f"unet_batch_job_running{JOB}": values,
        f"unet_batch_last_event_timestamp_seconds{JOB}": last_event,
    }


CASES = [
    Case(
        "UnetBatchJobStalled",
        "its last event is long ago",
        running("1x40", "60x40"),
        "31m",
        {LABELS: "Job a has done nothing for 30m 0s."},
    ),
    Case("UnetBatchJobStalled", "for less than 20 min", running("1x40", "60x40"), "20m"),
    Case("UnetBatchJobStalled", "something happens", running("1x40", "0+60x40"), "40m"),
    Case("UnetBatchJobStalled", "it has ended", running("0x40", "60x40"), "40m"),
    Case(
        "UnetBatchJobVanished",
        "its driver is gone",
        {f"unet_batch_job_running{JOB}": "1x5 stale"},
        "20m",
        {LABELS: "Job a vanished without an end."},
    ),
    Case(
        "UnetBatchJobVanished",
        "it said that it ended",
        {f"unet_batch_job_running{JOB}": "1x5 0x3 stale"},
        "30m",
    ),
    Case(
        "UnetBatchJobVanished",
        "a retry took over",
        {f"unet_batch_job_running{JOB}": "1x5 stale _x5 1x30"},
        "30m",
    ),
    Case(
        "UnetBatchQuarantineRate",
        "one in ten",
        volumes(90, 10),
        "10m",
        {LABELS: "10% of the Volumes of job a are quarantined."},
    ),
    Case("UnetBatchQuarantineRate", "one in a hundred", volumes(99, 1), "10m"),
    Case("UnetBatchQuarantineRate", "two of the first four", volumes(2, 2), "10m"),
    Case(
        "UnetBatchReplicasIdleWhileWorkWaits",
        "two of four idle, fifty Volumes to go",
        replicas(busy=2, idle=2, planned=100, done=50),
        "15m",
        {f"{LABELS} state=idle": "2 Replicas of job a idle while Volumes wait."},
    ),
    Case(
        "UnetBatchReplicasIdleWhileWorkWaits",
        "the last Volumes are under way",
        replicas(busy=2, idle=2, planned=100, done=98),
        "15m",
    ),
    Case(
        "UnetBatchReplicasIdleWhileWorkWaits",
        "all are busy",
        replicas(busy=4, idle=0, planned=100, done=50),
        "15m",
    ),
    Case(
        "UnetBatchDiceDrop",
        "ten points below the champion's",
        dice(model=0.9, now=0.8, scored=12),
        "10m",
        {f"{LABELS} class=organ": "Dice of organ is 0.10 below what champion m had reached."},
    ),
    Case("UnetBatchDiceDrop", "as good", dice(model=0.9, now=0.88, scored=12), "10m"),
    Case("UnetBatchDiceDrop", "few were scored", dice(model=0.9, now=0.5, scored=3), "10m"),
    Case(
        "UnetBatchRetrainingMissed",
        "the last good one is 27 hours old",
        rayjob("succeeded", "0x4 stale"),
        "27h15m",
        {"": "No retraining has ended well for 1d 3h 15m 0s."},
        interval="5m",
    ),
    Case(
        "UnetBatchRetrainingMissed",
        "last night's was good",
        rayjob("succeeded", "0x4 stale"),
        "25h",
        interval="5m",
    ),
    Case(
        "UnetBatchRetrainingFailed",
        "last night's took too long",
        rayjob("succeeded", "0x4 stale") | rayjob("timeout", "_x288 86400x4 stale"),
        "25h",
        {"": "The last retraining did not end well."},
        interval="5m",
    ),
    Case(
        "UnetBatchRetrainingFailed",
        "there never was a good one",
        rayjob("refused", "60x9"),
        "5m",
        {"": "The last retraining did not end well."},
    ),
    Case(
        "UnetBatchRetrainingFailed",
        "a good one came after it",
        rayjob("failed", "0x4 stale") | rayjob("succeeded", "_x10 3000x4 stale"),
        "2h",
        interval="5m",
    ),
    Case(
        "UnetBatchObjectStoreNearFull",
        "nine tenths are used",
        store(90, 10),
        "15m",
        {"NodeAddress=n1": "Ray's object store on n1 is 90% full."},
    ),
    Case("UnetBatchObjectStoreNearFull", "half is used", store(50, 50), "15m"),
    Case(
        "UnetBatchScrapeMissing",
        "a pod does not answer",
        {'up{job="unet-batch",endpoint="metrics",instance="10.0.0.1:8080"}': "1x5 0x20"},
        "12m",
        {
            "job=unet-batch endpoint=metrics instance=10.0.0.1:8080": (
                "Prometheus cannot scrape 10.0.0.1:8080."
            )
        },
    ),
    Case(
        "UnetBatchScrapeMissing",
        "no job runs, so no driver answers",
        {
            'up{job="unet-batch",endpoint="metrics",instance="10.0.0.1:8080"}': "1x20",
            'up{job="unet-batch",endpoint="driver",instance="10.0.0.1:9400"}': "0x20",
        },
        "12m",
    ),
]


def as_promtool(case: Case) -> dict[str, Any]:
    rule = ALERTS[case.alert]
    expected = [
        {
            "exp_labels": rule["labels"] | dict(pair.split("=") for pair in labels.split()),
            "exp_annotations": rule["annotations"] | {"summary": summary},
        }
        for labels, summary in case.fires.items()
    ]
    return {
        "interval": case.interval,
        "input_series": [{"series": name, "values": v} for name, v in case.series.items()],
        "alert_rule_test": [
            {"alertname": case.alert, "eval_time": case.at, "exp_alerts": expected}
        ],
    }


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if not found:
        pytest.skip("promtool is not here: apt-get install prometheus")
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}, {case.name}")
def test_an_alert_fires_or_not(case: Case, promtool: str, tmp_path: Path) -> None:
    content = {
        "rule_files": [str(RULES)],
        "evaluation_interval": case.interval,
        "tests": [as_promtool(case)],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(content))
    command = [promtool, "test", "rules", tmp_path / "test.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_shown_to_fire_and_not_to(alert: str) -> None:
    fires = [bool(case.fires) for case in CASES if case.alert == alert]
    assert True in fires
    assert False in fires


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_how_bad_it_is_and_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert set(rule["annotations"]) == {"summary", "description"}
    assert len(rule["annotations"]["description"]) > 100
