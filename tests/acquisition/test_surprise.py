"""Surprise adequacy: against scipy's density and against a search by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import gaussian_kde

from robal.acquisition import DistanceSurprise, LikelihoodSurprise, select
from robal.candidates import Candidates
from robal.errors import InputError
from robal.images import InMemory
from robal.pool import Pool
from robal.scores import surprise
from robal.scores.surprise import distance_surprise, likelihood_surprise
from robal.seeds import generator
from small_models import convnet

DRAW = generator(0, "surprise")
KNOWN = torch.randn(90, 5, generator=DRAW) @ torch.randn(5, 5, generator=DRAW)
CLASSES = torch.arange(90) % 3
POINTS, PREDICTED = torch.randn(40, 5, generator=DRAW) * 2, torch.arange(40) % 3


def by_scipy(points: torch.Tensor, known: torch.Tensor) -> np.ndarray:
    return -gaussian_kde(known.double().numpy().T).logpdf(points.double().numpy().T)


@pytest.mark.parametrize("tile", [(2048, 1024), (7, 4)])
def test_likelihood_is_scipys_density_within_the_class(monkeypatch: pytest.MonkeyPatch, tile: tuple[int, int]) -> None:
    monkeypatch.setattr(surprise, "_TILE", tile)
    found = likelihood_surprise(POINTS, PREDICTED, KNOWN, CLASSES)
    for label in range(3):
        mine = label == PREDICTED
        np.testing.assert_allclose(found[mine], by_scipy(POINTS[mine], KNOWN[label == CLASSES]), rtol=1e-6)


def test_what_does_not_vary_within_a_class_counts_nothing() -> None:
    flat = torch.cat([KNOWN, torch.full((90, 1), 7.0)], dim=1)
    beside = torch.cat([POINTS, torch.randn(40, 1, generator=DRAW)], dim=1)
    wanted = likelihood_surprise(POINTS, PREDICTED, KNOWN, CLASSES)
    torch.testing.assert_close(likelihood_surprise(beside, PREDICTED, flat, CLASSES), wanted)
    twice = torch.cat([KNOWN, KNOWN[:, :1]], dim=1)  # a direction without variance, though each coordinate has some
    assert torch.isfinite(likelihood_surprise(torch.cat([POINTS, POINTS[:, :1]], 1), PREDICTED, twice, CLASSES)).all()


def test_a_class_without_known_images_is_compared_with_all() -> None:
    found = likelihood_surprise(POINTS, torch.full((40,), 9), KNOWN, CLASSES)
    np.testing.assert_allclose(found, by_scipy(POINTS, KNOWN), rtol=1e-6)
    assert likelihood_surprise(POINTS, PREDICTED, KNOWN[:1], CLASSES[:1]).tolist() == [0.0] * 40


@pytest.mark.parametrize("tile", [(2048, 1024), (7, 4)])
def test_distance_is_the_quotient_of_two_searches(monkeypatch: pytest.MonkeyPatch, tile: tuple[int, int]) -> None:
    monkeypatch.setattr(surprise, "_TILE", tile)
    found = distance_surprise(POINTS, PREDICTED, KNOWN, CLASSES)
    for point, label, value in zip(POINTS.double().numpy(), PREDICTED.numpy(), found.tolist(), strict=True):
        own, others = KNOWN.double().numpy()[label == CLASSES], KNOWN.double().numpy()[label != CLASSES]
        near = own[cdist([point], own)[0].argmin()]
        wanted = np.linalg.norm(point - near) / cdist([near], others).min()
        assert value == pytest.approx(wanted, rel=1e-6)


def test_a_known_image_does_not_surprise_and_one_class_has_no_rival() -> None:
    assert distance_surprise(KNOWN, CLASSES, KNOWN, CLASSES).abs().max() == 0
    alone = distance_surprise(POINTS, PREDICTED * 0, KNOWN, CLASSES * 0)
    np.testing.assert_allclose(alone, cdist(POINTS.double(), KNOWN.double()).min(1), rtol=1e-6)


def test_as_acquisition_functions_they_compare_with_the_labelled_images() -> None:
    model = convnet().eval()
    pixels = torch.randint(256, (60, 1, 8, 8), dtype=torch.uint8, generator=DRAW)
    labels = torch.where(torch.arange(60) < 40, torch.arange(60) % 4, -1)
    pool = Pool(InMemory(pixels), labels, ("a", "b", "c", "d"))
    new, old = Candidates(model, pool, pool.candidates), Candidates(model, pool, pool.labelled)
    seen = [part for one in (new, old) for part in (one.embeddings, one.logits.argmax(1))]
    for kind, score in ((LikelihoodSurprise, likelihood_surprise), (DistanceSurprise, distance_surprise)):
        best = new.indices[score(*seen).argsort(descending=True, stable=True)[:5]]
        assert select(kind(), model, pool, 5).tolist() == best.tolist()
    twin = pixels.clone()
    twin[41] = twin[3]  # one of those that are known
    again = Pool(InMemory(twin), labels, ("a", "b", "c", "d"))
    assert select(DistanceSurprise(), model, again, 20)[-1] == 41


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="least_variance is 0 or more; -1 came"):
        LikelihoodSurprise(-1)
    with pytest.raises(InputError, match="against known images, and there is none"):
        distance_surprise(POINTS, PREDICTED, KNOWN[:0], CLASSES[:0])
    with pytest.raises(InputError, match=r"embeddings \[40, 5\] came with known ones \[90, 4\]"):
        distance_surprise(POINTS, PREDICTED, KNOWN[:, :4], CLASSES)
    with pytest.raises(InputError, match="40 and 90 embeddings came with 40 and 89 classes"):
        likelihood_surprise(POINTS, PREDICTED, KNOWN, CLASSES[1:])
