from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from safetensors.torch import load_file

from unet_batch.errors import BundleError
from unet_batch.models.bundle import (
    CONFIG,
    WEIGHTS,
    Bundle,
    BundleConfig,
    load_bundle,
    require_alike,
    save_bundle,
)
from unet_batch.planning.specs.grid import GridSpec
from unet_batch.planning.volume_info import LabelClass


def config(**changes: object) -> BundleConfig:
    fields: dict[str, object] = {
        "name": "tiny",
        "network_name": "residual_unet",
        "network_arguments": {"channels": [4, 8], "num_res_units": 1},
        "channels": ("T1", "T2"),
        "roi": (8, 8, 8),
        "classes": (LabelClass(0, "background"), LabelClass(3, "lesion")),
        "spacing_mm": (1.0, 1.0, 2.0),
    }
    return BundleConfig.model_validate(fields | changes)


def saved(folder: Path, seed: int = 0) -> Bundle:
    torch.manual_seed(seed)
    return save_bundle(folder, config(), config().build_network().state_dict())


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_loaded_bundle_predicts_as_the_network_that_was_saved(tmp_path: Path) -> None:
    network = config().build_network().eval()
    save_bundle(tmp_path, config(), network.state_dict())
    loaded, tile = load_bundle(tmp_path).network(), torch.randn(1, 2, 8, 8, 8)
    assert torch.equal(loaded(tile), network(tile))
    assert not loaded.training


def test_tensors_under_two_names_are_stored_once_and_loaded_under_both(tmp_path: Path) -> None:
    """DynUNet's blocks are in its skip layers as well."""
    wanted = config(network_name="dynunet", network_arguments={"filters": [4, 8, 8]})
    state = wanted.build_network().state_dict()
    bundle = save_bundle(tmp_path, wanted, state)
    assert len(load_file(tmp_path / WEIGHTS)) < len(state)
    loaded = bundle.network().state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_a_bundle_travels_by_pickle(tmp_path: Path) -> None:
    bundle = saved(tmp_path)
    assert pickle.loads(pickle.dumps(bundle)) == bundle


def test_the_hash_names_weights_and_config(tmp_path: Path) -> None:
    first, again, other = (
        saved(tmp_path / name, seed).content_hash for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == again != other
    edit(tmp_path / "a" / CONFIG, roi=[16, 16, 16])
    assert load_bundle(tmp_path / "a").content_hash != first


def test_monai_builds_the_network_and_loads_the_weights(tmp_path: Path) -> None:
    bundle = saved(tmp_path)
    parser = ConfigParser()
    parser.read_config(tmp_path / "configs/inference.json")
    theirs = parser.get_parsed_content("network_def").eval()
    theirs.load_state_dict(torch.load(tmp_path / "models/model.pt", weights_only=True))
    tile = torch.randn(1, 2, 8, 8, 8)
    assert torch.equal(theirs(tile), bundle.network()(tile))
    assert parser.get_parsed_content("inferer").roi_size == [8, 8, 8]


def test_metadata_has_the_fields_that_monai_requires(tmp_path: Path) -> None:
    saved(tmp_path)
    content = json.loads((tmp_path / "configs/metadata.json").read_text())
    # "required" of MONAI's meta_schema_20240725.json
    required = {"version", "changelog", "monai_version", "pytorch_version", "numpy_version"}
    required |= {"task", "description", "authors", "copyright", "network_data_format"}
    assert required <= set(content)
    image = content["network_data_format"]["inputs"]["image"]
    prediction = content["network_data_format"]["outputs"]["pred"]
    assert (image["num_channels"], image["channel_def"]) == (2, {"0": "T1", "1": "T2"})
    assert prediction["channel_def"] == {"0": "background", "1": "lesion"}


def test_a_folder_without_a_bundle_says_which_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"unet_batch\.json cannot be read"):
        load_bundle(tmp_path)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(BundleError, match=r"model\.safetensors cannot be read"):
        load_bundle(tmp_path)


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    content = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError, match="truncated"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network_arguments": {"channels": [8, 8], "num_res_units": 1}}, "weights are not those"),
        ({"network_name": "subprocess.run"}, "unknown network"),
        ({"roi": [8, 8]}, "3 positive numbers"),
        ({"classes": [{"value": 1, "name": "a"}, {"value": 2, "name": "b"}]}, "begin with 0"),
        ({"name": "../../etc"}, "pattern"),
        ({"surprise": 1}, "Extra inputs"),
    ],
)
def test_a_contradictory_config_is_refused(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    saved(tmp_path)
    edit(tmp_path / CONFIG, **changes)
    with pytest.raises(BundleError, match=said):
        load_bundle(tmp_path)


def test_weights_of_another_network_are_not_saved(tmp_path: Path) -> None:
    other = config(channels=("T1",)).build_network().state_dict()
    with pytest.raises(BundleError, match="weights are not those"):
        save_bundle(tmp_path, config(), other)
    assert not (tmp_path / CONFIG).exists()


def test_a_bundle_keeps_the_grid_its_network_wants(tmp_path: Path) -> None:
    grid = GridSpec(spacing_mm=(1.5, None, 1.5), orientation="RAS")
    wants = config(grid=grid)
    save_bundle(tmp_path, wants, wants.build_network().state_dict())
    assert load_bundle(tmp_path).grid == grid
    with pytest.raises(ValueError, match="must be in millimetres"):
        config(grid=GridSpec(spacing_mm="median"))


def test_members_that_want_different_grids_are_no_ensemble(tmp_path: Path) -> None:
    finer = config(grid=GridSpec(spacing_mm=(1, 1, 1)))
    other = save_bundle(tmp_path / "finer", finer, finer.build_network().state_dict())
    with pytest.raises(BundleError, match="their grid differ"):
        require_alike([saved(tmp_path / "own"), other])
