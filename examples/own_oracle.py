# %% [markdown]
# # An oracle of one's own
# Who answers is a function from images of the pool to labels: a web service, a microscope, a colleague. Here it is a
# second model, which sometimes declines.

# %%
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from robal import Adversarial, Data, Evaluation, Plan, Pool, Recipe, run
from robal.pool import SKIPPED

digits = load_digits()


@dataclass(frozen=True)
class Neighbours:
    """Answers by the nearest neighbours in an archive of its own; skips what they do not agree upon."""

    agreeing: float = 0.8

    @cached_property
    def _archive(self) -> KNeighborsClassifier:
        return KNeighborsClassifier(5).fit(digits.data[1500:], digits.target[1500:])

    def __call__(self, pool: Pool, indices: Tensor, seed: int) -> Tensor:
        pixels = adaptive_avg_pool2d(pool.images.batch(indices), 8).flatten(1) * 16
        shares = torch.as_tensor(self._archive.predict_proba(pixels.numpy()))
        best = shares.max(1)
        return best.indices.where(best.values >= self.agreeing, torch.tensor(SKIPPED))  # int64 [n]


# %% [markdown]
# One that has to wait for somebody raises `robal.errors.AwaitingLabels`; the run then stops, and asks again when it is
# called again. Nothing is asked twice.

# %%
data = Data.from_arrays(digits.images[:1500] / 16, digits.target[:1500], resize=28)
plan = replace(
    Plan(),
    oracle=Neighbours(),
    rounds=1,
    recipe=Recipe(Adversarial(), epochs=3),
    evaluation=Evaluation(images=50, at_end=()),
)
folder = "runs/own-oracle"
row = run(plan, data, folder).history[-1]
print(f"{row['labelled']} labels, {row['labels']['skipped']} skipped, accuracy {row['accuracy']:.1%}")
