"""Score: what one class of one Volume reached, and all of them as a table.

`Score` is the one result that everything else is made of: the table of `evaluate`, the report,
the scores of a Bundle, the comparison of two models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from unet_batch.planning.volume_info import LabelClass


@dataclass(frozen=True, slots=True)
class Score:
    """One class of one Volume against its truth.

    Volumes are in millilitres. Of a mask without a truth only the predicted volume is known.

    Attributes
    ----------
    dice: None where neither mask holds the class; 0 where only one does.
    hd95_mm: 95 % Hausdorff distance; None where neither mask holds the class or it was not
        asked for, infinite where only one does (`evaluation.surface` has the definition).
    surface_dice: share of both surfaces within the tolerance; None and 0 as for `dice`.
    """

    volume_id: str
    class_value: int
    class_name: str
    dice: float | None
    predicted_ml: float
    true_ml: float | None
    intersection_voxels: int | None
    predicted_voxels: int
    true_voxels: int | None
    hd95_mm: float | None = None
    surface_dice: float | None = None

    @property
    def volume_error_ml(self) -> float | None:
        """Predicted less true volume: positive where the mask is too large."""
        return None if self.true_ml is None else self.predicted_ml - self.true_ml

    @property
    def volume_error(self) -> float | None:
        """The error relative to the true volume; None where the truth lacks the class."""
        error = self.volume_error_ml
        return error / self.true_ml if error is not None and self.true_ml else None


SCORES_SCHEMA = pa.schema(
    [
        ("volume_id", pa.string()),
        ("class_value", pa.int32()),
        ("class_name", pa.string()),
        ("dice", pa.float64()),
        ("predicted_ml", pa.float64()),
        ("true_ml", pa.float64()),
        ("intersection_voxels", pa.int64()),
        ("predicted_voxels", pa.int64()),
        ("true_voxels", pa.int64()),
        ("hd95_mm", pa.float64()),
        ("surface_dice", pa.float64()),
        ("volume_error_ml", pa.float64()),
        ("volume_error", pa.float64()),
    ]
)

_BATCH_ROWS = 4096


class ScoreRows:
    """Scores as they come, kept as Arrow columns: about 120 bytes a Volume and class."""

    def __init__(self) -> None:
        self._batches: list[pa.RecordBatch] = []
        self._pending: list[Score] = []

    def add(self, scores: Iterable[Score]) -> None:
        """Take in the scores of one Volume."""
        self._pending.extend(scores)
        if len(self._pending) >= _BATCH_ROWS:
            self._flush()

    def table(self, facts: Mapping[str, object] | None = None) -> pa.Table:
        """All rows so far, sorted by Volume and class; `facts` become the schema's metadata."""
        self._flush()
        schema = SCORES_SCHEMA.with_metadata({k: str(v) for k, v in (facts or {}).items()} or None)
        table = pa.Table.from_batches(self._batches, SCORES_SCHEMA).replace_schema_metadata(
            schema.metadata
        )
        return table.sort_by([("volume_id", "ascending"), ("class_value", "ascending")])

    def _flush(self) -> None:
        rows = [[getattr(row, name) for row in self._pending] for name in SCORES_SCHEMA.names]
        columns = [pa.array(v, f.type) for v, f in zip(rows, SCORES_SCHEMA, strict=True)]
        self._batches.append(pa.record_batch(columns, schema=SCORES_SCHEMA))
        self._pending.clear()


def foreground_classes(
    predicted: Sequence[LabelClass], truth: Sequence[LabelClass]
) -> tuple[LabelClass, ...]:
    """The classes to score, by value: those of either mask without background (value 0).

    Where both masks have a value, the prediction's name and colour stand.
    """
    by_value = {c.value: c for c in truth} | {c.value: c for c in predicted}
    return tuple(by_value[value] for value in sorted(by_value) if value != 0)


def scores_table(scores: Iterable[Score]) -> pa.Table:
    """The scores as a table of `SCORES_SCHEMA`, sorted by Volume and class value."""
    rows = ScoreRows()
    rows.add(scores)
    return rows.table()
