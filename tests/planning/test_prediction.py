"""What a Job will take: arithmetic over its tiles, Volumes and bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unet_batch.planning.prediction import (
    BYTES_PER_SECOND,
    JOB_S,
    VOLUME_S,
    Account,
    Calibration,
    Work,
    account,
    deviations,
    predict,
)

WORK = Work(num_volumes=10, num_tiles=640, bytes_read=6 * 10**8, bytes_written=3 * 10**8)
PACE = Calibration(0.05, start_s=4.0, choice_s=5.0, check_s=1.0, base_bytes=5 * 10**8)


def test_time_is_what_its_parts_take() -> None:
    found = predict(replace(WORK, block_bytes=10**8), PACE, num_replicas=1, price=None)
    busy_s = 640 * 0.05 + 10 * VOLUME_S + 9 * 10**8 / BYTES_PER_SECOND
    assert found.seconds == pytest.approx(JOB_S + 10 + busy_s)
    assert found.memory_bytes == 6 * 10**8
    assert (found.tiles, found.bytes_read, found.bytes_written) == (640, 6 * 10**8, 3 * 10**8)
    assert found.cost is None


def test_replicas_share_the_work_but_not_their_start_and_all_are_paid() -> None:
    one, four = (predict(WORK, PACE, num_replicas=n, price=2.5) for n in (1, 4))
    assert one.seconds is not None
    start_s = JOB_S + 10
    assert four.seconds == pytest.approx(start_s + (one.seconds - start_s) / 4)
    assert four.cost == pytest.approx(4 * 2.5 * four.seconds / 3600)
    assert four.replica_hours == pytest.approx(4 * four.seconds / 3600)


def test_without_a_pace_only_what_is_moved_is_known() -> None:
    found = predict(WORK, None, num_replicas=1, price=2.5)
    assert (found.tiles, found.seconds, found.cost) == (640, None, None)


def test_nothing_left_takes_no_time() -> None:
    assert predict(Work(), PACE, num_replicas=1, price=1.0).seconds == 0


def test_work_adds_up_and_the_heaviest_block_counts() -> None:
    assert WORK + Work(1, 2, 3, 4, 5) == Work(11, 642, 6 * 10**8 + 3, 3 * 10**8 + 4, 5)


def test_by_how_much_it_missed() -> None:
    actual = account(Account(640, 100, 50), 20.0, 10**9, 1, 3.6)
    predicted = replace(actual, seconds=25.0, memory_bytes=None, bytes_written=40)
    missed = deviations(predicted, actual)
    assert missed["seconds"] == pytest.approx(0.25)
    assert missed["bytes_written"] == pytest.approx(-0.2)
    assert "memory_bytes" not in missed
    assert Account.of_json(actual.to_json()) == actual
