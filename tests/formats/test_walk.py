"""Walks: everything below a source, nothing beyond it."""

from __future__ import annotations

from pathlib import Path

import pytest

from unet_batch.errors import SpecError
from unet_batch.formats.walk import Walk


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("data/a.nii", "data/p1/b.nii", "data/p1/.hidden/c.nii", "data/._a.nii",
                 "data/v.ome.zarr/zarr.json", "data/v.ome.zarr/c/0", "secret/d.nii"):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return tmp_path / "data"


def names(walk: Walk, source: str | Path) -> list[str]:
    found = walk.find(source)
    return [path.relative_to(found.root).as_posix() for path in found.files]


def test_folders_are_walked_but_not_hidden_ones_or_archives(tree: Path) -> None:
    (tree / "old").mkdir()
    (tree / "old/archive.json").write_text("{}")
    (tree / "old/c.nii").write_text("x")
    assert names(Walk(), tree) == ["v.ome.zarr", "a.nii", "p1/b.nii"]


def test_a_zarr_folder_counts_as_one_file(tree: Path) -> None:
    for source in (f"{tree}/v*", tree / "v.ome.zarr"):
        assert names(Walk(), source) == ["v.ome.zarr"]


def test_a_file_is_relative_to_its_folder(tree: Path) -> None:
    assert names(Walk(), tree / "p1/b.nii") == ["b.nii"]


def test_patterns_are_relative_to_the_folders_before_the_first_wildcard(tree: Path) -> None:
    found = Walk().find(f"{tree}/p*/*.nii")
    assert found.root == tree
    assert names(Walk(), f"{tree}/p*/*.nii") == ["p1/b.nii"]
    assert names(Walk(), f"{tree}/p*") == ["p1/b.nii"]


def test_exclusions_and_mask_folders_are_left_out(tree: Path) -> None:
    assert names(Walk(exclude=("a*", "*.zarr")), tree) == ["p1/b.nii"]
    assert names(Walk(skip_folders=frozenset({tree / "p1"})), tree) == ["v.ome.zarr", "a.nii"]


def test_links_out_of_the_tree_are_not_followed(tree: Path) -> None:
    (tree / "out.nii").symlink_to(tree.parent / "secret/d.nii")
    (tree / "folder").symlink_to(tree.parent / "secret", target_is_directory=True)
    found = Walk().find(tree)
    assert [path.name for path in found.files] == ["v.ome.zarr", "a.nii", "b.nii"]
    assert "out.nii: skipped, a link that leads out" in found.notes[0]
    assert names(Walk(), f"{tree}/f*/*.nii") == [], "nor by a pattern through a linked folder"


def test_links_inside_the_tree_are_followed(tree: Path) -> None:
    (tree / "again.nii").symlink_to(tree / "p1/b.nii")
    assert names(Walk(), tree) == ["v.ome.zarr", "a.nii", "again.nii", "p1/b.nii"]


def test_nothing_there_is_said(tree: Path) -> None:
    with pytest.raises(SpecError, match="no file, folder or match"):
        Walk().find(tree / "missing")
    with pytest.raises(SpecError, match="no file, folder or match"):
        Walk().find(f"{tree}/nothing/*.nii")
