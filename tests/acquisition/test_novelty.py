"""FeatureNovelty: the subspaces against scikit-learn's PCA, and what a known class leaves unexplained."""

from __future__ import annotations

import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

from robal.acquisition import novelty as module
from robal.acquisition.acquisition import select
from robal.acquisition.novelty import FeatureNovelty, feature_novelty, principal_subspace, reconstruction_error
from robal.candidates import Candidates
from robal.engines import Local
from robal.errors import InputError
from robal.images import InMemory
from robal.pool import SKIPPED, Pool
from robal.seeds import generator
from small_models import as_images


def cloud(count: int, dimension: int, seed: int = 0) -> Tensor:
    """Embeddings whose variance falls from axis to axis."""
    return torch.randn(count, dimension, generator=generator(seed, "cloud")) * 0.7 ** torch.arange(dimension) + 1.5


def test_by_hand_a_line_and_a_point() -> None:
    """Class 0 spreads along the first axis through (1, 0, 0); class 4 is the point (9, 9, 0)."""
    known = torch.tensor([[0.0, 0.0, 0.0], [9.0, 9.0, 0.0], [2.0, 0.0, 0.0]])
    asked = torch.tensor([[50.0, 3.0, 4.0], [9.0, 7.0, 0.0], [1.0, 0.0, 0.0]])
    assert feature_novelty(asked, known, torch.tensor([0, 4, 0])).tolist() == pytest.approx([5.0, 2.0, 0.0])


@pytest.mark.parametrize(("count", "dimension"), [(200, 8), (9, 20), (20, 20), (2, 5)])
@pytest.mark.parametrize("variance", [0.3, 0.9, 0.995])
def test_the_error_is_that_of_scikit_learns_pca(count: int, dimension: int, variance: float) -> None:
    known, asked = cloud(count, dimension), cloud(30, dimension, seed=1)
    mean, axes = principal_subspace(known, variance)
    pca = PCA(variance, svd_solver="full").fit(known.double().numpy())
    assert len(axes) == pca.n_components_
    assert torch.allclose(axes @ axes.T, torch.eye(len(axes), dtype=torch.float64), atol=1e-10)
    rows = asked.double().numpy()
    wanted = torch.from_numpy(rows - pca.inverse_transform(pca.transform(rows))).norm(dim=1)
    assert torch.allclose(reconstruction_error(asked, mean, axes), wanted, atol=1e-6)


def test_the_nearest_class_counts_and_classes_without_an_image_do_not() -> None:
    known, asked = cloud(60, 6), cloud(40, 6, seed=1)
    labels = torch.arange(60) % 3 * 2  # 0, 2 and 4
    errors = [reconstruction_error(asked, *principal_subspace(known[labels == c], 0.8)) for c in (0, 2, 4)]
    assert torch.equal(feature_novelty(asked, known, labels, 0.8), torch.stack(errors).amin(0))
    assert len({int(best) for best in torch.stack(errors).argmin(0)}) == 3


@pytest.mark.parametrize("count", [5, 40])
def test_all_of_the_variance_explains_all_that_is_known(count: int) -> None:
    for seed in range(20):
        known = cloud(count, 12, seed)
        errors = feature_novelty(known, known, torch.zeros(count).long(), variance=1.0)
        assert errors.tolist() == [0.0] * count
        axes = principal_subspace(known, 1.0)[1]
        assert torch.allclose(axes @ axes.T, torch.eye(len(axes), dtype=torch.float64))
    less = feature_novelty(known, known, torch.zeros(count).long(), variance=0.9)
    assert float(less.max()) > 0.1
    # The residual is the share of the variance that was given up, at most a tenth.
    assert float(less.square().sum()) <= 0.1 * float((known - known.mean(0)).square().sum())


def test_rotating_and_shifting_the_space_changes_nothing_and_scaling_scales() -> None:
    known, asked, labels = cloud(60, 6).double(), cloud(40, 6, seed=1).double(), torch.arange(60) % 4
    turned = torch.linalg.qr(torch.randn(6, 6, generator=generator(2)).double()).Q
    wanted = feature_novelty(asked, known, labels)
    moved = feature_novelty(asked @ turned + 3, known @ turned + 3, labels)
    assert torch.allclose(moved, wanted, atol=1e-9)
    assert torch.allclose(feature_novelty(asked * 7, known * 7, labels), wanted * 7)


def test_one_image_or_equal_images_are_a_point() -> None:
    asked = cloud(20, 6)
    for known in (asked[:1], asked[:1].expand(7, 6), asked[:1].expand(3, 6)):
        mean, axes = principal_subspace(known, 0.995)
        assert axes.shape == (0, 6)
        wanted = (asked.double() - asked[0].double()).norm(dim=1)
        assert torch.allclose(reconstruction_error(asked, mean, axes), wanted)
    assert torch.isfinite(feature_novelty(asked, torch.zeros(4, 6), torch.arange(4))).all()
    nearly = torch.stack([asked[0], torch.nextafter(asked[0], torch.tensor(9.0)), asked[0]])
    assert principal_subspace(nearly, 0.995)[1].shape == (0, 6)


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    known, asked, labels = cloud(60, 6), cloud(40, 6, seed=1), torch.arange(60) % 4
    wanted = feature_novelty(asked, known, labels)
    monkeypatch.setattr(module, "_ROWS", 7)
    assert torch.allclose(feature_novelty(asked, known, labels), wanted, rtol=1e-12)


def test_the_component_compares_candidates_with_the_labelled_by_their_labels() -> None:
    points = torch.rand(60, 5, generator=generator(0))
    model, images = as_images(points)
    labels = torch.full((60,), -1)
    labels[10:30] = torch.arange(20) % 2
    labels[30] = SKIPPED
    pool = Pool(InMemory(images), labels, ("a", "b", "c"))
    wanted = feature_novelty(points[pool.candidates], points[10:30], torch.arange(20) % 2, 0.8)
    chosen = select(FeatureNovelty(0.8), model, pool, 29)
    assert chosen.tolist() == pool.candidates[wanted.argsort(descending=True, stable=True)].tolist()[:29]
    assert chosen.tolist() == select(FeatureNovelty(0.8), model, pool, 29, engine=Local(7)).tolist()


def test_before_the_first_label_the_predicted_classes_stand_in() -> None:
    points = torch.rand(60, 5, generator=generator(0))
    model, images = as_images(points)
    wanted = feature_novelty(points, points, points[:, :3].argmax(1), 0.8)
    assert (
        select(FeatureNovelty(0.8), model, images, 60).tolist() == wanted.argsort(descending=True, stable=True).tolist()
    )


@pytest.mark.parametrize("count", [1, 2, 80])
def test_equal_images_are_chosen_by_index(count: int) -> None:
    for value in (0.0, 0.3):
        model, images = as_images(torch.full((count, 4), value))
        assert select(FeatureNovelty(), model, images, count).tolist() == list(range(count))


def test_digits_of_classes_without_a_label_are_more_novel(digits: tuple[Tensor, Tensor], lenet: nn.Module) -> None:
    """Three classes of the ten are unknown: nearly all of the fifty most novel digits are theirs."""
    images, truth = digits
    labels = torch.where((truth < 7) & (torch.arange(len(truth)) < 600), truth, -1)
    pool = Pool(InMemory(images), labels, tuple("0123456789"))
    unknown = truth[pool.candidates] >= 7
    scores = FeatureNovelty()(Candidates(lenet, pool, pool.candidates), generator(0))
    best = scores.argsort(descending=True)[:50]
    assert float(unknown.double().mean()) < 0.4
    assert float(unknown[best].double().mean()) > 0.8


def test_what_is_given_stays_as_it_is() -> None:
    known, asked, labels = cloud(20, 6).double(), cloud(10, 6, seed=1).double(), torch.arange(20) % 2
    kept = known.clone(), asked.clone()
    feature_novelty(asked, known, labels)
    assert torch.equal(known, kept[0])
    assert torch.equal(asked, kept[1])


@pytest.mark.parametrize("variance", [0.0, -0.5, 1.01, float("nan")])
def test_a_share_of_the_variance_that_cannot_be_is_refused(variance: float) -> None:
    with pytest.raises(InputError, match=rf"variance is a share in \(0, 1\]; not {variance}"):
        FeatureNovelty(variance)
