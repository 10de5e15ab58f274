"""The `soak` command: a segment Job hurt at random, and what became of it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unet_batch.cli.exits import leave
from unet_batch.cli.options import JsonOption, SetOption
from unet_batch.cli.printing import print_facts, print_json
from unet_batch.planning.specs.segment import SegmentSpec

if TYPE_CHECKING:
    from unet_batch.workflows.soak import SoakSummary

SpecArgument = Annotated[
    Path | None, typer.Argument(help="YAML Spec of a segment Job; without one, a made one.")
]
MinutesOption = Annotated[float, typer.Option(help="How long it is hurt.", min=0.05)]
SeedOption = Annotated[int, typer.Option(help="Of the plan of kills.")]
NodesOption = Annotated[int, typer.Option(help="Ray nodes on this machine.", min=1)]
PauseOption = Annotated[float, typer.Option(help="Mean seconds between kills.", min=0.1)]


def soak(
    spec: SpecArgument = None,
    minutes: MinutesOption = 5.0,
    seed: SeedOption = 0,
    nodes: NodesOption = 2,
    pause: PauseOption = 4.0,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Kill Replicas, workers, drivers and nodes at random while a Job runs, and compare the end.

    A Ray cluster of its own is started on this machine; only what belongs to it is killed. The
    Labels are made under a name of their own and removed. Exit status 1: something differs
    from the undisturbed run, was lost, or was done twice.

    `unet-batch soak --minutes 5`
    """
    from unet_batch.workflows import soak as workflow
    from unet_batch.workflows.soak_job import make_job

    with tempfile.TemporaryDirectory(prefix="unet-batch-soak-") as folder:
        if spec is None:
            request = make_job(Path(folder))
        else:
            request = SegmentSpec.load(spec, overrides=overrides or ())
        summary = workflow.soak(
            request, minutes=minutes, seed=seed, num_nodes=nodes, mean_pause_s=pause
        )
    if as_json:
        print_json(summary)
    else:
        print_facts(_facts(summary))
    leave(is_complete=summary.is_sound)


def _facts(summary: SoakSummary) -> dict[str, object]:
    kinds = ", ".join(f"{kind} {number}" for kind, number in sorted(summary.kills.items()))
    times = ", ".join(f"{seconds:.0f}" for seconds in summary.round_s)
    return {
        "kills": f"{sum(summary.kills.values())} ({kinds}), seed {summary.seed}",
        "rounds": f"{summary.rounds} of {summary.undisturbed_s:.0f} s undisturbed; took {times} s",
        "volumes done": summary.volumes_done,
        "tiles again": f"{summary.tiles_again} of {summary.tiles_planned}",
        "labels equal": "all" if not summary.differing else f"not {_names(summary.differing)}",
        "lost": _names(summary.lost),
        "done twice": _names(summary.twice),
        "quarantined": _names(tuple(summary.quarantined)),
    }


def _names(volume_ids: tuple[str, ...]) -> str:
    return ", ".join(volume_ids) if volume_ids else "none"
