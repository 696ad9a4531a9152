"""Training in bfloat16: faster passes, the same training up to rounding, and nothing outside of it changed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from watching import weights

from robal.attacks import PGD
from robal.attacks.crafting import crafting
from robal.augmentations import Affine
from robal.errors import InputError
from robal.evaluation import clean
from robal.networks import PreActResNet, in_bfloat16, interval_bounds
from robal.objectives import ACT, MTLIBP, NFGSM, Adversarial, Batch, FixMatch, Natural, Trades
from robal.plans import read_plan
from robal.pool import Examples
from robal.seeds import generator
from robal.threats import Linf
from robal.training import Adam, Recipe, Trained, fit
from small_models import convnet

RECIPE = Recipe(Natural(), epochs=4, batch_size=8, optimiser=Adam(1e-2), precision="bfloat16")
SMALL = Linf(0.03)


@dataclass(frozen=True)
class Looking:
    """Natural training that notes in which types the passes were made."""

    seen: list[Any] = field(default_factory=list, compare=False)
    passes: int = 1

    def begin(self, model: nn.Module, examples: Examples) -> None:
        return None

    def __call__(self, model: nn.Module, companion: Any, batch: Batch, draw: torch.Generator) -> Tensor:
        inside: list[torch.dtype] = []
        layer = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        handle = layer.register_forward_hook(lambda module, inputs, answer: inside.append(answer.dtype))
        answer = model(batch.inputs)
        handle.remove()
        with crafting(model, batch.inputs) as twin:
            noted = (twin is model, twin(batch.inputs).dtype, (twin(batch.inputs) - model(batch.inputs)).abs().max())
        self.seen.append((*inside, answer.dtype, *noted))
        losses = nn.functional.cross_entropy(answer, batch.labels, reduction="none")
        assert losses.dtype is torch.float32
        return losses


@pytest.mark.parametrize(("precision", "inside"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_passes_are_made_in_the_precision_and_answers_are_float32(
    examples: Examples, start: Trained, precision: Any, inside: torch.dtype
) -> None:
    looking = Looking()
    trained = fit(replace(RECIPE, objective=looking, epochs=1, precision=precision), examples, None, start, None, 0)
    for convolution, answer, is_model, of_twin, apart in looking.seen:
        assert (convolution, answer, of_twin) == (inside, torch.float32, torch.float32)
        assert not is_model  # the twin with BatchNorm folded was taken, for it was compared in float32
        assert apart < 0.1
    assert not torch.is_autocast_enabled("cpu")
    assert not trained.model._forward_hooks
    assert all(tensor.dtype is torch.float32 for tensor in trained.model.parameters())
    assert trained.model(torch.rand(2, 1, 8, 8)).dtype is torch.float32


@pytest.mark.parametrize(
    "objective",
    [
        Natural(),
        Adversarial(PGD(2, threat=SMALL)),
        Adversarial(PGD(2, threat=SMALL), weight_radius=0.005),
        NFGSM(threat=SMALL),
        Trades(steps=2, threat=SMALL),
        MTLIBP(PGD(2, threat=SMALL), alpha=0.05, threat=SMALL),
        FixMatch(),
        ACT(share=0.5, steps=2, threat=SMALL),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_it_is_the_same_training_up_to_rounding(
    tiny_digits: tuple[Tensor, Tensor], start: Trained, objective: Any
) -> None:
    images, labels = tiny_digits
    bought = Examples.of(images[:200], labels[:200])
    both = [
        fit(
            replace(RECIPE, objective=objective, epochs=12, batch_size=20, precision=precision),
            bought,
            images[200:300],
            start,
            None,
            0,
        )
        for precision in ("float32", "bfloat16")
    ]
    plain, fast = [clean(trained.model, images[200:], labels[200:]).accuracy for trained in both]
    assert weights(both[0]).tolist() != weights(both[1]).tolist()
    for name, before in start.model.named_parameters():  # every layer learned
        assert not torch.equal(both[1].model.get_parameter(name), before), name
    assert plain > 0.75
    assert fast > plain - 0.08


def test_a_killed_training_goes_on_to_the_same_weights(examples: Examples, start: Trained, tmp_path: Path) -> None:
    recipe = replace(RECIPE, objective=Adversarial(PGD(2, threat=SMALL)), keep="best")
    whole = fit(recipe, examples, None, start, lambda model, epoch: epoch, 0)

    def stop(model: nn.Module, epoch: int) -> float:
        if epoch == 2:
            raise KeyboardInterrupt
        return epoch

    with pytest.raises(KeyboardInterrupt):
        fit(recipe, examples, None, start, stop, 0, checkpoint=tmp_path / "state")
    again = fit(recipe, examples, None, start, lambda model, epoch: epoch, 0, checkpoint=tmp_path / "state")
    assert torch.equal(weights(again), weights(whole))


def test_in_a_plan_it_can_be_said_for_the_robust_model_and_for_its_teacher() -> None:
    plan = read_plan(None, ["recipe.precision=bfloat16", "recipe.pool.teacher.precision=float32"])
    assert plan.recipe.precision == "bfloat16"
    assert plan.recipe.pool is not None
    assert plan.recipe.pool.teacher.precision == "float32"


def test_another_precision_is_refused() -> None:
    with pytest.raises(InputError, match=r"float32, bfloat16; not .half."):
        replace(RECIPE, precision="half")  # type: ignore[arg-type]


def test_a_processor_without_the_instructions_is_told_of(
    examples: Examples, start: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "this processor has no instructions for bfloat16; precision=float32 would be faster"
    for has, told in ({"avx2": True}, True), ({"avx512_bf16": True}, False), ({"bf16": True}, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has)
        fit(replace(RECIPE, epochs=1), examples, None, start, None, 0)
        assert (said in capsys.readouterr().err) is told


def test_bounds_and_moved_pixels_are_not_rounded() -> None:
    model, images = convnet(classes=10).eval(), torch.rand(4, 1, 8, 8)
    labels = torch.arange(4)
    plain = interval_bounds(model, images - 0.01, images + 0.01, labels).margins
    with in_bfloat16(model):
        assert torch.equal(interval_bounds(model, images - 0.01, images + 0.01, labels).margins, plain)
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    objective = FixMatch(strong=Affine(rotation=20))
    batch = Batch(images, labels, torch.ones(4), unlabelled=images)
    for wanted in (False, True):
        with in_bfloat16(model, wanted):
            objective(model, None, batch, generator(0, "moves"))
    assert torch.equal(seen[1], seen[3])


def test_a_model_leaves_as_it_came_when_the_body_raises() -> None:
    model = PreActResNet(widths=(4, 8), blocks=1)((3, 16, 16), 10, 0)
    with pytest.raises(RuntimeError, match="within"), in_bfloat16(model):
        raise RuntimeError("within")
    assert not model._forward_hooks
    assert not torch.is_autocast_enabled("cpu")
