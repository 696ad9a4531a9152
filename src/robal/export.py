"""A run's last model as an ONNX file, with its preprocessing inside and a card beside it, checked against the original.

`robal export`; needs `pip install 'robal[onnx]'`.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robal.attacks import Square
from robal.data import Data
from robal.errors import ContractError, InputError, RobalError, RunFolderError
from robal.evaluation import broken_by, clean, predict
from robal.files import whole, write
from robal.folder import RunFolder
from robal.images import unit
from robal.loop import load
from robal.plan import Plan
from robal.progress import say
from robal.records import check_same_run, plan_of
from robal.report.card import as_json, as_markdown, card, figure
from robal.report.folder import read
from robal.report.rates import Rate
from robal.report.words import epsilon
from robal.seeds import generator, stream
from robal.state import State
from robal.threats import L2, Linf, Threat

TOLERANCE = 1e-4
_OPSET = 18
_CALIBRATION = 300


@dataclass(frozen=True)
class Exported:
    """What was written, and how it compares.

    Args:
        files: the ONNX file, the card twice, and the int8 file where one was asked for.
        differs: the largest difference of a logit from the original's, of `images` images; above 1 relative to it.
        card: as written.
    """

    files: tuple[Path, ...]
    differs: float
    images: int
    card: dict[str, Any]


class Deployed(nn.Module):
    """A model that takes images as a camera or a file has them: uint8 [N, C, H, W], or float32 in [0, 1]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.to(torch.float32) / 255.0 if images.dtype == torch.uint8 else images
        logits: Tensor = self.model(pixels)
        return logits


class Session(nn.Module):
    """An ONNX file as a model from [0, 1] to logits, for attacks that need no gradient; one of uint8 sees 8 bits."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        options = _runtime().SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
        self._session = _runtime().InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (self._input,) = self._session.get_inputs()

    def forward(self, inputs: Tensor) -> Tensor:
        pixels = inputs.detach().cpu()
        if self._input.type == "tensor(uint8)":
            pixels = pixels.mul(255).round().to(torch.uint8)
        (logits,) = self._session.run(None, {self._input.name: pixels.contiguous().numpy()})
        return torch.from_numpy(logits)


def export(
    run: Path,
    onnx: Path,
    *,
    data: Path | None = None,
    int8: bool = False,
    images: int = 500,
    queries: int = 500,
) -> Exported:
    """Write the last model of a run as ONNX, and a card beside it as .card.json and .card.md.

    The file takes the images as the run has them at rest: uint8 [N, C, H, W], where scaling and normalisation are
    inside, or float32 in [0, 1]; N is free. It is run by onnxruntime on the test images (those of the audit where
    there is no test) and must give the logits of the original.

    Args:
        run: the run folder.
        onnx: where to, a name with .onnx; for int8 name.int8.onnx comes beside it.
        data: the folder that holds the data sets, where it has moved since.
        int8: also quantise weights and activations to 8 bits, calibrated on images that the model was trained on, and
            measure again: clean, and under Square, both of the file as it is and of the quantised one.
        images: on how many images the two are measured, at most.
        queries: of Square.

    Raises:
        InputError: for a run without a model or without images, a name without .onnx, packages that are not there, a
            network that torch cannot export.
        ContractError: where the file's logits differ by more than 1e-4; nothing stays behind.
    """
    if onnx.suffix.lower() != ".onnx":
        raise InputError(f"--onnx names a file with .onnx at its end; {onnx} came")
    if images < 1 or queries < 1:
        raise InputError(f"--images and --queries are at least 1; {images} and {queries} came")
    _runtime()
    plan = plan_of(run, data)
    source = plan.data.load()
    place = RunFolder(run)
    with place.locked():
        check_same_run(place, plan, source)
        state, trained = load(plan, source, place)
    if not state.history:
        raise InputError(f"{run} has finished no round yet, so there is no model to export")
    pixels, labels, of = measured_on(source, state)
    module = Deployed(trained.model.cpu()).eval()
    try:
        onnx.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{onnx.parent} is no folder to be written: {error}") from None
    with whole(onnx) as temporary:
        _written(module, pixels[:2], temporary)
        few = pixels[:256]
        with torch.no_grad():
            logits = module(few)
        differs = apart(Session(temporary)(unit(few)), logits)
        if not differs <= TOLERANCE:
            raise ContractError(
                f"the exported model's logits differ from the original's by {differs:.2g}, more than {TOLERANCE:g}: "
                "an operation of this network does something else in ONNX, and no file was written"
            )
        record = read(run, strips=False)
        given: dict[str, Any] = {
            "input": _input(plan, source, pixels),
            "parity": {"largest_difference": differs, "images": len(few), "runtime": _runtime().__version__},
        }
        small = onnx.with_name(f"{onnx.stem}.int8.onnx")
        if int8:
            with whole(small) as eight:
                _quantised(temporary, eight, state.pool.images.at_rest(trained_on(state)))
                some, theirs = pixels[:images], labels[:images]
                given["figures"] = _again(temporary, eight, some, theirs, of, plan.threat, queries, plan.seed)
        else:
            small.unlink(missing_ok=True)  # of an earlier export, and of another model
        found = card(record, given)
        _describe(temporary, found)
    beside = [onnx.with_name(f"{onnx.stem}.card.json"), onnx.with_name(f"{onnx.stem}.card.md")]
    write(beside[0], as_json(found))
    write(beside[1], as_markdown(found))
    return Exported((onnx, *([small] if int8 else []), *beside), differs, len(few), found)


def measured_on(source: Data, state: State) -> tuple[Tensor, Tensor, str]:
    """The test images at rest, their labels and what they are; else those of the audit; else some bought ones.

    Test images of classes that nobody has named are left out. Raises InputError where there are none of them.
    """
    test, classes = source.as_known_by(state.pool.classes).test, len(state.pool.classes)
    if test is not None and bool((test.labels < classes).any()):
        there = (test.labels < classes).nonzero().flatten()
        of = "test images" + ("" if len(there) == len(test) else " of classes that have been named")
        return test.images.at_rest(there), test.labels[there], of
    known = state.audit[1] >= 0
    if bool(known.any()):
        return source.images.at_rest(state.audit[0][known]), state.audit[1][known], "images of the audit set"
    bought = trained_on(state)
    if not len(bought):
        raise InputError("there is no image with a label to check the exported model on")
    return source.images.at_rest(bought), state.pool.labels[bought], "images that it was trained on"


def trained_on(state: State) -> Tensor:
    """[n] int64: some bought images, drawn at random, that are neither of validation nor of the meta set."""
    beside = torch.cat([state.validation, state.meta])
    bought = state.pool.labelled[~torch.isin(state.pool.labelled, beside)]
    return bought[torch.randperm(len(bought), generator=generator(0, "calibration"))[:_CALIBRATION]]


def apart(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, above 1 relative to what is wanted; NaN where one is NaN.

    >>> apart(torch.tensor([1.5, 202.0]), torch.tensor([1.0, 200.0]))
    0.5
    """
    return float(((found - wanted).abs() / wanted.abs().clamp_min(1)).max())


def _written(module: nn.Module, images: Tensor, path: Path) -> None:
    """The module as one ONNX file, for any number of images."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch's own making
            torch.onnx.export(
                module,
                (images,),
                path,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes={"images": {0: torch.export.Dim("N")}},
                opset_version=_OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except RobalError:
        raise
    except OSError as error:
        raise RunFolderError(f"{path} could not be written: {error}") from error
    except Exception as error:  # torch raises many kinds, for what a network does that ONNX cannot say
        told = " ".join(str(error).split())[:300]
        raise InputError(f"torch cannot write this network as ONNX: {type(error).__name__}: {told}") from error


def _quantised(path: Path, out: Path, images: Tensor) -> None:
    """Weights and activations in 8 bits, by the ranges that these images have."""
    quantization = importlib.import_module("onnxruntime.quantization")
    shape_inference = importlib.import_module("onnxruntime.quantization.shape_inference")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = out.with_suffix(".prepared")
        level, root = logging.getLogger().level, logging.getLogger()
        root.setLevel(logging.ERROR)
        try:
            shape_inference.quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(prepared), str(out), _Calibration(images), per_channel=True, reduce_range=_reduces_range()
            )
        finally:
            root.setLevel(level)
            prepared.unlink(missing_ok=True)


def _reduces_range() -> bool:
    """Whether weights had better take 7 bits: products of 8 overflow on processors without VNNI."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return True
    return "vnni" not in flags


class _Calibration:
    """Images, as onnxruntime asks for them."""

    def __init__(self, images: Tensor) -> None:
        self._batches: Iterator[Tensor] = iter(images.split(50))

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch.numpy()}


def _again(
    plain: Path, eight: Path, pixels: Tensor, labels: Tensor, of: str, threat: Threat, queries: int, seed: int
) -> list[dict[str, Any]]:
    """Clean and black-box accuracy of both files on the same images, by the same seeds.

    Logits of 8 bits come in steps, which hide from Square where it gets on; so what fooled the plain file is tried on
    the quantised one too.
    """
    is_bytes = pixels.dtype == torch.uint8
    within = exact(threat) if is_bytes else threat
    square = Square(queries=queries, threat=within if isinstance(within, Linf | L2) else None)
    rounded = ", rounded to 8 bits" if is_bytes and not isinstance(threat, Linf) else ""
    attack = f"{square.label} (black box, {within}{rounded})"
    moved, found = unit(pixels).clone(), list[dict[str, Any]]()
    for name, path, more in (("ONNX", plain, ""), ("ONNX, int8", eight, " and what fooled the other file")):
        session = Session(path)
        say(f"{name}: clean, and {square.label}, on {len(labels)} images")
        before = clean(session, pixels, labels)
        found.append(figure(f"accuracy, {name}", of, Rate(before.accuracy, len(labels))))
        if not within.eps or not isinstance(within, Linf | L2):  # less than a step of 8 bits, or nothing for Square
            continue
        stands = before.correct & (predict(session, moved) == labels)
        title, noise = f"{name}: {square.label}", stream(seed, "export")
        for broken, adversaries in broken_by(session, pixels, labels, before.correct, square, noise, what=title):
            stands[broken] = False
            moved[broken] = adversaries
        under = Rate(float(stands.double().mean()), len(labels))
        found.append(figure(f"accuracy under {attack}{more}, {name}", of, under))
    return found


def exact(threat: Threat) -> Threat:
    """An L∞ radius in whole steps of 1/255, rounded down, so that images of 8 bits stay inside; others as they are.

    >>> exact(Linf(0.3)).eps * 255
    76.0
    """
    return Linf(math.floor(threat.eps * 255 + 1e-6) / 255) if isinstance(threat, Linf) else threat


def _input(plan: Plan, source: Data, pixels: Tensor) -> dict[str, Any]:
    is_bytes, (_, height, width) = pixels.dtype == torch.uint8, source.images.shape
    unit_of = "intensities 0 to 255; scaling and normalisation are inside" if is_bytes else "intensities in [0, 1]"
    said: dict[str, Any] = {
        "name": "images",
        "shape": ["N", *source.images.shape],
        "type": "uint8" if is_bytes else "float32",
        "unit": unit_of,
        "order": "channels, height, width" + ("; red, green, blue" if source.images.shape[0] == 3 else ""),
        "output": "logits, one a class; the largest is the answer",
        "resizing": f"images of another size: to {height} × {width} (height, width) before, by Pillow, bilinear",
        "threat": f"ε = {epsilon(plan.threat.eps)} is of intensities in [0, 1], after any resizing",
    }
    return said


def _describe(path: Path, found: dict[str, Any]) -> None:
    """The card inside the file too."""
    onnx = importlib.import_module("onnx")
    model = onnx.load(str(path))
    onnx.helper.set_model_props(
        model, {"robal": as_json(found), "classes": json.dumps(found["classes"], ensure_ascii=False)}
    )
    onnx.save(model, str(path))


def _runtime() -> Any:
    try:
        for needed in ("onnx", "onnxscript"):
            importlib.import_module(needed)
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise InputError(f"ONNX needs packages that are not here ({error.name}): pip install 'robal[onnx]'") from None
