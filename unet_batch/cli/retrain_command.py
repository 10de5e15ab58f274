"""The `retrain` command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unet_batch.cli.options import (
    AddressOption,
    ArchiveOption,
    JsonOption,
    MetricsPortOption,
    RegistryOption,
    SetOption,
    SpecOption,
    TruthOption,
)
from unet_batch.cli.printing import print_facts, print_json, print_table
from unet_batch.errors import SpecError
from unet_batch.planning.specs.retrain import RetrainSpec

if TYPE_CHECKING:
    from unet_batch.workflows.retrain import RetrainSummary


def retrain(
    file: Annotated[
        Path | None, typer.Argument(metavar="SPEC", help="YAML Spec, as `--spec` takes it.")
    ] = None,
    archive: ArchiveOption = None,
    truth: TruthOption = None,
    registry: RegistryOption = None,
    spec: SpecOption = None,
    overrides: SetOption = None,
    metrics_port: MetricsPortOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train on what was labelled since, and promote the result where it is better.

    One run at a time for each model. Exit status 0 where it was promoted, kept or there was
    nothing new; 2 where it failed, with the reason. Run again, it goes on where it was.

    `unet-batch retrain jobs/retrain.yaml`
    """
    from unet_batch.cli.running import job_running

    if file is not None and spec is not None:
        raise SpecError(f"two Specs are given, {file} and --spec {spec}; give one")
    arguments = {"archive": archive, "truth": truth, "registry": registry}
    request = RetrainSpec.load(file or spec, arguments=arguments, overrides=overrides or ())
    with job_running(
        address=address,
        metrics_port=metrics_port,
        quiet=as_json,
        job=("retrain", request),
        wait_s=request.lease.wait_s,
        with_networks=True,
    ) as listen:
        from unet_batch.workflows import retrain as workflow

        summary = workflow.retrain(request, listen=listen)
    if as_json:
        print_json(summary)
        return
    _print(summary)


def _print(summary: RetrainSummary) -> None:
    """The outcome in a line, then what it rests on."""
    print_facts({"outcome": summary.message})
    if summary.challenger_dice:
        print_table(
            "Dice on the held-back Volumes",
            ("class", "champion before", "challenger"),
            [
                (name, summary.champion_dice.get(name), dice)
                for name, dice in summary.challenger_dice.items()
            ],
            numbers=2,
        )
    facts = {
        "champion": summary.champion,
        "trained on": summary.num_trained_on or None,
        "held back": summary.num_held_back or None,
        "report": summary.report,
        "to segment again": summary.outdated and f"{summary.num_outdated}: {summary.outdated}",
        "segmented again": summary.num_resegmented or None,
        "seconds": summary.seconds,
    }
    print_facts({name: value for name, value in facts.items() if value is not None})
