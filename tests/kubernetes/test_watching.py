"""When a RayJob that does not end is given up; on a clock of the test's own."""

from __future__ import annotations

import pytest

from unet_batch.kubernetes.rayjob import RayJobStatus
from unet_batch.kubernetes.watching import Head, Watch

RUNNING = RayJobStatus("a", "Running", "RUNNING", cluster="c1")
HEAD = Head("h1", restarts=0, is_alive=True)


@pytest.fixture
def watch() -> Watch:
    watch = Watch(deadline=10_000, hung_after_s=600)
    assert watch.see(RUNNING, HEAD, now=0) is None
    assert watch.see(RUNNING, HEAD, now=5) is None
    return watch


@pytest.mark.parametrize(
    "head",
    [
        None,
        Head("h1", restarts=0, is_alive=False),
        Head("h1", restarts=1, is_alive=True),  # the container came again, the driver did not
        Head("h2", restarts=0, is_alive=True),
    ],
    ids=["gone", "dead", "restarted", "replaced"],
)
def test_running_with_a_lost_head_is_hung_after_a_while(watch: Watch, head: Head | None) -> None:
    assert watch.see(RUNNING, head, now=10) is None
    assert watch.see(RUNNING, head, now=609) is None
    assert watch.see(RUNNING, head, now=610) == "hung"


def test_a_head_that_is_seen_again_was_never_lost(watch: Watch) -> None:
    watch.see(RUNNING, None, now=10)
    watch.see(RUNNING, HEAD, now=400)
    assert watch.see(RUNNING, None, now=800) is None


def test_a_retry_of_kuberay_is_a_new_head_to_know(watch: Watch) -> None:
    watch.see(RUNNING, None, now=10)
    watch.see(RayJobStatus("a", "Retrying", cluster=""), None, now=300)
    again = RayJobStatus("a", "Running", "RUNNING", cluster="c2", tries=1)
    new_head = Head("h9", restarts=0, is_alive=True)
    for now in range(310, 2000, 100):
        assert watch.see(again, new_head, now=now) is None


def test_a_job_that_waits_for_its_queue_is_not_hung(watch: Watch) -> None:
    for now in range(10, 5000, 500):
        assert watch.see(RayJobStatus("a", "Suspended"), None, now=now) is None


def test_the_deadline_ends_all_waiting(watch: Watch) -> None:
    assert watch.see(RUNNING, HEAD, now=10_000) == "timeout"


def test_an_end_counts_more_than_the_deadline(watch: Watch) -> None:
    done = RayJobStatus("a", "Complete", "SUCCEEDED", cluster="c1")
    assert watch.see(done, HEAD, now=20_000) == "succeeded"


def test_a_rayjob_that_is_gone_was_deleted(watch: Watch) -> None:
    assert watch.see(None, None, now=10) == "deleted"


def test_the_head_is_read_from_a_list_of_pods() -> None:
    pod = {
        "metadata": {"uid": "u"},
        "status": {"phase": "Failed", "containerStatuses": [{"restartCount": 2}]},
    }
    assert Head.of([pod]) == Head("u", restarts=2, is_alive=False)
    assert Head.of([]) is None
