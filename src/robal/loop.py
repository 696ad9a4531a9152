"""The heart: ask, label, train, measure, save; again until done. Killed at any moment and called again, it goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robal.acquisition import Random, choose, examples_of, needs_of, proxy_in
from robal.acquisition.acquisition import parts_of
from robal.audit import alike
from robal.bias import bias_of_classes, describe_bias
from robal.candidates import Candidates
from robal.data import Data
from robal.errors import InputError, RunFolderError
from robal.folder import RunFolder
from robal.images import files_at
from robal.kept import carried_on, describe_guesses, describe_kept, load_kept, save_kept, trained_on
from robal.measure import Audit, Labelled, describe_query, measure, monitor_of
from robal.networks import load_weights
from robal.oracles import Hidden, InFolder, LabelStudio, agreed_by_several
from robal.other_models import PROXY, initial, of_proxy, proxy, suspects, teacher
from robal.pictures import contact_sheet
from robal.plan import Plan
from robal.plan_checks import check
from robal.pool import AUDITED, NONE_OF_THESE, Examples, Pool
from robal.progress import say, track
from robal.records import WEIGHTS, begun_from, check_same_run, check_weights, same_numerics, write_records
from robal.seeds import generator, stream
from robal.state import State, audited_of, reveal, shared_out, there, with_new_classes
from robal.suspects import describe_labels
from robal.training import Trained, fit

PRETRAINED = (
    "The weights that training begins from may cost robustness: standard pre-training can lower it even under "
    "adversarial fine-tuning (arXiv 2312.05716). Compare with a run without them."
)
_SCRATCH = ("training*", "pool-*", "proxy*", "suspects*")  # files of a round at work, without their suffix


def run(plan: Plan, data: Data, folder: Path | str) -> State:
    """Carry out a plan in a run folder, or go on with what was begun there.

    Args:
        plan: the whole of what decides the result.
        data: the images: `plan.data.load()`, or one's own by `Data.from_arrays` and the like.
        folder: where everything is written; call again with the same three to resume.

    Returns:
        The state at the end.

    Raises:
        AwaitingLabels: when a person must answer; call again afterwards.
        InputError: for a plan that the data cannot carry.
        RunFolderError: for a folder of another plan, other data or weights, one in use, or a disk that is full.
    """
    check_weights(Path(folder), plan)
    *_, state = rounds(plan, data, folder)
    return state


def rounds(plan: Plan, data: Data, folder: Path | str) -> Iterator[State]:
    """`run`, one state at a time: as found in the folder, then after each finished round."""
    check(plan, data)
    plan.data.keeps_out(Path(folder))
    with RunFolder(Path(folder)).locked() as place:
        check_same_run(place, plan, data)
        write_records(place, plan, data)
        plan = begun_from(plan, place)
        with same_numerics(place):
            state, previous = load(plan, data, place)
            if not state.history and plan.is_pretrained:
                say(PRETRAINED)
            yield state
            left = range(state.round, state.round if state.is_over(plan) else plan.rounds + 1)
            for number in track(left, "rounds", plan.rounds + 1, state.round):
                while state.round == number:
                    state, previous = step(plan, data, state, previous, place)
                yield state
                if state.is_over(plan):
                    break


def step(plan: Plan, data: Data, state: State, previous: Trained, place: RunFolder) -> tuple[State, Trained]:
    """Do and save the next thing: choose a question, get it answered, or train and measure."""
    if state.question is None:
        return ask(plan, data, state, previous, place), previous
    if state.answers is None:
        return answer(plan, data, state, previous, place), previous
    return learn(plan, data, state, previous, place)


def ask(plan: Plan, data: Data, state: State, previous: Trained, place: RunFolder) -> State:
    """Choose what to ask about: in round 0 the audit's at random and the rest by `start.acquisition`."""
    started, first = time.perf_counter(), state.round == 0
    note: dict[str, Any] = {"evaluations": 0}
    if first and not plan.start.labels and not plan.audit_images:
        nothing, note = torch.empty(0, dtype=torch.int64), {"seconds": 0.0, "entropy": None, "bias": None}
        place.save_question(0, nothing, note)
        return replace(state, question=nothing, note=note)
    candidates, scratch = candidates_of(plan, state, previous), place.round(state.round) / "teacher.safetensors"
    if plan.start.recipe.backbone == plan.recipe.backbone == 0:
        candidates = replace(candidates, store=place.path / "features")
    if not first and "teacher" in needs_of(plan.acquisition):
        beside = previous.teacher
        if beside is None:
            taught = teacher(plan, data, state, scratch)
            beside, started = taught.model, started - taught.earlier
            note["evaluations"] = taught.evaluations
        candidates = replace(candidates, teacher=beside)
    if not first and proxy_in(plan.acquisition) is not None:
        asking = proxy(plan, data, state, place.round(state.round))
        candidates, started = replace(candidates, proxy=asking.model), started - asking.earlier
        note["evaluations"] += asking.evaluations
    if first:
        question = first_question(plan, candidates)
        if plan.audit_images:
            note["alike"] = alike(state.pool.images, question[: plan.audit_images]).tolist()
    else:
        draw = generator(plan.seed, "choose", state.round)
        question = choose(plan.with_threats().acquisition, candidates, plan.per_round, draw)
    if not first and plan.relabel is not None:
        pending, _ = place.relabelled(state.round)  # a person was faster
        doubtful = replace(state, again=torch.cat([state.again, pending]))
        note["again"], evaluations, earlier = suspects(plan, data, doubtful, scratch.with_name("suspects.safetensors"))
        note["evaluations"], started = note["evaluations"] + evaluations, started - earlier
    note["seconds"], described = time.perf_counter() - started, time.perf_counter()
    note["entropy"] = None if first else describe_query(candidates, question)
    note["bias"] = None if first else describe_bias(candidates, question)
    note["describing"] = time.perf_counter() - described  # whoever chose may never have looked at the whole pool
    sheet = place.round(state.round) / "question.png"
    contact_sheet(sheet, state.pool.images, question, [str(index) for index in question.tolist()], most=2_000)
    place.save_question(state.round, question, note)
    scratch.unlink(missing_ok=True)
    return replace(state, question=question, note=note)


def first_question(plan: Plan, candidates: Candidates) -> Tensor:
    """The images of the audit, drawn at random, and then those that training begins with."""
    audit, parts, pool = plan.audit_images, list[Tensor](), candidates.pool
    if audit:
        if len(pool.labelled):  # what is known is trained on
            candidates = _without(candidates, alike(pool.images, pool.labelled))
        parts.append(choose(Random(), candidates, audit, generator(plan.seed, "audit")))
        candidates = _without(candidates, torch.cat([parts[0], alike(pool.images, parts[0])]))
        if len(candidates) < plan.budget:
            raise InputError(
                f"{plan.budget} labels are to be bought and {len(candidates)} images are left beside the audit's "
                f"{audit} and those that are like them: lower rounds, per_round or audit"
            )
    if plan.start.labels:
        by = plan.with_threats().start.acquisition
        parts.append(choose(by, candidates, plan.start.labels, generator(plan.seed, "choose", 0)))
    return torch.cat(parts)


def _without(candidates: Candidates, images: Tensor) -> Candidates:
    return replace(candidates, indices=candidates.indices[~torch.isin(candidates.indices, images)])


def answer(plan: Plan, data: Data, state: State, previous: Trained, place: RunFolder) -> State:
    """Get the question answered, now or, by AwaitingLabels, later."""
    started, question = time.perf_counter(), there(state.question)
    oracle: Any = plan.oracle
    if not len(question):
        return replace(state, answers=question)
    if plan.is_simulated:
        oracle = replace(oracle, labels=data.hidden)
    elif isinstance(oracle, InFolder):
        oracle = oracle.inside(place.path, state.round)
    if isinstance(oracle, LabelStudio) and oracle.predictions and state.round > 0:
        oracle = replace(oracle, guesses=guesses_of(state, previous, question))
    answers = oracle(state.pool, question, stream(plan.seed, "oracle"))
    if plan.is_simulated and data.unforeseen:
        answers = named(oracle, data, answers, place, state.round)
    validation, meta = shared_out(plan, state.round, len(question))
    if len(meta) and plan.meta_answers > 1 and plan.is_simulated:
        first, most, seed = answers[meta], plan.meta_answers, stream(plan.seed, "oracle")
        agreed = agreed_by_several(oracle, state.pool, question[meta], first, most, seed, place.judgements)
        none = state.round == 0 and not bool((agreed >= 0).any())  # then the first answers count: there has to be one
        answers[meta] = first if none else agreed
    again = torch.tensor((state.note or {}).get("again", []), dtype=torch.int64)
    if len(again) and plan.relabel is not None and plan.is_simulated:
        first, most, seed = state.pool.labels[again], plan.relabel.answers, stream(plan.seed, "oracle")
        agreed = agreed_by_several(oracle, state.pool, again, first, most, seed, place.judgements)
        place.save_relabelled(state.round, again, agreed)
    to_train = torch.ones(len(answers), dtype=torch.bool)
    to_train[torch.cat([validation, meta, torch.arange(audited_of(plan, state.round))])] = False
    known, of_meta = int((answers[to_train] >= 0).sum()), int((answers[meta] >= 0).sum())
    if state.round == 0 and plan.start.labels and (known < 2 or (len(meta) and not of_meta)):
        # refused before it is saved, so that the answers can still be changed
        lacking = f" and {of_meta} to the meta set, where one is" if len(meta) else ""
        raise InputError(
            f"the first {plan.start.labels} answers give {known} images to train on, and two are needed{lacking}: "
            "give more of them a class, then `robal resume`"
        )
    place.save_answers(state.round, question, answers, type(oracle).__name__)
    return replace(state, answers=answers, note={**(state.note or {}), "answering": time.perf_counter() - started})


def named(oracle: Hidden, data: Data, answers: Tensor, place: RunFolder, number: int) -> Tensor:
    """Answers in which the classes that nobody had thought of have been named, or are none of the classes."""
    names, found = (*data.classes, *data.unforeseen), answers.clone()
    for label in answers.unique().tolist():
        if label >= len(data.classes):
            is_named = oracle.unforeseen == "new"
            found[answers == label] = (
                place.judgements.add_class(data.classes, names[label], number, "Hidden") if is_named else NONE_OF_THESE
            )
    return found


def guesses_of(state: State, previous: Trained, question: Tensor) -> dict[int, tuple[int, float]]:
    """By image asked about, the model's class and its probability."""
    best = Candidates(previous.model, state.pool, question).probs.max(1)
    said = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return dict(zip(question.tolist(), said, strict=True))


def learn(plan: Plan, data: Data, state: State, previous: Trained, place: RunFolder) -> tuple[State, Trained]:
    """Reveal the answers, train, measure: with the metrics written, the round is over."""
    number, scratch = state.round, place.round(state.round)
    question, answers, note = there(state.question), there(state.answers), state.note or {}
    before = len(state.pool.classes)
    of_classes = bias_of_classes(data.hidden, question, state.pool.candidates) if len(question) else {}  # for readers
    relabelled = place.relabelled(number)
    changed = int((state.labels[relabelled[0]] != relabelled[1]).sum())
    state = reveal(plan, with_new_classes(state, data, place), relabelled)
    started = time.perf_counter()
    added = additions(plan, data, state, question, previous, scratch, before)
    state = replace(state, kept=carried_on(state.kept, added))
    crafting = sum(getattr(part, "example_passes", 0) for part in parts_of(plan.acquisition))
    adding = time.perf_counter() - started
    effective = plan.with_threats()
    recipe = (effective.start if number == 0 else effective).recipe
    repeated = place.repeated(number, state.audit[0].tolist())
    labelled = Labelled.of(plan, data, state, state.kept, repeated)
    started = time.perf_counter()
    classes = state.pool.classes
    fresh, seed = initial(plan, data, classes), stream(plan.seed, "fit", number)
    unlabelled = left_over(state.pool, labelled.examples)
    used = unlabelled if recipe.pool is None else unlabelled[recipe.pool.drawn(len(unlabelled), seed)]
    goes_on = recipe.warm_start or (number == 0 and plan.start.weights)
    trained = previous.widened(fresh)  # where a class was named before anything was trained
    if number or plan.trains_at_start:
        trained = fit(
            recipe,
            trained_on(plan.acquisition, labelled.examples),
            state.pool.images.at_rest(used) if recipe.looks_at_the_pool else None,  # `fit` alone holds them
            previous.widened(fresh) if goes_on else fresh,
            monitor_of(plan, labelled, number),
            seed,
            fresh=lambda number: initial(plan, data, classes, number).model,
            checkpoint=scratch / "training.safetensors",
            what=f"round {number} of {plan.rounds}: training",
        )
    if "audit" in labelled.counts:
        labelled.counts["audit"] += place.judgements.repeated(state.audit[0].tolist())
    times = {
        "choose": note["seconds"] + adding,
        "label": note.get("answering", 0.0),
        "train": trained.earlier + time.perf_counter() - started,
    }
    audit, known = audit_of(state), data.as_known_by(classes)
    row = measure(plan, known, labelled, trained, number, answers, audit, state.history) | {
        "kept": describe_kept(state.kept, known.hidden),
        "pool": describe_guesses(trained, used, len(unlabelled), known.hidden),
        "wrong_labels": describe_labels(recipe.objective, trained, labelled.examples, known.hidden_of_unknown),
        "gradient_evaluations": trained.evaluations + note.get("evaluations", 0) + crafting * added.count("crafted"),
    }
    row["times"] = times | {"evaluate": row.pop("seconds") + note.get("describing", 0.0)}
    row["seconds"] = sum(row["times"].values())
    bias = note.get("bias")
    row["query"] |= {"entropy": note["entropy"], "bias": None if bias is None else bias | of_classes}
    if plan.relabel is not None:
        row["query"]["again"] = {"images": len(relabelled[0]), "changed": changed}
    if len(classes) > len(data.classes):
        row["new_classes"] = list(classes[len(data.classes) :])
    trained.save(scratch / "model.safetensors")
    place.save_query(number, question, answers, classes, files_at(data.images, question))
    names = [classes[label] if label >= 0 else "–" for label in answers.tolist()]
    if len(question):
        contact_sheet(scratch / "query.png", data.images, question, names, most=60)
    place.save_history([*state.history, row])
    tidy(scratch)
    return replace(state, history=(*state.history, row), question=None, note=None, answers=None), trained


def audit_of(state: State) -> Audit | None:
    """The audit set as it is measured on; None without one."""
    indices, labels = state.audit
    if not len(indices):
        return None
    apart = int((state.pool.labels == AUDITED).sum())
    return Audit(state.pool.images.at_rest(indices), labels, apart - len(indices))


def left_over(pool: Pool, examples: Examples) -> Tensor:
    """Positions of the images without a label that are not among the examples under a pseudo-label, ascending."""
    return pool.candidates[~torch.isin(pool.candidates, examples.origin)]


def candidates_of(plan: Plan, state: State, previous: Trained) -> Candidates:
    """What is left to choose from, in the eyes of the model at hand; of the history no test figure is shown."""
    seen = [{key: row[key] for key in ("round", "labelled", "labels", "validation")} for row in state.history]
    left, snapshots = state.pool.candidates, previous.snapshots
    return Candidates(previous.model, state.pool, left, plan.engine, snapshots=snapshots, history=seen)


def additions(
    plan: Plan, data: Data, state: State, question: Tensor, previous: Trained, folder: Path, classes: int
) -> Examples:
    """What the acquisition function adds once the answers are known, saved as it is first made.

    It sees the `classes` that the model at hand tells apart, not those that were named in this round. Images of
    validation and of the meta set are kept from it: a twin of one would give its label to training.
    """
    path = folder / "kept.safetensors"
    if state.round == 0 or path.exists():
        return load_kept(path, state.pool.images)
    state = replace(state, pool=state.pool.limited(classes))
    apart = torch.cat([state.validation, state.meta])
    answered = question[(state.pool.labels[question] >= 0) & ~torch.isin(question, apart)]
    draw = generator(plan.seed, "examples", state.round)
    candidates, labels = candidates_of(plan, state, previous), state.pool.labels[answered]
    if proxy_in(plan.acquisition) is not None:
        asking = Trained.load(folder / PROXY, of_proxy(plan, data, state, 0).model)
        candidates = replace(candidates, proxy=asking.model)
    added = examples_of(plan.with_threats().acquisition, candidates, answered, labels, draw)
    if len(added):
        save_kept(path, added)
    return added


def load(plan: Plan, data: Data, place: RunFolder) -> tuple[State, Trained]:
    """The state and the model that a run folder holds; those of a fresh run where it holds none."""
    state, history = State(data.pool), tuple(place.history())
    for number in range(len(history)):
        asked = place.question(number)
        answers = None if asked is None else place.answers(number, asked[0])
        if asked is None or answers is None:
            raise RunFolderError(f"{place.path} lacks the labels of round {number}: its state.sqlite is not the run's")
        state = replace(state, question=asked[0], note=asked[1], answers=answers, history=history[:number])
        state = reveal(plan, with_new_classes(state, data, place), place.relabelled(number))
        state = replace(
            state, kept=carried_on(state.kept, load_kept(place.round(number) / "kept.safetensors", data.images))
        )
        tidy(place.round(number))  # a kill came after the metrics
    state = replace(state, history=history, question=None, note=None, answers=None)
    trained = initial(plan, data, state.pool.classes)
    if plan.start.weights and not plan.start.labels and not history:
        load_weights(trained.model, place.path / WEIGHTS)
    if history:
        examples = trained_on(plan.acquisition, Labelled.of(plan, data, state, state.kept).examples)
        objective = (plan.start.recipe if len(history) == 1 else plan.recipe).objective
        has_learned = len(history) > 1 or plan.trains_at_start
        companion = objective.begin(trained.model, examples.of_kind(*Examples.TRAINED)) if has_learned else None
        trained = Trained.load(place.round(len(history) - 1) / "model.safetensors", trained.model, companion)
    pending = place.question(state.round)
    if pending is not None:
        answers_so_far = place.answers(state.round, pending[0])
        state = replace(state, question=pending[0], note=pending[1], answers=answers_so_far)
        (place.round(state.round) / "teacher.safetensors").unlink(missing_ok=True)
    return state, trained


def tidy(folder: Path) -> None:
    """Remove what a round needed only while it was at work."""
    for pattern in _SCRATCH:
        for path in folder.glob(f"{pattern}.safetensors"):
            path.unlink(missing_ok=True)
