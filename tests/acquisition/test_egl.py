"""EGL over the weights, the last layer and the inputs."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from robal.acquisition.acquisition import select
from robal.acquisition.egl import EGL
from robal.acquisition.estimators import query
from robal.candidates import Candidates
from robal.engines import Local
from robal.errors import ContractError, InputError
from robal.images import InMemory
from robal.pool import Pool
from robal.scores.gradients import Over
from robal.seeds import generator
from small_models import condition, convnet, linear

OVER: tuple[Over, ...] = ("parameters", "last_layer", "inputs")


def test_of_a_linear_model_it_is_by_hand() -> None:
    """Logits (3x, 0): 2 p_1 p_2 √2 √(x² + 1) over the weights, 2 p_1 p_2 · 3 over the pixel.

    Of x = 0, ⅓ and 1, p_1 p_2 is 0.25, 0.197 and 0.045; times √(x² + 1): 0.25, 0.207 and 0.064.
    """
    model, images = linear([[3.0], [0.0]]), torch.tensor([1.0, 0.0, 1 / 3])[:, None, None, None]
    for over in OVER:
        assert select(EGL(over), model, images, 3).tolist() == [1, 2, 0]
    pool = Pool.unlabelled(InMemory(images), ("a", "b"))
    scores = scores_of(EGL(), model, pool)
    shares = [math.exp(-3 * x) / (1 + math.exp(-3 * x)) ** 2 for x in (1.0, 0.0, 1 / 3)]
    wanted = [2 * share * math.sqrt(2 * (x * x + 1)) for share, x in zip(shares, (1.0, 0.0, 1 / 3), strict=True)]
    assert scores.tolist() == pytest.approx(wanted)
    assert scores_of(EGL("inputs"), model, pool).tolist() == pytest.approx([6 * share for share in shares])


def scores_of(score: EGL, model: nn.Module, pool: Pool, engine: Local | None = None) -> Tensor:
    candidates = Candidates(model, pool, pool.candidates, engine or Local())
    with torch.no_grad():
        return score(candidates, generator(0))


def test_an_image_with_large_activations_moves_the_weights_more_at_equal_probabilities() -> None:
    """Both are on the boundary; what is bright changes the weights by more, and the pixels' gradient is the same."""
    images = torch.tensor([[0.1, 0.1], [0.9, 0.9]])[:, None, None, :]
    model = linear([[1.0, 0.0], [0.0, 1.0]])
    assert select(EGL(), model, images, 1).tolist() == [1]
    assert select(EGL("inputs"), model, images, 2).tolist() == [0, 1]


@pytest.mark.parametrize("over", OVER)
def test_on_a_trained_lenet_it_chooses_as_gradients_one_by_one(
    lenet: nn.Module, digits: tuple[Tensor, Tensor], over: Over
) -> None:
    images = digits[0][1000:1100]
    wanted = []
    for image in images.float().split(1):
        leaf = (image / 255).requires_grad_()
        logits = lenet(leaf)
        sources = {"parameters": [*lenet.parameters()], "last_layer": [*lenet.fc3.parameters()], "inputs": [leaf]}[over]
        length = 0.0
        for label in range(10):
            loss = F.cross_entropy(logits, torch.tensor([label]))
            gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, sources, retain_graph=True)])
            length += float(logits.detach().softmax(1)[0, label] * gradient.norm())
        wanted.append(length)
    order = torch.tensor(wanted).argsort(descending=True)
    assert select(EGL(over), lenet, images, 20).tolist() == order[:20].tolist()


@pytest.mark.parametrize("over", OVER)
def test_the_choice_does_not_depend_on_the_tile(lenet: nn.Module, digits: tuple[Tensor, Tensor], over: Over) -> None:
    images = digits[0][1000:1060]
    wanted = select(EGL(over), lenet, images, 20)
    for tile in (1, 7):
        assert torch.equal(select(EGL(over), lenet, images, 20, engine=Local(tile)), wanted)


@pytest.mark.parametrize("over", OVER)
def test_the_last_images_of_a_pool_are_not_inflated(over: Over) -> None:
    """The released code divides by the size of the batch: of equal images, the last few would win."""
    images = torch.full((130, 1, 8, 8), 0.5)
    pool = Pool.unlabelled(InMemory(images), ("a", "b", "c", "d"))
    scores = scores_of(EGL(over), convnet(), pool, Local(64))
    torch.testing.assert_close(scores, scores[:1].expand(130))


@pytest.mark.parametrize("over", OVER)
def test_any_number_of_identical_images_may_be_asked_for(over: Over) -> None:
    """Their scores are equal to rounding, as the test above has it; where the model moves nothing, exactly."""
    images = torch.full((6, 1, 8, 8), 0.5)
    for n in (1, 6):
        assert len(set(select(EGL(over), convnet(), images, n).tolist())) == n
    assert select(EGL(over), convnet(), images[:1], 1).tolist() == [0]
    certain = linear([[0.0], [0.0]], [2000.0, 0.0])
    assert select(EGL(over), certain, torch.rand(6, 1, 1, 1, generator=generator(0)), 6).tolist() == list(range(6))


@pytest.mark.parametrize("over", OVER)
def test_the_model_comes_back_as_it_was(over: Over) -> None:
    model = convnet().train()
    model[0].bias.requires_grad_(False)
    model[5].weight.grad = torch.full_like(model[5].weight, 0.25)
    before = condition(model)
    select(EGL(over), model, torch.rand(9, 1, 8, 8, generator=generator(0)), 4)
    assert condition(model) == before


@pytest.mark.parametrize("over", OVER)
def test_a_model_that_returns_probabilities_is_refused(over: Over) -> None:
    model = nn.Sequential(linear([[3.0], [0.0]]), nn.Softmax(1))
    with pytest.raises(ContractError, match="the model ends in a softmax"):
        select(EGL(over), model, torch.rand(9, 1, 1, 1, generator=generator(0)), 4)


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ("parameters", r'do not follow from weights, so there is no gradient.*EGL\(over="inputs"\)'),
        ("last_layer", "the model has no nn.Linear"),
        ("inputs", "LogisticRegression has no gradients"),
    ],
)
def test_a_classifier_without_gradients_is_refused_and_not_asked_in_vain(over: Over, message: str) -> None:
    """All its scores would be 0, and the first rows the choice."""
    rows = torch.rand(9, 2, generator=generator(0)).numpy()
    classifier = LogisticRegression().fit(rows[:4], [0, 1, 0, 1])
    with pytest.raises(InputError, match=message):
        query(rows, None, classifier, acquisition=EGL(over))


@pytest.mark.parametrize("over", OVER)
def test_a_model_that_normalises_its_images_in_place_chooses_the_same(over: Over) -> None:
    images, inner = torch.rand(150, 1, 8, 8, generator=generator(0)), convnet()
    wanted = select(EGL(over), nn.Sequential(Shift(in_place=False), inner), images, 20)
    assert torch.equal(select(EGL(over), nn.Sequential(Shift(in_place=True), inner), images, 20), wanted)


class Shift(nn.Module):
    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.sub_(0.5).div_(0.25) if self.in_place else (inputs - 0.5) / 0.25


def test_what_it_is_over_is_checked_when_it_is_built() -> None:
    with pytest.raises(InputError, match="EGL is over one of parameters, last_layer, inputs; not 'weights'"):
        EGL("weights")  # type: ignore[arg-type]
