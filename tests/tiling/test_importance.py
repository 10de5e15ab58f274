from __future__ import annotations

import numpy as np
import pytest
from monai.data.utils import compute_importance_map

from unet_batch.tiling.importance import Importance, importance_map


@pytest.mark.parametrize("kind", ["gaussian", "constant"])
@pytest.mark.parametrize("roi", [(8, 8), (1, 16), (33, 20, 7), (96, 96, 96), (1, 64, 64)])
def test_weights_equal_monai(roi: tuple[int, ...], kind: Importance) -> None:
    theirs = compute_importance_map(roi, mode=kind, sigma_scale=0.125, device="cpu").numpy()
    np.testing.assert_allclose(importance_map(roi, kind), theirs, rtol=1e-6)


def test_a_tile_one_voxel_thick_weighs_like_its_plane() -> None:
    np.testing.assert_array_equal(
        importance_map((1, 16, 12), "gaussian")[0], importance_map((16, 12), "gaussian")
    )
