"""What is posted for a Spec, and what a status says; no API server needed."""

from __future__ import annotations

import pytest
import yaml

from unet_batch.errors import SpecError
from unet_batch.kubernetes.rayjob import RayJobStatus, Submission

TEMPLATE = yaml.safe_load("""
metadata: {name: ub, labels: {kueue.x-k8s.io/queue-name: gpus}}
spec:
  entrypoint: unet-batch segment
  rayClusterSpec: {headGroupSpec: {template: {spec: {volumes: [{name: tmp}, {name: spec}]}}}}
""")
SUBMISSION = Submission("ub-liver", "retrain", "archive: /data/a\n")


def test_only_what_differs_from_job_to_job_is_filled_in() -> None:
    rayjob = SUBMISSION.rayjob(TEMPLATE, attempt=2)
    assert rayjob["metadata"]["name"] == "ub-liver-2"
    assert rayjob["metadata"]["labels"] == {
        "kueue.x-k8s.io/queue-name": "gpus",
        "unet-batch/submission": "ub-liver",
        "unet-batch/attempt": "2",
    }
    expected = "unet-batch retrain --spec /etc/unet-batch/spec.yaml --ray auto"
    assert rayjob["spec"]["entrypoint"] == expected
    volumes = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"]
    assert volumes == [{"name": "tmp"}, {"name": "spec", "configMap": {"name": "ub-liver-2"}}]
    assert TEMPLATE["metadata"]["name"] == "ub"


def test_the_spec_goes_when_the_rayjob_goes() -> None:
    rayjob = SUBMISSION.rayjob(TEMPLATE | {"apiVersion": "ray.io/v1", "kind": "RayJob"})
    rayjob["metadata"]["uid"] = "u1"
    config_map = SUBMISSION.spec_map(rayjob)
    assert config_map["data"] == {"spec.yaml": "archive: /data/a\n"}
    (owner,) = config_map["metadata"]["ownerReferences"]
    assert owner == {"apiVersion": "ray.io/v1", "kind": "RayJob", "name": "ub-liver", "uid": "u1"}


def test_another_spec_or_kind_has_another_digest() -> None:
    others = [
        Submission("ub-liver", "segment", SUBMISSION.spec),
        Submission("x", "retrain", "b: 1"),
    ]
    assert len({one.digest for one in (SUBMISSION, *others)}) == 3
    assert Submission("x", "retrain", SUBMISSION.spec).digest == SUBMISSION.digest


@pytest.mark.parametrize("name", ["Liver", "1liver", "liver-", "a" * 48, "a_b", ""])
def test_a_name_that_kuberay_refuses_is_refused_here(name: str) -> None:
    with pytest.raises(SpecError, match="cannot name a RayJob"):
        Submission(name, "segment", "").rayjob(TEMPLATE)


def test_the_number_of_an_attempt_counts_towards_the_length() -> None:
    submission = Submission("a" * 46, "segment", "")
    submission.rayjob(TEMPLATE, attempt=1)
    with pytest.raises(SpecError, match="at most 47"):
        submission.rayjob(TEMPLATE, attempt=2)


def test_a_template_that_is_not_the_charts_is_refused() -> None:
    with pytest.raises(SpecError, match="no head with one volume 'spec'"):
        SUBMISSION.rayjob({"metadata": {}, "spec": {"rayClusterSpec": {}}})


STATES = [
    ({}, "waiting"),
    ({"jobDeploymentStatus": "Suspended"}, "waiting"),
    ({"jobDeploymentStatus": "Retrying", "failed": 1}, "waiting"),
    ({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, "running"),
    ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, "succeeded"),
    ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, "failed"),
    ({"jobDeploymentStatus": "Complete", "jobStatus": ""}, "failed"),
    (
        {"jobDeploymentStatus": "Failed", "jobStatus": "RUNNING", "reason": "DeadlineExceeded"},
        "failed",
    ),
    ({"jobDeploymentStatus": "ValidationFailed"}, "failed"),
]


@pytest.mark.parametrize(("status", "state"), STATES)
def test_a_job_succeeded_only_if_ray_says_so(status: dict[str, str], state: str) -> None:
    assert RayJobStatus.of({"metadata": {"name": "a"}, "status": status}).state == state


def test_a_status_reads_as_a_line() -> None:
    status = RayJobStatus("a", "Failed", "RUNNING", reason="DeadlineExceeded", tries=2)
    assert str(status) == "a: Failed, RUNNING, DeadlineExceeded, 2 failed before"
    assert str(RayJobStatus("a")) == "a: not seen by KubeRay yet"
