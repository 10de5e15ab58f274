"""TrainingRecord: what a training leaves beside the network, for people and for other tools.

    NAME/
    ├── docs/
    │   ├── README.md       what the model is, what it reached, how to run it
    │   ├── curves.svg      loss, Dice, learning rate and time of a step
    │   ├── curves.csv      the same as numbers
    │   └── scores.csv      of every held-back Volume and class
    └── logs/               TensorBoard's event files, written as the training goes on

and, where the Spec asks for it, a run of MLflow with all of this.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow.csv as pa_csv

from unet_batch.evaluation.scores import Score, scores_table
from unet_batch.evaluation.summary import ScoreSummary, summarise
from unet_batch.models.bundle import BundleConfig
from unet_batch.monitoring.curves import CurveRecorder, Point
from unet_batch.monitoring.events import Event, Listener
from unet_batch.monitoring.mlflow_log import MlflowRun
from unet_batch.monitoring.tensorboard import TensorBoardLog
from unet_batch.planning.specs.train import TrainSpec
from unet_batch.reporting.curves import curves_svg
from unet_batch.reporting.figures import figures_of

Scores = dict[str, float]
Intervals = dict[str, tuple[float, float]]

_CARD = """\
# {name}

{description}. It finds {classes}.

{table}
{note}

![Curves of the training](curves.svg)

| | |
|---|---|
{facts}

## Use

    unet-batch segment --archive ARCHIVE --model {name} --labels prediction

or with MONAI alone, on a folder of NIfTI files:

    python -m monai.bundle run --config_file configs/inference.json --bundle_root . \\
        --dataset_dir SCANS --output_dir MASKS

Research only; not for diagnostic use.
"""


class TrainingRecord:
    """A Listener that passes events on and keeps what is written when the training has ended.

    Enter it before the training: what would hinder it, such as a missing MLflow, is told then.
    """

    def __init__(self, spec: TrainSpec, name: str, *, listen: Listener) -> None:
        self._spec, self._name, self._listen = spec, name, listen
        self._folder = Path(spec.out)
        self._curves = CurveRecorder()
        self._open = ExitStack()
        self._listeners: list[Listener] = [self._curves]
        self._mlflow: MlflowRun | None = None

    def __enter__(self) -> Self:
        tracking = self._spec.tracking
        if tracking.mlflow:
            run = MlflowRun(tracking.mlflow, experiment=tracking.experiment, name=self._name)
            self._mlflow = self._open.enter_context(run)
            self._mlflow.log_parameters(self._spec.model_dump(mode="json"))
            self._listeners.append(self._mlflow)
        if tracking.tensorboard:
            # A training that goes on finds its own files; another's are beside, to compare.
            log = TensorBoardLog(self._folder / "logs" / self._spec.digest())
            self._listeners.append(self._open.enter_context(log))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def __call__(self, event: Event) -> None:
        """Note one event and pass it on."""
        for one in self._listeners:
            one(event)
        self._listen(event)

    def write(
        self,
        config: BundleConfig,
        description: str,
        scores: Sequence[Score],
        *,
        losses: Sequence[Point],
        dice: Sequence[Point],
    ) -> None:
        """Write `docs/` of the Bundle; `losses` and `dice` are what an earlier run remembers."""
        curves = self._curves.curves(losses, dice)
        title = f"{self._name}: {config.network_name}, {max(dict(losses), default=0):,} steps"
        table = io.BytesIO()
        pa_csv.write_csv(scores_table(scores), table)
        card = model_card(config, description, summarise_scores(scores, self._spec))
        docs = self._folder / "docs"
        docs.mkdir(parents=True, exist_ok=True)
        (docs / "curves.svg").write_text(curves_svg(title, curves.named()), encoding="utf-8")
        (docs / "curves.csv").write_text(curves.csv(), encoding="utf-8")
        (docs / "scores.csv").write_bytes(table.getvalue())
        (docs / "README.md").write_text(card, encoding="utf-8")
        if self._mlflow:
            self._mlflow.log_result(config.scores, max(dict(losses), default=0), docs)


def summarise_scores(scores: Sequence[Score], spec: TrainSpec) -> ScoreSummary:
    """The summary of held-back Volumes, as the Spec's `scoring` says."""
    return summarise(scores, metrics=spec.scoring.metrics, bootstrap=spec.scoring.bootstrap)


def named_scores(summary: ScoreSummary) -> tuple[Scores, Intervals]:
    """Means and their intervals under names such as `mean_dice` and `dice.liver`.

    What is unknown, such as a class that no held-back Volume holds, is left out.
    """
    named = {f"mean_{column}": one for column, one in summary.overall.items()}
    means = {name: (one.mean, one.interval) for name, one in named.items()}
    for one in summary.classes:
        for column, metric in one.metrics.items():
            means[f"{column}.{one.class_name}"] = (metric.mean, metric.interval)
    scores = {name: mean for name, (mean, _) in means.items() if mean is not None}
    intervals = {name: both for name, (_, both) in means.items() if both is not None}
    return scores, intervals


def model_card(config: BundleConfig, description: str, summary: ScoreSummary) -> str:
    """What a person should know of the model, as Markdown."""
    foreground = [one.name for one in config.classes if one.value]
    return _CARD.format(
        name=config.name,
        description=description,
        classes=", ".join(foreground),
        table=_scores_table(summary, config.train_spec),
        note=_note(config, summary),
        facts="\n".join(f"| {name} | {value} |" for name, value in _facts(config).items()),
    )


def _scores_table(summary: ScoreSummary, spec: Mapping[str, Any]) -> str:
    """A row for each class; nothing where no Volume was held back."""
    if not summary.classes:
        return ""
    figures = figures_of(spec["scoring"]["tolerance_mm"])
    columns = [name for name in figures if name in summary.overall]
    lines = [
        "| class | " + " | ".join(figures[name].heading for name in columns) + " | volumes |",
        "|---|" + "---:|" * (len(columns) + 1),
    ]
    for one in summary.classes:
        cells = []
        for name in columns:
            mean, interval = one.metrics[name].mean, one.metrics[name].interval
            cells.append(f"{figures[name].text(mean)} {_in_brackets(figures[name], interval)}")
        lines.append(f"| {one.class_name} | {' | '.join(cells)} | {one.num_scored} |")
    return "\n".join(lines) + "\n"


def _in_brackets(figure: Any, interval: tuple[float, float] | None) -> str:
    return f"({figure.interval_text(interval)})" if interval else ""


def _note(config: BundleConfig, summary: ScoreSummary) -> str:
    if not summary.classes:
        return "No volume was held back: nothing is known of how good it is."
    confidence = config.train_spec["scoring"]["bootstrap"]["confidence"]
    return (
        "Means over volumes held back from training, whole scans on their own grid; in brackets"
        f" the {confidence:.0%} interval, by drawing volumes again and again."
    )


def _facts(config: BundleConfig) -> dict[str, str]:
    spacing = " x ".join(f"{mm:.3g}" for mm in config.spacing_mm)
    intensity = config.intensity.model_dump(mode="json", exclude_defaults=True) or {
        "mode": config.intensity.mode
    }
    return {
        "network": f"{config.network_name} ({config.spatial_dims}-D)",
        "channels": ", ".join(config.channels),
        "trained on": f"{len(config.data_hashes)} volumes, median spacing {spacing} mm (z, y, x)",
        "intensities": ", ".join(f"{key} {value}" for key, value in intensity.items()),
        "tile": " x ".join(map(str, config.roi)),
        "all fields": "`configs/unet_batch.json`: the whole Spec, and the hash of each volume",
    }
