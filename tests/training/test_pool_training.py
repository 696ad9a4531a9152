"""The unlabelled pool as training data: who teaches whom, on what, and that nobody sees a label that was not bought."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor, nn
from watching import Watching

from robal.augmentations import CropFlip
from robal.errors import InputError
from robal.objectives import Adversarial, Batch, FixMatch, Natural
from robal.pool import Examples
from robal.seeds import generator, stream
from robal.training import Adam, PoolTraining, Recipe, Trained, fit
from robal.training.pseudo_labels import PseudoLabels, effective_classes, pseudo_labels
from small_models import condition, convnet, linear

TEACHER = Recipe(FixMatch(threshold=0.5), budget=3000, batch_size=10, unlabelled_batch=10, optimiser=Adam(1e-2))
POOL = PoolTraining(TEACHER, share=0.25)
RECIPE = Recipe(Natural(), epochs=2, batch_size=8, optimiser=Adam(1e-2), pool=POOL)


@pytest.fixture
def rest(tiny_digits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The images, and labels, that were not bought."""
    return tiny_digits[0][41:], tiny_digits[1][41:]


def test_the_teacher_labels_the_pool_and_the_student_trains_on_both(
    examples: Examples, rest: tuple[Tensor, Tensor], start: Trained
) -> None:
    watching = Watching()
    trained = fit(replace(RECIPE, objective=watching), examples, rest[0], start, None, 0)
    assert trained.teacher is not None
    assert trained.guesses is not None
    with torch.no_grad():
        said = trained.teacher(rest[0].float() / 255).argmax(1)
    assert torch.equal(trained.guesses, said)
    assert len(watching.batches) == 2 * -(-(41 + len(rest[0])) // 8)
    known = {image.numpy().tobytes(): int(label) for image, label in zip(examples.images, examples.labels, strict=True)}
    guessed = {image.numpy().tobytes(): int(label) for image, label in zip(rest[0], said, strict=True)}
    for batch in watching.batches:
        images = (batch.inputs * 255).round().to(torch.uint8)
        pairs = [(image.numpy().tobytes(), int(label)) for image, label in zip(images, batch.labels, strict=True)]
        assert [known.get(image) for image, _ in pairs[:2]] == [label for _, label in pairs[:2]]  # a quarter of eight
        assert [guessed.get(image) for image, _ in pairs[2:]] == [label for _, label in pairs[2:]]


def test_the_teacher_is_trained_by_fit_on_what_was_bought(
    examples: Examples, rest: tuple[Tensor, Tensor], start: Trained
) -> None:
    trained = fit(RECIPE, examples, rest[0], start, None, 5)
    alone = fit(TEACHER, examples, rest[0], Trained(start.model), None, stream(5, "teacher"))
    assert trained.teacher is not None
    for one, two in zip(trained.teacher.parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_the_student_begins_as_its_teacher_or_as_the_recipe_says(
    examples: Examples, rest: tuple[Tensor, Tensor], start: Trained
) -> None:
    still = replace(RECIPE, optimiser=Adam(1e-30), epochs=1)
    other = convnet(classes=10, seed=3).eval()
    taught = fit(
        replace(still, pool=replace(POOL, from_teacher=True)),
        examples,
        rest[0],
        Trained(other),
        None,
        0,
        fresh=lambda _: start.model,
    )
    assert taught.teacher is not None
    own = fit(still, examples, rest[0], Trained(other), None, 0)
    for module, wanted in ((taught.model, taught.teacher), (own.model, other)):
        for one, two in zip(module.parameters(), wanted.parameters(), strict=True):
            assert torch.equal(one, two)


def test_images_the_teacher_is_not_sure_of_are_not_labelled_but_may_be_looked_at(
    examples: Examples, rest: tuple[Tensor, Tensor], start: Trained
) -> None:
    watching = Watching()
    pool = replace(POOL, confidence=0.9, images=60)
    trained = fit(replace(RECIPE, objective=watching, pool=pool), examples, rest[0], start, None, 0)
    assert trained.guesses is not None
    sure = int((trained.guesses >= 0).sum())
    assert 0 < sure < 60
    unsure = {image.numpy().tobytes() for image, guess in zip(rest[0], trained.guesses, strict=True) if guess < 0}
    for batch in watching.batches:
        assert batch.unlabelled is not None
        assert {image.numpy().tobytes() for image in (batch.unlabelled * 255).round().to(torch.uint8)} <= unsure


def test_soft_targets_are_the_teachers_probabilities_and_one_hot_for_what_was_bought(
    examples: Examples, rest: tuple[Tensor, Tensor], start: Trained
) -> None:
    watching = Watching()
    fit(replace(RECIPE, objective=watching, pool=replace(POOL, soft=True)), examples, rest[0], start, None, 0)
    for batch in watching.batches:
        assert batch.targets is not None
        torch.testing.assert_close(batch.targets.sum(1), torch.ones(len(batch.targets)))
        assert torch.equal(batch.targets[:2].argmax(1), batch.labels[:2])
        assert batch.targets[:2].amax(1).eq(1).all()
        assert batch.targets[2:].amax(1).lt(1).any()


def test_a_collapsed_teacher_is_not_followed(capsys: pytest.CaptureFixture[str]) -> None:
    """Four classes were bought and all of the pool is called the same: training goes on with what was bought."""
    images = torch.rand((16, 1, 1, 2), generator=torch.Generator().manual_seed(0))
    one_class = Trained(linear(torch.zeros(4, 2), [9.0, 0.0, 0.0, 0.0]))
    watching = Watching()
    nothing = Recipe(Natural(), optimiser=Adam(1e-30), epochs=1)
    recipe = Recipe(watching, epochs=1, batch_size=8, pool=PoolTraining(nothing))
    trained = fit(recipe, Examples.of(images[:8], torch.arange(8) % 4), images[8:], one_class, None, 0)
    assert trained.guesses is not None
    assert trained.guesses.eq(-1).all()
    assert trained.teacher is None
    assert trained.has_collapsed
    assert [len(batch.labels) for batch in watching.batches] == [8]
    assert "so none is used this time" in capsys.readouterr().err


def test_how_many_classes_labels_fall_on() -> None:
    assert effective_classes(torch.tensor([3, 3, 3])) == pytest.approx(1)
    assert effective_classes(torch.arange(10)) == pytest.approx(10)
    sure = PseudoLabels(torch.eye(3), torch.tensor([True, True, False]))
    assert sure.labels.tolist() == [0, 1, -1]
    assert not sure.has_collapsed(torch.arange(4))
    assert sure.has_collapsed(torch.arange(5))  # 3 (2 - 1) < 5 - 1
    one_of_two = PseudoLabels(torch.eye(2)[:1].expand(5, 2), torch.ones(5, dtype=torch.bool))
    assert one_of_two.has_collapsed(torch.arange(2))
    assert not PseudoLabels(torch.eye(3), torch.zeros(3, dtype=torch.bool)).has_collapsed(torch.arange(3))


@pytest.mark.parametrize("confidence", [0.0, 0.9])
def test_the_pool_is_not_in_memory_twice_while_the_student_trains(
    confidence: float, examples: Examples, rest: tuple[Tensor, Tensor], start: Trained
) -> None:
    """What a caller lets go is gone by then; the examples hold what has a label."""
    pixels = [rest[0].clone()]
    held = weakref.ref(pixels[0])
    seen = []

    @dataclass(frozen=True)
    class Looks:
        passes: int = 1

        def begin(self, model: nn.Module, examples: Examples) -> None:
            seen.append(held())

        def __call__(self, model: nn.Module, companion: nn.Module | None, batch: Batch, draw: Generator) -> Tensor:
            return Natural()(model, None, batch, draw)

    recipe = replace(RECIPE, objective=Looks(), epochs=1, pool=replace(POOL, confidence=confidence))
    fit(recipe, examples, pixels.pop(), start, None, 0)
    assert seen == [None]


def test_labelling_leaves_the_teacher_as_it_was(rest: tuple[Tensor, Tensor]) -> None:
    teacher = convnet(classes=10).train()
    before = condition(teacher)
    said = pseudo_labels(PoolTraining(confidence=0.3), teacher, rest[0])
    assert condition(teacher) == before
    assert torch.equal(said.accepted, said.probs.amax(1) >= 0.3)
    assert torch.equal(said.probs, pseudo_labels(PoolTraining(), teacher, rest[0], batch_size=7).probs)


def test_without_a_pool_left_training_is_on_the_bought_alone(examples: Examples, start: Trained) -> None:
    none = torch.empty(0, 1, 8, 8, dtype=torch.uint8)
    trained, alone = (fit(recipe, examples, none, start, None, 0) for recipe in (RECIPE, replace(RECIPE, pool=None)))
    assert trained.teacher is None
    assert trained.guesses is None
    for one, two in zip(trained.model.parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("stop", [1, 30])
def test_a_kill_of_teacher_or_student_changes_nothing(
    stop: int, examples: Examples, rest: tuple[Tensor, Tensor], start: Trained, tmp_path: Path
) -> None:
    """At batch 1 of the student and at batch 30 of the teacher."""
    recipe = replace(RECIPE, average=0.9, augmentation=CropFlip(1, False))
    wanted = fit(recipe, examples, rest[0], start, None, 0)
    if stop == 1:
        killed = replace(recipe, objective=Watching(stop=1))
    else:
        watching = Watching(TEACHER.objective, 30, unlabelled_passes=2)
        killed = replace(recipe, pool=replace(POOL, teacher=replace(TEACHER, objective=watching)))
    with pytest.raises(KeyboardInterrupt):
        fit(killed, examples, rest[0], start, None, 0, checkpoint=tmp_path / "training.safetensors")
    again = fit(recipe, examples, rest[0], start, None, 0, checkpoint=tmp_path / "training.safetensors")
    assert again.guesses is not None
    assert wanted.guesses is not None
    assert torch.equal(again.guesses, wanted.guesses)
    assert again.evaluations == wanted.evaluations
    assert again.earlier > wanted.earlier == 0.0  # the finished teacher's time, or part of it
    for one, two in zip(again.model.parameters(), wanted.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_the_teacher_is_saved_with_the_model(
    examples: Examples, rest: tuple[Tensor, Tensor], start: Trained, tmp_path: Path
) -> None:
    trained = fit(RECIPE, examples, rest[0], start, None, 0)
    trained.save(tmp_path / "model.safetensors")
    loaded = Trained.load(tmp_path / "model.safetensors", convnet(classes=10, seed=9))
    assert loaded.teacher is not None
    assert trained.teacher is not None
    for got, wanted in ((loaded.model, trained.model), (loaded.teacher, trained.teacher)):
        assert all(torch.equal(got.state_dict()[name], value) for name, value in wanted.state_dict().items())


def test_what_training_costs_is_counted_teacher_included(
    examples: Examples, rest: tuple[Tensor, Tensor], start: Trained
) -> None:
    of_teacher = 25 * (41 + 4 * 2 * 10)
    recipe = replace(RECIPE, objective=Adversarial(), budget=of_teacher + 5 * 11 * 8)
    trained = fit(recipe, examples, rest[0], start, None, 0)
    assert fit(TEACHER, examples, rest[0], start, None, 0).evaluations == of_teacher
    assert trained.evaluations == recipe.budget
    assert trained.steps == 5


def test_what_makes_no_sense_is_refused() -> None:
    for settings, message in (
        ({"share": 0.0}, "share in"),
        ({"share": 1.0}, "share in"),
        ({"confidence": 1.1}, "confidence in"),
        ({"images": 0}, "write pool=null"),
        ({"teacher": RECIPE}, "no pool training of its own"),
        ({"teacher": replace(TEACHER, keep="best")}, "keeps its last epoch"),
        ({"teacher": replace(TEACHER, keep_optimiser=True, snapshots=2)}, "leave out keep_optimiser, snapshots"),
        ({"teacher": replace(TEACHER, shrink=0.5)}, "leave out shrink"),
    ):
        with pytest.raises(InputError, match=message):
            PoolTraining(**settings)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"set pool\.teacher\.budget"):
        replace(RECIPE, budget=3000, pool=replace(POOL, teacher=replace(TEACHER, budget=None)))
    with pytest.raises(InputError, match="shrink is for a warm start"):
        replace(RECIPE, shrink=0.5, pool=replace(POOL, from_teacher=True))
    with pytest.raises(InputError, match=r"without pool\.from_teacher"):
        replace(RECIPE, keep_optimiser=True, pool=replace(POOL, from_teacher=True))
    with pytest.raises(InputError, match="includes the teacher's 3000"):
        replace(RECIPE, budget=3000)


def test_a_bought_image_comes_round_as_often_as_its_share_says(
    examples: Examples, rest: tuple[Tensor, Tensor], start: Trained
) -> None:
    watching = Watching()
    few = examples.only(torch.arange(4))
    fit(replace(RECIPE, objective=watching, epochs=1), few, rest[0][:40], start, None, 0)
    bought = {image.numpy().tobytes(): 0 for image in few.images}
    for batch in watching.batches:
        for image in (batch.inputs * 255).round().to(torch.uint8):
            if image.numpy().tobytes() in bought:
                bought[image.numpy().tobytes()] += 1
    assert sum(bought.values()) == 2 * 6  # two a batch, 44 images in batches of 8
    assert max(bought.values()) - min(bought.values()) <= 1


def test_the_generator_of_a_recipe_is_named(examples: Examples, rest: tuple[Tensor, Tensor], start: Trained) -> None:
    """Of `images` out of the pool the same are drawn whenever the seed is the same."""
    recipe = replace(RECIPE, pool=replace(POOL, images=60))
    trained = fit(recipe, examples, rest[0], start, None, 3)
    drawn = torch.randperm(len(rest[0]), generator=generator(3, "pool"))[:60]
    assert trained.guesses is not None
    assert torch.equal((trained.guesses >= 0).nonzero().flatten(), drawn.sort().values)


def test_twins_and_the_guesses_of_others_do_not_teach_the_teacher(
    examples: Examples, rest: tuple[Tensor, Tensor], start: Trained
) -> None:
    more = Examples.of(rest[0][:5], torch.zeros(5, dtype=torch.int64), kind="twin")
    trained, alone = (
        fit(RECIPE, part, rest[0], start, None, 0) for part in (Examples.join([examples, more]), examples)
    )
    assert trained.guesses is not None
    assert alone.guesses is not None
    assert torch.equal(trained.guesses, alone.guesses)


def test_an_exhausted_pool_is_no_error_for_objectives_that_look_at_it(examples: Examples, start: Trained) -> None:
    nothing = torch.empty(0, 1, 8, 8, dtype=torch.uint8)
    trained = fit(replace(TEACHER, budget=300), examples, nothing, start, None, 0)
    assert trained.evaluations <= 300 + 11
