"""Wrappers look at less, share, balance, and hand on what the inner one adds."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from robal.acquisition import (
    CEAL,
    DRE,
    BalancedByPrediction,
    CoreSet,
    Mix,
    Random,
    Subsample,
    choose,
    examples_of,
    needs_of,
    select,
)
from robal.acquisition.acquisition import choose_with_scores
from robal.acquisition.wrappers import equal_shares
from robal.candidates import Candidates
from robal.engines import Local
from robal.errors import ContractError, InputError
from robal.images import InMemory
from robal.pool import Examples, Pool
from robal.seeds import generator
from small_models import Counting, Stated, stated

ROWS = torch.randn(200, 4, generator=generator(0, "rows")).mul(2).softmax(1)
ALL = torch.arange(200)


def seen(model: torch.nn.Module | None = None) -> Candidates:
    pool = Pool.unlabelled(InMemory(stated(ROWS)), ("a", "b", "c", "d"))
    return Candidates(model or Stated(), pool, pool.candidates, Local(50))


def first_probability(candidates: Candidates, draw: torch.Generator) -> Tensor:
    """A score with a plain answer: the highest p₀ first."""
    return candidates.probs[:, 0]


BEST = torch.argsort(ROWS[:, 0], descending=True)


# Subsample


def test_a_subsample_is_all_that_the_inner_one_sees() -> None:
    model = Counting(Stated())
    chosen = choose(Subsample(first_probability, size=50), seen(model), 5, generator(0))
    assert model.passes == [50]
    whole = choose(first_probability, seen(), 5, generator(0))
    assert set(chosen.tolist()) != set(whole.tolist())
    drawn = torch.randperm(200, generator=generator(0))[:50]
    assert chosen.tolist() == [index for index in BEST.tolist() if index in set(drawn.tolist())][:5]


def test_a_subsample_as_large_as_the_pool_changes_nothing_and_n_is_always_there() -> None:
    assert choose(Subsample(first_probability, size=200), seen(), 5, generator(0)).tolist() == BEST[:5].tolist()
    assert len(choose(Subsample(first_probability, size=1), seen(), 150, generator(0)).unique()) == 150


# Mix


def test_a_mix_takes_its_share_from_the_first_and_the_rest_from_what_is_left() -> None:
    chosen = choose(Mix(first_probability, first_probability, share=0.25), seen(), 8, generator(0))
    assert chosen.tolist() == BEST[:8].tolist()
    chosen = choose(Mix(first_probability, Random(), share=0.75), seen(), 8, generator(0))
    assert chosen[:6].tolist() == BEST[:6].tolist()
    assert len(chosen.unique()) == 8


@pytest.mark.parametrize(("share", "same"), [(1.0, "first"), (0.0, "second")])
def test_a_mix_of_one_is_that_one(share: float, same: str) -> None:
    parts = {"first": DRE(bins=5), "second": Random()}
    mixed = choose(Mix(**parts, share=share), seen(), 20, generator(3))
    assert mixed.tolist() == choose(parts[same], seen(), 20, generator(3)).tolist()


def test_a_share_outside_its_range_is_refused() -> None:
    with pytest.raises(InputError, match=r"share in \[0, 1\]; 1.5 came"):
        Mix(share=1.5)


# BalancedByPrediction


def test_every_predicted_class_gives_its_best() -> None:
    predicted = ROWS.argmax(1)
    chosen = choose(BalancedByPrediction(first_probability), seen(), 12, generator(0))
    assert torch.bincount(predicted[chosen], minlength=4).tolist() == [3, 3, 3, 3]
    assert predicted[chosen].tolist() == [0, 1, 2, 3] * 3  # round the classes
    for number in range(4):
        best = [index for index in BEST.tolist() if predicted[index] == number][:3]
        assert chosen[number::4].tolist() == best


def test_a_class_with_too_few_gives_all_it_has() -> None:
    assert equal_shares(torch.tensor([2, 50, 50, 0]), 20).tolist() == [2, 9, 9, 0]
    assert equal_shares(torch.tensor([1, 1, 1]), 2).tolist() == [1, 1, 0]
    assert equal_shares(torch.tensor([3, 4]), 7).tolist() == [3, 4]
    with pytest.raises(InputError, match="8 cannot be shared out of 7"):
        equal_shares(torch.tensor([3, 4]), 8)


def test_equal_shares_are_as_equal_as_can_be() -> None:
    """Against the definition: nobody below the level has anything left to give."""
    draw = generator(0, "counts")
    for _ in range(200):
        counts = torch.randint(0, 12, (5,), generator=draw)
        n = int(torch.randint(0, int(counts.sum()) + 1, (), generator=draw))
        shares = equal_shares(counts, n)
        assert int(shares.sum()) == n
        assert bool((shares <= counts).all())
        could_give_more = shares[shares < counts]
        if len(could_give_more):
            assert int(shares.max()) - int(could_give_more.min()) <= 1


# What the inner one adds


def test_every_wrapper_hands_on_what_the_inner_one_adds() -> None:
    asked, labels = ALL[:3], torch.zeros(3, dtype=torch.int64)
    wanted = examples_of(CEAL(threshold=1.0), seen(), asked, labels, generator(0))
    assert len(wanted) > 0
    inner = CEAL(threshold=1.0)
    for wrapper in (Subsample(inner), BalancedByPrediction(inner), Mix(inner, Random()), Mix(Random(), inner)):
        got = examples_of(wrapper, seen(), asked, labels, generator(0))
        assert got.origin.tolist() == wanted.origin.tolist()
        assert torch.equal(got.images, wanted.images)


def test_two_that_guess_alike_add_an_image_once() -> None:
    asked, labels = ALL[:3], torch.zeros(3, dtype=torch.int64)
    once = examples_of(CEAL(threshold=0.9), seen(), asked, labels, generator(0))
    twice = examples_of(Mix(CEAL(threshold=0.5), CEAL(threshold=0.9)), seen(), asked, labels, generator(0))
    assert sorted(twice.origin.tolist()) == once.origin.tolist()


def test_the_labelled_images_are_looked_at_once_for_all_classes() -> None:
    model = Counting(Stated())
    pool = seen(model).pool.reveal(torch.arange(40), torch.zeros(40, dtype=torch.int64))
    candidates = Candidates(model, pool, pool.candidates, Local(200), features="inner.seen")
    choose(BalancedByPrediction(CoreSet()), candidates, 12, generator(0))
    assert sum(model.passes) == 400  # the candidates and the labelled ones, a padded tile each


def test_the_scores_inside_a_wrapper_come_out_with_the_choice() -> None:
    whole = ROWS[:, 0]
    for wrapper in (first_probability, Subsample(first_probability, 50), BalancedByPrediction(first_probability)):
        chosen, scores = choose_with_scores(wrapper, seen(), 12, generator(0))
        assert chosen.tolist() == choose(wrapper, seen(), 12, generator(0)).tolist()
        torch.testing.assert_close(scores, whole[chosen])
    chosen, scores = choose_with_scores(Mix(first_probability, Random()), seen(), 12, generator(0))
    torch.testing.assert_close(scores[:6], whole[chosen[:6]])
    assert choose_with_scores(Random(), seen(), 12, generator(0))[1] is None


def test_without_a_hook_nothing_is_added() -> None:
    asked, labels = ALL[:3], torch.zeros(3, dtype=torch.int64)
    assert len(examples_of(Random(), seen(), asked, labels, generator(0))) == 0
    assert len(examples_of(Subsample(Random()), seen(), asked, labels, generator(0))) == 0


@dataclass(frozen=True)
class Cheats:
    """Says that it bought what it adds."""

    kind: str = "bought"
    size: int = 1

    def __call__(self, candidates: Candidates, n: int, generator: torch.Generator) -> Tensor:
        return candidates.indices[:n]

    def examples(self, candidates: Candidates, chosen: Tensor, labels: Tensor, draw: torch.Generator) -> Examples:
        return Examples.of(torch.zeros(len(chosen), 4, self.size, 1), labels, chosen, self.kind)


def test_examples_that_claim_to_be_bought_or_have_another_shape_are_refused() -> None:
    asked, labels = ALL[:3], torch.zeros(3, dtype=torch.int64)
    assert len(examples_of(Cheats("crafted"), seen(), asked, labels, generator(0))) == 3
    with pytest.raises(ContractError, match="3 said to be bought"):
        examples_of(Cheats(), seen(), asked, labels, generator(0))
    with pytest.raises(ContractError, match=r"Cheats.examples must return Examples of the pool's shape"):
        examples_of(Cheats("twin", size=2), seen(), asked, labels, generator(0))


def test_what_a_part_needs_the_whole_needs() -> None:
    from robal.acquisition import EntropyMix, ExcludeHard

    assert needs_of(Mix(Subsample(EntropyMix()), Random())) == {"teacher"}
    assert needs_of(ExcludeHard(DRE(score=EntropyMix()))) == {"teacher", "snapshots"}
    assert needs_of(DRE()) == frozenset()
    with pytest.raises(InputError, match=r"give select\(..., teacher=model\)"):
        select(Subsample(EntropyMix()), Stated(), stated(ROWS), 3)
