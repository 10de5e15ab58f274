"""Archive jobs: how far they are, how fast, where the time goes, what failed."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.vocabulary import JOB, Built, bars, board, lines, number

RATE = "[$__rate_interval]"


def archive_jobs() -> Dashboard:
    """The dashboard an operator keeps open while an archive is segmented."""
    made = board(
        "Archive jobs",
        "unet-batch-archive-jobs",
        "Jobs over archives: progress, speed, where the time goes, what failed.",
        kinds="ingest|segment|evaluate|export|report",
    )
    for panel in (*_progress(), *_losses(), *_speed(), *_work(), *_failures()):
        made.with_panel(panel)
    return made


def _progress() -> list[Built]:
    settled = f"sum without (outcome) (unet_batch_volumes_total{{{JOB}}})"
    return [
        number(
            "Progress",
            "Share of the job that is settled: of voxels, so that large Volumes count for more.",
            "percentunit",
            (f"unet_batch_job_done_ratio{{{JOB}}} >= 0", "{{job}}"),
            steps=[(0, "blue"), (1, "green")],
        ),
        number(
            "Time left",
            "At the speed so far; empty until the first Volume is done.",
            "s",
            (f"unet_batch_job_remaining_seconds{{{JOB}}} >= 0", "{{job}}"),
            steps=[(86400, "orange")],
        ),
        number(
            "Volumes left",
            "Volumes without an outcome so far.",
            "short",
            (f"unet_batch_volumes_planned{{{JOB}}} - {settled}", "{{job}}"),
            steps=[(1, "blue")],
        ),
    ]


def _losses() -> list[Built]:
    return [
        number(
            "Quarantined",
            "Share of the Volumes tried that could not be segmented. The alert fires at 5 %.",
            "percentunit",
            (
                f'sum by (job) (unet_batch_volumes_total{{{JOB},outcome="quarantined"}})'
                f' / sum by (job) (unet_batch_volumes_total{{{JOB},outcome=~"done|quarantined"}})',
                "{{job}}",
            ),
            steps=[(0.01, "orange"), (0.05, "red")],
        ),
        number(
            "Tiles predicted of planned",
            "Each tile is predicted once: above 100 % a Replica was lost and its tiles came again.",
            "percentunit",
            (
                f"sum by (job) (unet_batch_tiles_predicted_total{{{JOB}}})"
                f" / sum by (job) (unet_batch_tiles_planned{{{JOB}}})",
                "{{job}}",
            ),
            steps=[(1.01, "orange"), (1.2, "red")],
        ),
        number(
            "Replicas lost",
            "Replicas that died in the time shown. Each is replaced; only its Blocks come again.",
            "short",
            (
                f"sum by (job) (increase(unet_batch_replicas_lost_total{{{JOB}}}[$__range]))",
                "{{job}}",
            ),
            steps=[(1, "orange"), (10, "red")],
        ),
    ]


def _speed() -> list[Built]:
    return [
        lines(
            "Speed",
            "Voxels of scans finished a second. Zero for long is a stalled job.",
            "si: voxel/s",
            (f"sum by (job) (rate(unet_batch_voxels_total{{{JOB}}}{RATE}))", "{{job}}"),
            width=12,
        ),
        lines(
            "Volumes by outcome",
            "Every Volume ends as done, skipped (published before), quarantined or cancelled.",
            "short",
            (f"sum by (outcome) (unet_batch_volumes_total{{{JOB}}})", "{{outcome}}"),
            width=12,
            stacked=True,
        ),
    ]


def _work() -> list[Built]:
    return [
        lines(
            "Where the time goes",
            "Workers busy at each stage at once: worker seconds a second. A job that is well fed"
            " spends nearly all in predict.",
            "short",
            (f"sum by (stage) (rate(unet_batch_stage_seconds_total{{{JOB}}}{RATE}))", "{{stage}}"),
            stacked=True,
        ),
        lines(
            "Queue",
            "Pieces of work in flight, by stage; `wait` is read and waits for a Replica. Never"
            " empty while Volumes are left.",
            "short",
            (f"sum by (stage) (unet_batch_queue_depth{{{JOB}}})", "{{stage}}"),
        ),
        lines(
            "Replicas",
            "Replicas busy and idle. Idle ones while Volumes wait mean that reading is too slow.",
            "short",
            (f"sum by (state) (unet_batch_replicas{{{JOB}}})", "{{state}}"),
            stacked=True,
        ),
    ]


def _failures() -> list[Built]:
    return [
        bars(
            "Failures by cause",
            "Quarantined Volumes by kind of reason; the Ledger in the Archive has each Volume's.",
            "short",
            (f"sum by (cause) (unet_batch_volumes_quarantined_total{{{JOB}}})", "{{cause}}"),
            steps=[(1, "orange"), (20, "red")],
        ),
        lines(
            "Read and written",
            "Bytes a second through the store, by stage.",
            "Bps",
            (
                f'sum by (stage) (rate(unet_batch_bytes_total{{{JOB},stage=~"read|write"}}{RATE}))',
                "{{stage}}",
            ),
        ),
        lines(
            "Memory of a Replica",
            "The most that any Replica held so far; resources.memory_budget bounds what comes on"
            " top of the network itself.",
            "bytes",
            (f"max by (job) (unet_batch_replica_peak_rss_bytes{{{JOB}}})", "{{job}}"),
            steps=[(32 * 2**30, "orange")],
        ),
    ]
