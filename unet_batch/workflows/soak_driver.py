"""A driver of its own, to be killed: one segment Job on a cluster, what it does told in a file.

    python -m unet_batch.workflows.soak_driver SPEC.json ADDRESS EVENTS.jsonl

Each line is written whole before anything else happens, so that a kill loses none.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from unet_batch.inference.cluster import ray_running
from unet_batch.monitoring.events import (
    Event,
    ReplicaLost,
    StageTimed,
    VolumeFinished,
    Warned,
    fan_out,
)
from unet_batch.planning.control import Control
from unet_batch.planning.specs.segment import SegmentSpec
from unet_batch.workflows.job_run import JobRun
from unet_batch.workflows.segment import segment


class EventFile:
    """A Listener that writes down what a soak counts."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, event: Event) -> None:
        """Write down one event."""
        match event:
            case StageTimed(stage="predict", num_tiles=num_tiles):
                self.write(tiles=num_tiles)
            case VolumeFinished(volume_id, outcome, reason):
                self.write(volume=volume_id, outcome=outcome, reason=reason)
            case ReplicaLost(reason):
                self.write(replica_lost=reason)
            case Warned(text):
                self.write(warning=text)

    def write(self, **fields: object) -> None:
        """Add a line."""
        with self._path.open("a") as file:
            file.write(json.dumps(fields) + "\n")


def main() -> None:
    """Run the Job; a second driver of the same Job waits for the first, or takes over from it."""
    spec = SegmentSpec.model_validate_json(Path(sys.argv[1]).read_text())
    events = EventFile(Path(sys.argv[3]))
    control = Control()
    with ray_running(sys.argv[2]), JobRun("segment", spec, control=control) as run:
        summary = segment(spec, listen=fan_out(run, events), control=control)
    events.write(ended=summary.job, planned=summary.tiles_planned)


if __name__ == "__main__":
    main()
