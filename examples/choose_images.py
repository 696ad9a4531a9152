# %% [markdown]
# # Only the choice
# Which 20 images of a pool should be labelled next, for a PyTorch model of your own.

# %%
import torch
from torch import nn

from robal import DRE, Pool, select
from robal.images import InMemory

model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))  # yours: [0, 1] images to logits
images = torch.rand(500, 1, 8, 8)  # yours: float32 in [0, 1], or uint8

indices = select(DRE(), model, images, n=20, seed=0)
print("label these:", indices.tolist())

# %% [markdown]
# With some labels known already, a Pool leaves those images out and keeps one index space.

# %%
pool = Pool.unlabelled(InMemory(images), classes=[str(digit) for digit in range(10)])
pool = pool.reveal(indices, torch.randint(10, (20,)))
print("and then these:", select(DRE(), model, pool, n=20, seed=1).tolist())
