"""Quality: Dice by class and model, its distribution and drift, Volumes that stand out."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.vocabulary import (
    JOB,
    MODEL,
    Built,
    bars,
    board,
    density,
    lines,
    number,
    signed_lines,
)

DICE_STEPS = [(0.0, "red"), (0.7, "orange"), (0.85, "green")]
DROP_STEPS = [(-1.0, "red"), (-0.05, "orange"), (-0.02, "green")]


def quality() -> Dashboard:
    """The dashboard that says whether the masks can be trusted."""
    made = board(
        "Quality",
        "unet-batch-quality",
        "Dice where there is a truth, and what stands out where there is none.",
        kinds="segment|evaluate|report",
    )
    for panel in (*_present(), *_over_time(), *_distribution(), *_outliers()):
        made.with_panel(panel)
    return made


def _present() -> list[Built]:
    low, scored = f'unet_batch_dice_bucket{{{JOB},le="0.7"}}', f"unet_batch_dice_count{{{JOB}}}"
    far, checked = f"unet_batch_outlier_volumes{{{JOB}}}", f"unet_batch_checked_volumes{{{JOB}}}"
    return [
        number(
            "Mean Dice",
            "Mean over the classes of the Volumes scored by the jobs chosen.",
            "percentunit",
            (f"avg(unet_batch_dice_mean{{{JOB}}})", "mean Dice"),
            steps=DICE_STEPS,
            width=6,
        ),
        number(
            "Volumes scored",
            "Volumes with a truth, scored so far; ten are enough for the alert to be on.",
            "short",
            (f"max({scored})", "Volumes"),
            steps=[(0, "orange"), (10, "green")],
            width=6,
        ),
        number(
            "Below 0.7",
            "Share of the scores below a Dice of 0.7.",
            "percentunit",
            (f"sum({low}) / sum({scored})", "below 0.7"),
            steps=[(0.1, "orange"), (0.25, "red")],
            width=6,
        ),
        number(
            "Stand out",
            "Share of the Volumes looked at without a truth that stand out from the others.",
            "percentunit",
            (f"sum({far}) / sum({checked})", "stand out"),
            steps=[(0.02, "orange"), (0.1, "red")],
            width=6,
        ),
    ]


def _over_time() -> list[Built]:
    mean = f"unet_batch_dice_mean{{{JOB}}}"
    any_job = f"unet_batch_dice_mean{{{MODEL}}}"  # last week's jobs have other names
    return [
        lines(
            "Dice by class and model",
            "Mean Dice of the Volumes scored, as jobs of each model went.",
            "percentunit",
            (f"avg by (model, class) ({mean})", "{{model}} {{class}}"),
            steps=DICE_STEPS,
            maximum=1,
        ),
        signed_lines(
            "Against the champion",
            "Dice now, less what the model reached on the Volumes held back from its training."
            " The alert fires at -0.05.",
            "percentunit",
            (
                f"avg by (model, class) ({mean} - unet_batch_model_dice{{{JOB}}})",
                "{{model}} {{class}}",
            ),
            steps=DROP_STEPS,
        ),
        signed_lines(
            "Drift",
            "Dice of the last day less that of the week before it: does the same model fare worse"
            " on what arrives now?",
            "percentunit",
            (
                f"avg by (model, class) (avg_over_time({any_job}[1d]))"
                f" - avg by (model, class) (avg_over_time({any_job}[7d] offset 1d))",
                "{{model}} {{class}}",
            ),
            steps=DROP_STEPS,
        ),
    ]


def _distribution() -> list[Built]:
    buckets = f"unet_batch_dice_bucket{{{JOB}}}"
    return [
        density(
            "Distribution of Dice",
            "Scores of each moment by their size: a second band far below the first is a kind of"
            " scan that the model does not know.",
            "percentunit",
            f"sum by (le) (increase({buckets}[$__rate_interval]))",
            width=12,
        ),
        bars(
            "Worst tenth and median",
            "A tenth of the scores lies below the first, half below the second.",
            "percentunit",
            (f"histogram_quantile(0.1, sum by (le, class) ({buckets}))", "worst tenth, {{class}}"),
            (f"histogram_quantile(0.5, sum by (le, class) ({buckets}))", "median, {{class}}"),
            steps=DICE_STEPS,
            width=12,
        ),
    ]


def _outliers() -> list[Built]:
    return [
        bars(
            "Volumes that stand out",
            "Looked at without a truth: class volumes far from the others', classes missing that"
            " most Volumes have. `unet-batch report` shows them first.",
            "short",
            (f"sum by (kind) (unet_batch_outlier_volumes{{{JOB}}})", "{{kind}}"),
            steps=[(1, "orange"), (50, "red")],
            width=12,
        ),
        lines(
            "Scored over time",
            "Volumes scored, by class.",
            "short",
            (f"sum by (class) (unet_batch_dice_count{{{JOB}}})", "{{class}}"),
            width=12,
        ),
    ]
