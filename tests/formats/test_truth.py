"""Masks are found by name or by a pattern, one for each scan."""

from __future__ import annotations

from pathlib import Path

import pytest

from unet_batch.errors import SpecError
from unet_batch.formats.truth import MaskOwner, find_mask


def find(tmp_path: Path, pattern: str) -> Path | None:
    owner = MaskOwner(folder="site", stem="p[1]", name="site_p1")
    found = find_mask(owner, f"{tmp_path}/{pattern}", Path)
    return found if found is None else Path(str(found)).relative_to(tmp_path)


def test_a_pattern_with_a_star_finds_the_one_mask(tmp_path: Path) -> None:
    (tmp_path / "p[1]").mkdir()
    for name in ("GOLD_p[1]_final.nii.gz", "T1.nii.gz"):
        (tmp_path / "p[1]" / name).touch()
    assert find(tmp_path, "{stem}/GOLD*") == Path("p[1]/GOLD_p[1]_final.nii.gz")
    assert find(tmp_path, "{stem}/GOLD_{stem}_*.nii.gz") == Path("p[1]/GOLD_p[1]_final.nii.gz")
    assert find(tmp_path, "{stem}/SILVER*") is None
    assert find(tmp_path, "{name}/GOLD*") is None


def test_a_pattern_that_names_two_masks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p[1]").mkdir()
    for name in ("GOLD_a.nii", "GOLD_b.nii"):
        (tmp_path / "p[1]" / name).touch()
    with pytest.raises(SpecError, match=r"matches 2 files of one scan: GOLD_a.nii, GOLD_b.nii"):
        find(tmp_path, "{stem}/GOLD*")
