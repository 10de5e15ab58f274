"""What is odd without a truth: each kind is found, named, and silent where it cannot tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from unet_batch.evaluation.checks import (
    KINDS,
    Finding,
    MaskFacts,
    check_masks,
    count_kinds,
    facts_of,
    rank_of,
)
from unet_batch.evaluation.placement import count_profiles, placements_of
from unet_batch.formats.nifti import read_nifti_mask
from unet_batch.formats.scan import Affine, Mask

NAMES = ("liver", "spleen", "kidney_left", "kidney_right")
VALUES = (1, 2, 3, 4)
SHAPE = (10, 12, 24)
LPS = np.array([[0, 0, -2, 0], [0, -2, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1]], dtype=np.float64)
"""x grows to the patient's left: the liver, on the right, has the small indices."""


def patient(seed: int = 0, *, swapped: bool = False) -> NDArray[np.uint8]:
    """Liver and right kidney on the patient's right, spleen and left kidney on the left."""
    shift = seed % 3
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:7, 2:8, 2 : 8 + shift] = 1
    mask[3:6, 3:6, 17 : 20 + shift] = 2
    mask[2:4, 8:10, 16:19], mask[2:4, 8:10, 4:7] = (4, 3) if swapped else (3, 4)
    return mask


def facts(name: str, mask: NDArray[np.uint8], affine: Affine = LPS) -> MaskFacts:
    placements = placements_of(count_profiles(mask, VALUES))
    by_value = dict(zip(VALUES, placements, strict=True))
    return facts_of(name, by_value, VALUES, affine=affine, shape_zyx=mask.shape)


def findings_of(odd: NDArray[np.uint8], affine: Affine = LPS, *, others: int = 9) -> list[Finding]:
    """What is found of `odd` among ordinary patients, of whom nothing may be found."""
    table = [facts(f"v{k}", patient(k)) for k in range(others)]
    found = check_masks([*table, facts("odd", odd, affine)], NAMES)
    assert not any(found[f"v{k}"] for k in range(others))
    return list(found["odd"])


def test_nothing_is_odd_about_an_ordinary_patient() -> None:
    assert findings_of(patient(5)) == []


def test_an_empty_mask_is_nothing_else_but_empty() -> None:
    assert [one.kind for one in findings_of(np.zeros(SHAPE, np.uint8))] == ["empty"]


def test_a_class_that_the_others_hold_is_missing() -> None:
    mask = patient()
    mask[mask == 2] = 0
    (one,) = findings_of(mask)
    assert (one.kind, one.text) == (
        "missing_class",
        "spleen is missing; 90% of the masks hold it (0.432 mL)",
    )


def test_a_class_far_too_large_is_told_with_what_is_typical() -> None:
    mask = patient()
    mask[1:9, 1:8, 14:22] = 2
    (one,) = (f for f in findings_of(mask) if f.kind == "volume")
    assert one.text.startswith("spleen has 5.38 mL, typical are 0.4")
    assert one.severity > 3.5


def test_kidneys_with_each_others_names_are_told() -> None:
    (first, *_) = findings_of(patient(swapped=True))
    assert first.kind == "left_right"
    assert "kidney_left lies 24 mm to the right of kidney_right" in {
        one.text for one in findings_of(patient(swapped=True))
    }


def test_a_mirrored_scan_is_told_by_its_affine_and_by_its_voxels_alike() -> None:
    """A header that says the wrong side; and voxels turned round under the right header."""
    unsided = patient()
    unsided[unsided > 2] = 0
    mirrored = LPS.copy()
    mirrored[0] *= -1
    for one in (findings_of(unsided, mirrored), findings_of(unsided[:, :, ::-1])):
        (found,) = (f for f in one if f.kind == "left_right")
        assert "in the others" in found.text
        assert found.text.endswith("to the right: mirrored?") or "to the left" in found.text


def test_turning_the_voxels_and_the_affine_together_changes_nothing() -> None:
    turned = LPS.copy()
    turned[:, 2] *= -1
    turned[0, 3] = -2.0 * (SHAPE[2] - 1)
    assert findings_of(patient()[:, :, ::-1], turned) == []


def test_a_mask_cut_by_the_field_of_view_is_told_with_the_side() -> None:
    mask = patient()
    mask[-3:, 3:6, 17:20] = 2
    cuts = [one.text for one in findings_of(mask) if one.kind == "cut"]
    assert cuts == ["spleen is cut off by the scan's upper border"]


def test_what_touches_the_border_in_most_volumes_is_normal() -> None:
    spines = []
    for k in range(8):
        mask = patient(k)
        mask[:, 10, 12] = 2
        spines.append(facts(f"v{k}", mask))
    assert not any(check_masks(spines, NAMES).values())


def test_few_volumes_say_nothing_of_what_is_typical() -> None:
    mask = patient()
    mask[mask == 2] = 0
    assert findings_of(mask, others=3) == []


def test_the_gravest_come_first_and_each_volume_counts_once() -> None:
    blank = np.zeros(SHAPE, np.uint8)
    table = [facts(f"v{k}", patient(k)) for k in range(9)]
    cut_and_swapped = patient(swapped=True)
    cut_and_swapped[-3:, 3:6, 17:20] = 2
    found = check_masks([*table, facts("blank", blank), facts("both", cut_and_swapped)], NAMES)
    assert sorted(found, key=lambda name: rank_of(found[name]))[:2] == ["blank", "both"]
    assert count_kinds(found) == dict.fromkeys(KINDS, 0) | {"empty": 1, "left_right": 1}


def test_no_masks_have_no_findings() -> None:
    assert check_masks([], NAMES) == {}


@pytest.mark.data
def test_a_real_patient_with_left_and_right_swapped_is_told(scans: Path) -> None:
    """61 classes of a CT of the abdomen, named as TotalSegmentator names them."""
    folder = scans / "ct_multiorgan_totalseg"
    mask = read_nifti_mask(folder / "example_seg_fast_force_split.nii.gz")
    assert sides(mask, mask.voxels_zyx) == []
    swapped = mask.voxels_zyx.copy()
    swapped[mask.voxels_zyx == KIDNEYS[0]] = KIDNEYS[1]
    swapped[mask.voxels_zyx == KIDNEYS[1]] = KIDNEYS[0]
    (one,) = sides(mask, swapped)
    assert "kidney_left lies" in one.text


KIDNEYS = (2, 3)


def sides(mask: Mask, voxels: NDArray[np.unsignedinteger]) -> list[Finding]:
    names = {3: "kidney_left", 2: "kidney_right"}
    placements = placements_of(count_profiles(voxels, tuple(names)))
    one = facts_of(
        "a",
        dict(zip(names, placements, strict=True)),
        tuple(names),
        affine=mask.affine,
        shape_zyx=voxels.shape,
    )
    return [f for f in check_masks([one], tuple(names.values()))["a"] if f.kind == "left_right"]
