"""The law book of acquisition functions: every exported one is found by its export and keeps the contract."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robal import acquisition as package
from robal.acquisition import ALIASES, DRE, Acquisition, DeepGini, Margin, Score, is_score
from robal.candidates import Candidates
from robal.engines import Local
from robal.errors import InputError, PoolExhausted
from robal.images import InMemory
from robal.plans import known
from robal.pool import NONE_OF_THESE, SKIPPED, Pool
from robal.seeds import generator
from small_models import Stated, Viewing, condition, convnet, stated

EXPORTED = known(Acquisition)
SETTINGS = {
    "DRE released": DRE(allocation="released", bins=4),
    "DRE random_trim": DRE(allocation="random_trim", bins=4),
    "DRE stratified": DRE(stratify=True, bins=4),
    "DRE of margins": DRE(score=Margin(), bins=4),
    "DRE in one bin": DRE(bins=1),
}
ALL = {name: kind() for name, kind in EXPORTED.items()} | SETTINGS


# What draws numbers on these images, and what looks at the labelled ones and so chooses otherwise without them.
DRAWS = {"BoundaryEnriched", "Crafted", "DRE", "KMST", "Mix", "NearExamples", "Random"}  # whatever the images
BY_CHANCE = DRAWS | {"BADGE", "BALD", "DropOutEntropy", "TypiClust"}
COMPARES_WITH_LABELLED = {"CoreSet", "DistanceSurprise", "ExcludeHard", "FeatureNovelty"}
COMPARES_WITH_LABELLED |= {"LikelihoodSurprise", "NearExamples", "ProbCover", "TypiClust"}


def select(acquisition: Any, model: nn.Module, pool: Any, n: int, seed: int = 0, **settings: Any) -> Tensor:
    """The gate, with a teacher and a proxy for those that need one."""
    return package.select(acquisition, model, pool, n, seed, teacher=model, proxy=model, **settings)


def plain(candidates: Candidates, draw: torch.Generator) -> Tensor:
    """A function as anybody would write it."""
    return candidates.probs[:, 0]


ALL["a plain function"] = plain


@pytest.fixture(params=ALL.values(), ids=ALL.keys())
def acquisition(request: pytest.FixtureRequest) -> Any:
    return request.param


PIXELS = torch.randint(256, (12, 1, 8, 8), dtype=torch.uint8, generator=generator(0, "pixels"))


@pytest.fixture
def pool() -> Pool:
    """12 images, of which 5 were asked about."""
    whole = Pool.unlabelled(InMemory(PIXELS), ("a", "b", "c", "d"))
    return whole.reveal(torch.tensor([0, 3, 4, 8, 11]), torch.tensor([1, SKIPPED, 0, NONE_OF_THESE, 2]))


LEFT = [1, 2, 5, 6, 7, 9, 10]


def test_every_exported_component_is_found() -> None:
    classes = {name for name in package.__all__ if isinstance(getattr(package, name), type)}
    assert set(EXPORTED) == classes - {"Acquisition", "Score"}
    assert len(EXPORTED) > 25
    assert set(known(Score)) < set(EXPORTED)
    assert set(ALIASES.values()) <= set(EXPORTED)
    assert not set(ALIASES) & set(EXPORTED)


@pytest.mark.parametrize("kind", EXPORTED.values(), ids=EXPORTED.keys())
def test_they_are_frozen_values_that_can_be_built_without_arguments(kind: Any) -> None:
    assert kind() == kind()
    assert hash(kind()) == hash(kind())
    with pytest.raises(FrozenInstanceError):
        kind().bins = 3


@pytest.mark.parametrize("n", range(1, 8))
def test_n_distinct_candidates_come_back_by_their_position_in_the_pool(acquisition: Any, pool: Pool, n: int) -> None:
    chosen = select(acquisition, convnet(), pool, n)
    assert chosen.dtype == torch.int64
    assert chosen.shape == (n,)
    assert len(set(chosen.tolist())) == n
    assert set(chosen.tolist()) <= set(LEFT)


def test_all_that_is_left_may_be_asked_for(acquisition: Any, pool: Pool) -> None:
    assert sorted(select(acquisition, convnet(), pool, 7).tolist()) == LEFT


def test_more_than_is_left_cannot_be_asked_for(acquisition: Any, pool: Pool) -> None:
    with pytest.raises(PoolExhausted, match="8 images were asked for and 7 unlabelled ones are left in the pool"):
        select(acquisition, convnet(), pool, 8)


@pytest.mark.parametrize("n", [0, -1])
def test_nothing_cannot_be_asked_for(acquisition: Any, pool: Pool, n: int) -> None:
    with pytest.raises(InputError, match=f"at least one image has to be asked for; n = {n} came"):
        select(acquisition, convnet(), pool, n)


def test_a_pool_of_one_image_has_one_answer(acquisition: Any) -> None:
    assert select(acquisition, convnet(), PIXELS[:1], 1).tolist() == [0]


def test_a_pool_of_none_has_no_answer(acquisition: Any) -> None:
    with pytest.raises(PoolExhausted, match="the pool holds no image"):
        select(acquisition, convnet(), PIXELS[:0], 1)
    nothing_left = Pool(InMemory(PIXELS[:2]), torch.tensor([0, 1]), ("a", "b", "c", "d"))
    with pytest.raises(PoolExhausted, match="1 images were asked for and 0 unlabelled ones are left"):
        select(acquisition, convnet(), nothing_left, 1)


def test_the_model_the_pool_and_the_pixels_come_back_as_they_were(acquisition: Any, pool: Pool) -> None:
    model = convnet().train()
    model[3].eval()
    model[0].bias.requires_grad_(False)
    model[5].weight.grad = torch.full_like(model[5].weight, 0.25)
    before, labels, pixels = condition(model), pool.labels.clone(), PIXELS.clone()
    select(acquisition, model, pool, 4)
    assert condition(model) == before
    assert torch.equal(pool.labels, labels)
    assert torch.equal(PIXELS, pixels)


def test_the_global_random_stream_stays_where_it_is_and_does_not_matter(acquisition: Any, pool: Pool) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = select(acquisition, convnet(), pool, 4)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert torch.equal(first, select(acquisition, convnet(), pool, 4))


def many() -> tuple[nn.Module, Tensor]:
    """300 images whose probabilities the model states exactly, whatever the batch."""
    return Stated(), stated(torch.randn(300, 5, generator=generator(0, "many")).softmax(1))


def test_the_choice_does_not_depend_on_the_tile(acquisition: Any) -> None:
    model, images = many()
    wanted = select(acquisition, model, images, 60, engine=Local(256))
    for tile in (1, 7):
        assert torch.equal(select(acquisition, model, images, 60, engine=Local(tile)), wanted)


def test_equal_seeds_give_equal_choices_and_only_chance_follows_the_seed(acquisition: Any) -> None:
    model, images = many()
    first, same, other = (select(acquisition, model, images, 60, seed) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert torch.equal(first, other) != (type(acquisition).__name__ in BY_CHANCE)


def test_candidates_out_of_a_larger_pool_are_chosen_as_if_they_were_all(acquisition: Any) -> None:
    """Positions are absolute: leaving out the labelled images and shifting the answer is the same."""
    if type(acquisition).__name__ in COMPARES_WITH_LABELLED:
        pytest.skip("the labelled images matter to it, as they should")
    model, images = many()
    labels = torch.full((300,), -1)
    labels[:100] = 0
    part = select(acquisition, model, Pool(InMemory(images), labels, ("0", "1", "2", "3", "4")), 30)
    assert torch.equal(part, select(acquisition, model, images[100:], 30) + 100)


@pytest.mark.parametrize("name", ["DeepGini", "LeastConfidence", "Margin", "MaxEntropy", "MCP"])
def test_of_equally_uncertain_images_the_one_of_lower_index_is_chosen(name: str) -> None:
    rows = torch.tensor([[0.8, 0.1, 0.1], [0.5, 0.3, 0.2], [0.8, 0.1, 0.1], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
    assert select(EXPORTED[name](), Stated(), stated(rows), 3).tolist() == [1, 3, 4]


def test_of_fifty_equal_images_the_first_are_chosen(acquisition: Any) -> None:
    same = stated(torch.tensor([0.4, 0.3, 0.2, 0.1]).expand(50, 4))
    chosen = select(acquisition, Stated(), same, 20)
    if type(acquisition).__name__ in DRAWS:
        assert len(chosen.unique()) == 20
    else:
        assert chosen.tolist() == list(range(20))


def test_a_model_that_bears_one_memory_layout_only_is_welcome(acquisition: Any) -> None:
    assert len(select(acquisition, Viewing(), PIXELS, 5).unique()) == 5


class Softmax(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(convnet(), nn.Softmax(1))


def broken() -> nn.Module:
    model = convnet()
    model[-1].weight.data[0, 0] = torch.nan
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Softmax(), "the model ends in a softmax; remove it"),
        (broken(), "NaN or infinite logits"),
        (convnet(3), "the model returns 3 logits an image, but there are 4 classes"),
        (convnet().double(), "the model does not take float32 images"),
        (convnet(size=9), "the model does not take float32 images"),
    ],
    ids=["softmax", "NaN", "classes", "float64", "size"],
)
def test_no_choice_is_made_by_nonsense(acquisition: Any, model: nn.Module, message: str, pool: Pool) -> None:
    if type(acquisition).__name__ == "Random":
        pytest.skip("it looks at no model")
    with pytest.raises(InputError, match=message):
        select(acquisition, model, pool, 3)


def test_predictions_without_any_doubt_still_have_an_order(acquisition: Any) -> None:
    """Probabilities of exactly 0 and 1, where a logarithm or a quotient without care gives NaN."""
    rows = torch.eye(4).repeat(10, 1)
    assert len(select(acquisition, Stated(), stated(rows), 15).unique()) == 15


def test_a_score_is_told_from_an_acquisition_function_by_its_arguments() -> None:
    assert is_score(DeepGini())
    assert is_score(plain)
    assert not is_score(DRE())
    with pytest.raises(InputError, match="'DRE' is no acquisition function: it cannot be called"):
        is_score("DRE")  # type: ignore[arg-type]
