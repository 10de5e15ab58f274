"""The `unet-batch` command: its commands, and how an error of ours ends it.

Workflows are imported by the command that calls them, so that `--help` answers at once.
"""

from __future__ import annotations

import gc
import sys

import typer

from unet_batch.cli import archive_commands, job_commands, model_commands
from unet_batch.cli.catalog_commands import catalog
from unet_batch.cli.demo_command import demo
from unet_batch.cli.exits import Exit
from unet_batch.cli.models_commands import models
from unet_batch.cli.retrain_command import retrain
from unet_batch.cli.soak_command import soak
from unet_batch.cli.submit_command import submit
from unet_batch.errors import UnetBatchError

app = typer.Typer(
    name="unet-batch",
    help="Segment whole archives of medical scans with a MONAI U-Net on Ray.\n\n"
    "Begin with `unet-batch demo`. On your own scans: `ingest`, `train`, `segment`,"
    " `evaluate`, `report`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command()(demo)
app.command()(archive_commands.ingest)
app.command("ls")(archive_commands.list_volumes)
app.command()(model_commands.train)
app.command()(model_commands.bench)
app.command("plan")(model_commands.plan_job)
app.command()(retrain)
app.command()(model_commands.segment)
app.command()(model_commands.evaluate)
app.command()(model_commands.report)
app.command()(archive_commands.export)
app.command()(submit)
app.command()(soak)
app.command()(job_commands.jobs)
app.command()(job_commands.status)
app.command()(job_commands.logs)
app.command()(job_commands.pause)
app.command()(job_commands.cancel)
app.command()(job_commands.resume)
app.add_typer(models)
app.add_typer(catalog)


def main() -> None:
    """Run the command line; an error of ours is one message and exit status 2."""
    try:
        app()
    except UnetBatchError as error:
        sys.stderr.write(f"unet-batch: {error}\n")
        sys.exit(Exit.REFUSED)
    finally:
        gc.freeze()  # else, to end, Python looks through all of torch and MONAI for a second
