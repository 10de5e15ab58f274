"""The window: bounded, lazy, and one failure stays one failure."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import dask
import pytest
import ray
from dask.delayed import Delayed

from unet_batch.errors import ReplicaError
from unet_batch.workflows.dask_window import compute_in_window, default_window, require_ray


def double(number: int) -> int:
    if number == 3:
        raise ValueError("three is not doubled")
    return 2 * number


@pytest.mark.ray
def test_all_work_ends_and_errors_are_yielded(local_ray: None) -> None:
    work = ((n, dask.delayed(double)(n)) for n in range(6))
    ended = {finished.key: finished for finished in compute_in_window(work, window=2)}
    assert {n: f.value for n, f in ended.items()} == {0: 0, 1: 2, 2: 4, 3: None, 4: 8, 5: 10}
    assert isinstance(ended[3].error, ValueError)


@pytest.mark.ray
def test_no_more_than_the_window_is_submitted(local_ray: None) -> None:
    submitted: list[int] = []

    def work() -> Iterator[tuple[int, Delayed]]:
        for n in range(10, 18):
            submitted.append(n)
            yield n, dask.delayed(double)(n)

    for ended, _ in enumerate(compute_in_window(work(), window=3), start=1):
        assert len(submitted) <= ended + 2
    assert len(submitted) == 8


@pytest.mark.ray
def test_graphs_of_several_tasks_are_computed(local_ray: None) -> None:
    total = dask.delayed(sum)([dask.delayed(double)(n) for n in (1, 2)])
    (finished,) = compute_in_window([("total", total)], window=1)
    assert finished.value == 6


@pytest.mark.ray
def test_a_dying_worker_is_one_error(local_ray: None) -> None:
    work = [("dies", dask.delayed(os._exit)(1)), ("lives", dask.delayed(double)(1))]
    ended = {f.key: f for f in compute_in_window(work, window=2)}
    assert ended["lives"].value == 2
    assert isinstance(ended["dies"].error, ray.exceptions.RayError)


@pytest.mark.ray
def test_what_hangs_is_ended_and_named(local_ray: None) -> None:
    work = [("hangs", dask.delayed(time.sleep)(600)), ("lives", dask.delayed(double)(1))]
    ended = {f.key: f for f in compute_in_window(work, window=2, timeout_s=10)}
    assert ended["lives"].value == 2
    assert "took longer than 10 s" in str(ended["hangs"].error)


@pytest.mark.ray
def test_the_default_window_follows_the_cluster(local_ray: None) -> None:
    assert default_window() == 6


def test_without_ray_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ReplicaError, match=r"ray\.init"):
        require_ray()
