"""How scores are written: the same words and digits in the printed table and in the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isinf

from unet_batch.evaluation.bootstrap import Interval

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True)
class Figure:
    """A column of scores: its heading, and how a value is written."""

    heading: str
    decimals: int
    is_signed: bool = False
    factor: float = 1.0

    def text(self, value: float | None) -> str:
        """`value` as text; a dash where there is none."""
        if value is None:
            return DASH
        if isinf(value):
            return "\N{INFINITY}"
        sign = "+" if self.is_signed else ""
        return f"{value * self.factor:{sign},.{self.decimals}f}".replace("-", MINUS)

    def interval_text(self, interval: Interval | None) -> str:
        """`0.884 to 0.934`; nothing where there is none."""
        if interval is None:
            return ""
        return f"{self.text(interval[0])} to {self.text(interval[1])}"


def figures_of(tolerance_mm: float) -> Mapping[str, Figure]:
    """The Figure of each column of the table of scores that has a mean."""
    return {
        "dice": Figure("Dice", 3),
        "hd95_mm": Figure("HD95, mm", 2),
        "surface_dice": Figure(f"surface Dice at {tolerance_mm:g} mm", 3),
        "volume_error_ml": Figure("volume error, mL", 2, is_signed=True),
        "volume_error": Figure("volume error, %", 1, is_signed=True, factor=100.0),
    }
