"""submit to Kubernetes: a Spec becomes a RayJob, which is waited for, tried again, cleaned up.

The RayJob resumes from the Ledger whatever happens to it, so that starting over costs only
the work in flight. KubeRay starts over by itself (`backoffLimit`, a new cluster and a new
submission id each time); here it is done where KubeRay does not notice that the head is gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self

from unet_batch.errors import ClusterError, ConflictError
from unet_batch.kubernetes.client import AlreadyThereError, KubernetesClient
from unet_batch.kubernetes.rayjob import (
    ATTEMPT_LABEL,
    DIGEST_ANNOTATION,
    Manifest,
    RayJobStatus,
    Submission,
)
from unet_batch.kubernetes.watching import Verdict, Watch
from unet_batch.monitoring.events import Listener, RayJobFinished, ignore

HUNG_AFTER_S = 600.0
"""Twice the 300 s after which KubeRay itself fails a job whose head does not answer."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """How a RayJob is waited for; times in seconds.

    `restarts` is how often a RayJob that hangs is deleted and made anew.
    """

    timeout_s: float = 7 * 86400.0
    poll_s: float = 5.0
    hung_after_s: float = HUNG_AFTER_S
    restarts: int = 1

    @classmethod
    def after(cls, deadline_s: float | None, *, restarts: int) -> Self:
        """For a RayJob that KubeRay itself fails at its deadline: a while longer than that."""
        waiting = cls(restarts=restarts)
        if deadline_s is None:
            return waiting
        return replace(waiting, timeout_s=deadline_s + HUNG_AFTER_S)


@dataclass(frozen=True, slots=True)
class RayJobSummary:
    """What became of a Submission; `outcome` is None where it was not waited for."""

    name: str
    namespace: str
    outcome: Verdict | None
    attempts: int
    status: str = ""
    message: str = ""


@dataclass(slots=True)
class RayJobSubmitter:
    """Puts one Submission onto a cluster. `tell` hears a line on each change of its status."""

    client: KubernetesClient
    submission: Submission
    template: str
    listen: Listener = ignore
    tell: Callable[[str], None] = lambda _: None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _attempt: int = field(default=1, init=False)

    def check(self) -> RayJobSummary:
        """Ask the API server whether it would take the RayJob; nothing is made."""
        rayjob = self._rayjob()
        self.client.create(rayjob, dry_run=True)
        return self._summary(rayjob["metadata"]["name"])

    def start(self) -> RayJobSummary:
        """Make the RayJob, or find the one of this Submission that is there.

        Raises ConflictError where another Spec has the name, ClusterError where Kubernetes
        refuses: then nothing is left behind.
        """
        found = self.client.latest(self.submission.name)
        return self._adopt(found) if found else self._create()

    def run(self, waiting: Waiting) -> RayJobSummary:
        """`start`, then wait for its end. What hangs or takes too long is deleted."""
        try:
            summary = self._run(waiting)
        except (ClusterError, ConflictError):
            self.listen(RayJobFinished(self.submission.kind, "refused"))
            raise
        if summary.outcome:
            self.listen(RayJobFinished(self.submission.kind, summary.outcome))
        return summary

    def _run(self, waiting: Waiting) -> RayJobSummary:
        deadline = self.clock() + waiting.timeout_s
        name = self.start().name
        for restarts_left in range(waiting.restarts, -1, -1):
            watch = Watch(deadline, waiting.hung_after_s)
            verdict, status = self._wait(name, watch, waiting.poll_s)
            if verdict in ("hung", "timeout"):
                self._remove(name)
            if verdict != "hung" or restarts_left == 0:
                break
            self.tell(f"{name}: its head is lost and KubeRay does not see it; starting over")
            self._attempt += 1
            name = self._create().name
        return self._summary(name, verdict, status)

    def _rayjob(self) -> Manifest:
        template = self.client.template(self.template)
        return self.submission.rayjob(template, attempt=self._attempt)

    def _create(self) -> RayJobSummary:
        rayjob = self._rayjob()
        name = rayjob["metadata"]["name"]
        try:
            rayjob = self.client.create(rayjob)
        except AlreadyThereError:
            found = self.client.get(name)
            if found is None:
                raise
            return self._adopt(found)  # an answer was lost, or somebody else was faster
        try:
            self.client.create_map(self.submission.spec_map(rayjob))
        except ClusterError:
            self.client.delete(name)  # its head would wait for the Spec for ever
            raise
        return self._summary(name)

    def _adopt(self, found: Manifest) -> RayJobSummary:
        """Go on with a RayJob that is there, if it is this Submission's."""
        metadata = found["metadata"]
        if metadata.get("annotations", {}).get(DIGEST_ANNOTATION) != self.submission.digest:
            raise ConflictError(
                f"RayJob {metadata['name']!r} in namespace {self.client.namespace!r} runs another"
                " Spec; choose another --name"
            )
        self._attempt, status = int(metadata["labels"][ATTEMPT_LABEL]), RayJobStatus.of(found)
        self.tell(f"found it there already: {status}")
        if status.state == "waiting":  # whoever made it may have died before the Spec was there
            self.client.create_map(self.submission.spec_map(found))
        return self._summary(metadata["name"])

    def _wait(self, name: str, watch: Watch, poll_s: float) -> tuple[Verdict, RayJobStatus | None]:
        shown, last = "", None
        while True:
            rayjob = self.client.get(name)
            status = RayJobStatus.of(rayjob) if rayjob else None
            head = self.client.head(status.cluster) if status else None
            if status and str(status) != shown:
                self.tell(shown := str(status))
            verdict = watch.see(status, head, now=self.clock())
            last = status or last
            if verdict:
                return verdict, last
            self.sleep(poll_s)

    def _remove(self, name: str) -> None:
        """Delete a RayJob and wait until it is gone, so that two drivers never meet."""
        self.client.delete(name)
        for _ in range(60):
            if self.client.get(name) is None:
                return
            self.sleep(2.0)
        raise ClusterError(
            f"RayJob {name!r} does not go away: does KubeRay run? `kubectl describe rayjob {name}`"
        )

    def _summary(
        self, name: str, verdict: Verdict | None = None, status: RayJobStatus | None = None
    ) -> RayJobSummary:
        return RayJobSummary(
            name=name,
            namespace=self.client.namespace,
            outcome=verdict,
            attempts=self._attempt,
            status=str(status) if status else "",
            message=status.message if status else "",
        )
