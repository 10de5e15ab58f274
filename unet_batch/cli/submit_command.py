"""The `submit` command: a Spec goes to Ray, here or there, or to Kubernetes."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from pydantic import ConfigDict

from unet_batch.cli.exits import leave
from unet_batch.cli.job_commands import ServerOption, TokenFileOption, send
from unet_batch.cli.options import JsonOption, SetOption
from unet_batch.cli.printing import print_facts, print_json
from unet_batch.errors import SpecError
from unet_batch.kubernetes.rayjob import KINDS, Submission
from unet_batch.planning.specs.base import SpecModel
from unet_batch.planning.specs.evaluate import EvaluateSpec
from unet_batch.planning.specs.kinds import job_id, kept_fields, load_any
from unet_batch.planning.specs.retrain import RetrainSpec
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.planning.specs.train import TrainSpec
from unet_batch.storage.job_folder import note_job

if TYPE_CHECKING:
    from unet_batch.kubernetes.client import KubernetesClient
    from unet_batch.workflows.submit_kubernetes import RayJobSummary

CHECKED_HERE: Mapping[str, type[SpecModel]] = {
    "segment": SegmentSpec,
    "train": TrainSpec,
    "evaluate": EvaluateSpec,
    "retrain": RetrainSpec,
}
"""Specs whose mistakes are found before a cluster is started for them."""


SpecArgument = Annotated[Path, typer.Argument(help="YAML Spec, as in `jobs/`.")]
KubernetesOption = Annotated[
    bool, typer.Option("--kubernetes", help="As a RayJob: a cluster that ends with the job.")
]
KindOption = Annotated[
    str | None,
    typer.Option(help="What the Spec is for: segment, train, ...; default: what its fields fit."),
]
NameOption = Annotated[
    str | None,
    typer.Option(help="Of the RayJob. The same name and Spec finds what runs already."),
]
NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Default: the kubeconfig's.")
]
TemplateOption = Annotated[str, typer.Option(help="ConfigMap of the chart: RELEASE-rayjob.")]
WaitOption = Annotated[
    bool, typer.Option("--wait", help="Wait for the end; the exit status tells it.")
]
TimeoutOption = Annotated[
    int | None,
    typer.Option(help="Seconds the job may take; default: the chart's deadline.", min=60),
]
RestartsOption = Annotated[
    int, typer.Option(help="Times to start over where KubeRay misses a lost head.", min=0)
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Ask whether the cluster would take it; make nothing.")
]


def submit(
    spec: SpecArgument,
    kubernetes: KubernetesOption = False,
    address: ServerOption = None,
    token_file: TokenFileOption = None,
    kind: KindOption = None,
    name: NameOption = None,
    namespace: NamespaceOption = None,
    template: TemplateOption = "unet-batch-rayjob",
    wait: WaitOption = False,
    timeout: TimeoutOption = None,
    restarts: RestartsOption = 1,
    dry_run: DryRunOption = False,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a Spec somewhere else: on a Ray cluster, on Kubernetes, or behind this terminal.

    With --address on the Ray cluster whose job server that is; with --kubernetes as a RayJob,
    where the chart helm/unet-batch is installed; with neither on a Ray of its own here, in a
    process that outlives the terminal. The same Spec is the same Job: what runs already is found.
    `status`, `logs`, `pause`, `cancel` and `resume` work from any machine.

    Exit status: 0 it succeeded (or was taken, without --wait), 1 it failed, left Volumes undone,
    took too long or was deleted, 2 it was refused.

    `unet-batch submit jobs/segment.yaml --address http://head:8265 --wait`
    """
    if kubernetes and address is not None:
        raise SpecError("--kubernetes or --address: a Job goes to one of them")
    if not kubernetes:
        loaded, checked = load_any(spec, kind=kind, overrides=overrides or ())
        send(loaded, checked, address, token_file, is_waited_for=wait, as_json=as_json)
        return
    kind = kind or load_any(spec, overrides=overrides or ())[0]
    from unet_batch.cli.running import metrics_served
    from unet_batch.monitoring.progress import JobConsole
    from unet_batch.workflows.submit_kubernetes import RayJobSubmitter, Waiting

    submission = _submission(spec, kind, name, template, overrides or ())
    submission = replace(submission, deadline_s=timeout)
    if not dry_run:
        _want_to_run(kind, spec, overrides or ())
    console = JobConsole(stderr=True, quiet=as_json)
    with metrics_served(console) as listen:
        submitter = RayJobSubmitter(
            _client(namespace),
            submission,
            template,
            listen=listen,
            tell=lambda line: console.print(line, markup=False, highlight=False),
        )
        if dry_run:
            summary = submitter.check()
        elif wait:
            summary = submitter.run(Waiting.after(timeout, restarts=restarts))
        else:
            summary = submitter.start()
    _report(summary, as_json=as_json)
    leave(is_complete=summary.outcome in (None, "succeeded"))


def _want_to_run(kind: str, path: Path, overrides: Sequence[str]) -> None:
    """Let a Job go on that was paused: its drivers on Kubernetes may be restarts, and obey.

    Paths are the cluster's own and mean nothing here; addresses do.
    """
    _, spec = load_any(path, kind=kind, overrides=overrides)
    archive = str(spec.model_dump()["archive"])
    if "://" in archive:
        note_job(archive, job_id(kind, spec), kind, kept_fields(kind, spec))


def _client(namespace: str | None) -> KubernetesClient:
    try:
        from unet_batch.kubernetes.client import connect
    except ModuleNotFoundError as error:
        raise SpecError(
            f"{error}; --kubernetes needs: pip install 'unet-batch[kubernetes]'"
        ) from error
    return connect(namespace)


def _submission(
    path: Path, kind: str, name: str | None, template: str, overrides: Sequence[str]
) -> Submission:
    """The Spec, checked where its kind is known here, with the name it goes by."""
    if kind not in KINDS:
        raise SpecError(f"--kind {kind!r}: expected one of {', '.join(KINDS)}")
    checked = CHECKED_HERE.get(kind, _AnySpec).load(path, overrides=overrides)
    text = yaml.safe_dump(checked.model_dump(mode="json"), sort_keys=False)
    release = template.removesuffix("-rayjob")
    return Submission(name or f"{release}-{kind}-{secrets.token_hex(3)}", kind, text)


class _AnySpec(SpecModel):
    """A Spec that only the command on the cluster can check."""

    model_config = ConfigDict(extra="allow")


def _report(summary: RayJobSummary, *, as_json: bool) -> None:
    if as_json:
        print_json(summary)
        return
    facts = {
        "RayJob": f"{summary.namespace}/{summary.name}",
        "outcome": summary.outcome or "not waited for",
        "attempts": summary.attempts,
        "KubeRay says": summary.status,
        "Ray says": summary.message,
    }
    print_facts({name: value for name, value in facts.items() if value})
