"""Plots: well-formed SVG, dots where the values are, names that cannot break out."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from unet_batch.reporting.plots import (
    LABEL_WIDTH,
    PLOT_WIDTH,
    Dot,
    Scale,
    Strip,
    dice_scale,
    strip_plot,
    volume_scale,
)


def draw(*strips: Strip) -> ET.Element:
    scale = Scale(0.0, 1.0, (0.0, 0.5, 1.0))
    return ET.fromstring(strip_plot(strips, scale, unit="Dice", title="Dice by class"))


def test_every_volume_is_a_dot_at_its_value_that_links_to_its_pictures() -> None:
    svg = draw(Strip("liver", "#ff0000", (Dot(0.0, "a", "#v1"), Dot(0.5, "b"), Dot(1.0, "c"))))
    xs = [float(c.get("cx", "nan")) for c in svg.iter("circle")]
    assert xs == [LABEL_WIDTH, LABEL_WIDTH + PLOT_WIDTH / 2, LABEL_WIDTH + PLOT_WIDTH]
    assert [a.get("href") for a in svg.iter("a")] == ["#v1"]
    assert [t.text for c in svg.iter("circle") for t in c] == ["a: 0", "b: 0.5", "c: 1"]


def test_box_and_median_lie_at_the_quartiles() -> None:
    svg = draw(Strip("liver", "#f00", tuple(Dot(v / 4, str(v)) for v in range(5))))
    (box,) = svg.iter("rect")
    assert float(box.get("x", "nan")) == pytest.approx(LABEL_WIDTH + 0.25 * PLOT_WIDTH, abs=0.1)
    assert float(box.get("width", "nan")) == pytest.approx(0.5 * PLOT_WIDTH, abs=0.1)
    (median,) = (line for line in svg.iter("line") if line.get("class") == "median")
    assert float(median.get("x1", "nan")) == pytest.approx(LABEL_WIDTH + 0.5 * PLOT_WIDTH, abs=0.1)


def test_a_few_volumes_have_no_box() -> None:
    svg = draw(Strip("liver", "#f00", (Dot(0.2, "a"), Dot(0.4, "b"))))
    assert not list(svg.iter("rect"))


def test_names_from_outside_are_escaped() -> None:
    bad = '"><script>alert(1)</script>'
    svg = draw(Strip(bad, bad, (Dot(0.5, bad, bad),)))
    assert not list(svg.iter("script"))
    assert next(t.text for t in svg.iter("title")) == bad


def test_a_class_in_no_volume_says_so() -> None:
    assert "in no volume" in "".join(draw(Strip("liver", "#f00", ())).itertext())


def test_equal_values_do_not_hide_each_other() -> None:
    svg = draw(Strip("liver", "#f00", tuple(Dot(0.5, str(k)) for k in range(20))))
    assert len({c.get("cy") for c in svg.iter("circle")}) == 20


@pytest.mark.parametrize("values", [[], [0.0], [0.05, 0.9], [0.31], [0.87, 0.93], [0.95], [1.0]])
def test_the_dice_axis_holds_all_values_and_ends_at_one(values: list[float]) -> None:
    scale = dice_scale(values)
    assert scale.high == scale.ticks[-1] == 1.0
    assert scale.ticks[0] == scale.low <= min(values, default=0.0)
    assert 3 <= len(scale.ticks) <= 11


@pytest.mark.parametrize("values", [[], [0.0], [0.004], [1.53, 2.2], [305.0], [99_999.0]])
def test_the_volume_axis_starts_at_nothing_and_holds_all_values(values: list[float]) -> None:
    scale = volume_scale(values)
    assert scale.low == 0.0
    assert scale.high >= max(values, default=0.0)
    assert 3 <= len(scale.ticks) <= 8
