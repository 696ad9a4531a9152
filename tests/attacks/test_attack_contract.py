"""The law book of attacks: every exported one is found by its export and keeps the contract."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robal.attacks import ALIASES, Attack, perturb
from robal.errors import ContractError, InputError
from robal.plans import known
from robal.seeds import generator
from robal.threats import L2, Linf, Threat, with_threat
from small_models import condition, convnet

EXPORTED = known(Attack)
THREATS: list[Threat] = [Linf(0.4), L2(2.5)]  # wide, so that AutoAttack is done after its first part


@pytest.fixture(params=sorted(EXPORTED))
def kind(request: pytest.FixtureRequest) -> type:
    return EXPORTED[request.param]


@pytest.fixture(params=THREATS, ids=str)
def attack(kind: type, request: pytest.FixtureRequest) -> Attack:
    return with_threat(kind(), request.param)


@pytest.fixture(params=[1, 5], ids=lambda size: f"{size} images")
def inputs(request: pytest.FixtureRequest) -> Tensor:
    return torch.rand(request.param, 1, 8, 8, generator=generator(0, "inputs"))


@pytest.fixture
def model() -> nn.Module:
    """In a state that is nobody's default: training, but one part in eval mode, one weight frozen, gradients there."""
    model = convnet().train()
    model[3].eval()
    model[0].bias.requires_grad_(False)
    model[5].weight.grad = torch.full_like(model[5].weight, 0.25)
    return model


def labels_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """What the model says, so that there is something to attack."""
    twin = convnet().eval()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        return twin(inputs).argmax(1)


def test_three_attacks_are_found_by_their_export() -> None:
    assert set(EXPORTED) == {"APGD", "AutoAttack", "FGSM", "Monitor", "PGD", "Square"}
    assert set(ALIASES.values()) <= set(EXPORTED)


def test_attacks_are_frozen_values_that_can_be_built_without_arguments(kind: type) -> None:
    assert kind() == kind()
    assert hash(kind()) == hash(kind())
    assert kind().threat is None
    with pytest.raises(FrozenInstanceError):
        kind().threat = Linf(0.1)


def test_attacks_say_what_they_are_called_and_cost(kind: type) -> None:
    assert isinstance(kind().label, str)
    assert kind().label
    assert kind().passes >= 1


def test_the_result_lies_inside_the_threat_and_errs_more(attack: Attack, inputs: Tensor) -> None:
    model = convnet().eval()
    labels = labels_of(model, inputs)
    moved = perturb(attack, model, inputs, labels, generator(0))
    assert attack.threat is not None
    assert moved.shape == inputs.shape
    assert moved.dtype == torch.float32
    assert not moved.requires_grad
    assert attack.threat.size(moved - inputs).max() <= attack.threat.eps * (1 + 1e-5)
    assert moved.min() >= 0
    assert moved.max() <= 1
    with torch.no_grad():
        before, after = (F.cross_entropy(model(x), labels, reduction="none") for x in (inputs, moved))
        broken = model(moved).argmax(1) != labels
        assert ((after > before) | broken).all()  # Square lowers the lead of the label, and looks at nothing else
        assert broken.any()


@pytest.mark.parametrize("mode", ["as found", "train", "eval"])
def test_the_model_and_the_inputs_come_back_as_they_were(
    attack: Attack, inputs: Tensor, model: nn.Module, mode: str
) -> None:
    if mode != "as found":
        model.train(mode == "train")
    labels = labels_of(model, inputs)
    before, kept = condition(model), (inputs.clone(), labels.clone())
    first = perturb(attack, model, inputs, labels, generator(0))
    again = perturb(attack, model, inputs, labels, generator(0))
    assert condition(model) == before
    assert torch.equal(inputs, kept[0])
    assert torch.equal(labels, kept[1])
    assert inputs.grad is None
    assert torch.equal(first, again)
    assert torch.equal(first, perturb(attack, model.eval(), inputs, labels, generator(0)))


def test_the_global_random_stream_stays_where_it_is_and_does_not_matter(attack: Attack, inputs: Tensor) -> None:
    model = convnet().eval()
    labels = labels_of(model, inputs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = perturb(attack, model, inputs, labels, generator(0))
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert torch.equal(first, perturb(attack, model, inputs, labels, generator(0)))


def test_images_that_the_model_gets_wrong_do_no_harm(kind: type) -> None:
    inputs = torch.rand(5, 1, 8, 8, generator=generator(0, "inputs"))
    model = convnet().eval()
    wrong = (labels_of(model, inputs) + 1) % 4
    moved = perturb(with_threat(kind(), Linf(0.1)), model, inputs, wrong, generator(0))
    with torch.no_grad():
        assert (model(moved).argmax(1) != wrong).all()


def test_no_image_gives_no_image(kind: type) -> None:
    moved = perturb(kind(), convnet(), torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64), generator(0))
    assert moved.shape == (0, 1, 8, 8)


GOOD = torch.full((3, 1, 8, 8), 0.5)
NAN = GOOD.clone()
NAN[1, 0, 2, 2] = float("nan")


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (NAN, [0, 1, 2], "NaN or infinity, first in image 1"),
        (GOOD * 3, [0, 1, 2], r"must lie in \[0, 1\]; these reach from 1.5 to 1.5"),
        (GOOD - 1, [0, 1, 2], r"reach from -0.5"),
        (GOOD.double(), [0, 1, 2], r"float32 images in \[0, 1\]; these are float64"),
        ((GOOD * 255).byte(), [0, 1, 2], "these are uint8"),
        (GOOD[0], [0], r"must have shape \[N, C, H, W\]"),
        (GOOD, [0, 4, 2], r"labels must lie in \[0, 4\); 1 do not, the first is 4 at position 1"),
        (GOOD, [0, 1, -1], "the first is -1 at position 2"),
        (GOOD, [0, 1], r"3 images came with labels of shape \[2\]"),
        (GOOD, [0.0, 1.0, 2.0], "labels are int64; these are float32"),
    ],
)
def test_inputs_that_cannot_be_right_are_refused_and_the_model_is_given_back(
    kind: type, model: nn.Module, inputs: Tensor, labels: list[float], message: str
) -> None:
    before = condition(model)
    with pytest.raises(InputError, match=message):
        perturb(kind(), model, inputs, torch.tensor(labels), generator(0))
    assert condition(model) == before


def test_the_gate_refuses_an_attack_whose_threat_is_not_kept_by_its_own_call(kind: type) -> None:
    class Beyond:
        """An exported attack that answers with more than its threat allows."""

        threat = Linf(0.01)
        label, passes = "Beyond", 1

        def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor, draw: torch.Generator) -> Tensor:
            return with_threat(kind(), Linf(0.4))(model, inputs, labels, draw)

    inputs = torch.rand(5, 1, 8, 8, generator=generator(0, "inputs"))
    model = convnet()
    with pytest.raises(ContractError, match=r"Beyond left its threat \(Linf, eps = 0.01\): the largest change is 0.4"):
        perturb(Beyond(), model, inputs, labels_of(model, inputs), generator(0))
