"""scikit-learn and skorch users: query(X, y, clf)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from skorch import NeuralNetClassifier
from torch import nn

from robal.acquisition import BADGE, DRE, MCP, CoreSet, DeepGini, Margin, MaxEntropy, Random, query, select
from robal.errors import InputError, PoolExhausted

DIGITS = load_digits()
X = (DIGITS.data / 16).astype(np.float32)
Y = np.where(np.arange(len(X)) < 300, DIGITS.target, -1)
IMAGES = X.reshape(-1, 1, 8, 8)


@pytest.fixture(scope="module")
def clf() -> LogisticRegression:
    return LogisticRegression(max_iter=1000).fit(X[:300], DIGITS.target[:300])


class Module(nn.Module):
    """Logits, or probabilities as skorch's NLLLoss wants them."""

    def __init__(self, softmax: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        self.softmax = softmax

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits = self.layers(inputs)
        return logits.softmax(1) if self.softmax else logits


def skorched(softmax: bool) -> NeuralNetClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        criterion = nn.NLLLoss if softmax else nn.CrossEntropyLoss
        net = NeuralNetClassifier(
            Module, module__softmax=softmax, criterion=criterion, max_epochs=3, lr=0.1, train_split=None, verbose=0
        )
        return net.fit(IMAGES[:300], DIGITS.target[:300])


def test_the_choice_is_the_one_numpy_makes(clf: LogisticRegression) -> None:
    probs = clf.predict_proba(X)
    top = np.sort(probs, 1)
    wanted = np.argsort(top[300:, -1] - top[300:, -2], kind="stable")[:10] + 300
    assert query(X, Y, clf, 10, Margin()).tolist() == wanted.tolist()
    wanted = np.argsort((probs[300:] ** 2).sum(1), kind="stable")[:10] + 300
    assert query(X, Y, clf, 10, DeepGini()).tolist() == wanted.tolist()


@pytest.mark.parametrize("unknown", [-1, np.nan, None])
def test_unknown_labels_may_be_written_in_three_ways(clf: LogisticRegression, unknown: Any) -> None:
    y = np.array([label if label >= 0 else unknown for label in Y.tolist()], dtype=object)
    chosen = query(X, y, clf, 50)
    assert chosen.dtype == np.int64
    assert chosen.min() >= 300
    assert chosen.tolist() == query(X, Y, clf, 50).tolist()
    assert len(set(query(X, None, clf, 1797).tolist())) == 1797


def test_minus_one_is_a_label_where_it_is_a_class() -> None:
    rows = np.array([[0.0], [1.0], [0.4]])
    binary = LogisticRegression().fit(rows[:2], [-1, 1])
    assert query(rows, [-1.0, 1.0, np.nan], binary).tolist() == [2]
    with pytest.raises(PoolExhausted, match="1 images were asked for and 0"):
        query(rows, [-1, 1, -1], binary)


@pytest.mark.parametrize("softmax", [False, True])
def test_a_skorch_module_is_asked_itself(softmax: bool) -> None:
    net = skorched(softmax)
    probs = torch.from_numpy(net.predict_proba(IMAGES))
    if not softmax:
        assert torch.allclose(probs.sum(1), torch.ones(len(probs)), atol=1e-4)
    wanted = select(MaxEntropy(), net.module_ if not softmax else nn.Sequential(net.module_, Log()), IMAGES, 20)
    assert query(IMAGES, None, net, 20, MaxEntropy()).tolist() == wanted.tolist()


class Log(nn.Module):
    def forward(self, probs: torch.Tensor) -> torch.Tensor:
        return probs.log()


def test_methods_that_need_gradients_work_with_skorch_and_say_why_not_with_others(clf: LogisticRegression) -> None:
    from robal.acquisition import AdversarialEntropy

    assert len(query(IMAGES, Y, skorched(softmax=False), 5, AdversarialEntropy())) == 5
    with pytest.raises(InputError, match="LogisticRegression has no gradients"):
        query(X, Y, clf, 5, AdversarialEntropy())


@pytest.mark.parametrize("method", [Random(), DRE(), MCP(), MaxEntropy(), DeepGini(), BADGE(), CoreSet()])
def test_the_rest_takes_any_classifier(clf: LogisticRegression, method: Any) -> None:
    assert len(set(query(X, Y, clf, 25, method).tolist())) == 25


def test_what_cannot_be_is_refused(clf: LogisticRegression) -> None:
    with pytest.raises(InputError, match="LinearSVC has no predict_proba"):
        query(X, Y, LinearSVC())
    with pytest.raises(InputError, match=r"one label for each of 1797 rows of X; its shape is \[300\]"):
        query(X, Y[:300], clf)
    with pytest.raises(InputError, match=r"y\[0\] is 77, which is no class of the classifier"):
        query(X, np.where(Y[0] == Y, 77, Y), clf)
    broken = X.copy()
    broken[3, 3] = np.nan
    with pytest.raises(InputError, match=r"finite numbers, at least two-dimensional"):
        query(broken, Y, clf)
