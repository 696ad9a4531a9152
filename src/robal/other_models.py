"""The models of a round beside the one that counts: fresh, a teacher, a proxy, those that look for wrong labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from robal.acquisition import proxy_in
from robal.data import Data
from robal.measure import Labelled, monitor_of
from robal.networks import channels_last
from robal.objectives import Natural
from robal.plan import Plan, Relabel, device_of
from robal.pool import Examples
from robal.seeds import stream
from robal.state import State
from robal.suspects import out_of_fold, queue
from robal.threats import with_threat
from robal.training import Trained, fit

PROXY = "proxy-weights.safetensors"


def initial(plan: Plan, data: Data, classes: tuple[str, ...] | None = None, number: int = 0) -> Trained:
    """The network before any training: its weights are a function of the plan's seed, and of the number of a restart.

    `classes`: else the data's.
    """
    seed = stream(plan.seed, "restart", number) if number else plan.seed
    model = plan.network(data.images.shape, len(classes or data.classes), seed)
    return Trained(channels_last(model.to(device_of(plan.device)), data.images.shape).eval())


def teacher(plan: Plan, data: Data, state: State, checkpoint: Path) -> Trained:
    """A standard model, trained naturally and from scratch on the bought training examples, as round 0's is."""
    recipe = replace(
        plan.start.recipe,
        objective=Natural(),
        keep="last",
        patience=None,
        restarts=1,
        keep_optimiser=False,
        snapshots=0,
        pool=None,
    )
    examples = Labelled.of(plan, data, state).examples
    seed = stream(plan.seed, "teacher", state.round)
    what = f"round {state.round}: a standard model beside the robust one"
    start = initial(plan, data, state.pool.classes)
    return fit(recipe, examples, None, start, None, seed, checkpoint=checkpoint, what=what)


def suspects(plan: Plan, data: Data, state: State, checkpoint: Path) -> tuple[list[int], int, float]:
    """Bought training images whose labels look wrong, the worst first; what the search cost, seconds before a kill."""
    assert plan.relabel is not None
    what = f"round {state.round}: looking for wrong labels"
    examples, probs, spent, earlier = judged(plan, data, state, plan.relabel.folds, what, checkpoint)
    fresh = (~torch.isin(examples.origin, state.again)).nonzero().flatten()
    chosen = queue(probs[fresh], examples.labels[fresh], plan.relabel.per_round)
    return examples.origin[fresh][chosen].tolist(), spent, earlier


def judged(
    plan: Plan, data: Data, state: State, folds: int, what: str, checkpoint: Path | None = None
) -> tuple[Examples, Tensor, int, float]:
    """The bought training examples, and what `out_of_fold` says of them."""
    examples = Labelled.of(plan, data, state).examples.of_kind("bought")
    found = out_of_fold(
        with_threat((plan.relabel or Relabel()).recipe, plan.threat),
        examples,
        lambda: initial(plan, data, state.pool.classes).model,
        folds,
        stream(plan.seed, "suspects", state.round),
        checkpoint=checkpoint,
        what=what,
    )
    return examples, *found


def proxy(plan: Plan, data: Data, state: State, folder: Path) -> Trained:
    """`ByProxy`'s network, trained from scratch on what the model at hand was trained on, and saved for `additions`."""
    number = state.round - 1
    recipe = replace(
        (plan.with_threats().start if number == 0 else plan.with_threats()).recipe,
        warm_start=False,
        keep_optimiser=False,
        shrink=1.0,
        snapshots=0,
        pool=None,
        backbone=1.0,  # it is another network, and nobody has trained it
        probe=0.0,
    )
    labelled = Labelled.of(plan, data, state, state.kept)
    taught = fit(
        recipe,
        labelled.examples,
        None,
        of_proxy(plan, data, state, 0),
        monitor_of(plan, labelled, number),
        stream(plan.seed, "proxy", number),
        fresh=lambda restart: of_proxy(plan, data, state, restart).model,
        checkpoint=folder / "proxy.safetensors",
        what=f"round {state.round}: the proxy",
    )
    taught.save(folder / PROXY)
    return taught


def of_proxy(plan: Plan, data: Data, state: State, number: int) -> Trained:
    """`ByProxy`'s network before any training; `number` as for `initial`."""
    of = proxy_in(plan.acquisition)
    assert of is not None
    return initial(replace(plan, network=of.network), data, state.pool.classes, number)
