"""Training: examples in, a trained model out, as a function of the seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from watching import Counter, Watching, WithCompanion

from robal.attacks import PGD
from robal.errors import ContractError, InputError
from robal.objectives import ACT, CAAT, FRL, Adversarial, Batch, ClassCosts, Learned, LossRank, Natural
from robal.objectives.caat import Companion
from robal.pool import Examples
from robal.seeds import generator
from robal.threats import Linf
from robal.training import SGD, Adam, CropFlip, PoolTraining, Recipe, ReleasedCyclic, Trained, Triangular, fit
from small_models import condition, convnet, linear

NATURAL = Recipe(Natural(), epochs=3, batch_size=8, optimiser=Adam(1e-2))


def equal(first: nn.Module, second: nn.Module) -> bool:
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def train(recipe: Recipe, examples: Examples, start: Trained, seed: int = 0, monitor: Any = None) -> Trained:
    return fit(recipe, examples, None, start, monitor, seed)


def test_it_is_stochastic_gradient_descent_as_anybody_would_write_it(examples: Examples) -> None:
    recipe = Recipe(Natural(), epochs=2, batch_size=8, optimiser=SGD(0.5, 0.0, 0.0), schedule=Triangular(0.3))
    trained = train(recipe, examples, Trained(linear(torch.zeros(10, 64))), seed=3)
    weight, bias = torch.zeros(10, 64, requires_grad=True), torch.zeros(10, requires_grad=True)
    step = 0
    for epoch in range(2):
        order = torch.randperm(41, generator=generator(3, "order", epoch))
        for batch in (*order[:32].split(8), order[32:]):
            logits = (examples.images[batch].float() / 255).flatten(1) @ weight.T + bias
            gradients = torch.autograd.grad(F.cross_entropy(logits, examples.labels[batch]), (weight, bias))
            here = (step + 1) / 11
            rate = 0.5 * (here / 0.3 if here < 0.3 else (1 - here) / 0.7)
            with torch.no_grad():
                weight -= rate * gradients[0]
                bias -= rate * gradients[1]
            step += 1
    layer: Any = trained.model[1]  # type: ignore[index]
    torch.testing.assert_close(layer.weight.detach(), weight.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(layer.bias.detach(), bias.detach(), rtol=1e-4, atol=1e-6)
    assert trained.steps == step == 10


def test_it_learns(examples: Examples, start: Trained) -> None:
    trained = train(replace(NATURAL, epochs=15), examples, start)
    with torch.no_grad():
        right = trained.model(examples.images.float() / 255).argmax(1) == examples.labels
    assert right.double().mean() > 0.95
    assert not any(module.training for module in trained.model.modules())
    assert (trained.epoch, trained.steps, trained.optimiser) == (15, 75, {})


@pytest.mark.parametrize(
    "recipe",
    [NATURAL, replace(NATURAL, objective=Adversarial(PGD(steps=2, threat=Linf(0.1))), augmentation=CropFlip(1))],
    ids=["natural", "adversarial and augmented"],
)
def test_equal_seeds_give_equal_models_whatever_the_global_stream_and_other_seeds_others(
    recipe: Recipe, examples: Examples, start: Trained
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = train(recipe, examples, start)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert equal(train(recipe, examples, start).model, first.model)
        assert not equal(train(recipe, examples, start, seed=1).model, first.model)


def test_what_training_starts_from_is_left_as_it_was(examples: Examples) -> None:
    model = convnet(classes=10).train()
    model[3].eval()
    before, pixels, labels = condition(model), examples.images.clone(), examples.labels.clone()
    trained = train(NATURAL, examples, Trained(model))
    assert condition(model) == before
    assert not equal(trained.model, model)
    assert torch.equal(examples.images, pixels)
    assert torch.equal(examples.labels, labels)


def test_every_example_is_seen_once_an_epoch_and_a_last_one_alone_joins_its_neighbours(
    examples: Examples, start: Trained
) -> None:
    watching = Watching()
    train(replace(NATURAL, objective=watching, epochs=2), examples, start)
    assert [len(batch.labels) for batch in watching.batches] == [8, 8, 8, 8, 9] * 2
    for epoch in (watching.batches[:5], watching.batches[5:]):
        seen = torch.cat([batch.inputs for batch in epoch]).flatten(1).sum(1).sort().values
        torch.testing.assert_close(seen, (examples.images.float() / 255).flatten(1).sum(1).sort().values)
    assert not torch.equal(watching.batches[0].labels, watching.batches[5].labels)


@pytest.mark.parametrize(("count", "sizes"), [(2, [2]), (3, [3]), (4, [2, 2]), (5, [2, 3])])
def test_no_batch_has_one_image(examples: Examples, start: Trained, count: int, sizes: list[int]) -> None:
    watching = Watching()
    few = Examples.of(examples.images[:count], examples.labels[:count])
    train(replace(NATURAL, objective=watching, epochs=1, batch_size=2), few, start)
    assert [len(batch.labels) for batch in watching.batches] == sizes


def test_batches_are_floats_in_the_unit_interval_and_augmented(examples: Examples, start: Trained) -> None:
    @dataclass(frozen=True)
    class Dimmed:
        def __call__(self, inputs: Tensor, draw: torch.Generator) -> Tensor:
            return inputs * 0.5

    watching = Watching()
    train(replace(NATURAL, objective=watching, epochs=1, augmentation=Dimmed()), examples, start)
    inputs = torch.cat([batch.inputs for batch in watching.batches])
    assert inputs.dtype == torch.float32
    assert float(inputs.max()) == 0.5


def test_bytes_and_the_floats_they_stand_for_train_the_same_model(examples: Examples, start: Trained) -> None:
    floats = replace(examples, images=examples.images.float() / 255)
    assert equal(train(NATURAL, examples, start).model, train(NATURAL, floats, start).model)


def test_an_example_of_weight_zero_has_no_say_in_the_loss(examples: Examples, start: Trained) -> None:
    weight = torch.ones(41)
    weight[7] = 0
    other = examples.labels.clone()
    other[7] = (other[7] + 1) % 10
    first = train(NATURAL, replace(examples, weight=weight), start)
    assert equal(first.model, train(NATURAL, replace(examples, weight=weight, labels=other), start).model)
    assert not equal(first.model, train(NATURAL, replace(examples, labels=other), start).model)


def test_unlabelled_images_come_beside_each_batch(examples: Examples, start: Trained) -> None:
    watching = Watching()
    recipe = replace(NATURAL, objective=watching, epochs=1, unlabelled_batch=5)
    fit(recipe, examples, examples.images[:3], start, None, 0)
    known = {round(float(total), 3) for total in (examples.images[:3].float() / 255).flatten(1).sum(1)}
    for batch in watching.batches:
        assert batch.unlabelled is not None
        assert len(batch.unlabelled) == 5
        assert {round(float(total), 3) for total in batch.unlabelled.flatten(1).sum(1)} <= known


def test_the_best_epoch_is_kept_and_of_equal_ones_the_later(examples: Examples, start: Trained) -> None:
    states, modes = [], []

    def monitor(model: nn.Module, epoch: int) -> float:
        modes.append(model.training)
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return [0.1, 0.5, 0.5, 0.2][epoch]

    recipe = replace(NATURAL, epochs=4, keep="best")
    best = train(recipe, examples, start, monitor=monitor)
    assert best.epoch == 3
    assert best.steps == 20
    assert modes == [False] * 4
    assert all(torch.equal(tensor, states[2][name]) for name, tensor in best.model.state_dict().items())
    last = train(replace(recipe, keep="last"), examples, start)
    assert last.epoch == 4
    assert all(torch.equal(tensor, states[3][name]) for name, tensor in last.model.state_dict().items())


@pytest.mark.parametrize(("epochs", "count", "after"), [(4, 2, (2, 4)), (5, 2, (3, 5)), (3, 3, (1, 2, 3)), (4, 0, ())])
def test_snapshots_are_the_states_after_epochs_evenly_spaced(
    examples: Examples, start: Trained, epochs: int, count: int, after: tuple[int, ...]
) -> None:
    recipe = Recipe(Natural(), epochs=epochs, batch_size=8, snapshots=count)
    trained = fit(recipe, examples, None, start, None, 0)
    assert len(trained.snapshots) == count
    for snapshot, stop in zip(trained.snapshots, after, strict=True):
        shorter = fit(replace(recipe, epochs=stop, snapshots=0), examples, None, start, None, 0)
        wanted = shorter.model.state_dict()
        assert snapshot.keys() == wanted.keys()
        assert all(torch.equal(snapshot[name], wanted[name]) for name in wanted)


def test_more_snapshots_than_epochs_are_refused() -> None:
    with pytest.raises(InputError, match="a training of 3 epochs has up to so many snapshots; 4 came"):
        Recipe(epochs=3, snapshots=4)


def test_the_model_trains_in_training_mode_also_after_its_monitor_looked(examples: Examples, start: Trained) -> None:
    watching = Watching()
    trained = train(
        replace(NATURAL, objective=watching, epochs=2, keep="best"), examples, start, monitor=lambda model, epoch: 0.5
    )
    assert watching.modes == [True] * 10
    assert int(trained.model.state_dict()["1.num_batches_tracked"]) == 10


def test_a_schedule_across_rounds_knows_the_steps_of_earlier_ones(examples: Examples, start: Trained) -> None:
    """With a half cycle of five steps the rate is 0 at step 0: one batch there changes nothing, at step 5 it does."""
    recipe = Recipe(
        Natural(), epochs=1, batch_size=41, optimiser=SGD(0.1, 0.9, 0.0), schedule=ReleasedCyclic(half_cycle=5)
    )
    nothing, first = train(recipe, examples, start), replace(start, steps=5)
    weight = start.model.state_dict()["5.weight"]
    assert torch.equal(nothing.model.state_dict()["5.weight"], weight)
    assert not torch.equal(train(recipe, examples, first).model.state_dict()["5.weight"], weight)
    assert train(recipe, examples, first).steps == 6


@dataclass(frozen=True)
class WithoutMomentum:
    """A schedule that takes the momentum away and leaves the rate."""

    def factor(self, step: int, total: int, before: int) -> float:
        return 1.0

    def momentum(self, step: int, total: int, before: int) -> float:
        return 0.0


def test_a_schedule_may_set_the_momentum(examples: Examples, start: Trained) -> None:
    recipe = replace(NATURAL, optimiser=SGD(0.1, 0.9), schedule=WithoutMomentum())
    plain = replace(NATURAL, optimiser=SGD(0.1, 0.0))
    assert equal(train(recipe, examples, start).model, train(plain, examples, start).model)


@pytest.mark.parametrize("optimiser", [Adam(1e-2), SGD(0.1)], ids=["Adam", "SGD"])
def test_the_optimisers_state_goes_on_where_the_recipe_says_so(
    examples: Examples, start: Trained, optimiser: Any
) -> None:
    recipe = replace(NATURAL, optimiser=optimiser, keep_optimiser=True, epochs=1)
    first = train(recipe, examples, start)
    name = "0.exp_avg" if isinstance(optimiser, Adam) else "0.momentum_buffer"
    assert first.optimiser[name].any()
    going_on = train(recipe, examples, first)
    anew = train(recipe, examples, replace(first, optimiser={}))
    assert not equal(going_on.model, anew.model)
    if isinstance(optimiser, Adam):
        assert float(going_on.optimiser["0.step"]) == 10


def test_a_companion_is_carried_along_and_the_earlier_one_left_alone(examples: Examples, start: Trained) -> None:
    recipe = replace(NATURAL, objective=WithCompanion(), epochs=2)
    first = train(recipe, examples, start)
    assert isinstance(first.companion, Counter)
    assert float(first.companion.seen) == 10
    second = train(recipe, examples, first)
    assert isinstance(second.companion, Counter)
    assert float(second.companion.seen) == 20
    assert float(first.companion.seen) == 10


def test_what_a_companion_learned_goes_on_and_what_follows_from_the_examples_does_not(
    examples: Examples, start: Trained
) -> None:
    recipe = replace(NATURAL, objective=CAAT(steps=1, weighing=Learned(every=1), costs=ClassCosts(steps=1)), epochs=1)
    first = train(recipe, with_meta(examples), start)
    assert isinstance(first.companion, Companion)
    assert (int(first.companion.multipliers.epochs), int(first.companion.learned.lessons)) == (1, 5)
    few = examples.only(examples.labels < 3)
    second = train(recipe, with_meta(few), first)
    assert isinstance(second.companion, Companion)
    assert (int(second.companion.multipliers.epochs), int(second.companion.learned.lessons)) > (1, 5)
    assert float(second.companion.multipliers.proportions[3:].sum()) == 0
    assert (first.companion.multipliers.proportions > 0).all()
    other = train(replace(NATURAL, objective=ACT(steps=1), epochs=1), examples, second)
    assert isinstance(other.companion, type(start.model))  # of another kind: it begins anew


def with_meta(examples: Examples) -> Examples:
    """The same, with images of other kinds for the meta set: the first ten, turned."""
    return Examples.join([examples, Examples.of(examples.images[:10].flip(3), examples.labels[:10], kind="meta")])


def test_the_meta_set_is_not_trained_on(examples: Examples, start: Trained) -> None:
    watching = Watching()
    trained = train(replace(NATURAL, objective=watching), with_meta(examples), start)
    shown = torch.cat([batch.inputs for batch in watching.batches[:5]])
    assert len(shown) == 41
    turned = examples.images[:10].flip(3).float() / 255
    assert not any(torch.equal(one, other) for one in shown for other in turned)
    assert equal(trained.model, train(NATURAL, examples, start).model)


@pytest.mark.parametrize("objective", [FRL(), CAAT(), CAAT(costs=None), CAAT(weighing=LossRank())])
def test_an_objective_without_the_meta_set_that_it_learns_from_is_refused(
    examples: Examples, start: Trained, objective: Any
) -> None:
    with pytest.raises(InputError, match=r"learns from a meta set, .* and there are none"):
        train(replace(NATURAL, objective=objective), examples, start)


def test_a_teacher_has_no_meta_set() -> None:
    with pytest.raises(InputError, match="a teacher is taught without a meta set, which FRL learns from"):
        PoolTraining(Recipe(FRL()))


def test_the_second_network_is_trained_by_the_same_optimiser(examples: Examples, start: Trained) -> None:
    """With share 0 the natural network trains alone: as by natural training, for which it starts alike."""
    recipe = replace(NATURAL, objective=ACT(share=0.0, steps=1, threat=Linf(0.1)), optimiser=SGD(0.05))
    start = Trained(convnet(classes=10, dropout=0.0).eval())
    trained = train(recipe, examples, start)
    assert trained.companion is not None
    assert equal(trained.companion, train(replace(recipe, objective=Natural()), examples, start).model)
    assert not equal(trained.companion, trained.model)


def test_the_optimisers_state_of_a_second_network_does_not_go_to_another_objective(
    examples: Examples, start: Trained
) -> None:
    recipe = replace(NATURAL, objective=ACT(steps=1), keep_optimiser=True, epochs=1)
    first = train(recipe, examples, start)
    assert len({name.partition(".")[0] for name in first.optimiser}) == len(list(start.model.parameters()))
    train(replace(recipe, objective=Natural()), examples, first)
    train(recipe, examples, first)


def test_what_is_spent_on_the_meta_set_counts(examples: Examples, start: Trained) -> None:
    """Of 41 + 10 images: 3 epochs of (41 · (2 + 2) + 10 · (5 + 1)) gradient evaluations; a budget buys fewer steps."""
    objective = FRL(steps=2, costs=ClassCosts(steps=5))
    recipe = replace(NATURAL, objective=objective)
    assert train(recipe, with_meta(examples), start).evaluations == 3 * (41 * 4 + 10 * 6)
    trained = train(replace(recipe, budget=3 * (41 * 4 + 10 * 6)), with_meta(examples), start)
    assert trained.steps == 15


def test_fewer_than_two_examples_are_refused(examples: Examples, start: Trained) -> None:
    one = Examples.of(examples.images[:1], examples.labels[:1])
    with pytest.raises(InputError, match="at least two examples; 1 came"):
        train(NATURAL, one, start)


def test_the_best_cannot_be_kept_where_nobody_judges(examples: Examples, start: Trained) -> None:
    with pytest.raises(InputError, match=r"chooses by validation images and there are none; use keep=\"last\""):
        train(replace(NATURAL, keep="best"), examples, start)


def test_a_loss_that_is_no_number_stops_the_training_with_what_to_do(examples: Examples, start: Trained) -> None:
    with pytest.raises(ContractError, match=r"the loss is (nan|inf) in epoch [12]: lower the learning rate"):
        train(replace(NATURAL, optimiser=SGD(1e30)), examples, start)


@pytest.mark.parametrize("shape", ["mean", "column"])
def test_an_objective_that_does_not_give_one_loss_an_example_is_refused(
    examples: Examples, start: Trained, shape: str
) -> None:
    @dataclass(frozen=True)
    class Wrong:
        passes: int = 1

        def begin(self, model: nn.Module, examples: Examples) -> None:
            return None

        def __call__(self, model: nn.Module, companion: None, batch: Batch, draw: torch.Generator) -> Tensor:
            losses = Natural()(model, None, batch, draw)
            return losses.mean() if shape == "mean" else losses[:, None]

    with pytest.raises(
        ContractError, match=r"Wrong must return one loss for each of 8 examples; it returned \[(8, 1)?\]"
    ):
        train(replace(NATURAL, objective=Wrong()), examples, start)
