"""Commands on an Archive's Catalog and folders: make it again, make it small, clean up."""

from __future__ import annotations

from typing import Annotated

import typer

from unet_batch.cli.exits import leave
from unet_batch.cli.options import (
    AddressOption,
    ArchiveArgument,
    JsonOption,
    VolumesOption,
    WhereOption,
)
from unet_batch.cli.printing import print_facts, print_json, print_reasons, print_table

catalog = typer.Typer(
    name="catalog",
    help="Make the Catalog of an Archive again, join its parts, remove what was left behind.",
    no_args_is_help=True,
)


@catalog.command()
def rebuild(archive: ArchiveArgument) -> None:
    """Make the Catalog again from the Volumes themselves.

    For a Catalog that was damaged or lost, and after Volumes were copied or removed by hand.
    """
    from unet_batch.storage.archive import open_archive

    opened = open_archive(archive)
    opened.catalog.rebuild()
    print_facts({"archive": opened.url, "Volumes": len(opened)})


@catalog.command()
def compact(archive: ArchiveArgument) -> None:
    """Join the Catalog's small parts into large ones; ingest does so at its end."""
    from unet_batch.storage.archive import open_archive

    opened = open_archive(archive)
    opened.catalog.compact()
    print_facts({"archive": opened.url, "Volumes": len(opened)})


@catalog.command()
def clean(
    archive: ArchiveArgument,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove what is listed; without it nothing changes.")
    ] = False,
    older_than: Annotated[
        float,
        typer.Option(
            help="Hours since the last write: what is younger may be in the making.", min=0
        ),
    ] = 24.0,
    as_json: JsonOption = False,
) -> None:
    """List what jobs that died left behind: old masks, voxels of no Volume, temporary files.

    `unet-batch catalog clean my-archive --remove`
    """
    from unet_batch.storage.archive import open_archive

    opened = open_archive(archive)
    cleaner = opened.cleaner(grace_s=3600 * older_than)
    found = list(cleaner.find())
    removed = [one for one in found if remove and cleaner.remove(one)]
    if as_json:
        print_json({"found": found, "removed": [one.path for one in removed]})
        return
    if found:
        print_table(
            "left behind",
            ("path", "what", "objects", "MB", "days old"),
            (
                (one.path, one.what, one.num_objects, f"{one.num_bytes / 1e6:.3g}",
                 f"{one.age_s / 86400:.1f}")
                for one in found
            ),
        )  # fmt: skip
    facts = {
        "archive": opened.url,
        "left behind": len(found),
        "MB": sum(one.num_bytes for one in found) / 1e6,
        "removed": len(removed) if remove else "nothing: say --remove",
    }
    print_facts(facts)


@catalog.command()
def pyramids(
    archive: ArchiveArgument,
    volumes: VolumesOption = None,
    where: WhereOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add coarser levels to images and Labels, so that viewers open large ones swiftly.

    `unet-batch catalog pyramids my-archive --where "num_voxels > 100000000"`
    """
    from unet_batch.cli.running import job_running
    from unet_batch.workflows.pyramids import build

    with job_running(address=address, quiet=as_json) as listen:
        summary = build(archive, volumes or ("*",), where, listen=listen)
    if as_json:
        print_json(summary)
    else:
        facts = {"archive": summary.archive, "with levels": len(summary.done),
                 "seconds": summary.seconds}  # fmt: skip
        print_facts(facts)
    print_reasons("failed", summary.failed)
    leave(is_complete=not summary.failed)
