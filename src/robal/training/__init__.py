"""Training: recipes, and `fit`, which carries them out."""

from robal.training.augmentation import Augmentation, CropFlip, NoAugmentation
from robal.training.fit import Monitor, fit
from robal.training.optimisers import (
    SGD,
    Adam,
    Constant,
    Cosine,
    Optimiser,
    ReleasedCyclic,
    Schedule,
    Triangular,
)
from robal.training.recipe import Recipe
from robal.training.trained import Trained

__all__ = [
    "SGD",
    "Adam",
    "Augmentation",
    "Constant",
    "Cosine",
    "CropFlip",
    "Monitor",
    "NoAugmentation",
    "Optimiser",
    "Recipe",
    "ReleasedCyclic",
    "Schedule",
    "Trained",
    "Triangular",
    "fit",
]

ALIASES = {"adam": "Adam", "sgd": "SGD"}
