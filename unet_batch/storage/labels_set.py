"""LabelsSet: all Labels that one Job makes of one Volume, written together, decided as one.

Classes that exclude each other share one mask. Classes that overlap cannot: each gets Labels
of its own, `<name>.<class>`, which every reader and tool of Labels understands. The Volume
counts as done only where all of them are published.

    planes (p, z, y, x):  [ labels | labels | ... | probabilities ... ]
                             writer 0  writer 1      shared out evenly
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unet_batch.pickling import by_fields
from unet_batch.planning.volume_info import Json, LabelClass
from unet_batch.storage.labels_writer import LabelsWriter
from unet_batch.tiling.box import Box

BACKGROUND = LabelClass(0, "background")


@by_fields
@dataclass(frozen=True, slots=True)
class LabelsSet:
    """One or more LabelsWriters of one Volume on one grid; a plain value that workers share.

    `name` is that of the Labels the Job was asked for.
    """

    name: str
    writers: tuple[LabelsWriter, ...]

    @property
    def volume_id(self) -> str:
        """The Volume that the Labels belong to."""
        return self.writers[0].volume_id

    @property
    def archive_url(self) -> str:
        """Address of the Archive that they are written to."""
        return self.writers[0].archive_url

    @property
    def dtype(self) -> str:
        """`uint8` or `uint16`."""
        return self.writers[0].dtype

    @property
    def num_planes(self) -> int:
        """Planes of labels and of probabilities that `write` takes."""
        return sum(1 + writer.num_probabilities for writer in self.writers)

    def prepare(self) -> None:
        """Describe all arrays; nothing becomes visible. May be repeated."""
        for writer in self.writers:
            writer.prepare()

    def write(self, region: Box, planes_pzyx: NDArray[Any]) -> int:
        """Store one write region of all Labels, and return its bytes. May be repeated."""
        number = len(self.writers)
        labels, probabilities = planes_pzyx[:number], planes_pzyx[number:].astype(np.uint8)
        shares = np.split(probabilities, number)
        return sum(
            writer.write(region, voxels, share)
            for writer, voxels, share in zip(self.writers, labels, shares, strict=True)
        )

    def staged(self, stage: str) -> LabelsSet:
        """Writers of labels on their way to these; readers never see them."""
        return replace(self, writers=tuple(writer.staged(stage) for writer in self.writers))

    def publish(self, provenance: Mapping[str, Json]) -> None:
        """Show all of them to readers. May be repeated, and after a crash goes on.

        Raises ConflictError, and shows none, where write regions of any are missing.
        """
        if len(self.writers) > 1:
            for writer in self.writers:
                if writer.published_key() != writer.key:
                    writer.check_complete()
        for writer in self.writers:
            writer.publish(provenance)

    def is_published(self) -> bool:
        """Whether readers see exactly these generations of all Labels."""
        return all(writer.published_key() == writer.key for writer in self.writers)


def overlapping_names(name: str, classes: Sequence[LabelClass]) -> list[str]:
    """Names of the Labels of overlapping classes: `<name>.<class>`, safe in a path, distinct.

    >>> overlapping_names("net", [LabelClass(1, "whole tumour"), LabelClass(2, "core")])
    ['net.whole-tumour', 'net.core']
    """
    texts = [re.sub(r"[^A-Za-z0-9_-]+", "-", one.name).strip("-") for one in classes]
    if "" in texts or len(set(texts)) < len(texts):
        texts = [f"{text}-{one.value}" for text, one in zip(texts, classes, strict=True)]
    return [f"{name}.{text}" for text in texts]
