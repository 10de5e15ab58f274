"""The report of a retraining, as HTML."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from unet_batch.reporting.challenge_page import (
    ChallengePage,
    ChangedVolume,
    ClassRow,
    difference_scale,
    format_signed,
    render_challenge,
)
from unet_batch.reporting.page import LegendEntry
from unet_batch.reporting.pictures import Picture

RED = (200, 20, 20)
PICTURE = Picture(
    "axial", "data:image/webp;base64,AAAA", 4, 3, "slice 2 of 9", "A", "P", "R", "L", "v"
)
PAGE = ChallengePage(
    challenger="organ@8",
    champion="organ@7",
    is_promoted=False,
    reasons=("spleen fell by 0.0300", "<b>not markup</b>"),
    facts=(("Archive", "/data/a"),),
    made_at=datetime(2026, 11, 22, tzinfo=UTC),
    classes=(
        ClassRow(LegendEntry("liver", RED), 0.80, 0.85),
        ClassRow(LegendEntry("spleen", RED), 0.80, 0.77),
    ),
    volumes=(
        ChangedVolume("a", "v1", 0.7, 0.82, (0.2, 0.04), (PICTURE,), (PICTURE,)),
        ChangedVolume("b", "v2", 0.8, 0.79, (None, -0.01)),
    ),
    difference=0.055,
    interval=(-0.01, 0.12),
    p_value=0.25,
    left_out=(("c", "organ@8: no memory"),),
)


def test_the_page_says_who_was_better_where_and_what_was_decided() -> None:
    html = render_challenge(PAGE)
    for text in (
        "organ@8 against organ@7",
        "refused",
        "+0.055",
        "0.25",
        "spleen fell by 0.0300",
        "\N{MINUS SIGN}0.030",
        "organ@8: no memory",
        'href="#v1"',
    ):
        assert text in html
    assert "<b>not markup</b>" not in html
    assert html.count("<figure>") == 2
    assert html.count('class="dot"') == 3


def test_a_first_champion_is_shown_without_differences() -> None:
    alone = replace(
        PAGE,
        champion="",
        is_promoted=True,
        difference=None,
        interval=None,
        p_value=None,
        classes=(ClassRow(LegendEntry("liver", RED), None, 0.85),),
        volumes=(ChangedVolume("a", "v1", None, 0.82, (), (), (PICTURE,)),),
    )
    html = render_challenge(alone)
    assert "organ@8, the first champion?" in html
    assert "difference" not in html
    assert "signed-rank" not in html
    assert html.count("<figure>") == 1


@pytest.mark.parametrize("values", [[], [0.003], [-0.04, 0.01], [0.31], [-1.0, 1.0]])
def test_the_axis_is_even_around_zero_and_holds_every_value(values: list[float]) -> None:
    scale = difference_scale(values)
    assert scale.low == -scale.high
    assert 0.0 in scale.ticks
    assert all(scale.low <= one <= scale.high for one in values)
    assert 5 <= len(scale.ticks) <= 9


def test_a_difference_carries_its_sign() -> None:
    assert format_signed(0.01234) == "+0.012"
    assert format_signed(-0.5) == "\N{MINUS SIGN}0.500"
    assert format_signed(None) == "\N{EN DASH}"
