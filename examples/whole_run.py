# %% [markdown]
# # A whole run on arrays of one's own
# scikit-learn's digits, with a plan small enough for a few seconds.

# %%
from dataclasses import replace

from sklearn.datasets import load_digits

from robal import Adversarial, Data, Evaluation, Plan, Recipe, run
from robal.report import report

folder = "runs/example"
digits = load_digits()

data = Data.from_arrays(digits.images / 16, digits.target, resize=28)
plan = replace(Plan(), rounds=1, recipe=Recipe(Adversarial(), epochs=3), evaluation=Evaluation(images=20, at_end=()))
state = run(plan, data, folder)
print(f"accuracy {state.history[-1]['accuracy']:.1%}, the page is {report([folder])}")
