# %% [markdown]
# # A loop of one's own, with scikit-learn and skorch
# Ask about ten images, train, ask again. robal chooses; everything else is yours.

# %%
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from skorch import NeuralNetClassifier
from torch import nn

from robal import BADGE, Margin, query

X, truth = load_digits(return_X_y=True)
X = (X / 16).astype("float32")
pool, test = np.arange(1400), np.arange(1400, len(X))

# %% [markdown]
# `y` holds -1 wherever nobody has said anything yet. Any fitted classifier with `predict_proba` will do.

# %%
y = np.full(len(pool), -1)
y[:30] = truth[:30]
for _ in range(5):
    clf = LogisticRegression(max_iter=500).fit(X[pool][y >= 0], y[y >= 0])
    print(f"{(y >= 0).sum()} labels: {clf.score(X[test], truth[test]):.1%}")
    asked = query(X[pool], y, clf, n=10, acquisition=Margin())
    y[asked] = truth[asked]  # here a person would answer

# %% [markdown]
# Of a skorch classifier robal sees the network itself, so methods that need embeddings or gradients work too.

# %%
torch.manual_seed(0)
network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
clf = NeuralNetClassifier(network, criterion=nn.CrossEntropyLoss, max_epochs=30, lr=0.2, verbose=0)
clf.fit(X[pool][y >= 0], y[y >= 0].astype("int64"))
print("BADGE would ask about", query(X[pool], y, clf, n=10, acquisition=BADGE()).tolist())
