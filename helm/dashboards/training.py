"""Training: loss, Dice, learning rate, step time, data wait; champion against challenger."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.quality import DICE_STEPS, DROP_STEPS
from dashboards.vocabulary import JOB, Built, bars, board, lines, number, signed_lines

RATE = "[$__rate_interval]"
DAYS = [(26 * 3600.0, "orange"), (50 * 3600.0, "red")]


def training() -> Dashboard:
    """The dashboard of trainings, and of the nightly ones' decisions."""
    made = board(
        "Training",
        "unet-batch-training",
        "How trainings go, and what the nightly retraining decided.",
        kinds="train|retrain",
    )
    for panel in (*_present(), *_decisions(), *_learning(), *_speed(), *_challenge()):
        made.with_panel(panel)
    return made


def _present() -> list[Built]:
    return [
        number(
            "Progress",
            "Optimiser steps taken of those planned.",
            "percentunit",
            (
                f"unet_batch_train_steps_total{{{JOB}}} / unet_batch_train_steps_planned{{{JOB}}}",
                "{{job}}",
            ),
            steps=[(0, "blue"), (1, "green")],
            width=6,
        ),
        number(
            "Validation Dice",
            "Mean Dice on the Volumes held back, at the last validation.",
            "percentunit",
            (f"unet_batch_train_validation_dice{{{JOB}}}", "{{job}}"),
            steps=DICE_STEPS,
            width=6,
        ),
    ]


def _decisions() -> list[Built]:
    retrained = "unet_batch_retrain_finished_timestamp_seconds"
    waited = "unet_batch_rayjob_finished_timestamp_seconds"
    return [
        number(
            "Since a retraining ended so",
            "Time since the retraining last promoted, kept the champion, or found nothing new.",
            "s",
            (f"time() - max by (outcome) (last_over_time({retrained}[7d]))", "{{outcome}}"),
            steps=DAYS,
            width=6,
        ),
        number(
            "Since a RayJob ended so",
            "Time since a RayJob that was waited for ended so: the nightly CronJob's own word.",
            "s",
            (
                f"time() - max by (kind, outcome) (last_over_time({waited}[7d]))",
                "{{kind}} {{outcome}}",
            ),
            steps=DAYS,
            width=6,
        ),
    ]


def _learning() -> list[Built]:
    return [
        lines(
            "Loss",
            "Loss of the latest step, on patches of the training Volumes.",
            "short",
            (f"unet_batch_train_loss{{{JOB}}}", "{{job}}"),
        ),
        lines(
            "Dice while training",
            "Mean Dice on whole Volumes held back, at each validation.",
            "percentunit",
            (f"unet_batch_train_validation_dice{{{JOB}}}", "{{job}}"),
            steps=DICE_STEPS,
            maximum=1,
        ),
        lines(
            "Learning rate",
            "Of the latest step: warm-up, then the schedule.",
            "sci",
            (f"unet_batch_train_learning_rate{{{JOB}}}", "{{job}}"),
        ),
    ]


def _speed() -> list[Built]:
    buckets = f"sum by (le, job) (rate(unet_batch_train_step_seconds_bucket{{{JOB}}}{RATE}))"
    waits = f"sum by (job) (rate(unet_batch_train_data_wait_seconds_total{{{JOB}}}{RATE}))"
    steps = f"sum by (job) (rate(unet_batch_train_step_seconds_sum{{{JOB}}}{RATE}))"
    return [
        lines(
            "Step time",
            "Duration of an optimiser step, waiting for data included: median and worst twentieth.",
            "s",
            (f"histogram_quantile(0.5, {buckets})", "median {{job}}"),
            (f"histogram_quantile(0.95, {buckets})", "worst twentieth {{job}}"),
        ),
        lines(
            "Waiting for data",
            "Share of a step that the device waits for patches. Above 10 %: raise"
            " resources.read_ahead or resources.cache, or give the worker more CPUs.",
            "percentunit",
            (f"{waits} / {steps}", "{{job}}"),
            steps=[(0.1, "orange"), (0.3, "red")],
        ),
        lines(
            "Steps a second",
            "Optimiser steps of all workers together count once.",
            "short",
            (f"sum by (job) (rate(unet_batch_train_steps_total{{{JOB}}}{RATE}))", "{{job}}"),
        ),
    ]


def _challenge() -> list[Built]:
    dice = f"max by (model, role, class) (last_over_time(unet_batch_retrain_dice{{{JOB}}}[1d]))"
    champion = f'unet_batch_retrain_dice{{{JOB},role="champion"}}'
    challenger = f'unet_batch_retrain_dice{{{JOB},role="challenger"}}'
    return [
        bars(
            "Champion and challenger",
            "Dice of both on the same held-back Volumes, at the last retraining of the day.",
            "percentunit",
            (dice, "{{model}} {{class}} {{role}}"),
            steps=DICE_STEPS,
            width=12,
        ),
        signed_lines(
            "What the challenger gains",
            "Dice of the challenger less the champion's. It is promoted only where a paired test"
            " says better and no class is worse by more than the Spec's margin.",
            "percentunit",
            (f"{challenger} - ignoring (role) {champion}", "{{model}} {{class}}"),
            steps=DROP_STEPS,
            width=12,
        ),
    ]
