"""robal's acquisition functions for users of scikit-learn and skorch: `query(X, y, clf)`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robal.acquisition.acquisition import Acquisition, Score, choose
from robal.acquisition.dre import DRE
from robal.candidates import Candidates
from robal.engines import Local
from robal.errors import InputError
from robal.pool import UNLABELLED, Pool
from robal.seeds import generator


def query(
    X: Any, y: Any, clf: Any, n: int = 1, acquisition: Acquisition | Score | None = None, seed: int = 0
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Choose n of the unlabelled rows of X, as a fitted classifier sees them.

    Args:
        X: [N, ...] numbers. For a skorch classifier, what its module takes; methods that attack need images in [0, 1].
        y: [N] labels among `clf.classes_`; NaN, None or -1 where unknown (-1 is a label where it is a class). None:
            nothing is labelled.
        clf: fitted, with `predict_proba`. Of a skorch classifier the module itself is asked (after a log where its
            criterion is NLLLoss, as skorch has it), so that gradients and embeddings are there; any other classifier
            has its rows for embeddings, in float32, and methods that need gradients refuse it.
        n: how many.
        acquisition: how; None: DRE().
        seed: equal seeds give equal choices.

    Returns:
        [n] int64, distinct positions in X, in order of choice.

    Raises:
        InputError: for X and y of different lengths, a label that is no class, a classifier without probabilities.
        PoolExhausted: for n beyond what is unlabelled.

    >>> from sklearn.linear_model import LogisticRegression
    >>> from robal.acquisition import Margin
    >>> X = np.array([[0.0], [1.0], [0.1], [0.5], [0.9]])
    >>> clf = LogisticRegression().fit(X[:2], [0, 1])
    >>> query(X, [0, 1, -1, -1, -1], clf, acquisition=Margin())
    array([3])
    """
    try:
        rows = torch.as_tensor(np.asarray(X.toarray() if hasattr(X, "toarray") else X, dtype=np.float32))
    except (TypeError, ValueError) as error:
        raise InputError(f"X must be numbers [rows, ...]: {error}") from error
    module = getattr(clf, "module_", None)
    if not isinstance(module, nn.Module) and not hasattr(clf, "predict_proba"):
        raise InputError(f"{type(clf).__name__} has no predict_proba: give a classifier that states probabilities")
    if rows.ndim < 2 or not bool(torch.isfinite(rows).all()):
        raise InputError(f"X must be finite numbers, at least two-dimensional; its shape is {list(rows.shape)}")
    try:
        classes = list(clf.classes_)
    except AttributeError as error:
        raise InputError(f"{type(clf).__name__} knows no classes yet: fit it first") from error
    if any(isinstance(name, np.ndarray) for name in classes):
        raise InputError(f"{type(clf).__name__} has several outputs; one label a row is needed")
    labels = _labels(y, classes, len(rows))
    model: nn.Module = module if isinstance(module, nn.Module) else _LogProbs(clf)
    if isinstance(getattr(clf, "criterion_", None), nn.NLLLoss):
        model = nn.Sequential(model, _Log())
    pool = Pool(_Rows(rows), labels, tuple(str(name) for name in classes))
    candidates = Candidates(model, pool, pool.candidates, Local(128 if module is not None else 4096))
    return choose(acquisition or DRE(), candidates, n, generator(seed, "select")).numpy()


def _labels(y: Any, classes: list[Any], count: int) -> Tensor:
    if y is None:
        return torch.full((count,), UNLABELLED)
    given = np.asarray(y, dtype=object)
    if given.shape != (count,):
        raise InputError(f"y must have one label for each of {count} rows of X; its shape is {list(given.shape)}")
    known = {name: number for number, name in enumerate(classes)}
    labels = torch.full((count,), UNLABELLED)
    for row, label in enumerate(given.tolist()):
        if label in known:
            labels[row] = known[label]
        elif not (label is None or label == -1 or label != label):  # NaN alone differs from itself
            raise InputError(f"y[{row}] is {label!r}, which is no class of the classifier ({classes}); -1 is unknown")
    return labels


class _Rows:
    """Rows of any shape and range, where images would be."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        one, two, three = (*self.rows.shape[1:], 1, 1, 1)[:3]
        return one, two, three

    def batch(self, indices: Tensor, device: torch.device | str = "cpu") -> Tensor:
        return self.at_rest(indices).to(device)

    def at_rest(self, indices: Tensor) -> Tensor:
        return self.rows[indices]


class _Log(nn.Module):
    def forward(self, probs: Tensor) -> Tensor:
        return probs.clamp_min(1e-30).log()


class _LogProbs(nn.Module):
    """Logarithms of what `predict_proba` says, which are logits; the rows are the embeddings."""

    features = "rows"

    def __init__(self, clf: Any) -> None:
        super().__init__()
        self.clf = clf
        self.rows = nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.requires_grad:
            raise InputError(f"{type(self.clf).__name__} has no gradients: choose by another method, or with torch")
        probs = torch.as_tensor(self.clf.predict_proba(self.rows(inputs.flatten(1)).numpy()), dtype=torch.float32)
        return probs.clamp_min(1e-30).log()
