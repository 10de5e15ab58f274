"""Commands that move scans and masks: into an Archive, out of it, and what is there."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from unet_batch.cli.exits import leave
from unet_batch.cli.options import (
    AddressOption,
    ArchiveArgument,
    ArchiveOption,
    JsonOption,
    LabelsOption,
    OutOption,
    SetOption,
    SpecOption,
    VolumesOption,
    WhereOption,
)
from unet_batch.cli.printing import (
    print_facts,
    print_json,
    print_json_list,
    print_lines,
    print_reasons,
    print_table,
    print_warnings,
)
from unet_batch.errors import SpecError
from unet_batch.planning.specs.export import ExportSpec
from unet_batch.planning.specs.ingest import IngestSpec

if TYPE_CHECKING:
    from unet_batch.storage.archive import Archive


def ingest(
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="Files, folders, URLs of buckets, or quoted patterns of scans."),
    ] = None,
    archive: ArchiveOption = None,
    truth: Annotated[
        list[str] | None,
        typer.Option("--truth", "-t", help="Masks: `NAME=DIR`, files named as their scans."),
    ] = None,
    keep_identifiers: Annotated[
        bool | None,
        typer.Option("--keep-identifiers", help="Keep names, IDs and dates of DICOM headers."),
    ] = None,
    copy: Annotated[
        bool | None,
        typer.Option("--copy", help="Copy the voxels of OME-Zarr; else they stay where they lie."),
    ] = None,
    spec: SpecOption = None,
    overrides: SetOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn scans into Volumes of an Archive.

    Folders, and buckets (s3://, gs://, az://), are searched for DICOM series (also in zips),
    NIfTI, NRRD, MetaImage, TIFF, PNG and OME-Zarr, which is taken in place. A mask with the
    file name of a scan becomes its Labels NAME; it may also be a DICOM SEG or RTSTRUCT. What
    cannot be read is named, and the others go on.

    `unet-batch ingest scans/ --archive my-archive --truth reference=masks/`
    """
    from unet_batch.cli.running import job_running
    from unet_batch.workflows import ingest as workflow

    arguments = {
        "sources": sources or None,
        "archive": archive,
        "truth": _pairs(truth),
        "keep_identifiers": keep_identifiers,
        "copy_ome_zarr": copy,
    }
    request = IngestSpec.load(spec, arguments=arguments, overrides=overrides or ())
    with job_running(address=address, quiet=as_json, job=("ingest", request)) as listen:
        summary = workflow.ingest(request, listen=listen)
    if as_json:
        print_json(summary)
    else:
        print_facts(
            {
                "archive": summary.archive,
                "ingested": len(summary.done),
                "there already": len(summary.skipped),
                "quarantined": len(summary.quarantined),
                "seconds": summary.seconds,
            }
        )
        print_warnings(summary.warnings)
        print_lines("left out", summary.notes)
    print_reasons("quarantined", summary.quarantined)
    leave(is_complete=len(summary.quarantined) <= request.allow_quarantined)


def list_volumes(
    archive: ArchiveArgument,
    volumes: VolumesOption = None,
    where: WhereOption = None,
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="List scans that could not be used, and why.")
    ] = False,
    limit: Annotated[int, typer.Option(help="Volumes to print as a table; 0: all.", min=0)] = 200,
    as_json: JsonOption = False,
) -> None:
    """List the Volumes of an Archive: shape, spacing, channels, labels.

    `unet-batch ls my-archive --where "modality = 'CT' and spacing_z <= 3"`
    """
    from unet_batch.storage.archive import open_archive

    opened = open_archive(archive)
    patterns = volumes or ("*",)
    opened.check_patterns(patterns)
    if quarantined:
        _list_quarantined(opened, as_json=as_json)
        return
    if as_json:
        ids = opened.catalog.ids(patterns, where)
        print_json_list(opened.info(volume_id) for volume_id in ids)
        return
    number = len(opened.catalog.table((), patterns, where))
    rows = islice(opened.catalog.briefs(patterns, where), limit or None)
    print_table(
        f"{number:,} Volumes in {opened.url}",
        ("Volume", "modality", "shape (z, y, x)", "spacing (mm)", "type", "channels", "labels"),
        (
            (
                row.id,
                row.modality,
                " x ".join(map(str, row.shape_zyx)),
                " x ".join(f"{mm:.3g}" for mm in row.spacing_mm),
                row.dtype,
                ", ".join(row.channels),
                ", ".join(sorted(opened[row.id].labels)),
            )
            for row in rows
        ),
    )
    if limit and number > limit:
        print_lines("not shown", [f"{number - limit:,} more; --limit 0 shows all"])


def _list_quarantined(archive: Archive, *, as_json: bool) -> None:
    entries = archive.quarantine.entries()
    if as_json:
        print_json(entries)
        return
    print_table(
        f"{len(entries)} quarantined scans of {archive.url}",
        ("scan", "since", "reason"),
        ((entry.id, entry.at, entry.reason) for entry in entries),
    )


def export(
    archive: ArchiveOption = None,
    labels: LabelsOption = None,
    image: Annotated[
        bool | None, typer.Option("--image", help="Export the scans instead of Labels.")
    ] = None,
    file_format: Annotated[
        str | None, typer.Option("--format", help="nifti, nrrd or dicom-seg (Labels only).")
    ] = None,
    volumes: VolumesOption = None,
    where: WhereOption = None,
    out: OutOption = None,
    spec: SpecOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write Labels, or the scans, as files on the scan's own grid; and volumes.csv, in mL.

    `unet-batch export --archive my-archive --labels prediction --format dicom-seg --out masks`
    """
    from unet_batch.cli.running import job_running
    from unet_batch.workflows import export as workflow

    arguments = {
        "archive": archive,
        "labels": labels,
        "image": image,
        "format": file_format,
        "volumes": volumes,
        "where": where,
        "out": out,
    }
    request = ExportSpec.load(spec, arguments=arguments, overrides=overrides or ())
    with job_running(quiet=as_json, job=("export", request)) as listen:
        summary = workflow.export(request, listen=listen)
    if as_json:
        print_json(summary)
    else:
        print_facts({"written": len(summary.done), "to": summary.out, "seconds": summary.seconds})
    print_reasons("failed", summary.failed)
    print_reasons("without these Labels", dict.fromkeys(summary.missing, "not published"))
    leave(is_complete=not summary.failed and not summary.missing)


def _pairs(texts: Iterable[str] | None) -> dict[str, str] | None:
    """`NAME=DIR` as a mapping; None where nothing was given."""
    if not texts:
        return None
    pairs = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise SpecError(f"--truth {text!r}: expected NAME=DIR, e.g. reference=masks/")
        pairs[name] = value
    return pairs
