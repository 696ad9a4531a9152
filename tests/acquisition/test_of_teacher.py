"""The teacher's choice instead of the robust model's, and where the two disagree."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from robal.acquisition import (
    BADGE,
    CEAL,
    DFAL,
    DRE,
    Acquisition,
    Disagreement,
    EntropyMix,
    ExcludeHard,
    Margin,
    MaxEntropy,
    Mix,
    OfTeacher,
    Random,
    Score,
    Screened,
    TypiClust,
    examples_of,
    is_score,
    needs_of,
    select,
)
from robal.acquisition.acquisition import choose_with_scores
from robal.candidates import Candidates
from robal.errors import InputError
from robal.images import InMemory
from robal.plans import read_component
from robal.pool import Pool
from robal.scores import margin
from robal.seeds import generator
from small_models import Counting, Stated, condition, convnet, linear, stated

PIXELS = torch.rand(120, 1, 8, 8, generator=generator(0, "pixels"))
ROBUST, TEACHER = convnet(seed=0).eval(), convnet(seed=1).eval()
DOUBTFUL_AND_TYPICAL = OfTeacher(Screened(TypiClust(), by=Margin(), keep=10, candidates_per_query=0))


def half_labelled() -> Pool:
    pool = Pool.unlabelled(InMemory(PIXELS), ("a", "b", "c", "d"))
    return pool.reveal(torch.arange(0, 40), torch.arange(40) % 4)


@pytest.mark.parametrize(
    "inner",
    [Margin(), MaxEntropy(), DRE(bins=4), BADGE(), TypiClust(), Random(), Mix(BADGE(), TypiClust())],
    ids=lambda inner: type(inner).__name__,
)
def test_the_choice_is_that_of_the_inner_one_with_the_teacher_as_model(inner: Acquisition | Score) -> None:
    wanted = select(inner, TEACHER, half_labelled(), 9, seed=3)
    got = select(OfTeacher(inner), ROBUST, half_labelled(), 9, seed=3, teacher=TEACHER)
    assert torch.equal(got, wanted)
    if not isinstance(inner, Random):
        assert not torch.equal(got, select(inner, ROBUST, half_labelled(), 9, seed=3))


def test_the_smallest_margins_of_the_teacher_are_found_by_sorting_all() -> None:
    with torch.no_grad():
        gaps = margin(TEACHER(PIXELS).softmax(1))[40:].tolist()
    wanted = sorted(range(80), key=lambda position: -gaps[position])[:12]
    chosen = select(OfTeacher(), ROBUST, half_labelled(), 12, teacher=TEACHER)
    assert (chosen - 40).tolist() == wanted


def test_the_robust_model_is_not_asked() -> None:
    robust, standard = Counting(ROBUST), Counting(TEACHER)
    select(OfTeacher(DRE()), robust, half_labelled(), 9, teacher=standard)
    assert sum(robust.passes) == 0
    assert sum(standard.passes) >= 80


def test_what_the_doubtful_and_typical_rule_chooses_lies_among_the_doubtful() -> None:
    """Two groups of doubtful images of which one is labelled, and many that the teacher is sure of."""
    sure = torch.tensor([0.98, 0.01, 0.01]) + 0.001 * torch.rand(200, 3, generator=generator(0))
    left, right = ([0.42, 0.4, 0.18], [0.18, 0.42, 0.4])
    groups = [torch.tensor(middle) + 0.01 * torch.rand(20, 3, generator=generator(1)) for middle in (left, right)]
    rows = torch.cat([sure, *groups])
    images, known = stated(rows / rows.sum(1, keepdim=True)), torch.arange(200, 210)  # ten of the left group
    pool = Pool.unlabelled(InMemory(images), "abc").reveal(known, torch.zeros(10, dtype=torch.int64))
    rule = OfTeacher(Screened(TypiClust(), by=Margin(), keep=15, candidates_per_query=0))
    chosen = select(rule, Stated(), pool, 2, teacher=Stated())
    assert set(chosen.tolist()) <= set(range(210, 240))  # 30 of 230 pass the screen
    assert int((chosen >= 220).sum()) >= 1


def test_the_doubtful_and_typical_rule_is_typical_clustering_of_the_doubtful() -> None:
    candidates = Candidates(TEACHER, half_labelled(), half_labelled().candidates)
    with torch.no_grad():
        doubtful = torch.argsort(margin(candidates.probs), descending=True, stable=True)[:30].sort().values
        wanted = TypiClust()(candidates.only(doubtful), 3, generator(5, "select"))
    chosen = select(DOUBTFUL_AND_TYPICAL, ROBUST, half_labelled(), 3, seed=5, teacher=TEACHER)
    assert torch.equal(chosen, wanted)


def test_it_can_be_written_in_a_plan() -> None:
    text = "{name: OfTeacher, inner: {name: Screened, inner: TypiClust, by: Margin, keep: 10, candidates_per_query: 0}}"
    assert read_component(Acquisition, text, "acquisition") == DOUBTFUL_AND_TYPICAL


def test_needs_are_told_and_what_the_teacher_has_not_is_refused() -> None:
    assert needs_of(Mix(OfTeacher(), Disagreement())) == {"teacher"}
    for inner, lacking in ((EntropyMix(), "teacher"), (ExcludeHard(), "snapshots"), (Mix(OfTeacher()), "teacher")):
        with pytest.raises(InputError, match=f"no teacher and no snapshots; {type(inner).__name__} needs {lacking}"):
            OfTeacher(inner)
    for acquisition in (OfTeacher(), Disagreement()):
        with pytest.raises(InputError, match=r"give select\(..., teacher=model\)"):
            select(acquisition, ROBUST, PIXELS, 3)


def test_nothing_is_added_to_the_training_set_by_the_teacher() -> None:
    candidates = Candidates(ROBUST, half_labelled(), half_labelled().candidates)  # the teacher is gone by then
    for inner in (DFAL(), CEAL(threshold=9.0)):
        assert len(examples_of(OfTeacher(inner), candidates, torch.tensor([50]), torch.tensor([1]), generator(0))) == 0


def test_the_scores_beside_a_choice_are_the_teachers() -> None:
    candidates = Candidates(ROBUST, half_labelled(), half_labelled().candidates, teacher=TEACHER)
    chosen, scores = choose_with_scores(OfTeacher(), candidates, 7, generator(0))
    with torch.no_grad():
        wanted = margin(TEACHER(PIXELS[chosen]).softmax(1))
    assert scores is not None
    torch.testing.assert_close(scores, wanted)


def disagreement(teacher: list[list[float]], robust: list[list[float]]) -> Tensor:
    """Of models that give the images 0, 1, … these rows."""
    count = len(teacher)
    images = torch.eye(count).view(count, 1, 1, count)
    models = [linear(torch.tensor(rows).clamp_min(1e-30).log().T).eval() for rows in (teacher, robust)]
    pool = Pool.unlabelled(InMemory(images), [str(number) for number in range(len(teacher[0]))])
    with torch.no_grad():
        return Disagreement()(Candidates(models[1], pool, pool.candidates, teacher=models[0]), generator(0))


def test_models_sure_of_different_classes_disagree_by_log_2_and_equally_unsure_ones_not_at_all() -> None:
    teacher = [[1.0, 0.0], [0.5, 0.5], [1.0, 0.0], [1.0, 0.0]]
    robust = [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0], [0.5, 0.5]]
    # The last: H(3/4, 1/4) - H(1/2, 1/2) / 2 = 2 log 2 - 3/4 log 3 - 1/2 log 2.
    wanted = [math.log(2), 0.0, 0.0, 1.5 * math.log(2) - 0.75 * math.log(3)]
    torch.testing.assert_close(disagreement(teacher, robust), torch.tensor(wanted).double(), rtol=1e-6, atol=1e-9)


def test_disagreement_is_the_jensen_shannon_divergence_of_scipy_and_symmetric() -> None:
    pairs = torch.randn(2, 30, 5, generator=generator(0), dtype=torch.float64).mul(3).softmax(2)
    first, second = (rows.tolist() for rows in pairs)
    wanted = jensenshannon(np.array(first), np.array(second), axis=1) ** 2
    got = disagreement(first, second)
    torch.testing.assert_close(got, torch.from_numpy(wanted), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(got, disagreement(second, first))
    assert is_score(Disagreement())


@pytest.mark.parametrize("acquisition", [OfTeacher(BADGE()), Disagreement()], ids=lambda kind: type(kind).__name__)
def test_both_models_come_back_as_they_were(acquisition: Acquisition | Score) -> None:
    robust, teacher = convnet(seed=0).train(), convnet(seed=1).train()
    before = condition(robust), condition(teacher)
    select(acquisition, robust, half_labelled(), 5, teacher=teacher)
    assert (condition(robust), condition(teacher)) == before
