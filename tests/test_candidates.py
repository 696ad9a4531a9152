"""The pool as the current model sees it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robal.acquisition import DRE, MCP, MaxEntropy, choose
from robal.candidates import Candidates
from robal.engines import Local
from robal.errors import ContractError, InputError
from robal.images import InMemory
from robal.pool import Pool
from robal.seeds import generator
from small_models import Counting, convnet

CLASSES = ("a", "b", "c", "d")
PIXELS = torch.rand(20, 1, 8, 8, generator=generator(0, "pixels"))


def seen_by(model: nn.Module, indices: Tensor | None = None, features: str | None = None) -> Candidates:
    pool = Pool.unlabelled(InMemory(PIXELS), CLASSES)
    return Candidates(model, pool, pool.candidates if indices is None else indices, Local(8), features=features)


def test_rows_are_those_of_the_model_at_the_indices() -> None:
    model = convnet().eval()
    candidates = seen_by(model, torch.tensor([4, 9, 17]))
    with torch.no_grad():
        wanted = model(PIXELS[[4, 9, 17]])
        embeddings = model[:5](PIXELS[[4, 9, 17]])
    assert len(candidates) == 3
    torch.testing.assert_close(candidates.logits, wanted)
    torch.testing.assert_close(candidates.probs, wanted.softmax(1))
    torch.testing.assert_close(candidates.embeddings, embeddings)


def test_one_forward_pass_is_enough_however_many_parts_look() -> None:
    model = Counting(convnet())
    candidates = seen_by(model)
    _ = candidates.logits, candidates.probs, candidates.embeddings, candidates.logits
    choose(DRE(bins=3, stratify=True), candidates, 5, generator(0))
    choose(MCP(), candidates, 5, generator(0))
    choose(MaxEntropy(), candidates.only(torch.arange(10)), 5, generator(0))
    assert model.passes == [8, 8, 8]


def test_fewer_candidates_keep_the_rows_they_had() -> None:
    model = Counting(convnet())
    candidates = seen_by(model, torch.arange(5, 20))
    _ = candidates.logits
    fewer = candidates.only(torch.tensor([3, 0]))
    assert fewer.indices.tolist() == [8, 5]
    assert torch.equal(fewer.logits, candidates.logits[[3, 0]])
    assert torch.equal(fewer.embeddings, candidates.embeddings[[3, 0]])
    assert torch.equal(fewer.probs, candidates.probs[[3, 0]])
    assert model.passes == [8, 8]


def test_fewer_candidates_look_for_themselves_where_nobody_has_looked() -> None:
    model = Counting(convnet())
    fewer = seen_by(model).only(torch.tensor([3, 0]))
    with torch.no_grad():
        torch.testing.assert_close(fewer.logits, convnet().eval()(PIXELS[[3, 0]]))
    assert model.passes == [8]


def test_a_model_without_a_linear_layer_has_logits_and_says_why_it_has_no_embeddings() -> None:
    candidates = seen_by(nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten()))
    assert candidates.logits.shape == (20, 4)
    with pytest.raises(InputError, match=r"no nn\.Linear.*name a layer by features="):
        _ = candidates.embeddings


def test_the_embedding_may_be_named() -> None:
    candidates = seen_by(convnet().eval(), features="1")
    with torch.no_grad():
        torch.testing.assert_close(candidates.embeddings, convnet().eval()[:1](PIXELS).flatten(1))
    with pytest.raises(InputError, match="has no layer 'head'"):
        _ = seen_by(convnet(), features="head").logits


def test_a_function_over_the_candidates_gives_a_row_each() -> None:
    def brightness(model: nn.Module, batch: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
        return {"brightness": batch.flatten(1).amax(1), "noise": torch.rand(len(batch), generator=draw)}

    candidates = seen_by(convnet(), torch.tensor([2, 11]))
    rows = candidates.map(brightness, seed=3)
    assert torch.equal(rows["brightness"], PIXELS[[2, 11]].flatten(1).amax(1))
    assert torch.equal(rows["noise"], candidates.map(brightness, seed=3)["noise"])
    assert not torch.equal(rows["noise"], candidates.map(brightness, seed=4)["noise"])


def test_no_candidate_has_no_row_of_the_right_shape() -> None:
    candidates = seen_by(convnet(), torch.tensor([], dtype=torch.int64))
    assert candidates.logits.shape == candidates.probs.shape == (0, 4)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(convnet(), nn.Softmax(1)), "ends in a softmax; remove it"),
        (convnet(classes=3), "returns 3 logits an image, but there are 4 classes"),
    ],
)
def test_a_model_that_breaks_its_contract_is_refused_when_it_is_first_looked_at(model: nn.Module, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        _ = seen_by(model).probs
