"""Monte Carlo dropout: where it acts, what a pass is, and that computing the first half once changes nothing."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robal.networks
from robal.errors import InputError
from robal.networks import Custom, DropoutPasses, channels_last, dropout_places, forward_with_embeddings
from robal.seeds import generator, stream
from small_models import Counting, condition, convnet, trained_like

PLACES = {
    "LeNet5": ["relu1", "relu2"],
    "LeNet5DRE": ["relu1", "relu2", "relu3"],
    "LeNet5DFAL": ["pool1", "pool2", "fc2"],
    "VGG8": ["relu1", "relu2", "relu3"],
    "VGG8DFAL": ["pool1", "pool2", "pool3", "pool4", "relu5"],
    "VGG16": ["relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"],
    "ResNet18": ["relu1"],
    "PreActResNet": ["conv1"],
    "PreActResNet18": ["conv1"],
}


def network(name: str, dropout: float = 0.0, shape: tuple[int, int, int] | None = None, **settings: Any) -> nn.Module:
    rates = {"dropout": dropout} | ({"dropout_head": dropout} if "DFAL" in name else {})
    shape = shape or (1, *((32, 32) if name in ("LeNet5DRE", "VGG16") else (16, 16)))
    return trained_like(getattr(robal.networks, name)(**rates, **settings)(shape, 4, 0)).eval()


def some(name: str = "LeNet5", count: int = 5) -> Tensor:
    side = 32 if name in ("LeNet5DRE", "VGG16") else 16
    return torch.rand(count, 1, side, side, generator=generator(0, "some"))


def passes(model: nn.Module, images: Tensor, count: int = 3, seed: int = 0, *, whole: bool = False) -> Tensor:
    """[T, B, K], no gradients."""
    with torch.no_grad():
        ready = DropoutPasses(model, images)
        if whole:
            ready.halves = None
        return torch.stack(list(ready(images, count, seed)))


class Skip(nn.Module):
    """A deterministic part that goes round the dropout, and one that goes through it; a head used twice."""

    def __init__(self, in_place: bool = False) -> None:
        super().__init__()
        self.stem, self.drop = nn.Conv2d(1, 3, 3), nn.Dropout(0.5)
        self.conv, self.fc = nn.Conv2d(3, 3, 1), nn.Linear(3, 4)
        self.in_place = in_place

    def forward(self, inputs: Tensor) -> Tensor:
        around = self.stem(inputs)
        through = self.conv(self.drop(around.relu()))
        if self.in_place:
            around.add_(through)
        else:
            around = around + through
        return self.fc(self.drop(around.mean((2, 3)))) + self.fc(through.mean((2, 3)))


class Branching(nn.Module):
    """What it does depends on the data, so that it has no graph."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(256, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        seen = self.drop(inputs.flatten(1))
        return self.fc(seen * 2 if seen.sum() > 0 else seen)


class Unused(nn.Module):
    """A dropout layer that the forward pass forgot, as in the VGG-16 of the DRE study's code."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(256, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(inputs.flatten(1))


@pytest.mark.parametrize("name", PLACES)
def test_a_network_without_dropout_says_where_the_study_puts_it(name: str) -> None:
    places = dropout_places(network(name), 0.1)
    assert [str(place) for place in places] == [f"after {layer}" for layer in PLACES[name]]
    assert all(isinstance(place.dropout, nn.Dropout) and place.dropout.p == 0.1 for place in places)


@pytest.mark.parametrize("name", PLACES)
def test_a_pass_is_that_of_the_network_that_has_the_dropout_built_in(name: str) -> None:
    without, built_in = network(name), network(name, 0.1)
    built_in.load_state_dict(without.state_dict())
    assert [str(place)[:3] for place in dropout_places(built_in)] == ["in "] * len(PLACES[name])
    images = some(name, 2)
    torch.testing.assert_close(passes(without, images, 2), passes(built_in, images, 2))


def test_normalisation_and_a_wrapper_hide_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    normalised = network("LeNet5", mean=(0.5,), std=(0.25,))
    assert [str(place) for place in dropout_places(normalised)] == ["after relu1", "after relu2"]
    source = "from robal.networks import LeNet5\ndef build(shape, classes): return LeNet5()(shape, classes, 0)\n"
    (tmp_path / "their_lenet.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    wrapped = Custom("their_lenet:build", mean=(0.5,), std=(0.25,))((1, 16, 16), 4, 0).eval()
    assert [str(place) for place in dropout_places(wrapped)] == ["after model.relu1", "after model.relu2"]
    plain = nn.Sequential(*wrapped.children()).eval()
    torch.testing.assert_close(passes(wrapped, some()), passes(plain, some()))
    assert len(passes(wrapped, some()).unique(dim=0)) == 3


def test_active_dropout_is_left_as_it_is() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.0), nn.Linear(4, 4), nn.Dropout2d(0.3), nn.Linear(4, 2))
    (place,) = dropout_places(model, 0.1)
    assert (str(place), place.dropout) == ("in 3", model[3])


def test_without_active_dropout_it_goes_to_idle_layers_the_last_linear_or_the_images() -> None:
    flatten, first, last = nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 2)
    for model, wanted in (
        (nn.Sequential(flatten, nn.Dropout(0.0), first, last), ["in 1"]),
        (nn.Sequential(flatten, first, last), ["before 2"]),
        (nn.Sequential(nn.Conv2d(1, 2, 2), flatten), ["on the images"]),
    ):
        places = dropout_places(model, 0.2)
        assert [place.dropout.p for place in places] == [0.2]
        if wanted == ["in 1"]:  # the layer's own rate is 0: another one stands behind it
            assert places[0].layer is model[1]
        else:
            assert [str(place) for place in places] == wanted


def test_a_model_may_name_its_own_places_and_not_what_it_lacks() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    model.dropout_after = ("2",)  # type: ignore[assignment]
    assert [str(place) for place in dropout_places(model)] == ["after 2"]
    assert [str(place) for place in dropout_places(nn.Sequential(model))] == ["after 0.2"]
    model.dropout_after = ("relu",)  # type: ignore[assignment]
    with pytest.raises(InputError, match="dropout_after names 'relu', which is no layer"):
        dropout_places(model)


def test_a_container_may_be_a_place() -> None:
    model = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(256, 8)), nn.Linear(8, 4)).eval()
    model.dropout_after = ("0",)  # type: ignore[assignment]
    assert DropoutPasses(model, some()).halves is not None
    torch.testing.assert_close(passes(model, some()), passes(model, some(), whole=True))


def test_a_pass_by_hand() -> None:
    """Dropout 0.5 doubles what it keeps, and keeps the same units for every image."""
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5)).eval()
    images = torch.ones(3, 1, 8, 8)
    for logits in passes(model, images, 4):
        assert set(logits.flatten().tolist()) == {0.0, 2.0}
        assert torch.equal(logits[0], logits[1])
        assert torch.equal(logits[0], logits[2])
    torch.manual_seed(stream(5, "dropout", 0, 0))
    wanted = nn.functional.dropout(torch.ones(1, 64), 0.5)
    assert torch.equal(passes(model, images, 1, seed=5)[0], wanted.expand(3, 64))


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (nn.Dropout, (5,)),
        (nn.Dropout1d, (4, 6)),
        (nn.Dropout2d, (4, 3, 3)),
        (nn.Dropout3d, (4, 2, 2, 2)),
        (nn.AlphaDropout, (4, 3, 3)),
        (nn.FeatureAlphaDropout, (4, 3, 3)),
    ],
)
def test_every_kind_of_dropout_does_to_one_image_what_it_does_alone(kind: Any, shape: tuple[int, ...]) -> None:
    layer = kind(0.4)
    model = nn.Sequential(layer).eval()
    images = torch.randn(1, *shape, generator=generator(0, "kinds"))
    got = passes(model, images, 2, seed=3)
    for number in range(2):
        torch.manual_seed(stream(3, "dropout", number, 0))
        torch.testing.assert_close(got[number], layer.train()(images))
    assert not torch.equal(got[0], got[1])


def test_over_many_passes_units_are_dropped_at_the_rate_and_the_mean_is_kept() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.2)).eval()
    seen = passes(model, torch.ones(1, 1, 10, 10), 300)
    # 30,000 draws: a standard deviation of 0.0023 of the share dropped, 0.0029 of the mean
    assert float((seen == 0).float().mean()) == pytest.approx(0.2, abs=0.01)
    assert float(seen.mean()) == pytest.approx(1.0, abs=0.0125)


def test_passes_and_layers_draw_their_own_masks_which_follow_the_seed() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Dropout(0.5)).eval()
    images = torch.ones(2, 1, 16, 16)
    first, second = passes(model, images, 2)
    assert not torch.equal(first, second)
    # Equal masks would leave a half, not a quarter: 256 draws, standard deviation 0.027.
    assert float((first[0] > 0).float().mean()) == pytest.approx(0.25, abs=0.1)
    assert torch.equal(passes(model, images, 2), torch.stack([first, second]))
    assert not torch.equal(passes(model, images, 2, seed=1)[0], first)


def test_an_image_gets_the_same_logits_whatever_stands_beside_it() -> None:
    model, images = convnet(size=16).eval(), some(count=9)
    alone = torch.cat([passes(model, image[None]) for image in images], 1)
    torch.testing.assert_close(passes(model, images), alone)


MODELS: dict[str, Any] = {
    "convnet": lambda: convnet(size=16),
    "skip": Skip,
    "LeNet5": lambda: channels_last(network("LeNet5")),
    "VGG8DFAL": lambda: network("VGG8DFAL", 0.3),
    "ResNet18": lambda: channels_last(network("ResNet18")),
    "PreActResNet18": lambda: network("PreActResNet18"),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(256, 4)),
}


@pytest.mark.parametrize("name", MODELS)
def test_computing_the_first_half_once_changes_nothing(name: str) -> None:
    model = MODELS[name]().eval()
    images = some(count=6)
    assert DropoutPasses(model, images).halves is not None
    seen = passes(model, images)
    torch.testing.assert_close(seen, passes(model, images, whole=True))
    assert len(seen.unique(dim=0)) == 3


def test_the_halves_follow_the_weights() -> None:
    model = convnet(size=16).eval()
    with torch.no_grad():
        ready = DropoutPasses(model, some())
        model[0].weight.mul_(2)
        torch.testing.assert_close(next(ready(some(), 1, 0)), next(DropoutPasses(model, some())(some(), 1, 0)))


def test_what_stands_before_the_dropout_is_computed_once_and_the_rest_in_each_pass() -> None:
    model = convnet(size=16).eval()
    seen: list[str] = []
    for name in ("0", "4"):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: seen.append(name))
    with torch.no_grad():
        ready = DropoutPasses(model, some())
        seen.clear()
        assert len(list(ready(some(), 7, 0))) == 7
    assert seen == ["0"] + ["4"] * 7


@pytest.mark.parametrize(
    "model",
    [Branching(), Counting(convnet(size=16)), Skip(in_place=True), nn.Sequential(nn.Dropout(0.5), nn.Flatten())],
    ids=["branches on data", "asks for the length", "writes in place", "drops first"],
)
def test_what_cannot_be_cut_makes_whole_passes(model: nn.Module) -> None:
    model.eval()
    seen = passes(model, some())
    torch.testing.assert_close(seen, passes(model, some(), whole=True))
    assert len(seen.unique(dim=0)) == 3


@pytest.mark.parametrize("inner", [convnet(size=16), Branching()], ids=["in halves", "whole"])
def test_a_model_that_normalises_its_images_in_place_is_the_same_and_they_are_kept(inner: nn.Module) -> None:
    class Normalised(nn.Module):
        def __init__(self, in_place: bool) -> None:
            super().__init__()
            self.inner, self.in_place = inner, in_place

        def forward(self, inputs: Tensor) -> Tensor:
            return self.inner(inputs.sub_(0.5).div_(0.25) if self.in_place else (inputs - 0.5) / 0.25)

    images = some()
    wanted = passes(Normalised(in_place=False).eval(), images)
    assert torch.equal(passes(Normalised(in_place=True).eval(), images), wanted)
    assert torch.equal(images, some())


def test_a_compiled_model_drops_too() -> None:
    model = convnet(size=16).eval()
    wanted = passes(model, some())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.compile's own
        compiled = torch.compile(model, backend="eager")
        with torch.no_grad():
            clean = compiled(some())
        torch.testing.assert_close(passes(compiled, some()), wanted)  # type: ignore[arg-type]
        assert DropoutPasses(compiled, some()).halves is not None  # type: ignore[arg-type]
        with torch.no_grad():
            torch.testing.assert_close(compiled(some()), clean)


def test_dropout_that_takes_no_part_is_refused_and_not_silently_without_effect() -> None:
    with pytest.raises(InputError, match=r"dropout \(in drop\) takes no part.*all passes would be equal"):
        passes(Unused().eval(), some())


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(InputError, match="take a model in eval mode"):
        DropoutPasses(convnet(size=16), some())


def test_dropout_as_a_function_stays_off_and_batch_statistics_stay() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.fc = nn.BatchNorm2d(1), nn.Linear(256, 4)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.fc(nn.functional.dropout(self.norm(inputs), 0.5, self.training).flatten(1))

    model = Functional().eval()
    with torch.no_grad():
        _, embeddings = forward_with_embeddings(model, some())
        torch.manual_seed(stream(0, "dropout", 0, 0))
        mask = nn.functional.dropout(torch.ones(1, 256), 0.1)
        wanted = model.fc(embeddings * mask)
    torch.testing.assert_close(passes(model, some(), 1)[0], wanted)
    assert not model.norm.running_mean.any()  # type: ignore[union-attr]


@pytest.mark.parametrize("model", [convnet(size=16), network("LeNet5"), Branching()], ids=["own", "put in", "whole"])
def test_the_model_its_hooks_and_the_global_stream_come_back_as_they_were(model: nn.Module) -> None:
    model.eval()
    before, state = condition(model), torch.get_rng_state()
    clean = model(some())
    passes(model, some())
    assert condition(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model(some()), clean)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())


def test_hooks_are_gone_after_an_error_and_between_passes() -> None:
    model = network("LeNet5")
    with torch.no_grad():
        ready = DropoutPasses(model, some())
        draws = ready(some(), 3, 0)
        next(draws)
        assert not any(layer._forward_hooks for layer in model.modules())
        with pytest.raises(RuntimeError):
            list(ready(torch.rand(2, 3, 16, 16), 3, 0))
    assert not any(layer._forward_hooks for layer in model.modules())
