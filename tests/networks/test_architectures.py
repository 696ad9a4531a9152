"""Parameter counts worked out by hand, and what sets each network apart."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from robal.errors import InputError
from robal.networks import (
    VGG8,
    VGG8DFAL,
    VGG16,
    Architecture,
    LeNet5,
    LeNet5DFAL,
    LeNet5DRE,
    Normalise,
    PreActResNet,
    PreActResNet18,
    ResNet18,
)
from robal.networks.resnet import PreActivationBlock, ResidualBlock


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def conv(before: int, after: int, side: int, bias: bool = True) -> int:
    return after * (before * side * side + bias)


def linear(before: int, after: int) -> int:
    return after * (before + 1)


def norm(channels: int) -> int:
    return 2 * channels


def kinds(model: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in model.children()]


def test_the_classic_lenet5_has_61706_parameters() -> None:
    by_hand = 156 + 2_416 + 48_120 + 10_164 + 850
    assert by_hand == conv(1, 6, 5) + conv(6, 16, 5) + linear(400, 120) + linear(120, 84) + linear(84, 10) == 61_706
    assert count(LeNet5()((1, 28, 28), 10, 0)) == 61_706


def test_the_classic_lenet5_flattens_what_the_image_leaves() -> None:
    # 32 -> 16 after the first pool -> 12 -> 6: 16 * 6 * 6 = 576
    assert LeNet5()((3, 32, 32), 10, 0).fc1.in_features == 576  # type: ignore[union-attr]


def test_lenet5_of_dre_has_61990_parameters() -> None:
    by_hand = (156 + 12) + (2_416 + 32) + (48_120 + 240) + 10_164 + 850
    convolutions = sum(conv(a, b, 5) + norm(b) for a, b in ((1, 6), (6, 16), (16, 120)))
    assert by_hand == convolutions + linear(120, 84) + linear(84, 10) == 61_990
    assert count(LeNet5DRE()((1, 32, 32), 10, 0)) == 61_990


def test_lenet5_of_dfal_has_166936_parameters_and_its_own_order() -> None:
    # 28 -> 24 -> 12 -> 8 -> 4: 120 * 4 * 4 = 1,920 into the first linear layer
    by_hand = 156 + 2_416 + 2_040 + 161_364 + 850 + 110
    convolutions = conv(1, 6, 5) + conv(6, 16, 5) + conv(16, 120, 1)
    assert by_hand == convolutions + linear(1_920, 84) + linear(84, 10) + linear(10, 10) == 166_936
    model = LeNet5DFAL()((1, 28, 28), 10, 0)
    assert count(model) == 166_936
    assert kinds(model)[8:] == ["Conv2d", "Flatten", "Linear", "ReLU", "Linear", "Dropout", "Linear"]
    assert [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)] == [0.25, 0.25, 0.5]


def test_vgg8_of_dre_has_3918858_parameters() -> None:
    filters = ((3, 64), (64, 128), (128, 256), (256, 512), (512, 512))
    by_hand = 1_792 + 73_856 + 295_168 + 1_180_160 + 2_359_808 + 2 * (64 + 128 + 256 + 512 + 512) + 5_130
    assert by_hand == sum(conv(a, b, 3) + norm(b) for a, b in filters) + linear(512, 10) == 3_918_858
    assert count(VGG8()((3, 32, 32), 10, 0)) == 3_918_858


@pytest.mark.parametrize(("size", "pools"), [(32, 3), (64, 4)])
def test_vgg8_of_dre_pools_a_fourth_time_on_64_pixels(size: int, pools: int) -> None:
    assert kinds(VGG8()((3, size, size), 10, 0)).count("MaxPool2d") == pools


def test_vgg8_of_dre_starts_he_normal_by_fan_out_and_its_head_small() -> None:
    for layer in VGG8()((3, 32, 32), 10, 0).modules():
        if isinstance(layer, nn.Conv2d):
            expected = (2 / (9 * layer.out_channels)) ** 0.5  # sqrt(2 / fan-out)
        elif isinstance(layer, nn.Linear):
            expected = 0.01
        else:
            continue
        # at least 1,728 weights: the standard error of their deviation is below 1 / sqrt(2 * 1728) = 1.7 %
        assert layer.weight.detach().std().item() == pytest.approx(expected, rel=0.06)
        assert layer.bias is not None
        assert not layer.bias.any()


def test_vgg8_of_dfal_has_6641930_parameters() -> None:
    # 28 -> 14 -> 7 -> 3 -> 1: 512 inputs of the first linear layer
    filters = ((1, 64), (64, 128), (128, 256), (256, 256), (256, 512), (512, 512))
    by_hand = 640 + 73_856 + 295_168 + 590_080 + 1_180_160 + 2_359_808 + 2_101_248 + 40_970
    assert by_hand == sum(conv(a, b, 3) for a, b in filters) + linear(512, 4096) + linear(4096, 10) == 6_641_930
    assert count(VGG8DFAL()((1, 28, 28), 10, 0)) == 6_641_930


def test_vgg16_has_14728266_parameters() -> None:
    widths = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    convolutions = sum(conv(a, b, 3) + norm(b) for a, b in pairwise(widths))
    assert convolutions + linear(512, 10) == 14_728_266
    assert count(VGG16()((3, 32, 32), 10, 0)) == 14_728_266


def residual_convolutions() -> int:
    """Sixteen 3x3 convolutions and three 1x1 shortcuts, none with a bias."""
    same = sum(3 * conv(width, width, 3, False) for width in (128, 256, 512)) + 4 * conv(64, 64, 3, False)
    wider = sum(conv(a, 2 * a, 3, False) + conv(a, 2 * a, 1, False) for a in (64, 128, 256))
    return conv(3, 64, 3, False) + same + wider


def test_resnet18_has_11173962_parameters() -> None:
    # BatchNorm: the stem, two a block, one a shortcut
    norms = norm(64) + 4 * (norm(64) + norm(128) + norm(256) + norm(512)) + norm(128) + norm(256) + norm(512)
    assert residual_convolutions() + norms + linear(512, 10) == 11_173_962
    assert count(ResNet18()((3, 32, 32), 10, 0)) == 11_173_962


def test_preact_resnet18_has_11171146_parameters_and_no_final_norm() -> None:
    # BatchNorm: two a block, the first as wide as its input; none at the stem, the shortcuts or the end
    first = norm(64) + norm(64) + norm(64) + norm(128) + norm(128) + norm(256) + norm(256) + norm(512)
    second = 2 * (norm(64) + norm(128) + norm(256) + norm(512))
    assert residual_convolutions() + linear(512, 10) + first + second == 11_171_146
    model = PreActResNet18()((3, 32, 32), 10, 0)
    assert count(model) == 11_171_146
    assert kinds(model)[-3:] == ["AdaptiveAvgPool2d", "Flatten", "Linear"]


def test_the_smallest_preact_resnet_has_77850_parameters() -> None:
    # 3x3 stem; each group: BN, 3x3, BN, 3x3, and a 1x1 shortcut where the width changes; the last BN; FC
    stem, head = 3 * 16 * 9, 2 * 64 + (64 + 1) * 10
    first = 2 * 16 + 16 * 16 * 9 + 2 * 16 + 16 * 16 * 9
    second = 2 * 16 + 16 * 32 * 9 + 2 * 32 + 32 * 32 * 9 + 16 * 32
    third = 2 * 32 + 32 * 64 * 9 + 2 * 64 + 64 * 64 * 9 + 32 * 64
    assert stem + first + second + third + head == 77_850
    model = PreActResNet()((3, 32, 32), 10, 0)
    assert count(model) == 77_850
    assert kinds(model)[-5:] == ["BatchNorm2d", "ReLU", "AdaptiveAvgPool2d", "Flatten", "Linear"]


def test_a_second_block_adds_two_convolutions_and_two_norms_a_group() -> None:
    more = sum(2 * conv(width, width, 3, False) + 2 * norm(width) for width in (8, 24))
    small, large = (count(PreActResNet((8, 24), blocks)((1, 28, 28), 10, 0)) for blocks in (1, 2))
    assert large - small == more == 11_648


def test_preact_resnet_of_the_same_size_is_preact_resnet18_with_a_last_norm() -> None:
    general, special = PreActResNet((64, 128, 256, 512), 2)((3, 32, 32), 10, 0), PreActResNet18()((3, 32, 32), 10, 0)
    weights = general.state_dict()
    assert set(weights) - set(special.state_dict()) == {f"bn.{name}" for name in nn.BatchNorm2d(1).state_dict()}
    assert all(torch.equal(weights[name], tensor) for name, tensor in special.state_dict().items())


def test_the_weights_of_residual_networks_are_saved_under_the_names_they_always_had() -> None:
    names = ["conv1.weight", "group1.0.bn1.weight", "group1.1.conv2.weight", "group4.0.shortcut.weight", "fc.bias"]
    assert set(names) < set(PreActResNet18()((3, 32, 32), 10, 0).state_dict())
    names[3:4] = ["bn1.weight", "group4.0.shortcut.0.weight", "group4.0.shortcut.1.weight"]
    assert set(names) < set(ResNet18()((3, 32, 32), 10, 0).state_dict())


@pytest.mark.parametrize(("widths", "blocks"), [((), 1), ((16, 0), 1), ((16,), 0)])
def test_a_preact_resnet_without_filters_or_blocks_is_refused(widths: tuple[int, ...], blocks: int) -> None:
    with pytest.raises(InputError, match="at least one group, of at least one filter and one block"):
        PreActResNet(widths, blocks)


@pytest.mark.parametrize("component", [ResNet18(), PreActResNet18(), PreActResNet((4, 8, 16, 512))])
def test_residual_networks_shrink_32_pixels_to_4(component: Architecture) -> None:
    model = component((3, 32, 32), 10, 0).eval()
    seen: list[torch.Size] = []
    model.average.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))  # type: ignore[union-attr]
    model(torch.rand(1, 3, 32, 32))
    assert seen == [(1, 512, 4, 4)]


def test_a_residual_block_without_residual_is_its_rectified_shortcut() -> None:
    inputs = torch.randn(2, 4, 6, 6)
    block = ResidualBlock(4, 4, stride=1).eval()
    nn.init.zeros_(block.conv2.weight)
    assert torch.equal(block(inputs), inputs.relu())


def test_a_preactivation_block_carries_its_input_itself_and_its_shortcut_the_activation() -> None:
    inputs = torch.randn(2, 4, 6, 6)
    same, wider = PreActivationBlock(4, 4, stride=1).eval(), PreActivationBlock(4, 8, stride=2).eval()
    nn.init.zeros_(same.conv2.weight)
    nn.init.zeros_(wider.conv2.weight)
    assert torch.equal(same(inputs), inputs)
    assert isinstance(wider.shortcut, nn.Conv2d)
    assert torch.equal(wider(inputs), wider.shortcut(wider.bn1(inputs).relu()))


def test_normalise_works_channel_by_channel_and_is_saved() -> None:
    layer = Normalise((0.0, 0.5), (1.0, 0.25))
    assert layer(torch.ones(1, 2, 1, 1)).flatten().tolist() == [1.0, 2.0]
    assert set(layer.state_dict()) == {"mean", "std"}
    assert not list(layer.parameters())
