"""The linear model of CAAT's claim: its optima by a formula, and by robal's crafting on drawn images."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from robal.attacks import ascend
from robal.threats import Linf
from small_models import linear

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "fairness_theory.py"


@pytest.fixture(scope="module")
def theory() -> Any:
    spec = importlib.util.spec_from_file_location("fairness_theory", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fairness_theory"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("hard", "easy", "rarity"), [(0, 0, 1), (0.4, 0.4, 1), (0.4, -0.4, 1), (0.4, 0.4, 0.2)])
def test_the_best_threshold_is_where_the_densities_are_equal(
    theory: Any, hard: float, easy: float, rarity: float
) -> None:
    assert theory.best(theory.balanced(hard, easy, rarity)) == pytest.approx(
        theory.by_formula(hard, easy, rarity), abs=6e-5
    )


def test_the_logistic_optimum_is_what_training_on_crafted_images_finds(theory: Any) -> None:
    """Drawn images are moved by robal's own crafting against a linear model, 60,000 a class, and scikit-learn fits.

    A pixel p stands for z = 10 p − 5. The standard error of the threshold is about 0.01.
    """
    for hard, easy, noise in ((0.4, 0.4, 0.0), (0.4, -0.4, 0.0), (0.4, -0.4, 0.3)):
        draw = np.random.default_rng(0)
        true = np.repeat([1, -1], 60_000)
        label = np.where((true > 0) & (draw.random(len(true)) < noise), -1, true)
        z = true + np.where(true > 0, theory.WIDE, theory.NARROW) * draw.standard_normal(len(true))
        moved = np.where(label != true, easy, np.where((true > 0) | (noise > 0), hard, easy))
        groups = theory.flipped(hard, easy, noise) if noise else theory.balanced(hard, easy)
        images = torch.tensor((z + 5) / 10, dtype=torch.float32).clamp(0, 1).view(-1, 1, 1, 1)
        classes, model = torch.tensor(label > 0).long(), linear([[-1.0], [1.0]])
        sign = torch.tensor(np.sign(moved), dtype=torch.float32)
        crafted = ascend(
            lambda x, model=model, classes=classes: F.cross_entropy(model(x), classes, reduction="none"),
            images,
            Linf(abs(hard) / 10),
            steps=1,
            step_size=abs(hard) / 10,
            direction=sign,
        )
        fitted = LogisticRegression(C=np.inf).fit(10 * crafted.flatten(1).numpy() - 5, classes.numpy())
        assert fitted.intercept_[0] / fitted.coef_[0, 0] == pytest.approx(theory.best_logistic(groups), abs=0.03)


def test_what_the_model_says_of_the_claim(theory: Any) -> None:
    """Fairer by class: yes, by either loss. Better under wrong labels: by the logistic loss, not by the share wrong."""

    def gap(found: Any, groups: Any) -> float:
        hard, easy = theory.errors(found(groups))
        return float(hard - easy)

    for found in theory.LOSSES.values():
        assert gap(found, theory.balanced(0.4, 0.4)) > gap(found, theory.balanced(0, 0)) > 0
        assert abs(gap(found, theory.balanced(0.4, 0.0))) < gap(found, theory.balanced(0.4, 0.4))
        assert gap(found, theory.balanced(0.4, -0.4)) < 0  # too much of it turns the gap round
        assert gap(found, theory.balanced(0.4, -0.4, 0.2)) < gap(found, theory.balanced(0.4, 0.4, 0.2))
    flipped = {name: [gap(found, theory.flipped(0.4, e)) for e in (0.4, -0.4)] for name, found in theory.LOSSES.items()}
    assert flipped["logistic"][1] < flipped["logistic"][0] - 0.1
    assert flipped["share of wrong ones"][1] > flipped["share of wrong ones"][0]


def test_what_the_model_says_of_natural_against_robust_errors(theory: Any) -> None:
    """Means of both classes: the mix lowers both errors where one class is rare, and under wrong labels by the logistic
    loss; where classes are as frequent and labels right it raises both."""

    def mean(found: Any, groups: Any, moved: float) -> float:
        return float(sum(theory.errors(found(groups), moved)) / 2)

    for loss, found in theory.LOSSES.items():
        for moved in (0.0, theory.REACH):
            rare = [mean(found, theory.balanced(0.4, e, 0.2), moved) for e in (0.4, -0.4)]
            even = [mean(found, theory.balanced(0.4, e), moved) for e in (0.4, -0.4)]
            wrong = [mean(found, theory.flipped(0.4, e), moved) for e in (0.4, -0.4)]
            assert rare[1] < rare[0] - 0.03
            assert even[1] > even[0] + 0.02
            assert (wrong[1] < wrong[0] - 0.07) == (loss == "logistic")


def test_an_adversary_moves_an_image_towards_the_boundary_by_his_reach(theory: Any) -> None:
    """sign(z + b): the harder class errs where z < −b, the easier one where z > −b, once the adversary moved z."""
    hard, easy = theory.errors(0.2, 0.3)
    draw = np.random.default_rng(1).standard_normal(400_000)
    assert hard == pytest.approx(np.mean(1 + theory.WIDE * draw - 0.3 < -0.2), abs=0.003)
    assert easy == pytest.approx(np.mean(-1 + theory.NARROW * draw + 0.3 > -0.2), abs=0.003)


def test_the_picture_is_drawn_and_the_table_is_whole(theory: Any, tmp_path: Path) -> None:
    theory.draw(tmp_path / "fairness.png")
    assert (tmp_path / "fairness.png").stat().st_size > 20_000
    rows = theory.table().splitlines()
    assert len(rows) == 2 + 2 * sum(len(ways) for ways in theory.SETTINGS.values())
