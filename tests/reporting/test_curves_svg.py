"""The picture of a training: four panels, whatever was or was not recorded."""

from __future__ import annotations

from math import nan
from xml.etree import ElementTree as ET

import pytest

from unet_batch.reporting.curves import MAX_POINTS, curves_svg

EMPTY = dict.fromkeys(("loss", "dice", "learning_rate", "step_seconds", "data_wait_seconds"), ())
SVG = "{http://www.w3.org/2000/svg}"


def drawn(**curves: tuple[tuple[int, float], ...]) -> ET.Element:
    return ET.fromstring(curves_svg("liver <b>", {**EMPTY, **curves}))


def points(svg: ET.Element, panel: int) -> list[tuple[float, float]]:
    (line, *_) = svg.findall(f"{SVG}g")[panel].findall(f"{SVG}polyline")
    return [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]  # type: ignore[misc]


def test_a_falling_loss_goes_down_and_to_the_right() -> None:
    places = points(drawn(loss=((1, 2.0), (50, 1.0), (100, 0.5))), 0)
    assert places == sorted(places)
    assert [y for _, y in places] == sorted(y for _, y in places)


def test_panels_share_the_axis_of_steps() -> None:
    svg = drawn(loss=((1, 2.0), (100, 1.0)), dice=((50, 0.5), (100, 0.9)))
    assert points(svg, 0)[-1][0] == points(svg, 1)[-1][0]


def test_what_was_not_recorded_says_so() -> None:
    texts = [one.text for one in drawn(loss=((1, 1.0),)).iter(f"{SVG}text")]
    assert texts.count("none") == 3
    assert "liver <b>" in texts


def test_times_are_in_milliseconds_with_the_wait_beside() -> None:
    svg = drawn(step_seconds=((1, 0.2), (2, 0.4)), data_wait_seconds=((1, 0.1), (2, 0.1)))
    texts = [one.text for one in svg.iter(f"{SVG}text")]
    assert {"waiting for patches", "100", "400"} <= set(texts)


def test_many_points_are_thinned_and_what_is_not_finite_is_left_out() -> None:
    loss = tuple((step, nan if step == 7 else 1 / step) for step in range(1, 5001))
    places = points(drawn(loss=loss), 0)
    assert len(places) == MAX_POINTS


@pytest.mark.parametrize("value", [0.0, 0.003, 1e6])
def test_a_constant_has_an_axis_too(value: float) -> None:
    assert len(points(drawn(learning_rate=((1, value), (9, value))), 2)) == 2


def test_a_slow_first_step_does_not_flatten_the_others() -> None:
    steps = ((1, 9.0), *((step, 0.1) for step in range(2, 40)))
    texts = [one.text for one in drawn(step_seconds=steps).iter(f"{SVG}text")]
    assert "300" in texts
    assert "9000" not in texts
