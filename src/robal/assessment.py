"""How robust a model is, in one place: attacks, certificates, classes, reliability and checks, as one JSON file.

`robal evaluate` on any model; no run is needed. AutoAttack, the long part, goes on after a kill where it was.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from robal.attacks import Attack, AutoAttack, DeepFool
from robal.errors import InputError
from robal.evaluation import broken_by, clean, predict
from robal.evaluation.certified import certified, sandwich
from robal.evaluation.checks import check_defence
from robal.evaluation.classwise import classwise, confusion
from robal.evaluation.corruptions import mean_accuracy, under_corruptions
from robal.evaluation.ledger import evaluate_autoattack
from robal.evaluation.reliability import probabilities, reliability
from robal.files import write
from robal.folder import RunFolder
from robal.images import InMemory, unit
from robal.loop import initial
from robal.networks import home_of
from robal.plan import name_of
from robal.plans import read_component
from robal.progress import track
from robal.records import contact_sheet, plan_of, surroundings
from robal.seeds import generator
from robal.selection import built_network, read_images, renumbered
from robal.threats import L2, Linf, Threat, parse, with_threat
from robal.training import Trained

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, eq=False)
class Attacked:
    """What one attack did.

    Args:
        standing: [N] bool, right before and after.
        adversaries: [N, C, H, W] float32: the adversary of a broken image, the image itself of any other.
        seconds: how long it took.
        stages: how many images each stage of AutoAttack broke, and its seconds; empty for other attacks.
    """

    standing: Tensor
    adversaries: Tensor
    seconds: float
    stages: dict[str, dict[str, float]]


def assess(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    threat: Threat,
    attacks: Sequence[Attack],
    seed: int,
    folder: Path,
    about: dict[str, Any],
    checks: bool = True,
) -> dict[str, Any]:
    """Evaluate a model and write `evaluation.json` into `folder`.

    Args:
        model: returns logits [B, K]; unchanged afterwards.
        inputs: [N, C, H, W] uint8, or float32 in [0, 1]; N >= 1.
        labels: [N] int64 in [0, K).
        classes: K names.
        threat: of the attacks that name none, the certificate and the checks.
        attacks: at least one; each attacks every image that is right.
        seed: names every random stream.
        folder: where the result, and AutoAttack's ledger, go.
        about: what the reader should know: model, weights, data, versions.
        checks: whether to look for masked gradients and run the corruptions too.

    Returns:
        What was written: rates in [0, 1], seconds, counts.

    Raises:
        InputError, ContractError: for what cannot be right; RunFolderError for a folder that cannot be written.
    """
    if not attacks:
        raise InputError("an evaluation needs at least one attack, for example --attacks autoattack")
    names = [name_of(attack, threat) for attack in attacks]
    if len(set(names)) < len(names):
        raise InputError(f"two attacks are called alike ({', '.join(names)}): evaluate them one at a time")
    folder.mkdir(parents=True, exist_ok=True)
    before = clean(model, inputs, labels)
    results = {
        name: attacked(model, inputs, labels, attack, seed, folder, before.correct)
        for name, attack in zip(names, attacks, strict=True)
    }
    standing = {name: result.standing for name, result in results.items()}
    proved, why = _certified(model, inputs, labels, threat)
    verdict = sandwich(proved, standing, before.correct)
    worst_name = min(results, key=lambda name: int(standing[name].sum()))
    worst = results[worst_name]
    said = {"clean": probabilities(model, inputs), "adversarial": probabilities(model, worst.adversaries)}
    outcome: dict[str, Any] = {
        "about": about
        | {"threat": str(threat), "eps": threat.eps, "seed": seed, "images": len(labels), "classes": list(classes)},
        "clean": before.accuracy,
        "attacks": {
            name: {
                "accuracy": float(result.standing.double().mean()),
                "seconds": result.seconds,
                "stages": result.stages,
            }
            for name, result in results.items()
        },
        "worst_case": float(verdict.worst_case.double().mean()),
        "strongest": worst_name,
        "certified": {"accuracy": float(proved.double().mean()) if not why else None, "note": why},
        "sandwich": {"holds": verdict.holds, "text": str(verdict)},
        "per_class": asdict(classwise(before.correct, verdict.worst_case, labels, len(classes), seed=seed)),
        "confusion": {name: confusion(labels, probs.argmax(1), len(classes)).tolist() for name, probs in said.items()},
        "reliability": {name: asdict(reliability(probs, labels)) for name, probs in said.items()},
        "curve": curve(model, inputs, labels, threat),
    }
    sheet(folder / "broken.png", inputs, worst, before.correct, labels, classes, model)
    if checks:
        few = min(len(labels), 100)
        findings = check_defence(model, inputs[:few], labels[:few], threat, seed) if threat.eps > 0 else ()
        outcome["checks"] = [asdict(finding) for finding in findings]
        table = under_corruptions(model, inputs, labels, seed)
        outcome["corruptions"] = {"mean": mean_accuracy(table), "accuracy": table}
    outcome = finite(outcome)
    write(folder / "evaluation.json", json.dumps(outcome, indent=1, allow_nan=False) + "\n")
    return outcome


def attacked(
    model: nn.Module, inputs: Tensor, labels: Tensor, attack: Attack, seed: int, folder: Path, correct: Tensor
) -> Attacked:
    """One attack on all images that are right; AutoAttack by way of its ledger, which survives a kill."""
    started = time.perf_counter()
    moved = unit(inputs).clone()
    if isinstance(attack, AutoAttack):
        ledger = evaluate_autoattack(
            model, inputs, labels, attack, seed, path=folder / f"{attack.label}.safetensors", keep=True
        )
        if ledger.adversaries is not None:
            moved[ledger.broken] = ledger.adversaries
        stages = {
            name: {"broken": ledger.counts[name], "seconds": seconds}
            for name, seconds in zip(ledger.stages, ledger.seconds, strict=True)
        }
        return Attacked(ledger.verdicts.correct, moved, sum(ledger.seconds), stages)
    standing = correct.clone()
    for broken, points in broken_by(model, inputs, labels, correct, attack, seed):
        standing[broken] = False
        moved[broken] = points
    return Attacked(standing, moved, time.perf_counter() - started, {})


def curve(model: nn.Module, inputs: Tensor, labels: Tensor, threat: Threat, most: int = 500) -> dict[str, Any]:
    """Accuracy against ε by DeepFool's distances, in the threat's norm: an upper bound, cheap, for the shape alone."""
    images, labels = unit(inputs[:most]), labels[:most]
    device = home_of(model)
    deepfool = DeepFool("l2" if isinstance(threat, L2) else "linf")
    parts = track(images.split(128), "accuracy against eps")
    distance = torch.cat([deepfool(model, part.to(device)).distance.cpu() for part in parts])
    reach = torch.where(predict(model, images) == labels, distance, 0.0)
    radii = torch.linspace(0, 2 * threat.eps if threat.eps else 0.1, 41)
    standing = [(reach > radius).double().mean().item() for radius in radii.tolist()]
    return {"by": "DeepFool", "images": len(labels), "eps": radii.tolist(), "accuracy": standing}


def sheet(
    path: Path,
    inputs: Tensor,
    attack: Attacked,
    correct: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    model: nn.Module,
) -> None:
    """A picture of the first twenty images that broke: as they were, as attacked, and the change, enlarged."""
    broken = (correct & ~attack.standing).nonzero().flatten()[:20]
    path.unlink(missing_ok=True)
    if len(broken) == 0:
        return
    before, after = unit(inputs[broken]), attack.adversaries[broken]
    change = (after - before) / (2 * (after - before).abs().amax().clamp_min(1e-9)) + 0.5
    said = predict(model, after).tolist()
    titles = [classes[label] for label in labels[broken].tolist()] + [classes[label] for label in said]
    blank = torch.ones((20 - len(broken), *before.shape[1:]))  # so that each of the three begins a row
    rows = InMemory(torch.cat([part for piece in (before, after, change) for part in (piece, blank)]).clamp(0, 1))
    empty = [""] * len(blank)
    words = [*titles[: len(broken)], *empty, *titles[len(broken) :], *empty, *[""] * 20]
    contact_sheet(path, rows, torch.arange(60), words)


def finite(value: Any) -> Any:
    """The same with None for NaN and infinity, which JSON does not know.

    >>> finite({"a": [float("nan"), 1.0]})
    {'a': [None, 1.0]}
    """
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _certified(model: nn.Module, inputs: Tensor, labels: Tensor, threat: Threat) -> tuple[Tensor, str]:
    """Who is certified, or nobody and the reason why nothing can be said."""
    nobody = torch.zeros(len(labels), dtype=torch.bool)
    if not isinstance(threat, Linf):
        return nobody, f"interval bounds are for Linf, not for {threat}"
    try:
        return certified(model, inputs, labels, threat.eps), ""
    except InputError as error:
        return nobody, str(error)


def evaluate_files(
    *,
    run: Path | None = None,
    model: str | None = None,
    weights: Path | None = None,
    data: str | None = None,
    threat: str | None = None,
    attacks: str = "autoattack",
    images: int = 1000,
    classes: str | None = None,
    resize: int | None = None,
    out: Path | None = None,
    folder: Path | None = None,
    seed: int = 0,
    device: Device = "auto",
    checks: bool = True,
) -> tuple[dict[str, Any], Path]:
    """`robal evaluate` as a function, on a run's last model or any other; its arguments are those of the command line.

    Returns:
        The outcome, as `assess`, and the folder it was written to.

    Raises:
        PlanError, DataError, InputError, RunFolderError: each says what was expected, what came and what to do.
    """
    if (run is None) == (model is None):
        raise InputError("name a run (--run runs/mine) or a model (--model module:build --data photos/), one of them")
    if images < 1:
        raise InputError(f"at least one image is evaluated; --images {images} came")
    methods = tuple(read_component(Attack, part, "attacks") for part in split_list(attacks))
    if run is not None:
        if (data, weights, classes, resize) != (None, None, None, None):
            raise InputError("--run has its own data and weights; leave out --data, --weights, --classes and --resize")
        subject = of_run(run, folder, device)
    else:
        subject = of_model(str(model), weights, data, folder, resize, classes, seed, device)
    inside = subject.threat if threat is None else parse(threat)
    if inside is None:
        raise InputError("say what the adversary may do: --threat linf:8/255, or l2:0.5")
    methods = tuple(with_threat(method, inside) for method in methods)
    about = subject.about | {"images_of": len(subject.labels)} | surroundings(device)
    place = out or subject.place
    pixels, labels = subject.pixels[:images], subject.labels[:images]
    return assess(subject.model, pixels, labels, subject.classes, inside, methods, seed, place, about, checks), place


@dataclass(frozen=True, eq=False)
class Subject:
    """What is evaluated: a model and images with labels; the threat where a run names one; where the result goes."""

    model: nn.Module
    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    about: dict[str, Any]
    place: Path
    threat: Threat | None = None


def of_run(run: Path, folder: Path | None, device: Device) -> Subject:
    """A run's last model, its test images, its threat."""
    plan = plan_of(run, folder)
    source, history = plan.data.load(), RunFolder(run).history()
    if not history or source.test is None:
        lacking = "finished no round yet" if not history else "has no test images"
        raise InputError(f"{run} {lacking}, so there is nothing to evaluate")
    last = RunFolder(run).round(len(history) - 1)
    model = Trained.load(last / "model.safetensors", initial(replace(plan, device=device), source).model).model
    pixels = source.test.images.at_rest(torch.arange(len(source.test)))
    about = {"model": f"{run}, round {len(history) - 1}", "data": source.about}
    return Subject(model, pixels, source.test.labels, source.classes, about, last / "evaluation", plan.threat)


def of_model(
    model: str,
    weights: Path | None,
    data: str | None,
    folder: Path | None,
    resize: int | None,
    classes: str | None,
    seed: int,
    device: Device,
) -> Subject:
    """Any model, on a data set's test split; where there is none, on all labelled images in random order."""
    if data is None:
        raise InputError("say what to evaluate on: --data mnist, a folder of images by class, or an .npz file")
    dataset, names = read_images(data, folder, resize, classes)
    if dataset.test_images is not None and dataset.test_labels is not None:
        pixels, labels = dataset.test_images, dataset.test_labels
    else:  # files and arrays often lie class by class: the first are no sample
        kept = (dataset.labels >= 0).nonzero().flatten()
        kept = kept[torch.randperm(len(kept), generator=generator(seed, "evaluate", "order"))]
        pixels, labels = dataset.images[kept], dataset.labels[kept]
    if len(labels) == 0:
        raise InputError(f"{dataset.name} has no labelled image to evaluate on")
    labels = renumbered(labels, dataset, names)
    built = built_network(model, weights, pixels, len(names), device)
    about = {"model": model, "weights": str(weights or ""), "data": dataset.name}
    return Subject(built, pixels, labels, names, about, Path("evaluation"))


def split_list(text: str) -> list[str]:
    """`a,{name: b, steps: 3},c` at the commas outside of brackets.

    >>> split_list("autoattack, {name: PGD, steps: 50}")
    ['autoattack', '{name: PGD, steps: 50}']
    """
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "{[") - (letter in "}]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]
