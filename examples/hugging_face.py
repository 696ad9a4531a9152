# %% [markdown]
# # From a data set of Hugging Face to a robust model
# `hf:` and a name of the hub, or the folder that `save_to_disk` made, becomes a pool on disk.

# %%
from pathlib import Path

from PIL import Image as Picture
from sklearn.datasets import load_digits

from datasets import ClassLabel, Dataset, Features, Image
from robal import run
from robal.plans import read_plan
from robal.pool_files import build_pool

folder = Path("runs/hugging-face")
folder.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# A data set as one finds it on the hub: a column of images, a column of classes.

# %%
digits = load_digits()
rows = {
    "image": [Picture.fromarray((pixels * 15).astype("uint8")) for pixels in digits.images],
    "label": digits.target,
}
columns = Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})
Dataset.from_dict(rows, features=columns).save_to_disk(str(folder / "digits"))

# %% [markdown]
# `build_pool("hf:ylecun/mnist", …)` would fetch one from the hub. Images of other sizes need `resize`.

# %%
pool = folder / "digits.parquet"
build_pool(f"hf:{folder / 'digits'}", pool, resize=28)

plan = read_plan(
    None,
    [
        f"data.name={pool}",
        "rounds=1",
        "recipe={pool: null, budget: 30000}",
        "evaluation={images: 50, each_round: [{name: PGD, steps: 5}], at_end: []}",
    ],
)
state = run(plan, plan.data.load(), folder / "run")
print(f"{state.history[-1]['labelled']} labels, accuracy {state.history[-1]['accuracy']:.1%}")
