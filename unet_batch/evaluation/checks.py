"""What is odd about masks that have no truth, told from the scan's border and from the others.

    empty          the whole mask is background
    left_right     `kidney_left` lies to the right of `kidney_right`; or what lies on one side in
                   the other Volumes lies on the other side here (a mirrored scan)
    missing_class  a class is absent that most Volumes hold
    volume         a class is far larger or smaller than in the other Volumes
    cut            a class touches the scan's border, which in most Volumes it does not

Left and right are the patient's: the Volume's affine says where they are. What the other Volumes
say needs at least `FEWEST` of them. A check that cannot tell stays silent: a single organ in the
middle of its crop has no side.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf, nan
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from unet_batch.evaluation.outliers import FAR, spread_of, volume_deviations
from unet_batch.evaluation.placement import Placement
from unet_batch.formats.geometry import orientation_code
from unet_batch.formats.scan import Affine, spacing_of

Kind = Literal["empty", "left_right", "missing_class", "volume", "cut"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""From the gravest to the least: the order of the report."""

FEWEST = 5
"""Volumes that hold a class before the others are asked where and how large it should be."""

MAX_PAIRED_CLASSES = 16
"""Classes whose places relative to each other are compared: 120 pairs, 1 kB a Volume."""

MAX_TOLD = 4
"""Findings of one Volume that are written out; a mirrored scan of 60 organs has more."""

_OFTEN = 0.5
"""Share of Volumes in which a class touches the border beyond which that is taken as normal."""

_FACES = {"L": "left", "R": "right", "P": "back", "A": "front", "I": "lower", "S": "upper"}
_OPPOSITE = {"L": "R", "R": "L", "P": "A", "A": "P", "I": "S", "S": "I"}
_SIDES = re.compile(r"(?<![a-z])(left|right|l|r)(?![a-z])", re.IGNORECASE)

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Finding:
    """One odd thing of one Volume: `text` says what to a person, `severity` ranks its kind."""

    kind: Kind
    text: str
    severity: float


@dataclass(frozen=True, slots=True)
class MaskFacts:
    """What the checks need of one Volume: three numbers a class.

    Attributes
    ----------
    numbers: (classes, 3): millilitres; mm of the class's centre to the patient's right of the
        scan's centre, NaN where it is empty; the area of its largest contact with the scan's
        border relative to volume^(2/3). A row is NaN where the mask does not know the class.
    faces: for each class the border that it touches most, such as `upper`, or nothing.
    """

    volume_id: str
    numbers: Values
    faces: tuple[str, ...]


def facts_of(
    volume_id: str,
    placements: Mapping[int, Placement],
    class_values: Sequence[int],
    *,
    affine: Affine,
    shape_zyx: Sequence[int],
) -> MaskFacts:
    """The facts of a mask with `placements` by class value, one row for each `class_values`."""
    names = _face_names(affine)
    numbers, faces = np.full((len(class_values), 3), nan), [""] * len(class_values)
    for row, value in enumerate(class_values):
        if value in placements:
            numbers[row], faces[row] = _row(placements[value], affine, shape_zyx, names)
    return MaskFacts(volume_id, numbers, tuple(faces))


def check_masks(
    facts: Sequence[MaskFacts], class_names: Sequence[str]
) -> dict[str, tuple[Finding, ...]]:
    """Every Volume's findings, the gravest first; rows of `facts` are in order of the names."""
    findings: dict[str, list[Finding]] = {one.volume_id: [] for one in facts}
    if not facts:
        return {}
    ml, right, contact = np.moveaxis(np.stack([one.numbers for one in facts]), 2, 0)
    checks = (
        *_sizes(ml, class_names),
        *_named_sides(right, class_names),
        *_mirrored(right, class_names),
        *_cuts(ml, contact, [one.faces for one in facts], class_names),
    )
    for number, finding in checks:
        findings[facts[number].volume_id].append(finding)
    return {name: tuple(sorted(found, key=_order)) for name, found in findings.items()}


def rank_of(findings: Sequence[Finding]) -> tuple[int, float]:
    """A key that sorts Volumes by their gravest finding; those without any come last."""
    return _order(findings[0]) if findings else (len(KINDS), 0.0)


def texts_of(findings: Sequence[Finding]) -> tuple[str, ...]:
    """What to tell a person of one Volume: the gravest findings, and how many more there are."""
    texts = [one.text for one in findings[:MAX_TOLD]]
    if len(findings) > MAX_TOLD:
        texts.append(f"and {len(findings) - MAX_TOLD} more")
    return tuple(texts)


def count_kinds(findings: Mapping[str, Sequence[Finding]]) -> dict[str, int]:
    """Volumes by their gravest finding: each is counted once, those without any not at all."""
    counts = Counter(found[0].kind for found in findings.values() if found)
    return {kind: counts[kind] for kind in KINDS}


def _order(finding: Finding) -> tuple[int, float]:
    return KINDS.index(finding.kind), -finding.severity


def _row(
    placement: Placement, affine: Affine, shape_zyx: Sequence[int], names: Sequence[str]
) -> tuple[tuple[float, float, float], str]:
    z, y, x = spacing_of(affine)
    mm3 = placement.num_voxels * z * y * x
    if placement.centre_zyx is None:
        return (0.0, nan, 0.0), ""
    middle = (np.array(shape_zyx) - 1) / 2
    right = float(affine[0, :3] @ (np.array(placement.centre_zyx) - middle))
    areas = np.repeat([y * x, z * x, z * y], 2) * placement.contacts
    largest = int(areas.argmax())
    face = names[largest] if areas[largest] else ""
    return (mm3 / 1000, right, float(areas[largest] / mm3 ** (2 / 3))), face


def _face_names(affine: Affine) -> list[str]:
    """The patient's side at the first and the last plane across z, y and x."""
    letters = orientation_code(affine)[::-1]
    return [_FACES[one] for letter in letters for one in (_OPPOSITE[letter], letter)]


def _sizes(ml: Values, names: Sequence[str]) -> Iterator[tuple[int, Finding]]:
    """Empty masks, missing classes, and volumes far from the others'."""
    held: NDArray[np.bool_] = np.nan_to_num(ml) > 0
    is_empty = held.sum(axis=1) == 0
    for number in np.flatnonzero(is_empty):
        yield int(number), Finding("empty", "the mask is empty", inf)
    ml = np.where(is_empty[:, None], nan, ml)
    deviations = volume_deviations(ml)
    for number, k in np.argwhere(deviations > FAR):
        others = ml[held[:, k], k]
        if len(others) < FEWEST:
            continue
        typical = _millilitres(float(np.median(others)))
        if held[number, k]:
            far = float(deviations[number, k])
            here = _millilitres(float(ml[number, k]))
            text = f"{names[k]} has {here}, typical are {typical} ({far:.1f} SD)"
            yield int(number), Finding("volume", text, far)
        else:
            share = len(others) / np.count_nonzero(~np.isnan(ml[:, k]))
            text = f"{names[k]} is missing; {share:.0%} of the masks hold it ({typical})"
            yield int(number), Finding("missing_class", text, share)


def _millilitres(ml: float) -> str:
    return f"{ml:,.0f} mL" if ml >= 100 else f"{ml:.3g} mL"


def _named_sides(right: Values, names: Sequence[str]) -> Iterator[tuple[int, Finding]]:
    """Volumes in which a class called left lies to the right of its partner."""
    for left_one, right_one in _partners(names):
        distance = right[:, left_one] - right[:, right_one]
        for number in np.flatnonzero(distance > 0):
            far = float(distance[number])
            text = f"{names[left_one]} lies {far:.0f} mm to the right of {names[right_one]}"
            yield int(number), Finding("left_right", text, far)


def _partners(names: Sequence[str]) -> list[tuple[int, int]]:
    """Numbers of the classes whose names differ by their side alone: (left, right)."""
    sided: dict[str, dict[str, int]] = {}
    for k, name in enumerate(names):
        words = name.replace("_", " ")
        if len(found := _SIDES.findall(words)) == 1:
            stem = " ".join(_SIDES.sub(" ", words).lower().split())
            sided.setdefault(stem, {})[found[0][0].lower()] = k
    return [(pair["l"], pair["r"]) for pair in sided.values() if len(pair) == 2]


def _mirrored(right: Values, names: Sequence[str]) -> Iterator[tuple[int, Finding]]:
    """Volumes in which most of what has a side in the others lies on the other side.

    A class has a side by its distance to the scan's centre or to another class, if that is
    `FAR` robust standard deviations from 0 over the Volumes.
    """
    sides = [s for s in _side_features(right, names) if _has_side(s[0])]
    if not sides:
        return
    values = np.stack([value for value, _ in sides], axis=1)
    known = ~np.isnan(values)
    typical = np.nanmedian(values, axis=0)
    is_wrong = known & (values * np.sign(typical) < 0)
    is_mirrored = is_wrong.sum(axis=1) * 2 > known.sum(axis=1)
    for number in np.flatnonzero(is_mirrored):
        worst = int(np.where(is_wrong[number], np.abs(values[number]), -1).argmax())
        here, there = (_toward(float(v)) for v in (values[number, worst], typical[worst]))
        text = f"{sides[worst][1].format(here)}, in the others {there}: mirrored?"
        yield int(number), Finding("left_right", text, float(abs(values[number, worst])))


def _side_features(right: Values, names: Sequence[str]) -> Iterator[tuple[Values, str]]:
    """Signed mm towards the patient's right, one a Volume, with a sentence that takes where."""
    for k, name in enumerate(names):
        yield right[:, k], f"{_plain(name)} lies {{}} of the scan's centre"
    commonest = np.argsort(-(~np.isnan(right)).sum(axis=0), kind="stable")[:MAX_PAIRED_CLASSES]
    for a, b in combinations(sorted(commonest.tolist()), 2):
        yield right[:, a] - right[:, b], f"{_plain(names[a])} lies {{}} of {_plain(names[b])}"


def _plain(name: str) -> str:
    """A class's name without braces, which would be taken for places to fill."""
    return name.replace("{", "(").replace("}", ")")


def _has_side(values: Values) -> bool:
    known = values[~np.isnan(values)]
    if len(known) < FEWEST:
        return False
    centre, spread = spread_of(known)
    return abs(centre) > FAR * spread


def _toward(right_mm: float) -> str:
    return f"{abs(right_mm):.0f} mm to the {'right' if right_mm > 0 else 'left'}"


def _cuts(
    ml: Values, contact: Values, faces: Sequence[Sequence[str]], names: Sequence[str]
) -> Iterator[tuple[int, Finding]]:
    """Classes at the scan's border, but those that are there in most of the Volumes."""
    held, touches = np.nan_to_num(ml) > 0, np.nan_to_num(contact) > 0
    num_held = held.sum(axis=0)
    is_normal = (num_held >= FEWEST) & (touches.sum(axis=0) > _OFTEN * num_held)
    for number, k in np.argwhere(touches & ~is_normal):
        text = f"{names[k]} is cut off by the scan's {faces[number][k]} border"
        yield int(number), Finding("cut", text, float(contact[number, k]))
