"""Attacks with a ledger: pyautoattack's verdicts, an entry for every image, and no batch done twice."""

from __future__ import annotations

import itertools
import os
import random
import signal
import string
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyautoattack
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from robal.attacks import FGSM, PGD, Attack, AutoAttack, Square
from robal.attacks import autoattack as stages_of
from robal.errors import InputError, RunFolderError
from robal.evaluation import ledger as ledgers
from robal.evaluation import under_attack
from robal.evaluation.ledger import Ledger, evaluate_attack, ledger_name, load_ledger, save_ledger
from robal.threats import L2, Linf, Threat
from small_models import condition, convnet, linear
from tiny_runs import Apart

AT_ONCE = AutoAttack(batch_size=6, threat=Linf(0.1))


def knowing(images: Tensor, labels: Tensor, classes: int) -> nn.Module:
    """A network with BatchNorm that knows the 8 x 8 digits below `classes`, in eval mode."""
    model = convnet(classes, dropout=0.0)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        optimiser.zero_grad()
        F.cross_entropy(model(images[:500]), labels[:500]).backward()
        optimiser.step()
    model.zero_grad(set_to_none=True)
    return model.eval()


@pytest.fixture(scope="session")
def cases(tiny_digits: tuple[Tensor, Tensor]) -> dict[int, tuple[nn.Module, Tensor, Tensor]]:
    """For 2, 3, 5 and 10 classes: a model, and 16 images with what it says of them, but wrong for the first two."""
    found = {}
    for classes in (2, 3, 5, 10):
        mine = tiny_digits[1] < classes
        images, labels = tiny_digits[0][mine].float() / 255, tiny_digits[1][mine]
        model = knowing(images, labels, classes)
        with torch.no_grad():
            few = model(images[-16:]).argmax(1)
        few[:2] = (few[:2] + 1) % classes
        found[classes] = (model, images[-16:], few)
    return found


def shorten() -> None:
    """A tenth of AutoAttack's steps, for pyautoattack called bare and for robal alike."""
    built = pyautoattack.AutoAttack.__init__

    def build(self: pyautoattack.AutoAttack, *arguments: object, **settings: object) -> None:
        built(self, *arguments, **settings)
        self.apgd.n_iter = self.apgd_targeted.n_iter = self.fab.n_iter = 10
        self.square.n_queries = 200

    pyautoattack.AutoAttack.__init__ = build


@pytest.fixture
def short() -> Iterator[None]:
    built = pyautoattack.AutoAttack.__init__
    shorten()
    yield
    pyautoattack.AutoAttack.__init__ = built


def bare(model: nn.Module, inputs: Tensor, labels: Tensor, attack: AutoAttack, seed: int) -> tuple[Tensor, Tensor]:
    """What pyautoattack says: which images stand, and the images it leaves; its targets set to what there are."""
    threat = attack.threat
    assert threat is not None
    with torch.random.fork_rng(devices=[]):
        official = pyautoattack.AutoAttack(model, eps=threat.eps, norm=type(threat).__name__, seed=seed)
        with torch.no_grad():
            classes = model(inputs[:1]).shape[1]
        official.fab.n_target_classes = official.apgd_targeted.n_target_classes = min(9, classes - 1)
        if classes < 4:
            official.attacks_to_run.remove("apgd-t")
        moved, _ = official.run_standard_evaluation(inputs, labels, batch_size=attack.batch_size)
    with torch.no_grad():
        return model(moved).argmax(1) == labels, moved


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    ("classes", "images", "threat", "label"),
    [
        (10, 16, Linf(0.1), "AutoAttack"),
        (10, 16, L2(0.5), "AutoAttack"),
        (5, 16, Linf(0.15), "AutoAttack"),
        (3, 16, Linf(0.15), "AutoAttack-reduced"),
        (2, 16, Linf(0.2), "AutoAttack-reduced"),
        (10, 1, Linf(0.01), "AutoAttack"),
    ],
    ids=str,
)
def test_verdicts_are_those_of_bare_pyautoattack(
    cases: dict[int, tuple[nn.Module, Tensor, Tensor]], classes: int, images: int, threat: Threat, label: str
) -> None:
    model, inputs, labels = cases[classes]
    inputs, labels = inputs[-images:], labels[-images:]
    attack = replace(AT_ONCE, threat=threat)
    ledger = evaluate_attack(model, inputs, labels, attack, 3, keep=True)
    stands, moved = bare(model, inputs, labels, attack, 3)
    assert torch.equal(ledger.verdicts.correct, stands)
    assert ledger.label == label
    assert ("apgd-t" in ledger.stages) == (classes > 3)
    assert sum(ledger.counts.values()) == images
    assert ledger.counts["misclassified"] == (2 if images > 1 else 0)
    assert ledger.counts["standing"] > 0
    if images > 1:
        assert ledger.counts["standing"] < images - 2
    assert ledger.adversaries is not None
    assert torch.allclose(ledger.adversaries, moved[ledger.broken], atol=1e-4)
    with torch.no_grad():
        assert (model(ledger.adversaries).argmax(1) != labels[ledger.broken]).all() or len(ledger.broken) == 0
    assert (threat.size(ledger.adversaries - inputs[ledger.broken]) <= threat.eps * (1 + 1e-5)).all()
    assert all(seconds > 0 for seconds, done in zip(ledger.seconds, ledger.finished, strict=True) if done)


@pytest.mark.slow
def test_verdicts_at_full_length_are_those_of_bare_pyautoattack(
    cases: dict[int, tuple[nn.Module, Tensor, Tensor]],
) -> None:
    ledger = evaluate_attack(*cases[10], AT_ONCE, 3)
    assert torch.equal(ledger.verdicts.correct, bare(*cases[10], AT_ONCE, 3)[0])


def test_everything_misclassified_is_nothing_to_attack(
    cases: dict[int, tuple[nn.Module, Tensor, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs, _ = cases[10]
    monkeypatch.setattr(ledgers, "perturb", None)
    with torch.no_grad():
        wrong = (model(inputs).argmax(1) + 1) % 10
    ledger = evaluate_attack(model, inputs, wrong, AT_ONCE, 0)
    assert ledger.counts["misclassified"] == 16
    assert ledger.verdicts.accuracy == 0.0
    assert ledger.seconds == (0.0, 0.0, 0.0, 0.0)


def test_a_radius_of_zero_is_clean_accuracy(cases: dict[int, tuple[nn.Module, Tensor, Tensor]]) -> None:
    ledger = evaluate_attack(*cases[10], AutoAttack(threat=Linf(0.0)), 0)
    assert ledger.counts == {"standing": 14, "misclassified": 2}
    assert ledger.verdicts.accuracy == 14 / 16


@pytest.mark.usefixtures("short")
def test_pixels_at_rest_give_the_same_verdicts_and_nothing_of_the_caller_changes(
    cases: dict[int, tuple[nn.Module, Tensor, Tensor]],
) -> None:
    model, inputs, labels = cases[3]
    pixels = (inputs * 255).round().byte()
    model.train()
    before, kept, noise = condition(model), (pixels.clone(), labels.clone()), torch.get_rng_state()
    at_rest = evaluate_attack(model, pixels, labels, AT_ONCE, 0)
    assert condition(model) == before
    assert torch.equal(pixels, kept[0])
    assert torch.equal(labels, kept[1])
    assert torch.equal(torch.get_rng_state(), noise)
    model.eval()
    assert torch.equal(at_rest.broken_by, evaluate_attack(model, pixels.float() / 255, labels, AT_ONCE, 0).broken_by)


def test_an_image_is_broken_only_when_the_model_itself_errs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a stage claims: here each answers with the images as they were, or with the answer turned round."""
    model = linear([[1.0, 0.0, 0, 0], [0.0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]])
    inputs = torch.tensor([[0.6, 0.5, 0, 0], [0.9, 0.1, 0, 0], [0.5, 0.6, 0, 0]]).view(3, 1, 2, 2)
    turned = {"apgd-ce": 0.0, "apgd-t": 0.2, "fab-t": 0.2, "square": 0.2}

    def perturb(stage: stages_of.Stage, model: nn.Module, images: Tensor, *rest: object) -> Tensor:
        return images - torch.tensor([turned[stage.name], 0, 0, 0]).view(1, 1, 2, 2)

    monkeypatch.setattr(ledgers, "perturb", perturb)
    ledger = evaluate_attack(model, inputs, torch.tensor([0, 0, 0]), AutoAttack(batch_size=1), 0)
    assert ledger.broken_by.tolist() == [1, -1, -2]
    assert ledger.finished == (2, 2, 1, 1)


# Any other attack is one stage


@pytest.mark.parametrize(
    "attack",
    [FGSM(threat=Linf(0.05)), PGD(steps=2, threat=Linf(0.05)), PGD(steps=2, threat=L2(0.5)), PGD(threat=Linf(0.0))],
    ids=str,
)
def test_verdicts_of_any_attack_are_those_under_attack(
    cases: dict[int, tuple[nn.Module, Tensor, Tensor]], tiny_digits: tuple[Tensor, Tensor], attack: Attack
) -> None:
    model, (inputs, labels) = cases[10][0], (tiny_digits[0][:600], tiny_digits[1][:600])  # three batches
    ledger = evaluate_attack(model, inputs, labels, attack, 7, keep=True)
    alone = under_attack(model, inputs, labels, attack, 7)
    assert torch.equal(ledger.verdicts.correct, alone.correct)
    assert ledger.label == attack.label
    if attack.threat == Linf(0.0):
        assert ledger.stages == ()
        return
    assert ledger.stages == (attack.label,)
    assert ledger.finished == (3,)
    assert 0 < ledger.counts[attack.label] < 600 - ledger.counts["misclassified"]
    assert ledger.adversaries is not None
    with torch.no_grad():
        assert (model(ledger.adversaries).argmax(1) != labels[ledger.broken]).all()


def test_an_attack_stopped_within_goes_on_with_the_batch_it_had_begun(
    cases: dict[int, tuple[nn.Module, Tensor, Tensor]],
    tiny_digits: tuple[Tensor, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = (cases[10][0], tiny_digits[0][:600], tiny_digits[1][:600])
    attack, path = PGD(steps=2, threat=Linf(0.05)), tmp_path / "ledger"
    whole = evaluate_attack(*case, attack, 7, keep=True)
    turns, inner = itertools.count(1), ledgers.perturb

    def stopping(*arguments: Any) -> Tensor:
        if next(turns) == 2:
            raise KeyboardInterrupt
        return inner(*arguments)

    monkeypatch.setattr(ledgers, "perturb", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluate_attack(*case, attack, 7, path=path, keep=True)
    assert load_ledger(path).finished == (1,)
    assert same(evaluate_attack(*case, attack, 7, path=path, keep=True), whole)
    assert next(turns) == 5  # the second batch twice, the others once


def test_an_attack_of_other_settings_does_not_go_on_with_the_ledger(
    cases: dict[int, tuple[nn.Module, Tensor, Tensor]], tmp_path: Path
) -> None:
    path = tmp_path / "ledger"
    a_ledger(cases[10], path, attack=PGD(steps=1, threat=Linf(0.1)))
    with pytest.raises(RunFolderError, match=r"another evaluation: attack was PGD.*step_size=None.*, is PGD"):
        a_ledger(cases[10], path, attack=PGD(steps=1, step_size=0.1, threat=Linf(0.1)))


def test_each_evaluation_has_a_file_of_its_own(cases: dict[int, tuple[nn.Module, Tensor, Tensor]]) -> None:
    model, inputs, labels = cases[10]
    attacks = (AutoAttack(), AutoAttack("reduced"), PGD(), PGD(steps=50), PGD(restarts=2), Square(20_000))
    threats = (None, Linf(0.3), L2(0.3), Linf(8 / 256), Linf(7 / 255))
    whole = [replace(attack, threat=threat) for attack in attacks for threat in threats]
    whole.append(PGD(step_size=0.01, threat=Linf(0.3)))
    names = [ledger_name(model, inputs, labels, attack, 0) for attack in whole]
    names.append(ledger_name(model, inputs, labels, whole[0], 1))
    names.append(ledger_name(model, inputs[1:], labels[1:], whole[0], 0))
    assert len(set(names)) == len(attacks) * len(threats) + 3
    assert ledger_name(model, inputs, labels, whole[0], 0) == names[0]
    assert all(set(name) <= set(string.ascii_letters + string.digits + ".-") for name in names)
    known = ledger_name(model, inputs, labels, PGD(steps=50, restarts=20, threat=L2(0.5)), 0)
    assert known.startswith("PGD-50x20-L2-eps-0.5-")


# Killed and called again


def evaluate(case: tuple[nn.Module, Tensor, Tensor], path: Path) -> Ledger:
    return evaluate_attack(*case, AutoAttack(batch_size=3, threat=Linf(0.1)), 3, path=path, keep=True)


@dataclass(frozen=True)
class Dying:
    """The evaluation, for another process, which kills itself at a unit of work: in its attack or about its save."""

    case: tuple[nn.Module, Tensor, Tensor]
    path: Path
    unit: int
    moment: str  # "attack", "save" (just before it) or "saved"

    def __call__(self) -> None:
        units = itertools.count(1)
        reached = [0]
        attack, save = stages_of.Stage.__call__, ledgers.save_ledger

        def fatal_attack(*arguments: Any) -> Tensor:
            reached[0] = next(units)
            self.die("attack", reached[0])
            return attack(*arguments)

        def fatal_save(*arguments: Any) -> None:
            self.die("save", reached[0])
            save(*arguments)
            self.die("saved", reached[0])

        shorten()
        stages_of.Stage.__call__ = fatal_attack  # type: ignore[method-assign]
        ledgers.save_ledger = fatal_save
        evaluate(self.case, self.path)

    def die(self, moment: str, unit: int) -> None:
        if (moment, unit) == (self.moment, self.unit):
            os.kill(os.getpid(), signal.SIGKILL)


def same(one: Ledger, other: Ledger) -> bool:
    assert one.adversaries is not None
    assert other.adversaries is not None
    return (
        torch.equal(one.broken_by, other.broken_by)
        and torch.equal(one.adversaries, other.adversaries)
        and (one.finished, one.belongs_to) == (other.finished, other.belongs_to)
    )


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_an_evaluation_killed_at_random_units_ends_as_an_undisturbed_one(
    cases: dict[int, tuple[nn.Module, Tensor, Tensor]], tmp_path: Path, kills: int
) -> None:
    undisturbed = evaluate(cases[10], tmp_path / "undisturbed")
    units = sum(undisturbed.finished)
    draw, path, died = random.Random(kills), tmp_path / "ledger", 0
    while died < kills:
        done = sum(load_ledger(path).finished) if path.exists() else 0
        left = units - done
        unit = draw.randint(1, left if kills > 3 else min(left, units // kills))
        moment = draw.choice(["attack", "save", "saved"])
        code = Apart(Dying(cases[10], path, unit, moment), tmp_path / "log").run()
        assert code == -signal.SIGKILL, (tmp_path / "log").read_text()
        died += 1
        ledger = load_ledger(path)
        assert sum(ledger.finished) == done + unit - (moment != "saved")
        if ledger.complete:
            assert same(ledger, undisturbed)
            path.unlink()
        else:
            with pytest.raises(InputError, match=r"stopped within \S+, so no accuracy can be told from it yet"):
                ledger.verdicts  # noqa: B018
    assert same(evaluate(cases[10], path), undisturbed)


@pytest.mark.usefixtures("short")
def test_a_finished_evaluation_is_read_and_not_repeated(
    cases: dict[int, tuple[nn.Module, Tensor, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate_attack(*cases[3], AT_ONCE, 0, path=tmp_path / "ledger")
    monkeypatch.setattr(ledgers, "perturb", None)
    again = evaluate_attack(*cases[3], AT_ONCE, 0, path=tmp_path / "ledger")
    assert torch.equal(first.broken_by, again.broken_by)
    assert (first.seconds, first.label, first.stages) == (again.seconds, again.label, again.stages)
    assert again.adversaries is None
    assert [file.name for file in tmp_path.iterdir()] == ["ledger"]


# What is refused


def a_ledger(case: tuple[nn.Module, Tensor, Tensor], path: Path, **changes: object) -> Ledger:
    """Begun or gone on with; nothing is attacked within a radius of zero."""
    attack = AutoAttack(threat=Linf(0.0))
    arguments = dict(zip(("model", "inputs", "labels"), case, strict=True)) | {"attack": attack, "seed": 0}
    return evaluate_attack(**(arguments | changes), path=path)  # type: ignore[arg-type]


def test_a_ledger_of_another_evaluation_is_refused_and_says_what_differs(
    cases: dict[int, tuple[nn.Module, Tensor, Tensor]], tmp_path: Path
) -> None:
    model, inputs, labels = case = cases[10]
    path = tmp_path / "ledger"
    a_ledger(case, path)
    written = path.read_bytes()
    other = knowing(inputs, labels.clone(), 10)
    kinds = nn.Sequential(*[nn.Tanh() if isinstance(layer, nn.ReLU) else layer for layer in model])
    darker = inputs.clone()
    darker[3, 0, 4, 4] *= 0.5
    changed = labels.clone()
    changed[5] = (changed[5] + 1) % 10
    for change, message in (
        ({"model": other}, r"another evaluation: model was \w{16}, is \w{16}\. Name another file, or delete"),
        ({"model": kinds}, "another evaluation: model was"),
        ({"inputs": darker}, "another evaluation: images was"),
        ({"labels": changed}, "another evaluation: labels was"),
        ({"seed": 1}, "another evaluation: seed was 0, is 1"),
        ({"keep": True}, "another evaluation: keep was False, is True"),
        ({"attack": AutoAttack(threat=L2(0.0))}, "attack was .*Linf.*, is .*L2"),
        ({"attack": AutoAttack(batch_size=9, threat=Linf(0.0)), "seed": 2}, "attack was .*; seed was 0, is 2"),
    ):
        with pytest.raises(RunFolderError, match=message):
            a_ledger(case, path, **change)
        assert path.read_bytes() == written
    a_ledger(case, path)


def test_a_damaged_ledger_is_refused(cases: dict[int, tuple[nn.Module, Tensor, Tensor]], tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    a_ledger(cases[10], path)
    whole = path.read_bytes()
    with safe_open(path, "pt") as file:
        tensors, about = {name: file.get_tensor(name) for name in ("broken_by", "labels")}, file.metadata()
    tensors["broken_by"][4] = 1
    save_file(tensors, path, metadata=about)
    turned = path.read_bytes()
    save_file(tensors, path)
    for content in (b"", whole[:100], whole[:-3], b"x" * 50, turned, path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(RunFolderError, match=r"cannot be read as the ledger of an evaluation: .* begin again"):
            a_ledger(cases[10], path)


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    cases: dict[int, tuple[nn.Module, Tensor, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "perturb", None)
    with pytest.raises(RunFolderError, match="nowhere/ledger could not be written"):
        evaluate_attack(*cases[10], AT_ONCE, 0, path=tmp_path / "nowhere" / "ledger")


def test_inputs_that_cannot_be_right_are_refused(cases: dict[int, tuple[nn.Module, Tensor, Tensor]]) -> None:
    model, inputs, labels = cases[10]
    with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
        evaluate_attack(model, inputs * 3, labels, AT_ONCE, 0)
    with pytest.raises(InputError, match=r"16 images came with labels of shape \[15\]"):
        evaluate_attack(model, inputs, labels[1:], AT_ONCE, 0)


# By hand


def test_the_batches_of_a_stage_are_the_images_that_reached_it() -> None:
    """Of six images 1 was wrong, 0 fell to the first stage and 4 to the second: five reached stage 0, four stage 1."""
    ledger = Ledger(
        torch.tensor([0, -2, -1, -1, 1, -1]), torch.zeros(6, dtype=torch.int64), 10, batch_size=2, finished=(3, 2, 0, 0)
    )
    assert [batch.tolist() for batch in ledger.batches(0)] == [[0, 2], [3, 4], [5]]
    assert [batch.tolist() for batch in ledger.batches(1)] == [[2, 3], [4, 5]]
    assert [batch.tolist() for batch in ledger.batches(2)] == [[2, 3], [5]]
    assert not ledger.complete
    assert replace(ledger, finished=(3, 2, 2, 2)).complete
    with pytest.raises(InputError, match="stopped within fab-t"):
        ledger.verdicts  # noqa: B018


def test_adversaries_are_kept_in_the_order_of_their_images(tmp_path: Path) -> None:
    ledger = Ledger(torch.tensor([-1, -1, -1]), torch.tensor([0, 0, 0]), 10, adversaries=torch.empty(0, 1, 1, 1))
    ledger = ledger.after(0, torch.tensor([2]), torch.full((1, 1, 1, 1), 0.2), 1.5)
    ledger = ledger.after(1, torch.tensor([0, 1]), torch.tensor([0.0, 0.1]).view(2, 1, 1, 1), 2.0)
    save_ledger(ledger, tmp_path / "ledger")
    ledger = load_ledger(tmp_path / "ledger")
    assert ledger.adversaries is not None
    assert torch.equal(ledger.adversaries.flatten(), torch.tensor([0.0, 0.1, 0.2]))
    assert ledger.broken_by.tolist() == [1, 1, 0]
    assert ledger.seconds == (1.5, 2.0, 0.0, 0.0)
