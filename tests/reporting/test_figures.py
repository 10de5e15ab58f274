"""How scores are written."""

from __future__ import annotations

from math import inf

from unet_batch.reporting.figures import figures_of

FIGURES = figures_of(1.5)


def test_each_column_has_its_own_digits_and_sign() -> None:
    written = {name: figure.text(0.01234) for name, figure in FIGURES.items()}
    assert written == {
        "dice": "0.012",
        "hd95_mm": "0.01",
        "surface_dice": "0.012",
        "volume_error_ml": "+0.01",
        "volume_error": "+1.2",
    }


def test_a_negative_error_has_a_minus_and_the_unknown_a_dash() -> None:
    assert FIGURES["volume_error_ml"].text(-1234.5) == "\N{MINUS SIGN}1,234.50"
    assert FIGURES["dice"].text(None) == "\N{EN DASH}"
    assert FIGURES["hd95_mm"].text(inf) == "\N{INFINITY}"


def test_an_interval_is_written_from_low_to_high() -> None:
    assert FIGURES["dice"].interval_text((0.8, 0.9)) == "0.800 to 0.900"
    assert FIGURES["dice"].interval_text(None) == ""


def test_the_tolerance_is_in_the_heading() -> None:
    assert FIGURES["surface_dice"].heading == "surface Dice at 1.5 mm"
