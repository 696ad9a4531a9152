"""Published protocols as data: one YAML file each, checked by the same schema as anybody's plan."""

from __future__ import annotations

from importlib.resources import files

from robal.errors import PlanError, did_you_mean


def names() -> tuple[str, ...]:
    """The presets there are."""
    return tuple(
        sorted(entry.name.removesuffix(".yaml") for entry in files(__package__).iterdir() if _is_yaml(entry.name))
    )


def text(name: str) -> str:
    """A preset's YAML, comments and all.

    Raises:
        PlanError: if there is no such preset.
    """
    if name not in names():
        raise PlanError([f"no preset is called {name!r}; {did_you_mean(name, names())}"])
    return (files(__package__) / f"{name}.yaml").read_text(encoding="utf-8")


def summary(name: str) -> str:
    """The first sentence of a preset's leading comment.

    >>> summary("dre-mnist")
    'Robust active learning on MNIST as in DRE (Guo et al., arXiv 2112.02542, tables 3 and 4)'
    """
    comment = []
    for line in text(name).splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# "))
    return " ".join(comment).partition(", corrected")[0].partition(". ")[0]


def _is_yaml(name: str) -> bool:
    return name.endswith(".yaml")
