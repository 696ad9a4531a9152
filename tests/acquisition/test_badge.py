"""BADGE: against the explicit matrix of gradients, and the draws against their weights."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from robal.acquisition import select
from robal.acquisition.badge import BADGE, Gradients, badge, draw, residual
from robal.engines import Local
from robal.errors import InputError
from robal.images import InMemory
from robal.pool import Pool
from robal.seeds import generator
from small_models import linear

module = importlib.import_module("robal.acquisition.badge")  # the package has a function of that name


def explicit(probs: Tensor, embeddings: Tensor) -> Tensor:
    """[M, C d] float64: all gradients, p_ŷ - 1 as the sum of the others."""
    g = probs.double().clone()
    for row in g:
        likely = int(row.argmax())
        row[likely] = 0
        row[likely] = -row.sum()
    return (g[:, :, None] * embeddings.double()[:, None, :]).flatten(1)


def brute_force(probs: Tensor, embeddings: Tensor, n: int, generator: torch.Generator) -> list[int]:
    """k-means++ in plain loops on the explicit matrix; a number in float64 from the stream for each draw."""
    rows = explicit(probs, embeddings)
    chosen = [int(rows.square().sum(1).numpy().argmax())]
    while len(chosen) < n:
        weights = [min(float((row - rows[c]).square().sum()) for c in chosen) for row in rows]
        if not any(weights):
            return chosen + [i for i in range(len(rows)) if i not in chosen][: n - len(chosen)]
        aim = float(torch.rand((), dtype=torch.float64, generator=generator)) * math.fsum(weights)
        chosen.append(next(i for i in range(len(rows)) if math.fsum(weights[: i + 1]) > aim))
    return chosen


def some_pool(count: int, classes: int = 4, width: int = 6, heat: float = 2.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    rand = generator(seed, "pool")
    probs = torch.randn(count, classes, generator=rand).mul(heat).softmax(1)
    return probs, torch.randn(count, width, generator=rand).relu()


def test_three_gradients_by_hand() -> None:
    """(-0.5, 0.5) times 2; (-0.25, 0.25) times 4, the same; (0, 0): lengths² 2, 2, 0, of which the first is chosen."""
    probs, embeddings = torch.tensor([[0.5, 0.5], [0.75, 0.25], [1.0, 0.0]]), torch.tensor([[2.0], [4.0], [9.0]])
    gradients = Gradients.of(probs, embeddings)
    assert gradients.squared_lengths.tolist() == [2.0, 2.0, 0.0]
    assert gradients.squared_distances(0).tolist() == [0.0, 0.0, 2.0]
    assert badge(probs, embeddings, 3, generator(0)).tolist() == [0, 2, 1]


@pytest.mark.parametrize("heat", [0.1, 2.0, 30.0, 300.0])
@pytest.mark.parametrize("width", [1, 6, 200])
def test_squared_distances_are_those_of_the_explicit_matrix(heat: float, width: int) -> None:
    """Hot models are certain: probabilities of 1e-40 and of 0."""
    probs, embeddings = some_pool(150, width=width, heat=heat)
    gradients, rows = Gradients.of(probs, embeddings), explicit(probs, embeddings)
    torch.testing.assert_close(gradients.squared_lengths, rows.square().sum(1), rtol=1e-12, atol=0)
    for position in range(0, 150, 7):
        exact = (rows - rows[position]).square().sum(1)
        torch.testing.assert_close(gradients.squared_distances(position), exact, rtol=2e-4, atol=0)


@pytest.mark.parametrize("shift", [1e-2, 1e-4, 1e-6])
def test_near_doubles_keep_their_small_distance(shift: float) -> None:
    probs, embeddings = some_pool(20, width=30)
    near = embeddings + shift * torch.randn(20, 30, generator=generator(1))
    also = (probs.log() + shift * torch.randn(20, 4, generator=generator(2))).softmax(1)
    probs, embeddings = torch.cat([probs, also]), torch.cat([embeddings, near])
    gradients, rows = Gradients.of(probs, embeddings), explicit(probs, embeddings)
    for position in range(20):
        exact = (rows - rows[position]).square().sum(1)
        torch.testing.assert_close(gradients.squared_distances(position), exact, rtol=2e-4, atol=0)


def test_doubles_have_no_distance_and_are_not_drawn_while_there_are_others() -> None:
    probs, embeddings = (torch.cat([part, part, part]) for part in some_pool(30))
    gradients = Gradients.of(probs, embeddings)
    for position in range(90):
        assert (gradients.squared_distances(position)[position % 30 :: 30] == 0).all()
    for seed in range(5):
        chosen = badge(probs, embeddings, 90, generator(seed)).tolist()
        assert sorted(index % 30 for index in chosen[:30]) == list(range(30))
        assert chosen[30:] == sorted(chosen[30:])
        assert sorted(chosen) == list(range(90))


def test_the_first_has_the_longest_gradient_and_of_equals_the_lower_position() -> None:
    probs, embeddings = some_pool(60)
    longest = int(explicit(probs, embeddings).square().sum(1).argmax())
    assert badge(probs, embeddings, 1, generator(0)).tolist() == [longest]
    twice = badge(torch.cat([probs, probs]), torch.cat([embeddings, embeddings]), 1, generator(3))
    assert twice.tolist() == [longest]


def test_the_second_is_drawn_in_proportion_to_its_squared_distance() -> None:
    probs, embeddings = some_pool(12, width=3)
    rows = explicit(probs, embeddings)
    first = int(rows.square().sum(1).argmax())
    expected = (rows - rows[first]).square().sum(1)
    stream = generator(0)
    seen = torch.bincount(torch.cat([badge(probs, embeddings, 2, stream)[1:] for _ in range(1500)]), minlength=12)
    assert seen[first] == 0
    possible = expected > 0
    assert chisquare(seen[possible], 1500 * expected[possible] / expected.sum()).pvalue > 0.01


@pytest.mark.parametrize("heat", [0.5, 5.0, 60.0])
def test_the_whole_choice_is_that_of_plain_k_means(heat: float) -> None:
    for seed in range(8):
        probs, embeddings = some_pool(25, heat=heat, seed=seed)
        for n in (1, 7, 25):
            wanted = brute_force(probs, embeddings, n, generator(seed))
            assert badge(probs, embeddings, n, generator(seed)).tolist() == wanted


def test_scikit_activeml_has_the_same_first_choice_and_weights_apart_from_its_centre_at_the_origin() -> None:
    """Its weights are at most the squared lengths, as if the origin had been chosen; not so in the authors' code."""
    from skactiveml.classifier import SklearnClassifier
    from skactiveml.pool import Badge
    from sklearn.linear_model import LogisticRegression

    embeddings = some_pool(210, width=5)[1].double().numpy()
    labels = np.full(210, np.nan)
    labels[:10] = np.arange(10) % 3
    model = SklearnClassifier(LogisticRegression(), classes=[0, 1, 2]).fit(embeddings, labels)
    theirs, utilities = Badge(random_state=0).query(
        embeddings, labels, model, fit_clf=False, batch_size=2, return_utilities=True
    )
    probs, rows = torch.from_numpy(model.predict_proba(embeddings[10:])), torch.from_numpy(embeddings[10:])
    first = int(badge(probs, rows, 1, generator(0)))
    assert first + 10 == theirs[0]
    gradients = Gradients.of(probs, rows)
    weights = torch.minimum(gradients.squared_distances(first), gradients.squared_lengths)
    np.testing.assert_allclose(np.nan_to_num(utilities[1][10:]), weights / weights.sum(), rtol=1e-4, atol=1e-12)


def test_a_model_that_is_certain_of_everything_gets_the_lowest_positions() -> None:
    certain = torch.eye(3)[torch.arange(20) % 3]
    assert badge(certain, torch.ones(20, 4), 20, generator(0)).tolist() == list(range(20))
    same = torch.full((20, 3), 1 / 3)
    assert badge(same, torch.ones(20, 4), 20, generator(0)).tolist() == list(range(20))
    assert badge(same, torch.zeros(20, 4), 5, generator(0)).tolist() == list(range(5))


def test_one_uncertain_image_among_certain_ones_comes_first() -> None:
    probs = torch.eye(3)[torch.arange(20) % 3]
    probs[13] = torch.tensor([0.6, 0.4, 0.0])
    assert badge(probs, torch.ones(20, 4), 4, generator(0))[0] == 13


def test_a_weight_of_nothing_is_never_drawn() -> None:
    weights = torch.tensor([0.0, 1e-9, 0.0, 0.0, 1.0, 0.0, 1e-300, 0.0], dtype=torch.float64)
    stream = generator(0)
    assert {draw(weights, stream) for _ in range(300)} == {4}
    assert draw(torch.zeros(3, dtype=torch.float64), stream) is None
    # The product of a number below 1 and the smallest number there is may be rounded up to it.
    least = torch.tensor([0.0, 5e-324, 0.0], dtype=torch.float64)
    assert {draw(least, stream) for _ in range(20)} == {1}


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_the_scale_of_the_embeddings_does_not_matter(scale: float) -> None:
    """Their squares are beyond float32."""
    probs, embeddings = some_pool(40)
    wanted = badge(probs, embeddings, 20, generator(4))
    assert torch.equal(badge(probs, embeddings * scale, 20, generator(4)), wanted)


def test_the_working_memory_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    probs, embeddings = (torch.cat([part, part]) for part in some_pool(40))
    wanted = badge(probs, embeddings, 60, generator(5))
    monkeypatch.setattr(module, "NUMBERS", 50)
    assert torch.equal(badge(probs, embeddings, 60, generator(5)), wanted)


def test_nothing_the_caller_gave_is_changed() -> None:
    probs, embeddings = some_pool(40)
    before = probs.clone(), embeddings.clone()
    badge(probs, embeddings, 30, generator(0))
    assert torch.equal(probs, before[0])
    assert torch.equal(embeddings, before[1])


def test_the_component_is_the_function_over_the_candidates() -> None:
    """The embedding of the linear model is the image; with whole numbers the sums are exact for any tile."""
    images = torch.randint(2, (60, 1, 2, 4), generator=generator(0, "images")).float()
    weight = torch.randint(-2, 3, (3, 8), generator=generator(0, "weight")).float()
    pool = Pool(InMemory(images), torch.tensor([0] * 10 + [-1] * 50), ("a", "b", "c"))
    flat = images[10:].flatten(1)
    chosen = select(BADGE(), linear(weight), pool, 20, seed=3)
    wanted = badge((flat @ weight.T).softmax(1), flat, 20, generator(3, "select")) + 10
    assert chosen.tolist() == wanted.tolist()
    assert torch.equal(select(BADGE(), linear(weight), pool, 20, seed=3, engine=Local(7)), chosen)
    assert not torch.equal(select(BADGE(), linear(weight), pool, 20, seed=4), chosen)


def test_of_a_certain_probability_no_digit_is_lost() -> None:
    assert residual(torch.tensor([[1.0, 1e-12, 0.0]])).tolist() == [[-np.float32(1e-12), np.float32(1e-12), 0.0]]


def test_what_cannot_be_measured_is_refused() -> None:
    probs, embeddings = some_pool(5)
    with pytest.raises(InputError, match="needs its embedding; 5 and 4 came"):
        badge(probs, embeddings[:4], 2, generator(0))
    with pytest.raises(InputError, match="between 0 and the 5 rows there are; 6 came"):
        badge(probs, embeddings, 6, generator(0))
    with pytest.raises(InputError, match="not probabilities"):
        badge(probs.log(), embeddings, 2, generator(0))
    spoilt = embeddings.clone()
    spoilt[3, 0] = torch.nan
    with pytest.raises(InputError, match="must be finite; row 3 is not"):
        badge(probs, spoilt, 2, generator(0))
    assert badge(probs, embeddings, 0, generator(0)).tolist() == []
