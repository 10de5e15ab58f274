from __future__ import annotations

import pytest
import torch
from torch import nn

from unet_batch.models.architectures.deepmedic import DeepMedic
from unet_batch.models.architectures.fcn import FCN, _doubling
from unet_batch.models.architectures.segnet import _unpool
from unet_batch.models.architectures.unet import UNet
from unet_batch.models.architectures.unet_plus_plus import UNetPlusPlus


def test_the_original_unet_has_the_papers_layers() -> None:
    """Ronneberger et al. 2015: 23 convolutional layers, 64 to 1024 channels."""
    with torch.device("meta"):
        network = UNet(2, 1, 2)
    plain = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    raising = [m for m in network.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert len(plain) + len(raising) == 23
    assert [m.out_channels for m in plain[:10:2]] == [64, 128, 256, 512, 1024]
    assert {m.kernel_size for m in plain[:-1]} == {(3, 3)}
    assert {(m.kernel_size, m.stride) for m in raising} == {((2, 2), (2, 2))}
    assert [m.out_channels for m in raising] == [512, 256, 128, 64]
    assert sum(weight.numel() for weight in network.parameters()) == 31_030_658


def test_the_original_unet_concatenates_its_skips() -> None:
    network = UNet(2, 1, 2, channels=(4, 8), dropout=0.0).eval()
    taken = [m.in_channels for m in network.up.modules() if isinstance(m, nn.Conv2d)]
    assert taken == [8, 4]  # 4 of the skip and 4 from below, then 4


def test_unets_begin_with_activations_of_unit_variance() -> None:
    """He's weights: the variance neither vanishes nor explodes over 18 layers."""
    torch.manual_seed(0)
    network = UNet(2, 1, 2, channels=(16, 32, 64), dropout=0.0).eval()
    features = network.down[2](torch.randn(1, 32, 32, 32))
    assert 0.1 < float(features.detach().square().mean()) < 10


def test_unet_plus_plus_has_a_node_for_every_step_of_every_level() -> None:
    with torch.device("meta"):
        network = UNetPlusPlus(2, 1, 2, channels=(4, 8, 16, 32))
    assert len(network.nodes) == 4 + 3 + 2 + 1
    taken = network.nodes["0_3"][0][0].in_channels
    assert taken == 3 * 4 + 4  # three nodes before it, and the one from below


def test_unet_plus_plus_trains_the_heads_of_all_depths_and_predicts_with_the_deepest() -> None:
    network = UNetPlusPlus(2, 1, 2, channels=(4, 8, 16), norm=None, deep_supervision=True)
    tile = torch.randn(1, 1, 16, 16)
    outputs = network(tile)
    assert len(outputs) == 2
    assert torch.equal(network.eval()(tile), outputs[0])


def test_fcn_begins_with_linear_interpolation() -> None:
    enlarged = _doubling(2, 3)(torch.arange(8.0).repeat(1, 3, 8, 1))
    line = enlarged[0, 1, 8, 1:-1].detach()
    assert torch.allclose(line, torch.linspace(0.25, 6.75, 14))


def test_fcn_8s_scores_three_levels() -> None:
    with torch.device("meta"):
        network = FCN(2, 3, 21, norm=None)
    assert [score.in_channels for score in network.scores] == [4096, 512, 256]
    convolutions = [m for m in network.stages.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 13  # of VGG-16


@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (6, 4, 5)])
def test_segnet_puts_maxima_back_where_they_were(shape: tuple[int, ...]) -> None:
    image = torch.randn(2, 3, *shape)
    dims = len(shape)
    pool = nn.MaxPool2d if dims == 2 else nn.MaxPool3d
    unpool = nn.MaxUnpool2d(2) if dims == 2 else nn.MaxUnpool3d(2)
    values, places = pool(2, return_indices=True)(image)
    expected = unpool(values, places, output_size=list(image.shape))
    assert torch.equal(_unpool(values, places, image.shape), expected)


def test_deepmedics_second_pathway_sees_three_times_as_far() -> None:
    torch.manual_seed(0)
    network = DeepMedic(3, 1, 2, channels=(2,) * 3, hidden=(2,)).eval()
    tile = torch.zeros(1, 1, 33, 33, 33, requires_grad=True)
    network(tile)[0, 0, 16, 16, 16].backward()
    assert tile.grad is not None
    (reached,) = torch.nonzero(tile.grad.abs().sum((0, 1, 3, 4)), as_tuple=True)
    # Three 3-wide convolutions reach 7 cells, each a mean of 3 voxels.
    assert (int(reached.min()), int(reached.max())) == (16 - 10, 16 + 10)


def test_deepmedic_has_eleven_layers() -> None:
    """Kamnitsas et al. 2017: eight in each pathway, two in common, and the classes."""
    with torch.device("meta"):
        network = DeepMedic(3, 4, 5)
    widths = [m.out_channels for m in network.modules() if isinstance(m, nn.Conv3d)]
    pathway = [30, 30, 40, 40, 40, 40, 50, 50]
    assert widths == [*pathway, *pathway, 150, 150, 5]
