"""Names that become paths."""

from __future__ import annotations

import pytest

from unet_batch.errors import SpecError
from unet_batch.storage import paths

UNSAFE = ["", ".", "..", "a..b", "a/b", "/etc", "a\\b", ".hidden", "a.", "-x", "a b", "a\nb", "é"]


@pytest.mark.parametrize("name", [*UNSAFE, "x" * 129, "zarr.json", "ZARR.JSON", "a\x00", "a\n"])
def test_unsafe_names_are_refused_with_the_rule(name: str) -> None:
    with pytest.raises(SpecError, match=r"Volume id .* cannot be used in a path"):
        paths.volume_path(name)


@pytest.mark.parametrize("name", ["a", "STS_002", "case-1.2.840.v1", "0", "x" * 128])
def test_usual_names_are_kept_as_they_are(name: str) -> None:
    assert paths.volume_path(name) == f"volumes/{name}"
    assert paths.labels_path(name, "liver") == f"volumes/{name}/labels/liver"
    assert paths.job_path(name) == f"jobs/{name}"
