"""Checks of a defence: honest models pass all of them, and each way to hide a gradient meets the check meant for it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from scipy.fft import dct
from torch import Tensor, nn
from torch.nn import functional as F

from robal.attacks import PGD, perturb
from robal.errors import ContractError, InputError
from robal.evaluation.checks import (
    _rising,
    accuracy_falls_to_zero,
    check_defence,
    compare_with_square,
    loss_rises_with_steps,
    white_box_beats_square,
)
from robal.evaluation.model_checks import (
    Check,
    batch_independent,
    borrowed,
    deterministic,
    gradients_present,
    gradients_true,
    input_gradient,
    logits_returned,
    margin,
    no_autograd_inside,
    state_kept,
)
from robal.threats import L2, Linf, Threat
from small_models import condition, convnet, linear

ATTACKED = Linf(0.3)
Wrap = Callable[[nn.Module], nn.Module]


class Around(nn.Module):
    """A model between what is done to its inputs and what is done to its logits."""

    def __init__(
        self,
        inner: nn.Module,
        before: Callable[[Tensor], Tensor] | None = None,
        after: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.inner, self.before, self.after = inner, before, after

    def forward(self, inputs: Tensor) -> Tensor:
        logits = self.inner(self.before(inputs) if self.before else inputs)
        return self.after(logits) if self.after else logits


def straight_through(operation: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The operation, whose gradient is said to be one."""
    return lambda inputs: inputs + (operation(inputs) - inputs).detach()


def levels(number: int) -> Callable[[Tensor], Tensor]:
    return lambda inputs: (inputs * (number - 1)).round() / (number - 1)


def jpeg(inputs: Tensor) -> Tensor:
    """The cosine transform of blocks of 4 × 4 pixels, rounded to multiples of 0.2."""
    basis = torch.tensor(dct(torch.eye(4).numpy(), axis=0, norm="ortho"))
    size = inputs.shape[-1]
    blocks = inputs.unfold(2, 4, 4).unfold(3, 4, 4)
    rounded = ((basis @ blocks @ basis.T) * 5).round() / 5
    return (basis.T @ rounded @ basis).permute(0, 1, 2, 4, 3, 5).reshape(-1, 1, size, size)


def noisy(inputs: Tensor) -> Tensor:
    return inputs + 0.1 * torch.randn_like(inputs)


def dropping(inputs: Tensor) -> Tensor:
    return F.dropout(inputs, 0.3, training=True)


def centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(0)


class Deaf(nn.Dropout):
    """Dropout that `eval()` does not reach."""

    def train(self, mode: bool = True) -> Deaf:
        return self


class Waking(nn.Module):
    """Puts itself into training mode whenever it is asked."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.norm = inner, nn.BatchNorm2d(1)

    def forward(self, inputs: Tensor) -> Tensor:
        self.norm.train()
        return self.inner(self.norm(inputs))


class Counting(nn.Module):
    """Keeps count of its passes in a buffer, and moves a weight a little."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.weight = inner, nn.Parameter(torch.ones(()))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.count += 1
        self.weight.data += 1e-6
        return self.inner(inputs)


class Purifying(nn.Module):
    """Descends the entropy of its own answer by one step before it answers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        moved = inputs.detach().requires_grad_()
        entropy = torch.distributions.Categorical(logits=self.inner(moved)).entropy().sum()
        entropy.backward()
        return self.inner((inputs - 0.05 * moved.grad.sign()).clamp(0, 1))


class _Uphill(torch.autograd.Function):
    """Identity whose gradient is reversed wherever a pixel was moved off the grey levels that images have at rest."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, inputs: Tensor) -> Tensor:
        steps = inputs * 255
        ctx.moved = ((steps - steps.round()).abs() > 1e-3).flatten(1).any(1)  # type: ignore[attr-defined]
        return inputs.clone()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        sign = 1.0 - 2.0 * ctx.moved.float()  # type: ignore[attr-defined]
        return gradients[0] * sign.view(-1, 1, 1, 1)


MUTANTS: dict[str, tuple[Wrap, Check]] = {
    "softmax": (lambda model: Around(model, after=lambda logits: logits.softmax(1)), logits_returned),
    "sigmoid": (lambda model: Around(model, after=torch.sigmoid), logits_returned),
    "noise": (lambda model: Around(model, noisy), deterministic),
    "noise on the logits": (lambda model: Around(model, after=noisy), deterministic),
    "dropout left on": (lambda model: Around(model, dropping), deterministic),
    "dropout deaf to eval": (lambda model: nn.Sequential(Deaf(0.3), model), deterministic),
    "dropout deaf to eval, its mode": (lambda model: nn.Sequential(Deaf(0.3), model), state_kept),
    "BatchNorm without running statistics": (
        lambda model: nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), model),
        batch_independent,
    ),
    "logits centred over the batch": (lambda model: Around(model, after=centred), batch_independent),
    "BatchNorm in training mode": (Waking, batch_independent),
    "BatchNorm in training mode, its state": (Waking, state_kept),
    "a buffer and a weight that move": (Counting, state_kept),
    "purification": (Purifying, no_autograd_inside),
    "rounded to 1 bit": (lambda model: Around(model, levels(2)), gradients_present),
    "rounded to 4 levels": (lambda model: Around(model, levels(4)), gradients_present),
    "sign": (lambda model: Around(model, lambda inputs: (inputs - 0.5).sign()), gradients_present),
    "JPEG": (lambda model: Around(model, jpeg), gradients_present),
    "detached inputs": (lambda model: Around(model, torch.detach), gradients_present),
    "detached logits": (lambda model: Around(model, after=torch.detach), gradients_present),
    "saturated": (lambda model: Around(model, after=lambda logits: 1000 * logits), gradients_present),
    "a gradient that is not finite": (
        lambda model: Around(model, lambda inputs: (inputs - inputs.detach()).sqrt() + inputs),
        gradients_present,
    ),
    "4 levels straight through": (lambda model: Around(model, straight_through(levels(4))), gradients_true),
    "JPEG straight through": (lambda model: Around(model, straight_through(jpeg)), gradients_true),
    "gradient scaled away": (
        lambda model: Around(model, lambda inputs: inputs.detach() + 1e-6 * (inputs - inputs.detach())),
        gradients_true,
    ),
    "gradient reversed": (lambda model: Around(model, lambda inputs: 2 * inputs.detach() - inputs), gradients_true),
    "uphill at the images only": (lambda model: Around(model, _Uphill.apply), loss_rises_with_steps),
    "detached, large radius": (lambda model: Around(model, torch.detach), accuracy_falls_to_zero),
    "rounded to 1 bit, beside Square": (lambda model: Around(model, levels(2)), white_box_beats_square),
}


@pytest.fixture(scope="module")
def hardened(lenet: nn.Module, digits: tuple[Tensor, Tensor]) -> nn.Module:
    """`lenet`, trained on by PGD at 0.1 for two epochs."""
    images, labels = digits[0][:1000].float() / 255, digits[1][:1000]
    model = copy.deepcopy(lenet)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    attack, draw = PGD(steps=4, threat=Linf(0.1)), torch.Generator().manual_seed(0)
    for _ in range(2):
        for batch in torch.randperm(1000, generator=draw).split(50):
            moved = perturb(attack, model, images[batch], labels[batch], draw, check=False)
            optimiser.zero_grad()
            F.cross_entropy(model(moved), labels[batch]).backward()
            optimiser.step()
    model.zero_grad(set_to_none=True)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "threat"), [("lenet", Linf(0.3)), ("lenet", L2(1.5)), ("hardened", Linf(0.1)), ("hardened", L2(1.5))]
)
def test_nothing_is_flagged_on_an_honest_model(
    name: str, threat: Threat, unseen: tuple[Tensor, Tensor], request: pytest.FixtureRequest
) -> None:
    findings = check_defence(request.getfixturevalue(name), unseen[0][:40], unseen[1][:40], threat, 0, queries=30)
    assert [str(finding) for finding in findings if not finding.passed] == []
    assert len({finding.name for finding in findings}) == len(findings) == 11


@pytest.mark.parametrize("mutant", MUTANTS)
def test_each_mutant_is_flagged_by_the_check_meant_for_it(
    mutant: str, lenet: nn.Module, unseen: tuple[Tensor, Tensor]
) -> None:
    wrap, check = MUTANTS[mutant]
    images, labels = unseen[0][:30], unseen[1][:30]
    assert check(lenet, images, labels, ATTACKED, 0).passed
    model = wrap(lenet).eval()
    finding = check(model, images, labels, ATTACKED, 0)
    assert not finding.passed, str(finding)
    assert finding.meaning
    assert finding.advice


@pytest.mark.parametrize(
    "mutant", ["softmax", "noise", "BatchNorm in training mode", "purification", "detached logits"]
)
def test_a_mutant_is_checked_to_the_end_and_comes_back_as_it_was(
    mutant: str, lenet: nn.Module, unseen: tuple[Tensor, Tensor]
) -> None:
    wrap, check = MUTANTS[mutant]
    model, images = wrap(copy.deepcopy(lenet)).train(), unseen[0][:8].clone()
    before, state = condition(model), torch.get_rng_state()
    findings = check_defence(model, images, unseen[1][:8], ATTACKED, 0, queries=5)
    assert condition(model) == before
    assert torch.equal(images, unseen[0][:8])
    assert torch.equal(torch.get_rng_state(), state)
    assert check(model, images, unseen[1][:8], ATTACKED, 0).name in {f.name for f in findings if not f.passed}


def test_weights_that_a_forward_pass_changes_are_put_back(lenet: nn.Module, unseen: tuple[Tensor, Tensor]) -> None:
    model = Counting(lenet).eval()
    finding = state_kept(model, *unseen, ATTACKED, 0)
    assert finding.measured["buffers and weights that a pass changes"] == 2
    assert "(count, weight)" in finding.meaning
    assert (model.weight.item(), model.count.item()) == (1.0, 0.0)


def test_layers_that_a_forward_pass_puts_into_training_mode_are_counted(
    lenet: nn.Module, unseen: tuple[Tensor, Tensor]
) -> None:
    measured = state_kept(Waking(lenet).eval(), *unseen, ATTACKED, 0).measured
    assert list(measured.values()) == [0, 1, 3]  # running mean, running variance, batches seen


def test_findings_are_a_function_of_the_seed_also_for_a_model_that_draws_from_the_global_stream(
    lenet: nn.Module, unseen: tuple[Tensor, Tensor]
) -> None:
    model, images, labels = Around(lenet, noisy).eval(), unseen[0][:8], unseen[1][:8]
    torch.manual_seed(1)
    first = check_defence(model, images, labels, ATTACKED, 0, queries=5)
    torch.manual_seed(2)
    assert check_defence(model, images, labels, ATTACKED, 0, queries=5) == first
    assert check_defence(model, images, labels, ATTACKED, 1, queries=5) != first


def test_the_figures_of_a_linear_model_by_hand() -> None:
    """Logits (3a, 3b), label 0, image (0.8, 0.4): the margin −1.2 rises by 6 for every unit of eps."""
    model, image, label = linear([[3.0, 0.0], [0.0, 3.0]]), torch.tensor([[[[0.8, 0.4]]]]), torch.tensor([0])
    measured = {f.name: f.measured for f in check_defence(model, image, label, Linf(0.1), 0, queries=5)}
    assert list(measured["loss rises with eps"].values()) == pytest.approx([-1.2, -0.9, -0.6, 0.0], abs=1e-5)
    assert list(measured["loss rises with steps"].values()) == pytest.approx([-1.2, -0.6, -0.6, -0.6], abs=1e-5)
    assert measured["gradients true"]["median of change by prediction"] == pytest.approx(1.0, abs=1e-2)
    assert measured["accuracy falls to zero"]["median radius"] == pytest.approx(0.3)
    assert measured["logits returned"] == pytest.approx(
        {"lowest output": 1.2, "highest output": 2.4, "largest distance of a row's sum from 1": 2.6}
    )


def test_saturation_is_told_from_an_operation_that_lets_no_gradient_through(
    lenet: nn.Module, unseen: tuple[Tensor, Tensor]
) -> None:
    for mutant, zero_margin in (("saturated", 0.0), ("detached inputs", 1.0)):
        measured = gradients_present(MUTANTS[mutant][0](lenet), *unseen, ATTACKED, 0).measured
        assert measured["zero gradients of the margin"] == zero_margin


def test_the_gradient_of_the_margin_is_that_of_finite_differences(unseen: tuple[Tensor, Tensor]) -> None:
    model, inputs = convnet().double().eval(), torch.rand(2, 1, 8, 8, dtype=torch.float64)
    labels, step = torch.tensor([0, 3]), torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    step[0, 0, 3, 4] = 1e-6
    with borrowed(model, 0, "test"):
        slope = (margin(model(inputs + step), labels) - margin(model(inputs - step), labels)) / 2e-6
        gradient = input_gradient(model, inputs, lambda logits: margin(logits, labels))
    assert gradient[:, 0, 3, 4].tolist() == pytest.approx(slope.tolist(), rel=1e-6)


def test_square_is_compared_by_a_sign_test_of_the_images_that_only_one_broke() -> None:
    """Square alone broke 8, the white box alone 1, of 20: P(X >= 8 | 9, ½) = (9 + 1) / 512."""
    white_box, square = torch.ones(20, dtype=torch.bool), torch.ones(20, dtype=torch.bool)
    square[:8], white_box[8] = False, False
    finding = compare_with_square(white_box, square)
    assert finding.measured == {
        "accuracy under the white-box attack": 0.95,
        "accuracy under Square": 0.6,
        "broken by Square alone": 0.4,
        "p": 10 / 512,
    }
    assert finding.passed  # two in a hundred: it may be chance
    square[9:11] = False
    assert not compare_with_square(white_box, square).passed  # 10 against 1: 12 / 2048
    assert compare_with_square(square, white_box).passed
    assert compare_with_square(square, square).measured["p"] == 1


def test_a_fall_of_the_loss_counts_beyond_chance_and_a_tenth_of_the_rise() -> None:
    start, top = torch.zeros(100), torch.ones(100)
    spread = torch.tensor([1.0, -1.0]).repeat(50)  # standard error 0.1 of a fall with this spread
    for levels_reached, passed in (
        ([start, top], True),
        ([start, start], False),
        ([start, 1.05 * top, top], True),  # a twentieth
        ([start, 1.2 * top, top], False),
        ([start, 1.2 * top + spread, top], True),  # two standard errors
        ([start, 1.4 * top + spread, top], False),
        ([start, -top], False),
    ):
        margins = {str(number): reached for number, reached in enumerate(levels_reached)}
        assert _rising("name", margins, "meaning", "advice").passed is passed


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("classes", [2, 3, 100])
def test_few_images_few_classes_and_many_and_images_that_were_wrong_all_along(count: int, classes: int) -> None:
    model, images = convnet(classes), torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wrong = model.eval()(images).argmin(1)
    findings = check_defence(model, (255 * images).to(torch.uint8), wrong, L2(0.5), 0, queries=3)
    assert len(findings) == 11
    assert findings[-1].measured["accuracy under Square"] == 0.0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"threat": Linf(0.0)}, InputError, "a radius above 0; Linf, eps = 0 came"),
        ({"queries": 0}, InputError, "queries >= 1; 0 came"),
        ({"inputs": torch.empty(0, 1, 8, 8), "labels": torch.empty(0).long()}, InputError, "there is no image"),
        ({"inputs": 2 * torch.ones(2, 1, 8, 8)}, InputError, r"must lie in \[0, 1\]"),
        ({"labels": torch.tensor([0])}, InputError, r"2 images came with labels of shape \[1\]"),
        ({"labels": torch.tensor([0, 4])}, InputError, r"must lie in \[0, 4\)"),
        ({"model": Around(convnet(), after=lambda logits: logits / 0)}, ContractError, "NaN or infinite logits"),
        ({"model": convnet(1)}, ContractError, "one output"),
    ],
)
def test_what_cannot_be_checked_is_refused(change: dict[str, object], error: type, message: str) -> None:
    asked = {"model": convnet(), "inputs": torch.rand(2, 1, 8, 8), "labels": torch.tensor([0, 1]), "threat": Linf(0.1)}
    with pytest.raises(error, match=message):
        check_defence(**{**asked, "seed": 0, **change})  # type: ignore[arg-type]
