"""Attacks: a frozen dataclass each, called through the gate `perturb`. A new one is one file and one line here."""

from robal.attacks.apgd import APGD
from robal.attacks.ascent import ascend
from robal.attacks.autoattack import AutoAttack
from robal.attacks.crafting import crafting
from robal.attacks.deepfool import DeepFool, Fooled
from robal.attacks.fgsm import FGSM
from robal.attacks.monitor import Monitor
from robal.attacks.perturb import Attack, perturb
from robal.attacks.pgd import PGD
from robal.attacks.square import Square
from robal.attacks.transfer import Transferred, transfer

__all__ = [
    "APGD",
    "FGSM",
    "PGD",
    "Attack",
    "AutoAttack",
    "DeepFool",
    "Fooled",
    "Monitor",
    "Square",
    "Transferred",
    "ascend",
    "crafting",
    "perturb",
    "transfer",
]

ALIASES = {
    "pgd": "PGD",
    "fgsm": "FGSM",
    "apgd": "APGD",
    "square": "Square",
    "monitor": "Monitor",
    "autoattack": "AutoAttack",
    "aa": "AutoAttack",
}
