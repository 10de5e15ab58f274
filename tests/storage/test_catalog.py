"""The Catalog lists every Volume once, whoever writes to it, and can be made again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from unet_batch.errors import NotFoundError, StoreError
from unet_batch.formats.scan import Mask, Scan
from unet_batch.planning.volume_info import LabelClass
from unet_batch.storage import catalog as catalog_module
from unet_batch.storage.archive import Archive, open_archive
from unet_batch.storage.catalog import Catalog
from unet_batch.storage.stores import open_store


def parts(archive: Archive) -> list[str]:
    return open_store(archive.url).list_objects("catalog")


def test_rows_are_what_was_ingested_sorted_by_id(
    archive: Archive, make_scan: Callable[..., Scan]
) -> None:
    infos = [archive.write_scan(make_scan(name, seed=i), source={}) for i, name in enumerate("cab")]
    assert open_archive(archive.url).catalog.rows() == sorted(infos, key=lambda info: info.id)


def test_the_latest_row_of_an_id_wins(archive: Archive, make_scan: Callable[..., Scan]) -> None:
    info = archive.write_scan(make_scan(), source={})
    archive.catalog.append([replace(info, labels=("liver",))])
    assert [row.labels for row in archive.catalog.rows()] == [("liver",)]
    archive.catalog.compact()
    assert [row.labels for row in Catalog(open_store(archive.url)).rows()] == [("liver",)]


def test_the_same_rows_again_add_nothing(archive: Archive, make_scan: Callable[..., Scan]) -> None:
    info = archive.write_scan(make_scan(), source={})
    archive.catalog.append([info])
    archive.catalog.append([])
    assert len(parts(archive)) == 1


def test_concurrent_ingests_lose_no_row(archive: Archive, make_scan: Callable[..., Scan]) -> None:
    info = archive.write_scan(make_scan("a"), source={})

    def append(number: int) -> None:
        Catalog(open_store(archive.url)).append([replace(info, id=f"v{number}")])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(append, range(16)))
    assert len(archive.catalog.rows()) == 17


def test_compacting_leaves_one_part_with_the_same_rows(
    archive: Archive, make_scan: Callable[..., Scan]
) -> None:
    for name in "abc":
        archive.write_scan(make_scan(name), source={})
    before = archive.catalog.rows()
    archive.catalog.compact()
    archive.catalog.compact()
    assert len(parts(archive)) == 1
    assert archive.catalog.rows() == Catalog(open_store(archive.url)).rows() == before


def test_a_rebuilt_catalog_is_the_same_and_knows_the_labels(
    archive: Archive, make_scan: Callable[..., Scan]
) -> None:
    for seed, name in enumerate("ab"):
        archive.write_scan(make_scan(name, seed=seed), source={})
    before = archive.catalog.rows()
    open_store(archive.url).delete_folder("catalog")
    assert archive.catalog.rows() == []
    archive.catalog.rebuild()
    assert archive.catalog.rows() == before


def test_a_rebuild_forgets_volumes_that_are_gone_or_not_whole(
    local_archive: Archive, make_scan: Callable[..., Scan]
) -> None:
    for name in "abc":
        local_archive.write_scan(make_scan(name), source={})
    volumes = Path(local_archive.url) / "volumes"
    (volumes / "b" / "zarr.json").unlink()
    local_archive.catalog.rebuild()
    assert list(local_archive) == ["a", "c"]


def test_a_rebuild_names_damaged_volumes_and_lists_the_others(
    local_archive: Archive, make_scan: Callable[..., Scan]
) -> None:
    for name in "ab":
        local_archive.write_scan(make_scan(name), source={})
    (Path(local_archive.url) / "volumes" / "b" / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match=r"1 Volumes? .*volumes/b/zarr.json is damaged"):
        local_archive.catalog.rebuild()
    assert list(local_archive) == ["a"]


def test_a_reader_survives_a_compaction_under_its_hands(
    local_archive: Archive, make_scan: Callable[..., Scan], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        local_archive.write_scan(make_scan(name), source={})
    reader = Catalog(open_store(local_archive.url))
    listed = reader._part_paths()
    local_archive.catalog.compact()
    answers = iter([listed])
    current = Catalog._part_paths
    monkeypatch.setattr(Catalog, "_part_paths", lambda self: next(answers, None) or current(self))
    assert [row.id for row in reader.rows()] == ["a", "b", "c"]


def test_parts_that_keep_vanishing_are_reported(
    local_archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Catalog, "_part_paths", lambda self: ["catalog/gone.parquet"])
    with pytest.raises(StoreError, match="changed during each of"):
        local_archive.catalog.rows()


def test_a_damaged_part_says_how_to_mend_it(
    local_archive: Archive, make_scan: Callable[..., Scan]
) -> None:
    local_archive.write_scan(make_scan(), source={})
    (part,) = (Path(local_archive.url) / "catalog").glob("*.parquet")
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(StoreError, match="catalog rebuild"):
        Catalog(open_store(local_archive.url)).rows()


def test_parts_have_columns_to_query(
    local_archive: Archive, make_scan: Callable[..., Scan]
) -> None:
    info = local_archive.write_scan(make_scan(), source={})
    (row,) = pq.read_table(Path(local_archive.url) / parts(local_archive)[0]).to_pylist()
    assert (row["id"], row["modality"], row["shape_z"]) == ("ct-1", "CT", 5)
    assert row["spacing_z"] == info.spacing_mm[0]


def test_an_unpublished_volume_is_not_found(archive: Archive) -> None:
    with pytest.raises(NotFoundError, match="no Volume 'x'"):
        archive.info("x")


def test_a_condition_and_patterns_choose_rows(
    archive: Archive, make_scan: Callable[..., Scan]
) -> None:
    thick = archive.write_scan(make_scan("ct-1"), source={})
    thin = replace(thick, id="ct-2", spacing_mm=(1.0, 1.0, 1.0))
    archive.catalog.append([thin, replace(thin, id="mr-1", modality="MR")])
    assert archive.select(["*"], "spacing_z <= 2") == archive.select(["ct-2", "mr-1"])
    assert [row.id for row in archive.select(["ct*"], "spacing_z <= 2")] == ["ct-2"]
    assert archive.catalog.ids(where="modality = 'PT'") == []


def test_a_condition_looks_at_the_latest_row_only(
    local_archive: Archive, make_scan: Callable[..., Scan]
) -> None:
    info = local_archive.write_scan(make_scan(), source={})
    local_archive.catalog.append([replace(info, modality="MR")])
    assert local_archive.catalog.ids(where="modality = 'CT'") == []


def test_briefs_are_the_rows_in_short(archive: Archive, make_scan: Callable[..., Scan]) -> None:
    info = archive.write_scan(make_scan(shape=(2, 5, 6, 7)), source={})
    archive.catalog.append([replace(info, id="z", labels=("a", "b"))])
    for brief, row in zip(archive.catalog.briefs(), archive.catalog.rows(), strict=True):
        assert all(getattr(row, field) == value for field, value in brief._asdict().items())


def test_compaction_joins_small_parts_and_leaves_large_ones(
    local_archive: Archive, make_scan: Callable[..., Scan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog_module, "MAX_PART_ROWS", 3)
    info = local_archive.write_scan(make_scan("a"), source={})
    for number in range(7):
        local_archive.catalog.append([replace(info, id=f"v{number}")])
        local_archive.catalog.compact()
    assert len(parts(local_archive)) == 3
    assert local_archive.catalog.ids() == ["a", *(f"v{number}" for number in range(7))]


def test_duplicates_are_noted_and_a_rebuild_finds_them_again(
    archive: Archive, make_scan: Callable[..., Scan]
) -> None:
    infos = [archive.write_scan(make_scan(name), source={}) for name in "cab"]
    (noted,) = archive.catalog.with_duplicates_noted(infos[:1])
    assert noted.id == "c"
    assert "the same voxels at the same place as Volume 'a'" in noted.warnings[-1]
    archive.catalog.rebuild()
    assert archive.catalog.ids(where="has_warning('duplicate')") == ["b", "c"]
    assert archive.catalog.rows()[2].warnings == noted.warnings


def test_labels_of_a_job_become_searchable(
    archive: Archive, make_scan: Callable[..., Scan]
) -> None:
    scan = make_scan("a")
    archive.write_scan(scan, source={})
    classes = (LabelClass(0, "background"), LabelClass(1, "liver"))
    mask = Mask(np.ones(scan.voxels_czyx.shape[1:], np.uint8), scan.affine, classes)
    archive["a"].write_labels("liver", mask, provenance={})
    assert archive.catalog.ids(where="has_labels('liver')") == []
    archive.catalog.refresh_labels(["a"])
    archive.catalog.refresh_labels([])
    assert archive.catalog.ids(where="has_labels('liver')") == ["a"]


def test_several_processes_ingest_into_one_archive_and_lose_nothing(tmp_path: Path) -> None:
    script = Path(__file__).with_name("concurrent_ingest.py")
    workers = [
        subprocess.Popen([sys.executable, script, str(tmp_path / "archive"), str(number)])
        for number in range(4)
    ]
    assert [worker.wait(timeout=120) for worker in workers] == [0] * 4
    archive = open_archive(tmp_path / "archive")
    expected = sorted([*(f"own-{n}-{k}" for n in range(4) for k in range(5)), "shared"])
    assert archive.catalog.ids() == expected
    assert all(volume.image.shape == (1, 5, 6, 7) for volume in archive.values())
    assert sorted(archive["shared"].labels) == [f"mask-{number}" for number in range(4)]
