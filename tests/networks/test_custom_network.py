"""A user's own network: found, called, loaded, and checked while it is built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from robal.errors import ContractError, DataCorrupt, DataMissing, InputError
from robal.networks import Custom, Normalise, embedding_layer, forward_with_embeddings

SHAPE = (1, 4, 4)
SOURCE = """
import torch
from torch import nn

number = 3

def head(inputs, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, classes))

def by_name(classes, shape): return head(shape[0] * shape[1] * shape[2], classes)
def by_place(size, k): return head(size[0] * size[1] * size[2], k)
def by_nothing(width=16): return head(width, 5)
def only_classes(classes): return head(16, classes)
def seeds(): torch.manual_seed(0); return head(16, 5)
def too_many(a, b, c): return head(16, 5)
def no_module(): return "net"
def softmax(): return nn.Sequential(head(16, 5), nn.Softmax(1))
def ten(): return head(16, 10)
def flat(): return nn.Flatten(0)
def lazy(): return nn.Sequential(nn.Flatten(), nn.LazyLinear(5))
def wide(): return head(99, 5)
class Own(nn.Module):
    features = "second"
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(16, 8), nn.Linear(8, 6), nn.Linear(6, 5)
    def forward(self, inputs):
        return self.third(self.second(self.first(inputs.flatten(1))))
"""


@pytest.fixture(autouse=True)
def own_nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_nets.py").write_text(SOURCE)
    (tmp_path / "own_broken.py").write_text("import a_library_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)


def build(name: str, **options: object) -> nn.Module:
    return Custom(f"own_nets:{name}", **options)(SHAPE, 5, seed=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["by_name", "by_place", "by_nothing", "only_classes", "Own"])
def test_the_factory_is_called_by_what_it_asks_for(name: str) -> None:
    assert build(name)(torch.rand(2, *SHAPE)).shape == (2, 5)


def test_weights_are_a_function_of_the_seed_and_the_global_stream_stays() -> None:
    before = torch.get_rng_state()
    first, again, other = (Custom("own_nets:by_name")(SHAPE, 5, seed=seed) for seed in (0, 0, 1))
    build("seeds")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[1].weight, again[1].weight)  # type: ignore[index]
    assert not torch.equal(first[1].weight, other[1].weight)  # type: ignore[index]


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("no_such_module:build", "no module 'no_such_module'; install it, or put its folder on PYTHONPATH"),
        ("own_nets.inner:build", "importing 'own_nets.inner' failed|no module"),
        ("own_broken:build", "importing 'own_broken' failed: No module named 'a_library_that_is_not_there'"),
        ("own_nets:by_nam", "has no 'by_nam'; did you mean 'by_name'"),
        ("own_nets:number", "is int, not a function"),
        ("own_nets:too_many", r"called with \(shape, classes\) or with nothing, but it is \(a, b, c\)"),
        ("own_nets:no_module", r"returned str, not a torch\.nn\.Module"),
        ("own_nets:lazy", "returned lazy layers"),
        ("own_nets:wide", r"does not take images \(1, 4, 4\)"),
        ("", "Custom needs a factory"),
    ],
)
def test_a_factory_that_cannot_be_used_is_refused_with_the_reason(factory: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Custom(factory)(SHAPE, 5, seed=0)


@pytest.mark.parametrize("factory", ["own_nets", "own_nets:", ":build", "a:b:c", ".own:build", "a/b.py:build"])
def test_a_factory_that_is_not_module_colon_function_is_refused_at_once(factory: str) -> None:
    with pytest.raises(InputError, match="module:function"):
        Custom(factory)


def test_outputs_that_are_not_logits_of_the_classes_are_refused_while_building() -> None:
    with pytest.raises(ContractError, match="softmax"):
        build("softmax")
    with pytest.raises(ContractError, match="10 logits an image, but there are 5 classes"):
        build("ten")
    with pytest.raises(ContractError, match="for two images"):
        build("flat")


def test_building_leaves_the_model_in_training_mode() -> None:
    model = build("by_name")
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_weights_are_loaded(tmp_path: Path) -> None:
    saved = {key: torch.full_like(value, 0.5) for key, value in build("by_name").state_dict().items()}
    save_file(saved, tmp_path / "w.safetensors")
    loaded = build("by_name", weights="w.safetensors").state_dict()
    assert all(torch.equal(loaded[key], saved[key]) for key in saved)


def test_weights_of_another_network_are_refused_with_their_keys(tmp_path: Path) -> None:
    saved = build("by_name").state_dict()
    save_file({"1.weight": saved["1.weight"], "other": saved["1.bias"]}, tmp_path / "keys.safetensors")
    with pytest.raises(InputError, match=r"lacks 1\.bias, 3\.bias, 3\.weight; the network does not know other"):
        build("by_name", weights="keys.safetensors")
    save_file(saved | {"1.bias": torch.zeros(9)}, tmp_path / "shape.safetensors")
    with pytest.raises(InputError, match=r"another network: 1\.bias is \[9\] in the file and \[8\] in the network"):
        build("by_name", weights="shape.safetensors")


def test_weights_that_are_missing_or_broken_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=r"no file 'none\.safetensors'"):
        build("by_name", weights="none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"not a tensor in sight")
    with pytest.raises(DataCorrupt, match="no safetensors file"):
        build("by_name", weights="broken.safetensors")


def test_normalisation_comes_first_and_the_models_choice_of_embedding_stays() -> None:
    model = build("Own", mean=(0.5,), std=(0.25,))
    assert isinstance(next(model.children()), Normalise)
    inputs = torch.rand(2, *SHAPE)
    torch.testing.assert_close(model(inputs), build("Own")((inputs - 0.5) / 0.25))
    assert forward_with_embeddings(model, inputs)[1].shape == (2, 8)


def test_features_names_a_layer_of_the_factorys_module() -> None:
    assert embedding_layer(build("Own", features="third")).in_features == 6
    assert embedding_layer(build("Own")).in_features == 8
    with pytest.raises(InputError, match="no layer 'thrd'; did you mean 'third'"):
        build("Own", features="thrd")
