"""An attack's verdict on every image, saved as it falls, so that an evaluation can be killed and called again.

pyautoattack's own resuming never works, and it says of no image which attack broke it. Here the unit of work is one
batch of one stage: AutoAttack has four stages, any other attack is one. What a stage does to a batch is a function of
the two and the seed, and which images a batch holds follows from the verdicts of the stages before: nothing else has to
be remembered.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor, nn

from robal.attacks import Attack, AutoAttack, perturb
from robal.errors import InputError, RunFolderError
from robal.evaluation.accuracy import Verdicts, clean, predict
from robal.files import whole
from robal.images import unit
from robal.networks import home_of
from robal.progress import track
from robal.seeds import generator
from robal.threats import Linf, with_threat

STANDING, MISCLASSIFIED = -1, -2


@dataclass(frozen=True, eq=False)
class Ledger:
    """What became of every image under one attack, finished or not.

    Args:
        broken_by: [N] int64: the position in `stages` of the attack that broke the image; STANDING (-1) where none did;
            MISCLASSIFIED (-2) where the model was wrong to begin with and nothing was tried.
        labels: [N] int64.
        classes: K.
        label: the attack's; "AutoAttack-reduced" for AutoAttack on two or three classes.
        stages: names of the attacks, in their order; of any but AutoAttack its label alone.
        batch_size: images attacked together.
        finished: how many batches of each stage are done.
        seconds: the time that these took, of each stage.
        belongs_to: what was evaluated: digests of the model, images and labels, the attack and the seed in words.
        adversaries: [broken images, C, H, W] float32, by position; None where they are not kept.

    >>> ledger = Ledger(torch.tensor([-1, -2, 0, 3, 0]), torch.zeros(5, dtype=torch.int64), 4)
    >>> ledger.counts
    {'standing': 1, 'misclassified': 1, 'apgd-ce': 2, 'apgd-t': 0, 'fab-t': 0, 'square': 1}
    """

    broken_by: Tensor
    labels: Tensor
    classes: int
    label: str = "AutoAttack"
    stages: tuple[str, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")
    batch_size: int = 250
    finished: tuple[int, ...] = (0, 0, 0, 0)
    seconds: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    belongs_to: tuple[tuple[str, str], ...] = ()
    adversaries: Tensor | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many images stand, were misclassified, and fell to each stage; they sum to N."""
        names = {"standing": STANDING, "misclassified": MISCLASSIFIED}
        names |= {name: number for number, name in enumerate(self.stages)}
        return {name: int((self.broken_by == number).sum()) for name, number in names.items()}

    @property
    def broken(self) -> Tensor:
        """[B] int64: positions of the images that an attack broke, ascending; those of `adversaries`."""
        return (self.broken_by >= 0).nonzero().flatten()

    @property
    def complete(self) -> bool:
        """All batches of all stages are done."""
        return all(done == len(self.batches(stage)) for stage, done in enumerate(self.finished))

    @property
    def verdicts(self) -> Verdicts:
        """Which images stand. Raises InputError while the evaluation is not complete: the rest might still fall."""
        if not self.complete:
            stage = next(stage for stage, done in enumerate(self.finished) if done < len(self.batches(stage)))
            raise InputError(
                f"this evaluation stopped within {self.stages[stage]}, so no accuracy can be told from it yet; "
                "call evaluate_attack again with the same arguments"
            )
        return Verdicts(self.broken_by == STANDING, self.labels, self.classes)

    def batches(self, stage: int) -> list[Tensor]:
        """Positions of the images that were right and that no earlier stage broke, cut into batches."""
        reached = ((self.broken_by == STANDING) | (self.broken_by >= stage)).nonzero().flatten()
        return [batch for batch in reached.split(self.batch_size) if len(batch)]

    def after(self, stage: int, broken: Tensor, adversaries: Tensor, seconds: float) -> Ledger:
        """This ledger with one more batch of a stage: the positions it broke, by what, and the time it took."""
        broken_by = self.broken_by.clone()
        broken_by[broken] = stage
        kept = self.adversaries
        if kept is not None:
            kept = torch.cat([kept, adversaries.cpu()])[torch.cat([self.broken, broken]).argsort()]
        return replace(
            self,
            broken_by=broken_by,
            finished=tuple(done + (number == stage) for number, done in enumerate(self.finished)),
            seconds=tuple(had + seconds * (number == stage) for number, had in enumerate(self.seconds)),
            adversaries=kept,
        )


def evaluate_attack(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    attack: Attack,
    seed: int,
    *,
    path: Path | None = None,
    keep: bool = False,
) -> Ledger:
    """An attack on every image that the model gets right, with the verdict on each; killed, call it again.

    The batches are the images that still stand before a stage, in their order, cut into the attack's `batch_size`, or
    250. AutoAttack's are those of pyautoattack's `run_standard_evaluation`, where each batch starts from the same seed;
    another attack's noise is named by the seed, its label and the batch, as in `under_attack`. An image is broken when
    the model itself errs on it, whatever the fast twin that is attacked in its stead says (`attacks.crafting`).

    Args:
        model: returns logits [B, K], K >= 2; with K of 2 or 3 AutoAttack's reduced set runs, see `fitting`.
        inputs: [N, C, H, W] uint8, or float32 in [0, 1]; N >= 1.
        labels: [N] int64 in [0, K).
        attack: any; a frozen dataclass, so that its `repr` says what decides its result. Its threat, where it names
            none, is Linf(8/255).
        seed: for AutoAttack as pyautoattack takes it.
        path: of the ledger's file, saved whole after each batch; there already: the evaluation goes on where it
            stopped. None: nothing is saved.
        keep: the adversaries too.

    Returns:
        A complete ledger. Its verdicts are those of `under_attack`; for AutoAttack those of pyautoattack called bare
        with the same seed, but for images that lie so near the boundary that float rounding decides.

    Raises:
        InputError: for inputs out of range, NaN, labels that do not fit, or a threat that the attack does not know.
        RunFolderError: for a file that is damaged, cannot be written, or is of another model, images, labels,
            attack or seed.

    Source: Croce and Hein, ICML 2020, arXiv 2003.01690.
    """
    before = clean(model, inputs, labels, getattr(attack, "batch_size", 256))
    attack, size = fitting(attack, before.classes), getattr(attack, "batch_size", 250)
    attack = with_threat(attack, attack.threat or Linf())
    stages = attack.stages(before.classes, seed) if isinstance(attack, AutoAttack) else (attack,)
    if attack.threat is not None and attack.threat.eps == 0:  # a ball of one point, which is clean
        stages = ()
    ledger = Ledger(
        torch.where(before.correct, STANDING, MISCLASSIFIED),
        labels.clone(),
        before.classes,
        attack.label,
        tuple(getattr(stage, "name", stage.label) for stage in stages),
        size,
        (0,) * len(stages),
        (0.0,) * len(stages),
        tuple(_fingerprint(model, inputs, labels, attack, seed, keep).items()),
        torch.empty(0, *inputs.shape[1:]) if keep else None,
    )
    if path is not None:
        if path.exists():
            ledger = _same(load_ledger(path), ledger, path)
        else:
            save_ledger(ledger, path)  # so that a place that cannot be written is found out before the work
    device = home_of(model)
    for number, stage in enumerate(stages):
        batches, done = ledger.batches(number), ledger.finished[number]
        images = sum(len(batch) for batch in batches)
        for turn, batch in enumerate(track(batches[done:], f"{stage.label}, {images} images", done=done), done):
            started = time.perf_counter()
            noise = generator(seed, "attack", stage.label, turn)
            moved = perturb(stage, model, unit(inputs[batch].to(device)), labels[batch].to(device), noise)
            wrong = predict(model, moved, size) != labels[batch]
            ledger = ledger.after(number, batch[wrong], moved.cpu()[wrong], time.perf_counter() - started)
            if path is not None:
                save_ledger(ledger, path)
    return ledger


def fitting(attack: Attack, classes: int) -> Attack:
    """The attack as it runs on a model of so many classes: AutoAttack on fewer than four is the reduced set.

    >>> fitting(AutoAttack(), 3).label
    'AutoAttack-reduced'
    """
    return replace(attack, version="reduced") if isinstance(attack, AutoAttack) and classes < 4 else attack


def ledger_name(model: nn.Module, inputs: Tensor, labels: Tensor, attack: Attack, seed: int) -> str:
    """The name of the file for the ledger of an evaluation that keeps adversaries, safe on any disk.

    It ends in a digest of all that decides the verdicts, so that no two evaluations meet in one file.
    """
    said = re.sub(r"[^A-Za-z0-9.]+", "-", f"{attack.label} {attack.threat or Linf()!r}").strip("-.")
    return f"{said}-{_digest((), repr(_fingerprint(model, inputs, labels, attack, seed, keep=True)))[:8]}.safetensors"


def save_ledger(ledger: Ledger, path: Path) -> None:
    """Write the ledger to a safetensors file, whole or not at all. Raises RunFolderError where that cannot be."""
    tensors = {"broken_by": ledger.broken_by.contiguous(), "labels": ledger.labels.contiguous()}
    about = {name: getattr(ledger, name) for name in _PLAIN} | {"checksum": _digest(tensors.values())}
    if ledger.adversaries is not None:
        tensors["adversaries"] = ledger.adversaries.contiguous()
    with whole(path) as temporary:
        temporary.write_bytes(save(tensors, metadata={"ledger": json.dumps(about)}))


def load_ledger(path: Path) -> Ledger:
    """Read what `save_ledger` wrote. Raises RunFolderError for a file that is no ledger, or is damaged."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = json.loads(file.metadata()["ledger"])
        if _digest([tensors["broken_by"], tensors["labels"]]) != about.pop("checksum"):
            raise ValueError("its verdicts are not those that were written")
        lists = ("stages", "finished", "seconds")
        about |= {name: tuple(about[name]) for name in lists}
        return Ledger(**tensors, **about | {"belongs_to": tuple((name, was) for name, was in about["belongs_to"])})
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise RunFolderError(
            f"{path} cannot be read as the ledger of an evaluation: {error}. Restore it; or delete it to begin again"
        ) from error


_PLAIN = ("classes", "label", "stages", "batch_size", "finished", "seconds", "belongs_to")


def _same(found: Ledger, ours: Ledger, path: Path) -> Ledger:
    """The ledger that was found, if it is one of the same evaluation."""
    theirs, wanted = dict(found.belongs_to), dict(ours.belongs_to)
    differing = [
        f"{name} was {theirs.get(name)}, is {value}" for name, value in wanted.items() if theirs.get(name) != value
    ]
    if differing:
        raise RunFolderError(
            f"{path} belongs to another evaluation: {'; '.join(differing)}. Name another file, or delete this one"
        )
    return found


def _fingerprint(
    model: nn.Module, inputs: Tensor, labels: Tensor, attack: Attack, seed: int, keep: bool
) -> dict[str, str]:
    """What decides a ledger, by name. The model is its weights and the kinds of its layers."""
    state = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    layers = repr([(name, type(module).__name__) for name, module in model.named_modules()]) + repr(list(state))
    return {
        "model": _digest(state.values(), layers),
        "images": _digest(inputs.split(1024)),
        "labels": _digest([labels]),
        "attack": repr(attack),
        "seed": str(int(seed)),
        "keep": str(keep),
    }


def _digest(tensors: Iterable[Tensor], text: str = "") -> str:
    """16 hexadecimal digits of the SHA-256 of shapes, types and values."""
    digest = hashlib.sha256(text.encode())
    for tensor in tensors:
        digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
