"""Accuracy, clean and under attack: what is counted, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from robal.attacks import FGSM, PGD
from robal.errors import ContractError, InputError
from robal.evaluation import Verdicts, clean, predict, seconds_needed, under_attack
from robal.threats import Linf, Threat
from small_models import condition, convnet, linear

BRIGHTER = linear([[3.0, 0.0], [0.0, 3.0], [0.0, 0.0]])  # the class of the brighter pixel, of three classes
IMAGES = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7], [0.9, 0.0]]).view(5, 1, 1, 2)
LABELS = torch.tensor([0, 0, 1, 0, 1])  # the last two are wrong


def test_accuracy_overall_and_of_each_class_by_hand() -> None:
    verdicts = clean(BRIGHTER, IMAGES, LABELS)
    assert verdicts.correct.tolist() == [True, True, True, False, False]
    assert verdicts.accuracy == 0.6
    assert verdicts.per_class == [2 / 3, 0.5, None]


def test_under_attack_by_hand() -> None:
    """A radius of 0.15 turns 0.6 against 0.4, not 0.8 against 0.2, and nothing that was wrong stands."""
    verdicts = under_attack(BRIGHTER, IMAGES, LABELS, FGSM(threat=Linf(0.15)), seed=0)
    assert verdicts.correct.tolist() == [True, False, True, False, False]
    assert verdicts.accuracy == 0.4
    assert verdicts.per_class == [1 / 3, 0.5, None]
    assert verdicts.classes == 3


@dataclass(frozen=True)
class Helpful:
    """Moves every image towards its label, and keeps count of the images it was shown."""

    threat: Threat | None = Linf(1.0)
    label: str = "Helpful"
    passes: int = 1
    shown: tuple[list[int], ...] = ([],)

    def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor, draw: torch.Generator) -> Tensor:
        self.shown[0].append(len(inputs))
        return torch.eye(3)[labels][:, :2].view(-1, 1, 1, 2)


def test_an_image_that_was_wrong_stays_broken_whatever_the_attack_makes_of_it() -> None:
    attack = Helpful(shown=([],))
    verdicts = under_attack(BRIGHTER, IMAGES, LABELS, attack, seed=0, batch_size=2)
    assert verdicts.correct.tolist() == [True, True, True, False, False]
    assert attack.shown[0] == [2, 1]  # only what is right is attacked


def test_images_are_attacked_in_batches_of_the_attacks_own_size_where_it_has_one() -> None:
    @dataclass(frozen=True)
    class InTwos(Helpful):
        batch_size: int = 2

    attack, asked = InTwos(shown=([],)), InTwos(shown=([],))
    under_attack(BRIGHTER, IMAGES, LABELS, attack, seed=0)
    assert attack.shown[0] == [2, 1]
    under_attack(BRIGHTER, IMAGES, LABELS, asked, seed=0, batch_size=1)
    assert asked.shown[0] == [1, 1, 1]


def test_where_everything_is_wrong_nothing_is_attacked() -> None:
    attack = Helpful(shown=([],))
    verdicts = under_attack(BRIGHTER, IMAGES, torch.full((5,), 2), attack, seed=0)
    assert verdicts.accuracy == 0
    assert attack.shown[0] == []


def test_robust_accuracy_never_exceeds_clean_accuracy_and_a_radius_of_zero_is_clean(
    lenet: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    images, labels = digits[0][1000:1200], digits[1][1000:1200]
    before = clean(lenet, images, labels)
    assert torch.equal(under_attack(lenet, images, labels, PGD(threat=Linf(0.0)), 0).correct, before.correct)
    after = under_attack(lenet, images, labels, PGD(steps=5, threat=Linf(0.1)), 0)
    assert not (after.correct & ~before.correct).any()
    assert after.accuracy < before.accuracy < 1


def test_bytes_and_the_floats_they_stand_for_agree(lenet: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits[0][1000:1100], digits[1][1000:1100]
    floats = images.float() / 255
    assert torch.equal(predict(lenet, images), predict(lenet, floats))
    assert torch.equal(clean(lenet, images, labels).correct, clean(lenet, floats, labels).correct)
    attack = PGD(steps=3, threat=Linf(0.1))
    bytewise, floatwise = (under_attack(lenet, pixels, labels, attack, 0) for pixels in (images, floats))
    assert torch.equal(bytewise.correct, floatwise.correct)


def test_predictions_are_those_of_one_pass_however_they_are_cut(
    lenet: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    with torch.no_grad():
        wanted = lenet(digits[0][:100].float() / 255).argmax(1)
    for size in (1, 7, 100, 256):
        assert torch.equal(predict(lenet, digits[0][:100], size), wanted)
    assert predict(lenet, digits[0][:0]).shape == (0,)


def test_equal_seeds_give_equal_verdicts_and_the_global_stream_does_not_matter(
    lenet: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    images, labels = digits[0][1000:1100], digits[1][1000:1100]
    attack = PGD(steps=2, threat=Linf(0.08))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = under_attack(lenet, images, labels, attack, 0)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert torch.equal(first.correct, under_attack(lenet, images, labels, attack, 0).correct)
    others = [under_attack(lenet, images, labels, attack, seed).correct for seed in range(1, 5)]
    assert any(not torch.equal(first.correct, other) for other in others)


def test_the_model_and_the_images_come_back_as_they_were() -> None:
    model, images = convnet().train(), torch.rand(6, 1, 8, 8)
    model[3].eval()
    before, pixels = condition(model), images.clone()
    labels = torch.arange(6) % 4
    clean(model, images, labels)
    under_attack(model, images, labels, PGD(threat=Linf(0.1)), 0)
    seconds_needed(model, images, labels, [PGD()])
    assert condition(model) == before
    assert torch.equal(images, pixels)
    assert not images.requires_grad


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[:0], LABELS[:0], "there is no image to evaluate on"),
        (IMAGES * 2, LABELS, r"must lie in \[0, 1\]; these reach from 0 to 1.8"),
        (IMAGES.double(), LABELS, "must be uint8, or float32.*float64"),
        (IMAGES, LABELS[:4], r"5 images came with labels of shape \[4\]"),
        (IMAGES, LABELS + 2, r"labels must lie in \[0, 3\); 2 do not, the first is 3 at position 2"),
        (IMAGES, LABELS - 1, "the first is -1 at position 0"),
    ],
)
def test_what_cannot_be_right_is_refused(images: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        clean(BRIGHTER, images, labels)
    with pytest.raises(InputError, match=message):
        under_attack(BRIGHTER, images, labels, FGSM(), seed=0)


def test_a_model_that_gives_probabilities_is_refused() -> None:
    with pytest.raises(ContractError, match="ends in a softmax"):
        clean(nn.Sequential(convnet(), nn.Softmax(1)), torch.rand(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64))


def test_verdicts_of_no_class_are_none() -> None:
    verdicts = Verdicts(torch.tensor([True, False]), torch.tensor([1, 1]), 4)
    assert verdicts.per_class == [None, 0.5, None, None]


def test_the_time_that_attacks_need_is_positive_and_grows_with_their_cost(lenet: nn.Module) -> None:
    images, labels = torch.rand(40, 1, 28, 28), torch.zeros(40, dtype=torch.int64)
    needed = seconds_needed(lenet, images, labels, [PGD(steps=10), PGD(steps=50)])
    assert set(needed) == {"PGD-10", "PGD-50"}
    assert needed["PGD-10"] > 0
    assert needed["PGD-50"] == pytest.approx(5 * needed["PGD-10"])


class Brighter(nn.Module):
    """Without any parameter: which pixel is brighter."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1) * 3


def test_a_model_without_parameters_is_measured_as_any_other() -> None:
    inputs, labels = IMAGES[:4], torch.tensor([0, 0, 1, 1])
    assert clean(Brighter(), inputs, labels).accuracy == 1.0
    assert under_attack(Brighter(), inputs, labels, FGSM(threat=Linf(0.15)), seed=0).correct.tolist() == [
        True,
        False,
        True,
        True,
    ]
    assert list(seconds_needed(Brighter(), inputs, labels, [PGD()])) == ["PGD-10"]
