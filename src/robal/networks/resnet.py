"""Residual networks with 18 layers for small images: the original order and the pre-activation order."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from robal.networks.building import Network, Shape, assemble, check_options, check_shape, drop, seeded

_GROUPS = ((64, 1), (128, 2), (256, 2), (512, 2))  # filters, stride of the group's first block; two blocks a group


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
            layers |= _body(ResidualBlock, classes)
        return assemble(layers, shape, self.mean, self.std, self.features)


@dataclass(frozen=True)
class PreActResNet18:
    """ResNet-18 with BatchNorm and ReLU before each convolution, the usual network of adversarial training.

    conv 3x3 (64); eight pre-activation blocks, two each of 64, 128, 256, 512 filters; global average; FC classes.
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
            layers: dict[str, nn.Module | None] = {
                "conv1": nn.Conv2d(shape[0], 64, 3, padding=1, bias=False),
                "drop1": drop(self.dropout),
            }
            layers |= _body(PreActivationBlock, classes)
        return assemble(layers, shape, self.mean, self.std, self.features)


def _body(block: type[ResidualBlock] | type[PreActivationBlock], classes: int) -> dict[str, nn.Module | None]:
    """Eight blocks in four groups, the global average and the last layer."""
    layers: dict[str, nn.Module | None] = {}
    before = 64
    for group, (filters, stride) in enumerate(_GROUPS, start=1):
        first, second = block(before, filters, stride), block(filters, filters, 1)
        layers[f"group{group}"] = nn.Sequential(first, second)
        before = filters
    return layers | {"average": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(512, classes)}
