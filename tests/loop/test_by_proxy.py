"""A network of its own that chooses, trainings begun several times, and epochs chosen without an attack."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from robal.acquisition import ByProxy, EntropyMix, Margin, Mix, Random, choose
from robal.candidates import Candidates
from robal.data import Data
from robal.errors import InputError
from robal.evaluation import clean, probabilities
from robal.images import InMemory
from robal.loop import run
from robal.measure import Labelled, monitor_of
from robal.networks import LeNet5
from robal.other_models import initial
from robal.plan_checks import check
from robal.plans import decode, encode
from robal.pool import Pool
from robal.seeds import generator, stream
from robal.state import State
from robal.training import Trained, fit
from small_models import convnet
from tiny_runs import Apart, carry_out, outcome, rows, tiny_plan

EPOCHS = 8
AFRESH = (
    "recipe.optimiser.lr=0.005",
    "evaluation={each_round: [], at_end: []}",
    "validation={bought_share: 0.2, measure: loss}",
    *(
        f"{where}={{objective: Natural, epochs: {EPOCHS}, keep: best, patience: 4, restarts: 2, warm_start: false}}"
        for where in ("start.recipe", "recipe")
    ),
)
BY_PROXY = "acquisition={name: ByProxy, inner: DFAL, network: {name: LeNet5, dropout: 0.1}}"


@pytest.fixture(scope="module")
def transfer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("proxy")
    watched = Apart(partial(carry_out, (*AFRESH, BY_PROXY), folder / "run"), folder / "log", folder / "calls")
    assert watched.run() == 0, watched.said
    return folder


def test_the_proxy_asks_what_it_would_ask_in_a_run_of_its_own(transfer: Path, tmp_path: Path, data: Data) -> None:
    """Where the proxy's network is the model's, and both are trained alike, ByProxy(Margin) is Margin."""
    same = tiny_plan(*AFRESH, "rounds=1", "acquisition={name: ByProxy, inner: Margin, network: LeNet5}")
    state = run(same, data, tmp_path / "run")
    recipe, labelled = same.start.recipe, state.pool.labelled
    first = torch.tensor([image for number, _, image in outcome(tmp_path / "run")["questions"] if number == 0])
    pool = Pool.unlabelled(data.images, data.classes).reveal(first, state.pool.labels[first])
    share = round(0.2 * len(first))
    drawn = torch.randperm(len(first), generator=generator(same.seed, "validation", 0))[:share]
    known = Labelled.of(same, data, State(pool, validation=first[drawn.sort().values]))
    proxy = fit(
        recipe,
        known.examples,
        None,
        initial(same, data),
        monitor_of(same, known, 0),
        stream(same.seed, "proxy", 0),
        fresh=lambda number: initial(same, data, number=number).model,
    )
    by_hand = choose(Margin(), Candidates(proxy.model, pool, pool.candidates), 10, generator(0))
    assert sorted(set(labelled.tolist()) - set(first.tolist())) == sorted(by_hand.tolist())


def test_twins_are_the_proxys(transfer: Path, data: Data) -> None:
    metrics = rows(transfer / "run")
    assert metrics[-1]["kept"]["twin"] > metrics[1]["kept"]["twin"] > 0
    twins = load_file(transfer / "run/rounds/001/kept.safetensors")
    model = initial(tiny_plan(), data).model
    weights = transfer / "run/rounds/000/model.safetensors"
    ours = Trained.load(weights, model).model
    origin = next(value for name, value in twins.items() if "origin" in name)
    images = next(value for name, value in twins.items() if "images" in name)
    before, after = (ours(part).argmax(1) for part in (data.images.batch(origin), images))
    assert (before == after).float().mean() > 0.5  # a step across another network's boundary


def test_what_the_proxy_cost_is_counted_and_its_files_are_gone(transfer: Path) -> None:
    first, *later = rows(transfer / "run")
    assert all(row["gradient_evaluations"] > 1.5 * first["gradient_evaluations"] for row in later)
    names = {path.name for path in (transfer / "run/rounds").rglob("*.safetensors")}
    assert names == {"model.safetensors", "kept.safetensors"}


@pytest.mark.parametrize(
    ("save", "number", "before"),
    [
        pytest.param("fit.save_tensors", 6, False, marks=pytest.mark.slow),  # in a later start of round 0
        ("save_question", 1, True),  # the proxy is there and its question is not
        pytest.param("save_kept", 0, True, marks=pytest.mark.slow),  # its answers are there, and its twins are not
    ],
)
def test_killed_it_ends_as_if_it_had_not_been(
    transfer: Path, tmp_path: Path, save: str, number: int, before: bool
) -> None:
    calls = (transfer / "calls").read_text(encoding="utf-8").split()
    position = [place for place, name in enumerate(calls) if name.endswith(save)][number]
    work = partial(carry_out, (*AFRESH, BY_PROXY), tmp_path / "run")
    killed = Apart(work, tmp_path / "log", kill_at=position, before=before)
    assert killed.run() == -9, killed.said
    again = Apart(work, tmp_path / "log")
    assert again.run() == 0, again.said
    assert outcome(tmp_path / "run") == outcome(transfer / "run")


def test_what_goes_and_what_does_not(data: Data) -> None:
    plan = tiny_plan(BY_PROXY)
    assert decode(encode(plan)) == plan
    with pytest.raises(InputError, match="EntropyMix needs teacher"):
        ByProxy(EntropyMix())
    with pytest.raises(InputError, match="needs proxy"):
        ByProxy(ByProxy())
    twice = "acquisition={name: Mix, first: {name: ByProxy, network: LeNet5DRE}, second: {name: ByProxy}}"
    with pytest.raises(InputError, match="2 different networks"):
        check(tiny_plan(twice), data)
    pool = Pool.unlabelled(InMemory(torch.zeros(4, 1, 8, 8)), ["a", "b", "c", "d"])
    with pytest.raises(InputError, match=r"give select\(\.\.\., proxy=model\)"):
        choose(Mix(ByProxy(), Random()), Candidates(convnet(), pool, pool.candidates), 2, generator(0))


# Restarts


def test_the_best_of_several_starts_is_kept_at_the_cost_of_all(data: Data) -> None:
    plan = tiny_plan(*AFRESH, "recipe.restarts=3", "recipe.patience=null")
    drawn = torch.arange(60)
    pool = Pool.unlabelled(data.images, data.classes).reveal(drawn, data.hidden[drawn])  # type: ignore[index]
    known = Labelled.of(plan, data, State(pool, validation=drawn[:12]))
    seen: list[float] = []
    judge: Any = monitor_of(plan, known, 1)

    def monitor(model: Any, epoch: int) -> float:
        seen.append(judge(model, epoch))
        return seen[-1]

    def begun(number: int) -> Any:
        return initial(plan, data, number=number).model

    found = fit(plan.recipe, known.examples, None, Trained(begun(0)), monitor, 7, fresh=begun)
    assert len(seen) == 3 * EPOCHS
    assert found.score == max(seen) == pytest.approx(judge(found.model, 0))
    assert found.epoch == seen.index(max(seen)) % EPOCHS + 1
    assert found.evaluations == 3 * EPOCHS * len(known.examples)
    assert len({round(score, 9) for score in seen}) == 3 * EPOCHS  # each start is another one


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["recipe.restarts=0"], "at least 1; 0 came"),
        (["recipe={restarts: 2, keep: best}"], "warm_start=false"),
        (["recipe={restarts: 2, warm_start: false}"], 'go with keep="best"'),
        (["validation.measure=both"], "'accuracy' or 'loss'"),
    ],
)
def test_restarts_and_measures_that_mean_nothing_are_refused(settings: list[str], why: str) -> None:
    with pytest.raises(Exception, match=why):
        tiny_plan(*settings)


@pytest.mark.parametrize("measure", ["accuracy", "loss"])
def test_validation_without_an_attack_is_that_of_the_images_as_they_are(data: Data, measure: str) -> None:
    plan = tiny_plan(f"validation.measure={measure}")
    drawn = torch.arange(40)
    pool = Pool.unlabelled(data.images, data.classes).reveal(drawn, data.hidden[drawn])  # type: ignore[index]
    known = Labelled.of(plan, data, State(pool, validation=drawn))
    assert known.validation is not None
    model, (inputs, labels) = LeNet5()(data.images.shape, 10, 0), known.validation
    found = monitor_of(plan, known, 0)
    assert found is not None
    loss = -probabilities(model, inputs)[torch.arange(len(labels)), labels].log().mean().item()
    wanted = clean(model, inputs, labels).accuracy if measure == "accuracy" else -loss
    assert found(model, 0) == pytest.approx(wanted)


def test_a_run_whose_validation_knows_no_attack_measures_none(transfer: Path) -> None:
    for row in rows(transfer / "run"):
        assert row["validation"]["robust_accuracy"] == {}
        assert row["robust_accuracy"] == {}
