"""LeNet-5 in its three forms: the classic one, the one of the DRE study and the one of DFAL."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from robal.networks.building import Network, Shape, assemble, check_options, check_shape, drop, seeded


@dataclass(frozen=True)
class LeNet5:
    """The classic small convolutional network, with maximum pooling and ReLU and without BatchNorm.

    conv 5x5 (6, padding 2), pool, conv 5x5 (16), pool, FC 120, FC 84, FC classes; ReLU after all but the last. On
    28x28 grey images and 10 classes it has 61,706 parameters; any image of at least 16x16 fits. Embeddings are 84-d.

    Args:
        dropout: rate after the ReLU of each convolution, [0, 1); 0 leaves the layers out.
        mean, std: normalisation, one number a channel; None: none.
        features: the layer whose input is the embedding; "": the last Linear.

    Calling it gives a module from float32 [B, C, H, W] in [0, 1] to logits float32 [B, classes], on the CPU, its
    weights a function of the seed alone. Raises InputError where shape or classes do not fit.

    Source: LeCun, Bottou, Bengio, Haffner, Proc. IEEE 1998, section II. Differs from it: ReLU for tanh, maximum
    pooling for trainable averages, a fully connected second convolution, a linear last layer for radial units.

    >>> sum(p.numel() for p in LeNet5()((1, 28, 28), 10, seed=0).parameters())
    61706
    """

    dropout: float = 0.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    features: str = ""

    def __post_init__(self) -> None:
        check_options(self.mean, self.std, self.dropout)

    def __call__(self, shape: Shape, classes: int, seed: int) -> Network:
        check_shape("LeNet5", shape, classes)
        channels, height, width = shape
        flat = 16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
        with seeded(seed):
            layers = {
                "conv1": nn.Conv2d(channels, 6, 5, padding=2),
                "relu1": nn.ReLU(),
                "drop1": drop(self.dropout),
                "pool1": nn.MaxPool2d(2),
                "conv2": nn.Conv2d(6, 16, 5),
                "relu2": nn.ReLU(),
                "drop2": drop(self.dropout),
                "pool2": nn.MaxPool2d(2),
                "flatten": nn.Flatten(),
                "fc1": nn.Linear(flat, 120),
                "relu3": nn.ReLU(),
                "fc2": nn.Linear(120, 84),
                "relu4": nn.ReLU(),
                "fc3": nn.Linear(84, classes),
            }
        return assemble(layers, shape, self.mean, self.std, self.features)


@dataclass(frozen=True)
class LeNet5DRE:
    """The LeNet-5 of the DRE study: three convolutions with BatchNorm, on 32x32 images.

    conv 5x5 (6) BN ReLU pool, conv 5x5 (16) BN ReLU pool, conv 5x5 (120) BN ReLU, FC 84 ReLU, FC classes. The study
    feeds it MNIST and Fashion-MNIST resized to 32x32, without normalisation. Embeddings are 84-d. Arguments and call
    as `LeNet5`; images must be 32x32.

    Source: Guo et al., Neural Computing & Applications 2023 (arXiv 2112.02542), released code.
    Differs from it: the trailing LogSoftmax is left out, which changes neither loss nor probabilities. `dropout`
    belongs to the network and acts in training too; the study trains without and has dropout 0.1 in the passes of its
    BALD only, as `robal.acquisition.bayesian.BALD` does with LeNet5DRE(dropout=0).
    """

    dropout: float = 0.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    features: str = ""

    def __post_init__(self) -> None:
        check_options(self.mean, self.std, self.dropout)

    def __call__(self, shape: Shape, classes: int, seed: int) -> Network:
        check_shape("LeNet5DRE", shape, classes, exactly=32)
        with seeded(seed):
            layers = {
                "conv1": nn.Conv2d(shape[0], 6, 5),
                "bn1": nn.BatchNorm2d(6),
                "relu1": nn.ReLU(),
                "drop1": drop(self.dropout),
                "pool1": nn.MaxPool2d(2),
                "conv2": nn.Conv2d(6, 16, 5),
                "bn2": nn.BatchNorm2d(16),
                "relu2": nn.ReLU(),
                "drop2": drop(self.dropout),
                "pool2": nn.MaxPool2d(2),
                "conv3": nn.Conv2d(16, 120, 5),
                "bn3": nn.BatchNorm2d(120),
                "relu3": nn.ReLU(),
                "drop3": drop(self.dropout),
                "flatten": nn.Flatten(),
                "fc1": nn.Linear(120, 84),
                "relu4": nn.ReLU(),
                "fc2": nn.Linear(84, classes),
            }
        return assemble(layers, shape, self.mean, self.std, self.features)


@dataclass(frozen=True)
class LeNet5DFAL:
    """The LeNet-5 of DFAL: dropout after each pooling, and a head that ends in two layers as wide as the classes.

    conv 5x5 (6) ReLU pool drop, conv 5x5 (16) ReLU pool drop, conv 1x1 (120), FC 84 ReLU, FC classes, drop,
    FC classes; convolutions without padding. Images of at least 16x16. Embeddings are the 84 inputs of the first
    layer that is as wide as the classes. Call as `LeNet5`.

    Args:
        dropout: rate after each pooling, [0, 1).
        dropout_head: rate between the last two layers, [0, 1).
        mean, std, features: as in `LeNet5`.

    Source: Ducoffe and Precioso, arXiv 1802.09841 (2018), released code. Differs from it: logits instead of the
    final softmax; PyTorch's initial weights instead of Keras's.
    """

    dropout: float = 0.25
    dropout_head: float = 0.5
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    features: str = "fc2"

    def __post_init__(self) -> None:
        check_options(self.mean, self.std, self.dropout, self.dropout_head)

    def __call__(self, shape: Shape, classes: int, seed: int) -> Network:
        check_shape("LeNet5DFAL", shape, classes)
        channels, height, width = shape
        flat = 120 * (((height - 4) // 2 - 4) // 2) * (((width - 4) // 2 - 4) // 2)
        with seeded(seed):
            layers = {
                "conv1": nn.Conv2d(channels, 6, 5),
                "relu1": nn.ReLU(),
                "pool1": nn.MaxPool2d(2),
                "drop1": drop(self.dropout),
                "conv2": nn.Conv2d(6, 16, 5),
                "relu2": nn.ReLU(),
                "pool2": nn.MaxPool2d(2),
                "drop2": drop(self.dropout),
                "conv3": nn.Conv2d(16, 120, 1),
                "flatten": nn.Flatten(),
                "fc1": nn.Linear(flat, 84),
                "relu3": nn.ReLU(),
                "fc2": nn.Linear(84, classes),
                "drop3": drop(self.dropout_head),
                "fc3": nn.Linear(classes, classes),
            }
        return assemble(layers, shape, self.mean, self.std, self.features)
