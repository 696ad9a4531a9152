"""Backbones of timm, pretrained or not, with a head for one's own classes."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from torch import nn

from robal.errors import InputError, did_you_mean
from robal.networks.building import Shape, assemble, check_shape, seeded


@dataclass(frozen=True)
class Timm:
    """A network of timm (`pip install 'robal[timm]'`), with its own normalisation as the first layer.

    Args:
        model: its name there, such as "resnet18.a1_in1k" or "convnext_tiny".
        pretrained: with the weights that timm fetches from the Hugging Face Hub, or finds in its cache; the head is
            fresh. Give `data.resize` the side that they were trained at (224 for most): ε is of intensities after
            resizing.

    Standard pre-training can lower robustness even under adversarial fine-tuning (arXiv 2312.05716): try without, too.

    Raises InputError where timm is not there or cannot be imported (it needs torchvision's build for this torch), or
    does not know the model.
    """

    model: str = "resnet18"
    pretrained: bool = False

    def __call__(self, shape: Shape, classes: int, seed: int) -> nn.Module:
        check_shape("Timm", shape, classes, smallest=32)
        timm = _timm()
        if not timm.is_model(self.model):
            raise InputError(f"timm has no model {self.model!r}; {did_you_mean(self.model, timm.list_models())}")
        with seeded(seed):
            try:
                built = timm.create_model(
                    self.model, pretrained=self.pretrained, num_classes=classes, in_chans=shape[0]
                )
            except Exception as error:  # of the network, the hub, or a model that takes no such images
                told = " ".join(str(error).split())[:300]
                raise InputError(f"timm could not build {self.model!r}: {type(error).__name__}: {told}") from error
        config: dict[str, Any] = built.pretrained_cfg
        mean, std = (tuple(float(one) for one in config[name]) for name in ("mean", "std"))
        if shape[0] != len(mean):
            mean, std = (sum(mean) / len(mean),) * shape[0], (sum(std) / len(std),) * shape[0]
        return assemble({"model": built}, shape, mean, std)


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except Exception as error:  # torchvision of another build fails in many ways
        raise InputError(
            "network=Timm needs timm, and torchvision for this torch: pip install 'robal[timm]' "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        ) from error
