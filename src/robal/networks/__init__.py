"""Networks: each a frozen dataclass that builds a module from [0, 1] images to logits, by shape, classes and seed."""

from robal.networks.building import Architecture
from robal.networks.custom import Custom, load_weights
from robal.networks.dropout import DropoutPasses, dropout_places
from robal.networks.features import embedding_layer, forward_with_embeddings
from robal.networks.head import backbone_of, head_makes_logits, head_of, with_one_more_class, without_last_class
from robal.networks.intervals import interval_bounds, is_affine
from robal.networks.layout import channels_last, home_of
from robal.networks.lenet import LeNet5, LeNet5DFAL, LeNet5DRE
from robal.networks.logits import check_logits
from robal.networks.modes import dropout_layers, frozen
from robal.networks.normalise import Normalise
from robal.networks.precision import answering_in_float32, gains_from_bfloat16, in_bfloat16
from robal.networks.pretrained import Timm
from robal.networks.resnet import PreActResNet, PreActResNet18, ResNet18
from robal.networks.vgg import VGG8, VGG8DFAL, VGG16

__all__ = [
    "ALIASES",
    "VGG8",
    "VGG8DFAL",
    "VGG16",
    "Architecture",
    "Custom",
    "DropoutPasses",
    "LeNet5",
    "LeNet5DFAL",
    "LeNet5DRE",
    "Normalise",
    "PreActResNet",
    "PreActResNet18",
    "ResNet18",
    "Timm",
    "answering_in_float32",
    "backbone_of",
    "channels_last",
    "check_logits",
    "dropout_layers",
    "dropout_places",
    "embedding_layer",
    "forward_with_embeddings",
    "frozen",
    "gains_from_bfloat16",
    "head_makes_logits",
    "head_of",
    "home_of",
    "in_bfloat16",
    "interval_bounds",
    "is_affine",
    "load_weights",
    "with_one_more_class",
    "without_last_class",
]

ALIASES: dict[str, str] = {
    "lenet": "LeNet5",
    "lenet5": "LeNet5",
    "lenet5_dre": "LeNet5DRE",
    "lenet5_dfal": "LeNet5DFAL",
    "vgg8": "VGG8",
    "vgg8_dfal": "VGG8DFAL",
    "vgg16": "VGG16",
    "resnet18": "ResNet18",
    "preact_resnet": "PreActResNet",
    "preact_resnet18": "PreActResNet18",
    "custom": "Custom",
    "timm": "Timm",
}
