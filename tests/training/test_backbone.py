"""Pretrained backbones: brought in, probed, fine-tuned; and their features kept for choosing."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from robal.candidates import Candidates
from robal.data import Data
from robal.errors import InputError, PlanError
from robal.evaluation import clean
from robal.images import InMemory
from robal.loop import run
from robal.networks import Custom, LeNet5, Timm, backbone_of, head_makes_logits, head_of, load_weights
from robal.objectives import Adversarial, Natural
from robal.plan_checks import check
from robal.pool import Examples, Pool
from robal.source import Source
from robal.training import SGD, Adam, Recipe, Trained, fit
from tiny_runs import outcome, rows, tensors, tiny_plan

SHAPE = (1, 28, 28)
PROBING = Recipe(Natural(), epochs=8, batch_size=20, optimiser=Adam(5e-3), backbone=0.0)


class WithNorm(nn.Sequential):
    """A small network with BatchNorm, whose statistics must stay with the backbone."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        layers = [nn.Conv2d(shape[0], 8, 5, stride=3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2)]
        super().__init__(*layers, nn.Linear(8 * 8 * 8, classes))


def digits(low: int, high: int) -> tuple[Tensor, Tensor]:
    data = Source(held_out_images=0).load()
    assert data.hidden is not None
    chosen = ((data.hidden >= low) & (data.hidden < high)).nonzero().flatten()
    return data.images.at_rest(chosen), data.hidden[chosen] - low


def trained(recipe: Recipe, model: nn.Module, images: Tensor, labels: Tensor, seed: int = 0) -> Trained:
    return fit(recipe, Examples.of(images, labels), None, Trained(model.eval()), None, seed)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LeNet5 that tells the digits 0 to 4 apart."""
    recipe = Recipe(Natural(), epochs=15, batch_size=50, optimiser=Adam(2e-3))
    model = trained(recipe, LeNet5()(SHAPE, 5, 0), *digits(0, 5)).model
    path = tmp_path_factory.mktemp("pretrained") / "lenet.safetensors"
    save_model(model, str(path))
    return path


def test_a_backbone_helps_with_classes_that_it_has_never_seen(pretrained: Path) -> None:
    images, labels = digits(5, 10)
    few, rest = torch.arange(15), torch.arange(100, 500)
    found = {}
    for name, path in (("pretrained", pretrained), ("fresh", None)):
        rates = []
        for seed in range(3):
            model = LeNet5()(SHAPE, 6, seed)  # another number of classes, so that the file's head is left out
            if path is not None:
                assert load_weights(model, path, head_may_differ=True) is False
            after = trained(replace(PROBING, epochs=30), model, images[few], labels[few], seed).model
            rates.append(clean(after, images[rest], labels[rest]).accuracy)
        found[name] = sum(rates) / 3
    assert found["pretrained"] > found["fresh"] + 0.03


@pytest.mark.parametrize("objective", [Natural(), Adversarial()])
def test_probing_moves_the_head_alone(objective: object) -> None:
    images, labels = digits(0, 5)
    model = WithNorm(SHAPE, 5)
    model(torch.rand(50, *SHAPE))  # some statistics
    before = copy.deepcopy(model.state_dict())
    after = trained(replace(PROBING, objective=objective, epochs=2), model, images[:80], labels[:80]).model  # type: ignore[arg-type]
    for name, tensor in after.state_dict().items():
        assert torch.equal(tensor, before[name]) == (not name.startswith("5."))
    assert all(weight.requires_grad for weight in after.parameters())


def test_first_the_head_and_then_all() -> None:
    images, labels = digits(0, 5)
    model = WithNorm(SHAPE, 5)
    recipe = replace(PROBING, backbone=1.0, probe=0.5, epochs=4, snapshots=4)
    found = trained(recipe, model, images[:80], labels[:80])
    moved = [not torch.equal(shot["0.weight"], model.state_dict()["0.weight"]) for shot in found.snapshots]
    assert moved == [False, False, True, True]
    counted = [int(shot["1.num_batches_tracked"]) for shot in found.snapshots]
    assert counted == [0, 0, 4, 8]


def test_a_smaller_rate_moves_the_backbone_less_and_the_head_as_far() -> None:
    images, labels = digits(0, 5)
    model, one = LeNet5()(SHAPE, 5, 0), Recipe(Natural(), epochs=1, batch_size=80, optimiser=SGD(0.1, 0.0, 0.0))
    steps = {}
    for factor in (1.0, 0.1):
        after = trained(replace(one, backbone=factor), model, images[:80], labels[:80]).model
        steps[factor] = {name: weight - model.state_dict()[name] for name, weight in after.state_dict().items()}
    head = f"{head_of(model)[0]}."
    for name, step in steps[1.0].items():
        factor = 1.0 if name.startswith(head) else 0.1
        torch.testing.assert_close(steps[0.1][name], step * factor, rtol=2e-3, atol=1e-6)


def test_a_killed_probing_goes_on_to_the_same_end(tmp_path: Path) -> None:
    images, labels = digits(0, 5)
    recipe = replace(PROBING, backbone=0.3, probe=0.5, epochs=4)
    examples, whole = Examples.of(images[:80], labels[:80]), {}

    class Killed(Exception):
        pass

    def kill(model: nn.Module, epoch: int) -> float:
        if epoch == at:
            raise Killed
        return 0.0

    for at in (99, 1, 2, 3):
        path = tmp_path / f"{at}.safetensors"
        keeping = replace(recipe, keep="best")
        start = Trained(LeNet5()(SHAPE, 5, 0).eval())
        if at < 99:
            with pytest.raises(Killed):
                fit(keeping, examples, None, start, kill, 0, checkpoint=path)
        at = 99
        whole[path.name] = fit(keeping, examples, None, start, kill, 0, checkpoint=path).model.state_dict()
    first = whole.pop("99.safetensors")
    for other in whole.values():
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_features_of_a_frozen_backbone_are_looked_up(tmp_path: Path) -> None:
    images, _ = digits(0, 5)
    pool = Pool.unlabelled(InMemory(images[:150]), tuple("abcde"))
    model = LeNet5()(SHAPE, 5, 0).eval()
    some = torch.arange(3, 140, 2)
    plain = Candidates(model, pool, some)
    kept = replace(plain, store=tmp_path / "features")
    torch.testing.assert_close(kept.embeddings, plain.embeddings)
    torch.testing.assert_close(kept.logits, plain.logits)
    files = sorted((tmp_path / "features").rglob("*.safetensors"))
    assert files
    other = copy.deepcopy(model)
    with torch.no_grad():
        head_of(other)[1].weight.mul_(2)
    seen = {path: path.stat().st_mtime_ns for path in files}
    again = replace(plain, model=other, store=tmp_path / "features")
    torch.testing.assert_close(again.logits, replace(plain, model=other).logits)
    assert {path: path.stat().st_mtime_ns for path in sorted((tmp_path / "features").rglob("*.safetensors"))} == seen


def test_where_something_comes_after_the_head_nothing_is_looked_up(tmp_path: Path) -> None:
    images, _ = digits(0, 5)
    pool = Pool.unlabelled(InMemory(images[:20]), tuple("abcde"))
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 5), nn.Softplus()).eval()
    plain = Candidates(model, pool, torch.arange(20))
    assert torch.equal(replace(plain, store=tmp_path / "features").logits, plain.logits)
    assert not (tmp_path / "features").exists()


def test_a_run_probes_a_pretrained_backbone_and_keeps_its_features(pretrained: Path, tmp_path: Path) -> None:
    settings = (f"start.weights={pretrained}", "start.recipe.backbone=0", "recipe.backbone=0", "acquisition=CoreSet")
    plan = tiny_plan(*settings, "rounds=2")
    data: Data = plan.data.load()
    run(plan, data, tmp_path / "run")
    kept = [tensors(tmp_path / "run" / "rounds" / f"{number:03d}" / "model.safetensors") for number in range(3)]
    model = LeNet5()(SHAPE, 10, 0)
    head = head_of(model)[0]
    first, last = kept[0], kept[2]
    for name in model.state_dict():
        assert (first[f"model:{name}"] == last[f"model:{name}"]) == (not name.startswith(f"{head}."))
    assert (
        len(list((tmp_path / "run" / "features").rglob("*.safetensors"))) == 1
    )  # one look at the pool for both rounds
    assert len(rows(tmp_path / "run")) == 3
    run(plan, data, tmp_path / "again")
    assert outcome(tmp_path / "again") == outcome(tmp_path / "run")


def test_weights_of_another_backbone_are_refused(pretrained: Path) -> None:
    with pytest.raises(InputError, match="is of another network"):
        load_weights(WithNorm(SHAPE, 7), pretrained, head_may_differ=True)
    with pytest.raises(InputError, match="is of another network"):
        load_weights(LeNet5()(SHAPE, 10, 0), pretrained)  # the head too, unless it may differ


def test_a_factorys_backbone_takes_a_file_of_other_classes(pretrained: Path) -> None:
    built = Custom("test_backbone:lenet", weights=str(pretrained))(SHAPE, 9, 4)
    theirs = LeNet5()(SHAPE, 5, 0)
    load_weights(theirs, pretrained)
    for one, other in zip(backbone_of(built).parameters(), backbone_of(theirs).parameters(), strict=True):
        assert torch.equal(one, other)
    assert head_of(built)[1].out_features == 9


def lenet(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return LeNet5()(shape, classes, 1)


@pytest.mark.parametrize("settings", ["recipe.backbone=2", "recipe.probe=1", "recipe.backbone=-0.1"])
def test_settings_that_cannot_be_are_refused(settings: str) -> None:
    with pytest.raises(PlanError, match=r"backbone lies in \[0, 1\] and probe in \[0, 1\)"):
        tiny_plan(settings)


def test_timm_says_what_it_needs() -> None:
    try:
        import timm  # noqa: F401
    except Exception:
        with pytest.raises(InputError, match=r"pip install 'robal\[timm\]'"):
            Timm()((3, 64, 64), 5, 0)
        pytest.skip("timm cannot be imported here: it needs torchvision's build for this torch")
    model = Timm("resnet18")((3, 64, 64), 5, 0).eval()
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 5)
    assert head_of(model)[1].out_features == 5
    with pytest.raises(InputError, match="timm has no model 'resnet81'"):
        Timm("resnet81")((3, 64, 64), 5, 0)


@pytest.mark.parametrize(
    "settings", [(), ("recipe.warm_start=false",), ("start.recipe={restarts: 2, keep: best, warm_start: false}",)]
)
def test_whatever_is_trained_afresh_begins_from_the_weights_too(
    pretrained: Path, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    frozen = (f"start.weights={pretrained}", "start.recipe.backbone=0", "recipe.backbone=0", "rounds=1")
    plan = tiny_plan(*frozen, "acquisition=EntropyMix", *settings)
    run(plan, plan.data.load(), tmp_path / "run")
    theirs = LeNet5()(SHAPE, 5, 0)
    load_weights(theirs, pretrained)
    for number in (0, 1):
        model = LeNet5()(SHAPE, 10, 0)
        load_weights(model, tmp_path / "run" / "rounds" / f"{number:03d}" / "model.safetensors")
        for one, other in zip(backbone_of(model).parameters(), backbone_of(theirs).parameters(), strict=True):
            assert torch.equal(one, other)


class Auxiliary(nn.Module):
    """Its last linear layer makes no logits."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.body, self.head, self.beside = nn.Flatten(), nn.Linear(784, classes), nn.Linear(784, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.body(inputs)) + 0 * self.beside(self.body(inputs)).sum()


class Reading(nn.Module):
    """It needs its head for more than logits, so that a copy without one does not run; and names its own features."""

    def __init__(self, shape: tuple[int, int, int], classes: int, features: str = "") -> None:
        super().__init__()
        self.first, self.head, self.features = nn.Linear(784, 9), nn.Linear(9, classes), features

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.first(inputs.flatten(1).to(self.head.weight.dtype)))


def test_a_network_whose_last_linear_layer_makes_no_logits_cannot_be_probed(tmp_path: Path) -> None:
    plan = replace(tiny_plan("recipe.backbone=0"), network=Custom("test_backbone:Auxiliary"))
    with pytest.raises(InputError, match="whose last linear layer makes the logits"):
        run(plan, plan.data.load(), tmp_path / "run")
    assert not head_makes_logits(Auxiliary(SHAPE, 5), torch.zeros(1, *SHAPE))
    assert head_makes_logits(LeNet5()(SHAPE, 5, 0), torch.zeros(2, *SHAPE, dtype=torch.uint8))


@pytest.mark.parametrize("model", [Reading(SHAPE, 5), Reading(SHAPE, 5, "first"), Auxiliary(SHAPE, 5)])
def test_looked_up_or_not_the_embeddings_are_the_same(model: nn.Module, tmp_path: Path) -> None:
    images, _ = digits(0, 5)
    plain = Candidates(model.eval(), Pool.unlabelled(InMemory(images[:20]), tuple("abcde")), torch.arange(20))
    kept = replace(plain, store=tmp_path / "features")
    assert torch.equal(kept.embeddings, plain.embeddings)
    assert torch.equal(kept.logits, plain.logits)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["recipe.backbone=0", "recipe.shrink=0.5"], "shrink would change it"),
        (["recipe.probe=0.5", "recipe.keep_optimiser=true"], "one learning rate for all layers"),
        (["recipe.probe=0.5", "recipe.objective=CAAT"], "CAAT trains more than the network's layers"),
        (["recipe.probe=0.5", "recipe.objective=ACT"], "ACT trains more than the network's layers"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: list[str], why: str) -> None:
    with pytest.raises(PlanError, match=why):
        tiny_plan(*settings)


def test_a_retraining_does_not_probe_what_nobody_trained(pretrained: Path) -> None:
    plan = tiny_plan(f"start={{labels: 0, weights: '{pretrained}'}}", "recipe={backbone: 0, warm_start: false}")
    data = plan.data.load()
    known = torch.full((len(data.images),), -1)
    known[:20] = data.hidden[:20]  # type: ignore[index]
    with pytest.raises(InputError, match="without warm_start trains a head on what nobody has trained"):
        check(plan, replace(data, known=known))
