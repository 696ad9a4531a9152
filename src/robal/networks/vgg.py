"""VGG networks: the eight-layer ones of the DRE study and of DFAL, and VGG-16 with BatchNorm."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from robal.networks.building import Network, Shape, assemble, check_options, check_shape, drop, seeded

_VGG16_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


@dataclass(frozen=True)
class VGG8:
    """The VGG8 of the DRE study: five convolutions with BatchNorm and a global average.

    3x3 convolutions (padding 1) of 64, 128, 256, 512, 512 filters, each BN ReLU; 2x2 pooling after the first three,
    and after the fourth too where images are 64 pixels or more; global average; FC classes. Convolutions start
    He-normal (fan-out), the last layer N(0, 0.01²), all biases at 0. Images of at least 16x16. Embeddings are 512-d.

    Args:
        dropout: rate before each maximum pooling, [0, 1); 0 leaves the layers out.
        mean, std: normalisation, one number a channel; None: none, as in the study.
        features: the layer whose input is the embedding; "": the last Linear.

    Calling it gives a module from float32 [B, C, H, W] in [0, 1] to logits float32 [B, classes], on the CPU, its
    weights a function of the seed alone. Raises InputError where shape or classes do not fit.

    Source: Guo et al., Neural Computing & Applications 2023 (arXiv 2112.02542), released code. Its BALD adds
    dropout 0.1 at test time only; see `LeNet5DRE`.
    """

    dropout: float = 0.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    features: str = ""

    def __post_init__(self) -> None:
        check_options(self.mean, self.std, self.dropout)

    def __call__(self, shape: Shape, classes: int, seed: int) -> Network:
        check_shape("VGG8", shape, classes)
        pools = 4 if min(shape[1:]) >= 64 else 3
        layers: dict[str, nn.Module | None] = {}
        with seeded(seed):
            for block, (before, after) in enumerate(pairwise((shape[0], 64, 128, 256, 512, 512)), start=1):
                layers |= _convolution(str(block), before, after)
                if block <= pools:
                    layers |= {f"drop{block}": drop(self.dropout), f"pool{block}": nn.MaxPool2d(2)}
            layers |= {"average": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(512, classes)}
            for layer in layers.values():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                elif isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, 0.0, 0.01)
                if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        return assemble(layers, shape, self.mean, self.std, self.features)


@dataclass(frozen=True)
class VGG8DFAL:
    """The VGG8 of DFAL: six convolutions without BatchNorm, dropout after each pooling, a head of 4096 units.

    3x3 convolutions (padding 1) of 64 | 128 | 256, 256 | 512, 512 filters with ReLU; pooling and dropout after each
    group; FC 4096 ReLU dropout; FC classes. Images of at least 16x16. Embeddings are 4096-d. Call as `VGG8`.

    Args:
        dropout: rate after each pooling, [0, 1).
        dropout_head: rate after the 4096 units, [0, 1).
        mean, std, features: as in `VGG8`.

    Source: Ducoffe and Precioso, arXiv 1802.09841 (2018), released code. Differs from it: logits instead of the
    final softmax; PyTorch's initial weights instead of Keras's. ReLU after each convolution is taken as meant.
    """

    dropout: float = 0.25
    dropout_head: float = 0.5
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    features: str = ""

    def __post_init__(self) -> None:
        check_options(self.mean, self.std, self.dropout, self.dropout_head)

    def __call__(self, shape: Shape, classes: int, seed: int) -> Network:
        check_shape("VGG8DFAL", shape, classes)
        channels, height, width = shape
        layers: dict[str, nn.Module | None] = {}
        with seeded(seed):
            for block, filters in enumerate(((64,), (128,), (256, 256), (512, 512)), start=1):
                for place, after in enumerate(filters, start=1):
                    layers[f"conv{block}_{place}"] = nn.Conv2d(channels, after, 3, padding=1)
                    layers[f"relu{block}_{place}"] = nn.ReLU()
                    channels = after
                layers |= {f"pool{block}": nn.MaxPool2d(2), f"drop{block}": drop(self.dropout)}
            layers |= {
                "flatten": nn.Flatten(),
                "fc1": nn.Linear(512 * (height // 16) * (width // 16), 4096),
                "relu5": nn.ReLU(),
                "drop5": drop(self.dropout_head),
                "fc2": nn.Linear(4096, classes),
            }
        return assemble(layers, shape, self.mean, self.std, self.features)


@dataclass(frozen=True)
class VGG16:
    """VGG-16 with BatchNorm for 32x32 images: thirteen convolutions, five poolings, one linear layer.

    3x3 convolutions (padding 1) of 2x64, 2x128, 3x256, 3x512, 3x512 filters, each BN ReLU, a 2x2 pooling after each
    group; FC classes. Embeddings are 512-d. Call as `VGG8`; images must be 32x32.

    Args:
        dropout: rate before each pooling, [0, 1); 0 leaves the layers out.
        mean, std, features: as in `VGG8`.

    Source: Simonyan and Zisserman, ICLR 2015 (arXiv 1409.1556), configuration D, in the widespread form for CIFAR
    that the DRE study uses (Guo et al. 2023). Differs from the study: its dropout for BALD was never part of the
    forward pass; here it acts before each pooling.
    """

    dropout: float = 0.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    features: str = ""

    def __post_init__(self) -> None:
        check_options(self.mean, self.std, self.dropout)

    def __call__(self, shape: Shape, classes: int, seed: int) -> Network:
        check_shape("VGG16", shape, classes, exactly=32)
        channels = shape[0]
        layers: dict[str, nn.Module | None] = {}
        with seeded(seed):
            for block, filters in enumerate(_VGG16_BLOCKS, start=1):
                for place, after in enumerate(filters, start=1):
                    layers |= _convolution(f"{block}_{place}", channels, after)
                    channels = after
                layers |= {f"drop{block}": drop(self.dropout), f"pool{block}": nn.MaxPool2d(2)}
            layers |= {"flatten": nn.Flatten(), "fc": nn.Linear(512, classes)}
        return assemble(layers, shape, self.mean, self.std, self.features)


def _convolution(name: str, before: int, after: int) -> dict[str, nn.Module | None]:
    return {
        f"conv{name}": nn.Conv2d(before, after, 3, padding=1),
        f"bn{name}": nn.BatchNorm2d(after),
        f"relu{name}": nn.ReLU(),
    }
