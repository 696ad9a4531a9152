# %% [markdown]
# # An attack from elsewhere
# A frozen dataclass of a few lines makes any attack one of robal's: in plans, in training, in evaluations.

# %%
from dataclasses import dataclass, replace

import foolbox
import torch
from torch import Tensor, nn

from robal import PGD, Adversarial, Evaluation, Linf, Recipe, run
from robal.plans import read_plan
from robal.threats import Threat


@dataclass(frozen=True)
class FoolboxPGD:
    """foolbox's PGD under the threat of the plan."""

    steps: int = 3
    threat: Threat | None = None  # where it is None, a run puts its own here

    @property
    def label(self) -> str:
        """What its result is called in metrics and reports."""
        return f"foolbox-PGD-{self.steps}"

    @property
    def passes(self) -> int:
        """Gradient evaluations an image costs."""
        return self.steps

    def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        attack = foolbox.attacks.LinfPGD(rel_stepsize=2.5 / self.steps, steps=self.steps, random_start=False)
        known = foolbox.PyTorchModel(model, bounds=(0, 1))
        moved, _, _ = attack(known, inputs, labels, epsilons=(self.threat or Linf()).eps)
        return moved


# %% [markdown]
# The gate that calls it puts the model into eval mode, checks that the attack stays inside threat and [0, 1], and
# leaves no trace. Here it crafts in training, and measures beside robal's own PGD.

# %%
plan = replace(
    read_plan(None, ["rounds=1", "start.labels=200"]),
    recipe=Recipe(Adversarial(attack=FoolboxPGD()), epochs=5, batch_size=50),
    evaluation=Evaluation(images=50, each_round=(PGD(steps=10), FoolboxPGD(steps=10)), at_end=()),
)
folder = "runs/foolbox"
state = run(plan, plan.data.load(), folder)
for name, rate in state.history[-1]["robust_accuracy"].items():
    print(f"{name}: {rate:.0%}")
