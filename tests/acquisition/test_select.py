"""The gate of acquisition functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robal.acquisition import DRE, CoreSet, DeepGini, LeastConfidence, Margin, MaxEntropy, Random, choose, select
from robal.candidates import Candidates
from robal.datasets import load
from robal.engines import Local
from robal.errors import ContractError, InputError
from robal.images import InMemory
from robal.pool import Pool
from robal.seeds import generator
from small_models import Counting, Stated, condition, convnet, linear, stated

ROWS = torch.tensor([[0.6, 0.4, 0.0], [0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [0.4, 0.4, 0.2], [0.34, 0.33, 0.33]])


@pytest.mark.parametrize(
    ("score", "order"),
    [
        (MaxEntropy(), [4, 3, 1, 0, 2]),  # 1.10, 1.05, 1.04, 0.67, 0
        (DeepGini(), [4, 3, 1, 0, 2]),  # 0.67, 0.64, 0.625, 0.48, 0
        (LeastConfidence(), [4, 3, 1, 0, 2]),  # 0.66, 0.6, 0.5, 0.4, 0
        (Margin(), [3, 4, 0, 1, 2]),  # 0, 0.01, 0.2, 0.25, 1
    ],
)
def test_the_order_of_choice_by_hand(score: Any, order: list[int]) -> None:
    for n in range(1, 6):
        assert select(score, Stated(), stated(ROWS), n).tolist() == order[:n]


def test_a_plain_function_is_a_score_and_higher_comes_first() -> None:
    def second_class(candidates: Candidates, draw: torch.Generator) -> Tensor:
        return candidates.probs[:, 1]

    assert select(second_class, Stated(), stated(ROWS), 3).tolist() == [0, 3, 4]
    assert select(lambda candidates, draw: -candidates.probs[:, 1], Stated(), stated(ROWS), 1).tolist() == [2]


def test_a_plain_function_of_three_arguments_is_an_acquisition_function() -> None:
    def last(candidates: Candidates, n: int, draw: torch.Generator) -> Tensor:
        return candidates.indices.flip(0)[:n]

    assert select(last, Stated(), stated(ROWS), 2).tolist() == [4, 3]


def test_images_may_come_as_a_pool_an_array_or_a_tensor_in_bytes_or_floats() -> None:
    grey = torch.randint(256, (9, 1, 8, 8), dtype=torch.uint8, generator=generator(0))
    wanted = select(MaxEntropy(), convnet(), grey, 4)
    for images in (grey.numpy(), grey.float() / 255, InMemory(grey), Pool.unlabelled(InMemory(grey), "abcd")):
        assert torch.equal(select(MaxEntropy(), convnet(), images, 4), wanted)


def test_random_looks_at_no_model_and_is_even() -> None:
    model = Counting(convnet())
    pool = Pool.unlabelled(InMemory(torch.zeros(5, 1, 8, 8)), "abcd")
    counts = torch.zeros(5)
    for seed in range(1000):
        counts[select(Random(), model, pool, 2, seed)] += 1
    assert model.passes == []
    assert (counts - 400).abs().max() < 62  # four standard deviations of a count of 1,000 draws at 2 / 5


def test_a_component_that_calls_the_model_itself_finds_it_in_eval_mode_and_leaves_it_as_it_was() -> None:
    def by_itself(candidates: Candidates, draw: torch.Generator) -> Tensor:
        assert not candidates.model.training
        return candidates.model(candidates.pool.images.batch(candidates.indices)).amax(1)

    model = convnet().train()
    before = condition(model)
    select(by_itself, model, torch.rand(6, 1, 8, 8), 2)
    assert condition(model) == before


def returns(value: Any) -> Any:
    return lambda candidates, n, draw: value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.tensor([1, 1]), r"must return 2 distinct int64 positions.*shape \[2\], int64, 1 distinct, 2 candidates"),
        (torch.tensor([1]), r"shape \[1\]"),
        (torch.tensor([1, 2, 3]), r"shape \[3\]"),
        (torch.tensor([1.0, 2.0]), "float32"),
        (torch.tensor([1, 5]), "2 distinct, 1 candidates"),
        (torch.tensor([1, -1]), ", 1 candidates"),
    ],
)
def test_a_choice_that_is_none_is_refused(value: Tensor, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        select(returns(value), Stated(), stated(ROWS), 2)


def test_a_labelled_image_is_no_candidate() -> None:
    pool = Pool.unlabelled(InMemory(stated(ROWS)), "abc").reveal(torch.tensor([4]), torch.tensor([0]))
    assert select(MaxEntropy(), Stated(), pool, 1).tolist() == [3]
    with pytest.raises(ContractError, match=", 1 candidates"):
        select(returns(torch.tensor([3, 4])), Stated(), pool, 2)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(4), r"one finite score for each of 5 candidates; it gave shape \[4\], 0 not finite"),
        (torch.zeros(5, 1), r"shape \[5, 1\]"),
        (torch.tensor([0, 1, float("nan"), 2, float("inf")]), "2 not finite"),
    ],
)
def test_a_score_that_is_none_is_refused_also_inside_dre(value: Tensor, message: str) -> None:
    def score(candidates: Candidates, draw: torch.Generator) -> Tensor:
        return value

    for acquisition in (score, DRE(score=score)):
        with pytest.raises(ContractError, match=message):
            select(acquisition, Stated(), stated(ROWS), 2)


@pytest.mark.parametrize("value", [[4, 3], np.array([4, 3])])
def test_a_choice_that_is_no_tensor_is_refused(value: Any) -> None:
    with pytest.raises(ContractError, match=r"must return a tensor; it returned a (list|ndarray)"):
        select(returns(value), Stated(), stated(ROWS), 2)
    with pytest.raises(ContractError, match=r"must return a tensor; it returned a (list|ndarray)"):
        select(lambda candidates, draw: value, Stated(), stated(ROWS), 2)


def test_a_function_of_neither_two_nor_three_arguments_is_refused() -> None:
    with pytest.raises(InputError, match="takes 1 arguments; a score takes 2, an acquisition function 3"):
        select(lambda candidates: candidates.indices, Stated(), stated(ROWS), 2)  # type: ignore[arg-type]


def test_a_class_is_refused_with_what_to_write() -> None:
    with pytest.raises(InputError, match=r"DRE is a class; build it first: DRE\(\)"):
        select(DRE, Stated(), stated(ROWS), 2)  # type: ignore[arg-type]


def test_a_model_that_ends_in_a_softmax_is_refused() -> None:
    model = nn.Sequential(convnet(), nn.Softmax(1))
    for acquisition in (MaxEntropy(), DRE()):
        with pytest.raises(ContractError, match="ends in a softmax; remove it, robal needs logits"):
            select(acquisition, model, torch.rand(6, 1, 8, 8), 2)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 1, 8, 8)), "must be uint8, or float32.*float64"),
        (torch.full((2, 1, 8, 8), 255.0), r"must lie in \[0, 1\].*divide by 255"),
        (torch.zeros(2, 8, 8), r"must have shape \[N, C, H, W\]"),
    ],
)
def test_images_that_cannot_be_right_are_refused(images: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        select(Random(), convnet(), images, 1)


def test_classes_that_the_model_does_not_have_are_refused() -> None:
    pool = Pool.unlabelled(InMemory(torch.rand(4, 1, 8, 8)), ("a", "b", "c"))
    with pytest.raises(ContractError, match="returns 4 logits an image, but there are 3 classes"):
        select(MaxEntropy(), convnet(), pool, 1)


def test_what_is_handed_on_arrives() -> None:
    seen: list[Candidates] = []

    def watch(candidates: Candidates, draw: torch.Generator) -> Tensor:
        seen.append(candidates)
        return candidates.embeddings[:, 0]

    teacher, history = linear(torch.eye(2)), [{"round": 0}]
    images = torch.rand(4, 1, 8, 8)
    chosen = select(watch, convnet(), images, 4, engine=Local(3), teacher=teacher, features="1", history=history)
    assert seen[0].teacher is teacher
    assert seen[0].history == history
    assert seen[0].engine == Local(3)
    with torch.no_grad():
        first = convnet().eval()[0](images).flatten(1)[:, 0]
    assert chosen.tolist() == first.argsort(descending=True).tolist()


def test_the_gate_hands_its_generator_on() -> None:
    pool = Pool.unlabelled(InMemory(torch.zeros(9, 1, 8, 8)), "abcd")
    candidates = Candidates(convnet(), pool, pool.candidates)
    drawn = choose(lambda candidates, draw: torch.rand(9, generator=draw), candidates, 9, generator(4))
    assert drawn.tolist() == torch.rand(9, generator=generator(4)).argsort(descending=True).tolist()


# Whatever holds images


class Pairs(torch.utils.data.Dataset[Any]):
    """A map-style data set of (image, label), as anybody has one."""

    def __init__(self, pixels: Any) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.pixels[index], 0


@pytest.mark.parametrize("as_numpy", [False, True])
def test_a_data_set_of_pairs_is_a_pool(as_numpy: bool) -> None:
    pixels = torch.rand(40, 1, 8, 8, generator=generator(0))
    wanted = select(DRE(bins=4), convnet(), pixels, 9)
    assert select(DRE(bins=4), convnet(), Pairs(pixels.numpy() if as_numpy else pixels), 9).tolist() == wanted.tolist()
    assert select(DRE(bins=4), convnet(), torch.utils.data.TensorDataset(pixels), 9).tolist() == wanted.tolist()
    assert select(DRE(bins=4), convnet(), list(pixels), 9).tolist() == wanted.tolist()


def test_a_data_set_of_robal_is_a_pool(digits: tuple[Tensor, Tensor], lenet: nn.Module) -> None:
    assert select(Margin(), lenet, load("digits"), 5).tolist() == select(Margin(), lenet, digits[0], 5).tolist()


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (3, "a pool is a Pool, a tensor or array of images, or a data set"),
        (["a", "b"], "item 0 of the data set holds a str, and a tensor or array is needed"),
        ([torch.rand(1, 8, 8), torch.rand(1, 9, 9)], r"of one shape; these are \[\(1, 8, 8\), \(1, 9, 9\)\]"),
        ([torch.rand(1, 8, 8) * 3] * 3, r"must lie in \[0, 1\]"),
    ],
)
def test_what_holds_no_images_is_refused(pool: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        select(Margin(), convnet(), pool, 2)


def test_half_an_image_cannot_be_asked_for() -> None:
    with pytest.raises(InputError, match=r"n counts images; 3.0 came"):
        select(Margin(), convnet(), torch.rand(9, 1, 8, 8), 3.0)  # type: ignore[arg-type]


def test_a_model_whose_last_linear_sees_tokens_has_logits_all_the_same() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.mix = nn.Linear(64, 4), nn.Linear(8, 8)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.mix(inputs.flatten(0, 2)).reshape(len(inputs), -1))

    images = torch.rand(20, 1, 8, 8, generator=generator(0))
    assert len(select(MaxEntropy(), Tokens(), images, 5)) == 5
    with pytest.raises(ContractError, match=r"the embedding layer got .* name another by features="):
        select(CoreSet(), Tokens(), images, 5)
    assert len(select(CoreSet(), Tokens(), images, 5, features="head")) == 5
