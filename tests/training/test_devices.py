"""Several processes train one model: as one device does it, but for rounding, noise and BatchNorm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from robal.attacks import PGD
from robal.datasets import load
from robal.errors import ContractError, InputError, RobalError
from robal.evaluation import under_attack
from robal.loop import run
from robal.networks import LeNet5, PreActResNet
from robal.objectives import ACT, Adversarial, Batch, Natural
from robal.pool import Examples
from robal.threats import L2, Linf
from robal.training import Adam, Recipe, Trained, fit
from robal.training.devices import Group
from tiny_runs import tiny_plan

DIGITS = load("digits")
EXAMPLES = Examples.of(DIGITS.images[:300], DIGITS.labels[:300])
PLAIN = PGD(steps=2, step_size=0.1, random_start=False, threat=Linf(0.1))
SMOOTH = replace(PLAIN, step_size=1.0, threat=L2(1.0))
RECIPE = Recipe(Adversarial(PLAIN), epochs=2, batch_size=40, optimiser=Adam(2e-3))
TWO = replace(RECIPE, devices=2)


def lenet(seed: int = 0) -> nn.Module:
    return LeNet5()((1, 28, 28), 10, seed)


def trained(recipe: Recipe, monitor: object = None, **more: object) -> Trained:
    return fit(recipe, EXAMPLES, None, Trained(lenet()), monitor, 0, **more)  # type: ignore[arg-type]


def parameters(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


class Refusing:
    """A monitor that has something against it all; a class of a module, since it is sent to other processes."""

    def __call__(self, model: nn.Module, epoch: int) -> float:
        raise ContractError("this will not do")


class Waiting:
    def __call__(self, model: nn.Module, epoch: int) -> float:
        time.sleep(60)
        return 0.0


class Accuracy:
    def __call__(self, model: nn.Module, epoch: int) -> float:
        with torch.no_grad():
            return float((model(DIGITS.images[300:500] / 255).argmax(1) == DIGITS.labels[300:500]).float().mean())


@pytest.mark.parametrize("objective", [Natural(), Adversarial(SMOOTH)], ids=["natural", "adversarial"])
def test_two_devices_take_the_steps_of_one_where_nothing_is_drawn(objective: object) -> None:
    # the last batch has 20 images; without noise and BatchNorm, sums of floats alone differ. Under Linf last digits
    # would decide the sign of a gradient that is nearly 0, and so a whole step of a pixel
    one, two = (trained(replace(RECIPE, objective=objective, devices=count)) for count in (1, 2))
    start = parameters(lenet())
    moved = parameters(one.model) - start
    assert (parameters(two.model) - start - moved).norm() < 1e-3 * moved.norm()
    assert (two.steps, two.epoch, two.evaluations) == (one.steps, one.epoch, one.evaluations)


@pytest.mark.slow
def test_training_on_two_devices_is_robust_as_on_one() -> None:
    noisy = Adversarial(PGD(steps=3, threat=Linf(0.1)))
    recipe = Recipe(noisy, epochs=12, batch_size=30, optimiser=Adam(2e-3), average=0.9, keep="best")
    images, labels = DIGITS.images[500:1000] / 255, DIGITS.labels[500:1000]
    found = []
    for count in (1, 2):
        model = trained(replace(recipe, devices=count), Accuracy()).model
        found.append(under_attack(model, images, labels, PGD(steps=20, threat=Linf(0.1)), 0).accuracy)
    assert min(found) > 0.3
    assert abs(found[0] - found[1]) < 0.08  # three standard deviations of 500 images


def test_what_is_kept_comes_back_whole(tmp_path: Path) -> None:
    recipe = replace(TWO, snapshots=2, average=0.5, keep_optimiser=True, keep="best")
    found = trained(recipe, Accuracy())
    alone = trained(replace(recipe, devices=1), Accuracy())
    assert len(found.snapshots) == 2
    assert found.optimiser.keys() == alone.optimiser.keys()
    assert found.score == pytest.approx(alone.score, abs=0.02)
    assert not found.model.training


def test_batchnorm_ends_with_the_mean_of_both() -> None:
    model = PreActResNet(widths=(8, 16))((1, 28, 28), 10, 0)
    few = Examples.of(DIGITS.images[:80], DIGITS.labels[:80])
    recipe = Recipe(Natural(), epochs=1, batch_size=80, optimiser=Adam(1e-9), devices=2)
    ours = fit(recipe, few, None, Trained(model), None, 0).model
    theirs = fit(replace(recipe, devices=1), few, None, Trained(model), None, 0).model
    for name, buffer in ours.named_buffers():
        wanted = dict(theirs.named_buffers())[name]
        if name.endswith("running_mean"):  # the mean of two halves' means is that of the whole
            torch.testing.assert_close(buffer, wanted, rtol=1e-3, atol=1e-5)


def test_snapshots_hold_the_mean_of_batchnorm_too() -> None:
    model = PreActResNet(widths=(8, 16))((1, 28, 28), 10, 0)
    few = Examples.of(DIGITS.images[:80], DIGITS.labels[:80])
    found = fit(Recipe(Natural(), epochs=1, batch_size=40, snapshots=1, devices=2), few, None, Trained(model), None, 0)
    for name, buffer in found.model.named_buffers():
        assert torch.equal(found.snapshots[-1][name], buffer)


def test_the_processes_end_with_the_one_that_began_them(tmp_path: Path) -> None:
    checkpoint = tmp_path / "training.safetensors"
    script = tmp_path / "train.py"
    script.write_text(ORPHANS.format(tests=str(Path(__file__).parent), checkpoint=str(checkpoint)))
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    begun = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": path})
    for _ in range(600):
        time.sleep(0.1)
        if checkpoint.exists():
            break
    begun.kill()
    begun.wait()
    time.sleep(2)
    last = checkpoint.stat().st_mtime_ns
    time.sleep(3)
    assert checkpoint.stat().st_mtime_ns == last


def test_shares_are_disjoint_and_small_batches_are_not_shared() -> None:
    batch = Batch(torch.arange(9.0).view(9, 1, 1, 1), torch.arange(9), torch.ones(9), torch.rand(3, 1, 1, 1))
    shares = [Group(rank, 4).share(batch) for rank in range(4)]
    assert sorted(torch.cat([share.labels for share, _ in shares]).tolist()) == list(range(9))
    assert sum(factor for _, factor in shares) == pytest.approx(1)
    assert [len(share.unlabelled) for share, _ in shares] == [3] * 4  # type: ignore[arg-type]
    means = sum(share.labels.float().mean() * factor for share, factor in shares)
    assert float(means) == pytest.approx(4.0)
    few = replace(batch, inputs=batch.inputs[:7], labels=batch.labels[:7], weights=batch.weights[:7])
    for rank in range(4):
        share, factor = Group(rank, 4).share(few)
        assert (len(share.labels), factor) == (7, 0.25)
    assert Group().share(batch) == (batch, 1.0)


@pytest.mark.parametrize(
    ("recipe", "monitor", "message"),
    [
        (replace(TWO, keep="best"), Refusing(), "^this will not do"),
        (replace(TWO, objective=ACT()), None, "ACT keeps something of its own.*recipe.devices=1"),
        (replace(TWO, optimiser=Adam(1e30), epochs=3), None, "the loss is .* lower the learning rate"),
        (replace(TWO, keep="best"), lambda model, epoch: 0.0, "recipe.devices=2 everything is sent to other processes"),
        (replace(RECIPE, devices=20, batch_size=40), None, "recipe.devices=20, and there are"),
    ],
    ids=["monitor", "companion", "nan", "closure", "too many"],
)
def test_errors_come_back_as_they_were_raised(recipe: Recipe, monitor: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        trained(recipe, monitor)


@pytest.mark.parametrize(("devices", "batch_size"), [(0, 10), (-1, 10), (3, 5)])
def test_numbers_that_cannot_be_are_refused(devices: int, batch_size: int) -> None:
    with pytest.raises(InputError, match="at least two images of a batch for each"):
        Recipe(devices=devices, batch_size=batch_size)


def test_a_process_that_is_killed_ends_the_training_with_a_word() -> None:
    def strike() -> None:
        for _ in range(600):
            time.sleep(0.1)
            server = str(forkserver._forkserver._forkserver_pid)  # type: ignore[attr-defined]
            listed = subprocess.run(["ps", "--ppid", server, "-o", "pid="], capture_output=True, text=True, check=False)
            children = listed.stdout.split()
            if len(children) == 2:
                time.sleep(3)
                os.kill(int(children[1]), signal.SIGKILL)
                return

    threading.Thread(target=strike, daemon=True).start()
    with pytest.raises(RobalError, match=r"one of 2 processes ended|in 2 processes"):
        trained(replace(TWO, keep="best"), Waiting())


def test_a_training_that_was_stopped_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    recipe, checkpoint = replace(TWO, epochs=3), tmp_path / "training.safetensors"
    wanted = trained(recipe)
    trained(replace(recipe, epochs=2), checkpoint=checkpoint)
    assert torch.equal(parameters(trained(recipe, checkpoint=checkpoint).model), parameters(wanted.model))


def test_a_run_trains_on_two_devices(tmp_path: Path) -> None:
    plan = tiny_plan("rounds=1", "recipe.devices=2", "validation.images=20", "recipe.keep=best")
    state = run(plan, plan.data.load(), tmp_path / "run")
    assert [row["round"] for row in state.history] == [0, 1]
    assert state.history[1]["validation"] is not None


ORPHANS = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_devices import TWO, replace, trained
if __name__ == "__main__":
    trained(replace(TWO, epochs=10_000), checkpoint=Path({checkpoint!r}))
"""
SCRIPT = """
import sys
import torch
from torch import distributed
sys.path.insert(0, {tests!r})
from test_devices import TWO, trained, parameters
distributed.init_process_group("gloo")
found = parameters(trained(TWO).model)
torch.save(found, {out!r} + "/" + str(distributed.get_rank()))
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_torchrun_gives_the_same_model_to_every_process(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), out=str(tmp_path)))
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(script)]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / str(rank), weights_only=True) for rank in (0, 1))
    assert torch.equal(first, second)
    assert torch.equal(first, parameters(trained(TWO).model))
