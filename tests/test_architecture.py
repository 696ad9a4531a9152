"""Imports never run upward, and there are no cycles."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import robal

ROOT = Path(robal.__file__).parent

# From the bottom up; a module imports only from groups below its own, or from its own group when that is one package
# or stands in one line of files that are read from left to right.
GROUPS: list[tuple[str, ...]] = [
    ("errors", "seeds", "progress", "files", "machine", "learning_curves", "wilson"),
    ("networks", "datasets"),
    ("threats", "augmentations"),
    ("engines",),
    (
        "images",
        "pictures",
        "near_duplicates",
        "parquet",
        "hugging_face",
        "pool_files",
        "pool",
        "data",
        "new_images",
        "audit",
    ),
    ("candidates",),
    ("oracles",),
    ("attacks",),
    ("scores",),
    ("acquisition", "evaluation", "objectives"),
    ("training",),
    (
        "source",
        "plan",
        "plan_checks",
        "plans",
        "folder",
        "kept",
        "state",
        "bias",
        "measure",
        "records",
        "selection",
        "suspects",
        "other_models",
        "loop",
        "subjects",
        "assessment",
    ),
    ("report",),
    ("export", "doctor", "methods"),
    ("labelling",),
    ("presets",),
    ("retraining",),
    ("studies",),
    ("cli",),
]
RANK = {name: rank for rank, group in enumerate(GROUPS) for name in group}
_LINES = [group for group in GROUPS if {"images", "loop"} & set(group)]
IN_ORDER = {"files", "errors", "seeds", "progress", "learning_curves"}.union(*_LINES)
MODULES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.stem != "__init__")


def part_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "robal":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("robal.")}
    return found & set(RANK)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_never_run_upward(path: Path) -> None:
    here = part_of(path)
    assert here in RANK, f"{path.name} stands in no group: add it to GROUPS, and to the drawing in the design"
    for name in imports_of(path) - {here}:
        below = RANK[name] < RANK[here]
        before = RANK[name] == RANK[here] and {name, here} <= IN_ORDER
        before = before and GROUPS[RANK[here]].index(name) < GROUPS[RANK[here]].index(here)
        assert below or before, f"{path.relative_to(ROOT)} imports {name}, which is not below {here}"


def test_there_are_no_cycles() -> None:
    """Nor inside a package; what is imported for types alone, or within a function, does not count."""
    paths = {".".join(("robal", *path.relative_to(ROOT).with_suffix("").parts)): path for path in ROOT.rglob("*.py")}
    paths = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    imported: dict[str, set[str]] = {name: set() for name in paths}
    for name, path in paths.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.module:
                said = (f"{node.module}.{alias.name}" for alias in node.names)
                imported[name] |= {one if one in paths else node.module for one in said}
    TopologicalSorter(imported).prepare()  # raises CycleError, which names them


def test_nothing_is_pickled() -> None:
    allowed = {"cifar.py"}  # a restricted unpickler of its own, which admits arrays and nothing else
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert "torch.load(" not in text, path
        assert "import pickle" not in text or path.name in allowed, path


def test_the_drawing_names_every_part() -> None:
    drawing = (ROOT.parents[1] / "docs" / "design.md").read_text(encoding="utf-8").split("```")[1]
    assert set(RANK) <= set(drawing.split())
