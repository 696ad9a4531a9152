"""A small model and its files: digits, a network of a user's own, a folder of new images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_model
from small_networks import build
from torch import nn

from robal.datasets import load
from robal.seeds import generator


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights of a model that is right on most digits, what it was trained on, and new images."""
    place = tmp_path_factory.mktemp("home")
    digits = load("digits", resize=8)
    old, new, tests = slice(0, 600), slice(600, 680), slice(680, 760)
    np.savez(place / "old.npz", images=digits.images[old].squeeze(1).numpy(), labels=digits.labels[old].numpy())
    np.savez(place / "heap.npz", images=digits.images[new].squeeze(1).numpy())
    np.savez(place / "held.npz", images=digits.images[new].squeeze(1).numpy(), labels=digits.labels[new].numpy())
    np.savez(place / "tests.npz", images=digits.images[tests].squeeze(1).numpy(), labels=digits.labels[tests].numpy())
    for number, (image, label) in enumerate(zip(digits.images[new], digits.labels[new].tolist(), strict=True)):
        for folder in (place / "new" / str(label), place / "flat"):
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(folder / f"{number:03d}.png")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build((1, 8, 8), 10)
        optimiser = torch.optim.Adam(model.parameters(), 0.01)
        inputs, labels = digits.images[old].float() / 255, digits.labels[old]
        for step in range(120):
            some = torch.randperm(600, generator=generator(step, "batch"))[:100]
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(inputs[some]), labels[some]).backward()
            optimiser.step()
    save_model(model, str(place / "weights.safetensors"))
    return place
