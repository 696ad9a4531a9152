"""Modes, flags and buffers come back as they were, also when the body raises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robal.networks import dropout_layers, frozen


class Counts(nn.Module):
    """A model whose forward pass writes into its buffers even in eval mode, once in place and once by a new tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(2, 2)
        self.register_buffer("passes", torch.zeros(1))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, inputs: Tensor) -> Tensor:
        self.passes += 1
        self.seen = self.seen + len(inputs)
        self.norm.running_mean.add_(1.0)  # type: ignore[union-attr]
        return self.fc(self.drop(self.norm(inputs)))


@pytest.fixture
def model() -> nn.Module:
    """A mixed state: training, but one part in eval mode and one parameter frozen."""
    model = Counts().train()
    model.norm.eval()
    model.fc.bias.requires_grad_(False)
    return model


def state(model: nn.Module) -> tuple[list[bool], list[bool], list[list[float]]]:
    return (
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [buffer.flatten().tolist() for buffer in model.buffers()],
    )


def test_frozen_is_eval_mode_without_parameter_gradients(model: nn.Module) -> None:
    with frozen(model) as same:
        assert same is model
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        inputs = torch.rand(3, 2, requires_grad=True)
        model(inputs).sum().backward()
        assert inputs.grad is not None
    assert all(parameter.grad is None for parameter in model.parameters())


def test_frozen_restores_modes_flags_and_buffers(model: nn.Module) -> None:
    before = state(model)
    with frozen(model):
        model(torch.rand(3, 2))
        assert state(model)[2] != before[2]
    assert state(model) == before


def test_frozen_restores_when_the_body_raises(model: nn.Module) -> None:
    before = state(model)

    def body() -> None:
        with frozen(model):
            model(torch.rand(3, 2))
            model.train()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        body()
    assert state(model) == before


def test_frozen_restores_a_buffer_of_another_shape(model: nn.Module) -> None:
    before = state(model)
    with frozen(model):
        model.seen = torch.zeros(5)
    assert state(model) == before


def test_frozen_leaves_unchanged_buffers_untouched() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2))
    versions = [buffer._version for buffer in model.buffers()]
    with frozen(model):
        model(torch.rand(3, 2))
    assert [buffer._version for buffer in model.buffers()] == versions


def test_frozen_may_be_nested(model: nn.Module) -> None:
    before = state(model)
    with frozen(model):
        with frozen(model):
            pass
        assert not any(module.training for module in model.modules())
    assert state(model) == before


@pytest.mark.parametrize(
    "kind", [nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout]
)
def test_dropout_layers_are_found_at_any_depth(kind: type[nn.Module]) -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), kind(), nn.Sequential(kind(), nn.ReLU()))
    assert dropout_layers(model) == [model[1], model[2][0]]
