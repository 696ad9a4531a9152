"""Embeddings come from the layer that was named, else the model's own choice, else the last Linear."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robal.errors import ContractError, InputError
from robal.networks import LeNet5, embedding_layer, forward_with_embeddings


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 3)
        self.second = nn.Linear(3, 2)
        self.spare = nn.Linear(7, 7)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(input=self.first(inputs.flatten(1)))


def test_the_last_linear_is_the_default() -> None:
    model = Two()
    assert embedding_layer(model) is model.spare


def test_the_models_own_choice_comes_before_the_last_linear_and_a_name_before_both() -> None:
    model = Two()
    model.features = "second"
    assert embedding_layer(model) is model.second
    assert embedding_layer(model, "first") is model.first


def test_an_attribute_features_that_is_a_module_is_no_choice() -> None:
    model = nn.Sequential()
    model.features = nn.Sequential(nn.Linear(4, 3))
    model.head = nn.Linear(3, 2)
    assert embedding_layer(model) is model.head


def test_an_unknown_name_is_refused_with_a_hint() -> None:
    with pytest.raises(InputError, match="no layer 'secnd'; did you mean 'second'"):
        embedding_layer(Two(), "secnd")


def test_a_model_without_a_linear_layer_must_name_one() -> None:
    with pytest.raises(InputError, match=r"no nn\.Linear"):
        embedding_layer(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()))


def test_embeddings_are_flattened_inputs_also_when_passed_by_name() -> None:
    model = Two()
    inputs = torch.rand(5, 1, 2, 2)
    logits, embeddings = forward_with_embeddings(model, inputs, "second")
    assert torch.equal(embeddings, model.first(inputs.flatten(1)))
    assert torch.equal(logits, model(inputs))
    conv = LeNet5()((1, 28, 28), 10, 0)
    assert forward_with_embeddings(conv, torch.rand(2, 1, 28, 28), "conv2")[1].shape == (2, 6 * 14 * 14)


def test_the_hook_is_gone_afterwards_also_when_the_model_raises() -> None:
    model = Two()
    forward_with_embeddings(model, torch.rand(5, 4), "second")
    with pytest.raises(RuntimeError):
        forward_with_embeddings(model, torch.rand(5, 9), "second")
    assert not model.second._forward_pre_hooks


def test_a_layer_outside_the_forward_pass_is_refused() -> None:
    with pytest.raises(ContractError, match="took no part"):
        forward_with_embeddings(Two(), torch.rand(5, 4))


def test_rows_that_are_not_one_an_image_are_refused() -> None:
    model = nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (-1, 2)), nn.Linear(2, 2))
    with pytest.raises(ContractError, match="for 3 images"):
        forward_with_embeddings(model, torch.rand(3, 4))
