"""How robust a model is, in one place: attacks, certificates, classes, reliability and checks, as one JSON file.

`robal evaluate` on any model; no run is needed. The attacks, the long part, go on after a kill where they were.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robal.attacks import PGD, Attack, Monitor
from robal.errors import ContractError, InputError
from robal.evaluation import (
    Ledger,
    certified,
    check_defence,
    classwise,
    clean,
    confusion,
    evaluate_attack,
    out_of_distribution,
    predict,
    probabilities,
    reliability,
    sandwich,
    under_corruptions,
)
from robal.evaluation.corruptions import mean_accuracy
from robal.evaluation.ledger import fitting, ledger_name
from robal.evaluation.union import ADVERSARIAL_BY, HARDEST, adversaries, answers, curve
from robal.files import write
from robal.folder import RunFolder
from robal.images import InMemory, unit
from robal.pictures import contact_sheet
from robal.plan import name_of
from robal.records import surroundings
from robal.subjects import Device, of_model, of_run, read_attacks, read_outsiders, read_threats
from robal.threats import L2, Linf, Threat, parse, with_threat


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
    *,
    also: Sequence[Threat] = (),
    outside: Tensor | None = None,
    checks: bool = True,
) -> dict[str, Any]:
    """Evaluate a model and write `evaluation.json` into `folder`, whole and at the end; one that lay there goes first.

    Each attack keeps a ledger in `folder`/ledgers, so that after a kill the same call goes on where it was, and an
    attack that is finished costs nothing.

    Args:
        model: returns logits [B, K]; unchanged afterwards.
        inputs: [N, C, H, W] uint8, or float32 in [0, 1]; N >= 1.
        labels: [N] int64 in [0, K).
        classes: K names.
        threat: of the attacks that name none, the certificate and the checks.
        attacks: each attacks every image that is right; at least one inside `threat`. One that names another threat
            stands among those beyond it.
        seed: names every random stream.
        folder: where the result goes.
        about: what the reader should know: model, weights, data, versions.
        also: other threats than `threat`, each attacked by what `beyond` says.
        outside: [M, C, H, W] uint8, or float32 in [0, 1]: images of something else, to be told by low confidence.
        checks: whether to look for masked gradients and run the corruptions too.

    Returns:
        What was written: rates in [0, 1], seconds, counts. "adversarial" figures are of all attacks inside `threat`
        together: an image that one broke, as that attack left it; one that stands, at the point of higher cross-entropy
        of the image itself and the end of PGD with 20 steps ("adversarial_by"). What breaks only there is counted in
        "stood_and_fell" and is broken in the worst case.

    Raises:
        InputError, ContractError: for what cannot be right; RunFolderError for a folder that cannot be written;
            FolderInUse where another process evaluates into it.
    """
    before = clean(model, inputs, labels)
    if len(classes) != before.classes:
        raise InputError(
            f"the model tells {before.classes} classes apart, and {len(classes)} are named; give --classes "
            f"{before.classes}, or the names of all, in the model's order"
        )
    methods = arranged(attacks, threat, also, before.classes)
    ledgers = RunFolder(folder / "ledgers")
    places = {name: ledger_name(model, inputs, labels, one, seed) for name, one in methods.items()}
    with ledgers.locked():
        for earlier in ("evaluation.json", "index.html", "broken.png"):  # an unfinished evaluation shows no old result
            (folder / earlier).unlink(missing_ok=True)
        found = {
            name: evaluate_attack(model, inputs, labels, one, seed, path=ledgers.path / places[name], keep=True)
            for name, one in methods.items()
        }
        inside = {name: found[name] for name, one in methods.items() if is_inside(one, threat)}
        verdicts = {name: ledger.verdicts.correct for name, ledger in inside.items()}
        stood = torch.stack([before.correct, *verdicts.values()]).all(0)
        moved = adversaries(model, inputs, labels, list(inside.values()), stood, threat, seed)
        shown = answers(model, moved, labels)
        fell = stood & (shown.argmax(1) != labels)
        if fell.any():
            verdicts[f"{HARDEST.label} on what stood"] = stood & ~fell
        proved, why = _certified(model, inputs, labels, threat)
        verdict = sandwich(proved, verdicts, before.correct)
        standing = verdict.worst_case
        alike = [
            (one.threat, found[name].broken, found[name].adversaries)
            for name, one in methods.items()
            if type(one.threat) is type(threat)
        ]
        outcome: dict[str, Any] = {
            "about": about
            | {"threat": str(threat), "eps": threat.eps, "seed": seed, "images": len(labels), "classes": list(classes)},
            "clean": before.accuracy,
            "attacks": {name: _figures(ledger) for name, ledger in inside.items()},
            "worst_case": float(standing.double().mean()),
            "strongest": min(inside, key=lambda name: inside[name].verdicts.accuracy),
            "beyond": {name: _figures(ledger) for name, ledger in found.items() if name not in inside},
            "certified": {"accuracy": float(proved.double().mean()) if not why else None, "note": why},
            "sandwich": {"holds": verdict.holds, "text": str(verdict)},
            "per_class": asdict(classwise(before.correct, standing, labels, len(classes), seed=seed)),
            "curve": curve(model, inputs, labels, threat, [*alike, (threat, fell.nonzero().flatten(), moved[fell])]),
            "adversarial_by": {"text": ADVERSARIAL_BY, "stood_and_fell": int(fell.sum())},
        }
        outcome |= _said(model, inputs, labels, shown, outside)
        sheet(folder / "broken.png", inputs, moved, before.correct & ~standing, labels, classes, model)
        if checks:
            outcome |= _checked(model, inputs, labels, threat, seed)
        outcome = finite(outcome)
        write(folder / "evaluation.json", json.dumps(outcome, indent=1, allow_nan=False) + "\n")
    return outcome


def arranged(attacks: Sequence[Attack], threat: Threat, also: Sequence[Threat], classes: int) -> dict[str, Attack]:
    """All attacks by name, with their threats: those given, and the one that `beyond` names for each other threat.

    Raises:
        InputError: where two are called alike, or none is inside `threat`.
    """
    if threat in also:
        raise InputError(f"--also names threats beside the evaluation's, which is {threat} itself; leave that one out")
    whole = [fitting(with_threat(attack, threat), classes) for attack in attacks]
    if not any(is_inside(attack, threat) for attack in whole):
        raise InputError(f"an evaluation needs at least one attack inside {threat}, for example --attacks autoattack")
    whole += [beyond(other) for other in also]
    names = [name_of(attack, threat) for attack in whole]
    if len(set(names)) < len(names):
        raise InputError(f"two attacks are called alike ({', '.join(names)}): evaluate them one at a time")
    return dict(zip(names, whole, strict=True))


def beyond(threat: Threat) -> Attack:
    """What a model is attacked with inside a threat that it was not trained for.

    >>> beyond(L2(2.0)).label
    'Monitor'
    """
    return Monitor(square=0, threat=threat) if isinstance(threat, Linf | L2) else PGD(50, restarts=5, threat=threat)


def is_inside(attack: Attack, threat: Threat) -> bool:
    """Whether an attack's verdict is one about `threat`."""
    return attack.threat in (None, threat)


def sheet(
    path: Path,
    inputs: Tensor,
    moved: Tensor,
    fallen: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    model: nn.Module,
) -> None:
    """A picture of the first twenty images that fell: as they were, as attacked, and the change, enlarged."""
    broken = fallen.nonzero().flatten()[:20]
    if len(broken) == 0:
        return
    before, after = unit(inputs[broken]), moved[broken]
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
    except (InputError, ContractError) as error:
        return nobody, str(error)


def _figures(ledger: Ledger) -> dict[str, Any]:
    """What the result says of one attack; its stages where it has several."""
    stages = {
        name: {"broken": ledger.counts[name], "seconds": seconds}
        for name, seconds in zip(ledger.stages, ledger.seconds, strict=True)
    }
    return {
        "accuracy": ledger.verdicts.accuracy,
        "seconds": sum(ledger.seconds),
        "stages": stages if len(stages) > 1 else {},
    }


def _said(model: nn.Module, inputs: Tensor, labels: Tensor, attacked: Tensor, outside: Tensor | None) -> dict[str, Any]:
    """What the model's probabilities tell, on the images as they are and, [N, K], as attacked; and on others."""
    said = {"clean": probabilities(model, inputs), "adversarial": attacked}
    figures: dict[str, Any] = {
        "confusion": {
            name: confusion(labels, probs.argmax(1), probs.shape[1]).tolist() for name, probs in said.items()
        },
        "reliability": {name: asdict(reliability(probs, labels)) for name, probs in said.items()},
    }
    if outside is not None:
        others = probabilities(model, outside)
        told = {name: out_of_distribution(probs, others) for name, probs in said.items()}
        figures["outside"] = {"images": len(outside)} | told
    return figures


def _checked(model: nn.Module, inputs: Tensor, labels: Tensor, threat: Threat, seed: int) -> dict[str, Any]:
    """Signs of masked gradients, on a hundred images, and common corruptions, on all."""
    few, known = min(len(labels), 100), isinstance(threat, Linf | L2) and threat.eps > 0
    findings = check_defence(model, inputs[:few], labels[:few], threat, seed) if known else ()
    table = under_corruptions(model, inputs, labels, seed)
    corruptions = {"mean": mean_accuracy(table), "accuracy": table}
    return {"checks": [asdict(finding) for finding in findings], "corruptions": corruptions}


def evaluate_files(
    *,
    run: Path | None = None,
    model: str | None = None,
    weights: Path | None = None,
    data: str | None = None,
    threat: str | None = None,
    attacks: str = "autoattack",
    also: str | None = None,
    outside: str | None = None,
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
    methods, others = read_attacks(attacks), read_threats(also)
    if run is not None:
        if (data, weights, classes, resize) != (None, None, None, None):
            raise InputError("--run has its own data and weights; leave out --data, --weights, --classes and --resize")
        subject = of_run(run, folder, device)
    else:
        subject = of_model(str(model), weights, data, folder, resize, classes, seed, device)
    inside = subject.threat if threat is None else parse(threat)
    if inside is None:
        raise InputError("say what the adversary may do: --threat linf:8/255, or l2:0.5")
    about = subject.about | {"images_of": len(subject.labels), "outside": outside or ""} | surroundings(device)
    strangers = None if outside is None else read_outsiders(outside, folder, subject, seed)[:images]
    place = out or subject.place
    outcome = assess(
        subject.model,
        subject.pixels[:images],
        subject.labels[:images],
        subject.classes,
        inside,
        methods,
        seed,
        place,
        about,
        also=others,
        outside=strangers,
        checks=checks,
    )
    return outcome, place
