"""DeepFool: exact on linear models, a plain one-image loop on others, foolbox beside it, and the box it stays in."""

from __future__ import annotations

import warnings
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robal.attacks import Attack
from robal.attacks.deepfool import DeepFool, Norm, nearest_boundary
from robal.errors import InputError
from robal.seeds import generator
from small_models import Counting, condition, convnet, linear

NORMS: list[Norm] = ["l2", "linf"]
AS_CODED_BY_DFAL = {"steps": 10, "overshoot": 0.0, "classes": None, "clip": False}


def grey(count: int, *shape: int, seed: int = 0) -> Tensor:
    """Images far from 0 and 1, in which no short step is clipped."""
    return 0.3 + 0.4 * torch.rand(count, *(shape or (1, 3, 4)), generator=generator(seed, "grey"))


def size(delta: Tensor, norm: Norm) -> Tensor:
    flat = delta.flatten(1)
    return flat.square().sum(1).sqrt() if norm == "l2" else flat.abs().amax(1)


def closed_form(weight: Tensor, bias: Tensor, inputs: Tensor, norm: Norm) -> Tensor:
    """The exact distance of a linear model, min_k f_k / ‖w_k‖*, image by image and class by class."""
    distances = []
    for pixels in inputs.flatten(1):
        logits = weight @ pixels + bias
        own = int(logits.argmax())
        rivals = []
        for k in range(len(weight)):
            if k != own:
                along = weight[own] - weight[k]
                rivals.append((logits[own] - logits[k]) / (along.norm() if norm == "l2" else along.abs().sum()))
        distances.append(min(rivals))
    return torch.stack(distances)


def one_at_a_time(
    model: nn.Module, image: Tensor, norm: Norm, steps: int, overshoot: float, classes: int | None
) -> tuple[Tensor, bool]:
    """The paper's algorithm 2 for one image, unclipped: the perturbation, and whether it flips."""
    order = model(image[None]).detach()[0].argsort(descending=True, stable=True)[:classes].tolist()
    total, moved = torch.zeros_like(image), image
    for _ in range(steps):
        pixels = moved[None].clone().requires_grad_()
        logits = model(pixels)[0]
        values = logits.detach()
        gradients = {k: torch.autograd.grad(logits[k], pixels, retain_graph=True)[0][0] for k in order}
        best = None
        for k in order[1:]:
            w, f = gradients[k] - gradients[order[0]], float(values[order[0]] - values[k])
            dual = float(w.norm() if norm == "l2" else w.abs().sum())
            if best is None or f / dual < best[0]:
                best = (f / dual, w / w.norm() if norm == "l2" else w.sign())
        assert best is not None
        total = total + best[0] * best[1]
        moved = image + (1 + overshoot) * total
        if int(model(moved[None])[0].argmax()) != order[0]:
            return moved - image, True
    return moved - image, False


def test_two_pixels_by_hand() -> None:
    """Logits (3a, 4b) at (0.75, 0.25): the lead is 1.25, the gradient (-3, 4)."""
    model, image = linear([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[[[0.75, 0.25]]]])
    for norm, distance, change in (("l2", 0.25, [-0.15, 0.2]), ("linf", 1.25 / 7, [-1.25 / 7, 1.25 / 7])):
        for clip in (False, True):
            found = DeepFool(norm, overshoot=0.0, clip=clip)(model, image)  # type: ignore[arg-type]
            assert found.flipped.tolist() == [True]
            torch.testing.assert_close(found.distance, torch.tensor([distance]), rtol=1e-4, atol=0)
            torch.testing.assert_close((found.adversaries - image).flatten(), torch.tensor(change), rtol=1e-4, atol=0)
    over = DeepFool(overshoot=0.5, clip=False)(model, image)
    torch.testing.assert_close(over.distance, torch.tensor([0.375]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 5])
def test_on_a_linear_model_one_step_is_exact(norm: Norm, classes: int) -> None:
    draw = generator(0, "linear", classes)
    weight, bias = torch.randn(classes, 12, generator=draw), 0.2 * torch.randn(classes, generator=draw)
    model, inputs = linear(weight, bias.tolist()), grey(40)
    wanted = closed_form(weight, bias, inputs, norm)
    for overshoot in (0.0, 0.02):
        found = DeepFool(norm, steps=1, overshoot=overshoot, clip=False)(model, inputs)
        assert found.flipped.all()
        torch.testing.assert_close(found.distance, (1 + overshoot) * wanted, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_a_box_that_nobody_touches_changes_nothing_on_a_linear_model(norm: Norm) -> None:
    weight = torch.randn(4, 12, generator=generator(1))
    inputs = grey(40)
    wanted = closed_form(weight, torch.zeros(4), inputs, norm)
    near = wanted < 0.2
    assert near.sum() > 10
    found = DeepFool(norm)(linear(weight), inputs)
    share = found.distance[near] / wanted[near]  # half the way first, so that the overshoot counts only in part
    assert share.min() > 1
    assert share.max() < 1.021


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("settings", [AS_CODED_BY_DFAL, {"steps": 50, "overshoot": 0.02, "classes": 3, "clip": False}])
def test_without_a_box_it_is_the_paper_s_loop(tiny_model: nn.Module, norm: Norm, settings: dict[str, Any]) -> None:
    images = grey(15, 1, 8, 8)
    found = DeepFool(norm, **settings)(tiny_model, images)
    for index, image in enumerate(images):
        plain, flips = one_at_a_time(
            tiny_model, image, norm, settings["steps"], settings["overshoot"], settings["classes"]
        )
        assert found.flipped[index]
        assert flips or settings["overshoot"] == 0  # rounding can hold the plain loop on the boundary
        # Rounding (here, BatchNorm folded) may put a ReLU on its other side, and so turn a gradient a little.
        torch.testing.assert_close(found.distance[index], size(plain[None], norm)[0], rtol=2e-3, atol=1e-5)
        assert torch.cosine_similarity(plain.flatten(), (found.adversaries[index] - image).flatten(), dim=0) > 0.99


@pytest.mark.parametrize("norm", NORMS)
def test_it_comes_as_near_as_foolbox(foolbox: Any, lenet: nn.Module, unseen: tuple[Tensor, Tensor], norm: Norm) -> None:
    inputs = unseen[0][:30]
    with torch.no_grad():
        predicted = lenet(inputs).argmax(1)
    attack = foolbox.attacks.L2DeepFoolAttack if norm == "l2" else foolbox.attacks.LinfDeepFoolAttack
    for clip, bounds in ((True, (0, 1)), (False, (-9, 10))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = attack(steps=50, candidates=10, overshoot=0.02).run(
                foolbox.PyTorchModel(lenet, bounds=bounds, device="cpu"),
                inputs,
                foolbox.criteria.Misclassification(predicted),
            )
        wanted = size(theirs - inputs, norm)
        found = DeepFool(norm, clip=clip)(lenet, inputs)
        assert found.flipped.all()
        assert found.distance.median() <= 1.02 * wanted.median()
        assert torch.corrcoef(torch.stack([found.distance, wanted]))[0, 1] > 0.95
        if not clip:  # the same algorithm; theirs adds 1e-4 to every step
            torch.testing.assert_close(found.distance, wanted, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("settings", [{}, {"steps": 10}, {"overshoot": 0.0}, AS_CODED_BY_DFAL])
def test_what_is_reported_is_what_the_model_itself_says(
    lenet: nn.Module, unseen: tuple[Tensor, Tensor], norm: Norm, settings: dict[str, Any]
) -> None:
    sharp = (unseen[0] > 0.5).float()  # every pixel at a wall of the box
    for inputs in (unseen[0][:40], sharp[:40]):
        found = DeepFool(norm, **settings)(lenet, inputs)
        with torch.no_grad():
            differs = lenet(found.adversaries).argmax(1) != lenet(inputs).argmax(1)
        # Without overshoot the adversary lies on the boundary, and rounding decides.
        assert differs.float().mean() >= (0.9 if settings.get("overshoot") == 0 else 1.0)
        assert found.flipped.all()
        assert found.adversaries.dtype == found.distance.dtype == torch.float32
        assert not found.adversaries.requires_grad
        torch.testing.assert_close(found.distance, size(found.adversaries - inputs, norm))
        inside = bool(found.adversaries.min() >= 0) and bool(found.adversaries.max() <= 1)
        assert inside == settings.get("clip", True)


def test_a_pixel_that_cannot_move_is_left_out_of_the_step() -> None:
    """Lead 3a - 4b = 3 at (1, 0): b may rise and a may fall. At (1, 0) with -3a, a may not rise: b goes alone."""
    free = DeepFool(overshoot=0.0)(linear([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[[[1.0, 0.0]]]]))
    torch.testing.assert_close(free.distance, torch.tensor([0.6]), rtol=1e-4, atol=0)
    walled = DeepFool(overshoot=0.0)(linear([[-3.0, 0.0], [0.0, 4.0]], [5.0, 0.0]), torch.tensor([[[[1.0, 0.0]]]]))
    torch.testing.assert_close(walled.distance, torch.tensor([0.5]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_small_room_for_the_pixels_that_matter_does_not_stop_it(norm: Norm) -> None:
    """Twenty pixels, each with half the room and one and a half times the weight of the next."""
    room, weight = 0.5 ** torch.arange(20.0), 1.5 ** torch.arange(20.0)
    image = (1 - room).view(1, 1, 1, 20)
    lead = 0.9 * float((weight * room).sum())
    model = linear(torch.stack([torch.zeros(20), weight]), [lead + float(weight @ (1 - room)), 0.0])
    found = DeepFool(norm, steps=5)(model, image)
    assert found.flipped.all()
    assert found.adversaries.max() <= 1


def test_only_the_likeliest_classes_are_aimed_at() -> None:
    """Class 2 is the least likely, and the nearest: its gradient is ten times that of class 1."""
    model, image = linear([[0.0], [1.0], [20.0]], [2.0, 1.0, -9.0]), torch.tensor([[[[0.5]]]])
    for classes, distance in ((2, 0.5), (3, 0.05), (None, 0.05), (10, 0.05)):
        found = DeepFool(overshoot=0.0, classes=classes, clip=False)(model, image)
        torch.testing.assert_close(found.distance, torch.tensor([distance]), rtol=1e-3, atol=0)


class Constant(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, inputs: Tensor) -> Tensor:
        return 0.0 * inputs.flatten(1).sum(1, keepdim=True) + torch.arange(float(self.classes))


@pytest.mark.parametrize("settings", [{}, {"norm": "linf"}, AS_CODED_BY_DFAL])
@pytest.mark.parametrize("classes", [1, 3])
def test_a_prediction_that_cannot_change_is_reported(settings: dict[str, Any], classes: int) -> None:
    inputs = torch.rand(5, 1, 8, 8, generator=generator(0))
    model = Counting(Constant(classes))
    found = DeepFool(**settings)(model, inputs)
    assert found.flipped.tolist() == [False] * 5
    assert found.distance.tolist() == [float("inf")] * 5
    assert torch.equal(found.adversaries, inputs)
    assert len(model.passes) < 6  # and nobody insists


def test_a_dead_image_does_not_hold_up_the_others() -> None:
    """A ReLU that is off for the first image has no gradient there; the second flips."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 2))
    model[1].weight.data.fill_(-1.0)
    model[1].bias = nn.Parameter(torch.tensor([0.5]))
    model[3].weight.data.copy_(torch.tensor([[-1.0], [1.0]]))
    model[3].bias.data.copy_(torch.tensor([0.0, -0.9]))
    inputs = torch.tensor([0.9, 0.2]).view(2, 1, 1, 1)
    found = DeepFool(overshoot=0.0)(model, inputs)
    assert found.flipped.tolist() == [False, True]
    torch.testing.assert_close(found.distance, torch.tensor([float("inf"), 0.15]), rtol=1e-3, atol=0)


def test_two_classes_that_tie_are_no_distance_apart() -> None:
    found = DeepFool()(linear([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[[[0.5, 0.5]]], [[[0.0, 0.0]]]]))
    assert found.flipped.all()
    assert (found.distance < 1e-3).all()


def test_images_leave_the_batch_as_soon_as_they_flip() -> None:
    model = Counting(linear([[1.0, 0.0], [0.0, 1.0]]))
    weight = 5.0

    class Curved(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.stack([(weight * inputs.flatten(1)[:, 0]).exp() - 1.1, torch.zeros(len(inputs))], 1)

    model.inner = Curved()
    inputs = torch.tensor([0.05, 0.9, 0.03]).view(3, 1, 1, 1)
    assert DeepFool(clip=False)(model, inputs).flipped.all()
    assert model.passes[0] >= 3
    assert model.passes[-3:] == [1, 3, 3]  # in the end all that flipped are looked at once more
    assert sum(size == 1 for size in model.passes) >= 4


@pytest.mark.parametrize("clip", [True, False])
def test_an_image_s_neighbours_do_not_matter(lenet: nn.Module, unseen: tuple[Tensor, Tensor], clip: bool) -> None:
    inputs = unseen[0][:12]
    attack = DeepFool(clip=clip)
    together = attack(lenet, inputs)
    alone = torch.cat([attack(lenet, image[None]).distance for image in inputs])
    torch.testing.assert_close(together.distance, alone, rtol=1e-3, atol=1e-4)


def test_the_model_and_the_inputs_come_back_as_they_were_and_again_is_the_same() -> None:
    model = convnet().train()
    model[3].eval()
    model[0].bias.requires_grad_(False)
    model[5].weight.grad = torch.full_like(model[5].weight, 0.25)
    inputs = torch.rand(5, 1, 8, 8, generator=generator(0))
    before, kept = condition(model), inputs.clone()
    first, again = DeepFool()(model, inputs), DeepFool()(model, inputs)
    assert condition(model) == before
    assert torch.equal(inputs, kept)
    assert torch.equal(first.adversaries, again.adversaries)
    assert torch.equal(first.distance, again.distance)


def test_no_image_gives_no_image() -> None:
    found = DeepFool()(convnet(), torch.zeros(0, 1, 8, 8))
    assert found.adversaries.shape == (0, 1, 8, 8)
    assert found.distance.shape == found.flipped.shape == (0,)


def test_the_nearest_boundary_is_that_of_the_smallest_ratio() -> None:
    """Leads 1 and 3 over gradients of length 1 and 6: the second is nearer, though its lead is larger."""
    inputs = torch.tensor([[[[0.0, 0.5]]]], requires_grad=True)
    logits = linear([[0.0, 0.0], [1.0, 0.0], [-6.0, 0.0]], [3.0, 2.0, 0.0])(inputs)
    gap, gradient, dual = nearest_boundary(logits, inputs, torch.tensor([[0, 1, 2]]))
    assert (gap.tolist(), gradient.flatten().tolist(), dual.tolist()) == ([3.0], [-6.0, 0.0], [6.0])
    gap, gradient, dual = nearest_boundary(logits, inputs, torch.tensor([[0, 1, 2]]), inside=True)
    assert (gap.tolist(), gradient.flatten().tolist(), dual.tolist()) == ([1.0], [1.0, 0.0], [1.0])


def test_it_is_a_frozen_value_and_no_attack() -> None:
    assert DeepFool() == DeepFool()
    assert hash(DeepFool()) == hash(DeepFool())
    assert not isinstance(DeepFool(), Attack)
    with pytest.raises(FrozenInstanceError):
        DeepFool().steps = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "l1"}, "DeepFool's norm is one of l2, linf; not 'l1'"),
        ({"steps": 0}, "at least one step; 0 came"),
        ({"overshoot": -0.1}, "0 or more; -0.1 came"),
        ({"overshoot": float("nan")}, "0 or more; nan came"),
        ({"classes": 1}, "classes >= 2, the predicted one and a rival; 1 came"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DeepFool(**settings)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.full((1, 1, 2, 2), 2.0), r"must lie in \[0, 1\]"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), "these are uint8"),
        (torch.zeros(1, 2, 2), r"must have shape \[N, C, H, W\]"),
    ],
)
def test_inputs_that_are_no_images_are_refused(inputs: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DeepFool()(convnet(), inputs)
