"""Commands on a registry of models: look, add, promote, roll back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unet_batch.cli.options import JsonOption, RegistryOption, TrustNetworkOption
from unet_batch.cli.printing import print_facts, print_json, print_table
from unet_batch.planning.model_versions import Move

if TYPE_CHECKING:
    from unet_batch.workflows.models import VersionSummary

models = typer.Typer(
    name="models",
    help="Models of a registry: their versions, and which of them is the champion.\n\n"
    "Jobs name them `model: liver@champion` or `liver@7`; `--registry` or UNET_BATCH_REGISTRY"
    " says where they are.",
    no_args_is_help=True,
)

VersionArgument = Annotated[str, typer.Argument(help="A version: liver@7, liver@champion.")]
WhyOption = Annotated[str, typer.Option("--why", help="Why; kept in the history.")]


@models.command("ls")
def list_models(
    name: Annotated[str | None, typer.Argument(help="One model: list its versions.")] = None,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the models of a registry, or the versions of one."""
    from unet_batch.workflows import models as workflow

    if name is not None:
        versions = workflow.list_versions(name, registry)
        if as_json:
            print_json(versions)
        else:
            _print_versions(name, versions)
        return
    found = workflow.list_models(registry)
    if as_json:
        print_json(found)
        return
    print_table(
        "Models",
        ("model", "champion", "since", "versions", "mean Dice"),
        [
            (one.name, f"{one.name}@{one.champion}" if one.champion else None, one.since,
             one.num_versions, one.mean_dice)
            for one in found
        ],
        numbers=2,
    )  # fmt: skip


@models.command()
def show(
    version: VersionArgument, registry: RegistryOption = None, as_json: JsonOption = False
) -> None:
    """Show a version: where its Bundle is, its scores, and the champion's history."""
    from unet_batch.workflows import models as workflow

    found = workflow.show_version(version, registry)
    if as_json:
        print_json(found)
        return
    one = found.version
    print_facts(
        {
            "version": f"{one} (the champion)" if found.is_champion else str(one),
            "Bundle": found.folder,
            "hash": one.content_hash,
            "added": f"{one.at} by {one.by}" + (f": {one.why}" if one.why else ""),
            "trained on": f"{one.num_trained_on} Volumes",
            "held back": f"{one.num_held_back} Volumes",
            **one.scores,
        }
    )
    if found.decision is not None:
        outcome = "promoted" if found.decision.is_promoted else "refused"
        print_facts({outcome: "; ".join(found.decision.reasons)})
    print_table(
        f"History of {one.name}'s champion",
        ("when", "who", "what", "why", "mean Dice"),
        [
            (move.at, move.by, f"{move.kind} {one.name}@{move.version}", move.why,
             move.scores.get("mean_dice"))
            for move in found.moves
        ],
        numbers=1,
    )  # fmt: skip


@models.command()
def add(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    bundle: Annotated[Path, typer.Argument(help="Folder of a Bundle.")],
    why: WhyOption = "",
    trust_network: TrustNetworkOption = None,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a Bundle that was trained elsewhere the next version of a model.

    `unet-batch models add liver models/liver --registry my-registry`
    """
    from unet_batch.workflows import models as workflow

    version = workflow.add_model(
        name, bundle, registry_url=registry, why=why, trust_network=bool(trust_network)
    )
    if as_json:
        print_json(version)
    else:
        print_facts({"added": str(version), "hash": version.content_hash})


@models.command()
def promote(
    version: VersionArgument,
    why: WhyOption = "",
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a version the champion."""
    from unet_batch.workflows import models as workflow

    move = workflow.promote_model(version, registry_url=registry, why=why)
    _print_move(version.partition("@")[0], move, as_json=as_json)


@models.command()
def rollback(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    why: WhyOption = "",
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the champion before the present one the champion again; again: the one before."""
    from unet_batch.workflows import models as workflow

    move = workflow.roll_back_model(name, registry_url=registry, why=why)
    _print_move(name, move, as_json=as_json)


def _print_move(name: str, move: Move, *, as_json: bool) -> None:
    if as_json:
        print_json(move)
        return
    replaced = f"{name}@{move.replaces}" if move.replaces else None
    print_facts({"champion": f"{name}@{move.version}", "before": replaced})


def _print_versions(name: str, versions: Sequence[VersionSummary]) -> None:
    print_table(
        f"Versions of {name}",
        ("version", "champion", "decision", "added", "by", "why", "mean Dice"),
        [
            (v.version, "yes" if v.is_champion else "", v.decision, v.at, v.by, v.why, v.mean_dice)
            for v in versions
        ],
        numbers=1,
    )
