"""Commands on an Archive's Catalog: make it again, make it small."""

from __future__ import annotations

import typer

from unet_batch.cli.options import ArchiveArgument
from unet_batch.cli.printing import print_facts

catalog = typer.Typer(
    name="catalog",
    help="Make the Catalog of an Archive again, or join its parts.",
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
