"""Training: recipes, and `fit`, which carries them out."""

from robal.augmentations import Affine, Augmentation, Brightness, Chain, CropFlip, Cutout, NoAugmentation
from robal.training.fit import fit
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
from robal.training.recipe import PoolTraining, Recipe
from robal.training.trained import Trained

__all__ = [
    "SGD",
    "Adam",
    "Affine",
    "Augmentation",
    "Brightness",
    "Chain",
    "Constant",
    "Cosine",
    "CropFlip",
    "Cutout",
    "NoAugmentation",
    "Optimiser",
    "PoolTraining",
    "Recipe",
    "ReleasedCyclic",
    "Schedule",
    "Trained",
    "Triangular",
    "fit",
]

ALIASES = {"adam": "Adam", "sgd": "SGD"}
