"""What an acquisition function adds to the training set beside the labels: twins stay, pseudo-labels last one round."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robal.acquisition.crafted import leaves_images_out
from robal.images import Images, unit
from robal.pool import Examples
from robal.training.tensors import load_tensors, save_tensors
from robal.training.trained import Trained

_PSEUDO = Examples.KINDS.index("pseudo")


def carried_on(kept: Examples, added: Examples) -> Examples:
    """What training uses beside the bought examples: all that was ever added, but of pseudo-labels only the new."""
    return Examples.join([kept.of_kind("twin", "crafted"), added])


def trained_on(acquisition: object, examples: Examples) -> Examples:
    """Without bought images of which an example was crafted, where a `Crafted(images=False)` is in `acquisition`."""
    if not leaves_images_out(acquisition):
        return examples
    is_bought = examples.kind == Examples.KINDS.index("bought")
    return examples.only(~(is_bought & torch.isin(examples.origin, examples.of_kind("crafted").origin)))


def save_kept(path: Path, added: Examples) -> None:
    """Write what one round added, whole or not at all. Of pseudo-labelled images the position in the pool is enough."""
    tensors = {name: getattr(added, name) for name in ("labels", "origin", "kind", "weight")}
    save_tensors(path, tensors | {"images": added.images[added.kind != _PSEUDO]}, {})


def load_kept(path: Path, images: Images) -> Examples:
    """Read what `save_kept` wrote; nothing where there is no file. Raises RunFolderError for a damaged one."""
    if not path.exists():
        return Examples.none()
    tensors, _ = load_tensors(path)
    own, pseudo = tensors.pop("images"), tensors["kind"] == _PSEUDO
    pixels = images.at_rest(tensors["origin"].clamp_min(0))
    if len(own):
        pixels = unit(pixels).clone()
        pixels[~pseudo] = unit(own)
    return Examples(pixels, **tensors)


def describe_kept(kept: Examples, hidden: Tensor | None) -> dict[str, Any]:
    """Counts for the metrics; where the true labels are known (a simulation), how many pseudo-labels are right."""
    pseudo = kept.of_kind("pseudo")
    right = None
    if hidden is not None and len(pseudo):
        right = (hidden[pseudo.origin] == pseudo.labels).double().mean().item()
    return {"twin": kept.count("twin"), "crafted": kept.count("crafted"), "pseudo": len(pseudo), "pseudo_right": right}


def relabelled_too(kept: Examples, images: Tensor, labels: Tensor) -> Examples:
    """Twins, and what else was crafted of bought images, with the labels that these have now; gone where that is none.

    Args:
        kept: what an acquisition function added.
        images: [q] int64, positions in the pool whose labels have changed.
        labels: [q] int64, the new ones.
    """
    if not len(images) or not len(kept):
        return kept
    order = images.argsort()
    place = torch.searchsorted(images[order], kept.origin).clamp_max(len(images) - 1)
    is_theirs = (images[order][place] == kept.origin) & (kept.kind != _PSEUDO)
    now = replace(kept, labels=torch.where(is_theirs, labels[order][place], kept.labels))
    return now.only(now.labels >= 0)


def describe_guesses(trained: Trained, used: Tensor, images: int, hidden: Tensor | None) -> dict[str, Any] | None:
    """Of pool training: how many images have a pseudo-label, why others have none, what share is right in a simulation.

    Args:
        trained: its `guesses`, [U], are None where no teacher was trained.
        used: [U] int64, the images they are of, positions in the pool.
        images: how many images without a label there were, of which `used` may have been drawn.
        hidden: [N] int64, the true labels, -1 where unknown, or None; looked at for this figure alone.

    Returns:
        None without a teacher. "unsure" and "disputed" say how many images were kept out by the teacher's confidence
        and by the witness, "outside", where there are any, how many it took for none of the classes; "collapsed" says
        that the others were left out too.
    """
    guesses = trained.guesses
    if guesses is None:
        return None
    said, right = guesses >= 0, None  # none at all: the teacher was unsure of every image, or had collapsed
    true = None if hidden is None else hidden[used]
    if true is not None and bool((said & (true >= 0)).any()):
        right = (true == guesses)[said & (true >= 0)].double().mean().item()
    counts = {"images": images, "pseudo": int(said.sum()), "pseudo_right": right}
    return {**counts, **trained.refused, "collapsed": trained.has_collapsed}
