"""Commands around a model: train it, plan and run it over an Archive, score it, show it."""

from __future__ import annotations

from typing import Annotated

import typer

from unet_batch.cli.exits import leave
from unet_batch.cli.options import (
    AddressOption,
    ArchiveOption,
    JsonOption,
    LabelsOption,
    MetricsPortOption,
    ModelOption,
    OutOption,
    RegistryOption,
    SetOption,
    SpecOption,
    TrustNetworkOption,
    TruthOption,
    VolumesOption,
    WhereOption,
)
from unet_batch.cli.printing import (
    print_accounts,
    print_bench,
    print_facts,
    print_json,
    print_plan,
    print_reasons,
    print_scores,
)
from unet_batch.planning.control import Control
from unet_batch.planning.specs.bench import BenchSpec
from unet_batch.planning.specs.evaluate import EvaluateSpec
from unet_batch.planning.specs.report import ReportSpec
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.planning.specs.train import TrainSpec


def train(
    archive: ArchiveOption = None,
    truth: TruthOption = None,
    volumes: VolumesOption = None,
    out: OutOption = None,
    trust_network: TrustNetworkOption = None,
    spec: SpecOption = None,
    overrides: SetOption = None,
    metrics_port: MetricsPortOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a network on the Volumes that have a truth, and write a MONAI Bundle.

    `unet-batch train --archive my-archive --truth reference --out models/liver`
    """
    from unet_batch.cli.running import job_running

    arguments = {
        "archive": archive,
        "truth": truth,
        "volumes": volumes,
        "out": out,
        "trust_network": trust_network,
    }
    request = TrainSpec.load(spec, arguments=arguments, overrides=overrides or ())
    with job_running(
        address=address,
        metrics_port=metrics_port,
        quiet=as_json,
        job=("train", request),
        with_networks=True,
    ) as listen:
        from unet_batch.workflows import train as workflow

        summary = workflow.train(request, listen=listen)
    if as_json:
        print_json(summary)
        return
    print_facts(
        {
            "bundle": summary.bundle,
            "trained on": f"{len(summary.train_volumes)} Volumes",
            "held back": f"{len(summary.held_back_volumes)} Volumes",
            "steps": summary.num_steps,
            "seconds": summary.seconds,
            **summary.scores,
        }
    )


def segment(
    archive: ArchiveOption = None,
    model: ModelOption = None,
    registry: RegistryOption = None,
    labels: LabelsOption = None,
    truth: TruthOption = None,
    volumes: VolumesOption = None,
    where: WhereOption = None,
    trust_network: TrustNetworkOption = None,
    spec: SpecOption = None,
    overrides: SetOption = None,
    metrics_port: MetricsPortOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Segment Volumes with a Bundle and publish the Labels.

    Run again, it does only what is not done. A Volume that fails is quarantined with its
    reason; the others finish, and the exit status is 1.

    `unet-batch segment --archive my-archive --model models/liver --labels liver`
    """
    from unet_batch.cli.running import job_running

    arguments = {
        "archive": archive,
        "model": model,
        "registry": registry,
        "labels": labels,
        "truth": truth,
        "volumes": volumes,
        "where": where,
        "trust_network": trust_network,
        "metrics_port": metrics_port,
    }
    request = SegmentSpec.load(spec, arguments=arguments, overrides=overrides or ())
    control = Control()
    with job_running(
        address=address,
        metrics_port=request.metrics_port,
        metrics_address=request.metrics_address,
        quiet=as_json,
        job=("segment", request),
        control=control,
        with_networks=True,
    ) as listen:
        from unet_batch.workflows import segment as workflow

        summary = workflow.segment(request, listen=listen, control=control)
    if as_json:
        print_json(summary)
    else:
        print_facts(
            {
                "job": summary.job,
                "done": summary.done,
                "there already": summary.skipped,
                "quarantined": len(summary.quarantined),
                **({"cancelled": summary.cancelled} if summary.cancelled else {}),
                **({"left": summary.left} if summary.left else {}),
                "tiles predicted": f"{summary.tiles_predicted} of {summary.tiles_planned} planned",
                **({"tiles skipped": summary.tiles_skipped} if summary.tiles_skipped else {}),
                "engine": summary.engine,
                "seconds": summary.seconds,
                "voxels a second": int(summary.voxels_per_second),
            }
        )
        print_accounts({"predicted": summary.predicted, "actual": summary.actual})
    print_reasons("quarantined", summary.quarantined)
    is_whole = not (summary.cancelled or summary.left)
    leave(is_complete=is_whole and len(summary.quarantined) <= request.allow_quarantined)


def plan_job(
    archive: ArchiveOption = None,
    model: ModelOption = None,
    registry: RegistryOption = None,
    labels: LabelsOption = None,
    truth: TruthOption = None,
    volumes: VolumesOption = None,
    where: WhereOption = None,
    trust_network: TrustNetworkOption = None,
    spec: SpecOption = None,
    overrides: SetOption = None,
    metrics_port: MetricsPortOption = None,
    calibrate: Annotated[
        bool, typer.Option(help="Time a few tiles on this machine to predict the duration.")
    ] = True,
    pace: Annotated[
        float | None,
        typer.Option(help="Seconds a tile of a Replica, where that machine is not this.", min=0),
    ] = None,
    price: Annotated[
        float | None, typer.Option(help="What a Replica costs for an hour, to predict the cost.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what `segment` would do: Volumes, tiles, time, memory, bytes, and what it would cost.

    Nothing is segmented and nothing written. A few tiles are timed on this machine, once for
    each model; `segment` then says at its end by how much the prediction missed.

    `unet-batch plan --spec jobs/segment.yaml --price 2.5`
    """
    from unet_batch.workflows import plan as workflow

    arguments = {
        "archive": archive,
        "model": model,
        "registry": registry,
        "labels": labels,
        "truth": truth,
        "volumes": volumes,
        "where": where,
        "trust_network": trust_network,
        "metrics_port": metrics_port,
        "resources.price_per_hour": price,
    }
    request = SegmentSpec.load(spec, arguments=arguments, overrides=overrides or ())
    summary = workflow.plan(
        request,
        num_replicas=request.resources.most_replicas or 1,
        calibrate=calibrate,
        seconds_per_tile=pace,
    )
    if as_json:
        print_json(summary)
    else:
        print_plan(summary)
    print_reasons("would be quarantined", summary.refused)
    leave(is_complete=len(summary.refused) <= request.allow_quarantined)


def evaluate(
    archive: ArchiveOption = None,
    labels: LabelsOption = None,
    truth: TruthOption = None,
    volumes: VolumesOption = None,
    where: WhereOption = None,
    out: OutOption = None,
    spec: SpecOption = None,
    overrides: SetOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score Labels against a truth; without one, say which masks stand out.

    Dice, HD95, surface Dice and error of volume for each class, with intervals; the scores of
    every Volume are in a Parquet or CSV file.

    `unet-batch evaluate --archive my-archive --labels prediction --truth reference`
    """
    from unet_batch.cli.running import job_running
    from unet_batch.workflows import evaluate as workflow

    arguments = {
        "archive": archive,
        "labels": labels,
        "truth": truth,
        "volumes": volumes,
        "where": where,
        "out": out,
    }
    request = EvaluateSpec.load(spec, arguments=arguments, overrides=overrides or ())
    with job_running(address=address, quiet=as_json, job=("evaluate", request)) as listen:
        summary = workflow.evaluate(request, listen=listen)
    if as_json:
        print_json(summary)
    else:
        print_scores(summary)
    print_reasons("could not be scored", summary.failed)
    leave(is_complete=not summary.failed)


def report(
    archive: ArchiveOption = None,
    labels: LabelsOption = None,
    truth: TruthOption = None,
    volumes: VolumesOption = None,
    where: WhereOption = None,
    out: OutOption = None,
    spec: SpecOption = None,
    overrides: SetOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every Volume with its mask in one HTML file, the worst first."""
    from unet_batch.cli.running import job_running
    from unet_batch.workflows import report as workflow

    arguments = {
        "archive": archive,
        "labels": labels,
        "truth": truth,
        "volumes": volumes,
        "where": where,
        "out": out,
    }
    request = ReportSpec.load(spec, arguments=arguments, overrides=overrides or ())
    with job_running(address=address, quiet=as_json, job=("report", request)) as listen:
        summary = workflow.report(request, listen=listen)
    if as_json:
        print_json(summary)
    else:
        print_facts({"report": summary.path, "Volumes": summary.num_volumes})
    print_reasons("left out", summary.left_out)
    leave(is_complete=not summary.left_out)


def bench(
    only: Annotated[
        list[str] | None, typer.Option("--case", help="Run only this case; may be repeated.")
    ] = None,
    out: OutOption = None,
    spec: SpecOption = None,
    overrides: SetOption = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure this machine: the bare network, our Job, and MONAI's loop.

    Random weights and noise: what counts are the ratios. All cases take a good while; try
    `unet-batch bench --case one-256-2` first.
    """
    from unet_batch.cli.running import job_running
    from unet_batch.workflows import bench as workflow

    arguments = {"only": only, "out": out}
    request = BenchSpec.load(spec, arguments=arguments, overrides=overrides or ())
    with job_running(address=address, quiet=as_json):
        summary = workflow.bench(request)
    if as_json:
        print_json(summary)
    else:
        print_bench(summary)
