"""Attacks: a frozen dataclass each, called through the gate `perturb`. A new one is one file and one line here."""

from robal.attacks.ascent import ascend
from robal.attacks.autoattack import AutoAttack
from robal.attacks.crafting import crafting
from robal.attacks.deepfool import DeepFool, Fooled
from robal.attacks.fgsm import FGSM
from robal.attacks.perturb import Attack, perturb
from robal.attacks.pgd import PGD

__all__ = ["FGSM", "PGD", "Attack", "AutoAttack", "DeepFool", "Fooled", "ascend", "crafting", "perturb"]

ALIASES = {"pgd": "PGD", "fgsm": "FGSM", "autoattack": "AutoAttack", "aa": "AutoAttack"}
