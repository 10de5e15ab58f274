"""The options that several commands share, said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ArchiveOption = Annotated[
    str | None,
    typer.Option("--archive", "-a", help="Archive: a folder or s3://, gs://, az:// URL."),
]
ArchiveArgument = Annotated[str, typer.Argument(help="Archive: a folder or bucket URL.")]
SpecOption = Annotated[
    Path | None, typer.Option("--spec", help="YAML Spec; `jobs/` holds a ready one for each job.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="Any field of the Spec: `key=value`, `group.key=value`."),
]
VolumesOption = Annotated[
    list[str] | None,
    typer.Option("--volumes", help="Volume ids or patterns such as 'ct_*'; may be repeated."),
]
WhereOption = Annotated[
    str | None,
    typer.Option(
        "--where",
        help="Condition on the Catalog: \"modality = 'CT' and spacing_z <= 3\"; also"
        " has_labels('liver'), id like 'ct%', dtype in ('int16', 'uint16'), not, or.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
LabelsOption = Annotated[str | None, typer.Option("--labels", "-l", help="Name of the Labels.")]
TruthOption = Annotated[str | None, typer.Option("--truth", "-t", help="Labels that are right.")]
ModelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model", "-m", help="Folder of the Bundle, or organ@champion; again: the mean of several."
    ),
]
RegistryOption = Annotated[
    str | None,
    typer.Option("--registry", help="Registry of models; default UNET_BATCH_REGISTRY."),
]
TrustNetworkOption = Annotated[
    bool | None,
    typer.Option(
        "--trust-network",
        help="Let a network of your own (package.module:callable) be imported: it runs as you.",
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option("--ray", help="Ray cluster to join; default RAY_ADDRESS, else one embedded."),
]
OutOption = Annotated[str | None, typer.Option("--out", "-o", help="Where the result goes.")]
MetricsPortOption = Annotated[
    int | None, typer.Option(help="Serve Prometheus metrics on this port (0: any free one).")
]
