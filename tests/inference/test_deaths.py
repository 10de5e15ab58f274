"""A Replica that is gone is told with the reason, as far as Ray and the kernel know it."""

from __future__ import annotations

from pathlib import Path

from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError

from unet_batch.errors import BundleError, DeviceMemoryError, reason_of
from unet_batch.inference.deaths import DEATHS, Coroner


def failed_call(cause: Exception) -> RayTaskError:
    return RayTaskError("predict", "a stack of frames", cause)


def test_rays_memory_monitor_is_told_as_such() -> None:
    error = OutOfMemoryError("\nMemory on the node was 31.2GB / 32GB (0.975)\nand more")
    death = Coroner().explain(error)
    assert isinstance(error, DEATHS)
    assert death.is_short
    assert death.reason.startswith("killed by Ray's memory monitor")
    assert death.reason.endswith("Memory on the node was 31.2GB / 32GB (0.975)")


def test_the_kernels_oom_killer_is_told_where_it_struck_since(tmp_path: Path) -> None:
    counter = tmp_path / "memory.events"
    counter.write_text("oom 2\noom_kill 2\noom_group_kill 0\n")
    coroner = Coroner((counter, tmp_path / "missing"))
    before = coroner.explain(ActorDiedError())
    counter.write_text("oom 3\noom_kill 3\noom_group_kill 0\n")
    struck = coroner.explain(ActorDiedError())
    after = coroner.explain(ActorDiedError())
    assert [before.is_short, struck.is_short, after.is_short] == [False, True, False]
    assert "killed by the system: out of memory" in struck.reason
    assert before.reason == after.reason
    assert "died unexpectedly" in before.reason


def test_a_replica_that_says_memory_ran_out_is_believed() -> None:
    death = Coroner().explain(failed_call(DeviceMemoryError("cuda: no memory left")))
    assert (death.reason, death.is_short) == ("cuda: no memory left", True)


def test_our_own_errors_speak_for_themselves() -> None:
    assert reason_of(failed_call(BundleError("no such class"))) == "no such class"


def test_of_other_errors_the_first_line_is_told_with_its_kind() -> None:
    assert reason_of(failed_call(ValueError("\nfirst\nsecond"))) == "ValueError: first"
