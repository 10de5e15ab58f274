"""Stacked bars as a standalone SVG: where the time of each case goes, beside the bare network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

COLORS = ("#2f5d8a", "#e0913a", "#4c9f70", "#b7493f", "#8a6bb0", "#c9b037", "#7f8c8d", "#5fa8d3")
ROW, LABEL, WIDTH, NOTE, TOP = 46, 170, 640, 150, 70

_PAGE = Markup(
    '<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
    'font-family="system-ui, sans-serif" font-size="13">'
    '<rect width="100%" height="100%" fill="white"/>'
    '<text x="16" y="26" font-size="16" font-weight="600">{title}</text>{legend}{rows}</svg>\n'
)
_RECT = Markup(
    '<rect x="{x:.1f}" y="{y}" width="{w:.1f}" height="20" fill="{color}">'
    "<title>{name} {seconds:.2f} s</title></rect>"
)
_TEXT = Markup('<text x="{x:.1f}" y="{y}"{extra}>{text}</text>')
_MARK = Markup(
    '<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" stroke="black" stroke-width="2"/>'
)


@dataclass(frozen=True, slots=True)
class Bar:
    """Seconds of one case by part, and those of the bare forward pass, drawn as a mark."""

    name: str
    seconds: Mapping[str, float]
    bare_s: float


def stacked_bars(title: str, bars: Sequence[Bar]) -> str:
    """An SVG document; each bar has a scale of its own, its sum and the mark's beside it.

    What several processes do at once is added up: a sum may be more than the time that went by.
    """
    parts = list(dict.fromkeys(part for bar in bars for part in bar.seconds))
    colors = {part: COLORS[k % len(COLORS)] for k, part in enumerate(parts)}
    rows = Markup("").join(_row(bar, TOP + ROW * k, colors) for k, bar in enumerate(bars))
    return str(
        _PAGE.format(
            width=LABEL + WIDTH + NOTE,
            height=TOP + ROW * len(bars) + 10,
            title=title,
            legend=_legend(colors),
            rows=rows,
        )
    )


def _legend(colors: Mapping[str, str]) -> Markup:
    items, x = [], 16.0
    for part, color in colors.items():
        items.append(_RECT.format(x=x, y=38, w=14, color=color, name=part, seconds=0))
        items.append(_TEXT.format(x=x + 20, y=53, extra="", text=part))
        x += 40 + 8 * len(part)
    items.append(_TEXT.format(x=x, y=53, extra="", text="| bare forward pass"))
    return Markup("").join(items)


def _row(bar: Bar, y: int, colors: Mapping[str, str]) -> Markup:
    spent = sum(bar.seconds.values())
    scale = WIDTH / max(spent, bar.bare_s, 1e-9)
    pieces, x = [_TEXT.format(x=16, y=y + 15, extra="", text=bar.name)], float(LABEL)
    for part, seconds in bar.seconds.items():
        width = scale * seconds
        piece = _RECT.format(x=x, y=y, w=width, color=colors[part], name=part, seconds=seconds)
        pieces.append(piece)
        x += width
    mark, note = LABEL + scale * bar.bare_s, f"{spent:.1f} s, bare {bar.bare_s:.1f} s"
    pieces.append(_MARK.format(x=mark, top=y - 4, bottom=y + 24))
    pieces.append(_TEXT.format(x=LABEL + WIDTH + 12, y=y + 15, extra="", text=note))
    return Markup("").join(pieces)
