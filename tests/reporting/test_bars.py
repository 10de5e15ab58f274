"""Bars of seconds by part: lengths, the mark of the bare pass, and what is written beside them."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from unet_batch.reporting.bars import LABEL, WIDTH, Bar, stacked_bars

SVG = "{http://www.w3.org/2000/svg}"


def drawn(bar: Bar) -> tuple[dict[str, float], float, list[str]]:
    """Widths by part, where the mark is, and all texts."""
    root = ET.fromstring(stacked_bars("Where <time> goes", [bar]))
    widths = {}
    for rect in root.iter(f"{SVG}rect"):
        title = rect.find(f"{SVG}title")
        if title is not None and title.text and not title.text.endswith(" 0.00 s"):
            widths[title.text] = float(rect.get("width", ""))
    (mark,) = root.iter(f"{SVG}line")
    return widths, float(mark.get("x1", "")), [one.text or "" for one in root.iter(f"{SVG}text")]


def test_a_bar_is_as_long_as_what_was_spent() -> None:
    widths, mark, texts = drawn(Bar("case", {"read": 1.0, "forward": 3.0}, bare_s=2.0))
    assert widths == {"read 1.00 s": WIDTH / 4, "forward 3.00 s": WIDTH * 3 / 4}
    assert mark == LABEL + WIDTH / 2
    assert {"Where <time> goes", "case", "4.0 s, bare 2.0 s"} <= set(texts)


def test_a_bar_may_be_shorter_than_the_bare_pass() -> None:
    widths, mark, texts = drawn(Bar("case", {"forward": 3.0}, bare_s=4.0))
    assert widths == {"forward 3.00 s": pytest.approx(WIDTH * 3 / 4)}
    assert mark == LABEL + WIDTH
    assert "3.0 s, bare 4.0 s" in texts


def test_nothing_spent_is_no_bar() -> None:
    assert drawn(Bar("case", {}, bare_s=0.0))[1:] == (
        LABEL,
        ["Where <time> goes", "| bare forward pass", "case", "0.0 s, bare 0.0 s"],
    )
