"""A user's own network, named by the function that builds it."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model
from torch import nn
from torch.nn.parameter import is_lazy

from robal.errors import ContractError, DataCorrupt, DataMissing, InputError, did_you_mean
from robal.files import absolute
from robal.networks.building import Shape, assemble, check_options, check_shape, seeded
from robal.networks.features import embedding_layer
from robal.networks.logits import check_logits
from robal.networks.modes import frozen


@dataclass(frozen=True)
class Custom:
    """Any network: the module that a factory of yours returns, optionally with saved weights.

    Args:
        factory: "package.module:function"; the function (or nn.Module class) is called with the arguments it names
            `shape` and `classes`, else with nothing where it asks for nothing, else with (shape, classes).
        weights: path of a safetensors file with exactly the module's keys; "": as the factory made it. A head, the last
            nn.Linear, for other classes stays as the factory made it: so a pretrained backbone is brought in.
        mean, std: normalisation put before the module, one number a channel; None: none.
        features: the layer whose input is the embedding, by its name in the factory's module; "": the module's own
            attribute `features`, else its last Linear.

    Calling it gives a module from float32 [B, C, H, W] in [0, 1] to logits [B, classes]. The factory runs under
    random numbers that are a function of the seed; two blank images are sent through the module to see that it takes
    the shape and returns logits. With `mean` or `features` the module is the layer "model" of a wrapper.

    Raises InputError for a factory that cannot be found or called, images that the module does not take and weights
    of another network, ContractError for outputs that are no logits, DataMissing and DataCorrupt for the file.

    >>> Custom("torch.nn:Identity").factory
    'torch.nn:Identity'
    """

    factory: str = ""
    weights: str = ""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    features: str = ""

    def located(self) -> Custom:
        """The same with the absolute path of its weights."""
        return replace(self, weights=absolute(self.weights))

    def __post_init__(self) -> None:
        check_options(self.mean, self.std)
        module, _, name = self.factory.partition(":")
        if self.factory and not all(part.isidentifier() for part in (*module.split("."), name)):
            raise InputError(f"factory is written module:function, for example my_networks:build, got {self.factory!r}")

    def __call__(self, shape: Shape, classes: int, seed: int) -> nn.Module:
        check_shape("Custom", shape, classes, smallest=1)
        factory = self._find()
        with seeded(seed):
            model = _call(factory, self.factory, shape, classes)
            if self.weights:
                load_weights(model, Path(self.weights), head_may_differ=True)
            model = self._wrap(model, shape)
            _probe(model, self.factory, shape, classes)
        return model

    def _find(self) -> Callable[..., Any]:
        if not self.factory:
            raise InputError("Custom needs a factory: factory=module:function, for example my_networks:build")
        name, _, attribute = self.factory.partition(":")
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and (name == error.name or name.startswith(error.name + ".")):
                raise InputError(
                    f"factory {self.factory!r}: there is no module {error.name!r}; install it, or put its folder on "
                    "PYTHONPATH"
                ) from error
            raise InputError(f"factory {self.factory!r}: importing {name!r} failed: {error}") from error
        except Exception as error:  # whatever a user's module does when it is imported
            told = f"{type(error).__name__}: {error}"
            raise InputError(f"factory {self.factory!r}: importing {name!r} failed: {told}") from error
        if not hasattr(module, attribute):
            hint = did_you_mean(attribute, [known for known in vars(module) if not known.startswith("_")])
            raise InputError(f"factory {self.factory!r}: the module has no {attribute!r}; {hint}")
        found = getattr(module, attribute)
        if not callable(found):
            raise InputError(f"factory {self.factory!r} is {type(found).__name__}, not a function")
        return found

    def _wrap(self, model: nn.Module, shape: Shape) -> nn.Module:
        if self.features:
            embedding_layer(model, self.features)
        if self.mean is None and not self.features:
            return model
        own: object = getattr(model, "features", None)
        known = [name for name, _ in model.named_modules()]
        features = self.features or (own if isinstance(own, str) and own in known else "")
        return assemble({"model": model}, shape, self.mean, self.std, f"model.{features}" if features else "")


def _call(factory: Callable[..., Any], name: str, shape: Shape, classes: int) -> nn.Module:
    offer: dict[str, Any] = {"shape": shape, "classes": classes}
    signature = inspect.signature(factory)
    by_name = {key: value for key, value in offer.items() if key in signature.parameters}
    for args, kwargs in (((), by_name), ((shape, classes), {})):
        try:
            signature.bind(*args, **kwargs)
        except TypeError:
            continue
        try:
            model = factory(*args, **kwargs)
        except Exception as error:  # whatever a user's function does
            told = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise InputError(f"factory {name!r} failed for images of {shape} and {classes} classes: {told}") from error
        break
    else:
        raise InputError(f"factory {name!r} is called with (shape, classes) or with nothing, but it is {signature}")
    if not isinstance(model, nn.Module):
        raise InputError(f"factory {name!r} returned {type(model).__name__}, not a torch.nn.Module")
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise InputError(f"factory {name!r} returned lazy layers: send one batch through them in the factory")
    return model


def load_weights(model: nn.Module, path: Path, head_may_differ: bool = False) -> bool:
    """Read a safetensors file of exactly the model's tensors into it; or the `model.safetensors` of a run's round.

    Args:
        model: is changed.
        path: the file.
        head_may_differ: whether the last nn.Linear may be another's, of other classes: then it stays as it is.

    Returns:
        Whether the head was read too.

    Raises DataMissing and DataCorrupt for the file, InputError for the weights of another network.
    """
    if not path.is_file():
        raise DataMissing(f"weights: there is no file {str(path)!r}")
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            of_run = {key.removeprefix("model:"): file.get_tensor(key) for key in names if key[:6] == "model:"}
            head, other = _head_in(model, file, bool(of_run)) if head_may_differ else ((), {})
        if other:
            missing, unexpected = model.load_state_dict(other, strict=False)
            missing = missing if set(missing) - set(head) else []
        elif of_run:
            missing, unexpected = model.load_state_dict(of_run, strict=False)
        else:
            missing, unexpected = load_model(model, str(path), strict=False)
    except SafetensorError as error:
        raise DataCorrupt(f"weights: {str(path)!r} is no safetensors file: {error}") from error
    except RuntimeError as error:
        differing = re.findall(r"size mismatch for (\S+): .*?torch.Size\((.*?)\).*?torch.Size\((.*?)\)", str(error))
        said = [f"{name} is {there} in the file and {here} in the network" for name, there, here in differing]
        what = f"{_some(said)}{_advice(differing)}" if said else " ".join(str(error).split())
        raise InputError(f"weights: {str(path)!r} is of another network: {what}") from error
    if missing or unexpected:
        raise InputError(
            f"weights: {str(path)!r} is of another network: "
            f"it lacks {_some(missing)}; the network does not know {_some(unexpected)}"
        )
    return not other


def _advice(differing: list[tuple[str, str, str]]) -> str:
    """What names, and shapes in a file and in a network such as "[6, 1, 5, 5]", tell of the images and the classes."""
    apart = []
    for _, *shapes in differing:
        there, here = ([int(one) for one in re.findall(r"\d+", shape)] for shape in shapes)
        if len(there) == len(here):
            apart.append((there, here, [at for at in range(len(there)) if there[at] != here[at]]))
    if not apart or len(apart) < len(differing) or len(apart) > 2:
        return ""
    there, here, at = apart[0]
    if at == [1] and len(there) == 4:
        return f"; the file's network takes images of {there[1]} channels, and these have {here[1]}"
    if at == [1]:
        return (
            "; the file's network takes images of another size (--resize, in a plan data.resize), or grey ones where "
            "these are in colours (beside --train they are made to fit), or the reverse"
        )
    return "; where these are the classes, name as many by --classes, or in a plan by data.classes" if at == [0] else ""


def _head_in(model: nn.Module, file: Any, of_run: bool) -> tuple[tuple[str, ...], dict[str, torch.Tensor]]:
    """The names of the model's head, and the file's tensors without its own where that has other classes; else none."""
    layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not layers:
        return (), {}
    prefix, state = "model:" if of_run else "", model.state_dict()
    head = tuple(name for name in state if name.rpartition(".")[0] == layers[-1])
    theirs = {key.removeprefix(prefix): key for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118
    is_same = all(
        name in theirs and list(file.get_slice(theirs[name]).get_shape()) == list(state[name].shape) for name in head
    )
    if is_same:
        return head, {}
    return head, {name: file.get_tensor(key) for name, key in theirs.items() if name not in head}


def _some(keys: Any) -> str:
    known = sorted(keys)
    return (", ".join(known[:3]) + (f" and {len(known) - 3} more" if len(known) > 3 else "")) or "nothing"


def _probe(model: nn.Module, name: str, shape: Shape, classes: int) -> None:
    with frozen(model), torch.no_grad():
        try:
            logits = model(torch.zeros(2, *shape))
        except (RuntimeError, ValueError, TypeError) as error:
            raise InputError(f"the network of factory {name!r} does not take images {tuple(shape)}: {error}") from error
    if isinstance(logits, torch.Tensor) and logits.shape[:1] != (2,):
        raise ContractError(f"the network of factory {name!r} returned {tuple(logits.shape)} for two images")
    check_logits(logits, classes)
