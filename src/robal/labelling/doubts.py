"""Labels of a run that look wrong, listed for a person; and what the person says of them, taken in."""

from __future__ import annotations

import uuid
from pathlib import Path

import torch

from robal.errors import InputError
from robal.files import write_csv
from robal.folder import RunFolder
from robal.images import files_at
from robal.labelling.exchange import keep_labels, read_run
from robal.loop import load, tidy
from robal.oracles import Judgement, answer_of
from robal.oracles.csv_file import parse_label, read_rows
from robal.other_models import judged
from robal.pictures import contact_sheet
from robal.records import begun_from
from robal.suspects import quality, queue


def doubted(folder: Path, out: Path, most: int = 100, folds: int = 3, data: Path | None = None) -> str:
    """Write the bought training labels that look wrong to a CSV file, the worst first, and a picture beside it.

    Columns: index, file (where images are files), label (empty, to be filled in), given, suggested (the likeliest class
    by models that never saw the image), quality (the probability of the given label).

    Raises:
        InputError: for a name that is not .csv, or too few labels.
        RunFolderError: for a folder without a run.
        RobalError: where cleanlab is not installed.
    """
    if out.suffix.lower() != ".csv":
        raise InputError(f"the list is a .csv file, such as suspects.csv; {out} came")
    plan, images = read_run(folder, data)
    keep_labels(out, {})
    with RunFolder(folder).locked() as place:
        plan = begun_from(plan, place)
        state, _ = load(plan, images, place)
        state = state.relabelled(*place.relabelled(state.round))
    examples, probs, _, _ = judged(plan, images, state, folds, "looking for wrong labels")
    scores, wrong = quality(probs, examples.labels)
    worst = queue(probs, examples.labels, most).tolist()
    classes, rows, titles = state.pool.classes, [], []
    files = files_at(state.pool.images, examples.origin[worst])
    for order, place in enumerate(worst):
        given, suggested = classes[examples.labels[place]], classes[int(probs[place].argmax())]
        file = [files[order]] if files else []
        rows.append([int(examples.origin[place]), *file, "", given, suggested, f"{scores[place].item():.4f}"])
        titles.append(f"{given}? {suggested}")
    write_csv(out, ["index", *(["file"] if files else []), "label", "given", "suggested", "quality"], rows)
    told = f"{int(wrong.sum())} of {len(examples)} labels look wrong; {len(worst)} of them, the worst first: {out}"
    if worst:
        sheet = out.with_suffix(".png")
        contact_sheet(sheet, state.pool.images, examples.origin[worst], titles, most=most)
        told += f" and {sheet}"
    return told


def corrected(folder: Path, source: Path, who: str, data: Path | None = None) -> str:
    """Take corrections from a CSV file (columns index and label; rows without a label are left aside); what came.

    They hold from the next training on, are recorded with who and when, and count as labels bought.

    Raises:
        InputError: for an image that has no label yet, a label that is no class, or a run that is over.
    """
    plan, images = read_run(folder, data)
    with RunFolder(folder).locked() as place:
        state, _ = load(plan, images, place)
        if state.is_over(plan):
            raise InputError(
                f"{folder} has done all its {len(state.history) - 1} rounds, and nothing would be trained on "
                "corrections"
            )
        labels = state.relabelled(*place.relabelled(state.round)).labels
        classes, changed = state.pool.classes, dict[int, int]()
        for index, text in read_rows(source):
            if not text:
                continue
            if index >= len(labels) or int(labels[index]) < 0:
                raise InputError(f"{source}: image {index} has no label in {folder} that could be corrected")
            label = parse_label(text, classes, f"{source}, image {index}")
            if label != int(labels[index]):
                changed[index] = label
        before = place.judgements.about(list(changed))
        known = {one.image for one in before}
        first = [
            answer_of(index, 0, label)
            if plan.is_simulated
            else Judgement(uuid.uuid4().hex, index, type(plan.oracle).__name__, label)
            for index in changed
            if index not in known
            for label in [int(labels[index])]
        ]
        place.judgements.record(
            [
                *first,
                *(Judgement(uuid.uuid4().hex, index, who, label, decides=True) for index, label in changed.items()),
            ]
        )
        if changed:
            tidy(place.round(state.round))  # a training that was begun had the labels from before
        now = torch.tensor(list(changed.items()), dtype=torch.int64).view(-1, 2)
        place.save_relabelled(state.round, now[:, 0], now[:, 1])
    return f"{len(changed)} labels corrected, from round {state.round} on: `robal resume {folder}`"
