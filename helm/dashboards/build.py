"""Writes the dashboards into the chart: `python -m dashboards.build` in the folder helm."""

from __future__ import annotations

import json
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.archive_jobs import archive_jobs
from dashboards.cluster import cluster
from dashboards.quality import quality
from dashboards.queries import CHART_FOLDER
from dashboards.training import training


def build() -> dict[str, str]:
    """The text of each dashboard's file, by file name."""
    boards = {
        "archive-jobs.json": archive_jobs(),
        "quality.json": quality(),
        "training.json": training(),
        "cluster.json": cluster(),
    }
    encoder = JSONEncoder(sort_keys=True, indent=1)
    return {name: encoder.encode(one.build()) + "\n" for name, one in boards.items()}


def main() -> None:
    """Write all files, and say which."""
    for name, text in build().items():
        (CHART_FOLDER / name).write_text(text)
        panels = len(json.loads(text)["panels"])
        sys.stdout.write(f"{CHART_FOLDER / name}: {panels} panels\n")


if __name__ == "__main__":
    main()
