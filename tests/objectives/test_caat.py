from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_batches import a_batch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.attacks import ascend
from robal.errors import InputError
from robal.networks import in_bfloat16
from robal.objectives import CAAT, FRL, Batch, ClassCosts, Doubtful, Learned, Lesson, LossRank, Natural, Trades
from robal.objectives.caat import CLASS_LOSS, Companion
from robal.pool import Examples
from robal.seeds import generator
from robal.threats import Linf
from robal.training import Recipe, Trained, fit
from robal.training.lookahead import lookahead
from small_models import convnet, linear

THREAT = Linf(0.1)


@pytest.fixture(autouse=True)
def _first_weights() -> None:
    """Those of what is learned come from torch's own stream, which the trainer sets."""
    torch.manual_seed(0)


def begun(objective: Any, model: nn.Module, batch: Batch) -> Any:
    return objective.begin(model, Examples.of(batch.inputs, batch.labels))


def uneven(companion: Companion) -> None:
    """Multipliers as after a few epochs of unequal classes."""
    companion.multipliers.natural.copy_(torch.tensor([0.3, 0.0, 0.1, 0.0]))
    companion.multipliers.boundary.copy_(torch.tensor([0.0, 0.2, 0.0, 0.1]))
    companion.multipliers.radius.copy_(torch.tensor([0.2, 0.0, -0.3, 0.4]))


def test_with_adversaries_alone_it_is_trades_to_the_last_bit() -> None:
    model, batch = convnet(dropout=0.0).train(), a_batch()
    objective = CAAT(beta=3.0, steps=4, weighing=LossRank(0.0), costs=None, threat=THREAT)
    ours = objective(model, begun(objective, model, batch), batch, generator(1))
    model = convnet(dropout=0.0).train()
    assert torch.equal(ours, Trades(beta=3.0, steps=4, threat=THREAT)(model, None, batch, generator(1)))


def test_with_adversaries_alone_and_class_costs_it_is_trades_weighted_by_class() -> None:
    """Its two terms are told apart by two strengths: losses(β) = CE + β KL."""
    model, batch = convnet(dropout=0.0).eval(), a_batch()
    objective = CAAT(beta=3.0, steps=4, weighing=LossRank(0.0), threat=THREAT)
    companion = begun(objective, model, batch)
    uneven(companion)
    ours = objective(model, companion, batch, generator(1))
    assert torch.equal(ours, FRL(beta=3.0, steps=4, threat=THREAT)(model, companion.multipliers, batch, generator(1)))
    natural, stable = objective.costs.weights(companion.multipliers, batch.labels)  # type: ignore[union-attr]
    plain = CAAT(beta=0.0, steps=4, weighing=LossRank(0.0), costs=None, threat=THREAT)(
        model, companion, batch, generator(1)
    )
    without = replace(objective, beta=0.0)(model, companion, batch, generator(1))
    torch.testing.assert_close(without, natural * plain)
    factor = torch.tensor([0.25 + 0.3 - 0.1, 0.25 - 0.1, 0.25 + 0.1 - 0.1, 0.25 - 0.1])[batch.labels]
    torch.testing.assert_close(natural / natural[0], factor / factor[0])
    same = replace(objective.costs, remargin=False)  # type: ignore[type-var]
    one, two = (replace(objective, beta=beta, costs=same)(model, companion, batch, generator(1)) for beta in (1.0, 2.0))
    terms = [Trades(beta=beta, steps=4, threat=THREAT)(model, None, batch, generator(1)) for beta in (1.0, 2.0)]
    torch.testing.assert_close(two - one, stable * (terms[1] - terms[0]))
    torch.testing.assert_close(2 * one - two, natural * (2 * terms[0] - terms[1]))


def test_with_anti_adversaries_alone_it_trains_where_the_loss_is_least() -> None:
    model, batch = convnet(dropout=0.0).eval(), a_batch()
    objective = CAAT(steps=4, step_size=0.03, weighing=LossRank(1.0), costs=None, threat=THREAT)
    ours = objective(model, begun(objective, model, batch), batch, generator(1))

    def loss(images: Tensor) -> Tensor:
        return F.cross_entropy(model(images), batch.labels, reduction="none")

    start = batch.inputs + 0.001 * torch.randn(batch.inputs.shape, generator=generator(1))
    easier = ascend(loss, batch.inputs, THREAT, steps=4, step_size=0.03, direction=-1.0, start=start)
    torch.testing.assert_close(ours, loss(easier), rtol=1e-4, atol=1e-5)
    assert (ours < loss(batch.inputs)).all()


@pytest.mark.parametrize("weighing", [Learned(), LossRank(0.5), Doubtful(0.1)])
def test_without_a_radius_it_is_natural_training(weighing: Any) -> None:
    model, batch = convnet(dropout=0.0).eval(), a_batch()
    objective = CAAT(weighing=weighing, costs=None, threat=Linf(0.0))
    natural = Natural()(model, None, batch, generator(0))
    torch.testing.assert_close(objective(model, begun(objective, model, batch), batch, generator(0)), natural)


def test_a_loss_is_divided_as_the_formula_says() -> None:
    """Both ends are known from the tests above; between them the loss is linear in the share."""
    model, batch = convnet(dropout=0.0).eval(), a_batch()

    def losses(weighing: Any) -> Tensor:
        objective = CAAT(steps=3, weighing=weighing, costs=None, threat=THREAT)
        return objective(model, begun(objective, model, batch), batch, generator(1))

    objective = CAAT(steps=3, costs=None, threat=THREAT)
    share = objective.distrust(model, begun(objective, model, batch), batch.inputs, batch.labels)
    assert ((share > 0.2) & (share < 0.8)).all()
    ends = losses(LossRank(0.0)), losses(LossRank(1.0))
    torch.testing.assert_close(losses(Learned()), (1 - share) * ends[0] + share * ends[1], rtol=1e-4, atol=1e-5)


def test_the_features_by_hand() -> None:
    """Logits (log 3, 0): p = (3/4, 1/4), for the labels 0 and 1."""
    model = linear([[0.0], [0.0]])
    images, labels = torch.zeros(4, 1, 1, 1), torch.tensor([0, 0, 0, 1])
    companion = CAAT().begin(model, Examples.of(images, labels))
    found = companion.features(torch.tensor([[math.log(3), 0.0]]).repeat(2, 1), torch.tensor([0, 1]))
    entropy = 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    wanted = [
        [math.log(4 / 3), math.log(2), math.sqrt(2 / 16), 0.5, entropy, 0.75],
        [math.log(4), math.log(2), math.sqrt(18 / 16), -0.5, entropy, 0.25],
    ]
    torch.testing.assert_close(found, torch.tensor(wanted))


def test_the_mean_loss_of_a_class_is_that_of_the_last_epoch() -> None:
    """In the released code it stays 5 for ever."""
    model = linear([[0.0], [0.0]])
    companion = CAAT().begin(model, Examples.of(torch.zeros(2, 1, 1, 1), torch.tensor([0, 1])))
    certain = torch.tensor([[math.log(3), 0.0]]).repeat(2, 1)
    labels = torch.tensor([0, 0])
    companion.note(companion.features(certain, labels), labels)
    assert companion.means.tolist() == pytest.approx([math.log(2)] * 2)
    companion.turn_over()
    assert companion.means.tolist() == pytest.approx([math.log(4 / 3), math.log(2)])  # class 1 was not seen
    assert companion.features(certain, torch.tensor([0, 1]))[:, 1].tolist() == pytest.approx(companion.means.tolist())


def test_when_an_epoch_turns_no_feature_is_far_from_the_others() -> None:
    """By statistics of the first epoch, in which it was one number, a class's loss would be hundreds of deviations off,
    and every example would get the same share."""
    labels = torch.arange(400) % 4
    model = convnet(dropout=0.0)
    companion = CAAT().begin(model, Examples.of(torch.zeros(400, 1, 8, 8), labels))
    for step in range(60):
        logits = 3 * torch.randn(40, 4, generator=generator(step)) + 3 * F.one_hot(labels[:40], 4)
        companion.note(companion.features(logits, labels[:40]), labels[:40])
    companion.turn_over()
    normalised = companion.normaliser(companion.features(logits, labels[:40]))
    assert normalised.abs().max() < 10
    by_class = normalised[:4, CLASS_LOSS]
    torch.testing.assert_close(by_class.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(by_class.std(correction=0), torch.tensor(1.0), atol=0.01, rtol=0)
    assert Learned().shares(companion.learned, logits, normalised).std() > 0.001


def with_one_meta_image(count: int) -> Examples:
    """Noise, of four classes by turns."""
    images = (torch.rand(count, 1, 8, 8, generator=generator(2)) * 255).byte()
    examples = Examples.of(images, torch.arange(count) % 4)
    examples.kind[0] = Examples.KINDS.index("meta")
    return examples


@pytest.mark.parametrize("weighing", [Learned(), Learned(0.001), LossRank(0.025), LossRank(0.975), Doubtful(0.0)])
def test_one_anti_adversary_in_a_batch_is_no_matter_to_batchnorm(weighing: Any) -> None:
    """It sees all that was crafted at once; a single image it would refuse. One meta image is shown twice."""
    objective = CAAT(steps=1, weighing=weighing, costs=None, threat=THREAT)
    recipe = Recipe(objective=objective, epochs=2, batch_size=40, pool=None)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    found = fit(recipe, with_one_meta_image(85), None, Trained(model), None, 0)
    assert all(bool(one.isfinite().all()) for one in found.model.state_dict().values())


def test_the_shares_of_passes_in_bfloat16_are_float32() -> None:
    """Rounded to bfloat16, those near 1 would be 1, and their examples lose the adversary."""
    model, batch, objective = convnet(dropout=0.0).eval(), a_batch(), CAAT(steps=1, threat=THREAT)
    companion = begun(objective, model, batch)
    with in_bfloat16(model, True):
        crafted = objective._craft(model, companion, batch, generator(0))
    assert crafted.shares.dtype is torch.float32
    assert not torch.equal(crafted.shares, crafted.shares.bfloat16().float())


def test_the_first_weights_follow_from_the_seed() -> None:
    recipe = Recipe(objective=CAAT(steps=1, weighing=Learned(lr=1e-9), threat=THREAT), epochs=1, pool=None)

    def first(seed: int) -> Tensor:
        companion = fit(recipe, with_one_meta_image(41), None, Trained(convnet(dropout=0.0)), None, seed).companion
        assert isinstance(companion, Companion)
        return companion.learned.get_parameter("hidden.weight")

    assert torch.equal(first(0), first(0))
    assert (first(0) - first(1)).abs().max() > 0.1


def smooth() -> nn.Module:
    """Differentiable everywhere, in double precision."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)).double()


@pytest.mark.parametrize("kind", ["plain", "momentum", "Adam"])
def test_the_meta_gradient_is_that_of_finite_differences(kind: str) -> None:
    """The weighing is changed by ± h, the step is taken by torch's optimiser itself, and the meta loss is measured."""
    model = smooth()
    images = torch.rand(9, 1, 4, 4, dtype=torch.float64, generator=generator(0))
    labels = torch.arange(9) % 3
    batch = Batch(images, labels, torch.tensor([1.0, 2.0, 0.5] * 3, dtype=torch.float64))
    meta = torch.rand(5, 1, 4, 4, dtype=torch.float64, generator=generator(1)), torch.arange(5) % 3
    objective = CAAT(steps=1, costs=ClassCosts(), threat=Linf(0.05))
    companion = objective.begin(smooth().float(), Examples.of(images.float(), labels)).double()
    companion.multipliers.natural.copy_(torch.tensor([0.2, 0.1, 0.0]))
    companion.multipliers.radius.copy_(torch.tensor([0.1, 0.0, 0.3]))

    def optimiser_of(module: nn.Module) -> torch.optim.Optimizer:
        if kind == "Adam":
            return torch.optim.Adam(module.parameters(), lr=0.05)
        return torch.optim.SGD(module.parameters(), lr=0.5, momentum=0.9 * (kind == "momentum"), weight_decay=0.01)

    optimiser = optimiser_of(model)
    for _ in range(2):  # so that there are moments
        optimiser.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimiser.step()
    optimiser.zero_grad()
    lesson = Lesson(*meta, 0, lookahead(optimiser, model))
    found = objective.meta_gradient(model, companion, batch, lesson, generator(5))

    state = {name: one.clone() for name, one in model.state_dict().items()}
    moments = optimiser.state_dict()

    def meta_loss() -> float:
        twin = smooth()
        twin.load_state_dict(state)
        other = optimiser_of(twin)
        other.load_state_dict(copy.deepcopy(moments))
        draw = generator(5)
        crafted = objective._craft(twin, companion, batch, draw, both=True)
        loss = objective._losses(twin, companion, batch, crafted, crafted.shares)
        (loss * batch.weights).mean().backward()
        other.step()
        drawn = torch.randperm(5, generator=draw)
        beside = Batch(meta[0][drawn], meta[1][drawn], torch.ones(5))
        ahead = objective._craft(twin, companion, beside, draw, both=True)
        halves = torch.full((5,), 0.5, dtype=torch.float64)
        losses = 2 * objective._losses(twin, companion, beside, ahead, halves).detach()
        return float(torch.stack([losses[beside.labels == one].mean() for one in range(3)]).mean())  # of the classes

    parameters, checked = dict(companion.learned.named_parameters()), 0
    for name, positions in {
        "out.weight": [(0, 3), (1, 70)],
        "hidden.weight": [(5, 0), (60, 3)],
        "out.bias": [(1,)],
    }.items():
        for position in positions:
            value, h = float(parameters[name][position]), 1e-6
            both = []
            for moved in (value + h, value - h):
                parameters[name].data[position] = moved
                both.append(meta_loss())
            parameters[name].data[position] = value
            wanted = (both[0] - both[1]) / (2 * h)
            assert float(found[name][position]) == pytest.approx(wanted, rel=1e-3, abs=1e-9), (name, position)
            checked += abs(wanted) > 1e-7
    assert checked >= 3


def lesson_of(model: nn.Module, place: int = 0) -> Lesson:
    meta = a_batch(8, seed=7)
    return Lesson(meta.inputs, meta.labels, place, lookahead(torch.optim.SGD(model.parameters(), lr=0.1), model))


def test_at_the_released_temperature_there_is_next_to_nothing_to_learn_from() -> None:
    """Shares are 0 or 1 for most examples, whose softmax has no gradient; with 1 all examples teach."""
    model, batch = convnet(dropout=0.0).train(), a_batch(64)
    for temperature, most in ((0.001, 4), (1.0, 0)):
        objective = CAAT(steps=1, weighing=Learned(temperature), threat=THREAT)
        companion = begun(objective, model, batch)
        share = objective.distrust(model, companion, batch.inputs, batch.labels)
        certain = ((share == 0) | (share == 1)).sum()
        assert certain > 60 if most else certain == 0


def test_the_weighing_is_taught_every_so_many_steps() -> None:
    model, batch = convnet(dropout=0.0).train(), a_batch()
    objective = CAAT(steps=1, weighing=Learned(every=2), costs=None, threat=THREAT)
    companion = begun(objective, model, batch)
    taught = []
    for place in (0, 1, 2, 0, 1, 2, 0):  # of epochs of three steps
        before = companion.learned.out.weight.clone()
        objective.learn(model, companion, batch, lesson_of(model, place), generator(place))
        taught.append(not torch.equal(before, companion.learned.out.weight))
    assert taught == [True, False, True, False, True, False, True]
    assert int(companion.learned.lessons) == 4


def test_its_optimiser_is_adam() -> None:
    learned, weighing = Learned().build(), Learned(lr=0.01, weight_decay=0.1)
    twin = Learned().build()
    for parameter in twin.parameters():
        parameter.requires_grad_()
    adam = torch.optim.Adam(twin.parameters(), lr=0.01, weight_decay=0.1)
    for number in range(3):
        gradients = {
            name: torch.randn(one.shape, generator=generator(number, name)) for name, one in learned.named_parameters()
        }
        weighing.teach(learned, gradients)
        for name, parameter in twin.named_parameters():
            parameter.grad = gradients[name].clone()
        adam.step()
    for one, other in zip(learned.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other.detach())


def test_the_bound_by_the_gradient_gives_easy_examples_more_room() -> None:
    model, batch = convnet(dropout=0.0).eval(), a_batch()
    objective = CAAT(steps=2, weighing=LossRank(0.0), costs=None, gradient_bound=1.0, threat=THREAT)
    companion = begun(objective, model, batch)
    objective(model, companion, batch, generator(0))  # the running mean begins
    crafted = objective._craft(model, companion, batch, generator(0))
    reach = THREAT.size(crafted.moved - batch.inputs)
    norm = companion.features(model(batch.inputs), batch.labels)[:, 2]
    assert torch.equal(reach.argsort(), norm.argsort(descending=True))
    torch.testing.assert_close(reach, 0.1 * (1 + norm.mean() - norm).clamp(0.5, 2), rtol=0.02, atol=1e-4)


def test_rules_without_learning_cost_what_trades_costs_and_no_meta_set() -> None:
    cheap = CAAT(steps=7, weighing=LossRank(), costs=None)
    assert (cheap.passes, cheap.needs_meta, cheap.meta_passes) == (Trades(steps=7).passes, False, 0)
    dear = CAAT(steps=7, weighing=Learned(every=10))
    assert (dear.passes, dear.needs_meta, dear.meta_passes) == (2 * 8 + 1 + 4, True, 21)


def test_rules_by_hand() -> None:
    features = torch.zeros(4, 6)
    features[:, 0] = torch.tensor([0.1, 3.0, 2.0, 0.5])
    features[:, 3] = torch.tensor([0.9, -0.8, -0.4, 0.1])
    assert LossRank(0.5).shares(nn.Identity(), features, features).tolist() == [0, 1, 1, 0]
    assert Doubtful(0.5).shares(nn.Identity(), features, features).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CAAT(beta=-1), "CAAT needs beta, gradient_bound and meta_anti >= 0"),
        (lambda: CAAT(gradient_bound=math.nan), "nan, 1.0 and 10 came"),
        (lambda: Learned(temperature=0.0), "temperature > 0"),
        (lambda: LossRank(1.5), r"share lies in \[0, 1\]"),
        (lambda: Doubtful(-0.1), r"margin lies in \[0, 1\]"),
        (lambda: ClassCosts(reweight=False, remargin=False), "set costs=null"),
        (lambda: ClassCosts(limit=1.0), r"limit in \[0, 1\)"),
        (lambda: ClassCosts(least=3.0), "least <= most"),
    ],
)
def test_settings_that_cannot_be_are_refused(build: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()
