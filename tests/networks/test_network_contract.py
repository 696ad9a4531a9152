"""The law book of networks: every exported one is found by its export and keeps the contract."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import robal.networks
from robal.errors import InputError
from robal.networks import ALIASES, embedding_layer, forward_with_embeddings, frozen

SHAPES = {"LeNet5": (1, 28, 28), "LeNet5DRE": (1, 32, 32), "LeNet5DFAL": (1, 28, 28), "VGG8DFAL": (1, 28, 28)}
EMBEDDINGS = {"LeNet5": 84, "LeNet5DRE": 84, "LeNet5DFAL": 84, "VGG8DFAL": 4096, "PreActResNet": 64}
COMPONENTS = {name: getattr(robal.networks, name) for name in robal.networks.__all__}
COMPONENTS = {name: found for name, found in COMPONENTS.items() if dataclasses.is_dataclass(found)}
NAMES = sorted(set(COMPONENTS) - {"Custom", "Timm"})  # Timm: tests/training/test_backbone.py
BUILT: dict[str, nn.Module] = {}


def shape_of(name: str) -> tuple[int, int, int]:
    return SHAPES.get(name, (3, 32, 32))


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(name: str) -> nn.Module:
    """Built once a session; the tests leave it as it was."""
    if name not in BUILT:
        BUILT[name] = COMPONENTS[name]()(shape_of(name), 10, seed=0)
    return BUILT[name]


def test_the_nine_networks_and_custom_are_found() -> None:
    assert len(NAMES) == 9


@pytest.mark.parametrize("component", COMPONENTS.values())
def test_components_are_frozen_comparable_and_buildable_without_arguments(component: type) -> None:
    value = component()
    assert value == component()
    assert hash(value) == hash(component())
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.mean = (0.5,)


@pytest.mark.parametrize("component", [COMPONENTS[name] for name in (*NAMES, "Custom")])
def test_a_mean_without_a_deviation_is_refused_before_anything_is_built(component: type) -> None:
    with pytest.raises(InputError, match="come together"):
        component(mean=(0.5,))
    with pytest.raises(InputError, match="> 0"):
        component(mean=(0.5,), std=(0.0,))


@pytest.mark.parametrize("batch", [1, 3])
def test_a_batch_gives_finite_float_logits_one_row_an_image(name: str, model: nn.Module, batch: int) -> None:
    with frozen(model), torch.no_grad():
        logits = model(torch.rand(batch, *shape_of(name)))
    assert logits.shape == (batch, 10)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


def test_outputs_are_raw_logits(name: str, model: nn.Module) -> None:
    with frozen(model), torch.no_grad():
        logits = model(torch.rand(4, *shape_of(name)))
    assert not torch.allclose(logits.logsumexp(1), torch.zeros(4), atol=1e-3)
    robal.networks.check_logits(logits, 10)


def test_weights_are_a_function_of_the_seed_and_the_global_stream_stays(name: str, model: nn.Module) -> None:
    torch.manual_seed(123)
    before = torch.get_rng_state()
    again = COMPONENTS[name]()(shape_of(name), 10, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(456)
    other = COMPONENTS[name]()(shape_of(name), 10, seed=1)
    first, same, differs = (next(m.parameters()) for m in (model, again, other))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert torch.equal(first, same)
    assert not torch.equal(first, differs)


def test_the_number_of_classes_is_the_number_of_logits(name: str) -> None:
    model = COMPONENTS[name]()(shape_of(name), 3, seed=0).eval()
    assert model(torch.rand(1, *shape_of(name))).shape == (1, 3)
    with pytest.raises(InputError, match="two classes"):
        COMPONENTS[name]()(shape_of(name), 1, seed=0)


def test_images_that_do_not_fit_are_refused_with_what_would_fit(name: str) -> None:
    with pytest.raises(InputError, match=r"got 8x8.*data\.resize=32"):
        COMPONENTS[name]()((1, 8, 8), 10, seed=0)
    with pytest.raises(InputError, match="positive numbers"):
        COMPONENTS[name]()((28, 28), 10, seed=0)


@pytest.mark.parametrize("exact", ["LeNet5DRE", "VGG16"])
def test_networks_of_one_size_say_which(exact: str) -> None:
    with pytest.raises(InputError, match=rf"{exact} takes 32x32 images, got 28x28: add data\.resize=32"):
        COMPONENTS[exact]()((1, 28, 28), 10, seed=0)


def test_other_channels_and_the_smallest_images_fit_where_the_arithmetic_does(name: str) -> None:
    size = (32, 32) if name in ("LeNet5DRE", "VGG16") else (16, 19)
    model = COMPONENTS[name]()((2, *size), 4, seed=0).eval()
    assert model(torch.rand(2, 2, *size)).shape == (2, 4)


def test_embeddings_are_the_input_of_the_layer_that_the_network_names(name: str, model: nn.Module) -> None:
    inputs = torch.rand(2, *shape_of(name))
    layer = embedding_layer(model)
    with frozen(model), torch.no_grad():
        logits, embeddings = forward_with_embeddings(model, inputs)
        assert torch.equal(logits, model(inputs))
    assert embeddings.shape == (2, EMBEDDINGS.get(name, 512))
    assert isinstance(layer, nn.Linear)
    assert layer.in_features == EMBEDDINGS.get(name, 512)


def test_fx_can_trace_it(name: str, model: nn.Module) -> None:
    inputs = torch.rand(2, *shape_of(name))
    with frozen(model), torch.no_grad():
        traced = torch.fx.symbolic_trace(model)
        assert torch.equal(traced(inputs), model(inputs))


def test_nothing_is_written_into_the_inputs(name: str, model: nn.Module) -> None:
    inputs = torch.rand(2, *shape_of(name))
    kept = inputs.clone()
    with frozen(model), torch.no_grad():
        model(inputs)
    assert torch.equal(inputs, kept)


def test_normalisation_is_the_first_layer(name: str, model: nn.Module) -> None:
    channels = shape_of(name)[0]
    network = COMPONENTS[name](mean=(0.5,) * channels, std=(0.25,) * channels)(shape_of(name), 10, seed=0).eval()
    inputs = torch.rand(2, *shape_of(name))
    with frozen(model), torch.no_grad():
        torch.testing.assert_close(network(inputs), model((inputs - 0.5) / 0.25))
    with pytest.raises(InputError, match="as many means"):
        COMPONENTS[name](mean=(0.5,) * 4, std=(0.25,) * 4)(shape_of(name), 10, seed=0)


def test_dropout_is_where_it_is_asked_for_and_changes_no_key(name: str, model: nn.Module) -> None:
    network = COMPONENTS[name](dropout=0.1)(shape_of(name), 10, seed=0)
    assert any(isinstance(layer, nn.Dropout) and layer.p == 0.1 for layer in network.modules())
    assert network.state_dict().keys() == model.state_dict().keys()
    with pytest.raises(InputError, match="dropout rate"):
        COMPONENTS[name](dropout=1.0)


def test_an_unknown_embedding_layer_is_refused_when_the_network_is_built(name: str) -> None:
    with pytest.raises(InputError, match="names no layer"):
        COMPONENTS[name](features="fcc")(shape_of(name), 10, seed=0)


def test_aliases_name_exports() -> None:
    assert set(ALIASES.values()) == {*NAMES, "Custom", "Timm"}
    assert ALIASES["lenet"] == ALIASES["lenet5"] == "LeNet5"
    assert all(alias == alias.lower() for alias in ALIASES)
