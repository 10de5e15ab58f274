from __future__ import annotations

from pathlib import Path

import pytest

from unet_batch.errors import SpecError
from unet_batch.planning.specs.base import parse_bytes
from unet_batch.planning.specs.segment import SegmentSpec

MINIMAL = {"archive": "a", "model": "m", "labels": "l"}


def test_a_file_then_arguments_then_overrides(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("archive: a\nmodel: m\nlabels: from_file\ninference: {overlap: 0.25}\n")
    spec = SegmentSpec.load(
        path,
        arguments={"labels": "from_argument", "model": None},
        overrides=["inference.batch_size=8", "resources.memory_budget=500MB"],
    )
    assert (spec.labels, spec.model) == ("from_argument", "m")
    assert (spec.inference.overlap, spec.inference.batch_size) == (0.25, 8)
    assert spec.resources.memory_budget == 500_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4GiB", 4 * 2**30), ("500 MB", 500_000_000), ("1.5kb", 1500), ("12", 12), (7, 7)],
)
def test_bytes_are_read_with_their_units(text: object, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inference.overlap=1", "inference.overlap: Input should be less than 1 .got 1."),
        ("inference.overlapp=0", "inference.overlapp: Extra inputs are not permitted"),
        ("inference", "expected key=value"),
        ("labels.x=1", "'labels' holds 'l', not a group of fields"),
        ("resources.memory_budget=4 parsecs", "expected a number with a unit"),
        ("labels=../up", "labels: String should match pattern"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_given(override: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        SegmentSpec.load(arguments=MINIMAL, overrides=[override])


def test_files_that_are_no_spec_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no Spec at"):
        SegmentSpec.load(tmp_path / "missing.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(SpecError, match="expected `field: value` lines, got list"):
        SegmentSpec.load(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(SpecError, match="not a readable YAML"):
        SegmentSpec.load(tmp_path / "broken.yaml")


def test_a_digest_covers_just_the_fields_it_is_asked_for() -> None:
    spec = SegmentSpec.load(arguments=MINIMAL)
    more_memory = SegmentSpec.load(arguments=MINIMAL, overrides=["resources.memory_budget=9GB"])
    less_overlap = SegmentSpec.load(arguments=MINIMAL, overrides=["inference.overlap=0"])
    assert spec.digest("inference") == more_memory.digest("inference")
    assert spec.digest() != more_memory.digest()
    assert spec.digest("inference") != less_overlap.digest("inference")
