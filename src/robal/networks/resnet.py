"""Residual networks for small images: the original order with 18 layers, the pre-activation order of any size."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from robal.errors import InputError
from robal.networks.building import Network, Shape, assemble, check_options, check_shape, drop, seeded

_WIDTHS_18, _BLOCKS_18 = (64, 128, 256, 512), 2  # filters of each group, blocks a group


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + BN conv relu BN conv x): [B, before, H, W] -> [B, after, H / stride, W / stride]."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        self.relu2 = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(inputs)))))
        return self.relu2(residual + self.shortcut(inputs))


class PreActivationBlock(nn.Module):
    """shortcut(a) + conv relu BN conv a, with a = relu(BN(x)); an identity shortcut carries x itself."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or before != after:
            self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        active = self.relu1(self.bn1(inputs))
        residual: Tensor = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        return residual + (inputs if self.shortcut is None else self.shortcut(active))


@dataclass(frozen=True)
class ResNet18:
    """ResNet-18 for small images: a 3x3 first convolution with stride 1 and no pooling before the blocks.

    conv 3x3 (64) BN ReLU; eight residual blocks, two each of 64, 128, 256, 512 filters; global average; FC classes.
    On 32x32 colour images and 10 classes it has 11,173,962 parameters; any image of at least 16x16 fits. Embeddings
    are 512-d.

    Args:
        dropout: rate before the first block, [0, 1); 0 leaves the layer out.
        mean, std: normalisation, one number a channel; None: none.
        features: the layer whose input is the embedding; "": the last Linear.

    Calling it gives a module from float32 [B, C, H, W] in [0, 1] to logits float32 [B, classes], on the CPU, its
    weights a function of the seed alone. Raises InputError where shape or classes do not fit.

    Source: He, Zhang, Ren, Sun, CVPR 2016 (arXiv 1512.03385), in the widespread form for CIFAR that the DRE study
    uses (Guo et al. 2023). Its BALD adds dropout 0.1 at test time only; see `LeNet5DRE`.
    """

    dropout: float = 0.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    features: str = ""

    def __post_init__(self) -> None:
        check_options(self.mean, self.std, self.dropout)

    def __call__(self, shape: Shape, classes: int, seed: int) -> Network:
        check_shape("ResNet18", shape, classes)
        with seeded(seed):
            layers: dict[str, nn.Module | None] = {
                "conv1": nn.Conv2d(shape[0], 64, 3, padding=1, bias=False),
                "bn1": nn.BatchNorm2d(64),
                "relu1": nn.ReLU(),
                "drop1": drop(self.dropout),
            }
            layers |= _groups(ResidualBlock, _WIDTHS_18, _BLOCKS_18) | _head(_WIDTHS_18[-1], classes)
        return assemble(layers, shape, self.mean, self.std, self.features)


@dataclass(frozen=True)
class PreActResNet:
    """A residual network with BatchNorm and ReLU before each convolution, as small as wanted.

    conv 3x3; groups of `blocks` pre-activation blocks, from the second group on with stride 2 at first; BN ReLU;
    global average; FC classes: 2 · groups · blocks + 2 layers. As it stands it has 77,850 parameters on colour images
    and 10 classes. Embeddings are as many as the last of `widths`.

    Args:
        widths: filters of each group, the first convolution's as the first's; at least one group.
        blocks: in each group, at least 1.
        dropout: rate before the first block, [0, 1); 0 leaves the layer out.
        mean, std: normalisation, one number a channel; None: none.
        features: the layer whose input is the embedding; "": the last Linear.

    Calling it gives a module from float32 [B, C, H, W] in [0, 1], at least 16x16, to logits float32 [B, classes], on
    the CPU, its weights a function of the seed alone. Raises InputError where widths, shape or classes do not fit.

    Source: He, Zhang, Ren, Sun, ECCV 2016 (arXiv 1603.05027), whose networks for CIFAR have widths (16, 32, 64).
    Differs from the paper: the first block's shortcut carries the first convolution itself, before BN and ReLU.
    """

    widths: tuple[int, ...] = (16, 32, 64)
    blocks: int = 1
    dropout: float = 0.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    features: str = ""

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1 or self.blocks < 1:
            raise InputError(
                "PreActResNet needs at least one group, of at least one filter and one block, such as "
                f"widths=(16, 32, 64) and blocks=1; {self.widths} and {self.blocks} came"
            )
        check_options(self.mean, self.std, self.dropout)

    def __call__(self, shape: Shape, classes: int, seed: int) -> Network:
        check_shape("PreActResNet", shape, classes)
        last = self.widths[-1]
        with seeded(seed):
            layers = _preactivation(shape[0], self.widths, self.blocks, self.dropout)
            layers |= {"bn": nn.BatchNorm2d(last), "relu": nn.ReLU()} | _head(last, classes)
        return assemble(layers, shape, self.mean, self.std, self.features)


@dataclass(frozen=True)
class PreActResNet18:
    """ResNet-18 with BatchNorm and ReLU before each convolution, the usual network of adversarial training.

    As `PreActResNet` with widths (64, 128, 256, 512) and two blocks a group, but without the last BN and ReLU.
    11,171,146 parameters on 32x32 colour images and 10 classes. Embeddings are 512-d. Arguments and call as
    `ResNet18`.

    Source: He, Zhang, Ren, Sun, ECCV 2016 (arXiv 1603.05027), in the widespread form for CIFAR that the DRE study
    uses (Guo et al. 2023). Differs from the paper: no BatchNorm and ReLU after the last block.
    """

    dropout: float = 0.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    features: str = ""

    def __post_init__(self) -> None:
        check_options(self.mean, self.std, self.dropout)

    def __call__(self, shape: Shape, classes: int, seed: int) -> Network:
        check_shape("PreActResNet18", shape, classes)
        with seeded(seed):
            layers = _preactivation(shape[0], _WIDTHS_18, _BLOCKS_18, self.dropout)
            layers |= _head(_WIDTHS_18[-1], classes)
        return assemble(layers, shape, self.mean, self.std, self.features)


def _preactivation(channels: int, widths: tuple[int, ...], blocks: int, dropout: float) -> dict[str, nn.Module | None]:
    """The first convolution and the groups of a pre-activation network."""
    layers: dict[str, nn.Module | None] = {
        "conv1": nn.Conv2d(channels, widths[0], 3, padding=1, bias=False),
        "drop1": drop(dropout),
    }
    return layers | _groups(PreActivationBlock, widths, blocks)


def _groups(
    block: type[ResidualBlock] | type[PreActivationBlock], widths: tuple[int, ...], blocks: int
) -> dict[str, nn.Module | None]:
    """Groups of blocks, named from 1 on; all but the first halve the image."""
    layers: dict[str, nn.Module | None] = {}
    before = widths[0]
    for group, after in enumerate(widths, start=1):
        first = block(before, after, stride=1 if group == 1 else 2)
        layers[f"group{group}"] = nn.Sequential(first, *(block(after, after, stride=1) for _ in range(1, blocks)))
        before = after
    return layers


def _head(width: int, classes: int) -> dict[str, nn.Module | None]:
    return {"average": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(width, classes)}
