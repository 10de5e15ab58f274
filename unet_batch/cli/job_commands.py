"""Commands on Jobs that run, or ran, anywhere: what stands with their Archive is all they need."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unet_batch.cli.exits import leave
from unet_batch.cli.options import JsonOption
from unet_batch.cli.printing import print_facts, print_json, print_table

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from unet_batch.planning.specs.base import SpecModel
    from unet_batch.storage.job_folder import JobFolder
    from unet_batch.storage.ledger import LedgerEntry
    from unet_batch.workflows.jobs import FailureGroup, JobView
    from unet_batch.workflows.submit import Submitted

JobArgument = Annotated[
    str, typer.Argument(help="Id of the Job, its beginning, or ARCHIVE/jobs/ID.")
]
ArchiveOfJobsOption = Annotated[
    str | None,
    typer.Option(
        "--archive",
        "-a",
        envvar="UNET_BATCH_ARCHIVE",
        help="Archive of the Job: a folder or bucket URL.",
    ),
]
ServerOption = Annotated[
    str | None,
    typer.Option("--address", help="Ray's job server: http://head:8265; else this machine."),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(help="File with the cluster's token; default RAY_AUTH_TOKEN, ~/.ray/auth_token."),
]
WaitForEndOption = Annotated[
    bool, typer.Option("--wait", help="Wait for the end; the exit status tells it.")
]

STYLES = {
    "done": "green",
    "running": "cyan",
    "failed": "red",
    "lost": "red",
    "incomplete": "red",
    "paused": "yellow",
    "pausing": "yellow",
    "cancelled": "yellow",
    "cancelling": "yellow",
}


def jobs(archive: ArchiveOfJobsOption = None, as_json: JsonOption = False) -> None:
    """List the Jobs of an Archive, the one heard of last first.

    `unet-batch jobs --archive my-archive`
    """
    from unet_batch.errors import SpecError
    from unet_batch.workflows.jobs import all_jobs

    if archive is None:
        raise SpecError("of which Archive? Give --archive URL, or set UNET_BATCH_ARCHIVE")
    found = all_jobs(archive)
    if as_json:
        print_json([one.to_json() for one in found])
        return
    print_table(
        f"{len(found)} Jobs of {archive}",
        ("Job", "state", "done", "quarantined", "left", "last heard of", "wanted by"),
        (
            (
                one.job,
                one.state,
                one.progress.num_done,
                one.progress.outcomes.get("quarantined", 0),
                one.progress.volumes_left,
                _ago(one).removeprefix("heard of "),
                one.wanted_by,
            )
            for one in found
        ),
    )


def status(
    job: JobArgument,
    archive: ArchiveOfJobsOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it live until it ends; then its status.")
    ] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="Show the quarantined Volumes, by cause.")
    ] = False,
    volume: Annotated[
        str | None, typer.Option(help="Show what the Ledger says of this Volume.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how far a Job is, from any machine that reaches its Archive.

    With --watch and --json a line of JSON is printed every few seconds.

    `unet-batch status segment-liver --archive s3://bucket/archive --watch`
    """
    from unet_batch.workflows import jobs as workflow

    folder = workflow.open_job(job, archive)
    if volume is not None:
        _print_account(workflow.account(folder, volume), as_json=as_json)
    elif failed:
        _print_failures(workflow.failures(folder), as_json=as_json)
    elif watch:
        last = _watch(workflow.watch(folder), as_json=as_json)
        leave(is_complete=last.state == "done")
    elif as_json:
        print_json(workflow.view(folder).to_json())
    else:
        _console().print(_drawn(workflow.view(folder)))


def logs(
    job: JobArgument,
    archive: ArchiveOfJobsOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
    address: ServerOption = None,
    token_file: TokenFileOption = None,
) -> None:
    """Print what a Job's driver said.

    All of it where its cluster still runs, or on the machine that ran it; else the last lines,
    which stand with the Archive.
    """
    from unet_batch.errors import ClusterError, NotFoundError
    from unet_batch.workflows import jobs as workflow
    from unet_batch.workflows.ray_jobs import RayJobs, read_token

    folder = workflow.open_job(job, archive)
    sent = workflow.view(folder).submission
    server = address or (sent.address if sent else "")
    if sent and server:
        try:
            cluster = RayJobs(server, token=read_token(token_file))
            texts = cluster.follow(sent.id) if follow else [cluster.log(sent.id)]
            for text in texts:
                sys.stdout.write(text)
        except (ClusterError, NotFoundError) as error:
            sys.stderr.write(f"{error}\nwhat stands with the Archive:\n")
        else:
            return
    if sent and sent.log and Path(sent.log).is_file() and not follow:
        sys.stdout.write(Path(sent.log).read_text(encoding="utf-8", errors="replace"))
        return
    _print_kept_log(folder, follow=follow)


def pause(
    job: JobArgument, archive: ArchiveOfJobsOption = None, as_json: JsonOption = False
) -> None:
    """Have a Job finish the Volumes under way and begin no more; `resume` lets it go on."""
    from unet_batch.workflows import jobs as workflow

    _print_view(workflow.pause(workflow.open_job(job, archive)), as_json=as_json)


def cancel(
    job: JobArgument, archive: ArchiveOfJobsOption = None, as_json: JsonOption = False
) -> None:
    """Have a Job give up what it has not finished. What is published stays."""
    from unet_batch.workflows import jobs as workflow

    _print_view(workflow.cancel(workflow.open_job(job, archive)), as_json=as_json)


def resume(
    job: JobArgument,
    archive: ArchiveOfJobsOption = None,
    address: ServerOption = None,
    token_file: TokenFileOption = None,
    wait: WaitForEndOption = False,
    as_json: JsonOption = False,
) -> None:
    """Let a Job go on that was paused, cancelled, or lost with its machine: on any cluster.

    `unet-batch resume segment-liver -a s3://bucket/archive --address http://new-head:8265`
    """
    from unet_batch.workflows.jobs import open_job, spec_of

    record = open_job(job, archive).record()
    spec = spec_of(record)
    send(record.kind, spec, address, token_file, is_waited_for=wait, as_json=as_json)


def send(
    kind: str,
    spec: SpecModel,
    address: str | None,
    token_file: Path | None,
    *,
    is_waited_for: bool,
    as_json: bool,
) -> None:
    """Submit a Spec, say where to find it, and where asked wait and end as the Job ended."""
    from unet_batch.workflows import submit as workflow
    from unet_batch.workflows.ray_jobs import RayJobs, read_token

    if address is None:
        sent, process = workflow.submit_here(kind, spec)
        _print_submitted(sent, as_json=as_json)
        if is_waited_for and process is not None:
            raise typer.Exit(process.wait())
        return
    cluster = RayJobs(address, token=read_token(token_file))
    sent = workflow.submit_to_ray(kind, spec, cluster)
    _print_submitted(sent, as_json=as_json)
    if is_waited_for and sent.submission:
        ended = workflow.wait_for(cluster, sent.submission, tell=_tell)
        raise typer.Exit(workflow.exit_status(ended))


def _print_submitted(sent: Submitted, *, as_json: bool) -> None:
    if as_json:
        print_json(sent)
        return
    facts = {
        "job": sent.job,
        "archive": sent.archive,
        "submission": sent.submission or "none: it runs elsewhere already",
        "cluster": sent.address,
        "output": sent.log,
        "runs already": "yes" if not sent.is_new else "",
        "note": ""
        if sent.is_noted
        else "the Archive cannot be reached from here; the Job shows there once it has begun",
        "watch it": f"unet-batch status {sent.job} --archive {sent.archive} --watch",
    }
    print_facts({name: value for name, value in facts.items() if value})


def _print_view(view: JobView, *, as_json: bool) -> None:
    if as_json:
        print_json(view.to_json())
    else:
        print_facts({"job": view.job, "state": view.state, "wanted": view.wanted})


def _print_failures(groups: list[FailureGroup], *, as_json: bool) -> None:
    if as_json:
        print_json(groups)
        return
    total = sum(group.count for group in groups)
    print_table(
        f"{total} quarantined Volumes by cause",
        ("cause", "Volumes", "such as", "the first one's reason"),
        (
            (group.cause, group.count, ", ".join(group.volumes[:3]), group.reason)
            for group in groups
        ),
    )


def _print_account(entry: LedgerEntry, *, as_json: bool) -> None:
    if as_json:
        print_json(entry)
        return
    from dataclasses import asdict

    facts = {name.replace("_", " "): value for name, value in asdict(entry).items()}
    print_facts({name: value for name, value in facts.items() if value not in ("", 0)})


def _watch(views: Iterator[JobView], *, as_json: bool) -> JobView:
    """Show each view in place of the one before; the last."""
    if as_json:
        for one in views:
            sys.stdout.write(json.dumps(one.to_json()) + "\n")
            sys.stdout.flush()
        return one
    from rich.live import Live

    with Live(console=_console(), auto_refresh=False) as live:
        for one in views:
            live.update(_drawn(one), refresh=True)
    return one


def _drawn(view: JobView) -> RenderableType:
    """The view of a Job: where it stands, then what its own terminal shows."""
    from rich.console import Group
    from rich.text import Text

    from unet_batch.monitoring.progress import draw

    parts = [
        Text.assemble((view.job, "bold"), "  ", (view.state, STYLES.get(view.state, ""))),
        Text(" · ".join(filter(None, (_ago(view), view.host, view.reason))), style="dim"),
    ]
    if view.wanted_by and view.wanted != "run":
        parts.append(Text(f"asked to {view.wanted} by {view.wanted_by}", style="yellow"))
    return Group(*parts, draw(view.progress)) if view.progress.kind else Group(*parts)


def _print_kept_log(folder: JobFolder, *, follow: bool) -> None:
    from unet_batch.workflows.jobs import watch

    shown = ""
    for _ in watch(folder) if follow else [None]:
        text = folder.log()
        start = text.rfind(shown[-200:]) + len(shown[-200:]) if shown else 0
        sys.stdout.write(text[start:])
        sys.stdout.flush()
        shown = text


def _ago(view: JobView) -> str:
    from unet_batch.monitoring.progress import format_duration

    if view.heard_s is None:
        return "no driver has begun it"
    return f"heard of {format_duration(view.heard_s)} ago"


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120)
