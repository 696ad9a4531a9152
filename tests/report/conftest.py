"""A run folder with everything in it, small and made up, as `robal run` would leave it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

PLAN: dict[str, Any] = {
    "robal": "0.1.0",
    "data": {"name": "digits", "folder": "", "resize": 28, "held_out": "train", "held_out_images": 5000},
    "network": {"name": "LeNet5"},
    "threat": {"name": "Linf", "eps": 0.2},
    "start": {"labels": 50, "recipe": {"objective": {"name": "Natural"}, "epochs": 30}},
    "acquisition": {"name": "DRE", "bins": 50, "allocation": "largest_remainder", "score": {"name": "MaxEntropy"}},
    "oracle": {"name": "Hidden", "noise": 0.0},
    "recipe": {
        "objective": {
            "name": "Adversarial",
            "attack": {"name": "PGD", "steps": 10, "step_size": 0.05, "random_start": True},
        },
        "epochs": 30,
        "batch_size": 100,
        "optimiser": {"name": "Adam", "lr": 0.001},
        "warm_start": True,
        "keep": "last",
    },
    "validation": {"images": 500, "bought_share": 0.0},
    "evaluation": {"images": 1000, "each_round": [{"name": "PGD", "steps": 50}], "at_end": [{"name": "AutoAttack"}]},
    "per_round": 50,
    "rounds": 6,
    "seed": 0,
}
ENVIRONMENT: dict[str, Any] = {
    "versions": {"robal": "0.1.0", "torch": "2.13.0", "python": "3.11.2"},
    "platform": "Linux x86_64",
    "cpu": "a processor",
    "threads": 2,
    "device": "cpu",
    "command": "robal run plan.yaml --into digits-dre",
    "data": {
        "name": "digits",
        "about": "the scikit-learn digits, shuffled with seed 0 and cut in three",
        "pool": 1258,
        "validation": 180,
        "test": 359,
        "classes": [str(digit) for digit in range(10)],
        "shape": [1, 28, 28],
    },
}


def _strip(rng: np.random.Generator, classes: list[str], images: int = 20, side: int = 36) -> bytes:
    sheet = Image.new("RGB", (10 * (side + 4), 2 * (side + 16)), "white")
    pen = ImageDraw.Draw(sheet)
    for index in range(images):
        left, top = index % 10 * (side + 4) + 2, index // 10 * (side + 16) + 2
        pixels = (rng.random((8, 8)) * np.hanning(10)[1:-1, None] * np.hanning(10)[None, 1:-1] * 255).astype(np.uint8)
        sheet.paste(Image.fromarray(pixels).resize((side, side)), (left, top))
        pen.text((left + side // 2 - 3, top + side), classes[index % len(classes)], fill="black")
    written = io.BytesIO()
    sheet.save(written, format="png")
    return written.getvalue()


def _row(number: int, rng: np.random.Generator, boost: float, last: bool) -> dict[str, Any]:
    bought, classes = 50 * (number + 1), 10
    accuracy = round(359 * min(0.985, 0.71 + boost + 0.24 * (1 - np.exp(-number / 1.8)))) / 359
    robust = round(200 * (0.0 if number == 0 else 0.3 + boost + 0.38 * (1 - np.exp(-number / 2.2)))) / 200
    edges = np.linspace(0.0, float(np.log(10)), 51)
    pool = np.histogram(np.clip(rng.gamma(1.3, 0.5 - 0.04 * number, 1258 - bought), 0, 2.3), edges)[0]
    chosen = np.histogram(np.clip(rng.gamma(2.0, 0.55 - 0.04 * number, 50), 0, 2.3), edges)[0]
    clean_c = np.clip(accuracy + 0.08 * rng.standard_normal(classes), 0, 1).tolist()
    robust_c = np.clip(robust + 0.1 * rng.standard_normal(classes), 0, 1).tolist()
    clean_c[8] = robust_c[8] = None
    robust_accuracy = {"PGD-50": robust} | ({"AutoAttack": max(0.0, robust - 0.045)} if last else {})
    return {
        "round": number,
        "labelled": bought,
        "accuracy": accuracy,
        "robust_accuracy": robust_accuracy,
        "seconds": 12.3 + 4 * number + (40 if last else 0),
        "labels": {
            "training": bought - 4 * number,
            "validation": 3 * number,
            "repeated": number,
            "skipped": number,
            "bought": bought,
            "free_validation": 180,
        },
        "validation": {"accuracy": accuracy - 0.01, "robust_accuracy": {"PGD-50": robust}, "images": 180},
        "per_class": {
            "accuracy": clean_c,
            "robust_accuracy": dict.fromkeys(robust_accuracy, robust_c),
        },
        "images": {"clean": 359, "PGD-50": 200, "AutoAttack": 200},
        "times": {
            "choose": 0.2 + 0.3 * number,
            "label": 0.1,
            "train": 9.0 + 3 * number,
            "evaluate": 3.0 + 0.7 * number + (40 if last else 0),
        },
        "gradient_evaluations": 123_400 * (number + 1),
        "epoch_kept": 10 + number,
        "query": {
            "images": 50,
            "classes": rng.multinomial(50, rng.dirichlet([4.0] * classes)).tolist(),
            "answers": {"skipped": 1 if number else 0, "none_of_these": 0},
            "entropy": {"edges": edges.tolist(), "pool": pool.tolist(), "chosen": chosen.tolist()} if number else None,
        },
    }


def write_run(
    folder: Path,
    *,
    rounds: int = 6,
    planned: int = 6,
    boost: float = 0.0,
    plan: dict[str, Any] | None = None,
    classes: list[str] | None = None,
    change: Callable[[dict[str, Any]], None] = lambda row: None,
) -> Path:
    """Write a run folder that holds the rounds 0 … `rounds`; `change` may edit each row before it is written."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    full = PLAN | {"rounds": planned} | (plan or {})
    (folder / "plan.yaml").write_text(yaml.safe_dump(full, sort_keys=False, allow_unicode=True), "utf-8")
    environment = json.loads(json.dumps(ENVIRONMENT))
    environment["data"]["classes"] = classes or environment["data"]["classes"]
    (folder / "environment.json").write_text(json.dumps(environment), "utf-8")
    lines = []
    for number in range(rounds + 1):
        row = _row(number, rng, boost, last=number == planned)
        change(row)
        lines.append(json.dumps(row) + "\n")
        here = folder / "rounds" / f"{number:03d}"
        here.mkdir(parents=True)
        (here / "query.png").write_bytes(_strip(rng, environment["data"]["classes"]))
        (here / "query.csv").write_text("order,index,label,class\n0,17,5,5\n", "utf-8")
    (folder / "metrics.jsonl").write_text("".join(lines), "utf-8")
    return folder


@pytest.fixture(name="write_run", scope="session")
def _write_run() -> Callable[..., Path]:
    return write_run
