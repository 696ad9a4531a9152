"""Labels that look wrong: what models that never saw them say, ranked by cleanlab, so that somebody is asked again."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robal.errors import InputError, RobalError
from robal.evaluation import probabilities
from robal.evaluation.reliability import auroc
from robal.objectives import Objective
from robal.pool import Examples
from robal.seeds import generator, stream
from robal.training import Recipe, Trained, fit


def out_of_fold(
    recipe: Recipe,
    examples: Examples,
    fresh: Callable[[], nn.Module],
    folds: int,
    seed: int,
    *,
    checkpoint: Path | None = None,
    what: str = "looking for wrong labels",
) -> tuple[Tensor, int, float]:
    """What a model says of each example that was trained, from fresh weights, on the other folds.

    Args:
        recipe: how the models are trained.
        examples: [E]; each fold's rest has to hold two.
        fresh: builds an untrained network.
        folds: how many, at least 2.
        seed: of the folds and the trainings.
        checkpoint: a file name beside which each training keeps its state, so that a killed one goes on.
        what: a title for the progress bars.

    Returns:
        [E, K] float32 probabilities on the CPU, gradient evaluations, and seconds spent by earlier, killed processes.

    Raises:
        InputError: for too few examples.
    """
    if folds < 2 or len(examples) < 2 * folds:
        raise InputError(f"{folds} folds need at least {max(2, folds) * 2} labels, and two folds; {len(examples)} came")
    order = torch.randperm(len(examples), generator=generator(seed, "folds"))
    found: Tensor | None = None
    spent, earlier = 0, 0.0
    for number, fold in enumerate(order.tensor_split(folds)):
        rest = torch.ones(len(examples), dtype=torch.bool)
        rest[fold] = False
        trained = fit(
            recipe,
            examples.only(rest),
            None,
            Trained(fresh()),
            None,
            stream(seed, "fold", number),
            checkpoint=checkpoint and checkpoint.with_name(f"{checkpoint.stem}-{number}{checkpoint.suffix}"),
            what=f"{what}, fold {number + 1} of {folds}",
        )
        said = probabilities(trained.model, examples.images[fold]).float().cpu()
        found = torch.zeros(len(examples), said.shape[1]) if found is None else found
        found[fold] = said
        spent, earlier = spent + trained.evaluations, earlier + trained.earlier
    assert found is not None
    return found, spent, earlier


def quality(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """How well each label goes with what a model says that never saw it, and whether confident learning doubts it.

    Args:
        probs: [E, K] out-of-fold probabilities.
        labels: [E] int64.

    Returns:
        [E] float64 in [0, 1], the probability of the label itself, low for suspects; [E] bool.

    Raises:
        RobalError: where cleanlab is not installed.

    Source: Northcutt, Jiang and Chuang, JAIR 2021, arXiv 1911.00068, as implemented in cleanlab.
    """
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError as error:
        raise RobalError("cleanlab is not installed: pip install 'robal[noise]'") from error
    present, dense = labels.unique(return_inverse=True)  # cleanlab wants every class to be there
    if len(present) < 2:
        raise InputError("wrong labels are found by comparing classes, and all labels are of one class")
    some = probs.double()[:, present].clamp_min(1e-12)
    said, named = (some / some.sum(1, keepdim=True)).numpy(), dense.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a class has too few labels for all its wrong ones to be found
        scores = get_label_quality_scores(named, said, method="self_confidence")
        doubted = find_label_issues(named, said, n_jobs=1)
    return torch.from_numpy(np.asarray(scores)), torch.from_numpy(np.asarray(doubted))


def queue(probs: Tensor, labels: Tensor, most: int) -> Tensor:
    """[q ≤ most] int64, positions of the doubted labels, the worst first; none where all are of one class."""
    if len(labels.unique()) < 2:
        return torch.empty(0, dtype=torch.int64)
    scores, doubted = quality(probs, labels)
    order = scores.argsort(stable=True)
    return order[doubted[order]][:most]


def describe_labels(
    objective: Objective, trained: Trained, examples: Examples, hidden: Tensor | None
) -> dict[str, Any] | None:
    """In a simulation: how many bought labels that were trained on are wrong, and how well two scores tell them.

    Args:
        objective: of the training; one with `distrust`, as CAAT, has a score of its own.
        trained: what came of it.
        examples: what it was trained on.
        hidden: [N] int64, the true labels, -1 where unknown, or None; looked at for these figures alone.

    Returns:
        None where no wrong label is known. "auroc": by score, the chance that a wrong label scores higher than a right
        one: "loss", the trained model's, and "distrust".
    """
    bought = examples.of_kind("bought")
    if hidden is None or not len(bought):
        return None
    true = hidden[bought.origin]
    bought, true = bought.only(true >= 0), true[true >= 0]
    wrong = bought.labels != true
    if not bool(wrong.any()):
        return None
    probs = probabilities(trained.model, bought.images)
    scores = {"loss": -probs.gather(1, bought.labels[:, None]).squeeze(1).clamp_min(1e-300).log()}
    if hasattr(objective, "distrust") and trained.companion is not None:
        scores["distrust"] = objective.distrust(trained.model, trained.companion, bought.images, bought.labels)
    found = {} if bool(wrong.all()) else {name: auroc(one[~wrong], one[wrong]) for name, one in scores.items()}
    return {"labels": len(wrong), "wrong": int(wrong.sum()), "auroc": found}
