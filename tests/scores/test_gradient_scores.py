"""Gradient lengths against one backward pass an image and class, on networks of every kind."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

from robal.errors import ContractError, InputError
from robal.networks import LeNet5DFAL, LeNet5DRE, ResNet18
from robal.scores import gradients, jacobian
from robal.scores.gradients import (
    GradientLength,
    InputGradientNorm,
    Over,
    expected_gradient_length,
    expected_residual,
    last_linear,
    loss_gradients,
)
from robal.scores.jacobian import outer_gram
from robal.seeds import generator
from small_models import Counting, condition, convnet, trained_like

# The convolution of `Mixed` is padded on one side more than on the other, which torch finds worth a warning.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def one_by_one(model: nn.Module, images: Tensor, over: Over) -> Tensor:
    """Σ_c p_c ‖∇ CE(f(x), c)‖ by its definition: a backward pass for every image and class."""
    lengths = []
    if over == "parameters":
        weights = list(model.parameters())
    else:
        weights = list([layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1].parameters())
    for weight in model.parameters():
        weight.requires_grad_(True)
    for image in images.split(1):
        leaf = image.clone().requires_grad_()
        logits = model(leaf)
        total = 0.0
        for label, share in enumerate(logits.detach().softmax(1)[0].tolist()):
            loss = F.cross_entropy(logits, torch.tensor([label]))
            wanted = [leaf] if over == "inputs" else weights
            found = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
            total += share * sum(float(part.square().sum()) for part in found if part is not None) ** 0.5
        lengths.append(total)
    return torch.tensor(lengths, dtype=torch.float64)


def lengths_of(model: nn.Module, images: Tensor, over: Over = "parameters") -> Tensor:
    with torch.no_grad():
        return GradientLength(over)(model.requires_grad_(False), images, generator(0))["length"]


def images_of(*shape: int) -> Tensor:
    return torch.rand(shape, generator=generator(0, "images"))


class Mixed(nn.Module):
    """Groups, strides, dilation, padding on one side more than on the other, ReLU in place, GroupNorm, no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, (3, 2), stride=(2, 1), padding=(2, 1))
        self.depthwise = nn.Conv2d(6, 6, 4, padding="same", groups=6, dilation=(1, 2), bias=False)
        self.norm = nn.GroupNorm(3, 6)
        self.grouped = nn.Conv2d(6, 9, 3, stride=2, groups=3, padding="valid")
        self.last = nn.Linear(72, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu_(self.norm(F.relu_(self.depthwise(F.relu_(self.first(inputs))))))
        return self.last(input=F.relu_(self.grouped(hidden)).flatten(1))


class Sequence(nn.Module):
    """Rows of pixels in a sequence: a linear layer at each, changed in place as a view, and BatchNorm1d over them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Linear(6, 5), nn.Linear(5, 5, bias=False)
        self.norm, self.last = nn.BatchNorm1d(6, affine=True), nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm(torch.tanh(self.embed(inputs.flatten(1, 2))))
        return self.last(F.relu(self.mix(hidden)).mean(1))


class Bare(nn.Module):
    """A parameter of its own, beside layers."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.conv, self.last = nn.Parameter(torch.tensor([1.5, 0.5])), nn.Conv2d(1, 2, 3), nn.Linear(32, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last((self.scale[:, None, None] * self.conv(inputs)).relu().flatten(1))


class Repeated(nn.Module):
    """The same layers twice, the convolution on different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1), nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm(self.conv(self.norm(self.conv(inputs)).relu())).flatten(1)
        return self.head(self.last(self.last(hidden).tanh()))


class Recurrent(nn.Module):
    """One layer called twice, of which the second time gives the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.last(inputs.flatten(1)).tanh())


class Doubled(nn.Linear):
    """A linear layer that is none."""

    def forward(self, inputs: Tensor) -> Tensor:
        return 2 * super().forward(inputs)


class Tricky(nn.Module):
    """Three linear layers on nine pixels, used in a way of which hooks alone would give a wrong account."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.one, self.two, self.last = way, nn.Linear(9, 9), nn.Linear(9, 9), nn.Linear(9, 3)
        if way == "tied":
            self.two.weight = self.one.weight
        elif way == "a computed weight":
            weight_norm(self.one)
        elif way == "a pruned weight":
            prune.custom_from_mask(self.one, "weight", torch.eye(9))
        elif way == "a hook of its own":
            self.one.register_forward_hook(lambda _, args, output: 2 * output)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.two(self.hidden(inputs.flatten(1)).tanh()).tanh())

    def hidden(self, pixels: Tensor) -> Tensor:
        match self.way:
            case "used by name as well":
                return F.linear(self.one(pixels).tanh(), self.one.weight)
            case "not called but its forward":
                return self.one.forward(pixels)
            case "unused":
                return pixels
            case "without gradients":
                with torch.no_grad():
                    return self.one(pixels)
            case "detached":
                return self.one(pixels).detach()
            case "called for nothing and used by name":
                self.one(pixels)
                return F.linear(pixels, self.one.weight, self.one.bias)
            case "a view changed in place":
                return self.one(torch.stack([pixels, pixels + 1], 1)).relu_().mean(1)
            case "two rows an image":
                return self.one(torch.cat([pixels, pixels + 1])).unflatten(0, (2, -1)).sum(0)
            case "images in the second place":
                return self.one(torch.stack([pixels, pixels + 1, pixels - 1])).mean(0)
            case "all images in one":
                return self.one(pixels[None])[0]
        return self.one(pixels)


class Normalised(nn.Module):
    """Another model behind a normalisation, which may be done in place, as speed suggests to many."""

    def __init__(self, inner: nn.Module, in_place: bool) -> None:
        super().__init__()
        self.inner, self.in_place = inner, in_place

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner(inputs.sub_(0.5).div_(0.25) if self.in_place else (inputs - 0.5) / 0.25)


class Heads(nn.Module):
    """The head that gives the logits is declared first, one that is called for nothing after it, an idle one last."""

    def __init__(self, way: str = "called") -> None:
        super().__init__()
        self.way, self.head, self.body = way, nn.Linear(5, 3), nn.Linear(9, 5)
        self.auxiliary, self.idle = nn.Linear(5, 2), nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.body(inputs.flatten(1)).tanh()
        match self.way:
            case "by name":
                return F.linear(F.linear(inputs.flatten(1), self.body.weight).tanh(), self.head.weight, self.head.bias)
            case "none":
                return inputs.flatten(1)[:, :3]
            case "without gradients":
                with torch.no_grad():
                    return self.head(hidden)
        logits = self.head(hidden)
        self.auxiliary(hidden)
        return logits


WAYS = (
    "tied",
    "a computed weight",
    "a pruned weight",
    "a hook of its own",
    "used by name as well",
    "not called but its forward",
    "unused",
    "without gradients",
    "detached",
    "called for nothing and used by name",
    "a view changed in place",
    "two rows an image",
    "images in the second place",
    "all images in one",
)
BY_LAYER: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "BatchNorm": (lambda: convnet(4), (9, 1, 8, 8)),
    "LeNet5DRE": (lambda: LeNet5DRE()((1, 32, 32), 10, 0), (3, 1, 32, 32)),
    "LeNet5DFAL": (lambda: LeNet5DFAL()((1, 28, 28), 3, 0), (3, 1, 28, 28)),
    "ResNet18": (lambda: ResNet18()((3, 16, 16), 3, 0), (2, 3, 16, 16)),
    "groups, strides, padding, in place": (Mixed, (40, 2, 9, 8)),
    "a sequence": (Sequence, (9, 2, 3, 6)),
    "layers called twice": (Repeated, (9, 1, 6, 6)),
    "the last layer called twice": (Recurrent, (9, 1, 2, 2)),
    "one layer": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (9, 1, 2, 2)),
}
BY_IMAGE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "a bare parameter": (Bare, (9, 1, 6, 6)),
    "a layer of another kind": (lambda: nn.Sequential(nn.Flatten(), Doubled(9, 5), nn.Linear(5, 3)), (9, 1, 3, 3)),
    "padding by reflection": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), nn.Flatten(), nn.Linear(18, 3)),
        (9, 1, 3, 3),
    ),
    "BatchNorm by the batch": (
        lambda: nn.Sequential(
            nn.Flatten(2), nn.BatchNorm1d(1, track_running_stats=False), nn.Flatten(), nn.Linear(9, 3)
        ),
        (9, 1, 3, 3),
    ),
} | {way: (partial(Tricky, way), (9, 1, 3, 3)) for way in WAYS}


def built(build: Callable[[], nn.Module], dtype: torch.dtype = torch.float64) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return trained_like(build()).to(dtype).eval()


@pytest.mark.parametrize("name", BY_LAYER)
def test_over_all_weights_it_is_one_backward_pass_an_image_and_class(name: str, monkeypatch: Any) -> None:
    """And none of these takes the slow way."""
    build, shape = BY_LAYER[name]
    model, images = built(build), images_of(*shape).double()
    wanted = one_by_one(model, images, "parameters")
    monkeypatch.setattr(jacobian, "_by_image", None)
    torch.testing.assert_close(lengths_of(model, images), wanted, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", BY_IMAGE)
def test_so_it_is_for_networks_whose_weights_are_used_in_other_ways(name: str) -> None:
    build, shape = BY_IMAGE[name]
    model, images = built(build), images_of(*shape).double()
    torch.testing.assert_close(lengths_of(model, images), one_by_one(model, images, "parameters"), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    "name",
    [
        "BatchNorm",
        "LeNet5DFAL",
        "a sequence",
        "groups, strides, padding, in place",
        "the last layer called twice",
    ],
)
@pytest.mark.parametrize("over", ["last_layer", "inputs"])
def test_over_the_last_layer_or_the_inputs_it_is_so_too(name: str, over: Over) -> None:
    build, shape = BY_LAYER[name]
    model, images = built(build), images_of(*shape).double()
    torch.testing.assert_close(lengths_of(model, images, over), one_by_one(model, images, over), rtol=1e-9, atol=0)


@pytest.mark.parametrize("way", WAYS)
def test_the_last_layer_of_any_network_is_its_last_linear(way: str) -> None:
    model, images = built(partial(Tricky, way)), images_of(9, 1, 3, 3).double()
    wanted = one_by_one(model, images, "last_layer")
    torch.testing.assert_close(lengths_of(model, images, "last_layer"), wanted, rtol=1e-9, atol=0)


def test_a_last_layer_whose_weight_another_shares_counts_both_uses() -> None:
    model = built(lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)))
    model[3].weight = model[1].weight
    images = images_of(9, 1, 2, 2).double()
    wanted = one_by_one(model, images, "last_layer")
    torch.testing.assert_close(lengths_of(model, images, "last_layer"), wanted, rtol=1e-9, atol=0)


@pytest.mark.parametrize("over", ["parameters", "last_layer", "inputs"])
def test_a_trained_lenet_in_float32_is_right_to_four_digits(
    lenet: nn.Module, digits: tuple[Tensor, Tensor], over: Over
) -> None:
    """Also for the images of which it is sure: half of them have p > 0.99."""
    images = digits[0][1000:1060].float() / 255
    exact = copy.deepcopy(lenet).double()
    probs = exact(images.double()).softmax(1)
    assert float((probs.amax(1) > 0.99).float().mean()) > 0.3
    torch.testing.assert_close(
        lengths_of(copy.deepcopy(lenet), images, over), one_by_one(exact, images.double(), over), rtol=1e-4, atol=0
    )


def test_the_length_by_hand() -> None:
    """G = diag(1, 4): √(-½, ½) G (-½, ½)ᵀ = √(¼ + 1) for either class; and three classes, one by one."""
    gram = torch.diag(torch.tensor([1.0, 4.0]))[None]
    assert expected_gradient_length(gram, torch.tensor([[0.5, 0.5]])).tolist() == pytest.approx([1.25**0.5])
    gram, probs = torch.diag(torch.tensor([1.0, 4.0, 9.0]))[None], torch.tensor([[0.5, 0.25, 0.25]])
    first = (0.25 + 4 / 16 + 9 / 16) ** 0.5  # (-½, ¼, ¼)
    second = (0.25 + 4 * 9 / 16 + 9 / 16) ** 0.5  # (½, -¾, ¼)
    third = (0.25 + 4 / 16 + 9 * 9 / 16) ** 0.5  # (½, ¼, -¾)
    wanted = 0.5 * first + 0.25 * second + 0.25 * third
    assert expected_gradient_length(gram, probs).tolist() == pytest.approx([wanted])


def test_the_length_is_the_sum_of_lengths_and_not_the_length_of_the_sum() -> None:
    """Σ_c p_c (p - e_c) = 0, so that the expected gradient has no length at all."""
    draw = generator(0, "jacobian")
    jacobian_BKD, probs = torch.randn(6, 4, 9, generator=draw), torch.randn(6, 4, generator=draw).softmax(1)
    gradients = torch.einsum("bck,bkd->bcd", loss_gradients(probs).float(), jacobian_BKD)
    gram = torch.bmm(jacobian_BKD, jacobian_BKD.transpose(1, 2))
    assert torch.einsum("bc,bcd->bd", probs, gradients).abs().max() < 1e-5
    wanted = (probs * gradients.norm(dim=2)).sum(1).double()
    torch.testing.assert_close(expected_gradient_length(gram, probs), wanted, rtol=1e-5, atol=0)
    # What is added to all gradients of the logits alike changes nothing: so may G be relative to the last one.
    relative = jacobian_BKD - jacobian_BKD[:, -1:]
    gram = torch.bmm(relative, relative.transpose(1, 2))
    torch.testing.assert_close(expected_gradient_length(gram, probs), wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("gap", [1.0, 20.0, 60.0, 500.0])
@pytest.mark.parametrize("over", ["parameters", "last_layer", "inputs"])
def test_confidence_costs_no_digit(gap: float, over: Over) -> None:
    """Logits (gap, 0): both gradients are ± q (1, -1) with q = p_1 p_2 / p_c, so that the score is 2 p_1 p_2 ‖G‖."""
    model = nn.Linear(2, 2)
    model.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    model.bias.data.copy_(torch.tensor([gap - 3, 0.0]))
    image = torch.tensor([[1.0, 0.0]])
    norm = {"inputs": 5.0}.get(over, (2 * (1 + 1)) ** 0.5)
    small = math.exp(-gap) / (1 + math.exp(-gap)) ** 2
    assert lengths_of(model, image, over).item() == pytest.approx(2 * small * norm, rel=1e-6, abs=0)
    with torch.no_grad():
        found = InputGradientNorm()(model, image, generator(0))["norm"]
    assert found.item() == pytest.approx(5.0 * math.exp(-gap) / (1 + math.exp(-gap)), rel=1e-6, abs=0)


def test_probabilities_of_exactly_0_and_1_give_no_length() -> None:
    assert expected_gradient_length(torch.eye(3)[None], torch.tensor([[0.0, 1.0, 0.0]])).tolist() == [0.0]


def test_rounding_below_zero_is_no_length_of_nan() -> None:
    gram = torch.tensor([[[0.0, 0.0], [0.0, -1e-9]]])
    assert expected_gradient_length(gram, torch.tensor([[0.5, 0.5]])).tolist() == [0.0]


def test_products_that_do_not_belong_to_the_probabilities_are_refused() -> None:
    with pytest.raises(InputError, match=r"probabilities \[1, 2\] need products \[B, K, K\]; these have \[1, 3, 3\]"):
        expected_gradient_length(torch.eye(3)[None], torch.tensor([[0.5, 0.5]]))
    with pytest.raises(InputError, match="not probabilities"):
        expected_gradient_length(torch.eye(2)[None], torch.tensor([[2.0, -1.0]]))


def test_products_of_a_layer_written_out_or_by_position_are_those_of_its_gradients() -> None:
    """Few positions and many weights, and the other way round; both ways are taken."""
    draw = generator(0, "products")
    for positions, depth, width in ((1, 7, 5), (2, 30, 20), (40, 2, 3)):
        before = torch.randn(4, depth, positions, generator=draw).double()
        behind = torch.randn(4, 3, width, positions, generator=draw).double()
        gradients = torch.einsum("bkop,bdp->bkod", behind, before).flatten(2)
        for bias in (False, True):
            whole = torch.cat([gradients, behind.sum(3)], 2) if bias else gradients
            torch.testing.assert_close(outer_gram(before, behind, bias), torch.einsum("bki,bli->bkl", whole, whole))


@pytest.mark.parametrize("over", ["parameters", "inputs"])
def test_how_many_images_memory_holds_changes_nothing(over: Over, monkeypatch: Any) -> None:
    model, images = built(lambda: convnet(4)), images_of(9, 1, 8, 8).double()
    wanted = lengths_of(model, images, over)
    counting = Counting(model)
    an_image = {"parameters": 4 * (2 * 6 * 36 + 4), "inputs": 4 * 64}[over]
    products = 8 * 4**2
    for cached, at_once, floats, parts in (
        (3 * an_image, 1, 99 * an_image, [3, 3, 3]),
        (3 * an_image, 4, 99 * an_image, [4, 4, 1]),
        (3 * an_image, 4, 2 * (an_image + products), [2, 2, 2, 2, 1]),
        (3 * an_image, 4, 2 * (an_image + products) - 1, [1] * 9),
        (9 * an_image, 4, 1, [1] * 9),
    ):
        for name, value in (("CACHED", cached), ("AT_ONCE", at_once), ("FLOATS", floats)):
            monkeypatch.setattr(jacobian, name, value)
        counting.passes.clear()
        torch.testing.assert_close(lengths_of(counting, images, over), wanted)
        assert counting.passes == [1, *parts]


@pytest.mark.parametrize("over", ["parameters", "last_layer", "inputs"])
def test_no_image_has_no_length(over: Over) -> None:
    assert lengths_of(built(lambda: convnet(4)), images_of(0, 1, 8, 8).double(), over).shape == (0,)


@pytest.mark.parametrize("build", [lambda: convnet(4), lambda: Tricky("tied")], ids=["by layer", "by image"])
@pytest.mark.parametrize("over", ["parameters", "last_layer", "inputs"])
def test_the_model_and_the_images_are_left_as_they_were(build: Callable[[], nn.Module], over: Over) -> None:
    model = built(build, torch.float32)
    images = images_of(5, 1, 8, 8) if not isinstance(model, Tricky) else images_of(5, 1, 3, 3)
    first = next(model.parameters())
    first.grad = torch.full_like(first, 0.25)
    before, pixels = condition(model), images.clone()
    with torch.no_grad():
        GradientLength(over)(model, images, generator(0))
        InputGradientNorm()(model, images, generator(0))
    assert condition(model) == before
    assert torch.equal(images, pixels)
    assert not images.requires_grad
    assert not any(layer._forward_hooks for layer in model.modules())


def test_a_network_without_weights_has_no_gradient_of_them() -> None:
    """Zeros would choose the images 0, 1, 2, … in silence."""
    with pytest.raises(InputError, match=r'of Flatten do not follow from weights.*use EGL\(over="inputs"\)'):
        lengths_of(nn.Flatten(), images_of(9, 3, 1, 1))
    with pytest.raises(InputError, match=r'the model has no nn.Linear: use EGL\(over="parameters"\)'):
        lengths_of(nn.Flatten(), images_of(9, 3, 1, 1), "last_layer")


def test_nor_has_one_whose_logits_do_not_follow_from_them() -> None:
    for way in ("none", "without gradients"):
        model = built(partial(Heads, way), torch.float32)
        with pytest.raises(InputError, match=r"of Heads follow by autograd from none of its 8 weights.*no gradient"):
            lengths_of(model, images_of(9, 1, 3, 3))
        with pytest.raises(
            InputError, match=r"depend on no nn.Linear of the model \(head, body, auxiliary, idle\): use"
        ):
            lengths_of(model, images_of(9, 1, 3, 3), "last_layer")


def test_nor_has_one_that_detaches_the_images() -> None:
    class Detaching(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs.detach().flatten(1))

    for model in (Detaching(9, 3), Detaching(9, 3).requires_grad_(False)):
        with pytest.raises(InputError, match="of Detaching do not follow from the images by autograd"), torch.no_grad():
            GradientLength("inputs")(model, images_of(9, 1, 3, 3), generator(0))
        with pytest.raises(InputError, match="of Detaching do not follow from the images by autograd"), torch.no_grad():
            InputGradientNorm()(model, images_of(9, 1, 3, 3), generator(0))


@pytest.mark.parametrize("over", ["parameters", "last_layer", "inputs"])
def test_a_model_of_one_output_or_of_several_rows_an_image_is_told_so(over: Over) -> None:
    with pytest.raises(ContractError, match="one logit a class"):
        lengths_of(nn.Sequential(nn.Flatten(), nn.Linear(9, 1), nn.ReLU()), images_of(9, 1, 3, 3), over)
    with pytest.raises(ContractError, match=r"logits \[images, classes\], got the shape"):
        lengths_of(nn.Linear(3, 2), images_of(9, 1, 3, 3), over)


def test_the_last_linear_is_the_one_that_is_called_last_on_the_way_to_the_logits() -> None:
    images = images_of(9, 1, 3, 3)
    nested = nn.Sequential(nn.Flatten(), nn.Linear(9, 5), nn.Sequential(nn.Linear(5, 3)))
    assert last_linear(nested, images) == ("2.0", True)
    assert last_linear(nn.Linear(9, 3), images.flatten(1)) == ("", True)
    assert last_linear(Heads(), images) == ("head", True)
    assert last_linear(Heads("by name"), images) == ("body", False)
    assert last_linear(nn.Sequential(nested, nn.LogSoftmax(1)), images) == ("0.2.0", False)
    assert last_linear(nn.Sequential(nn.Flatten(), Doubled(9, 3)), images) == ("1", False)
    assert last_linear(Tricky("tied"), images) == ("last", True)
    tied = nn.Sequential(nn.Flatten(), nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 9))
    tied[3].weight = tied[1].weight
    assert last_linear(tied, images) == ("3", False)


def test_of_a_last_layer_that_is_declared_first_the_length_is_right() -> None:
    model, images = built(Heads), images_of(9, 1, 3, 3).double()
    wanted = []
    for image in images.split(1):
        logits = model(image)
        probs = logits.detach().softmax(1)[0]
        length = torch.zeros((), dtype=torch.float64)
        for label in range(3):
            loss = F.cross_entropy(logits, torch.tensor([label]))
            found = torch.autograd.grad(loss, list(model.head.parameters()), retain_graph=True)
            length += probs[label] * sum(part.square().sum() for part in found).sqrt()
        wanted.append(length)
    torch.testing.assert_close(lengths_of(model, images, "last_layer"), torch.stack(wanted), rtol=1e-9, atol=0)


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_that_gives_the_logits_needs_no_backward_pass(bias: bool, monkeypatch: Any) -> None:
    model = built(lambda: nn.Sequential(nn.Flatten(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 5, bias=bias)))
    images, counting = images_of(9, 1, 3, 3).double(), Counting(model)
    wanted = one_by_one(model, images, "last_layer")
    monkeypatch.setattr(gradients, "weight_grams", None)
    torch.testing.assert_close(lengths_of(counting, images, "last_layer"), wanted, rtol=1e-9, atol=0)
    assert counting.passes == [1, 9]


def test_a_layer_whose_rows_are_images_of_one_image_alone_takes_backward_passes() -> None:
    """With more images than one, what the layer puts out has another number of rows, and half of them are lost."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(9, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            pixels = inputs.flatten(1)
            return self.last(pixels) if len(pixels) == 1 else self.last(torch.cat([pixels, -pixels]))[: len(pixels)]

    model, images = built(Twice), images_of(9, 1, 3, 3).double()
    wanted = one_by_one(model, images, "last_layer")
    torch.testing.assert_close(lengths_of(model, images, "last_layer"), wanted, rtol=1e-9, atol=0)


@pytest.mark.parametrize("spread", [1.0, 30.0, 200.0])
def test_lengths_in_few_steps_are_those_of_each_class_in_turn(spread: float) -> None:
    """Of seven classes, p_top = 1 to rounding, and the others down to e^-700: each class has its gradient p - e_c."""
    draw = generator(0, "spread")
    probs = (spread * torch.randn(50, 7, generator=draw).double()).softmax(1)
    jacobian_BKD = torch.randn(50, 7, 9, generator=draw).double()
    rows = loss_gradients(probs)
    sizes = rows.abs().amax(2).clamp_min(1e-300)
    lengths = torch.bmm(rows / sizes[:, :, None], jacobian_BKD).norm(dim=2) * sizes
    gram = torch.bmm(jacobian_BKD, jacobian_BKD.transpose(1, 2))
    torch.testing.assert_close(gradients._expected_length(gram, probs), (probs * lengths).sum(1), rtol=1e-9, atol=0)
    residuals = (rows / sizes[:, :, None]).norm(dim=2) * sizes
    torch.testing.assert_close(expected_residual(probs), (probs * residuals).sum(1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("over", ["parameters", "last_layer", "inputs"])
@pytest.mark.parametrize("kind", ["by layer", "by image", "not the logits"])
def test_a_model_that_normalises_its_images_in_place_is_the_same(over: Over, kind: str) -> None:
    build = {
        "by layer": lambda: convnet(4, size=6),
        "by image": Bare,
        "not the logits": lambda: nn.Sequential(convnet(4, size=6), nn.LogSoftmax(1)),
    }[kind]
    inner, images = built(build), images_of(20, 1, 6, 6).double()
    wanted = lengths_of(Normalised(inner, in_place=False), images, over)
    pixels = images.clone()
    assert torch.equal(lengths_of(Normalised(inner, in_place=True), images, over), wanted)
    assert torch.equal(images, pixels)


def test_so_it_is_in_the_input_gradient_and_for_its_predictor() -> None:
    inner, other, images = built(lambda: convnet(4)), built(lambda: convnet(4, seed=3)), images_of(20, 1, 8, 8).double()
    pixels, found = images.clone(), []
    for in_place in (False, True):
        model, predictor = Normalised(inner, in_place), Normalised(other, in_place)
        with torch.no_grad():
            found.append(InputGradientNorm(predictor)(model, images, generator(0))["norm"])
            found.append(InputGradientNorm()(model, images, generator(0))["norm"])
    assert torch.equal(found[2], found[0])
    assert torch.equal(found[3], found[1])
    assert not torch.equal(found[0], found[1])
    assert torch.equal(images, pixels)


def test_the_input_gradient_is_one_backward_pass_an_image() -> None:
    model, other, images = built(lambda: convnet(4)), built(lambda: convnet(4, seed=3)), images_of(20, 1, 8, 8).double()
    said = other(images).argmax(1)
    assert not torch.equal(said, model(images).argmax(1))
    for predictor, labels in ((other, said), (None, model(images).argmax(1))):
        wanted = []
        for image, label in zip(images.split(1), labels.split(1), strict=True):
            leaf = image.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), label), leaf)
            wanted.append(gradient.norm())
        with torch.no_grad():
            found = InputGradientNorm(predictor)(model, images, generator(0))["norm"]
        torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-9, atol=0)


class RowsFirst(nn.Module):
    """A layer that sees an image's rows one after the other, [rows, images, columns]: as many rows as images here."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.token(inputs[:, 0].transpose(0, 1)).tanh().mean(0))


def test_a_layer_whose_first_dimension_is_not_the_images_is_not_taken_for_one() -> None:
    model, images = built(RowsFirst), images_of(8, 1, 8, 6).double()
    together = lengths_of(model, images)
    alone = torch.cat([lengths_of(model, image[None]) for image in images])
    torch.testing.assert_close(together, alone)
