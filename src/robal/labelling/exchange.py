"""Labels of a run out and in: CSV, JSON with who said what and when, and plain folders of images."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robal.data import Data
from robal.datasets.files import SUFFIXES
from robal.errors import InputError, RunFolderError
from robal.files import whole, write, write_csv
from robal.folder import RunFolder
from robal.images import files_at, picture
from robal.loop import load
from robal.oracles import Judgement, Page, People, standing
from robal.oracles.csv_file import parse_label, read_rows
from robal.plan import Plan
from robal.pool import NONE_OF_THESE, SKIPPED
from robal.records import plan_of


def exported(folder: Path, out: Path, data: Path | None = None) -> str:
    """Write the labels of a run to a file or folder, by the name: .csv, .json, or a new folder; what was written.

    CSV: one row an image, with the name of its file where it is one, as `taken_in` and `oracle=CSVFile` read it.
    JSON: the same, and all judgements, those taken back too. Folder: class/INDEX.png, and images whose label is awaited
    beside the class folders. People may label meanwhile.

    Raises:
        RunFolderError: where nothing can be written, or a folder is not empty.
        InputError: for another ending.
    """
    plan, source = read_run(folder, data)
    place = RunFolder(folder)
    place.judgements.prepare()
    rows = _rows(plan, source, place)
    classes = (*source.classes, *place.judgements.new_classes())
    if out.suffix == ".csv":
        keep_labels(out, {row["index"]: row["label"] for row in rows})
        columns = ["index", *(["file"] if any("file" in row for row in rows) else []), "label", "round", "who", "at"]
        write_csv(out, columns, ([row[name] for name in columns] for row in rows))
    elif out.suffix == ".json":
        write(out, json.dumps({"classes": list(classes), "images": rows}, indent=1, ensure_ascii=False) + "\n")
    elif out.suffix == "":
        _as_folders(rows, source, out)
    else:
        raise InputError(f"labels are written to name.csv, name.json or a folder; {out} is none of them")
    known = sum(row["label"] != "" for row in rows)
    return f"{known} of {len(rows)} images asked about have their label: {out}"


def keep_labels(out: Path, known: Mapping[int, str]) -> None:
    """Refuse to write over labels that somebody has filled in and `known`, by image, has not. Raises InputError."""
    filled = {index: text for index, text in read_rows(out) if text} if out.is_file() else {}
    lost = sum(known.get(index) != text for index, text in filled.items())
    if lost:
        raise InputError(
            f"{out} holds labels that the run does not know ({lost}), and they would be lost: take them in by `robal "
            "labels import` or `robal labels correct`, or name another file"
        )


def taken_in(folder: Path, source: Path, who: str, data: Path | None = None) -> str:
    """Take labels from a CSV file (columns index and label), or from class/INDEX.png, as what `who` says; what came.

    What was said like this before is not said again, and images that are not asked about now are left aside.

    Raises:
        InputError: for a label that is no class, a file whose name is no index, a run that asks nothing of people now.
    """
    plan, images = read_run(folder, data)
    if not isinstance(plan.oracle, Page):
        raise InputError(f"{folder} takes its labels from {type(plan.oracle).__name__}, not from people on the page")
    with RunFolder(folder).locked() as place:
        state, _ = load(plan, images, place)
        if state.question is None or state.answers is not None:
            raise InputError(f"{folder} asks nothing now: `robal resume {folder}` trains until it does")
        classes = (*images.classes, *place.judgements.new_classes())
        given = _from_folders(source, classes) if source.is_dir() else _from_csv(source, classes)
        asked = set(state.question.tolist())
        before = place.judgements.votes(list(asked))
        new = [
            Judgement(uuid.uuid4().hex, image, who, label)
            for image, label in given.items()
            if image in asked and ((image, who) not in before or before[image, who].label != label)
        ]
        place.judgements.record(new)
    aside = sum(image not in asked for image in given)
    return f"{len(new)} labels taken from {source}" + (f"; {aside} of images not asked about now" if aside else "")


def read_run(folder: Path, data: Path | None) -> tuple[Plan, Data]:
    plan = plan_of(folder, data)
    return plan, plan.data.load()


def _rows(plan: Plan, data: Data, place: RunFolder) -> list[dict[str, Any]]:
    """A row for each image that was asked about, in order."""
    names = (*data.classes, *place.judgements.new_classes())
    rows: list[dict[str, Any]] = []
    wanted = plan.oracle.answers if isinstance(plan.oracle, People) else 1
    number, corrections = 0, place.corrections()
    while (asked := place.question(number)) is not None:
        images = asked[0].tolist()
        final, files = place.given(number), dict(zip(images, files_at(data.images, asked[0]), strict=False))
        settled = place.judgements.settled(images, wanted).labels
        said: dict[int, list[Judgement]] = {}
        for one in place.judgements.about(images):
            said.setdefault(one.image, []).append(one)
        for image in images:
            label, who, at = final.get(image, (settled.get(image), "", ""))
            label = corrections.get(image, label)
            judgements = said.get(image, [])
            if judgements:
                stand = standing(judgements).get(image, [])
                who, at = "; ".join(one.who for one in stand), max((one.at for one in stand), default="")
            rows.append(
                {
                    "index": image,
                    **({"file": files[image]} if files else {}),
                    "label": "" if label is None else _word(label, names),
                    "round": number,
                    "who": who,
                    "at": at,
                    "judgements": [
                        {
                            "who": one.who,
                            "at": one.at,
                            "label": None if one.label is None else _word(one.label, names),
                            "decides": one.decides,
                            "guess_seen": one.guess_seen,
                        }
                        for one in judgements
                    ],
                }
            )
        number += 1
    return rows


def _word(label: int, names: tuple[str, ...]) -> str:
    return {SKIPPED: "skip", NONE_OF_THESE: "none"}.get(label) or names[label]


def _as_folders(rows: list[dict[str, Any]], data: Data, out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        raise RunFolderError(f"{out} is not empty; name a new folder")
    for row in rows:
        if row["label"] in ("skip", "none"):
            continue
        name = row["label"].replace("/", "_").lstrip(".") or "_"
        place = out / name if row["label"] else out
        place.mkdir(parents=True, exist_ok=True)
        with whole(place / f"{row['index']}.png") as temporary:
            picture(data.images, row["index"]).save(temporary, "PNG")


def _from_csv(path: Path, classes: tuple[str, ...]) -> dict[int, int]:
    if not path.exists():
        raise InputError(f"there is no file or folder {path}")
    return {index: parse_label(text, classes, f"{path}, image {index}") for index, text in read_rows(path) if text}


def _from_folders(root: Path, classes: tuple[str, ...]) -> dict[int, int]:
    given: dict[int, int] = {}
    for folder in sorted(one for one in root.iterdir() if one.is_dir() and one.name[0] != "."):
        label = parse_label(folder.name, classes, str(folder))
        for file in sorted(folder.iterdir()):
            if file.suffix.lower() not in SUFFIXES:
                continue
            if not file.stem.isdecimal():
                raise InputError(f"{file} should be called by its image's number in the run, as in 123.png")
            if given.setdefault(int(file.stem), label) != label:
                raise InputError(f"image {file.stem} lies in two class folders of {root}")
    return given
