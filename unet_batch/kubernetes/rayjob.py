"""RayJob: the object that is posted for a Spec, and what its status says.

The chart's ConfigMap `<release>-rayjob` holds a whole RayJob; only what differs from job to
job is filled in here, so that what a cluster is made of stands in one place: the chart.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from unet_batch.errors import SpecError

Manifest = dict[str, Any]

SPEC_VOLUME = "spec"
SPEC_FILE = "spec.yaml"
SPEC_PATH = f"/etc/unet-batch/{SPEC_FILE}"
SUBMISSION_LABEL = "unet-batch/submission"
ATTEMPT_LABEL = "unet-batch/attempt"
DIGEST_ANNOTATION = "unet-batch/spec-digest"
MAX_NAME_LENGTH = 47
"""What KubeRay allows a RayJob, so that the names it derives still fit into 63 characters."""

KINDS = ("segment", "train", "evaluate", "retrain")
"""Commands that a RayJob may run."""

State = Literal["waiting", "running", "succeeded", "failed"]


@dataclass(frozen=True, slots=True)
class Submission:
    """One Spec to run on Kubernetes.

    `name` tells one Submission from another: the same name and Spec is the same Submission,
    so that whoever asks again finds the RayJob that runs. `kind` is the command that runs it,
    `spec` the Spec as YAML, `deadline_s` after how many seconds KubeRay fails it (None: as the
    chart says).
    """

    name: str
    kind: str
    spec: str
    deadline_s: int | None = None

    @property
    def digest(self) -> str:
        """16 hex digits of what is run."""
        return hashlib.sha256(f"{self.kind}\n{self.spec}".encode()).hexdigest()[:16]

    def job_name(self, attempt: int) -> str:
        """Name of the RayJob of an attempt, from 1. Raises SpecError where KubeRay refuses it."""
        name = self.name if attempt == 1 else f"{self.name}-{attempt}"
        if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name) or len(name) > MAX_NAME_LENGTH:
            raise SpecError(
                f"{name!r} cannot name a RayJob: expected at most {MAX_NAME_LENGTH} of a-z, 0-9"
                f" and -, a letter first (it has {len(name)}); choose another --name"
            )
        return name

    def rayjob(self, template: Mapping[str, Any], *, attempt: int = 1) -> Manifest:
        """The RayJob to post. Raises SpecError where `template` is not the chart's."""
        name, rayjob = self.job_name(attempt), copy.deepcopy(dict(template))
        try:
            metadata, spec = rayjob["metadata"], rayjob["spec"]
            volumes = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"]
            (volume,) = [one for one in volumes if one["name"] == SPEC_VOLUME]
        except (KeyError, TypeError, ValueError) as error:
            raise SpecError(
                f"the RayJob template has no head with one volume {SPEC_VOLUME!r} ({error!r});"
                " use the ConfigMap that the chart installs, named <release>-rayjob"
            ) from error
        labels = {SUBMISSION_LABEL: self.name, ATTEMPT_LABEL: str(attempt)}
        metadata["name"] = name
        metadata["labels"] = (metadata.get("labels") or {}) | labels
        metadata["annotations"] = (metadata.get("annotations") or {}) | {
            DIGEST_ANNOTATION: self.digest
        }
        spec["entrypoint"] = f"unet-batch {self.kind} --spec {SPEC_PATH} --ray auto"
        if self.deadline_s is not None:
            spec["activeDeadlineSeconds"] = self.deadline_s
        volume["configMap"] = {"name": name}
        return rayjob

    def spec_map(self, owner: Mapping[str, Any]) -> Manifest:
        """The ConfigMap with the Spec; it goes when `owner`, the RayJob, goes."""
        metadata = owner["metadata"]
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": metadata["name"],
                "labels": {SUBMISSION_LABEL: self.name},
                "ownerReferences": [
                    {
                        "apiVersion": owner["apiVersion"],
                        "kind": owner["kind"],
                        "name": metadata["name"],
                        "uid": metadata["uid"],
                    }
                ],
            },
            "data": {SPEC_FILE: self.spec},
        }


@dataclass(frozen=True, slots=True)
class RayJobStatus:
    """What KubeRay says of a RayJob.

    `deployment` and `job` are its own words (Running, Retrying, ...; RUNNING, FAILED, ...),
    `cluster` the RayCluster of the present try, `tries` how many have failed.
    """

    name: str
    deployment: str = ""
    job: str = ""
    reason: str = ""
    message: str = ""
    cluster: str = ""
    submission_id: str = ""
    tries: int = 0

    @classmethod
    def of(cls, rayjob: Mapping[str, Any]) -> Self:
        """The status in a RayJob as the API server returns it."""
        status = rayjob.get("status") or {}
        return cls(
            name=rayjob["metadata"]["name"],
            deployment=status.get("jobDeploymentStatus") or "",
            job=status.get("jobStatus") or "",
            reason=status.get("reason") or "",
            message=status.get("message") or "",
            cluster=status.get("rayClusterName") or "",
            submission_id=status.get("jobId") or "",
            tries=int(status.get("failed") or 0),
        )

    @property
    def state(self) -> State:
        """Where it stands. It succeeded only if Ray says so: a Complete RayJob may have STOPPED."""
        if self.deployment in {"Failed", "ValidationFailed"}:
            return "failed"
        if self.deployment == "Complete":
            return "succeeded" if self.job == "SUCCEEDED" else "failed"
        return "running" if self.deployment == "Running" else "waiting"

    def __str__(self) -> str:
        facts = [self.deployment or "not seen by KubeRay yet", self.job, self.reason]
        tries = [f"{self.tries} failed before"] if self.tries else []
        return f"{self.name}: {', '.join(filter(None, [*facts, *tries]))}"
