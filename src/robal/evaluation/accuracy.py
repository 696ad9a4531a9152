"""Accuracy, clean and under attack, overall and per class."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robal.attacks import Attack, perturb
from robal.attacks.answers import classes_of
from robal.errors import InputError
from robal.images import check_pixels, unit
from robal.networks import check_logits, frozen, home_of
from robal.pool import check_labels
from robal.progress import track
from robal.seeds import generator


@dataclass(frozen=True, eq=False)
class Verdicts:
    """Which images a model classifies correctly.

    Args:
        correct: [N] bool. Under attack: right before the attack and after it.
        labels: [N] int64.
        classes: how many classes there are.
    """

    correct: Tensor
    labels: Tensor
    classes: int

    @property
    def accuracy(self) -> float:
        """In [0, 1]."""
        return float(self.correct.double().mean())

    @property
    def per_class(self) -> list[float | None]:
        """Accuracy of each class, None where it has no image."""
        rates = []
        for label in range(self.classes):
            mine = self.correct[self.labels == label]
            rates.append(float(mine.double().mean()) if len(mine) else None)
        return rates


def predict(model: nn.Module, inputs: Tensor, batch_size: int = 256) -> Tensor:
    """[N] int64: the model's classes for [N, C, H, W], uint8 or float32 in [0, 1]; the model as it was afterwards.

    The class is -1, nobody's label, where the model answers NaN.
    """
    with frozen(model), torch.no_grad():
        device = home_of(model)
        parts = [classes_of(model(unit(part.to(device)))).cpu() for part in inputs.split(batch_size)]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)


def clean(model: nn.Module, inputs: Tensor, labels: Tensor, batch_size: int = 256) -> Verdicts:
    """Verdicts on the images as they are.

    Args:
        model: returns logits [B, K].
        inputs: [N, C, H, W] uint8, or float32 in [0, 1]; N >= 1.
        labels: [N] int64 in [0, K).
        batch_size: images in a forward pass.
    """
    if len(inputs) == 0:
        raise InputError("there is no image to evaluate on")
    check_pixels(inputs)
    if labels.shape != inputs.shape[:1]:
        raise InputError(f"{len(inputs)} images came with labels of shape {list(labels.shape)}")
    with frozen(model), torch.no_grad():
        classes = check_logits(model(unit(inputs[:2].to(home_of(model))))).shape[1]
    check_labels(labels, classes)
    return Verdicts(predict(model, inputs, batch_size) == labels, labels, classes)


def under_attack(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    attack: Attack,
    seed: int,
    *,
    batch_size: int | None = None,
    what: str | None = None,
) -> Verdicts:
    """Verdicts under an attack: an image stands if it is right before the attack and after it.

    Args:
        model: returns logits [B, K].
        inputs: [N, C, H, W] uint8, or float32 in [0, 1]; N >= 1.
        labels: [N] int64 in [0, K).
        attack: one attack; its threat says how far it may go. Only images that are right are attacked.
        seed: names the attack's random streams.
        batch_size: images attacked together; None: what the attack says, else 250.
        what: a title for the progress bar; None: the attack's label.
    """
    before = clean(model, inputs, labels)
    correct = before.correct.clone()
    for broken, _ in broken_by(model, inputs, labels, before.correct, attack, seed, batch_size=batch_size, what=what):
        correct[broken] = False
    return Verdicts(correct, labels, before.classes)


def broken_by(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    correct: Tensor,
    attack: Attack,
    seed: int,
    *,
    batch_size: int | None = None,
    what: str | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Attack the images that are right, batch by batch: the positions that broke, [B] int64, and their adversaries.

    Arguments as in `under_attack`; `correct`, [N] bool, says which images are right. Both come on the CPU.
    """
    device = home_of(model)
    chunks = correct.nonzero().flatten().split(batch_size or getattr(attack, "batch_size", 250))
    for number, chunk in enumerate(track(chunks, what or attack.label)):
        if len(chunk) == 0:
            continue
        noise = generator(seed, "attack", attack.label, number)
        moved = perturb(attack, model, unit(inputs[chunk].to(device)), labels[chunk].to(device), noise)
        wrong = predict(model, moved) != labels[chunk]
        yield chunk[wrong], moved[wrong.to(device)].cpu()


def seconds_needed(model: nn.Module, inputs: Tensor, labels: Tensor, attacks: Sequence[Attack]) -> dict[str, float]:
    """About how many seconds each attack will take on `inputs`, from one timed gradient; an upper estimate.

    Images that are misclassified, or fall early, cost less.
    """
    few = min(len(inputs), 100)
    started = time.perf_counter()
    model_device = home_of(model)
    with frozen(model):
        moved = unit(inputs[:few].to(model_device)).requires_grad_()
        loss = nn.functional.cross_entropy(model(moved), labels[:few].to(model_device))
        torch.autograd.grad(loss, moved)
    each = (time.perf_counter() - started) / few
    return {attack.label: each * len(inputs) * attack.passes for attack in attacks}
