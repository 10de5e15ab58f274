"""The `demo` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unet_batch.cli.options import JsonOption, SetOption, SpecOption
from unet_batch.cli.printing import print_facts, print_json, print_reasons, print_scores


def demo(
    data: Annotated[
        Path | None,
        typer.Option(help="Your own scans: DIR/images and DIR/labels, files of the same names."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for all results.")] = None,
    spec: SpecOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the whole life of a model, on phantom scans or on your own.

    Makes scans (or takes yours), ingests them, trains a small U-Net, segments the Volumes
    held back, scores them, and writes a report with pictures. Needs no GPU and no cluster.
    """
    from unet_batch.cli.running import job_running
    from unet_batch.planning.specs.demo import DemoSpec

    arguments = {"data": data and str(data), "out": out and str(out)}
    request = DemoSpec.load(spec, arguments=arguments, overrides=overrides or ())
    with job_running(quiet=as_json, with_networks=True) as listen:
        from unet_batch.workflows.demo import demo as run_demo

        summary = run_demo(request, listen=listen)
    if as_json:
        print_json(summary)
        return
    print_scores(summary.scores)
    print_facts(
        {
            **{f"seconds, {stage}": taken for stage, taken in summary.seconds.items()},
            "archive": summary.archive,
            "model": summary.bundle,
            "report": summary.report,
        }
    )
    print_reasons("quarantined", summary.quarantined)
